"""The CPU rasterizer against a dense reference, and where there is CUDA against gsplat."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from gsplat.strategy import DefaultStrategy
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from t3dgs_masks.plugin.cpu_rasterizer import rasterization

# In float64 both sides agree but for rounding: polynomials in pixels around a block's centre
# against those around the Gaussian's, and sums in another order. Gradients relative to the largest.
# (Seen: 3e-15 and 2e-14.)
IMAGE_TOLERANCE = 1e-12
GRADIENT_TOLERANCE = 1e-11
# Rounding of float32, on average. An opacity that is at 1/255 but for rounding may be skipped on
# one side alone. (Seen: 2e-7 on average, 1e-6 at most, and 1e-6 in gradients.)
FLOAT32_MEAN_TOLERANCE = 2e-6
FLOAT32_IMAGE_TOLERANCE = 1.2 / 255
FLOAT32_GRADIENT_TOLERANCE = 1e-2

PARAMETERS = ("means", "quats", "scales", "opacities", "colors", "viewmats")


@dataclass(frozen=True)
class Scene:
    """What a rasterization takes; N Gaussians, one camera."""

    means: Tensor  # [N, 3]
    quats: Tensor  # [N, 4]
    scales: Tensor  # [N, 3]
    opacities: Tensor  # [N]
    colors: Tensor  # [N, 3], or [N, 16, 3] with sh_degree
    viewmats: Tensor  # [1, 4, 4]
    intrinsics: Tensor  # [1, 3, 3]
    width: int
    height: int
    sh_degree: int | None = None

    def leaves(self) -> Scene:
        """The same values, ready to collect gradients."""
        return replace(
            self, **{n: getattr(self, n).detach().clone().requires_grad_() for n in PARAMETERS}
        )

    def to(self, device: str) -> Scene:
        tensors = {n: getattr(self, n).to(device) for n in (*PARAMETERS, "intrinsics")}
        return replace(self, **tensors)

    def gradients(self) -> dict[str, Tensor]:
        gradients = {}
        for name in PARAMETERS:
            gradient = getattr(self, name).grad
            assert gradient is not None, name
            gradients[name] = gradient
        return gradients


def random_scene(
    num: int,
    width: int,
    height: int,
    *,
    seed: int = 0,
    sh_degree: int | None = None,
    opaque: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Scene:
    """Gaussians of 1 to 20 pixels all over the image, some outside and some behind the camera.

    Args:
        opaque: added to logits of the opacities.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    focal = 0.9 * max(width, height)
    depth = 4.0 * uniform(num) + 1.0
    depth = torch.where(uniform(num) < 0.1, -depth, depth)
    across = (uniform(num, 2) - 0.5) * torch.tensor([width, height]) * 1.3 / focal
    camera = torch.cat([across * depth[:, None], depth[:, None]], -1)
    # A camera somewhere, looking somewhere.
    rotation, _ = torch.linalg.qr(torch.eye(3, dtype=torch.float64) + 0.3 * normal(3, 3))
    rotation = rotation * torch.sign(torch.linalg.det(rotation))
    translation = normal(3)
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:3, :3], viewmat[:3, 3] = rotation, translation
    size = torch.exp(normal(num, 3) * 0.7) * 0.05
    scene = Scene(
        means=(camera - translation) @ rotation,
        quats=normal(num, 4),
        scales=size * depth.abs()[:, None],
        opacities=torch.sigmoid(2.0 * normal(num) + opaque),
        colors=uniform(num, 3) if sh_degree is None else 0.4 * normal(num, 16, 3),
        viewmats=viewmat[None],
        intrinsics=torch.tensor(
            [[[focal, 0, 0.47 * width], [0, 1.1 * focal, 0.55 * height], [0, 0, 1]]],
            dtype=torch.float64,
        ),
        width=width,
        height=height,
        sh_degree=sh_degree,
    )
    tensors = {n: getattr(scene, n).to(dtype) for n in (*PARAMETERS, "intrinsics")}
    return replace(scene, **tensors)


