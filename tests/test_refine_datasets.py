"""`t3dgs-masks refine` on datasets and prepared frames: whose masks come out, and the way back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t3dgs_masks import cli
from t3dgs_masks.datasets.manifest import Manifest, read_manifest
from t3dgs_masks.synthetic.capture import CaptureSpec, make_capture
from t3dgs_masks.synthetic.coarse import half_trained_prompts
from t3dgs_masks.synthetic.dataset import write_nerfstudio

torch.set_num_threads(1)

NUM_TRAIN = 5


@dataclass(frozen=True)
class Run:
    code: int
    err: str
    out: Path

    def mask_names(self) -> list[str]:
        root = self.out / "binary_masks"
        return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))

    def manifest(self) -> Manifest:
        manifest = read_manifest(self.out)
        assert manifest is not None
        return manifest


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nerfstudio dataset with walkers: 5 training and 2 evaluation frames, and prompts."""
    made = make_capture(
        CaptureSpec(
            seed=5,
            num_frames=NUM_TRAIN,
            height=48,
            width=64,
            num_walkers=2,
            num_eval_views=2,
            num_seed_points=20,
        )
    )
    root = tmp_path_factory.mktemp("capture")
    return write_nerfstudio(made, half_trained_prompts(made, seed=5), root).root


@pytest.fixture
def refine(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def run(path: Path, *args: object, out: str = "out") -> Run:
        given = ["--video-path", str(path), "--result-dir", str(tmp_path / out), *map(str, args)]
        given += ["--sam2-checkpoint", "tiny-synthetic", "--no-overlay"]
        capsys.readouterr()
        code = cli.main(["refine", *given])
        return Run(code, capsys.readouterr().err, tmp_path / out)

    return run


def test_a_dataset_with_prompts(refine, capture: Path) -> None:
    run = refine(capture, "--prompt-dir", capture / "prompts")
    assert run.code == 0, run.err
    assert "nerfstudio dataset: 5 training frames of 7" in run.err
    names = [f"images/frame_{number:05d}" for number in range(1, NUM_TRAIN + 1)]
    assert run.mask_names() == [f"{name}.png" for name in names]
    manifest = run.manifest()
    assert (manifest.kind, manifest.root) == ("nerfstudio", str(capture))
    assert [frame.name for frame in manifest.frames] == names
    assert [frame.source for frame in manifest.frames] == [f"{name}.png" for name in names]
    assert {frame.split for frame in manifest.frames} == {"train"}
    assert all(frame.camera and frame.camera.width == 64 for frame in manifest.frames)
    notices = json.loads((run.out / "report.json").read_text())["notices"]
    assert "nerfstudio dataset: 5 training frames of 7" in notices
    assert any(np.asarray(Image.open(path)).min() == 0 for path in run.out.rglob("frame*.png"))


def test_prepared_frames_lead_back_to_the_dataset(refine, capture: Path, tmp_path: Path) -> None:
    prepared = tmp_path / "prepared"
    options = ["--resolution", "36", "--exclude", "*_00002*"]
    code = cli.main(["prepare", "--data", str(capture), "--output-dir", str(prepared), *options])
    assert code == 0
    for path, out in ((prepared, "a"), (prepared / "images", "b")):
        run = refine(path, "--every", 2, "--prompt-dir", capture / "prompts", out=out)
        assert run.code == 0, run.err
        assert run.mask_names() == ["images/frame_00001.png", "images/frame_00004.png"]
        with Image.open(run.out / "binary_masks/images/frame_00001.png") as mask:
            assert mask.size == (48, 36)
        assert run.manifest().root == str(capture)
        assert [frame.source for frame in run.manifest().frames] == [
            "images/frame_00001.png",
            "images/frame_00004.png",
        ]


def test_a_plain_folder_has_no_manifest_and_takes_globs(refine, capture: Path) -> None:
    run = refine(capture / "images", "--include", "*1.png", "*3.png")
    assert run.code == 0, run.err
    assert run.mask_names() == ["frame_00001.png", "frame_00003.png"]
    assert not (run.out / "manifest.json").exists()


def test_a_finished_result_learns_where_its_dataset_is_now(
    refine, capture: Path, tmp_path: Path
) -> None:
    scene = tmp_path / "scene"
    (scene / "images").mkdir(parents=True)
    meta = json.loads((capture / "transforms.json").read_text())
    meta["frames"] = meta["frames"][:2]
    meta["train_filenames"] = meta["train_filenames"][:2]
    del meta["val_filenames"], meta["test_filenames"]
    for name in meta["train_filenames"]:
        (scene / name).write_bytes((capture / name).read_bytes())
    (scene / "transforms.json").write_text(json.dumps(meta))
    assert refine(scene / "images").code == 0
    run = refine(scene)
    assert "already holds the result" in run.err
    assert run.manifest().root == str(scene)
    moved = scene.rename(tmp_path / "moved")
    run = refine(moved)
    assert "already holds the result" in run.err
    assert run.manifest().root == str(moved)
    run = refine(moved, "--no-resume", out="moved/refined")  # beside its images
    assert run.code == 0, run.err
    run = refine(moved, out="moved/images/refined")
    assert run.code == 2
    assert "lies inside the input folder" in run.err


def test_no_frame_left(refine, capture: Path) -> None:
    run = refine(capture, "--include", "eval_*")
    assert run.code == 2
    assert "--include eval_* leaves none of the 5 frames" in run.err
    assert not run.out.exists()
