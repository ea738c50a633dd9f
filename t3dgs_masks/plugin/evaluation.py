"""How well a trained splat shows its evaluation views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchmetrics.image import lpip

from t3dgs_masks.plugin.cpu import lpips_or_nan, splatfacto_on
from t3dgs_masks.plugin.trained_run import open_run, quiet_console
from t3dgs_masks.types import Image


@dataclass(frozen=True)
class EvaluatedView:
    """One evaluation view; both images are [H, W, 3] uint8 RGB."""

    photo: Image
    render: Image
    psnr: float  # dB, of the unrounded images
    ssim: float
    lpips: float  # NaN if it was not asked for


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

    @property
    def ssim(self) -> float:
        """Mean over the views; what `ns-eval` reports as `ssim`."""
        return float(np.mean([view.ssim for view in self.views]))

    @property
    def lpips(self) -> float:
        """Mean over the views."""
        return float(np.mean([view.lpips for view in self.views]))


def vgg_lpips(device: torch.device) -> nn.Module:
    """LPIPS with VGG's features, which papers on splats report; it is fetched once, and gives NaN
    where it cannot be had."""
    with lpips_or_nan():
        return lpip.LearnedPerceptualImagePatchSimilarity(net_type="vgg", normalize=True).to(device)


@torch.no_grad()
def evaluate_run(
    config_path: Path, device: torch.device, lpips: nn.Module | None = None
) -> EvaluatedRun:
    """Render the evaluation views of a run's latest checkpoint.

    Args:
        config_path: its `config.yml`.
        device: where to render.
        lpips: such as `vgg_lpips` gives.

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
            pair = [_as_batch(photo), _as_batch(outputs["rgb"])]
            views.append(
                EvaluatedView(
                    photo=_as_image(photo),
                    render=_as_image(outputs["rgb"]),
                    psnr=float(-10 * torch.log10(error)),
                    ssim=float(run.model.ssim(*pair)),
                    lpips=float("nan") if lpips is None else float(lpips(*pair)),
                )
            )
    return EvaluatedRun(run.step, int(run.model.num_points), views)


def _as_batch(pixels: torch.Tensor) -> torch.Tensor:
    """[H, W, 3] -> [1, 3, H, W]."""
    return pixels[..., :3].clamp(0, 1).permute(2, 0, 1)[None]


def _as_image(pixels: torch.Tensor) -> Image:
    return (pixels[..., :3] * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
