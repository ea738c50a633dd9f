"""`t3dgs-masks refine`, through its real command line, on files."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image as PilImage

from t3dgs_masks import cli
from t3dgs_masks.io.side_work import Beside, InPauses
from t3dgs_masks.masks import decode
from t3dgs_masks.report.html import read_page
from t3dgs_masks.sam import memory
from t3dgs_masks.sam.catalogue import WEIGHTS_DIR
from t3dgs_masks.side_works import SideWorks
from t3dgs_masks.synthetic.capture import Capture, CaptureSpec, make_capture
from t3dgs_masks.synthetic.coarse import CoarsePrompts, half_trained_prompts
from t3dgs_masks.types import Rle
from tests.sam.tiny_sam1 import write_tiny_sam1
from tests.sam.tiny_sam2_files import write_random_sam2

torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent
TINY_SAM2 = WEIGHTS_DIR / "tiny_synthetic.pt"
TINY_CONFIG = ROOT / "configs" / "sam2_tiny_256.yaml"
NUM_FRAMES = 8


@dataclass(frozen=True)
class Scene:
    capture: Capture
    prompts: CoarsePrompts


@dataclass(frozen=True)
class Run:
    """What one call of the command line did."""

    code: int
    out: str
    err: str
    result_dir: Path

    def report(self) -> dict:
        return json.loads((self.result_dir / "report.json").read_text())

    def masklets(self) -> dict:
        return json.loads((self.result_dir / "masklets.json").read_text())

    def mask_names(self) -> list[str]:
        root = self.result_dir / "binary_masks"
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())

    def transient(self, name: str) -> np.ndarray:
        with PilImage.open(self.result_dir / "binary_masks" / f"{name}.png") as image:
            assert image.mode == "L"
            values = np.asarray(image)
        assert set(np.unique(values)) <= {0, 255}
        return values == 0


@pytest.fixture(scope="module")
def scene() -> Scene:
    capture = make_capture(
        CaptureSpec(seed=5, num_frames=NUM_FRAMES, height=96, width=128, num_walkers=2)
    )
    return Scene(capture, half_trained_prompts(capture, seed=5))


@pytest.fixture
def refine(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Calls the command line with the small checkpoint, unless `args` say otherwise."""

    def run(*args: object, out: str = "out") -> Run:
        given = [str(arg) for arg in args]
        if not any("sam2" in arg and "checkpoint" in arg for arg in given):
            given += ["--sam2-checkpoint", "tiny-synthetic"]
        result_dir = tmp_path / out
        capsys.readouterr()
        code = cli.main(["refine", "--result_dir", str(result_dir), *given])
        printed = capsys.readouterr()
        return Run(code, printed.out, printed.err, result_dir)

    return run


def write_frames(folder: Path, scene: Scene, names: list[str] | None = None) -> Path:
    for idx, image in enumerate(scene.capture.frames):
        name = names[idx] if names else f"{idx:03d}.png"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PilImage.fromarray(image).save(path)
    return folder


def write_prompts(folder: Path, scene: Scene, *, residuals: bool = True) -> Path:
    (folder / "masks").mkdir(parents=True)
    for idx, coarse in enumerate(scene.prompts.coarse):
        PilImage.fromarray(coarse.astype(np.uint8) * 255).save(folder / "masks" / f"{idx:03d}.png")
    if residuals:
        (folder / "diffs").mkdir()
        for idx, residual in enumerate(scene.prompts.residual):
            grey = (residual * 255).astype(np.uint8)
            PilImage.fromarray(grey).save(folder / "diffs" / f"{idx:03d}.png")
    return folder


@pytest.fixture
def frames(tmp_path: Path, scene: Scene) -> Path:
    return write_frames(tmp_path / "frames", scene)


@pytest.fixture
def prompts(tmp_path: Path, scene: Scene) -> Path:
    return write_prompts(tmp_path / "prompts", scene)


# --- what comes out -------------------------------------------------------------------------------


