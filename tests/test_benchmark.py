"""`scripts/benchmark.py`, as typed, on a scene as small as can be."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_both_trackers_on_the_same_scene(tmp_path: Path):
    out = tmp_path / "rows.json"
    small = (
        "--frames 5 --objects 2 --conditioning 2 --size 96x64 --model tiny-synthetic --threads 1"
    )
    done = run(*small.split(), "--count-tensors", "--bare", "--json", str(out))
    assert done.returncode == 0, done.stderr
    rows = {row["tracker"]: row for row in json.loads(out.read_text())["rows"]}
    assert set(rows) == {"sam2", "official"}
    ours, official = rows["sam2"], rows["official"]
    assert ours["image_encodings_per_frame"] == 1.0
    assert official["image_encodings_per_frame"] > 3
    assert ours["memory_encodings_per_frame"] < official["memory_encodings_per_frame"]
    assert ours["mask_decodings_per_frame"] < official["mask_decodings_per_frame"]
    assert ours["floor_seconds"] == official["floor_seconds"] > 0
    assert ours["seconds"] >= sum(ours["stage_seconds"].values()) > 0
    assert ours["official_over_this"] == pytest.approx(official["seconds"] / ours["seconds"])
    assert ours["reference_bytes_per_frame"] == 4 * 2 * 96 * 64
    assert ours["bytes_written_per_frame"] > ours["shown_bytes_per_frame"] > 0
    ours_alone = ours["bytes_written_per_frame"] - ours["shown_bytes_per_frame"]
    assert ours["reference_bytes_over_same"] == pytest.approx(4 * 2 * 96 * 64 / ours_alone)
    all_of_it = 4 * 2 * 96 * 64 / ours["bytes_written_per_frame"]
    assert ours["reference_bytes_over_this"] == pytest.approx(all_of_it)
    assert ours["tensor_mb"] > 1.0
    assert ours["tensor_growth_mb_per_frame"] is None  # of one length
    begun = [line.partition(":")[0] for line in done.stderr.splitlines() if " frames, " in line]
    with_both, bare = (
        "sam2, 5 frames, 2 objects",
        "sam2, 5 frames, 2 objects, without page and video",
    )
    between = "official, 5 frames, 2 objects"
    assert begun == [with_both, bare, between, with_both, bare]
    assert -1 < ours["page_and_video_share"] < 1
    assert 0 < ours["waited_share"] < 1
    assert 0 < ours["waited_share_bare"] < 1
    assert official["waited_share_bare"] is None
    assert official["page_and_video_share"] is None
    table = done.stdout.splitlines()
    assert [line.split()[0] for line in table[-3:]] == ["tracker", "sam2", "official"]


def test_runs_are_compared_with_those_made_around_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    _ratio = importlib.import_module("benchmark")._ratio
    official = [{"seconds": 100.0}, {"seconds": 300.0}, {"seconds": 90.0}]
    ours = [{"seconds": seconds} for seconds in (9.0, 11.0, 20.0, 40.0, 10.0, 10.0)]
    assert _ratio(official, "seconds", ours, "seconds") == 10.0
    floors = [{"seconds": 12.0, "floor": 10.0}, {"seconds": 30.0, "floor": 20.0}]
    assert _ratio(floors, "seconds", floors, "floor") == pytest.approx((1.2 + 1.5) / 2)
    assert _ratio(floors[:1], "seconds", floors, "floor") == 12.0 / 15.0
    assert _ratio(None, "seconds", ours, "seconds") is None


@pytest.mark.pretended_gpu
def test_what_a_device_would_hold_does_not_grow_with_the_sequence(tmp_path: Path):
    """And how often it is waited for in a frame, of all three passes."""
    out = tmp_path / "rows.json"
    small = "--frames 20 36 --objects 1 --conditioning 1 --size 64 --model tiny-synthetic"
    quiet = "--trackers sam2 --no-overlay --no-html-report --threads 1"
    done = run(*small.split(), *quiet.split(), "--pretend-cuda", "--json", str(out))
    assert done.returncode == 0, done.stderr
    short, long = json.loads(out.read_text())["rows"]
    assert short["peak_vram_mb"] == pytest.approx(long["peak_vram_mb"], abs=0.01)
    assert short["peak_vram_mb"] > 10  # the network alone
    assert abs(long["peak_vram_growth_mb_per_frame"]) < 0.001
    assert 0 < long["waits_per_frame"] <= short["waits_per_frame"] + 0.5


def test_a_single_frame():
    small = "--frames 1 --objects 1 --size 64 --model tiny-synthetic --trackers sam2 --threads 1"
    done = run(*small.split())
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split()[:4] == ["sam2", "1", "1", "1.00"]


@pytest.mark.parametrize("preset", ["cpu_256", "memory", "long", "cuda"])
def test_presets_are_known_settings(preset: str):
    done = run("--preset", preset, "--help")
    assert done.returncode == 0, done.stderr


def test_an_unknown_preset_is_refused():
    done = run("--preset", "fastest")
    assert done.returncode != 0
    assert "there is no preset fastest" in done.stderr
