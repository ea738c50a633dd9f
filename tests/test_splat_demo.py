"""`t3dgs-masks demo --train`: real trainings, at a quarter of the demo's size."""

from __future__ import annotations

import json

import pytest
from PIL import Image as PilImage

from t3dgs_masks import cli


def test_refined_masks_win_back_what_walkers_cost(splat_demo):
    scores = json.loads(splat_demo.json.read_text())
    psnr = scores["psnr"]
    assert set(psnr) == {"unmasked", "coarse", "refined", "ground_truth"}
    gap = psnr["ground_truth"] - psnr["unmasked"]
    assert gap > 5
    assert psnr["refined"] - psnr["unmasked"] >= 0.8 * gap
    assert psnr["refined"] > psnr["coarse"] + 1
    assert scores["in_training_psnr"] - psnr["unmasked"] >= 0.8 * gap


def test_the_table_and_the_picture(splat_demo):
    for words in ("no masks", "coarse masks", "refined masks", "true masks", "won back"):
        assert words in splat_demo.printed
    picture = splat_demo.root / "splat" / "renders.png"
    assert str(picture) in splat_demo.printed
    with PilImage.open(picture) as image:
        assert image.width > 6 * 256  # the photo and five trainings


def test_masks_went_into_copies_of_the_capture_only(splat_demo):
    assert "mask_path" not in (splat_demo.root / "capture" / "transforms.json").read_text()
    for name in ("coarse", "refined", "ground_truth", "in_training"):
        written = splat_demo.root / "splat" / "data" / name / "transforms.json"
        assert "mask_path" in written.read_text(), name


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--train-steps", "20"], "--train-steps"),
        (["--train-scale", "0"], "--train-scale"),
    ],
)
def test_bad_settings_are_one_line(flags, complaint, tmp_path, capsys):
    assert cli.main(["demo", "--train", "--output-dir", str(tmp_path / "x"), *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {complaint}")
    assert error.count("\n") == 1
    assert not (tmp_path / "x").exists()
