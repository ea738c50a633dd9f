"""The rows of "Where we differ, on purpose" that concern the algorithm, one test or more each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from t3dgs_masks import masks
from t3dgs_masks.config import RefineConfig
from t3dgs_masks.errors import UserError
from t3dgs_masks.refine import RefineResult, Stage, prompts_at_hand, refine
from t3dgs_masks.types import BoolMask, PromptSource, Proposer, Tracker
from tests.refine.fakes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    NOTHING,
    RIGHT,
    WIDTH,
    ArrayPrompts,
    CallLog,
    ScriptedProposer,
    StillTracker,
    TrueProposer,
    TrueTracker,
    box,
    draw_scene,
)


def run(
    num_frames: int,
    prompts: PromptSource | None,
    proposer: Proposer,
    tracker: Tracker | None = None,
    config: RefineConfig | None = None,
    observer: CallLog | None = None,
) -> RefineResult:
    return refine(
        num_frames=num_frames,
        height=HEIGHT,
        width=WIDTH,
        prompts=prompts,
        proposer=proposer,
        tracker=tracker or StillTracker(num_frames),
        config=replace(config or RefineConfig(), guard="off"),
        observer=observer,
    )


def areas(result: RefineResult) -> list[int]:
    """Transient pixels of every frame."""
    found = []
    for t in range(result.num_frames):
        pixels = result.transient(t).pixels
        assert (pixels.shape, pixels.dtype) == ((HEIGHT, WIDTH), np.bool_)
        found.append(int(pixels.sum()))
    return found


# -- promptless mode


def test_promptless_mode_works() -> None:
    proposer = ScriptedProposer({0: [LEFT], 2: [RIGHT]})
    result = run(4, None, proposer)
    assert areas(result) == [200] * 4
    assert [(v.kept, v.transience_score) for v in result.verdicts] == [(True, None)] * 2
    assert result.verdicts[0].reason == "promptless: every object is kept"


def test_promptless_mode_looks_closely_until_the_seed_frame_and_then_coarsely() -> None:
    proposer = ScriptedProposer({1: [LEFT]})
    config = RefineConfig(start_points_per_side=6, prompt_points_per_side=3)
    run(4, None, proposer, config=config)
    tried = [(t, len(points)) for t, points in proposer.calls]
    # Of the coarse grid (x 10, 30, 50; y 6.7, 20, 33.3) the point (10, 6.7) lies inside LEFT and
    # (10, 20) nine steps below it.
    assert tried == [(0, 36), (1, 36), (2, 7), (3, 7)]


def test_promptless_mode_judges_nothing() -> None:
    log = CallLog([])
    run(2, None, ScriptedProposer({0: [LEFT]}), observer=log)
    assert Stage.FILTER not in [stage for _, stage in log.events]


# -- frames without an object


def test_frames_without_an_object_are_all_static() -> None:
    gone = {(d, t, 1): NOTHING for d in ("forward", "reverse") for t in (0, 2)}
    result = run(
        3,
        ArrayPrompts([NOTHING, LEFT, NOTHING]),
        ScriptedProposer({1: [LEFT]}),
        StillTracker(3, gone),
    )
    assert areas(result) == [0, 100, 0]
    assert (result.transient(0).static() == 255).all()


def test_frames_after_num_iterations_are_all_static() -> None:
    for n, expected in [(0, [100, 0, 0]), (1, [100, 100, 0]), (2, [100] * 3), (99, [100] * 3)]:
        prompts = ArrayPrompts([LEFT] * 3)
        result = run(
            3, prompts, ScriptedProposer({0: [LEFT]}), config=RefineConfig(num_iterations=n)
        )
        assert areas(result) == expected
        assert max(prompts.reads) == min(n, 2)


def test_only_frames_of_the_sequence_have_a_mask() -> None:
    result = run(2, None, ScriptedProposer({}))
    for t in (-1, 2):
        with pytest.raises(IndexError):
            result.transient(t)


# -- diffs missing


def test_diffs_missing_the_residual_term_is_one() -> None:
    log = CallLog([])
    result = run(2, ArrayPrompts([LEFT, LEFT]), ScriptedProposer({0: [LEFT]}), observer=log)
    assert result.verdicts[0].transience_score == 1.0
    assert "no residuals" in result.verdicts[0].reason
    assert any("no residuals were given" in notice for notice in result.notices)
    assert tuple(log.notices) == result.notices


# -- object on a single frame; prompt only on the last frame; one frame; none at all


def test_object_on_a_single_frame() -> None:
    gone = {(d, t, 1): NOTHING for d in ("forward", "reverse") for t in (0, 1, 3)}
    result = run(
        4,
        ArrayPrompts([NOTHING, NOTHING, LEFT, NOTHING]),
        ScriptedProposer({2: [LEFT]}),
        StillTracker(4, gone),
    )
    assert areas(result) == [0, 0, 100, 0]


def test_prompt_only_on_the_last_frame() -> None:
    coarse = [NOTHING, NOTHING, LEFT]
    result = run(3, ArrayPrompts(coarse), ScriptedProposer({2: [LEFT]}))
    assert areas(result) == [100] * 3


@pytest.mark.parametrize("promptable", [True, False])
def test_one_frame(promptable: bool) -> None:
    tracker = StillTracker(1)
    prompts = ArrayPrompts([LEFT]) if promptable else None
    result = run(1, prompts, ScriptedProposer({0: [LEFT]}), tracker)
    assert areas(result) == [100]
    assert tracker.calls == [], "there is nowhere to propagate to"


@pytest.mark.parametrize("promptable", [True, False])
def test_none_at_all(promptable: bool) -> None:
    log = CallLog([])
    tracker = StillTracker(3)
    prompts = ArrayPrompts([NOTHING] * 3) if promptable else None
    result = run(3, prompts, ScriptedProposer({}), tracker, observer=log)
    assert areas(result) == [0, 0, 0]
    assert (len(result.masklets), result.verdicts) == (0, ())
    assert tracker.calls == []
    assert len(result.notices) == 1
    assert tuple(log.notices) == result.notices


def test_no_frames_is_the_users_error() -> None:
    with pytest.raises(UserError, match="no frames"):
        run(0, None, ScriptedProposer({}))


# -- no proposal at stock thresholds


def test_no_proposal_at_stock_thresholds_says_what_to_lower() -> None:
    result = run(2, ArrayPrompts([LEFT, LEFT]), ScriptedProposer({}))
    (notice,) = result.notices
    assert notice.startswith(
        "no proposal passed the thresholds; all frames are written as all-static"
    )
    assert "--pred-iou-thresh / --stability-score-thresh" in notice


# -- object ids


def test_object_ids_are_permanent_and_never_reused() -> None:
    # 1 and 2 merge on frame 1; what is found on frame 2 is neither 2 nor anything renumbered.
    result = run(
        4,
        ArrayPrompts([LEFT, NOTHING, RIGHT, BOTTOM]),
        ScriptedProposer({0: [LEFT, LEFT], 2: [RIGHT], 3: [BOTTOM]}),
    )
    assert result.masklets.object_ids == [1, 3, 4]
    found = result.masklets.at_frame(3)
    assert found == {1: masks.encode(LEFT), 3: masks.encode(RIGHT), 4: masks.encode(BOTTOM)}


# -- hole filling

HOLED = LEFT & ~box(5, 5, 7, 7)  # a hole of 4 pixels


@pytest.mark.parametrize(
    ("fill_hole_area", "tracked_area"), [(0, 96), (3, 96), (4, 100), (50, 100)]
)
def test_hole_filling_is_a_step_of_our_own(fill_hole_area: int, tracked_area: int) -> None:
    result = run(
        3,
        None,
        ScriptedProposer({0: [HOLED]}),
        config=RefineConfig(fill_hole_area=fill_hole_area, prompt_points_per_side=1),
    )
    assert areas(result)[1:] == [tracked_area] * 2


def test_hole_filling_is_off_by_default() -> None:
    assert RefineConfig().fill_hole_area == 0


# -- report.json num_labels


def test_kept_and_rejected_are_both_in_the_result() -> None:
    residual = np.where(LEFT, np.float32(0.5), np.float32(0.01))
    result = run(
        3,
        ArrayPrompts([LEFT | RIGHT] * 3, [residual] * 3),
        ScriptedProposer({0: [LEFT, RIGHT]}),
    )
    assert [(v.object_id, v.kept) for v in result.verdicts] == [(1, True), (2, False)]
    assert result.masklets.object_ids == [1, 2]
    assert areas(result) == [100] * 3
    assert np.array_equal(result.transient(1).pixels, LEFT)


def test_all_rejected_is_said() -> None:
    residual = np.zeros((HEIGHT, WIDTH), dtype=np.float32)
    result = run(2, ArrayPrompts([LEFT] * 2, [residual] * 2), ScriptedProposer({0: [LEFT]}))
    assert areas(result) == [0, 0]
    assert any("--filter-threshold" in notice for notice in result.notices)


# -- resume, a crash (what they will rest on)


def test_points_do_not_depend_on_what_was_processed_before() -> None:
    first, second = ScriptedProposer({}), ScriptedProposer({})
    run(3, ArrayPrompts([LEFT, RIGHT, BOTTOM]), first)
    run(3, ArrayPrompts([NOTHING, NOTHING, BOTTOM]), second)
    assert np.array_equal(first.calls[2][1], second.calls[0][1])


# -- the result on scenes with a tracker that knows the truth


@pytest.mark.parametrize("seed", range(10))
def test_true_objects_are_recovered(seed: int) -> None:
    scene = draw_scene(seed)
    result = run(
        scene.num_frames,
        scene.prompts,
        TrueProposer(scene),
        TrueTracker(scene),
        RefineConfig(min_proposal_coverage=0.5, filter_threshold=-1.0),
    )
    found: list[BoolMask] = []
    for masklet in result.masklets:
        for t, mask in masklet.segmentations.items():
            found.append(masks.decode(mask) & ~scene.objects[t].any(axis=0))
    assert not any(outside.any() for outside in found)


# -- what the command line shows


def test_the_observer_hears_of_every_stage_and_frame() -> None:
    log = CallLog([])
    result = run(3, ArrayPrompts([LEFT] * 3), ScriptedProposer({0: [LEFT]}), observer=log)
    order = [Stage.FORWARD, Stage.BACKWARD, Stage.FINAL, Stage.FILTER]
    assert log.events == [(e, s) for s in order for e in ("started", "finished")]
    frames = {stage: [t for s, t, _ in log.frames if s is stage] for stage in order}
    assert frames == {
        Stage.FORWARD: [0, 1, 2],
        Stage.BACKWARD: [1, 0],
        Stage.FINAL: [0, 1, 2],
        Stage.FILTER: [0, 1, 2],
    }
    assert all(num_objects == 1 for _, _, num_objects in log.frames)
    assert list(result.seconds) == order
    assert all(seconds >= 0 for seconds in result.seconds.values())
    assert result.counts[Stage.FORWARD].new_objects == 1
    assert [result.counts[s].restarts for s in order[:3]] == [1, 1, 3]


def test_the_final_pass_can_be_left_out() -> None:
    log = CallLog([])
    result = run(
        3,
        ArrayPrompts([LEFT] * 3),
        ScriptedProposer({0: [LEFT]}),
        config=RefineConfig(final_pass=False),
        observer=log,
    )
    assert [s for e, s in log.events if e == "started"] == [
        Stage.FORWARD,
        Stage.BACKWARD,
        Stage.FILTER,
    ]
    assert result.counts[Stage.FINAL].restarts == 0
    assert areas(result) == [100] * 3


@pytest.mark.parametrize(("kept", "again"), [(3, [0, 1]), (5, [])])
def test_prompts_are_read_once_per_frame_and_pass(
    monkeypatch: pytest.MonkeyPatch, kept: int, again: list[int]
) -> None:
    monkeypatch.setattr(prompts_at_hand, "_MOST_KEPT", kept)
    prompts = ArrayPrompts([LEFT, NOTHING, RIGHT, NOTHING, NOTHING])
    run(5, prompts, ScriptedProposer({0: [LEFT], 2: [RIGHT]}))
    # Forward, and filter, where the last few are still at hand.
    assert sorted(prompts.reads[:5]) == [0, 1, 2, 3, 4], "two at a time, one of which begins"
    assert prompts.reads[5:] == again


@pytest.mark.parametrize(
    ("config", "flag"),
    [
        (RefineConfig(max_conditioning_frames=0), "--memory-size"),
        (RefineConfig(start_points_per_side=0), "--start-points-per-side"),
        (RefineConfig(prompt_points_per_side=0), "--prompt-points-per-side"),
        (RefineConfig(num_iterations=-1), "--num-iterations"),
        (RefineConfig(fill_hole_area=-1), "--fill-hole-area"),
        (RefineConfig(seed=-1), "--seed"),
    ],
)
def test_settings_that_make_no_sense(config: RefineConfig, flag: str) -> None:
    with pytest.raises(UserError, match=flag):
        run(2, None, ScriptedProposer({}), config=config)


def test_a_proposal_of_another_size_is_an_error() -> None:
    with pytest.raises(ValueError, match="shape"):
        run(1, None, ScriptedProposer({0: [np.ones((3, 3), dtype=bool)]}))


def test_empty_proposals_are_no_objects() -> None:
    assert len(run(1, None, ScriptedProposer({0: [NOTHING]})).masklets) == 0
