"""New objects on one frame: points, automatic masks, and which of them to believe."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from t3dgs_masks import masks
from t3dgs_masks.config import RefineConfig
from t3dgs_masks.refine.points import PointsXY, coarse_points, grid_points, points_outside
from t3dgs_masks.refine.prompts_at_hand import PromptsAtHand
from t3dgs_masks.types import BoolMask, FramePrompt, Proposal, Proposer, Rle

TRACKED_MARGIN_PX = 10
"""Points this close (steps of the 4-connected cross) to a tracked object look for nothing new."""


class ProposalSearch:
    """P(t, tracked): proposals on one frame that no tracked object explains (TMR, arXiv
    2412.00155).

    Thresholds on predicted IoU and stability and the box NMS belong to the proposer.
    """

    def __init__(
        self,
        height: int,
        width: int,
        prompts: PromptsAtHand | None,
        proposer: Proposer,
        config: RefineConfig,
    ) -> None:
        self._height = height
        self._width = width
        self._prompts = prompts
        self._proposer = proposer
        self._config = config

    def before_seed(self, frame_idx: int) -> list[Rle]:
        """Proposals on a frame while no object has been found yet (True = object)."""
        return self._search(frame_idx, {}, self._config.start_points_per_side)

    def beside(self, frame_idx: int, tracked: Mapping[int, Rle]) -> list[Rle]:
        """Proposals on a frame from points that lie clear of the tracked objects.

        Args:
            tracked: object_id -> mask of the objects already known on this frame; may be empty.
        """
        return self._search(frame_idx, tracked, self._config.prompt_points_per_side)

    def _search(
        self, frame_idx: int, tracked: Mapping[int, Rle], points_per_side: int
    ) -> list[Rle]:
        coarse = None
        if self._prompts is None:
            points_xy = grid_points(points_per_side, self._height, self._width)
        else:
            coarse = self._prompts[frame_idx].coarse
            points_xy = self._prompts.look(frame_idx, self._draw_points)
        if tracked:
            known = masks.decode(masks.union(list(tracked.values())))
            points_xy = points_outside(points_xy, masks.dilate(known, TRACKED_MARGIN_PX))
        if len(points_xy) == 0:
            return []  # the proposer would encode the image for nothing
        proposals = self._proposer.propose(frame_idx, points_xy)
        return [masks.encode(p.mask) for p in proposals if self._is_believed(p, coarse)]

    def _draw_points(self, frame_idx: int, prompt: FramePrompt) -> PointsXY:
        return coarse_points(prompt.coarse, seed=self._config.seed, frame_idx=frame_idx)

    def _is_believed(self, proposal: Proposal, coarse: BoolMask | None) -> bool:
        if proposal.mask.shape != (self._height, self._width):
            raise ValueError(
                f"proposal of shape {proposal.mask.shape} on frames of "
                f"{self._height} x {self._width}"
            )
        if coarse is None:
            # An object of no pixels could neither be tracked nor written.
            return bool(np.any(proposal.mask))
        return masks.coverage(proposal.mask, coarse) > self._config.min_proposal_coverage
