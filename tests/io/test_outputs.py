"""The result folder: what is in the files, and that they are whole or not there."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t3dgs_masks import UserError, __version__
from t3dgs_masks.io import publish
from t3dgs_masks.io.outputs import (
    MaskletRecord,
    NumLabels,
    PromptReport,
    Report,
    ResultFolder,
    RunIdentity,
    StagedResult,
    read_masklets,
)
from t3dgs_masks.masks import TransientMask, decode, encode
from t3dgs_masks.types import NetworkCalls, Rle

HEIGHT, WIDTH = 6, 8
NAMES = ["frame_1", "cam0/frame_2"]


def box(top: int, left: int, bottom: int, right: int, size=(HEIGHT, WIDTH)) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def identity(seed: int = 0) -> RunIdentity:
    return RunIdentity({"seed": seed}, {"frames": "ab12"}, {"sam2": "cd34"})


def report(frames: int = 2) -> Report:
    return Report(
        num_labels=NumLabels(kept=1, rejected=1),
        running_time=12.34567,
        frames=frames,
        seconds={"forward": 8.0, "filter": 0.5},
        counts=NetworkCalls(image_encoder=3, memory_encoder=5),
        device="cpu",
        checkpoints={"sam2": "tiny-synthetic"},
        prompts=PromptReport(True, "white-transient", "white is the smaller part", True),
        notices=["one frame has no mask"],
    )


def masklets() -> list[MaskletRecord]:
    unordered = {1: encode(box(1, 1, 4, 5)), 0: encode(box(0, 0, 2, 2))}
    return [
        MaskletRecord(4, True, "moves", 0.25, unordered),
        MaskletRecord(7, False, "static", None, {}),
    ]


def fill(staged: StagedResult, run: RunIdentity, mask: np.ndarray) -> None:
    for frame_idx in range(len(staged.frame_names)):
        staged.write_mask(frame_idx, TransientMask(mask))
    staged.write_masklets(masklets() if len(staged.frame_names) > 1 else [])
    staged.write_report(report(len(staged.frame_names)))
    staged.write_config(run)


def write_run(
    out: Path, run: RunIdentity, names: list[str] = NAMES, mask: np.ndarray | None = None
) -> None:
    with ResultFolder.open(out).begin(names, HEIGHT, WIDTH) as staged:
        fill(staged, run, box(1, 1, 4, 5) if mask is None else mask)
        staged.publish()


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- contents -------------------------------------------------------------------------------------


def test_masks_are_8_bit_white_where_static_and_keep_subfolders(tmp_path: Path) -> None:
    write_run(tmp_path / "out", identity(), mask=box(1, 1, 4, 5))
    for name in NAMES:
        with Image.open(tmp_path / "out" / "binary_masks" / f"{name}.png") as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (WIDTH, HEIGHT))
            pixels = np.asarray(image)
        assert np.array_equal(pixels == 0, box(1, 1, 4, 5))
        assert set(np.unique(pixels)) == {0, 255}


def test_a_mask_at_processing_size_is_written_at_source_size(tmp_path: Path) -> None:
    small = np.array([[True, False], [False, True]])
    with ResultFolder.open(tmp_path / "out").begin(["a"], 6, 8) as staged:
        staged.write_mask(0, TransientMask(small))
        pixels = np.asarray(Image.open(staged.mask_path(0)))
    assert np.array_equal(pixels == 0, np.kron(small, np.ones((3, 4), dtype=bool)))


def test_masklets_json_has_the_documented_keys(tmp_path: Path) -> None:
    write_run(tmp_path / "out", identity())
    contents = json.loads((tmp_path / "out" / "masklets.json").read_text())
    assert contents["version"] == 1
    assert (contents["video_height"], contents["video_width"]) == (HEIGHT, WIDTH)
    assert contents["frames"] == NAMES
    kept, rejected = contents["masklets"]
    segmentations = kept.pop("segmentations")
    assert kept == {"object_id": 4, "kept": True, "reason": "moves", "transience_score": 0.25}
    assert list(segmentations) == ["0", "1"]
    assert segmentations["0"]["size"] == [HEIGHT, WIDTH]
    assert isinstance(segmentations["0"]["counts"], str)
    assert rejected["transience_score"] is None


def test_masklets_at_processing_size_are_stored_at_source_size(tmp_path: Path) -> None:
    small = MaskletRecord(0, True, "", 1.0, {0: encode(box(0, 0, 3, 4, size=(3, 8)))})
    with ResultFolder.open(tmp_path / "out").begin(["a"], 6, 16) as staged:
        staged.write_masklets([small])
        stored = read_masklets(tmp_path / "out/.state/next/masklets.json")
    assert np.array_equal(
        decode(stored.masklets[0].segmentations[0]), box(0, 0, 6, 8, size=(6, 16))
    )


def test_report_json_has_the_documented_keys(tmp_path: Path) -> None:
    write_run(tmp_path / "out", identity())
    contents = json.loads((tmp_path / "out" / "report.json").read_text())
    assert contents["num_labels"] == {"kept": 1, "rejected": 1}
    assert contents["running_time"] == 12.346
    assert contents["frames"] == 2
    assert contents["seconds"] == {"forward": 8.0, "filter": 0.5}
    assert contents["counts"] == {
        "image_encoder": 3,
        "memory_encoder": 5,
        "memory_attention": 0,
        "mask_decoder": 0,
        "proposer_image_encoder": 0,
    }
    assert contents["image_encodings_per_frame"] == 1.5
    assert contents["peak_rss_mb"] is None
    assert contents["peak_vram_mb"] is None
    assert contents["versions"] == {}
    assert contents["prompts"]["polarity"] == "white-transient"
    assert contents["prompts"]["residuals"] is True
    assert contents["notices"] == ["one frame has no mask"]
    assert contents["device"] == "cpu"
    assert contents["checkpoints"] == {"sam2": "tiny-synthetic"}


def test_seconds_may_be_keyed_by_an_enum(tmp_path: Path) -> None:
    class Stage(str, Enum):
        FORWARD = "forward"

    timed = Report(NumLabels(0, 0), 1.0, 1, {Stage.FORWARD: 0.5}, NetworkCalls(), "cpu", {})
    with ResultFolder.open(tmp_path / "out").begin(["a"], 1, 1) as staged:
        staged.write_report(timed)
        contents = json.loads((tmp_path / "out/.state/next/report.json").read_text())
    assert contents["seconds"] == {"forward": 0.5}


def test_config_json_is_marked_as_ours_and_can_be_read_back(tmp_path: Path) -> None:
    write_run(tmp_path / "out", identity(3))
    contents = json.loads((tmp_path / "out" / "config.json").read_text())
    assert contents == {
        "program": "t3dgs_masks",
        "hash": identity(3).hash,
        "version": __version__,
        "settings": {"seed": 3},
        "inputs": {"frames": "ab12"},
        "checkpoints": {"sam2": "cd34"},
    }
    assert ResultFolder.open(tmp_path / "out").stored_identity() == identity(3)


def test_the_hash_depends_on_every_part_and_not_on_key_order() -> None:
    base = RunIdentity({"a": 1, "b": Path("x")}, {"f": "1"}, {"s": "2"}, "1.0")
    assert base.hash == RunIdentity({"b": "x", "a": 1}, {"f": "1"}, {"s": "2"}, "1.0").hash
    others = [
        RunIdentity({"a": 2, "b": "x"}, {"f": "1"}, {"s": "2"}, "1.0"),
        RunIdentity({"a": 1, "b": "x"}, {"f": "9"}, {"s": "2"}, "1.0"),
        RunIdentity({"a": 1, "b": "x"}, {"f": "1"}, {"s": "9"}, "1.0"),
        RunIdentity({"a": 1, "b": "x"}, {"f": "1"}, {"s": "2"}, "1.1"),
    ]
    assert base.hash not in {other.hash for other in others}
    assert len(base.hash) == 64


@pytest.mark.parametrize(
    "name",
    ["Straße/花 😀.v2", "x" * 251, "a[b]*?\n", os.fsdecode(b"caf\xe9"), "..hidden", "a\\b"],
    ids=["unicode", "long", "odd", "not-utf8", "dots", "backslash"],
)
def test_odd_frame_names_are_kept(tmp_path: Path, name: str) -> None:
    write_run(tmp_path / "out", identity(), names=[name])
    assert (tmp_path / "out" / "binary_masks" / f"{name}.png").is_file()
    assert read_masklets(tmp_path / "out" / "masklets.json").frames == (name,)


@pytest.mark.parametrize("name", ["", "..", "../a", "/etc/a", "a/../../b", "a//b", "./a", "a\0b"])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="outside of the result folder"):
        ResultFolder.open(tmp_path / "out").begin([name], 4, 4)
    assert files(tmp_path) == {}


def test_two_frames_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="same name"):
        ResultFolder.open(tmp_path / "out").begin(["a", "a"], 4, 4)


# --- one result at a time -------------------------------------------------------------------------


def test_a_later_run_leaves_nothing_of_an_earlier_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with ResultFolder.open(out).begin(["old", "sub/old"], HEIGHT, WIDTH) as staged:
        fill(staged, identity(0), box(0, 0, 1, 1))
        staged.overlay_path.write_bytes(b"video")
        staged.publish()
    (out / "report.html").write_text("made from the earlier result")
    write_run(out, identity(1))
    fresh = tmp_path / "fresh"
    write_run(fresh, identity(1))
    assert files(out) == files(fresh)
    assert sorted(path.name for path in out.iterdir()) == [
        "binary_masks",
        "config.json",
        "masklets.json",
        "report.json",
    ]


def test_a_users_own_files_stay(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "binary_masks").parent.mkdir()
    (out / "notes.txt").write_text("mine")
    write_run(out, identity(0), names=["a"])
    (out / "binary_masks" / "mine.png").write_bytes(b"painted")
    (out / "binary_masks" / "sub").mkdir()
    (out / "binary_masks" / "sub" / "b.png").write_bytes(b"painted too")
    write_run(out, identity(1), names=["c", "sub/b"])
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "binary_masks" / "mine.png").read_bytes() == b"painted"
    assert (out / "binary_masks" / "sub" / "b.png~").read_bytes() == b"painted too"
    assert not (out / "binary_masks" / "a.png").exists()


def test_a_linked_mask_folder_is_not_emptied(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    write_run(out, identity(0))
    (out / "binary_masks").rename(elsewhere)
    (out / "binary_masks").symlink_to(elsewhere)
    before = files(elsewhere)
    write_run(out, identity(1))
    assert files(elsewhere) == before
    assert not (out / "binary_masks").is_symlink()


@pytest.mark.parametrize(
    "entry", ["binary_masks/a.png", "masklets.json", "report.json", "overlay.mp4", "config.json"]
)
def test_files_that_are_not_ours_are_not_replaced(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "out" / entry
    path.parent.mkdir(parents=True)
    path.write_text('{"program": "something else"}')
    before = files(tmp_path)
    with pytest.raises(UserError, match="another --result-dir"):
        ResultFolder.open(tmp_path / "out")
    assert files(tmp_path) == before


def test_an_unfinished_run_leaves_the_earlier_result_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_run(out, identity(0))
    before = files(out)

    def interrupted() -> None:
        with ResultFolder.open(out).begin(["x"], HEIGHT, WIDTH) as staged:
            fill(staged, identity(1), box(0, 0, 6, 8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert files(out) == before
    assert not (out / ".state").exists()


def test_an_unfinished_first_run_leaves_no_folder(tmp_path: Path) -> None:
    with ResultFolder.open(tmp_path / "out").begin(["x"], HEIGHT, WIDTH) as staged:
        staged.write_mask(0, TransientMask(box(0, 0, 1, 1)))
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_staged_is_dropped_and_other_state_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / ".state").mkdir(parents=True)
    (out / ".state" / "progress").write_text("to resume from")
    ResultFolder.open(out).begin(["stale"], HEIGHT, WIDTH).write_mask(
        0, TransientMask(box(0, 0, 1, 1))
    )
    write_run(out, identity())
    assert not (out / "binary_masks" / "stale.png").exists()
    assert files(out / ".state") == {"progress": b"to resume from"}


def test_publishing_without_all_files_is_refused(tmp_path: Path) -> None:
    with ResultFolder.open(tmp_path / "out").begin(NAMES, HEIGHT, WIDTH) as staged:
        fill(staged, identity(), box(0, 0, 1, 1))
        staged.mask_path(1).unlink()
        with pytest.raises(ValueError, match=r"1 files .* binary_masks/cam0/frame_2.png"):
            staged.publish()
    assert not (tmp_path / "out").exists()


def test_is_complete_only_for_the_same_run_and_all_its_files(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert not ResultFolder.open(out).is_complete(identity().hash)
    write_run(out, identity())
    folder = ResultFolder.open(out)
    assert folder.is_complete(identity().hash)
    assert not folder.is_complete(identity(1).hash)
    (out / "binary_masks" / "cam0" / "frame_2.png").unlink()
    assert not folder.is_complete(identity().hash)


# --- killed while publishing ----------------------------------------------------------------------

OPERATIONS = ("_rename", "_unlink", "_rmdir")


def run_killed_before(operation: int, action) -> bool:
    """Run `action` in a child that dies, without clean-up, before the n-th change of the disk.

    Returns whether it came to the end instead.
    """
    child = os.fork()
    if child == 0:
        left = operation

        def counted(change):
            def perform(*arguments) -> None:
                nonlocal left
                if left == 0:
                    os._exit(9)
                left -= 1
                change(*arguments)

            return perform

        for name in OPERATIONS:
            setattr(publish, name, counted(getattr(publish, name)))
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 0


def prepare_publish(out: Path) -> StagedResult:
    """An earlier result with a user's file in it, and a new one ready to be published."""
    with ResultFolder.open(out).begin(["old", "sub/old"], HEIGHT, WIDTH) as staged:
        fill(staged, identity(0), box(0, 0, 1, 1))
        staged.overlay_path.write_bytes(b"old video")
        staged.publish()
    (out / "binary_masks" / "sub" / "mine.txt").write_text("mine")
    staged = ResultFolder.open(out).begin(NAMES, HEIGHT, WIDTH)
    fill(staged, identity(1), box(2, 2, 4, 4))
    return staged


