"""COLMAP's own files, held against COLMAP's own library, and damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from t3dgs_masks.datasets.colmap_files import read_cameras, read_images
from tests.datasets.posed_scenes import write_colmap_scene


def rotation(*axis_angle: float) -> pycolmap.Rotation3d:
    return pycolmap.Rotation3d(np.array(axis_angle))


def write_rig(folder: Path) -> pycolmap.Reconstruction:
    """Two cameras on one rig, at three places; one image has points."""
    model = pycolmap.Reconstruction()
    for number in (1, 2):
        model.add_camera(
            pycolmap.Camera(
                model="OPENCV", width=64, height=48, params=[60, 61, 31, 24, 0.1, 0, 0, number],
                camera_id=number,
            )
        )  # fmt: skip
    rig = pycolmap.Rig(rig_id=1)
    rig.add_ref_sensor(pycolmap.sensor_t(pycolmap.SensorType.CAMERA, 1))
    second = pycolmap.Rigid3d(rotation(0.1, 0.3, -0.2), np.array([0.5, 0.1, -0.3]))
    rig.add_sensor(pycolmap.sensor_t(pycolmap.SensorType.CAMERA, 2), second)
    model.add_rig(rig)
    for place in range(3):
        frame = pycolmap.Frame(frame_id=place + 1, rig_id=1)
        frame.rig_from_world = pycolmap.Rigid3d(
            rotation(0.2 * place, 1.0, 0.4), np.array([place, 2.0, -place])
        )
        images = []
        for camera in (1, 2):
            number = 10 * place + camera
            image = pycolmap.Image(
                name=f"cam{camera}/{place}.jpg", camera_id=camera, image_id=number,
                keypoints=np.full((place, 2), 3.5),
            )  # fmt: skip
            image.frame_id = place + 1
            frame.add_data_id(image.data_id)
            images.append(image)
        model.add_frame(frame)
        for image in images:
            model.add_image(image)
        model.register_frame(place + 1)
    folder.mkdir()
    model.write_binary(folder)
    model.write_text(folder)
    return model


@pytest.mark.parametrize("suffix", ["bin", "txt"])
def test_poses_on_a_rig_are_those_of_the_library(tmp_path: Path, suffix: str) -> None:
    model = write_rig(tmp_path / "model")
    cameras = read_cameras(tmp_path / f"model/cameras.{suffix}")
    images = read_images(tmp_path / f"model/images.{suffix}")
    assert [image.number for image in images] == sorted(model.reg_image_ids())
    assert len(images) == 6
    for image in images:
        theirs = model.image(image.number)
        assert (image.name, image.camera) == (theirs.name, theirs.camera_id)
        matrix = theirs.cam_from_world().matrix()
        np.testing.assert_allclose(image.rotation, matrix[:, :3], atol=1e-12)
        np.testing.assert_allclose(image.translation, matrix[:, 3], atol=1e-12)
    for number, camera in cameras.items():
        theirs = model.camera(number)
        assert (camera.model, camera.width, camera.height) == ("OPENCV", 64, 48)
        assert camera.params == tuple(theirs.params)


def test_every_camera_model_has_its_number(tmp_path: Path) -> None:
    known = [kind for kind in pycolmap.CameraModelId.__members__.values() if int(kind) >= 0]
    model = pycolmap.Reconstruction()
    for number, kind in enumerate(known, start=1):
        model.add_camera(pycolmap.Camera.create_from_model_id(number, kind, 60, 64, 48))
    model.write_binary(tmp_path)
    model.write_text(tmp_path)
    in_binary, in_text = (read_cameras(tmp_path / f"cameras.{s}") for s in ("bin", "txt"))
    for number, kind in enumerate(known, start=1):
        assert in_binary[number].model == in_text[number].model == kind.name
        assert in_binary[number].params == tuple(model.camera(number).params)


def test_names_with_spaces_and_foreign_bytes(tmp_path: Path) -> None:
    write_colmap_scene(tmp_path, ["a.png"], images=False)
    file = tmp_path / "sparse/0/images.bin"
    file.write_bytes(file.read_bytes().replace(b"a.png\0", b"a \xe9.png\0"))
    assert [image.name for image in read_images(file)] == ["a \udce9.png"]
    text = file.with_suffix(".txt")
    text.write_bytes(b"# comment\n1 1 0 0 0 0 0 0 1 a \xe9.png\n1.5 2.5 -1\n")
    assert [image.name for image in read_images(text)] == ["a \udce9.png"]


@pytest.mark.parametrize("kind", ["cameras", "images"])
def test_every_cut_is_noticed(tmp_path: Path, kind: str) -> None:
    write_colmap_scene(tmp_path, images=False)
    file = tmp_path / f"sparse/0/{kind}.bin"
    content = file.read_bytes()
    read = read_cameras if kind == "cameras" else read_images
    for size in range(len(content)):
        file.write_bytes(content[:size])
        with pytest.raises(ValueError, match=f"{kind}.bin is cut short"):
            read(file)


def test_sizes_that_no_camera_has(tmp_path: Path) -> None:
    write_colmap_scene(tmp_path, images=False)
    file = tmp_path / "sparse/0/cameras.bin"
    content = bytearray(file.read_bytes())
    content[16:24] = struct.pack("<Q", 1 << 63)
    file.write_bytes(content)
    with pytest.raises(ValueError, match="camera 1 is of 9223372036854775808 x 48 pixels"):
        read_cameras(file)
