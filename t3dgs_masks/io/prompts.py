"""Prompts of a sequence: coarse masks and residuals from disk, whichever way they were written.

A prompt folder holds `masks/` and, optionally, `diffs/`. This module settles which file belongs to
which frame and whether white means transient or static; what leaves it is a `FramePrompt` at
frame size, True = transient.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from t3dgs_masks.errors import UserError
from t3dgs_masks.io.frames import combined_digest
from t3dgs_masks.io.images import (
    IMAGE_SUFFIXES,
    FolderScan,
    Planes,
    file_digest,
    read_planes,
    scan_folder,
    shown,
)
from t3dgs_masks.types import BoolMask, FloatMap, FramePrompt, FrameSequence

Notify = Callable[[str], None]
Polarity = Literal["white-transient", "white-static"]

RESIDUAL_SUFFIXES = IMAGE_SUFFIXES | {".npy"}

_SAMPLED_FRAMES = 50
_MINORITY, _MAJORITY = 0.35, 0.65  # share of white that is clearly the transient / static side
_MINORITY_ALONE, _MAJORITY_ALONE = 0.3, 0.7  # the same, where there are no residuals
_BORDER_ALONE = 0.15  # of the frame's border: what the transient side may cover of it then
_CLEAR_RATIO = 1.25  # of the mean residual in white to that outside, or its inverse
_CONSISTENT_SHARE = 0.7  # of the frames that have to agree on the direction
_SMALLEST_SIDE = 0.001  # of the frame; fewer pixels say nothing about the mean residual there
_MOST_LABELS = 16  # levels of an image that is taken for one of labels
_HIGHEST_FLOAT_RESIDUAL = 2.0  # a render may overshoot [0, 1], but not by that much


def open_prompts(
    prompt_dir: Path,
    frames: FrameSequence,
    *,
    polarity: Literal["auto", "white-transient", "white-static"],
    notify: Notify,
) -> Prompts:
    """Open a prompt folder; reads at most a sample of its files, and only to settle polarity.

    Args:
        prompt_dir: holds `masks/` and, optionally, `diffs/`; or the masks themselves.
        frames: names say which file is whose, size is what prompts are brought to.
        polarity: what white means in the mask files; `auto` decides by area and residuals.
        notify: takes one-line notices for the user, now and while prompts are read.

    Raises:
        UserError: no masks, masks of other frames, two masks of one frame, or a polarity that
            cannot be told.
    """
    if not prompt_dir.is_dir():
        raise UserError(
            f"there is no folder {shown(prompt_dir)}: give one that holds masks/ (and diffs/)"
        )
    mask_dir, mask_scan = _find_masks(prompt_dir, notify)
    masks = _assign(mask_scan, mask_dir, frames, "mask", notify)
    residuals = _find_residuals(prompt_dir, frames, notify)
    reader = _Reader(frames, masks.file_of_frame, residuals, notify)
    if polarity == "auto":
        sample = spread(sorted(masks.file_of_frame), _SAMPLED_FRAMES)
        evidence = [reader.evidence(frame_idx) for frame_idx in sample]
        decision = decide_polarity(evidence, f"{shown(mask_dir)}")
        notify(f"prompt polarity: {decision.polarity}, because {decision.reason}")
    else:
        decision = PolarityDecision(polarity, "it was given by --prompt-polarity")
    return Prompts(frames, reader, decision, masks.by)


class Prompts:
    """A `PromptSource` over files; reads one frame's files when it is asked for that frame."""

    def __init__(
        self,
        frames: FrameSequence,
        reader: _Reader,
        decision: PolarityDecision,
        matched_by: Literal["name", "position"],
    ) -> None:
        self._frames = frames
        self._reader = reader
        self.polarity: Polarity = decision.polarity
        """What white means in the mask files."""
        self.polarity_reason = decision.reason
        """Why, in words and figures; completes "because ..."."""
        self.matched_by: Literal["name", "position"] = matched_by
        """How mask files were matched to frames."""

    @property
    def has_residuals(self) -> bool:
        return bool(self._reader.residuals)

    @property
    def frames_with_mask(self) -> Sequence[int]:
        """Indices of the frames that have a mask file, ascending."""
        return sorted(self._reader.masks)

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, frame_idx: int) -> FramePrompt:
        """Coarse mask (True = transient; empty if there is no file) and residual (None if there
        is no file) of one frame, at frame size.

        Raises:
            UserError: a file of this frame is broken or has other proportions than the frame.
        """
        white = self._reader.white(frame_idx)
        if white is None:
            coarse = np.zeros((self._frames.height, self._frames.width), dtype=np.bool_)
        else:
            coarse = white if self.polarity == "white-transient" else ~white
        return FramePrompt(coarse, self._reader.residual(frame_idx))

    def content_digest(self) -> str:
        """sha256 (hexadecimal) of all matched files' bytes, and of which frame each belongs to."""
        parts: list[str] = []
        for kind, files in (("mask", self._reader.masks), ("residual", self._reader.residuals)):
            for frame_idx in sorted(files):
                parts += [kind, self._frames.names[frame_idx], file_digest(files[frame_idx])]
        return combined_digest(parts)


