"""Thumbnails for the HTML page: what they show, and that they stay small."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image as PilImage

from t3dgs_masks.masks import decode, encode
from t3dgs_masks.report.html_pictures import PICTURE_BUDGET, PictureCollector, Pictures
from t3dgs_masks.types import BoolMask, FramePrompt, Image, Rle

RNG = np.random.default_rng(3)


def opened(content: str | None, expected: str = "WEBP") -> np.ndarray:
    assert content is not None
    with PilImage.open(BytesIO(base64.b64decode(content))) as image:
        assert image.format == expected
        return np.asarray(image)


def raster(runs: str | None, size: tuple[int, int]) -> BoolMask:
    assert runs is not None
    return decode(Rle(*size, runs.encode()))


def blob(height: int, width: int, seed: int) -> BoolMask:
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    centre = (int(rng.integers(width)), int(rng.integers(height)))
    cv2.ellipse(mask, centre, (width // 9, height // 4), int(rng.integers(180)), 0, 360, 1, -1)
    return mask.astype(bool)


def textured(height: int, width: int) -> Image:
    coarse = RNG.normal(128, 50, (height // 16, width // 16, 3)).astype(np.float32)
    fine = RNG.normal(0, 12, (height, width, 3))
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + fine, 0, 255).astype(np.uint8)


def characters(pictures: Pictures) -> int:
    frames = sum(
        len(content or "")
        for frame in pictures.frames
        for content in (frame.photo, frame.coarse, frame.residual)
    )
    masks = sum(len(runs) for of_object in pictures.masks.values() for runs in of_object.values())
    return frames + masks + sum(map(len, pictures.portraits.values()))


def test_small_frames_stay_as_they_are() -> None:
    image, mask = textured(48, 64), blob(48, 64, 1)
    coarse = blob(48, 64, 2)
    residual = np.linspace(0, 0.8, 48 * 64, dtype=np.float32).reshape(48, 64)
    collector = PictureCollector(1, 48, 64, num_masks=1)
    collector.add_prompt(0, FramePrompt(coarse, residual))
    collector.add_frame(0, image, {7: encode(mask)})
    pictures = collector.collected()
    assert pictures.grid == pictures.coarse_grid == (48, 64)
    assert np.array_equal(raster(pictures.masks[7][0], (48, 64)), mask)
    assert np.array_equal(raster(pictures.frames[0].coarse, (48, 64)), coarse)
    photo = opened(pictures.frames[0].photo)
    assert photo.shape == image.shape
    assert np.abs(photo.astype(int) - image).mean() < 12
    shown = (opened(pictures.frames[0].residual)[..., 0] / 255.0) ** 2
    halved = residual.reshape(24, 2, 32, 2).mean((1, 3))
    assert np.abs(shown - halved).mean() < 0.02
    assert pictures.residual_top == pytest.approx(0.796, abs=0.01)


def test_sampled_masks_add_up_like_the_masks() -> None:
    height, width = 1081, 1923
    first, second = blob(height, width, 1), blob(height, width, 2)
    collector = PictureCollector(1, height, width, num_masks=2)
    collector.add_frame(0, None, {1: encode(first), 2: encode(second), 3: encode(first | second)})
    pictures = collector.collected()
    one, two, both = (raster(pictures.masks[i][0], pictures.grid) for i in (1, 2, 3))
    assert max(pictures.grid) <= 640
    assert np.array_equal(one | two, both)
    assert both.mean() == pytest.approx((first | second).mean(), abs=0.003)


def test_what_there_is_not_stays_out() -> None:
    collector = PictureCollector(2, 10, 10)
    collector.add_frame(1, None, {1: encode(np.ones((10, 10), bool))}, portraits_of=[1])
    pictures = collector.collected()
    assert pictures.frames[0].photo is pictures.frames[1].photo is None
    assert pictures.portraits == {}
    assert pictures.residual_top is None
    assert not collector.has_prompt(0)


@pytest.mark.parametrize("top_left", [(0, 0), (60, 100), (110, 150)])
def test_a_portrait_shows_its_object(top_left: tuple[int, int]) -> None:
    image = np.full((120, 160, 3), 90, np.uint8)
    mask = np.zeros((120, 160), bool)
    mask[top_left[0] : top_left[0] + 10, top_left[1] : top_left[1] + 10] = True
    image[mask] = (250, 20, 20)
    collector = PictureCollector(1, 120, 160)
    collector.add_frame(0, image, {1: encode(mask)}, portraits_of=[1])
    portrait = opened(collector.collected().portraits[1])
    red = (portrait[..., 0] > 180) & (portrait[..., 1] < 90)
    assert 0.2 < red.mean() < 0.9
    grey = portrait[np.ptp(portrait.astype(int), axis=2) < 12]
    assert np.median(grey) < 60  # its surroundings are dimmed


def test_three_hundred_frames_of_photographs_fit() -> None:
    """The budget is for the pictures; what else is on the page is a few kilobytes."""
    num_frames = 300
    photos = [textured(360, 640) for _ in range(4)]
    coarse = blob(360, 640, 0)
    masks = {k: encode(blob(360, 640, k)) for k in range(4)}
    residual = np.abs(RNG.normal(0, 0.05, (360, 640))).astype(np.float32)
    collector = PictureCollector(num_frames, 360, 640, num_masks=num_frames * len(masks))
    for frame_idx in range(num_frames):
        collector.add_prompt(frame_idx, FramePrompt(coarse, residual))
        collector.add_frame(frame_idx, photos[frame_idx % 4], masks, masks if not frame_idx else ())
    assert characters(collector.collected()) < PICTURE_BUDGET


def test_large_photos_are_jpegs_where_they_fit() -> None:
    image, coarse = textured(360, 480), blob(360, 480, 0)
    residual = np.linspace(0, 0.8, 360 * 480, dtype=np.float32).reshape(360, 480)

    def collected(num_frames: int, budget: int) -> Pictures:
        collector = PictureCollector(num_frames, 360, 480, budget=budget)
        collector.add_prompt(0, FramePrompt(coarse, residual))
        collector.add_frame(0, image, {1: encode(coarse)}, portraits_of=[1])
        return collector.collected()

    pictures = collected(1, PICTURE_BUDGET)
    photo = opened(pictures.frames[0].photo, "JPEG")
    assert photo.shape == image.shape
    assert np.abs(photo.astype(int) - image).mean() < 12
    shown = (opened(pictures.frames[0].residual, "JPEG") / 255.0) ** 2
    halved = residual.reshape(180, 2, 240, 2).mean((1, 3))
    assert shown.shape == halved.shape
    assert np.abs(shown - halved).mean() < 0.02
    assert pictures.residual_top == pytest.approx(0.796, abs=0.01)
    assert opened(pictures.portraits[1]).shape == (136, 136, 3)
    assert np.array_equal(raster(pictures.frames[0].coarse, (360, 480)), coarse)

    for budget, kind in ((90_000, "JPEG"), (50_000, "JPEG"), (30_000, "WEBP")):
        content = collected(1, budget).frames[0].photo or ""
        assert 0.2 * budget < len(content) <= 0.6 * budget, "the photos' share"
        opened(content, kind)


def test_even_noise_keeps_to_a_budget() -> None:
    noise = RNG.integers(0, 255, (270, 480, 3), dtype=np.uint8)
    collector = PictureCollector(40, 270, 480, num_masks=40, budget=1_200_000)
    for frame_idx in range(40):
        collector.add_frame(frame_idx, noise, {1: encode(blob(270, 480, frame_idx))})
    pictures = collector.collected()
    assert characters(pictures) < 1_200_000
    sizes = [len(frame.photo or "") for frame in pictures.frames]
    assert min(sizes) > 0.2 * max(sizes)  # the last frames do not pay for the first


def test_the_order_of_frames_changes_nothing() -> None:
    photos, coarse = [textured(90, 160) for _ in range(6)], blob(90, 160, 1)
    residual = np.linspace(0, 0.8, 90 * 160, dtype=np.float32).reshape(90, 160)

    def collected(order: list[int], *, photos_first: bool) -> Pictures:
        collector = PictureCollector(6, 90, 160, num_masks=6, budget=60_000)
        for frame_idx in order:
            if photos_first:
                collector.add_photo(frame_idx, photos[frame_idx])
                assert collector.has_photo(frame_idx)
            collector.add_prompt(frame_idx, FramePrompt(coarse, residual))
        for frame_idx in range(6):
            collector.add_frame(frame_idx, photos[frame_idx], {1: encode(coarse)})
        return collector.collected()

    assert collected([0, 1, 2, 3, 4, 5], photos_first=False) == collected(
        [3, 0, 5, 4, 2, 1], photos_first=True
    )


def test_threads_change_nothing() -> None:
    photos = [textured(90, 160) for _ in range(40)]
    prompts = [FramePrompt(blob(90, 160, t), np.full((90, 160), t / 50, "f4")) for t in range(40)]

    def collected(workers: int) -> Pictures:
        collector = PictureCollector(40, 90, 160)
        with ThreadPoolExecutor(workers) as pool:
            for frame_idx in range(40):
                pool.submit(collector.add_photo, frame_idx, photos[frame_idx])
                pool.submit(collector.add_prompt, frame_idx, prompts[frame_idx])
        return collector.collected()

    together = collected(8)
    assert together == collected(1)
    assert all(f.photo and f.coarse and f.residual for f in together.frames)
    assert together.residual_top == pytest.approx(39 / 50)


def test_a_thousand_objects_get_a_coarser_grid() -> None:
    few, many = PictureCollector(300, 1080, 1920), PictureCollector(300, 1080, 1920)
    few.expect_masks(300)
    many.expect_masks(300 * 200)
    assert max(many.collected().grid) < max(few.collected().grid)
    assert max(many.collected().grid) >= 192
