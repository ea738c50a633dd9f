"""Whether a sequence is a video or a set of photos, judged by the frames themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from t3dgs_masks.types import FrameSequence, Image

_SAMPLED_FRAMES = 24  # with the frame after each
_HEIGHT, _WIDTH = 36, 48  # pixels that a frame is reduced to
_SHIFT = 6  # of those pixels: how far the view may have moved between the compared frames
_SAME_VIEW = 0.9  # similarity that needs no comparison: a camera that stands still
_OVERLAPPING = 0.7  # similarity below which neighbours do not show one view
_OVERLAPPING_ALONE = 0.8  # the same, where there are too few frames to compare with
_MOSTLY_NEARER = 0.75  # of the comparisons with frames further away; unrelated frames: a half

Thumbnail = NDArray[np.float32]  # [_HEIGHT, _WIDTH] grey


@dataclass(frozen=True)
class Ordering:
    """Whether a frame shows what the frame before it shows, a moment later."""

    ordered: bool
    """True: a video, so that what is tracked from frame to frame can be expected to go on."""
    reason: str
    """Why, in words and figures; completes "because ..."."""
    neighbour_similarity: float | None = None
    """Median correlation of a frame with the next one, -1 to 1; None if it was not looked at."""
    nearer_share: float | None = None
    """How often the next frame is more similar than one further away, 0 to 1; None if there are
    too few frames to tell."""


ASSUMED_ORDERED = Ordering(True, "nobody looked: frames are taken for a video")


def judge_ordering(frames: FrameSequence, given: Literal["auto", "yes", "no"] = "auto") -> Ordering:
    """Tell a video from a set of photos; reads at most 48 frames, and none if it was `given`.

    The frames of a video are more alike the closer they are in time; where the camera stands
    still, all are. Frames are compared as small grey pictures, by their correlation at the best of
    a few shifts.
    """
    if given != "auto":
        kind = "yes" if given == "yes" else "no"
        return Ordering(given == "yes", f"--ordered {kind} was given")
    if len(frames) < 2:
        return Ordering(True, "there is only one frame")
    count = min(len(frames) - 1, _SAMPLED_FRAMES)
    anchors = sorted({int(t) for t in np.linspace(0, len(frames) - 2, count).round()})
    here = {t: _thumbnail(frames[t]) for t in anchors}
    there = {t: here[t + 1] if t + 1 in here else _thumbnail(frames[t + 1]) for t in anchors}
    near = {t: _similarity(here[t], there[t]) for t in anchors}
    # Frames count as "further away" from three steps on: of two neighbours of a fast camera the
    # second is hardly less related than the first.
    nearer = [
        near[t] > _similarity(here[t], here[other])
        for t in anchors
        for other in anchors
        if abs(other - t) >= 3
    ]
    similarity = float(np.median(list(near.values())))
    share = float(np.mean(nearer)) if nearer else None
    figures = f"neighbouring frames correlate by {similarity:.2f}"
    if share is not None:
        figures += f" and are more alike than others in {share:.0%} of the comparisons"
        related = similarity >= _OVERLAPPING and share >= _MOSTLY_NEARER
    else:
        related = similarity >= _OVERLAPPING_ALONE
    return Ordering(related or similarity >= _SAME_VIEW, figures, similarity, share)


def _thumbnail(image: Image) -> Thumbnail:
    """Blurred a little, so that grain and fine texture do not count."""
    small = cv2.resize(image, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), 1.0), dtype=np.float32)


def _similarity(first: Thumbnail, second: Thumbnail) -> float:
    """Correlation of the middle of one with the best matching part of the other, -1 to 1; mean of
    both ways round. Plain pictures are alike."""
    inner = (slice(_SHIFT, -_SHIFT), slice(_SHIFT, -_SHIFT))
    if first.std() < 1.0 or second.std() < 1.0:
        return 1.0 if abs(float(first.mean() - second.mean())) < 8.0 else 0.0
    best = [
        float(cv2.matchTemplate(a, b[inner], cv2.TM_CCOEFF_NORMED).max())
        for a, b in ((first, second), (second, first))
    ]
    return float(np.mean(best))
