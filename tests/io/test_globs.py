from __future__ import annotations

from pathlib import Path

import pytest

from t3dgs_masks.errors import UserError
from t3dgs_masks.io.globs import NO_GLOBS, Globs

SOURCES = {
    "cam0/2clutter1": "images/cam0/2clutter1.jpg",
    "cam0/1extra2": "images/cam0/1extra2.jpg",
    "cam1/0clean3": "images/cam1/0clean3.PNG",
}


def choose(globs: Globs, notes: list[str] | None = None) -> list[str]:
    told: list[str] = []
    chosen = globs.choose(list(SOURCES), SOURCES.__getitem__, Path("scene"), told.append)
    if notes is not None:
        notes += told
    return chosen


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (["*clutter*"], [], ["cam0/2clutter1"]),
        (["*clutter*", "*clean*"], [], ["cam0/2clutter1", "cam1/0clean3"]),
        ([], ["*extra*"], ["cam0/2clutter1", "cam1/0clean3"]),
        (["cam0/*"], ["*extra*"], ["cam0/2clutter1"]),
        (["images/cam1/*"], [], ["cam1/0clean3"]),
        (["0clean?"], [], ["cam1/0clean3"]),
        (["*.jpg"], [], ["cam0/2clutter1", "cam0/1extra2"]),
        (["0clean3.PNG"], [], ["cam1/0clean3"]),
        (["cam[1]/0*"], [], ["cam1/0clean3"]),
    ],
)
def test_patterns(include: list[str], exclude: list[str], expected: list[str]) -> None:
    assert choose(Globs(include, exclude)) == expected


def test_case_counts_everywhere() -> None:
    assert choose(Globs(["*.png", "*.jpg"])) == ["cam0/2clutter1", "cam0/1extra2"]


def test_says_how_many() -> None:
    notes: list[str] = []
    choose(Globs(["cam0/*"], ["*extra*"]), notes)
    assert notes == ["--include cam0/* and --exclude *extra*: 1 of 3 frames"]


def test_none_left_is_one_line() -> None:
    with pytest.raises(UserError) as raised:
        choose(Globs(["*nobody*"]))
    assert str(raised.value) == (
        "--include *nobody* leaves none of the 3 frames of scene (the first:"
        " images/cam0/2clutter1.jpg): correct the pattern"
    )


def test_no_globs_are_silent() -> None:
    notes: list[str] = []
    assert choose(NO_GLOBS, notes) == list(SOURCES)
    assert notes == []
    assert not NO_GLOBS
