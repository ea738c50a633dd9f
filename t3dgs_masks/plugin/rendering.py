"""Renders of training views, how far they are from the photos, and the prompts that follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager
from nerfstudio.models.splatfacto import SplatfactoModel
from torch import Tensor

from t3dgs_masks.config import CoarseMaskConfig
from t3dgs_masks.plugin.cpu import splatfacto_on
from t3dgs_masks.plugin.prompting import write_prompts
from t3dgs_masks.plugin.source_dataset import SourceDataset, ignored_by_user
from t3dgs_masks.plugin.views import View
from t3dgs_masks.types import FloatMap


@torch.no_grad()
def view_residual(
    model: SplatfactoModel, datamanager: FullImageDatamanager, camera_idx: int
) -> FloatMap:
    """[H, W] float32 in [0, 1]: mean over colour channels of |render - photo| of a training view.

    Args:
        model: any splatfacto; its state, and the camera's, are left as they are.
        datamanager: holds the photo and the camera, both in the geometry of training.
        camera_idx: index among the training views.
    """
    data = datamanager.cached_train[camera_idx]  # first: reading the images changes the cameras
    camera = datamanager.train_cameras[camera_idx : camera_idx + 1]
    rgb, background = _render_view(model, camera, camera_idx)
    photo = data["image"].to(rgb.device)
    if photo.dtype == torch.uint8:
        photo = photo.float() / 255
    photo = model.composite_with_background(photo, background)
    return (rgb - photo).abs().mean(dim=-1).clamp(0, 1).cpu().numpy()


def _render_view(model: SplatfactoModel, camera: Cameras, camera_idx: int) -> tuple[Tensor, Tensor]:
    """Render one training view as training sees it, at its optimised pose and full resolution.

    Returns:
        The image and what is behind it, both [H, W, 3] float32 in [0, 1] on the model's device.
    """
    camera = camera.to(model.device)
    camera.metadata = {**(camera.metadata or {}), "cam_idx": camera_idx}
    # Evaluation ignores learnt poses and colour grids (splatfacto.py, get_outputs).
    camera.camera_to_worlds = model.camera_optimizer.apply_to_camera(camera)
    with _evaluating(model), splatfacto_on(model.device):
        outputs = model.get_outputs_for_camera(camera)
        rgb, background = outputs["rgb"], outputs["background"]
        if model.config.use_bilateral_grid:
            height, width = rgb.shape[:2]
            rgb = model._apply_bilateral_grid(rgb[None], camera_idx, height, width)[0]
    return rgb, background


def write_view_prompts(
    prompt_dir: Path,
    model: SplatfactoModel,
    datamanager: FullImageDatamanager,
    source: SourceDataset | None,
    views: Sequence[View],
    config: CoarseMaskConfig,
    on_view: Callable[[View], None],
) -> None:
    """Write the prompts of training views, in the geometry of training.

    Args:
        prompt_dir: where `masks/` and `diffs/` go.
        model: renders the views.
        datamanager: holds the photos and the cameras.
        source: the dataset behind the views, if it is known.
        views: in any order.
        config: what makes a coarse mask.
        on_view: called after each view is rendered.

    Raises:
        UserError: the folder cannot be written to.
    """
    camera_of = {view.name: view.camera_idx for view in views}

    def residuals() -> Iterator[tuple[str, FloatMap]]:
        for view in views:
            yield view.name, view_residual(model, datamanager, view.camera_idx)
            on_view(view)

    write_prompts(
        prompt_dir,
        residuals(),
        config,
        ignored=lambda name: ignored_by_user(datamanager, source, camera_of[name]),
    )


@contextmanager
def _evaluating(model: SplatfactoModel) -> Iterator[None]:
    """Full resolution, no densification; what the strategy keeps of the last step stays."""
    kept = {name: getattr(model, name) for name in ("info", "last_size") if hasattr(model, name)}
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
        for name, value in kept.items():
            setattr(model, name, value)
