"""Freed memory goes back to the system, and whoever watches a refine hears all of it."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from t3dgs_masks.freed_memory import GivesBackMemory, give_back_memory
from t3dgs_masks.refine.observer import Stage


class Heard:
    """Takes down what an observer is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def stage_started(self, stage: Stage, num_frames: int) -> None:
        self.calls.append(("started", stage, num_frames))

    def frame_done(self, stage: Stage, frame_idx: int, num_objects: int) -> None:
        self.calls.append(("done", stage, frame_idx, num_objects))

    def stage_finished(self, stage: Stage) -> None:
        self.calls.append(("finished", stage))

    def notice(self, text: str) -> None:
        self.calls.append(("notice", text))


def test_everything_is_passed_on() -> None:
    heard = Heard()
    observer = GivesBackMemory(heard, lambda: None)
    observer.stage_started(Stage.FINAL, 2)
    observer.frame_done(Stage.FINAL, 7, 3)
    observer.notice("look")
    observer.stage_finished(Stage.FINAL)
    assert heard.calls == [
        ("started", Stage.FINAL, 2),
        ("done", Stage.FINAL, 7, 3),
        ("notice", "look"),
        ("finished", Stage.FINAL),
    ]


def test_memory_is_given_back_now_and_then_and_after_each_stage() -> None:
    times: list[int] = []
    done = 0
    observer = GivesBackMemory(Heard(), lambda: times.append(done))
    for stage in (Stage.FORWARD, Stage.FINAL):
        observer.stage_started(stage, 50)
        for _ in range(50):
            done += 1
            observer.frame_done(stage, done, 1)
        observer.stage_finished(stage)
    assert times == [32, 50, 64, 96, 100]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells")
def test_what_threads_have_freed_is_gone() -> None:
    def leave_behind() -> None:
        arrays = [np.ones(10_000) for _ in range(1_000)]  # 80 MB in pieces too small to be mapped
        keeper.append(arrays[-1].copy())  # which holds the thread's heap up
        del arrays

    keeper: list[object] = []
    give_back_memory()
    before = resident_mb()
    worker = Thread(target=leave_behind)
    worker.start()
    worker.join()
    give_back_memory()
    assert resident_mb() - before < 20


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
