"""Feeds splatfacto; at the refine steps it turns what the splat explains badly into masks."""

from __future__ import annotations

import gc
import random
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import (
    FullImageDatamanager,
    FullImageDatamanagerConfig,
)
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.engine.callbacks import (
    TrainingCallback,
    TrainingCallbackAttributes,
    TrainingCallbackLocation,
)
from nerfstudio.engine.trainer import Trainer
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from t3dgs_masks.config import CoarseMaskConfig, RefineConfig, RefineSettings
from t3dgs_masks.datasets.apply_masks import apply_masks
from t3dgs_masks.datasets.geometry import scaled
from t3dgs_masks.datasets.manifest import write_manifest
from t3dgs_masks.errors import UserError
from t3dgs_masks.io.progress_file import copy_progress
from t3dgs_masks.io.publish import MARKER, STATE
from t3dgs_masks.masks import TransientMask
from t3dgs_masks.plugin.checkpointing import save_whole_checkpoint
from t3dgs_masks.plugin.model import REFINED_KEY, T3dgsSplatfactoModel
from t3dgs_masks.plugin.refined_masks import RefinedMasks
from t3dgs_masks.plugin.rendering import write_view_prompts
from t3dgs_masks.plugin.source_dataset import (
    SourceDataset,
    StageMasks,
    check_dataset,
    check_image_sizes,
    find_source,
    ignored_by_user,
)
from t3dgs_masks.plugin.stages import StageFolder, StageState, stage_folder
from t3dgs_masks.plugin.views import TrainingViews, View, common_size, ordered_views
from t3dgs_masks.refine_job import run_refine
from t3dgs_masks.report.progress import RichProgress
from t3dgs_masks.sam.checkpoints import resolve_checkpoint


@dataclass
class RefinerConfig:
    """The networks and the algorithm of a refine during training; as in `t3dgs-masks refine`."""

    sam2_checkpoint: str = "sam2.1-hiera-large"
    """SAM2: path, or a name of `t3dgs-masks models list` (fetched once, when training starts)."""
    sam2_config: str | None = None
    """SAM2 configuration: a file or a name. Default: recognised from the checkpoint."""
    sam_checkpoint: str | None = None
    """SAM1 checkpoint for the proposals: path, or vit_h, vit_l, vit_b. Default: SAM2 proposes."""
    pred_iou_thresh: float | None = None
    """Drop proposals whose predicted IoU is not above this. Default: 0.88, or what the
    checkpoint recommends."""
    stability_score_thresh: float | None = None
    """Drop proposals whose stability score is below this. Default: 0.95, or what the checkpoint
    recommends."""
    points_per_batch: int = 64
    """Point prompts per pass through the mask decoder; lower it when memory is short."""
    algorithm: RefineConfig = field(default_factory=RefineConfig)
    """Settings of the algorithm."""

    def settings(self, prompt_dir: Path, result_dir: Path, device: str) -> RefineSettings:
        """Those of one refine over training views."""
        return RefineSettings(
            video_path=prompt_dir,  # the views are given as frames
            result_dir=result_dir,
            prompt_dir=prompt_dir,
            prompt_polarity="white-transient",
            sam2_checkpoint=self.sam2_checkpoint,
            sam2_config=self.sam2_config,
            sam_checkpoint=self.sam_checkpoint,
            pred_iou_thresh=self.pred_iou_thresh,
            stability_score_thresh=self.stability_score_thresh,
            points_per_batch=self.points_per_batch,
            algorithm=self.algorithm,
            device=device,
            threads=torch.get_num_threads(),
        )


