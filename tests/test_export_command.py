"""`t3dgs-masks export`, as typed: every format, read as its tool reads it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pycolmap
import pytest
from natsort import natsorted
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from t3dgs_masks.cli import main
from t3dgs_masks.config import ExportSettings
from t3dgs_masks.datasets import export_folder
from t3dgs_masks.datasets.apply_masks import apply_masks
from t3dgs_masks.datasets.dataset import Camera
from t3dgs_masks.datasets.export_formats import FORMATS, as_markdown
from t3dgs_masks.datasets.geometry import to_file_geometry
from t3dgs_masks.datasets.manifest import Manifest, ManifestFrame
from t3dgs_masks.io import publish
from t3dgs_masks.io.outputs import read_masklets
from t3dgs_masks.masks import TransientMask, dilate
from t3dgs_masks.types import BoolMask
from tests.datasets.scenes_to_mask import (
    HEIGHT,
    NAMES,
    WIDTH,
    GivenMasks,
    box,
    grey,
    number_of,
    save,
    tree,
    user_column,
    write_colmap,
    write_scene,
)
from tests.results import patch, scene_manifest, write_result

STEMS = [f"f_{index}" for index in range(5)]
WHOLE = {"downscale_factor": 1, "center_method": "none", "orientation_method": "none"}


class Exporting:
    """A scene, a result of it, and what the command says."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.scene = folder / "scene"
        self.out = folder / "out"
        self.dest = folder / "dest"
        self._capsys = capsys

    def nerfstudio(self, **options) -> None:
        write_scene(self.scene, **options)
        self.result()

    def colmap(self, **options) -> None:
        write_colmap(self.scene, **options)
        self.result()

    def result(self) -> None:
        """Of all training frames; frame i is masked by `box(i)`."""
        manifest = scene_manifest(self.scene)
        write_result(self.out, [frame.name for frame in manifest.frames], manifest=manifest)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        code = main(["export", *arguments])
        output, error = self._capsys.readouterr()
        return code, output, error

    def to(self, name: str, *more: str) -> str:
        """Exports, and returns what is printed."""
        code, output, error = self.run(str(self.out), "--to", name, "--dest", str(self.dest), *more)
        assert (code, error) == (0, "")
        return output

    def refused(self, name: str, *more: str) -> str:
        """Tries to, and returns the one line that says why not; nothing has changed."""
        before = tree(self.folder)
        code, output, error = self.run(str(self.out), "--to", name, "--dest", str(self.dest), *more)
        assert (code, output) == (2, "")
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert tree(self.folder) == before
        return error

    def files(self) -> set[str]:
        """What was written, but for the marker."""
        return {
            path.relative_to(self.dest).as_posix()
            for path in self.dest.rglob("*")
            if path.is_file() and path.name != export_folder.MARKER
        }

    def values(self, name: str) -> np.ndarray:
        with Image.open(self.dest / name) as image:
            return np.array(image)


@pytest.fixture
def exporting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Exporting:
    return Exporting(tmp_path, capsys)


# -- the table


# What a pixel of something transient and one of something static have to be, by format: written
# out by hand from the tools' documentation, not taken from the table.
POLARITY = {
    "nerfstudio": ("masks/f_{}.png", 0, 255),
    "nerfstudio-colmap": ("masks/f_{}.png", 0, 255),
    "colmap": ("masks/f_{}.png.png", 0, 255),
    "t3dgs": ("masks/f_{}.png", 0, 255),
    "instant-ngp": ("images/dynamic_mask_f_{}.png", 255, 0),
    "brush": ("masks/f_{}.png", 0, 255),
    "lichtfeld": ("masks/f_{}.png", 0, 255),
    "postshot": ("masks/f_{}.png", 255, 0),
    "rgba": ("images/f_{}.png", 0, 255),
}


