"""Frame sequences over folders and videos."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from t3dgs_masks.errors import UserError
from t3dgs_masks.io.frames import (
    ImageFolderFrames,
    ResizedFrames,
    Selection,
    VideoFrames,
    open_frames,
)

HEIGHT, WIDTH = 48, 64


@dataclass
class Notices:
    said: list[str] = field(default_factory=list)

    def __call__(self, message: str) -> None:
        assert "\n" not in message
        self.said.append(message)


@pytest.fixture
def notices() -> Notices:
    return Notices()


def write_images(root: Path, *names: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    """Grey images whose brightness is their position in `names` times 10."""
    for position, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (position * 10,) * 3).save(path)


# --- Folders ----------------------------------------------------------------------------------


def test_folder_in_natural_order_with_subfolders(tmp_path: Path, notices: Notices) -> None:
    write_images(tmp_path, "f 1.png", "f 2.jpg", "f 10.b.c.webp", "süb/1.bmp", "süb/x/0.tif")
    frames = open_frames(tmp_path, notify=notices)
    assert list(frames.names) == ["f 1", "f 2", "f 10.b.c", "süb/1", "süb/x/0"]
    brightness = [int(frames[i][0, 0, 0]) for i in range(len(frames))]
    np.testing.assert_allclose(brightness, [0, 10, 20, 30, 40], atol=2)  # two of them are lossy
    assert (frames.height, frames.width, frames.fps) == (HEIGHT, WIDTH, None)
    assert (frames.source_height, frames.source_width) == (HEIGHT, WIDTH)
    assert not notices.said


def test_strays_give_one_notice(tmp_path: Path, notices: Notices) -> None:
    write_images(tmp_path, "a.png")
    for name in ("z.txt", "b.json", ".DS_Store"):
        (tmp_path / name).write_text("x")
    assert len(open_frames(tmp_path, notify=notices)) == 1
    assert len(notices.said) == 1
    assert "2 files" in notices.said[0]
    assert "b.json" in notices.said[0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6]),
        ({"every": 3}, [0, 3, 6]),
        ({"start": 2, "end": 5}, [2, 3, 4]),
        ({"every": 2, "start": 1, "end": 99}, [1, 3, 5]),
        ({"start": 6}, [6]),
        ({"end": 1}, [0]),
    ],
)
def test_selection(tmp_path: Path, options: dict[str, int], expected: Sequence[int]) -> None:
    names = [f"{i}.png" for i in range(7)]
    write_images(tmp_path, *names)
    frames = open_frames(tmp_path, **options, notify=Notices())
    assert list(frames.names) == [str(i) for i in expected]
    assert int(frames[len(frames) - 1][0, 0, 0]) == 10 * expected[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "--every 0"),
        ({"start": -1}, "--start -1"),
        ({"start": 3, "end": 3}, "--end 3 leaves no frame"),
        ({"end": 0}, "--end 0 leaves no frame"),
        ({"start": 7}, "behind the last of the 2 frames"),
        ({"resolution": 0}, "--resolution 0"),
    ],
)
def test_impossible_selections(tmp_path: Path, options: dict[str, int], message: str) -> None:
    write_images(tmp_path, "a.png", "b.png")
    with pytest.raises(UserError, match=message):
        open_frames(tmp_path, **options, notify=Notices())


def test_a_different_size_is_named_with_both_sizes(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "c.png")
    write_images(tmp_path, "b.png", size=(32, 16))
    with pytest.raises(UserError, match=rf"b\.png is 32x16, but .*a\.png is {WIDTH}x{HEIGHT}"):
        open_frames(tmp_path, notify=Notices())
    assert len(open_frames(tmp_path, every=2, notify=Notices())) == 2  # b does not take part


def test_sizes_are_compared_after_rotation(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "b.jpg", exif=exif)
    assert open_frames(tmp_path, notify=Notices())[1].shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, "holds no images"),
        (lambda root: (root / "a.txt").write_text("x"), "holds no images"),
        (lambda root: write_images(root, "a.png", "a.jpg"), "differ only in their suffix"),
        (lambda root: (root / "a.png").write_bytes(b"junk"), r"cannot read the image .*a\.png"),
    ],
)
def test_unusable_folders(tmp_path: Path, prepare, message: str) -> None:
    prepare(tmp_path)
    with pytest.raises(UserError, match=message):
        open_frames(tmp_path, notify=Notices())


def test_paths_that_are_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder or video file .*nowhere"):
        open_frames(tmp_path / "nowhere", notify=Notices())
    write_images(tmp_path, "a.png")
    with pytest.raises(UserError, match="single image"):
        open_frames(tmp_path / "a.png", notify=Notices())


def test_a_truncated_image_is_told_when_it_is_read(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), noise)
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    frames = open_frames(tmp_path, notify=Notices())
    with pytest.raises(UserError, match=r"a\.png.*truncated"):
        frames[0]


def test_folder_digest_follows_names_and_bytes(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png", "c.png")
    whole = open_frames(tmp_path, notify=Notices())
    digests = {whole.content_digest()}
    digests.add(open_frames(tmp_path, end=2, notify=Notices()).content_digest())
    digests.add(open_frames(tmp_path, resolution=20, notify=Notices()).content_digest())
    first = whole.frame_digest(0)
    (tmp_path / "b.png").rename(tmp_path / "bb.png")
    digests.add(open_frames(tmp_path, notify=Notices()).content_digest())
    write_images(tmp_path, "bb.png")
    digests.add(open_frames(tmp_path, notify=Notices()).content_digest())
    assert len(digests) == 5
    assert open_frames(tmp_path, notify=Notices()).frame_digest(0) == first


@pytest.mark.parametrize(
    ("resolution", "size"),
    [(None, (48, 64)), (24, (24, 32)), (25, (25, 33)), (48, (48, 64)), (900, (48, 64))],
)
def test_resolution_is_the_shorter_side_and_never_enlarges(
    tmp_path: Path, resolution: int | None, size: tuple[int, int]
) -> None:
    write_images(tmp_path, "a.png")
    frames = open_frames(tmp_path, resolution=resolution, notify=Notices())
    assert isinstance(frames, ResizedFrames) == (size != (HEIGHT, WIDTH))
    assert (frames.height, frames.width) == size
    assert frames[0].shape == (*size, 3)
    assert (frames.source_height, frames.source_width) == (HEIGHT, WIDTH)


def test_resizing_averages(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:, ::2] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (open_frames(tmp_path, resolution=2, notify=Notices())[0] == 100).all()


# --- Videos -----------------------------------------------------------------------------------


def write_video(
    path: Path,
    codec: str = "libx264",
    *,
    count: int = 40,
    stamps: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Grey frames of brightness 5 * index; keyframes every 12 frames, at 25 frames a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.gop_size = WIDTH, HEIGHT, 12
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.options = options or {}
        stream.bit_rate = 4_000_000
        stream.time_base = Fraction(1, 25)
        for idx in range(count):
            pixels = np.full((HEIGHT, WIDTH, 3), idx * 5, np.uint8)
            pixels[:8, :8] = 255  # a mark that shows how the frame is turned
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = (stamps[idx] if stamps else idx), Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def brightness(image: np.ndarray) -> int:
    return round(float(np.median(image)) / 5)


def small_cache(path: Path, selection: Selection | None = None) -> VideoFrames:
    """A video of which only five decoded frames are kept."""
    bytes_per_frame = HEIGHT * WIDTH * 3
    chosen = selection or Selection()
    return VideoFrames(path, chosen, Notices(), cache_bytes=5 * bytes_per_frame)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("closed.mp4", "libx264", None),
        ("open.mp4", "libx264", {"x264-params": "open-gop=1:bframes=3"}),
        ("intra.avi", "mjpeg", None),
        ("old.avi", "mpeg4", None),
        ("no_stamps.h264", "libx264", None),
        ("decoding_order.avi", "libx264", None),
        ("part.ts", "libx264", None),
        ("matroska.mkv", "libx264", None),
        ("web.webm", "libvpx-vp9", None),
    ],
)
def test_random_access(
    tmp_path: Path, name: str, codec: str, options: dict[str, str] | None
) -> None:
    frames = small_cache(write_video(tmp_path / name, codec, options=options))
    count = len(frames)
    assert count == 40
    forwards = list(range(count))
    jumps = random.Random(0).choices(forwards, k=15)
    for idx in (*forwards, *reversed(forwards), *forwards[:14], *jumps):
        assert brightness(frames[idx]) == idx


def test_reading_backwards_decodes_little_more_than_forwards(tmp_path: Path) -> None:
    frames = small_cache(write_video(tmp_path / "v.mp4", options={"bf": "0"}))
    decoded: list[int] = []
    original = frames._decoder.decode_up_to

    def counting(target: int):
        for item in original(target):
            decoded.append(item[0])
            yield item

    frames._decoder.decode_up_to = counting
    for idx in range(40):
        frames[idx]
    assert len(decoded) <= 40
    decoded.clear()
    for idx in reversed(range(40)):
        frames[idx]
    assert len(decoded) <= 40 * 2  # keyframes every 12 frames, 5 frames kept
    assert len(frames._cache) <= 5


@pytest.mark.parametrize("every", [1, 7, 13])
def test_video_selection_keeps_source_indices(tmp_path: Path, every: int) -> None:
    frames = small_cache(write_video(tmp_path / "v.mp4"), Selection(every, 3, 38))
    chosen = list(range(3, 38, every))
    assert list(frames.names) == [f"frame_{idx:06d}" for idx in chosen]
    assert frames.fps == pytest.approx(25 / every)
    for position in (*range(len(chosen)), *reversed(range(len(chosen)))):
        assert brightness(frames[position]) == chosen[position]


def test_variable_frame_rate(tmp_path: Path) -> None:
    stamps = np.cumsum([1, 5, 2, 9] * 10).tolist()
    frames = small_cache(write_video(tmp_path / "v.mkv", stamps=stamps))
    assert [brightness(frames[idx]) for idx in (39, 0, 20, 13, 12)] == [39, 0, 20, 13, 12]


def test_a_frame_may_be_written_to(tmp_path: Path) -> None:
    frames = small_cache(write_video(tmp_path / "v.mp4", count=3))
    frames[1][:] = 0
    assert brightness(frames[1]) == 1


@pytest.mark.parametrize(("degrees", "corner"), [(90, (0, 1)), (180, (1, 1)), (270, (1, 0))])
def test_rotation_metadata_turns_the_frames(
    tmp_path: Path, degrees: int, corner: tuple[int, int]
) -> None:
    path = write_video(tmp_path / "v.mp4", count=3)
    set_display_rotation(path, degrees)
    frames = open_frames(path, notify=Notices())
    size = (HEIGHT, WIDTH) if degrees == 180 else (WIDTH, HEIGHT)
    assert (frames.height, frames.width) == size
    image = frames[0]
    marked = image[:6, :6] if corner[0] == 0 else image[-6:, :6]
    if corner[1] == 1:
        marked = image[:6, -6:] if corner[0] == 0 else image[-6:, -6:]
    assert marked.mean() > 200


def set_display_rotation(path: Path, clockwise: int) -> None:
    """Rewrite the display matrix in the track header of an MP4."""
    cosine = {90: 0, 180: -1, 270: 0}[clockwise]
    sine = {90: 1, 180: 0, 270: -1}[clockwise]
    matrix = [cosine, sine, 0, -sine, cosine, 0, 0, 0, 1]
    fixed = [value * (1 << 30 if at % 3 == 2 else 1 << 16) for at, value in enumerate(matrix)]
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40  # version 0: 40 bytes of header before the matrix
    content[at : at + 36] = struct.pack(">9i", *fixed)
    path.write_bytes(content)


def test_a_cut_off_video_works_with_what_it_holds(tmp_path: Path, notices: Notices) -> None:
    path = write_video(tmp_path / "v.avi", "mjpeg")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * 0.5)])
    frames = open_frames(path, notify=notices)
    assert 5 < len(frames) < 35
    assert brightness(frames[len(frames) - 2]) == len(frames) - 2
    assert any("announces 40 frames but holds" in said for said in notices.said)


def test_a_damaged_frame_is_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.avi", "mjpeg")
    frames = small_cache(path)
    content = bytearray(path.read_bytes())
    starts = [at for at in range(len(content)) if content[at : at + 3] == b"\xff\xd8\xff"]
    content[starts[20] : starts[21] - 16] = bytes(starts[21] - 16 - starts[20])
    path.write_bytes(content)
    frames = small_cache(path)
    assert brightness(frames[19]) == 19
    with pytest.raises(UserError, match=r"v\.avi"):
        frames[20]
    assert brightness(frames[30]) == 30  # and the rest is still within reach


@pytest.mark.parametrize("content", [b"", b"text, not a video", bytes(5000)])
def test_not_a_video(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"v\.mp4") as caught:
        open_frames(path, notify=Notices())
    assert "\n" not in str(caught.value)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 8000), np.int16), format="s16", layout="mono"
        )
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(UserError, match="holds no video stream"):
        open_frames(path, notify=Notices())


def test_odd_video_names(tmp_path: Path) -> None:
    path = write_video(tmp_path / "plain.mp4", count=3)
    for name in ("concat:a b.mp4", "%03d é.mp4"):
        odd = tmp_path / name
        odd.write_bytes(path.read_bytes())
        assert len(open_frames(odd, notify=Notices())) == 3


def test_video_digest_follows_bytes_and_selection(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", count=6)
    digests = {
        open_frames(path, notify=Notices()).content_digest(),
        open_frames(path, every=2, notify=Notices()).content_digest(),
        open_frames(path, start=1, notify=Notices()).content_digest(),
        open_frames(write_video(tmp_path / "w.mp4", count=7), notify=Notices()).content_digest(),
    }
    assert len(digests) == 4
    every_second = open_frames(path, every=2, notify=Notices())
    assert every_second.frame_digest(1) == open_frames(path, notify=Notices()).frame_digest(2)


def test_the_folder_class_gives_its_files(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png")
    frames = ImageFolderFrames(tmp_path, Selection(start=1), Notices())
    assert list(frames.paths) == [tmp_path / "b.png"]
