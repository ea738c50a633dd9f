"""The dataset behind the training views."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from t3dgs_masks.datasets.apply_masks import FrameMask, apply_masks
from t3dgs_masks.datasets.dataset import DatasetFrame
from t3dgs_masks.errors import UserError
from t3dgs_masks.masks import TransientMask
from t3dgs_masks.plugin.datamanager import T3dgsDatamanager
from t3dgs_masks.plugin.refined_masks import RefinedMasks
from t3dgs_masks.plugin.source_dataset import (
    SourceDataset,
    StageMasks,
    check_dataset,
    check_image_sizes,
    find_source,
    ignored_by_user,
)
from t3dgs_masks.plugin.views import View, ordered_views
from tests.datasets.scenes_to_mask import write_colmap
from tests.plugin.scenes import HEIGHT, WIDTH, make_datamanager, write_dataset, write_mask

DISTORTED = {"k1": 0.12, "k2": -0.03, "p1": 0.002, "p2": -0.001}


class SameMask:
    """A `MaskSource` that has one mask, [H, W] True = transient, for all frames."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def mask_of(self, frame: DatasetFrame) -> FrameMask:
        return FrameMask(TransientMask(self.pixels))


def box(rows: slice, columns: slice, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    mask = np.zeros(size, np.bool_)
    mask[rows, columns] = True
    return mask


def source_of(datamanager: T3dgsDatamanager) -> SourceDataset:
    source = find_source(datamanager)
    assert source is not None
    return source


def views_of(datamanager: T3dgsDatamanager) -> list[View]:
    return ordered_views([Path(file) for file in datamanager.train_dataset.image_filenames])


def with_colmap(datamanager_data: Path, **options: Any) -> T3dgsDatamanager:
    parser = ColmapDataParserConfig(
        data=datamanager_data, colmap_path=Path("sparse/0"), downscale_factor=1
    )
    for name, value in options.items():
        setattr(parser, name, value)
    return make_datamanager(datamanager_data, dataparser=parser)


def write_stage(folder: Path, datamanager: T3dgsDatamanager) -> dict[int, np.ndarray]:
    """A different transient box per view, at the size of the cached image; by camera."""
    boxes = {}
    for view in views_of(datamanager):
        size = tuple(datamanager.cached_train[view.camera_idx]["image"].shape[:2])
        left = 6 + 5 * view.camera_idx
        boxes[view.camera_idx] = box(np.s_[10:22], np.s_[left : left + 9], size)
        write_mask(folder / f"{view.name}.png", ~boxes[view.camera_idx])
    return boxes


# --- Views and frames -------------------------------------------------------------------------


def test_every_view_is_led_to_its_frame(tmp_path: Path) -> None:
    datamanager = make_datamanager(write_dataset(tmp_path / "data"))
    source = source_of(datamanager)
    assert source.data == tmp_path / "data"
    assert {idx: frame.source for idx, frame in source.frames.items()} == {
        idx: f"images/f_{idx}.png" for idx in range(4)
    }
    assert {frame.split for frame in source.frames.values()} == {"train"}
    manifest = source.manifest(views_of(datamanager), datamanager.train_dataset.cameras)
    assert [(frame.name, frame.source) for frame in manifest.frames] == [
        (f"f_{idx}", f"images/f_{idx}.png") for idx in range(4)
    ]
    assert all(frame.undistorted is None for frame in manifest.frames)


def test_a_json_file_by_another_name(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    (data / "transforms.json").rename(data / "other.json")
    source = source_of(make_datamanager(data / "other.json"))
    assert source.data == data / "other.json"
    assert len(source.frames) == 4


def test_views_of_a_downscaled_folder(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    (data / "images_2").mkdir()
    for file in (data / "images").iterdir():
        half = cv2.resize(cv2.imread(str(file)), (WIDTH // 2, HEIGHT // 2))
        cv2.imwrite(str(data / "images_2" / file.name), half)
    parser = NerfstudioDataParserConfig(load_3D_points=True, downscale_factor=2)
    datamanager = make_datamanager(data, dataparser=parser)
    source = source_of(datamanager)
    assert views_of(datamanager)[0].file == data / "images_2" / "f_0.png"
    assert [source.frames[idx].source for idx in range(4)] == [
        f"images/f_{idx}.png" for idx in range(4)
    ]
    check_image_sizes(datamanager)
    boxes = write_stage(tmp_path / "masks", datamanager)
    masks = RefinedMasks(tmp_path / "masks", views_of(datamanager), dilate=0)
    apply_masks(data, StageMasks(source, masks, datamanager.train_cameras))
    again = make_datamanager(data, dataparser=parser)
    for idx, transient in boxes.items():
        kept = again.cached_train[idx]["mask"][..., 0].numpy()
        np.testing.assert_array_equal(kept, ~transient)


def test_colmap_projects(tmp_path: Path) -> None:
    data = write_colmap(tmp_path / "data")
    datamanager = with_colmap(data, eval_mode="all")
    source = source_of(datamanager)
    assert sorted(frame.source for frame in source.frames.values()) == [
        *(f"images/a_{idx}.jpg" for idx in (0, 1)),
        *(f"images/b/a_{idx}.jpg" for idx in (2, 3)),
    ]
    assert [view.name for view in views_of(datamanager)] == ["a_0", "a_1", "b/a_2", "b/a_3"]


@pytest.mark.parametrize("elsewhere", ["images_path", "colmap_path"])
def test_colmap_parts_elsewhere_are_no_error(tmp_path: Path, elsewhere: str) -> None:
    """Training goes on, and masks stay in the run folder."""
    data = write_colmap(tmp_path / "data")
    if elsewhere == "images_path":
        (data / "images").rename(data / "photos")
        options = {"images_path": Path("photos")}
    else:
        (data / "sparse" / "0").rename(data / "sparse" / "7")
        options = {"colmap_path": Path("sparse/7")}
    assert find_source(with_colmap(data, eval_mode="all", **options)) is None


def test_other_parsers_have_no_source(tmp_path: Path) -> None:
    datamanager = make_datamanager(write_dataset(tmp_path / "data"))
    datamanager.config.dataparser = BlenderDataParserConfig()
    assert find_source(datamanager) is None
    check_dataset(BlenderDataParserConfig(data=tmp_path / "nothing"))


# --- Geometry ---------------------------------------------------------------------------------


def test_masks_of_undistorted_views_come_back_where_they_were(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", **DISTORTED)
    datamanager = make_datamanager(data)
    boxes = write_stage(tmp_path / "masks", datamanager)
    source = source_of(datamanager)
    view = source.undistorted(0, datamanager.train_cameras)
    assert view is not None
    assert not view.is_distorted
    assert (view.height, view.width) == boxes[0].shape
    assert source.manifest(views_of(datamanager), datamanager.train_cameras).frames[
        0
    ].undistorted == (view)
    masks = RefinedMasks(tmp_path / "masks", views_of(datamanager), dilate=0)
    apply_masks(data, StageMasks(source, masks, datamanager.train_cameras))
    again = make_datamanager(data)
    for idx, transient in boxes.items():
        kept = again.cached_train[idx]["mask"][..., 0].numpy()
        assert not kept[transient].any()
        near = cv2.dilate(transient.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool)
        assert kept[~near].all()


def test_frames_that_are_no_training_view_have_no_mask(tmp_path: Path) -> None:
    datamanager = make_datamanager(write_dataset(tmp_path / "data"))
    write_stage(tmp_path / "masks", datamanager)
    masks = RefinedMasks(tmp_path / "masks", views_of(datamanager), dilate=0)
    source = source_of(datamanager)
    stage = StageMasks(source, masks, datamanager.train_dataset.cameras)
    split = {frame.source: stage.mask_of(frame) is None for frame in source.dataset.frames}
    assert split == {f"images/f_{idx}.png": idx == 4 for idx in range(5)}


# --- The user's masks and ours ----------------------------------------------------------------

USER = box(np.s_[30:], np.s_[:8])
OURS = box(np.s_[5:15], np.s_[20:30])


@pytest.mark.parametrize("lens", [{}, DISTORTED], ids=["pinhole", "distorted"])
def test_the_users_masks_are_told_from_ours(tmp_path: Path, lens: dict[str, float]) -> None:
    user = dict.fromkeys(range(5), ~USER)
    data = write_dataset(tmp_path / "data", masks=user, **lens)
    before = make_datamanager(data)
    as_trained = ignored_by_user(before, source_of(before), 1)
    assert as_trained is not None
    assert as_trained.any()
    apply_masks(data, SameMask(OURS))
    after = make_datamanager(data)
    source = source_of(after)
    assert source.has_our_masks
    both = ~after.cached_train[1]["mask"][..., 0].numpy()
    assert both[7:13, 22:28].all()
    ignored = ignored_by_user(after, source, 1)
    assert ignored is not None
    assert not ignored[:25].any()
    assert ignored[as_trained].all()
    assert (ignored & ~as_trained).mean() < 0.02
    if not lens:
        np.testing.assert_array_equal(ignored, USER)


def test_our_masks_are_nobodys_wish(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    plain = make_datamanager(data)
    assert ignored_by_user(plain, source_of(plain), 0) is None
    apply_masks(data, SameMask(OURS))
    datamanager = make_datamanager(data)
    assert not datamanager.cached_train[0]["mask"][5:15, 20:30].any()
    assert ignored_by_user(datamanager, source_of(datamanager), 0) is None


def test_masks_of_another_layout_are_the_users(tmp_path: Path) -> None:
    datamanager = make_datamanager(
        write_dataset(tmp_path / "data", masks=dict.fromkeys(range(5), ~USER))
    )
    ignored = ignored_by_user(datamanager, None, 2)
    np.testing.assert_array_equal(ignored, USER)


# --- Refusals ---------------------------------------------------------------------------------


def refusal_of(data: Path) -> str:
    with pytest.raises(UserError) as caught:
        check_dataset(NerfstudioDataParserConfig(data=data))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_good_datasets_pass(tmp_path: Path) -> None:
    check_dataset(NerfstudioDataParserConfig(data=write_dataset(tmp_path / "plain")))
    masked = write_dataset(tmp_path / "masked", masks=dict.fromkeys(range(5), ~USER))
    check_dataset(NerfstudioDataParserConfig(data=masked))
    check_image_sizes(make_datamanager(masked))
    colmap = write_colmap(tmp_path / "colmap")
    check_dataset(ColmapDataParserConfig(data=colmap, colmap_path=Path("sparse/0")))


def test_some_frames_with_a_mask(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", masks={0: ~USER, 3: ~USER})
    assert "mask_path, but not images/f_1.png (3 of 5 have none)" in refusal_of(data)


def test_a_missing_image(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    (data / "images" / "f_2.png").unlink()
    assert "f_2.png, which does not exist" in refusal_of(data)


def test_broken_json(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    (data / "transforms.json").write_text('{"frames": [')
    assert "not valid JSON" in refusal_of(data)


def test_no_dataset(tmp_path: Path) -> None:
    assert "is no dataset" in refusal_of(tmp_path)


def test_a_frame_of_another_size(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    cv2.imwrite(str(data / "images" / "f_1.png"), np.zeros((WIDTH, HEIGHT, 3), np.uint8))
    datamanager = make_datamanager(data)
    with pytest.raises(UserError, match=r"f_1\.png is 40x48, but the dataset says 48x40"):
        check_image_sizes(datamanager)


def test_sizes_that_are_told_per_frame_are_right(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    transforms = json.loads((data / "transforms.json").read_text())
    size = {key: transforms.pop(key) for key in ("w", "h", "cx", "cy")}
    for frame in transforms["frames"]:
        frame.update(size)
    transforms["frames"][1].update({"w": 40, "h": 48})
    cv2.imwrite(str(data / "images" / "f_1.png"), np.zeros((48, 40, 3), np.uint8))
    (data / "transforms.json").write_text(json.dumps(transforms))
    check_image_sizes(make_datamanager(data))
