from __future__ import annotations

import numpy as np
import pytest

from t3dgs_masks.report.contact_sheet import ContactRow, contact_sheet

FRAME = np.full((30, 40, 3), 120, np.uint8)
TRUTH = np.zeros((30, 40), bool)
TRUTH[5:25, 10:20] = True
COARSE = np.zeros((30, 40), bool)
COARSE[5:25, 15:30] = True
WHITE, ORANGE, RED = (240, 242, 244), (242, 153, 36), (214, 48, 86)


def count(sheet: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((sheet == colour).all(axis=2).sum())


def test_size_follows_from_rows_and_columns() -> None:
    row = ContactRow("frame 1", FRAME, COARSE, TRUTH, TRUTH)
    one = contact_sheet([row], "title", "subtitle", panel_width=80)
    two = contact_sheet([row, row], "title", "subtitle", panel_width=80)
    assert one.dtype == np.uint8
    assert one.shape[1] == two.shape[1] > 5 * 80
    assert two.shape[0] - one.shape[0] == 60 + 32


def test_right_wrong_and_missed_pixels_have_their_own_colours() -> None:
    with_errors = contact_sheet([ContactRow("", FRAME, COARSE, TRUTH, TRUTH)], panel_width=40)
    faultless = contact_sheet([ContactRow("", FRAME, TRUTH, TRUTH, TRUTH)], panel_width=40)
    # The legend shows every colour once in both.
    assert count(with_errors, ORANGE) - count(faultless, ORANGE) == 20 * 10
    assert count(with_errors, RED) - count(faultless, RED) == 20 * 5
    assert count(faultless, WHITE) - count(with_errors, WHITE) == 20 * 5


def test_columns_that_no_row_has_are_left_out() -> None:
    full = contact_sheet([ContactRow("", FRAME, COARSE, TRUTH, TRUTH)], panel_width=40)
    no_truth = contact_sheet([ContactRow("", FRAME, COARSE, TRUTH)], panel_width=40)
    bare = contact_sheet([ContactRow("", FRAME, None, TRUTH)], panel_width=40)
    assert full.shape[1] - no_truth.shape[1] == no_truth.shape[1] - bare.shape[1] == 50
    assert count(no_truth, ORANGE) == count(no_truth, RED) == 0


def test_rows_may_lack_what_others_have() -> None:
    rows = [ContactRow("a", FRAME, COARSE, TRUTH, TRUTH), ContactRow("b", FRAME, None, TRUTH)]
    assert contact_sheet(rows, panel_width=40).shape[2] == 3


def test_the_overlay_tints_only_transient_pixels() -> None:
    tinted = contact_sheet([ContactRow("", FRAME, None, TRUTH)], panel_width=40)
    plain = contact_sheet([ContactRow("", FRAME, None, np.zeros_like(TRUTH))], panel_width=40)
    assert count(plain, (120, 120, 120)) == 2 * FRAME.shape[0] * FRAME.shape[1]
    lost = count(plain, (120, 120, 120)) - count(tinted, (120, 120, 120))
    assert TRUTH.sum() <= lost <= TRUTH.sum() + 70


def test_inputs_stay_as_they_are_and_an_empty_sheet_is_refused() -> None:
    frame = FRAME.copy()
    contact_sheet([ContactRow("", frame, COARSE, TRUTH, TRUTH)], panel_width=40)
    assert np.array_equal(frame, FRAME)
    with pytest.raises(ValueError, match="at least one row"):
        contact_sheet([])
