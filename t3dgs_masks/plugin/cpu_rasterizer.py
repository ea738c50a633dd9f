"""gsplat's `rasterization` for CPU tensors, differentiable, in plain PyTorch.

Projection and spherical harmonics are gsplat's own reference code (gsplat/cuda/_torch_impl.py).
Compositing follows its CUDA kernels (gsplat/cuda/csrc/rasterize_to_pixels_{fwd,bwd}.cu, 1.4.0)
value by value, but is laid out for a CPU:

The image is cut into blocks of 8×8 pixels. Over one block the logarithm of a Gaussian's opacity is
a quadratic polynomial of the pixel's position, so the opacities of many Gaussians at all pixels
of many blocks are one matrix product of their coefficients [pairs, 6] with the monomials [6, 64].
Blocks are walked front to back in slices of a bounded number of Gaussians, which bounds memory too.
The backward pass blends the same slices anew, back to front, and one more product takes gradients
with respect to the logarithms to the coefficients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from gsplat.cuda._torch_impl import (
    _fully_fused_projection,
    _quat_scale_to_covar_preci,
    _spherical_harmonics,
)
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

# The CUDA kernels' constants (rasterize_to_pixels_fwd.cu).
MIN_ALPHA = 1.0 / 255.0
"""Opacities below are skipped."""
MAX_ALPHA = 0.999
"""Opacities are clamped to this, and pass on no gradient where they are."""
MIN_TRANSMITTANCE = 1e-4
"""A pixel ends before the Gaussian that would leave it no more transmittance than this.

