"""`t3dgs-masks evaluate`, as typed."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t3dgs_masks.cli import main
from t3dgs_masks.evaluate import FrameScores
from t3dgs_masks.evaluate_job import MEASURES
from tests.datasets.scenes_to_mask import box, save, static_file

NAMES = [f"f_{index}" for index in range(4)]


class Folders:
    """Masks of three kinds, and what the command says of them."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self._capsys = capsys
        for index, name in enumerate(NAMES):
            save(root / "gt" / f"{name}.png", box(index))  # white = transient
            save(root / "pred" / f"{name}.png", static_file(box(index)))
            save(root / "coarse/masks" / f"{name}.png", np.roll(box(index), 4, axis=1))

    def run(self, *more: str) -> tuple[int, str, str]:
        code = main(["evaluate", *self.where(), *more])
        output, error = self._capsys.readouterr()
        return code, output, error

    def where(self) -> list[str]:
        return ["--pred", str(self.root / "pred"), "--gt", str(self.root / "gt")]

    def scores(self, *more: str) -> dict:
        file = self.root / "scores.json"
        code, _, error = self.run("--json", str(file), *more)
        assert code == 0, error
        return json.loads(file.read_text())

    def refused(self, *more: str) -> str:
        """The one line that says why not; no JSON is written."""
        file = self.root / "scores.json"
        code, output, error = self.run("--json", str(file), *more)
        assert (code, output) == (2, "")
        last = error.splitlines()[-1]
        assert last.startswith("error: ")
        assert not file.exists()
        return last


@pytest.fixture
def folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Folders:
    return Folders(tmp_path, capsys)


def test_every_score_has_a_name():
    assert set(MEASURES) == {field.name for field in fields(FrameScores)}


def test_polarity_is_told_by_area_and_said(folders: Folders):
    code, output, error = folders.run()
    assert code == 0
    assert "--gt: white-transient, because white covers" in error
    assert "--pred: white-static, because white covers" in error
    assert "transient IoU" in output
    assert "1.0000" in output
    assert "0.00 %" in output
    assert "coarse" not in output


def test_json_holds_frames_and_totals(folders: Folders):
    scores = folders.scores("--coarse", str(folders.root / "coarse"))
    assert [frame["name"] for frame in scores["frames"]] == NAMES
    assert scores["frames"][0]["flicker"] is None
    assert scores["total"]["iou"] == 1
    assert scores["total"]["frames"] == len(NAMES)
    # 16 columns wide, moved by 4: 12 in common, 20 in either.
    assert scores["coarse"]["total"]["iou"] == pytest.approx(12 / 20)
    assert scores["change"]["iou"] == pytest.approx(1 - 12 / 20)
    assert scores["change"]["static_lost"] < 0


def test_coarse_shows_what_changed(folders: Folders):
    _, output, _ = folders.run("--coarse", str(folders.root / "coarse"), "--per-frame")
    assert "+0.4000" in output
    for name in NAMES:
        assert name in output


def test_a_result_folder_is_known(folders: Folders):
    # All but black: by area, white would mean transient.
    for name in NAMES:
        save(folders.root / "gt" / f"{name}.png", np.ones((36, 48), bool))
        save(folders.root / "out/binary_masks" / f"{name}.png", np.zeros((36, 48), bool))
    (folders.root / "out/masklets.json").write_text("{}")
    scores = folders.scores("--pred", str(folders.root / "out"), "--gt-polarity", "white-transient")
    assert scores["total"]["iou"] == 1


def test_polarity_by_flag(folders: Folders):
    scores = folders.scores("--pred-polarity", "white-transient")
    assert scores["total"]["iou"] == 0


def test_half_white_is_asked_about(folders: Folders):
    for name in NAMES:
        half = np.zeros((36, 48), bool)
        half[:, :24] = True
        save(folders.root / "gt" / f"{name}.png", half)
    assert "--gt-polarity white-transient or white-static" in folders.refused()


def test_labels_count_as_white(folders: Folders):
    for index, name in enumerate(NAMES):
        save(folders.root / "gt" / f"{name}.png", box(index).astype(np.uint8))  # 0 and 1
    assert folders.scores()["total"]["iou"] == 1


def test_palettes_count_as_white(folders: Folders):
    for index, name in enumerate(NAMES):
        labels = Image.fromarray(box(index).astype(np.uint8), mode="P")
        labels.putpalette([0, 0, 0, 128, 0, 0])  # DAVIS's first colour is a dark red
        labels.save(folders.root / "gt" / f"{name}.png")
    assert folders.scores()["total"]["iou"] == 1


def test_scale_is_made_equal_and_said(folders: Folders):
    for index, name in enumerate(NAMES):
        twice = np.kron(box(index), np.ones((2, 2), bool))
        save(folders.root / "pred" / f"{name}.png", static_file(twice))
    scores = folders.scores()
    assert scores["total"]["iou"] == 1
    (notice,) = [text for text in scores["notices"] if "96x72" in text]
    assert "are compared at 48x36" in notice


def test_other_proportions_are_refused(folders: Folders):
    save(folders.root / "pred/f_2.png", static_file(box(2)[:, :30]))
    assert "30x36, which has other proportions than the true mask's 48x36" in folders.refused()


def test_frames_without_a_counterpart_are_left_out_and_said(folders: Folders):
    (folders.root / "pred/f_1.png").unlink()
    scores = folders.scores()
    assert [frame["name"] for frame in scores["frames"]] == ["f_0", "f_2", "f_3"]
    assert any("1 of 4 true masks have no counterpart" in text for text in scores["notices"])


def test_masks_of_colmap_match_too(folders: Folders):
    for name in NAMES:
        (folders.root / f"pred/{name}.png").rename(folders.root / f"pred/{name}.jpg.png")
    assert folders.scores()["total"]["iou"] == 1


def test_what_is_wrong_is_one_line(folders: Folders):
    root = folders.root
    assert "there is no folder" in folders.refused("--pred", str(root / "nowhere"))
    (root / "empty").mkdir()
    assert "holds no mask images" in folders.refused("--gt", str(root / "empty"))
    save(root / "other/x.png", box(0))
    assert "is named like one in" in folders.refused("--pred", str(root / "other"))
    (root / "pred/f_0.png").write_bytes(b"no image")
    assert "cannot read the image" in folders.refused()


def test_frames_that_only_two_of_three_have(folders: Folders):
    for name in NAMES[:2]:
        (folders.root / f"pred/{name}.png").unlink()
    for name in NAMES[2:]:
        (folders.root / f"coarse/masks/{name}.png").unlink()
    assert "no frame has a mask in all of" in folders.refused(
        "--coarse", str(folders.root / "coarse")
    )


def test_json_that_cannot_be_written(folders: Folders):
    code, output, error = folders.run("--json", str(folders.root / "no/such/folder.json"))
    assert (code, output) == (2, "")
    assert "cannot write" in error