def render(scene: Scene, **options: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
    return rasterization(
        scene.means,
        scene.quats,
        scene.scales,
        scene.opacities,
        scene.colors,
        scene.viewmats,
        scene.intrinsics,
        scene.width,
        scene.height,
        sh_degree=scene.sh_degree,
        **options,
    )


# --- the reference --------------------------------------------------------------------------------


def rotation_matrices(quats: Tensor) -> Tensor:
    """[N, 4] -> [N, 3, 3]."""
    w, x, y, z = (quats / quats.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def harmonics(directions: Tensor, degree: int) -> Tensor:
    """[N, 3] -> [N, (degree + 1)²] as in the code of the 3DGS paper (utils/sh_utils.py)."""
    x, y, z = (directions / directions.norm(dim=-1, keepdim=True)).unbind(-1)
    bases = [0.28209479177387814 + 0 * x]
    bases += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    bases += [
        1.0925484305920792 * x * y,
        -1.0925484305920792 * y * z,
        0.31539156525252005 * (2 * z * z - x * x - y * y),
        -1.0925484305920792 * x * z,
        0.5462742152960396 * (x * x - y * y),
        -0.5900435899266435 * y * (3 * x * x - y * y),
        2.890611442640554 * x * y * z,
        -0.4570457994644658 * y * (4 * z * z - x * x - y * y),
        0.3731763325901154 * z * (2 * z * z - 3 * x * x - 3 * y * y),
        -0.4570457994644658 * x * (4 * z * z - x * x - y * y),
        1.445305721320277 * z * (x * x - y * y),
        -0.5900435899266435 * x * (x * x - 3 * y * y),
    ]
    return torch.stack(bases[: (degree + 1) ** 2], -1)


@dataclass(frozen=True)
class Reference:
    image: Tensor  # [1, H, W, D]
    alpha: Tensor  # [1, H, W, 1]
    pixel_means: Tensor  # [N visible, H·W, 2] each pixel's own copy of means2d
    visible: Tensor  # [N visible] indices, front to back


def reference(
    scene: Scene, *, antialiased: bool = False, depth: bool = False, tile_size: int = 16
) -> Reference:
    """One Gaussian after another over all pixels, by autograd: nothing culled, nothing tiled."""
    rotation, translation = scene.viewmats[0, :3, :3], scene.viewmats[0, :3, 3]
    camera_means = scene.means @ rotation.T + translation
    front = torch.nonzero(camera_means[:, 2] > 0.01).squeeze(-1)
    order = front[torch.argsort(camera_means[front, 2])]
    x, y, z = camera_means[order].unbind(-1)
    (fx, _, cx), (_, fy, cy), _ = scene.intrinsics[0]
    means2d = torch.stack([fx * x / z + cx, fy * y / z + cy], -1)

    # Covariances in the image. gsplat clamps where the projection is linearised to the image and
    # 15 % of its size around it.
    limit_x, limit_y = 0.15 * scene.width / fx, 0.15 * scene.height / fy
    x = z * (x / z).clamp(-cx / fx - limit_x, (scene.width - cx) / fx + limit_x)
    y = z * (y / z).clamp(-cy / fy - limit_y, (scene.height - cy) / fy + limit_y)
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        [
            torch.stack([fx / z, zero, -fx * x / z**2], -1),
            torch.stack([zero, fy / z, -fy * y / z**2], -1),
        ],
        -2,
    )
    axes = rotation_matrices(scene.quats[order]) * scene.scales[order, None]
    half = jacobian @ rotation @ axes  # [N, 2, 3]
    sharp = half @ half.transpose(1, 2)
    covariance = sharp + 0.3 * torch.eye(2, dtype=sharp.dtype)
    conics = torch.linalg.inv(covariance)
    opacities = scene.opacities[order]
    if antialiased:
        opacities = opacities * torch.sqrt(torch.linalg.det(sharp) / torch.linalg.det(covariance))
    middle = covariance.diagonal(dim1=1, dim2=2).mean(-1)
    spread = (middle**2 - torch.linalg.det(covariance)).clamp_min(0.01).sqrt()
    radii = (3.0 * (middle + spread).sqrt()).ceil().detach()

    if scene.sh_degree is None:
        colors = scene.colors[order]
    else:
        center = torch.linalg.inv(scene.viewmats)[0, :3, 3]
        bases = harmonics(scene.means[order] - center, scene.sh_degree)
        used = scene.colors[order, : bases.shape[1]]
        colors = ((bases[..., None] * used).sum(1) + 0.5).clamp_min(0.0)
    if depth:
        colors = torch.cat([colors, z[:, None]], -1)

    row, column = torch.meshgrid(
        torch.arange(scene.height), torch.arange(scene.width), indexing="ij"
    )
    pixels = torch.stack([column.reshape(-1), row.reshape(-1)], -1)  # [P, 2]
    tiles = pixels // tile_size
    pixel_means = means2d[:, None].expand(-1, len(pixels), 2).clone()
    if pixel_means.requires_grad:
        pixel_means.retain_grad()
    transmittance = scene.means.new_ones(len(pixels))
    image = scene.means.new_zeros(len(pixels), colors.shape[1])
    ended = torch.zeros(len(pixels), dtype=torch.bool)
    for k in range(len(order)):
        first = ((means2d[k] - radii[k]) / tile_size).floor()
        behind_last = ((means2d[k] + radii[k]) / tile_size).ceil()
        reached = ((tiles >= first) & (tiles < behind_last)).all(-1)
        delta = pixels + 0.5 - pixel_means[k]
        sigma = 0.5 * torch.einsum("pi,ij,pj->p", delta, conics[k], delta)
        alpha = (opacities[k] * torch.exp(-sigma)).clamp_max(0.999)
        alpha = torch.where(reached & (alpha >= 1 / 255), alpha, 0.0)
        ended = ended | (transmittance * (1 - alpha) <= 1e-4)
        alpha = torch.where(ended, 0.0, alpha)
        image = image + (transmittance * alpha)[:, None] * colors[k]
        transmittance = transmittance * (1 - alpha)
    shape = (1, scene.height, scene.width, -1)
    return Reference(image.reshape(shape), (1 - transmittance).reshape(shape), pixel_means, order)


def loss_of(image: Tensor, alpha: Tensor) -> Tensor:
    """Something with a different gradient at every pixel and channel."""
    weights = torch.sin(torch.arange(image.numel(), dtype=image.dtype, device=image.device))
    squared = (image**2).reshape(-1) * (1.5 + weights)
    return squared.sum() + (alpha.reshape(-1) * weights[: alpha.numel()]).sum()


def assert_gradients_agree(ours: Scene, theirs: Scene, tolerance: float) -> None:
    for name, expected in theirs.gradients().items():
        error = (ours.gradients()[name] - expected).abs().max()
        assert error <= tolerance * max(1.0, float(expected.abs().max())), name


# --- against the reference ------------------------------------------------------------------------

CASES = {
    "one tile": random_scene(40, 16, 16),
    "parts of tiles": random_scene(90, 45, 29, seed=1),
    "opaque, pixels end early": random_scene(150, 33, 24, seed=2, opaque=4.0),
    "deeper than a slice": random_scene(300, 20, 12, seed=3, opaque=-2.0),
    "harmonics of degree 0": random_scene(40, 24, 24, seed=4, sh_degree=0),
    "harmonics of degree 1": random_scene(40, 24, 24, seed=5, sh_degree=1),
    "harmonics of degree 2": random_scene(40, 24, 24, seed=6, sh_degree=2),
    "harmonics of degree 3": random_scene(40, 24, 24, seed=7, sh_degree=3),
}


@pytest.mark.parametrize("scene", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("antialiased", [False, True], ids=["classic", "antialiased"])
def test_images_and_gradients(scene: Scene, antialiased: bool) -> None:
    ours, theirs = scene.leaves(), scene.leaves()
    image, alpha, _ = render(ours, rasterize_mode="antialiased" if antialiased else "classic")
    expected = reference(theirs, antialiased=antialiased)
    assert (image - expected.image).abs().max() <= IMAGE_TOLERANCE
    assert (alpha - expected.alpha).abs().max() <= IMAGE_TOLERANCE
    assert alpha.max() > 0.5  # there is something to see
    loss_of(image, alpha).backward()
    loss_of(expected.image, expected.alpha).backward()
    assert_gradients_agree(ours, theirs, GRADIENT_TOLERANCE)


def test_gradients_of_single_pixels() -> None:
    """`absgrad` sums absolute values where `grad` sums values."""
    ours, theirs = random_scene(80, 37, 26, seed=8).leaves(), random_scene(80, 37, 26, seed=8)
    image, alpha, info = render(ours, absgrad=True)
    info["means2d"].retain_grad()
    expected = reference(theirs.leaves())
    loss_of(image, alpha).backward()
    loss_of(expected.image, expected.alpha).backward()
    of_pixels = expected.pixel_means.grad
    assert of_pixels is not None
    scale = of_pixels.abs().sum(1).max()
    for ours_of_all, by_gaussian in (
        (info["means2d"].absgrad, of_pixels.abs().sum(1)),
        (info["means2d"].grad, of_pixels.sum(1)),
    ):
        everyone = torch.zeros(80, 2, dtype=torch.float64)
        everyone[expected.visible] = by_gaussian
        assert ours_of_all.shape == (1, 80, 2)
        assert (ours_of_all[0] - everyone).abs().max() <= GRADIENT_TOLERANCE * scale


@pytest.mark.parametrize("mode", ["RGB+D", "RGB+ED", "D", "ED"])
def test_depth(mode: str) -> None:
    scene = random_scene(60, 29, 21, seed=9)
    ours, theirs = scene.leaves(), scene.leaves()
    image, alpha, _ = render(ours, render_mode=mode)
    expected = reference(theirs, depth=True)
    colors, depth = expected.image[..., :3], expected.image[..., 3:]
    if mode in ("ED", "RGB+ED"):
        depth = depth / expected.alpha.clamp_min(1e-10)
    wanted = depth if mode in ("D", "ED") else torch.cat([colors, depth], -1)
    assert image.shape == wanted.shape
    assert (image - wanted).abs().max() <= IMAGE_TOLERANCE
    if mode in ("D", "ED"):
        ours, theirs = replace(ours, colors=ours.means), replace(theirs, colors=theirs.means)
    loss_of(image, alpha).backward()
    loss_of(wanted, expected.alpha).backward()
    assert_gradients_agree(ours, theirs, GRADIENT_TOLERANCE)


def test_background() -> None:
    scene = random_scene(20, 30, 20, seed=10).leaves()
    background = torch.tensor([[0.2, 0.5, 0.9]], dtype=torch.float64, requires_grad=True)
    image, alpha, _ = render(scene, backgrounds=background, render_mode="RGB+ED")
    bare, _, _ = render(scene, render_mode="RGB+ED")
    backdrop = (1 - alpha) * torch.nn.functional.pad(background, (0, 0))
    assert torch.equal(image[..., 3], bare[..., 3])
    assert torch.allclose(image[..., :3], bare[..., :3] + backdrop, atol=1e-12)
    image.sum().backward()
    assert background.grad is not None
    assert torch.allclose(background.grad, (1 - alpha).sum().expand(1, 3))


@settings(max_examples=25, deadline=None)
@given(
    num=st.integers(0, 40),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    seed=st.integers(0, 2**31),
    opaque=st.floats(-4.0, 8.0),
    tile_size=st.sampled_from([8, 16, 32]),
)
def test_any_size(
    num: int, width: int, height: int, seed: int, opaque: float, tile_size: int
) -> None:
    scene = random_scene(num, width, height, seed=seed, opaque=opaque)
    ours, theirs = scene.leaves(), scene.leaves()
    image, alpha, _ = render(ours, tile_size=tile_size)
    expected = reference(theirs, tile_size=tile_size)
    assert (image - expected.image).abs().max() <= IMAGE_TOLERANCE
    assert (alpha - expected.alpha).abs().max() <= IMAGE_TOLERANCE
    loss_of(image, alpha).backward()
    if len(expected.visible) == 0:
        assert all((gradient == 0).all() for gradient in ours.gradients().values())
        return
    loss_of(expected.image, expected.alpha).backward()
    assert_gradients_agree(ours, theirs, GRADIENT_TOLERANCE)


def test_float32() -> None:
    precise = random_scene(300, 64, 48, seed=11, sh_degree=3)
    ours, theirs = random_scene(300, 64, 48, seed=11, sh_degree=3, dtype=torch.float32), precise
    ours, theirs = ours.leaves(), theirs.leaves()
    image, alpha, _ = render(ours)
    exact_image, exact_alpha, _ = render(theirs)
    assert image.dtype == alpha.dtype == torch.float32
    assert (image - exact_image).abs().max() <= FLOAT32_IMAGE_TOLERANCE
    assert (image - exact_image).abs().mean() <= FLOAT32_MEAN_TOLERANCE
    loss_of(image, alpha).backward()
    loss_of(exact_image, exact_alpha).backward()
    assert_gradients_agree(ours, theirs, FLOAT32_GRADIENT_TOLERANCE)


# --- edges ----------------------------------------------------------------------------------------


def centered(num: int, **changes: Any) -> Scene:
    """`num` grey Gaussians straight ahead of a camera at the origin, one behind the other."""
    scene = Scene(
        means=torch.stack([torch.zeros(num), torch.zeros(num), 2.0 + torch.arange(num)], -1),
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(num, 1),
        scales=torch.full((num, 3), 0.2),
        opacities=torch.full((num,), 0.5),
        colors=torch.full((num, 3), 0.5),
        viewmats=torch.eye(4)[None],
        intrinsics=torch.tensor([[[30.0, 0, 16.5], [0, 30.0, 12.5], [0, 0, 1]]]),
        width=33,
        height=25,
    )
    return replace(scene, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"means": torch.tensor([[0.0, 0, -3], [0, 0, 0], [1, 2, 0], [0, 0, 0.005]])},
        {"means": torch.tensor([[90.0, 0, 2], [-90, 0, 2], [0, 90, 2], [0, -90, 2]])},
        {"opacities": torch.zeros(4)},
        {"opacities": torch.full((4,), 0.9 / 255)},
    ],
    ids=["behind the camera", "outside the image", "opacity 0", "opacity below the least"],
)
@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_nothing_to_see(changes: dict[str, Tensor], mode: str) -> None:
    scene = centered(4, **changes).leaves()
    image, alpha, info = render(scene, absgrad=True, rasterize_mode=mode, render_mode="RGB+ED")
    info["means2d"].retain_grad()
    assert (image == 0).all()
    assert (alpha == 0).all()
    (image.sum() + alpha.sum()).backward()
    assert all((gradient == 0).all() for gradient in scene.gradients().values())
    assert (info["means2d"].grad == 0).all()
    assert (info["means2d"].absgrad == 0).all()


