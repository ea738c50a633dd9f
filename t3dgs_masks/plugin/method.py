"""The method `t3dgs-splatfacto` as `ns-train` lists it (entry point group
`nerfstudio.method_configs`).

`nerfstudio.configs.method_configs` loads this module, so nothing here may import it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from nerfstudio.plugins.types import MethodSpecification

from t3dgs_masks.plugin.datamanager import T3dgsDatamanagerConfig
from t3dgs_masks.plugin.model import T3dgsSplatfactoModelConfig
from t3dgs_masks.plugin.schedulers import PlainFloatDecaySchedulerConfig
from t3dgs_masks.plugin.system_libraries import preload_libusb

preload_libusb()  # every `ns-` command loads this module before it reads a dataset

METHOD_NAME = "t3dgs-splatfacto"


@dataclass
class T3dgsTrainerConfig(TrainerConfig):
    """A run of t3dgs-splatfacto; on one device."""

    def print_to_terminal(self) -> None:
        """The first thing `ns-train` does with a finished configuration: before it writes
        anything, and before it starts a process per device."""
        devices = self.machine.num_devices * self.machine.num_machines
        if devices != 1:
            sys.exit(
                f"error: {METHOD_NAME} trains on one device, but {devices} were asked for: the "
                "devices would refine masks that differ; give --machine.num-devices 1"
            )
        super().print_to_terminal()


def _adam(
    lr: float, lr_final: float | None = None, warmup_steps: int = 0, lr_pre_warmup: float = 1e-8
) -> dict[str, object]:
    scheduler = None
    if lr_final is not None:
        scheduler = PlainFloatDecaySchedulerConfig(
            lr_final=lr_final,
            max_steps=30000,
            warmup_steps=warmup_steps,
            lr_pre_warmup=lr_pre_warmup,
        )
    return {"optimizer": AdamOptimizerConfig(lr=lr, eps=1e-15), "scheduler": scheduler}


t3dgs_splatfacto = MethodSpecification(
    config=T3dgsTrainerConfig(
        method_name=METHOD_NAME,
        # Schedules and learning rates are those of splatfacto in nerfstudio 1.1.5.
        steps_per_eval_image=100,
        steps_per_eval_batch=0,
        steps_per_save=2000,
        steps_per_eval_all_images=1000,
        max_num_iterations=30000,
        mixed_precision=False,
        pipeline=VanillaPipelineConfig(
            datamanager=T3dgsDatamanagerConfig(
                dataparser=NerfstudioDataParserConfig(load_3D_points=True),
                cache_images_type="uint8",
            ),
            model=T3dgsSplatfactoModelConfig(),
        ),
        optimizers={
            "means": _adam(1.6e-4, 1.6e-6),
            "features_dc": _adam(0.0025),
            "features_rest": _adam(0.0025 / 20),
            "opacities": _adam(0.05),
            "scales": _adam(0.005),
            "quats": _adam(0.001),
            "camera_opt": _adam(1e-4, 5e-7, warmup_steps=1000, lr_pre_warmup=0),
            "bilateral_grid": _adam(2e-3, 1e-4, warmup_steps=1000, lr_pre_warmup=0),
        },
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer",
    ),
    description="Splatfacto that masks what moves, with SAM2, while it trains.",
)
"""What the entry point gives to nerfstudio."""
