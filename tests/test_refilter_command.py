"""`t3dgs-masks refilter`, as typed: masks, verdicts, and what was made of them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t3dgs_masks.cli import main
from t3dgs_masks.datasets import transaction
from t3dgs_masks.datasets.apply_masks import apply_masks, open_dataset_at, revert_masks
from t3dgs_masks.datasets.mask_folder import open_mask_folder
from t3dgs_masks.io import publish
from t3dgs_masks.io.outputs import ResultFolder, read_masklets
from t3dgs_masks.masks import dilate, drop_small, encode, fill_holes
from t3dgs_masks.types import BoolMask
from tests.datasets.scenes_to_mask import (
    HEIGHT,
    NAMES,
    WIDTH,
    GivenMasks,
    read_transient,
    save,
    tree,
    user_column,
    write_colmap,
    write_scene,
)
from tests.results import patch, scene_manifest, write_result

STEMS = [f"f_{index}" for index in range(5)]
KEPT = {1: True, 2: True, 3: False, 4: False}  # with the scores 0.1 to 0.4


class Refiltering:
    """A result with four objects, perhaps of a scene, and what the command says."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.scene = folder / "scene"
        self.out = folder / "out"
        self._capsys = capsys

    def of_scene(self, **options) -> None:
        write_scene(self.scene, **options)
        self.result()

    def result(self) -> None:
        manifest = scene_manifest(self.scene)
        write_result(
            self.out, [frame.name for frame in manifest.frames], kept=KEPT, manifest=manifest
        )

    def apply(self, **options) -> None:
        """As `apply --masks OUT` does."""
        dataset = open_dataset_at(self.scene)
        given = open_mask_folder(self.out, dataset, notify=lambda _: None)
        apply_masks(self.scene, given, **options)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        code = main(["refilter", str(self.out), *arguments])
        output, error = self._capsys.readouterr()
        return code, output, error

    def __call__(self, *arguments: str) -> str:
        """Refilters, and returns what is printed."""
        code, output, error = self.run(*arguments)
        assert (code, error) == (0, "")
        return output

    def refused(self, *arguments: str) -> str:
        """Tries to, and returns the one line that says why not; nothing has changed."""
        before = tree(self.folder)
        code, output, error = self.run(*arguments)
        assert (code, output) == (2, "")
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert tree(self.folder) == before
        return error

    def verdicts(self) -> dict[int, tuple[bool, str]]:
        records = read_masklets(self.out / "masklets.json").masklets
        return {record.object_id: (record.kept, record.reason) for record in records}

    def mask(self, index: int) -> BoolMask:
        return read_transient(self.out / f"binary_masks/f_{index}.png")

    def applied(self, index: int) -> BoolMask:
        """The transient mask that the scene names for a frame."""
        frames = {frame.name: frame for frame in open_dataset_at(self.scene).frames}
        mask = frames[f"f_{index}"].mask
        assert mask is not None
        return read_transient(mask)


def of(index: int, *numbers: int) -> BoolMask:
    """What these objects cover."""
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    for number in numbers:
        mask |= patch(index, number)
    return mask


@pytest.fixture
def refilter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refiltering:
    return Refiltering(tmp_path, capsys)


@pytest.fixture
def result(refilter: Refiltering) -> Refiltering:
    write_result(refilter.out, STEMS, kept=KEPT)
    return refilter


# -- which objects


def test_keep_and_drop(result: Refiltering):
    output = result("--keep", "3,4", "--drop", "2")
    assert "objects         3 kept, 1 rejected\n" in output
    assert "changed         object 3 kept, object 4 kept, object 2 rejected\n" in output
    assert result.verdicts() == {
        1: (True, "as refine has it"),
        2: (False, "rejected by hand"),
        3: (True, "kept by hand"),
        4: (True, "kept by hand"),
    }
    for index in range(5):
        assert np.array_equal(result.mask(index), of(index, 1, 3, 4))


def test_a_threshold_judges_all_that_is_not_named(result: Refiltering):
    result("--filter-threshold", "0.25", "--keep", "1")
    verdicts = result.verdicts()
    assert {number for number, (kept, _) in verdicts.items() if kept} == {1, 3, 4}
    assert verdicts[1][1] == "kept by hand"
    assert verdicts[2][1] == (
        "transience score 0.2000 is not above 0.25, the threshold given by hand"
    )
    assert verdicts[3][1].startswith("transience score 0.3000 is above 0.25")


