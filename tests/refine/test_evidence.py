"""What prompts say about masks, on drawn masks and residuals."""

from __future__ import annotations

import numpy as np
import pytest

from t3dgs_masks import bits
from t3dgs_masks.refine.evidence import FrameEvidence, StaticResidual, residual_levels
from t3dgs_masks.types import BoolMask, FramePrompt
from tests.refine.fakes import (
    HEIGHT,
    LEFT,
    NOTHING,
    RIGHT,
    WIDTH,
    ArrayPrompts,
    box,
    residual,
)


def support(prompt: FramePrompt, part: BoolMask) -> float | None:
    return FrameEvidence.of(prompt, StaticResidual.of(prompt)).support(bits.pack(part))


def test_support_is_the_share_that_looks_transient() -> None:
    prompt = FramePrompt(LEFT, residual(LEFT))
    assert support(prompt, LEFT) == 1.0
    assert support(prompt, RIGHT) == pytest.approx(0.0, abs=0.2)
    half = LEFT | box(2, 45, 12, 55)
    assert support(prompt, half) == pytest.approx(0.5, abs=0.1)


def test_support_of_plain_residuals() -> None:
    assert support(FramePrompt(LEFT, np.zeros((HEIGHT, WIDTH), np.float32)), LEFT) == 0.0
    faint = np.where(LEFT, np.float32(0.01), np.float32(0))
    assert support(FramePrompt(LEFT, faint), LEFT) == 1.0


def test_no_evidence_without_a_residual_or_anything_static() -> None:
    assert support(FramePrompt(LEFT), LEFT) is None
    everything = np.ones((HEIGHT, WIDTH), bool)
    assert support(FramePrompt(everything, residual(LEFT)), LEFT) is None


def test_levels_of_a_sequence() -> None:
    levels = residual_levels(ArrayPrompts([LEFT] * 3, [residual(LEFT)] * 3), 3)
    assert levels.use == "used"
    assert levels.static == pytest.approx(0.025, abs=0.005)
    assert levels.transient == pytest.approx(0.425, abs=0.01)
    assert levels.between == pytest.approx(0.225, abs=0.01)


@pytest.mark.parametrize(
    ("prompts", "use"),
    [
        (ArrayPrompts([LEFT] * 3), "none"),
        (ArrayPrompts([LEFT] * 3, [residual(NOTHING)] * 3), "say nothing"),
        (ArrayPrompts([LEFT] * 3, [residual(RIGHT)] * 3), "say nothing"),
        (ArrayPrompts([NOTHING] * 3, [residual(LEFT)] * 3), "say nothing"),
        (ArrayPrompts([LEFT] * 2, [np.zeros((HEIGHT, WIDTH), np.float32)] * 2), "say nothing"),
    ],
)
def test_residuals_that_say_nothing(prompts: ArrayPrompts, use: str) -> None:
    assert residual_levels(prompts, len(prompts.coarse)).use == use
