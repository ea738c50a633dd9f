"""The passes, call by call, on cases worked out by hand."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest

from t3dgs_masks import masks
from t3dgs_masks.config import RefineConfig
from t3dgs_masks.refine import MaskletSet, RefineResult, Stage, refine
from t3dgs_masks.refine.passes import (
    BackwardPass,
    FinalPass,
    ForwardPass,
    Pass,
    frames_after,
    frames_around,
    frames_before,
)
from t3dgs_masks.refine.prompts_at_hand import PromptsAtHand
from t3dgs_masks.refine.proposals import ProposalSearch
from t3dgs_masks.types import BoolMask
from tests.refine.fakes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    NOTHING,
    RIGHT,
    WIDTH,
    ArrayPrompts,
    Call,
    CallLog,
    MessyProposer,
    MoodyTracker,
    ScriptedProposer,
    StillTracker,
    box,
    draw_scene,
)

FORGET: Call = ("forget",)


def given(frame_idx: int, object_id: int) -> Call:
    return ("condition", frame_idx, object_id)


def propagate(frame_idx: int, direction: str = "forward") -> Call:
    return ("propagate", frame_idx, direction)


def take(*frames: int) -> list[Call]:
    return [("take", frame_idx) for frame_idx in frames]


def run(
    num_frames: int,
    proposals: dict[int, list[BoolMask]],
    *,
    coarse: dict[int, BoolMask] | None = None,
    overrides: dict[tuple[str, int, int], BoolMask] | None = None,
    config: RefineConfig | None = None,
) -> tuple[RefineResult, CallLog, ScriptedProposer]:
    """A promptable job; where no coarse mask is given, it is what is proposed on that frame."""
    drawn = [np.any([NOTHING, *proposals.get(t, ())], axis=0) for t in range(num_frames)]
    for t, mask in (coarse or {}).items():
        drawn[t] = mask
    prompts = ArrayPrompts(drawn)
    tracker = StillTracker(num_frames, overrides)
    proposer = ScriptedProposer(proposals)
    log = CallLog(tracker.calls)
    result = refine(
        num_frames=num_frames,
        height=HEIGHT,
        width=WIDTH,
        prompts=prompts,
        proposer=proposer,
        tracker=tracker,
        config=replace(config or RefineConfig(), guard="off"),
        observer=log,
    )
    assert tracker.live_generators == 0, "every propagation was closed"
    return result, log, proposer


def dense(result: RefineResult) -> dict[int, dict[int, BoolMask]]:
    return {
        m.object_id: {t: masks.decode(rle) for t, rle in m.segmentations.items()}
        for m in result.masklets
    }


# -- the whole job, once


def test_every_call_of_a_small_job() -> None:
    _, log, proposer = run(4, {0: [LEFT]}, config=RefineConfig(max_conditioning_frames=2))
    assert log.calls == [
        (Stage.FORWARD,),
        FORGET,
        given(0, 1),
        propagate(1),
        *take(1, 2, 3),
        (Stage.BACKWARD,),
        FORGET,
        given(3, 1),
        propagate(2, "reverse"),
        *take(2, 1, 0),
        (Stage.FINAL,),
        *(FORGET, given(1, 1), given(2, 1), propagate(0), *take(0)),
        *(FORGET, given(0, 1), given(2, 1), propagate(1), *take(1)),
        *(FORGET, given(1, 1), given(3, 1), propagate(2), *take(2)),
        *(FORGET, given(1, 1), given(2, 1), propagate(3), *take(3)),
        (Stage.FILTER,),
    ]
    assert proposer.frames == [0], "frames without points do not reach the proposer"


# -- forward


def test_forward_the_seed_is_the_first_frame_with_a_believed_proposal() -> None:
    result, log, proposer = run(
        4, {0: [], 1: [RIGHT], 2: [LEFT]}, coarse={0: LEFT, 1: LEFT, 2: LEFT}
    )
    assert proposer.frames == [0, 1, 2]  # 0: nothing; 1: outside the coarse mask; 2: the seed
    assert log.during(Stage.FORWARD) == [FORGET, given(2, 1), propagate(3), *take(3)]
    assert result.masklets.object_ids == [1]


def test_forward_restarts_after_a_new_object() -> None:
    _, log, proposer = run(6, {0: [LEFT], 2: [RIGHT]})
    assert log.during(Stage.FORWARD) == [
        FORGET,
        given(0, 1),
        propagate(1),
        *take(1, 2),
        FORGET,
        *(given(0, 1), given(1, 1), given(2, 1), given(2, 2)),
        propagate(3),
        *take(3, 4, 5),
    ]
    assert proposer.frames == [0, 2]


def test_forward_restarts_after_a_merge() -> None:
    almost_left = LEFT & ~box(2, 2, 3, 3)  # IoU 99/100
    result, log, _ = run(4, {0: [LEFT, almost_left]})
    assert log.during(Stage.FORWARD) == [
        *(FORGET, given(0, 1), given(0, 2), propagate(1), *take(1)),
        *(FORGET, given(0, 1), given(1, 1), propagate(2), *take(2, 3)),
    ]
    assert result.masklets.object_ids == [1]
    assert result.counts[Stage.FORWARD].merged_objects == 1


def test_forward_keeps_proposals_of_the_seed_frame_apart_until_the_next_frame() -> None:
    result, _, _ = run(1, {0: [LEFT, LEFT]})
    assert result.masklets.object_ids == [1, 2]
    result, _, _ = run(2, {0: [LEFT, LEFT]})
    assert result.masklets.object_ids == [1]


def test_forward_keeps_new_proposals_apart_from_what_is_tracked_on_the_same_frame() -> None:
    # The proposal covers the tracked object, though its points lie elsewhere.
    result, log, _ = run(3, {0: [LEFT], 1: [LEFT]}, coarse={1: LEFT | RIGHT}, config=RefineConfig())
    assert log.during(Stage.FORWARD)[-5:] == [
        *(given(0, 1), given(1, 1), given(1, 2)),
        propagate(2),
        *take(2),
    ]
    assert result.counts[Stage.FORWARD].merged_objects == 1, "one frame later"


def test_forward_conditions_on_the_last_m_frames_with_masks_walking_over_empty_ones() -> None:
    gone = {("forward", t, 1): NOTHING for t in (2, 3, 4)}
    _, log, _ = run(
        7,
        {0: [LEFT], 5: [RIGHT]},
        overrides=gone,
        config=RefineConfig(max_conditioning_frames=2),
    )
    assert log.during(Stage.FORWARD) == [
        *(FORGET, given(0, 1), propagate(1), *take(1, 2, 3, 4, 5)),
        # 5 holds both objects (1 is back); 4, 3, 2 hold none; 1 is the second frame.
        *(FORGET, given(1, 1), given(5, 1), given(5, 2), propagate(6), *take(6)),
    ]


def test_forward_does_not_store_empty_masks() -> None:
    result, log, _ = run(2, {0: [LEFT]}, overrides={("forward", 1, 1): NOTHING})
    assert log.during(Stage.BACKWARD) == [], "no frame after 0 holds a mask"
    assert result.counts[Stage.BACKWARD].restarts == 0


def test_forward_looks_everywhere_when_all_tracked_objects_are_gone() -> None:
    _, _, proposer = run(2, {0: [LEFT]}, coarse={1: LEFT}, overrides={("forward", 1, 1): NOTHING})
    assert proposer.frames == [0, 1]


def test_forward_drops_points_within_ten_steps_of_a_tracked_object() -> None:
    near = box(2, 12, 12, 22)  # columns 12..21: 1 to 10 steps from the box that ends in 11
    next_to_near = box(2, 22, 12, 32)
    _, _, proposer = run(2, {0: [LEFT]}, coarse={1: near})
    assert proposer.frames == [0]
    _, _, proposer = run(2, {0: [LEFT]}, coarse={1: next_to_near})
    assert proposer.frames == [0, 1]
    _, _, proposer = run(2, {0: [LEFT]}, coarse={1: near | next_to_near | BOTTOM})
    columns, rows = proposer.calls[1][1].T
    assert ((columns >= 22) | (rows >= 22)).all()


@pytest.mark.parametrize(("covered_columns", "taken"), [(7, False), (8, True)])
def test_a_proposal_needs_strictly_more_than_lambda_ref(covered_columns: int, taken: bool) -> None:
    coarse = box(2, 2, 12, 2 + covered_columns)  # of the ten columns of LEFT
    config = RefineConfig(min_proposal_coverage=0.7)
    result, _, _ = run(1, {0: [LEFT]}, coarse={0: coarse}, config=config)
    assert len(result.masklets) == taken


# -- backward


def test_backward_goes_on_to_before_the_seed_frame() -> None:
    result, log, _ = run(4, {2: [LEFT]})
    assert log.during(Stage.BACKWARD) == [
        *(FORGET, given(3, 1), propagate(2, "reverse"), *take(2, 1, 0))
    ]
    assert list(result.masklets[1].segmentations) == [0, 1, 2, 3]


def test_backward_skips_until_there_is_something_to_condition_on() -> None:
    gone = {("forward", t, 1): NOTHING for t in (2, 3)}
    _, log, _ = run(4, {1: [LEFT]}, overrides=gone)
    assert log.during(Stage.BACKWARD) == [*(FORGET, given(1, 1), propagate(0, "reverse"), *take(0))]


def test_backward_restarts_for_an_object_that_it_was_not_conditioned_on() -> None:
    gone = {("forward", t, 1): NOTHING for t in (2, 3)}
    _, log, _ = run(4, {0: [LEFT], 2: [RIGHT]}, overrides=gone)
    assert log.during(Stage.BACKWARD) == [
        # Only object 2 is on frame 3; object 1 turns up on frame 1.
        *(FORGET, given(3, 2), propagate(2, "reverse"), *take(2, 1)),
        FORGET,
        *(given(1, 1), given(1, 2), given(2, 2), given(3, 2)),
        propagate(0, "reverse"),
        *take(0),
    ]


def test_backward_restarts_for_an_object_that_the_tracker_loses() -> None:
    _, log, _ = run(4, {0: [LEFT]}, overrides={("reverse", 2, 1): NOTHING})
    assert log.during(Stage.BACKWARD) == [
        *(FORGET, given(3, 1), propagate(2, "reverse"), *take(2)),
        *(FORGET, given(2, 1), given(3, 1), propagate(1, "reverse"), *take(1, 0)),
    ]


def test_backward_conditions_on_the_first_m_frames_with_masks_after() -> None:
    gone = {("forward", 2, 1): NOTHING}
    lost = {("reverse", t, 1): NOTHING for t in (1, 2)}
    _, log, _ = run(
        5,
        {0: [LEFT]},
        overrides={**gone, **lost},
        config=RefineConfig(max_conditioning_frames=2),
    )
    assert log.during(Stage.BACKWARD) == [
        *(FORGET, given(4, 1), propagate(3, "reverse"), *take(3, 2, 1)),
        # Frame 1 holds object 1, which was lost there; frame 2 is empty.
        *(FORGET, given(1, 1), given(3, 1), propagate(0, "reverse"), *take(0)),
    ]


def test_backward_unites_and_then_merges_and_restarts() -> None:
    drifted = box(2, 3, 12, 12)  # 90 of the 100 pixels of LEFT
    overrides = {
        ("forward", 1, 2): drifted,
        ("forward", 2, 2): RIGHT,
        ("reverse", 1, 2): LEFT,
    }
    result, log, _ = run(3, {0: [LEFT, RIGHT]}, overrides=overrides)
    # On frame 1 IoU(LEFT, drifted) = 0.9 is not above 0.9: forward does not merge. Backward finds
    # LEFT for object 2 there; united with what was stored it is LEFT, the duplicate of object 1.
    assert log.during(Stage.FORWARD)[-2:] == take(1, 2)
    assert log.during(Stage.BACKWARD) == [
        *(FORGET, given(2, 1), given(2, 2), propagate(1, "reverse"), *take(1)),
        *(FORGET, given(1, 1), given(2, 1), propagate(0, "reverse"), *take(0)),
    ]
    found = dense(result)
    assert list(found) == [1]
    for t in (0, 2):
        assert np.array_equal(found[1][t], LEFT | RIGHT), "OR-ed on all frames"


# -- final


def test_final_conditions_on_the_nearest_frames_of_both_sides_lower_index_first() -> None:
    expected = {0: [1, 2, 3], 1: [0, 2, 3], 2: [0, 1, 3], 3: [1, 2, 4], 4: [1, 2, 3]}
    _, log, _ = run(5, {0: [LEFT]}, config=RefineConfig(max_conditioning_frames=3))
    assert log.during(Stage.FINAL) == [
        call
        for t, frames in expected.items()
        for call in (FORGET, *(given(f, 1) for f in frames), propagate(t), *take(t))
    ]


def test_final_takes_one_frame_and_ends_the_propagation() -> None:
    class LiveCount(CallLog):
        def frame_done(self, stage: Stage, frame_idx: int, num_objects: int) -> None:
            if stage is Stage.FINAL:
                live.append(tracker.live_generators)

    live: list[int] = []
    tracker = StillTracker(3)
    refine(
        num_frames=3,
        height=HEIGHT,
        width=WIDTH,
        prompts=None,
        proposer=ScriptedProposer({0: [LEFT]}),
        tracker=tracker,
        observer=LiveCount(tracker.calls),
    )
    assert live == [0, 0, 0]


def test_final_works_in_place() -> None:
    # Only the final pass is conditioned on a later frame while it goes forward.
    class Grower(StillTracker):
        def _look(self, frame_idx, object_id, given, frames):
            seen = super()._look(frame_idx, object_id, given, frames)
            final = max(given) > frames.start or (frames.start == 2 and len(given) == 2)
            return seen | np.roll(seen, 1, axis=1) if final and frames.step > 0 else seen

    tracker = Grower(3)
    result = refine(
        num_frames=3,
        height=HEIGHT,
        width=WIDTH,
        prompts=ArrayPrompts([LEFT, NOTHING, NOTHING]),
        proposer=ScriptedProposer({0: [LEFT]}),
        tracker=tracker,
    )
    widths = [masks.area(result.masklets[1].segmentations[t]) // 10 for t in range(3)]
    assert widths == [11, 12, 13], "each frame saw what the one before it had become"


def test_final_adds_to_a_frame_that_holds_nothing() -> None:
    class SeesItFromBothSides(StillTracker):
        def _look(self, frame_idx, object_id, given, frames):
            seen = super()._look(frame_idx, object_id, given, frames)
            return NOTHING if frame_idx == 1 and set(given) != {0, 2} else seen

    tracker = SeesItFromBothSides(3)
    log = CallLog(tracker.calls)
    result = refine(
        num_frames=3,
        height=HEIGHT,
        width=WIDTH,
        prompts=ArrayPrompts([LEFT, NOTHING, NOTHING]),
        proposer=ScriptedProposer({0: [LEFT]}),
        tracker=tracker,
        observer=log,
    )
    assert log.during(Stage.FINAL) == [
        *(FORGET, given(2, 1), propagate(0), *take(0)),  # frame 1 holds nothing yet
        *(FORGET, given(0, 1), given(2, 1), propagate(1), *take(1)),
        *(FORGET, given(0, 1), given(1, 1), propagate(2), *take(2)),
    ]
    assert result.masklets.at_frame(1) == {1: masks.encode(LEFT)}


def test_final_merges_what_it_makes_the_same() -> None:
    class Joins(StillTracker):
        def _look(self, frame_idx, object_id, given, frames):
            final = frames.step > 0 and frame_idx == 0
            return LEFT if final else super()._look(frame_idx, object_id, given, frames)

    far = LEFT & box(0, 0, 12, 10)  # IoU 0.8 with LEFT
    tracker = Joins(2)
    result = refine(
        num_frames=2,
        height=HEIGHT,
        width=WIDTH,
        prompts=ArrayPrompts([LEFT, NOTHING]),
        proposer=ScriptedProposer({0: [far, LEFT]}),
        tracker=tracker,
    )
    assert result.counts[Stage.FINAL].merged_objects == 1
    assert result.masklets.object_ids == [1]
    assert result.masklets[1].segmentations[1] == masks.encode(LEFT)


def test_final_leaves_a_frame_as_it_is_without_anything_to_condition_on() -> None:
    gone = {(d, t, 1): NOTHING for d in ("forward", "reverse") for t in (0, 2)}
    result, log, _ = run(3, {1: [LEFT]}, overrides=gone)
    assert log.during(Stage.FINAL) == [
        *(FORGET, given(1, 1), propagate(0), *take(0)),
        *(FORGET, given(1, 1), propagate(2), *take(2)),
    ]
    assert list(result.masklets[1].segmentations) == [1]


# -- which frames to condition on


def _holding(*frames: int) -> MaskletSet:
    found = MaskletSet()
    for t in frames:
        found.add(t, masks.encode(LEFT))
    return found


def test_conditioning_frames() -> None:
    found = _holding(0, 3, 4, 8, 9)
    assert frames_before(found, 9, 2) == [4, 8]
    assert frames_before(found, 9, 9) == [0, 3, 4, 8]
    assert frames_before(found, 0, 9) == []
    assert frames_after(found, 3, 9, 2) == [4, 8]
    assert frames_after(found, 3, 8, 9) == [4, 8]
    assert frames_after(found, 9, 9, 9) == []
    assert frames_around(found, 4, 9, 1) == [3]
    assert frames_around(found, 6, 9, 1) == [4], "4 and 8 are equally near"
    assert frames_around(found, 6, 9, 2) == [4, 8]
    assert frames_around(found, 6, 9, 3) == [3, 4, 8], "so are 3 and 9"
    assert frames_around(found, 6, 9, 9) == [0, 3, 4, 8, 9]
    assert frames_around(_holding(5), 5, 9, 9) == []


# -- going on from a state


@pytest.mark.parametrize("seed", range(8))
def test_a_pass_goes_on_from_its_state_with_a_fresh_tracker(seed: int) -> None:
    scene = draw_scene(seed)
    config = RefineConfig(max_conditioning_frames=2, merge_iou=0.7)
    last = scene.num_frames - 1
    at_hand = PromptsAtHand(scene.prompts, scene.num_frames)
    search = ProposalSearch(HEIGHT, WIDTH, at_hand, MessyProposer(scene), config)

    def make(kind: type[Pass], found: MaskletSet, state=None) -> Pass:
        tracker = MoodyTracker(scene)
        if kind is ForwardPass:
            return ForwardPass(found, tracker, config, last, search, state)
        return kind(found, tracker, config, last, state)

    undisturbed, interrupted = MaskletSet(), MaskletSet()
    for kind in (ForwardPass, BackwardPass, FinalPass):
        whole, current = make(kind, undisturbed), make(kind, interrupted)
        while not whole.finished:
            whole.step()
            # What a saved state would bring back: new objects, new tracker.
            interrupted = MaskletSet(interrupted, next_object_id=interrupted.next_object_id)
            current = make(kind, interrupted, copy.deepcopy(current.state))
            current.step()
            assert current.state == whole.state
            assert interrupted == undisturbed
            assert interrupted.next_object_id == undisturbed.next_object_id


def test_a_tracker_that_stops_early_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="ended where frame 2 was due"):
        refine(
            num_frames=4,
            height=HEIGHT,
            width=WIDTH,
            prompts=ArrayPrompts([LEFT] * 4),
            proposer=ScriptedProposer({0: [LEFT]}),
            tracker=StillTracker(2),
        )
