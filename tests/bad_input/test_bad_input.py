"""The table of bad input: every row through the real command line, in a process of its own.

For every row: exit code, the one line, and the disk before and after. What is refused leaves
everything as it was; what is accepted leaves the input as it was, and nothing half done.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.bad_input.command_line import call, call_installed
from tests.bad_input.rows_checkpoints import CHECKPOINTS
from tests.bad_input.rows_commands import COMMANDS
from tests.bad_input.rows_datasets import DATASETS
from tests.bad_input.rows_flags import FLAGS
from tests.bad_input.rows_frames import FRAMES
from tests.bad_input.rows_memory import MEMORY
from tests.bad_input.rows_places import PLACES
from tests.bad_input.rows_prompts import PROMPTS
from tests.bad_input.table import Call, Row, run_row

TABLES = (FRAMES, PLACES, PROMPTS, DATASETS, CHECKPOINTS, FLAGS, COMMANDS, MEMORY)
ROWS = [row for table in TABLES for row in table.rows]


@contextmanager
def a_place() -> Iterator[Path]:
    """A folder that every user may enter (pytest's own are for one user alone)."""
    folder = Path(tempfile.mkdtemp(prefix="t3dgs_masks_"))
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        for locked in folder.rglob("*"):
            if locked.is_dir() and not locked.is_symlink():
                locked.chmod(0o755)
        shutil.rmtree(folder)


def run(row: Row, call: Call = call) -> None:
    with a_place() as place:
        run_row(row, place, call)


@pytest.fixture(scope="module")
def begun(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[None]]]:
    """All rows that are going to be looked at, two at a time; by name."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    rows = [call.params["row"] for call in calls if call is not None and "row" in call.params]
    with ThreadPoolExecutor(2) as pool:
        yield {row.name: pool.submit(run, row) for row in rows if isinstance(row, Row)}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(row: Row, begun: dict[str, Future[None]]) -> None:
    begun[row.name].result()


@pytest.mark.parametrize(
    "name", ["an unknown flag", "an image of zero bytes", "a pose of NaN", "a revert of nothing"]
)
def test_row_of_the_installed_program(name: str) -> None:
    run(next(row for row in ROWS if row.name == name), call_installed)


def test_the_table_is_long_enough() -> None:
    assert len(ROWS) >= 60
    assert len({row.name for row in ROWS}) == len(ROWS)
