"""`scripts/run_tmr_benchmark.py`, on generated scenes in place of those of papers."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from itertools import repeat
from pathlib import Path
from types import ModuleType

import numpy as np
import pycolmap
import pytest
from PIL import Image as PilImage

from t3dgs_masks.datasets.apply_masks import apply_masks
from t3dgs_masks.datasets.opening import open_dataset
from t3dgs_masks.errors import UserError
from t3dgs_masks.splat_demo_job import SMALL_SCENE_FLAGS
from t3dgs_masks.synthetic.capture import Capture, CaptureSpec, make_capture
from t3dgs_masks.synthetic.coarse import half_trained_prompts
from t3dgs_masks.synthetic.dataset import write_nerfstudio
from tests.datasets.posed_scenes import write_colmap_scene, write_nerfstudio_scene
from tests.datasets.scenes_to_mask import GivenMasks, tree
from tests.plugin.ns_commands import offline_variables

SCRIPT = Path(__file__).parent.parent / "scripts" / "run_tmr_benchmark.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_tmr_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


benchmark = load()


# --- all of it ------------------------------------------------------------------------------------


def capture_of(seed: int) -> Capture:
    """12 frames of 64x48 with two walkers."""
    return make_capture(
        CaptureSpec(
            seed=seed,
            num_frames=12,
            height=48,
            width=64,
            num_walkers=2,
            num_eval_views=3,
            num_seed_points=800,
        )
    )


def write_like_on_the_go(root: Path) -> None:
    """transforms.json, and a split.json that says which frames are for what."""
    capture = capture_of(seed=1)
    write_nerfstudio(capture, half_trained_prompts(capture, seed=1), root)
    transforms = json.loads((root / "transforms.json").read_text())
    names = sorted(Path(frame["file_path"]).name for frame in transforms["frames"])
    train, evaluation = (
        [names.index(Path(name).name) for name in transforms.pop(f"{split}_filenames")]
        for split in ("train", "val")
    )
    del transforms["test_filenames"]
    (root / "transforms.json").write_text(json.dumps(transforms))
    split = {"clutter": train, "extra": evaluation, "clean": []}
    (root / "split.json").write_text(json.dumps(split))


def write_like_robustnerf(root: Path) -> None:
    """A COLMAP project whose image names say which are for what."""
    capture = capture_of(seed=2)
    model = pycolmap.Reconstruction()
    lens = capture.intrinsics
    params = [lens.fl_x, lens.fl_y, lens.cx, lens.cy]
    camera = pycolmap.Camera(model="PINHOLE", width=64, height=48, params=params, camera_id=1)
    model.add_camera_with_trivial_rig(camera)
    views = [
        *zip(repeat("clutter"), capture.frames, capture.camera_to_worlds),
        *zip(repeat("extra"), capture.eval_frames, capture.eval_camera_to_worlds),
    ]
    (root / "images").mkdir(parents=True)
    for number, (kind, pixels, pose) in enumerate(views, start=1):
        name = f"{kind}_{number:03d}.png"
        PilImage.fromarray(pixels).save(root / "images" / name)
        camera_to_world = np.array(pose, dtype=float)
        camera_to_world[:3, 1:3] *= -1  # OpenGL's axes to OpenCV's
        world_to_camera = np.linalg.inv(camera_to_world)[:3]
        image = pycolmap.Image(name=name, camera_id=1, image_id=number)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(world_to_camera))
    for xyz, rgb in zip(capture.seed_points_xyz, capture.seed_points_rgb, strict=True):
        model.add_point3D(xyz.astype(float), pycolmap.Track(), rgb)
    (root / "sparse" / "0").mkdir(parents=True)
    model.write_binary(root / "sparse" / "0")


def write_stand_ins(root: Path) -> Path:
    """Two scenes, laid out as those of papers are; returns the file of scenes."""
    write_like_on_the_go(root / "hall")
    write_like_robustnerf(root / "yard")
    scenes = root / "scenes.yaml"
    scenes.write_text(
        "dataset: Stand-ins\nget: they are generated\ndefaults: {downscale: 1}\nscenes:\n"
        "  hall: {path: hall, split: split.json}\n  yard: {path: yard, split: prefixes}\n"
    )
    return scenes


def test_two_scenes_from_data_to_table(tmp_path, capsys, monkeypatch):
    for name, value in offline_variables(tmp_path).items():
        monkeypatch.setenv(name, value)
    scenes = write_stand_ins(tmp_path / "data")
    before = tree(tmp_path / "data")
    flags = [*SMALL_SCENE_FLAGS, "--pipeline.model.robust.warmup-steps", "30"]
    arguments = [
        *("--data-dir", str(tmp_path / "data"), "--configs", str(scenes)),
        *("--output-dir", str(tmp_path / "out"), "--steps", "120", "--prompt-steps", "80"),
        *("--sam2-checkpoint", "tiny-synthetic", "--device", "cpu"),
        f"--train-flags={' '.join(flags)}",
    ]
    assert benchmark.main(arguments) == 0
    first = capsys.readouterr().out
    table = first[first.index("no masks") :].splitlines()
    assert "coarse masks" in table[0]
    assert [row.split()[0] for row in table[2:6]] == ["Stand-ins", "hall", "yard", "mean"]

    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(row["dataset"], row["scene"]) for row in results] == [
        ("Stand-ins", "hall"),
        ("Stand-ins", "yard"),
    ]
    for row in results:
        for arm in ("unmasked", "coarse", "refined"):
            scores = row["scores"][arm]
            assert 15 < scores["psnr"] < 45
            assert 0.4 < scores["ssim"] < 1
            assert scores["lpips"] is None  # its network cannot be had here
            assert scores["views"] == 3
    means = table[5].split()[1:]
    assert float(means[6]) > float(means[0]) + 1  # PSNR, refined and unmasked
    assert means[2] == means[8] == "-"
    assert tree(tmp_path / "data") == before  # nothing was written into the data

    assert benchmark.main(arguments) == 0  # nothing is done twice
    again = capsys.readouterr().out
    assert "..." not in again
    assert again[again.index("no masks") :].splitlines() == table


# --- steps ----------------------------------------------------------------------------------------

KILLED_AT = """
import importlib.util, os, signal, sys
from pathlib import Path

