"""Damaged files of every kind through what reads them: a value or a `UserError` of one line comes
out, nothing else, and soon.

The examples are the same at every run. ``T3DGS_MASKS_FUZZ=1000 pytest tests/test_fuzzing.py`` tries
so many other ones of each.
"""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from t3dgs_masks.datasets.apply_masks import recover_dataset
from t3dgs_masks.datasets.apply_record import read_record
from t3dgs_masks.datasets.colmap import open_colmap
from t3dgs_masks.datasets.manifest import read_manifest
from t3dgs_masks.datasets.nerfstudio import open_nerfstudio
from t3dgs_masks.errors import UserError
from t3dgs_masks.io.frames import open_frames
from t3dgs_masks.io.images import is_turned, read_planes, read_rgb, stored_size, upright_size
from t3dgs_masks.io.outputs import ResultFolder, read_masklets
from t3dgs_masks.io.prompts import open_prompts
from t3dgs_masks.masks import decode
from t3dgs_masks.presets import read_preset
from t3dgs_masks.sam.checkpoint_files import read_checkpoint
from t3dgs_masks.sam.model_configs import Sam2Config, parse_model_section
from tests.datasets.posed_scenes import write_colmap_scene, write_nerfstudio_scene
from tests.datasets.scenes_to_mask import tree, write_scene
from tests.results import scene_manifest, write_result

_MORE = os.environ.get("T3DGS_MASKS_FUZZ")
_LONGEST_S = 30  # for one file, on a busy machine

Read = Callable[[Path], object]


def fuzzed(examples: int) -> settings:
    """So many examples of a test, always the same ones."""
    return settings(
        max_examples=int(_MORE or examples),
        derandomize=_MORE is None,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@contextmanager
def soon() -> Iterator[None]:
    """Fails if the block takes long."""

    def too_long(*_: object) -> None:
        raise AssertionError(f"nothing came back within {_LONGEST_S} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(_LONGEST_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def told(read: Callable[[], object]) -> None:
    """`read` gives something, or says in one line why it cannot."""
    with soon():
        try:
            read()
        except UserError as error:
            message = str(error)
        else:
            return
    assert message
    assert "\n" not in message


# --- Damage -----------------------------------------------------------------------------------

_NUMBERS = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"\0" * 8)

places = st.floats(0, 1, exclude_max=True)
damages = st.lists(
    st.one_of(
        st.tuples(st.just("byte"), places, st.binary(min_size=1, max_size=1)),
        st.tuples(st.just("overwrite"), places, st.sampled_from(_NUMBERS) | st.binary(max_size=12)),
        st.tuples(st.just("insert"), places, st.binary(min_size=1, max_size=12)),
        st.tuples(st.just("delete"), places, st.integers(1, 40)),
        st.tuples(st.just("repeat"), places, st.integers(1, 200)),
        st.tuples(st.just("cut"), places, st.none()),
    ),
    min_size=1,
    max_size=4,
)


def damaged(content: bytes, damage: list[tuple[str, float, Any]]) -> bytes:
    for kind, place, value in damage:
        at = int(place * len(content))
        if kind in ("byte", "overwrite"):
            content = content[:at] + value + content[at + len(value) :]
        elif kind == "insert":
            content = content[:at] + value + content[at:]
        elif kind == "delete":
            content = content[:at] + content[at + value :]
        elif kind == "repeat":
            content = content[: at + value] + content[at:]
        else:
            content = content[:at]
    return content


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from(
        [10**30, -(10**18), 1e308, float("nan"), float("inf"), "", "..", "/etc", "a\0"]
    )
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)
changes = st.lists(st.tuples(places, st.booleans(), json_values), min_size=1, max_size=3)


def changed(value: Any, drawn: list[tuple[float, bool, Any]]) -> bytes:
    """The JSON of a value in which some nodes are others, or gone."""
    value = json.loads(json.dumps(value))
    for place, gone, other in drawn:
        nodes = list(_nodes(value))
        if not nodes:
            return json.dumps(other).encode()
        parent, key = nodes[int(place * len(nodes))]
        if gone:
            del parent[key]
        else:
            parent[key] = other
    return json.dumps(value).encode()


def _nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in list(items):
        yield value, key
        if isinstance(child, (dict, list)):
            yield from _nodes(child)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzzing")


# --- Pictures ---------------------------------------------------------------------------------


def _picture(suffix: str, mode: str, **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 24, 3), np.uint8)
    pixels[:, :12] //= 16
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, suffix, **options)
    return buffer.getvalue()


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _wide() -> bytes:
    buffer = io.BytesIO()
    values = np.random.default_rng(1).integers(0, 65535, (20, 24)).astype(np.uint16)
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


