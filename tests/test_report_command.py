"""`t3dgs-masks report`, through its real command line, on results with known objects."""

from __future__ import annotations

import base64
import json
import os
import shutil
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image as PilImage

from t3dgs_masks import cli
from t3dgs_masks.io.outputs import ResultFolder, read_masklets
from t3dgs_masks.masks import decode
from t3dgs_masks.report.html import ReportPage, read_page
from t3dgs_masks.types import Rle
from tests.datasets.scenes_to_mask import HEIGHT, WIDTH
from tests.results import patch, write_result

NAMES = ("a/1", "b/2", "c3", "d4")
KEPT = {1: True, 2: True, 3: False}
SCORES = {1: 0.3, 2: 0.1, 3: 0.02}


@dataclass(frozen=True)
class Run:
    code: int
    out: str
    err: str


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]):
    def run(*args: object) -> Run:
        capsys.readouterr()
        code = cli.main([str(arg) for arg in args])
        printed = capsys.readouterr()
        return Run(code, printed.out, printed.err)

    return run


@pytest.fixture
def result(tmp_path: Path) -> Path:
    return write_result(tmp_path / "out", NAMES, kept=KEPT, scores=SCORES)


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    for index, name in enumerate(NAMES):
        write_image(folder / f"{name}.png", photo(index))
    return folder


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    folder = tmp_path / "prompts"
    for index, name in enumerate(NAMES):
        write_image(folder / "masks" / f"{name}.png", patch(index, 1).astype(np.uint8) * 255)
        grey = np.full((HEIGHT, WIDTH), 20, np.uint8)
        grey[patch(index, 1)] = 200
        write_image(folder / "diffs" / f"{name}.png", grey)
    return folder


def photo(index: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), 40 + 50 * index, np.uint8)


def write_image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PilImage.fromarray(pixels).save(path)


def page_of(result: Path) -> ReportPage:
    page = read_page((result / "report.html").read_text())
    assert page is not None
    return page


def shades(page: ReportPage) -> list[int | None]:
    """The mean grey of every photo."""
    found: list[int | None] = []
    for frame in page.frames:
        if frame.photo is None:
            found.append(None)
            continue
        with PilImage.open(BytesIO(base64.b64decode(frame.photo))) as image:
            found.append(round(float(np.asarray(image).mean())))
    return found


def remember(result: Path, **sources: Path) -> None:
    """As `refine` notes where its inputs were."""
    report = json.loads((result / "report.json").read_text())
    report["sources"] = {name: str(path) for name, path in sources.items()}
    report["prompts"] = {"given": "prompt_dir" in sources, "polarity": "white-transient"}
    (result / "report.json").write_text(json.dumps(report))


def test_frames_and_prompts_that_are_given(command, result, frames, prompts):
    run = command("report", result, "--video-path", frames, "--prompt-dir", prompts)
    assert run.code == 0, run.err
    assert str(result / "report.html") in run.out
    page = page_of(result)
    assert shades(page) == [40, 90, 140, 190]
    assert page.missing == ()
    assert page.frame_names == NAMES
    assert page.threshold == 0.08
    assert [(item.object_id, item.kept, item.score) for item in page.objects] == [
        (1, True, 0.3),
        (2, True, 0.1),
        (3, False, 0.02),
    ]
    assert all(item.portrait for item in page.objects)
    assert page.residual_top == pytest.approx(200 / 255, abs=0.05)
    for index, frame in enumerate(page.frames):
        assert frame.coarse is not None
        coarse = decode(Rle(*page.coarse_grid, frame.coarse.encode()))
        assert np.array_equal(coarse, patch(index, 1))
        for item in page.objects:
            mask = decode(Rle(*page.grid, item.masks[index].encode()))
            assert np.array_equal(mask, patch(index, item.object_id))


def test_where_refine_read_them(command, result, frames, prompts):
    remember(result, video_path=frames, prompt_dir=prompts)
    assert command("report", result).code == 0
    page = page_of(result)
    assert shades(page) == [40, 90, 140, 190]
    assert all(frame.coarse and frame.residual for frame in page.frames)
    assert page.missing == ()


def test_what_is_not_there_is_said(command, result, frames, prompts):
    remember(result, video_path=frames, prompt_dir=prompts)
    shutil.rmtree(frames)
    shutil.rmtree(prompts)
    run = command("report", result)
    assert run.code == 0
    page = page_of(result)
    assert shades(page) == [None] * 4
    assert len(page.missing) == 2
    assert str(frames) in page.missing[0]
    assert "--video-path" in run.err
    assert "--prompt-dir" in run.err
    assert len(page.objects[0].masks) == 4  # the masks are there all the same


def test_frames_that_are_gone_come_from_the_earlier_page(command, result, frames, prompts):
    remember(result, video_path=frames, prompt_dir=prompts)
    assert command("report", result).code == 0
    before = page_of(result)
    shutil.rmtree(frames)
    shutil.rmtree(prompts)
    assert command("report", result).code == 0
    after = page_of(result)
    assert after.frames == before.frames
    assert after.objects == before.objects
    assert after.residual_top == before.residual_top
    assert any("earlier report" in text for text in after.missing)


