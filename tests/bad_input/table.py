"""Rows of bad (and odd) input, and what has to hold for every one of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bad_input.command_line import Circumstances, Outcome, call, snapshot

Arrange = Callable[[Path], Sequence[object]]
Call = Callable[[Sequence[str], Path, Circumstances | None], Outcome]
Check = Callable[[Path, Outcome], None]

# What a run may say before it fails: notices, and the stages it went through.
_TALK = re.compile(
    r"(note|notice): .*|[a-z0-9 ]+ \.\.\."
    r"|[a-z0-9 ]+: (\d+ frames?|stopped after .*|done in .*|frame \d+.*)"
)
PROGRESS = r"(full/)?out(/\.state(/progress\.journal)?)?"
"""What a refine that failed midway may leave: it goes on from there, and nothing else reads it."""
_LEFTOVER = re.compile(r"(^|/)(\.state|\.prepare|.*\.(part|tmp|partial))(/|$)")


@dataclass(frozen=True)
class Row:
    """One call of the command line."""

    name: str
    arrange: Arrange
    """Makes the input in a folder, which the call runs in; returns the arguments."""
    says: str
    """Pattern that the one line of an error matches, or that the output of a success has."""
    code: int
    circumstances: Callable[[Path], Circumstances] | None
    may_change: str
    """Pattern of the paths that may be other ones at the end."""
    check: Check | None
    """Holds at the end too; called with the folder and the outcome."""


class Table:
    """Collects rows: ``@table.row("what is wrong", says="...")`` over what arranges it."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def row(
        self,
        name: str,
        says: str = "",
        *,
        code: int = 2,
        circumstances: Callable[[Path], Circumstances] | None = None,
        may_change: str = "nothing",
        check: Check | None = None,
    ) -> Callable[[Arrange], Arrange]:
        def add(arrange: Arrange) -> Arrange:
            self.rows.append(Row(name, arrange, says, code, circumstances, may_change, check))
            return arrange

        return add

    def accepted(self, name: str, says: str = "", **more: Any) -> Callable[[Arrange], Arrange]:
        """A row whose odd input is taken."""
        return self.row(name, says, code=0, **more)


def run_row(row: Row, place: Path, call: Call = call) -> None:
    """Arrange a row in `place / "work"`, call the command line, and check what came of it."""
    work = place / "work"
    work.mkdir(mode=0o755)
    arguments = [str(argument) for argument in row.arrange(work)]
    given = row.circumstances(work) if row.circumstances else None
    before = snapshot(work)
    outcome = call(arguments, place, given)
    after = snapshot(work)
    said = f"\n--- stdout\n{outcome.out}--- stderr\n{outcome.err}"
    assert outcome.code == row.code, said
    assert "Traceback" not in outcome.err, said
    assert "Warning" not in outcome.err, said
    lines = outcome.err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert all(_TALK.fullmatch(line) for line in lines if line not in errors), said
    if row.code:
        assert len(errors) == 1, said
        assert re.search(row.says, errors[0]), said
        assert errors[0] == lines[-1], said
        assert outcome.out == "", said
        assert not _changed(row, before, after), _difference(before, after)
        assert not _changed(row, {}, outcome.on_full_disk), outcome.on_full_disk
    else:
        assert not errors, said
        assert re.search(row.says, outcome.out + outcome.err), said
        kept = {path: text for path, text in after.items() if path in before}
        assert not _changed(row, before, kept), _difference(before, after)
        leftovers = [path for path in after if _LEFTOVER.search(path)]
        assert not leftovers, leftovers
    if row.check is not None:
        row.check(work, outcome)


def _changed(row: Row, before: dict[str, str], after: dict[str, str]) -> set[str]:
    paths = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    return {path for path in paths if not re.fullmatch(row.may_change, path)}


def _difference(before: dict[str, str], after: dict[str, str]) -> str:
    return "\n".join(
        f"{path}: {before.get(path)} became {after.get(path)}"
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    )