spec = importlib.util.spec_from_file_location("run_tmr_benchmark", {script!r})
benchmark = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(benchmark)
root, killed_at = Path(sys.argv[1]), sys.argv[2]

def step(name, after):
    def run():
        with (root / "log").open("a") as log:
            log.write(f"{{name}} begins\\n")
        (root / f"{{name}}.out").write_text("half a result")
        if killed_at == name:
            os.kill(os.getpid(), signal.SIGKILL)
        parts = [(root / f"{{other}}.out").read_text() for other in after]
        (root / f"{{name}}.out").write_text(f"{{name}}({{','.join(parts)}})")
        if killed_at == f"behind {{name}}":
            os.kill(os.getpid(), signal.SIGKILL)
    return benchmark.Step(name, {{}}, after, run)

steps = [step("data", []), step("prompts", ["data"]), step("train", ["data", "prompts"])]
benchmark.run_steps(steps, root / "done")
"""


def test_killed_anywhere_it_goes_on(tmp_path):
    program = KILLED_AT.format(script=str(SCRIPT))

    def run(killed_at: str) -> int:
        command = [sys.executable, "-c", program, str(tmp_path), killed_at]
        return subprocess.run(command, capture_output=True).returncode

    for moment in ("data", "behind data", "prompts", "train", "behind train"):
        assert run(moment) == -signal.SIGKILL, moment
    assert run("never") == 0
    assert run("never") == 0
    assert (tmp_path / "train.out").read_text() == "train(data(),prompts(data()))"
    begun = (tmp_path / "log").read_text().split(" begins\n")[:-1]
    # Whatever was not finished is done again from its beginning, and nothing else is.
    assert begun == ["data"] * 3 + ["prompts"] * 2 + ["train"] * 3


def test_a_changed_setting_makes_anew_what_depends_on_it(tmp_path):
    done: list[str] = []

    def run(**settings: object) -> list[str]:
        done.clear()
        graph = (("a", []), ("b", ["a"]), ("c", ["a"]), ("d", ["b"]))
        steps = [
            benchmark.Step(name, {"is": settings.get(name)}, after, lambda n=name: done.append(n))
            for name, after in graph
        ]
        benchmark.run_steps(steps, tmp_path)
        return list(done)

    assert run() == ["a", "b", "c", "d"]
    assert run() == []
    assert run(b=1) == ["b", "d"]
    assert run(b=1, c=2) == ["c"]
    assert run() == ["b", "c", "d"]
    (tmp_path / "c.json").write_text("{broken")
    assert run() == ["c"]


def test_a_step_that_fails_is_not_finished(tmp_path):
    def fail() -> None:
        raise UserError("no")

    for _ in range(2):
        with pytest.raises(UserError):
            benchmark.run_steps([benchmark.Step("a", {}, [], fail)], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_training_is_not_finished(tmp_path, monkeypatch):
    from t3dgs_masks.plugin import training

    # nerfstudio catches the interrupt itself, and returns.
    monkeypatch.setattr(training.ns_train, "main", lambda config: config.set_timestamp())
    arguments = ["t3dgs-splatfacto", "--output-dir", str(tmp_path), "--experiment-name", "x"]
    with pytest.raises(KeyboardInterrupt):
        training.train(arguments, tmp_path / "log.txt")


def test_a_training_that_fails_says_where_to_look(tmp_path):
    from t3dgs_masks.plugin import training

    log = tmp_path / "log.txt"
    data = str(tmp_path / "nowhere")
    flags = ["--output-dir", str(tmp_path), "--machine.device-type", "cpu", "--data", data]
    with pytest.raises(UserError, match=r"see .*log\.txt") as error:
        training.train(["t3dgs-splatfacto", *flags], log)
    assert "\n" not in str(error.value)
    assert "ns-train t3dgs-splatfacto" in log.read_text()
    with pytest.raises(UserError, match="does not take"):
        training.train(["t3dgs-splatfacto", "--no-such-flag", "1"], log)


# --- scenes ---------------------------------------------------------------------------------------


def test_the_scenes_of_the_papers(tmp_path):
    """What configs/scenes says, against the sources that it names."""
    scenes = {s.name: s for s in benchmark._read_scenes(benchmark.Benchmark(Path("/data")))}
    of = {
        dataset: [s.name for s in scenes.values() if s.dataset == dataset]
        for dataset in {s.dataset for s in scenes.values()}
    }
    assert of["T-3DGS"] == ["lab1", "lab2", "library", "anti_stress", "office"]
    assert of["NeRF On-the-go"] == ["mountain", "fountain", "corner", "patio", "spot", "patio_high"]
    assert of["RobustNeRF"] == ["android", "statue", "crab", "yoda"]
    assert {n: scenes[n].downscale for n in ("patio", "patio_high", "yoda", "lab1")} == {
        "patio": 4,
        "patio_high": 8,
        "yoda": 8,
        "lab1": None,
    }
    assert scenes["lab1"].max_width == 1600
    assert scenes["lab1"].data == Path("/data/t-3dgs/lab1")
    for path in benchmark.CONFIGS.glob("*.yaml"):
        assert "Not verified" in path.read_text()


def test_missing_data_is_named_with_the_way_to_get_it(tmp_path, capsys):
    write_nerfstudio_scene(tmp_path / "on-the-go" / "spot")
    arguments = ["--data-dir", str(tmp_path), "--output-dir", str(tmp_path / "out")]
    assert benchmark.main([*arguments, "--scenes", "yoda", "spot"]) == 2
    error = capsys.readouterr().err
    assert "robustnerf.tar.gz" in error
    assert "on-the-go.zip" not in error  # that is there
    assert error.splitlines()[-1].startswith("error: the data of yoda is not there")
    assert not (tmp_path / "out").exists()
    assert benchmark.main([*arguments, "--scenes", "spot", "--check"]) == 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("dataset: a", "no file of scenes"),
        ("dataset: a\nget: b\nscenes: {c: {path: d, colour: e}}", "colour"),
        ("[", "no file of scenes"),
    ],
)
def test_a_broken_file_of_scenes_is_one_line(text, complaint, tmp_path, capsys):
    (tmp_path / "scenes.yaml").write_text(text)
    code = benchmark.main(["--data-dir", "x", "--configs", str(tmp_path / "scenes.yaml")])
    error = capsys.readouterr().err
    assert code == 2
    assert error.count("\n") == 1
    assert complaint in error


def test_an_unknown_scene_is_one_line(capsys):
    assert benchmark.main(["--data-dir", "x", "--scenes", "atlantis"]) == 2
    assert "no scene atlantis" in capsys.readouterr().err


def test_one_scene_that_fails_does_not_stop_the_others(tmp_path, capsys, monkeypatch):
    for name in ("hall", "yard"):
        write_nerfstudio_scene(tmp_path / name)
    scenes = tmp_path / "scenes.yaml"
    scenes.write_text("dataset: D\nget: g\nscenes: {hall: {path: hall}, yard: {path: yard}}")

    def run_scene(scene, settings):
        if scene.name == "hall":
            raise UserError("it rained")
        scores = {"psnr": 20.0, "ssim": 0.5, "lpips": 0.25}
        return dict.fromkeys(benchmark.ARMS, scores)

    monkeypatch.setattr(benchmark, "run_scene", run_scene)
    arguments = ["--data-dir", str(tmp_path), "--configs", str(scenes)]
    assert benchmark.main([*arguments, "--output-dir", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert "hall     failed: it rained" in said.out
    figures = "   20.00   0.500   0.250"
    assert f"yard   {figures}  {figures}  {figures}" in said.out
    assert f"mean   {figures}  {figures}  {figures}" in said.out
    assert "error: hall: it rained" in said.err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results[0] == {"dataset": "D", "scene": "hall", "failed": "it rained"}


def test_means_are_of_a_dataset():
    def scores(psnr: float) -> dict:
        return {arm: {"psnr": psnr, "ssim": 0.5, "lpips": None} for arm in benchmark.ARMS}

    scenes = [benchmark.Scene(d, n, Path(), "") for d, n in (("D", "a"), ("D", "b"), ("E", "c"))]
    table = benchmark.results_table(dict(zip(scenes, map(scores, (10, 20, 30)), strict=True)))
    rows = [row.split() for row in table]
    assert rows[2:9] == [
        ["D"],
        ["a", *["10.00", "0.500", "-"] * 3],
        ["b", *["20.00", "0.500", "-"] * 3],
        ["mean", *["15.00", "0.500", "-"] * 3],
        ["E"],
        ["c", *["30.00", "0.500", "-"] * 3],
        ["mean", *["30.00", "0.500", "-"] * 3],
    ]


# --- datasets of links ----------------------------------------------------------------------------


def splits(data: Path) -> dict[str, str | None]:
    dataset = open_dataset(data)
    assert dataset is not None
    return {frame.name: frame.split for frame in dataset.frames}


def scene(data: Path, split: str) -> object:
    return benchmark.Scene("D", "s", data, "", split=split)


def test_a_linked_dataset_reads_as_its_source_and_leaves_it_alone(tmp_path):
    source = write_nerfstudio_scene(tmp_path / "source")
    before = tree(source)
    benchmark.link_dataset(scene(source, "own"), tmp_path / "linked")
    assert splits(tmp_path / "linked") == splits(source)
    apply_masks(tmp_path / "linked", GivenMasks({}))
    assert "mask_path" in (tmp_path / "linked" / "transforms.json").read_text()
    assert tree(source) == before
    benchmark.link_dataset(scene(source, "own"), tmp_path / "linked")
    assert "mask_path" not in (tmp_path / "linked" / "transforms.json").read_text()
    assert tree(source) == before


def test_clutter_is_for_training_and_extra_for_evaluation(tmp_path):
    names = ["clutter_1.png", "clutter_2.png", "clean_1.png", "extra_1.png", "extra_2.png"]
    source = write_colmap_scene(tmp_path / "source", names)
    benchmark.link_dataset(scene(source, "prefixes"), tmp_path / "linked")
    assert (tmp_path / "linked" / "train_list.txt").read_text() == "clutter_1.png\nclutter_2.png\n"
    for name in ("test_list.txt", "val_list.txt"):  # nerfstudio asks for both
        assert (tmp_path / "linked" / name).read_text() == "extra_1.png\nextra_2.png\n"
    assert not (source / "train_list.txt").exists()


def test_lists_of_the_dataset_itself(tmp_path):
    source = write_colmap_scene(tmp_path / "source", ["a.png", "b.png"])
    (source / "train_list.txt").write_text("a.png\n")
    (source / "test_list.txt").write_text("b.png\n")
    benchmark.link_dataset(scene(source, "own"), tmp_path / "linked")
    assert splits(tmp_path / "linked") == {"a": "train", "b": "eval"}
    assert (tmp_path / "linked" / "val_list.txt").read_text() == "b.png\n"
    assert not (source / "val_list.txt").exists()


@pytest.mark.parametrize("split", ["own", "prefixes", "split.json"])
def test_a_scene_that_does_not_say_what_is_for_evaluation_is_refused(split, tmp_path):
    source = write_colmap_scene(tmp_path / "source", ["a.png", "b.png"])
    with pytest.raises(UserError) as error:
        benchmark.link_dataset(scene(source, split), tmp_path / "linked")
    assert "\n" not in str(error.value)


def test_a_dataset_with_applied_masks_is_refused(tmp_path):
    source = write_nerfstudio_scene(tmp_path / "source")
    apply_masks(source, GivenMasks({}))
    with pytest.raises(UserError, match="revert"):
        benchmark.link_dataset(scene(source, "own"), tmp_path / "linked")


def test_the_training_scale(tmp_path):
    source = write_nerfstudio_scene(tmp_path / "source")  # 64 pixels wide

    def scale(**size: object) -> float:
        scene = benchmark.Scene("D", "s", source, "", **size)
        work = benchmark.SceneWork(scene, benchmark.Benchmark(tmp_path), tmp_path / "work")
        benchmark.link_dataset(scene, work.data("unmasked"))
        return work._scale()

    assert scale() == 1
    assert scale(downscale=8) == 1 / 8
    assert scale(max_width=32) == 0.5
    assert scale(max_width=1600) == 1