def test_no_gaussians() -> None:
    image, alpha, info = render(centered(0))
    assert image.shape == (1, 25, 33, 3)
    assert (image == 0).all()
    assert (alpha == 0).all()
    assert info["radii"].shape == (1, 0)


def test_those_behind_change_nothing() -> None:
    behind = torch.tensor([[0.0, 0, -1], [0, 0, 0], [0.1, 0.1, 0]])
    front, both = centered(2).leaves(), centered(5)
    both = replace(both, means=torch.cat([behind, both.means[:2]])).leaves()
    images = [render(scene)[0] for scene in (front, both)]
    assert torch.equal(*images)
    for image in images:
        (image**2).sum().backward()
    for name, gradient in front.gradients().items():
        gradient_of_both = both.gradients()[name]
        if name != "viewmats":
            assert (gradient_of_both[:3] == 0).all(), name
            gradient_of_both = gradient_of_both[3:]
        assert torch.equal(gradient_of_both, gradient), name


def test_clamped_opacities_pass_on_no_gradient() -> None:
    scene = centered(2, opacities=torch.tensor([1.0, 0.5]), means=torch.tensor([[0.0, 0, 2]] * 2))
    scene = replace(scene, scales=torch.full((2, 3), 50.0)).leaves()  # flat over the whole image
    image, alpha, _ = render(scene)
    assert torch.allclose(alpha, torch.tensor(1 - 0.001 * 0.5), atol=2e-6)
    image.sum().backward()
    gradients = scene.gradients()
    assert gradients["opacities"][0] == 0
    assert gradients["opacities"][1] > 0
    assert (gradients["means"][0] == 0).all()
    assert (gradients["colors"][0] > 0).all()


