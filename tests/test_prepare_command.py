"""`t3dgs-masks prepare`, through its real command line, on files."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from t3dgs_masks import cli
from t3dgs_masks.datasets.manifest import Manifest, read_manifest
from tests.datasets.posed_scenes import (
    OPENCV,
    frame_entry,
    image_of,
    write_colmap_scene,
    write_image,
    write_nerfstudio_scene,
    write_transforms,
)


@dataclass(frozen=True)
class Run:
    code: int
    out: str
    err: str
    folder: Path

    def images(self) -> list[str]:
        root = self.folder / "images"
        return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.*"))

    def manifest(self) -> Manifest:
        manifest = read_manifest(self.folder)
        assert manifest is not None
        return manifest


@pytest.fixture
def prepare(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def run(data: Path, *args: object, out: str = "prepared") -> Run:
        folder = tmp_path / out
        given = ["--data", str(data), "--output-dir", str(folder), *map(str, args)]
        capsys.readouterr()
        code = cli.main(["prepare", *given])
        printed = capsys.readouterr()
        return Run(code, printed.out, printed.err, folder)

    return run


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_nerfstudio_scene(tmp_path / "scene", num_train=4, num_eval=2)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- what comes out -------------------------------------------------------------------------------


def test_training_frames_with_the_way_back(prepare, scene: Path) -> None:
    run = prepare(scene)
    assert run.code == 0, run.err
    assert run.images() == [f"frame_{number}.png" for number in range(1, 5)]
    assert sorted(path.name for path in run.folder.iterdir()) == ["images", "manifest.json"]
    for name in run.images():
        ours, theirs = run.folder / "images" / name, scene / "images" / name
        assert ours.read_bytes() == theirs.read_bytes()
        assert not ours.samefile(theirs)
    manifest = run.manifest()
    assert (manifest.root, manifest.kind) == (str(scene), "nerfstudio")
    first = manifest.frames[0]
    assert (first.name, first.source, first.split) == ("frame_1", "images/frame_1.png", "train")
    assert first.camera is not None
    assert (first.camera.width, first.camera.k1) == (64, 0.1)
    assert "nerfstudio dataset: 4 training frames of 6" in run.err
    assert "4 frames, 64x48" in run.out


def test_scale_split_selection_and_format(prepare, scene: Path) -> None:
    run = prepare(scene, "--split", "all", "--every", 2, "--resolution", 24, "--format", "jpg")
    assert run.code == 0, run.err
    assert run.images() == ["frame_1.jpg", "frame_3.jpg", "frame_5.jpg"]
    assert pixels(run.folder / "images/frame_5.jpg").shape == (24, 32, 3)
    frames = run.manifest().frames
    assert [frame.split for frame in frames] == ["train", "train", "eval"]
    assert frames[0].camera is not None
    assert frames[0].camera.width == 64  # of the source


def test_a_colmap_project_with_subfolders(prepare, tmp_path: Path) -> None:
    names = ["cam0/a.png", "cam1/a.png", "cam1/b_clutter.png"]
    run = prepare(write_colmap_scene(tmp_path / "project", names), "--exclude", "*clutter*")
    assert run.code == 0, run.err
    assert run.images() == ["cam0/a.png", "cam1/a.png"]
    assert [frame.source for frame in run.manifest().frames] == [
        "images/cam0/a.png",
        "images/cam1/a.png",
    ]


def test_include_takes_several_patterns(prepare, scene: Path) -> None:
    run = prepare(scene, "--include", "*_1*", "frame_3")
    assert run.images() == ["frame_1.png", "frame_3.png"]


def test_a_video(prepare, tmp_path: Path) -> None:
    path = tmp_path / "walk.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(6):
            grey = np.full((48, 64, 3), 40 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode(None))
    run = prepare(path, "--start", 1, "--every", 2)
    assert run.code == 0, run.err
    assert run.images() == ["frame_000001.png", "frame_000003.png", "frame_000005.png"]
    manifest = run.manifest()
    assert (manifest.kind, manifest.root) == ("video", str(path))
    assert [frame.source for frame in manifest.frames] == ["walk.mp4#1", "walk.mp4#3", "walk.mp4#5"]
    assert abs(int(pixels(run.folder / "images/frame_000003.png").mean()) - 120) < 8
    refused = prepare(path, "--include", "*1*", out="other")
    assert refused.code == 2
    assert "--start, --end and --every for a video" in refused.err


def test_files_are_copied_unless_another_format_is_wanted(prepare, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    write_image(folder / "a.jpg", 1)
    write_image(folder / "b.png", 2)
    assert prepare(folder).images() == ["a.jpg", "b.png"]
    run = prepare(folder, "--format", "png", out="png")
    assert run.images() == ["a.png", "b.png"]
    np.testing.assert_array_equal(pixels(run.folder / "images/a.png"), pixels(folder / "a.jpg"))


def test_turned_photographs_keep_the_geometry_of_their_cameras(prepare, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image(tmp_path / "scene/a.png", 3, exif=exif)
    frames = [frame_entry("a.png")]
    root = write_transforms(tmp_path / "scene", frames, images=False, **OPENCV)
    run = prepare(root)
    np.testing.assert_array_equal(pixels(run.folder / "images/a.png"), image_of(3))
    with Image.open(run.folder / "images/a.png") as image:
        assert 0x0112 not in image.getexif()


def test_prepared_frames_can_be_prepared_again(prepare, scene: Path) -> None:
    first = prepare(scene)
    run = prepare(first.folder / "images", "--resolution", 24, out="smaller")
    assert run.code == 0, run.err
    assert run.manifest().root == str(scene)
    assert run.manifest().frames[0].source == "images/frame_1.png"


def test_an_earlier_output_is_replaced(prepare, scene: Path) -> None:
    first = prepare(scene)
    (first.folder / "notes.txt").write_text("mine")
    run = prepare(scene, "--every", 2)
    assert run.code == 0, run.err
    assert run.images() == ["frame_1.png", "frame_3.png"]
    assert len(run.manifest().frames) == 2
    assert sorted(path.name for path in run.folder.iterdir()) == [
        "images",
        "manifest.json",
        "notes.txt",
    ]


# --- what is refused, with one line and nothing written -------------------------------------------


def refused(run: Run, said: str) -> None:
    assert run.code == 2
    lines = [line for line in run.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert said in lines[0]
    assert run.err.rstrip().endswith(lines[0])


def test_a_place_that_is_not_free(prepare, scene: Path, tmp_path: Path) -> None:
    place = tmp_path / "prepared"
    place.mkdir()
    (place / "thesis.txt").write_text("years of work")
    before = snapshot(place)
    refused(prepare(scene), "holds thesis.txt, which `prepare` did not write")
    assert snapshot(place) == before
    refused(prepare(scene, out="prepared/thesis.txt"), "is a file")
    assert snapshot(place) == before


def test_images_that_were_added_to_an_earlier_output(prepare, scene: Path) -> None:
    first = prepare(scene)
    write_image(first.folder / "images" / "mine.png")
    before = snapshot(first.folder)
    refused(prepare(scene), "mine.png was not written by `prepare`")
    assert snapshot(first.folder) == before


def test_a_result_folder_is_not_an_earlier_output(prepare, scene: Path) -> None:
    first = prepare(scene)
    shutil.rmtree(first.folder / "images")
    (first.folder / "binary_masks").mkdir()
    refused(prepare(scene), "which `prepare` did not write")


def test_among_the_frames(prepare, scene: Path) -> None:
    before = snapshot(scene)
    refused(prepare(scene, out="scene/images/small"), "lies among the frames")
    refused(prepare(scene, out="scene"), "would be replaced")
    assert snapshot(scene) == before
    assert prepare(scene, out="scene/prepared").code == 0
    refused(prepare(scene / "prepared", out="scene/prepared"), "would be replaced")


@pytest.mark.parametrize("existed", [False, True])
def test_a_failure_midway_leaves_what_was_there(prepare, scene: Path, existed: bool) -> None:
    if existed:
        prepare(scene, "--every", 2)
    before = snapshot(scene.parent)
    broken = scene / "images" / "frame_3.png"
    broken.write_bytes(broken.read_bytes()[:200])  # its header is fine
    refused(prepare(scene, "--resolution", 24, out="prepared"), "frame_3.png")
    before[str(broken)] = broken.read_bytes()
    assert snapshot(scene.parent) == before
    assert (scene.parent / "prepared").exists() == existed


def test_a_killed_run_is_swept_up(prepare, scene: Path) -> None:
    first = prepare(scene)
    staging = first.folder / ".prepare"
    (staging / "earlier").mkdir(parents=True)  # as between two of the moves
    (first.folder / "manifest.json").rename(staging / "earlier" / "manifest.json")
    run = prepare(scene, "--every", 2)
    assert run.code == 0, run.err
    assert run.images() == ["frame_1.png", "frame_3.png"]
    assert sorted(path.name for path in run.folder.iterdir()) == ["images", "manifest.json"]


def test_a_full_disk(prepare, scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    refused(prepare(scene), "the disk is full")
    assert not (scene.parent / "prepared").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_place(prepare, scene: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    refused(prepare(scene, out="locked/prepared"), "Permission denied")


def test_bad_inputs(prepare, scene: Path, tmp_path: Path) -> None:
    refused(prepare(tmp_path / "nowhere"), "there is no folder or video file")
    refused(prepare(scene, "--include", "*nobody*"), "leaves none of the 4 frames")
    refused(prepare(scene, "--start", 9), "--start 9 lies behind the last")
    refused(prepare(scene, "--resolution", 0), "--resolution 0")
    (scene / "images" / "frame_6.png").unlink()
    refused(prepare(scene), "images/frame_6.png, which does not exist")
    (scene / "transforms.json").write_text("{")
    refused(prepare(scene), "not valid JSON")
    assert not (tmp_path / "prepared").exists()