# --- Which file belongs to which frame --------------------------------------------------------


@dataclass(frozen=True)
class Matching:
    """Files found for frames by their names."""

    file_of_frame: dict[int, str]
    """Frame index -> name of its file."""
    unused: tuple[str, ...]
    """Files that belong to no frame, in the order given."""
    conflict: tuple[str, str] | None = None
    """Two files with an equal claim on one frame, if there are any."""


def match_names(frame_names: Sequence[str], file_names: Sequence[str]) -> Matching:
    """Find every frame's file by name.

    A file belongs to the frame of the same name; else to the one named like it without an image
    suffix (`a.jpg`, of the file `a.jpg.png`); else, if it lies in no subfolder, to the only frame
    of that name in any subfolder. If several files claim a frame, the first of these rules wins.

    Args:
        frame_names: unique, '/'-separated, without suffix.
        file_names: unique, '/'-separated, without the file's own suffix.
    """
    frame_of_name = {name: idx for idx, name in enumerate(frame_names)}
    frame_of_basename = _unambiguous_basenames(frame_names)
    claims: dict[int, tuple[int, str]] = {}
    conflict: tuple[str, str] | None = None
    for file_name in file_names:
        claim = _claim(file_name, frame_of_name, frame_of_basename)
        if claim is None:
            continue
        rank, frame_idx = claim
        held_rank, held_by = claims.get(frame_idx, (rank + 1, ""))
        if rank == held_rank and conflict is None:
            conflict = (held_by, file_name)
        if rank < held_rank:
            claims[frame_idx] = (rank, file_name)
    used = {file_name for _, file_name in claims.values()}
    unused = tuple(name for name in file_names if name not in used)
    file_of_frame = {idx: file_name for idx, (_, file_name) in sorted(claims.items())}
    return Matching(file_of_frame, unused, conflict)


def _claim(
    file_name: str, frame_of_name: Mapping[str, int], frame_of_basename: Mapping[str, int]
) -> tuple[int, int] | None:
    """(rank of the rule that applies, lower is stronger; frame index)."""
    bare = _without_image_suffix(file_name)
    candidates = [(frame_of_name, file_name), (frame_of_name, bare)]
    if "/" not in file_name:
        candidates += [(frame_of_basename, file_name), (frame_of_basename, bare)]
    for rank, (frame_of, name) in enumerate(candidates):
        if name in frame_of:
            return rank, frame_of[name]
    return None


def _without_image_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if stem and f"{dot}{suffix}".lower() in IMAGE_SUFFIXES else name


