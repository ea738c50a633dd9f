"""The result folder of a refine: static masks, masklets and reports, whole or not there at all.

`ResultFolder.open` checks a place, `begin` starts a run in it, `StagedResult` takes the files and
`publish` puts them in place, all at once. Until then an earlier result stays as it was.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from t3dgs_masks.errors import UserError, why_not_written
from t3dgs_masks.io import publish
from t3dgs_masks.io.checked_rle import checked_rle
from t3dgs_masks.io.file_lock import locked
from t3dgs_masks.io.identity import RunIdentity
from t3dgs_masks.io.mask_png import mask_png
from t3dgs_masks.io.plain_json import plain
from t3dgs_masks.io.whole_file import write_whole
from t3dgs_masks.masks import TransientMask, decode, encode
from t3dgs_masks.types import BoolMask, NetworkCalls, Rle

PROGRAM = "t3dgs_masks"
MASKLETS_VERSION = 1
OVERLAY = "overlay.mp4"
REPORT = "report.json"
PAGE = "report.html"
LOCK = "lock"
"""In the folder for the state: held by the run that is writing."""


# --- what goes into the files ---------------------------------------------------------------------


@dataclass(frozen=True)
class MaskletRecord:
    """One object over the whole sequence, and what was decided about it."""

    object_id: int
    kept: bool
    reason: str
    transience_score: float | None  # None where nothing was there to score it by
    segmentations: Mapping[int, Rle]  # frame index -> pixels of the object
    doubts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Reason -> frames on which a tracked mask was not believed, or not all of it."""


@dataclass(frozen=True)
class MaskletFile:
    """The contents of ``masklets.json``. All segmentations are `height` x `width`."""

    frames: tuple[str, ...]  # source name of every frame, in order
    height: int
    width: int
    masklets: tuple[MaskletRecord, ...]


@dataclass(frozen=True)
class NumLabels:
    """How many objects were found, by what became of them."""

    kept: int
    rejected: int


@dataclass(frozen=True)
class PromptReport:
    """What was given to the run beside the frames, and how it was understood."""

    given: bool = False
    polarity: str | None = None  # "white-transient" or "white-static"
    polarity_reason: str | None = None
    residuals: bool = False


@dataclass(frozen=True)
class Report:
    """The contents of ``report.json``."""

    num_labels: NumLabels
    running_time: float  # seconds
    frames: int
    seconds: Mapping[str, float]  # stage -> seconds
    counts: NetworkCalls
    device: str
    checkpoints: Mapping[str, str]  # role -> name
    peak_rss_mb: float | None = None
    peak_vram_mb: float | None = None  # None where no GPU was used
    versions: Mapping[str, str] = field(default_factory=dict)  # package -> version
    prompts: PromptReport = PromptReport()
    notices: Sequence[str] = ()
    sources: Mapping[str, str] = field(default_factory=dict)  # setting -> absolute path it named
    guard: Mapping[str, Any] = field(default_factory=dict)  # empty: it was off, or had no prompts
    runs: int = 1  # how many it took, if some were interrupted; times and counts are of all
    steps_replayed: int = 0  # propagation steps that were repeated for that

    @property
    def image_encodings_per_frame(self) -> float:
        """How often the tracker's image encoder saw a frame, on average."""
        return self.counts.image_encoder / self.frames if self.frames else 0.0


# --- the folder -----------------------------------------------------------------------------------