PICTURES = {
    "PNG": _picture("PNG", "RGB"),
    "PNG, palette": _picture("PNG", "P", transparency=3),
    "PNG, alpha": _picture("PNG", "LA"),
    "PNG, 16 bits": _wide(),
    "JPEG": _picture("JPEG", "RGB", exif=_exif()),
    "JPEG, CMYK": _picture("JPEG", "CMYK"),
    "JPEG, progressive": _picture("JPEG", "L", progressive=True),
    "WebP": _picture("WEBP", "RGBA"),
    "TIFF": _picture("TIFF", "RGB", compression="tiff_lzw"),
    "TIFF, float": _picture("TIFF", "F"),
    "BMP": _picture("BMP", "P"),
}


@pytest.mark.parametrize("kind", PICTURES)
@fuzzed(80)
@given(damage=damages)
def test_pictures(folder: Path, kind: str, damage: list[Any]) -> None:
    path = folder / f"picture.{kind.split(',')[0].lower()}"
    path.write_bytes(damaged(PICTURES[kind], damage))
    for read in (read_rgb, read_planes, upright_size, stored_size, is_turned):
        told(lambda read=read: read(path))


@fuzzed(80)
@given(damage=damages, dtype=st.sampled_from(["<f4", "<f8", "|u1", "<u2", "|b1"]))
def test_residuals(folder: Path, damage: list[Any], dtype: str) -> None:
    frames = folder / "residual_frames"
    (folder / "residuals/diffs").mkdir(parents=True, exist_ok=True)
    for path in (frames / "a.png", folder / "residuals/masks/a.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 4)).save(path)
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((4, 6), dtype))
    (folder / "residuals/diffs/a.npy").write_bytes(damaged(buffer.getvalue(), damage))

    def read() -> object:
        sequence = open_frames(frames, notify=lambda _: None)
        prompts = open_prompts(
            folder / "residuals", sequence, polarity="white-transient", notify=lambda _: None
        )
        residual = prompts[0].residual
        assert residual is not None
        assert np.isfinite(residual).all()
        return residual

    told(read)


def _video(suffix: str, codec: str) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=suffix) as container:
        stream: Any = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for index in range(6):
            pixels = np.full((32, 32, 3), 40 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "libx264"), ("avi", "mpeg4")])
@fuzzed(25)
@given(damage=damages)
def test_videos(folder: Path, suffix: str, codec: str, damage: list[Any]) -> None:
    path = folder / f"video.{suffix}"
    path.write_bytes(damaged(_VIDEOS[suffix], damage))

    def read() -> None:
        frames = open_frames(path, end=20, notify=lambda _: None)
        for frame_idx in (0, len(frames) - 1):
            assert frames[frame_idx].shape == (frames.height, frames.width, 3)

    told(read)


_VIDEOS = {"mp4": _video("mp4", "libx264"), "avi": _video("avi", "mpeg4")}


# --- Datasets ---------------------------------------------------------------------------------


def _read_dataset(read: Callable[[Path], Any], root: Path) -> None:
    for frame in read(root).frames:
        assert frame.image.is_file()
        assert not Path(frame.name).is_absolute()
        assert ".." not in Path(frame.name).parts
        assert frame.camera_to_world is None or np.isfinite(frame.camera_to_world).all()


@fuzzed(150)
@given(damage=damages)
def test_bytes_of_transforms(folder: Path, damage: list[Any]) -> None:
    root = folder / "transforms"
    if not root.exists():
        write_nerfstudio_scene(root, num_train=2, num_eval=1)
        (root / "good").write_bytes((root / "transforms.json").read_bytes())
    (root / "transforms.json").write_bytes(damaged((root / "good").read_bytes(), damage))
    told(lambda: _read_dataset(open_nerfstudio, root))


@fuzzed(250)
@given(drawn=changes)
def test_values_of_transforms(folder: Path, drawn: list[Any]) -> None:
    root = folder / "values"
    if not root.exists():
        write_nerfstudio_scene(root, num_train=2, num_eval=1)
        (root / "good").write_bytes((root / "transforms.json").read_bytes())
    meta = json.loads((root / "good").read_bytes())
    (root / "transforms.json").write_bytes(changed(meta, drawn))
    told(lambda: _read_dataset(open_nerfstudio, root))


@pytest.mark.parametrize("kind", ["cameras.bin", "images.bin", "cameras.txt", "images.txt"])
@fuzzed(150)
@given(damage=damages)
def test_colmap_models(folder: Path, kind: str, damage: list[Any]) -> None:
    root = folder / kind
    model = root / "sparse/0"
    if not root.exists():
        write_colmap_scene(root, text=kind.endswith(".txt"))
        (root / "good").write_bytes((model / kind).read_bytes())
    (model / kind).write_bytes(damaged((root / "good").read_bytes(), damage))
    told(lambda: _read_dataset(open_colmap, root))


