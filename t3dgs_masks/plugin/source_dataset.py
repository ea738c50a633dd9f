"""The dataset behind the training views of a run: which file each view is of, and its geometry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image as PilImage

from t3dgs_masks.datasets.apply_masks import FrameMask, open_dataset_at
from t3dgs_masks.datasets.apply_record import UserMasks, read_record
from t3dgs_masks.datasets.colmap import IMAGES_FOLDER, find_model
from t3dgs_masks.datasets.dataset import Camera, Dataset, DatasetFrame
from t3dgs_masks.datasets.geometry import shrunk_any, to_training_geometry
from t3dgs_masks.datasets.manifest import Manifest, ManifestFrame
from t3dgs_masks.datasets.nerfstudio import TRANSFORMS_NAME
from t3dgs_masks.errors import UserError
from t3dgs_masks.io.images import shown, stored_size
from t3dgs_masks.masks import TransientMask
from t3dgs_masks.plugin.refined_masks import RefinedMasks
from t3dgs_masks.plugin.views import View
from t3dgs_masks.types import BoolMask


class SourceDataset:
    """The dataset that a datamanager reads, matched with its training views."""

    def __init__(self, data: Path, dataset: Dataset, frames: Mapping[int, DatasetFrame]) -> None:
        """Use `find_source`."""
        self.data = data
        """What `t3dgs-masks apply --data` takes."""
        self.dataset = dataset
        self.frames = frames
        """Frame of the dataset, by index of the training view."""
        record = read_record(dataset.root)
        self.has_our_masks = record is not None
        """Whether masks of an earlier apply are in the dataset, beside or with the user's."""
        self._user_masks = UserMasks(dataset.root, record)

    def manifest(self, views: Sequence[View], cameras: Cameras) -> Manifest:
        """Leads masks of training views back to the image files.

        Args:
            views: in the order of the frames.
            cameras: [N] cameras of all training views, after undistortion.
        """
        frames = []
        for view in views:
            frame = self.frames[view.camera_idx]
            frames.append(
                ManifestFrame(
                    name=view.name,
                    source=frame.source,
                    split=frame.split,
                    camera=frame.camera,
                    undistorted=self.undistorted(view.camera_idx, cameras),
                )
            )
        return Manifest(str(self.dataset.root.absolute()), self.dataset.kind, frames)

    def undistorted(self, camera_idx: int, cameras: Cameras) -> Camera | None:
        """The pinhole camera that training sees a view with; None if it sees the image file as it
        is, at whatever scale."""
        source = self.frames[camera_idx].camera
        if source is None or not source.is_distorted:
            return None
        return pinhole(cameras, camera_idx)

    def ignored_by_user(self, camera_idx: int, cameras: Cameras) -> BoolMask | None:
        """[H, W] bool in the geometry of training, True where the user's own mask says ignore;
        None: there is no such mask."""
        frame = self.frames[camera_idx]
        path = self._user_masks.of(frame)
        if path is None or not path.is_file():
            return None
        with PilImage.open(path) as image:
            ignored = TransientMask(np.asarray(image.convert("L")) == 0)  # as nerfstudio reads it
        view = pinhole(cameras, camera_idx)
        if frame.camera is None:
            return shrunk_any(ignored, (view.height, view.width)).pixels
        return to_training_geometry(ignored, frame.camera, view).pixels


class StageMasks:
    """Refined masks of training views as the `MaskSource` of an apply."""

    def __init__(self, source: SourceDataset, masks: RefinedMasks, cameras: Cameras) -> None:
        """Args:
        source: of the views.
        masks: of a stage.
        cameras: [N] cameras of all training views, after undistortion.
        """
        self._source = source
        self._masks = masks
        self._cameras = cameras
        self._idx_of_frame = {frame.source: idx for idx, frame in source.frames.items()}

    def mask_of(self, frame: DatasetFrame) -> FrameMask | None:
        """The mask of a training view; None for other frames."""
        camera_idx = self._idx_of_frame.get(frame.source)
        if camera_idx is None:
            return None
        camera = self._source.undistorted(camera_idx, self._cameras)
        return FrameMask(self._masks.transient(camera_idx), camera)