class ResultFolder:
    """OUT: at most one whole result, and whatever else a user keeps there."""

    def __init__(self, path: Path) -> None:
        """Use `open`, which checks the place."""
        self.path = path

    @classmethod
    def open(cls, path: Path, inputs: Sequence[Path] = ()) -> ResultFolder:
        """Check that results may go to `path`; nothing is created yet.

        If an earlier run was killed while it put its finished result in place, that is completed.

        Args:
            path: the result folder; it need not exist.
            inputs: the folders and files that the run reads.

        Raises:
            UserError: it is not a folder, is or lies inside an input folder, would overwrite an
                input, or holds files of our names that are not ours.
        """
        folder = cls(path.absolute())
        with _as_user_error(f"cannot use the result folder {path}"):
            if path.exists() and not path.is_dir():
                raise UserError(f"{path} is a file; --result-dir needs a folder.")
            for source in inputs:
                _refuse_overlap(path, source)
            folder._recover()
            folder._refuse_foreign_files()
        return folder

    def has_state(self) -> bool:
        """Whether a run is at work, or one that was killed left something beside the result."""
        return (self.path / publish.STATE).exists()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs out of this folder while the block runs. Folders are made for that, and
        removed if nothing comes to be in them.

        Raises:
            UserError: another run holds it, or the folder cannot be written to.
        """
        state = self.path / publish.STATE
        made = [folder for folder in (state, *state.parents) if not folder.exists()]
        failed = f"cannot write to the result folder {self.path}"
        try:
            with _as_user_error(failed):
                state.mkdir(parents=True, exist_ok=True)
            with self._locked():
                with _as_user_error(failed):
                    publish.recover(self.path)
                yield
        finally:
            for folder in made or [state]:
                _remove_if_empty(folder)

    def _recover(self) -> None:
        """Finish what a killed run was about to put in place."""
        if publish.is_unfinished(self.path):
            with self._locked(), _as_user_error(f"cannot complete the result in {self.path}"):
                publish.recover(self.path)
            _remove_if_empty(self.path / publish.STATE)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.path / publish.STATE / LOCK))
            except BlockingIOError as error:
                raise UserError(
                    f"another run is writing to {self.path}; wait until it has finished, or choose "
                    "another --result-dir."
                ) from error
            except OSError as error:
                raise _user_error(
                    f"cannot write to the result folder {self.path}", error
                ) from error
            yield

    def is_complete(self, identity_hash: str) -> bool:
        """Whether the whole result of a run with this `RunIdentity.hash` is here."""
        if publish.is_pending(self.path) or self._read_marker().get("hash") != identity_hash:
            return False
        if not (self.path / REPORT).is_file():
            return False
        try:
            masklets = read_masklets(self.path / publish.MASKLETS)
        except UserError:
            return False
        masks = self.path / publish.MASK_FOLDER
        return all((masks / f"{name}.png").is_file() for name in masklets.frames)

    def refresh_manifest(self, contents: Mapping[str, Any]) -> None:
        """Replace ``manifest.json`` of a complete result, whose frames may have moved since.

        Raises:
            UserError: the disk is full or the folder cannot be written to.
        """
        path, data = self.path / publish.MANIFEST, _as_json(contents)
        with _as_user_error(f"cannot write {publish.MANIFEST} to {self.path}"):
            if not path.is_file() or path.read_bytes() != data:
                write_whole(path, data)

    def write_page(self, html: str) -> None:
        """Replace ``report.html`` of a complete result.

        Raises:
            UserError: the disk is full, the folder cannot be written to, or a run is writing to it.
        """
        with self.held(), _as_user_error(f"cannot write {PAGE} to {self.path}"):
            write_whole(self.path / PAGE, html.encode())

    def stored_identity(self) -> RunIdentity | None:
        """What the result that is here was made from; None if there is none."""
        marker = self._read_marker()
        try:
            return RunIdentity(
                marker["settings"], marker["inputs"], marker["checkpoints"], marker["version"]
            )
        except KeyError:
            return None

    def begin(self, frame_names: Sequence[str], height: int, width: int) -> StagedResult:
        """Start a run; what an unfinished one left behind is dropped.

        Args:
            frame_names: source name of every frame, relative, with '/', without its suffix.
            height: of the source frames, pixels.
            width: of the source frames, pixels.

        Raises:
            UserError: the folder cannot be written to, or a name would leave it.
        """
        for name in frame_names:
            _refuse_escaping(name)
        if len(set(frame_names)) != len(frame_names):
            raise UserError("two frames have the same name; their masks would be one file.")
        with _as_user_error(f"cannot write to the result folder {self.path}"):
            return StagedResult(self.path, frame_names, height, width)

    def _read_marker(self) -> dict[str, Any]:
        """``config.json`` if it is ours, else nothing."""
        try:
            marker = json.loads((self.path / publish.MARKER).read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        ours = isinstance(marker, dict) and marker.get("program") == PROGRAM
        return marker if ours else {}

    def _refuse_foreign_files(self) -> None:
        if self._read_marker():
            return
        for name in publish.ENTRIES:
            if os.path.lexists(self.path / name):
                raise UserError(
                    f"{self.path / name} was not written by t3dgs-masks and would be replaced; "
                    "choose another --result-dir."
                )


class StagedResult:
    """The files of a run in progress. As a context manager it drops what was not published."""

    def __init__(self, out: Path, frame_names: Sequence[str], height: int, width: int) -> None:
        """Use `ResultFolder.begin`.

        Raises:
            OSError: from the file system.
        """
        self.out = out
        self.frame_names = tuple(frame_names)
        self.height = height
        self.width = width
        self._out_is_new = not out.exists()
        self._folder = publish.staging_folder(out)
        if self._folder.is_dir():
            publish.remove_tree(self._folder)
        self._folder.mkdir(parents=True)

    def __enter__(self) -> StagedResult:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.discard()
            return
        with suppress(UserError):  # `error` is what the user has to hear about
            self.discard()

    @property
    def overlay_path(self) -> Path:
        """Where the overlay video is to be written (optional)."""
        return self._folder / OVERLAY

    @property
    def overlay_parts(self) -> Path:
        """Where parts of the overlay video may be kept until it is written; not made yet."""
        return self._folder / "overlay"

    def drop_overlay_parts(self) -> None:
        """Delete them, if there are any.

        Raises:
            UserError: from the file system.
        """
        with _as_user_error(f"cannot clean up {self.overlay_parts}"):
            if self.overlay_parts.exists():
                publish.remove_tree(self.overlay_parts)

    def mask_path(self, frame_idx: int) -> Path:
        """Where `write_mask` puts the mask of a frame."""
        return self._folder / publish.MASK_FOLDER / f"{self.frame_names[frame_idx]}.png"

    def write_mask(self, frame_idx: int, mask: TransientMask) -> None:
        """Write the static mask of a frame: 8-bit L, 255 = static, at source size.

        Args:
            frame_idx: which frame.
            mask: at any size; it is brought to the source size by nearest neighbour.

        Raises:
            UserError: the disk is full or the folder cannot be written to.
        """
        at_source = TransientMask(_resized(mask.pixels, self.height, self.width))
        self._write(self.mask_path(frame_idx), mask_png(at_source.static()))

    def write_masklets(self, masklets: Sequence[MaskletRecord]) -> None:
        """Write ``masklets.json``, kept and rejected objects alike, at source size.

        Raises:
            UserError: the disk is full or the folder cannot be written to.
        """
        contents = {
            "version": MASKLETS_VERSION,
            "video_height": self.height,
            "video_width": self.width,
            "frames": list(self.frame_names),
            "masklets": [self._masklet_json(record) for record in masklets],
        }
        text = json.dumps(contents, allow_nan=False, separators=(",", ":"))
        self._write(self._folder / publish.MASKLETS, text.encode())

    def write_report(self, report: Report) -> None:
        """Write ``report.json``.

        Raises:
            UserError: the disk is full or the folder cannot be written to.
        """
        contents = {
            **asdict(report),
            "seconds": {plain(stage): round(s, 3) for stage, s in report.seconds.items()},
            "running_time": round(report.running_time, 3),
            "image_encodings_per_frame": round(report.image_encodings_per_frame, 4),
        }
        self._write_json(self._folder / REPORT, contents)

    def write_page(self, html: str) -> None:
        """Write ``report.html`` (optional), for people to look at.

        Raises:
            UserError: the disk is full or the folder cannot be written to.
        """
        self._write(self._folder / PAGE, html.encode())

    def write_manifest(self, contents: Mapping[str, Any]) -> None:
        """Write ``manifest.json`` (optional): where every frame came from.

        Raises:
            UserError: the disk is full or the folder cannot be written to.
        """
        self._write_json(self._folder / publish.MANIFEST, contents)

    def write_config(self, identity: RunIdentity) -> None:
        """Write ``config.json``, which marks the folder as ours.

        Raises:
            UserError: the disk is full or the folder cannot be written to.
        """
        marker = {"program": PROGRAM, "hash": identity.hash, **identity.as_json()}
        self._write_json(self._folder / publish.MARKER, marker)

    def carry_over(self, name: str, changes: Mapping[str, Any] | None = None) -> None:
        """Take a file of the result that is there over into this one; without one, do nothing.

        Args:
            name: one of `publish.ENTRIES`, a file.
            changes: of a JSON file: keys to set.

        Raises:
            UserError: it cannot be read or is no JSON, or the folder cannot be written to.
        """
        source, target = self.out / name, self._folder / name
        if not source.is_file():
            return
        with _as_user_error(f"cannot take {name} over"):
            if changes is None:
                shutil.copyfile(source, target)
                return
            try:
                contents = {**json.loads(source.read_bytes()), **changes}
            except (ValueError, TypeError, RecursionError) as error:
                raise UserError(f"{source} is not valid JSON; run `refine` again.") from error
        self._write_json(target, contents)

    def publish(self) -> None:
        """Put the finished result in place of an earlier one.

        Raises:
            ValueError: a frame has no mask, or one of the JSON files was not written.
            UserError: from the file system; the next `ResultFolder.open` completes it.
        """
        required = [self._folder / name for name in (publish.MASKLETS, REPORT, publish.MARKER)]
        required += [self.mask_path(frame_idx) for frame_idx in range(len(self.frame_names))]
        missing = [path.relative_to(self._folder) for path in required if not path.is_file()]
        if missing:
            raise ValueError(f"{len(missing)} files were not written, {missing[0]} among them")
        with _as_user_error(f"cannot put the result in place in {self.out}"):
            publish.publish(self.out)
            _remove_if_empty(self.out / publish.STATE)

    def discard(self) -> None:
        """Drop what was not published, and the folders made for it; does nothing after that."""
        if self._folder.is_dir():
            with _as_user_error(f"cannot clean up {self._folder}"):
                publish.remove_tree(self._folder)
        _remove_if_empty(self.out / publish.STATE)
        if self._out_is_new:
            _remove_if_empty(self.out)

    def _masklet_json(self, record: MaskletRecord) -> dict[str, Any]:
        return {
            "object_id": record.object_id,
            "kept": record.kept,
            "reason": record.reason,
            "transience_score": record.transience_score,
            "segmentations": {
                str(frame_idx): self._segmentation_json(rle)
                for frame_idx, rle in sorted(record.segmentations.items())
            },
            **({"doubts": dict(record.doubts)} if record.doubts else {}),
        }

    def _segmentation_json(self, rle: Rle) -> dict[str, Any]:
        if (rle.height, rle.width) != (self.height, self.width):
            rle = encode(_resized(decode(rle), self.height, self.width))
        return {"size": [rle.height, rle.width], "counts": rle.counts.decode("ascii")}

    def _write_json(self, path: Path, contents: Mapping[str, Any]) -> None:
        self._write(path, _as_json(contents))

    def _write(self, path: Path, data: bytes) -> None:
        with _as_user_error(f"cannot write {path.name} to {self.out}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, data)


# --- reading back ---------------------------------------------------------------------------------


def complete_publish(path: Path) -> None:
    """If the run that wrote a result was killed while it put it in place, complete that.

    Raises:
        UserError: from the file system, or another run is at it.
    """
    ResultFolder(path)._recover()


def read_masklets(path: Path) -> MaskletFile:
    """Read a ``masklets.json``, checked so far that every segmentation can be decoded.

    Raises:
        UserError: the file is missing, cut short, or not what `StagedResult` writes.
    """
    try:
        contents = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON; run `t3dgs-masks refine` again.") from error
    try:
        return _parse_masklets(contents)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path} is not a masklet file of t3dgs-masks: {what}.") from error


def _parse_masklets(contents: Any) -> MaskletFile:
    version = _typed(_typed(contents, dict, "top level")["version"], int, "version")
    if version != MASKLETS_VERSION:
        raise ValueError(f"version {version}, this program reads {MASKLETS_VERSION}")
    height = _typed(contents["video_height"], int, "video_height")
    width = _typed(contents["video_width"], int, "video_width")
    if min(height, width) < 1:
        raise ValueError(f"size {height} x {width}")
    names = [_typed(name, str, "frame name") for name in _typed(contents["frames"], list, "frames")]
    for name in names:
        _refuse_escaping(name)
    masklets = tuple(
        _parse_masklet(_typed(item, dict, "masklet"), len(names), height, width)
        for item in _typed(contents["masklets"], list, "masklets")
    )
    ids = [masklet.object_id for masklet in masklets]
    if len(set(ids)) != len(ids):
        raise ValueError("an object_id occurs twice")
    return MaskletFile(tuple(names), height, width, masklets)


def _parse_masklet(item: dict[str, Any], num_frames: int, height: int, width: int) -> MaskletRecord:
    score = item["transience_score"]
    segmentations: dict[int, Rle] = {}
    for key, segmentation in _typed(item["segmentations"], dict, "segmentations").items():
        frame_idx = int(key)
        if not 0 <= frame_idx < num_frames:
            raise ValueError(f"frame index {frame_idx} of {num_frames} frames")
        segmentations[frame_idx] = _parse_rle(_typed(segmentation, dict, "RLE"), height, width)
    return MaskletRecord(
        object_id=_typed(item["object_id"], int, "object_id"),
        kept=_typed(item["kept"], bool, "kept"),
        reason=_typed(item["reason"], str, "reason"),
        transience_score=None if score is None else float(score),
        segmentations=segmentations,
        doubts=_typed(item.get("doubts", {}), dict, "doubts"),
    )


def _parse_rle(segmentation: dict[str, Any], height: int, width: int) -> Rle:
    if segmentation["size"] != [height, width]:
        raise ValueError(f"segmentation of size {segmentation['size']}, not {[height, width]}")
    return checked_rle(height, width, _typed(segmentation["counts"], str, "counts").encode("ascii"))


def _typed(value: Any, kind: type, what: str) -> Any:
    # bool is an int to Python, not to JSON.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"{what} is not {'an' if kind is int else 'a'} {kind.__name__}")
    return value


# --- helpers --------------------------------------------------------------------------------------


def _resized(mask: BoolMask, height: int, width: int) -> BoolMask:
    """[H, W] bool -> [height, width] bool, the nearest pixel by pixel centres."""
    if mask.shape == (height, width):
        return mask
    resized = cv2.resize(
        mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT
    )
    return resized.astype(bool)


def _refuse_escaping(name: str) -> None:
    parts = name.replace("\\", "/").split("/") if os.name == "nt" else name.split("/")
    drive = os.name == "nt" and ":" in name
    if drive or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise UserError(f"frame name {name!r} would put a mask outside of the result folder.")


def _refuse_overlap(out: Path, source: Path) -> None:
    """Results must not land among the inputs, nor replace them."""
    # Path.resolve raises on loops of symbolic links, realpath does not.
    place, given = Path(os.path.realpath(out)), Path(os.path.realpath(source))
    if given.is_dir() and place.is_relative_to(given):
        raise UserError(
            f"the result folder {out} lies inside the input folder {source}; "
            "choose a --result-dir outside of it."
        )
    for name in (*publish.ENTRIES, publish.STATE):
        if given.is_relative_to(place / name):
            raise UserError(
                f"the input {source} is part of an earlier result in {out} and would be replaced; "
                "choose another --result-dir."
            )


@contextmanager
def _as_user_error(failed: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _user_error(failed, error) from error


def _user_error(failed: str, error: OSError) -> UserError:
    return UserError(f"{failed}: {why_not_written(error)}.")


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # something is in it, or it is gone
        folder.rmdir()


def _as_json(contents: Mapping[str, Any]) -> bytes:
    return json.dumps(contents, allow_nan=False, indent=2, default=plain).encode() + b"\n"