@fuzzed(150)
@given(drawn=changes)
def test_manifests(folder: Path, drawn: list[Any]) -> None:
    root = folder / "manifest"
    if not root.exists():
        write_nerfstudio_scene(root, num_train=2, num_eval=1)
    (root / "manifest.json").write_bytes(changed(scene_manifest(root).to_json(), drawn))
    told(lambda: read_manifest(root))


_RECORD = {
    "program": "t3dgs_masks",
    "version": 1,
    "layout": "nerfstudio",
    "masks_folder": "masks",
    "files": {"masks/f_0.png": "0" * 64},
    "folders": ["masks"],
    "user_masks": {"images/f_0.png": "own/f_0.png"},
    "transforms": "transforms.json",
    "transforms_before": "1" * 64,
    "transforms_after": "2" * 64,
}
_JOURNAL = {
    "version": 1,
    "changes": [
        {"path": "masks/f_0.png", "before": None, "after": "0" * 64},
        {"path": "transforms.json", "before": "1" * 64, "after": "2" * 64},
    ],
    "made_folders": ["masks"],
    "removed_folders": ["gone"],
}


@fuzzed(100)
@given(drawn=changes)
def test_records_of_apply(folder: Path, drawn: list[Any]) -> None:
    root = folder / "record"
    (root / ".t3dgs_masks").mkdir(parents=True, exist_ok=True)
    (root / ".t3dgs_masks/applied.json").write_bytes(changed(_RECORD, drawn))
    told(lambda: read_record(root))


@fuzzed(100)
@given(drawn=changes)
def test_journals_of_apply(folder: Path, drawn: list[Any]) -> None:
    """Whatever is in it, nothing outside of the dataset changes."""
    around = folder / "around"
    if not around.exists():
        write_scene(around / "scene")
        (around / "f_9.png").write_bytes(b"not ours")
    outside = {name for name in tree(around) if not name.startswith("scene")}
    (around / "scene/.t3dgs_masks").mkdir(exist_ok=True)
    (around / "scene/.t3dgs_masks/journal.json").write_bytes(changed(_JOURNAL, drawn))
    told(lambda: recover_dataset(around / "scene"))
    assert {name for name in tree(around) if not name.startswith("scene")} == outside
    assert (around / "f_9.png").read_bytes() == b"not ours"


# --- Results ----------------------------------------------------------------------------------


@fuzzed(150)
@given(drawn=changes, damage=damages)
def test_masklets(folder: Path, drawn: list[Any], damage: list[Any]) -> None:
    root = folder / "masklets"
    if not root.exists():
        write_result(root, ["a", "b"], kept={1: True, 2: False})
        (root / "good").write_bytes((root / "masklets.json").read_bytes())
    good = (root / "good").read_bytes()
    for content in (changed(json.loads(good), drawn), damaged(good, damage)):
        (root / "masklets.json").write_bytes(content)

        def read() -> None:
            file = read_masklets(root / "masklets.json")
            for masklet in file.masklets:
                for rle in masklet.segmentations.values():
                    assert decode(rle).shape == (file.height, file.width)

        told(read)
        told(lambda: ResultFolder.open(root).is_complete("x"))


# --- Networks ---------------------------------------------------------------------------------


@fuzzed(60)
@given(damage=damages, old_format=st.booleans())
def test_checkpoints(folder: Path, damage: list[Any], old_format: bool) -> None:
    buffer = io.BytesIO()
    tensors = {"image_encoder.trunk.patch_embed.proj.weight": torch.zeros(2, 3), "b": torch.ones(4)}
    content = {"model": tensors, "config": "model: {}"}
    torch.save(content, buffer, _use_new_zipfile_serialization=not old_format)
    path = folder / "net.pt"
    path.write_bytes(damaged(buffer.getvalue(), damage))
    told(lambda: read_checkpoint(path, "sam2"))


@fuzzed(60)
@given(damage=damages)
def test_configurations(damage: list[Any]) -> None:
    good = (
        b"model:\n  _target_: sam2.x\n  image_size: 256\n  list: [1, {a: b}]\n  c: ${model.list}\n"
    )
    text = damaged(good, damage).decode("utf-8", "replace")
    told(lambda: parse_model_section(Sam2Config("net.yaml", text)))


@fuzzed(60)
@given(damage=damages)
def test_presets(folder: Path, damage: list[Any]) -> None:
    path = folder / "preset.yaml"
    path.write_bytes(damaged(b"memory-size: 5\nlambda-ref: 0.5\nfinal-pass: false\n", damage))
    told(lambda: read_preset(str(path)))
