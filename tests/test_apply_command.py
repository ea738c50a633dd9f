"""`t3dgs-masks apply` and `revert`, as typed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from t3dgs_masks.cli import main
from t3dgs_masks.datasets.apply_masks import open_dataset_at
from t3dgs_masks.datasets.dataset import Camera
from t3dgs_masks.datasets.geometry import at_size, scaled, to_file_geometry
from t3dgs_masks.datasets.manifest import Manifest, ManifestFrame, write_manifest
from t3dgs_masks.masks import TransientMask, dilate
from t3dgs_masks.types import BoolMask
from tests.datasets.scenes_to_mask import (
    HEIGHT,
    NAMES,
    WIDTH,
    box,
    grey,
    number_of,
    read_transient,
    save,
    static_file,
    tree,
    user_column,
    write_colmap,
    write_scene,
)


class Applied:
    """A scene, masks for it, and what the command says."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.scene = folder / "scene"
        self.masks = folder / "masks"
        self._capsys = capsys

    def give(self, masks: Mapping[str, BoolMask]) -> None:
        """Transient masks by file name without suffix."""
        for name, mask in masks.items():
            save(self.masks / f"{name}.png", static_file(mask))

    def run(self, *arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        output, error = self._capsys.readouterr()
        return code, output, error

    def apply(self, *more: str) -> str:
        """Applies, and returns what is printed."""
        code, output, error = self.run("apply", *self.where(), *more)
        assert (code, error) == (0, "")
        return output

    def refused(self, *more: str) -> str:
        """Tries to apply, and returns the one line that says why not; nothing has changed."""
        before = tree(self.scene) if self.scene.is_dir() else {}
        code, output, error = self.run("apply", *self.where(), *more)
        assert (code, output) == (2, "")
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert (tree(self.scene) if self.scene.is_dir() else {}) == before
        return error

    def revert(self, *more: str) -> str:
        code, output, error = self.run("revert", "--data", str(self.scene), *more)
        assert (code, error) == (0, "")
        return output

    def where(self) -> list[str]:
        return ["--data", str(self.scene), "--masks", str(self.masks)]

    def written(self) -> dict[str, BoolMask]:
        """Transient masks that the dataset names now, by `DatasetFrame.source`."""
        frames = open_dataset_at(self.scene).frames
        return {frame.source: read_transient(frame.mask) for frame in frames if frame.mask}


@pytest.fixture
def applied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Applied:
    return Applied(tmp_path, capsys)


BOXES = {f"f_{index}": box(index) for index in range(5)}


def test_apply_train_revert(applied: Applied) -> None:
    write_scene(applied.scene, factors=[2])
    pristine = tree(applied.scene)
    applied.give(BOXES)
    output = applied.apply("--dilate", "2")
    assert "frames          5, 5 with a mask\n" in output
    assert "written to      masks/, masks_2/ in " in output
    assert f"ns-train splatfacto --data {applied.scene}\n" in output
    assert "notice" not in output
    for source, mask in applied.written().items():
        assert np.array_equal(mask, dilate(box(number_of(source)), 2))
    assert "removed 10 masks" in applied.revert()
    assert tree(applied.scene) == pristine
    assert "nothing to revert" in applied.revert()


def test_colmap(applied: Applied) -> None:
    write_colmap(applied.scene, user_masks=["a_0.jpg"])
    pristine = tree(applied.scene)
    applied.give({"a_0": box(0), "a_1": box(1), "b/a_2": box(2), "b/a_3": box(3)})
    output = applied.apply()
    assert "1 of them combined with the dataset's own mask" in output
    command = f"--data {applied.scene} colmap --masks-path masks_t3dgs --colmap-path sparse/0\n"
    assert command in output
    first = read_transient(applied.scene / "masks_t3dgs/a_0.png")
    assert np.array_equal(first, box(0) | user_column())
    applied.revert()
    assert tree(applied.scene) == pristine


# --- Which mask is whose ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "called"),
    [
        (NAMES, "f_{}"),
        (NAMES, "images/f_{}"),
        (NAMES, "f_{}.jpg"),
        (["images/a/f_0.png", "images/b/f_1.png"], "f_{}"),
        (["images/a/x_0.png", "images/b/x_1.png"], "{side}/x_{}"),
        (["images/a/x_0.png", "images/b/x_1.png"], "{side}_x_{}"),
        (["images/f_0.png", "test/e_1.png"], "{letter}_{}"),
        (["images/f.one_0.png", "images/f.two_1.png"], "f.{word}_{}"),
    ],
)
def test_masks_are_found_by_name(applied: Applied, names: list[str], called: str) -> None:
    write_scene(applied.scene, names=names)
    for index in range(len(names)):
        words = {"side": "ab"[index % 2], "letter": "fe"[index % 2], "word": "one"}
        words["word"] = ("one", "two")[index % 2]
        applied.give({called.format(index, **words): box(index)})
    assert "notice" not in applied.apply()
    for source, mask in applied.written().items():
        assert np.array_equal(mask, box(number_of(source)))


