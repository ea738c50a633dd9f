import numpy as np
import pytest

from t3dgs_masks.synthetic.appearance import (
    SILHOUETTE_KINDS,
    WALKER_CHIN,
    WALKER_WAIST,
    WalkerBuild,
    noise_texture,
    random_colour,
    silhouette,
    walker_silhouette,
    walker_texture,
)


def test_texture_keeps_its_base_colour_and_obeys_the_amplitude() -> None:
    base = (90, 140, 60)
    plain = noise_texture(np.random.default_rng(0), 120, 160, base, 2.0)
    strong = noise_texture(np.random.default_rng(0), 120, 160, base, 30.0)
    assert plain.shape == (120, 160, 3)
    assert plain.dtype == np.uint8
    assert np.abs(plain.mean(axis=(0, 1)) - base).max() < 10
    assert strong.std() > plain.std()


def test_texture_is_a_function_of_the_seed() -> None:
    first, again, other = (
        noise_texture(np.random.default_rng(seed), 64, 64, (128, 128, 128), 20.0)
        for seed in (3, 3, 4)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("kind", SILHOUETTE_KINDS)
@pytest.mark.parametrize("size", [48, 96, 200])
def test_silhouettes_are_centred_and_inside_their_square(kind, size) -> None:
    for seed in range(10):
        coverage = silhouette(np.random.default_rng(seed), size, kind)
        object_mask = coverage > 127
        assert coverage.shape == (size, size)
        assert coverage.dtype == np.uint8
        assert 0.03 < object_mask.mean() < 0.7
        rows, columns = np.nonzero(object_mask)
        assert abs(rows.mean() / size - 0.5) < 0.2
        assert abs(columns.mean() / size - 0.5) < 0.2
        border = np.concatenate([object_mask[0], object_mask[:, 0], object_mask[:, -1]])
        assert not border.any()


def test_unknown_silhouette_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown silhouette kind"):
        silhouette(np.random.default_rng(0), 32, "teapot")  # type: ignore[arg-type]


def test_a_walker_is_one_piece_that_moves_its_legs_and_keeps_its_head() -> None:
    import cv2

    size = 128
    build = WalkerBuild.sample(np.random.default_rng(5))
    standing, striding = (walker_silhouette(size, build, phase) for phase in (0.0, np.pi / 2))
    for coverage in (standing, striding):
        pieces, _ = cv2.connectedComponents((coverage > 127).astype(np.uint8))
        assert pieces == 2  # the background and the figure
    head = slice(0, int(0.2 * size))
    legs = slice(int(0.7 * size), size)
    assert np.array_equal(standing[head], striding[head])
    assert not np.array_equal(standing[legs], striding[legs])


def test_walker_texture_has_bands_of_different_colours() -> None:
    size = 100
    chin, waist = int(WALKER_CHIN * size), int(WALKER_WAIST * size)
    differences = []
    for seed in range(8):
        texture = walker_texture(np.random.default_rng(seed), size, (200, 30, 30), 5.0)
        assert texture.shape == (size, size, 3)
        torso = texture[chin:waist].mean(axis=(0, 1))
        assert np.abs(torso - (200, 30, 30)).max() < 25
        differences.append(np.abs(texture[waist:].mean(axis=(0, 1)) - torso).sum())
    assert np.median(differences) > 60


def test_random_colour_keeps_its_distance() -> None:
    rng = np.random.default_rng(1)
    taken = np.array([[20, 20, 20], [200, 200, 200]])
    for _ in range(50):
        colour = random_colour(rng, avoid=taken, min_distance=60)
        assert np.abs(taken - colour).sum(axis=1).min() >= 60
        assert colour.min() >= 10
        assert colour.max() <= 245
