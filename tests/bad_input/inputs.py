"""Small inputs in the folder that a row runs in, good ones to be spoilt."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from t3dgs_masks.types import BoolMask

HEIGHT, WIDTH = 36, 48

REFINE = (
    *("refine", "--video-path", "frames", "--result-dir", "out", "--threads", "1"),
    *("--sam2-checkpoint", "tiny-synthetic", "--no-overlay", "--no-html-report"),
    *("--start-points-per-side", "3", "--prompt-points-per-side", "1"),
)
REFINE_PROMPTS = (*REFINE, "--prompt-dir", "prompts")
PREPARE = ("prepare", "--data", "frames", "--output-dir", "out")


def picture(index: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """[height, width, 3] uint8: a dark square on a slope."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(60, 220, width).astype(np.uint8)[None]
    image[..., 1] = 150
    image[..., 2] = 120
    image[box(index, height, width)] = (20, 20, 60)
    return image


def box(index: int, height: int = HEIGHT, width: int = WIDTH) -> BoolMask:
    """[height, width] bool: where that square is."""
    mask = np.zeros((height, width), np.bool_)
    left = (4 * index + width // 6) % max(1, width // 2)
    mask[height // 4 : 3 * height // 4, left : left + max(1, width // 4)] = True
    return mask


def save(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def frames(work: Path, count: int = 2, names: Sequence[str] | None = None) -> Path:
    """Images ``frames/0.png`` and so on, or with other names."""
    for index, name in enumerate(names or [f"{index}.png" for index in range(count)]):
        save(work / "frames" / name, picture(index))
    return work / "frames"


def prompts(work: Path, count: int = 2, residuals: bool = True) -> Path:
    """``prompts/masks`` and ``prompts/diffs`` for `frames`."""
    for index in range(count):
        mask = box(index)
        save(work / f"prompts/masks/{index}.png", white(mask))
        if residuals:
            values = np.where(mask, np.uint8(180), np.uint8(10))
            save(work / f"prompts/diffs/{index}.png", values)
    return work / "prompts"


def white(mask: BoolMask) -> np.ndarray:
    return np.where(mask, np.uint8(255), np.uint8(0))


def cut(path: Path, share: float) -> Path:
    """Leave only the beginning of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def png_that_declares(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header speaks of `width` x `height` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", content)
        + chunk(b"IEND", b"")
    )
