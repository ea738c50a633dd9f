"""Prompt folders: matching, reading, polarity."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from t3dgs_masks.errors import UserError
from t3dgs_masks.io.images import Planes
from t3dgs_masks.io.prompts import (
    FrameEvidence,
    Prompts,
    decide_polarity,
    match_names,
    open_prompts,
    resized_mask,
    same_proportions,
    spread,
    white_of,
)

HEIGHT, WIDTH = 24, 32
SQUARE = np.zeros((HEIGHT, WIDTH), bool)
SQUARE[4:12, 8:16] = True  # 64 of 768 pixels


@dataclass
class Notices:
    said: list[str] = field(default_factory=list)

    def __call__(self, message: str) -> None:
        assert "\n" not in message
        self.said.append(message)

    def about(self, words: str) -> list[str]:
        return [message for message in self.said if words in message]


@pytest.fixture
def notices() -> Notices:
    return Notices()


class DrawnFrames:
    """A frame sequence that consists of names and a size."""

    def __init__(self, names: Sequence[str], height: int = HEIGHT, width: int = WIDTH) -> None:
        self.names, self.height, self.width = names, height, width

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, frame_idx: int) -> np.ndarray:
        raise AssertionError("prompts must not read frames")


def write(path: Path, pixels: np.ndarray | Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path)


def grey(mask: np.ndarray) -> np.ndarray:
    return np.where(mask, np.uint8(255), np.uint8(0))


def opened(
    root: Path,
    names: Sequence[str],
    polarity: Literal["auto", "white-transient", "white-static"] = "white-transient",
    notify: Callable[[str], None] | None = None,
) -> Prompts:
    return open_prompts(root, DrawnFrames(names), polarity=polarity, notify=notify or Notices())


# --- Mask files of all kinds ------------------------------------------------------------------


def of_levels(low: object, high: object, mode: str) -> Image.Image:
    """SQUARE drawn with `high` on `low`."""
    image = Image.new(mode, (WIDTH, HEIGHT), low)
    image.paste(high, (8, 4, 16, 12))
    return image


def with_palette() -> Image.Image:
    """Index 1 is black and index 0 is white, so that indices alone would say the opposite."""
    image = Image.fromarray(np.where(SQUARE, np.uint8(0), np.uint8(1)), "P")
    image.putpalette([255, 255, 255, 0, 0, 0])
    return image


def with_alpha(colour: np.ndarray, alpha: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([colour, alpha]))


BLACK3 = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
SQUARE3 = np.repeat(grey(SQUARE)[:, :, None], 3, axis=2)

MASK_FILES: dict[str, tuple[str, Callable[[], Image.Image | np.ndarray]]] = {
    "1": (".png", lambda: Image.fromarray(grey(SQUARE)).convert("1")),
    "L": (".png", lambda: grey(SQUARE)),
    "L, half-tones": (".png", lambda: of_levels(127, 128, "L")),
    "LA": (".png", lambda: of_levels((0, 255), (255, 255), "LA")),
    "LA, in alpha": (".png", lambda: of_levels((0, 0), (0, 255), "LA")),
    "P": (".png", with_palette),
    "RGB": (".bmp", lambda: SQUARE3),
    "RGB, colours": (".png", lambda: of_levels((200, 0, 0), (0, 220, 0), "RGB")),
    "RGBA, opaque": (".png", lambda: with_alpha(SQUARE3, grey(~BLACK3[..., 0].astype(bool)))),
    "RGBA, in alpha on white": (".png", lambda: with_alpha(255 - BLACK3, grey(SQUARE))),
    "RGBA, in alpha on black": (".png", lambda: with_alpha(BLACK3, grey(SQUARE))),
    "RGBA, cut out": (".png", lambda: with_alpha(SQUARE3, grey(SQUARE))),
    "RGBA, in colour": (".png", lambda: with_alpha(SQUARE3, grey(~SQUARE))),
    "I;16": (".png", lambda: np.where(SQUARE, 32640, 32639).astype(np.uint16)),
    "I": (".tif", lambda: np.where(SQUARE, 65535, 0).astype(np.int32)),
    "F": (".tiff", lambda: np.where(SQUARE, 0.51, 0.49).astype(np.float32)),
    "CMYK": (".tif", lambda: Image.fromarray(SQUARE3).convert("CMYK")),
    "JPEG": (".jpg", lambda: grey(SQUARE)),
    "half size": (".png", lambda: grey(SQUARE)[::2, ::2]),
    "double size": (".png", lambda: grey(SQUARE).repeat(2, axis=0).repeat(2, axis=1)),
}


@pytest.mark.parametrize("kind", MASK_FILES)
def test_any_mask_file(tmp_path: Path, kind: str) -> None:
    suffix, draw = MASK_FILES[kind]
    write(tmp_path / f"masks/a{suffix}", draw())
    transient = opened(tmp_path, ["a"])[0].coarse
    assert transient.dtype == np.bool_
    np.testing.assert_array_equal(transient, SQUARE)
    np.testing.assert_array_equal(opened(tmp_path, ["a"], "white-static")[0].coarse, ~SQUARE)


def test_a_label_image_is_black_and_said_to_be(tmp_path: Path, notices: Notices) -> None:
    for name in "ab":
        write(tmp_path / f"masks/{name}.png", SQUARE.astype(np.uint8))
    prompts = opened(tmp_path, ["a", "b"], notify=notices)
    assert not any(prompts[idx].coarse.any() for idx in (0, 1))
    assert len(notices.about("labels (0, 1, ...)")) == 1


levels = st.sampled_from([(np.uint8, 255.0), (np.uint16, 65535.0), (np.float32, 1.0)])


@given(levels.flatmap(lambda kind: st.tuples(st.just(kind), st.integers(0, 255))))
def test_threshold_is_127_of_255_of_any_range(
    drawn: tuple[tuple[type[np.generic], float], int],
) -> None:
    (dtype, full_scale), level = drawn
    values = np.full((2, 2), level * (full_scale / 255)).astype(dtype)
    assert white_of(Planes(values, None, full_scale, True)).all() == (level > 127)
    if dtype is np.uint8:
        colour = np.full((2, 2, 3), level, np.uint8)
        assert white_of(Planes(colour, None, full_scale, True)).all() == (level > 127)


masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))


@given(masks, st.integers(1, 4))
def test_enlarging_and_reducing_a_mask_gives_it_back(mask: np.ndarray, factor: int) -> None:
    height, width = mask.shape
    enlarged = resized_mask(mask, height * factor, width * factor)
    assert enlarged.mean() == pytest.approx(mask.mean())
    np.testing.assert_array_equal(resized_mask(enlarged, height, width), mask)


@given(masks)
def test_reducing_a_mask_commutes_with_inversion_up_to_ties(mask: np.ndarray) -> None:
    height, width = (max(1, side // 3) for side in mask.shape)
    doubtful = resized_mask(mask, height, width) & resized_mask(~mask, height, width)
    assert (resized_mask(mask, height, width) | resized_mask(~mask, height, width)).all()
    if mask.shape[0] % 3 == mask.shape[1] % 3 == 0:
        assert not doubtful.any()  # nine pixels cannot tie


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ((1080, 1920), (540, 960), True),
        ((1079, 1919), (540, 960), True),
        ((1079, 1919), (539, 959), True),
        ((1080, 1920), (1080, 1440), False),
        ((1080, 1920), (1920, 1080), False),
        ((1080, 1920), (544, 960), False),
        ((24, 32), (240, 321), True),
        ((1, 1), (500, 500), True),
        ((5, 5), (0, 0), False),
    ],
)
def test_same_proportions(first: tuple[int, int], second: tuple[int, int], same: bool) -> None:
    assert same_proportions(first, second) is same
    assert same_proportions(second, first) is same


@given(st.integers(2, 3000), st.integers(2, 3000), st.floats(0.05, 1.0))
def test_a_rounded_scale_keeps_the_proportions(height: int, width: int, scale: float) -> None:
    scaled = (max(1, round(height * scale)), max(1, round(width * scale)))
    floored = (max(1, int(height * scale)), max(1, int(width * scale)))
    assert same_proportions((height, width), scaled)
    assert same_proportions((height, width), floored)


@pytest.mark.parametrize("kind", ["masks", "diffs"])
def test_other_proportions_are_told_with_both_sizes(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "masks/a.png", grey(SQUARE))
    write(tmp_path / kind / "a.png", np.zeros((40, 32), np.uint8))
    with pytest.raises(UserError, match=rf"{kind}/a\.png is 32x40.* 32x24"):
        opened(tmp_path, ["a"])[0]


# --- Residuals --------------------------------------------------------------------------------

TWO_FIFTHS = np.full((HEIGHT, WIDTH), 0.4, np.float32)
RGB_TENTHS = np.repeat(np.array([[[0.2, 0.4, 0.6]]], np.float32), HEIGHT, 0).repeat(WIDTH, 1)


def save_npy(path: Path, values: object) -> None:
    np.save(path, np.asarray(values))


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("a.png", lambda p: write(p, (TWO_FIFTHS * 255).astype(np.uint8))),
        ("a.png", lambda p: write(p, (RGB_TENTHS * 255).astype(np.uint8))),
        ("a.jpg", lambda p: write(p, (TWO_FIFTHS * 255).astype(np.uint8))),
        ("a.png", lambda p: write(p, (TWO_FIFTHS * 65535).astype(np.uint16))),
        ("a.png", lambda p: cv2.imwrite(str(p), (RGB_TENTHS * 65535).astype(np.uint16))),
        ("a.tif", lambda p: write(p, TWO_FIFTHS)),
        ("a.tiff", lambda p: cv2.imwrite(str(p), RGB_TENTHS)),
        ("a.npy", lambda p: save_npy(p, TWO_FIFTHS)),
        ("a.npy", lambda p: save_npy(p, RGB_TENTHS.astype(np.float64))),
        ("a.npy", lambda p: save_npy(p, -TWO_FIFTHS.astype(np.float16))),  # signed differences
        ("a.npy", lambda p: save_npy(p, TWO_FIFTHS[:, :, None])),
        ("a.npy", lambda p: save_npy(p, (TWO_FIFTHS * 65535).astype(np.uint16))),
        ("a.npy", lambda p: save_npy(p, TWO_FIFTHS[::2, ::2])),
        (
            "a.png",
            lambda p: write(p, (TWO_FIFTHS * 255).astype(np.uint8).repeat(2, 0).repeat(2, 1)),
        ),
    ],
)
def test_any_residual_file(tmp_path: Path, name: str, save: Callable[[Path], object]) -> None:
    write(tmp_path / "masks/a.png", grey(SQUARE))
    (tmp_path / "diffs").mkdir()
    save(tmp_path / "diffs" / name)
    prompts = opened(tmp_path, ["a"])
    residual = prompts[0].residual
    assert prompts.has_residuals
    assert residual is not None
    assert residual.dtype == np.float32
    assert residual.shape == (HEIGHT, WIDTH)
    np.testing.assert_allclose(residual, 0.4, atol=1 / 255)


def test_residuals_stay_within_0_and_1(tmp_path: Path) -> None:
    write(tmp_path / "masks/a.png", grey(SQUARE))
    (tmp_path / "diffs").mkdir()
    save_npy(tmp_path / "diffs/a.npy", np.where(SQUARE, 1.3, 0.0))
    residual = opened(tmp_path, ["a"])[0].residual
    assert residual is not None
    assert residual.max() == 1.0


def test_undefined_residuals_count_as_0_with_one_notice(tmp_path: Path, notices: Notices) -> None:
    (tmp_path / "diffs").mkdir()
    for name in "ab":
        write(tmp_path / f"masks/{name}.png", grey(SQUARE))
        values = TWO_FIFTHS.copy()
        values[0, 0], values[0, 1] = np.nan, np.inf
        save_npy(tmp_path / f"diffs/{name}.npy", values)
    prompts = opened(tmp_path, ["a", "b"], notify=notices)
    for idx in (0, 1):
        residual = prompts[idx].residual
        assert residual is not None
        np.testing.assert_allclose(residual[0, :3], [0, 0, 0.4])
    assert len(notices.about("NaN")) == 1


def test_threads_that_read_at_once_say_it_once(tmp_path: Path) -> None:
    names = list("abcdefgh")
    (tmp_path / "diffs").mkdir()
    for name in names:
        write(tmp_path / f"masks/{name}.png", grey(SQUARE))
        save_npy(tmp_path / f"diffs/{name}.npy", np.full_like(TWO_FIFTHS, np.nan))
    said: list[str] = []

    def say_slowly(message: str) -> None:
        time.sleep(0.01)
        said.append(message)

    prompts = opened(tmp_path, names, polarity="white-transient", notify=say_slowly)
    assert not said
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(prompts.__getitem__, range(len(names))))
    assert len([message for message in said if "NaN" in message]) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (TWO_FIFTHS * 100, r"residuals up to 40: .* divide"),
        (np.zeros(5), r"has the shape \(5,\)"),
        (np.zeros((3, HEIGHT, WIDTH)), r"has the shape \(3, 24, 32\)"),
        (np.zeros((0, 3)), r"has the shape \(0, 3\)"),
        (np.zeros((HEIGHT, WIDTH), np.int32), "holds int32"),
        (np.zeros((HEIGHT, WIDTH), complex), "holds complex128"),
        (np.array([[{"a": 1}]], dtype=object), "cannot read the residuals"),
        (None, "cannot read the residuals"),
    ],
)
def test_unusable_npy_files(tmp_path: Path, values: np.ndarray | None, message: str) -> None:
    write(tmp_path / "masks/a.png", grey(SQUARE))
    (tmp_path / "diffs").mkdir()
    if values is None:
        (tmp_path / "diffs/a.npy").write_bytes(b"\x93NUMPY junk")
    else:
        save_npy(tmp_path / "diffs/a.npy", values)
    with pytest.raises(UserError, match=rf"diffs/a\.npy.*{message}|{message}.*a\.npy") as caught:
        opened(tmp_path, ["a"])[0]
    assert "\n" not in str(caught.value)


def test_missing_residuals(tmp_path: Path, notices: Notices) -> None:
    for name in "abc":
        write(tmp_path / f"masks/{name}.png", grey(SQUARE))
    assert not opened(tmp_path, ["a", "b", "c"], notify=notices).has_residuals
    assert notices.about("residual term is 1")
    write(tmp_path / "diffs/b.png", grey(SQUARE))
    prompts = opened(tmp_path, ["a", "b", "c"], notify=notices)
    assert [prompts[idx].residual is None for idx in range(3)] == [True, False, True]
    assert notices.about("2 of 3 frames have no residual")


# --- Matching ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "files", "expected", "unused"),
    [
        (["a", "b"], ["b", "a"], {0: "a", 1: "b"}, ()),
        (["a", "b", "c"], ["a", "c"], {0: "a", 2: "c"}, ()),
        (["a"], ["a", "z"], {0: "a"}, ("z",)),
        (["a", "b.c"], ["a.jpg", "b.c.PNG"], {0: "a.jpg", 1: "b.c.PNG"}, ()),
        (["a"], ["a", "a.jpg"], {0: "a"}, ("a.jpg",)),  # the exact name wins
        (["a.jpg"], ["a.jpg"], {0: "a.jpg"}, ()),
        (["l/a", "r/a"], ["r/a", "l/a"], {0: "l/a", 1: "r/a"}, ()),
        (["l/a", "r/b"], ["a", "b.png"], {0: "a", 1: "b.png"}, ()),
        (["l/a", "r/a"], ["a"], {}, ("a",)),  # ambiguous
        (["l/a", "a"], ["a"], {1: "a"}, ()),
        (["a"], ["x/a"], {}, ("x/a",)),
        (["1"], ["01"], {}, ("01",)),
        ([], ["a"], {}, ("a",)),
    ],
)
def test_match_names(
    frames: list[str], files: list[str], expected: dict[int, str], unused: tuple[str, ...]
) -> None:
    matching = match_names(frames, files)
    assert matching.file_of_frame == expected
    assert matching.unused == unused
    assert matching.conflict is None


def test_two_files_with_an_equal_claim_conflict() -> None:
    assert match_names(["a"], ["a.png", "a.jpg"]).conflict == ("a.png", "a.jpg")
    assert match_names(["a"], ["a.png", "a.jpg", "a"]).conflict is not None


frame_names = st.lists(st.text("ab/.1", min_size=1, max_size=5), unique=True, max_size=8)


@given(frame_names, frame_names)
def test_matching_by_name_uses_every_file_once(frames: list[str], files: list[str]) -> None:
    matching = match_names(frames, files)
    used = list(matching.file_of_frame.values())
    assert sorted([*used, *matching.unused]) == sorted(files)
    for idx, name in enumerate(frames):
        if name in files:
            assert matching.file_of_frame[idx] == name


@given(frame_names, st.randoms())
def test_matching_does_not_depend_on_the_order_of_files(names: list[str], random) -> None:
    shuffled = names[:]
    random.shuffle(shuffled)
    assert match_names(names, shuffled).file_of_frame == dict(enumerate(names))


def test_a_missing_mask_shifts_nothing(tmp_path: Path, notices: Notices) -> None:
    for name in ("f1", "f3", "extra"):
        write(tmp_path / f"masks/{name}.png", grey(SQUARE))
    prompts = opened(tmp_path, ["f1", "f2", "f3"], "white-static", notices)
    assert [int(prompts[idx].coarse.any()) for idx in range(3)] == [1, 0, 1]
    assert prompts.frames_with_mask == [0, 2]
    assert prompts.matched_by == "name"
    assert notices.about("1 of 3 frames have no mask")[0].count("f2") == 1
    assert notices.about("1 of 3 masks")[0].count("extra") == 1


def test_masks_in_subfolders(tmp_path: Path) -> None:
    write(tmp_path / "masks/l/1.png", grey(SQUARE))
    write(tmp_path / "masks/r/1.png", grey(~SQUARE))
    prompts = opened(tmp_path, ["l/1", "r/1"])
    np.testing.assert_array_equal(prompts[0].coarse, SQUARE)
    np.testing.assert_array_equal(prompts[1].coarse, ~SQUARE)


def test_position_counts_if_no_name_matches(tmp_path: Path, notices: Notices) -> None:
    for position, name in enumerate(["m2", "m10"]):
        write(tmp_path / f"masks/{name}.png", grey(SQUARE if position else ~SQUARE))
    prompts = opened(tmp_path, ["x", "y"], notify=notices)
    np.testing.assert_array_equal(prompts[1].coarse, SQUARE)
    assert prompts.matched_by == "position"
    assert notices.about("matched by position (m2 to x")


def test_the_folder_itself_may_hold_the_masks(tmp_path: Path, notices: Notices) -> None:
    write(tmp_path / "a.png", grey(SQUARE))
    write(tmp_path / "diffs/a.png", grey(SQUARE))
    prompts = opened(tmp_path, ["a"], notify=notices)
    np.testing.assert_array_equal(prompts[0].coarse, SQUARE)
    assert prompts.has_residuals
    assert notices.about("has no folder masks/")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds no mask images"),
        (["diffs/a.png"], "holds no mask images"),
        (["masks/notes.txt"], "holds no mask images"),
        (["masks/x.png"], "named after a frame .*there are 1 for 2 frames"),
        (["masks/a.png", "masks/a.bmp"], r"a\.bmp and .*a\.png differ only"),
        (["masks/a.jpg.png", "masks/a.png.png"], r"are both a mask of one frame"),
        (["masks/a.png", "diffs/x.png"], "no residual in .*named after a frame"),
    ],
)
def test_unusable_prompt_folders(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x") if path.suffix == ".txt" else write(path, grey(SQUARE))
    with pytest.raises(UserError, match=message):
        opened(tmp_path, ["a", "b"])


def test_a_missing_prompt_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder .*nowhere"):
        opened(tmp_path / "nowhere", ["a"])


def test_digest_follows_contents_and_assignment(tmp_path: Path) -> None:
    write(tmp_path / "masks/a.png", grey(SQUARE))
    digests = {opened(tmp_path, ["a", "b"]).content_digest()}
    assert opened(tmp_path, ["a", "b"], "white-static").content_digest() in digests
    write(tmp_path / "masks/unrelated.png", grey(SQUARE))
    assert opened(tmp_path, ["a", "b"]).content_digest() in digests
    write(tmp_path / "diffs/a.png", grey(SQUARE))
    digests.add(opened(tmp_path, ["a", "b"]).content_digest())
    (tmp_path / "masks/a.png").rename(tmp_path / "masks/b.png")
    digests.add(opened(tmp_path, ["a", "b"]).content_digest())
    write(tmp_path / "masks/b.png", grey(~SQUARE))
    digests.add(opened(tmp_path, ["a", "b"]).content_digest())
    assert len(digests) == 4


# --- Polarity ---------------------------------------------------------------------------------


def frames_of(share: float, inside: float | None = None, outside: float | None = None):
    return [FrameEvidence(share, inside, outside)] * 5


MIXED = [*frames_of(0.1, 0.2, 0.1), *frames_of(0.1, 0.1, 0.2)]


@pytest.mark.parametrize(
    ("evidence", "polarity"),
    [
        (frames_of(0.1), "white-transient"),
        (frames_of(0.9), "white-static"),
        (frames_of(0.1, 0.3, 0.1), "white-transient"),
        (frames_of(0.9, 0.1, 0.3), "white-static"),
        (frames_of(0.5, 0.3, 0.1), "white-transient"),  # the residual alone is clear
        (frames_of(0.5, 0.1, 0.3), "white-static"),
        (frames_of(0.1, 0.1, 0.1), "white-transient"),  # the area alone is clear
        (frames_of(0.1, 0.0, 0.0), "white-transient"),
        (MIXED, "white-transient"),
        (frames_of(0.0), "white-transient"),
        (frames_of(1.0), "white-static"),
        ([*frames_of(0.0), FrameEvidence(0.2, 0.3, 0.1)], "white-transient"),
        ([*frames_of(1.0), FrameEvidence(0.8, 0.1, 0.3)], "white-static"),
    ],
)
def test_decided_polarity(evidence: list[FrameEvidence], polarity: str) -> None:
    decision = decide_polarity(evidence, "masks")
    assert decision.polarity == polarity
    assert decision.reason


@pytest.mark.parametrize(
    ("evidence", "problem"),
    [
        (frames_of(0.5), "unclear: white covers 50%"),
        (frames_of(0.36), "unclear"),
        (frames_of(0.32), "unclear"),  # area alone has to be clearer
        (frames_of(0.68), "unclear"),
        (frames_of(0.8, 0.11, 0.1), "contradictory"),  # residuals point the other way, if faintly
        (frames_of(0.64, 0.11, 0.1), "unclear"),
        (frames_of(0.1, 0.1, 0.3), "contradictory"),
        (frames_of(0.9, 0.3, 0.1), "contradictory"),
    ],
)
def test_undecidable_polarity(evidence: list[FrameEvidence], problem: str) -> None:
    with pytest.raises(UserError, match=rf"{problem}.*give --prompt-polarity white-transient or"):
        decide_polarity(evidence, "masks")


exact_shares = st.integers(1, 63).map(lambda n: n / 64)  # so that 1 - share is exact, too
residual_means = st.floats(0, 1)


@given(st.lists(st.tuples(exact_shares, residual_means, residual_means), min_size=1, max_size=9))
def test_inverted_masks_give_the_inverted_answer(drawn: list[tuple[float, float, float]]) -> None:
    def verdict(evidence: list[FrameEvidence]) -> str | None:
        try:
            return decide_polarity(evidence, "masks").polarity
        except UserError:
            return None

    given_masks = verdict([FrameEvidence(share, a, b) for share, a, b in drawn])
    inverted = verdict([FrameEvidence(1 - share, b, a) for share, a, b in drawn])
    opposite = {"white-transient": "white-static", "white-static": "white-transient", None: None}
    assert inverted == opposite[given_masks]


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("with_residuals", [False, True])
def test_auto_reads_both_polarities_alike(
    tmp_path: Path, notices: Notices, inverted: bool, with_residuals: bool
) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"masks/{name}.png", grey(SQUARE ^ inverted))
        if with_residuals:
            write(tmp_path / f"diffs/{name}.png", grey(SQUARE) // 2 + np.uint8(20))
    prompts = opened(tmp_path, ["a", "b", "no mask"], "auto", notices)
    assert prompts.polarity == ("white-static" if inverted else "white-transient")
    np.testing.assert_array_equal(prompts[1].coarse, SQUARE)
    assert not prompts[2].coarse.any()
    assert prompts.polarity_reason
    assert len(notices.about(f"prompt polarity: {prompts.polarity}, because white covers")) == 1


@pytest.mark.parametrize("white", [False, True])
def test_plain_masks_mark_nothing(tmp_path: Path, notices: Notices, white: bool) -> None:
    write(tmp_path / "masks/a.png", grey(np.full((HEIGHT, WIDTH), white)))
    prompts = opened(tmp_path, ["a"], "auto", notices)
    assert not prompts[0].coarse.any()
    assert notices.about("nothing marked")


def test_a_given_polarity_reads_no_file(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/a.png").write_bytes(b"broken")
    prompts = opened(tmp_path, ["a"])
    assert "given" in prompts.polarity_reason
    with pytest.raises(UserError, match=r"a\.png"):
        prompts[0]


@given(st.integers(1, 200), st.integers(2, 60))
def test_spread(length: int, count: int) -> None:
    items = list(range(length))
    chosen = spread(items, count)
    assert len(chosen) == min(length, count)
    assert chosen == sorted(set(chosen))
    assert (chosen[0], chosen[-1]) == (items[0], items[-1])
