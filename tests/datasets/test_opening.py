from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from t3dgs_masks.datasets.manifest import Manifest, ManifestFrame, write_manifest
from t3dgs_masks.datasets.opening import OpenedFrames, open_dataset, open_input
from t3dgs_masks.errors import UserError
from t3dgs_masks.io.frames import Selection
from t3dgs_masks.io.globs import Globs
from tests.datasets.posed_scenes import (
    OPENCV,
    frame_entry,
    image_of,
    write_colmap_scene,
    write_image,
    write_nerfstudio_scene,
    write_transforms,
)


def opened(path: Path, selection: Selection | None = None, **options: Any) -> OpenedFrames:
    return opened_and_told(path, selection, **options)[0]


def opened_and_told(
    path: Path, selection: Selection | None = None, **options: Any
) -> tuple[OpenedFrames, list[str]]:
    notices: list[str] = []
    result = open_input(path, selection=selection or Selection(), notify=notices.append, **options)
    assert [frame.name for frame in result.manifest.frames] == list(result.frames.names)
    return result, notices


def turned_jpeg(path: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6
    return write_image(path, exif=exif)


def test_which_kind_is_which(tmp_path: Path) -> None:
    nerfstudio = write_nerfstudio_scene(tmp_path / "nerfstudio")
    colmap = write_colmap_scene(tmp_path / "colmap")
    both = write_colmap_scene(write_nerfstudio_scene(tmp_path / "both"), model="colmap/sparse/0")
    for path, kind in (
        (nerfstudio, "nerfstudio"),
        (nerfstudio / "transforms.json", "nerfstudio"),
        (colmap, "colmap"),
        (both, "nerfstudio"),
    ):
        dataset = open_dataset(path)
        assert dataset is not None
        assert dataset.kind == kind
    for path in (nerfstudio / "images", colmap / "sparse", tmp_path / "nowhere", Path(__file__)):
        assert open_dataset(path) is None
    with pytest.raises(UserError, match=r"mine.json: No such file"):
        open_dataset(tmp_path / "mine.json")


def test_training_frames_of_a_dataset(tmp_path: Path) -> None:
    root = write_nerfstudio_scene(tmp_path, num_train=4, num_eval=2)
    result, notices = opened_and_told(root)
    assert list(result.frames.names) == ["frame_1", "frame_2", "frame_3", "frame_4"]
    assert notices == ["nerfstudio dataset: 4 training frames of 6"]
    assert (result.frames.height, result.frames.width, result.frames.fps) == (48, 64, None)
    np.testing.assert_array_equal(result.frames[2], image_of(2))
    assert result.leads_back
    assert result.inputs == [tmp_path / "images"]
    assert result.manifest.root == str(tmp_path)
    assert result.manifest.frames[1].source == "images/frame_2.png"
    assert result.manifest.frames[1].camera is not None


def test_all_frames_and_datasets_without_a_split(tmp_path: Path) -> None:
    root = write_nerfstudio_scene(tmp_path / "split", num_train=4, num_eval=2)
    result, notices = opened_and_told(root, split="all")
    assert len(result.frames) == 6
    assert notices == ["nerfstudio dataset: all 6 frames, for evaluation too"]
    result, notices = opened_and_told(write_colmap_scene(tmp_path / "colmap"))
    assert list(result.frames.names) == ["a", "b", "c"]
    assert notices == ["COLMAP project: all 3 frames, as it has no split of its own"]


def test_split_then_globs_then_selection(tmp_path: Path) -> None:
    root = write_nerfstudio_scene(tmp_path, num_train=9, num_eval=2)
    globs = Globs(exclude=["frame_2", "*_4.png"])
    result, notices = opened_and_told(root, Selection(every=3, start=1), globs=globs)
    assert list(result.frames.names) == ["frame_3", "frame_7"]
    assert notices[1] == "--exclude frame_2 *_4.png: 7 of 9 frames"
    with pytest.raises(UserError, match="leaves none of the 9 frames"):
        opened(root, globs=Globs(["frame_10"]))  # an evaluation frame
    with pytest.raises(UserError, match="--start 9 lies behind the last of the 9 frames"):
        opened(root, Selection(start=9))


def test_reduced(tmp_path: Path) -> None:
    frames = opened(write_nerfstudio_scene(tmp_path), resolution=24).frames
    assert (frames.height, frames.width) == (24, 32)
    assert (frames.source_height, frames.source_width) == (48, 64)
    with pytest.raises(UserError, match="--resolution 0"):
        opened(tmp_path, resolution=0)


def test_only_evaluation_frames(tmp_path: Path) -> None:
    root = write_transforms(
        tmp_path, [frame_entry("a.png")], **OPENCV, train_filenames=[], val_filenames=["a.png"]
    )
    with pytest.raises(UserError, match="has no training frames"):
        opened(root)


def test_two_sizes_are_one_line(tmp_path: Path) -> None:
    root = write_transforms(tmp_path, [frame_entry(f"{name}.png") for name in "abc"], **OPENCV)
    write_image(tmp_path / "b.png", height=40, width=60)
    with pytest.raises(UserError) as raised:
        opened(root)
    assert str(raised.value) == (
        f"{tmp_path}/b.png is 60x40, but {tmp_path}/a.png is 64x48: all frames must have one size"
    )


def test_cameras_of_another_size_are_remarked_on(tmp_path: Path) -> None:
    root = write_transforms(tmp_path, [frame_entry("a.png")], **{**OPENCV, "w": 640, "h": 480})
    _, notices = opened_and_told(root)
    assert notices[1].startswith(
        f"{tmp_path}/transforms.json says 640x480 of a.png, which is 64x48"
    )


def test_images_of_a_dataset_count_as_stored(tmp_path: Path) -> None:
    turned_jpeg(tmp_path / "a.jpg")
    root = write_transforms(tmp_path, [frame_entry("a.jpg")], images=False, **OPENCV)
    dataset, folder = opened(root), opened(Path(tmp_path, "."), globs=Globs(["a.jpg"]))
    assert (dataset.frames.height, dataset.frames.width) == (48, 64)
    assert dataset.frames[0].shape == (48, 64, 3)
    (tmp_path / "transforms.json").unlink()
    folder = opened(tmp_path)
    assert folder.frames[0].shape == (64, 48, 3)
    assert folder.frames.content_digest() != dataset.frames.content_digest()


def test_a_folder_and_its_dataset_have_the_same_digest_otherwise(tmp_path: Path) -> None:
    root = write_nerfstudio_scene(tmp_path, num_eval=0)
    digests = {opened(path).frames.content_digest() for path in (root, root / "images")}
    assert len(digests) == 1


def test_a_plain_folder(tmp_path: Path) -> None:
    for number, name in enumerate(["cam/f10.png", "cam/f9.png"]):
        write_image(tmp_path / name, number)
    (tmp_path / "manifest.json").write_text('{"name": "of a web app"}')
    result, notices = opened_and_told(tmp_path)
    assert not result.leads_back
    assert result.manifest == Manifest(
        str(tmp_path),
        "folder",
        [ManifestFrame("cam/f9", "cam/f9.png"), ManifestFrame("cam/f10", "cam/f10.png")],
    )
    assert len(notices) == 1  # that manifest.json is no image
    assert list(opened(tmp_path, globs=Globs(["*9*"])).frames.names) == ["cam/f9"]


def write_prepared(folder: Path) -> Manifest:
    for number in range(3):
        write_image(folder / "images" / f"cam/{number}.png", number)
    manifest = Manifest(
        "/data/scene",
        "nerfstudio",
        [ManifestFrame(f"cam/{number}", f"photos/{number}.jpg", "train") for number in range(3)],
    )
    write_manifest(manifest, folder)
    return manifest


@pytest.mark.parametrize("inside", ["", "images", "images/.", "images/../images"])
def test_prepared_frames(tmp_path: Path, inside: str) -> None:
    manifest = write_prepared(tmp_path)
    result, notices = opened_and_told(Path(os.path.join(tmp_path, inside)))  # noqa: PTH118
    assert list(result.frames.names) == ["cam/0", "cam/1", "cam/2"]
    assert result.leads_back
    assert result.manifest.root == manifest.root
    assert list(result.manifest.frames) == list(manifest.frames)
    assert notices == ["prepared frames: 3 training frames of 3"]


def test_prepared_frames_that_were_culled_or_added(tmp_path: Path) -> None:
    write_prepared(tmp_path)
    (tmp_path / "images/cam/1.png").unlink()
    write_image(tmp_path / "images/cam/new.png")
    result, notices = opened_and_told(tmp_path, globs=Globs(["photos/*"]))
    assert list(result.frames.names) == ["cam/0", "cam/2"]
    assert "1 of 3 prepared frames are no longer there" in notices[0]
    assert "1 images in" in notices[1]
    for name in ("cam/0.png", "cam/2.png"):
        (tmp_path / "images" / name).unlink()
    with pytest.raises(UserError, match=r"holds none of the frames that manifest.json"):
        opened(tmp_path)


def test_prepared_frames_without_a_usable_manifest(tmp_path: Path) -> None:
    write_prepared(tmp_path)
    text = (tmp_path / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(text.replace("cam/0", "../0"))
    with pytest.raises(UserError, match="leads out of the folder"):
        opened(tmp_path)
