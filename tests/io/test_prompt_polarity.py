"""What white means in the masks of generated captures: small and large transients, videos and
photos, with and without residuals, either way round."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from t3dgs_masks.errors import UserError
from t3dgs_masks.io.prompt_files import write_coarse, write_residual
from t3dgs_masks.io.prompts import Polarity, open_prompts
from t3dgs_masks.synthetic.capture import CaptureMode, CaptureSpec, make_capture
from t3dgs_masks.synthetic.coarse import CoarsePrompts, half_trained_prompts

HEIGHT, WIDTH, NUM_FRAMES = 96, 128, 8
NAMES = [f"frame_{t}" for t in range(NUM_FRAMES)]
# People per capture and focal length: what of the frame they cover.
SIZES = {"small": (1, 0.5), "usual": (3, 0.8), "large": (6, 1.1), "huge": (10, 1.7)}


class Frames:
    names, height, width = NAMES, HEIGHT, WIDTH

    def __len__(self) -> int:
        return len(NAMES)

    def __getitem__(self, frame_idx: int) -> np.ndarray:
        raise AssertionError("frames themselves say nothing about prompts")


@lru_cache
def prompts_of(mode: CaptureMode, size: str, seed: int) -> CoarsePrompts:
    num_walkers, focal = SIZES[size]
    spec = CaptureSpec(
        seed=seed,
        mode=mode,
        num_frames=NUM_FRAMES,
        height=HEIGHT,
        width=WIDTH,
        num_walkers=num_walkers,
        focal=focal,
        num_eval_views=1,
        num_seed_points=50,
    )
    return half_trained_prompts(make_capture(spec), seed=seed)


def write_prompts(folder: Path, prompts: CoarsePrompts, *, residuals: bool, inverted: bool) -> None:
    for name, coarse, residual in zip(NAMES, prompts.coarse, prompts.residual, strict=True):
        write_coarse(folder, name, ~coarse if inverted else coarse)
        if residuals:
            write_residual(folder, name, residual)


def decide(folder: Path) -> tuple[Polarity, np.ndarray]:
    """The decision, and the coarse masks as they were understood."""
    opened = open_prompts(folder, Frames(), polarity="auto", notify=lambda _: None)
    return opened.polarity, np.stack([opened[t].coarse for t in range(NUM_FRAMES)])


def polarity_or_question(folder: Path) -> str:
    try:
        return decide(folder)[0]
    except UserError as error:
        asks = "give --prompt-polarity white-transient or white-static" in str(error)
        return "asks" if asks else str(error)


@pytest.mark.parametrize("inverted", [False, True], ids=["transient", "static"])
@pytest.mark.parametrize("residuals", [True, False], ids=["residuals", "alone"])
@pytest.mark.parametrize("mode", ["video", "photos"])
@pytest.mark.parametrize("size", ["small", "usual", "large"])
@pytest.mark.parametrize("seed", [400, 401])
def test_generated_captures(
    tmp_path: Path, seed: int, size: str, mode: CaptureMode, residuals: bool, inverted: bool
) -> None:
    prompts = prompts_of(mode, size, seed)
    write_prompts(tmp_path, prompts, residuals=residuals, inverted=inverted)
    if not residuals and np.median(prompts.coarse.mean(axis=(1, 2))) > 0.3:
        with pytest.raises(UserError, match=r"unclear.*give --prompt-polarity white-transient or"):
            decide(tmp_path)
        return
    polarity, coarse = decide(tmp_path)
    assert polarity == ("white-static" if inverted else "white-transient")
    np.testing.assert_array_equal(coarse, prompts.coarse)


@pytest.mark.parametrize("inverted", [False, True], ids=["transient", "static"])
@pytest.mark.parametrize("mode", ["video", "photos"])
@pytest.mark.parametrize("seed", [400, 401])
def test_a_crowd_is_understood_or_asked_about_never_mistaken(
    tmp_path: Path, seed: int, mode: CaptureMode, inverted: bool
) -> None:
    prompts = prompts_of(mode, "huge", seed)
    assert np.median(prompts.coarse.mean(axis=(1, 2))) > 0.35, "more than area can tell"
    write_prompts(tmp_path, prompts, residuals=True, inverted=inverted)
    right = "white-static" if inverted else "white-transient"
    assert polarity_or_question(tmp_path) in (right, "asks")


@pytest.mark.parametrize("residuals", [True, False], ids=["residuals", "alone"])
def test_masks_as_the_t3dgs_extractor_writes_them(tmp_path: Path, residuals: bool) -> None:
    """White = static, one channel; residuals in colour, 8-bit."""
    prompts = prompts_of("video", "usual", 400)
    write_prompts(tmp_path, prompts, residuals=False, inverted=True)
    if residuals:
        (tmp_path / "diffs").mkdir()
        for name, residual in zip(NAMES, prompts.residual, strict=True):
            colour = np.repeat(np.rint(255 * residual).astype(np.uint8)[..., None], 3, axis=2)
            cv2.imwrite(str(tmp_path / "diffs" / f"{name}.png"), colour)
    polarity, coarse = decide(tmp_path)
    assert polarity == "white-static"
    np.testing.assert_array_equal(coarse, prompts.coarse)
