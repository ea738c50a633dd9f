"""What an interrupted refine left, and whether this run may go on with it.

Puts the progress file of `io` under the passes of `refine`, and adds what only a whole run knows:
identity, network calls and time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from importlib.metadata import version
from typing import Any

from t3dgs_masks.config import RefineSettings
from t3dgs_masks.errors import UserError
from t3dgs_masks.io.identity import RunIdentity, differences
from t3dgs_masks.io.outputs import ResultFolder
from t3dgs_masks.io.progress_file import ProgressFile, open_progress, read_identity, remove_progress
from t3dgs_masks.sam.devices import choose_precision, resolve_device
from t3dgs_masks.types import NetworkCalls

Notify = Callable[[str], None]


class RunFigures:
    """Network calls and time of a run, together with those of the interrupted runs before it."""

    def __init__(self, store: ProgressFile, calls: NetworkCalls, begin: float) -> None:
        """From now on the `store` keeps them with whatever it saves.

        Args:
            store: the progress of the run.
            calls: of this run; counted on while it goes.
            begin: when it began, `time.perf_counter`.
        """
        earlier = store.earlier_figures
        self._calls = calls
        self._earlier_calls: Mapping[str, int] = earlier.get("calls", {})
        self._earlier_seconds = float(earlier.get("seconds", 0.0))
        self._begin = begin
        self.runs: int = int(earlier.get("runs", 0)) + 1
        """How many it took, this one included."""
        store.figures_now = self.as_json

    @property
    def calls(self) -> NetworkCalls:
        """Of all runs."""
        return NetworkCalls(
            **{
                field.name: getattr(self._calls, field.name)
                + self._earlier_calls.get(field.name, 0)
                for field in fields(NetworkCalls)
            }
        )

    @property
    def seconds(self) -> float:
        """Of all runs; of interrupted ones up to the last frame that they saved."""
        return self._earlier_seconds + time.perf_counter() - self._begin

    def as_json(self) -> dict[str, Any]:
        return {
            "calls": asdict(self.calls),
            "seconds": round(self.seconds, 3),
            "runs": self.runs,
        }


def open_run_progress(
    folder: ResultFolder,
    identity: RunIdentity,
    settings: RefineSettings,
    size: tuple[int, int],
    notify: Notify,
) -> ProgressFile:
    """The progress of this run in a result folder that is held; says what of an earlier run cannot
    be used, and why.

    Args:
        folder: where it lies.
        identity: of the run.
        settings: of the run.
        size: (height, width) of its masks, pixels.
        notify: told about it in one line.
    """
    given = _with_environment(identity, settings)
    stored = folder.stored_identity()
    if settings.resume and stored is not None:
        changed = differences(stored.as_json(), identity.as_json())
        if changed:
            notify(
                f"{folder.path} holds the result of another run, which this one will replace; "
                f"different: {'; '.join(changed)}"
            )
    saved = read_identity(folder.path)
    if settings.resume and saved is not None:
        changed = differences(saved, given)
        if not saved:
            notify("the progress of an earlier run cannot be read: beginning at the first frame")
        elif changed:
            notify(
                "the progress of an earlier run is of no use, beginning at the first frame; "
                f"different: {'; '.join(changed)}"
            )
    return open_progress(folder.path, given, *size, resume=settings.resume)


def drop_progress(folder: ResultFolder) -> None:
    """Delete the progress of a run whose result is in place: nobody needs it any more."""
    with suppress(OSError):
        remove_progress(folder.path)


def sweep_progress(folder: ResultFolder, identity: RunIdentity, settings: RefineSettings) -> None:
    """Delete what a run left that was killed when its result was in place already: its progress,
    or nothing more than the folder of that."""
    if folder.has_state():
        with suppress(UserError), folder.held():
            if read_identity(folder.path) == _with_environment(identity, settings):
                drop_progress(folder)


def _with_environment(identity: RunIdentity, settings: RefineSettings) -> dict[str, Any]:
    """What the masks of one run, to the bit, depend on: half of one run and half of another would
    be the result of neither."""
    device = resolve_device(settings.device)
    precision = choose_precision(device, settings.precision)
    environment = {"device": f"{device.type} {precision.name}"}
    environment |= {name: version(name) for name in ("torch", "sam2", "segment-anything")}
    return {**identity.plain_json(), "environment": environment}
