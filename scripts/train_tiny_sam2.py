"""Train the small SAM2 of the tests and the demo from scratch on procedural scenes.

The model consists of the stock ``sam2`` classes at small dimensions
(``configs/sam2_tiny_256.yaml``) and learns on the CPU in under two hours. It knows the procedural
scenes only: it is no substitute for the official checkpoints on photographs.

    python scripts/train_tiny_sam2.py --minutes 100 --threads 2 --output-dir runs/tiny
    python scripts/train_tiny_sam2.py --output-dir runs/tiny --resume --minutes 100
    python scripts/train_tiny_sam2.py --export runs/tiny/state.pt
    python scripts/train_tiny_sam2.py --evaluate-only t3dgs_masks/sam/weights/tiny_synthetic.pt
"""

from __future__ import annotations

import copy
import json
import math
import multiprocessing
import os
import queue
import signal
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
import tyro
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import OmegaConf
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn
from torch.nn import functional

from t3dgs_masks.synthetic.capture import Capture, CaptureSpec, make_capture
from t3dgs_masks.synthetic.clips import Clip, make_clip

ROOT = Path(__file__).resolve().parent.parent
NOTICE = "for demonstration and tests, not for photographs"

TRAINING_SEED = 1_000_000
"""Clips for training have seeds from here on; smaller seeds are held out."""
HELD_OUT_SEED = 5_000
"""First seed of the clips that ``--evaluate-only`` measures on."""
CAPTURE_TRAINING_SEED = 100_000
"""3D captures for training have seeds from here on; smaller seeds are held out."""
CAPTURE_HELD_OUT_SEED = 90_000
"""First seed of the captures that ``--evaluate-only`` measures on."""

PromptKind = Literal["click", "two clicks", "three clicks", "box", "box and click"]
BoolMask = NDArray[np.bool_]


@dataclass
class Options:
    """Command line of the trainer."""

    output_dir: Path = Path("runs/tiny_sam2")
    """Where the training state, the log and intermediate figures go."""
    minutes: float = 100.0
    """Total training time, earlier parts of a resumed run included."""
    threads: int = 2
    """Threads of torch; the data come from one more process of low priority."""
    resume: bool = False
    """Go on from OUTPUT_DIR/state.pt."""
    device: str = "cpu"
    seed: int = 0
    config: Path = ROOT / "configs" / "sam2_tiny_256.yaml"
    evaluate_only: Path | None = None
    """Print the held-out figures of this checkpoint and stop."""
    export: tuple[Path, ...] = ()
    """Write the shipped file from this training state and stop. Several states that were resumed
    from one are averaged."""
    export_to: Path = ROOT / "t3dgs_masks" / "sam" / "weights" / "tiny_synthetic.pt"
    pred_iou_thresh: float = 0.7
    """Recommended threshold stored with the exported weights."""
    stability_score_thresh: float = 0.7
    """Recommended threshold stored with the exported weights."""
    learning_rate: float = 8e-4
    final_learning_rate: float = 1.5e-5
    images_per_step: int = 4
    clips_per_step: int = 1
    clip_length: int = 6
    clip_share: float = 0.3
    """Share of the steps that train on clips, once those have begun."""
    capture_share: float = 0.35
    """Share of the samples from the posed 3D captures instead of the 2D clips."""
    clips_from: float = 0.08
    """Share of the time after which clips are mixed in."""
    full_size_from: float = 0.14
    """Share of the time after which the full image size is used, half of it before."""
    affinity_until: float = 0.6
    """Share of the time over which the auxiliary affinity loss fades out."""
    evaluate_every: float = 6.0
    """Minutes between quick evaluations; the state is saved at each."""


# --------------------------------------------------------------------------------------------
# Model


def build_model(config_text: str) -> SAM2Base:
    """Build ``SAM2Base`` with random weights from the YAML text of a config."""
    config = OmegaConf.create(config_text)
    model = instantiate(config.model, _recursive_=True)
    assert isinstance(model, SAM2Base)
    return model


def set_image_size(model: SAM2Base, size: int) -> None:
    """Make the model work on square images of ``size`` pixels (a multiple of 32)."""
    grid = size // model.backbone_stride
    model.image_size = size
    model.sam_image_embedding_size = grid
    encoder = model.sam_prompt_encoder
    encoder.image_embedding_size = (grid, grid)
    encoder.input_image_size = (size, size)
    encoder.mask_input_size = (4 * grid, 4 * grid)


