"""A device with too little memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tests.bad_input.command_line import Circumstances
from tests.bad_input.faults import room_for
from tests.bad_input.inputs import REFINE_PROMPTS, frames, prompts
from tests.bad_input.rows_frames import masks_of
from tests.bad_input.table import PROGRESS, Table

MEMORY = Table()
row, accepted = MEMORY.row, MEMORY.accepted


def with_room_for(most: int) -> Callable[[Path], Circumstances]:
    return lambda _: Circumstances(fault=partial(room_for, most))


@accepted(
    "memory for two points at a time", check=masks_of("0", "1"), circumstances=with_room_for(2)
)
def _(work: Path) -> Sequence[object]:
    frames(work)
    prompts(work)
    return REFINE_PROMPTS


@row(
    "memory for not a single point", r"the device ran out of memory: lower --points-per-batch, --m",
    circumstances=with_room_for(0), may_change=PROGRESS,
)  # fmt: skip
def _(work: Path) -> Sequence[object]:
    frames(work)
    prompts(work)
    return REFINE_PROMPTS
