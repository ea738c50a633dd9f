"""A refine that is killed anywhere, any number of times, ends as one that was left alone."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray

from t3dgs_masks import masks
from t3dgs_masks.config import RefineConfig
from t3dgs_masks.io.progress_file import ProgressFile, open_progress, progress_path
from t3dgs_masks.refine import MaskletSet, RefineResult, Stage, refine, resume
from t3dgs_masks.refine.passes import BackwardPass
from t3dgs_masks.types import Proposal, ResumableTracker, TrackedFrame
from tests.refine.fakes import (
    HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    MessyProposer,
    MoodyTracker,
    Scene,
    StillTracker,
    draw_scene,
)

SMALL = 6


class Killed(BaseException):
    """The process is gone."""


class Fuse:
    """Kills after so many of the things that a refine does; None: never."""

    def __init__(self, length: int | None = None) -> None:
        self.left = length

    def burn(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed


class MortalTracker(MoodyTracker):
    def __init__(self, scene: Scene, fuse: Fuse) -> None:
        super().__init__(scene)
        self.fuse = fuse
        self.steps = 0

    def _walk(self, frames: range) -> Iterator[TrackedFrame]:
        for tracked in super()._walk(frames):
            self.fuse.burn()
            self.steps += 1
            yield tracked


class PortableTracker(MortalTracker):
    """Its propagations can be carried over."""

    span = range(0)
    reached = 0

    def _walk(self, frames: range) -> Iterator[TrackedFrame]:
        return self._walk_from(frames, frames.start)

    def _walk_from(self, frames: range, first: int) -> Iterator[TrackedFrame]:
        self.span = frames
        for tracked in MoodyTracker._walk(self, frames):
            if frames.index(tracked.frame_idx) >= frames.index(first):
                self.fuse.burn()
                self.steps += 1
                self.reached = tracked.frame_idx
                yield tracked

    def snapshot(self) -> bytes | None:
        span = self.span
        return json.dumps([span.start, span.stop, span.step, self.reached]).encode()

    def resume(self, snapshot: bytes, *, reverse: bool = False) -> Iterator[TrackedFrame]:
        start, stop, step, reached = json.loads(snapshot)
        assert reverse is (step < 0)
        return self._walk_from(range(start, stop, step), reached + step)


class MortalProposer(MessyProposer):
    def __init__(self, scene: Scene, fuse: Fuse) -> None:
        super().__init__(scene)
        self.fuse = fuse

    def propose(self, frame_idx: int, points_xy: NDArray[Any]) -> list[Proposal]:
        self.fuse.burn()
        return super().propose(frame_idx, points_xy)


class MortalStore:
    """Kills before and after saving; in between, it is up to SQLite (and to `kill_and_resume`)."""

    def __init__(self, file: ProgressFile, fuse: Fuse) -> None:
        self.file = file
        self.fuse = fuse

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def save(self, *args: Any) -> None:
        self.fuse.burn()
        self.file.save(*args)
        self.fuse.burn()

    def save_snapshot(self, *args: Any) -> None:
        self.fuse.burn()
        self.file.save_snapshot(*args)


class Notes:
    """An observer that keeps the notices."""

    def __init__(self) -> None:
        self.notices: list[str] = []

    def stage_started(self, stage: Stage, num_frames: int) -> None: ...
    def frame_done(self, stage: Stage, frame_idx: int, num_objects: int) -> None: ...
    def stage_finished(self, stage: Stage) -> None: ...
    def notice(self, text: str) -> None:
        self.notices.append(text)


def comparable(result: RefineResult) -> tuple[object, ...]:
    """All that must not depend on interruptions."""
    found = {masklet.object_id: masklet.segmentations for masklet in result.masklets}
    order = {object_id: list(frames) for object_id, frames in found.items()}
    return found, order, result.verdicts, result.counts, result.notices, result.guard


def run(
    scene: Scene, config: RefineConfig, store: Any = None, fuse: Fuse | None = None, *,
    promptless: bool = False, portable: bool = False,
) -> tuple[RefineResult, list[str], MortalTracker]:  # fmt: skip
    fuse = fuse or Fuse()
    tracker = (PortableTracker if portable else MortalTracker)(scene, fuse)
    notes = Notes()
    result = refine(
        num_frames=scene.num_frames,
        height=HEIGHT,
        width=WIDTH,
        prompts=None if promptless else scene.prompts,
        proposer=MortalProposer(scene, fuse),
        tracker=tracker,
        config=config,
        observer=notes,
        store=store,
    )
    return result, notes.notices, tracker


def open_at(out: Path, *, resume: bool = True) -> ProgressFile:
    (out / ".state").mkdir(parents=True, exist_ok=True)
    return open_progress(out, {"settings": {"seed": 0}}, HEIGHT, WIDTH, resume=resume)


@pytest.fixture
def eager_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "SNAPSHOT_SECONDS", 0.0)
    monkeypatch.setattr(resume, "_SNAPSHOT_BYTES_PER_PIXEL", 1.0)


class Interruptions(RuleBasedStateMachine):
    """Steps, kills and resumes in any order."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.out = Path(self._folder.name)
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(resume, "SNAPSHOT_SECONDS", 0.0)
        self.patch.setattr(resume, "_SNAPSHOT_BYTES_PER_PIXEL", 1.0)
        self.reached = 0

    @initialize(
        seed=st.integers(0, 400),
        guard=st.sampled_from(["auto", "off"]),
        final_pass=st.booleans(),
        memory=st.integers(1, 4),
        promptless=st.booleans(),
        portable=st.booleans(),
    )
    def begin(self, seed, guard, final_pass, memory, promptless, portable) -> None:
        self.scene = draw_scene(seed)
        self.config = RefineConfig(
            guard=guard, final_pass=final_pass, max_conditioning_frames=memory, merge_iou=0.7
        )
        self.config = replace(self.config, start_points_per_side=5, prompt_points_per_side=3)
        self.ways = {"promptless": promptless, "portable": portable}
        self.expected = comparable(run(self.scene, self.config, **self.ways)[0])

    def go_on(self, length: int | None) -> RefineResult | None:
        fuse = Fuse(length)
        with open_at(self.out) as file:
            try:
                result, notices, _ = run(
                    self.scene, self.config, MortalStore(file, fuse), fuse, **self.ways
                )
            except Killed:
                return None
        assert any("continuing" in text for text in notices) is (self.reached > 0)
        return result

    @rule(length=st.integers(0, 60))
    def is_killed(self, length: int) -> None:
        result = self.go_on(length)
        if result is not None:
            assert comparable(result) == self.expected

    @rule()
    def ends(self) -> None:
        result = self.go_on(None)
        assert result is not None
        assert comparable(result) == self.expected

    @precondition(lambda self: self.reached > 0)
    @rule()
    def begins_anew(self) -> None:
        with open_at(self.out, resume=False) as file:
            assert file.document() is None
            with pytest.raises(Killed):
                run(self.scene, self.config, MortalStore(file, Fuse(1)), Fuse(), **self.ways)
        self.reached = 0

    @invariant()
    def no_finished_frame_was_done_again(self) -> None:
        if not progress_path(self.out).exists():
            return
        with open_at(self.out) as file:
            document = file.document()
        assert document is not None
        done = sum(state["frames_done"] for state in document["passes"].values())
        assert document["frames_worked"] == done >= self.reached
        self.reached = done

    def teardown(self) -> None:
        self.patch.undo()
        self._folder.cleanup()


