"""`report.html`: with a refine as it goes along, and of a result that is there already.

What `t3dgs-masks report` runs.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from t3dgs_masks import masks
from t3dgs_masks.config import RefineConfig, ReportSettings
from t3dgs_masks.datasets.manifest import Manifest, read_manifest
from t3dgs_masks.datasets.opening import open_dataset
from t3dgs_masks.datasets.prepared import IMAGES_FOLDER, find_prepared
from t3dgs_masks.errors import UserError
from t3dgs_masks.io.frames import Selection, VideoFrames
from t3dgs_masks.io.images import IMAGE_SUFFIXES, read_rgb, scan_folder, shown
from t3dgs_masks.io.outputs import (
    PAGE,
    REPORT,
    MaskletFile,
    MaskletRecord,
    Report,
    ResultFolder,
    read_masklets,
)
from t3dgs_masks.io.prompts import open_prompts, same_proportions
from t3dgs_masks.io.publish import MASKLETS
from t3dgs_masks.io.side_work import SideWork
from t3dgs_masks.report.html import Cleanup, ReportObject, ReportPage, read_page, render_page
from t3dgs_masks.report.html_pictures import FramePictures, PictureCollector, Pictures
from t3dgs_masks.report.progress import RichProgress
from t3dgs_masks.report.text import duration, printable
from t3dgs_masks.types import FramePrompt, FrameSequence, Image, PromptSource, Rle

Notify = Callable[[str], None]
_T = TypeVar("_T")

_DEFAULT_FPS = 10.0

_STAGE_NAMES = {
    "forward": "forward pass",
    "backward": "backward pass",
    "final": "final pass",
    "filter": "filter",
    "outputs": "writing results",
}
_CALL_NAMES = {
    "image_encoder": "image encoder, images",
    "proposer_image_encoder": "proposer's own encoder, images",
    "memory_encoder": "memory encoder",
    "memory_attention": "memory attention",
    "mask_decoder": "mask decoder",
}


# --- along with a refine --------------------------------------------------------------------------


class PageRecorder:
    """Collects the pictures of a refine while it reads frames and prompts anyway.

    Args:
        num_frames: length of the sequence.
        height: of the frames, pixels.
        width: likewise.
        side_work: makes the pictures.
    """

    def __init__(self, num_frames: int, height: int, width: int, side_work: SideWork) -> None:
        self._pictures = PictureCollector(num_frames, height, width)
        self._side_work = side_work
        self._best: dict[int, int] = {}

    def watched_frames(self, frames: FrameSequence) -> FrameSequence:
        """The same frames; each is taken for the page when it is first read."""
        return _WatchedFrames(frames, self._pictures, self._side_work)

    def watched(self, prompts: PromptSource) -> PromptSource:
        """The same prompts; each is taken for the page when it is first read."""
        return _WatchedPrompts(prompts, self._pictures, self._side_work)

    def expect(self, records: Sequence[MaskletRecord]) -> None:
        """Learn which objects there are; before the first frame."""
        self._side_work.finish()
        self._pictures.expect_masks(sum(len(record.segmentations) for record in records))
        self._best = best_frames(records)

    def add_frame(
        self,
        frame_idx: int,
        found: Mapping[int, Rle],
        frames: FrameSequence,
        prompts: PromptSource | None,
    ) -> None:
        """Take the objects of a frame (object id -> mask), and the frame and its prompt where
        nobody has read them: an interrupted run that goes on reads less. Different frames may be
        taken by different threads at once."""
        if prompts is not None and not self._pictures.has_prompt(frame_idx):
            self._pictures.add_prompt(frame_idx, prompts[frame_idx])
        portraits_of = _shown_best(self._best, frame_idx)
        is_read = self._pictures.has_photo(frame_idx) and not portraits_of
        image = None if is_read else frames[frame_idx]
        self._pictures.add_frame(frame_idx, image, found, portraits_of)

    def html(
        self,
        out: Path,
        frame_names: Sequence[str],
        source_size: tuple[int, int],
        records: Sequence[MaskletRecord],
        report: Report,
        settings: Mapping[str, Any],
        fps: float | None,
    ) -> str:
        """The page.

        Args:
            out: the result folder.
            frame_names: of all frames, in order.
            source_size: (height, width) of the frames as they are on disk.
            records: what was decided about the objects.
            report: how the run went.
            settings: what it was told, as in ``config.json``.
            fps: frames per second to play at.
        """
        file = MaskletFile(tuple(frame_names), *source_size, tuple(records))
        page = _page(out, file, self._pictures.collected(), self._best, asdict(report), settings)
        return render_page(replace(page, fps=fps or page.fps))


class _WatchedFrames:
    """A `FrameSequence` that shows every frame to the collector when it is first read."""

    def __init__(
        self, frames: FrameSequence, pictures: PictureCollector, side_work: SideWork
    ) -> None:
        self._frames = frames
        self._pictures = pictures
        self._side_work = side_work
        self._seen: set[int] = set()

    @property
    def names(self) -> Sequence[str]:
        return self._frames.names

    @property
    def height(self) -> int:
        return self._frames.height

    @property
    def width(self) -> int:
        return self._frames.width

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, frame_idx: int) -> Image:
        image = self._frames[frame_idx]
        if frame_idx not in self._seen:
            self._seen.add(frame_idx)
            self._side_work.do(partial(self._pictures.add_photo, frame_idx, image))
        return image


class _WatchedPrompts:
    """A `PromptSource` that shows every prompt to the collector when it is first read."""

    def __init__(
        self, prompts: PromptSource, pictures: PictureCollector, side_work: SideWork
    ) -> None:
        self._prompts = prompts
        self._pictures = pictures
        self._side_work = side_work
        self._seen: set[int] = set()

    @property
    def has_residuals(self) -> bool:
        return self._prompts.has_residuals

    def __getitem__(self, frame_idx: int) -> FramePrompt:
        prompt = self._prompts[frame_idx]
        if frame_idx not in self._seen:
            self._seen.add(frame_idx)
            self._side_work.do(partial(self._pictures.add_prompt, frame_idx, prompt))
        return prompt


# --- of a result ----------------------------------------------------------------------------------


def run_report(settings: ReportSettings) -> Path:
    """Write the page of a finished result; says what it had to do without.

    Returns:
        The page.

    Raises:
        UserError: there is no result, frames or prompts that were asked for are not there, or the
            page cannot be written.
    """
    out = settings.result
    folder, file = _open_result(out)
    report = _read_json(out / REPORT)
    identity = folder.stored_identity()
    run_settings = identity.settings if identity is not None else {}
    earlier = _earlier_page(out)
    if earlier is not None and earlier.frame_names != file.frames:
        earlier = None
    missing: list[str] = []
    with RichProgress() as progress:
        source = _find_frames(settings, file, report, missing, progress.notice)
        prompts = _find_prompts(settings, file, report, missing, progress.notice)
        best = best_frames(file.masklets)
        num_frames = len(file.frames)
        pictures = PictureCollector(
            num_frames,
            file.height,
            file.width,
            num_masks=sum(len(record.segmentations) for record in file.masklets),
        )
        if prompts is not None:
            with progress.stage("reading prompts", num_frames) as advance:
                for frame_idx in range(num_frames):
                    pictures.add_prompt(frame_idx, prompts[frame_idx])
                    advance()
        with progress.stage("drawing the report", num_frames) as advance:
            for frame_idx in range(num_frames):
                found = {
                    record.object_id: record.segmentations[frame_idx]
                    for record in file.masklets
                    if frame_idx in record.segmentations
                }
                image = None if source is None else source.read(frame_idx)
                pictures.add_frame(frame_idx, image, found, _shown_best(best, frame_idx))
                advance()
    page = _page(out, file, pictures.collected(), best, report, run_settings, missing)
    if source is not None and source.fps is not None:
        page = replace(page, fps=source.fps)
    if earlier is not None:
        page = _with_pictures_of(earlier, page)
    folder.write_page(render_page(page))
    for text in page.missing:
        print(printable(f"note: {text}", sys.stderr), file=sys.stderr)
    print(printable(f"report  {shown(out / PAGE)}", sys.stdout))
    return out / PAGE


def refresh_report(out: Path) -> bool:
    """Bring the page of a result up to date after its objects were judged anew. The pictures stay,
    so that neither frames nor prompts are needed.

    Returns:
        False if there is no page, or one that this version did not write.

    Raises:
        UserError: there is no result, or the page cannot be written.
    """
    folder, file = _open_result(out)
    page = _earlier_page(out)
    known = {} if page is None else {item.object_id: item for item in page.objects}
    if page is None or known.keys() != {record.object_id for record in file.masklets}:
        return False
    identity = folder.stored_identity()
    objects = tuple(
        replace(
            known[record.object_id],
            kept=record.kept,
            reason=record.reason,
            score=record.transience_score,
        )
        for record in file.masklets
    )
    report = _read_json(out / REPORT)
    changed = replace(
        page,
        objects=objects,
        threshold=_threshold(report, identity.settings if identity is not None else {}),
        cleanup=_cleanup(report),
        highlights=_highlights(file, report),
    )
    folder.write_page(render_page(changed))
    return True


def best_frames(records: Iterable[MaskletRecord]) -> dict[int, int]:
    """Object id -> the frame on which it is largest; objects without a mask are left out."""
    return {
        record.object_id: max(
            sorted(record.segmentations), key=lambda t: masks.area(record.segmentations[t])
        )
        for record in records
        if record.segmentations
    }


# --- the page -------------------------------------------------------------------------------------


def _page(
    out: Path,
    file: MaskletFile,
    pictures: Pictures,
    best: Mapping[int, int],
    report: Mapping[str, Any],
    settings: Mapping[str, Any],
    missing: Sequence[str] = (),
) -> ReportPage:
    return ReportPage(
        result_dir=os.path.abspath(out),  # noqa: PTH100 (follows no links)
        frame_names=file.frames,
        source_size=(file.height, file.width),
        grid=pictures.grid,
        coarse_grid=pictures.coarse_grid,
        frames=pictures.frames,
        objects=tuple(
            ReportObject(
                object_id=record.object_id,
                kept=record.kept,
                reason=record.reason,
                score=record.transience_score,
                best_frame=best.get(record.object_id),
                portrait=pictures.portraits.get(record.object_id),
                masks=pictures.masks.get(record.object_id, {}),
                doubts=_doubts(record),
            )
            for record in file.masklets
        ),
        threshold=_threshold(report, settings),
        cleanup=_cleanup(report),
        residual_top=pictures.residual_top,
        fps=_DEFAULT_FPS,
        highlights=_highlights(file, report),
        seconds={
            _STAGE_NAMES.get(stage, stage): seconds
            for stage, seconds in _section(report, "seconds").items()
        },
        facts=_facts(file, report, settings),
        notices=tuple(map(str, report.get("notices", ()))),
        missing=tuple(missing),
    )


def _doubts(record: MaskletRecord) -> dict[str, list[int]]:
    """As far as the file says it in the way it should."""
    return {
        reason: [frame_idx for frame_idx in frames if isinstance(frame_idx, int)]
        for reason, frames in record.doubts.items()
        if isinstance(frames, Sequence)
    }


def _threshold(report: Mapping[str, Any], settings: Mapping[str, Any]) -> float:
    """By which the objects were judged last."""
    for section, key in ((report, "refiltered"), (settings, "algorithm")):
        value = _section(section, key).get("filter_threshold")
        if isinstance(value, (int, float)):
            return float(value)
    return RefineConfig().filter_threshold


def _cleanup(report: Mapping[str, Any]) -> Cleanup:
    """What was done to the masks after the objects were chosen."""
    values = _section(report, "refiltered")
    whole = {name: values.get(name) for name in ("fill_holes", "min_area", "dilate")}
    return Cleanup(**{k: v for k, v in whole.items() if isinstance(v, int) and v > 0})


def _highlights(file: MaskletFile, report: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    rows = [
        _objects_highlight(file.masklets),
        ("Frames", f"{len(file.frames)}, {file.width}\u00d7{file.height}"),
    ]
    if isinstance(report.get("running_time"), (int, float)):
        rows.append(("Time", duration(report["running_time"])))
    return tuple(rows)


def _objects_highlight(records: Sequence[MaskletRecord]) -> tuple[str, str]:
    kept = sum(record.kept for record in records)
    return "Objects", f"{kept} kept, {len(records) - kept} rejected"


def _facts(
    file: MaskletFile, report: Mapping[str, Any], settings: Mapping[str, Any]
) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """What there is to say about the run, as far as its files say it."""
    counts = _section(report, "counts")
    calls = [(_CALL_NAMES.get(name, name), f"{count:,}") for name, count in counts.items()]
    if counts.get("image_encoder") is not None and file.frames:
        per_frame = counts["image_encoder"] / len(file.frames)
        calls.append(("image encodings per frame", f"{per_frame:.2f}"))
    prompts = _section(report, "prompts")
    given = [("coarse masks", "given" if prompts.get("given") else "none (promptless)")]
    if prompts.get("given"):
        given += [
            ("residuals", "given" if prompts.get("residuals") else "none"),
            ("white means", str(prompts.get("polarity", "")).removeprefix("white-")),
            ("because", str(prompts.get("polarity_reason", ""))),
        ]
    machine = [("device", str(report.get("device", "")))]
    machine += [
        (f"checkpoint, {role}", str(name)) for role, name in _section(report, "checkpoints").items()
    ]
    for name, key in (("peak memory", "peak_rss_mb"), ("peak GPU memory", "peak_vram_mb")):
        if isinstance(report.get(key), (int, float)):
            machine.append((name, f"{report[key]:,.0f} MB"))
    machine += [(name, str(value)) for name, value in _section(report, "versions").items()]
    titled = [
        ("Network calls", calls),
        ("Prompts", given if prompts else []),
        ("Machine and versions", machine if report else []),
        ("Settings", _plain_settings(settings)),
    ]
    return tuple((title, tuple(rows)) for title, rows in titled if rows)


def _plain_settings(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, value in settings.items():
        if name == "algorithm" and isinstance(value, Mapping):
            rows += _plain_settings(value)
        elif value not in (None, [], ()):
            rows.append((name.replace("_", " "), str(value)))
    return rows


def _section(contents: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = contents.get(key)
    return value if isinstance(value, Mapping) else {}


def _shown_best(best: Mapping[int, int], frame_idx: int) -> frozenset[int]:
    return frozenset(object_id for object_id, at in best.items() if at == frame_idx)


def _with_pictures_of(earlier: ReportPage, page: ReportPage) -> ReportPage:
    """What an earlier page of the same frames has and this one lacks, taken over."""
    lacks_photos = not any(frame.photo for frame in page.frames)
    lacks_prompts = not any(frame.coarse for frame in page.frames)
    if lacks_photos and any(frame.photo for frame in earlier.frames):
        portraits = {item.object_id: item.portrait for item in earlier.objects}
        page = replace(
            page,
            objects=tuple(
                replace(item, portrait=portraits.get(item.object_id)) for item in page.objects
            ),
            missing=(*page.missing, "The pictures of the frames are those of the earlier report."),
        )
    else:
        lacks_photos = False
    frames = tuple(
        FramePictures(
            photo=before.photo if lacks_photos else now.photo,
            coarse=before.coarse if lacks_prompts else now.coarse,
            residual=before.residual if lacks_prompts else now.residual,
        )
        for before, now in zip(earlier.frames, page.frames, strict=True)
    )
    page = replace(page, frames=frames)
    if lacks_prompts:
        page = replace(page, coarse_grid=earlier.coarse_grid, residual_top=earlier.residual_top)
    return page


# --- finding what a result was made from ----------------------------------------------------------


def _open_result(out: Path) -> tuple[ResultFolder, MaskletFile]:
    if not out.is_dir():
        raise UserError(f"there is no folder {shown(out)}: report needs a result of `refine`")
    folder = ResultFolder.open(out)
    if folder.stored_identity() is None:
        raise UserError(f"{shown(out)} is no result of `t3dgs-masks refine`: it has no config.json")
    return folder, read_masklets(out / MASKLETS)


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is none that can be read: the page can do without."""
    try:
        contents = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return contents if isinstance(contents, dict) else {}


