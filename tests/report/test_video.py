"""Videos that can be decoded again, whole and in parts."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from t3dgs_masks import UserError
from t3dgs_masks.report.video import VideoWriter, join_videos

HEIGHT, WIDTH = 120, 160


def grey(level: int = 100) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), level, dtype=np.uint8)


@dataclass(frozen=True)
class Decoded:
    frames: list[np.ndarray]
    codec: str
    pixel_format: str
    num_frames: int  # as the file says
    fps: float
    seconds: float  # as the file says


def decoded(path: Path) -> Decoded:
    with av.open(str(path)) as container:
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    if codec == "mpeg4":
        monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    elif codec not in av.codecs_available:
        pytest.skip("this build of PyAV has no x264")
    colours = [(230, 30, 30), (30, 200, 30), (30, 30, 230), (240, 228, 66), (128, 128, 128)]
    path = tmp_path / "new" / "overlay.mp4"
    with VideoWriter(path, 10, HEIGHT, WIDTH) as writer:
        for colour in colours:
            frame = np.full((HEIGHT, WIDTH, 3), colour, dtype=np.uint8)
            frame[:, : WIDTH // 2] = 255 - frame[:, : WIDTH // 2]
            writer.push(frame)
        assert not path.exists()
    video = decoded(path)
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
    assert [entry.name for entry in path.parent.iterdir()] == ["overlay.mp4"]


@pytest.mark.parametrize(("height", "width"), [(121, 161), (1, 1), (2, 3), (17, 40)])
def test_odd_sizes_are_padded_by_their_last_row_and_column(
    tmp_path: Path, height: int, width: int
) -> None:
    frame = np.full((height, width, 3), (200, 90, 40), dtype=np.uint8)
    with VideoWriter(tmp_path / "a.mp4", 10, height, width) as writer:
        for _ in range(3):
            writer.push(frame)
    frames = decoded(tmp_path / "a.mp4").frames
    assert len(frames) == 3
    assert frames[0].shape == (height + height % 2, width + width % 2, 3)
    assert np.abs(frames[0][-1, -1] - np.array((200, 90, 40))).max() < 12


@pytest.mark.parametrize("fps", [0.5, 1, 23.976, 29.97, 59.94, 120])
def test_the_frame_rate_is_kept(tmp_path: Path, fps: float) -> None:
    with VideoWriter(tmp_path / "a.mp4", fps, HEIGHT, WIDTH) as writer:
        for level in range(4):
            writer.push(grey(level * 20))
    video = decoded(tmp_path / "a.mp4")
    assert len(video.frames) == 4
    assert video.fps == pytest.approx(fps, rel=1e-4)
    assert video.seconds == pytest.approx(4 / fps, rel=0.01)


def test_frames_from_an_array_view_are_written_right(tmp_path: Path) -> None:
    frame = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    frame[: HEIGHT // 2] = 255
    with VideoWriter(tmp_path / "a.mp4", 10, HEIGHT, WIDTH) as writer:
        writer.push(frame[::-1])
    frames = decoded(tmp_path / "a.mp4").frames
    assert frames[0][:40].mean() < 10
    assert frames[0][80:].mean() > 245


@pytest.mark.parametrize("name", ["a:b %03d #?.mp4", "花.mp4", "x" * 240 + ".mp4"])
def test_odd_file_names(tmp_path: Path, name: str) -> None:
    with VideoWriter(tmp_path / name, 10, HEIGHT, WIDTH) as writer:
        writer.push(grey())
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    def fail() -> None:
        with VideoWriter(tmp_path / "a.mp4", 10, HEIGHT, WIDTH) as writer:
            writer.push(grey())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with VideoWriter(tmp_path / "b.mp4", 10, HEIGHT, WIDTH):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_user_error_and_leaves_no_file(tmp_path: Path) -> None:
    def fill() -> None:
        noise = np.random.default_rng(0)
        with VideoWriter(tmp_path / "a.mp4", 10, HEIGHT, WIDTH) as writer:
            for _ in range(40):
                writer.push(noise.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        with pytest.raises(UserError, match="the disk is full"):
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write the video"):
        VideoWriter(tmp_path / "file" / "a.mp4", 10, HEIGHT, WIDTH)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_an_impossible_frame_rate_is_a_user_error(tmp_path: Path, fps: float) -> None:
    with pytest.raises(UserError, match="--fps"):
        VideoWriter(tmp_path / "a.mp4", fps, HEIGHT, WIDTH)


def test_a_frame_of_another_size_is_refused(tmp_path: Path) -> None:
    with (
        VideoWriter(tmp_path / "a.mp4", 10, HEIGHT, WIDTH) as writer,
        pytest.raises(ValueError, match="frame of shape"),
    ):
        writer.push(np.zeros((HEIGHT, WIDTH + 1, 3), np.uint8))


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    room = cv2.resize(rng.integers(60, 200, (6, 8, 3), np.uint8), (64, 48))
    frames = [
        np.clip(np.roll(room, 2 * shift, 1) + rng.normal(0, 3, room.shape), 0, 255).astype(np.uint8)
        for shift in range(10)
    ]
    videos = set()
    for attempt in range(12):
        path = tmp_path / f"{attempt}.mp4"
        with VideoWriter(path, 10, 48, 64) as writer:
            for frame in frames:
                writer.push(frame)
        videos.add(path.read_bytes())
    assert len(videos) == 1


# --- several that continue each other -------------------------------------------------------------


def moving(num_frames: int) -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    room = cv2.resize(rng.integers(60, 200, (6, 8, 3), np.uint8), (WIDTH, HEIGHT))
    return [np.roll(room, 5 * shift, axis=1) for shift in range(num_frames)]


def write(path: Path, frames: list[np.ndarray], fps: float) -> Path:
    with VideoWriter(path, fps, HEIGHT, WIDTH) as writer:
        for frame in frames:
            writer.push(frame)
    return path


def times(path: Path) -> list[float]:
    with av.open(str(path)) as container:
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
        write(tmp_path / f"part_{begin}.mp4", frames[begin : begin + length], fps)
        for begin, length in zip(begins, lengths, strict=True)
    ]
    join_videos(parts, tmp_path / "joined.mp4")
    write(tmp_path / "whole.mp4", frames, fps)
    found = decoded(tmp_path / "joined.mp4")
    separately = [frame for part in parts for frame in decoded(part).frames]
    assert len(found.frames) == len(frames) == found.num_frames
    assert all(np.array_equal(a, b) for a, b in zip(found.frames, separately, strict=True))
    assert found.fps == pytest.approx(fps, rel=1e-4)
    assert found.seconds == pytest.approx(len(frames) / fps, rel=0.01)
    assert times(tmp_path / "joined.mp4") == pytest.approx(times(tmp_path / "whole.mp4"))
    again = tmp_path / "again.mp4"
    join_videos(parts, again)
    assert again.read_bytes() == (tmp_path / "joined.mp4").read_bytes()


def test_odd_names_of_parts(tmp_path: Path) -> None:
    parts = [write(tmp_path / name, moving(2), 10) for name in ("a:b %03d.mp4", "花.mp4")]
    join_videos(parts, tmp_path / "c:d.mp4")
    assert len(decoded(tmp_path / "c:d.mp4").frames) == 4


def test_joining_on_a_full_disk_is_a_user_error_and_leaves_what_was_there(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, HEIGHT, WIDTH, 3), dtype=np.uint8)
    parts = [write(tmp_path / f"{i}.mp4", list(noise), 10) for i in range(2)]
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
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["0.mp4", "1.mp4", "joined.mp4"]
