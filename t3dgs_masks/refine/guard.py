"""Never worse than the input: how far tracked masks are believed, judged by each frame's own
coarse mask and residual.

A tracker follows an object to where it is no more: behind furniture, out of the view, into the
next photo of a set that is no video. What it then covers looks to the splat like the rest of the
static scene, which the residual tells without any ground truth. Three rules follow from that:

1. During the passes, a tracked mask counts on a frame only if the residual there supports it, and
   of what it would add to a mask found before only what is supported. What is not believed is not
   stored, so that nothing is conditioned on it, and the frame looks for objects of its own there.
2. After the filter, what an object covers beyond the coarse mask has to be supported as well; if
   it is not, the object falls back to the part that the coarse mask confirms.
3. What the coarse mask knows and no object covers must not look like the objects that were found:
   every component that does falls back to the coarse mask. That it looks transient is not enough,
   as long as most of what looks like them was found: a splat that has learnt people shows ghosts
   of them where they are not, and all that is wrong in its renders is in the coarse masks.

All three judge object by object and component by component, so that a good mask is not given up
for a bad one. A decision depends on one frame and on levels of the sequence that are read before
the passes begin: it is the same in a run that was interrupted.

Here are the rules on single masks; `settling` applies the last two to a result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from t3dgs_masks import bits
from t3dgs_masks.refine.evidence import FrameEvidence, ResidualLevels, StaticResidual
from t3dgs_masks.refine.ordering import Ordering
from t3dgs_masks.refine.prompts_at_hand import PromptsAtHand
from t3dgs_masks.types import BitMask, FramePrompt

_MIN_SUPPORT = 0.4
"""Share of a mask that has to look transient, in a video..."""
_MIN_SUPPORT_UNORDERED = 0.5
"""... and where nothing but the frame itself speaks for it."""
_MIN_COVERAGE_UNORDERED = 0.7
"""Of a photo without a residual: share inside the coarse mask."""
_MIN_ADDED = 0.1
"""What an object covers beyond the coarse mask is judged if it is more than this share of it: less
is its outline."""

LOOKS_STATIC = "the residual there is that of the static scene"
ADDS_STATIC = "what it adds there has the residual of the static scene"
UNCOVERED = "too much is outside the coarse mask; there is no residual, and it is no video"


@dataclass(frozen=True)
class Doubt:
    """One mask of one object that was not believed, or not all of it."""

    frame_idx: int
    object_id: int
    reason: str
    where: Literal["passes", "result"]
    """During the passes, or when the result was made."""


class Guard:
    """The rules on single masks, for one sequence.

    Args:
        prompts: of the sequence.
        levels: what residuals are like in it.
        ordering: whether it is a video.
    """

    def __init__(self, prompts: PromptsAtHand, levels: ResidualLevels, ordering: Ordering) -> None:
        self.ordering = ordering
        self.levels = levels
        self._prompts = prompts
        self._static: dict[int, StaticResidual | None] = {}  # by frame, of those seen so far
        self._min_support = _MIN_SUPPORT if ordering.ordered else _MIN_SUPPORT_UNORDERED

    def believed(
        self, frame_idx: int, mask: BitMask, held: BitMask | None
    ) -> tuple[BitMask | None, str | None]:
        """Rule 1. Frames are best asked for one after the other.

        Args:
            frame_idx: where the tracker is.
            mask: True = object, with at least one pixel.
            held: what the object is already known to cover there, if anything.

        Returns:
            What of `mask` counts (None: nothing), and why it is not all of it.
        """
        evidence = self._prompts.look(frame_idx, self._look)
        doubt = self._doubt(evidence, mask)
        if held is None:
            return (None, doubt) if doubt else (mask, None)
        added = mask - held
        if doubt is None and (not added.any() or self._is_supported(evidence, added)):
            return mask, None
        confirmed = mask & held
        return (confirmed if confirmed.any() else None), doubt or ADDS_STATIC

    def cut_back(self, evidence: FrameEvidence, mask: BitMask) -> tuple[BitMask | None, str | None]:
        """Rule 2.

        Args:
            evidence: of the frame.
            mask: of an object on it, True = object, with at least one pixel.

        Returns:
            What of `mask` belongs to a result (None: nothing), and why it is not all of it.
        """
        doubt = self._doubt(evidence, mask)
        if doubt is not None:
            return None, doubt
        added = mask - evidence.coarse
        is_outline = bits.count(added) <= _MIN_ADDED * bits.count(mask)
        if is_outline or self._is_supported(evidence, added):
            return mask, None
        rest = mask & evidence.coarse
        return (rest if rest.any() else None), ADDS_STATIC

    def evidence(self, frame_idx: int, prompt: FramePrompt) -> FrameEvidence:
        """What the prompt of a frame says, as far as residuals say anything in this sequence. For
        any thread."""
        known = self._prompts.found(frame_idx, self._look)
        return self._look(frame_idx, prompt) if known is None else known

    def _look(self, frame_idx: int, prompt: FramePrompt) -> FrameEvidence:
        if not self.levels.speak:
            return FrameEvidence.of(prompt, None)
        if frame_idx not in self._static:
            self._static[frame_idx] = StaticResidual.of(prompt)
        return FrameEvidence.of(prompt, self._static[frame_idx])

    def _doubt(self, evidence: FrameEvidence, mask: BitMask) -> str | None:
        """Why a whole mask is not believed on its frame; None if it is."""
        if evidence.above_static is not None:
            return None if self._is_supported(evidence, mask) else LOOKS_STATIC
        if self.ordering.ordered:
            return None
        return None if bits.share(mask, evidence.coarse) > _MIN_COVERAGE_UNORDERED else UNCOVERED

    def _is_supported(self, evidence: FrameEvidence, part: BitMask) -> bool:
        """Whether enough of a (non-empty) part of a mask looks transient, as far as one knows."""
        support = evidence.support(part)
        return support is None or support >= self._min_support
