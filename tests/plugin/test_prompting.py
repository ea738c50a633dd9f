"""From residuals to the prompts of a refine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from t3dgs_masks.io.prompt_files import read_residual
from t3dgs_masks.io.prompts import open_prompts
from t3dgs_masks.plugin.prompting import (
    CoarseMaskConfig,
    ResidualLevel,
    coarse_mask,
    typical_level,
    write_prompts,
)

HEIGHT, WIDTH = 48, 64
NAMES = [f"view_{number}" for number in range(6)]


class DrawnFrames:
    names, height, width = NAMES, HEIGHT, WIDTH

    def __len__(self) -> int:
        return len(self.names)


def residual_of(number: int) -> np.ndarray:
    """Noise, and from view 2 on a person who walks to the right."""
    rng = np.random.default_rng(number)
    residual = np.abs(rng.normal(0, 0.02, (HEIGHT, WIDTH))).astype(np.float32)
    if number >= 2:
        residual[person(number)] = 0.4
    return residual


def person(number: int) -> tuple[slice, slice]:
    return np.s_[10:40, 8 * number : 8 * number + 8]


def every_residual() -> Iterator[tuple[str, np.ndarray]]:
    for number, name in enumerate(NAMES):
        yield name, residual_of(number)


@pytest.mark.parametrize("polarity", ["auto", "white-transient"])
def test_prompts_are_what_a_refine_reads(tmp_path: Path, polarity: str) -> None:
    write_prompts(tmp_path, every_residual(), CoarseMaskConfig())
    prompts = open_prompts(tmp_path, DrawnFrames(), polarity=polarity, notify=lambda _: None)
    assert prompts.polarity == "white-transient"
    assert list(prompts.frames_with_mask) == list(range(len(NAMES)))
    for number in range(len(NAMES)):
        prompt = prompts[number]
        assert prompt.residual is not None
        np.testing.assert_allclose(prompt.residual, residual_of(number), atol=1e-5)
        truth = np.zeros((HEIGHT, WIDTH), np.bool_)
        if number >= 2:
            truth[person(number)] = True
            assert prompt.coarse[truth].mean() > 0.9
        assert (prompt.coarse & ~truth).sum() <= 2 * (30 + 8) + 4  # smoothing: one pixel around


def test_what_the_user_ignores_is_not_in_the_coarse_masks(tmp_path: Path) -> None:
    ignored = np.zeros((HEIGHT, WIDTH), np.bool_)
    ignored[:25] = True
    write_prompts(
        tmp_path,
        every_residual(),
        CoarseMaskConfig(),
        ignored=lambda name: ignored if name == "view_3" else None,
    )
    prompts = open_prompts(
        tmp_path, DrawnFrames(), polarity="white-transient", notify=lambda _: None
    )
    assert not prompts[3].coarse[:25].any()
    assert prompts[3].coarse[25:40].any()
    assert prompts[4].coarse[:25].any()
    assert read_residual(tmp_path, "view_3")[:25].max() > 0.3  # residuals are as they are


def test_residuals_are_asked_for_one_by_one(tmp_path: Path) -> None:
    written_before: list[int] = []

    def residuals() -> Iterator[tuple[str, np.ndarray]]:
        for name, residual in every_residual():
            written_before.append(len(list(tmp_path.glob("diffs/*.png"))))
            yield name, residual

    write_prompts(tmp_path, residuals(), CoarseMaskConfig())
    assert written_before == list(range(len(NAMES)))


def test_a_few_odd_views_do_not_move_the_level() -> None:
    level = typical_level([(0.01, 0.02)] * 5 + [(0.5, 0.3)] * 2)
    assert level == ResidualLevel(0.01, 0.02)


def test_the_level_of_an_outlier() -> None:
    config = CoarseMaskConfig(outlier_sigmas=4, residual_floor=0.08)
    assert ResidualLevel(0.1, 0.05).outlier(config) == pytest.approx(0.3)
    assert ResidualLevel(0.01, 0.001).outlier(config) == 0.08


def test_spots_are_dropped() -> None:
    residual = np.zeros((HEIGHT, WIDTH), np.float32)
    residual[5, 5] = 1
    residual[20:30, 20:30] = 1
    level = ResidualLevel(0.0, 0.0)
    small = coarse_mask(residual, level, CoarseMaskConfig(min_area=0.0))
    assert small[5, 5]
    kept = coarse_mask(residual, level, CoarseMaskConfig(min_area=0.01))
    assert not kept[5, 5]
    assert kept[20:30, 20:30].all()
