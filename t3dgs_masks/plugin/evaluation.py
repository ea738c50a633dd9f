"""How well a trained splat shows its evaluation views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from t3dgs_masks.plugin.cpu import splatfacto_on
from t3dgs_masks.plugin.trained_run import open_run, quiet_console
from t3dgs_masks.types import Image


@dataclass(frozen=True)
class EvaluatedView:
    """One evaluation view; both images are [H, W, 3] uint8 RGB."""

    photo: Image
    render: Image
    psnr: float  # dB, of the unrounded images


@dataclass(frozen=True)
class EvaluatedRun:
    """All evaluation views of a run."""

    step: int
    gaussians: int
    views: Sequence[EvaluatedView]

    @property
    def psnr(self) -> float:
        """Mean over the views, dB; what `ns-eval` reports as `psnr`."""
        return float(np.mean([view.psnr for view in self.views]))


@torch.no_grad()
def evaluate_run(config_path: Path, device: torch.device) -> EvaluatedRun:
    """Render the evaluation views of a run's latest checkpoint.

    Raises:
        UserError: see `open_run`.
    """
    run = open_run(config_path, None, device)
    views = []
    with splatfacto_on(device), quiet_console():
        for camera, data in run.datamanager.fixed_indices_eval_dataloader:
            outputs = run.model.get_outputs_for_camera(camera)
            photo = run.model.composite_with_background(
                run.model.get_gt_img(data["image"]), outputs["background"]
            )
            error = torch.mean((outputs["rgb"] - photo) ** 2).clamp_min(1e-12)
            views.append(
                EvaluatedView(
                    photo=_as_image(photo),
                    render=_as_image(outputs["rgb"]),
                    psnr=float(-10 * torch.log10(error)),
                )
            )
    return EvaluatedRun(run.step, int(run.model.num_points), views)


def _as_image(pixels: torch.Tensor) -> Image:
    return (pixels[..., :3] * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