It costs next to nothing to follow the kernels in this, and is visible behind opaque Gaussians: up
to 3e-3 of full brightness in the tests' scenes.
"""

_BLOCK = 8
_PIXELS = _BLOCK * _BLOCK
# A slice of 64 blocks, 64 deep, is a megabyte of float32: in the cache, and yet large enough for
# PyTorch's overhead per operation not to matter (measured; half of either is slower).
_SLICE_DEPTH = 64
_SLICE_BLOCKS = 64

# glibc gives freed memory back to the system, and has to have it zeroed again, unless larger pieces
# were freed before (mallopt(3), M_MMAP_THRESHOLD). Freeing 31 MB once, which are never touched,
# makes it keep that much, and rendering a fifth faster.
torch.empty(31 << 20, dtype=torch.uint8, device="cpu")

RenderMode = Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"]
RasterizeMode = Literal["classic", "antialiased"]
CameraModel = Literal["pinhole", "ortho", "fisheye"]


@dataclass(frozen=True)
class _Splats:
    """Gaussians on the image plane of one camera."""

    radii: Tensor  # [N] int32, pixels; 0 = not visible
    means2d: Tensor  # [1, N, 2] pixels
    depths: Tensor  # [N]
    conics: Tensor  # [N, 3] inverse covariance: xx, xy, yy; 1 / pixel²
    opacities: Tensor  # [N]


@dataclass(frozen=True)
class _Grid:
    """The image as blocks, row by row; the last column and row may stick out of it."""

    width: int
    height: int

    @property
    def columns(self) -> int:
        return math.ceil(self.width / _BLOCK)

    @property
    def rows(self) -> int:
        return math.ceil(self.height / _BLOCK)

    @property
    def num_blocks(self) -> int:
        return self.columns * self.rows

    def centers(self, blocks: Tensor, dtype: torch.dtype) -> Tensor:
        """[M] block numbers -> [M, 2] pixels."""
        column_row = torch.stack([blocks % self.columns, blocks // self.columns], -1)
        return column_row.to(dtype) * _BLOCK + _BLOCK / 2

    def to_image(self, blocks: Tensor) -> Tensor:
        """[num_blocks, D, pixels of a block] -> [height, width, D]."""
        tiled = blocks.view(self.rows, self.columns, -1, _BLOCK, _BLOCK).permute(0, 3, 1, 4, 2)
        image = tiled.reshape(self.rows * _BLOCK, self.columns * _BLOCK, -1)
        return image[: self.height, : self.width]


@dataclass(frozen=True)
class _Pairs:
    """Which Gaussians may colour which blocks: M pairs, by block, front to back within it."""

    gaussians: Tensor  # [M] int64
    blocks: Tensor  # [M] int64, ascending
    first: Tensor  # [num_blocks] int64, the first pair of each block
    counts: Tensor  # [num_blocks] int64

    def __len__(self) -> int:
        return len(self.gaussians)


def _monomials(dtype: torch.dtype) -> Tensor:
    """[6, pixels of a block]: 1, x, y, x², xy, y² at the pixels' centres, from the block's."""
    offsets = torch.arange(_BLOCK, dtype=dtype) + 0.5 - _BLOCK / 2
    y, x = (axis.reshape(-1) for axis in torch.meshgrid(offsets, offsets, indexing="ij"))
    return torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y])


@torch.no_grad()
def _pair_up(splats: _Splats, grid: _Grid, tile_size: int) -> _Pairs:
    """Every (Gaussian, block) where the Gaussian reaches an opacity of MIN_ALPHA at some pixel.

    As in the CUDA kernels (isect_tiles.cu), a Gaussian ends where the last tile of `tile_size`
    pixels ends that the square of its radius touches; that cuts visibly into opaque ones' tails.
    """
    visible = torch.nonzero((splats.radii > 0) & (splats.opacities >= MIN_ALPHA)).squeeze(-1)
    visible = visible[torch.argsort(splats.depths[visible], stable=True)]
    center = splats.means2d[0, visible]
    conics = splats.conics[visible]
    radius = splats.radii[visible, None].to(center.dtype)

    # opacity · exp(-sigma) is at least MIN_ALPHA where sigma is at most this. The margin is for
    # rounding, and costs nothing but a few pairs.
    max_sigma = torch.log(splats.opacities[visible] / MIN_ALPHA) * 1.001 + 1e-3
    xx, xy, yy = conics.unbind(-1)
    determinant = (xx * yy - xy * xy).clamp_min(torch.finfo(center.dtype).tiny)
    extent = (torch.stack([yy, xx], -1) * (2.0 * max_sigma / determinant)[:, None]).sqrt()

    # First and last pixel whose centre lies within.
    tile_low = ((center - radius) / tile_size).floor() * tile_size
    tile_high = ((center + radius) / tile_size).ceil() * tile_size
    low = torch.maximum((center - extent - 0.5).ceil(), tile_low).clamp_min(0)
    high = torch.minimum((center + extent - 0.5).floor(), tile_high - 1)
    high = torch.minimum(high, center.new_tensor([grid.width - 1, grid.height - 1]))
    first_block = (low / _BLOCK).floor()
    num_blocks = ((high / _BLOCK).floor() + 1 - first_block) * (high >= low).all(-1, keepdim=True)
    num_blocks, first_block = num_blocks.clamp_min(0).long(), first_block.long()

    num_pairs = num_blocks.prod(-1)
    owner = torch.repeat_interleave(num_pairs)  # [pairs] row of `visible`
    # index_select is several times faster than indexing with brackets.
    within = torch.arange(len(owner)) - (num_pairs.cumsum(0) - num_pairs).index_select(0, owner)
    columns = num_blocks[:, 0].index_select(0, owner)
    row = within // columns
    offset = torch.stack([within - row * columns, row], -1)
    column_row = first_block.index_select(0, owner) + offset

    first_pixel = column_row.to(center.dtype) * _BLOCK + 0.5
    least_sigma = _least_sigma(
        first_pixel - center.index_select(0, owner), conics.index_select(0, owner)
    )
    reaching = torch.nonzero(least_sigma <= max_sigma.index_select(0, owner)).squeeze(-1)
    column, row = column_row.index_select(0, reaching).unbind(-1)
    blocks, order = torch.sort(row * grid.columns + column, stable=True)
    counts = torch.bincount(blocks, minlength=grid.num_blocks)
    return _Pairs(
        gaussians=visible[owner[reaching[order]]],
        blocks=blocks,
        first=counts.cumsum(0) - counts,
        counts=counts,
    )


def _least_sigma(low: Tensor, conics: Tensor) -> Tensor:
    """The least value of ½ dᵀ C d over the pixel centres' square of a block, exactly.

    Seen from the Gaussian's centre the minimum is at the centre itself or on one of the two sides
    that face it; along a side it is where the parabola's vertex, clamped to the side, is.

    Args:
        low: [M, 2] first pixel's centre relative to the Gaussian's.
        conics: [M, 3].
    """
    high = low + (_BLOCK - 1)
    xx, xy, yy = conics.unbind(-1)
    near = low.clamp_min(0) + high.clamp_max(0)  # 0, or the facing side
    near_x, near_y = near.unbind(-1)
    best_y = torch.clamp(-xy * near_x / yy, low[:, 1], high[:, 1])
    best_x = torch.clamp(-xy * near_y / xx, low[:, 0], high[:, 0])
    beside = 0.5 * (xx * near_x**2 + yy * best_y**2) + xy * near_x * best_y
    above = 0.5 * (xx * best_x**2 + yy * near_y**2) + xy * best_x * near_y
    return torch.minimum(beside, above)


@dataclass(frozen=True)
class _PairTerms:
    """What one pair's Gaussian is, seen from the centre of its block."""

    offset: Tensor  # [M, 2] the Gaussian's centre, from the block's
    conics: Tensor  # [M, 3]
    slopes: Tensor  # [M, 2] conic · offset

    @staticmethod
    def of(means2d: Tensor, conics: Tensor, pairs: _Pairs, grid: _Grid) -> _PairTerms:
        offset = means2d[0].index_select(0, pairs.gaussians) - grid.centers(
            pairs.blocks, means2d.dtype
        )
        conics = conics.index_select(0, pairs.gaussians)
        (x, y), (xx, xy, yy) = offset.unbind(-1), conics.unbind(-1)
        return _PairTerms(offset, conics, torch.stack([xx * x + xy * y, xy * x + yy * y], -1))

    def log_alpha(self, opacities: Tensor) -> Tensor:
        """[M] opacities -> [M + 1, 6] coefficients of log(alpha) for `_monomials`.

        The last row is for slots without a pair: it makes alpha 0.
        """
        xx, xy, yy = self.conics.unbind(-1)
        constant = torch.log(opacities) - 0.5 * (self.offset * self.slopes).sum(-1)
        columns = [constant, *self.slopes.unbind(-1), -0.5 * xx, -xy, -0.5 * yy]
        nothing = self.conics.new_tensor([[-1e4, 0, 0, 0, 0, 0]])
        return torch.cat([torch.stack(columns, -1), nothing])


