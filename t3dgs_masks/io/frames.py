"""Frames of a capture: a folder of images or a video file, read one at a time."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from av.video.stream import VideoStream

from t3dgs_masks.errors import UserError
from t3dgs_masks.io.globs import NO_GLOBS, Globs
from t3dgs_masks.io.images import (
    IMAGE_SUFFIXES,
    file_digest,
    is_turned,
    read_rgb,
    scan_folder,
    shown,
    stored_size,
    upright_size,
)
from t3dgs_masks.types import FrameSequence, Image

Notify = Callable[[str], None]

_VIDEO_CACHE_BYTES = 256 << 20
_PROBED_FRAMES = 24  # more than any codec reorders


class SourceFrames(FrameSequence, Protocol):
    """A `FrameSequence` that knows where it came from."""

    @property
    def source_height(self) -> int:
        """Height of the source images, upright; results on disk have it. `height` unless the
        frames are resized for processing."""
        ...

    @property
    def source_width(self) -> int: ...

    @property
    def fps(self) -> float | None:
        """Frames of this sequence per second; None if the source does not say (folders)."""
        ...

    def frame_digest(self, frame_idx: int) -> str:
        """sha256 (hexadecimal) that changes whenever the pixels of this frame may have."""
        ...

    def content_digest(self) -> str:
        """sha256 (hexadecimal) of everything that determines names and pixels of all frames."""
        ...


def open_frames(
    path: Path,
    *,
    every: int = 1,
    start: int | None = None,
    end: int | None = None,
    resolution: int | None = None,
    notify: Notify,
) -> SourceFrames:
    """Open a folder of images or a video file. Nothing but headers and one frame is read yet.

    Args:
        path: a folder (read with its subfolders) or a video file.
        every: take every so many-th source frame, counted from `start`.
        start: first source frame (index, from 0).
        end: source frame to stop before; beyond the last one means all.
        resolution: length in pixels of the shorter side that frames are reduced to for
            processing; None, or a length the frames do not reach, leaves them as they are.
        notify: takes one-line notices for the user.

    Raises:
        UserError: nothing there, nothing usable in it, or frames of different sizes.
    """
    check_resolution(resolution)
    return reduced(open_source_frames(path, Selection(every, start, end), notify), resolution)


def open_source_frames(
    path: Path, selection: Selection, notify: Notify, globs: Globs = NO_GLOBS
) -> ImageFolderFrames | VideoFrames:
    """`open_frames` at source size; `globs` choose among the files of a folder.

    Raises:
        UserError: as `open_frames`; globs for a video, or globs that leave nothing.
    """
    if path.is_dir():
        return ImageFolderFrames(path, selection, notify, globs)
    if not path.is_file():
        raise UserError(
            f"there is no folder or video file {shown(path)}: check the path of the frames"
        )
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise UserError(f"{shown(path)} is a single image: give the folder that holds it")
    if globs:
        raise UserError(
            f"--include and --exclude choose among files, and {shown(path)} is a single one: use"
            " --start, --end and --every for a video"
        )
    return VideoFrames(path, selection, notify)


def check_resolution(resolution: int | None) -> None:
    """Raises UserError if no image can have `resolution` pixels on its shorter side."""
    if resolution is not None and resolution < 1:
        raise UserError(f"--resolution {resolution}: give a length of at least 1 pixel")


def reduced(frames: SourceFrames, resolution: int | None) -> SourceFrames:
    """`frames` with a shorter side of `resolution` pixels; as they are if they do not reach it."""
    if resolution is None or resolution >= min(frames.height, frames.width):
        return frames
    return ResizedFrames(frames, resolution)


@dataclass(frozen=True)
class Selection:
    """Which source frames take part; `UserError` if it makes no sense."""

    every: int = 1
    start: int | None = None
    end: int | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise UserError(f"--every {self.every}: give a step of at least 1 frame")
        if self.start is not None and self.start < 0:
            raise UserError(f"--start {self.start}: frames are counted from 0")
        if self.end is not None and self.end <= (self.start or 0):
            raise UserError(
                f"--end {self.end} leaves no frame after --start {self.start or 0}:"
                " give a larger --end"
            )

    def of(self, count: int, source: Path) -> range:
        """Indices of the selected among `count` frames of `source`, at least one."""
        chosen = range(self.start or 0, min(count, self.end or count), self.every)
        if not chosen:
            raise UserError(
                f"--start {self.start} lies behind the last of the {count} frames in"
                f" {shown(source)}: give a smaller --start"
            )
        return chosen


# --- Image files ------------------------------------------------------------------------------


class ImageFileFrames:
    """Image files of one size under given names."""

    def __init__(self, files: Mapping[str, Path], *, upright: bool = True) -> None:
        """Check the sizes of the files by their headers.

        Args:
            files: the file of every frame by its name, in order; at least one.
            upright: turn images by their EXIF orientation. False takes the pixels as stored,
                which is what the cameras of a posed dataset are for.

        Raises:
            UserError: unreadable files, or files of different sizes.
        """
        self._names = tuple(files)
        self._paths = tuple(files.values())
        self._upright = upright
        self.height, self.width = _common_size(self._paths, upright)

    @property
    def names(self) -> Sequence[str]:
        return self._names

    @property
    def source_height(self) -> int:
        return self.height

    @property
    def source_width(self) -> int:
        return self.width

    @property
    def fps(self) -> float | None:
        return None

    @property
    def paths(self) -> Sequence[Path]:
        """The file of every frame."""
        return self._paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, frame_idx: int) -> Image:
        """[H, W, 3] uint8 RGB. Raises UserError if the file is broken or has changed its size."""
        path = self._paths[frame_idx]
        image = read_rgb(path, upright=self._upright)
        if image.shape[:2] != (self.height, self.width):
            raise UserError(
                f"{shown(path)} is {_size(*image.shape[:2])}, but its header said"
                f" {_size(self.height, self.width)}: replace the file, or start again if it changed"
            )
        return image

    def frame_digest(self, frame_idx: int) -> str:
        path = self._paths[frame_idx]
        digest = file_digest(path)
        if not self._upright and is_turned(path):
            return combined_digest([digest, "as stored"])  # other pixels of the same bytes
        return digest

    def content_digest(self) -> str:
        return combined_digest(
            itertools.chain.from_iterable(
                (name, self.frame_digest(idx)) for idx, name in enumerate(self._names)
            )
        )


class ImageFolderFrames(ImageFileFrames):
    """The images of a folder and its subfolders in natural order of their relative paths."""

    def __init__(
        self, root: Path, selection: Selection, notify: Notify, globs: Globs = NO_GLOBS
    ) -> None:
        """Find the images and check their sizes by their headers.

        Raises:
            UserError: no images, unreadable ones, two of one name, or different sizes.
        """
        scan = scan_folder(root)
        if scan.strays:
            notify(
                f"{_counted(len(scan.strays), 'file')} in {shown(root)} ignored as not an image"
                f" (the first: {shown(scan.strays[0].relative_to(root))})"
            )
        if not scan.files:
            raise UserError(
                f"{shown(root)} holds no images: give a folder of JPEG, PNG, WebP, TIFF or BMP"
                " files, or a video file"
            )
        sources = {name: path.relative_to(root).as_posix() for name, path in scan.files.items()}
        names = globs.choose(list(scan.files), sources.__getitem__, root, notify)
        chosen = selection.of(len(names), root)
        super().__init__({names[idx]: scan.files[names[idx]] for idx in chosen})


def _common_size(paths: Sequence[Path], upright: bool) -> tuple[int, int]:
    size_of = upright_size if upright else stored_size
    height, width = size_of(paths[0])
    for path in paths[1:]:
        size = size_of(path)
        if size != (height, width):
            note = " (after EXIF rotation)" if upright else ""
            raise UserError(
                f"{shown(path)} is {_size(*size)}, but {shown(paths[0])} is"
                f" {_size(height, width)}: all frames must have one size{note}"
            )
    return height, width


# --- Video ------------------------------------------------------------------------------------


class VideoFrames:
    """A video file with random access; a few decoded frames are kept, never all.

    Reading forwards decodes every frame once. Reading backwards decodes from the keyframe before
    and keeps the frames up to the wanted one, as many as the memory limit allows, so that a group
    of pictures is decoded once, or a few times if it is long and large.
    """

    def __init__(
        self,
        path: Path,
        selection: Selection,
        notify: Notify,
        *,
        cache_bytes: int = _VIDEO_CACHE_BYTES,
    ) -> None:
        """Index the packets and decode the first selected frame.

        Raises:
            UserError: not a video, no frames in it, or none that can be decoded.
        """
        self._path = path
        self._selection = selection
        self._decoder = _SeekingDecoder(path, notify)
        self._source_of = selection.of(len(self._decoder), path)
        self._names = tuple(f"frame_{source_idx:06d}" for source_idx in self._source_of)
        self._lock = threading.Lock()  # the decoder has one position
        self._cache: OrderedDict[int, Image] = OrderedDict()  # by source index
        self._capacity = 1
        self.height, self.width = self[0].shape[:2]
        self._capacity = max(2, cache_bytes // (self.height * self.width * 3))

    @property
    def source_indices(self) -> Sequence[int]:
        """Index of every frame in the video."""
        return self._source_of

    @property
    def names(self) -> Sequence[str]:
        """``frame_000123``: the frame's index in the source video, whatever the selection."""
        return self._names

    @property
    def source_height(self) -> int:
        return self.height

    @property
    def source_width(self) -> int:
        return self.width

    @property
    def fps(self) -> float | None:
        rate = self._decoder.fps
        return rate / self._selection.every if rate else None

    def __len__(self) -> int:
        return len(self._source_of)

    def __getitem__(self, frame_idx: int) -> Image:
        """[H, W, 3] uint8 RGB, upright. Raises UserError if this frame cannot be decoded."""
        source_idx = self._source_of[frame_idx]
        with self._lock:
            if source_idx not in self._cache:
                self._decode_up_to(source_idx)
            self._cache.move_to_end(source_idx)
            return self._cache[source_idx].copy()  # the caller may write to it

    def _decode_up_to(self, target: int) -> None:
        """Fill the cache with `target` and with what is decoded on the way and fits with it."""
        oldest_kept = target - (self._capacity - 1) * self._source_of.step
        for source_idx, frame in self._decoder.decode_up_to(target):
            if source_idx >= oldest_kept and source_idx in self._source_of:
                self._keep(source_idx, _upright_rgb(frame))

    def _keep(self, source_idx: int, image: Image) -> None:
        known = next(iter(self._cache.values()), image)
        if image.shape != known.shape:
            raise UserError(
                f"frame {source_idx} of {shown(self._path)} is {_size(*image.shape[:2])}, the"
                f" frames before it {_size(*known.shape[:2])}: cut the video with --start and --end"
            )
        self._cache[source_idx] = image
        self._cache.move_to_end(source_idx)
        while len(self._cache) > self._capacity:
            self._cache.popitem(last=False)

    def frame_digest(self, frame_idx: int) -> str:
        """Of the decoded pixels, so that the rest of the video does not matter."""
        return hashlib.sha256(self[frame_idx].tobytes()).hexdigest()

    def content_digest(self) -> str:
        return combined_digest([file_digest(self._path), *self._names])