def _unambiguous_basenames(frame_names: Sequence[str]) -> dict[str, int]:
    frames_of: dict[str, list[int]] = {}
    for idx, name in enumerate(frame_names):
        frames_of.setdefault(name.rpartition("/")[2], []).append(idx)
    return {basename: found[0] for basename, found in frames_of.items() if len(found) == 1}


@dataclass(frozen=True)
class _Assignment:
    file_of_frame: dict[int, Path]
    by: Literal["name", "position"]


def _assign(
    scan: FolderScan, folder: Path, frames: FrameSequence, noun: str, notify: Notify
) -> _Assignment:
    """Match files to frames, and say what is left over on either side."""
    file_names, names = list(scan.files), frames.names
    matching = match_names(names, file_names)
    if matching.conflict is not None:
        first, second = (shown(scan.files[name]) for name in matching.conflict)
        raise UserError(f"{first} and {second} are both a {noun} of one frame: remove one of them")
    if not matching.file_of_frame:
        if len(file_names) != len(names):
            raise UserError(
                f"no {noun} in {shown(folder)} is named after a frame (first {noun}:"
                f" {shown(file_names[0])}, first frame: {shown(names[0])}), and there are"
                f" {len(file_names)} for {len(names)} frames: name them like the frames"
            )
        notify(
            f"no {noun} in {shown(folder)} is named after a frame: matched by position"
            f" ({shown(file_names[0])} to {shown(names[0])}, and so on)"
        )
        return _Assignment(dict(enumerate(scan.files.values())), "position")
    missing = [idx for idx in range(len(names)) if idx not in matching.file_of_frame]
    if missing:
        effect = "nothing is marked there" if noun == "mask" else "they add no evidence"
        notify(
            f"{len(missing)} of {len(names)} frames have no {noun} in {shown(folder)} (the first:"
            f" {shown(names[missing[0]])}): {effect}"
        )
    if matching.unused:
        notify(
            f"{len(matching.unused)} of {len(file_names)} {noun}s in {shown(folder)} belong to no"
            f" frame (the first: {shown(matching.unused[0])}): ignored"
        )
    return _Assignment(
        {idx: scan.files[name] for idx, name in matching.file_of_frame.items()}, "name"
    )


def _find_masks(prompt_dir: Path, notify: Notify) -> tuple[Path, FolderScan]:
    mask_dir = prompt_dir / "masks"
    if mask_dir.is_dir():
        scan = scan_folder(mask_dir)
    else:
        mask_dir, scan = prompt_dir, scan_folder(prompt_dir, skip_folders=("diffs",))
        if scan.files:
            notify(f"{shown(prompt_dir)} has no folder masks/: its own images taken as the masks")
    if not scan.files:
        raise UserError(
            f"{shown(mask_dir)} holds no mask images: put one per frame there, named like the"
            " frame, or leave --prompt-dir out"
        )
    return mask_dir, scan


def _find_residuals(prompt_dir: Path, frames: FrameSequence, notify: Notify) -> dict[int, Path]:
    folder = prompt_dir / "diffs"
    scan = scan_folder(folder, RESIDUAL_SUFFIXES) if folder.is_dir() else None
    if scan is None or not scan.files:
        state = "holds no residuals" if scan else "does not exist"
        notify(f"{shown(folder)} {state}: residual term is 1 in every transience score")
        return {}
    return _assign(scan, folder, frames, "residual", notify).file_of_frame


# --- Reading ----------------------------------------------------------------------------------