def test_some_frames_are_gone(command, result, frames):
    remember(result, video_path=frames)
    (frames / "c3.png").unlink()
    assert command("report", result).code == 0
    page = page_of(result)
    assert shades(page) == [40, 90, None, 190]
    assert any(text.startswith("1 of 4 frames") for text in page.missing)


def test_the_manifest_leads_to_the_frames(command, result, frames):
    entries = [
        {"name": name, "source": f"{name}.png", "split": None, "camera": None, "undistorted": None}
        for name in NAMES
    ]
    manifest = {"program": "t3dgs_masks", "version": 1, "root": str(frames), "kind": "nerfstudio"}
    (result / "manifest.json").write_text(json.dumps({**manifest, "frames": entries}))
    assert command("report", result).code == 0
    assert shades(page_of(result)) == [40, 90, 140, 190]


def test_frames_of_a_video(command, tmp_path):
    video = tmp_path / "walk.mp4"
    with av.open(str(video), "w") as container:
        stream = container.add_stream("mpeg4", rate=20)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for index in range(8):
            frame = av.VideoFrame.from_ndarray(photo(index // 2), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    names = [f"frame_{index:06d}" for index in (0, 2, 4, 6)]
    result = write_result(tmp_path / "out", names, kept=KEPT, scores=SCORES)
    assert command("report", result, "--video-path", video).code == 0
    page = page_of(result)
    assert page.fps == 10
    assert shades(page) == pytest.approx([40, 90, 140, 190], abs=6)


def test_refilter_brings_the_page_up_to_date(command, result, frames):
    remember(result, video_path=frames)
    assert command("report", result).code == 0
    before = page_of(result)
    shutil.rmtree(frames)  # which nobody needs for it
    run = command(
        "refilter", result, "--keep", "3", "--filter-threshold", "0.2", "--dilate", "1"
    )  # fmt: skip
    assert run.code == 0, run.err
    after = page_of(result)
    assert after.frames == before.frames
    assert [item.kept for item in after.objects] == [True, False, True]
    assert [item.reason for item in after.objects] == [
        record.reason for record in read_masklets(result / "masklets.json").masklets
    ]
    assert after.threshold == 0.2
    assert after.cleanup.dilate == 1
    assert after.highlights[0] == ("Objects", "2 kept, 1 rejected")


def test_refilter_leaves_a_page_alone_that_it_does_not_know(command, result):
    (result / "report.html").write_text("<p>mine</p>")
    run = command("refilter", result, "--drop", "1")
    assert run.code == 0, run.err
    assert (result / "report.html").read_text() == "<p>mine</p>"
    assert "t3dgs-masks report" in run.out


@pytest.mark.parametrize("flag", ["--video-path", "--prompt-dir"])
def test_inputs_that_are_asked_for_have_to_be_there(command, result, tmp_path, flag):
    run = command("report", result, flag, tmp_path / "nowhere")
    assert run.code == 2
    assert "nowhere" in run.err
    assert not (result / "report.html").exists()


def test_frames_of_something_else_are_refused(command, result, tmp_path):
    write_image(tmp_path / "other" / "x.png", photo(0))
    run = command("report", result, "--video-path", tmp_path / "other")
    assert run.code == 2
    assert "none of the frames" in run.err


def test_what_is_no_result_is_refused(command, tmp_path):
    run = command("report", tmp_path / "nowhere")
    assert run.code == 2
    assert "nowhere" in run.err
    (tmp_path / "empty").mkdir()
    assert command("report", tmp_path / "empty").code == 2
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_result_that_a_run_is_writing_to_is_left_alone(command, result):
    with ResultFolder.open(result).held():
        run = command("report", result)
    assert run.code == 2
    assert "another run is writing to" in run.err
    assert not (result / "report.html").exists()
    assert command("report", result).code == 0


def test_without_report_json_the_page_says_less(command, result, frames):
    (result / "report.json").write_text("{")
    assert command("report", result, "--video-path", frames).code == 0
    page = page_of(result)
    assert page.seconds == {}
    assert [name for name, _ in page.highlights] == ["Objects", "Frames"]


def test_names_that_are_not_utf_8(command, tmp_path):
    name = os.fsdecode(b"bad\xff </script>")
    folder = tmp_path / os.fsdecode(b"out\xfe")
    result = write_result(folder, [name, "b"], kept=KEPT, scores=SCORES)
    write_image(tmp_path / "frames" / f"{name}.png", photo(0))
    run = command("report", result, "--video-path", tmp_path / "frames")
    assert run.code == 0, run.err
    page = page_of(result)
    assert page.frame_names == (name, "b")
    assert page.result_dir == str(folder)
    assert shades(page) == [40, None]
