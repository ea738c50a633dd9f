"""Settings of a refine. The text under each field is the help of its command line flag.

Flags keep the reference program's names (`--memory-size`, `--lambda-ref`); the fields have the
field's own (`max_conditioning_frames`, `min_proposal_coverage`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True)
class RefineConfig:
    """Settings of the algorithm (paper section "TMR", arXiv 2412.00155)."""

    max_conditioning_frames: Annotated[int, tyro.conf.arg(name="memory-size")] = 10
    """How many already segmented frames the tracker is conditioned on when it (re)starts [M]."""
    min_proposal_coverage: Annotated[float, tyro.conf.arg(name="lambda-ref")] = 0.7
    """A proposal is taken if more than this share of it lies inside the coarse mask (0 to 1)."""
    min_scoring_coverage: Annotated[float, tyro.conf.arg(name="lambda-val")] = 0.7
    """A frame counts towards an object's transience score if more than this share of the object
    lies inside the coarse mask there (0 to 1)."""
    merge_iou: Annotated[float, tyro.conf.arg(name="lambda-merge")] = 0.9
    """Two objects whose masks overlap with more than this IoU on a frame are one (0 to 1)."""
    filter_threshold: float = 0.08
    """An object is kept if its transience score is above this."""
    start_points_per_side: int = 16
    """Promptless: points per side of the grid on the first frame."""
    prompt_points_per_side: int = 8
    """Promptless: points per side of the grid that looks for new objects on later frames."""
    num_iterations: int | None = None
    """Only process frames 0 to this index (included). Default: all of them."""
    fill_hole_area: int = 0
    """Fill holes of up to this many pixels in every tracked mask. 0 leaves masks as they are."""
    seed: int = 0
    """Seed of the random point prompts."""


@dataclass(frozen=True)
class ProposalConfig:
    """Settings of the automatic mask generator; names and meaning are SAM's own."""

    pred_iou_thresh: float = 0.88
    """Drop proposals whose predicted IoU is not above this (0 to 1)."""
    stability_score_thresh: float = 0.95
    """Drop proposals whose stability score is below this (0 to 1)."""
    box_nms_thresh: float = 0.7
    """Of proposals whose boxes overlap with more than this IoU only the best is kept (0 to 1)."""
    points_per_batch: int = 64
    """Point prompts per pass through the mask decoder; lower it when memory is short."""
    min_mask_region_area: int = 0
    """Remove islands and holes of fewer pixels than this from proposals. 0: leave them."""