def test_frames_without_a_mask_and_masks_without_a_frame(applied: Applied) -> None:
    write_scene(applied.scene, evaluation=[NAMES[4]])
    applied.give({"f_0": box(0), "f_1": box(1), "g_7": box(7)})
    output = applied.apply()
    assert (
        "notice: 1 of 3 masks belong to no frame of the dataset and are left out, such as g_7"
        in (output)
    )
    assert "notice: 2 of 5 frames have no mask and count as static, such as f_2" in output
    assert not applied.written()[NAMES[2]].any()


def test_masks_that_match_nothing(applied: Applied) -> None:
    write_scene(applied.scene)
    applied.give({"x_0": box(0), "x_1": box(1)})
    error = applied.refused()
    assert "none of the 2 masks" in error
    assert "x_0" in error
    assert "f_0" in error


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["f_0"], "could be that of images/a/f_0.png or images/b/f_0.png"),
        (["a/f_0", "a_f_0"], "could both be the mask of images/a/f_0.png"),
    ],
)
def test_ambiguous_names(applied: Applied, files: list[str], words: str) -> None:
    write_scene(applied.scene, names=["images/a/f_0.png", "images/b/f_0.png"])
    applied.give({name: box(0) for name in files})
    assert words in applied.refused()


def test_a_result_folder_and_its_manifest(applied: Applied) -> None:
    """The manifest counts, whatever the names; masks of undistorted views go back to the file."""
    write_scene(applied.scene, extra={"k1": -0.1, "k2": 0.01})
    source = open_dataset_at(applied.scene).frames[0].camera
    assert source is not None
    view = at_size(
        Camera(source.fl_x, source.fl_y, source.cx, source.cy, WIDTH, HEIGHT), HEIGHT * 2, WIDTH * 2
    )
    frames = [
        ManifestFrame("00/x", NAMES[3]),
        ManifestFrame("01/x", NAMES[1], undistorted=view),
        ManifestFrame("02/x", "images/gone.png"),
    ]
    large = box(1, (HEIGHT * 2, WIDTH * 2))
    for name, mask in (("00/x", box(3)), ("01/x", large), ("02/x", box(2))):
        save(applied.masks / f"binary_masks/{name}.png", static_file(mask))
    (applied.masks / "config.json").write_text("{}")
    write_manifest(Manifest(str(applied.scene), "nerfstudio", frames), applied.masks)
    output = applied.apply()
    assert "1 of 3 masks belong to no frame" in output
    written = applied.written()
    assert np.array_equal(written[NAMES[3]], box(3))
    expected = to_file_geometry(TransientMask(large), view, source)
    assert np.array_equal(written[NAMES[1]], expected.pixels)
    assert not written[NAMES[0]].any()