def test_pixels_end_before_the_gaussian_that_would_close_them() -> None:
    flat = {"scales": torch.full((4, 3), 50.0), "opacities": torch.full((4,), 0.995)}
    _, alpha, _ = render(centered(4, **flat))
    # A second one would leave a transmittance of 3e-5.
    assert torch.allclose(alpha, torch.tensor(0.995), atol=1e-3)


def test_needles_have_finite_gradients() -> None:
    """Without care their compensation is the root of 0, whose gradient is infinite."""
    scene = centered(3, scales=torch.tensor([[1.0, 1e-9, 1e-9]] * 3)).leaves()
    image, _, _ = render(scene, rasterize_mode="antialiased")
    image.sum().backward()
    assert all(gradient.isfinite().all() for gradient in scene.gradients().values())


def test_radius_clip_and_far_plane() -> None:
    scene = centered(3)
    _, _, info = render(scene)
    radii = info["radii"][0]
    assert radii[0] > radii[1] > radii[2] > 0
    _, _, clipped = render(scene, radius_clip=float(radii[1]))
    assert (clipped["radii"][0] > 0).tolist() == [True, False, False]
    _, _, near = render(scene, far_plane=3.5, near_plane=2.5)
    assert (near["radii"][0] > 0).tolist() == [False, True, False]


