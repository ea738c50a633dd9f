"""What can be asked of a synthetic capture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CaptureMode = Literal["video", "photos"]
CaptureLook = Literal["calm", "busy"]


@dataclass(frozen=True)
class CaptureSpec:
    """What to film; equal specs give identical captures."""

    seed: int = 0
    mode: CaptureMode = "video"
    """``video``: a hand-held camera on a smooth path, people move continuously. ``photos``:
    unrelated viewpoints, people stand somewhere else on every one of them."""
    num_frames: int = 40
    height: int = 192
    width: int = 256
    num_walkers: int | None = None
    """None: two or three, as the seed has it."""
    num_eval_views: int = 6
    """Clean views beside the path, for judging a splat."""
    focal: float = 0.8
    """Focal length in image widths."""
    orbit_degrees: float = 60.0
    """How far around the room the camera goes in ``video`` mode (the full story)."""
    grain: float = 1.5
    """Standard deviation of the sensor noise in 0..255 units; evaluation views have none."""
    num_seed_points: int = 2000
    look: CaptureLook = "calm"
    """``calm``: a pale room, people in clothes of one strong colour each: what a very small
    network can tell apart. ``busy``: room and people in all colours, trousers unlike jackets."""
