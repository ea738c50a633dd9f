"""A folder of static masks (white = keep) as the masks of a dataset's frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import ExifTags
from PIL import Image as Pillow

from t3dgs_masks.datasets.dataset import Camera, Dataset, DatasetFrame
from t3dgs_masks.datasets.geometry import fits
from t3dgs_masks.datasets.manifest import MANIFEST_NAME, Manifest, read_manifest
from t3dgs_masks.datasets.mask_places import flat_names
from t3dgs_masks.datasets.mask_writer import FrameMask, Notify
from t3dgs_masks.errors import UserError
from t3dgs_masks.io.images import IMAGE_SUFFIXES, read_planes, scan_folder, shown, stored_size
from t3dgs_masks.io.publish import MASK_FOLDER
from t3dgs_masks.masks import TransientMask
from t3dgs_masks.types import BoolMask

_IMAGE_SUFFIXES = tuple(IMAGE_SUFFIXES)
# What undoes each EXIF orientation.
_BACK = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_90,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_270,
}


@dataclass(frozen=True)
class _Given:
    """A mask file and what is known of it."""

    path: Path
    undistorted: Camera | None = None


class FolderMasks:
    """A `MaskSource` over mask files; see `open_mask_folder`."""

    def __init__(self, given: Mapping[str, _Given], is_result: bool) -> None:
        self._given = given
        self.is_result = is_result
        """Whether it is a result folder of `refine`, whose polarity needs no doubt."""

    @property
    def sources(self) -> Sequence[str]:
        """`DatasetFrame.source` of the frames that have a mask."""
        return list(self._given)

    def mask_of(self, frame: DatasetFrame) -> FrameMask | None:
        """The mask of a frame, None without a file.

        Raises:
            UserError: the file cannot be read, or has other proportions than the image.
        """
        given = self._given.get(frame.source)
        if given is None:
            return None
        static = _read_static(given.path)
        if given.undistorted is not None:
            return FrameMask(TransientMask(~static), given.undistorted)
        size = stored_size(frame.image)
        mask = _as_stored(TransientMask(~static), frame.image, size)
        if not fits(mask, size):
            height, width = mask.pixels.shape
            raise UserError(
                f"the mask {shown(given.path)} is {width}x{height}, but its image"
                f" {shown(frame.source)} {size[1]}x{size[0]}: they have to differ in scale only"
            )
        return FrameMask(mask)


def open_mask_folder(folder: Path, dataset: Dataset, *, notify: Notify) -> FolderMasks:
    """Find the mask file of every frame.

    A result folder's manifest says which is whose. Else a file belongs to the frame that it is
    named like: by its path below the folder that all frames share, by the end of the frame's path
    (``frame_1`` or ``cam0/frame_1`` for ``images/cam0/frame_1.jpg``), with '/' written as '_', or
    with the image's suffix before its own.

    Args:
        folder: a result folder of `refine`, or the masks themselves, in subfolders or not.
        dataset: whose frames they are for.
        notify: takes one-line notices for the user.

    Raises:
        UserError: no such folder, no masks, masks of other frames, or a file that fits several
            frames.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {shown(folder)}: --masks names a folder of masks")
    is_result = (folder / MASK_FOLDER).is_dir()
    masks = folder / MASK_FOLDER if is_result else folder
    files = scan_folder(masks).files
    if not files:
        raise UserError(
            f"{shown(masks)} holds no masks: give a result folder of `t3dgs-masks refine`, or a"
            " folder of images (white = keep)"
        )
    manifest = read_manifest(folder) if (folder / MANIFEST_NAME).is_file() else None
    given, unused = _by_manifest(files, manifest, dataset, notify)
    given |= _by_name(unused, {s: g.path for s, g in given.items()}, dataset)
    used = {entry.path for entry in given.values()}
    strays = [name for name, path in files.items() if path not in used]
    if not given:
        raise UserError(
            f"none of the {len(files)} masks in {shown(masks)} is named like a frame of"
            f" {shown(dataset.root)}: there is {shown(strays[0])}, and a frame is called"
            f" {shown(dataset.frames[0].name)}"
        )
    if strays:
        notify(
            f"{len(strays)} of {len(files)} masks belong to no frame of the dataset and are left"
            f" out, such as {shown(strays[0])}"
        )
    without = [f for f in dataset.frames if f.source not in given and f.split != "eval"]
    if without:
        notify(
            f"{len(without)} of {len(dataset.frames)} frames have no mask and count as static, such"
            f" as {shown(without[0].name)}"
        )
    return FolderMasks(given, is_result)


