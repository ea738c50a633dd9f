"""What refined masks are worth on the scenes of papers: trains without masks, with coarse and with
refined ones, and prints PSNR, SSIM and LPIPS on clean views.

    python scripts/run_tmr_benchmark.py --data-dir DATA --check      # is all the data there?
    python scripts/run_tmr_benchmark.py --data-dir DATA --scenes yoda patio

The scenes are those of configs/scenes. Each goes through prompts, refine, apply, train, evaluate.
Every finished step is written down: a run that was stopped, wherever, goes on with the next one
when it is started again, and a changed setting makes anew what depends on it. The data is not
changed: masks go into folders of links beside the results.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import tyro
import yaml
from PIL import Image as PilImage

from t3dgs_masks import __version__
from t3dgs_masks.apply_job import run_apply
from t3dgs_masks.cli_help import settings_registry
from t3dgs_masks.config import ApplySettings, PromptsSettings, RefineSettings
from t3dgs_masks.datasets.apply_record import read_record
from t3dgs_masks.datasets.colmap import IMAGES_FOLDER, find_model
from t3dgs_masks.datasets.dataset import Dataset
from t3dgs_masks.datasets.manifest import MANIFEST_NAME
from t3dgs_masks.datasets.nerfstudio import TRANSFORMS_NAME
from t3dgs_masks.datasets.opening import open_dataset
from t3dgs_masks.errors import UserError
from t3dgs_masks.io.images import stored_size
from t3dgs_masks.io.publish import MASK_FOLDER
from t3dgs_masks.presets import read_preset

CONFIGS = Path(__file__).parent.parent / "configs" / "scenes"
ARMS = {"unmasked": "no masks", "coarse": "coarse masks", "refined": "refined masks"}
METRICS = {"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS"}

_SPLIT_FILE = "split.json"
_LISTS = {"train": ("train_list.txt",), "eval": ("test_list.txt", "val_list.txt")}
"""Of a COLMAP project. nerfstudio asks for both lists of evaluation views."""
_PREFIXES = {"train": "clutter", "eval": "extra"}
_OUR_FOLDER = ".t3dgs_masks"
_GIVEN_MASKS = shlex.split(
    "--pipeline.datamanager.refine-steps --pipeline.model.robust.enabled False"
)
_NO_MASKS_YET = shlex.split("--pipeline.datamanager.refine-steps")

Split = Literal["own", "split.json", "prefixes"]


@dataclass(frozen=True)
class Benchmark:
    """Refine, train and evaluate the scenes of papers; see configs/scenes."""

    data_dir: Path
    """Holds the datasets, by the paths in the scene files."""
    output_dir: Path = Path("tmr_benchmark")
    """Where trainings, masks and the results go. Start again with the same one to go on."""
    configs: tuple[Path, ...] = ()
    """Files of scenes. Default: all in configs/scenes."""
    scenes: tuple[str, ...] = ()
    """Only these, by name. Default: all."""
    steps: int = 30_000
    """Steps of each of the three trainings that are compared."""
    prompt_steps: int = 7_000
    """Steps of the training, with a robust loss, that coarse masks and residuals are made of."""
    preset: str = "default"
    """Of the refine: fast, default, best or a file, as in `t3dgs-masks refine --preset`."""
    sam2_checkpoint: str | None = None
    """Instead of the preset's."""
    dilate: int = 2
    """Pixels of the training images that all masks grow by."""
    device: str = "auto"
    """auto, cuda, cuda:<number> or cpu."""
    train_flags: str = ""
    """More flags for every ns-train, in one word: --train-flags='--machine.seed 1'."""
    check: bool = False
    """Look whether the data is there, and do nothing else."""


@dataclass(frozen=True)
class Scene:
    """One scene of a dataset."""

    dataset: str
    name: str
    data: Path
    get: str
    """How to come by the data."""
    downscale: float | None = None
    max_width: int | None = None
    """Pixels; instead of `downscale`."""
    split: Split = "own"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the process's exit code."""
    settings = tyro.cli(
        Benchmark, description=__doc__, args=arguments, registry=settings_registry()
    )
    try:
        return run_benchmark(settings)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: start again to go on from here", file=sys.stderr)
        return 130