@dataclass(frozen=True)
class _Slice:
    """At most _SLICE_DEPTH successive Gaussians of each of t blocks, at their p pixels each."""

    blocks: Tensor  # [t]
    slots: Tensor  # [t, K] pair numbers; M stands for no pair
    transmittance: Tensor  # [t, p] in front of the slice


@dataclass(frozen=True)
class _Blend:
    """How the Gaussians of one slice blend."""

    weights: Tensor  # [t, K, p] alpha · the transmittance in front of it; 0 past a pixel's end
    ratios: Tensor  # [t, K, p] alpha / (1 - alpha)


def _blend(alpha: Tensor, transmittance: Tensor) -> tuple[_Blend, Tensor]:
    """
    Args:
        alpha: [t, K, p], clamped; is overwritten.
        transmittance: [t, p] in front of the slice.

    Returns:
        the blend, and the transmittance [t, p] behind the slice as if pixels never ended.
    """
    functional.threshold(alpha, MIN_ALPHA, 0.0, inplace=True)
    through = 1.0 - alpha
    ratios = alpha.div_(through)
    layers = through.unbind(1)  # K times [t, p]
    layers[0].mul_(transmittance)
    for before, layer in pairwise(layers):  # faster than torch.cumprod
        layer.mul_(before)
    behind = layers[-1].clone()
    if float(behind.min()) <= MIN_TRANSMITTANCE:
        functional.threshold(through, MIN_TRANSMITTANCE, 0.0, inplace=True)
    # The weight is alpha · transmittance before it = alpha / (1 - alpha) · transmittance after it.
    return _Blend(through.mul_(ratios), ratios), behind


