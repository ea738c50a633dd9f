"""Writing masks into a dataset so that trainers pick them up, and taking them out again.

Two layouts: nerfstudio's (``transforms.json`` gets a ``mask_path`` for every frame) and that of
nerfstudio's COLMAP parser (a mask beside every image name). The user's own masks are combined with
the new ones and never touched: where ``masks/`` is theirs, ours go to ``masks_t3dgs/``. A record
in ``.t3dgs_masks/`` holds what was there before; see `transaction` for what a kill does.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from PIL import Image as Pillow

from t3dgs_masks.datasets.apply_record import (
    RECORD,
    AppliedRecord,
    Layout,
    UserMasks,
    changed_files,
    read_record,
)
from t3dgs_masks.datasets.colmap import IMAGES_FOLDER, find_model, open_colmap
from t3dgs_masks.datasets.dataset import Camera, Dataset, DatasetFrame
from t3dgs_masks.datasets.geometry import fits, scaled, to_file_geometry
from t3dgs_masks.datasets.nerfstudio import TRANSFORMS_NAME, open_nerfstudio
from t3dgs_masks.datasets.transaction import (
    Transaction,
    digest,
    inside,
    locked,
    recover,
    writing,
)
from t3dgs_masks.datasets.transforms_text import set_mask_paths
from t3dgs_masks.errors import UserError
from t3dgs_masks.io.images import shown
from t3dgs_masks.masks import TransientMask

Notify = Callable[[str], None]

_MASKS = "masks"
_OURS = "t3dgs"
_LONGEST_NAME = 200  # bytes of a mask's name without its suffix; file systems allow 255


@dataclass(frozen=True)
class FrameMask:
    """The mask of one frame, and what it is a mask of."""

    transient: TransientMask
    camera: Camera | None = None
    """Set if it has the geometry of an undistorted view: the pinhole camera of that view. None: it
    has the geometry of the image file, at any scale."""


class MaskSource(Protocol):
    """Where masks come from."""

    def mask_of(self, frame: DatasetFrame) -> FrameMask | None:
        """The mask of a frame; None: all of it is static.

        Raises:
            UserError: there is one, but it cannot be read.
        """
        ...


@dataclass(frozen=True)
class AppliedSummary:
    """What `apply_masks` did."""

    root: Path
    layout: Layout
    described_by: Path
    """The JSON file, or the folder of the COLMAP model."""
    frames: int
    masked_frames: int
    """Frames that the source had a mask for."""
    combined_frames: int
    """Frames that the user had a mask for."""
    transient_share: float
    """Of the pixels, mean over `masked_frames`, the user's masks not counted; 0 to 1."""
    masks_folder: str
    """Relative to `root`."""
    folders: Sequence[str]
    """All folders that masks went to, relative to `root`."""


@dataclass(frozen=True)
class RevertedSummary:
    """What `revert_masks` did."""

    root: Path
    was_applied: bool
    """False: there was nothing to revert."""
    removed_files: int = 0
    kept_files: Sequence[str] = ()
    """Our masks that were changed since; they are still there, relative to `root`."""
    kept_edits: bool = False
    """The JSON file was changed since; only our entries were taken out of it."""


def apply_masks(
    data: Path,
    masks: MaskSource,
    *,
    dilate: int = 0,
    include_eval: bool = False,
    notify: Notify | None = None,
) -> AppliedSummary:
    """Write masks into a dataset: after it, trainers that read it leave transients out.

    Masks of an earlier apply are replaced; what the user had before is combined with the new ones
    (static where both are). Evaluation frames, and frames without a mask, are all static but for
    the user's own mask. Killed or failed, the dataset is as it was, at the latest when the next
    apply or revert begins.

    Args:
        data: the dataset's folder, or its JSON file.
        masks: a mask for each frame.
        dilate: pixels of the full-size image that transients grow by (4-connected steps); the
            user's own masks do not grow.
        include_eval: use the masks of evaluation frames too.
        notify: takes one-line notices for the user.

    Raises:
        UserError: no such dataset, a mask that does not fit, files changed since an earlier apply,
            or the file system does not allow it. Nothing was changed then.
    """
    if dilate < 0:
        raise UserError(f"--dilate {dilate} is below 0: transients can only grow")
    root = _root_of(data)
    with locked(root):
        recover(root)
        dataset = open_dataset_at(data)
        record = read_record(root)
        if record is not None:
            _refuse_another(dataset, record)
            _refuse_changes(root, record)
        writer = _Writer(dataset, record, masks, dilate, include_eval, notify or _ignore)
        return writer.run()


