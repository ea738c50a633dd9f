"""The overlay: what is drawn, and a video that can be decoded again."""

from __future__ import annotations

import itertools
import resource
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from t3dgs_masks import UserError
from t3dgs_masks.report import overlay
from t3dgs_masks.report.overlay import OverlayWriter, object_colour, overlay_frame

HEIGHT, WIDTH = 120, 160


def disc(centre_y: int, centre_x: int, radius: int) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (rows - centre_y) ** 2 + (columns - centre_x) ** 2 <= radius**2


def grey(level: int = 100) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), level, dtype=np.uint8)


def decoded(path: Path) -> tuple[list[np.ndarray], av.VideoStream]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return frames, stream


# --- drawing --------------------------------------------------------------------------------------


def test_colours_are_stable_and_far_apart() -> None:
    assert object_colour(3) == object_colour(3)
    colours = np.array([[object_colour(object_id) for object_id in range(200)]], np.float32) / 255
    perceived = cv2.cvtColor(colours, cv2.COLOR_RGB2LAB)[0]
    apart = [np.linalg.norm(a - b) for a, b in itertools.combinations(perceived[:19], 2)]
    assert min(apart) > 15
    assert len(np.unique(perceived, axis=0)) > 190


def test_a_kept_object_is_tinted_in_its_colour_and_nothing_else_changes() -> None:
    image = grey()
    mask = disc(60, 80, 40)
    drawn = overlay_frame(image, [(5, mask)])
    assert np.array_equal(image, grey())
    assert drawn.dtype == np.uint8
    assert np.array_equal(drawn[~mask], image[~mask])
    tint = np.round(100 * 0.55 + np.array(object_colour(5)) * 0.45)
    assert np.abs(drawn[60, 60] - tint).max() <= 1  # inside, away from outline and label
    assert tuple(drawn[60, 40]) == object_colour(5)  # the leftmost pixel is on the outline


def test_the_id_is_written_on_the_object() -> None:
    mask = disc(60, 80, 40)
    first = overlay_frame(grey(), [(11, mask)])
    tint = np.round(100 * 0.55 + np.array(object_colour(11)) * 0.45)
    near_centre = first[50:70, 65:95].astype(int)
    assert (np.abs(near_centre - tint).max(axis=2) > 40).sum() > 20


def test_a_rejected_object_is_hatched_in_grey() -> None:
    image = grey()
    image[..., 0] = 220
    mask = disc(60, 80, 40)
    drawn = overlay_frame(image, [], [(5, mask)]).astype(int)
    left = drawn[55:65, 45:65].reshape(-1, 3)  # away from outline and label
    assert (left.max(axis=1) - left.min(axis=1)).max() <= 1  # no colour is left
    assert 0.15 < (left[:, 0] == 190).mean() < 0.35  # two pixels of eight are on a line
    assert np.array_equal(drawn[~mask], image[~mask])


def test_a_rejected_object_never_hides_a_kept_one() -> None:
    mask = disc(60, 80, 40)
    drawn = overlay_frame(grey(), [(0, disc(60, 80, 20))], [(1, mask)])
    assert tuple(drawn[60, 60]) == object_colour(0)


def test_no_objects_empty_masks_and_a_single_pixel() -> None:
    assert np.array_equal(overlay_frame(grey(), [], []), grey())
    nothing = np.zeros((HEIGHT, WIDTH), dtype=bool)
    assert np.array_equal(overlay_frame(grey(), [(0, nothing)], [(1, nothing)]), grey())
    pixel = np.ones((1, 1), dtype=bool)
    assert overlay_frame(np.zeros((1, 1, 3), np.uint8), [(0, pixel)]).shape == (1, 1, 3)


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="mask of shape"):
        overlay_frame(grey(), [(0, np.ones((3, 3), dtype=bool))])