class _Reader:
    """Mask and residual files of the frames, brought to frame size; knows nothing of polarity."""

    def __init__(
        self,
        frames: FrameSequence,
        masks: dict[int, Path],
        residuals: dict[int, Path],
        notify: Notify,
    ) -> None:
        self._size = (frames.height, frames.width)
        self.masks = masks
        self.residuals = residuals
        self._notify = notify
        self._told: set[str] = set()
        self._telling = Lock()

    def white(self, frame_idx: int) -> BoolMask | None:
        """[H, W] bool, True where the mask file is white; None if there is no file."""
        path = self.masks.get(frame_idx)
        if path is None:
            return None
        planes = read_planes(path)
        if planes.lossless and looks_like_labels(planes):
            self._notify_once(
                "labels",
                f"{shown(path)} is nowhere brighter than half of its range: it counts as all"
                " black; if it holds labels (0, 1, ...), write them as 0 and 255",
            )
        white = white_of(planes)
        self._check_proportions(path, white.shape)
        return resized_mask(white, *self._size)

    def residual(self, frame_idx: int) -> FloatMap | None:
        """[H, W] float32 in [0, 1]; None if there is no file."""
        path = self.residuals.get(frame_idx)
        if path is None:
            return None
        planes = _read_npy(path) if path.suffix.lower() == ".npy" else _read_residual(path)
        residual = planes.channel_mean()
        self._check_proportions(path, residual.shape)
        if planes.colour.dtype.kind != "u":  # which could not be anywhere else
            residual = self._in_range(path, residual)
        return resized_residual(residual, *self._size)

    def _in_range(self, path: Path, residual: FloatMap) -> FloatMap:
        """[H, W] float32 in [0, 1], of what may be any magnitude."""
        undefined = ~np.isfinite(residual)
        if undefined.any():
            self._notify_once(
                "undefined", f"{shown(path)} holds NaN or infinite residuals: taken as 0, there too"
            )
            residual = np.where(undefined, np.float32(0), residual)
        if residual.max(initial=0.0) > _HIGHEST_FLOAT_RESIDUAL:
            raise UserError(
                f"{shown(path)} holds residuals up to {residual.max():.4g}: floating-point"
                " residuals must lie in [0, 1], divide them by the range of the colours"
            )
        return np.clip(residual, 0.0, 1.0)

    def evidence(self, frame_idx: int) -> FrameEvidence:
        """What one frame that has a mask tells about polarity."""
        white, residual = self.white(frame_idx), self.residual(frame_idx)
        assert white is not None
        share = float(white.mean())
        border = border_share(white)
        if residual is None or not _SMALLEST_SIDE <= share <= 1 - _SMALLEST_SIDE:
            return FrameEvidence(share, white_border=border)
        inside, outside = float(residual[white].mean()), float(residual[~white].mean())
        return FrameEvidence(share, inside, outside, border)

    def _check_proportions(self, path: Path, shape: tuple[int, ...]) -> None:
        if not same_proportions((shape[0], shape[1]), self._size):
            raise UserError(
                f"{shown(path)} is {shape[1]}x{shape[0]}, which has other proportions than the"
                f" frames' {self._size[1]}x{self._size[0]}: make it from the same images"
            )

    def _notify_once(self, subject: str, message: str) -> None:
        with self._telling:  # frames are read by several threads
            if subject not in self._told:
                self._told.add(subject)
                self._notify(message)


def white_of(planes: Planes) -> BoolMask:
    """[H, W] bool: luminance above 127/255 of the mode's range.

    If the image has an alpha channel that varies over one constant colour, alpha is the mask
    (opaque = white); otherwise alpha is ignored.
    """
    values, full_scale = planes.luminance(), planes.full_scale
    if planes.alpha is not None and _varies(planes.alpha) and not _varies(planes.colour):
        values, full_scale = planes.alpha, 255.0
    threshold = 127 * full_scale / 255  # exact for integers: the ranges are multiples of 255
    return values > (int(threshold) if values.dtype.kind == "u" else threshold)


def _varies(plane: NDArray[np.generic]) -> bool:
    """Whether not all pixels of a [H, W] or [H, W, C] array are equal."""
    return bool((plane != plane[:1, :1]).any())


def looks_like_labels(planes: Planes) -> bool:
    """Whether a mask holds a few levels that are not black, all too dark to count as white."""
    if planes.alpha is not None:
        return False
    luminance = planes.luminance()
    if not 0 < luminance.max(initial=0) <= 127 * planes.full_scale / 255:
        return False
    return len(np.unique(luminance)) <= _MOST_LABELS