@torch.no_grad()
def initialise(model: SAM2Base) -> None:
    """Change the random start so that clicks and memories are attended to from the first step.

    Without it the decoder needs most of a short training to find out that the place of a click
    matters: half of its image-attention heads start as "look where the point is".
    """
    # nn.Module types every attribute as "Tensor or Module"; these are plain submodules.
    untyped: Any = model
    encoder, decoder = untyped.sam_prompt_encoder, untyped.sam_mask_decoder
    for embedding in encoder.point_embeddings:
        embedding.weight.mul_(0.3)
    decoder.pred_obj_score_head.layers[-1].bias.fill_(3.0)

    # Four smooth axis-aligned frequencies among the random ones, and their sine/cosine places.
    frequencies = encoder.pe_layer.positional_encoding_gaussian_matrix
    frequencies[:, :4] = torch.tensor([[0.25, 0, 0.5, 0], [0, 0.25, 0, 0.5]])
    half = frequencies.shape[1]
    places = torch.tensor([0, 1, half, half + 1, 2, 3, half + 2, half + 3])

    transformer = decoder.transformer
    attentions = [layer.cross_attn_token_to_image for layer in transformer.layers]
    for attention in [*attentions, transformer.final_attn_token_to_image]:
        attention.k_proj.weight.mul_(1.5)
        attention.q_proj.weight.copy_(attention.k_proj.weight)
        head_width = attention.internal_dim // attention.num_heads
        for head in range(attention.num_heads // 2):
            coarse = head % 2 == 0
            weight = torch.zeros(head_width, attention.embedding_dim)
            weight[torch.arange(4), places[:4] if coarse else places[4:]] = 4.5 if coarse else 3.0
            rows = slice(head * head_width, (head + 1) * head_width)
            attention.q_proj.weight[rows] = weight
            attention.k_proj.weight[rows] = weight
    for tokens in (decoder.mask_tokens, decoder.iou_token, decoder.obj_score_token):
        tokens.weight.mul_(0.5)
        tokens.weight[:, places] = 0

    # With equal biases the rotary encoding makes memory be read near the same place at first.
    for layer in untyped.memory_attention.layers:
        layer.cross_attn_image.q_proj.bias.fill_(1.0)
        layer.cross_attn_image.k_proj.bias.fill_(1.0)
    nn.init.trunc_normal_(untyped.image_encoder.trunk.pos_embed, std=0.02)
    nn.init.trunc_normal_(untyped.image_encoder.trunk.pos_embed_window, std=0.02)


class AffinityHead(nn.Module):
    """A training aid: pixels of one object should resemble each other in a small embedding."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(hidden + hidden // 4 + hidden // 8, 16, 1)
        self.log_scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, maps: list[Tensor], image_index: Tensor, points: Tensor) -> Tensor:
        """Logits ``[N, 1, S/4, S/4]`` of "same object as the point".

        ``points`` (float ``[N, 2]``, x and y in -1..1) are looked up in image ``image_index``.
        """
        size = maps[0].shape[-2:]
        scaled = [
            maps[0],
            *(functional.interpolate(m, size=size, mode="bilinear") for m in maps[1:]),
        ]
        embedding = self.embed(torch.cat(scaled, dim=1))[image_index]
        wanted = functional.grid_sample(embedding, points[:, None, None], align_corners=False)
        distance = (embedding - wanted).pow(2).mean(dim=1, keepdim=True)
        return 1.5 - 4 * self.log_scale.exp() * distance


# --------------------------------------------------------------------------------------------
# Data


def capture_clip(capture: Capture, first: int, num_frames: int, stride: int, size: int) -> Clip:
    """Cut a clip from a posed 3D capture and resize it to a square, as SAM2 does."""
    chosen = range(first, first + num_frames * stride, stride)
    frames = np.stack([cv2.resize(capture.frames[i], (size, size)) for i in chosen])
    masks = [
        [
            cv2.resize(mask.astype(np.float32), (size, size)) > 0.5
            for mask in capture.object_masks[i]
        ]
        for i in chosen
    ]
    return Clip(frames, np.asarray(masks, dtype=np.bool_))


class CaptureSource:
    """Draws samples from a few 3D captures, which are replaced in turn."""

    KEPT = 4
    SAMPLES_PER_CAPTURE = 25
    """A capture takes about a second to make: use it for several samples."""
    SHAPES = ((192, 256), (192, 256), (144, 256), (256, 192))

    def __init__(self, seed: int) -> None:
        self.next_seed = CAPTURE_TRAINING_SEED + seed
        self.captures: list[Capture] = []
        self.drawn = 0

    def sample(self, rng: np.random.Generator, num_frames: int, size: int) -> Clip:
        """Draw a clip of ``num_frames`` frames at 1 to 3 times the speed of the capture."""
        if self.drawn % self.SAMPLES_PER_CAPTURE == 0:
            self.captures = [*self.captures, self._make(rng)][-self.KEPT :]
        self.drawn += 1
        capture = self.captures[int(rng.integers(len(self.captures)))]
        total = capture.num_frames
        stride = int(rng.integers(1, 4)) if num_frames > 1 else 1
        stride = min(stride, (total - 1) // max(1, num_frames - 1))
        first = int(rng.integers(0, total - (num_frames - 1) * stride))
        return capture_clip(capture, first, num_frames, stride, size)

    def _make(self, rng: np.random.Generator) -> Capture:
        height, width = self.SHAPES[int(rng.integers(len(self.SHAPES)))]
        spec = CaptureSpec(
            seed=self.next_seed,
            mode="video" if rng.random() < 0.75 else "photos",
            num_frames=24,
            height=height,
            width=width,
            num_eval_views=0,
            look="calm" if rng.random() < 0.7 else "busy",
        )
        self.next_seed += 1
        return make_capture(spec)


class ClipSource:
    """Draws training samples of both kinds."""

    def __init__(self, seed: int, size: int, capture_share: float) -> None:
        self.rng = np.random.default_rng([TRAINING_SEED, seed])
        self.next_seed = TRAINING_SEED + seed
        self.size = size
        self.capture_share = capture_share
        self.captures = CaptureSource(seed)

    def sample(self, num_frames: int) -> Clip:
        """Draw a clip of ``num_frames`` square frames."""
        if self.rng.random() < self.capture_share:
            return self.captures.sample(self.rng, num_frames, self.size)
        self.next_seed += 1
        return make_clip(np.random.default_rng(self.next_seed), num_frames, self.size)


def _produce(source: ClipSource, lengths: tuple[int, ...], outputs: tuple[Any, ...]) -> None:
    """Body of the data process: keep one bounded queue per clip length filled."""
    os.nice(5)
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    waiting: list[Clip | None] = [None] * len(outputs)
    parent = os.getppid()
    while os.getppid() == parent:  # also ends when the trainer was killed
        busy = False
        for index, (length, output) in enumerate(zip(lengths, outputs, strict=True)):
            clip = waiting[index] or source.sample(length)
            waiting[index] = clip
            try:
                output.put_nowait(clip)
            except queue.Full:
                continue
            waiting[index] = None
            busy = True
        if not busy:
            time.sleep(0.02)


class Pool:
    """Recent samples of one clip length, each used a few times with random augmentation."""

    def __init__(self, source: Any, capacity: int, reuse: float) -> None:
        self.source = source
        self.capacity = capacity
        self.reuse = reuse
        self.clips: list[Clip] = []
        self.oldest = 0

    def draw(self, rng: np.random.Generator) -> tuple[NDArray[np.uint8], BoolMask]:
        """Frames uint8 ``[T, S, S, 3]`` and object masks bool ``[T, K, S, S]``, augmented.

        Only an empty pool waits for the data process.
        """
        if not self.clips or len(self.clips) < self.capacity or rng.random() < 1 / self.reuse:
            self._refresh(wait=not self.clips)
        clip = self.clips[int(rng.integers(len(self.clips)))]
        frames, masks = clip.frames, clip.object_masks
        if rng.random() < 0.5:
            frames, masks = frames[:, :, ::-1], masks[..., ::-1]
        if rng.random() < 0.7:
            frames = frames[..., rng.permutation(3)]
        if rng.random() < 0.2:
            frames = np.uint8(255) - frames
        return frames, masks

    def _refresh(self, wait: bool) -> None:
        """Take one new sample, in place of the oldest when the pool is full."""
        try:
            clip = self.source.get(timeout=120 if wait else 0.002)
        except queue.Empty:
            return
        if len(self.clips) < self.capacity:
            self.clips.append(clip)
        else:
            self.clips[self.oldest] = clip
            self.oldest = (self.oldest + 1) % self.capacity


class DataFeed:
    """The data process and the pools it fills."""

    def __init__(self, options: Options, size: int, seed: int) -> None:
        context = multiprocessing.get_context("spawn")
        queues = (context.Queue(maxsize=24), context.Queue(maxsize=8))
        source = ClipSource(seed, size, options.capture_share)
        lengths = (1, options.clip_length)
        self.process = context.Process(target=_produce, args=(source, lengths, queues), daemon=True)
        self.process.start()
        # Drawing a sample costs a few hundredths of a step: little reuse, no learning by heart.
        self.images = Pool(queues[0], capacity=64, reuse=1.1)
        self.clips = Pool(queues[1], capacity=24, reuse=1.2)

    def close(self) -> None:
        """Stop the data process."""
        self.process.terminate()
        self.process.join()


# --------------------------------------------------------------------------------------------
# Prompts


def interior_points(
    rng: np.random.Generator, region: BoolMask, count: int, central: bool = False
) -> NDArray[np.float32]:
    """Random points well inside a region (bool ``[H, W]``): float32 ``[count, 2]``, x and y.

    ``central`` takes the deepest place.
    """
    depth = cv2.distanceTransform(np.pad(region.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    points = np.empty((count, 2), np.float32)
    deepest = float(depth.max())
    for index in range(count):
        threshold = deepest * (0.999 if central else rng.uniform(0.1, 0.8))
        candidates = np.flatnonzero(depth >= max(threshold, 1e-3))
        row, column = divmod(int(rng.choice(candidates)), region.shape[1])
        points[index] = (column, row)
    return points


def noisy_box(rng: np.random.Generator, region: BoolMask) -> NDArray[np.float32]:
    """The two corners of a region's bounding box, moved a little: float32 ``[2, 2]``."""
    rows, columns = np.nonzero(region)
    low = np.array([columns.min(), rows.min()], np.float32)
    high = np.array([columns.max(), rows.max()], np.float32)
    noise = rng.normal(size=(2, 2)) * 0.04
    return np.stack([low, high]) + (noise * (high - low + 1)).astype(np.float32)


def _outside_point(rng: np.random.Generator, region: BoolMask) -> NDArray[np.float32] | None:
    """A point near a region but not in it, float32 ``[1, 2]``."""
    ring = cv2.dilate(region.astype(np.uint8), np.ones((15, 15), np.uint8)).astype(bool) & ~region
    return interior_points(rng, ring, 1) if ring.any() else None


def sample_prompt(
    rng: np.random.Generator, region: BoolMask, kind: PromptKind
) -> tuple[NDArray[np.float32], list[int]]:
    """Points float32 ``[P, 2]`` and labels (1 in, 0 out, 2 and 3 box corners) for one object."""
    if kind in ("box", "box and click"):
        box = noisy_box(rng, region)
        if kind == "box":
            return box, [2, 3]
        return np.concatenate([box, interior_points(rng, region, 1)]), [2, 3, 1]
    points, labels = [interior_points(rng, region, 1)], [1]
    for _ in range({"click": 0, "two clicks": 1, "three clicks": 2}[kind]):
        outside = _outside_point(rng, region) if rng.random() < 0.4 else None
        points.append(interior_points(rng, region, 1) if outside is None else outside)
        labels.append(1 if outside is None else 0)
    return np.concatenate(points), labels


def prompt_tensors(
    prompts: list[tuple[NDArray[np.float32], list[int]]], device: torch.device
) -> dict[str, Tensor]:
    """Batch prompts of equal length as SAM2's ``point_inputs``."""
    points = np.stack([points for points, _ in prompts])
    labels = np.array([labels for _, labels in prompts])
    return {
        "point_coords": torch.from_numpy(points).float().to(device),
        "point_labels": torch.from_numpy(labels).int().to(device),
    }


def perturb_mask(rng: np.random.Generator, mask: BoolMask) -> BoolMask:
    """In half of the cases grow, shrink or shift an object mask (bool ``[H, W]``) by 1-2 pixels."""
    change = rng.random()
    if change < 0.5:
        return mask
    pixels = int(rng.integers(1, 3))
    kernel = np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)
    raw = mask.astype(np.uint8)
    if change < 0.66:
        return cv2.dilate(raw, kernel) > 0
    if change < 0.82:
        return cv2.erode(raw, kernel) > 0
    return np.roll(mask, (int(rng.integers(-pixels, pixels + 1)), pixels), axis=(0, 1))