def test_a_manifest_of_another_place_is_told(applied: Applied) -> None:
    write_scene(applied.scene)
    for name in BOXES:
        save(applied.masks / f"binary_masks/{name}.png", static_file(BOXES[name]))
    frames = [ManifestFrame(Path(name).stem, name) for name in NAMES]
    write_manifest(Manifest("/elsewhere/scene", "nerfstudio", frames), applied.masks)
    assert "notice: these masks were made for /elsewhere/scene, not for" in applied.apply()


# --- What is in the files ---------------------------------------------------------------------


def as_labels(path: Path, mask: BoolMask) -> None:
    save(path, (~mask).astype(np.uint8))


def as_rgba(path: Path, mask: BoolMask) -> None:
    rgba = np.dstack([static_file(mask)] * 3 + [np.full(mask.shape, 255, np.uint8)])
    save(path, rgba)


def as_bits(path: Path, mask: BoolMask) -> None:
    Image.fromarray(static_file(mask)).convert("1").save(path)


def as_soft(path: Path, mask: BoolMask) -> None:
    save(path, np.where(mask, 120, 135).astype(np.uint8))


def as_jpeg(path: Path, mask: BoolMask) -> None:
    Image.fromarray(static_file(mask)).save(path.with_suffix(".jpg"), quality=95)


@pytest.mark.parametrize("write", [as_labels, as_rgba, as_bits, as_soft, as_jpeg])
def test_kinds_of_mask_files(applied: Applied, write: Callable[[Path, BoolMask], None]) -> None:
    write_scene(applied.scene)
    applied.masks.mkdir()
    for name, mask in BOXES.items():
        write(applied.masks / f"{name}.png", mask)
    applied.apply()
    for source, mask in applied.written().items():
        wrong = np.count_nonzero(mask != box(number_of(source)))
        assert wrong <= (20 if write is as_jpeg else 0)


