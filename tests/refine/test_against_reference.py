"""The fast algorithm and the slow, obvious one do the same on random scenes."""

from __future__ import annotations

import numpy as np
import pytest

from t3dgs_masks import masks
from t3dgs_masks.config import RefineConfig
from t3dgs_masks.refine import RefineResult, refine
from tests.refine import fakes
from tests.refine.reference import ReferenceRefine


def _config(seed: int) -> RefineConfig:
    rng = np.random.default_rng(1000 + seed)
    return RefineConfig(
        max_conditioning_frames=int(rng.integers(1, 5)),
        min_proposal_coverage=float(rng.choice([0.5, 0.7])),
        min_scoring_coverage=float(rng.choice([0.5, 0.7])),
        merge_iou=float(rng.choice([0.5, 0.8, 0.9])),
        filter_threshold=float(rng.choice([0.08, 0.3])),
        start_points_per_side=6,
        prompt_points_per_side=4,
        num_iterations=None if rng.random() < 0.7 else int(rng.integers(0, 14)),
        seed=seed,
        guard="off",
    )


def _compare(result: RefineResult, reference: ReferenceRefine) -> None:
    assert result.masklets.object_ids == sorted(reference.objects)
    for masklet in result.masklets:
        track = reference.objects[masklet.object_id]
        assert list(masklet.segmentations) == sorted(track)
        for t, mask in masklet.segmentations.items():
            assert mask == masks.encode(track[t])
    for verdict in result.verdicts:
        score = reference.scores[verdict.object_id]
        assert verdict.kept == (verdict.object_id in reference.kept)
        assert verdict.transience_score == (None if score is None else pytest.approx(score))
    for t in range(reference.num_frames):
        assert np.array_equal(result.transient(t).pixels, reference.transient(t))


@pytest.mark.parametrize("promptable", [True, False], ids=["promptable", "promptless"])
@pytest.mark.parametrize("messy", [True, False], ids=["messy", "true"])
@pytest.mark.parametrize("seed", range(30))
def test_same_masklets_scores_and_calls(seed: int, messy: bool, promptable: bool) -> None:
    scene = fakes.draw_scene(seed, residuals=seed % 5 != 0)
    config = _config(seed)
    proposer = fakes.MessyProposer(scene) if messy else fakes.TrueProposer(scene)
    tracker, slow_tracker = (
        fakes.MoodyTracker(scene) if messy else fakes.TrueTracker(scene) for _ in range(2)
    )
    prompts = scene.prompts if promptable else None
    size = (scene.num_frames, fakes.HEIGHT, fakes.WIDTH)

    reference = ReferenceRefine(*size, prompts, proposer, slow_tracker, config)
    reference.run()
    result = refine(
        num_frames=scene.num_frames,
        height=fakes.HEIGHT,
        width=fakes.WIDTH,
        prompts=prompts,
        proposer=proposer,
        tracker=tracker,
        config=config,
    )

    _compare(result, reference)
    assert tracker.calls == slow_tracker.calls
    assert tracker.live_generators == 0