def _earlier_page(out: Path) -> ReportPage | None:
    try:
        return read_page((out / PAGE).read_text("ascii"))
    except (OSError, UnicodeError):
        return None


class _FrameSource(Protocol):
    """Where the photo of a frame is found."""

    @property
    def fps(self) -> float | None: ...

    def count(self) -> int:
        """How many of the frames are there."""
        ...

    def read(self, frame_idx: int) -> Image | None:
        """[h, w, 3] uint8 RGB; None if it is not there or not of the frame's proportions."""
        ...


@dataclass(frozen=True)
class _Files:
    """Frames that are image files."""

    of_frame: Mapping[int, Path]
    upright: bool
    size: tuple[int, int]
    fps: float | None = None

    def count(self) -> int:
        return len(self.of_frame)

    def read(self, frame_idx: int) -> Image | None:
        if frame_idx not in self.of_frame:
            return None
        image = read_rgb(self.of_frame[frame_idx], upright=self.upright)
        return image if same_proportions((image.shape[0], image.shape[1]), self.size) else None


@dataclass(frozen=True)
class _Video:
    """Frames of a video."""

    frames: VideoFrames
    index_of: Mapping[int, int]
    fps: float | None

    def count(self) -> int:
        return len(self.index_of)

    def read(self, frame_idx: int) -> Image | None:
        return self.frames[self.index_of[frame_idx]] if frame_idx in self.index_of else None


