"""Decoding of single files, and finding them in folders."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from t3dgs_masks.errors import UserError
from t3dgs_masks.io.images import (
    Planes,
    file_digest,
    natural_key,
    read_planes,
    read_rgb,
    scan_folder,
    shown,
    upright_size,
)

RED = (200, 40, 20)


def image_of(mode: str) -> Image.Image:
    """4x3 (width x height), RED or, in grey modes, half of the range."""
    half = {"1": 1, "L": 128, "LA": (128, 9), "I": 128 * 257, "I;16": 128 * 257, "F": 128 / 255}
    if mode in half:
        return Image.new(mode, (4, 3), half[mode])
    if mode == "RGBA":
        return Image.new(mode, (4, 3), (*RED, 0))
    image = Image.new("RGB", (4, 3), RED)
    return image.quantize(4) if mode == "P" else image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "suffix", "expected"),
    [
        ("1", ".png", (255, 255, 255)),
        ("L", ".png", (128, 128, 128)),
        ("LA", ".png", (128, 128, 128)),
        ("I;16", ".png", (128, 128, 128)),
        ("I;16", ".tif", (128, 128, 128)),
        ("I", ".tiff", (128, 128, 128)),
        ("F", ".tif", (128, 128, 128)),
        ("P", ".png", RED),
        ("RGB", ".png", RED),
        ("RGB", ".bmp", RED),
        ("RGB", ".webp", RED),
        ("RGB", ".JPG", RED),
        ("RGBA", ".png", RED),  # colour survives where alpha is 0
        ("CMYK", ".jpg", RED),
        ("CMYK", ".tif", RED),
        ("YCbCr", ".jpg", RED),
    ],
)
def test_read_rgb_of_any_mode(
    tmp_path: Path, mode: str, suffix: str, expected: tuple[int, int, int]
) -> None:
    path = tmp_path / f"image{suffix}"
    image_of(mode).save(path)
    rgb = read_rgb(path)
    assert rgb.shape == (3, 4, 3)
    assert rgb.dtype == np.uint8
    lossy = suffix in (".JPG", ".jpg", ".webp")
    np.testing.assert_allclose(rgb[1, 1], expected, atol=4 if lossy else 0)


def test_sixteen_bit_colour_keeps_its_range_and_channel_order(tmp_path: Path) -> None:
    bgr = np.zeros((2, 2, 3), np.uint16)
    bgr[:] = (0, 32768, 65535)
    path = tmp_path / "deep.png"
    cv2.imwrite(str(path), bgr)
    assert read_rgb(path)[0, 0].tolist() == [255, 128, 0]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 10))
def test_exif_orientation_is_honoured(tmp_path: Path, suffix: str, orientation: int) -> None:
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:8, :16] = 255  # the top left quarter is white
    exif = Image.Exif()
    exif[0x0112] = orientation  # 9 makes no sense and counts as 1
    path = tmp_path / f"turned{suffix}"
    Image.fromarray(stored).save(path, exif=exif)
    height, width = (32, 16) if orientation in (5, 6, 7, 8) else (16, 32)
    assert upright_size(path) == (height, width)
    seen = read_rgb(path)
    assert seen.shape == (height, width, 3)
    corners = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1)}
    row, column = corners.get(orientation, (1, 0) if orientation == 8 else (0, 0))
    quarters = [[seen[:4, :4].mean(), seen[:4, -4:].mean()]]
    quarters.append([seen[-4:, :4].mean(), seen[-4:, -4:].mean()])
    assert np.unravel_index(np.argmax(quarters), (2, 2)) == (row, column)


def test_a_png_named_jpg_is_read_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "liar.jpg"
    image_of("RGB").save(path, format="PNG")
    assert read_rgb(path)[0, 0].tolist() == list(RED)


def test_a_jpeg_with_a_second_picture_is_a_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "phone.jpg"
    image_of("RGB").save(path, format="MPO", save_all=True, append_images=[image_of("RGB")])
    np.testing.assert_allclose(read_rgb(path)[0, 0], RED, atol=4)


def test_of_an_animation_the_first_picture_counts(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (4, 3), RED), Image.new("RGB", (4, 3), (0, 0, 0))
    path = tmp_path / "moving.png"
    first.save(path, save_all=True, append_images=[second])
    assert read_rgb(path)[0, 0].tolist() == list(RED)


def png_bytes() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    return cv2.imencode(".png", noise)[1].tobytes()


def bomb_bytes() -> bytes:
    header = (60000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    chunk = b"IHDR" + header
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + len(header).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", png_bytes()[:900], bomb_bytes()],
    ids=["empty", "text", "jpeg start", "png start", "truncated", "bomb"],
)
@pytest.mark.parametrize("reader", [read_rgb, read_planes])
def test_broken_files_are_told_by_name_in_one_line(tmp_path: Path, content: bytes, reader) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read the image .*broken\.png: .*") as caught:
        reader(path)
    assert "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, len(png_bytes()) - 1), value=st.integers(0, 255))
def test_a_changed_byte_gives_an_image_or_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int
) -> None:
    content = bytearray(png_bytes())
    content[at] = value
    path = tmp_path_factory.getbasetemp() / "mutated.png"
    path.write_bytes(content)
    try:
        image = read_rgb(path)
    except UserError:
        return
    assert image.dtype == np.uint8


@given(
    st.sampled_from(["u1", "u2", "i4", "f4"]).flatmap(
        lambda kind: arrays(
            kind,
            st.sampled_from([(3, 5), (3, 5, 1), (3, 5, 3), (1, 1, 3)]),
            elements=st.integers(0, 255),
        )
    )
)
def test_channel_mean_is_the_mean_of_magnitudes(colour: np.ndarray) -> None:
    magnitude = np.abs(colour.astype(np.float32)) / np.float32(255)
    mean = Planes(colour, None, 255.0, True).channel_mean()
    assert mean.dtype == np.float32
    assert np.array_equal(mean, magnitude if colour.ndim == 2 else magnitude.mean(axis=2))


def test_planes_of_a_float_colour_tiff(tmp_path: Path) -> None:
    rgb = np.zeros((3, 4, 3), np.float32)
    rgb[:] = (0.25, 0.5, 0.75)
    path = tmp_path / "float.tif"
    # OpenCV 4 compresses float colour with SGI LogLuv unless told not to, which loses digits.
    cv2.imwrite(str(path), rgb[:, :, ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    planes = read_planes(path)
    np.testing.assert_array_equal(planes.colour, rgb)
    np.testing.assert_allclose(planes.channel_mean(), 0.5)


def test_planes_of_a_float_colour_tiff_in_log_luv(tmp_path: Path) -> None:
    rgb = np.zeros((3, 4, 3), np.float32)
    rgb[:] = (0.25, 0.5, 0.75)
    path = tmp_path / "float.tif"
    cv2.imwrite(str(path), rgb[:, :, ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 34676])
    planes = read_planes(path)
    np.testing.assert_allclose(planes.colour, rgb, atol=0.005)
    assert planes.full_scale == 1.0


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def test_scan_finds_images_in_natural_order_with_odd_names(tmp_path: Path) -> None:
    touch(tmp_path, "f10.png", "f2.JPG", "a.b.c.webp", "Zoë 1.tiff", "sub/x 9.bmp", "sub/x 10.bmp")
    touch(tmp_path, ".hidden.png", ".cache/f1.png", "sub/notes.txt", "Thumbs.db", "sub/noext")
    scan = scan_folder(tmp_path)
    assert list(scan.files) == ["Zoë 1", "a.b.c", "f2", "f10", "sub/x 9", "sub/x 10"]
    assert scan.files["f2"] == tmp_path / "f2.JPG"
    assert {path.name for path in scan.strays} == {"notes.txt", "Thumbs.db", "noext"}


def test_scan_refuses_names_that_differ_in_their_suffix_only(tmp_path: Path) -> None:
    touch(tmp_path, "sub/a.png", "sub/a.jpg", "a.png")
    with pytest.raises(UserError, match=r"sub/a\.jpg and .*sub/a\.png differ only"):
        scan_folder(tmp_path)


def test_scan_follows_links_once_and_ends(tmp_path: Path) -> None:
    touch(tmp_path, "root/b/f1.png", "elsewhere/g1.png")
    (tmp_path / "root/b/loop").symlink_to(tmp_path / "root", target_is_directory=True)
    (tmp_path / "root/a").symlink_to(tmp_path / "root/b", target_is_directory=True)
    (tmp_path / "root/linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "root/one.png").symlink_to(tmp_path / "elsewhere/g1.png")
    assert list(scan_folder(tmp_path / "root").files) == ["b/f1", "linked/g1", "one"]


def test_scan_keeps_dangling_links_and_leaves_pipes_alone(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    scan = scan_folder(tmp_path)
    assert list(scan.files) == ["gone"]
    with pytest.raises(UserError, match=r"gone\.png: No such file"):
        upright_size(scan.files["gone"])


@given(st.lists(st.text("ab019/._ é", min_size=1, max_size=6), unique=True))
def test_natural_order_is_total(names: list[str]) -> None:
    backwards = names[::-1]
    assert sorted(names, key=natural_key) == sorted(backwards, key=natural_key)


@pytest.mark.parametrize(
    ("raw", "text"),
    [(b"plain \xc3\xa9.png", "plain é.png"), (b"bad\xff\n.png", "bad\\xff\\n.png")],
)
def test_shown_is_one_printable_line(raw: bytes, text: str) -> None:
    assert shown(os.fsdecode(raw)) == text


def test_a_name_that_is_not_utf8_can_be_read(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.png"))
    image_of("RGB").save(path)
    assert [read_rgb(found).shape for found in scan_folder(tmp_path).files.values()] == [(3, 4, 3)]


def test_file_digest_depends_on_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 3_000_000)
    before = file_digest(path)
    path.write_bytes(b"a" * 2_999_999 + b"b")
    assert file_digest(path) != before
    with pytest.raises(UserError, match="missing"):
        file_digest(tmp_path / "missing")
