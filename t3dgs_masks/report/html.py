"""`report.html`: one self-contained page on which a result can be looked at and corrected.

All that the page shows is a `ReportPage`; it lies in the file as JSON too, so that `read_page` gets
it back and a page can be written again after its verdicts changed, without the frames.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from itertools import groupby
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from t3dgs_masks.report.html_pictures import FramePictures
from t3dgs_masks.report.overlay import object_colour
from t3dgs_masks.report.text import duration

PAGE_VERSION = 1

_DATA_BEGIN = '<script type="application/json" id="report-data">'
_DATA_END = "</script>"
_UNSAFE_IN_SCRIPTS = "<>&"  # what could end a script element, or begin a comment in it


@dataclass(frozen=True)
class ReportObject:
    """One object, what was decided about it, and where it is."""

    object_id: int
    kept: bool
    reason: str
    score: float | None
    """Transience score; None if it was not judged."""
    best_frame: int | None
    portrait: str | None
    """WebP as base64."""
    masks: Mapping[int, str]
    """Frame index -> COCO run lengths on the page's grid."""
    doubts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Reason -> frames on which the tracked mask was not believed, or not all of it."""


@dataclass(frozen=True)
class Cleanup:
    """What is done to masks after their objects are chosen, in this order; in pixels of the source
    frames."""

    fill_holes: int = 0
    min_area: int = 0
    dilate: int = 0


@dataclass(frozen=True)
class ReportPage:
    """Everything on the page."""

    result_dir: str
    """Absolute; may hold surrogates, as Python has the bytes of names that are not UTF-8."""
    frame_names: Sequence[str]
    source_size: tuple[int, int]  # height, width
    grid: tuple[int, int]
    coarse_grid: tuple[int, int]
    frames: Sequence[FramePictures]
    objects: Sequence[ReportObject]
    threshold: float
    """Objects with a higher score are kept, unless someone decided otherwise."""
    cleanup: Cleanup
    """Of the masks as they are on disk."""
    residual_top: float | None
    fps: float
    highlights: Sequence[tuple[str, str]]
    """The few (name, value) that say what came out."""
    seconds: Mapping[str, float]
    """Stage -> seconds, in order."""
    facts: Sequence[tuple[str, Sequence[tuple[str, str]]]]
    """(Title, its (name, value) rows), in order."""
    notices: Sequence[str]
    missing: Sequence[str]
    """What the page could not be given, in sentences."""


def render_page(page: ReportPage) -> str:
    """The page as HTML: pure ASCII, with styles, scripts and pictures in it."""
    environment = Environment(
        loader=PackageLoader("t3dgs_masks.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = _template_text("report.css"), _template_text("report.js")
    html = environment.get_template("report.html.j2").render(
        page=page,
        title=_title(page),
        rows=[_row(item, page) for item in page.objects],
        has_scores=any(item.score is not None for item in page.objects),
        stages=_stages(page.seconds),
        notices=[displayed(notice) for notice in page.notices],
        missing=[displayed(text) for text in page.missing],
        facts=[
            (title, [(name, displayed(value)) for name, value in rows])
            for title, rows in page.facts
        ],
        result_dir=displayed(page.result_dir),
        style=Markup(style),
        style_hash=_csp_hash(style),
        script=Markup(script),
        script_hash=_csp_hash(script),
        data=Markup(f"{_DATA_BEGIN}{_data(page)}{_DATA_END}"),
    )
    # Whatever is left of other alphabets is written as character references, so that the file
    # can be read in any encoding.
    return html.encode("ascii", "xmlcharrefreplace").decode("ascii")


def read_page(html: str) -> ReportPage | None:
    """What `render_page` was given; None if `html` is not its work, or that of another version."""
    begin = html.find(_DATA_BEGIN)
    end = html.find(_DATA_END, begin)
    if begin < 0 or end < 0:
        return None
    try:
        data = json.loads(html[begin + len(_DATA_BEGIN) : end])
        return _parse(data) if data["version"] == PAGE_VERSION else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def displayed(text: str) -> str:
    """`text` in one line, with everything visible that could hide or reorder parts of it."""
    return "".join(c if c.isprintable() else _visible(c) for c in text)


def shell_quoted(text: str) -> str:
    """`text` as one word for a POSIX shell (bash's ``$'...'`` where it holds bytes that cannot be
    shown)."""
    if text.isprintable():
        return shlex.quote(text)
    escaped = "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}"
        for byte in text.encode("utf-8", "surrogateescape")
    )
    # bash takes two hexadecimal digits at most, so that one behind an escape stays by itself.
    return f"$'{escaped}'"


# --- what the template shows ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    """Frames in a row on which an object is seen."""

    begin: int
    length: int


def _row(item: ReportObject, page: ReportPage) -> dict[str, Any]:
    return {
        "id": item.object_id,
        "colour": _hex_colour(item.object_id),
        "kept": item.kept,
        "reason": displayed(item.reason),
        "score": item.score,
        "best_frame": item.best_frame,
        "seen": _seen(len(item.masks), len(page.frame_names)),
        "runs": _runs(sorted(item.masks)),
        "where": _where(_runs(sorted(item.masks))),
        "doubts": [_doubt(reason, sorted(set(at))) for reason, at in item.doubts.items() if at],
    }


def _doubt(reason: str, frames: Sequence[int]) -> str:
    count = f"{len(frames)} frame{'' if len(frames) == 1 else 's'}"
    where = _where(_runs(frames))
    return f"tracked mask not (all) believed on {count} ({where}): {displayed(reason)}"


def _runs(frames: Sequence[int]) -> list[_Run]:
    grouped = groupby(enumerate(frames), key=lambda pair: pair[1] - pair[0])
    runs = [[frame for _, frame in group] for _, group in grouped]
    return [_Run(run[0], len(run)) for run in runs]


def _where(runs: Sequence[_Run]) -> str:
    """Frames as people count them, such as ``1-7, 12``."""
    parts = [
        f"{run.begin + 1}\u2013{run.begin + run.length}" if run.length > 1 else f"{run.begin + 1}"
        for run in runs
    ]
    shown = parts if len(parts) <= 6 else [*parts[:5], "\u2026", parts[-1]]
    return ", ".join(shown)


def _seen(count: int, total: int) -> str:
    return f"{count} of {total} frame{'' if total == 1 else 's'}"


def _stages(seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    longest = max(seconds.values(), default=0.0) or 1.0
    return [
        {"name": name, "duration": duration(value), "share": round(100 * value / longest, 2)}
        for name, value in seconds.items()
    ]


def _title(page: ReportPage) -> str:
    return displayed(page.result_dir.rstrip("/").rpartition("/")[2] or page.result_dir)


def _hex_colour(object_id: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*object_colour(object_id))


# --- the data in the page -------------------------------------------------------------------------


def _data(page: ReportPage) -> str:
    contents = asdict(page)
    contents["version"] = PAGE_VERSION
    contents["command_folder"] = shell_quoted(page.result_dir)
    contents["shown_names"] = [displayed(name) for name in page.frame_names]
    for item in contents["objects"]:
        item["colour"] = _hex_colour(item["object_id"])
    text = json.dumps(contents, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    octets = text.encode("ascii")  # of which megabytes are searched in a sixth of the time
    for unsafe in _UNSAFE_IN_SCRIPTS:
        octets = octets.replace(unsafe.encode(), f"\\u{ord(unsafe):04x}".encode())
    return octets.decode("ascii")


def _parse(data: Mapping[str, Any]) -> ReportPage:
    def pair(value: Sequence[Any]) -> tuple[Any, Any]:
        first, second = value
        return first, second

    return ReportPage(
        result_dir=data["result_dir"],
        frame_names=tuple(data["frame_names"]),
        source_size=pair(data["source_size"]),
        grid=pair(data["grid"]),
        coarse_grid=pair(data["coarse_grid"]),
        frames=tuple(FramePictures(**frame) for frame in data["frames"]),
        objects=tuple(_parse_object(item) for item in data["objects"]),
        threshold=data["threshold"],
        cleanup=Cleanup(**data["cleanup"]),
        residual_top=data["residual_top"],
        fps=data["fps"],
        highlights=tuple(pair(row) for row in data["highlights"]),
        seconds=data["seconds"],
        facts=tuple(
            (title, tuple(pair(row) for row in rows)) for title, rows in map(pair, data["facts"])
        ),
        notices=tuple(data["notices"]),
        missing=tuple(data["missing"]),
    )


def _parse_object(item: Mapping[str, Any]) -> ReportObject:
    return ReportObject(
        object_id=item["object_id"],
        kept=item["kept"],
        reason=item["reason"],
        score=item["score"],
        best_frame=item["best_frame"],
        portrait=item["portrait"],
        masks={int(frame_idx): runs for frame_idx, runs in item["masks"].items()},
        doubts=item.get("doubts", {}),
    )


# --- helpers --------------------------------------------------------------------------------------


def _template_text(name: str) -> str:
    text = (
        resources.files("t3dgs_masks.report")
        .joinpath("templates")
        .joinpath(name)
        .read_text("utf-8")
    )
    if re.search(r"</(script|style)", text, re.IGNORECASE) or not text.isascii():
        raise RuntimeError(f"{name} cannot stand inside of its element")
    # As it will be between the tags: the template has no line breaks there.
    return text


def _visible(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a file name that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return ascii(character)[1:-1]


def _csp_hash(text: str) -> str:
    """How a content security policy names this very script or style."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
