from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from t3dgs_masks.datasets.dataset import Camera
from t3dgs_masks.datasets.manifest import (
    Manifest,
    ManifestFrame,
    manifest_of,
    read_manifest,
    write_manifest,
)
from t3dgs_masks.datasets.nerfstudio import open_nerfstudio
from t3dgs_masks.errors import UserError
from tests.datasets.posed_scenes import write_nerfstudio_scene

CAMERA = Camera(60.0, 61.0, 31.5, 24.0, 64, 48, k1=0.1, p2=-0.01, fisheye=True)
MANIFEST = Manifest(
    "/data/scene",
    "nerfstudio",
    (
        ManifestFrame(
            "cam0/a", "images/cam0/a.png", "train", CAMERA, Camera(50, 50, 30, 20, 60, 40)
        ),
        ManifestFrame("cam0/b", "../b.png"),
    ),
)


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    assert write_manifest(MANIFEST, tmp_path) == tmp_path / "manifest.json"
    assert read_manifest(tmp_path) == MANIFEST
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_of_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_nerfstudio_scene(tmp_path / "scene")
    monkeypatch.chdir(tmp_path)
    dataset = open_nerfstudio(Path("scene"))
    manifest = manifest_of(dataset, dataset.frames[3:5])
    assert manifest.root == str(tmp_path / "scene")
    assert [(f.name, f.source, f.split) for f in manifest.frames] == [
        ("frame_4", "images/frame_4.png", "train"),
        ("frame_5", "images/frame_5.png", "eval"),
    ]
    assert manifest.frames[0].camera == dataset.frames[3].camera


def test_none_there_and_another_programs(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    assert read_manifest(tmp_path / "nowhere") is None
    for contents in ("{}", "[]", '{"name": "My web app", "icons": []}'):
        (tmp_path / "manifest.json").write_text(contents)
        assert read_manifest(tmp_path) is None


def changed(frame: dict[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    contents: dict[str, Any] = json.loads(json.dumps(MANIFEST.to_json()))
    contents["frames"][1].update(frame or {})
    contents.update(top)
    return contents


def camera(**values: Any) -> dict[str, Any]:
    return {"camera": {**changed()["frames"][0]["camera"], **values}}


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        (changed(version=2), "version 2"),
        (changed(root="scene"), "root 'scene' is not absolute"),
        (changed(root=""), "root is not a usable text"),
        (changed(kind="blender"), "kind 'blender'"),
        (changed(kind=["video"]), "kind"),
        (changed(frames=[]), "at least one"),
        (changed(frames={"a": 1}), "at least one"),
        (changed(frames=[3]), "a frame is not an object"),
        (changed(frames=[{"name": "a"}]), "no 'split'"),
        (changed({"name": "../b"}), "leads out of the folder"),
        (changed({"name": "a/../../b"}), "leads out of the folder"),
        (changed({"name": "/etc/passwd"}), "leads out of the folder"),
        (changed({"name": "a//b"}), "leads out of the folder"),
        (changed({"name": "."}), "leads out of the folder"),
        (changed({"name": "a\0b"}), "name is not a usable text"),
        (changed({"name": "\ud800"}), "name is not a usable text"),
        (changed({"name": 3}), "name is not a usable text"),
        (changed({"name": "cam0/a"}), "a name occurs twice"),
        (changed({"source": "images/cam0/a.png"}), "a source occurs twice"),
        (changed({"source": None}), "source is not a usable text"),
        (changed({"split": "test"}), "split 'test'"),
        (changed({"camera": []}), "not an object"),
        (changed({"camera": {"fl_x": 60}}), "has no fl_y"),
        (changed(camera(lens="wide")), "has 'lens'"),
        (changed(camera(k1="0")), "k1 '0'"),
        (changed(camera(k1=float("nan"))), "k1 nan"),
        (changed(camera(fl_x=0)), "focal length"),
        (changed(camera(cx=10**400)), "not a manifest"),
        (changed(camera(width=64.5)), "width 64.5"),
        (changed(camera(height=0)), "height 0"),
        (changed(camera(width=10**12)), "width"),
        (changed(camera(width=True)), "width True"),
        (changed(camera(fisheye=1)), "fisheye 1"),
    ],
)
def test_what_cannot_be_used_has_one_line(tmp_path: Path, contents: Any, said: str) -> None:
    text = contents if isinstance(contents, str) else json.dumps(contents)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError) as raised:
        read_manifest(tmp_path)
    message = str(raised.value)
    assert said in message
    assert "\n" not in message
    assert "manifest.json" in message