def results(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(out).items() if not name.startswith(".state/")}


def test_publishing_can_be_killed_anywhere(tmp_path: Path) -> None:
    staged = prepare_publish(tmp_path / "undisturbed")
    old = results(staged.out)
    staged.publish()
    new = results(staged.out)
    assert new["binary_masks/sub/mine.txt"] == b"mine"
    assert "overlay.mp4" not in new

    kills, outcomes, finished = 0, set(), False
    while not finished:
        out = tmp_path / f"killed_{kills}"
        staged = prepare_publish(out)
        finished = run_killed_before(kills, staged.publish)
        found = results(out)
        if "config.json" in found:
            # The marker vouches for the rest, except for what a user added.
            assert {**found, **{"binary_masks/sub/mine.txt": b"mine"}} in (old, new)
        # A second kill, in the midst of the recovery, changes nothing either.
        run_killed_before(2, lambda out=out: ResultFolder.open(out))
        folder = ResultFolder.open(out)
        recovered = results(out)
        assert recovered in (old, new)
        outcomes.add(recovered == new)
        assert folder.is_complete(identity(int(recovered == new)).hash)
        kills += 1
    assert outcomes == {False, True}
    assert kills > 15


def test_killed_publish_of_a_first_result_is_completed(tmp_path: Path) -> None:
    kills, finished = 0, False
    while not finished:
        out = tmp_path / f"killed_{kills}"
        staged = ResultFolder.open(out).begin(NAMES, HEIGHT, WIDTH)
        fill(staged, identity(), box(2, 2, 4, 4))
        finished = run_killed_before(kills, staged.publish)
        folder = ResultFolder.open(out)
        assert folder.is_complete(identity().hash) is (kills > 0)
        assert bool(results(out)) is (kills > 0)
        kills += 1
    assert kills > 5


