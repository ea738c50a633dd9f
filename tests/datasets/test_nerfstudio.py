from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from t3dgs_masks.datasets.dataset import Camera, Dataset
from t3dgs_masks.datasets.nerfstudio import open_nerfstudio
from t3dgs_masks.errors import UserError
from tests.datasets.posed_scenes import (
    OPENCV,
    frame_entry,
    pose_of,
    write_image,
    write_nerfstudio_scene,
    write_transforms,
)


def names(dataset: Dataset) -> list[str]:
    return [frame.name for frame in dataset.frames]


def test_frames_poses_cameras_and_split(tmp_path: Path) -> None:
    dataset = open_nerfstudio(write_nerfstudio_scene(tmp_path, num_train=11, num_eval=2))
    assert (dataset.kind, dataset.root) == ("nerfstudio", tmp_path)
    assert dataset.described_by == tmp_path / "transforms.json"
    assert names(dataset) == [f"frame_{number}" for number in range(1, 14)]  # natural order
    second = dataset.frames[1]
    assert second.source == "images/frame_2.png"
    assert second.image == tmp_path / "images/frame_2.png"
    assert second.camera == Camera(
        60, 61, 31.5, 24.25, 64, 48, k1=0.1, k2=-0.02, p1=0.001, p2=-0.002
    )
    assert second.camera_to_world == tuple(map(tuple, pose_of(1).tolist()))
    assert second.mask is None
    assert [frame.split for frame in dataset.frames] == ["train"] * 11 + ["eval"] * 2


def test_a_json_file_under_another_name(tmp_path: Path) -> None:
    write_transforms(tmp_path, [frame_entry("a.png")], file="mine.json", **OPENCV)
    dataset = open_nerfstudio(tmp_path / "mine.json")
    assert dataset.root == tmp_path
    assert names(dataset) == ["a"]
    assert dataset.frames[0].split is None


def test_names_keep_the_folders_below_the_shared_one(tmp_path: Path) -> None:
    paths = ["./images//cam1/a.png", "images/cam0/b.png", "images/cam0/a.png"]
    dataset = open_nerfstudio(write_transforms(tmp_path, [frame_entry(p) for p in paths], **OPENCV))
    assert names(dataset) == ["cam0/a", "cam0/b", "cam1/a"]
    assert dataset.frames[2].source == "images/cam1/a.png"
    assert all(frame.inside_root for frame in dataset.frames)


@pytest.mark.parametrize("absolute", [False, True])
def test_images_outside_of_the_root_are_read_and_told_apart(tmp_path: Path, absolute: bool) -> None:
    write_image(tmp_path / "shared" / "a.png")
    outside = str(tmp_path / "shared/a.png") if absolute else "../shared/a.png"
    frames = [frame_entry(outside), frame_entry("images/b.png")]
    write_image(tmp_path / "scene" / "images" / "b.png")
    dataset = open_nerfstudio(write_transforms(tmp_path / "scene", frames, images=False, **OPENCV))
    assert names(dataset) == ["scene/images/b", "shared/a"]
    assert [frame.inside_root for frame in dataset.frames] == [True, False]
    assert dataset.frames[1].source == outside
    assert dataset.frames[1].image.samefile(tmp_path / "shared" / "a.png")


def test_what_is_global_wins_over_the_frame(tmp_path: Path) -> None:
    own = {**OPENCV, "fl_x": 99.0, "k1": 0.5, "k4": 0.0}
    meta = {"fl_x": 60.0, "k2": 0.25}
    dataset = open_nerfstudio(write_transforms(tmp_path, [frame_entry("a.png", **own)], **meta))
    camera = dataset.frames[0].camera
    assert camera is not None
    assert (camera.fl_x, camera.fl_y, camera.k1, camera.k2) == (60.0, 61.0, 0.0, 0.25)


def test_a_global_k4_alone_leaves_the_distortion_to_the_frames(tmp_path: Path) -> None:
    frame = frame_entry("a.png", k1=0.5)
    dataset = open_nerfstudio(write_transforms(tmp_path, [frame], **OPENCV, k4=0.3))
    assert dataset.frames[0].camera == Camera(60, 61, 31.5, 24.25, 64, 48, k1=0.5)


def test_distortion_params(tmp_path: Path) -> None:
    params = [0.1, 0.2, 0.3, 0.0, 0.5, 0.6]
    meta = {**OPENCV, "distortion_params": params, "k1": 9.0}
    dataset = open_nerfstudio(write_transforms(tmp_path, [frame_entry("a.png")], **meta))
    expected = Camera(60, 61, 31.5, 24.25, 64, 48, k1=0.1, k2=0.2, k3=0.3, p1=0.5, p2=0.6)
    assert dataset.frames[0].camera == expected


def camera_of(root: Path, **meta: Any) -> Camera | None:
    return open_nerfstudio(write_transforms(root, [frame_entry("a.png")], **meta)).frames[0].camera


def test_camera_models(tmp_path: Path) -> None:
    for model in ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV"):
        camera = camera_of(tmp_path, **OPENCV, camera_model=model)
        assert camera is not None
        assert not camera.fisheye
    fisheye = camera_of(tmp_path, **OPENCV, camera_model="OPENCV_FISHEYE", k1=0.1, k4=0.4)
    assert fisheye == Camera(60, 61, 31.5, 24.25, 64, 48, k1=0.1, k4=0.4, fisheye=True)
    assert camera_of(tmp_path, **OPENCV, k1=0.1, k4=0.4) is None  # nerfstudio cannot undistort it
    for model in ("EQUIRECTANGULAR", "ORTHOPHOTO", "FISHEYE624", "VR180_L", "WHATEVER", ["x"]):
        assert camera_of(tmp_path, **OPENCV, camera_model=model) is None