def _find_frames(
    settings: ReportSettings,
    file: MaskletFile,
    report: Mapping[str, Any],
    missing: list[str],
    notify: Notify,
) -> _FrameSource | None:
    """Where the user says, where the run read them, or where the manifest leads."""
    given = settings.video_path
    recorded = _section(report, "sources").get("video_path")
    if given is not None:
        source = _open_frames(given, file, notify)
        if source is None or not source.count():
            raise UserError(f"{shown(given)} holds none of the frames of this result")
        return source
    if isinstance(recorded, str):
        source = _tried(lambda: _open_frames(Path(recorded), file, notify))
        if source is not None and source.count():
            return _told_of_gaps(source, file, missing)
    manifest = _tried(lambda: read_manifest(settings.result))
    if manifest is not None:
        source = _tried(lambda: _open_manifest(manifest, file, notify))
        if source is not None and source.count():
            return _told_of_gaps(source, file, missing)
    where = f" (they were in {shown(recorded)})" if isinstance(recorded, str) else ""
    missing.append(f"The frames were not found{where}: give them with --video-path.")
    return None


def _told_of_gaps(source: _FrameSource, file: MaskletFile, missing: list[str]) -> _FrameSource:
    lost = len(file.frames) - source.count()
    if lost:
        missing.append(f"{lost} of {len(file.frames)} frames were not found.")
    return source