@pytest.mark.parametrize("name", POLARITY)
def test_names_and_polarity_by_pixel(exporting: Exporting, name: str):
    exporting.nerfstudio()
    exporting.to(name)
    pattern, transient, static = POLARITY[name]
    assert {pattern.format(index) for index in range(5)} <= exporting.files()
    for index in range(5):
        values = exporting.values(pattern.format(index))
        assert values.dtype == np.uint8
        if name == "rgba":
            assert values.shape == (HEIGHT, WIDTH, 4)
            assert (values[..., :3] == 128).all()  # colours stay, under the mask too
            values = values[..., 3]
        assert values.shape == (HEIGHT, WIDTH)
        assert np.array_equal(values, np.where(box(index), transient, static))


def test_every_format_is_in_the_tables():
    names = {each.name for each in FORMATS}
    assert names == POLARITY.keys() | {"coco"}
    choices = get_args(get_type_hints(ExportSettings)["to"])
    assert {name for choice in choices for name in get_args(choice)} == names
    assert all(each.sources for each in FORMATS)


def test_the_list_is_a_table(exporting: Exporting):
    code, output, _ = exporting.run("--list")
    assert (code, output) == (0, as_markdown() + "\n")
    lines = output.splitlines()
    assert len(lines) == 2 + len(FORMATS)
    assert {line.count("|") for line in lines} == {6}


def test_the_readmes_table_is_this_one():
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert as_markdown() in readme


