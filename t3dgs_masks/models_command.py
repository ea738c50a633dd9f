"""``t3dgs-masks models list | download | path``: the checkpoints that can be asked for by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    from t3dgs_masks.sam.catalogue import CatalogueEntry

_PLAIN_WIDTH = 200  # of the table where no terminal says how wide it is: paths stay on one line


@dataclass(frozen=True)
class ModelsList:
    """List the checkpoints that have a name, and where those already fetched are."""

    hub: Path | None = None
    """Folder that stands in for the Hugging Face hub, as <folder>/<repository>/<file>.
    Without it, the environment variable T3DGS_MASKS_HUB counts."""

    def run(self) -> int:
        """Print the table; the exit code."""
        from rich.console import Console
        from rich.table import Table

        from t3dgs_masks.sam.catalogue import CATALOGUE

        table = Table()
        table.add_column("name", no_wrap=True)
        table.add_column("network")
        table.add_column("size", justify="right", no_wrap=True)
        table.add_column("licence")
        table.add_column("source")
        table.add_column("file", overflow="fold")
        for entry in CATALOGUE:
            table.add_row(
                entry.name,
                entry.family.upper(),
                f"{entry.size_mb} MB",
                entry.licence,
                entry.source,
                _where(entry, self.hub),
            )
        console = Console()
        if not console.is_terminal:
            console = Console(width=_PLAIN_WIDTH)
        console.print(table)
        return 0


@dataclass(frozen=True)
class ModelsDownload:
    """Fetch a checkpoint once; every later use finds it without a network."""

    name: tyro.conf.Positional[str]
    """Name of the checkpoint, as `models list` shows it."""
    hub: Path | None = None
    """Folder that stands in for the Hugging Face hub, as <folder>/<repository>/<file>.
    Without it, the environment variable T3DGS_MASKS_HUB counts."""

    def run(self) -> int:
        """Fetch the file and print its path; the exit code."""
        from t3dgs_masks.sam import catalogue, download

        print(download.fetch(catalogue.get_entry(self.name), self.hub))
        return 0


@dataclass(frozen=True)
class ModelsPath:
    """Print where a checkpoint lies that has been fetched, and nothing else."""

    name: tyro.conf.Positional[str]
    """Name of the checkpoint, as `models list` shows it."""
    hub: Path | None = None
    """Folder that stands in for the Hugging Face hub, as <folder>/<repository>/<file>.
    Without it, the environment variable T3DGS_MASKS_HUB counts."""

    def run(self) -> int:
        """Print the path; the exit code."""
        from t3dgs_masks.errors import UserError
        from t3dgs_masks.sam import catalogue, download

        entry = catalogue.get_entry(self.name)
        path = download.find_fetched(entry, self.hub)
        if path is None:
            raise UserError(
                f"'{entry.name}' is not on this machine yet; "
                f"`t3dgs-masks models download {entry.name}` fetches it."
            )
        print(path)
        return 0


def _where(entry: CatalogueEntry, hub: Path | None) -> str:
    from t3dgs_masks.sam.download import find_fetched

    path = find_fetched(entry, hub)
    return str(path) if path is not None else "not fetched"