class _Compositor:
    """Blends the pairs of one image, and finds the gradients of that.

    Args:
        means2d: [1, N, 2].
        conics: [N, 3].
        opacities: [N].
        features: [N, D] what is blended: colours, depth.
        pairs: which Gaussians to blend where.
        grid: the image.
    """

    def __init__(
        self,
        means2d: Tensor,
        conics: Tensor,
        opacities: Tensor,
        features: Tensor,
        pairs: _Pairs,
        grid: _Grid,
    ) -> None:
        self._pairs = pairs
        self._grid = grid
        # Their gradient is divided by them, and those without a pair may be 0.
        self._opacities = opacities.clamp_min(MIN_ALPHA)
        self._monomials = _monomials(means2d.dtype)
        self._terms = _PairTerms.of(means2d, conics, pairs, grid)
        pair_opacities = opacities.index_select(0, pairs.gaussians)
        # As powers of 2: exp2 is three times faster than exp, and far more where alpha underflows.
        self._log2_alpha = self._terms.log_alpha(pair_opacities).mul_(1.0 / math.log(2.0))
        self._is_clamped = functional.pad(pair_opacities > MAX_ALPHA, (0, 1))  # [M + 1]
        self._any_clamped = bool(self._is_clamped.any())
        # With a channel of ones, the opacity of a pixel is blended as just another colour.
        with_ones = functional.pad(features, (0, 1), value=1.0)
        self._features = functional.pad(
            with_ones.index_select(0, pairs.gaussians), (0, 0, 0, 1)
        )  # [M + 1, D + 1]
        self._slices: list[_Slice] = []

    def forward(self) -> Tensor:
        """[num_blocks, D + 1, p], the last channel being the opacity."""
        like = self._features
        features = like.new_zeros(self._grid.num_blocks, like.shape[1], _PIXELS)
        transmittance = like.new_ones(self._grid.num_blocks, _PIXELS)
        for blocks, slots in self._walk(transmittance):
            piece = _Slice(blocks, slots, transmittance[blocks])
            blend, transmittance[blocks] = self._blend(piece)
            # [t, D + 1, K] · [t, K, p]
            features[blocks] += torch.bmm(self._features_of(slots).transpose(1, 2), blend.weights)
            self._slices.append(piece)
        return features

    def _walk(self, transmittance: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks [t] and slots [t, K], front to back, as long as there is something to blend."""
        counts = self._pairs.counts
        # Blocks with similar counts share a slice, so that few slots stay empty.
        by_count = torch.argsort(counts, descending=True)
        for start in range(0, int(counts.max()), _SLICE_DEPTH):
            going_on = (counts > start) & (transmittance.amax(-1) > MIN_TRANSMITTANCE)
            for blocks in by_count[going_on[by_count]].split(_SLICE_BLOCKS):
                if len(blocks) == 0:
                    return
                left = counts[blocks] - start
                depth = torch.arange(min(_SLICE_DEPTH, int(left[0])))
                slots = (self._pairs.first[blocks] + start)[:, None] + depth
                yield blocks, torch.where(depth < left[:, None], slots, len(self._pairs))

    def _features_of(self, slots: Tensor) -> Tensor:
        """[t, K] -> [t, K, D + 1]."""
        return self._features.index_select(0, slots.view(-1)).view(*slots.shape, -1)

    def _blend(self, piece: _Slice) -> tuple[_Blend, Tensor]:
        coefficients = self._log2_alpha.index_select(0, piece.slots.view(-1))
        alpha = torch.mm(coefficients, self._monomials).exp2_()
        if self._any_clamped:
            alpha.clamp_(max=MAX_ALPHA)
        return _blend(alpha.view(*piece.slots.shape, _PIXELS), piece.transmittance)

    def backward(self, gradient: Tensor, absolute: bool) -> _Gradients:
        """Gradients with respect to the inputs.

        With w the weights, c·g a Gaussian's features times the pixel's gradient, and k counting
        front to back: d loss / d log(alpha_k) = w_k (c_k·g) - alpha_k / (1 - alpha_k) sum over
        j > k of w_j (c_j·g).

        Args:
            gradient: [num_blocks, D + 1, p] with respect to what `forward` returned.
            absolute: find `means2d_abs` too.
        """
        num_pairs = len(self._pairs)
        d_coefficients = torch.zeros_like(self._log2_alpha)
        d_features = torch.zeros_like(self._features)
        d_absolute = gradient.new_zeros(num_pairs + 1, 2) if absolute else None
        behind = torch.zeros_like(gradient[:, 0])  # [num_blocks, p] the sum so far
        for piece in reversed(self._slices):
            # Blended anew: keeping what `forward` blended saves a tenth of the time, if that, and
            # takes gigabytes for large images.
            blend, _ = self._blend(piece)
            pixels = gradient[piece.blocks]  # [t, D + 1, p]
            slots = piece.slots.view(-1)  # [t * K]
            # Products with few rows and many columns are the fast ones, hence the transposes.
            by_slot = torch.bmm(pixels, blend.weights.transpose(1, 2)).transpose(1, 2)
            d_features.index_copy_(0, slots, by_slot.reshape(len(slots), -1))

            d_log_alpha = torch.bmm(self._features_of(piece.slots), pixels).mul_(blend.weights)
            suffix = torch.empty_like(d_log_alpha)
            sums, layers = suffix.unbind(1), d_log_alpha.unbind(1)
            sums[-1].copy_(behind[piece.blocks])
            for k in range(len(layers) - 1, 0, -1):
                torch.add(sums[k], layers[k], out=sums[k - 1])
            behind[piece.blocks] = sums[0] + layers[0]
            d_log_alpha.addcmul_(blend.ratios, suffix, value=-1.0)

            flat = d_log_alpha.view(len(slots), _PIXELS)
            if self._any_clamped:
                self._stop_at_clamp(flat, blend.ratios.view_as(flat), slots)
            d_coefficients.index_copy_(0, slots, torch.mm(self._monomials, flat.T).T)
            if d_absolute is not None:
                d_absolute.index_copy_(0, slots, self._absolute(slots, flat))
        return self._gather(d_coefficients, d_features, d_absolute)

    def _stop_at_clamp(self, d_log_alpha: Tensor, ratios: Tensor, slots: Tensor) -> None:
        """Sets the gradient [t * K, p] to 0 where alpha was clamped."""
        rows = torch.nonzero(self._is_clamped[slots]).squeeze(-1)
        most = ratios.new_tensor(MAX_ALPHA)
        is_clamped = ratios[rows] >= most / (1.0 - most)
        d_log_alpha[rows] = d_log_alpha[rows].masked_fill_(is_clamped, 0.0)

    def _absolute(self, slots: Tensor, d_log_alpha: Tensor) -> Tensor:
        """[t * K, p] -> [t * K, 2] sum over pixels of |d loss of this pixel / d means2d|.

        d log(alpha) / d means2d is conic · (pixel - mean).
        """
        slots = slots.clamp_max(len(self._pairs) - 1)  # where there is no pair, the gradient is 0
        xx, xy, yy = self._terms.conics.index_select(0, slots).unbind(-1)
        slope_x, slope_y = self._terms.slopes.index_select(0, slots).unbind(-1)
        linear = self._monomials[:3]  # 1, x, y
        along_x = torch.mm(torch.stack([-slope_x, xx, xy], -1), linear)
        along_y = torch.mm(torch.stack([-slope_y, xy, yy], -1), linear)
        return torch.stack(
            [along.mul_(d_log_alpha).abs_().sum(-1) for along in (along_x, along_y)], -1
        )

    def _gather(
        self, d_coefficients: Tensor, d_features: Tensor, d_absolute: Tensor | None
    ) -> _Gradients:
        """Gradients of slots [M + 1, ...] -> of Gaussians, by the chain rule through _PairTerms."""
        num_features = d_features.shape[1] - 1
        xx, xy, yy = self._terms.conics.unbind(-1)
        x, y = self._terms.offset.unbind(-1)
        slope_x, slope_y = self._terms.slopes.unbind(-1)
        d_1, d_x, d_y, d_xx, d_xy, d_yy = d_coefficients[:-1].unbind(-1)
        columns = [
            xx * d_x + xy * d_y - slope_x * d_1,
            xy * d_x + yy * d_y - slope_y * d_1,
            x * d_x - 0.5 * (x * x * d_1 + d_xx),
            y * d_x + x * d_y - x * y * d_1 - d_xy,
            y * d_y - 0.5 * (y * y * d_1 + d_yy),
            d_1,
        ]
        per_pair = [torch.stack(columns, -1), d_features[:-1, :-1]]
        if d_absolute is not None:
            per_pair.append(d_absolute[:-1])
        stacked = torch.cat(per_pair, -1)
        summed = stacked.new_zeros(len(self._opacities), stacked.shape[1])
        summed.index_add_(0, self._pairs.gaussians, stacked)
        d_log_opacity = summed[:, 5]
        return _Gradients(
            means2d=summed[None, :, :2],
            conics=summed[:, 2:5],
            opacities=d_log_opacity / self._opacities,
            features=summed[:, 6 : 6 + num_features],
            means2d_abs=None if d_absolute is None else summed[None, :, 6 + num_features :],
        )


@dataclass(frozen=True)
class _Gradients:
    means2d: Tensor  # [1, N, 2]
    conics: Tensor  # [N, 3]
    opacities: Tensor  # [N]
    features: Tensor  # [N, D]
    means2d_abs: Tensor | None  # [1, N, 2]


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        means2d: Tensor,
        conics: Tensor,
        opacities: Tensor,
        features: Tensor,
        pairs: _Pairs,
        grid: _Grid,
        absgrad: bool,
    ) -> Tensor:
        compositor = _Compositor(means2d, conics, opacities, features, pairs, grid)
        ctx.save_for_backward(means2d)
        ctx.compositor = compositor
        ctx.absgrad = absgrad
        return compositor.forward()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        (means2d,) = ctx.saved_tensors
        gradients = ctx.compositor.backward(gradient, ctx.absgrad)
        if ctx.absgrad:
            # Where gsplat's DefaultStrategy looks for it.
            means2d.absgrad = gradients.means2d_abs
        return (
            gradients.means2d,
            gradients.conics,
            gradients.opacities,
            gradients.features,
            None,
            None,
            None,
        )


def rasterization(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,  # noqa: N803
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    packed: bool = False,
    tile_size: int = 16,
    backgrounds: Tensor | None = None,
    render_mode: RenderMode = "RGB",
    sparse_grad: bool = False,
    absgrad: bool = False,
    rasterize_mode: RasterizeMode = "classic",
    channel_chunk: int = 32,
    distributed: bool = False,
    camera_model: CameraModel = "pinhole",
    covars: Tensor | None = None,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """`gsplat.rasterization` (gsplat 1.4.0) of one camera, on the CPU.

    Every argument that is not named below means what it means there, and the results are the CUDA
    kernels' up to the order of sums. Gradients reach means, quats, scales, opacities, colors,
    covars, viewmats and backgrounds, also through the directions of the spherical harmonics.

    Args:
        means: [N, 3] centres in the world, float32 or float64 like all of the tensors.
        quats: [N, 4] rotations as w, x, y, z, of any length.
        scales: [N, 3] standard deviations along the Gaussian's axes.
        opacities: [N] in 0..1.
        colors: [N, D] or [1, N, D] colours; with `sh_degree`, [N, K, 3] or [1, N, K, 3]
            coefficients, of which the first (sh_degree + 1)² are used.
        viewmats: [1, 4, 4] world to camera; x right, y down, z forward.
        Ks: [1, 3, 3] intrinsics in pixels.
        width, height: pixels.
        packed, sparse_grad, distributed: not supported.
        tile_size: pixels; Gaussians end at the border of such tiles, as in the CUDA kernels. A
            multiple of 8.
        backgrounds: [1, D] colour behind everything; of no effect without colours.
        absgrad: the backward pass sets `info["means2d"].absgrad`, [1, N, 2]: gradients of single
            pixels, summed by their absolute values.
        channel_chunk: of no effect.
        covars: [N, 3, 3] instead of quats and scales.

    Returns:
        image [1, height, width, D], with depth as the last or only channel in the modes that have
        it; opacity [1, height, width, 1]; and what `gsplat.DefaultStrategy` and nerfstudio read
        of gsplat's info: radii, means2d, depths, conics, opacities and sizes.

    Raises:
        ValueError: an argument has another shape, device or value than is supported.
    """
    _check_options(
        packed=packed,
        sparse_grad=sparse_grad,
        distributed=distributed,
        render_mode=render_mode,
        rasterize_mode=rasterize_mode,
        camera_model=camera_model,
        tile_size=tile_size,
    )
    num_gaussians = len(means)
    _check_tensor("means", means, means, (num_gaussians, 3))
    if covars is None:
        _check_tensor("quats", quats, means, (num_gaussians, 4))
        _check_tensor("scales", scales, means, (num_gaussians, 3))
        covars, _ = _quat_scale_to_covar_preci(quats, scales, True, False)
    assert covars is not None
    _check_tensor("covars", covars, means, (num_gaussians, 3, 3))
    _check_tensor("opacities", opacities, means, (num_gaussians,))
    _check_tensor("viewmats", viewmats, means, (1, 4, 4))
    _check_tensor("Ks", Ks, means, (1, 3, 3))

    splats = _project(
        means,
        covars,
        opacities,
        viewmats,
        Ks,
        _Lens(width, height, near_plane, far_plane, radius_clip, eps2d, camera_model),
        antialiased=rasterize_mode == "antialiased",
    )
    features = _features(means, colors, viewmats, splats, sh_degree, render_mode)
    grid = _Grid(width, height)
    pairs = _pair_up(splats, grid, tile_size)
    blocks = _Composite.apply(
        splats.means2d, splats.conics, splats.opacities, features, pairs, grid, absgrad
    )
    image = grid.to_image(blocks)[None]
    render, alpha = image[..., :-1], image[..., -1:]
    if backgrounds is not None and render_mode not in ("D", "ED"):
        num_depths = 0 if render_mode == "RGB" else 1
        _check_tensor("backgrounds", backgrounds, means, (1, features.shape[1] - num_depths))
        backdrop = functional.pad(backgrounds, (0, num_depths))  # depth goes on black
        render = render + (1.0 - alpha) * backdrop[:, None, None]
    if render_mode in ("ED", "RGB+ED"):
        expected_depth = render[..., -1:] / alpha.clamp(min=1e-10)
        render = torch.cat([render[..., :-1], expected_depth], -1)
    info = {
        "camera_ids": None,
        "gaussian_ids": None,
        "radii": splats.radii[None],
        "means2d": splats.means2d,
        "depths": splats.depths[None],
        "conics": splats.conics[None],
        "opacities": splats.opacities[None],
        "width": width,
        "height": height,
        "tile_size": tile_size,
        "n_cameras": 1,
    }
    return render, alpha, info


def _check_options(
    *,
    packed: bool,
    sparse_grad: bool,
    distributed: bool,
    render_mode: str,
    rasterize_mode: str,
    camera_model: str,
    tile_size: int,
) -> None:
    unsupported = {"packed": packed, "sparse_grad": sparse_grad, "distributed": distributed}
    for name, is_set in unsupported.items():
        if is_set:
            raise ValueError(f"{name}=True is not supported on the CPU")
    for name, value, choices in (
        ("render_mode", render_mode, get_args(RenderMode)),
        ("rasterize_mode", rasterize_mode, get_args(RasterizeMode)),
        ("camera_model", camera_model, get_args(CameraModel)),
    ):
        if value not in choices:
            raise ValueError(f"{name} is {value!r}, not one of {', '.join(choices)}")
    if tile_size <= 0 or tile_size % _BLOCK != 0:
        raise ValueError(f"tile_size is {tile_size}, not a multiple of {_BLOCK}")


def _check_tensor(name: str, tensor: Tensor, like: Tensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name} has shape {list(tensor.shape)}, not {list(shape)}")
    if tensor.device.type != "cpu":
        raise ValueError(f"{name} is on {tensor.device}, not on the cpu")
    if tensor.dtype not in (torch.float32, torch.float64) or tensor.dtype != like.dtype:
        raise ValueError(
            f"{name} is {tensor.dtype}; all tensors are float32 or all are float64, like means"
        )


@dataclass(frozen=True)
class _Lens:
    """What of projecting is not a tensor."""

    width: int
    height: int
    near_plane: float
    far_plane: float
    radius_clip: float
    eps2d: float
    camera_model: CameraModel


def _project(
    means: Tensor,
    covars: Tensor,
    opacities: Tensor,
    viewmats: Tensor,
    intrinsics: Tensor,
    lens: _Lens,
    antialiased: bool,
) -> _Splats:
    """Shapes as in `rasterization`."""
    with torch.no_grad():
        depths = means @ viewmats[0, 2, :3] + viewmats[0, 2, 3]
        in_range = (depths > lens.near_plane) & (depths < lens.far_plane)
    num_gaussians = len(means)
    # Gaussians behind the camera are left out beforehand: gsplat's reference code divides by their
    # depth, and a depth of 0 makes NaN of gradients that should be 0.
    front = None if bool(in_range.all()) else torch.nonzero(in_range).squeeze(-1)
    if front is not None:
        means, covars, opacities = means[front], covars[front], opacities[front]
    radii, means2d, depths, conics, _ = _fully_fused_projection(
        means,
        covars,
        viewmats,
        intrinsics,
        lens.width,
        lens.height,
        lens.eps2d,
        lens.near_plane,
        lens.far_plane,
        camera_model=lens.camera_model,
    )
    if antialiased:
        opacities = opacities * _compensation(conics[0], lens.eps2d)
    radii = torch.where(radii > lens.radius_clip, radii, 0)
    if front is not None:
        radii, means2d, depths, conics, opacities = (
            torch.zeros(num_gaussians, *values.shape[1:], dtype=values.dtype).index_copy(
                0, front, values
            )
            for values in (radii[0], means2d[0], depths[0], conics[0], opacities)
        )
        return _Splats(radii, means2d[None], depths, conics, opacities)
    return _Splats(radii[0], means2d, depths[0], conics[0], opacities)


def _compensation(conics: Tensor, eps2d: float) -> Tensor:
    """[N, 3] conics of Gaussians blurred by `eps2d` -> [N] by how much blurring dilutes them.

    The root of the ratio of determinants before and after. gsplat's reference code has that too,
    but the gradient of its root is NaN for needles, whose determinant rounds to 0.
    """
    xx, xy, yy = (eps2d * conics).unbind(-1)
    ratio = (1.0 - xx) * (1.0 - yy) - xy**2
    return ratio.clamp_min(1e-12).sqrt()


def _features(
    means: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    splats: _Splats,
    sh_degree: int | None,
    render_mode: RenderMode,
) -> Tensor:
    """[N, D] what to blend: colours, depths or both."""
    if render_mode in ("D", "ED"):
        return splats.depths[:, None]
    if colors.dim() == (3 if sh_degree is None else 4) and len(colors) == 1:
        colors = colors[0]
    num_gaussians = len(means)
    if sh_degree is None:
        _check_tensor("colors", colors, means, (num_gaussians, *colors.shape[-1:]))
    else:
        _check_tensor("colors", colors, means, (num_gaussians, *colors.shape[1:2], 3))
        num_bases = (sh_degree + 1) ** 2
        if num_bases > colors.shape[1]:
            raise ValueError(
                f"sh_degree {sh_degree} takes {num_bases} coefficients, not {colors.shape[1]}"
            )
        directions = means - torch.inverse(viewmats)[0, :3, 3]
        harmonics = _spherical_harmonics(sh_degree, directions, colors[:, :num_bases])
        colors = torch.clamp_min(harmonics + 0.5, 0.0)
    if render_mode == "RGB":
        return colors
    return torch.cat([colors, splats.depths[:, None]], -1)