# --- the video ------------------------------------------------------------------------------------


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
    with OverlayWriter(path, 10, HEIGHT, WIDTH) as writer:
        for colour in colours:
            frame = np.full((HEIGHT, WIDTH, 3), colour, dtype=np.uint8)
            frame[:, : WIDTH // 2] = 255 - frame[:, : WIDTH // 2]
            writer.push(frame)
        assert not path.exists()
    frames, stream = decoded(path)
    assert len(frames) == len(colours)
    assert stream.codec_context.name == {"libx264": "h264", "mpeg4": "mpeg4"}[codec]
    assert stream.codec_context.pix_fmt == "yuv420p"
    assert stream.average_rate == 10
    for frame, colour in zip(frames, colours, strict=True):
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
    with OverlayWriter(tmp_path / "a.mp4", 10, height, width) as writer:
        for _ in range(3):
            writer.push(frame)
    frames, _ = decoded(tmp_path / "a.mp4")
    assert len(frames) == 3
    assert frames[0].shape == (height + height % 2, width + width % 2, 3)
    assert np.abs(frames[0][-1, -1] - np.array((200, 90, 40))).max() < 12


@pytest.mark.parametrize("fps", [0.5, 1, 23.976, 29.97, 59.94, 120])
def test_the_frame_rate_is_kept(tmp_path: Path, fps: float) -> None:
    with OverlayWriter(tmp_path / "a.mp4", fps, HEIGHT, WIDTH) as writer:
        for level in range(4):
            writer.push(grey(level * 20))
    frames, stream = decoded(tmp_path / "a.mp4")
    assert len(frames) == 4
    assert stream.average_rate == pytest.approx(fps, rel=1e-4)
    assert stream.duration is not None
    assert stream.time_base is not None
    assert float(stream.duration * stream.time_base) == pytest.approx(4 / fps, rel=0.01)


def test_frames_from_an_array_view_are_written_right(tmp_path: Path) -> None:
    frame = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    frame[: HEIGHT // 2] = 255
    with OverlayWriter(tmp_path / "a.mp4", 10, HEIGHT, WIDTH) as writer:
        writer.push(frame[::-1])
    frames, _ = decoded(tmp_path / "a.mp4")
    assert frames[0][:40].mean() < 10
    assert frames[0][80:].mean() > 245


@pytest.mark.parametrize("name", ["a:b %03d #?.mp4", "花.mp4", "x" * 240 + ".mp4"])
def test_odd_file_names(tmp_path: Path, name: str) -> None:
    with OverlayWriter(tmp_path / name, 10, HEIGHT, WIDTH) as writer:
        writer.push(grey())
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    def fail() -> None:
        with OverlayWriter(tmp_path / "a.mp4", 10, HEIGHT, WIDTH) as writer:
            writer.push(grey())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with OverlayWriter(tmp_path / "b.mp4", 10, HEIGHT, WIDTH):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_user_error_and_leaves_no_file(tmp_path: Path) -> None:
    def fill() -> None:
        noise = np.random.default_rng(0)
        with OverlayWriter(tmp_path / "a.mp4", 10, HEIGHT, WIDTH) as writer:
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
        OverlayWriter(tmp_path / "file" / "a.mp4", 10, HEIGHT, WIDTH)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_an_impossible_frame_rate_is_a_user_error(tmp_path: Path, fps: float) -> None:
    with pytest.raises(UserError, match="--fps"):
        OverlayWriter(tmp_path / "a.mp4", fps, HEIGHT, WIDTH)


def test_a_frame_of_another_size_is_refused(tmp_path: Path) -> None:
    with (
        OverlayWriter(tmp_path / "a.mp4", 10, HEIGHT, WIDTH) as writer,
        pytest.raises(ValueError, match="frame of shape"),
    ):
        writer.push(np.zeros((HEIGHT, WIDTH + 1, 3), np.uint8))


def test_tint_is_the_rounded_mix_of_both_colours():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)
    mask = disc(40, 70, 25)[:90, :120]
    drawn = image.copy()
    overlay._tint(drawn, mask, (230, 159, 0))
    mixed = image[mask] * (1 - overlay._TINT) + np.array((230, 159, 0)) * overlay._TINT
    assert np.array_equal(drawn[mask], mixed.round().astype(np.uint8))
    assert np.array_equal(drawn[~mask], image[~mask])


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
        with OverlayWriter(path, 10, 48, 64) as writer:
            for frame in frames:
                writer.push(frame)
        videos.add(path.read_bytes())
    assert len(videos) == 1
