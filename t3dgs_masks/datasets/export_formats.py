"""Where every tool looks for masks, under which names, and what it takes for ignored.

One table: it drives what `export` writes, its help text, and the table in the README
(`t3dgs-masks export --list`). Light to import: the command line reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

IMAGES = "images"


@dataclass(frozen=True)
class ExportFormat:
    """The convention of one tool."""

    name: str
    """`--to` this."""
    tool: str
    folder: str
    """Below --dest; empty: --dest itself."""
    file_name: str
    """Of the mask of the image ``cam0/a.jpg``: ``{image}`` is ``cam0/a.jpg``, ``{path}`` is
    ``cam0/a``, ``{parent}`` is ``cam0/``, ``{stem}`` is ``a``, ``{flat}`` is ``cam0_a``."""
    content: Literal["mask", "alpha", "objects"]
    """A grey 8-bit PNG; the image with alpha; or JSON with the objects."""
    transient: int
    """Value of what is to be ignored, in the mask or in alpha; the other one is 255 or 0. In JSON
    an object is 1."""
    sources: tuple[str, ...]
    """Pages or files that say so."""
    then: str
    """What to do with it: ``{dest}`` is the folder written to, ``{data}`` the dataset."""
    needs_images: bool = False
    """Whether the images themselves, or the dataset's own files, have to be there."""
    eval_is_whole: bool = False
    """Evaluation frames are not masked, as in `apply`: metrics are of the entire view."""
    in_order: bool = False
    """Masks belong to images by their position in natural order, not by name."""

    def path(self, image: PurePosixPath, flat: str) -> str:
        """Where the mask of an image goes, relative to --dest, with '/'.

        Args:
            image: path of the image file below the folder of images.
            flat: `image` as a unique name without folders or suffix.
        """
        parent = "" if image.parent == PurePosixPath() else f"{image.parent.as_posix()}/"
        name = self.file_name.format(
            image=image.as_posix(),
            path=image.with_suffix("").as_posix(),
            parent=parent,
            stem=image.stem,
            flat=flat,
        )
        return f"{self.folder}/{name}" if self.folder else name

    @property
    def pattern(self) -> str:
        """Where masks go, for people."""
        name = (
            self.file_name.replace("{image}", "<image name>")
            .replace("{path}", "<stem>")
            .replace("{parent}", "")
            .replace("{stem}", "<stem>")
            .replace("{flat}", "<stem>")
        )
        return f"{self.folder}/{name}" if self.folder else name

    @property
    def polarity(self) -> str:
        """What is ignored, for people."""
        if self.content == "objects":
            return "RLE of every kept object"
        if self.content == "alpha":
            return f"alpha {self.transient}"
        return "black" if self.transient == 0 else "white"


FORMATS = (
    ExportFormat(
        "nerfstudio",
        "nerfstudio, transforms.json",
        "masks",
        "{flat}.png",
        "mask",
        0,
        ("https://docs.nerf.studio/quickstart/data_conventions.html#masks",),
        "ns-train splatfacto --data {dest}",
        needs_images=True,
        eval_is_whole=True,
    ),
    ExportFormat(
        "nerfstudio-colmap",
        "nerfstudio, COLMAP parser",
        "masks",
        "{path}.png",
        "mask",
        0,
        (
            "https://github.com/nerfstudio-project/nerfstudio/blob/main/nerfstudio/data/"
            "dataparsers/colmap_dataparser.py",
        ),
        "ns-train splatfacto --data {data} colmap --masks-path {dest}/masks",
        eval_is_whole=True,
    ),
    ExportFormat(
        "colmap",
        "COLMAP",
        "masks",
        "{image}.png",
        "mask",
        0,
        ("https://colmap.github.io/faq.html#mask-image-regions",),
        "colmap feature_extractor --ImageReader.mask_path {dest}/masks --image_path ...",
    ),
    ExportFormat(
        "t3dgs",
        "T-3DGS",
        "masks",
        "{flat}.png",
        "mask",
        0,
        (
            "https://github.com/Vadim200116/T-3DGS#training-with-precomputed-masks",
            "https://github.com/Vadim200116/T-3DGS/blob/main/train.py",
        ),
        "python train.py -s {data} --masks {dest}/masks --disable_transient",
        in_order=True,
    ),
    ExportFormat(
        "instant-ngp",
        "instant-ngp",
        IMAGES,
        "{parent}dynamic_mask_{stem}.png",
        "mask",
        255,
        ("https://github.com/NVlabs/instant-ngp/blob/master/src/nerf_loader.cu",),
        "copy the files of {dest}/images beside the images",
    ),
    ExportFormat(
        "brush",
        "Brush",
        "masks",
        "{path}.png",
        "mask",
        0,
        (
            "https://github.com/ArthurBrussee/brush#training",
            "https://github.com/ArthurBrussee/brush/blob/main/crates/brush-dataset/src/formats/"
            "mod.rs",
        ),
        "copy {dest}/masks into the dataset, beside images/",
    ),
    ExportFormat(
        "lichtfeld",
        "LichtFeld Studio",
        "masks",
        "{path}.png",
        "mask",
        0,
        (
            "https://github.com/MrNeRF/LichtFeld-Studio/blob/master/src/io/include/io/"
            "filesystem_utils.hpp",
        ),
        "copy {dest}/masks into the dataset, beside images/, and train with --mask-mode ignore",
    ),
    ExportFormat(
        "postshot",
        "Postshot",
        "masks",
        "{stem}.png",
        "mask",
        255,
        (
            "https://www.jawset.com/docs/d/Postshot+User+Guide/Importing+Images",
            "https://www.jawset.com/docs/d/Postshot+User+Guide/Interface/Training+Configuration",
        ),
        "import {dest}/masks with the images, and let masks stand for occluders",
    ),
    ExportFormat(
        "coco",
        "COCO and SA-V tools",
        "",
        "annotations.json, sav_auto.json",
        "objects",
        1,
        (
            "https://cocodataset.org/#format-data",
            "https://github.com/facebookresearch/sam2/blob/main/sav_dataset/README.md",
        ),
        "pycocotools.coco.COCO('{dest}/annotations.json')",
    ),
    ExportFormat(
        "rgba",
        "images with alpha",
        IMAGES,
        "{path}.png",
        "alpha",
        0,
        (
            "https://github.com/MrNeRF/LichtFeld-Studio/blob/master/src/core/argument_parser.cpp",
            "https://github.com/ArthurBrussee/brush#training",
        ),
        "use {dest}/images in place of the images, in tools that take alpha for a mask",
        needs_images=True,
    ),
)


def format_named(name: str) -> ExportFormat:
    """The format of a `--to`; KeyError if there is none."""
    return {each.name: each for each in FORMATS}[name]


def as_markdown() -> str:
    """The table of the README."""
    lines = [
        "| `--to` | tool | written below `--dest` | transient is | convention |",
        "|---|---|---|---|---|",
    ]
    for each in FORMATS:
        links = ", ".join(f"[{number}]({url})" for number, url in enumerate(each.sources, 1))
        lines.append(
            f"| `{each.name}` | {each.tool} | `{each.pattern}` | {each.polarity} | {links} |"
        )
    return "\n".join(lines)


def as_help() -> str:
    """The table in a help text, one line for each format."""
    rows = [("--to", "written below --dest", "transient is")]
    rows += [(each.name, each.pattern, each.polarity) for each in FORMATS]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(
        f"  {name:<{widths[0]}}  {pattern:<{widths[1]}}  {polarity}"
        for name, pattern, polarity in rows
    )