def _open_frames(path: Path, file: MaskletFile, notify: Notify) -> _FrameSource | None:
    """The frames of a result by their names, wherever a refine takes them from."""
    if not path.exists():
        raise UserError(f"there is no folder or video file {shown(path)}")
    size = (file.height, file.width)
    dataset = open_dataset(path)
    if dataset is not None:
        images = {frame.name: frame.image for frame in dataset.frames}
        return _Files(_by_name(images, file), upright=False, size=size)
    if path.is_dir():
        prepared = find_prepared(path)
        folder = path if prepared is None else prepared[0] / IMAGES_FOLDER
        return _Files(_by_name(scan_folder(folder).files, file), upright=True, size=size)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise UserError(f"{shown(path)} is a single image: give the folder that holds it")
    return _open_video(path, file, notify)


def _open_video(path: Path, file: MaskletFile, notify: Notify) -> _Video:
    frames = VideoFrames(path, Selection(), notify)
    index_of = {name: idx for idx, name in enumerate(frames.names)}
    chosen = {idx: index_of[name] for idx, name in enumerate(file.frames) if name in index_of}
    indices = sorted(chosen.values())
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    return _Video(frames, chosen, frames.fps / step if frames.fps else None)


def _open_manifest(manifest: Manifest, file: MaskletFile, notify: Notify) -> _FrameSource | None:
    root = Path(manifest.root)
    if manifest.kind == "video":
        return _open_video(root, file, notify)
    images = {frame.name: root / frame.source for frame in manifest.frames}
    present = {name: image for name, image in images.items() if image.is_file()}
    upright = manifest.kind == "folder"  # the cameras of a dataset are of the pixels as stored
    return _Files(_by_name(present, file), upright, (file.height, file.width))