def test_a_half_published_folder_is_not_taken_for_complete(tmp_path: Path) -> None:
    staged = prepare_publish(tmp_path / "out")
    folder = ResultFolder.open(tmp_path / "out")
    assert not run_killed_before(5, staged.publish)
    assert not folder.is_complete(identity(0).hash)
    assert not folder.is_complete(identity(1).hash)


# --- places that cannot be used -------------------------------------------------------------------


def test_results_may_not_go_into_the_input_folder(tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    (tmp_path / "link").symlink_to(frames)
    for out in (frames, frames / "out", tmp_path / "link" / "deep" / "out"):
        with pytest.raises(UserError, match="inside the input folder"):
            ResultFolder.open(out, [frames])
    ResultFolder.open(tmp_path / "frames_out", [frames])
    ResultFolder.open(tmp_path, [frames])
    assert list(frames.iterdir()) == []


def test_an_input_that_the_result_would_replace_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "out", identity())
    for source in ("binary_masks", "binary_masks/cam0", "overlay.mp4"):
        with pytest.raises(UserError, match="would be replaced"):
            ResultFolder.open(tmp_path / "out", [tmp_path / "out" / source])


def test_a_file_as_result_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        ResultFolder.open(tmp_path / "file")
    with pytest.raises(UserError, match="cannot write to the result folder"):
        ResultFolder.open(tmp_path / "file" / "out").begin(["a"], 4, 4)


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError):
        ResultFolder.open(tmp_path / "loop" / "out", [tmp_path / "loop"]).begin(["a"], 4, 4)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(UserError, match="cannot write to the result folder"):
        ResultFolder.open(tmp_path / "out").begin(["a"], 4, 4)


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """Writing stops in the middle of a larger file, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_earlier_result_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_run(out, identity(0))
    before = files(out)
    noise = np.random.default_rng(0).random((HEIGHT, WIDTH)) > 0.5
    with ResultFolder.open(out).begin(["a"], 200, 200) as staged:
        staged.write_mask(0, TransientMask(noise))
        first = files(staged.mask_path(0).parent)
        with file_size_limit(20), pytest.raises(UserError, match="the disk is full"):
            staged.write_mask(0, TransientMask(~noise))
        assert files(staged.mask_path(0).parent) == first
    assert files(out) == before


# --- reading back ---------------------------------------------------------------------------------


def test_masklets_are_read_back_as_written(tmp_path: Path) -> None:
    write_run(tmp_path / "out", identity())
    stored = read_masklets(tmp_path / "out" / "masklets.json")
    assert (stored.frames, stored.height, stored.width) == (tuple(NAMES), HEIGHT, WIDTH)
    assert list(stored.masklets) == masklets()


def test_run_lengths_of_real_masks_are_accepted(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    drawn = [generator.random((90, 130)) < share for share in (0.0, 0.001, 0.3, 0.5, 1.0)]
    drawn.append(box(10, 20, 80, 100, size=(90, 130)))
    records = [MaskletRecord(i, True, "", None, {0: encode(mask)}) for i, mask in enumerate(drawn)]
    with ResultFolder.open(tmp_path / "out").begin(["a"], 90, 130) as staged:
        staged.write_masklets(records)
        stored = read_masklets(tmp_path / "out/.state/next/masklets.json")
    for record, mask in zip(stored.masklets, drawn, strict=True):
        assert np.array_equal(decode(record.segmentations[0]), mask)


def good_masklets() -> dict:
    rle: Rle = encode(box(1, 1, 4, 5))
    return {
        "version": 1,
        "video_height": HEIGHT,
        "video_width": WIDTH,
        "frames": ["a"],
        "masklets": [
            {
                "object_id": 0,
                "kept": True,
                "reason": "",
                "transience_score": None,
                "segmentations": {
                    "0": {"size": [HEIGHT, WIDTH], "counts": rle.counts.decode("ascii")}
                },
            }
        ],
    }


def broken_variants() -> Iterator[tuple[str, object]]:
    for key in ("version", "video_height", "frames", "masklets"):
        yield f"no {key}", {k: v for k, v in good_masklets().items() if k != key}
        yield f"{key} null", {**good_masklets(), key: None}
    for key in good_masklets()["masklets"][0]:
        contents = good_masklets()
        del contents["masklets"][0][key]
        yield f"masklet without {key}", contents
    for counts in ("", "0", "\x7f", "ü", "PPPPPPPPPPPP0", "Z1", "50", "5O", "oooo"):
        contents = good_masklets()
        contents["masklets"][0]["segmentations"]["0"]["counts"] = counts
        yield f"counts {counts!r}", contents
    for key in ("1", "-1", "x"):
        contents = good_masklets()
        segmentations = contents["masklets"][0]["segmentations"]
        segmentations[key] = segmentations.pop("0")
        yield f"frame {key}", contents
    contents = good_masklets()
    contents["masklets"].append(contents["masklets"][0])
    yield "same id twice", contents
    yield "a list", []
    yield "newer version", {**good_masklets(), "version": 2}
    yield "other size", {**good_masklets(), "video_width": WIDTH + 1}
    yield "name that leaves the folder", {**good_masklets(), "frames": ["../a"]}


@pytest.mark.parametrize(
    "contents", [pytest.param(contents, id=name) for name, contents in broken_variants()]
)
def test_a_broken_masklet_file_is_a_user_error(tmp_path: Path, contents: object) -> None:
    path = tmp_path / "masklets.json"
    path.write_text(json.dumps(contents))
    with pytest.raises(UserError) as caught:
        read_masklets(path)
    assert "\n" not in str(caught.value)


def test_a_good_masklet_file_passes_the_same_checks(tmp_path: Path) -> None:
    path = tmp_path / "masklets.json"
    path.write_text(json.dumps(good_masklets()))
    assert np.array_equal(decode(read_masklets(path).masklets[0].segmentations[0]), box(1, 1, 4, 5))


def test_a_missing_or_cut_masklet_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        read_masklets(tmp_path / "masklets.json")
    (tmp_path / "masklets.json").write_bytes(json.dumps(good_masklets()).encode()[:50])
    with pytest.raises(UserError, match="not valid JSON"):
        read_masklets(tmp_path / "masklets.json")
