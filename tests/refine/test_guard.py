"""The guard's rules on single masks, and in whole refines, on drawn masks and residuals."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from t3dgs_masks import bits, masks
from t3dgs_masks.config import RefineConfig
from t3dgs_masks.refine import Guard, Ordering, refine
from t3dgs_masks.refine import guard as rules
from t3dgs_masks.refine.evidence import FrameEvidence, StaticResidual
from t3dgs_masks.refine.pipeline import RefineResult
from t3dgs_masks.types import BoolMask, FramePrompt
from tests.refine.fakes import (
    HEIGHT,
    LEFT,
    NOTHING,
    PHOTOS,
    RIGHT,
    VIDEO,
    WIDTH,
    ArrayPrompts,
    MoodyTracker,
    ScriptedProposer,
    StillTracker,
    TrueProposer,
    box,
    draw_scene,
    guard,
    residual,
)


def believed(
    used: Guard, mask: BoolMask, held: BoolMask | None = None
) -> tuple[BoolMask | None, str | None]:
    """On the first frame."""
    packed = None if held is None else bits.pack(held)
    found, reason = used.believed(0, bits.pack(mask), packed)
    return None if found is None else bits.unpack(found), reason


# -- rule 1: what is believed of a tracked mask


@pytest.mark.parametrize("ordering", [VIDEO, PHOTOS])
def test_a_mask_on_the_static_scene_is_not_believed(ordering: Ordering) -> None:
    used = guard([LEFT], [LEFT], ordering)
    assert believed(used, RIGHT) == (None, rules.LOOKS_STATIC)


def test_a_person_that_the_coarse_mask_misses_is_believed() -> None:
    used = guard([LEFT], [LEFT | RIGHT])
    mask, reason = believed(used, RIGHT)
    np.testing.assert_array_equal(mask, RIGHT)
    assert reason is None


def test_a_mask_found_before_does_not_grow_over_the_static_scene() -> None:
    used = guard([LEFT], [LEFT])
    grown = LEFT | box(2, 12, 12, 20)  # more than half of it is LEFT
    mask, reason = believed(used, grown, LEFT)
    assert mask is not None
    np.testing.assert_array_equal(mask, LEFT)
    assert reason == rules.ADDS_STATIC
    mask, reason = believed(used, grown)
    np.testing.assert_array_equal(mask, grown, "as a whole it is supported")


def test_a_mask_found_before_may_grow_over_what_is_transient() -> None:
    used = guard([LEFT], [LEFT | RIGHT])
    mask, reason = believed(used, LEFT | RIGHT, LEFT)
    assert mask is not None
    np.testing.assert_array_equal(mask, LEFT | RIGHT)
    assert reason is None


def test_where_a_mask_is_not_believed_it_still_confirms_what_was_found_before() -> None:
    used = guard([LEFT], [LEFT])
    wide = np.ones((HEIGHT, WIDTH), bool)
    mask, reason = believed(used, wide, LEFT)
    assert mask is not None
    np.testing.assert_array_equal(mask, LEFT)
    assert reason == rules.LOOKS_STATIC
    assert believed(used, RIGHT, LEFT)[0] is None


def test_photos_need_more_support_than_a_video() -> None:
    share = (rules._MIN_SUPPORT + rules._MIN_SUPPORT_UNORDERED) / 2
    columns = round(10 * share)
    part = box(2, 45, 12, 55)
    shown = box(2, 45, 12, 45 + columns)
    found = [
        believed(guard([LEFT], [LEFT | shown], ordering), part)[0] is not None
        for ordering in (VIDEO, PHOTOS)
    ]
    prompt = FramePrompt(LEFT, residual(LEFT | shown))
    support = FrameEvidence.of(prompt, StaticResidual.of(prompt)).support(bits.pack(part))
    assert support is not None
    assert found == [support >= rules._MIN_SUPPORT, support >= rules._MIN_SUPPORT_UNORDERED]


def test_what_static_looks_like_is_found_out_once_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[FramePrompt] = []
    found_out = StaticResidual.of

    def counted(prompt: FramePrompt) -> StaticResidual | None:
        asked.append(prompt)
        return found_out(prompt)

    monkeypatch.setattr(StaticResidual, "of", staticmethod(counted))
    used = guard([LEFT, RIGHT], [LEFT, RIGHT])
    asked.clear()
    prompt = FramePrompt(LEFT, residual(LEFT))
    first = used.evidence(0, prompt)
    assert first.above_static is not None
    assert bits.unpack(first.above_static)[LEFT].all()
    again = used.evidence(0, prompt)
    assert again.above_static is not None
    np.testing.assert_array_equal(again.above_static.words, first.above_static.words)
    assert len(asked) == 1
    used.evidence(1, FramePrompt(RIGHT, residual(RIGHT)))
    assert len(asked) == 2


def test_without_residuals_a_video_is_believed_and_photos_need_the_coarse_mask() -> None:
    assert believed(guard([LEFT]), RIGHT)[1] is None
    photos = guard([LEFT], ordering=PHOTOS)
    assert believed(photos, RIGHT) == (None, rules.UNCOVERED)
    assert believed(photos, LEFT)[1] is None


# -- the whole job


def run(
    coarse: Sequence[BoolMask],
    transient: Sequence[BoolMask] | None,
    proposals: dict[int, list[BoolMask]],
    tracker: StillTracker | None = None,
    **settings: object,
) -> RefineResult:
    residuals = (
        None if transient is None else [residual(m, seed=t) for t, m in enumerate(transient)]
    )
    return refine(
        num_frames=len(coarse),
        height=HEIGHT,
        width=WIDTH,
        prompts=ArrayPrompts(coarse, residuals),
        proposer=ScriptedProposer(proposals),
        tracker=tracker or StillTracker(len(coarse)),
        config=RefineConfig(**{"guard": "auto", **settings}),  # pyright: ignore[reportArgumentType]
    )


def test_a_tracker_that_loses_itself_does_no_harm() -> None:
    coarse = [LEFT, LEFT, NOTHING, NOTHING]
    everywhere = np.ones((HEIGHT, WIDTH), bool)
    overrides = {
        (direction, t, 1): everywhere for t in (2, 3) for direction in ("forward", "reverse")
    }
    off, auto = (
        run(
            coarse, coarse, {0: [LEFT]}, StillTracker(4, overrides), guard=mode, filter_threshold=-1
        )
        for mode in ("off", "auto")
    )
    assert off.transient(3).pixels.all()
    assert off.guard is None
    for t, mask in enumerate(coarse):
        np.testing.assert_array_equal(auto.transient(t).pixels, mask)
    assert auto.guard is not None
    assert {doubt.where for doubt in auto.guard.doubts} == {"passes"}
    assert set(auto.guard.doubts_about(1)[rules.LOOKS_STATIC]) == {2, 3}


def test_a_frame_of_its_own_is_searched_where_tracking_is_not_believed() -> None:
    # Tracked over the whole frame, nothing would be clear of the known object.
    overrides = {("forward", 1, 1): np.ones((HEIGHT, WIDTH), bool)}
    coarse = [LEFT, RIGHT]
    proposals = {0: [LEFT], 1: [RIGHT]}
    off = run(coarse, coarse, proposals, StillTracker(2, overrides), guard="off")
    auto = run(coarse, coarse, proposals, StillTracker(2, overrides))
    assert len(off.masklets) == 1
    assert len(auto.masklets) == 2
    np.testing.assert_array_equal(auto.transient(1).pixels, RIGHT)


def test_where_nothing_is_proposed_the_coarse_mask_stays() -> None:
    result = run([LEFT, LEFT | RIGHT], [LEFT, LEFT], {})
    np.testing.assert_array_equal(result.transient(0).pixels, LEFT)
    np.testing.assert_array_equal(result.transient(1).pixels, LEFT)
    assert len(result.notices) == 1
    assert "masks are the coarse masks" in result.notices[0]


def test_where_every_object_is_rejected_the_coarse_mask_stays() -> None:
    result = run([LEFT], [LEFT], {0: [LEFT]}, filter_threshold=2.0)
    np.testing.assert_array_equal(result.transient(0).pixels, LEFT)
    assert any("rejected every object (1)" in notice for notice in result.notices)


def test_frames_after_num_iterations_stay_all_static() -> None:
    result = run([LEFT] * 3, [LEFT] * 3, {}, num_iterations=1)
    assert [bool(result.transient(t).pixels.any()) for t in range(3)] == [True, True, False]


def test_promptless_there_is_nothing_to_guard_by() -> None:
    result = refine(
        num_frames=1,
        height=HEIGHT,
        width=WIDTH,
        prompts=None,
        proposer=ScriptedProposer({0: [LEFT]}),
        tracker=StillTracker(1),
        config=RefineConfig(guard="auto"),
    )
    assert result.guard is None
    np.testing.assert_array_equal(result.transient(0).pixels, LEFT)


@pytest.mark.parametrize("ordering", [VIDEO, PHOTOS])
@pytest.mark.parametrize("residuals", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_bookkeeping_on_random_scenes(seed: int, residuals: bool, ordering: Ordering) -> None:
    scene = draw_scene(seed, residuals=residuals)
    result = refine(
        num_frames=scene.num_frames,
        height=HEIGHT,
        width=WIDTH,
        prompts=scene.prompts,
        proposer=TrueProposer(scene),
        tracker=MoodyTracker(scene),
        config=RefineConfig(min_proposal_coverage=0.5, guard="auto"),
        ordering=ordering,
    )
    outcome = result.guard
    assert outcome is not None
    assert outcome.ordering is ordering
    assert [v.object_id for v in result.verdicts] == result.masklets.object_ids
    for verdict in result.verdicts:
        if verdict.kept:
            assert result.masklets[verdict.object_id].segmentations
    frames = [doubt.frame_idx for doubt in outcome.doubts]
    assert frames == sorted(frames)
    as_json = json.loads(json.dumps(outcome.as_json(), allow_nan=False))
    assert sum(item["masks"] for item in as_json["doubts"]) == len(outcome.doubts)
    for t in range(scene.num_frames):
        rest = scene.prompts.coarse[t] & ~result.transient(t).pixels
        restored = outcome.coarse_components.get(t, 0)
        if outcome.coarse_object_id is not None and restored:
            fallen = masks.decode(result.masklets.at_frame(t)[outcome.coarse_object_id])
            assert not np.any(fallen & ~scene.prompts.coarse[t])
            assert not np.any(fallen & rest)