def test_covariances_and_batched_colors() -> None:
    scene = random_scene(30, 24, 16, seed=12)
    axes = rotation_matrices(scene.quats) * scene.scales[:, None]
    image, _, _ = render(scene)
    other, _, _ = render(
        replace(scene, colors=scene.colors[None]), covars=axes @ axes.transpose(1, 2)
    )
    assert (image - other).abs().max() <= IMAGE_TOLERANCE


def test_backward_twice_and_without_gradients() -> None:
    scene = centered(3).leaves()
    image, _, _ = render(scene)
    image.sum().backward(retain_graph=True)
    once = {name: gradient.clone() for name, gradient in scene.gradients().items()}
    image.sum().backward()
    for name, gradient in scene.gradients().items():
        assert torch.allclose(gradient, 2 * once[name]), name
    with torch.no_grad():
        assert torch.equal(render(scene)[0], image)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"packed": True}, "packed=True"),
        ({"sparse_grad": True}, "sparse_grad=True"),
        ({"distributed": True}, "distributed=True"),
        ({"tile_size": 12}, "tile_size is 12, not a multiple of 8"),
        ({"render_mode": "rgb"}, "render_mode is 'rgb', not one of RGB, D"),
        ({"rasterize_mode": "sharp"}, "rasterize_mode is 'sharp'"),
        ({"camera_model": "equirect"}, "camera_model is 'equirect'"),
        ({"backgrounds": torch.zeros(1, 4)}, r"backgrounds has shape \[1, 4\], not \[1, 3\]"),
    ],
)
def test_unsupported_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render(centered(2), **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"viewmats": torch.eye(4).repeat(2, 1, 1)}, r"viewmats has shape \[2, 4, 4\]"),
        ({"opacities": torch.zeros(2, 1)}, r"opacities has shape \[2, 1\], not \[2\]"),
        ({"quats": torch.zeros(2, 4).double()}, "quats is torch.float64"),
        ({"means": torch.zeros(2, 3, dtype=torch.long)}, "means is torch.int64"),
        ({"colors": torch.zeros(3, 3)}, r"colors has shape \[3, 3\], not \[2, 3\]"),
        ({"colors": torch.zeros(2, 4, 3), "sh_degree": 2}, "takes 9 coefficients, not 4"),
        ({"scales": torch.zeros(2, 3, device="meta")}, "scales is on meta, not on the cpu"),
    ],
)
def test_unsupported_tensors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render(centered(2, **changes))