def run_benchmark(settings: Benchmark) -> int:
    """All scenes; one that fails does not stop the others.

    Returns:
        0, or 1 if a scene failed.

    Raises:
        UserError: bad settings, or data that is not there; nothing is run then.
    """
    scenes = _chosen(settings, list(_read_scenes(settings)))
    _check_data(scenes)
    if settings.check:
        print(f"all there: {len(scenes)} scenes in {settings.data_dir}")
        return 0
    scores: dict[Scene, Mapping[str, Mapping[str, float]] | str] = {}
    for scene in scenes:
        print(f"--- {scene.dataset}: {scene.name}", flush=True)
        try:
            scores[scene] = run_scene(scene, settings)
        except UserError as error:
            print(f"error: {scene.name}: {error}", file=sys.stderr, flush=True)
            scores[scene] = str(error)
    _write_whole(settings.output_dir / "results.json", json.dumps(_as_json(scores), indent=2))
    print("\n".join(["", *results_table(scores)]))
    return int(any(isinstance(found, str) for found in scores.values()))


# --- scenes ---------------------------------------------------------------------------------------


def _read_scenes(settings: Benchmark) -> Iterator[Scene]:
    for path in settings.configs or sorted(CONFIGS.glob("*.yaml")):
        try:
            contents = yaml.safe_load(path.read_text("utf-8"))
            for name, values in contents["scenes"].items():
                values = {**contents.get("defaults", {}), **values}
                data = settings.data_dir / values.pop("path")
                yield Scene(contents["dataset"], name, data, contents["get"], **values)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{path} is no file of scenes ({reason}): see {CONFIGS}") from error


def _chosen(settings: Benchmark, scenes: list[Scene]) -> list[Scene]:
    unknown = set(settings.scenes) - {scene.name for scene in scenes}
    if unknown:
        known = ", ".join(scene.name for scene in scenes)
        raise UserError(f"there is no scene {min(unknown)}: --scenes takes some of {known}")
    return [scene for scene in scenes if not settings.scenes or scene.name in settings.scenes]


def _check_data(scenes: Sequence[Scene]) -> None:
    """Raises:
    UserError: some is not there; one line for each dataset says how to get it.
    """
    missing: dict[str, list[Scene]] = {}
    for scene in scenes:
        if not ((scene.data / TRANSFORMS_NAME).is_file() or find_model(scene.data)):
            missing.setdefault(scene.dataset, []).append(scene)
    for dataset, absent in missing.items():
        where = ", ".join(str(scene.data) for scene in absent)
        print(f"missing: {dataset}, {where}", file=sys.stderr)
        print(f"get it:  {absent[0].get}", file=sys.stderr)
    if missing:
        names = ", ".join(scene.name for absent in missing.values() for scene in absent)
        raise UserError(f"the data of {names} is not there: get it, or choose others by --scenes")


# --- a scene, step by step ------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """Something that is done once."""

    name: str
    made_from: Mapping[str, Any]
    """The settings that its outcome depends on, as JSON takes them."""
    after: Sequence[str]
    """Steps whose outcome it depends on as well."""
    run: Callable[[], object]


def run_steps(steps: Sequence[Step], ledger: Path) -> None:
    """Run the steps that have not been finished with these settings, in order.

    Args:
        steps: what to do; each stands behind those that it comes after.
        ledger: folder that takes a file for every finished step.
    """
    identities: dict[str, str] = {}
    for step in steps:
        made_from = [step.name, dict(step.made_from), [identities[name] for name in step.after]]
        text = json.dumps(made_from, sort_keys=True)
        identities[step.name] = identity = hashlib.sha256(text.encode()).hexdigest()
        entry = ledger / f"{step.name}.json"
        if _identity_in(entry) == identity:
            continue
        entry.unlink(missing_ok=True)
        print(f"{step.name} ...", flush=True)
        begin = time.monotonic()
        step.run()
        finished = {"identity": identity, "seconds": round(time.monotonic() - begin, 1)}
        _write_whole(entry, json.dumps(finished))