def same_proportions(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Whether two (height, width) are one image at two sizes, a pixel of rounding on either side
    of the smaller one allowed."""
    small, large = sorted((first, second), key=lambda size: size[0] * size[1])
    if 0 in small:
        return False
    # Each side alone gives a scale, which is off by up to a pixel; so is the other side.
    expected_height = small[1] * large[0] / large[1]
    return abs(small[0] - expected_height) <= 1 + large[0] / large[1]


def resized_mask(mask: BoolMask, height: int, width: int) -> BoolMask:
    """[H, W] bool at another size: reduced, a pixel is True if at least half of what it covers
    is; enlarged, every pixel becomes a block. Either way shares of the area stay."""
    if mask.shape == (height, width):
        return mask
    shrinks = height < mask.shape[0] or width < mask.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST_EXACT
    levels = np.where(mask, np.uint8(255), np.uint8(0))
    return np.asarray(cv2.resize(levels, (width, height), interpolation=method)) >= 128


def resized_residual(residual: FloatMap, height: int, width: int) -> FloatMap:
    """[H, W] float32 at another size: averaged when reduced, bilinear when enlarged."""
    if residual.shape == (height, width):
        return residual
    shrinks = height < residual.shape[0] or width < residual.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(residual, (width, height), interpolation=method)
    return np.clip(np.asarray(resized, dtype=np.float32), 0.0, 1.0)


def _read_residual(path: Path) -> Planes:
    """Of an image file; alpha is ignored."""
    planes = read_planes(path)
    if planes.colour.dtype.kind == "f":  # in [0, 1] by definition, whatever its highest value
        planes = Planes(planes.colour, None, 1.0, planes.lossless)
    return planes


def _read_npy(path: Path) -> Planes:
    """Of a `.npy` file: floats as they are, integers by their type's range."""
    try:
        values = np.load(path, allow_pickle=False)
    except Exception as problem:  # numpy's reader raises anything on broken bytes
        reason = " ".join(str(problem).split()) or type(problem).__name__
        raise UserError(
            f"cannot read the residuals {shown(path)}: {reason}; write them again with numpy.save"
        ) from problem
    is_map = isinstance(values, np.ndarray) and values.size > 0
    if not is_map or not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (1, 3))):
        raise UserError(
            f"{shown(path)} has the shape {getattr(values, 'shape', None)}: residuals must be"
            " [H, W] or [H, W, 3]"
        )
    if values.dtype.kind not in "fub":
        raise UserError(
            f"{shown(path)} holds {values.dtype}: residuals must be floats in [0, 1], or unsigned"
            " integers"
        )
    full_scale = float(np.iinfo(values.dtype).max) if values.dtype.kind == "u" else 1.0
    return Planes(values, None, full_scale, lossless=True)


# --- What white means -------------------------------------------------------------------------


@dataclass(frozen=True)
class FrameEvidence:
    """What one frame tells about polarity."""

    white_share: float  # of the frame's pixels, 0 to 1
    residual_in_white: float | None = None  # mean, 0 to 1; None if unknown or too few pixels
    residual_outside: float | None = None
    white_border: float | None = None  # see `border_share`; None if unknown


@dataclass(frozen=True)
class PolarityDecision:
    polarity: Polarity
    reason: str
    """Completes "because ...", with figures."""