def _by_manifest(
    files: Mapping[str, Path], manifest: Manifest | None, dataset: Dataset, notify: Notify
) -> tuple[dict[str, _Given], dict[str, Path]]:
    """Masks that the manifest leads to a frame of this dataset, by its source; and the rest."""
    rest = dict(files)
    if manifest is None or manifest.kind != dataset.kind:
        return {}, rest
    sources = {frame.source for frame in dataset.frames}
    given: dict[str, _Given] = {}
    for frame in manifest.frames:
        if frame.name in rest and frame.source in sources:
            given[frame.source] = _Given(rest.pop(frame.name), frame.undistorted)
    if given and Path(manifest.root).resolve() != dataset.root.resolve():
        notify(
            f"these masks were made for {shown(manifest.root)}, not for {shown(dataset.root)}; the"
            " frames have the same names"
        )
    return given, rest


def _by_name(
    files: Mapping[str, Path], taken: Mapping[str, Path], dataset: Dataset
) -> dict[str, _Given]:
    """Masks that are named like a frame, by its source."""
    frames_of: list[dict[str, list[DatasetFrame]]] = [{}, {}, {}]
    for frame, flat in zip(
        dataset.frames, flat_names([frame.name for frame in dataset.frames]), strict=True
    ):
        whole = PurePosixPath(frame.source).with_suffix("").as_posix()
        parts = whole.split("/")
        ends = ["/".join(parts[begin:]) for begin in range(len(parts))]
        for rank, names in enumerate(({frame.name, whole}, {flat}, set(ends))):
            for name in names:
                frames_of[rank].setdefault(name, []).append(frame)
    found: dict[str, _Given] = {}
    for name, path in files.items():
        frame = _frame_named(name, path, frames_of)
        if frame is None:
            continue
        other = taken.get(frame.source) or (
            found[frame.source].path if frame.source in found else None
        )
        if other is not None:
            raise UserError(
                f"{shown(other)} and {shown(path)} could both be the mask of {shown(frame.source)}:"
                " keep one of them"
            )
        found[frame.source] = _Given(path)
    return found


def _frame_named(
    name: str, path: Path, frames_of: Sequence[Mapping[str, Sequence[DatasetFrame]]]
) -> DatasetFrame | None:
    """The frame that a mask called `name` is for; the first way of naming that knows it counts."""
    bare = name
    while bare.lower().endswith(_IMAGE_SUFFIXES):
        bare = bare[: bare.rindex(".")]
    for known in frames_of:
        for candidate in dict.fromkeys((name, bare)):
            frames = known.get(candidate, ())
            if len(frames) > 1:
                raise UserError(
                    f"the mask {shown(path)} could be that of {shown(frames[0].source)} or"
                    f" {shown(frames[1].source)}: put masks into the same subfolders as the images"
                )
            if frames:
                return frames[0]
    return None


def _read_static(path: Path) -> BoolMask:
    """[H, W] bool of a mask file, True = static: brighter than half of white. White is what the
    file's kind says, or what its values use of it: 1 in labels, 255 in 8 bits stored as 16."""
    planes = read_planes(path)
    values = np.nan_to_num(np.asarray(planes.luminance(), dtype=np.float64))
    brightness = np.clip(values, 0.0, planes.full_scale)
    brightest = brightness.max(initial=0.0)
    white = next(white for white in (1.0, 255.0, planes.full_scale) if brightest <= white)
    if white > planes.full_scale or not planes.lossless:
        white = planes.full_scale
    return brightness > white / 2


def _as_stored(mask: TransientMask, image: Path, size: tuple[int, int]) -> TransientMask:
    """The mask of an image seen upright, as the image is stored; others as they are.

    Told by the proportions alone: a mask that fits the stored image is taken to be one of it.
    """
    if fits(mask, size):
        return mask
    try:
        with Pillow.open(image) as opened:
            orientation = opened.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a broken EXIF block says nothing
        return mask
    back = _BACK.get(orientation)
    if back is None:
        return mask
    turned = Pillow.fromarray(mask.pixels.astype(np.uint8)).transpose(back)
    return TransientMask(np.array(turned).astype(bool))