def _identity_in(entry: Path) -> str | None:
    try:
        return json.loads(entry.read_text())["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def run_scene(scene: Scene, settings: Benchmark) -> Mapping[str, Mapping[str, float]]:
    """Arm -> metric -> mean over the evaluation views.

    Raises:
        UserError: the data cannot be used, or a step failed.
    """
    root = settings.output_dir / scene.dataset.lower().replace(" ", "_") / scene.name
    work = SceneWork(scene, settings, root)
    run_steps(work.steps(), root / "done")
    return json.loads(work.scores.read_text())


class SceneWork:
    """What is done for one scene, and where its parts lie."""

    def __init__(self, scene: Scene, settings: Benchmark, root: Path) -> None:
        self.scene = scene
        self.settings = settings
        self.root = root
        self.prompts = root / "prompts"
        self.masks = root / "masks"
        self.coarse = root / "coarse_masks"
        self.scores = root / "scores.json"

    def data(self, arm: str) -> Path:
        """The dataset of one training."""
        return self.root / "data" / arm

    def config(self, run: str) -> Path:
        """The config.yml of one training."""
        return self.root / "runs" / run / "t3dgs-splatfacto" / "run" / "config.yml"

    def steps(self) -> list[Step]:
        """Prompts, refine, apply, train, evaluate."""
        settings = self.settings
        scene = {**asdict(self.scene), "data": str(self.scene.data.absolute())}
        del scene["get"]
        trained = {"device": settings.device, "flags": settings.train_flags}
        refined = {**asdict(self._refine_settings()), "video_path": "", "result_dir": ""}
        refined["prompt_dir"] = ""
        dilate = {"dilate": settings.dilate}
        return [
            Step("data", {"scene": scene, "version": __version__}, [], self._link_data),
            Step(
                "first_training",
                {**trained, "steps": settings.prompt_steps},
                ["data"],
                lambda: self._train("first", "unmasked", settings.prompt_steps, _NO_MASKS_YET),
            ),
            Step("prompts", {}, ["first_training"], self._make_prompts),
            Step("refine", refined, ["prompts"], self._refine),
            Step("apply_coarse", dilate, ["prompts"], self._apply_coarse),
            Step("apply_refined", dilate, ["refine"], lambda: self._apply("refined", self.masks)),
            *(
                Step(
                    f"train_{arm}",
                    {**trained, "steps": settings.steps},
                    ["data"] if arm == "unmasked" else [f"apply_{arm}"],
                    lambda arm=arm: self._train(arm, arm, settings.steps, _GIVEN_MASKS),
                )
                for arm in ARMS
            ),
            Step("evaluate", {}, [f"train_{arm}" for arm in ARMS], self._evaluate),
        ]

    # -- data --

    def _link_data(self) -> None:
        for arm in ARMS:
            link_dataset(self.scene, self.data(arm))

    def _dataset(self, arm: str) -> Dataset:
        dataset = open_dataset(self.data(arm))
        assert dataset is not None  # link_dataset
        return dataset

    def _scale(self) -> float:
        """Of the training images."""
        if self.scene.max_width is not None:
            width = stored_size(self._dataset("unmasked").frames[0].image)[1]
            return min(1.0, self.scene.max_width / width)
        return 1 / (self.scene.downscale or 1)

    # -- masks --

    def _make_prompts(self) -> None:
        shutil.rmtree(self.prompts, ignore_errors=True)
        run_prompts = _plugin("prompts_job").run_prompts
        config = self.config("first")
        run_prompts(PromptsSettings(config, self.prompts, device=self.settings.device))

    def _refine_settings(self) -> RefineSettings:
        preset = read_preset(self.settings.preset)
        refine = preset.applied_to(RefineSettings(self.prompts, self.masks, self.prompts))
        refine = replace(refine, prompt_polarity="white-transient", device=self.settings.device)
        if self.settings.sam2_checkpoint is not None:
            refine = replace(refine, sam2_checkpoint=self.settings.sam2_checkpoint)
        return refine

    def _refine(self) -> None:
        from t3dgs_masks.refine_job import run_refine

        run_refine(self._refine_settings())

    def _apply_coarse(self) -> None:
        """The coarse masks, as a result folder has masks: white = keep."""
        shutil.rmtree(self.coarse, ignore_errors=True)
        for mask in sorted((self.prompts / "masks").rglob("*.png")):
            inverted = self.coarse / MASK_FOLDER / mask.relative_to(self.prompts / "masks")
            inverted.parent.mkdir(parents=True, exist_ok=True)
            with PilImage.open(mask) as image:
                static = np.asarray(image.convert("L")) < 128
            PilImage.fromarray(static.astype(np.uint8) * np.uint8(255)).save(inverted)
        shutil.copy(self.prompts / MANIFEST_NAME, self.coarse / MANIFEST_NAME)
        self._apply("coarse", self.coarse)

    def _apply(self, arm: str, masks: Path) -> None:
        link_dataset(self.scene, self.data(arm))
        dilate = round(self.settings.dilate / self._scale())
        run_apply(ApplySettings(self.data(arm), masks, dilate=dilate))

    # -- trainings --

    def _train(self, run: str, arm: str, steps: int, flags: Sequence[str]) -> None:
        from t3dgs_masks.sam.devices import resolve_device

        shutil.rmtree(self.root / "runs" / run, ignore_errors=True)
        device = resolve_device(self.settings.device).type
        _plugin("training").train(
            [
                "t3dgs-splatfacto",
                *("--output-dir", str(self.root / "runs")),
                *("--experiment-name", run, "--timestamp", "run"),
                *("--machine.device-type", device),
                *("--max-num-iterations", str(steps), "--steps-per-save", str(steps)),
                *("--vis", "tensorboard", "--viewer.quit-on-train-completion", "True"),
                *("--steps-per-eval-image", "0", "--steps-per-eval-all-images", "0"),
                *("--pipeline.datamanager.camera-res-scale-factor", f"{self._scale():.6g}"),
                *flags,
                *shlex.split(self.settings.train_flags),
                *self._parser(arm),
            ],
            log=self.root / "logs" / f"{run}.txt",
        )

    def _parser(self, arm: str) -> list[str]:
        """The dataparser and its flags. Images are reduced by the trainer alone."""
        data = self.data(arm)
        dataset = self._dataset(arm)
        if dataset.kind == "nerfstudio":
            return ["nerfstudio-data", "--data", str(data), "--downscale-factor", "1"]
        model = dataset.described_by.relative_to(dataset.root).as_posix()
        flags = ["--data", str(data), "--downscale-factor", "1", "--colmap-path", model]
        masks = {frame.mask.parent for frame in dataset.frames if frame.mask is not None}
        if masks:
            flags += ["--masks-path", min(masks).relative_to(dataset.root).parts[0]]
        return ["colmap", *flags]

    def _evaluate(self) -> None:
        from t3dgs_masks.sam.devices import resolve_device

        evaluation = _plugin("evaluation")
        device = resolve_device(self.settings.device)
        lpips = evaluation.vgg_lpips(device)
        scores = {}
        for arm in ARMS:
            run = evaluation.evaluate_run(self.config(arm), device, lpips)
            scores[arm] = {
                **{metric: _finite(getattr(run, metric)) for metric in METRICS},
                "views": len(run.views),
                "gaussians": run.gaussians,
            }
        _write_whole(self.scores, json.dumps(scores, indent=2))


def _plugin(name: str) -> Any:
    """A module of the nerfstudio plugin; they take their time to load."""
    import importlib

    try:
        return importlib.import_module(f"t3dgs_masks.plugin.{name}")
    except ModuleNotFoundError as error:
        raise UserError(
            f"this needs {error.name}: pip install 't3dgs_masks[nerfstudio]'"
        ) from error


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


# --- a dataset of links ---------------------------------------------------------------------------


def link_dataset(scene: Scene, target: Path) -> None:
    """Make `target` a dataset whose files are links to the scene's, and which says which views are
    for training and which for evaluation.

    Raises:
        UserError: the scene cannot be used as it is.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    if read_record(scene.data) is not None:
        raise UserError(
            f"masks are applied to {scene.data}: t3dgs-masks revert --data {scene.data}"
        )
    for entry in sorted(scene.data.iterdir()):
        if entry.name == TRANSFORMS_NAME:
            shutil.copyfile(entry, target / entry.name)
        elif entry.name != _OUR_FOLDER:
            (target / entry.name).symlink_to(os.path.abspath(entry))  # noqa: PTH100 (follows none)
    if scene.split == "split.json":
        _split_by_positions(target)
    elif scene.split == "prefixes":
        _split_by_prefixes(target)
    elif (target / _LISTS["eval"][0]).is_file() and not (target / _LISTS["eval"][1]).exists():
        shutil.copyfile(target / _LISTS["eval"][0], target / _LISTS["eval"][1])
    dataset = open_dataset(target)
    if dataset is None:
        raise UserError(f"{scene.data} is neither a nerfstudio dataset nor a COLMAP project")
    splits = [frame.split for frame in dataset.frames]
    if "train" not in splits or "eval" not in splits:
        raise UserError(
            f"{scene.data} does not say which views are for evaluation: write train_list.txt and"
            " test_list.txt (COLMAP), or train_filenames and test_filenames (transforms.json)"
        )


def _split_by_positions(data: Path) -> None:
    """split.json of NeRF On-the-go: positions in the list of image names in alphabetical order."""
    try:
        transforms = json.loads((data / TRANSFORMS_NAME).read_text())
        positions = json.loads((data / _SPLIT_FILE).read_text())
        by_name = {PurePosixPath(f["file_path"]).name: f["file_path"] for f in transforms["frames"]}
        names = sorted(by_name)
        chosen = {
            split: [by_name[names[position]] for position in positions[_PREFIXES[split]]]
            for split in _LISTS
        }
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{data / _SPLIT_FILE} is not as expected: {reason}") from error
    _write_split(data, transforms, chosen)


def _split_by_prefixes(data: Path) -> None:
    """RobustNeRF's names: clutter... and extra...; others are used for nothing."""
    dataset = open_dataset(data)
    if dataset is None:
        return  # refused by the caller
    chosen = {
        split: [f.source for f in dataset.frames if Path(f.source).name.startswith(prefix)]
        for split, prefix in _PREFIXES.items()
    }
    if not all(chosen.values()):
        raise UserError(
            f"{dataset.root} has no images called clutter... or none called extra...; write"
            " train_list.txt and test_list.txt and set its split to own"
        )
    if dataset.kind == "nerfstudio":
        _write_split(data, json.loads((data / TRANSFORMS_NAME).read_text()), chosen)
        return
    for split, sources in chosen.items():
        names = [PurePosixPath(source).relative_to(IMAGES_FOLDER).as_posix() for source in sources]
        for name in _LISTS[split]:
            (data / name).unlink(missing_ok=True)
            (data / name).write_text("\n".join([*names, ""]))


def _write_split(data: Path, transforms: dict[str, Any], chosen: Mapping[str, list[str]]) -> None:
    kept = {PurePosixPath(name) for names in chosen.values() for name in names}
    transforms["frames"] = [
        frame for frame in transforms["frames"] if PurePosixPath(frame["file_path"]) in kept
    ]
    transforms["train_filenames"] = chosen["train"]
    transforms["val_filenames"] = transforms["test_filenames"] = chosen["eval"]
    (data / TRANSFORMS_NAME).write_text(json.dumps(transforms, indent=2))


# --- results --------------------------------------------------------------------------------------

Scores = Mapping[Scene, Mapping[str, Mapping[str, float]] | str]


def results_table(scores: Scores) -> list[str]:
    """A line for every scene, and for the mean of every dataset."""
    width = max([len("scene"), *(len(scene.name) for scene in scores)]) + 2
    columns = [f"{name:>8}" for name in METRICS.values()]
    lines = [
        " " * width + "".join(f"{title:^{8 * len(METRICS) + 2}}" for title in ARMS.values()),
        f"{'scene':<{width}}" + "  ".join("".join(columns) for _ in ARMS),
    ]
    for dataset in dict.fromkeys(scene.dataset for scene in scores):
        lines.append(dataset)
        finished = []
        for scene, found in scores.items():
            if scene.dataset != dataset:
                continue
            if isinstance(found, str):
                lines.append(f"{scene.name:<{width}}  failed: {found}")
            else:
                finished.append(found)
                lines.append(f"{scene.name:<{width}}" + _cells(found))
        if finished:
            lines.append(f"{'mean':<{width}}" + _cells(_mean(finished)))
    return [*lines, "LPIPS is VGG's; - where its network could not be fetched"]


def _mean(scores: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, Any]]:
    means: dict[str, dict[str, Any]] = {}
    for arm in ARMS:
        values = {metric: [found[arm][metric] for found in scores] for metric in METRICS}
        means[arm] = {
            metric: None if None in each else sum(each) / len(each)
            for metric, each in values.items()
        }
    return means


def _cells(found: Mapping[str, Mapping[str, Any]]) -> str:
    def cell(metric: str, value: float | None) -> str:
        return f"{'-':>8}" if value is None else f"{value:>8.{2 if metric == 'psnr' else 3}f}"

    return "  ".join(
        "".join(cell(metric, found[arm][metric]) for metric in METRICS) for arm in ARMS
    )


def _as_json(scores: Scores) -> list[dict[str, Any]]:
    return [
        {
            "dataset": scene.dataset,
            "scene": scene.name,
            **({"failed": found} if isinstance(found, str) else {"scores": found}),
        }
        for scene, found in scores.items()
    ]


def _write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(text)
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