def decide_polarity(evidence: Sequence[FrameEvidence], where: str) -> PolarityDecision:
    """Tell what white means from a sample of frames (at least one) of one sequence.

    Transients normally cover the smaller part of the frame, and the splat explains them badly, so
    that residuals are higher there. Both have to be clear and agree; one alone decides if the
    other says nothing. Where crowds fill most of the frame, area misleads: it has to be clearer
    without residuals, and does not decide against residuals that point the other way, however
    slightly. Without residuals the smaller part must not take up much of the frame's border either:
    what shows between people of a crowd does, people hardly. If all masks are plain black or all
    plain white, nothing is transient.

    Args:
        evidence: one entry per sampled frame.
        where: where the masks are, for the message.

    Raises:
        UserError: the two contradict each other, or neither is clear.
    """
    shares = [frame.white_share for frame in evidence]
    if max(shares) == 0.0:
        return PolarityDecision("white-transient", "all masks looked at are black: nothing marked")
    if min(shares) == 1.0:
        return PolarityDecision("white-static", "all masks looked at are white: nothing marked")
    logs = _log_ratios(evidence)
    by_area, area_figures = _area_verdict(evidence, alone=not logs)
    by_residual, lean, residual_figures = _residual_verdict(logs)
    figures = f"{area_figures}, {residual_figures}"
    verdict = by_area or by_residual
    if verdict is not None and lean in (None, verdict):
        return PolarityDecision(verdict, figures)
    problem = "contradictory" if verdict else "unclear"
    raise UserError(
        f"cannot tell what white means in the masks of {where} ({problem}: {figures}):"
        " give --prompt-polarity white-transient or white-static"
    )


def border_share(white: BoolMask) -> float:
    """Share of the outermost pixels of a frame ([H, W] bool) that are True, 0 to 1."""
    return float(np.concatenate([white[0], white[-1], white[1:-1, 0], white[1:-1, -1]]).mean())


def _area_verdict(evidence: Sequence[FrameEvidence], *, alone: bool) -> tuple[Polarity | None, str]:
    median = statistics.median(frame.white_share for frame in evidence)
    figures = f"white covers {median:.0%} of the frame (median of {len(evidence)})"
    minority, majority = (_MINORITY_ALONE, _MAJORITY_ALONE) if alone else (_MINORITY, _MAJORITY)
    verdict: Polarity | None = None
    if median < minority:
        verdict = "white-transient"
    elif median > majority:
        verdict = "white-static"
    borders = [frame.white_border for frame in evidence if frame.white_border is not None]
    if not alone or not borders:
        return verdict, figures
    border = statistics.median(borders)
    figures += f" and {border:.0%} of its border"
    transient_border = 1 - border if verdict == "white-static" else border
    return (verdict if transient_border <= _BORDER_ALONE else None), figures


def _log_ratios(evidence: Sequence[FrameEvidence]) -> list[float]:
    """Logarithm of the residual in white over that outside, of the frames that have both."""
    pairs = [
        (frame.residual_in_white, frame.residual_outside)
        for frame in evidence
        if frame.residual_in_white is not None and frame.residual_outside is not None
    ]
    # Logarithms make white and outside count alike; two means of 0 are no evidence.
    return [math.log(inside + 1e-6) - math.log(outside + 1e-6) for inside, outside in pairs]


def _residual_verdict(
    logs: Sequence[float],
) -> tuple[Polarity | None, Polarity | None, str]:
    """What residuals say clearly, which way they point at all, and the figures."""
    if not logs:
        return None, None, "no residuals to compare"
    median, clear = statistics.median(logs), math.log(_CLEAR_RATIO)
    higher, lower = sum(log > 0 for log in logs), sum(log < 0 for log in logs)
    figures = (
        f"the residual is {math.exp(median):.3g} times as high in white as outside (median;"
        f" higher on {higher} of {len(logs)} frames)"
    )
    enough = _CONSISTENT_SHARE * len(logs)
    lean: Polarity | None = None
    if median > 0 and higher >= enough:
        lean = "white-transient"
    elif median < 0 and lower >= enough:
        lean = "white-static"
    return (lean if abs(median) >= clear else None), lean, figures


def spread(items: Sequence[int], count: int) -> list[int]:
    """At most `count` of `items`, evenly spread, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    positions = np.linspace(0, len(items) - 1, count).round().astype(int)
    return [items[position] for position, _ in itertools.groupby(positions.tolist())]