def test_promptable_run_writes_all_of_the_documented_files(refine, frames, prompts, scene):
    run = refine("--video-path", frames, "--prompt-dir", prompts)
    assert run.code == 0, run.err
    assert run.mask_names() == [f"{idx:03d}.png" for idx in range(NUM_FRAMES)]
    assert run.transient("003").shape == scene.capture.frames.shape[1:3]
    assert sorted(p.name for p in run.result_dir.iterdir() if p.name != ".state") == [
        "binary_masks",
        "config.json",
        "masklets.json",
        "overlay.mp4",
        "report.html",
        "report.json",
    ]
    report = run.report()
    assert report["frames"] == NUM_FRAMES
    assert report["prompts"]["polarity"] == "white-transient"
    assert report["counts"]["image_encoder"] == NUM_FRAMES
    assert report["counts"]["proposer_image_encoder"] == 0
    assert report["image_encodings_per_frame"] == 1.0
    assert set(report["seconds"]) == {"forward", "backward", "final", "filter", "outputs"}
    with av.open(str(run.result_dir / "overlay.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == NUM_FRAMES
    assert "for demonstration and tests" in run.err
    assert "image encodings" in run.out
    assert str(run.result_dir) in run.out


def test_masks_are_the_union_of_the_kept_masklets(refine, frames, prompts):
    run = refine("--video-path", frames, "--prompt-dir", prompts)
    contents = run.masklets()
    height, width = contents["video_height"], contents["video_width"]
    kept = [item for item in contents["masklets"] if item["kept"]]
    assert run.report()["num_labels"] == {
        "kept": len(kept),
        "rejected": len(contents["masklets"]) - len(kept),
    }
    for frame_idx, name in enumerate(contents["frames"]):
        union = np.zeros((height, width), bool)
        for item in kept:
            rle = item["segmentations"].get(str(frame_idx))
            if rle is not None:
                union |= decode(Rle(height, width, rle["counts"].encode()))
        assert np.array_equal(union, run.transient(name))


def test_promptless_keeps_every_object(refine, frames):
    run = refine("--video-path", frames, "--prompt-points-per-side", 4)
    assert run.code == 0, run.err
    masklets = run.masklets()["masklets"]
    assert masklets
    assert all(item["kept"] and item["transience_score"] is None for item in masklets)
    assert run.report()["counts"]["image_encoder"] == NUM_FRAMES
    assert any(run.transient(f"{idx:03d}").any() for idx in range(NUM_FRAMES))


def test_a_video_file_promptless(refine, tmp_path, scene):
    path = tmp_path / "walk.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.height, stream.width = scene.capture.frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for image in scene.capture.frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    run = refine("--video-path", path, "--every", 2, "--prompt-points-per-side", 4)
    assert run.code == 0, run.err
    assert len(run.mask_names()) == NUM_FRAMES // 2
    assert (run.result_dir / "overlay.mp4").is_file()
    assert run.report()["frames"] == NUM_FRAMES // 2


# --- the reference program's two documented commands ----------------------------------------------


@pytest.mark.parametrize("promptable", [True, False], ids=["promptable", "promptless"])
def test_the_references_commands(refine, frames, prompts, tmp_path, promptable):
    sam1 = write_tiny_sam1(tmp_path / "sam_vit_tiny.pth")
    args = ["--video_path", frames, "--sam_checkpoint", sam1]
    args += ["--sam2_checkpoint", TINY_SAM2, "--sam2_config", TINY_CONFIG]
    if promptable:
        args += ["--prompt_dir", prompts]
    run = refine(*args)
    assert run.code == 0, run.err
    assert len(run.mask_names()) == NUM_FRAMES
    # Untrained, this SAM1 is sure of nothing: no proposal passes, and the run says so.
    assert run.report()["counts"]["proposer_image_encoder"] > 0
    assert "no proposal passed the thresholds" in run.err


def test_a_sam1_whose_proposals_pass(refine, frames, tmp_path):
    sam1 = write_tiny_sam1(tmp_path / "sam_vit_tiny.pth")
    run = refine(
        "--video_path", frames, "--sam_checkpoint", sam1, "--end", 3, "--pred-iou-thresh", 0,
        "--stability-score-thresh", 0, "--start-points-per-side", 2, "--prompt-points-per-side", 1,
    )  # fmt: skip
    assert run.code == 0, run.err
    assert run.masklets()["masklets"]
    assert run.report()["checkpoints"] == {"sam2": "tiny-synthetic", "sam1": "sam_vit_tiny.pth"}


@pytest.mark.parametrize(("memory_size", "holds_all_frames"), [(4, True), (1, False)])
def test_a_device_holds_the_frames_around_and_no_more(
    refine, frames, monkeypatch, memory_size, holds_all_frames
):
    """With a CPU in the device's role, and next to no room on the host: a frame that has left the
    device is encoded anew, however much room there is."""
    monkeypatch.setattr(memory, "default_device_cache_bytes", lambda _: 1 << 40)
    cache = ("--memory-size", memory_size, "--feature-cache-gb", 0.000001)
    run = refine("--video-path", frames, *cache, "--prompt-points-per-side", 2)
    assert run.code == 0, run.err
    encodings = run.report()["counts"]["image_encoder"]
    assert (encodings == NUM_FRAMES) if holds_all_frames else (encodings > NUM_FRAMES)


def test_an_official_checkpoint_with_the_references_config_name(refine, frames, tmp_path):
    """sam2_hiera_t.yaml at its own 1024 px, random weights."""
    checkpoint = write_random_sam2(tmp_path / "sam2_hiera_tiny.pt", "sam2_hiera_t")
    run = refine(
        "--video_path", frames, "--sam2_checkpoint", checkpoint, "--sam2_config",
        "sam2_hiera_t.yaml", "--start-points-per-side", 2, "--prompt-points-per-side", 1,
        "--num_iterations", 0, "--no-overlay",
    )  # fmt: skip
    assert run.code == 0, run.err
    assert len(run.mask_names()) == NUM_FRAMES


def test_every_flag_of_the_reference_is_understood(frames, tmp_path):
    command = cli.parse(
        f"refine --video_path {frames} --result_dir {tmp_path / 'o'} --sam_checkpoint a.pth "
        "--sam2_checkpoint b.pt --sam2_config sam2_hiera_l.yaml --prompt_dir p "
        "--start_points_per_side 8 --prompt_points_per_side 4 --memory_size 5 --num_iterations 3 "
        "--fps 24 --resolution 480 --resume --debug --filter_threshold 0.1 --lambda_ref 0.6 "
        "--lambda_val 0.5 --lambda_merge 0.8".split()
    )
    assert isinstance(command, cli.Refine)
    assert command.algorithm.max_conditioning_frames == 5
    assert command.algorithm.start_points_per_side == 8
    assert command.algorithm.prompt_points_per_side == 4
    assert command.algorithm.num_iterations == 3
    assert command.algorithm.filter_threshold == 0.1
    assert command.algorithm.min_proposal_coverage == 0.6
    assert command.algorithm.min_scoring_coverage == 0.5
    assert command.algorithm.merge_iou == 0.8
    assert (command.fps, command.resolution, command.resume, command.debug) == (24, 480, True, True)


# --- odd inputs -----------------------------------------------------------------------------------


def test_odd_names_subfolders_and_a_stray_file(refine, tmp_path, scene):
    names = ["b 2/x.y.10.png", "b 2/x.y.9.png", "ä.png", "a/1.webp", "a/02.tiff", "a/3.bmp"]
    names += ["zz.jpg", "ZZ2.JPG"]
    folder = write_frames(tmp_path / "frames", scene, names)
    (folder / "notes.txt").write_text("not a frame")
    run = refine("--video-path", folder, "--prompt-points-per-side", 2)
    assert run.code == 0, run.err
    expected = sorted(name.rpartition(".")[0] + ".png" for name in names)
    assert run.mask_names() == expected
    assert "notes.txt" in run.err
    order = run.masklets()["frames"]
    assert order.index("b 2/x.y.9") < order.index("b 2/x.y.10")
    assert order.index("a/1") < order.index("a/02") < order.index("a/3")


def mask_as(kind: str, coarse: np.ndarray, path: Path) -> Path:
    """The coarse mask as one of the files that people have."""
    white = coarse.astype(np.uint8) * 255
    image = PilImage.fromarray(white)
    if kind == "rgba":
        PilImage.merge("RGBA", (image, image, image, PilImage.new("L", image.size, 255))).save(path)
    elif kind == "palette":
        image.convert("RGB").convert("P").save(path)
    elif kind == "16-bit":
        PilImage.fromarray(coarse.astype(np.uint16) * 65535).save(path)
    elif kind == "jpeg":
        path = path.with_suffix(".jpg")
        image.save(path, quality=95)
    elif kind == "half size":
        image.resize((image.width // 2, image.height // 2), PilImage.Resampling.NEAREST).save(path)
    elif kind == "1-bit":
        image.convert("1").save(path)
    else:
        image.save(path)
    return path


MASK_KINDS = ["rgba", "palette", "16-bit", "jpeg", "half size", "1-bit", "grey", "grey"]


def test_any_mask_mode_gives_what_grey_masks_give(refine, frames, prompts, tmp_path, scene):
    odd = tmp_path / "odd"
    (odd / "masks").mkdir(parents=True)
    for idx, kind in enumerate(MASK_KINDS):
        coarse = scene.prompts.coarse[idx]
        if kind == "half size":  # at half size nothing of this mask is lost
            coarse = np.kron(coarse[::2, ::2], np.ones((2, 2), bool))
            PilImage.fromarray(coarse.astype(np.uint8) * 255).save(
                prompts / "masks" / f"{idx:03d}.png"
            )
        mask_as(kind, coarse, odd / "masks" / f"{idx:03d}.png")
    expected = refine("--video-path", frames, "--prompt-dir", prompts, out="expected")
    (odd / "diffs").mkdir()
    for idx, path in enumerate(sorted((prompts / "diffs").iterdir())):
        mode = "RGB" if idx % 2 else "L"
        PilImage.open(path).convert(mode).save(odd / "diffs" / path.name)
    run = refine("--video-path", frames, "--prompt-dir", odd)
    assert run.code == 0, run.err
    for idx in range(NUM_FRAMES):
        name = f"{idx:03d}"
        assert np.array_equal(run.transient(name), expected.transient(name)), MASK_KINDS[idx]


def test_missing_residuals_and_one_missing_mask(refine, frames, tmp_path, scene):
    prompts = write_prompts(tmp_path / "prompts", scene, residuals=False)
    (prompts / "masks" / "004.png").unlink()
    run = refine("--video-path", frames, "--prompt-dir", prompts)
    assert run.code == 0, run.err
    assert len(run.mask_names()) == NUM_FRAMES
    assert "residual term is 1" in run.err
    assert "004" in run.err
    assert run.report()["prompts"]["residuals"] is False


def test_one_missing_residual(refine, frames, prompts):
    (prompts / "diffs" / "002.png").unlink()
    run = refine("--video-path", frames, "--prompt-dir", prompts)
    assert run.code == 0, run.err
    assert run.report()["prompts"]["residuals"] is True


def test_white_static_prompts_mean_the_same(refine, frames, prompts, tmp_path):
    inverted = tmp_path / "inverted"
    (inverted / "masks").mkdir(parents=True)
    shutil.copytree(prompts / "diffs", inverted / "diffs")
    for path in (prompts / "masks").iterdir():
        PilImage.fromarray(255 - np.asarray(PilImage.open(path))).save(
            inverted / "masks" / path.name
        )
    expected = refine("--video-path", frames, "--prompt-dir", prompts, out="expected")
    run = refine("--video-path", frames, "--prompt-dir", inverted)
    assert run.code == 0, run.err
    assert run.report()["prompts"]["polarity"] == "white-static"
    for name in run.masklets()["frames"]:
        assert np.array_equal(run.transient(name), expected.transient(name))


def test_object_on_one_frame_only(refine, frames, prompts, scene):
    for idx in range(NUM_FRAMES):
        if idx != 3:
            empty = np.zeros(scene.capture.frames.shape[1:3], np.uint8)
            PilImage.fromarray(empty).save(prompts / "masks" / f"{idx:03d}.png")
    run = refine("--video-path", frames, "--prompt-dir", prompts)
    assert run.code == 0, run.err
    assert len(run.mask_names()) == NUM_FRAMES


def test_no_object_at_all(refine, frames, prompts, scene):
    for path in (prompts / "masks").iterdir():
        PilImage.fromarray(np.zeros(scene.capture.frames.shape[1:3], np.uint8)).save(path)
    run = refine("--video-path", frames, "--prompt-dir", prompts)
    assert run.code == 0, run.err
    assert not any(run.transient(name).any() for name in run.masklets()["frames"])
    assert run.report()["num_labels"] == {"kept": 0, "rejected": 0}
    assert "all-static" in run.err


@pytest.mark.parametrize("promptable", [True, False])
def test_one_frame(refine, tmp_path, scene, promptable):
    folder, prompts = tmp_path / "frames", tmp_path / "prompts"
    folder.mkdir()
    (prompts / "masks").mkdir(parents=True)
    PilImage.fromarray(scene.capture.frames[4]).save(folder / "only.png")
    truth = scene.capture.transient_masks[4]
    PilImage.fromarray(truth.astype(np.uint8) * 255).save(prompts / "masks" / "only.png")
    run = refine("--video-path", folder, *(["--prompt-dir", prompts] if promptable else []))
    assert run.code == 0, run.err
    assert run.mask_names() == ["only.png"]


def test_resolution_keeps_masks_at_source_size(refine, frames, prompts, scene):
    run = refine("--video-path", frames, "--prompt-dir", prompts, "--resolution", 64)
    assert run.code == 0, run.err
    assert run.transient("000").shape == scene.capture.frames.shape[1:3]


# --- resume and what an earlier run left ----------------------------------------------------------


def test_same_settings_and_inputs_return_at_once(refine, frames, prompts):
    first = refine("--video-path", frames, "--prompt-dir", prompts)
    written = (first.result_dir / "report.json").stat().st_mtime_ns
    again = refine("--video-path", frames, "--prompt-dir", prompts)
    assert again.code == 0
    assert "already holds the result" in again.err
    assert (again.result_dir / "report.json").stat().st_mtime_ns == written
    forced = refine("--video-path", frames, "--prompt-dir", prompts, "--no-resume")
    assert "already holds" not in forced.err
    assert (forced.result_dir / "report.json").stat().st_mtime_ns > written


def test_a_new_run_leaves_nothing_of_the_last(refine, frames, prompts):
    refine("--video-path", frames, "--prompt-dir", prompts)
    for path in sorted(frames.iterdir())[4:]:
        path.unlink()
    for kind in ("masks", "diffs"):
        for path in sorted((prompts / kind).iterdir())[4:]:
            path.unlink()
    run = refine("--video-path", frames, "--prompt-dir", prompts)
    assert run.code == 0, run.err
    assert run.mask_names() == [f"{idx:03d}.png" for idx in range(4)]


def test_two_runs_give_the_same_bytes(refine, frames, prompts):
    first = refine("--video-path", frames, "--prompt-dir", prompts, out="a")
    second = refine("--video-path", frames, "--prompt-dir", prompts, out="b")
    for name in ("masklets.json", *(f"binary_masks/{name}" for name in first.mask_names())):
        assert (first.result_dir / name).read_bytes() == (second.result_dir / name).read_bytes()


def test_outputs_are_the_same_beside_and_in_pauses(refine, frames, prompts, monkeypatch):
    """And OpenCV's threads are the user's again after it."""
    before = cv2.getNumThreads()
    results = {}
    for kind in (Beside, InPauses):
        work = Beside(2, ahead=None) if kind is Beside else InPauses(2, every=3)
        works = SideWorks(work, work)
        monkeypatch.setattr(SideWorks, "for_network", lambda *_, works=works: works)
        run = refine("--video-path", frames, "--prompt-dir", prompts, out=kind.__name__)
        assert run.code == 0
        page = read_page((run.result_dir / "report.html").read_text())
        assert page is not None
        masks = {n: run.transient(n.removesuffix(".png")).tobytes() for n in run.mask_names()}
        video = (run.result_dir / "overlay.mp4").read_bytes()
        results[kind] = (masks, video, page.frames, page.objects)
    assert results[Beside] == results[InPauses]
    assert len(results[Beside][0]) == NUM_FRAMES
    assert cv2.getNumThreads() == before


# --- errors ---------------------------------------------------------------------------------------


def assert_one_line_error(run: Run, *words: str) -> None:
    assert run.code == 2
    lines = [line for line in run.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in run.err
    for word in words:
        assert word in lines[0]
    assert not run.result_dir.exists()


def test_missing_frames(refine, tmp_path):
    assert_one_line_error(refine("--video-path", tmp_path / "nowhere"), "nowhere")


def test_missing_checkpoint(refine, frames, tmp_path):
    run = refine("--video-path", frames, "--sam2_checkpoint", tmp_path / "gone.pt")
    assert_one_line_error(run, "gone.pt", "t3dgs-masks models")


def test_sam1_proposer_without_checkpoint(refine, frames):
    run = refine("--video-path", frames, "--proposer", "sam1")
    assert_one_line_error(run, "--sam-checkpoint")


def test_frames_of_two_sizes(refine, frames):
    PilImage.new("RGB", (50, 40)).save(frames / "999.png")
    assert_one_line_error(refine("--video-path", frames), "999.png", "50")


def test_prompts_of_other_frames(refine, frames, prompts):
    (prompts / "masks" / "000.png").unlink()
    for idx in range(1, NUM_FRAMES):
        old = prompts / "masks" / f"{idx:03d}.png"
        old.rename(old.with_name(f"other_{idx}.png"))
    run = refine("--video-path", frames, "--prompt-dir", prompts)
    assert_one_line_error(run, "masks")


def test_result_inside_the_frames(refine, frames):
    run = refine("--video-path", frames, out="frames/out")
    assert_one_line_error(run, "--result-dir")


def test_debug_shows_the_traceback(refine, tmp_path):
    run = refine("--video-path", tmp_path / "nowhere", "--debug")
    assert run.code == 2
    assert "Traceback" in run.err


def test_an_error_half_way_leaves_an_earlier_result_alone(refine, frames, prompts, monkeypatch):
    first = refine("--video-path", frames, "--prompt-dir", prompts)

    def result() -> dict[Path, bytes]:
        found = (path for path in first.result_dir.rglob("*") if path.is_file())
        return {path: path.read_bytes() for path in found if ".state" not in path.parts}

    before = result()

    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("t3dgs_masks.refine_job.ResultWriter.complete", fail)
    run = refine("--video-path", frames, "--prompt-dir", prompts, "--seed", 1)
    assert run.code == cli.INTERRUPTED_EXIT_CODE
    assert result() == before


# --- the two trackers -----------------------------------------------------------------------------


def test_the_official_tracker_gives_the_same_masks(refine, frames, prompts):
    args = ["--video-path", frames, "--prompt-dir", prompts, "--guard", "off"]
    ours = refine(*args, out="ours")
    official = refine(*args, "--tracker", "official", out="official")
    assert official.code == 0, official.err
    found = 0
    for name in ours.masklets()["frames"]:
        a, b = ours.transient(name), official.transient(name)
        found += a.any()
        union = (a | b).sum()
        assert union == 0 or (a & b).sum() / union >= 0.995
    assert found > NUM_FRAMES // 2
    assert official.report()["counts"]["image_encoder"] > 5 * NUM_FRAMES
