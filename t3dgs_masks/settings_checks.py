"""Numbers out of range, and flags that contradict each other: told before anything is done."""

from __future__ import annotations

import math
from dataclasses import dataclass

from t3dgs_masks.config import CoarseMaskConfig, DemoSettings, RefineConfig, RefineSettings
from t3dgs_masks.errors import UserError


@dataclass(frozen=True)
class _Range:
    """What a number has to be within, both ends included."""

    least: float = -math.inf
    most: float = math.inf

    def check(self, flag: str, value: float | None) -> None:
        if value is None or (self.least <= value <= self.most and math.isfinite(value)):
            return
        if self.least == -math.inf:
            wanted = "a finite number"
        elif self.most == math.inf:
            wanted = f"at least {self.least:g}"
        else:
            wanted = f"from {self.least:g} to {self.most:g}"
        raise UserError(f"{flag} is {value}; it has to be {wanted}")


_ANY = _Range()
_SHARE = _Range(0, 1)
_POSITIVE = _Range(1)
_NOT_NEGATIVE = _Range(0)
_PER_SIDE = _Range(1, 1000)  # a million points
_THREADS = _Range(1, 1024)
_FRAME_RATE = _Range(0.01, 1000)


def check_refine(settings: RefineSettings) -> None:
    """Raises UserError if a refine cannot be done with these settings."""
    check_algorithm(settings.algorithm)
    for flag, value, allowed in (
        ("--pred-iou-thresh", settings.pred_iou_thresh, _SHARE),
        ("--stability-score-thresh", settings.stability_score_thresh, _SHARE),
        ("--box-nms-thresh", settings.box_nms_thresh, _SHARE),
        ("--points-per-batch", settings.points_per_batch, _POSITIVE),
        ("--min-mask-region-area", settings.min_mask_region_area, _NOT_NEGATIVE),
        ("--fps", settings.fps, _FRAME_RATE),
        ("--threads", settings.threads, _THREADS),
        ("--feature-cache-gb", settings.feature_cache_gb, _NOT_NEGATIVE),
    ):
        allowed.check(flag, value)
    if settings.proposer == "sam1" and settings.sam_checkpoint is None:
        raise UserError("--proposer sam1 needs --sam-checkpoint (a path, or vit_h, vit_l, vit_b)")
    if settings.proposer == "sam2" and settings.sam_checkpoint is not None:
        raise UserError("--proposer sam2 has no use for --sam-checkpoint: leave one of them out")
    if settings.prompt_polarity != "auto" and settings.prompt_dir is None:
        raise UserError("--prompt-polarity is about the masks in --prompt-dir: give that as well")


def check_algorithm(config: RefineConfig) -> None:
    """Raises UserError if a number of the algorithm is out of its range."""
    for flag, value, allowed in (
        ("--memory-size", config.max_conditioning_frames, _POSITIVE),
        ("--lambda-ref", config.min_proposal_coverage, _SHARE),
        ("--lambda-val", config.min_scoring_coverage, _SHARE),
        ("--lambda-merge", config.merge_iou, _SHARE),
        ("--filter-threshold", config.filter_threshold, _ANY),
        ("--start-points-per-side", config.start_points_per_side, _PER_SIDE),
        ("--prompt-points-per-side", config.prompt_points_per_side, _PER_SIDE),
        ("--num-iterations", config.num_iterations, _NOT_NEGATIVE),
        ("--fill-hole-area", config.fill_hole_area, _NOT_NEGATIVE),
        ("--seed", config.seed, _NOT_NEGATIVE),
    ):
        allowed.check(flag, value)


def check_coarse(config: CoarseMaskConfig) -> None:
    """Raises UserError if coarse masks cannot be made with these numbers."""
    for flag, value, allowed in (
        ("--outlier-sigmas", config.outlier_sigmas, _NOT_NEGATIVE),
        ("--residual-floor", config.residual_floor, _SHARE),
        ("--smoothing", config.smoothing, _SHARE),
        ("--min-area", config.min_area, _SHARE),
    ):
        allowed.check(flag, value)


def check_demo(settings: DemoSettings) -> None:
    """Raises UserError if the demo cannot be made with these numbers."""
    for flag, value, allowed in (
        ("--seed", settings.seed, _NOT_NEGATIVE),
        ("--num-frames", settings.num_frames, _Range(1, 10_000)),
        ("--num-walkers", settings.num_walkers, _Range(1, 100)),
        ("--threads", settings.threads, _THREADS),
        ("--train-steps", settings.train_steps, _Range(100)),
        ("--train-scale", settings.train_scale, _Range(0.1, 1)),
    ):
        allowed.check(flag, value)
