"""`--compile`, with the compiler's front end alone: the back end needs a C++ compiler or a GPU."""

from __future__ import annotations

import pytest
import torch

from t3dgs_masks.sam.compilation import compile_image_encoder, is_compiled
from t3dgs_masks.sam.counters import NetworkCounter
from t3dgs_masks.sam.memory import FrameFeatureCache
from tests.sam.scenes import blob_sequence


def _uncompiled(model) -> None:
    del model.image_encoder.forward
    torch.compiler.reset()


def test_features_are_the_same_and_are_counted(random_sam2, cpu):
    sequence = blob_sequence(3, 1)
    plain = FrameFeatureCache(random_sam2, sequence, cpu)
    expected = [plain[frame_idx] for frame_idx in range(3)]
    assert compile_image_encoder(random_sam2, cpu, backend="eager") is None
    try:
        assert is_compiled(random_sam2)
        counter = NetworkCounter()
        counter.watch_sam2(random_sam2)
        compiled = FrameFeatureCache(random_sam2, sequence, cpu)
        for frame_idx in range(3):
            for a, b in zip(compiled[frame_idx].levels, expected[frame_idx].levels, strict=True):
                torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
        counter.close()
        assert counter.calls.image_encoder == 3
    finally:
        _uncompiled(random_sam2)
    assert not is_compiled(random_sam2)


def _without_compiler(*_: object) -> None:
    raise RuntimeError("no compiler\nat all")


@pytest.mark.parametrize(
    ("backend", "why"), [("no such back end", "no such back end"), (_without_compiler, "compiler")]
)
def test_what_cannot_be_compiled_stays_as_it_was(random_sam2, cpu, backend, why):
    reason = compile_image_encoder(random_sam2, cpu, backend=backend)
    torch.compiler.reset()
    assert reason is not None
    assert why in reason
    assert "\n" not in reason
    assert not is_compiled(random_sam2)
    assert FrameFeatureCache(random_sam2, blob_sequence(1, 1), cpu)[0].num_bytes > 0
