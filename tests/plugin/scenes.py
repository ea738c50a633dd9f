"""Small splats and datasets for the tests of the plugin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.engine.optimizers import AdamOptimizerConfig, Optimizers
from torch import Tensor

from t3dgs_masks.plugin.cpu import without_lpips
from t3dgs_masks.plugin.datamanager import T3dgsDatamanager, T3dgsDatamanagerConfig
from t3dgs_masks.plugin.method import t3dgs_splatfacto
from t3dgs_masks.plugin.model import T3dgsSplatfactoModel, T3dgsSplatfactoModelConfig
from t3dgs_masks.plugin.schedulers import PlainFloatDecaySchedulerConfig

HEIGHT, WIDTH = 40, 48
NUM_POINTS, NUM_VIEWS = 80, 4


def make_model(
    robust: bool = False, seed_points: tuple[Tensor, Tensor] | None = None, **options: Any
) -> T3dgsSplatfactoModel:
    """A cloud of Gaussians around the origin."""
    defaults = {"num_downscales": 0, "sh_degree_interval": 1, "background_color": "black"}
    config = T3dgsSplatfactoModelConfig(**{**defaults, **options})
    config.robust.enabled = robust
    torch.manual_seed(7)
    with without_lpips():
        return T3dgsSplatfactoModel(
            config,
            scene_box=SceneBox(torch.tensor([[-1.0, -1, -1], [1, 1, 1]])),
            num_train_data=NUM_VIEWS,
            device="cpu",
            seed_points=make_seed_points() if seed_points is None else seed_points,
        )


def make_seed_points(count: int = NUM_POINTS) -> tuple[Tensor, Tensor]:
    """Positions and colours (0 to 255), both [count, 3] float32."""
    generator = torch.Generator().manual_seed(5)
    xyz = torch.rand(count, 3, generator=generator) - 0.5
    return xyz, torch.randint(0, 256, (count, 3), generator=generator).float()


def make_camera(camera_idx: int = 0, height: int = HEIGHT, width: int = WIDTH) -> Cameras:
    """Two units from the origin, looking at it."""
    pose = torch.eye(4)[None, :3].clone()
    pose[0, 2, 3] = 2.0
    camera = Cameras(pose, 45.0, 45.0, width / 2, height / 2, width, height)
    camera.metadata = {"cam_idx": camera_idx}
    return camera


def make_optimizers(model: T3dgsSplatfactoModel) -> Optimizers:
    """With a schedule for the means, as the method has it."""
    groups = model.get_param_groups()
    config: dict[str, Any] = {
        name: {"optimizer": AdamOptimizerConfig(lr=5e-3, eps=1e-15), "scheduler": None}
        for name in groups
    }
    config["means"]["scheduler"] = PlainFloatDecaySchedulerConfig(lr_final=1e-5, max_steps=50)
    return Optimizers(config, groups)


def photo(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """[H, W, 3] float32: something smooth to learn."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0.2, 0.8, (5, 6, 3)).astype(np.float32)
    return torch.from_numpy(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def train_steps(
    model: T3dgsSplatfactoModel,
    optimizers: Optimizers,
    steps: range,
    batch: Mapping[str, Any] | None = None,
) -> list[float]:
    """What nerfstudio's trainer does at each step; the losses."""
    batch = {"image": photo()} if batch is None else batch
    losses = []
    for step in steps:
        model.train()
        model.step_cb(optimizers, step)
        outputs = model.get_outputs(make_camera(step % NUM_VIEWS))
        loss = sum(model.get_loss_dict(outputs, dict(batch)).values(), torch.zeros(()))
        optimizers.zero_grad_all()
        loss.backward()
        optimizers.optimizer_step_all()
        for scheduler in optimizers.schedulers.values():
            scheduler.step()
        model.step_post_backward(step)
        losses.append(float(loss.detach()))
    return losses


# --- Datasets ---------------------------------------------------------------------------------


def write_dataset(
    root: Path,
    num_frames: int = 5,
    *,
    height: int = HEIGHT,
    width: int = WIDTH,
    evaluation: int = 1,
    masks: Mapping[int, np.ndarray] | None = None,
    **top: Any,
) -> Path:
    """A nerfstudio dataset of smooth images; the last `evaluation` frames are for evaluation.

    Args:
        root: where to.
        num_frames: how many frames.
        height: of the images.
        width: of the images.
        evaluation: how many of them are for evaluation.
        masks: the user's own: [H, W] bool, True = keep, by index of the frame.
        **top: further entries at the top of the JSON file, such as ``k1``.
    """
    (root / "images").mkdir(parents=True)
    frames = []
    for index in range(num_frames):
        name = f"images/f_{index}.png"
        pixels = (photo(index, height, width).clamp(0, 1).numpy() * 255).astype(np.uint8)
        cv2.imwrite(str(root / name), pixels[..., ::-1])
        pose = np.eye(4)
        pose[:3, 3] = (0.1 * index, 0, 2)
        frame: dict[str, Any] = {"file_path": name, "transform_matrix": pose.tolist()}
        if masks is not None and index in masks:
            frame["mask_path"] = f"my_masks/{index}.png"
            write_mask(root / frame["mask_path"], masks[index])
        frames.append(frame)
    names = [frame["file_path"] for frame in frames]
    transforms = {
        **{"camera_model": "OPENCV", "fl_x": 45.0, "fl_y": 45.0},
        **{"cx": width / 2, "cy": height / 2, "w": width, "h": height},
        **top,
        "frames": frames,
        "train_filenames": names[: num_frames - evaluation],
        "val_filenames": names[num_frames - evaluation :],
        "test_filenames": names[num_frames - evaluation :],
    }
    (root / "transforms.json").write_text(json.dumps(transforms, indent=1))
    return root


def write_mask(path: Path, keep: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.where(keep, 255, 0).astype(np.uint8))


def datamanager_config(data: Path, **options: Any) -> T3dgsDatamanagerConfig:
    """The method's own, for small images."""
    config = deepcopy(t3dgs_splatfacto.config.pipeline.datamanager)
    assert isinstance(config, T3dgsDatamanagerConfig)
    config.data = data
    for name, value in {"dilate": 0, **options}.items():
        setattr(config, name, value)
    config.refiner.sam2_checkpoint = "tiny-synthetic"
    return config


def make_datamanager(data: Path, test_mode: Any = "val", **options: Any) -> T3dgsDatamanager:
    return datamanager_config(data, **options).setup(device="cpu", test_mode=test_mode)


def make_trainer(
    run_dir: Path,
    datamanager: T3dgsDatamanager,
    model: T3dgsSplatfactoModel | None = None,
    **config: Any,
) -> SimpleNamespace:
    """As much of nerfstudio's trainer as the datamanager looks at."""
    model = make_model() if model is None else model
    checkpoints = run_dir / "nerfstudio_models"

    def save_checkpoint(step: int) -> None:
        trainer.checkpoint_dir.mkdir(parents=True, exist_ok=True)
        state = {"step": step, "state": datamanager.get_extra_state()}
        torch.save(state, trainer.checkpoint_dir / f"step-{step:09d}.ckpt")

    trainer = SimpleNamespace(
        base_dir=run_dir,
        checkpoint_dir=checkpoints,
        save_checkpoint=save_checkpoint,
        pipeline=SimpleNamespace(model=model, datamanager=datamanager),
        optimizers=make_optimizers(model),
        config=SimpleNamespace(
            **{
                "load_dir": None,
                "load_checkpoint": None,
                "max_num_iterations": 100,
                "save_only_latest_checkpoint": True,
                **config,
            }
        ),
        _start_step=0,
    )
    return trainer
