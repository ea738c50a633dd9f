"""Finds libusb for open3d where the system has none.

nerfstudio reads seed points with open3d, whose library links to `libusb-1.0.so.0` (for depth
cameras). Bare servers and containers do not have it, and `ns-train` would stop there.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import sys


def preload_libusb() -> None:
    """Load libusb from the package `libusb-package` if the system has none. Once loaded, it is
    found under its name by every library that asks for it. Does nothing outside Linux."""
    if sys.platform != "linux" or ctypes.util.find_library("usb-1.0") is not None:
        return
    try:
        import libusb_package
    except ImportError:
        return  # open3d says what is missing when it is imported
    path = libusb_package.get_library_path()
    if path is not None:
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