def revert_masks(data: Path, *, force: bool = False) -> RevertedSummary:
    """Take out what `apply_masks` wrote: the dataset is what it was, byte for byte.

    Args:
        data: the dataset's folder, or its JSON file.
        force: go on if files were changed since. What was changed is kept: a JSON file loses our
            entries alone, and masks that someone drew on stay where they are.

    Raises:
        UserError: files were changed since, or the file system does not allow it. Nothing was
            changed then.
    """
    root = _root_of(data)
    with locked(root):
        recover(root)
        record = read_record(root)
        if record is None:
            return RevertedSummary(root, was_applied=False)
        if not force:
            _refuse_changes(root, record)
        kept = changed_files(root, record)
        removed = [name for name in record.files if name not in kept]
        with Transaction(root) as transaction:
            kept_edits = _revert_transforms(root, record, transaction)
            transaction.remove(RECORD)
            if record.transforms is not None:
                transaction.remove(record.original_transforms)
            for name in removed:
                transaction.remove(name)
            transaction.remove_folders(list(record.folders))
            transaction.commit()
        return RevertedSummary(root, True, len(removed), kept, kept_edits)


def recover_dataset(data: Path) -> bool:
    """Take back what a killed apply or revert left half done.

    Args:
        data: the dataset's folder, or its JSON file.

    Returns:
        Whether there was something to take back.

    Raises:
        UserError: the file system does not allow it.
    """
    root = _root_of(data)
    with locked(root):
        return recover(root)


def open_dataset_at(data: Path) -> Dataset:
    """The posed dataset at `data`, a folder or a JSON file.

    Raises:
        UserError: there is none, or it is broken.
    """
    if data.suffix == ".json" or os.path.lexists(data / TRANSFORMS_NAME):
        return open_nerfstudio(data)
    if find_model(data) is not None:
        return open_colmap(data)
    raise UserError(
        f"{shown(data)} is no dataset that masks can be applied to: it needs {TRANSFORMS_NAME}, or"
        f" {IMAGES_FOLDER}/ and a COLMAP model in sparse/0"
    )