def test_every_run_begins_with_what_refine_decided(result: Refiltering):
    result("--filter-threshold", "0.25", "--keep", "1")
    result("--drop", "2")
    verdicts = result.verdicts()
    assert verdicts[1] == (True, "as refine has it")
    assert verdicts[2] == (False, "rejected by hand")
    assert verdicts[3] == (False, "as refine has it")
    assert "changed         object 2 kept\n" in result("--keep", "2")


def test_the_threshold_is_strict_as_in_refine(result: Refiltering):
    result("--filter-threshold", "0.2")
    assert not result.verdicts()[2][0]


@pytest.mark.parametrize("ids", ["3,4", "3, 4", "3 4", ",3,,4,"])
def test_ways_to_write_ids(result: Refiltering, ids: str):
    result("--keep", ids)
    assert all(kept for kept, _ in result.verdicts().values())


def test_without_options_masks_are_as_refine_wrote_them(result: Refiltering):
    before = tree(result.out)
    result("--dilate", "2", "--drop", "1", "--filter-threshold", "0.3")
    assert tree(result.out) != before
    result()
    after = tree(result.out)
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == {"report.json"}


def test_objects_without_a_score_stay(refilter: Refiltering):
    write_result(refilter.out, STEMS, kept=KEPT, scores={1: None})
    refilter("--filter-threshold", "0.9")
    assert {number for number, (kept, _) in refilter.verdicts().items() if kept} == {1}


def test_what_is_wrong_is_one_line(result: Refiltering):
    assert "there is no object 7; there are 1, 2, 3, 4" in result.refused("--keep", "7")
    assert "object 3 is in --keep and in --drop" in result.refused("--keep", "3", "--drop", "2,3")
    assert "'x' is no id" in result.refused("--drop", "1,x")
    assert "'-1' is no id" in result.refused("--keep=-1")
    for flag in ("--dilate", "--fill-holes", "--min-area"):
        assert f"{flag} is -1; give 0 or more" in result.refused(flag, "-1")
    assert "give a number" in result.refused("--filter-threshold", "nan")
    assert "does not lead to a dataset" in result.refused("--apply", "yes")
    (result.out / "report.json").unlink()
    assert "is no whole result" in result.refused("--keep", "3")


def test_promptless_results_have_no_scores(refilter: Refiltering):
    write_result(refilter.out, STEMS, kept=KEPT, scores=dict.fromkeys(KEPT))
    assert "use --keep and --drop" in refilter.refused("--filter-threshold", "0.1")
    refilter("--keep", "3")


def test_a_result_without_objects(refilter: Refiltering):
    write_result(refilter.out, STEMS, kept={})
    assert "there are none" in refilter.refused("--keep", "1")
    assert "no object" in refilter("--filter-threshold", "0.5")
    assert not refilter.mask(0).any()


# -- the masks


def test_holes_spots_and_growth_in_this_order(result: Refiltering):
    contents = json.loads((result.out / "masklets.json").read_text())
    file = read_masklets(result.out / "masklets.json")
    ring = np.zeros((HEIGHT, WIDTH), np.bool_)
    ring[4:14, 4:14] = True
    ring[8:10, 8:10] = False
    ring[30, 40] = True
    with ResultFolder.open(result.out).begin(file.frames, HEIGHT, WIDTH) as staged:
        staged.write_masklets([replace(file.masklets[0], segmentations={0: encode(ring)})])
        written = staged.mask_path(0).parent.parent / "masklets.json"
        (result.out / "masklets.json").write_bytes(written.read_bytes())
    assert contents != json.loads((result.out / "masklets.json").read_text())
    for options, expected in [
        ((), ring),
        (("--fill-holes", "4"), fill_holes(ring, 4)),
        (("--fill-holes", "3"), ring),
        (("--min-area", "2"), drop_small(ring, 2)),
        (("--dilate", "1"), dilate(ring, 1)),
        (
            ("--dilate", "3", "--min-area", "2", "--fill-holes", "4"),
            dilate(drop_small(fill_holes(ring, 4), 2), 3),
        ),
    ]:
        result(*options)
        assert np.array_equal(result.mask(0), expected)
        assert not result.mask(1).any()


