"""Datasets that are broken, or that lead elsewhere: nothing outside of them is ever changed."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.bad_input.command_line import Outcome
from tests.bad_input.inputs import box, cut, save, white
from tests.bad_input.table import Table
from tests.datasets.posed_scenes import write_colmap_scene
from tests.datasets.scenes_to_mask import NAMES, write_colmap, write_scene

DATASETS = Table()
row, accepted = DATASETS.row, DATASETS.accepted

APPLY = ("apply", "--data", "scene", "--masks", "masks")
PREPARE = ("prepare", "--data", "scene", "--output-dir", "out")
REFINE = ("refine", "--video-path", "scene", "--result-dir", "out")
STEMS = [Path(name).stem for name in NAMES]

Meta = dict[str, Any]


def masks(work: Path, names: Sequence[str] = STEMS) -> Path:
    for index, name in enumerate(names):
        save(work / "masks" / f"{name}.png", white(~box(index)))
    return work / "masks"


def scene(work: Path) -> Path:
    masks(work)
    return write_scene(work / "scene")


def changed(name: str, says: str, arguments: Sequence[object] = APPLY) -> Callable[..., object]:
    """A row in which the function changes what is in ``transforms.json``."""

    def add(change: Callable[[Meta], object]) -> object:
        @row(name, says)
        def _(work: Path) -> Sequence[object]:
            file = scene(work) / "transforms.json"
            meta = json.loads(file.read_text())
            change(meta)
            file.write_text(json.dumps(meta))
            return arguments

        return change

    return add


def replaced(name: str, says: str, text: str | bytes) -> None:
    """A row in which ``transforms.json`` is this."""

    @row(name, says)
    def _(work: Path) -> Sequence[object]:
        content = text if isinstance(text, bytes) else text.encode()
        (scene(work) / "transforms.json").write_bytes(content)
        return REFINE


replaced("a transforms.json of zero bytes", r"transforms\.json is not valid JSON", "")
replaced(
    "a transforms.json cut short", r"transforms\.json is not valid JSON", '{"frames": [{"file_'
)
replaced(
    "a transforms.json that is no text", r"transforms\.json is not valid JSON", b"\xff\xfe\x80"
)
replaced(
    "a transforms.json with endless brackets", r"transforms\.json is not valid JSON", "[" * 100000
)
replaced("a transforms.json that is a list", r"its top level is not an object", "[1, 2]")
replaced("a transforms.json without frames", r"it has no list `frames`", "{}")
replaced("a transforms.json with no frame", r"lists no frames", '{"frames": []}')
replaced(
    "a transforms.json whose frames are a text", r"it has no list `frames`", '{"frames": "all"}'
)


@changed("a pose of NaN", r"transform_matrix of frame images/f_1\.png is not a finite number")
def _(meta: Meta) -> None:
    meta["frames"][1]["transform_matrix"][0][3] = float("nan")


@changed("a pose of text", r"transform_matrix of frame images/f_1\.png is not", PREPARE)
def _(meta: Meta) -> None:
    meta["frames"][1]["transform_matrix"] = "identity"


@changed("a frame without a pose", r"frame images/f_1\.png has no transform_matrix", REFINE)
def _(meta: Meta) -> None:
    del meta["frames"][1]["transform_matrix"]


@changed("a frame that is listed twice", r"lists .*f_1\.png twice: remove one")
def _(meta: Meta) -> None:
    meta["frames"].append(meta["frames"][1])


@changed("a frame that is a number", r"frame 1 \(counted from 0\) has no usable file_path")
def _(meta: Meta) -> None:
    meta["frames"][1] = 7


@changed("a file_path that is a list", r"frame 1 \(counted from 0\) has no usable file_path")
def _(meta: Meta) -> None:
    meta["frames"][1]["file_path"] = ["images/f_1.png"]


@changed("a file_path with a zero byte", r"frame 1 \(counted from 0\) has no usable file_path")
def _(meta: Meta) -> None:
    meta["frames"][1]["file_path"] = "images/f_1.png\0"


@changed("a file_path of a thousand letters", r"lists scene/n+ .*")
def _(meta: Meta) -> None:
    meta["frames"][1]["file_path"] = "n" * 1000


@changed("a frame without its image", r"lists scene/images/gone\.png, which does not exist")
def _(meta: Meta) -> None:
    meta["frames"][1]["file_path"] = "images/gone.png"


@changed("images of no width", r"w 0, h 36, .*: they must be above 0")
def _(meta: Meta) -> None:
    meta["w"] = 0


@changed("an endless focal length", r"fl_x of frame .* is not a finite number")
def _(meta: Meta) -> None:
    meta["fl_x"] = 1e999


@changed(
    "a split of unknown frames", r"train_filenames names images/other\.png, which is not among"
)
def _(meta: Meta) -> None:
    meta["train_filenames"] = ["images/other.png"]


@changed("a split that is a number", r"val_filenames is not a list of file paths")
def _(meta: Meta) -> None:
    meta["val_filenames"] = 3


@changed("a mask_path that is a number", r"mask_path of frame images/f_1\.png is not the path")
def _(meta: Meta) -> None:
    meta["frames"][1]["mask_path"] = 5


@changed("a mask_path of nothing", r"cannot read the dataset's own mask .*gone\.png: restore it")
def _(meta: Meta) -> None:
    for frame in meta["frames"]:
        frame["mask_path"] = "gone.png"


# --- Leading elsewhere ------------------------------------------------------------------------


def outside(work: Path) -> Path:
    """A folder that nobody may write to: it is no part of the dataset."""
    folder = work / "outside"
    save(folder / "f_9.png", np.full((36, 48, 3), 100, np.uint8))
    return folder


def nothing_outside(work: Path, _: Outcome) -> None:
    assert [path.name for path in (work / "outside").iterdir()] == ["f_9.png"]
    assert sorted(path.name for path in work.iterdir()) == ["masks", "outside", "scene"]


def leading(name: str, path: Callable[[Path], str]) -> None:
    """A row with a frame outside of the dataset: it is read, and its mask lies inside."""

    @row(
        name,
        "frames          6, 6 with a mask",
        code=0,
        may_change=r"scene/a\.json",
        check=nothing_outside_but_masked,
    )
    def _(work: Path) -> Sequence[object]:
        outside(work)
        masks(work, [*STEMS, "f_9"])
        meta = json.loads((write_scene(work / "scene") / "transforms.json").read_text())
        (work / "scene/transforms.json").rename(work / "scene/a.json")
        pose = meta["frames"][0]["transform_matrix"]
        meta["frames"].append({"file_path": path(work), "transform_matrix": pose})
        (work / "scene/a.json").write_text(json.dumps(meta))
        return ("apply", "--data", "scene/a.json", "--masks", "masks")


def nothing_outside_but_masked(work: Path, outcome: Outcome) -> None:
    nothing_outside(work, outcome)
    meta = json.loads((work / "scene/a.json").read_text())
    for frame in meta["frames"]:
        assert not frame["mask_path"].startswith(("/", ".."))
        assert (work / "scene" / frame["mask_path"]).is_file()


@changed(
    "a folder of masks that links out of the dataset, by its entry", r"own mask|outside|leads out"
)
def _(meta: Meta) -> None:
    meta["frames"][1]["mask_path"] = "../../../../../../../../etc/hostname"


@row("masks/ links out of the dataset", r"leads out of the dataset", check=nothing_outside)
def _(work: Path) -> Sequence[object]:
    (scene(work) / "masks").symlink_to(outside(work))
    return APPLY


@row("masks/ and masks_t3dgs/ of a COLMAP project link out of it", r"leads out of the dataset")
def _(work: Path) -> Sequence[object]:
    outside(work)
    (work / "empty").mkdir()
    write_colmap(work / "scene")
    masks(work, ["a_0", "a_1"])
    for name in ("masks", "masks_t3dgs", "masks_t3dgs_2", "masks_t3dgs_3"):
        (work / "scene" / name).symlink_to(work / "empty")
    return APPLY


@row("what apply remembers links out of the dataset", r"leads out of the dataset, where nothing")
def _(work: Path) -> Sequence[object]:
    (scene(work) / ".t3dgs_masks").symlink_to(outside(work))
    return APPLY


@row("what revert remembers links out of the dataset", r"leads out of the dataset, where nothing")
def _(work: Path) -> Sequence[object]:
    (scene(work) / ".t3dgs_masks").symlink_to(outside(work))
    return ("revert", "--data", "scene")


@row("a transforms.json that links out of the dataset", r"leads to .*, outside of the dataset")
def _(work: Path) -> Sequence[object]:
    folder = scene(work)
    (folder / "transforms.json").rename(work / "real.json")
    (folder / "transforms.json").symlink_to(work / "real.json")
    return APPLY


def record(files: dict[str, str], **more: object) -> str:
    return json.dumps(
        {
            "program": "t3dgs_masks",
            "version": 1,
            "layout": "colmap",
            "masks_folder": "masks",
            "files": files,
            "folders": [],
            "user_masks": {},
            "transforms": None,
            "transforms_before": None,
            "transforms_after": None,
            **more,
        }
    )


@row("a record that would remove files outside", r"leads out of the dataset, where nothing")
def _(work: Path) -> Sequence[object]:
    outside(work)
    state = scene(work) / ".t3dgs_masks"
    state.mkdir()
    (state / "applied.json").write_text(record({"../outside/f_9.png": "0" * 64}))
    return ("revert", "--data", "scene", "--force")


@row("a record that would remove a folder outside", r"leads out of the dataset, where nothing")
def _(work: Path) -> Sequence[object]:
    outside(work)
    state = scene(work) / ".t3dgs_masks"
    state.mkdir()
    (state / "applied.json").write_text(record({}, folders=["../outside"]))
    return ("revert", "--data", "scene", "--force")


@row("a journal that would change files outside", r"leads out of the dataset|was damaged")
def _(work: Path) -> Sequence[object]:
    outside(work)
    state = scene(work) / ".t3dgs_masks"
    state.mkdir()
    change = {"path": "../outside/f_9.png", "before": None, "after": "0" * 64}
    journal = {"version": 1, "changes": [change], "made_folders": [], "removed_folders": []}
    (state / "journal.json").write_text(json.dumps(journal))
    return ("revert", "--data", "scene")


@row("a record that was damaged", r"applied\.json was damaged")
def _(work: Path) -> Sequence[object]:
    state = scene(work) / ".t3dgs_masks"
    state.mkdir()
    (state / "applied.json").write_text("{")
    return ("revert", "--data", "scene")


# --- Masks to apply ---------------------------------------------------------------------------


@row("no masks to apply", r"there is no folder masks: --masks names a folder of masks")
def _(work: Path) -> Sequence[object]:
    write_scene(work / "scene")
    return APPLY


@row("masks of other frames to apply", r"none of the 2 masks in masks is named like a frame")
def _(work: Path) -> Sequence[object]:
    write_scene(work / "scene")
    masks(work, ["x", "y"])
    return APPLY


@row("a mask to apply that is cut short", r"cannot read the image masks/f_3\.png")
def _(work: Path) -> Sequence[object]:
    scene(work)
    cut(work / "masks/f_3.png", 0.6)
    return APPLY


@row("a mask to apply of other proportions", r"masks/f_3\.png is 50x50, but its image .* 48x36")
def _(work: Path) -> Sequence[object]:
    scene(work)
    save(work / "masks/f_3.png", white(~box(0, 50, 50)))
    return APPLY


@row("masks for what is no dataset", r"scene is no dataset that masks can be applied to")
def _(work: Path) -> Sequence[object]:
    masks(work)
    (work / "scene").mkdir()
    return APPLY


@row("no dataset to apply to", r"there is no folder scene: --data names a dataset's folder")
def _(work: Path) -> Sequence[object]:
    masks(work)
    return APPLY


@row("no dataset to revert", r"there is no folder scene: --data names a dataset's folder")
def _(work: Path) -> Sequence[object]:
    return ("revert", "--data", "scene")


@accepted("a revert of nothing", "nothing to revert")
def _(work: Path) -> Sequence[object]:
    scene(work)
    return ("revert", "--data", "scene")


# --- COLMAP -----------------------------------------------------------------------------------


def colmap(name: str, says: str, text: bool = False) -> Callable[..., object]:
    """A row in which the function spoils the model of a COLMAP project."""

    def add(spoil: Callable[[Path], object]) -> object:
        @row(name, says)
        def _(work: Path) -> Sequence[object]:
            write_colmap_scene(work / "scene", text=text)
            spoil(work / "scene/sparse/0")
            return PREPARE

        return spoil

    return add


colmap(
    "a COLMAP model whose images are cut short", r"cannot read the COLMAP model .*: images\.bin"
)(lambda model: cut(model / "images.bin", 0.5))
colmap(
    "a COLMAP model whose cameras are cut short", r"cannot read the COLMAP model .*cameras\.bin"
)(lambda model: cut(model / "cameras.bin", 0.5))
colmap("a COLMAP model of zero bytes", r"cannot read the COLMAP model .*images\.bin")(
    lambda model: (model / "images.bin").write_bytes(b"")
)


@colmap("a COLMAP model of a billion billion images", r"cannot read the COLMAP model .*images\.bin")
def _(model: Path) -> None:
    content = (model / "images.bin").read_bytes()
    (model / "images.bin").write_bytes(struct.pack("<Q", 10**18) + content[8:])


@colmap("a COLMAP model of a billion billion points", r"cannot read the COLMAP model .*images\.bin")
def _(model: Path) -> None:
    content = bytearray((model / "images.bin").read_bytes())
    end_of_name = content.index(b"a.png\0") + len(b"a.png\0")
    content[end_of_name : end_of_name + 8] = struct.pack("<Q", 10**18)
    (model / "images.bin").write_bytes(content)


@colmap("a COLMAP model with an unknown kind of camera", r"cannot read the COLMAP model")
def _(model: Path) -> None:
    content = bytearray((model / "cameras.bin").read_bytes())
    content[12:16] = struct.pack("<i", 12345)
    (model / "cameras.bin").write_bytes(content)


@colmap("a COLMAP model of text that is none", r"cannot read the COLMAP model", text=True)
def _(model: Path) -> None:
    (model / "images.txt").write_text("not a model\n\n")


@colmap("a COLMAP model of NaN", r"NaN or infinite numbers|cannot read the COLMAP model", text=True)
def _(model: Path) -> None:
    text = (model / "images.txt").read_text()
    first = next(line for line in text.splitlines() if line.endswith(".png"))
    words = first.split()
    words[1:8] = ["nan"] * 7
    (model / "images.txt").write_text(text.replace(first, " ".join(words)))


@row("a COLMAP project without an image", r"lists scene/images/b\.png, which does not exist")
def _(work: Path) -> Sequence[object]:
    write_colmap_scene(work / "scene")
    (work / "scene/images/b.png").unlink()
    return PREPARE


@row(
    "a list of training images that is no text",
    r"cannot read scene/train_list\.txt: it is not UTF-8",
)
def _(work: Path) -> Sequence[object]:
    write_colmap_scene(work / "scene")
    (work / "scene/train_list.txt").write_bytes(b"\xff\xfe")
    return PREPARE


leading("a frame with an absolute path", lambda work: str(work / "outside/f_9.png"))
leading("a frame with a path that climbs out", lambda work: "../outside/f_9.png")
