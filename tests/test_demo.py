"""`t3dgs-masks demo`, as scripts/demo.sh runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image as PilImage

from t3dgs_masks import cli

torch.set_num_threads(1)


@pytest.mark.parametrize("seed", [1, 7])
def test_refined_masks_are_better_than_the_coarse_ones(seed, tmp_path: Path, capsys):
    """The whole capture at full length; `scripts/measure_refine.py` does it for more seeds."""
    scores_path = tmp_path / "scores.json"
    args = ["demo", "--output-dir", str(tmp_path), "--seed", str(seed), "--json", str(scores_path)]
    assert cli.main(args) == 0
    printed = capsys.readouterr()
    scores = json.loads(scores_path.read_text())
    assert scores["refined"]["iou"] >= 0.85
    assert scores["refined"]["iou"] > scores["coarse"]["iou"] + 0.1
    assert scores["image_encodings_per_frame"] == 1.0

    root = tmp_path / f"seed_{seed}"
    report = json.loads((root / "masks" / "report.json").read_text())
    assert report["counts"]["image_encoder"] == report["frames"] == 40
    assert report["counts"]["proposer_image_encoder"] == 0
    for path in (root / "capture", root / "masks" / "overlay.mp4", root / "contact_sheet.png"):
        assert path.exists()
        assert str(path) in printed.out
    for words in ("coarse", "refined", "IoU", "precision", "recall"):
        assert words in printed.out
    assert (root / "capture" / "transforms.json").is_file()
    with PilImage.open(root / "contact_sheet.png") as sheet:
        assert sheet.width > sheet.height / 2 > 200

    assert cli.main(args) == 0
    assert "already holds the result" in capsys.readouterr().err


def test_bad_settings_are_one_line(tmp_path: Path, capsys):
    assert cli.main(["demo", "--output-dir", str(tmp_path / "x"), "--num-frames", "0"]) == 2
    assert capsys.readouterr().err.startswith("error: --num-frames")
    assert not (tmp_path / "x").exists()
