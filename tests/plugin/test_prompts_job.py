"""`t3dgs-masks prompts`: prompts from trained runs, ours and stock splatfacto's."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from nerfstudio.configs.method_configs import method_configs
from nerfstudio.models.splatfacto import SplatfactoModel

from t3dgs_masks import cli
from t3dgs_masks.datasets.manifest import read_manifest
from t3dgs_masks.evaluate import transient_scores
from t3dgs_masks.io.frames import open_frames
from t3dgs_masks.io.prompts import open_prompts
from t3dgs_masks.plugin.model import T3dgsSplatfactoModel
from t3dgs_masks.plugin.trained_run import open_run


def _prompts(config: Path, output: Path, *flags: str) -> int:
    return cli.main(["prompts", "--load-config", str(config), "--output-dir", str(output), *flags])


@pytest.fixture(scope="module")
def prompts(splat_demo, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("prompts") / "P"
    assert _prompts(splat_demo.config("unmasked"), output, "--device", "cpu") == 0
    return output


@pytest.fixture
def stock_run(splat_demo, tmp_path: Path) -> Path:
    """The unmasked run as stock splatfacto would have left it: its classes in the configuration,
    and numpy numbers in the checkpoint, which its schedules put there."""
    config = yaml.load(splat_demo.config("unmasked").read_text(), Loader=yaml.Loader)
    stock = copy.deepcopy(method_configs["splatfacto"])
    stock.pipeline.datamanager.data = config.pipeline.datamanager.data or config.data
    stock.pipeline.datamanager.camera_res_scale_factor = 0.25
    run = tmp_path / "run"
    (run / "nerfstudio_models").mkdir(parents=True)
    (run / "config.yml").write_text(yaml.dump(stock))
    checkpoint = next((splat_demo.config("unmasked").parent / "nerfstudio_models").glob("*.ckpt"))
    state = torch.load(checkpoint, weights_only=True)
    for optimizer in state["optimizers"].values():
        for group in optimizer["param_groups"]:
            group["lr"] = np.float64(group["lr"])
    torch.save(state, run / "nerfstudio_models" / checkpoint.name)
    return run / "config.yml"


def test_prompts_find_the_walkers(prompts, splat_demo):
    frames = open_frames(prompts / "images", notify=lambda _: None)
    opened = open_prompts(prompts, frames, polarity="auto", notify=lambda _: None)
    assert opened.polarity == "white-transient"
    assert opened.has_residuals
    assert (frames.height, frames.width) == (48, 64)
    pairs = []
    for frame_idx, name in enumerate(frames.names):
        truth = cv2.imread(str(splat_demo.root / "capture/ground_truth" / f"{name}.png"), 0)
        small = cv2.resize(truth, (64, 48), interpolation=cv2.INTER_AREA) > 127
        pairs.append((opened[frame_idx].coarse, small))
    scores = transient_scores(pairs)
    assert scores.recall > 0.7
    assert scores.iou > 0.5


def test_the_manifest_leads_back_to_the_dataset(prompts):
    manifest = read_manifest(prompts)
    assert manifest is not None
    assert manifest.kind == "nerfstudio"
    assert manifest.frames[0].source == "images/frame_00001.png"
    assert manifest.frames[0].undistorted is None  # the capture has no distortion


def test_results_of_the_prompts_go_into_the_dataset(prompts, splat_demo, tmp_path: Path):
    data = tmp_path / "data"
    shutil.copytree(splat_demo.root / "splat" / "data" / "unmasked", data)
    result = tmp_path / "out"
    refine = ["refine", "--video-path", str(prompts), "--prompt-dir", str(prompts)]
    refine += ["--result-dir", str(result), "--sam2-checkpoint", "tiny-synthetic"]
    assert cli.main([*refine, "--end", "4", "--no-overlay"]) == 0
    assert cli.main(["apply", "--data", str(data), "--masks", str(result)]) == 0
    first = json.loads((data / "transforms.json").read_text())["frames"][0]
    assert first["file_path"] == "images/frame_00001.png"
    mask = cv2.imread(str(data / first["mask_path"]), 0)
    assert mask.shape == (192, 256)
    assert set(np.unique(mask)) == {0, 255}


def test_a_stock_run_gives_the_same_prompts(stock_run, prompts, tmp_path: Path):
    """With torch >= 2.6, which refuses such a checkpoint unless told what to expect."""
    output = tmp_path / "P"
    assert _prompts(stock_run, output, "--device", "cpu") == 0
    for ours in sorted((prompts / "diffs").iterdir()):
        theirs = cv2.imread(str(output / "diffs" / ours.name), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(cv2.imread(str(ours), cv2.IMREAD_UNCHANGED), theirs)
    run = open_run(stock_run, None, torch.device("cpu"))
    assert type(run.model) is SplatfactoModel


def test_our_runs_open_as_ours(splat_demo):
    run = open_run(splat_demo.config("refined"), None, torch.device("cpu"))
    assert type(run.model) is T3dgsSplatfactoModel
    assert run.step == 249


def test_an_earlier_output_is_replaced_whole(prompts, splat_demo, tmp_path: Path):
    output = tmp_path / "P"
    shutil.copytree(prompts, output)
    (output / "masks" / "stale.png").write_bytes(b"old")
    assert _prompts(splat_demo.config("unmasked"), output, "--device", "cpu") == 0
    assert not (output / "masks" / "stale.png").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["P"]


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda run: (run / "config.yml").unlink(), "cannot read"),
        (lambda run: (run / "config.yml").write_text("a: [1"), "not a config.yml"),
        (lambda run: (run / "config.yml").write_text("a: 1"), "not the config.yml"),
        (lambda run: shutil.rmtree(run / "nerfstudio_models"), "has no checkpoint"),
        (
            lambda run: next((run / "nerfstudio_models").iterdir()).write_bytes(b"half"),
            "cannot be read",
        ),
    ],
)
def test_broken_runs_are_one_line(break_it, complaint, stock_run, tmp_path: Path, capsys):
    break_it(stock_run.parent)
    assert _prompts(stock_run, tmp_path / "P") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert complaint in error
    assert not (tmp_path / "P").exists()


def test_a_dataset_that_has_moved(splat_demo, stock_run, tmp_path: Path, capsys):
    config = yaml.load(stock_run.read_text(), Loader=yaml.Loader)
    config.pipeline.datamanager.data = tmp_path / "gone"
    stock_run.write_text(yaml.dump(config))
    assert _prompts(stock_run, tmp_path / "P") == 2
    assert "--data" in capsys.readouterr().err
    moved = splat_demo.root / "splat" / "data" / "unmasked"
    assert _prompts(stock_run, tmp_path / "P", "--data", str(moved), "--device", "cpu") == 0


def test_files_of_others_are_not_replaced(splat_demo, tmp_path: Path, capsys):
    (tmp_path / "P").mkdir()
    (tmp_path / "P" / "thesis.txt").write_text("mine")
    assert _prompts(splat_demo.config("unmasked"), tmp_path / "P") == 2
    assert "thesis.txt" in capsys.readouterr().err
    assert (tmp_path / "P" / "thesis.txt").read_text() == "mine"


def test_without_nerfstudio_one_line_says_so(monkeypatch, tmp_path: Path, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert _prompts(tmp_path / "config.yml", tmp_path / "P") == 2
    assert "pip install" in capsys.readouterr().err