def test_help_names_every_format(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for each in FORMATS:
        assert f" {each.name} {each.pattern} {each.polarity}" in text


# -- read back by the tools


def nerfstudio_masks(parser) -> dict[str, BoolMask]:
    """Transient masks by image name, as nerfstudio trains on them."""
    found = {}
    for split in ("train", "val"):
        outputs = parser.get_dataparser_outputs(split)
        dataset = InputDataset(outputs)
        for index, image in enumerate(outputs.image_filenames):
            found[image.name] = ~dataset.get_data(index)["mask"].numpy()[..., 0]
    return found


def test_nerfstudio_reads_it(exporting: Exporting):
    exporting.nerfstudio(evaluation=NAMES[3:])
    output = exporting.to("nerfstudio")
    assert f"ns-train splatfacto --data {exporting.dest}\n" in output
    parser = NerfstudioDataParserConfig(data=exporting.dest, **WHOLE).setup()
    found = nerfstudio_masks(parser)
    assert found.keys() == {Path(name).name for name in NAMES}
    for name in NAMES:
        index = number_of(name)
        expected = box(index) if index < 3 else np.zeros_like(box(index))
        assert np.array_equal(found[Path(name).name], expected)
    outputs = parser.get_dataparser_outputs("train")
    assert set(outputs.image_filenames) == {exporting.scene / name for name in NAMES[:3]}


def test_nerfstudio_reads_downscaled_images_and_masks(exporting: Exporting):
    exporting.nerfstudio(factors=[2])
    exporting.to("nerfstudio")
    config = NerfstudioDataParserConfig(data=exporting.dest, **{**WHOLE, "downscale_factor": 2})
    found = nerfstudio_masks(config.setup())
    assert len(found) == 5
    for name, mask in found.items():
        assert np.array_equal(mask, box(number_of(name))[1::2, 1::2])


def test_the_users_own_masks_and_point_cloud_stay(exporting: Exporting):
    exporting.nerfstudio(
        user_masks=dict.fromkeys(NAMES, "own/car.png"), extra={"ply_file_path": "sparse.ply"}
    )
    assert "5 masks are combined with the dataset's own" in exporting.to("nerfstudio")
    meta = json.loads((exporting.dest / "transforms.json").read_text())
    assert meta["ply_file_path"] == str(exporting.scene / "sparse.ply")
    assert np.array_equal(exporting.values("masks/f_1.png") == 0, box(1) | user_column())


def test_masks_that_are_applied_are_not_taken_for_the_users(exporting: Exporting):
    exporting.nerfstudio()
    apply_masks(exporting.scene, GivenMasks({NAMES[0]: np.ones((HEIGHT, WIDTH), bool)}))
    exporting.to("nerfstudio")
    assert np.array_equal(exporting.values("masks/f_0.png") == 0, box(0))


@pytest.mark.parametrize("kind", ["colmap", "nerfstudio"])
def test_nerfstudios_colmap_parser_reads_it(exporting: Exporting, kind: str):
    exporting.colmap(factors=[2])
    if kind == "nerfstudio":  # both descriptions of one scene, as ns-process-data leaves them
        names = ["a_0.jpg", "a_1.jpg", "b/a_2.jpg", "b/a_3.jpg"]
        write_scene(exporting.scene, names=[f"images/{name}" for name in names])
        shutil.rmtree(exporting.out)
        exporting.result()
    output = exporting.to("nerfstudio-colmap")
    assert f"--data {exporting.scene} colmap --masks-path {exporting.dest}/masks\n" in output
    for factor in (1, 2):
        parser = ColmapDataParserConfig(
            data=exporting.scene,
            masks_path=exporting.dest / "masks",
            colmap_path=Path("sparse/0"),
            eval_mode="all",
            **{**WHOLE, "downscale_factor": factor},
        ).setup()
        found = nerfstudio_masks(parser)
        assert len(found) == 4
        for name, mask in found.items():
            expected = box(number_of(name))
            assert np.array_equal(mask, expected if factor == 1 else expected[1::2, 1::2])


def test_colmap_finds_no_features_in_what_is_masked(exporting: Exporting):
    names = ["cam/f_0.jpg", "cam/f_1.png"]
    random = np.random.default_rng(0)
    frames = []
    for index, name in enumerate(names):
        noise = random.integers(0, 256, (HEIGHT // 4, WIDTH // 4, 3), np.uint8)
        save(exporting.scene / name, np.kron(noise, np.ones((20, 20, 1), np.uint8)))
        frames.append(f"f_{index}")
    write_result(exporting.out, frames)
    exporting.to("colmap", "--data", str(exporting.scene))
    assert exporting.files() == {"masks/cam/f_0.jpg.png", "masks/cam/f_1.png.png"}
    keypoints = {}
    for mask_path in ("", str(exporting.dest / "masks")):
        database = exporting.folder / f"{bool(mask_path)}.db"
        pycolmap.extract_features(
            database,
            exporting.scene,
            reader_options=pycolmap.ImageReaderOptions(mask_path=mask_path),
            device=pycolmap.Device.cpu,
        )
        with sqlite3.connect(database) as connection:
            rows = connection.execute(
                "SELECT name, rows, cols, data FROM images JOIN keypoints USING (image_id)"
            ).fetchall()
        keypoints[bool(mask_path)] = {
            name: np.frombuffer(data, np.float32).reshape(count, columns)[:, :2].astype(int)
            for name, count, columns, data in rows
        }
    for index, name in enumerate(names):
        transient = np.kron(box(index), np.ones((5, 5), bool))

        def inside(points: np.ndarray, transient: BoolMask = transient) -> int:
            return int(np.count_nonzero(transient[points[:, 1], points[:, 0]]))

        assert inside(keypoints[False][name]) > 0
        assert inside(keypoints[True][name]) == 0
        assert len(keypoints[True][name]) > 0


def test_coco_reads_it(exporting: Exporting):
    write_scene(exporting.scene)
    write_result(
        exporting.out,
        STEMS,
        kept={1: True, 2: False, 3: True},
        manifest=scene_manifest(exporting.scene),
    )
    assert "10 objects on frames" in exporting.to("coco")
    coco = COCO(str(exporting.dest / "annotations.json"))
    names = {image["id"]: image["file_name"] for image in coco.loadImgs(coco.getImgIds())}
    assert sorted(names.values()) == [f"{stem}.png" for stem in STEMS]
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == ["transient"]
    annotations = coco.loadAnns(coco.getAnnIds())
    assert len(annotations) == 10
    for annotation in annotations:
        index = number_of(names[annotation["image_id"]])
        expected = patch(index, annotation["track_id"])
        assert np.array_equal(coco.annToMask(annotation).astype(bool), expected)
        rows, columns = np.nonzero(expected)
        assert annotation["bbox"] == [columns.min(), rows.min(), 6, 6]
        assert annotation["area"] == 36


def test_sav_as_its_readme_describes_it(exporting: Exporting):
    write_result(exporting.out, STEMS, kept={1: True, 2: False, 3: True})
    exporting.to("coco")
    video = json.loads((exporting.dest / "sav_auto.json").read_text())
    assert (video["video_id"], video["masklet_num"], video["masklet_id"]) == ("out", 2, [1, 3])
    assert (video["video_height"], video["video_width"]) == (HEIGHT, WIDTH)
    assert video["masklet_size_abs"] == [36, 36]
    assert len(video["masklet"]) == 5
    for index, rles in enumerate(video["masklet"]):
        for number, rle in zip((1, 3), rles, strict=True):
            assert np.array_equal(_decoded(rle), patch(index, number))


def _decoded(rle: dict) -> BoolMask:
    return coco_masks.decode(rle).astype(bool)


def test_objects_that_come_and_go(exporting: Exporting):
    write_result(exporting.out, STEMS, kept={1: True})
    file = exporting.out / "masklets.json"
    contents = json.loads(file.read_text())
    for gone in ("0", "3"):
        del contents["masklets"][0]["segmentations"][gone]
    file.write_text(json.dumps(contents))
    exporting.to("coco", "--dilate", "1")
    video = json.loads((exporting.dest / "sav_auto.json").read_text())
    assert video["masklet_first_appeared_frame"] == [1]
    assert video["masklet_visibility_changes"] == [2]
    assert not _decoded(video["masklet"][0][0]).any()
    assert np.array_equal(_decoded(video["masklet"][1][0]), dilate(patch(1, 1), 1))


# -- names, subfolders, order


NESTED = ["images/cam0/f_0.jpg", "images/cam1/f_1.jpg", "images/cam10/f_2.jpg"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nerfstudio-colmap", "masks/cam10/f_2.png"),
        ("colmap", "masks/cam10/f_2.jpg.png"),
        ("t3dgs", "masks/cam10_f_2.png"),
        ("instant-ngp", "images/cam10/dynamic_mask_f_2.png"),
        ("brush", "masks/cam10/f_2.png"),
        ("lichtfeld", "masks/cam10/f_2.png"),
        ("postshot", "masks/f_2.png"),
        ("rgba", "images/cam10/f_2.png"),
        ("nerfstudio", "masks/cam10_f_2.png"),
    ],
)
def test_subfolders(exporting: Exporting, name: str, expected: str):
    exporting.nerfstudio(names=NESTED)
    exporting.to(name)
    assert expected in exporting.files()


def test_postshot_knows_files_by_their_names_alone(exporting: Exporting):
    exporting.nerfstudio(names=["images/cam0/f_0.jpg", "images/cam1/f_0.jpg"])
    assert "two images would have the mask masks/f_0.png" in exporting.refused("postshot")


@pytest.mark.parametrize(
    "names",
    [
        ["images/f_2.jpg", "images/f_10.jpg", "images/f_1.jpg"],
        # Flat, the second would come first.
        ["images/a/f_3.jpg", "images/a_/f_2.jpg", "images/a!/f_1.jpg"],
    ],
)
def test_t3dgs_goes_by_position(exporting: Exporting, names: list[str]):
    exporting.nerfstudio(names=names)
    exporting.to("t3dgs")
    written = natsorted(exporting.files())
    assert len(written) == 3
    dataset = natsorted(names)
    frames = read_masklets(exporting.out / "masklets.json").frames
    for file, image in zip(written, dataset, strict=True):
        (index,) = [i for i, frame in enumerate(frames) if frame.endswith(Path(image).stem)]
        assert np.array_equal(exporting.values(file) == 0, box(index))


def test_t3dgs_has_a_mask_for_every_image(exporting: Exporting):
    exporting.nerfstudio(evaluation=NAMES[3:])
    exporting.to("t3dgs")
    assert len(exporting.files()) == 5
    assert (exporting.values("masks/f_4.png") == 255).all()


def test_a_folder_of_images(exporting: Exporting):
    for index in range(5):
        save(exporting.scene / f"sub/f_{index}.JPG", grey())
    write_result(exporting.out, [f"sub/f_{index}" for index in range(5)])
    exporting.to("colmap", "--data", str(exporting.scene))
    assert "masks/sub/f_0.JPG.png" in exporting.files()


def test_without_the_images_what_needs_only_names_works(exporting: Exporting):
    write_result(exporting.out, [f"sub/{stem}" for stem in STEMS])
    for name in ("nerfstudio-colmap", "instant-ngp", "brush", "lichtfeld", "postshot", "coco"):
        exporting.to(name)
    assert "needs a mask for every image" in exporting.to("t3dgs", "--dilate", "2")
    assert np.array_equal(exporting.values("masks/sub_f_3.png") == 0, dilate(box(3), 2))
    assert "needs the names of the image files" in exporting.refused("colmap")
    assert "needs the images themselves" in exporting.refused("rgba")
    assert "needs a dataset with transforms.json" in exporting.refused("nerfstudio")


def test_a_dataset_that_is_gone_is_said_and_one_that_moved_is_told(exporting: Exporting):
    exporting.nerfstudio()
    moved = exporting.scene.rename(exporting.folder / "moved")
    assert "is not there any more" in exporting.to("colmap")
    assert "masks/f_0.png.png" in exporting.files()
    assert "needs the images themselves" in exporting.refused("rgba")
    output = exporting.to("rgba", "--data", str(moved))
    assert "these masks were made for" in output


def test_images_outside_of_the_dataset(exporting: Exporting):
    write_scene(exporting.scene, names=["../shared/f_0.png", "../shared/f_1.png"])
    exporting.result()
    exporting.to("colmap")
    assert exporting.files() == {"masks/f_0.png.png", "masks/f_1.png.png"}


# -- geometry


def undistorted_result(exporting: Exporting) -> tuple[Camera, Camera]:
    """A result of the undistorted views of a scene with a lens; its cameras (file, view)."""
    write_scene(exporting.scene, extra={"k1": -0.2, "k2": 0.05})
    manifest = scene_manifest(exporting.scene)
    camera = manifest.frames[0].camera
    assert camera is not None
    view = replace(camera, k1=0.0, k2=0.0, width=WIDTH, height=HEIGHT, cx=camera.cx - 0.5)
    frames = [replace(frame, undistorted=view) for frame in manifest.frames]
    manifest = replace(manifest, frames=frames)
    write_result(exporting.out, STEMS, manifest=manifest)
    return camera, view


@pytest.mark.parametrize("at_hand", [True, False])
def test_masks_of_undistorted_views_fit_the_files(exporting: Exporting, at_hand: bool):
    camera, view = undistorted_result(exporting)
    if not at_hand:
        shutil.rmtree(exporting.scene)
    exporting.to("brush")
    for index in range(5):
        expected = to_file_geometry(TransientMask(box(index)), view, camera)
        assert np.array_equal(exporting.values(f"masks/f_{index}.png") == 0, expected.pixels)


def test_objects_of_undistorted_views_are_not_named_like_the_files(exporting: Exporting):
    undistorted_result(exporting)
    assert "objects are of the undistorted views" in exporting.to("coco")


def test_views_without_a_camera_are_refused(exporting: Exporting):
    view = Camera(40.0, 40.0, 24.0, 18.0, WIDTH, HEIGHT)
    frames = [ManifestFrame(stem, f"images/{stem}.png", None, None, view) for stem in STEMS]
    manifest = Manifest("/nowhere/at/all", "nerfstudio", frames)
    write_result(exporting.out, STEMS, manifest=manifest)
    assert "there is no camera for it" in exporting.refused("brush")


def test_masks_have_the_size_of_the_images(exporting: Exporting):
    for stem in STEMS:
        save(exporting.scene / f"{stem}.png", grey((2 * HEIGHT, 2 * WIDTH)))
    write_result(exporting.out, STEMS)
    exporting.to("instant-ngp", "--data", str(exporting.scene), "--dilate", "1")
    twice = np.kron(box(2), np.ones((2, 2), bool))
    assert np.array_equal(exporting.values("images/dynamic_mask_f_2.png") == 255, dilate(twice, 1))


def test_a_video_has_no_image_files(exporting: Exporting):
    frames = [ManifestFrame(stem, f"walk.mp4#{i}") for i, stem in enumerate(STEMS)]
    write_result(exporting.out, STEMS, manifest=Manifest("/walk.mp4", "video", frames))
    exporting.to("brush")
    assert "masks/f_0.png" in exporting.files()
    assert "needs the names" in exporting.refused("colmap")


# -- the place


def test_an_earlier_export_is_replaced(exporting: Exporting):
    exporting.nerfstudio()
    exporting.to("colmap")
    exporting.to("brush")
    assert exporting.files() == {f"masks/f_{index}.png" for index in range(5)}
    assert not list(exporting.folder.glob(".dest*"))


def test_an_empty_folder_is_taken(exporting: Exporting):
    exporting.nerfstudio()
    exporting.dest.mkdir()
    exporting.to("brush")


def test_what_others_wrote_is_refused(exporting: Exporting):
    exporting.nerfstudio()
    exporting.to("brush")
    (exporting.dest / "masks/notes.txt").write_text("mine")
    assert "holds masks/notes.txt, which `export` did not write" in exporting.refused("brush")
    (exporting.dest / export_folder.MARKER).unlink()
    assert "did not write" in exporting.refused("brush")
    assert "did not write" in exporting.refused("brush", "--dest", str(exporting.scene))


def test_places_that_do_not_do(exporting: Exporting):
    exporting.nerfstudio()
    exporting.dest.write_text("a file")
    assert "is a file" in exporting.refused("brush")
    inside = str(exporting.scene / "images/masks")
    assert "which is read" in exporting.refused("brush", "--dest", inside)
    inside = str(exporting.out / "binary_masks/brush")
    assert "which is read" in exporting.refused("brush", "--dest", inside)


def test_what_is_wrong_is_one_line(exporting: Exporting):
    code, _, error = exporting.run()
    assert code == 2
    assert "export needs a result folder, --to (nerfstudio, " in error
    exporting.nerfstudio()
    assert "below 0" in exporting.refused("brush", "--dilate", "-1")
    assert "there is no" in exporting.refused("brush", "--data", str(exporting.folder / "x"))
    empty = exporting.folder / "empty"
    empty.mkdir()
    assert "holds no images" in exporting.refused("brush", "--data", str(empty))
    (exporting.out / "masklets.json").unlink()
    assert "is no result of `t3dgs-masks refine`" in exporting.refused("brush")


def test_a_failure_leaves_the_earlier_export(exporting: Exporting):
    exporting.nerfstudio()
    exporting.to("brush")
    before = tree(exporting.dest)
    (exporting.out / "binary_masks/f_3.png").write_bytes(b"broken")
    assert "cannot read the image" in exporting.refused("colmap")
    assert tree(exporting.dest) == before
    assert "cannot read the image" in exporting.refused(
        "colmap", "--dest", str(exporting.folder / "new/place")
    )


@pytest.mark.parametrize("stop_at", [1, 2])
def test_a_kill_leaves_one_of_the_two(
    exporting: Exporting, monkeypatch: pytest.MonkeyPatch, stop_at: int
):
    exporting.nerfstudio()
    exporting.to("brush")
    before = tree(exporting.dest)
    calls = 0
    rename = export_folder._rename

    class Killed(BaseException):
        pass

    def stop(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls >= stop_at:
            raise Killed  # and nothing that would put it right runs either
        rename(source, target)

    monkeypatch.setattr(export_folder, "_rename", stop)
    with pytest.raises(Killed):
        exporting.to("colmap")
    monkeypatch.setattr(export_folder, "_rename", rename)
    # What the next one begins with.
    with export_folder.ExportFolder(exporting.dest, []):
        assert tree(exporting.dest) == before
    exporting.to("colmap")
    assert "masks/f_0.png.png" in exporting.files()
    assert not list(exporting.folder.glob(".dest*"))


def test_a_result_that_was_cut_short_is_completed(exporting: Exporting):
    exporting.nerfstudio()
    state = exporting.out / publish.STATE / "placing"
    state.mkdir(parents=True)
    (exporting.out / "config.json").rename(state / "config.json")
    exporting.to("brush")
    assert (exporting.out / "config.json").is_file()