@dataclass(frozen=True)
class _VideoIndex:
    """What is known of a stream's frames without decoding them."""

    pts: tuple[int, ...] | None
    """Presentation time stamps in order; None if the file has no usable ones, and frames are
    counted from the beginning instead."""
    keyframes: tuple[int, ...]
    """Frame indices at which decoding can start, ascending, the first is 0."""
    count: int


class _SeekingDecoder:
    """Decoded frames of a video by their index in presentation order."""

    def __init__(self, path: Path, notify: Notify) -> None:
        self._path = path
        with _video_errors(path), _open_video(path) as (_, stream):
            announced = stream.frames
            rate = stream.average_rate or stream.guessed_rate
            self.fps = float(rate) if rate else None
        self._index = _index_packets(path) or _index_by_decoding(path)
        self._idx_of_pts = {pts: idx for idx, pts in enumerate(self._index.pts or ())}
        if announced > len(self):
            notify(
                f"{shown(path)} announces {announced} frames but holds {len(self)}"
                " (was it cut off?): working with those"
            )
        self._container: InputContainer | None = None
        self._frames: Iterator[tuple[int, av.VideoFrame]] = iter(())
        self._next_idx = -1  # the frame that `_frames` gives next, -1: none

    def __len__(self) -> int:
        return self._index.count

    def decode_up_to(self, target: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """(index, frame) from some frame at or before `target` up to `target`, the last one.

        Raises:
            UserError: the video holds a packet for `target` but gives no frame for it.
        """
        with _video_errors(self._path):
            at = bisect.bisect_right(self._index.keyframes, target) - 1
            if not self._index.keyframes[at] <= self._next_idx <= target:
                self._seek(at, target)
            self._next_idx, reached = -1, -1
            for reached, frame in self._frames:
                if reached <= target:
                    yield reached, frame
                if reached >= target:
                    self._next_idx = reached + 1
                    break
        if reached != target:
            self._next_idx = -1
            raise UserError(
                f"frame {target} of {shown(self._path)} cannot be decoded: re-encode the video,"
                f" or leave the frame out with --end {target} or --start {target + 1}"
            )

    def _seek(self, at: int, target: int) -> None:
        """Make `_frames` start at or before `target`, at the `at`-th keyframe if it works.

        Containers seek by decoding time, so that a seek can end behind the wanted frame; then
        one keyframe further back is tried, and at last the beginning of the file.
        """
        for keyframe in reversed(self._index.keyframes[: at + 1]):
            self._frames = self._from_keyframe(keyframe)
            first = next(self._frames, None)
            if first is not None and first[0] <= target:
                self._frames = itertools.chain([first], self._frames)
                return

    def _from_keyframe(self, keyframe: int) -> Iterator[tuple[int, av.VideoFrame]]:
        if self._container is None or keyframe == 0:
            self.close()
            self._container, _ = _open_container(self._path)
        container = self._container
        stream = container.streams.video[0]
        if keyframe > 0 and self._index.pts is not None:
            container.seek(self._index.pts[keyframe], stream=stream)
        return self._indexed(container.decode(stream), keyframe)

    def _indexed(
        self, decoded: Iterator[av.VideoFrame], keyframe: int
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        for position, frame in enumerate(decoded):
            if self._index.pts is None:
                yield position, frame
                continue
            idx = None if frame.pts is None else self._idx_of_pts.get(frame.pts)
            # Frames shown before the keyframe refer to pictures that were not decoded.
            if idx is not None and idx >= keyframe:
                yield idx, frame

    def close(self) -> None:
        """Let go of the file; the next frame opens it again."""
        if self._container is not None:
            self._container.close()
            self._container = None
        self._next_idx = -1


def _index_packets(path: Path) -> _VideoIndex | None:
    """Index a video by its packets alone; None if their time stamps do not tell the order."""
    stamps: list[int | None] = []
    keys: list[int | None] = []
    with _video_errors(path, partial=True), _open_video(path) as (container, stream):
        for packet in container.demux(stream):
            if packet.size and not packet.is_discard:
                stamps.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(packet.pts)
    if not stamps:
        raise UserError(f"{shown(path)} holds no video frames: re-encode it, or give another file")
    pts = sorted(stamp for stamp in stamps if stamp is not None)
    if len(set(pts)) < len(stamps) or not _stamps_are_in_order(path, pts):
        return None
    idx_of_pts = {stamp: idx for idx, stamp in enumerate(pts)}
    keyframes = {0} | {idx_of_pts[key] for key in keys if key is not None}
    return _VideoIndex(tuple(pts), tuple(sorted(keyframes)), len(pts))


def _stamps_are_in_order(path: Path, pts: Sequence[int]) -> bool:
    """Whether the first frames come out of the decoder in the order and with the stamps of their
    packets. In some files (H.264 in AVI) packets carry the order of decoding."""
    decoded: list[int | None] = []
    with _video_errors(path, partial=True), _open_video(path) as (container, stream):
        for frame in itertools.islice(container.decode(stream), _PROBED_FRAMES):
            decoded.append(frame.pts)
    return bool(decoded) and decoded == list(pts[: len(decoded)])


def _index_by_decoding(path: Path) -> _VideoIndex:
    """Count the frames of a video without usable time stamps; decodes all of it once."""
    count = 0
    with _video_errors(path, partial=True), _open_video(path) as (container, stream):
        for _ in container.decode(stream):
            count += 1
    if count == 0:
        raise UserError(f"{shown(path)}: no frame can be decoded; re-encode it as H.264 in MP4")
    return _VideoIndex(None, (0,), count)


def _open_container(path: Path) -> tuple[InputContainer, VideoStream]:
    # "file:" keeps FFmpeg from taking a name like "concat:a.mp4" for one of its protocols.
    container = av.open(f"file:{path}", metadata_errors="replace")
    if not container.streams.video:
        container.close()
        raise UserError(f"{shown(path)} holds no video stream: give a folder or a video file")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return container, stream


@contextmanager
def _open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    container, stream = _open_container(path)
    with container:
        yield container, stream


@contextmanager
def _video_errors(path: Path, *, partial: bool = False) -> Iterator[None]:
    """FFmpeg's errors as UserErrors; with `partial` damage in the middle of the file ends the
    reading quietly, and what was read before counts."""
    try:
        yield
    except InvalidDataError as problem:
        if not partial:
            raise _broken_video(path, problem) from problem
    except (FFmpegError, OSError, UnicodeError) as problem:
        raise _broken_video(path, problem) from problem


def _broken_video(path: Path, problem: Exception) -> UserError:
    reason = getattr(problem, "strerror", None) or problem
    return UserError(
        f"cannot read the video {shown(path)}: {reason}; check that it plays, or re-encode it"
        " as H.264 in MP4"
    )


def _upright_rgb(frame: av.VideoFrame) -> Image:
    image = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    quarter_turns = round(frame.rotation / 90) % 4  # counter-clockwise, as numpy's
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image


# --- Resizing, digests ------------------------------------------------------------------------


class ResizedFrames:
    """Frames reduced for processing; names, digests and source size tell of the original."""

    def __init__(self, frames: SourceFrames, short_side: int) -> None:
        """Reduce `frames` so that their shorter side has `short_side` pixels (at least 1, at most
        what it has); the proportions stay, up to rounding."""
        self._frames = frames
        scale = short_side / min(frames.height, frames.width)
        self.height = max(1, round(frames.height * scale))
        self.width = max(1, round(frames.width * scale))

    @property
    def names(self) -> Sequence[str]:
        return self._frames.names

    @property
    def source_height(self) -> int:
        return self._frames.source_height

    @property
    def source_width(self) -> int:
        return self._frames.source_width

    @property
    def fps(self) -> float | None:
        return self._frames.fps

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, frame_idx: int) -> Image:
        """[H, W, 3] uint8 RGB, averaged over the source pixels each pixel covers."""
        size = (self.width, self.height)
        resized = cv2.resize(self._frames[frame_idx], size, interpolation=cv2.INTER_AREA)
        return np.asarray(resized, dtype=np.uint8)

    def frame_digest(self, frame_idx: int) -> str:
        return combined_digest([self._frames.frame_digest(frame_idx), *self._size_parts()])

    def content_digest(self) -> str:
        return combined_digest([self._frames.content_digest(), *self._size_parts()])

    def _size_parts(self) -> tuple[str, str]:
        return str(self.height), str(self.width)


def combined_digest(parts: Iterator[str] | Sequence[str]) -> str:
    """sha256 (hexadecimal) of a series of texts; where one ends and the next begins counts."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape")
        digest.update(f"{len(data)}:".encode())
        digest.update(data)
    return digest.hexdigest()


def _size(height: int, width: int) -> str:
    return f"{width}x{height}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