def test_masks_as_named_whether_or_not_they_exist(tmp_path: Path) -> None:
    frames = [frame_entry("a.png", mask_path="masks/a.png"), frame_entry("b.png")]
    dataset = open_nerfstudio(write_transforms(tmp_path, frames, **OPENCV))
    assert [frame.mask for frame in dataset.frames] == [tmp_path / "masks/a.png", None]


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ({}, [None, None, None]),
        ({"train": "ab", "val": "c", "test": "c"}, ["train", "train", "eval"]),
        ({"train": "a"}, ["train", "eval", "eval"]),  # what is in no list is not trained on
        ({"train": "ab", "val": "bc"}, ["train", "train", "eval"]),
        ({"test": "b"}, ["train", "eval", "train"]),
    ],
)
def test_splits(tmp_path: Path, lists: dict[str, str], expected: list[str | None]) -> None:
    meta = {
        f"{key}_filenames": [f"./{name}.png" for name in listed] for key, listed in lists.items()
    }
    frames = [frame_entry(f"{name}.png") for name in "abc"]
    dataset = open_nerfstudio(write_transforms(tmp_path, frames, **OPENCV, **meta))
    assert [frame.split for frame in dataset.frames] == expected


# --- what is wrong with a dataset -----------------------------------------------------------------

GOOD = {"camera_model": "OPENCV", **OPENCV, "frames": [frame_entry("a.png"), frame_entry("b.png")]}


def changed(frame: dict[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    """GOOD with other keys at the top, and in the second frame; None takes a key out."""
    second = {**GOOD["frames"][1], **(frame or {})}
    second = {key: value for key, value in second.items() if value is not None}
    meta = {**GOOD, "frames": [GOOD["frames"][0], second], **top}
    return {key: value for key, value in meta.items() if value is not None}


NAN_POSE = [[float("nan"), 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        (b"\xff\xfe{", "not valid JSON"),
        ("[]", "top level is not an object"),
        ("{}", "no list `frames`"),
        (changed(frames={}), "no list `frames`"),
        (changed(frames=[]), "lists no frames"),
        (changed(frames=["a.png"]), "frame 0 (counted from 0) has no usable file_path"),
        (changed({"file_path": None}), "frame 1 (counted from 0) has no usable file_path"),
        (changed({"file_path": "a\0.png"}), "no usable file_path"),
        (changed({"file_path": "\ud800.png"}), "no usable file_path"),
        (changed({"file_path": "."}), "no usable file_path"),
        (changed({"file_path": "gone.png"}), "gone.png, which does not exist"),
        (changed({"file_path": "x" * 5000}), "which does not exist"),
        (changed({"file_path": "./b"}), "there is b.png: write the suffix into its entry"),
        (changed({"file_path": "sub/../b.png"}), "which does not exist"),
        (changed({"file_path": "./a.png"}), "lists {root}/a.png twice"),
        (changed({"file_path": "a.jpg"}), "differ only in their suffix"),
        (changed({"transform_matrix": None}), "frame b.png has no transform_matrix"),
        (changed({"transform_matrix": NAN_POSE}), "frame b.png is not a finite number"),
        (changed({"transform_matrix": [[1, 0], [0, 1]]}), "4 rows of 4 numbers"),
        (changed({"transform_matrix": "eye"}), "4 rows of 4 numbers"),
        (changed({"mask_path": 3}), "mask_path of frame b.png"),
        (changed(fl_x=float("inf")), "fl_x of frame a.png is not a finite number"),
        (changed(cx="middle"), "cx of frame a.png is not a finite number"),
        (changed(k1=None, k2=True), "k2 of frame a.png is not a finite number"),
        (changed(fl_y=None), "frame a.png has no fl_y"),
        (changed(w=0), "w 0, h 48"),
        (changed(fl_x=-60.0), "must be above 0"),
        (changed(distortion_params=[0.1, 0.2]), "six numbers"),
        (changed(train_filenames=["c.png"]), "train_filenames names c.png"),
        (changed(val_filenames="b.png"), "val_filenames is not a list"),
    ],
)
def test_bad_datasets_have_one_line(tmp_path: Path, contents: Any, said: str) -> None:
    for name in ("a.png", "b.png", "a.jpg"):
        write_image(tmp_path / name)
    raw = contents if isinstance(contents, (str, bytes)) else json.dumps(contents)
    (tmp_path / "transforms.json").write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    with pytest.raises(UserError) as raised:
        open_nerfstudio(tmp_path)
    message = str(raised.value)
    assert said.format(root=tmp_path) in message if "{root}" in said else said in message
    assert "\n" not in message
    assert str(tmp_path) in message


def test_no_file_and_a_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"transforms.json: No such file"):
        open_nerfstudio(tmp_path)
    (tmp_path / "transforms.json").mkdir()
    with pytest.raises(UserError, match=r"transforms.json: Is a directory"):
        open_nerfstudio(tmp_path)


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_nerfstudio_scene(tmp_path / "scene")
    monkeypatch.chdir(tmp_path / "scene")
    dataset = open_nerfstudio(Path())
    assert names(dataset)[0] == "frame_1"
    assert dataset.frames[0].image.is_file()
    assert os.fspath(dataset.root) == "."
