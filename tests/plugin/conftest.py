"""Tests of the plugin need no network, and do not look for one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugin.ns_commands import offline_variables


@pytest.fixture(autouse=True, scope="session")
def _offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Models are built without LPIPS, whose network would be fetched."""
    folder = tmp_path_factory.mktemp("offline")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in offline_variables(folder).items():
            patch.setitem(os.environ, name, value)
        yield folder