# --- in use ---------------------------------------------------------------------------------------


def parameters_of(scene: Scene) -> dict[str, torch.nn.Parameter]:
    """As splatfacto keeps them: logarithms and logits."""
    values = {
        "means": scene.means,
        "quats": scene.quats,
        "scales": scene.scales.log(),
        "opacities": torch.logit(scene.opacities),
        "colors": scene.colors,
    }
    return {name: torch.nn.Parameter(value.clone()) for name, value in values.items()}


def scene_of(parameters: Any, like: Scene) -> Scene:
    return replace(
        like,
        means=parameters["means"],
        quats=parameters["quats"],
        scales=parameters["scales"].exp(),
        opacities=torch.sigmoid(parameters["opacities"]),
        colors=parameters["colors"],
    )


def test_fits_an_image() -> None:
    wanted, _, _ = render(random_scene(12, 32, 24, seed=13, dtype=torch.float32))
    start = random_scene(12, 32, 24, seed=14, dtype=torch.float32)
    start = replace(start, viewmats=random_scene(12, 32, 24, seed=13).viewmats.float())
    camera_to_world = torch.linalg.inv(start.viewmats[0])
    grid = torch.cartesian_prod(torch.linspace(-1.3, 1.3, 4), torch.linspace(-0.9, 0.9, 3))
    ahead = torch.cat([grid, torch.full((12, 1), 3.0)], -1)
    start = replace(
        start,
        means=ahead @ camera_to_world[:3, :3].T + camera_to_world[:3, 3],
        scales=torch.full((12, 3), 0.3),
        opacities=torch.full((12,), 0.5),
        colors=torch.full((12, 3), 0.5),
    )
    parameters = parameters_of(start)
    optimizer = torch.optim.Adam(parameters.values(), lr=0.03)
    losses = []
    for _ in range(100):
        image, _, _ = render(scene_of(parameters, start))
        loss = ((image - wanted) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 10


@pytest.mark.parametrize("absgrad", [False, True])
def test_densifies_with_gsplats_strategy(absgrad: bool) -> None:
    wanted = torch.rand(1, 24, 32, 3, generator=torch.Generator().manual_seed(0))
    like = random_scene(30, 32, 24, seed=15, dtype=torch.float32)
    parameters = parameters_of(like)
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.Adam([parameter], lr=1e-2) for name, parameter in parameters.items()
    }
    strategy = DefaultStrategy(
        grow_grad2d=1e-5, refine_start_iter=4, refine_every=5, absgrad=absgrad
    )
    strategy.check_sanity(parameters, optimizers)
    state = strategy.initialize_state()
    for step in range(12):
        image, _, info = render(scene_of(parameters, like), absgrad=absgrad)
        strategy.step_pre_backward(parameters, optimizers, state, step, info)
        ((image - wanted) ** 2).mean().backward()
        strategy.step_post_backward(parameters, optimizers, state, step, info)
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
    assert len(parameters["means"]) > 30
    assert all(len(parameter) == len(parameters["means"]) for parameter in parameters.values())


