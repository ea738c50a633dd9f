"""In what two runs differ, as people are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from t3dgs_masks.config import RefineConfig
from t3dgs_masks.io.identity import RunIdentity, differences


def told(**parts) -> dict:
    settings = {"algorithm": RefineConfig(), "every": 1, "resolution": None}
    whole = {
        "settings": {**settings, **parts.pop("settings", {})},
        "inputs": {"frames": "ab", "prompts": "cd"},
        "checkpoints": {"sam2": "ef"},
    }
    return RunIdentity(**{**whole, **parts}).as_json()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, []),
        ({"settings": {"algorithm": RefineConfig(seed=3)}}, ["--seed (was 0, is 3)"]),
        (
            {"settings": {"algorithm": RefineConfig(merge_iou=0.5, max_conditioning_frames=4)}},
            ["--memory-size (was 10, is 4)", "--lambda-merge (was 0.9, is 0.5)"],
        ),
        ({"settings": {"resolution": 720}}, ["--resolution (was not given, is 720)"]),
        ({"settings": {"device": Path("x")}}, ["--device (was not given, is x)"]),
        ({"inputs": {"frames": "xx", "prompts": "yy"}}, ["the frames", "the prompts"]),
        ({"inputs": {"frames": "ab"}}, ["the prompts"]),
        (
            {"checkpoints": {"sam2": "xx", "sam1": "yy"}},
            ["the sam2 checkpoint", "the sam1 checkpoint"],
        ),
        ({"program_version": "9"}, ["the version of t3dgs-masks (was 0.1.0, is 9)"]),
    ],
)
def test_every_difference_is_named(changed: dict, expected: list[str]) -> None:
    base = {"program_version": "0.1.0"}
    assert differences(told(**base), told(**{**base, **changed})) == expected


def test_environments_and_files_of_other_versions() -> None:
    before = {**told(), "environment": {"device": "cpu float32", "torch": "2.5"}}
    now = {**told(), "environment": {"device": "cuda bfloat16", "torch": "2.6"}}
    assert differences(before, now) == [
        "the device (was cpu float32, is cuda bfloat16)",
        "torch (was 2.5, is 2.6)",
    ]
    assert differences({}, told())
    assert differences({"settings": 3, "inputs": None}, told())
