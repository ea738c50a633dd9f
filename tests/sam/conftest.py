"""Models shared by the tests of the sam package."""

from __future__ import annotations

import pytest
import torch
from sam2.build_sam import build_sam2_video_predictor
from sam2.sam2_video_predictor import SAM2VideoPredictor

from t3dgs_masks.sam.checkpoints import load_sam2
from t3dgs_masks.sam.devices import Precision

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cpu() -> Precision:
    return Precision("cpu")


@pytest.fixture(scope="session")
def random_sam2() -> SAM2VideoPredictor:
    """sam2.1_hiera_t at 128 px, random weights, made to believe that objects are there."""
    torch.manual_seed(0)
    model = build_sam2_video_predictor(
        "configs/sam2.1/sam2.1_hiera_t.yaml",
        ckpt_path=None,
        device="cpu",
        apply_postprocessing=False,
        hydra_overrides_extra=[
            "++model.image_size=128",
            "++model.sam_mask_decoder_extra_args.dynamic_multimask_via_stability=true",
            "++model.binarize_mask_from_pts_for_mem_enc=true",
        ],
    )
    with torch.no_grad():
        # Untrained, these are zero or arbitrary: memories and absent objects would have no effect.
        for name, parameter in model.named_parameters():
            if "no_obj" in name or "tpos" in name or "no_mem" in name:
                parameter.normal_(std=0.5)
            if name.endswith("gamma"):
                parameter.fill_(0.5)
            if "cross_attn_image" in name and name.endswith(("q_proj.weight", "k_proj.weight")):
                parameter.mul_(6.0)
            if "cross_attn_image" in name and name.endswith(("v_proj.weight", "out_proj.weight")):
                parameter.mul_(3.0)
            if "output_hypernetworks_mlps" in name and "layers.2.weight" in name:
                parameter.mul_(10.0)
        model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(0.3)
    return model


@pytest.fixture(scope="session")
def trained_sam2() -> SAM2VideoPredictor:
    """The packaged small model."""
    return load_sam2("tiny-synthetic", device=torch.device("cpu")).model
