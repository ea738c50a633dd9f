"""libusb, which open3d links to."""

from __future__ import annotations

import ctypes
import ctypes.util
import subprocess
import sys
import types
from pathlib import Path

import pytest

from t3dgs_masks.plugin import system_libraries
from t3dgs_masks.plugin.system_libraries import preload_libusb


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is loaded, on a Linux without libusb."""
    names: list[str] = []
    monkeypatch.setattr(system_libraries.sys, "platform", "linux")
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    monkeypatch.setattr(ctypes, "CDLL", lambda name, mode: names.append(name))
    return names


def package_with(monkeypatch: pytest.MonkeyPatch, path: Path | None) -> None:
    package = types.SimpleNamespace(get_library_path=lambda: path)
    monkeypatch.setitem(sys.modules, "libusb_package", package)


def test_the_packaged_library_is_loaded_where_the_system_has_none(
    monkeypatch: pytest.MonkeyPatch, loaded: list[str]
) -> None:
    package_with(monkeypatch, Path("/p/libusb-1.0.so"))
    preload_libusb()
    assert loaded == ["/p/libusb-1.0.so"]


def test_the_one_of_the_system_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, loaded: list[str]
) -> None:
    package_with(monkeypatch, Path("/p/libusb-1.0.so"))
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: f"lib{name}.so.0")
    preload_libusb()
    assert loaded == []


def test_other_systems_need_nothing(monkeypatch: pytest.MonkeyPatch, loaded: list[str]) -> None:
    package_with(monkeypatch, Path("/p/libusb-1.0.so"))
    monkeypatch.setattr(system_libraries.sys, "platform", "darwin")
    preload_libusb()
    assert loaded == []


def test_neither_the_package_nor_its_library_has_to_be_there(
    monkeypatch: pytest.MonkeyPatch, loaded: list[str]
) -> None:
    package_with(monkeypatch, None)
    preload_libusb()
    monkeypatch.setitem(sys.modules, "libusb_package", None)  # import fails
    preload_libusb()
    assert loaded == []


def test_open3d_can_be_imported_after_it() -> None:
    script = (
        "from t3dgs_masks.plugin.system_libraries import preload_libusb; preload_libusb();"
        "import open3d"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