def _by_name(files: Mapping[str, Path], file: MaskletFile) -> dict[int, Path]:
    return {idx: files[name] for idx, name in enumerate(file.frames) if name in files}


def _find_prompts(
    settings: ReportSettings,
    file: MaskletFile,
    report: Mapping[str, Any],
    missing: list[str],
    notify: Notify,
) -> PromptSource | None:
    told = _section(report, "prompts")
    polarity = told.get("polarity")
    if polarity not in ("white-transient", "white-static"):
        polarity = "auto"
    frames = _NamedFrames(file)
    given = settings.prompt_dir
    if given is not None:
        return open_prompts(given, frames, polarity=polarity, notify=notify)
    recorded = _section(report, "sources").get("prompt_dir")
    if isinstance(recorded, str):
        found = _tried(
            lambda: open_prompts(Path(recorded), frames, polarity=polarity, notify=notify)
        )
        if found is not None:
            return found
    if told.get("given"):
        where = f" (they were in {shown(recorded)})" if isinstance(recorded, str) else ""
        missing.append(
            f"Coarse masks and residuals were not found{where}: give them with --prompt-dir."
        )
    return None


class _NamedFrames:
    """A `FrameSequence` that knows names and size alone, which is all that prompts ask for."""

    def __init__(self, file: MaskletFile) -> None:
        self.names = file.frames
        self.height = file.height
        self.width = file.width

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, frame_idx: int) -> Image:
        raise NotImplementedError("only names and size are known")


def _tried(open_it: Callable[[], _T]) -> _T | None:
    """What `open_it` gives; None where there is nothing that can be used."""
    try:
        return open_it()
    except UserError:
        return None
