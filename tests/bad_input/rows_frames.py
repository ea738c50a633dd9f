"""Frames that are broken, odd, or not there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tests.bad_input.command_line import Circumstances, Outcome
from tests.bad_input.inputs import (
    HEIGHT,
    PREPARE,
    REFINE,
    WIDTH,
    cut,
    frames,
    picture,
    png_that_declares,
    save,
)
from tests.bad_input.table import PROGRESS, Table

FRAMES = Table()
row, accepted = FRAMES.row, FRAMES.accepted


def masks_of(*names: str):
    """There is a mask for each of these frames, of this size, and nothing else."""

    def check(work: Path, outcome: Outcome) -> None:
        folder = work / "out/binary_masks"
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}
        assert {os.fsencode(name) for name in found} == {os.fsencode(n) + b".png" for n in names}
        for name in found:
            with Image.open(folder / name) as mask:
                assert mask.mode == "L"

    return check


def as_nobody(_: Path) -> Circumstances:
    return Circumstances(as_nobody=True)


@row("an image of zero bytes", r"cannot read the image .*1\.png: it is empty, broken")
def _(work: Path) -> Sequence[object]:
    (frames(work) / "1.png").write_bytes(b"")
    return REFINE


@row(
    "a JPEG cut short in its pixels",
    r"cannot read the image .*1\.jpg: .*truncated",
    may_change=PROGRESS,
)
def _(work: Path) -> Sequence[object]:
    cut(frames(work, names=["0.jpg", "1.jpg"]) / "1.jpg", 0.8)
    return REFINE


@row("a JPEG cut short in its header", r"cannot read the image .*1\.jpg: .*(broken|Truncated)")
def _(work: Path) -> Sequence[object]:
    cut(frames(work, names=["0.jpg", "1.jpg"]) / "1.jpg", 0.1)
    return REFINE


@row(
    "a PNG cut short",
    r"cannot read the image .*1\.png: .*truncated",
)
def _(work: Path) -> Sequence[object]:
    cut(frames(work) / "1.png", 0.7)
    return (*PREPARE, "--resolution", 18)


@row("a WebP cut short", r"cannot read the image .*1\.webp: ")
def _(work: Path) -> Sequence[object]:
    cut(frames(work, names=["0.webp", "1.webp"]) / "1.webp", 0.5)
    return (*PREPARE, "--resolution", 18)


@row("text that is called .png", r"cannot read the image .*1\.png: .*not a JPEG, PNG")
def _(work: Path) -> Sequence[object]:
    (frames(work) / "1.png").write_text("a note")
    return REFINE


@row("a GIF that is called .png", r"cannot read the image .*1\.png: .*not a JPEG, PNG")
def _(work: Path) -> Sequence[object]:
    save(frames(work) / "1.png", picture(1), format="GIF")
    return REFINE


@accepted(
    "images of all kinds under the wrong suffix, and of all modes",
    "7 frames",
    check=lambda work, _: _sizes(work / "out/images", 7),
)
def _(work: Path) -> Sequence[object]:
    image = Image.fromarray(picture(0))
    folder = work / "frames"
    save(folder / "0.jpg", picture(0), format="PNG")
    save(folder / "1.png", picture(1), format="JPEG")
    image.convert("CMYK").save(folder / "2.jpg")
    grey = np.array(image.convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(folder / "3.png")
    image.quantize(16).save(folder / "4.png", transparency=3)
    image.save(folder / "5.webp", save_all=True, append_images=[Image.fromarray(picture(1))])
    image.convert("1").save(folder / "6.tif")
    return (*PREPARE, "--format", "png", "--resolution", 18)


def _sizes(folder: Path, count: int) -> None:
    files = sorted(folder.iterdir())
    assert len(files) == count
    for file in files:
        with Image.open(file) as image:
            assert image.size == (24, 18)
            assert np.array(image.convert("RGB")).std() > 5


@accepted("CMYK, 16 bits, a palette and an animation, refined", check=masks_of("0", "1", "2", "3"))
def _(work: Path) -> Sequence[object]:
    folder = frames(work, 1)
    image = Image.fromarray(picture(1))
    image.convert("CMYK").save(folder / "1.jpg")
    Image.fromarray(np.array(image.convert("L")).astype(np.uint16) * 257).save(folder / "2.png")
    image.quantize(16).save(folder / "3.png", save_all=True, append_images=[image.quantize(4)])
    return REFINE


@row("a PNG that declares 60000 x 60000 pixels", r"0\.png: it declares more pixels than")
def _(work: Path) -> Sequence[object]:
    folder = work / "frames"
    folder.mkdir()
    (folder / "0.png").write_bytes(png_that_declares(60000, 60000))
    return REFINE


@row("one PNG among others that declares 60000 x 60000 pixels", r"1\.png: it declares more pixels")
def _(work: Path) -> Sequence[object]:
    (frames(work) / "1.png").write_bytes(png_that_declares(60000, 60000))
    return REFINE


@row("a BMP that declares 40000 x 40000 pixels", r"cannot read the image .*0\.bmp: ")
def _(work: Path) -> Sequence[object]:
    file = frames(work, names=["0.bmp"]) / "0.bmp"
    content = bytearray(file.read_bytes())
    content[18:26] = np.array([40000, 40000], "<i4").tobytes()
    file.write_bytes(content)
    return REFINE


@row("a TIFF that declares 300000 x 300000 pixels", r"cannot read the image .*0\.tif: |more pixels")
def _(work: Path) -> Sequence[object]:
    file = frames(work, names=["0.tif"]) / "0.tif"
    content = file.read_bytes()
    little = (WIDTH).to_bytes(4, "little"), (HEIGHT).to_bytes(4, "little")
    big = (300000).to_bytes(4, "little")
    tags = content.replace(
        b"\x00\x01\x04\x00\x01\x00\x00\x00" + little[0], b"\x00\x01\x04\x00\x01\x00\x00\x00" + big
    )
    tags = tags.replace(
        b"\x01\x01\x04\x00\x01\x00\x00\x00" + little[1], b"\x01\x01\x04\x00\x01\x00\x00\x00" + big
    )
    assert tags != content
    file.write_bytes(tags)
    return REFINE


@accepted("frames of 1x1", check=masks_of("0", "1"))
def _(work: Path) -> Sequence[object]:
    for index in range(2):
        save(work / f"frames/{index}.png", picture(index, 1, 1))
    return REFINE


@accepted("frames of 300x1", check=masks_of("0", "1"))
def _(work: Path) -> Sequence[object]:
    for index in range(2):
        save(work / f"frames/{index}.png", picture(index, 1, 300))
    return REFINE


@accepted("an 8k frame", check=masks_of("0"))
def _(work: Path) -> Sequence[object]:
    save(work / "frames/0.jpg", picture(0, 4320, 7680))
    return (*REFINE, "--resolution", 64)


@row(
    "frames of two sizes", r"1\.png is 20x10, but .*0\.png is 48x36: all frames must have one size"
)
def _(work: Path) -> Sequence[object]:
    save(frames(work) / "1.png", picture(0, 10, 20))
    return REFINE


@accepted("names that are not UTF-8", check=masks_of("caf\udce9", "\udcff\udcfe"))
def _(work: Path) -> Sequence[object]:
    for index, name in enumerate(["caf\udce9.png", "\udcff\udcfe.png"]):
        save(work / f"frames/{index}.png", picture(index)).rename(work / "frames" / name)
    return REFINE


@accepted("a name of 255 bytes", check=masks_of("n" * 251))
def _(work: Path) -> Sequence[object]:
    frames(work, names=["n" * 251 + ".png"])
    return REFINE


@accepted("a name of 255 bytes that gets a longer suffix", "1 frames|1 frame")
def _(work: Path) -> Sequence[object]:
    frames(work, names=["n" * 251 + ".jpg"])
    return (*PREPARE, "--resolution", 18)


@row(
    "a broken image whose name holds a line break and colours",
    r"cannot read the image .*a\\nb\\x1b",
)
def _(work: Path) -> Sequence[object]:
    (frames(work) / "a\nb\x1b[31m.png").write_bytes(b"")
    return REFINE


@accepted("a folder that links to itself", check=masks_of("0", "1"))
def _(work: Path) -> Sequence[object]:
    folder = frames(work)
    (folder / "again").symlink_to(folder)
    (folder / "up").symlink_to("..")
    return REFINE


@row("a frame that is a link to itself", r"cannot read the image .*1\.png: ")
def _(work: Path) -> Sequence[object]:
    folder = frames(work, 1)
    (folder / "1.png").symlink_to("1.png")
    return REFINE


@row("a frame that is a link to nothing", r"cannot read the image .*1\.png: No such file")
def _(work: Path) -> Sequence[object]:
    (frames(work, 1) / "1.png").symlink_to("gone.png")
    return REFINE


@row("a folder that is a link to itself", r"there is no folder or video file frames")
def _(work: Path) -> Sequence[object]:
    (work / "frames").symlink_to("frames")
    return REFINE


@row(
    "a folder that may not be read",
    r"cannot read the folder frames/locked: Permission denied",
    circumstances=as_nobody,
)
def _(work: Path) -> Sequence[object]:
    save(frames(work) / "locked/2.png", picture(2))
    (work / "frames/locked").chmod(0)
    return REFINE


@row(
    "an image that may not be read",
    r"cannot read the image frames/1\.png: Permission denied",
    circumstances=as_nobody,
)
def _(work: Path) -> Sequence[object]:
    (frames(work) / "1.png").chmod(0)
    return REFINE


@row(
    "frames below a folder that may not be entered",
    r"there is no folder or video file|Permission denied",
    circumstances=as_nobody,
)
def _(work: Path) -> Sequence[object]:
    frames(work)
    (work / "locked").mkdir()
    (work / "frames").rename(work / "locked/frames")
    (work / "locked").chmod(0)
    return ("refine", "--video-path", "locked/frames", "--result-dir", "out")


@row("an empty folder", r"frames holds no images: give a folder of JPEG")
def _(work: Path) -> Sequence[object]:
    (work / "frames").mkdir()
    return REFINE


@row("a folder of other files", r"frames holds no images")
def _(work: Path) -> Sequence[object]:
    (work / "frames").mkdir()
    (work / "frames/notes.txt").write_text("no image")
    (work / "frames/.hidden.png").write_text("no image")
    os.mkfifo(work / "frames/pipe.png")
    return REFINE


@row(
    "nothing where the frames should be", r"there is no folder or video file frames: check the path"
)
def _(work: Path) -> Sequence[object]:
    return REFINE


@row(
    "a path that is far too long", r"there is no folder or video file n+.*: check the path|too long"
)
def _(work: Path) -> Sequence[object]:
    return ("refine", "--video-path", "n" * 5000, "--result-dir", "out")


@row("a single image instead of a folder", r"0\.png is a single image: give the folder")
def _(work: Path) -> Sequence[object]:
    frames(work)
    return ("refine", "--video-path", "frames/0.png", "--result-dir", "out")


@row(
    "two frames that differ in their suffix only",
    r"0\.jpg and .*0\.png differ only in their suffix",
)
def _(work: Path) -> Sequence[object]:
    frames(work, names=["0.jpg", "0.png"])
    return REFINE


def video(path: Path, count: int = 5) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(picture(index, 48, 64), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def refine_video(name: str = "walk.mp4") -> Sequence[object]:
    return ("refine", "--video-path", name, "--result-dir", "out")


@row("a video of zero bytes", r"cannot read the video walk\.mp4: .*; check that it plays")
def _(work: Path) -> Sequence[object]:
    (work / "walk.mp4").write_bytes(b"")
    return refine_video()


@row("a video cut short before its index", r"cannot read the video walk\.mp4: ")
def _(work: Path) -> Sequence[object]:
    cut(video(work / "walk.mp4"), 0.5)
    return refine_video()


@row("text that is called .mp4", r"cannot read the video walk\.mp4: ")
def _(work: Path) -> Sequence[object]:
    (work / "walk.mp4").write_text("not a video")
    return refine_video()


@row(
    "a video whose pixels are overwritten",
    r"frame \d+ of walk\.mp4 cannot be decoded|cannot read the video|no frame",
)
def _(work: Path) -> Sequence[object]:
    content = bytearray(video(work / "walk.mp4").read_bytes())
    begin = content.index(b"mdat") + 4
    content[begin : begin + 3000] = bytes(len(content[begin : begin + 3000]))
    (work / "walk.mp4").write_bytes(content)
    return refine_video()


@row("patterns for a video", r"--include and --exclude choose among files")
def _(work: Path) -> Sequence[object]:
    video(work / "walk.mp4")
    return (*refine_video(), "--include", "*a*")


@row("a device instead of a video", r"there is no folder or video file /dev/null")
def _(work: Path) -> Sequence[object]:
    return refine_video("/dev/null")


@row("a pattern that matches nothing", r"--include \*clutter\* leaves none of the 2 frames")
def _(work: Path) -> Sequence[object]:
    frames(work)
    return (*REFINE, "--include", "*clutter*")


@row("a selection behind the last frame", r"--start 7 lies behind the last of the 2 frames")
def _(work: Path) -> Sequence[object]:
    frames(work)
    return (*REFINE, "--start", 7)
