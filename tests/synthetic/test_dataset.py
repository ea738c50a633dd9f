from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t3dgs_masks.synthetic.capture import Capture, CaptureSpec, make_capture
from t3dgs_masks.synthetic.coarse import CoarsePrompts, half_trained_prompts
from t3dgs_masks.synthetic.dataset import DatasetPaths, write_nerfstudio


@pytest.fixture(scope="module")
def capture() -> Capture:
    spec = CaptureSpec(num_frames=4, height=48, width=64, num_eval_views=2, num_seed_points=50)
    return make_capture(spec)


@pytest.fixture(scope="module")
def prompts(capture: Capture) -> CoarsePrompts:
    return half_trained_prompts(capture, 0)


@pytest.fixture
def written(capture: Capture, prompts: CoarsePrompts, tmp_path: Path) -> DatasetPaths:
    return write_nerfstudio(capture, prompts, tmp_path / "capture")


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def test_images_holds_the_sequence_and_nothing_else(written: DatasetPaths, capture) -> None:
    names = sorted(path.name for path in written.images.iterdir())
    assert names == [f"frame_{number:05d}.png" for number in range(1, 5)]
    for frame, name in zip(capture.frames, names, strict=True):
        assert np.array_equal(read(written.images / name), frame)


def test_truth_prompts_and_clean_views_share_the_stems(written, capture, prompts) -> None:
    grey = np.rint(prompts.residual * 255).astype(np.uint8)
    for folder, expected in (
        (written.clean, capture.static_frames),
        (written.ground_truth, capture.transient_masks * np.uint8(255)),
        (written.prompts / "masks", prompts.coarse * np.uint8(255)),
        (written.prompts / "diffs", grey),
    ):
        paths = sorted(folder.iterdir())
        assert [path.name for path in paths] == [f"frame_{n:05d}.png" for n in range(1, 5)]
        assert all(np.array_equal(read(p), e) for p, e in zip(paths, expected, strict=True))


def test_transforms_as_nerfstudio_reads_them(written: DatasetPaths, capture: Capture) -> None:
    transforms = json.loads(written.transforms.read_text())
    assert transforms["camera_model"] == "OPENCV"
    assert (transforms["w"], transforms["h"]) == (64, 48)
    assert transforms["fl_x"] == capture.intrinsics.fl_x
    assert [transforms[key] for key in ("k1", "k2", "p1", "p2")] == [0, 0, 0, 0]
    frames = {frame["file_path"]: frame["transform_matrix"] for frame in transforms["frames"]}
    assert list(frames) == [*transforms["train_filenames"], *transforms["val_filenames"]]
    assert transforms["val_filenames"] == transforms["test_filenames"]
    assert all((written.root / name).is_file() for name in frames)
    poses = np.concatenate([capture.camera_to_worlds, capture.eval_camera_to_worlds])
    assert np.array_equal(np.array(list(frames.values())), poses)
    for name, image in zip(transforms["val_filenames"], capture.eval_frames, strict=True):
        assert np.array_equal(read(written.root / name), image)


def test_seed_points_as_ply(written: DatasetPaths, capture: Capture) -> None:
    transforms = json.loads(written.transforms.read_text())
    lines = (written.root / transforms["ply_file_path"]).read_text().splitlines()
    assert lines[:3] == ["ply", "format ascii 1.0", "element vertex 50"]
    points = np.array([line.split() for line in lines[lines.index("end_header") + 1 :]], float)
    assert np.allclose(points[:, :3], capture.seed_points_xyz, atol=1e-5)
    assert np.array_equal(points[:, 3:].astype(np.uint8), capture.seed_points_rgb)


def test_an_earlier_longer_capture_leaves_nothing_behind(written, capture, prompts) -> None:
    stale = written.images / "frame_00099.png"
    stale.write_bytes(b"old")
    foreign = written.images / "notes.txt"
    foreign.write_text("mine")
    write_nerfstudio(capture, prompts, written.root)
    assert not stale.exists()
    assert foreign.read_text() == "mine"


def test_no_half_written_files_stay(written: DatasetPaths) -> None:
    assert not list(written.root.rglob("*.part"))
    assert not list(written.root.rglob(".*"))
