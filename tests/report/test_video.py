"""Videos that can be decoded again, whole and in parts."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace

from t3dgs_masks import UserError
from t3dgs_masks.report.video import Picture, VideoWriter, join_videos

HEIGHT, WIDTH = 120, 160


def grey(level: int = 100) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), level, dtype=np.uint8)


def encoded(frames: Sequence[np.ndarray], fps: float = 10) -> bytes:
    writer = VideoWriter(fps, *frames[0].shape[:2])
    for frame in frames:
        writer.push(Picture.of(frame))
    return writer.finish()


@dataclass(frozen=True)
class Decoded:
    frames: list[np.ndarray]
    codec: str
    pixel_format: str
    num_frames: int  # as the file says
    fps: float
    seconds: float  # as the file says


def decoded(video: bytes) -> Decoded:
    with av.open(BytesIO(video)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate is not None
        assert stream.duration is not None
        assert stream.time_base is not None
        return Decoded(
            frames=[frame.to_ndarray(format="rgb24") for frame in container.decode(stream)],
            codec=stream.codec_context.name,
            pixel_format=stream.codec_context.pix_fmt or "",
            num_frames=stream.frames,
            fps=float(stream.average_rate),
            seconds=float(stream.duration * stream.time_base),
        )


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_the_video_has_every_frame_in_its_colours(
    monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    if codec == "mpeg4":
        monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    elif codec not in av.codecs_available:
        pytest.skip("this build of PyAV has no x264")
    colours = [(230, 30, 30), (30, 200, 30), (30, 30, 230), (240, 228, 66), (128, 128, 128)]
    frames = [np.full((HEIGHT, WIDTH, 3), colour, dtype=np.uint8) for colour in colours]
    for frame in frames:
        frame[:, : WIDTH // 2] = 255 - frame[:, : WIDTH // 2]
    video = decoded(encoded(frames))
    assert len(video.frames) == len(colours)
    assert video.codec == {"libx264": "h264", "mpeg4": "mpeg4"}[codec]
    assert video.pixel_format == "yuv420p"
    assert video.fps == 10
    for frame, colour in zip(video.frames, colours, strict=True):
        assert frame.shape == (HEIGHT, WIDTH, 3)
        right = frame[:, WIDTH // 2 + 8 :].reshape(-1, 3).mean(axis=0)
        left = frame[:, : WIDTH // 2 - 8].reshape(-1, 3).mean(axis=0)
        assert np.abs(right - colour).max() < 8
        assert np.abs(left - (255 - np.array(colour))).max() < 8


@pytest.mark.parametrize(("height", "width"), [(121, 161), (1, 1), (2, 3), (17, 40)])
def test_odd_sizes_are_padded_by_their_last_row_and_column(height: int, width: int) -> None:
    frame = np.full((height, width, 3), (200, 90, 40), dtype=np.uint8)
    frames = decoded(encoded([frame] * 3)).frames
    assert len(frames) == 3
    assert frames[0].shape == (height + height % 2, width + width % 2, 3)
    assert np.abs(frames[0][-1, -1] - np.array((200, 90, 40))).max() < 12


@pytest.mark.parametrize(("height", "width"), [(48, 64), (47, 63), (1, 2)])
def test_a_picture_is_the_image_in_bt709(height: int, width: int) -> None:
    image = np.random.default_rng(2).integers(0, 256, (height, width, 3), np.uint8)
    picture = Picture.of(image)
    assert picture.size == (height, width)
    even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge") / 255
    rows, columns = even.shape[:2]
    luma = even @ (0.2126, 0.7152, 0.0722)
    assert np.abs(picture.planes[:rows] - (16 + 219 * luma)).max() <= 1
    halved = even.reshape(rows // 2, 2, columns // 2, 2, 3).mean(axis=(1, 3))
    luma = halved @ (0.2126, 0.7152, 0.0722)
    blue = 128 + 224 * (halved[..., 2] - luma) / 1.8556
    red = 128 + 224 * (halved[..., 0] - luma) / 1.5748
    chroma = picture.planes[rows:].reshape(2, rows // 2, columns // 2)
    assert np.abs(chroma - [blue, red]).max() <= 1


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)])
def test_colours_are_those_of_ffmpeg(colour: tuple[int, int, int]) -> None:
    image = np.full((32, 48, 3), colour, np.uint8)
    expected = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
        format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
    )
    difference = np.abs(Picture.of(image).planes.astype(int) - expected.to_ndarray())
    assert difference.max() <= 1


@pytest.mark.parametrize("fps", [0.5, 1, 23.976, 29.97, 59.94, 120])
def test_the_frame_rate_is_kept(fps: float) -> None:
    video = decoded(encoded([grey(level * 20) for level in range(4)], fps))
    assert len(video.frames) == 4
    assert video.fps == pytest.approx(fps, rel=1e-4)
    assert video.seconds == pytest.approx(4 / fps, rel=0.01)


def test_frames_from_an_array_view_are_written_right() -> None:
    frame = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    frame[: HEIGHT // 2] = 255
    frames = decoded(encoded([frame[::-1]])).frames
    assert frames[0][:40].mean() < 10
    assert frames[0][80:].mean() > 245


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_an_impossible_frame_rate_is_a_user_error(fps: float) -> None:
    with pytest.raises(UserError, match="--fps"):
        VideoWriter(fps, HEIGHT, WIDTH)


def test_a_frame_of_another_size_is_refused() -> None:
    writer = VideoWriter(10, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match="frame of size"):
        writer.push(Picture.of(np.zeros((HEIGHT, WIDTH + 1, 3), np.uint8)))
    writer.drop()


def test_frames_that_no_encoder_takes_are_a_user_error() -> None:
    def begin() -> None:
        VideoWriter(10, 2, 40_000).push(Picture.of(np.zeros((2, 40_000, 3), np.uint8)))

    with pytest.raises(UserError, match=r"cannot encode the video: .*; --no-overlay leaves"):
        begin()


@pytest.mark.parametrize("num_pushed", [0, 3])
def test_a_video_can_be_dropped(num_pushed: int) -> None:
    writer = VideoWriter(10, HEIGHT, WIDTH)
    for _ in range(num_pushed):
        writer.push(Picture.of(grey()))
    writer.drop()
    writer.drop()


def test_the_same_frames_give_the_same_bytes() -> None:
    rng = np.random.default_rng(4)
    room = cv2.resize(rng.integers(60, 200, (6, 8, 3), np.uint8), (64, 48))
    frames = [
        np.clip(np.roll(room, 2 * shift, 1) + rng.normal(0, 3, room.shape), 0, 255).astype(np.uint8)
        for shift in range(10)
    ]
    assert len({encoded(frames) for _ in range(12)}) == 1


# --- several that continue each other -------------------------------------------------------------


def moving(num_frames: int) -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    room = cv2.resize(rng.integers(60, 200, (6, 8, 3), np.uint8), (WIDTH, HEIGHT))
    return [np.roll(room, 5 * shift, axis=1) for shift in range(num_frames)]


def times(video: bytes) -> list[float]:
    with av.open(BytesIO(video)) as container:
        return [frame.time for frame in container.decode(video=0) if frame.time is not None]


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("fps", [10, 29.97, 0.5])
@pytest.mark.parametrize("lengths", [(1,), (1, 1, 1), (8, 8, 3), (5, 12, 5)])
def test_parts_play_one_after_the_other(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    codec: str,
    fps: float,
    lengths: tuple[int, ...],
) -> None:
    if codec == "mpeg4":
        monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    frames = moving(sum(lengths))
    begins = np.cumsum([0, *lengths[:-1]])
    parts = [
        encoded(frames[begin : begin + length], fps)
        for begin, length in zip(begins, lengths, strict=True)
    ]
    join_videos(parts, tmp_path / "joined.mp4")
    joined = (tmp_path / "joined.mp4").read_bytes()
    found = decoded(joined)
    separately = [frame for part in parts for frame in decoded(part).frames]
    assert len(found.frames) == len(frames) == found.num_frames
    assert all(np.array_equal(a, b) for a, b in zip(found.frames, separately, strict=True))
    assert found.fps == pytest.approx(fps, rel=1e-4)
    assert found.seconds == pytest.approx(len(frames) / fps, rel=0.01)
    assert times(joined) == pytest.approx(times(encoded(frames, fps)))
    again = tmp_path / "again.mp4"
    join_videos(parts, again)
    assert again.read_bytes() == joined


@pytest.mark.parametrize("name", ["a:b %03d #?.mp4", "花.mp4", "x" * 240 + ".mp4"])
def test_odd_file_names(tmp_path: Path, name: str) -> None:
    join_videos([encoded(moving(8)), encoded(moving(3))], tmp_path / name)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert len(decoded((tmp_path / name).read_bytes()).frames) == 11


def test_a_path_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write the video"):
        join_videos([encoded(moving(2))], tmp_path / "file" / "a.mp4")


def test_a_part_that_cannot_be_had_leaves_no_file(tmp_path: Path) -> None:
    def parts() -> Iterator[bytes]:
        yield encoded(moving(2))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        join_videos(parts(), tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


def test_joining_on_a_full_disk_is_a_user_error_and_leaves_what_was_there(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, HEIGHT, WIDTH, 3), dtype=np.uint8)
    parts = [encoded(list(noise)) for _ in range(2)]
    target = tmp_path / "joined.mp4"
    target.write_text("what was there")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        with pytest.raises(UserError, match="the disk is full"):
            join_videos(parts, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert target.read_text() == "what was there"
    assert [entry.name for entry in tmp_path.iterdir()] == ["joined.mp4"]