def test_the_report_tells_and_everything_else_stays(refilter: Refiltering):
    refilter.of_scene()
    (refilter.out / "overlay.mp4").write_bytes(b"video")
    (refilter.out / "notes.txt").write_text("mine")
    save(refilter.out / "binary_masks/mine.png", np.zeros((2, 2), np.uint8))
    before = tree(refilter.out)
    output = refilter("--keep", "3", "--filter-threshold", "0.15", "--dilate", "2")
    assert "notice: overlay.mp4 shows the objects as they were judged before" in output
    after = tree(refilter.out)
    assert before.keys() == after.keys()
    for name in ("overlay.mp4", "notes.txt", "binary_masks/mine.png", "manifest.json"):
        assert after[name] == before[name]
    assert json.loads(after["config.json"] or b"") == json.loads(before["config.json"] or b"")
    report = json.loads((refilter.out / "report.json").read_text())
    assert report["num_labels"] == {"kept": 3, "rejected": 1}
    assert report["seconds"] == {"forward": 1.0}
    refiltered = report["refiltered"]
    as_refined = refiltered.pop("as_refined")
    assert refiltered == {"filter_threshold": 0.15, "dilate": 2, "fill_holes": 0, "min_area": 0}
    assert as_refined["3"] == {"kept": False, "reason": "as refine has it"}
    refilter("--drop", "3")
    report = json.loads((refilter.out / "report.json").read_text())
    assert report["refiltered"]["filter_threshold"] is None
    assert report["refiltered"]["as_refined"] == as_refined


def test_refine_still_knows_its_result(result: Refiltering):
    folder = ResultFolder.open(result.out)
    identity = folder.stored_identity()
    assert identity is not None
    result("--keep", "3")
    assert ResultFolder.open(result.out).is_complete(identity.hash)


@pytest.mark.parametrize("call", ["_rename", "_unlink", "_rmdir"])
def test_a_kill_leaves_the_old_or_the_new(
    result: Refiltering, monkeypatch: pytest.MonkeyPatch, call: str
):
    class Killed(BaseException):
        pass

    original = getattr(publish, call)
    states = set()
    for stop_at in range(1, 40):
        write_result(result.out, STEMS, kept=KEPT)
        calls = 0

        def stop(*paths: Path, stop_at: int = stop_at) -> None:
            nonlocal calls
            calls += 1
            if calls == stop_at:
                raise Killed
            original(*paths)

        monkeypatch.setattr(publish, call, stop)
        try:
            main(["refilter", str(result.out), "--keep", "3"])
        except Killed:
            pass
        else:
            break
        finally:
            monkeypatch.setattr(publish, call, original)
        ResultFolder.open(result.out)  # what the next command begins with
        kept = result.verdicts()[3][0]
        states.add(kept)
        for index in range(5):
            assert np.array_equal(result.mask(index), of(index, *((1, 2, 3) if kept else (1, 2))))
    assert True in states