TestInterruptions = Interruptions.TestCase
TestInterruptions.settings = settings(max_examples=20, stateful_step_count=10, deadline=None)


@pytest.mark.parametrize("portable", [False, True])
def test_killed_after_every_single_thing_it_does(tmp_path, eager_snapshots, portable) -> None:
    scene, config = draw_scene(SMALL), RefineConfig(max_conditioning_frames=2, merge_iou=0.7)
    expected = comparable(run(scene, config)[0])
    kills, finished = 0, False
    while not finished:
        out, fuse = tmp_path / str(kills), Fuse(kills)
        with open_at(out) as file:
            try:
                run(scene, config, MortalStore(file, fuse), fuse, portable=portable)
                finished = True
            except Killed:
                kills += 1
        with open_at(out) as file:
            assert comparable(run(scene, config, file, portable=portable)[0]) == expected
    assert kills > 30


def test_a_snapshot_saves_all_but_the_steps_since(tmp_path, eager_snapshots) -> None:
    """A propagation over many frames; killed near its end."""
    scene, config = draw_scene(7), RefineConfig(merge_iou=0.99)
    plain, portable = tmp_path / "plain", tmp_path / "portable"
    replayed = {}
    for out in (plain, portable):
        most = 0
        for length in range(20, 50, 10):
            fuse = Fuse(length)
            with open_at(out / str(length)) as file:
                try:
                    run(scene, config, MortalStore(file, fuse), fuse, portable=out is portable)
                except Killed:
                    result, _, _ = run(scene, config, file, portable=out is portable)
                    most = max(most, result.steps_replayed)
        replayed[out] = most
    assert replayed[plain] > 3
    assert replayed[portable] <= 1


