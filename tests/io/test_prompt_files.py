"""Prompts that the program writes itself."""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from t3dgs_masks.errors import UserError
from t3dgs_masks.io.prompt_files import read_residual, write_coarse, write_residual
from t3dgs_masks.io.prompts import open_prompts

HEIGHT, WIDTH = 24, 32
NAMES = ["cam0/frame_1", "cam0/frame_2"]


class DrawnFrames:
    """A frame sequence that consists of names and a size."""

    names, height, width = NAMES, HEIGHT, WIDTH

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, frame_idx: int) -> np.ndarray:
        raise AssertionError("prompts must not read frames")


def square(left: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[6:14, left : left + 8] = True
    return mask


@pytest.mark.parametrize("polarity", ["auto", "white-transient"])
def test_what_is_written_is_read_back_as_prompts(tmp_path: Path, polarity: str) -> None:
    coarse = [square(4), square(20)]
    residuals = [np.where(mask, np.float32(0.6), np.float32(0.01)) for mask in coarse]
    for name, mask, residual in zip(NAMES, coarse, residuals, strict=True):
        write_coarse(tmp_path, name, mask)
        write_residual(tmp_path, name, residual)
    prompts = open_prompts(tmp_path, DrawnFrames(), polarity=polarity, notify=lambda _: None)
    assert prompts.polarity == "white-transient"
    assert prompts.matched_by == "name"
    for frame_idx in range(2):
        prompt = prompts[frame_idx]
        np.testing.assert_array_equal(prompt.coarse, coarse[frame_idx])
        assert prompt.residual is not None
        np.testing.assert_allclose(prompt.residual, residuals[frame_idx], atol=1e-5)


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=8),
        elements=st.floats(0, 1, width=32),
    )
)
@settings(max_examples=40, deadline=None)
def test_residuals_keep_sixteen_bits(residual: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_residual(Path(folder), "a", residual)
        read = read_residual(Path(folder), "a")
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, residual, atol=0.51 / 65535)


def test_residuals_beyond_the_scale_are_cut_off(tmp_path: Path) -> None:
    write_residual(tmp_path, "a", np.array([[-0.5, 1.5]], np.float32))
    assert read_residual(tmp_path, "a").tolist() == [[0, 1]]


def test_files_are_plain_grey_pngs(tmp_path: Path) -> None:
    write_coarse(tmp_path, "a", square(4))
    write_residual(tmp_path, "a", np.zeros((HEIGHT, WIDTH), np.float32))
    mask = cv2.imread(str(tmp_path / "masks" / "a.png"), cv2.IMREAD_UNCHANGED)
    residual = cv2.imread(str(tmp_path / "diffs" / "a.png"), cv2.IMREAD_UNCHANGED)
    assert mask is not None
    assert residual is not None
    assert (mask.shape, mask.dtype, set(np.unique(mask))) == ((HEIGHT, WIDTH), np.uint8, {0, 255})
    assert (residual.shape, residual.dtype) == ((HEIGHT, WIDTH), np.uint16)
    assert sorted(path.name for path in tmp_path.rglob("*.p*")) == ["a.png", "a.png"]


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "masks").write_text("a file")
    with pytest.raises(UserError, match="cannot write") as caught:
        write_coarse(tmp_path, "a", square(4))
    assert "\n" not in str(caught.value)


def test_a_residual_that_is_gone_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read back"):
        read_residual(tmp_path, "a")