@dataclass
class T3dgsDatamanagerConfig(FullImageDatamanagerConfig):
    """Full images, with masks that are refined during training."""

    _target: type = field(default_factory=lambda: T3dgsDatamanager)
    refine_steps: tuple[int, ...] = (7000,)
    """Refine the masks before each of these training steps. None given: never."""
    after_refine: Literal["continue", "restart"] = "continue"
    """continue: go on training the Gaussians there are. restart: train anew from the seed points
    with the refined masks, as the paper does."""
    write_back: bool = True
    """Write refined masks into the dataset too, for later trainings (undone by `t3dgs-masks
    revert`)."""
    dilate: int = 2
    """Grow refined masks by this many pixels of the training images: what is left of a person's
    outline is enough to bake in a ghost."""
    coarse: CoarseMaskConfig = field(default_factory=CoarseMaskConfig)
    """The coarse masks that a refine starts from."""
    refiner: RefinerConfig = field(default_factory=RefinerConfig)
    """The refine itself."""


class T3dgsDatamanager(FullImageDatamanager[InputDataset]):
    """Injects refined masks into the training batches, and makes them at the refine steps."""

    config: T3dgsDatamanagerConfig

    def __init__(
        self,
        config: T3dgsDatamanagerConfig,
        device: torch.device | str = "cpu",
        test_mode: Literal["test", "val", "inference"] = "val",
        **kwargs: Any,
    ) -> None:
        if test_mode == "val":  # as in training; evaluation and export take what there is
            with _one_line_errors():
                check_dataset(_dataparser_of(config))
        super().__init__(config, device, test_mode, **kwargs)
        if str(self.device) == "cpu":
            self.config.cache_images = "gpu"  # "cpu" pins memory, which needs CUDA
        self.state = StageState()
        self._refined: RefinedMasks | None = None
        self._kept_of: dict[int, Tensor] = {}
        self._source: SourceDataset | None = None

    # --- state in the checkpoint ------------------------------------------------------------------

    def get_extra_state(self) -> dict[str, Any]:
        return self.state.as_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Evaluation, rendering and export come here too: masks are not looked for yet."""
        self.state = StageState.from_dict(state)

    # --- batches ----------------------------------------------------------------------------------

    def next_train(self, step: int) -> tuple[Cameras, dict[str, Any]]:
        """As upstream; after a refine with its masks, and with `REFINED_KEY` set."""
        camera, data = super().next_train(step)
        if self._refined is not None:
            data["mask"] = self._kept(self._refined, int(data["image_idx"]))
            data[REFINED_KEY] = True
        return camera, data

    def _kept(self, refined: RefinedMasks, camera_idx: int) -> Tensor:
        """[H, W, 1] bool on the CPU, True = static: in the refined mask and in the user's."""
        if camera_idx not in self._kept_of:
            transient = self._at_view_size(refined.transient(camera_idx), camera_idx).pixels
            ignored = ignored_by_user(self, self._source, camera_idx)
            if ignored is not None:
                transient = transient | ignored
            self._kept_of[camera_idx] = torch.from_numpy(~transient)[..., None]
        return self._kept_of[camera_idx]

    def _at_view_size(self, mask: TransientMask, camera_idx: int) -> TransientMask:
        """Undoes what `TrainingViews` does to views that differ by a pixel."""
        height, width = self.cached_train[camera_idx]["image"].shape[:2]
        return scaled(mask, (height, width))

    # --- the refine -------------------------------------------------------------------------------

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Called once, when training is about to start: what would fail later fails here."""
        trainer = training_callback_attributes.trainer
        assert trainer is not None
        with _one_line_errors():
            check_image_sizes(self)
            self._source = find_source(self)
            self._take_up_masks(trainer)
            self._check_refine_is_possible(trainer)
            self._model(trainer).first_step = self.state.first_step
        return [
            TrainingCallback(
                [TrainingCallbackLocation.BEFORE_TRAIN_ITERATION],
                self.refine_if_due,
                args=[trainer],
            )
        ]

    def refine_if_due(self, trainer: Trainer, step: int) -> None:
        """Refine before this step if one of the refine steps is reached."""
        stage = self.state.due_stage(self.config.refine_steps, step)
        if stage is None:
            return
        with _one_line_errors():
            self._refine(trainer, stage, step)

    def _take_up_masks(self, trainer: Trainer) -> None:
        """Find the masks of a resumed run."""
        if self.state.stages_done == 0:
            return
        config = trainer.config
        loaded_from = [config.load_dir, config.load_checkpoint and config.load_checkpoint.parent]
        run_dir = self.state.find_run([path.absolute().parent for path in loaded_from if path])
        if run_dir is None:
            raise UserError(
                f"the masks of stage {self.state.stages_done} are no longer in "
                f"{stage_folder(Path(self.state.run_dir), self.state.stages_done).binary_masks}: "
                "put them back, or resume from a checkpoint before the refine"
            )
        # A run that is resumed from this one finds the masks too if theirs was moved.
        self.state = replace(self.state, run_dir=str(run_dir))
        folder = stage_folder(run_dir, self.state.stages_done).binary_masks
        self._use(RefinedMasks(folder, self._views(), self.config.dilate))
        CONSOLE.log(f"t3dgs-masks: training goes on with the masks in {folder}")

    def _check_refine_is_possible(self, trainer: Trainer) -> None:
        first, count = trainer._start_step, trainer.config.max_num_iterations
        ahead = [step for step in self.config.refine_steps if step < first + count]
        if self.state.due_stage(ahead, first + count) is None:
            if self.config.refine_steps and self.state.stages_done == 0:
                CONSOLE.log(
                    f"t3dgs-masks: no refine, since training ends at step {first + count} "
                    "(--pipeline.datamanager.refine-steps)"
                )
            return
        if min(self.config.refine_steps) < 1:
            raise UserError("--pipeline.datamanager.refine-steps have to be at least 1")
        cameras = self.train_dataset.cameras
        heights, widths = cameras.height.flatten().tolist(), cameras.width.flatten().tolist()
        sizes = list(zip(heights, widths, strict=True))
        views = sorted(self._views(), key=lambda view: view.camera_idx)
        common_size(sizes, views)
        resolve_checkpoint(self.config.refiner.sam2_checkpoint, "sam2")
        if self.config.refiner.sam_checkpoint is not None:
            resolve_checkpoint(self.config.refiner.sam_checkpoint, "sam1")

    def _refine(self, trainer: Trainer, stage: int, step: int) -> None:
        begin = time.perf_counter()
        CONSOLE.log(f"t3dgs-masks: refining masks (stage {stage}) before step {step}")
        save_whole_checkpoint(trainer, step - 1)  # a refine that is killed is redone from here
        folder = stage_folder(trainer.base_dir.absolute(), stage)
        _remove_leftovers(folder)
        self._take_over_progress(trainer, folder, stage)
        model = self._model(trainer)
        with _untouched_random_state(torch.device(self.device)):
            frames = self._frames()
            self._write_prompts(model, frames, folder)
            _free_device_memory()
            run_refine(
                self.config.refiner.settings(folder.prompts, folder.refined, str(self.device)),
                frames=frames,
            )
            _free_device_memory()
        self._use(RefinedMasks(folder.binary_masks, self._views(), self.config.dilate))
        first_step = self.state.first_step
        if self.config.after_refine == "restart":
            model.restart(trainer.optimizers, step)
            first_step = step
        self.state = StageState(stage, str(trainer.base_dir.absolute()), first_step)
        self._write_back(folder)
        save_whole_checkpoint(trainer, step - 1)  # last: without it all of the stage is redone
        CONSOLE.log(
            f"t3dgs-masks: stage {stage} done in {time.perf_counter() - begin:.0f} s; "
            f"{self._masked_share():.1%} of the training pixels are masked now"
        )

    def _take_over_progress(self, trainer: Trainer, folder: StageFolder, stage: int) -> None:
        """If training was resumed from a run that was killed in this refine, go on with that: the
        prompts are rendered anew, and if they have become the same, nothing else is redone."""
        config = trainer.config
        loaded = config.load_dir or (config.load_checkpoint and config.load_checkpoint.parent)
        if loaded is None or folder.refined.exists():
            return
        with suppress(OSError):
            copy_progress(stage_folder(loaded.absolute().parent, stage).refined, folder.refined)

    def _use(self, refined: RefinedMasks) -> None:
        self._refined = refined
        self._kept_of.clear()

    def _masked_share(self) -> float:
        """Of all training pixels, 0 to 1."""
        assert self._refined is not None
        kept = [self._kept(self._refined, view.camera_idx) for view in self._views()]
        return float(np.mean([1 - one.float().mean().item() for one in kept]))

    def _write_back(self, folder: StageFolder) -> None:
        """Put the masks into the dataset. Training goes on if that fails: the run has them."""
        if self._source is None:
            CONSOLE.log(
                "t3dgs-masks: masks are not written into the dataset, which is neither a "
                "transforms.json that training reads nor images/ with one COLMAP model; they are "
                f"in {folder.binary_masks}"
            )
            return
        manifest = self._source.manifest(self._views(), self.train_cameras)
        write_manifest(manifest, folder.refined)
        if not self.config.write_back:
            return
        assert self._refined is not None
        data = self._source.data
        try:
            masks = StageMasks(self._source, self._refined, self.train_cameras)
            applied = apply_masks(data, masks, notify=CONSOLE.log)
        except UserError as error:
            CONSOLE.log(
                f"t3dgs-masks: the dataset keeps its masks, because {error}. To write them later: "
                f"t3dgs-masks apply --data {data} --masks {folder.refined} "
                f"--dilate {self.config.dilate}"
            )
            return
        CONSOLE.log(
            f"t3dgs-masks: masks written to {applied.root / applied.masks_folder} "
            f"(t3dgs-masks revert --data {data} takes them out again)"
        )

    def _write_prompts(
        self, model: T3dgsSplatfactoModel, frames: TrainingViews, folder: StageFolder
    ) -> None:
        with RichProgress() as progress, progress.stage("rendering views", len(frames)) as advance:
            write_view_prompts(
                folder.prompts,
                model,
                self,
                self._source,
                frames.views,
                self.config.coarse,
                on_view=lambda _: advance(),
            )

    def _views(self) -> list[View]:
        return ordered_views([Path(file) for file in self.train_dataset.image_filenames])

    def _frames(self) -> TrainingViews:
        views = self._views()
        return TrainingViews(views, [self.cached_train[view.camera_idx]["image"] for view in views])

    @staticmethod
    def _model(trainer: Trainer) -> T3dgsSplatfactoModel:
        model = trainer.pipeline.model
        if not isinstance(model, T3dgsSplatfactoModel):
            raise UserError(
                f"the datamanager of t3dgs-splatfacto needs its model, not {type(model).__name__}"
            )
        return model


def _dataparser_of(config: T3dgsDatamanagerConfig) -> DataParserConfig:
    """That of the configuration, pointed at the data as upstream does."""
    if config.data is not None:
        config.dataparser.data = Path(config.data)
    return config.dataparser


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """`ns-train` knows nothing of `UserError`, and would show a traceback."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


@contextmanager
def _untouched_random_state(device: torch.device) -> Iterator[None]:
    """Training draws the same random numbers whether or not a refine came in between."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    # By itself PyTorch would look at all GPUs there are, and take memory on each.
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def _remove_leftovers(folder: StageFolder) -> None:
    """Drop what a killed stage left, but for what a refine can go on with: its progress, or its
    whole result."""
    refined = list(folder.refined.iterdir()) if folder.refined.is_dir() else []
    is_whole = any(path.name == MARKER for path in refined)
    unusable = [] if is_whole else [path for path in refined if path.name != STATE]
    for path in (folder.prompts, *unusable):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _free_device_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
