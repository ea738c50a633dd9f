"""Small jobs beside a network that leaves cores free, and in the pauses of one that does not."""

from __future__ import annotations

import os
import threading

import pytest
import torch

from t3dgs_masks.io.side_work import Beside, InPauses
from t3dgs_masks.refine.observer import SilentObserver, Stage
from t3dgs_masks.side_works import SideWorks
from tests.test_freed_memory import Heard

CPU = torch.device("cpu")


def for_network(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, threads: int, cores: int
) -> SideWorks:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    return SideWorks.for_network(device, 480, 640)


@pytest.mark.parametrize(
    ("device", "threads", "cores", "in_pauses"),
    [
        ("cpu", 2, 2, True),
        ("cpu", 16, 8, True),
        ("cpu", 1, 2, False),
        ("cpu", 8, 16, False),
        ("cuda", 2, 2, False),
        ("mps", 8, 8, False),
    ],
)
def test_pauses_are_for_networks_that_take_all_cores(
    monkeypatch: pytest.MonkeyPatch, device: str, threads: int, cores: int, in_pauses: bool
) -> None:
    works = for_network(monkeypatch, torch.device(device), threads, cores)
    kind = InPauses if in_pauses else Beside
    assert isinstance(works.of_page, kind)
    assert isinstance(works.of_results, kind)
    observer = SilentObserver()
    assert (works.observer(observer) is observer) == (not in_pauses)


def test_jobs_are_done_between_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    works, heard, done = for_network(monkeypatch, CPU, 2, 2), Heard(), list[int]()
    with works.in_use():
        observer = works.observer(heard)
        observer.stage_started(Stage.FINAL, 4)
        for t in range(3):
            works.of_page.do(lambda t=t: done.append(t))
            works.of_results.do(lambda t=t: done.append(10 + t))
            observer.frame_done(Stage.FINAL, t, 1)
        assert done == []
        observer.frame_done(Stage.FINAL, 3, 1)
        assert sorted(done) == [0, 1, 2, 10, 11, 12]
        observer.notice("look")
        observer.stage_finished(Stage.FINAL)
    assert heard.calls == [
        ("started", Stage.FINAL, 4),
        *(("done", Stage.FINAL, t, 1) for t in range(4)),
        ("notice", "look"),
        ("finished", Stage.FINAL),
    ]


def test_large_frames_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    works, done = SideWorks.for_network(CPU, 2160, 3840), list[int]()
    works.of_page.do(lambda: done.append(1))
    works.observer(SilentObserver()).frame_done(Stage.FORWARD, 0, 1)
    assert done == [1]


@pytest.mark.parametrize("threads", [1, 2])
def test_nothing_is_done_after_the_end(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    works, go_on = for_network(monkeypatch, CPU, threads, 2), threading.Event()
    done: list[int] = []

    def job() -> None:
        go_on.wait(0.05)
        done.append(1)

    def interrupted() -> None:
        with works.in_use():
            for _ in range(8):
                works.of_results.do(job)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    before = len(done)
    assert before < 8
    go_on.wait(0.2)
    assert len(done) == before