def find_source(datamanager: FullImageDatamanager) -> SourceDataset | None:
    """The dataset of a datamanager; None if its layout is not one that masks can go into.

    Raises:
        UserError: the dataset is broken.
    """
    dataset = _dataset_of(datamanager.config.dataparser)
    if dataset is None:
        return None
    frame_of = {}
    for frame in dataset.frames:
        for file in _files_of(frame, dataset.root, datamanager):
            frame_of[file] = frame
    views = [Path(file).absolute() for file in datamanager.train_dataset.image_filenames]
    if any(view not in frame_of for view in views):
        return None
    data = Path(datamanager.config.dataparser.data)
    return SourceDataset(data, dataset, {idx: frame_of[view] for idx, view in enumerate(views)})


def check_dataset(parser: DataParserConfig) -> None:
    """Refuse what nerfstudio's parser would end with a traceback over.

    Raises:
        UserError: the dataset is broken, an image is missing, or some of the frames have a mask.
    """
    dataset = _dataset_of(parser)
    if dataset is None or dataset.kind != "nerfstudio":
        return
    without = [frame.source for frame in dataset.frames if frame.mask is None]
    if 0 < len(without) < len(dataset.frames):
        raise UserError(
            f"{shown(dataset.described_by)} gives some frames a mask_path, but not {without[0]}"
            f" ({len(without)} of {len(dataset.frames)} have none), and nerfstudio takes all or"
            " none: add the others, or remove it everywhere"
        )


def check_image_sizes(datamanager: FullImageDatamanager) -> None:
    """Refuse images that do not have the size that the dataset gives their cameras, over which
    nerfstudio would fail at the first training step.

    Raises:
        UserError: names the first such image.
    """
    if datamanager.config.camera_res_scale_factor != 1:
        return
    dataset = datamanager.train_dataset
    for camera_idx, file in enumerate(dataset.image_filenames):
        height, width = stored_size(Path(file))
        view = pinhole(dataset.cameras, camera_idx)
        if (height, width) != (view.height, view.width):
            raise UserError(
                f"the image {shown(Path(file))} is {width}x{height}, but the dataset says"
                f" {view.width}x{view.height}: give frames of two sizes their own w, h and"
                " intrinsics, or leave them out"
            )


def _dataset_of(parser: DataParserConfig) -> Dataset | None:
    """What a parser reads; None if it is of a layout that masks cannot go into.

    Raises:
        UserError: the dataset is broken.
    """
    if isinstance(parser, ColmapDataParserConfig):
        data = Path(parser.data)
        model = find_model(data)
        elsewhere = parser.images_path != Path(IMAGES_FOLDER) or model != data / parser.colmap_path
        ambiguous = (data / TRANSFORMS_NAME).exists()  # where `apply` would put the masks
        return None if elsewhere or ambiguous else open_dataset_at(data)
    if isinstance(parser, NerfstudioDataParserConfig):
        return open_dataset_at(Path(parser.data))
    return None


def ignored_by_user(
    datamanager: FullImageDatamanager, source: SourceDataset | None, camera_idx: int
) -> BoolMask | None:
    """[H, W] bool in the geometry of training, True where the user's own mask of a training view
    says ignore; None: there is no such mask.

    What an earlier refine wrote into the dataset is not the user's: masks could only grow.
    """
    data = datamanager.cached_train[camera_idx]  # first: reading the images changes the cameras
    if source is not None and source.has_our_masks:
        return source.ignored_by_user(camera_idx, datamanager.train_cameras)
    mask = data.get("mask")
    return None if mask is None else ~mask[..., 0].cpu().numpy()


def pinhole(cameras: Cameras, camera_idx: int) -> Camera:
    """One of nerfstudio's cameras, without its distortion."""
    camera = cameras[camera_idx].reshape(())
    return Camera(
        fl_x=float(camera.fx.item()),
        fl_y=float(camera.fy.item()),
        cx=float(camera.cx.item()),
        cy=float(camera.cy.item()),
        width=int(camera.width.item()),
        height=int(camera.height.item()),
    )


def _files_of(frame: DatasetFrame, root: Path, datamanager: FullImageDatamanager) -> list[Path]:
    """The image and its downscaled copy, as the parsers name them."""
    files = [frame.image.absolute()]
    parser = datamanager.dataparser
    factor = getattr(parser, "downscale_factor", None) or getattr(parser, "_downscale_factor", None)
    if factor is not None and factor > 1:
        below = PurePosixPath(*PurePosixPath(frame.source).parts[1:])
        folder = root.absolute() / f"images_{factor}"
        files += [folder / frame.image.name, folder / below]
    return files
