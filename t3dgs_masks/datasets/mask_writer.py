"""Writing the masks of a dataset's frames: ours and the user's, at the size of every image."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from PIL import Image as Pillow

from t3dgs_masks.datasets.apply_record import RECORD, AppliedRecord, Layout, UserMasks
from t3dgs_masks.datasets.dataset import Camera, Dataset, DatasetFrame
from t3dgs_masks.datasets.geometry import fits, scaled, to_file_geometry
from t3dgs_masks.datasets.mask_places import MaskPlaces, Place
from t3dgs_masks.datasets.transaction import Transaction
from t3dgs_masks.datasets.transforms_file import UserTransforms
from t3dgs_masks.errors import UserError
from t3dgs_masks.io.images import shown, stored_size
from t3dgs_masks.io.mask_png import mask_png
from t3dgs_masks.masks import TransientMask

Notify = Callable[[str], None]


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


class MaskWriter:
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
        self._base = UserTransforms.read(dataset, record) if dataset.kind == "nerfstudio" else None
        self._masked, self._combined = 0, 0
        self._transient_share = 0.0

    def run(self) -> AppliedSummary:
        ours = self._record.files if self._record is not None else {}
        self._refuse_outside()
        places = MaskPlaces(self._dataset, self._user_masks, ours)
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
        self, frame: DatasetFrame, places: Sequence[Place]
    ) -> Iterator[tuple[Place, bytes]]:
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
        yield places[0], mask_png(full.static())
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
            yield place, mask_png(_either(small, _user_mask(place, small_size)).static())

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


def _used(folders: Collection[str], files: Collection[str]) -> set[str]:
    """Those folders that one of the files is in."""
    parents = {parent.as_posix() for path in files for parent in PurePosixPath(path).parents}
    return set(folders) & parents


def _user_mask(place: Place, size: tuple[int, int]) -> TransientMask | None:
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
