"""The grid of renders."""

from __future__ import annotations

import numpy as np
import pytest

from t3dgs_masks.report.picture_grid import GridColumn, picture_grid


def _picture(colour: tuple[int, int, int], height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def test_every_picture_is_in_its_column_and_row():
    red, green, blue = (220, 0, 0), (0, 220, 0), (0, 0, 220)
    columns = [
        GridColumn("first", [_picture(red), _picture(green)], ["a", "b"]),
        GridColumn("second", [_picture(blue), _picture(red)], ["c", "d"]),
    ]
    sheet = picture_grid(columns, "title", "subtitle", panel_width=128)
    at = {colour: np.argwhere((sheet == colour).all(axis=-1)) for colour in (red, green, blue)}
    assert len(at[green]) == len(at[blue]) == 128 * 96
    assert len(at[red]) == 2 * 128 * 96
    assert at[green][:, 0].min() > at[blue][:, 0].max()  # the second row
    assert at[blue][:, 1].min() > at[green][:, 1].max()  # the second column


@pytest.mark.parametrize(
    "columns",
    [[], [GridColumn("a", [], [])]],
)
def test_nothing_to_show(columns):
    with pytest.raises(ValueError, match="at least 1"):
        picture_grid(columns, "", "")


def test_columns_of_different_lengths():
    one = GridColumn("one", [_picture((1, 2, 3))], [""])
    two = GridColumn("two", [_picture((1, 2, 3))] * 2, ["", ""])
    with pytest.raises(ValueError, match="one length"):
        picture_grid([one, two], "", "")
