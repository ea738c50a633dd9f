"""`refine --guard` and `--ordered` through the command line, with the packaged network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as PilImage

from t3dgs_masks import cli, masks
from t3dgs_masks.evaluate import transient_scores
from t3dgs_masks.io.outputs import read_masklets
from t3dgs_masks.refine.settling import COARSE_REASON
from t3dgs_masks.synthetic.capture import Capture, CaptureSpec, make_capture
from t3dgs_masks.synthetic.coarse import CoarsePrompts, half_trained_prompts
from t3dgs_masks.synthetic.dataset import DatasetPaths, write_nerfstudio

NUM_FRAMES = 8


@dataclass(frozen=True)
class Scene:
    capture: Capture
    prompts: CoarsePrompts
    paths: DatasetPaths

    @property
    def coarse_iou(self) -> float:
        truth = self.capture.transient_masks
        return transient_scores(zip(self.prompts.coarse, truth, strict=True)).iou

    def iou(self, result_dir: Path) -> float:
        found = [
            np.asarray(PilImage.open(path)) == 0
            for path in sorted((result_dir / "binary_masks").iterdir())
        ]
        return transient_scores(zip(found, self.capture.transient_masks, strict=True)).iou


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Photos of a room in all colours: more than the small network can follow."""
    spec = CaptureSpec(
        seed=420, mode="photos", look="busy", num_frames=NUM_FRAMES, height=96, width=128
    )
    capture = make_capture(spec)
    prompts = half_trained_prompts(capture, seed=420)
    return Scene(
        capture, prompts, write_nerfstudio(capture, prompts, tmp_path_factory.mktemp("photos"))
    )


def refine(scene: Scene, out: Path, *flags: str) -> dict:
    """Run the command; the report."""
    args = ["--video-path", scene.paths.images, "--prompt-dir", scene.paths.prompts]
    args += ["--sam2-checkpoint", "tiny-synthetic", "--result-dir", out, *flags]
    args += ["--no-overlay", "--no-html-report"]
    assert cli.main(["refine", *map(str, args)]) == 0
    return json.loads((out / "report.json").read_text())


def test_no_worse_than_the_coarse_masks_and_every_decision_written_down(
    photos: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = refine(photos, tmp_path / "out")
    assert photos.iou(tmp_path / "out") >= photos.coarse_iou - 0.01

    guard = report["guard"]
    assert not guard["ordered"]
    assert "neighbouring frames correlate by" in guard["ordered_reason"]
    assert "the frames are photos rather than a video" in capsys.readouterr().err
    assert guard["residuals"] == "used"
    assert guard["static_level"] < guard["transient_level"]
    assert report["image_encodings_per_frame"] == 1.0

    file = read_masklets(tmp_path / "out" / "masklets.json")
    fallen = [record for record in file.masklets if record.reason == COARSE_REASON]
    assert [record.object_id for record in fallen] == [
        object_id for object_id in [guard["coarse_object_id"]] if object_id is not None
    ]
    for record in fallen:
        assert record.kept
        assert {str(t) for t in record.segmentations} == set(guard["coarse_components"])
    written = {reason for record in file.masklets for reason in record.doubts}
    assert written <= {item["reason"] for item in guard["doubts"]}
    for t, name in enumerate(file.frames):
        kept = [r.segmentations[t] for r in file.masklets if r.kept and t in r.segmentations]
        union = masks.decode(masks.union(kept)) if kept else False
        png = PilImage.open(tmp_path / "out" / "binary_masks" / f"{name}.png")
        np.testing.assert_array_equal(np.asarray(png) == 0, union)


def ghostly_prompts(capture: Capture) -> CoarsePrompts:
    """What a splat says that was really trained, though briefly and on small images: it knows
    people well enough to show ghosts of them where they were or will be, and coarse masks, which
    are thresholded residuals, take in the ghosts and a margin around people."""
    difference = capture.frames.astype(np.float32) - capture.static_frames
    people = np.abs(difference).mean(axis=3) / 255
    height, width = people.shape[1:]
    residual, coarse = np.zeros_like(people), np.zeros(people.shape, bool)
    for t in range(len(people)):
        elsewhere = [people[other] for other in (t - 3, t + 3) if 0 <= other < len(people)]
        ghost = 0.6 * cv2.GaussianBlur(np.max(elsewhere, axis=0), (0, 0), 1.5)
        small = cv2.resize(
            np.maximum(people[t], ghost), (width // 4, height // 4), interpolation=cv2.INTER_AREA
        )
        residual[t] = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
        marked = cv2.blur(small, (3, 3)) > 0.08
        coarse[t] = np.repeat(np.repeat(marked, 4, axis=0), 4, axis=1)
    return CoarsePrompts(coarse, residual, capture.frames)


def test_ghosts_in_the_splat_do_not_come_back_with_the_coarse_masks(tmp_path: Path) -> None:
    spec = CaptureSpec(seed=421, num_frames=NUM_FRAMES, height=96, width=128, num_walkers=2)
    capture = make_capture(spec)
    prompts = ghostly_prompts(capture)
    scene = Scene(capture, prompts, write_nerfstudio(capture, prompts, tmp_path / "capture"))
    report = refine(scene, tmp_path / "auto")
    refine(scene, tmp_path / "off", "--guard", "off")
    assert report["guard"]["left_out_components"]
    assert scene.iou(tmp_path / "auto") >= scene.iou(tmp_path / "off") - 0.01
    assert scene.iou(tmp_path / "auto") > scene.coarse_iou + 0.1


def test_off_judges_nothing(photos: Scene, tmp_path: Path) -> None:
    report = refine(photos, tmp_path / "out", "--guard", "off")
    assert report["guard"] == {}
    text = (tmp_path / "out" / "masklets.json").read_text()
    assert "doubts" not in text
    assert COARSE_REASON not in text


def test_ordered_is_taken_as_given(photos: Scene, tmp_path: Path) -> None:
    guard = refine(photos, tmp_path / "out", "--ordered", "yes")["guard"]
    assert guard["ordered"]
    assert guard["ordered_reason"] == "--ordered yes was given"


def test_a_changed_guard_is_another_result(photos: Scene, tmp_path: Path) -> None:
    refine(photos, tmp_path / "out", "--guard", "off")
    assert refine(photos, tmp_path / "out")["guard"] != {}
