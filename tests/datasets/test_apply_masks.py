"""Masks into a dataset, and the dataset back: what stock nerfstudio reads, and what is on disk."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t3dgs_masks.datasets.apply_masks import apply_masks, open_dataset_at, revert_masks
from t3dgs_masks.datasets.apply_record import user_mask_of
from t3dgs_masks.datasets.dataset import Camera
from t3dgs_masks.datasets.geometry import scaled
from t3dgs_masks.datasets.mask_places import flat_names
from t3dgs_masks.errors import UserError
from t3dgs_masks.masks import TransientMask, dilate, iou
from t3dgs_masks.types import BoolMask
from tests.datasets.scenes_to_mask import (
    HEIGHT,
    NAMES,
    WIDTH,
    GivenMasks,
    box,
    grey,
    number_of,
    read_transient,
    save,
    static_file,
    times,
    tree,
    user_column,
    write_colmap,
    write_scene,
)

USER_MASKS = {name: f"mine/m{index}.png" for index, name in enumerate(NAMES)}


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return tmp_path / "scene"


def mask_paths(root: Path) -> dict[str, str]:
    frames = json.loads((root / "transforms.json").read_text())["frames"]
    return {frame["file_path"]: frame["mask_path"] for frame in frames}


def small(mask: BoolMask, factor: int) -> BoolMask:
    height, width = mask.shape
    return scaled(TransientMask(mask), (height // factor, width // factor)).pixels


# --- What nerfstudio reads --------------------------------------------------------------------


class Loaded:
    """What stock nerfstudio makes of a dataset."""

    def __init__(self, parser: Any, scale: float = 1.0) -> None:
        from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig

        config = FullImageDatamanagerConfig(
            dataparser=parser, camera_res_scale_factor=scale, cache_images_type="uint8"
        )
        manager: Any = config.setup(device="cpu", test_mode="val")
        self.cached: dict[str, BoolMask] = {}
        """Transient masks that training (and evaluation) uses, by image file name."""
        self.read: dict[str, BoolMask] = {}
        """Transient masks that the dataset returns."""
        self.cameras: dict[str, Camera] = {}
        """Of the cached images."""
        parts = ((manager.train_dataset, "cached_train"), (manager.eval_dataset, "cached_eval"))
        for dataset, cached in parts:
            names = [path.name for path in dataset.image_filenames]
            for name, index in zip(names, range(len(dataset)), strict=True):
                data = dataset.get_data(index, image_type="uint8")
                self.read[name] = ~data["mask"].numpy()[..., 0]
            for name, data in zip(names, getattr(manager, cached), strict=True):
                self.cached[name] = ~data["mask"].numpy()[..., 0]
            for name, camera in zip(names, dataset.cameras, strict=True):
                values = (camera.fx, camera.fy, camera.cx, camera.cy)
                self.cameras[name] = Camera(
                    *(float(value) for value in values), int(camera.width), int(camera.height)
                )


def nerfstudio_parser(data: Path, factor: int = 1) -> Any:
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    return NerfstudioDataParserConfig(data=data, load_3D_points=False, downscale_factor=factor)


def colmap_parser(data: Path, factor: int = 1, masks: str = "masks") -> Any:
    from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig

    return ColmapDataParserConfig(
        data=data,
        downscale_factor=factor,
        colmap_path=Path("sparse/0"),
        masks_path=Path(masks),
        load_3D_points=False,
        eval_interval=3,
    )


@pytest.mark.parametrize("factor", [1, 2])
def test_nerfstudio_reads_the_masks(scene: Path, factor: int) -> None:
    write_scene(scene, factors=[2, 4], evaluation=[NAMES[4]])
    pristine, written = tree(scene), times(scene)
    summary = apply_masks(scene, GivenMasks(), dilate=1)
    assert (summary.frames, summary.masked_frames, summary.combined_frames) == (5, 4, 0)
    assert summary.folders == ["masks", "masks_2", "masks_4"]
    loaded = Loaded(nerfstudio_parser(scene, factor))
    for name in NAMES:
        expected = dilate(box(number_of(name)), 1)
        if name == NAMES[4]:
            expected = np.zeros_like(expected)
        assert np.array_equal(loaded.cached[Path(name).name], small(expected, factor))
    assert revert_masks(scene).was_applied
    assert tree(scene) == pristine
    assert times(scene) == written


LENS = {"k1": -0.12, "k2": 0.02, "p1": 0.002, "p2": -0.001}


@pytest.mark.parametrize(("factor", "scale"), [(1, 1.0), (2, 1.0), (1, 0.5)])
def test_masks_of_undistorted_views_come_back_undistorted(
    scene: Path, factor: int, scale: float
) -> None:
    """As a plugin does it: masks of what nerfstudio trains on, written, and read by nerfstudio."""
    write_scene(scene, factors=[2], extra=LENS)
    pristine = tree(scene)
    apply_masks(scene, GivenMasks({}))
    view = Loaded(nerfstudio_parser(scene, factor), scale).cameras["f_0.png"]
    made = {name: box(number_of(name), (view.height, view.width)) for name in NAMES}
    apply_masks(scene, GivenMasks(made, camera=view))
    loaded = Loaded(nerfstudio_parser(scene, factor), scale)
    for name in NAMES:
        seen = loaded.cached[Path(name).name]
        assert not (made[name] & ~seen).any()
        assert iou(made[name], seen) > (0.8 if scale == 1 else 0.7)  # of 24 to 48 pixels
    revert_masks(scene)
    assert tree(scene) == pristine


def test_distorted_files_get_their_masks_unchanged(scene: Path) -> None:
    write_scene(scene, extra=LENS)
    apply_masks(scene, GivenMasks())
    loaded = Loaded(nerfstudio_parser(scene))
    for name in NAMES:
        assert np.array_equal(loaded.read[Path(name).name], box(number_of(name)))


@pytest.mark.parametrize("factor", [1, 2])
def test_the_colmap_parser_reads_the_masks(scene: Path, factor: int) -> None:
    write_colmap(scene, factors=[2])
    pristine = tree(scene)
    summary = apply_masks(scene, GivenMasks())
    assert summary.layout == "colmap"
    assert (scene / "masks/b/a_2.png").is_file()
    loaded = Loaded(colmap_parser(scene, factor))
    for index in range(4):
        assert np.array_equal(loaded.cached[f"a_{index}.jpg"], small(box(index), factor))
    revert_masks(scene)
    assert tree(scene) == pristine


def test_colmap_masks_of_the_user_are_combined_elsewhere(scene: Path) -> None:
    write_colmap(scene, factors=[2], user_masks=["a_0.jpg", "b/a_2.jpg"])
    pristine = tree(scene)
    for _ in range(2):
        summary = apply_masks(scene, GivenMasks())
    assert summary.masks_folder == "masks_t3dgs"
    assert summary.combined_frames == 2
    for factor in (1, 2):
        loaded = Loaded(colmap_parser(scene, factor, summary.masks_folder))
        for index in range(4):
            expected = box(index) | user_column() if index in (0, 2) else box(index)
            assert np.array_equal(loaded.cached[f"a_{index}.jpg"], small(expected, factor))
    assert {name: tree(scene)[name] for name in pristine} == pristine
    revert_masks(scene)
    assert tree(scene) == pristine


def test_distorted_colmap_masks_come_back_undistorted(scene: Path) -> None:
    write_colmap(scene, distortion=(-0.12, 0.02, 0.002, -0.001))
    apply_masks(scene, GivenMasks({}))
    view = Loaded(colmap_parser(scene)).cameras["a_1.jpg"]
    made = {
        frame.source: box(number_of(frame.source), (view.height, view.width))
        for frame in open_dataset_at(scene).frames
    }
    apply_masks(scene, GivenMasks(made, camera=view))
    loaded = Loaded(colmap_parser(scene))
    for source, mask in made.items():
        seen = loaded.cached[Path(source).name]
        assert not (mask & ~seen).any()
        assert iou(mask, seen) > 0.85


# --- The user's own masks ---------------------------------------------------------------------


def test_the_users_masks_are_combined_and_stay(scene: Path) -> None:
    write_scene(scene, user_masks=USER_MASKS, factors=[2], evaluation=[NAMES[4]])
    save(scene / "masks_2/m0.png", static_file(~user_column((HEIGHT // 2, WIDTH // 2))))
    pristine = tree(scene)
    apply_masks(scene, GivenMasks(), dilate=3)
    apply_masks(scene, GivenMasks())  # masks do not grow from one apply to the next
    for name, path in mask_paths(scene).items():
        ours = box(number_of(name)) if name != NAMES[4] else np.zeros_like(box(0))
        assert np.array_equal(read_transient(scene / path), ours | user_column())
    half = read_transient(scene / "masks_2" / Path(mask_paths(scene)[NAMES[0]]).name)
    own = ~user_column((HEIGHT // 2, WIDTH // 2))
    assert np.array_equal(half, small(box(0) | user_column(), 2) | own)
    assert {name: tree(scene)[name] for name in pristine if name != "transforms.json"} == {
        name: content for name, content in pristine.items() if name != "transforms.json"
    }
    revert_masks(scene)
    assert tree(scene) == pristine


def test_masks_folders_of_the_user_are_left_alone(scene: Path) -> None:
    """Also where their files have the names that ours would have."""
    own = {name: f"masks/{Path(name).name}" for name in NAMES}
    write_scene(scene, user_masks=own, factors=[2])
    for name in NAMES:
        small_column = user_column((HEIGHT // 2, WIDTH // 2))
        save(scene / "masks_2" / Path(name).name, static_file(small_column))
    (scene / "masks_t3dgs").mkdir()
    (scene / "masks_t3dgs" / "notes.txt").write_text("mine")
    pristine = tree(scene)
    assert apply_masks(scene, GivenMasks()).masks_folder == "masks_t3dgs_2"
    assert apply_masks(scene, GivenMasks()).masks_folder == "masks_t3dgs_2"
    for factor in (1, 2):
        loaded = Loaded(nerfstudio_parser(scene, factor))
        for name in NAMES:
            column = user_column((HEIGHT // factor, WIDTH // factor))
            expected = small(box(number_of(name)) | user_column(), factor) | column
            assert np.array_equal(loaded.cached[Path(name).name], expected)
    revert_masks(scene)
    assert tree(scene) == pristine


def test_partial_mask_paths_are_completed(scene: Path) -> None:
    some = {name: USER_MASKS[name] for name in NAMES[:2]}
    write_scene(scene, user_masks=some)
    pristine = tree(scene)
    notices: list[str] = []
    apply_masks(scene, GivenMasks(), notify=notices.append)
    assert "2 of 5 frames had a mask_path" in notices[0]
    loaded = Loaded(nerfstudio_parser(scene))
    for name in NAMES:
        expected = box(number_of(name)) | (user_column() if name in some else False)
        assert np.array_equal(loaded.cached[Path(name).name], expected)
    revert_masks(scene)
    assert tree(scene) == pristine


def test_the_users_mask_is_known_while_ours_are_applied(scene: Path) -> None:
    some = {name: USER_MASKS[name] for name in NAMES[:2]}
    write_scene(scene, user_masks=some)

    def known() -> dict[str, Path | None]:
        frames = open_dataset_at(scene).frames
        return {frame.source: user_mask_of(scene, frame) for frame in frames}

    expected = {name: scene / some[name] if name in some else None for name in NAMES}
    assert known() == expected
    for _ in range(2):
        apply_masks(scene, GivenMasks())
        assert known() == expected
    revert_masks(scene)
    assert known() == expected


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "I;16"])
def test_masks_of_the_user_in_any_mode(scene: Path, mode: str) -> None:
    from PIL import Image

    write_scene(scene, user_masks=USER_MASKS)
    static = np.where(user_column(), 0, 1 if mode != "1" else 255).astype(np.uint8)
    image = Image.fromarray(static * (255 if mode in ("LA", "RGB") else 1))
    for path in USER_MASKS.values():
        if mode == "P":
            indices = Image.fromarray(static)
            indices.putpalette([0, 0, 0, 255, 255, 255])
            indices.save(scene / path)
        elif mode == "I;16":
            Image.fromarray(static.astype(np.uint16) * 256).save(scene / path)
        else:
            image.convert(mode).save(scene / path)
    apply_masks(scene, GivenMasks({}))
    for path in mask_paths(scene).values():
        assert np.array_equal(read_transient(scene / path), user_column())


# --- Kinds of datasets ------------------------------------------------------------------------


def test_names_are_flat_and_unique(scene: Path) -> None:
    names = ["images/a/b_1.png", "images/a_b/_1.png", "images/a/B_1.png", "images/a_b_1.png"]
    write_scene(scene, names=names)
    masks = {name: np.roll(box(0), 4 * index, axis=1) for index, name in enumerate(names)}
    apply_masks(scene, GivenMasks(masks))
    paths = mask_paths(scene)
    assert all(path.count("/") == 1 for path in paths.values())
    assert len({path.lower() for path in paths.values()}) == 4
    for name, path in paths.items():
        assert np.array_equal(read_transient(scene / path), masks[name])


@given(st.lists(st.text("ab/_A", min_size=1, max_size=6), unique=True, max_size=8))
def test_flat_names(names: list[str]) -> None:
    flat = flat_names(names)
    assert len({name.casefold() for name in flat}) == len(names)
    assert all("/" not in name for name in flat)


def test_flat_names_are_never_too_long() -> None:
    names = ["ä" * 120 + "/" + "b" * 200 + str(index) for index in range(3)]
    flat = flat_names(names)
    assert len(set(flat)) == 3
    assert all(len(os.fsencode(f"{name}.png")) < 255 for name in flat)


def test_frames_of_two_sizes(scene: Path) -> None:
    write_scene(scene, sizes={NAMES[1]: (20, 30)})
    apply_masks(scene, GivenMasks())
    for name, path in mask_paths(scene).items():
        size = (20, 30) if name == NAMES[1] else (HEIGHT, WIDTH)
        assert np.array_equal(read_transient(scene / path), box(number_of(name), size))


def test_masks_at_another_scale(scene: Path) -> None:
    write_scene(scene)
    masks = {name: box(0, (HEIGHT // 3, WIDTH // 3)) for name in NAMES}
    apply_masks(scene, GivenMasks(masks))
    expected = scaled(TransientMask(masks[NAMES[0]]), (HEIGHT, WIDTH)).pixels
    assert np.array_equal(read_transient(scene / mask_paths(scene)[NAMES[0]]), expected)


def test_evaluation_frames_on_request(scene: Path) -> None:
    write_scene(scene, evaluation=NAMES[3:])
    masks = GivenMasks()
    apply_masks(scene, masks)
    assert sorted(masks.asked) == list(NAMES[:3])
    apply_masks(scene, GivenMasks(), include_eval=True)
    for name, path in mask_paths(scene).items():
        assert np.array_equal(read_transient(scene / path), box(number_of(name)))


def test_another_json_file(scene: Path) -> None:
    write_scene(scene, transforms="poses.json", indent=None)
    pristine = tree(scene)
    apply_masks(scene / "poses.json", GivenMasks())
    assert not (scene / "transforms.json").exists()
    loaded = Loaded(nerfstudio_parser(scene / "poses.json"))
    assert np.array_equal(loaded.cached["f_2.png"], box(2))
    revert_masks(scene)  # the folder is enough
    assert tree(scene) == pristine


def test_one_json_file_at_a_time(scene: Path) -> None:
    write_scene(scene)
    shutil.copy(scene / "transforms.json", scene / "other.json")
    apply_masks(scene, GivenMasks())
    before = tree(scene)
    with pytest.raises(UserError, match=r"transforms\.json in .* already: run `t3dgs-masks revert"):
        apply_masks(scene / "other.json", GivenMasks())
    assert tree(scene) == before


def test_everything_else_in_the_json_file_stays(scene: Path) -> None:
    write_scene(scene)
    file = scene / "transforms.json"
    text = file.read_text().replace('"camera_model"', '"aabb": 1.50e0,\r\n  "camera_model"')
    text = text.replace('"file_path": "', '"note": "é",   "file_path" : "./') + "\n\n"
    file.write_bytes(text.encode())
    pristine = tree(scene)
    apply_masks(scene, GivenMasks())
    after = file.read_bytes().decode()
    assert "masks/f_0.png" in after
    assert re.sub(r',\s*"mask_path": "[^"]*"', "", after) == text
    revert_masks(scene)
    assert tree(scene) == pristine


def test_a_linked_json_file_stays_a_link(scene: Path) -> None:
    write_scene(scene)
    (scene / "transforms.json").rename(scene / "real.json")
    (scene / "transforms.json").symlink_to("real.json")
    pristine = tree(scene)
    apply_masks(scene, GivenMasks())
    assert tree(scene)["transforms.json"] == b"-> real.json"
    assert "masks/f_0.png" in (scene / "real.json").read_text()
    apply_masks(scene, GivenMasks(), dilate=1)
    revert_masks(scene)
    assert tree(scene) == pristine


def test_a_json_file_that_is_kept_elsewhere(scene: Path) -> None:
    write_scene(scene)
    (scene / "transforms.json").rename(scene.parent / "real.json")
    (scene / "transforms.json").symlink_to("../real.json")
    before = tree(scene.parent)
    with pytest.raises(UserError, match=r"leads to .*real\.json, outside of the dataset"):
        apply_masks(scene, GivenMasks())
    assert tree(scene.parent) == before


def test_a_dataset_under_a_link(scene: Path) -> None:
    write_scene(scene.parent / "real")
    scene.symlink_to("real")
    pristine = tree(scene)
    apply_masks(scene, GivenMasks())
    revert_masks(scene)
    assert tree(scene) == pristine


# --- Applying again, reverting ----------------------------------------------------------------


def test_applying_the_same_again_changes_nothing(scene: Path) -> None:
    write_scene(scene, factors=[2])
    apply_masks(scene, GivenMasks())
    once, written = tree(scene), times(scene)
    apply_masks(scene, GivenMasks())
    assert (tree(scene), times(scene)) == (once, written)


def test_applying_again_drops_what_is_not_needed_any_more(scene: Path) -> None:
    write_scene(scene, factors=[2, 4])
    pristine = tree(scene)
    apply_masks(scene, GivenMasks())
    shutil.rmtree(scene / "images_4")
    apply_masks(scene, GivenMasks())
    assert not (scene / "masks_4").exists()
    revert_masks(scene)
    without = {name: data for name, data in pristine.items() if not name.startswith("images_4")}
    assert tree(scene) == without


def test_nothing_to_revert(scene: Path) -> None:
    write_scene(scene)
    pristine = tree(scene)
    assert not revert_masks(scene).was_applied
    assert tree(scene) == pristine


def test_an_edited_json_file_is_not_lost(scene: Path) -> None:
    write_scene(scene, user_masks={NAMES[0]: "mine/m0.png"})
    pristine = tree(scene)
    apply_masks(scene, GivenMasks())
    file = scene / "transforms.json"
    edited = file.read_text().replace('"OPENCV"', '"PINHOLE"')
    file.write_text(edited)
    before = tree(scene)
    for attempt in (lambda: apply_masks(scene, GivenMasks()), lambda: revert_masks(scene)):
        with pytest.raises(UserError, match=r"transforms\.json was changed since .* --force"):
            attempt()
        assert tree(scene) == before
    assert revert_masks(scene, force=True).kept_edits
    original = pristine["transforms.json"]
    assert original is not None
    edited_only = original.replace(b'"OPENCV"', b'"PINHOLE"')
    assert tree(scene) == {**pristine, "transforms.json": edited_only}


def test_an_edited_json_file_that_is_none_any_more(scene: Path) -> None:
    write_scene(scene)
    apply_masks(scene, GivenMasks())
    (scene / "transforms.json").write_text("{")
    before = tree(scene)
    with pytest.raises(UserError, match=r"original/transforms\.json"):
        revert_masks(scene, force=True)
    assert tree(scene) == before
    shutil.copy(scene / ".t3dgs_masks/original/transforms.json", scene)
    revert_masks(scene)
    assert not (scene / ".t3dgs_masks").exists()
    assert not (scene / "masks").exists()


def test_masks_that_someone_drew_on_are_not_lost(scene: Path) -> None:
    write_scene(scene)
    pristine = tree(scene)
    apply_masks(scene, GivenMasks())
    drawn = scene / "masks/f_1.png"
    save(drawn, grey())
    (scene / "masks/f_2.png").unlink()
    (scene / "masks/own.txt").write_text("mine")
    before = tree(scene)
    for attempt in (lambda: apply_masks(scene, GivenMasks()), lambda: revert_masks(scene)):
        with pytest.raises(UserError, match=r"f_1\.png was changed since .* --force"):
            attempt()
        assert tree(scene) == before
    summary = revert_masks(scene, force=True)
    assert summary.kept_files == ["masks/f_1.png"]
    kept = {name: before[name] for name in ("masks", "masks/f_1.png", "masks/own.txt")}
    assert tree(scene) == {**pristine, **kept}
    assert apply_masks(scene, GivenMasks()).masks_folder == "masks_t3dgs"


def test_deleted_files_do_not_keep_from_reverting(scene: Path) -> None:
    write_scene(scene)
    pristine = tree(scene)
    apply_masks(scene, GivenMasks())
    shutil.rmtree(scene / "masks")
    (scene / "transforms.json").unlink()
    revert_masks(scene)
    assert tree(scene) == pristine


def test_without_the_copy_of_before_the_entries_can_still_be_taken_out(scene: Path) -> None:
    write_scene(scene)
    pristine = tree(scene)
    apply_masks(scene, GivenMasks())
    (scene / ".t3dgs_masks/original/transforms.json").unlink()
    with pytest.raises(UserError, match=r"is gone or damaged; .*--force"):
        revert_masks(scene)
    revert_masks(scene, force=True)
    assert tree(scene) == pristine


# --- What is refused --------------------------------------------------------------------------


def without_camera(scene: Path) -> None:
    file = scene / "transforms.json"
    file.write_text(file.read_text().replace("OPENCV", "EQUIRECTANGULAR"))


VIEW = Camera(43.0, 43.0, 24.0, 18.0, WIDTH, HEIGHT)
REFUSED: Sequence[tuple[Callable[[Path], object], GivenMasks, str]] = [
    (lambda scene: (scene / "images/f_1.png").unlink(), GivenMasks(), "f_1.png, which does not"),
    (
        lambda scene: (scene / "images/f_1.png").write_bytes(b""),
        GivenMasks({}),
        "cannot read the image",
    ),
    (lambda scene: (scene / "transforms.json").write_text("{"), GivenMasks(), "not valid JSON"),
    (lambda scene: (scene / "transforms.json").unlink(), GivenMasks(), "is no dataset"),
    (lambda scene: None, GivenMasks({NAMES[0]: box(0, (30, 30))}), "30x30, but its image 48x36"),
    (without_camera, GivenMasks({NAMES[2]: box(0)}, camera=VIEW), "no camera for it"),
    (lambda scene: (scene / "masks").symlink_to("/tmp"), GivenMasks(), "leads out of the dataset"),
    (
        lambda scene: (scene / "masks_2").symlink_to(scene.parent),
        GivenMasks(),
        "leads out of the dataset",
    ),
    (lambda scene: (scene / "masks_2").write_bytes(b""), GivenMasks(), "is a file"),
    (
        lambda scene: (scene / ".t3dgs_masks").symlink_to(scene.parent),
        GivenMasks(),
        "leads out of the dataset",
    ),
    (
        lambda scene: (
            (scene / ".t3dgs_masks").mkdir(),
            (scene / ".t3dgs_masks/applied.json").write_text('{"version": 1}'),
        ),
        GivenMasks(),
        "was damaged",
    ),
]


@pytest.mark.parametrize(("harm", "masks", "words"), REFUSED)
def test_refused_with_one_line_and_nothing_changed(
    scene: Path, harm: Callable[[Path], object], masks: GivenMasks, words: str
) -> None:
    write_scene(scene, factors=[2])
    harm(scene)
    before = tree(scene)
    with pytest.raises(UserError) as refusal:
        apply_masks(scene, masks)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert tree(scene) == before


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda path: path.unlink(), "cannot read the dataset's own mask"),
        (lambda path: path.write_bytes(b"\x89PNG junk"), "cannot read the dataset's own mask"),
        (lambda path: save(path, grey((10, 40))[..., 0]), "own mask .* is 40x10"),
    ],
)
def test_broken_masks_of_the_user(scene: Path, harm: Callable[[Path], None], words: str) -> None:
    write_scene(scene, user_masks=USER_MASKS)
    harm(scene / USER_MASKS[NAMES[3]])
    before = tree(scene)
    with pytest.raises(UserError, match=words):
        apply_masks(scene, GivenMasks())
    assert tree(scene) == before


def test_names_that_leave_a_colmap_project(scene: Path) -> None:
    save(scene.parent / "other.jpg", grey())
    (scene / "images").mkdir(parents=True)
    write_colmap(scene, names=["a_0.jpg", "../../other.jpg"])
    before = tree(scene.parent)
    with pytest.raises(UserError):
        apply_masks(scene, GivenMasks({}))
    assert tree(scene.parent) == before


def test_images_from_elsewhere_are_fine_for_nerfstudio(scene: Path) -> None:
    """Their masks have flat names inside the dataset."""
    write_scene(scene, names=["images/f_0.png", "../elsewhere/f_1.png"])
    before = tree(scene.parent)
    apply_masks(scene, GivenMasks())
    assert all((scene / path).is_file() for path in mask_paths(scene).values())
    changed = {name for name, data in tree(scene.parent).items() if before.get(name, b"") != data}
    assert all(name.startswith("scene/") for name in changed)
    revert_masks(scene)
    assert tree(scene.parent) == before


@pytest.mark.parametrize("path", ["../outside.png", "/tmp/outside.png"])
def test_a_record_cannot_make_revert_leave_the_dataset(scene: Path, path: str) -> None:
    write_scene(scene)
    apply_masks(scene, GivenMasks())
    record = scene / ".t3dgs_masks/applied.json"
    record.write_text(record.read_text().replace("masks/f_1.png", path))
    before = tree(scene.parent)
    with pytest.raises(UserError, match="leads out of the dataset"):
        revert_masks(scene)
    assert tree(scene.parent) == before


def test_unnamed_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        apply_masks(tmp_path / "nowhere", GivenMasks())
    with pytest.raises(UserError, match="below 0"):
        apply_masks(write_scene(tmp_path / "s"), GivenMasks(), dilate=-1)