# --------------------------------------------------------------------------------------------
# Losses


def low_resolution(masks: Tensor) -> Tensor:
    """Targets at the decoder's resolution: ``[N, 1, S, S]`` in 0..1 to ``[N, 1, S/4, S/4]``.

    The edge is made steeper than plain averaging would: stability scores reward steep logits.
    """
    pooled = functional.avg_pool2d(masks, 4)
    return ((pooled - 0.5) * 2 + 0.5).clamp(0, 1)


def mask_losses(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and IoU of each mask: logits ``[N, M, h, w]``, target ``[N, 1, h, w]`` to ``[N, M]``."""
    logits = logits.float().clamp(-40, 40)
    target = target.expand_as(logits)
    pixels = functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(
        (-1, -2)
    )
    inside = logits.sigmoid()
    overlap = 2 * (inside * target).sum((-1, -2)) + 1
    dice = 1 - overlap / (inside.sum((-1, -2)) + target.sum((-1, -2)) + 1)
    with torch.no_grad():
        predicted, wanted = logits > 0, target > 0.5
        union = (predicted | wanted).sum((-1, -2)).clamp(min=1)
        iou = (predicted & wanted).sum((-1, -2)) / union
    return 3 * pixels + dice, iou


def iou_head_loss(predicted: Tensor, actual: Tensor) -> Tensor:
    """Loss ``[N]`` of the IoU head; both inputs ``[N, M]``."""
    error = predicted - actual
    return (error.pow(2) + 0.3 * error.abs()).mean(dim=1)


def combined_loss(
    losses: Tensor, ious: Tensor, predicted_ious: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Loss of the best mask, some of the others', and the IoU head's; all inputs ``[N, M]``.

    ``weight`` (float ``[N]``) is 0 for prompts that have no target. The second result is the mean
    IoU of the masks which the IoU head would choose.
    """
    total = weight.sum().clamp(min=1)
    best = losses.min(dim=1).values
    others = losses.mean(dim=1) if losses.shape[1] > 1 else torch.zeros_like(best)
    # The wanted object is never ambiguous here, so all proposals should be good: then little is
    # lost when the IoU head picks another one than the best.
    per_prompt = best + 0.6 * others + 1.5 * iou_head_loss(predicted_ious, ious)
    chosen = ious.gather(1, predicted_ious.argmax(dim=1, keepdim=True))[:, 0]
    return (per_prompt * weight).sum() / total, (chosen * weight).sum() / total


def feature_penalty(vision_features: list[Tensor]) -> Tensor:
    """L2 penalty on the FPN features, finest first.

    Without it their scale swamps the position code and clicks are ignored.
    """
    fine, middle, coarse = (features.float().pow(2).mean() for features in vision_features)
    return 0.02 * coarse + 0.006 * (middle + fine)


# --------------------------------------------------------------------------------------------
# Training steps


@dataclass
class Trainer:
    """The model in training and what its steps need."""

    model: SAM2Base
    affinity: AffinityHead
    rng: np.random.Generator
    device: torch.device
    affinity_weight: float = 1.0
    figures: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def image_tensor(self, frames: NDArray[np.uint8]) -> Tensor:
        """uint8 ``[N, S, S, 3]`` to normalised float ``[N, 3, S, S]``."""
        return normalise(frames, self.device)

    def image_step(self, pool: Pool, batch: int) -> Tensor | None:
        """Loss of one batch of images: clicks, background clicks and one other prompt kind."""
        rng, size = self.rng, self.model.image_size
        frames, regions, owners, backgrounds = [], [], [], []
        for image in range(batch):
            clip_frames, clip_masks = pool.draw(rng)
            frames.append(clip_frames[0])
            backgrounds.append(~clip_masks[0].any(axis=0))
            for mask in clip_masks[0]:
                if mask.sum() > 0.004 * size * size:
                    regions.append(np.ascontiguousarray(mask))
                    owners.append(image)
        if not regions:
            return None
        owner = torch.tensor(owners, device=self.device)
        maps, penalty = self._encode(np.stack(frames))
        full = torch.from_numpy(np.stack(regions)).to(self.device)[:, None].float()
        target = low_resolution(full)
        loss = penalty + self._click_loss(maps, regions, owner, target, backgrounds)
        if self.affinity_weight > 0:
            points = np.concatenate([interior_points(rng, region, 1) for region in regions])
            where = 2 * (torch.from_numpy(points).to(self.device) + 0.5) / size - 1
            losses, ious = mask_losses(self.affinity(maps, owner, where), target)
            loss = loss + self.affinity_weight * losses.mean()
            self.figures["affinity iou"].append(ious.mean().item())
        return loss + 0.5 * self._other_prompt_loss(maps, regions, owner, target)

    def _encode(self, frames: NDArray[np.uint8]) -> tuple[list[Tensor], Tensor]:
        """Feature maps, finest first, each ``[B, C, h, w]``, and the feature penalty."""
        encoded = self.model.forward_image(self.image_tensor(frames))
        _, features, _, sizes = self.model._prepare_backbone_features(encoded)
        maps = [
            feature.permute(1, 2, 0).reshape(len(frames), -1, *size)
            for feature, size in zip(features, sizes, strict=True)
        ]
        return maps, feature_penalty(features)

    def _decode(
        self,
        maps: list[Tensor],
        owner: Tensor,
        prompts: dict[str, Tensor],
        previous: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits ``[N, 4, S/4, S/4]``, IoUs ``[N, 4]``, object scores ``[N, 1]`` of still images.

        Mask 0 is the single-mask output, 1 to 3 are the three proposals.
        """
        chosen = [feature[owner] for feature in maps]
        embedding = chosen[-1] + self.model.no_mem_embed.view(1, -1, 1, 1)
        encoder = self.model.sam_prompt_encoder
        sparse, dense = encoder(
            points=(prompts["point_coords"], prompts["point_labels"]), boxes=None, masks=previous
        )
        decoder: Any = self.model.sam_mask_decoder  # its annotation omits two of four results
        logits, ious, _, scores = decoder.predict_masks(
            image_embeddings=embedding,
            image_pe=encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            repeat_image=False,
            high_res_features=chosen[:-1],
        )
        return logits, ious, scores

    def _output_loss(
        self, outputs: tuple[Tensor, Tensor, Tensor], target: Tensor, figure: str
    ) -> Tensor:
        """Loss of decoder outputs that all have a target ``[N, 1, S/4, S/4]``."""
        logits, predicted, scores = outputs
        losses, ious = mask_losses(logits, target)
        weight = torch.ones(len(target), device=self.device)
        three, chosen = combined_loss(losses[:, 1:], ious[:, 1:], predicted[:, 1:], weight)
        single, _ = combined_loss(losses[:, :1], ious[:, :1], predicted[:, :1], weight)
        self.figures[figure].append(chosen.item())
        score = functional.binary_cross_entropy_with_logits(scores, torch.ones_like(scores))
        return three + 0.7 * single + 0.02 * score

    def _click_loss(
        self,
        maps: list[Tensor],
        regions: list[BoolMask],
        owner: Tensor,
        target: Tensor,
        backgrounds: list[BoolMask],
        clicks: int = 3,
        background_clicks: int = 2,
    ) -> Tensor:
        """Several single clicks per object, and clicks on the background, whose IoU should be 0."""
        rng = self.rng
        points = [interior_points(rng, region, clicks) for region in regions]
        empty_owners = [i for i, region in enumerate(backgrounds) if region.sum() > 200]
        empty = [interior_points(rng, backgrounds[i], background_clicks) for i in empty_owners]
        coordinates = np.concatenate(points + empty)[:, None]
        prompts = prompt_tensors([(point, [1]) for point in coordinates], self.device)
        empty_owner = torch.tensor(empty_owners, dtype=torch.long, device=self.device)
        everywhere = torch.cat(
            [owner.repeat_interleave(clicks), empty_owner.repeat_interleave(background_clicks)]
        )
        outputs = self._decode(maps, everywhere, prompts)
        count = len(regions) * clicks
        inside = (outputs[0][:count], outputs[1][:count], outputs[2][:count])
        loss = self._output_loss(inside, target.repeat_interleave(clicks, dim=0), "click iou")
        wrong = outputs[1][count:]
        if len(wrong):
            loss = loss + 0.5 * iou_head_loss(wrong, torch.zeros_like(wrong)).mean()
            self.figures["background claim"].append(wrong[:, 1:].amax(dim=1).mean().item())
        return loss

    def _other_prompt_loss(
        self, maps: list[Tensor], regions: list[BoolMask], owner: Tensor, target: Tensor
    ) -> Tensor:
        """Boxes, several clicks, or a click that corrects an earlier mask."""
        rng, size = self.rng, self.model.image_size
        kinds: list[PromptKind] = ["click", "two clicks", "three clicks", "box", "box and click"]
        kind = kinds[int(rng.choice(len(kinds), p=[0.3, 0.2, 0.1, 0.25, 0.15]))]
        prompts = prompt_tensors([sample_prompt(rng, r, kind) for r in regions], self.device)
        outputs = self._decode(maps, owner, prompts)
        if kind != "click":
            return self._output_loss(outputs, target, "box iou" if "box" in kind else "clicks iou")
        best = outputs[1][:, 1:].argmax(dim=1) + 1
        rows = torch.arange(len(best), device=self.device)
        previous = outputs[0][rows, best][:, None].detach().clamp(-32, 32)
        shown = functional.interpolate(previous, size=(size, size), mode="bilinear")[:, 0] > 0
        corrections = [
            _correction(rng, region, mask)
            for region, mask in zip(regions, shown.cpu().numpy(), strict=True)
        ]
        more = prompt_tensors(corrections, self.device)
        both = {key: torch.cat([prompts[key], more[key]], dim=1) for key in prompts}
        outputs = self._decode(maps, owner, both, previous)
        return self._output_loss(outputs, target, "corrected iou")

    def clip_step(self, pool: Pool, batch: int) -> Tensor | None:
        """Loss of one batch of clips: prompts on some frames, the others are tracked."""
        rng, size = self.rng, self.model.image_size
        mode = str(rng.choice(["first mask", "several masks", "prompt"], p=[0.45, 0.33, 0.22]))
        frames, tracks, owners = [], [], []
        conditioning = [0]
        for clip in range(batch):
            clip_frames, clip_masks = pool.draw(rng)
            if rng.random() < 0.3:
                clip_frames, clip_masks = clip_frames[::-1], clip_masks[::-1]
            if mode == "several masks" and clip == 0:
                count = int(rng.integers(1, min(4, len(clip_frames) - 1) + 1))
                conditioning = sorted(rng.choice(len(clip_frames), count, replace=False).tolist())
            frames.append(clip_frames)
            for index in range(clip_masks.shape[1]):
                track = clip_masks[:, index]
                if track[conditioning].sum(axis=(1, 2)).max() > 0.005 * size * size:
                    tracks.append(np.ascontiguousarray(track))
                    owners.append(clip)
        if not tracks:
            return None
        stacked, owner = np.stack(tracks), np.array(owners)
        kinds: list[PromptKind] = ["click", "two clicks", "box"]
        kind = kinds[int(rng.choice(3, p=[0.5, 0.25, 0.25]))] if mode == "prompt" else None
        run = ClipRun(self.model, np.stack(frames), stacked, owner, self.device)
        reverse = mode == "several masks" and rng.random() < 0.5
        outputs = run.run(conditioning, kind, rng, reverse, perturb=True)
        loss = self._clip_loss(outputs, stacked, skip=conditioning if kind is None else [])
        return None if loss is None else 1.3 * loss + run.penalty

    def _clip_loss(
        self, outputs: dict[int, tuple[Tensor, ...]], tracks: BoolMask, skip: list[int]
    ) -> Tensor | None:
        """Mean over the frames of mask, IoU and object score losses."""
        size = self.model.image_size
        losses = []
        for frame, output in outputs.items():
            if frame in skip:
                continue
            full = torch.from_numpy(tracks[:, frame]).to(self.device)[:, None].float()
            present = (full.flatten(1).sum(dim=1) > 0.0008 * size * size).float()
            per_mask, ious = mask_losses(output[0], low_resolution(full))
            loss, chosen = combined_loss(per_mask, ious, output[2], present)
            # Absent objects are rare: without a larger weight they are never recognised.
            score = functional.binary_cross_entropy_with_logits(
                output[6].float(), present[:, None], weight=4 - 3 * present[:, None]
            )
            losses.append(loss + 0.5 * score)
            if present.any():
                self.figures["track iou"].append(chosen.item())
            right = (output[6][:, 0] > 0) == (present > 0)
            self.figures["score right"].append(right.float().mean().item())
        return torch.stack(losses).mean() if losses else None


def _correction(
    rng: np.random.Generator, region: BoolMask, shown: BoolMask
) -> tuple[NDArray[np.float32], list[int]]:
    """A click at the deepest place of the larger error of a shown mask."""
    missed, extra = region & ~shown, shown & ~region
    if not missed.any() and not extra.any():
        return interior_points(rng, region, 1), [1]
    if missed.sum() >= extra.sum():
        return interior_points(rng, missed, 1, central=True), [1]
    return interior_points(rng, extra, 1, central=True), [0]


def normalise(frames: NDArray[np.uint8], device: torch.device) -> Tensor:
    """RGB uint8 ``[N, S, S, 3]`` to SAM2's normalised float ``[N, 3, S, S]``."""
    mean = torch.tensor([0.485, 0.456, 0.406], device=device).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], device=device).view(1, 3, 1, 1)
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).to(device).permute(0, 3, 1, 2)
    return (pixels.float() / 255 - mean) / std