def test_masks_of_another_scale(applied: Applied) -> None:
    write_scene(applied.scene)
    applied.give({name: box(3, (HEIGHT // 2, WIDTH // 2)) for name in BOXES})
    applied.apply()
    expected = scaled(TransientMask(box(3, (HEIGHT // 2, WIDTH // 2))), (HEIGHT, WIDTH)).pixels
    assert np.array_equal(applied.written()[NAMES[0]], expected)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_masks_of_images_seen_upright(applied: Applied, orientation: int) -> None:
    """nerfstudio reads images as they are stored; a folder of photographs is refined upright."""
    from PIL import ImageOps

    write_scene(applied.scene, names=["images/f_0.jpg"])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = Image.fromarray(static_file(box(1)))
    stored.save(applied.scene / "images/f_0.jpg", exif=exif, quality=95)
    with Image.open(applied.scene / "images/f_0.jpg") as photograph:
        upright = np.array(ImageOps.exif_transpose(photograph)) < 128
    assert upright.shape == (WIDTH, HEIGHT)
    applied.give({"f_0": upright})
    applied.apply()
    assert np.count_nonzero(applied.written()["images/f_0.jpg"] != box(1)) < 20


def test_masks_that_may_be_inverted_are_doubted(applied: Applied) -> None:
    write_scene(applied.scene)
    applied.give({name: ~mask for name, mask in BOXES.items()})
    assert "if white means transient in these masks, invert them" in applied.apply()


# --- What is refused --------------------------------------------------------------------------


def remove(name: str) -> Callable[[Applied], None]:
    return lambda applied: (applied.scene / name).unlink()


def edit(change: Callable[[dict], object]) -> Callable[[Applied], None]:
    def harm(applied: Applied) -> None:
        file = applied.scene / "transforms.json"
        meta = json.loads(file.read_text())
        change(meta)
        file.write_text(json.dumps(meta))

    return harm


def text(content: str) -> Callable[[Applied], None]:
    return lambda applied: (applied.scene / "transforms.json").write_text(content) and None


def give(name: str, content: np.ndarray) -> Callable[[Applied], None]:
    return lambda applied: save(applied.masks / name, content)


def own_mask_missing(meta: dict) -> None:
    meta["frames"][0]["mask_path"] = "own/none.png"


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (remove("images/f_3.png"), "f_3.png, which does not exist"),
        (remove("transforms.json"), "is no dataset"),
        (text(""), "not valid JSON"),
        (text('{"frames": ['), "not valid JSON"),
        (text('{"frames": []}'), "no frames"),
        (text("[1]"), "is no nerfstudio dataset"),
        (edit(lambda meta: meta["frames"].append(meta["frames"][0])), "twice"),
        (edit(lambda meta: meta["frames"][1].pop("transform_matrix")), "no transform_matrix"),
        (edit(own_mask_missing), "cannot read the dataset's own mask"),
        (edit(lambda meta: meta["frames"][0].update(mask_path=3)), "mask_path"),
        (give("f_1.png", np.zeros((10, 10), np.uint8)), "is 10x10, but its image"),
        (lambda applied: (applied.masks / "f_1.png").write_bytes(b"junk"), "cannot read the image"),
        (lambda applied: (applied.scene / "images/f_0.png").write_bytes(b""), "cannot read the"),
        (lambda applied: (applied.scene / "masks").symlink_to("/"), "leads out of the dataset"),
    ],
)
def test_one_clear_line(applied: Applied, harm: Callable[[Applied], object], words: str) -> None:
    write_scene(applied.scene)
    applied.give(BOXES)
    harm(applied)
    assert words in applied.refused()


def test_folders_that_are_not_there(applied: Applied) -> None:
    assert "no folder" in applied.refused()
    write_scene(applied.scene)
    assert "no folder" in applied.refused()
    applied.masks.mkdir()
    assert "holds no masks" in applied.refused()
    applied.give(BOXES)
    assert "below 0" in applied.refused("--dilate", "-1")


def test_partial_mask_paths_and_two_sizes(applied: Applied) -> None:
    write_scene(applied.scene, sizes={NAMES[1]: (24, 32)}, user_masks={NAMES[0]: "own/m.png"})
    pristine = tree(applied.scene)
    applied.give({**BOXES, "f_1": box(1, (24, 32))})
    output = applied.apply()
    assert "notice: 1 of 5 frames had a mask_path, which nerfstudio refuses; now all" in output
    written = applied.written()
    assert np.array_equal(written[NAMES[0]], box(0) | user_column())
    assert np.array_equal(written[NAMES[1]], box(1, (24, 32)))
    applied.revert()
    assert tree(applied.scene) == pristine


def test_revert_says_what_was_changed(applied: Applied) -> None:
    write_scene(applied.scene)
    applied.give(BOXES)
    applied.apply()
    file = applied.scene / "transforms.json"
    file.write_text(file.read_text() + "\n")
    code, _, error = applied.run("revert", "--data", str(applied.scene))
    assert code == 2
    assert "--force" in error
    save(applied.scene / "masks/f_1.png", grey())
    output = applied.revert("--force")
    assert "only the applied masks left it" in output
    assert "1 masks were changed since and are still there, such as masks/f_1.png" in output
    assert "mask_path" not in file.read_text()


def test_an_interrupted_apply_is_told(applied: Applied, monkeypatch: pytest.MonkeyPatch) -> None:
    from t3dgs_masks.datasets import transaction

    write_scene(applied.scene)
    pristine = tree(applied.scene)
    applied.give(BOXES)
    real = transaction._replace
    names: list[str] = []

    def interrupted(source: Path, target: Path) -> None:
        names.append(target.name)
        if len(names) > 4:
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(transaction, "_replace", interrupted)
        code, _, _ = applied.run("apply", *applied.where())
    assert code == 130
    assert (tree(applied.scene) == pristine) or applied.apply().startswith("notice: an earlier")
    applied.revert()
    assert tree(applied.scene) == pristine
