"""Methods are replaced for a while, and whatever happens they are back afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from t3dgs_masks.sam.stand_ins import StandIns

ONE = torch.ones(1)


def adding(amount: float) -> tuple[nn.Module, StandIns]:
    module = nn.Identity()
    return module, StandIns([(module, "forward", lambda x: x + amount)])


def test_a_method_is_replaced_hooks_run_and_it_is_put_back() -> None:
    module, stand_ins = adding(1.0)
    seen: list[Tensor] = []
    module.register_forward_hook(lambda _, __, output: seen.append(output))
    with stand_ins.in_place():
        assert stand_ins.are_in_place
        assert module(ONE) == 2
    assert not stand_ins.are_in_place
    assert module(ONE) == 1
    assert [float(output) for output in seen] == [2.0, 1.0]
    assert "forward" not in vars(module)


def test_blocks_may_be_nested() -> None:
    module, stand_ins = adding(1.0)
    with stand_ins.in_place():
        with stand_ins.in_place():
            assert module(ONE) == 2
        assert module(ONE) == 2
    assert module(ONE) == 1


def test_those_of_others_come_back_too() -> None:
    module, outer = adding(1.0)
    inner = StandIns([(module, "forward", lambda x: x + 5.0)])
    with outer.in_place():
        with inner.in_place():
            assert module(ONE) == 6
        assert module(ONE) == 2
    assert module(ONE) == 1


def test_also_after_an_error() -> None:
    module, stand_ins = adding(1.0)
    with pytest.raises(ZeroDivisionError), stand_ins.in_place():
        _ = 1 / 0
    assert module(ONE) == 1
    assert len(stand_ins) == 1