@pytest.mark.parametrize("damage", [b"", b"x", b"0" * 64 + b"\n{}\n..", None])
def test_without_a_whole_snapshot_the_propagation_is_repeated(
    tmp_path, eager_snapshots, damage
) -> None:
    scene, config = draw_scene(7), RefineConfig(merge_iou=0.99)
    expected = comparable(run(scene, config)[0])
    fuse = Fuse(40)
    with open_at(tmp_path) as file, pytest.raises(Killed):
        run(scene, config, MortalStore(file, fuse), fuse, portable=True)
    path = tmp_path / ".state" / "propagation.snapshot"
    assert path.exists()
    path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
    with open_at(tmp_path) as file:
        assert comparable(run(scene, config, file, portable=True)[0]) == expected


def test_a_tracker_that_refuses_its_snapshot_repeats_the_propagation(
    tmp_path, eager_snapshots, monkeypatch
) -> None:
    scene, config = draw_scene(7), RefineConfig(merge_iou=0.99)
    expected = comparable(run(scene, config)[0])
    fuse = Fuse(40)
    with open_at(tmp_path) as file, pytest.raises(Killed):
        run(scene, config, MortalStore(file, fuse), fuse, portable=True)

    def refuse(*_: object, **__: object) -> Iterator[TrackedFrame]:
        raise ValueError("of other objects")

    monkeypatch.setattr(PortableTracker, "resume", refuse)
    with open_at(tmp_path) as file:
        assert comparable(run(scene, config, file, portable=True)[0]) == expected


def test_which_trackers_can_be_carried_over() -> None:
    scene = draw_scene(0)
    assert isinstance(PortableTracker(scene, Fuse()), ResumableTracker)
    assert not isinstance(StillTracker(3), ResumableTracker)


def test_snapshots_are_rare_and_small_beside_the_sequence(tmp_path) -> None:
    """At one per 15 s, and never more bytes than a twentieth per pixel, object and frame."""

    class Heavy(PortableTracker):
        def snapshot(self) -> bytes | None:
            return b"x" * 2000

    class Counted(MortalStore):
        sizes: list[int]

        def save_snapshot(self, about: Any, content: bytes) -> None:
            self.sizes.append(len(content))

    seconds = 0.0

    def clock() -> float:
        nonlocal seconds
        seconds += 4.0
        return seconds

    scene, config = draw_scene(7), RefineConfig(merge_iou=0.99)
    with open_at(tmp_path) as file:
        store = Counted(file, Fuse())
        store.sizes = []
        keeper = resume.ProgressKeeper(store, scene.num_frames, HEIGHT, WIDTH, clock)
        found = keeper.progress.masklets
        for t in range(3):
            found.add(0, masks.encode(LEFT if t % 2 else RIGHT))
        state = keeper.progress.state_of(Stage.BACKWARD)
        current = BackwardPass(found, Heavy(scene, Fuse()), config, 10**6, state)
        current._live = iter(())
        steps = 300
        for _ in range(steps):
            state.frames_done += 1
            keeper.frame_done(current)
    assert len(store.sizes) >= 2
    assert sum(store.sizes) <= steps * 3 * HEIGHT * WIDTH / 20


def test_changes_of_masklets_are_those_since_the_last_time() -> None:
    found = MaskletSet()
    first, second = found.add(0, masks.encode(LEFT)), found.add(0, masks.encode(RIGHT))
    assert found.take_changes() == {
        (0, first): masks.encode(LEFT),
        (0, second): masks.encode(RIGHT),
    }
    found.unite(0, {first: masks.encode(LEFT)})
    assert found.take_changes() == {}, "nothing new"
    found.set(3, second, masks.encode(LEFT))
    found.merge([(first, second)])
    both = masks.encode(LEFT | RIGHT)
    assert found.take_changes() == {
        (0, first): both,
        (0, second): None,
        (3, first): masks.encode(LEFT),
    }
    found.remove(3, first)
    assert found.take_changes() == {(3, first): None}
