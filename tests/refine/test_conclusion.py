"""From objects to a result: the guard's last two rules, and frames that are looked at early."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from t3dgs_masks import masks
from t3dgs_masks.config import RefineConfig
from t3dgs_masks.refine import (
    Conclusion,
    Doubt,
    FrameResult,
    GuardOutcome,
    MaskletSet,
    Ordering,
    RefineResult,
    Verdict,
    refine,
)
from t3dgs_masks.refine.guard import ADDS_STATIC, LOOKS_STATIC
from t3dgs_masks.refine.settling import _LONGEST_MISS, COARSE_REASON, LINGERS
from t3dgs_masks.types import BoolMask, FloatMap
from tests.refine.fakes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    NOTHING,
    PHOTOS,
    RIGHT,
    VIDEO,
    WIDTH,
    ArrayPrompts,
    MessyProposer,
    MoodyTracker,
    Scene,
    TrueProposer,
    TrueTracker,
    box,
    draw_scene,
    drawn_prompts,
    guard_of,
    residual,
)


def masklets_of(*objects: dict[int, BoolMask]) -> MaskletSet:
    found = MaskletSet()
    for segmentations in objects:
        (first, mask), *others = segmentations.items()
        object_id = found.add(first, masks.encode(mask))
        for frame_idx, other in others:
            found.set(frame_idx, object_id, masks.encode(other))
    return found


def settle(
    prompts: ArrayPrompts, found: MaskletSet, *, rejected: bool = False
) -> tuple[list[Verdict], GuardOutcome]:
    """Of a video; the filter keeps every object, or rejects all."""
    num_frames = len(prompts.coarse)
    config = RefineConfig(filter_threshold=2.0 if rejected else -1.0)
    used = guard_of(prompts)
    concluded = Conclusion(found, prompts, config, num_frames, used).conclude([])
    assert concluded.guard is not None
    return list(concluded.verdicts), concluded.guard


def dense(found: MaskletSet, object_id: int) -> dict[int, BoolMask]:
    return {t: masks.decode(rle) for t, rle in found[object_id].segmentations.items()}


# -- rule 2: what an object covers beyond the coarse mask


def test_an_object_that_has_left_does_not_live_on() -> None:
    found = masklets_of({0: LEFT, 1: LEFT})
    verdicts, outcome = settle(drawn_prompts([LEFT, NOTHING], [LEFT, NOTHING]), found)
    assert list(dense(found, 1)) == [0]
    assert [(verdict.object_id, verdict.kept) for verdict in verdicts] == [(1, True)]
    assert outcome.doubts == (Doubt(1, 1, LOOKS_STATIC, "result"),)
    assert outcome.doubts_about(1) == {LOOKS_STATIC: [1]}
    assert outcome.coarse_object_id is None


def test_what_an_object_adds_to_the_coarse_mask_has_to_look_transient() -> None:
    leaked = LEFT | box(2, 12, 12, 20)
    found = masklets_of({0: leaked}, {0: RIGHT | box(12, 45, 16, 55)})
    prompts = drawn_prompts([LEFT | RIGHT], [LEFT | RIGHT | box(12, 45, 16, 55)])
    _, outcome = settle(prompts, found)
    np.testing.assert_array_equal(dense(found, 1)[0], LEFT)
    np.testing.assert_array_equal(dense(found, 2)[0], RIGHT | box(12, 45, 16, 55))
    assert outcome.doubts == (Doubt(0, 1, ADDS_STATIC, "result"),)


def test_an_outline_is_not_judged() -> None:
    outline = LEFT | box(2, 12, 12, 13)
    found = masklets_of({0: outline})
    _, outcome = settle(drawn_prompts([LEFT], [LEFT]), found)
    np.testing.assert_array_equal(dense(found, 1)[0], outline)
    assert outcome.doubts == ()


def test_an_object_believed_nowhere_is_rejected() -> None:
    found = masklets_of({0: RIGHT})
    verdicts, _ = settle(drawn_prompts([NOTHING, LEFT], [NOTHING, LEFT]), found)
    assert not verdicts[0].kept
    assert verdicts[0].reason.endswith("; believed on no frame")


def test_rejected_objects_stay_as_they_are() -> None:
    found = masklets_of({0: RIGHT})
    _, outcome = settle(drawn_prompts([LEFT], [LEFT]), found, rejected=True)
    np.testing.assert_array_equal(dense(found, 1)[0], RIGHT)
    assert outcome.doubts == ()


def test_without_residuals_a_life_ends_where_coarse_masks_stop_knowing() -> None:
    num_frames = 12
    coarse = [LEFT if t in (2, 3) else NOTHING for t in range(num_frames)]
    found = masklets_of(dict.fromkeys(range(num_frames), LEFT))
    _, outcome = settle(drawn_prompts(coarse), found)
    assert list(dense(found, 1)) == list(range(3 + _LONGEST_MISS + 1))
    assert set(outcome.doubts_about(1)) == {LINGERS}


# -- rule 3: what the coarse mask knows and no object covers


def test_a_left_out_component_that_looks_transient_falls_back() -> None:
    found = masklets_of({0: LEFT})
    prompts = drawn_prompts([LEFT | RIGHT | BOTTOM], [LEFT | RIGHT])
    verdicts, outcome = settle(prompts, found)
    assert verdicts[-1] == Verdict(2, True, COARSE_REASON, None)
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
    _, outcome = settle(prompts, found)
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
    _, outcome = settle(prompts, found)
    assert outcome.found_share == pytest.approx(0.5, abs=0.1)
    assert outcome.coarse_components == {0: 2}
    np.testing.assert_array_equal(dense(found, 2)[0], RIGHT | weak)


def test_where_nothing_is_found_it_is_enough_to_look_transient() -> None:
    prompts = ArrayPrompts([LEFT | RIGHT], [faint(LEFT, RIGHT, 0.25)])
    found = MaskletSet()
    _, outcome = settle(prompts, found)
    assert outcome.found_level is None
    assert outcome.coarse_components == {0: 2}


def test_a_rim_does_not_fall_back() -> None:
    found = masklets_of({0: box(3, 3, 11, 11)})
    _, outcome = settle(drawn_prompts([LEFT], [LEFT]), found)
    assert outcome.coarse_object_id is None


def test_a_rejected_object_does_not_keep_its_component_from_falling_back() -> None:
    found = masklets_of({0: LEFT})
    settle(drawn_prompts([LEFT], [LEFT]), found, rejected=True)
    np.testing.assert_array_equal(dense(found, 2)[0], LEFT)


def test_without_residuals_components_of_an_objects_size_fall_back() -> None:
    small = box(26, 24, 29, 27)
    found = masklets_of({0: LEFT})
    _, outcome = settle(drawn_prompts([LEFT | RIGHT | small]), found)
    np.testing.assert_array_equal(dense(found, 2)[0], RIGHT)
    assert outcome.residuals == "none"


def test_without_residuals_and_objects_the_coarse_masks_are_the_result() -> None:
    found = MaskletSet()
    _, outcome = settle(drawn_prompts([LEFT, NOTHING, RIGHT]), found)
    assert outcome.coarse_components == {0: 1, 2: 1}
    assert list(dense(found, 1)) == [0, 2]


# -- frames that are looked at early


class Early:
    """Looks at frames when told (by threads, if there are any), and remembers what it saw."""

    def __init__(self, pool: ThreadPoolExecutor | None = None) -> None:
        self._pool = pool
        self._begun: dict[int, Future[FrameResult]] = {}
        self.seen: dict[int, FrameResult] = {}
        self.is_finished = False

    def frame_left(self, frame_idx: int, look: Callable[[], FrameResult]) -> None:
        assert frame_idx not in self.seen, "every frame is named once"
        assert not self.is_finished
        if self._pool is None:
            self.seen[frame_idx] = look()
        else:
            self._begun[frame_idx] = self._pool.submit(look)

    def finish(self) -> None:
        self.seen |= {frame_idx: future.result() for frame_idx, future in self._begun.items()}
        self.is_finished = True


def refined(
    scene: Scene,
    early: Early | None,
    ordering: Ordering = VIDEO,
    *,
    promptless: bool = False,
    messy: bool = True,
    **settings: object,
) -> RefineResult:
    config = {"guard": "auto", "min_proposal_coverage": 0.5, **settings}
    return refine(
        num_frames=scene.num_frames,
        height=HEIGHT,
        width=WIDTH,
        prompts=None if promptless else scene.prompts,
        proposer=MessyProposer(scene) if messy else TrueProposer(scene),
        tracker=MoodyTracker(scene) if messy else TrueTracker(scene),
        config=RefineConfig(**config),  # pyright: ignore[reportArgumentType]
        ordering=ordering,
        early=early,
    )


@pytest.mark.parametrize("ordering", [VIDEO, PHOTOS])
@pytest.mark.parametrize("guard", ["auto", "off"])
@pytest.mark.parametrize("residuals", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_looking_early_changes_nothing(seed: int, residuals: bool, guard: str, ordering: Ordering):
    scene = draw_scene(seed, residuals=residuals)
    expected = refined(scene, None, ordering, guard=guard)
    with ThreadPoolExecutor(3) as pool:
        for early in (Early(), Early(pool)):
            result = refined(scene, early, ordering, guard=guard)
            assert result.masklets == expected.masklets
            assert result.verdicts == expected.verdicts
            assert result.guard == expected.guard
            assert early.is_finished == (len(expected.masklets) > 0)


@pytest.mark.parametrize("final_pass", [True, False])
def test_every_frame_of_the_last_pass_is_named(final_pass: bool) -> None:
    early = Early()
    scene = draw_scene(3)
    refined(scene, early, final_pass=final_pass)
    last = scene.num_frames if final_pass else scene.num_frames - 1
    assert sorted(early.seen) == list(range(last))


def test_where_objects_are_clear_what_is_seen_early_is_the_result() -> None:
    right = total = 0
    for seed in range(20):
        scene = draw_scene(seed)
        early = Early()
        result = refined(scene, early, messy=False)
        right += sum(seen == result.frame(t) for t, seen in early.seen.items())
        total += len(early.seen)
    assert right > 0.8 * total, f"{right} of {total}"


def test_promptless_every_object_is_seen() -> None:
    scene = draw_scene(5)
    early = Early()
    result = refined(scene, early, promptless=True)
    assert any(early.seen[t].kept for t in early.seen)
    assert all(not early.seen[t].rejected for t in early.seen)
    assert sum(seen == result.frame(t) for t, seen in early.seen.items()) > 0


def test_a_frame_is_looked_at_again_if_its_masks_have_changed() -> None:
    prompts = drawn_prompts([LEFT | RIGHT, LEFT], [LEFT | RIGHT, LEFT])
    used = guard_of(prompts)
    found = masklets_of({0: LEFT, 1: LEFT}, {0: RIGHT})
    conclusion = Conclusion(found, prompts, RefineConfig(), 2, used)
    early = conclusion.preview(0, found.at_frame(0))
    assert set(early.kept) == {1, 2}
    assert not early.rejected
    found.merge([[1, 2]])
    assert conclusion.preview(1, found.at_frame(1)) == FrameResult(found.at_frame(1), {})
    concluded = conclusion.conclude([])
    assert [verdict.object_id for verdict in concluded.verdicts] == [1]
    np.testing.assert_array_equal(dense(found, 1)[0], LEFT | RIGHT)
    assert early.objects != found.at_frame(0)
    early_pixels, pixels = (
        result.transient(HEIGHT, WIDTH).pixels
        for result in (early, FrameResult(found.at_frame(0), {}))
    )
    np.testing.assert_array_equal(early_pixels, pixels)


def test_what_was_looked_at_is_not_read_again() -> None:
    prompts = drawn_prompts([LEFT] * 3, [LEFT] * 3)
    used = guard_of(prompts)
    found = masklets_of(dict.fromkeys(range(3), LEFT))
    conclusion = Conclusion(found, prompts, RefineConfig(), 3, used)
    order = [0, 1, 2]
    random.Random(0).shuffle(order)
    prompts.reads.clear()
    for frame_idx in order:
        conclusion.preview(frame_idx, found.at_frame(frame_idx))
    assert sorted(prompts.reads) == [0, 1, 2]
    conclusion.conclude([])
    assert sorted(prompts.reads) == [0, 1, 2]
