"""The algorithm: masklets from proposals and a tracker, judged by coarse masks and residuals."""

from t3dgs_masks.refine.conclusion import Conclusion, FrameResult
from t3dgs_masks.refine.guard import Doubt, Guard
from t3dgs_masks.refine.masklets import Masklet, MaskletSet
from t3dgs_masks.refine.observer import EarlyFrames, RefineObserver, SilentObserver, Stage
from t3dgs_masks.refine.ordering import Ordering, judge_ordering
from t3dgs_masks.refine.passes import PassCounts
from t3dgs_masks.refine.pipeline import RefineResult, refine
from t3dgs_masks.refine.scoring import MaskFigures, TransienceScorer, Verdict, judge, keep_all
from t3dgs_masks.refine.settling import GuardOutcome

__all__ = [
    "Conclusion",
    "Doubt",
    "EarlyFrames",
    "FrameResult",
    "Guard",
    "GuardOutcome",
    "MaskFigures",
    "Masklet",
    "MaskletSet",
    "Ordering",
    "PassCounts",
    "RefineObserver",
    "RefineResult",
    "SilentObserver",
    "Stage",
    "TransienceScorer",
    "Verdict",
    "judge",
    "judge_ordering",
    "keep_all",
    "refine",
]
