"""Masks and overlay that are written early: what the result says, in any case."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PilImage

from t3dgs_masks import UserError, masks
from t3dgs_masks.io.outputs import ResultFolder, StagedResult
from t3dgs_masks.io.side_work import Beside, InPauses, SideWork
from t3dgs_masks.refine import FrameResult, MaskletSet, RefineResult, Stage, Verdict
from t3dgs_masks.report.progress import RichProgress
from t3dgs_masks.result_writer import ResultWriter
from t3dgs_masks.types import BoolMask, Image

HEIGHT, WIDTH, NUM_FRAMES = 24, 32, 9


class Frames:
    names = tuple(f"sub/{t}" for t in range(NUM_FRAMES))
    height, width = HEIGHT, WIDTH

    def __len__(self) -> int:
        return NUM_FRAMES

    def __getitem__(self, frame_idx: int) -> Image:
        return np.full((HEIGHT, WIDTH, 3), 100, dtype=np.uint8)


def pixels(frame_idx: int) -> BoolMask:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[4:12, 2 * frame_idx : 2 * frame_idx + 6] = True
    return mask


def found(*, kept: bool = True) -> RefineResult:
    """One object on all frames but the last."""
    masklets = MaskletSet()
    for t in range(NUM_FRAMES - 1):
        if t == 0:
            masklets.add(0, masks.encode(pixels(0)))
        else:
            masklets.set(t, 1, masks.encode(pixels(t)))
    return RefineResult(
        num_frames=NUM_FRAMES,
        height=HEIGHT,
        width=WIDTH,
        masklets=masklets,
        verdicts=(Verdict(1, kept, "because", 0.5),),
        seconds=dict.fromkeys(Stage, 0.0),
        counts={},
        notices=(),
    )


@pytest.fixture
def staged(tmp_path: Path) -> Iterator[StagedResult]:
    with ResultFolder.open(tmp_path / "out").begin(Frames.names, HEIGHT, WIDTH) as staged:
        yield staged


@pytest.fixture
def progress() -> Iterator[RichProgress]:
    with RichProgress(io.StringIO()) as progress:
        yield progress


@pytest.fixture(params=["beside", "in pauses"])
def side_work(request: pytest.FixtureRequest) -> Iterator[SideWork]:
    work = Beside(2, ahead=None) if request.param == "beside" else InPauses(2, every=3)
    yield work
    work.drop()


def written(staged: StagedResult) -> list[BoolMask]:
    """True = transient."""
    return [np.asarray(PilImage.open(staged.mask_path(t))) == 0 for t in range(NUM_FRAMES)]


def looks(result: RefineResult) -> dict[int, Callable[[], FrameResult]]:
    return {t: lambda t=t: result.frame(t) for t in range(NUM_FRAMES)}


@pytest.mark.parametrize("early", ["nothing", "right", "wrong", "half"])
@pytest.mark.parametrize("fps", [10.0, None])
def test_what_is_written_is_the_result(
    staged: StagedResult,
    progress: RichProgress,
    side_work: SideWork,
    early: str,
    fps: float | None,
) -> None:
    result = found()
    expected_late = {"nothing": NUM_FRAMES, "right": 0, "wrong": NUM_FRAMES - 1, "half": 4}
    with ResultWriter(staged, Frames(), fps, progress, side_work) as writer:
        for t, look in looks(found(kept=early != "wrong")).items():
            if early != "nothing" and (early != "half" or t < 5):
                writer.frame_left(t, look)
        writer.finish()
        writer.complete(result)
        assert writer.frames_written_late == expected_late[early]
        assert writer.seconds > 0
    for t, mask in enumerate(written(staged)):
        assert np.array_equal(mask, result.transient(t).pixels)
    assert staged.overlay_path.is_file() == (fps is not None)
    assert not staged.overlay_parts.exists()


def test_masks_are_there_before_the_result_is_known(
    staged: StagedResult, progress: RichProgress, side_work: SideWork
) -> None:
    with ResultWriter(staged, Frames(), 10, progress, side_work) as writer:
        for t, look in looks(found()).items():
            writer.frame_left(t, look)
        writer.finish()
        for t, mask in enumerate(written(staged)):
            assert np.array_equal(mask, found().transient(t).pixels)


def test_an_error_beside_the_network_ends_the_run(
    staged: StagedResult, progress: RichProgress, side_work: SideWork
) -> None:
    def fail() -> FrameResult:
        raise UserError("the prompt of frame 3 is broken")

    with ResultWriter(staged, Frames(), 10, progress, side_work) as writer:
        writer.frame_left(0, looks(found())[0])
        writer.frame_left(3, fail)
        with pytest.raises(UserError, match="frame 3"):
            writer.finish()


def test_nothing_is_written_after_the_end(staged: StagedResult, progress: RichProgress) -> None:
    """Ctrl-C: what waits is dropped, what is being done is waited for."""
    side_work = Beside(2, ahead=None)
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> FrameResult:
        begun.set()
        go_on.wait(10)
        return found().frame(0)

    def interrupted() -> None:
        with ResultWriter(staged, Frames(), 10, progress, side_work) as writer:
            writer.frame_left(0, slow)
            begun.wait(10)
            for t in range(1, NUM_FRAMES):
                writer.frame_left(t, slow)
            threading.Timer(0.1, go_on.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert staged.mask_path(0).is_file(), "it had been begun"
    assert not staged.mask_path(NUM_FRAMES - 1).exists()
    assert not staged.overlay_parts.exists() or not list(staged.overlay_parts.iterdir())
    with pytest.raises(RuntimeError, match="shutdown"):
        side_work.do(lambda: None)