class ClipRun:
    """Tracks objects through clips of equal length, as the video predictor does."""

    def __init__(
        self,
        model: SAM2Base,
        frames: NDArray[np.uint8],
        tracks: BoolMask,
        owner: NDArray[np.int_],
        device: torch.device,
    ) -> None:
        """``frames`` ``[B, T, S, S, 3]``, ``tracks`` bool ``[N, T, S, S]``, ``owner`` ``[N]``."""
        self.model, self.tracks, self.device = model, tracks, device
        batch, self.length = frames.shape[:2]
        flat = frames.reshape(batch * self.length, *frames.shape[2:])
        encoded = model.forward_image(normalise(flat, device))
        _, self.features, self.positions, self.sizes = model._prepare_backbone_features(encoded)
        self.first = torch.from_numpy(owner.astype(np.int64)).to(device) * self.length
        self.penalty = feature_penalty(self.features)

    def run(
        self,
        conditioning: list[int],
        kind: PromptKind | None,
        rng: np.random.Generator,
        reverse: bool = False,
        perturb: bool = False,
    ) -> dict[int, tuple[Tensor, ...]]:
        """Outputs of SAM2's heads per frame, in the order of tracking.

        The frames in ``conditioning`` get the true masks (``kind`` None) or prompts of a kind.
        """
        memory: dict[str, dict[int, Any]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
        # The predictor scales the age of object pointers with the length of the whole video.
        video_length = int(rng.choice([self.length, 8, 16, 40])) if perturb else self.length
        video_length = max(video_length, self.length)
        rest = [frame for frame in range(self.length) if frame not in conditioning]
        outputs = {}
        for frame in conditioning + (rest[::-1] if reverse else rest):
            points, masks = None, None
            if frame in conditioning and kind is None:
                shown = [perturb_mask(rng, m) if perturb else m for m in self.tracks[:, frame]]
                masks = torch.from_numpy(np.stack(shown)).to(self.device)[:, None].float()
            elif frame in conditioning and kind is not None:
                prompts = [sample_prompt(rng, track[frame], kind) for track in self.tracks]
                points = prompt_tensors(prompts, self.device)
            outputs[frame] = self._frame(
                frame, frame in conditioning, points, masks, memory, video_length, reverse
            )
        return outputs

    def _frame(
        self,
        frame: int,
        is_conditioning: bool,
        points: dict[str, Tensor] | None,
        masks: Tensor | None,
        memory: dict[str, dict[int, Any]],
        video_length: int,
        reverse: bool,
    ) -> tuple[Tensor, ...]:
        """Segment one frame and remember the result."""
        model = self.model
        features = [feature[:, self.first + frame] for feature in self.features]
        positions = [position[:, self.first + frame] for position in self.positions]
        current, heads, _, _ = model._track_step(
            frame, is_conditioning, features, positions, self.sizes, points, masks, memory,
            video_length, reverse, None,
        )  # fmt: skip
        current["pred_masks"], current["obj_ptr"] = heads[3], heads[5]
        model._encode_memory_in_output(
            features, self.sizes, points, True, heads[4], heads[6], current
        )
        key = "cond_frame_outputs" if is_conditioning else "non_cond_frame_outputs"
        memory[key][frame] = current
        return heads


# --------------------------------------------------------------------------------------------
# Evaluation


def _iou(predicted: BoolMask, wanted: BoolMask) -> float:
    union = (predicted | wanted).sum()
    return float((predicted & wanted).sum() / union) if union else 1.0


def _share(values: BoolMask) -> float:
    """Share of True, NaN of nothing."""
    return float(values.mean()) if values.size else float("nan")


def _visible(masks: BoolMask, share: float = 0.006) -> list[int]:
    """Indices of the masks (bool ``[K, S, S]``) of at least this share of the image."""
    return [k for k, mask in enumerate(masks) if mask.mean() > share]


def held_out_clips(first_seed: int, count: int, length: int, size: int) -> Iterator[Clip]:
    """Clips that training never sees, in which something is visible on the first frame."""
    seed = first_seed
    while count:
        clip = make_clip(np.random.default_rng(seed), length, size)
        seed += 1
        if _visible(clip.object_masks[0]):
            count -= 1
            yield clip


def held_out_captures(count: int, length: int, size: int) -> Iterator[Clip]:
    """Clips from captures that training never sees; from each as many as fit, at most four."""
    for seed in range(CAPTURE_HELD_OUT_SEED, CAPTURE_HELD_OUT_SEED + count):
        capture = make_capture(CaptureSpec(seed=seed, num_eval_views=0))
        for first in range(0, min(capture.num_frames - length + 1, 40), 10):
            clip = capture_clip(capture, first, length, 1, size)
            if _visible(clip.object_masks[0]):
                yield clip


@torch.no_grad()
def evaluate_clicks(
    model: SAM2Base, clips: Iterable[Clip], device: torch.device
) -> dict[str, float]:
    """One interior click per object, mask of the best predicted IoU; and background clicks."""
    rng, size = np.random.default_rng(1), model.image_size
    trainer = Trainer(model, AffinityHead(model.hidden_dim).to(device), rng, device)
    ious, claims, stabilities, background_claims = [], [], [], []
    for clip in clips:
        masks = clip.object_masks[0]
        wanted = [masks[k] for k in _visible(masks)]
        points = [interior_points(rng, mask, 1) for mask in wanted]
        points.append(interior_points(rng, ~masks.any(axis=0), 4))
        prompts = prompt_tensors([(p, [1]) for p in np.concatenate(points)[:, None]], device)
        maps, _ = trainer._encode(clip.frames)
        owner = torch.zeros(len(prompts["point_coords"]), dtype=torch.long, device=device)
        logits, predicted, _ = trainer._decode(maps, owner, prompts)
        best = predicted[:, 1:].argmax(dim=1)
        rows = torch.arange(len(best), device=device)
        chosen = logits[rows, best + 1]
        claim = predicted[rows, best + 1].cpu().numpy()
        stable = ((chosen > 1).sum((-1, -2)) / (chosen > -1).sum((-1, -2)).clamp(min=1)).tolist()
        full = functional.interpolate(chosen[:, None], size=(size, size), mode="bilinear")[:, 0] > 0
        for k, mask in enumerate(wanted):
            ious.append(_iou(full[k].cpu().numpy(), mask))
            claims.append(float(claim[k]))
            stabilities.append(stable[k])
        background_claims.extend(claim[len(wanted) :].tolist())
    scores, claimed, stability = np.array(ious), np.array(claims), np.array(stabilities)
    good = scores >= 0.8
    background = np.array(background_claims)
    return {
        "click_iou": float(scores.mean()),
        "click_iou_median": float(np.median(scores)),
        "click_share_over_0.8": float(good.mean()),
        "click_objects": float(len(scores)),
        "iou_claim_error": float(np.abs(claimed - scores).mean()),
        "iou_claim_bias": float((claimed - scores).mean()),
        "good_claims_over_0.5": _share(claimed[good] > 0.5),
        "good_claims_over_0.88": _share(claimed[good] > 0.88),
        "good_stability_over_0.7": _share(stability[good] >= 0.7),
        "good_stability_over_0.95": _share(stability[good] >= 0.95),
        "background_claim_mean": float(background.mean()),
        "background_claims_over_0.5": float((background > 0.5).mean()),
    }


@torch.no_grad()
def evaluate_tracking(
    model: SAM2Base, clips: Iterable[Clip], device: torch.device, steps: int = 8
) -> dict[str, Any]:
    """Propagate each object's mask on frame 0 through ``steps`` further frames."""
    curve: list[list[float]] = [[] for _ in range(steps)]
    present_right, absent_right = [], []
    for clip in clips:
        objects = _visible(clip.object_masks[0])
        tracks = clip.object_masks[:, objects].swapaxes(0, 1)
        owner = np.zeros(len(objects), dtype=np.int_)
        run = ClipRun(model, clip.frames[None], tracks, owner, device)
        outputs = run.run([0], None, np.random.default_rng(0))
        for frame in range(1, steps + 1):
            for k, wanted in enumerate(tracks[:, frame]):
                claims_present = outputs[frame][6][k, 0].item() > 0
                if wanted.mean() > 0.003:
                    shown = outputs[frame][4][k, 0].cpu().numpy() > 0
                    curve[frame - 1].append(_iou(shown, wanted))
                    present_right.append(claims_present)
                elif not wanted.any():
                    absent_right.append(not claims_present)
    every = np.concatenate([np.array(values) for values in curve])
    return {
        "propagation_iou": float(every.mean()),
        "propagation_iou_median": float(np.median(every)),
        "propagation_by_frame": [round(float(np.mean(values)), 3) for values in curve],
        "object_frames": len(every),
        "present_recognised": float(np.mean(present_right)),
        "absent_recognised": _share(np.array(absent_right)),
        "absent_object_frames": len(absent_right),
    }


def evaluate(
    model: SAM2Base,
    device: torch.device,
    images: int = 100,
    clips: int = 40,
    captures: int = 8,
) -> dict[str, Any]:
    """All held-out figures: on 2D clips, and the same with ``capture_`` on 3D captures."""
    model.eval()
    size = model.image_size
    figures = {
        **evaluate_clicks(model, held_out_clips(HELD_OUT_SEED, images, 1, size), device),
        **evaluate_tracking(model, held_out_clips(HELD_OUT_SEED + 1000, clips, 9, size), device),
    }
    on_captures = {
        **evaluate_clicks(model, held_out_captures(captures, 1, size), device),
        **evaluate_tracking(model, held_out_captures(captures, 9, size), device),
    }
    return {**figures, **{f"capture_{name}": value for name, value in on_captures.items()}}


def print_table(figures: dict[str, Any]) -> None:
    """Print figures as a table and as one line of JSON."""
    for name, value in figures.items():
        shown = f"{value:.3f}" if isinstance(value, float) else str(value)
        print(f"{name:34s} {shown}")
    print(json.dumps(figures))


# --------------------------------------------------------------------------------------------
# Files


def half_precision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The floating tensors of a state dict as fp16 on the CPU."""
    return {k: v.cpu().half() if v.is_floating_point() else v.cpu() for k, v in state.items()}


def average_states(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of state dicts of one architecture; integer tensors are taken from the first."""
    return {
        key: torch.stack([state[key] for state in states]).mean(dim=0)
        if value.is_floating_point()
        else value
        for key, value in states[0].items()
    }


def export(options: Options) -> None:
    """Write the shipped checkpoint from one or several training states."""
    states = [torch.load(p, map_location="cpu", weights_only=True) for p in options.export]
    shipped = {
        "model": half_precision(average_states([state["ema"] for state in states])),
        "config": options.config.read_text(encoding="utf-8"),
        "recommended": {
            "pred_iou_thresh": options.pred_iou_thresh,
            "stability_score_thresh": options.stability_score_thresh,
        },
        "notice": NOTICE,
    }
    build_model(shipped["config"]).load_state_dict(shipped["model"], strict=True)
    options.export_to.parent.mkdir(parents=True, exist_ok=True)
    partial = options.export_to.with_suffix(".partial")
    torch.save(shipped, partial)
    partial.replace(options.export_to)
    print(f"{options.export_to}: {options.export_to.stat().st_size / 1e6:.2f} MB")
    for path, state in zip(options.export, states, strict=True):
        print(f"  from {path}: step {state['step']}, {state['elapsed'] / 60:.1f} minutes")


def load_for_evaluation(path: Path, device: torch.device) -> SAM2Base:
    """Load a shipped checkpoint (its own config, fp16 weights) as an fp32 model."""
    shipped = torch.load(path, map_location="cpu", weights_only=True)
    model = build_model(shipped["config"])
    model.load_state_dict(shipped["model"], strict=True)
    return model.to(device).eval()


# --------------------------------------------------------------------------------------------
# The loop


class ThreadChoice:
    """Chooses between one thread and all of them, by the time that steps take.

    On a machine whose cores are shared, two threads that wait for each other can be slower than
    one. The choice that is not in use is tried now and then.
    """

    PROBE_EVERY = 15

    def __init__(self, most: int) -> None:
        self.counts = sorted({1, most}, reverse=True)
        self.seconds: dict[int, float] = {}
        self.used = self.counts[0]
        self.steps = 0

    def before(self) -> None:
        """Set the number of threads for the next step."""
        self.steps += 1
        unknown = [count for count in self.counts if count not in self.seconds]
        if unknown:
            self.used = unknown[0]
        else:
            self.used = min(self.counts, key=lambda count: self.seconds[count])
            if self.steps % self.PROBE_EVERY == 0:
                self.used = next((c for c in self.counts if c != self.used), self.used)
        torch.set_num_threads(self.used)

    def after(self, seconds: float) -> None:
        """Tell how long the step took."""
        before = self.seconds.get(self.used, seconds)
        self.seconds[self.used] = 0.5 * before + 0.5 * seconds


class Training:
    """The state of a run: model, average, optimiser, random state and time spent."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.device = torch.device(options.device)
        torch.manual_seed(options.seed)
        model = build_model(options.config.read_text(encoding="utf-8"))
        initialise(model)
        self.full_size = model.image_size
        # Nothing in the model depends on training mode except rules on memory; use the real ones.
        self.model = model.to(self.device).eval()
        affinity = AffinityHead(model.hidden_dim).to(self.device)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        rng = np.random.default_rng([options.seed, 1])
        self.trainer = Trainer(self.model, affinity, rng, self.device)
        self.optimiser = self._make_optimiser()
        self.step, self.elapsed = 0, 0.0
        self.stop = False
        # Images and clips take different times, so each has its own choice.
        self.threads = {kind: ThreadChoice(options.threads) for kind in ("image", "clip")}

    def _make_optimiser(self) -> torch.optim.AdamW:
        decayed, plain = [], list(self.trainer.affinity.parameters())
        for name, parameter in self.model.named_parameters():
            (decayed if parameter.ndim >= 2 and "embed" not in name else plain).append(parameter)
        groups = [
            {"params": decayed, "weight_decay": 0.02},
            {"params": plain, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.options.learning_rate, betas=(0.9, 0.98))

    @property
    def progress(self) -> float:
        """Share of the training time that has passed."""
        return self.elapsed / (60 * self.options.minutes)

    def state(self) -> dict[str, Any]:
        """Everything ``--resume`` needs."""
        return {
            "model": self.model.state_dict(),
            "ema": self.average.state_dict(),
            "affinity": self.trainer.affinity.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rng": self.trainer.rng.bit_generator.state,
            "torch_rng": torch.get_rng_state(),
            "step": self.step,
            "elapsed": self.elapsed,
        }

    def save(self) -> None:
        """Write the state to OUTPUT_DIR/state.pt."""
        path = self.options.output_dir / "state.pt"
        partial = path.with_suffix(".partial")
        torch.save(self.state(), partial)
        partial.replace(path)

    def load(self) -> None:
        """Read the state from OUTPUT_DIR/state.pt."""
        path = self.options.output_dir / "state.pt"
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["ema"])
        self.trainer.affinity.load_state_dict(state["affinity"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.trainer.rng.bit_generator.state = state["rng"]
        torch.set_rng_state(state["torch_rng"].cpu())
        self.step, self.elapsed = state["step"], state["elapsed"]

    def run(self) -> None:
        """Train until the time is over or a signal asks to stop."""
        options = self.options
        size, feed = 0, None
        last_evaluation = self.elapsed
        while self.progress < 1 and not self.stop:
            started = time.monotonic()
            wanted = self.full_size // (2 if self.progress < options.full_size_from else 1)
            if feed is None or wanted != size:
                if feed is not None:
                    feed.close()
                size, feed = (
                    wanted,
                    DataFeed(options, wanted, seed=1_000_000 * options.seed + self.step),
                )
                set_image_size(self.model, size)
                set_image_size(self.average, size)
                print(f"image size {size}", flush=True)
            self._one_step(feed, started)
            self.elapsed += time.monotonic() - started
            if self.elapsed - last_evaluation > 60 * options.evaluate_every:
                started = time.monotonic()
                self._report(24, 10, 2)
                self.elapsed += time.monotonic() - started
                last_evaluation = self.elapsed
        if feed is not None:
            feed.close()
        self.save()
        print(f"stopped after {self.elapsed / 60:.1f} minutes, step {self.step}", flush=True)

    def _learning_rate(self) -> float:
        warm_up = min(1.0, (self.step + 1) / 200)
        low, high = self.options.final_learning_rate, self.options.learning_rate
        return warm_up * (
            low + (high - low) * 0.5 * (1 + math.cos(math.pi * min(self.progress, 1)))
        )

    def _one_step(self, feed: DataFeed, started: float) -> None:
        options, trainer = self.options, self.trainer
        share = options.clip_share if self.progress >= options.clips_from else 0.0
        trainer.affinity_weight = max(0.0, 1 - self.progress / options.affinity_until)
        learning_rate = self._learning_rate()
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        # Half-size images cost a quarter: take twice as many.
        more = 1 if self.model.image_size == self.full_size else 2
        is_clip = trainer.rng.random() < share
        kind = "clip" if is_clip else "image"
        self.threads[kind].before()
        if is_clip:
            loss = trainer.clip_step(feed.clips, options.clips_per_step * more)
        else:
            loss = trainer.image_step(feed.images, options.images_per_step * more)
        if loss is None:
            return
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if torch.isfinite(norm):
            self.optimiser.step()
        self._update_average()
        self.step += 1
        seconds = time.monotonic() - started
        self.threads[kind].after(seconds)
        trainer.figures[f"{kind} loss"].append(loss.item())
        trainer.figures[f"{kind} seconds"].append(seconds)
        trainer.figures[f"{kind} threads"].append(self.threads[kind].used)
        if self.step % 100 == 0:
            self._log(learning_rate)

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(0.998, (self.step + 1) / (self.step + 20))
        pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
        for averaged, current in pairs:
            averaged.lerp_(current, 1 - decay)

    def _log(self, learning_rate: float) -> None:
        means = {k: f"{np.mean(v):.3f}" for k, v in sorted(self.trainer.figures.items())}
        shown = " ".join(f"{k.replace(' ', '_')}={v}" for k, v in means.items())
        minutes = self.elapsed / 60
        print(f"step {self.step} minute {minutes:.1f} lr {learning_rate:.1e} {shown}", flush=True)
        self.trainer.figures.clear()

    def _report(self, images: int, clips: int, captures: int) -> None:
        torch.set_num_threads(self.options.threads)
        figures = evaluate(self.average, self.device, images, clips, captures)
        figures["minute"], figures["step"] = round(self.elapsed / 60, 1), self.step
        figures["image_size"] = self.model.image_size
        line = json.dumps(figures)
        print("EVALUATION", line, flush=True)
        with (self.options.output_dir / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(line + "\n")
        self.save()


def main(options: Options) -> None:
    """Train, evaluate or export, as the options say."""
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    cv2.setNumThreads(1)
    if options.evaluate_only is not None:
        device = torch.device(options.device)
        print_table(evaluate(load_for_evaluation(options.evaluate_only, device), device))
        return
    if options.export:
        export(options)
        return
    options.output_dir.mkdir(parents=True, exist_ok=True)
    training = Training(options)
    if options.resume:
        training.load()
    parameters = sum(p.numel() for p in training.model.parameters())
    print(f"{parameters} parameters, from minute {training.elapsed / 60:.1f}", flush=True)

    def ask_to_stop(*_: object) -> None:
        training.stop = True

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)
    training.run()


if __name__ == "__main__":
    main(tyro.cli(Options))
