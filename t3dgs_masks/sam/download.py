"""Fetch catalogued checkpoints once, from the Hugging Face hub or a folder that stands in for it.

A stand-in is laid out as ``<folder>/<repo_id>/<file>``; with one, the network is never used. It
also serves machines without internet access: fill the folder elsewhere and carry it over.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from pathlib import Path

from t3dgs_masks.errors import UserError
from t3dgs_masks.sam.catalogue import CatalogueEntry

HUB_VARIABLE = "T3DGS_MASKS_HUB"
_BLOCK_BYTES = 1 << 20


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits; read again only if the file has changed."""
    status = path.stat()
    return _sha256(path, status.st_ino, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _sha256(path: Path, *_: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def hub_folder(hub: Path | None = None) -> Path | None:
    """The folder that stands in for the hub: `hub`, else the environment's, else None."""
    if hub is None and os.environ.get(HUB_VARIABLE):
        hub = Path(os.environ[HUB_VARIABLE])
    if hub is not None and not hub.is_dir():
        raise UserError(f"The folder that stands in for the hub does not exist: {hub}")
    return hub


def find_fetched(entry: CatalogueEntry, hub: Path | None = None) -> Path | None:
    """Where the checkpoint lies on this machine; None if it has yet to be fetched."""
    folder = hub_folder(hub)
    if entry.repo_id is None:
        path = entry.packaged_path
    elif folder is not None:
        path = folder / entry.repo_id / entry.hub_file
    else:
        path = _find_in_hub_cache(entry.repo_id, entry.hub_file)
    return path if path is not None and path.is_file() else None


def fetch(entry: CatalogueEntry, hub: Path | None = None) -> Path:
    """The checkpoint's file, downloaded (with a progress bar) if it is not here yet."""
    found = find_fetched(entry, hub)
    if found is not None:
        return found
    if entry.repo_id is None:
        raise UserError(
            f"This installation lacks the checkpoint '{entry.name}' ({entry.packaged_path}); "
            "install t3dgs_masks again."
        )
    folder = hub_folder(hub)
    if folder is not None:
        raise UserError(
            f"{folder} has no {entry.repo_id}/{entry.hub_file}; without --hub and {HUB_VARIABLE}, "
            f"`t3dgs-masks models download {entry.name}` fetches it from the hub."
        )
    path = _download(entry, entry.repo_id)
    _verify(entry, path)
    return path


def _find_in_hub_cache(repo_id: str, file_name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    # Asked first so that a fetched checkpoint never needs the network again; `hf_hub_download`
    # would ask the server for a newer version each time.
    cached = try_to_load_from_cache(repo_id, file_name)
    return Path(cached) if isinstance(cached, str) else None


def _download(entry: CatalogueEntry, repo_id: str) -> Path:
    from huggingface_hub import hf_hub_download

    # It reports every retry at length; what matters is said once, below.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        return Path(hf_hub_download(repo_id=repo_id, filename=entry.hub_file))
    except Exception as error:  # network stacks differ by version: any of them may raise anything
        raise UserError(_explain_failure(entry, error)) from error


def _explain_failure(entry: CatalogueEntry, error: Exception) -> str:
    from huggingface_hub.errors import LocalEntryNotFoundError

    # huggingface_hub's own words for "no network" are three sentences long.
    if isinstance(error, LocalEntryNotFoundError):
        reason = "the hub cannot be reached"
    else:
        reason = str(error).strip().split("\n", maxsplit=1)[0].rstrip(". ") or type(error).__name__
    return (
        f"Could not fetch '{entry.name}' ({entry.size_mb} MB): {reason}. Where there is a network, "
        f"`t3dgs-masks models download {entry.name}` or {entry.url} gets it; then give its path."
    )


def _verify(entry: CatalogueEntry, path: Path) -> None:
    """Hold a download to its published hash; a wrong one does not stay."""
    if not entry.sha256:
        return
    digest = file_sha256(path)
    if digest == entry.sha256:
        return
    # The cache keeps a link to the content; without both, the next call downloads again.
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    raise UserError(
        f"What was fetched as '{entry.name}' is not the official file (SHA-256 {digest[:8]}…, "
        f"expected {entry.sha256[:8]}…) and was deleted; get it from {entry.url} and give "
        "its path."
    )
