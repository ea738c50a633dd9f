"""The guard, rule by rule, on drawn masks and residuals."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from t3dgs_masks import masks
from t3dgs_masks.config import RefineConfig
from t3dgs_masks.refine import Doubt, Guard, GuardOutcome, MaskletSet, Ordering, Verdict, refine
from t3dgs_masks.refine import guard as rules
from t3dgs_masks.refine.guard import FrameEvidence, RememberedPrompts, residual_levels
from t3dgs_masks.refine.pipeline import RefineResult
from t3dgs_masks.types import BoolMask, FloatMap, FramePrompt
from tests.refine.fakes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    NOTHING,
    RIGHT,
    WIDTH,
    ArrayPrompts,
    MoodyTracker,
    ScriptedProposer,
    StillTracker,
    TrueProposer,
    box,
    draw_scene,
)

VIDEO = Ordering(True, "a video")
PHOTOS = Ordering(False, "photos")


def residual(transient: BoolMask, level: float = 0.4, seed: int = 0) -> FloatMap:
    """Noise up to 0.05 everywhere, and `level` more where something is transient."""
    noise = np.random.default_rng(seed).uniform(0, 0.05, (HEIGHT, WIDTH))
    return (noise + level * transient).astype(np.float32)


def guard(
    coarse: Sequence[BoolMask],
    transient: Sequence[BoolMask] | None = None,
    ordering: Ordering = VIDEO,
) -> Guard:
    """A guard over frames whose residuals show what is `transient` (None: no residuals)."""
    residuals = (
        None if transient is None else [residual(m, seed=t) for t, m in enumerate(transient)]
    )
    return Guard(ArrayPrompts(coarse, residuals), len(coarse), ordering)


def masklets_of(*objects: dict[int, BoolMask]) -> MaskletSet:
    found = MaskletSet()
    for segmentations in objects:
        (first, mask), *others = segmentations.items()
        object_id = found.add(first, masks.encode(mask))
        for frame_idx, other in others:
            found.set(frame_idx, object_id, masks.encode(other))
    return found


def settle(
    used: Guard, found: MaskletSet, kept: Sequence[bool] | None = None
) -> tuple[list[Verdict], GuardOutcome]:
    flags = kept or [True] * len(found)
    verdicts = [
        Verdict(object_id, flag, "as it is", 0.5)
        for object_id, flag in zip(found.object_ids, flags, strict=True)
    ]
    settled, outcome = used.settle(found, verdicts, [])
    return list(settled), outcome


def dense(found: MaskletSet, object_id: int) -> dict[int, BoolMask]:
    return {t: masks.decode(rle) for t, rle in found[object_id].segmentations.items()}


# -- what a frame says


def test_support_is_the_share_that_looks_transient() -> None:
    evidence = FrameEvidence.of(FramePrompt(LEFT, residual(LEFT)))
    assert evidence.support(LEFT) == 1.0
    assert evidence.support(RIGHT) == pytest.approx(0.0, abs=0.2)
    half = LEFT | box(2, 45, 12, 55)
    assert evidence.support(half) == pytest.approx(0.5, abs=0.1)


def test_support_of_plain_residuals() -> None:
    evidence = FrameEvidence.of(FramePrompt(LEFT, np.zeros((HEIGHT, WIDTH), np.float32)))
    assert evidence.support(LEFT) == 0.0
    faint = np.where(LEFT, np.float32(0.01), np.float32(0))
    assert FrameEvidence.of(FramePrompt(LEFT, faint)).support(LEFT) == 1.0


def test_no_evidence_without_a_residual_or_anything_static() -> None:
    assert FrameEvidence.of(FramePrompt(LEFT)).support(LEFT) is None
    everything = np.ones((HEIGHT, WIDTH), bool)
    evidence = FrameEvidence.of(FramePrompt(everything, residual(LEFT)))
    assert evidence.support(LEFT) is None


def test_levels_of_a_sequence() -> None:
    levels = residual_levels(ArrayPrompts([LEFT] * 3, [residual(LEFT)] * 3), 3)
    assert levels.use == "used"
    assert levels.static == pytest.approx(0.025, abs=0.005)
    assert levels.transient == pytest.approx(0.425, abs=0.01)
    assert levels.between == pytest.approx(0.225, abs=0.01)


@pytest.mark.parametrize(
    ("prompts", "use"),
    [
        (ArrayPrompts([LEFT] * 3), "none"),
        (ArrayPrompts([LEFT] * 3, [residual(NOTHING)] * 3), "say nothing"),
        (ArrayPrompts([LEFT] * 3, [residual(RIGHT)] * 3), "say nothing"),
        (ArrayPrompts([NOTHING] * 3, [residual(LEFT)] * 3), "say nothing"),
        (ArrayPrompts([LEFT] * 2, [np.zeros((HEIGHT, WIDTH), np.float32)] * 2), "say nothing"),
    ],
)
def test_residuals_that_say_nothing(prompts: ArrayPrompts, use: str) -> None:
    assert residual_levels(prompts, len(prompts.coarse)).use == use


def test_those_who_look_at_one_frame_together_read_it_once() -> None:
    prompts = ArrayPrompts([LEFT, RIGHT])
    remembered = RememberedPrompts(prompts)
    assert not remembered.has_residuals
    for frame_idx in (0, 0, 1, 1, 0):
        np.testing.assert_array_equal(remembered[frame_idx].coarse, prompts.coarse[frame_idx])
    assert prompts.reads == [0, 1, 0]


# -- rule 1: what is believed of a tracked mask


@pytest.mark.parametrize("ordering", [VIDEO, PHOTOS])
def test_a_mask_on_the_static_scene_is_not_believed(ordering: Ordering) -> None:
    used = guard([LEFT], [LEFT], ordering)
    assert used.believed(0, RIGHT, None) == (None, rules.LOOKS_STATIC)


def test_a_person_that_the_coarse_mask_misses_is_believed() -> None:
    used = guard([LEFT], [LEFT | RIGHT])
    mask, reason = used.believed(0, RIGHT, None)
    assert mask is RIGHT
    assert reason is None


def test_a_mask_found_before_does_not_grow_over_the_static_scene() -> None:
    used = guard([LEFT], [LEFT])
    grown = LEFT | box(2, 12, 12, 20)  # more than half of it is LEFT
    mask, reason = used.believed(0, grown, LEFT)
    assert mask is not None
    np.testing.assert_array_equal(mask, LEFT)
    assert reason == rules.ADDS_STATIC
    mask, reason = used.believed(0, grown, None)
    assert mask is grown, "as a whole it is supported"


def test_a_mask_found_before_may_grow_over_what_is_transient() -> None:
    used = guard([LEFT], [LEFT | RIGHT])
    mask, reason = used.believed(0, LEFT | RIGHT, LEFT)
    assert mask is not None
    np.testing.assert_array_equal(mask, LEFT | RIGHT)
    assert reason is None


def test_where_a_mask_is_not_believed_it_still_confirms_what_was_found_before() -> None:
    used = guard([LEFT], [LEFT])
    wide = np.ones((HEIGHT, WIDTH), bool)
    mask, reason = used.believed(0, wide, LEFT)
    assert mask is not None
    np.testing.assert_array_equal(mask, LEFT)
    assert reason == rules.LOOKS_STATIC
    assert used.believed(0, RIGHT, LEFT)[0] is None


def test_photos_need_more_support_than_a_video() -> None:
    share = (rules._MIN_SUPPORT + rules._MIN_SUPPORT_UNORDERED) / 2
    columns = round(10 * share)
    part = box(2, 45, 12, 55)
    shown = box(2, 45, 12, 45 + columns)
    found = [
        guard([LEFT], [LEFT | shown], ordering).believed(0, part, None)[0] is not None
        for ordering in (VIDEO, PHOTOS)
    ]
    support = FrameEvidence.of(FramePrompt(LEFT, residual(LEFT | shown))).support(part)
    assert support is not None
    assert found == [support >= rules._MIN_SUPPORT, support >= rules._MIN_SUPPORT_UNORDERED]


def test_without_residuals_a_video_is_believed_and_photos_need_the_coarse_mask() -> None:
    assert guard([LEFT]).believed(0, RIGHT, None) == (RIGHT, None)
    photos = guard([LEFT], ordering=PHOTOS)
    assert photos.believed(0, RIGHT, None) == (None, rules.UNCOVERED)
    assert photos.believed(0, LEFT, None) == (LEFT, None)


# -- rule 2: what an object covers beyond the coarse mask


def test_an_object_that_has_left_does_not_live_on() -> None:
    used = guard([LEFT, NOTHING], [LEFT, NOTHING])
    found = masklets_of({0: LEFT, 1: LEFT})
    verdicts, outcome = settle(used, found)
    assert list(dense(found, 1)) == [0]
    assert verdicts == [Verdict(1, True, "as it is", 0.5)]
    assert outcome.doubts == (Doubt(1, 1, rules.LOOKS_STATIC, "result"),)
    assert outcome.doubts_about(1) == {rules.LOOKS_STATIC: [1]}
    assert outcome.coarse_object_id is None


def test_what_an_object_adds_to_the_coarse_mask_has_to_look_transient() -> None:
    leaked = LEFT | box(2, 12, 12, 20)
    found = masklets_of({0: leaked}, {0: RIGHT | box(12, 45, 16, 55)})
    used = guard([LEFT | RIGHT], [LEFT | RIGHT | box(12, 45, 16, 55)])
    _, outcome = settle(used, found)
    np.testing.assert_array_equal(dense(found, 1)[0], LEFT)
    np.testing.assert_array_equal(dense(found, 2)[0], RIGHT | box(12, 45, 16, 55))
    assert outcome.doubts == (Doubt(0, 1, rules.ADDS_STATIC, "result"),)


def test_an_outline_is_not_judged() -> None:
    outline = LEFT | box(2, 12, 12, 13)
    found = masklets_of({0: outline})
    _, outcome = settle(guard([LEFT], [LEFT]), found)
    np.testing.assert_array_equal(dense(found, 1)[0], outline)
    assert outcome.doubts == ()


def test_an_object_believed_nowhere_is_rejected() -> None:
    found = masklets_of({0: RIGHT})
    verdicts, _ = settle(guard([NOTHING, LEFT], [NOTHING, LEFT]), found)
    assert not verdicts[0].kept
    assert verdicts[0].reason == "as it is; believed on no frame"


def test_rejected_objects_stay_as_they_are() -> None:
    found = masklets_of({0: RIGHT})
    _, outcome = settle(guard([LEFT], [LEFT]), found, kept=[False])
    np.testing.assert_array_equal(dense(found, 1)[0], RIGHT)
    assert outcome.doubts == ()


def test_without_residuals_a_life_ends_where_coarse_masks_stop_knowing() -> None:
    num_frames = 12
    coarse = [LEFT if t in (2, 3) else NOTHING for t in range(num_frames)]
    found = masklets_of(dict.fromkeys(range(num_frames), LEFT))
    _, outcome = settle(guard(coarse), found)
    assert list(dense(found, 1)) == list(range(3 + rules._LONGEST_MISS + 1))
    assert set(outcome.doubts_about(1)) == {rules.LINGERS}


# -- rule 3: what the coarse mask knows and no object covers


def test_a_left_out_component_that_looks_transient_falls_back() -> None:
    found = masklets_of({0: LEFT})
    used = guard([LEFT | RIGHT | BOTTOM], [LEFT | RIGHT])
    verdicts, outcome = settle(used, found)
    assert verdicts[-1] == Verdict(2, True, rules.COARSE_REASON, None)
    assert outcome.coarse_object_id == 2
    assert outcome.coarse_components == {0: 1}
    np.testing.assert_array_equal(dense(found, 2)[0], RIGHT)


def faint(strong: BoolMask, weak: BoolMask, weak_level: float) -> FloatMap:
    """Residuals of people (0.4 over the static scene) and of what is `weak_level` over it."""
    return residual(strong) + np.float32(weak_level) * weak


@pytest.mark.parametrize(("weak_level", "falls_back"), [(0.25, False), (0.39, True)])
def test_a_ghost_does_not_fall_back_but_somebody_like_those_found_does(
    weak_level: float, falls_back: bool
) -> None:
    """A ghost stands out of the static scene, though not as people do."""
    prompts = ArrayPrompts(
        [LEFT | RIGHT, *[LEFT] * 3], [faint(LEFT, RIGHT, weak_level), *[residual(LEFT)] * 3]
    )
    found = masklets_of(dict.fromkeys(range(4), LEFT))
    _, outcome = settle(Guard(prompts, 4, VIDEO), found)
    assert outcome.found_level == pytest.approx(0.425, abs=0.01)
    assert outcome.found_share is not None
    assert outcome.found_share > 0.75
    assert outcome.fall_back_level == pytest.approx(0.345, abs=0.01)
    assert (outcome.coarse_components == {0: 1}) == falls_back
    assert (outcome.left_out_components == {0: 1}) == (not falls_back)
    assert outcome.as_json()["left_out_components"] == ({} if falls_back else {"0": 1})


def test_where_most_people_are_not_found_it_is_enough_to_look_transient() -> None:
    """The network does not follow the sequence: its objects say little about what is missing."""
    weak = BOTTOM
    prompts = ArrayPrompts([LEFT | RIGHT | weak], [faint(LEFT | RIGHT, weak, 0.25)])
    found = masklets_of({0: LEFT})
    _, outcome = settle(Guard(prompts, 1, VIDEO), found)
    assert outcome.found_share == pytest.approx(0.5, abs=0.1)
    assert outcome.coarse_components == {0: 2}
    np.testing.assert_array_equal(dense(found, 2)[0], RIGHT | weak)


def test_where_nothing_is_found_it_is_enough_to_look_transient() -> None:
    prompts = ArrayPrompts([LEFT | RIGHT], [faint(LEFT, RIGHT, 0.25)])
    found = MaskletSet()
    _, outcome = settle(Guard(prompts, 1, VIDEO), found)
    assert outcome.found_level is None
    assert outcome.coarse_components == {0: 2}


def test_a_rim_does_not_fall_back() -> None:
    found = masklets_of({0: box(3, 3, 11, 11)})
    _, outcome = settle(guard([LEFT], [LEFT]), found)
    assert outcome.coarse_object_id is None


def test_a_rejected_object_does_not_keep_its_component_from_falling_back() -> None:
    found = masklets_of({0: LEFT})
    settle(guard([LEFT], [LEFT]), found, kept=[False])
    np.testing.assert_array_equal(dense(found, 2)[0], LEFT)


def test_without_residuals_components_of_an_objects_size_fall_back() -> None:
    small = box(26, 24, 29, 27)
    found = masklets_of({0: LEFT})
    _, outcome = settle(guard([LEFT | RIGHT | small]), found)
    np.testing.assert_array_equal(dense(found, 2)[0], RIGHT)
    assert outcome.residuals == "none"


def test_without_residuals_and_objects_the_coarse_masks_are_the_result() -> None:
    found = MaskletSet()
    _, outcome = settle(guard([LEFT, NOTHING, RIGHT]), found)
    assert outcome.coarse_components == {0: 1, 2: 1}
    assert list(dense(found, 1)) == [0, 2]


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