# --- against the CUDA kernels ---------------------------------------------------------------------


def assert_mostly_agree(ours: Tensor, theirs: Tensor, typical: float, largest: float) -> None:
    """Differences relative to the largest value; the kernels compute in float32 with a fast exp.

    Args:
        typical: for 99 % of the values.
        largest: for all: an opacity at 1/255 or a transmittance at 1e-4 may fall on either side.
    """
    error = (ours - theirs).abs().reshape(-1) / theirs.abs().max()
    assert error.quantile(0.99) <= typical
    assert error.max() <= largest


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["classic", "antialiased"])
@pytest.mark.parametrize("sh_degree", [None, 0, 3])
@pytest.mark.parametrize("opaque", [0.0, 5.0])
def test_agrees_with_the_cuda_kernels(mode: str, sh_degree: int | None, opaque: float) -> None:
    from gsplat.rendering import rasterization as cuda_rasterization

    scene = random_scene(
        800, 101, 75, seed=16, sh_degree=sh_degree, opaque=opaque, dtype=torch.float32
    )
    ours, theirs = scene.leaves(), scene.to("cuda").leaves()
    options: dict[str, Any] = {
        "rasterize_mode": mode,
        "render_mode": "RGB+ED",
        "absgrad": True,
        "packed": False,
    }
    image, alpha, info = render(ours, **options)
    cuda_image, cuda_alpha, cuda_info = cuda_rasterization(
        theirs.means,
        theirs.quats,
        theirs.scales,
        theirs.opacities,
        theirs.colors,
        theirs.viewmats,
        theirs.intrinsics,
        theirs.width,
        theirs.height,
        sh_degree=sh_degree,
        **options,
    )
    for one in (info, cuda_info):
        one["means2d"].retain_grad()
    # Where there is next to no opacity, expected depth is a ratio of roundings: left out.
    covered = (alpha > 0.05).float()
    loss_of(image * covered, alpha).backward()
    loss_of(cuda_image * covered.cuda(), cuda_alpha).backward()

    cuda_radii = cuda_info["radii"].cpu()
    # A radius is rounded up to whole pixels, so rounding may show as one pixel now and then.
    assert (info["radii"] - cuda_radii).abs().max() <= 1
    assert (info["radii"] != cuda_radii).float().mean() < 0.01
    assert_mostly_agree(
        (image * covered).detach(), (cuda_image.cpu() * covered).detach(), 1e-4, 0.02
    )
    assert_mostly_agree(alpha.detach(), cuda_alpha.cpu().detach(), 1e-4, 0.02)
    for name, gradient in theirs.gradients().items():
        assert_mostly_agree(ours.gradients()[name], gradient.cpu(), 2e-3, 0.05)
    for attribute in ("grad", "absgrad"):
        assert_mostly_agree(
            getattr(info["means2d"], attribute),
            getattr(cuda_info["means2d"], attribute).cpu(),
            2e-3,
            0.05,
        )