def flat_names(names: Sequence[str]) -> list[str]:
    """Frame names as unique names for files of one folder: ``cam0/a`` -> ``cam0_a``.

    nerfstudio drops subfolders where it looks for downscaled masks. Names differ in more than
    case, and are short enough for every file system.
    """
    flat: list[str] = []
    used: set[str] = set()
    for name in names:
        base = name.replace("/", "_").replace("\\", "_")
        if len(os.fsencode(base)) > _LONGEST_NAME:
            tag = hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
            base = os.fsdecode(os.fsencode(base)[: _LONGEST_NAME // 2]) + f"_{tag}"
        candidates = (base if number == 1 else f"{base}_{number}" for number in count(1))
        chosen = next(candidate for candidate in candidates if candidate.casefold() not in used)
        used.add(chosen.casefold())
        flat.append(chosen)
    return flat


def _ignore(_: str) -> None:
    pass


def _root_of(data: Path) -> Path:
    root = data.parent if data.suffix == ".json" else data
    if not root.is_dir():
        raise UserError(f"there is no folder {shown(root)}: --data names a dataset's folder")
    return root


# --- What stands in the way -------------------------------------------------------------------


def _refuse_another(dataset: Dataset, record: AppliedRecord) -> None:
    """One dataset of a folder at a time."""
    transforms = _transforms_name(dataset) if dataset.kind == "nerfstudio" else None
    if (dataset.kind, transforms) == (record.layout, record.transforms):
        return
    applied_to = record.transforms or "the COLMAP project"
    raise UserError(
        f"masks are applied to {shown(applied_to)} in {shown(dataset.root)} already: run"
        f" `t3dgs-masks revert --data {shown(dataset.root)}` first"
    )


def _refuse_changes(root: Path, record: AppliedRecord) -> None:
    """Nothing that the user changed since gets lost."""
    advice = (
        f"`t3dgs-masks revert --force --data {shown(root)}` takes the applied masks out and keeps"
        " that change"
    )
    if _transforms_state(root, record) == "changed":
        assert record.transforms is not None
        raise UserError(
            f"{shown(root / record.transforms)} was changed since masks were applied; {advice}"
        )
    changed = changed_files(root, record)
    if changed:
        raise UserError(
            f"{shown(root / changed[0])} was changed since masks were applied ({len(changed)} such"
            f" files); {advice}"
        )
    if _transforms_state(root, record) == "applied" and _original(root, record) is None:
        raise UserError(
            f"{shown(root / record.original_transforms)}, the copy from before masks were applied,"
            f" is gone or damaged; {advice}"
        )


def _transforms_state(root: Path, record: AppliedRecord) -> str:
    """Whether the JSON file is "applied" (as we left it), as "before", "changed" or "gone"; "none"
    in layouts without one."""
    if record.transforms is None:
        return "none"
    with writing(root):
        present = digest(inside(root, record.transforms))
    if present is None:
        return "gone"
    if present == record.transforms_after:
        return "applied"
    return "before" if present == record.transforms_before else "changed"


def _original(root: Path, record: AppliedRecord) -> Path | None:
    """The JSON file of before, if it is whole."""
    path = inside(root, record.original_transforms)
    with writing(root):
        return path if digest(path) == record.transforms_before else None


def _revert_transforms(root: Path, record: AppliedRecord, transaction: Transaction) -> bool:
    """Bring back the JSON file; returns whether the present one's other changes were kept."""
    state = _transforms_state(root, record)
    if state in ("none", "before"):
        return False
    assert record.transforms is not None
    original = _original(root, record)
    if state in ("applied", "gone") and original is not None:
        transaction.put(record.transforms, original)
        return False
    path = root / record.transforms
    advice = f"repair it, or replace it by {shown(root / record.original_transforms)}"
    try:
        text = path.read_bytes().decode("utf-8")
        without = set_mask_paths(text, _without_ours(json.loads(text), record))
    except OSError as error:
        raise UserError(f"cannot read {shown(path)}: {error.strerror}; {advice}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{shown(path)} is not valid JSON any more: {advice}") from error
    transaction.write(record.transforms, without.encode("utf-8"), like=path)
    return True


def _without_ours(meta: Any, record: AppliedRecord) -> dict[int, str | None]:
    """For every frame whose mask is ours: the mask that it had before."""
    frames = meta.get("frames") if isinstance(meta, dict) else None
    if not isinstance(frames, list):
        return {}
    return {
        index: record.user_masks.get(_source(values))
        for index, values in enumerate(frames)
        if isinstance(values, dict) and values.get("mask_path") in record.files
    }


def _source(values: Mapping[str, Any]) -> str:
    """`DatasetFrame.source` of an item of ``frames``."""
    return PurePosixPath(str(values.get("file_path"))).as_posix()


# --- Where masks go ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """One mask file to write."""

    path: str
    """Relative to the root."""
    image: Path
    """Whose size it has."""
    user_mask: Path | None
    """The user's own mask for it; the first place of a frame (full size) always names it."""


class _Places:
    """Names of the mask files of a dataset."""

    def __init__(self, dataset: Dataset, user_masks: UserMasks, ours: Collection[str]) -> None:
        self._dataset = dataset
        self._user_masks = user_masks
        self._ours = ours
        self._factors = _factors(dataset.root)
        self._flat = flat_names([frame.name for frame in dataset.frames])
        tags = ("" if n == 0 else _OURS if n == 1 else f"{_OURS}_{n}" for n in count())
        self._tag = next(tag for tag in tags if self._is_free(tag))

    @property
    def folder(self) -> str:
        """Where the masks of full-size images go."""
        return self._folder(self._tag)

    def of(self, index: int, user_mask: Path | None) -> list[_Place]:
        """Mask files of the frame at `index`, that of the full-size image first."""
        frame = self._dataset.frames[index]
        places = [_Place(self._path(self._tag, index), frame.image, user_mask)]
        for factor in self._factors:
            image = self._downscaled_image(frame, factor)
            if image.is_file():
                path = self._path(self._tag, index, factor)
                places.append(_Place(path, image, self._downscaled_user_mask(user_mask, factor)))
        return places

    def _is_free(self, tag: str) -> bool:
        """Whether nothing but ours is where masks would go."""
        root = self._dataset.root
        folder = inside(root, f"{self._folder(tag)}/any").parent
        if not all(path in self._ours for path in _files_in(folder, root)):
            return False
        for index in range(len(self._dataset.frames)):
            for factor in (1, *self._factors):
                path = self._path(tag, index, factor)
                if path not in self._ours and os.path.lexists(root / path):
                    return False
        return True

    def _folder(self, tag: str, factor: int = 1) -> str:
        if self._dataset.kind == "nerfstudio" and factor > 1:
            return f"{_MASKS}_{factor}"  # whatever the other folder's name: so nerfstudio has it
        folder = f"{_MASKS}_{tag}" if tag else _MASKS
        return folder if factor == 1 else f"{folder}_{factor}"

    def _path(self, tag: str, index: int, factor: int = 1) -> str:
        folder = self._folder(tag, factor)
        if self._dataset.kind == "nerfstudio":
            prefix = f"{tag}_" if tag else ""
            return f"{folder}/{prefix}{self._flat[index]}.png"
        name = PurePosixPath(self._dataset.frames[index].source).relative_to(IMAGES_FOLDER)
        return (folder / name.with_suffix(".png")).as_posix()

    def _downscaled_image(self, frame: DatasetFrame, factor: int) -> Path:
        folder = self._dataset.root / f"{IMAGES_FOLDER}_{factor}"
        source = PurePosixPath(frame.source)
        if self._dataset.kind == "nerfstudio":
            return folder / source.name
        return folder / source.relative_to(IMAGES_FOLDER)

    def _downscaled_user_mask(self, user_mask: Path | None, factor: int) -> Path | None:
        if user_mask is None:
            return None
        root = self._dataset.root
        name = user_mask.name
        if self._dataset.kind == "colmap":
            name = user_mask.relative_to(root / _MASKS)
        path = root / f"{_MASKS}_{factor}" / name
        return path if path.is_file() and not self._user_masks.is_ours(path) else None


def _factors(root: Path) -> list[int]:
    """Downscale factors that the dataset has images for."""
    prefix = f"{IMAGES_FOLDER}_"
    with writing(root):
        suffixes = [
            entry.name.removeprefix(prefix)
            for entry in root.iterdir()
            if entry.name.startswith(prefix) and entry.is_dir()
        ]
    return sorted(
        int(text) for text in suffixes if text.isascii() and text.isdigit() and text > "1"
    )


def _files_in(folder: Path, root: Path) -> Iterator[str]:
    """What lies below `folder`, relative to `root`; the folder itself if it is none."""
    if os.path.lexists(folder) and not folder.is_dir():
        yield folder.relative_to(root).as_posix()
    for parent, _, names in os.walk(folder):
        for name in names:
            yield (Path(parent) / name).relative_to(root).as_posix()


# --- Writing ----------------------------------------------------------------------------------


class _Writer:
    """One apply."""

    def __init__(
        self,
        dataset: Dataset,
        record: AppliedRecord | None,
        masks: MaskSource,
        dilate: int,
        include_eval: bool,
        notify: Notify,
    ) -> None:
        self._dataset = dataset
        self._root = dataset.root
        self._record = record
        self._masks = masks
        self._dilate = dilate
        self._include_eval = include_eval
        self._notify = notify
        self._user_masks = UserMasks(self._root, record)
        self._base = _Transforms.read(dataset, record) if dataset.kind == "nerfstudio" else None
        self._masked, self._combined = 0, 0
        self._transient_share = 0.0

    def run(self) -> AppliedSummary:
        ours = self._record.files if self._record is not None else {}
        self._refuse_outside()
        places = _Places(self._dataset, self._user_masks, ours)
        user_masks = self._texts_of_user_masks()
        if self._base is not None and 0 < len(user_masks) < len(self._dataset.frames):
            self._notify(
                f"{len(user_masks)} of {len(self._dataset.frames)} frames had a mask_path, which"
                " nerfstudio refuses; now all have one"
            )
        with Transaction(self._root) as transaction:
            if self._base is not None and self._base.path != self._root / self._base.kept_as:
                transaction.put(self._base.kept_as, self._base.path)
            files: dict[str, str] = {}
            mask_paths: dict[str, str] = {}
            for index, frame in enumerate(self._dataset.frames):
                text = user_masks.get(frame.source)
                frame_places = places.of(index, None if text is None else self._root / text)
                mask_paths[frame.source] = frame_places[0].path
                for place, content in self._contents(frame, frame_places):
                    files[place.path] = hashlib.sha256(content).hexdigest()
                    transaction.write(place.path, content)
            stale = [path for path in ours if path not in files]
            made = set(self._record.folders if self._record is not None else ())
            made |= {path for path in transaction.new_folders if not path.startswith(".")}
            folders = _used(made, files)
            layout: Layout = "colmap" if self._base is None else "nerfstudio"
            record = AppliedRecord(layout, places.folder, files, sorted(folders), user_masks)
            if self._base is not None:
                content = self._base.with_mask_paths(mask_paths)
                record = self._base.recorded(record, content)
                transaction.write(RECORD, record.to_json())
                # Last of what is new: it is what makes trainers look at the masks.
                transaction.write(self._base.name, content, like=self._base.path)
            else:
                transaction.write(RECORD, record.to_json())
            for path in stale:
                transaction.remove(path)
            transaction.remove_folders(sorted(made - folders))
            transaction.commit()
        return AppliedSummary(
            self._root,
            record.layout,
            self._dataset.described_by,
            len(self._dataset.frames),
            self._masked,
            self._combined,
            self._transient_share / max(1, self._masked),
            places.folder,
            sorted({PurePosixPath(path).parts[0] for path in files}),
        )

    def _refuse_outside(self) -> None:
        """COLMAP's masks are called like the images."""
        for frame in self._dataset.frames:
            if self._dataset.kind == "colmap" and not frame.inside_root:
                raise UserError(
                    f"the image {shown(frame.source)} lies outside of {shown(self._root)}, so that"
                    " its mask would too: move it into the dataset"
                )

    def _texts_of_user_masks(self) -> dict[str, str]:
        """`DatasetFrame.source` -> the user's mask, as the dataset names it."""
        if self._base is not None:
            return self._base.mask_paths
        found = {frame.source: self._user_masks.of(frame) for frame in self._dataset.frames}
        return {
            source: path.relative_to(self._root).as_posix()
            for source, path in found.items()
            if path is not None
        }

    def _contents(
        self, frame: DatasetFrame, places: Sequence[_Place]
    ) -> Iterator[tuple[_Place, bytes]]:
        """The PNG of every place of a frame."""
        given = None
        if frame.split != "eval" or self._include_eval:
            given = self._masks.mask_of(frame)
        if given is not None and given.camera is not None and frame.camera is None:
            raise UserError(
                f"the mask of {shown(frame.source)} is of an undistorted view, but the dataset has"
                " no camera for it that could tell where it belongs"
            )
        size = stored_size(frame.image)
        ours = self._of_image(frame, given, size)
        if given is not None:
            self._masked += 1
            self._transient_share += float(ours.pixels.mean())
        user = _user_mask(places[0], size)
        self._combined += user is not None
        full = _either(ours, user)
        yield places[0], _png(full)
        for place in places[1:]:
            small_size = stored_size(place.image)
            small = scaled(full, small_size)
            if given is not None and given.camera is not None:
                # Straight from the view: what is grown for one size is too much or too little for
                # another.
                small = _either(
                    self._of_image(frame, given, small_size, size[0] / small_size[0]),
                    None if user is None else scaled(user, small_size),
                )
            yield place, _png(_either(small, _user_mask(place, small_size)))

    def _of_image(
        self,
        frame: DatasetFrame,
        given: FrameMask | None,
        size: tuple[int, int],
        factor: float = 1,
    ) -> TransientMask:
        """Our mask for an image of a frame: of (height, width) `size`, downscaled by `factor`."""
        if given is None:
            return TransientMask(np.zeros(size, np.bool_))
        if given.camera is not None and frame.camera is not None:
            mask = to_file_geometry(given.transient, given.camera, frame.camera, size=size)
        else:
            _refuse_misfit(given.transient, size, f"the mask for {shown(frame.source)}")
            mask = scaled(given.transient, size)
        return mask.dilated(math.ceil(self._dilate / factor))


@dataclass(frozen=True)
class _Transforms:
    """The JSON file as the user has it, without our masks."""

    name: str
    """Relative to the root."""
    path: Path
    """Where these bytes are."""
    content: bytes
    kept_as: str
    """Where it is kept while masks are applied, relative to the root."""
    mask_paths: dict[str, str]
    """`DatasetFrame.source` -> the user's mask path."""
    sources: list[str]
    """`DatasetFrame.source` of every item of ``frames``."""

    @classmethod
    def read(cls, dataset: Dataset, record: AppliedRecord | None) -> _Transforms:
        name = _transforms_name(dataset)
        path = dataset.root / name
        if record is not None:
            path = _original(dataset.root, record) or path
        kept_as = replace(
            record or AppliedRecord("nerfstudio", _MASKS), transforms=name
        ).original_transforms
        try:
            content = path.read_bytes()
            frames = json.loads(content)["frames"]
            content.decode("utf-8")
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {shown(path)}: write it anew as UTF-8 JSON") from error
        return cls(
            name,
            path,
            content,
            kept_as,
            {_source(item): item["mask_path"] for item in frames if "mask_path" in item},
            [_source(item) for item in frames],
        )

    def with_mask_paths(self, mask_paths: Mapping[str, str]) -> bytes:
        """The file with a mask path for every frame."""
        text = self.content.decode("utf-8")
        new = {index: mask_paths[source] for index, source in enumerate(self.sources)}
        return set_mask_paths(text, new).encode("utf-8")

    def recorded(self, record: AppliedRecord, content: bytes) -> AppliedRecord:
        """The record with what happens to this file."""
        return replace(
            record,
            transforms=self.name,
            transforms_before=hashlib.sha256(self.content).hexdigest(),
            transforms_after=hashlib.sha256(content).hexdigest(),
        )


def _transforms_name(dataset: Dataset) -> str:
    """The dataset's JSON file, relative to its root; where it is a link, what it leads to.

    Raises:
        UserError: that lies outside of the dataset.
    """
    root, path = Path(os.path.realpath(dataset.root)), Path(os.path.realpath(dataset.described_by))
    if not path.is_relative_to(root):
        raise UserError(
            f"{shown(dataset.described_by)} leads to {shown(path)}, outside of the dataset, where"
            " nothing will be changed: replace the link by a copy"
        )
    return path.relative_to(root).as_posix()


def _used(folders: Collection[str], files: Collection[str]) -> set[str]:
    """Those folders that one of the files is in."""
    parents = {parent.as_posix() for path in files for parent in PurePosixPath(path).parents}
    return set(folders) & parents


def stored_size(image: Path) -> tuple[int, int]:
    """(height, width) of an image as it is stored, from its header: trainers do not turn images.

    Raises:
        UserError: it is not an image.
    """
    try:
        with Pillow.open(image) as opened:
            return opened.size[1], opened.size[0]
    except Exception as error:  # Pillow's readers raise anything on broken bytes
        raise UserError(
            f"cannot read the image {shown(image)}: it is broken or not an image; replace it"
        ) from error


def _user_mask(place: _Place, size: tuple[int, int]) -> TransientMask | None:
    """The user's own mask for a file of `size`, read as nerfstudio does: what is not 0 is static.

    Raises:
        UserError: it cannot be read, or has other proportions.
    """
    if place.user_mask is None:
        return None
    try:
        with Pillow.open(place.user_mask) as opened:
            pixels = np.array(opened)
    except Exception as error:
        raise UserError(
            f"cannot read the dataset's own mask {shown(place.user_mask)}: restore it, or remove"
            " its mask_path"
        ) from error
    if pixels.ndim == 3:
        colours = pixels[..., :1] if pixels.shape[2] == 2 else pixels[..., :3]
        pixels = colours.any(axis=2)
    mask = TransientMask(pixels == 0)
    _refuse_misfit(mask, size, f"the dataset's own mask {shown(place.user_mask)}")
    return scaled(mask, size)


def _refuse_misfit(mask: TransientMask, size: tuple[int, int], what: str) -> None:
    if fits(mask, size):
        return
    height, width = mask.pixels.shape
    raise UserError(
        f"{what} is {width}x{height}, but its image {size[1]}x{size[0]}: they have to differ in"
        " scale only"
    )


def _either(mask: TransientMask, other: TransientMask | None) -> TransientMask:
    return mask if other is None else TransientMask(mask.pixels | other.pixels)


def _png(mask: TransientMask) -> bytes:
    buffer = BytesIO()
    Pillow.fromarray(mask.static()).save(buffer, format="PNG")
    return buffer.getvalue()