def test_torch_is_not_loaded(result: Refiltering):
    program = (
        "import sys\n"
        "from t3dgs_masks.cli import main\n"
        f"code = main(['refilter', {str(result.out)!r}, '--keep', '3'])\n"
        "heavy = ['torch', 'sam2', 'segment_anything', 'nerfstudio']\n"
        "print('LOADED', [name for name in heavy if name in sys.modules])\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "LOADED []" in done.stdout
    assert result.verdicts()[3][0]


# -- the dataset


def test_masks_that_are_applied_are_applied_again(refilter: Refiltering):
    refilter.of_scene(factors=[2])
    pristine = tree(refilter.scene)
    refilter.apply(dilate=2)
    output = refilter("--keep", "3", "--drop", "1")
    assert (
        f"applied again   to {refilter.scene}/transforms.json, as before with --dilate 2" in output
    )
    for index in range(5):
        assert np.array_equal(refilter.applied(index), dilate(of(index, 2, 3), 2))
    revert_masks(refilter.scene)
    assert tree(refilter.scene) == pristine


def test_with_the_users_own_masks(refilter: Refiltering):
    refilter.of_scene(user_masks=dict.fromkeys(NAMES, "own/car.png"))
    refilter.apply()
    assert "applied again" in refilter("--keep", "3")
    assert np.array_equal(refilter.applied(1), of(1, 1, 2, 3) | user_column())


def test_evaluation_frames_stay_as_they_were_applied(refilter: Refiltering):
    write_scene(refilter.scene)  # without a split: the result has masks for all frames
    refilter.result()
    write_scene(refilter.scene, evaluation=NAMES[3:])
    for include_eval in (False, True):
        refilter.apply(include_eval=include_eval)
        output = refilter("--keep" if include_eval else "--drop", "2")
        assert ("--include-eval" in output) == include_eval
        expected = of(4, 1, 2) if include_eval else of(4)
        assert np.array_equal(refilter.applied(4), expected)


def test_colmap(refilter: Refiltering):
    write_colmap(refilter.scene, user_masks=["a_0.jpg"])
    refilter.result()
    refilter.apply(dilate=1)
    assert f"applied again   to {refilter.scene}, as before" in refilter("--keep", "3")
    first = read_transient(refilter.scene / "masks_t3dgs/a_1.png")
    assert np.array_equal(first, dilate(of(1, 1, 2, 3), 1))


def test_a_dataset_without_masks_stays_so(refilter: Refiltering):
    refilter.of_scene()
    before = tree(refilter.scene)
    output = refilter("--keep", "3")
    assert "applied" not in output
    assert tree(refilter.scene) == before
    assert "applied again" in refilter("--keep", "3", "--apply", "yes")
    assert np.array_equal(refilter.applied(1), of(1, 1, 2, 3))
    before = tree(refilter.scene)
    assert "applied" not in refilter("--drop", "3", "--apply", "no")
    assert tree(refilter.scene) == before


def test_masks_of_something_else_stay(refilter: Refiltering):
    refilter.of_scene()
    apply_masks(refilter.scene, GivenMasks())
    before = tree(refilter.scene)
    output = refilter("--keep", "3")
    assert "notice: other masks than this result's are applied to" in output
    assert f"`t3dgs-masks apply --data {refilter.scene}/transforms.json" in output
    assert tree(refilter.scene) == before
    refilter("--keep", "3", "--apply", "yes")
    assert np.array_equal(refilter.applied(1), of(1, 1, 2, 3))


def test_a_dataset_that_was_changed_since_stays(refilter: Refiltering):
    refilter.of_scene()
    refilter.apply()
    drawn = refilter.scene / "masks/f_1.png"
    Image.new("L", (WIDTH, HEIGHT)).save(drawn)
    before = tree(refilter.scene)
    assert "was changed since masks were applied" in refilter.refused("--apply", "yes")
    assert "was changed since masks were applied to it: it is left" in refilter("--keep", "3")
    assert tree(refilter.scene) == before


def test_a_dataset_that_is_gone(refilter: Refiltering):
    refilter.of_scene()
    refilter.scene.rename(refilter.folder / "moved")
    refilter("--keep", "3")
    assert np.array_equal(refilter.mask(0), of(0, 1, 2, 3))


def test_a_dataset_that_cannot_be_changed_is_said(
    refilter: Refiltering, monkeypatch: pytest.MonkeyPatch
):
    refilter.of_scene()
    refilter.apply()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transaction, "_write", full)
    code, _, error = refilter.run("--keep", "3")
    assert code == 2
    assert "the masks are rewritten, but not applied to the dataset" in error
    assert error.count("\n") == 1


# -- exports


def test_exports_are_made_anew(refilter: Refiltering):
    refilter.of_scene()
    for name in ("brush", "postshot"):
        dest = str(refilter.folder / name)
        assert (
            main(["export", str(refilter.out), "--to", name, "--dest", dest, "--dilate", "1"]) == 0
        )
    output = refilter("--keep", "3")
    assert f"exported again  to {refilter.folder}/brush\n" in output
    for name, value in (("brush", 0), ("postshot", 255)):
        with Image.open(refilter.folder / name / "masks/f_1.png") as image:
            assert np.array_equal(np.array(image) == value, dilate(of(1, 1, 2, 3), 1))


def test_exports_that_are_gone_or_have_changed_hands(refilter: Refiltering):
    refilter.of_scene()
    out = str(refilter.out)
    gone, taken, mixed, off = (refilter.folder / name for name in ("gone", "taken", "mixed", "off"))
    for dest in (gone, taken, mixed, off):
        assert main(["export", out, "--to", "brush", "--dest", str(dest)]) == 0
    gone.rename(refilter.folder / "elsewhere")
    other = write_result(refilter.folder / "other", STEMS, kept=KEPT)
    assert main(["export", str(other), "--to", "brush", "--dest", str(taken)]) == 0
    (mixed / "notes.txt").write_text("mine")
    before = [tree(dest) for dest in (taken, mixed)]
    output = refilter("--keep", "3")
    assert f"notice: the export in {mixed} is as it was: " in output
    assert output.count("exported again") == 1
    assert [tree(dest) for dest in (taken, mixed)] == before
    assert not gone.exists()
    assert "exported again" not in refilter("--drop", "3", "--no-exports")
