"""report.html in a real browser: what people see, do, and copy."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PilImage
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from t3dgs_masks import cli
from t3dgs_masks.masks import encode
from t3dgs_masks.report.html import read_page, render_page
from t3dgs_masks.report.html_pictures import PictureCollector
from t3dgs_masks.report.overlay import object_colour
from t3dgs_masks.types import FramePrompt
from tests.browser.browser import Page, chromium
from tests.datasets.scenes_to_mask import HEIGHT, WIDTH
from tests.results import patch, write_result

NAMES = tuple(f"frame_{index:02d}" for index in range(12))
KEPT = {1: True, 2: True, 3: False}
SCORES = {1: 0.3, 2: 0.1, 3: 0.02}


@pytest.fixture(scope="module")
def chrome() -> Iterator[webdriver.Chrome]:
    with chromium() as driver:
        yield driver


@pytest.fixture
def result(tmp_path: Path) -> Path:
    return make_result(tmp_path, NAMES)


@pytest.fixture
def page(chrome: webdriver.Chrome, result: Path) -> Page:
    return Page(chrome, result / "report.html")


def make_result(
    folder: Path, names: tuple[str, ...], scores: dict[int, float | None] | None = None
) -> Path:
    """A result with its page; the frames are grey, and brighter from one to the next."""
    result = write_result(folder / "it's out", names, kept=KEPT, scores=scores or SCORES)
    for index, name in enumerate(names):
        grey = np.full((HEIGHT, WIDTH, 3), 60 + 8 * index, np.uint8)
        save(folder / "frames" / f"{name}.png", grey)
        save(folder / "prompts/masks" / f"{name}.png", np.uint8(255) * patch(index, 1))
        save(folder / "prompts/diffs" / f"{name}.png", np.uint8(200) * patch(index, 1))
    inputs = ["--video-path", folder / "frames", "--prompt-dir", folder / "prompts"]
    assert cli.main(["report", str(result), *map(str, inputs)]) == 0
    return result


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PilImage.fromarray(pixels).save(path)


def picture(page: Page) -> np.ndarray:
    """[HEIGHT, WIDTH, 3] of what is drawn."""
    return np.array(page.pixels(HEIGHT, WIDTH))


def masks_shown(page: Page) -> list[np.ndarray]:
    """The mask of every frame as the page has it, [HEIGHT, WIDTH] bool, True = transient."""
    page.layers("refined")
    shown = []
    for index in range(len(NAMES)):
        page.set_value("frame", index)
        values = picture(page)
        assert set(np.unique(values)) <= {0, 255}
        shown.append(values[..., 0] == 0)
    return shown


def masks_on_disk(result: Path) -> list[np.ndarray]:
    found = []
    for name in NAMES:
        with PilImage.open(result / "binary_masks" / f"{name}.png") as image:
            found.append(np.asarray(image) == 0)
    return found


def same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return all(np.array_equal(one, two) for one, two in zip(first, second, strict=True))


def run_shown_command(page: Page) -> None:
    words = shlex.split(page.text("command"))
    assert words[0] == "t3dgs-masks"
    assert cli.main(words[1:]) == 0


# --- looking --------------------------------------------------------------------------------------


def test_it_opens_from_disk_without_a_word_or_a_request(page: Page) -> None:
    assert page.chrome.current_url.startswith("file://")
    for name in ("coarse", "residual", "refined"):
        page.click(f"#layer-{name}")
    page.press(Keys.ARROW_RIGHT)
    assert page.messages() == []
    assert page.requests() == [page.path.absolute().as_uri()]


def test_pictures_may_be_jpegs(chrome: webdriver.Chrome, result: Path) -> None:
    """Those of large frames are."""
    collector = PictureCollector(1, 360, 480)
    collector.add_photo(0, np.full((360, 480, 3), (200, 120, 40), np.uint8))
    dark = np.full((360, 480), 0.25, np.float32)
    collector.add_prompt(0, FramePrompt(np.zeros((360, 480), bool), dark))
    large = collector.collected().frames[0]
    assert str(large.photo).startswith("/9j/")
    assert str(large.residual).startswith("/9j/")
    file = result / "report.html"
    page = read_page(file.read_text())
    assert page is not None
    frames = tuple(replace(frame, photo=large.photo) for frame in page.frames)
    file.write_text(render_page(replace(page, frames=frames)))
    shown = Page(chrome, file)
    shown.layers("photo")
    assert picture(shown)[-1, -1] == pytest.approx((200, 120, 40), abs=4)
    before = tuple(replace(frame, residual=None) for frame in frames)
    after = tuple(replace(frame, residual=large.residual) for frame in frames)
    drawn = []
    for pictures in (before, after):
        file.write_text(render_page(replace(page, frames=pictures)))
        shown = Page(chrome, file)
        shown.layers("residual")
        drawn.append(picture(shown)[-1, -1])
        assert shown.messages() == []
    assert np.abs(drawn[0].astype(int) - drawn[1]).max() > 20


def test_slider_keys_and_buttons_change_the_frame(page: Page) -> None:
    assert page.frame == 0
    assert picture(page)[-1, -1] == pytest.approx(60, abs=3)
    page.set_value("frame", 5)
    assert page.frame == 5
    assert picture(page)[-1, -1] == pytest.approx(100, abs=3)
    assert page.text("frame-name") == NAMES[5]
    page.click("#next")
    assert page.frame == 6
    page.click("#previous")
    page.press(Keys.ARROW_RIGHT)
    page.press(Keys.ARROW_RIGHT)
    assert page.frame == 7
    page.press(Keys.SHIFT, Keys.ARROW_LEFT)
    assert page.frame == 0
    page.press(Keys.END)
    assert page.frame == len(NAMES) - 1
    page.press(Keys.ARROW_RIGHT)
    assert page.frame == len(NAMES) - 1
    page.press(Keys.HOME)
    assert page.text("frame-number") == "1"
    slider = page.find("#frame")
    page.script("arguments[0].focus()", slider)
    page.press(Keys.ARROW_RIGHT)
    assert page.frame == 1
    assert slider.get_attribute("value") == "1"
    assert NAMES[1] in slider.get_attribute("aria-valuetext")


def test_it_plays_and_pauses(page: Page) -> None:
    page.script("document.body.focus()")
    page.chrome.switch_to.active_element.send_keys(Keys.SPACE)
    assert page.find("#play").get_attribute("aria-pressed") == "true"
    page.wait_until("return Number(document.getElementById('picture').dataset.frame) >= 3")
    page.chrome.switch_to.active_element.send_keys(Keys.SPACE)
    page.settle()
    stopped_at = page.frame
    assert page.find("#play").get_attribute("aria-label") == "Play"
    page.settle()
    assert page.frame == stopped_at
    page.click("#play")
    page.wait_until(f"return document.getElementById('picture').dataset.frame != {stopped_at}")
    page.click("#play")


def test_layers(page: Page) -> None:
    page.layers("photo")
    plain = picture(page)
    assert np.ptp(plain) < 8
    page.layers("photo", "coarse")
    changed = np.abs(picture(page) - plain).sum(axis=2) > 10
    assert np.array_equal(changed, patch(0, 1))
    page.layers("residual")
    heat = picture(page)
    inside, outside = heat[patch(0, 1)], heat[~patch(0, 1)]
    assert inside[:, 0].mean() > 200
    assert outside[:, 0].mean() < 60
    assert page.find("#legend").is_displayed()
    page.layers("refined")
    assert np.array_equal(picture(page)[..., 0] == 0, patch(0, 1) | patch(0, 2))
    page.layers("overlay")
    seen = (picture(page) < 250).any(axis=2)
    assert np.array_equal(seen, patch(0, 1) | patch(0, 2) | patch(0, 3))
    page.press("5")
    assert not page.find("#layer-overlay").is_selected()
    assert (picture(page) == 255).all()


def test_objects_have_the_colours_of_the_overlay_video(page: Page) -> None:
    page.layers("overlay")
    rows, columns = np.nonzero(patch(0, 2))
    corner = picture(page)[rows.min(), columns.min()]  # of the outline
    assert corner == pytest.approx(object_colour(2), abs=12)


def test_portraits_lead_to_the_best_frame_and_timelines_to_any(page: Page) -> None:
    page.set_value("frame", 7)
    page.click('[data-id="2"] .portrait')
    assert page.frame == 0  # all its masks are of one size: the first
    assert "selected" in page.find('[data-id="2"]').get_attribute("class")
    assert page.find('[data-id="2"] .portrait img').get_property("naturalWidth") > 0
    page.click('[data-id="2"] .timeline')  # in its middle
    assert page.frame in (5, 6)


def test_a_click_on_an_object_selects_its_row(page: Page) -> None:
    rows, columns = np.nonzero(patch(0, 2))
    page.script(
        """
        const canvas = document.getElementById("picture"), box = canvas.getBoundingClientRect();
        canvas.dispatchEvent(new MouseEvent("click", {
          clientX: box.left + arguments[0] * box.width,
          clientY: box.top + arguments[1] * box.height,
        }));
        """,
        float(columns.mean() + 0.5) / WIDTH,
        float(rows.mean() + 0.5) / HEIGHT,
    )
    page.settle()
    selected = page.chrome.find_elements("css selector", "tbody.selected")
    assert [row.get_attribute("data-id") for row in selected] == ["2"]


# --- correcting -----------------------------------------------------------------------------------


def test_switching_an_object_off_changes_picture_and_command(page: Page, result: Path) -> None:
    assert shlex.split(page.text("command"))[1:] == [
        "refilter", str(result), "--filter-threshold", "0.08",
    ]  # fmt: skip
    page.layers("photo", "overlay")
    before = picture(page)
    page.click("#keep-1")
    changed = np.abs(picture(page) - before).sum(axis=2) > 6
    assert changed[patch(0, 1)].mean() > 0.8
    assert not changed[~(patch(0, 1) | patch(0, 2) | patch(0, 3))].any()
    assert "--drop 1 --filter-threshold 0.08" in page.text("command")
    assert "1 switched off" in page.text("command-state")
    assert page.find('[data-id="1"] .verdict').text == "rejected"
    page.click("#keep-3")
    assert "--keep 3 --drop 1 --filter-threshold 0.08" in page.text("command")
    assert page.text("objects-count") == "2 kept (masked), 1 rejected"
    page.click("#reset")
    assert "--drop" not in page.text("command")
    assert np.array_equal(picture(page), before)


def test_the_threshold_moves_objects_but_not_those_switched_by_hand(page: Page) -> None:
    page.click("#keep-3")
    page.set_value("threshold", 0.15)
    assert [page.find(f"#keep-{i}").is_selected() for i in (1, 2, 3)] == [True, False, True]
    assert "--keep 3 --filter-threshold 0.15" in page.text("command")
    assert "is not above 0.15" in page.find('[data-id="2"] .reason').text
    page.set_value("threshold-value", 0.01)
    assert [page.find(f"#keep-{i}").is_selected() for i in (1, 2, 3)] == [True, True, True]
    assert float(page.find("#threshold").get_attribute("value")) == pytest.approx(0.01, abs=2e-3)
    page.set_value("threshold-value", 7)  # no such threshold
    assert "--filter-threshold 0.01" in page.text("command")


def test_the_command_gives_the_masks_that_were_shown(page: Page, result: Path) -> None:
    assert same(masks_shown(page), masks_on_disk(result))
    page.click("#keep-1")
    page.click("#keep-3")
    page.set_value("threshold-value", 0.05)
    shown = masks_shown(page)
    assert np.array_equal(shown[3], patch(3, 2) | patch(3, 3))
    assert not same(shown, masks_on_disk(result))
    run_shown_command(page)
    assert same(shown, masks_on_disk(result))
    page.open()  # refilter has brought the page up to date
    assert same(masks_shown(page), shown)
    assert "as they are on disk" in page.text("command-state")
    assert "--keep 3 --drop 1 --filter-threshold 0.05" in page.text("command")
    page.click("#keep-1")
    page.click("#keep-3")
    run_shown_command(page)
    assert same(masks_on_disk(result), [patch(i, 1) | patch(i, 2) for i in range(len(NAMES))])
    assert page.messages() == []


def test_cleaned_masks_are_those_of_the_command(page: Page, result: Path) -> None:
    ragged_objects(result)
    page.open()
    page.set_value("clean-dilate", 2)
    page.set_value("clean-fill_holes", 4)
    page.set_value("clean-min_area", 12)
    shown = masks_shown(page)
    for words in ("--fill-holes 4", "--min-area 12", "--dilate 2"):
        assert words in page.text("command")
    before = masks_on_disk(result)
    run_shown_command(page)
    on_disk = masks_on_disk(result)
    assert same(shown, on_disk)
    assert not same(before, on_disk)


def ragged_objects(result: Path) -> None:
    """Give the objects of a result holes, spots and frayed edges, and the page likewise."""
    rng = np.random.default_rng(1)
    contents = json.loads((result / "masklets.json").read_text())
    for item in contents["masklets"]:
        for index in range(len(NAMES)):
            mask = rng.random((HEIGHT, WIDTH)) < 0.3
            mask[5 * index % 20 :][:12, 8:30] |= rng.random((12, 22)) < 0.8
            runs = encode(mask).counts.decode()
            item["segmentations"][str(index)] = {"size": [HEIGHT, WIDTH], "counts": runs}
    (result / "masklets.json").write_text(json.dumps(contents))
    assert cli.main(["report", str(result)]) == 0


def test_a_promptless_result_has_no_threshold(chrome: webdriver.Chrome, tmp_path: Path) -> None:
    result = make_result(tmp_path, NAMES, dict.fromkeys(KEPT))
    page = Page(chrome, result / "report.html")
    assert not chrome.find_elements("css selector", "#threshold")
    # One was rejected all the same, which therefore is said.
    assert shlex.split(page.text("command"))[2:] == [str(result), "--drop", "3"]
    page.click("#keep-1")
    shown = masks_shown(page)
    run_shown_command(page)
    assert same(shown, masks_on_disk(result))


def test_copying(page: Page) -> None:
    page.click("#copy")
    page.wait_until("return document.getElementById('copied').textContent !== ''")
    assert page.find("#copied").get_property("textContent").startswith("Command ")


# --- for everyone ---------------------------------------------------------------------------------


def test_all_of_it_works_from_the_keyboard(page: Page) -> None:
    reached = []
    for _ in range(40):
        page.chrome.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(
            page.script(
                """
                const at = document.activeElement, style = getComputedStyle(at);
                const around = at.closest(".switch");
                const ring = around ? getComputedStyle(around) : style;
                return [at.id || at.className, ring.outlineStyle !== "none"];
                """
            )
        )
    names = [name for name, _ in reached]
    wanted = ["play", "previous", "next", "frame", "layer-photo", "layer-overlay", "command"]
    for name in [*wanted, "copy", "threshold", "keep-1", "portrait", "keep-3", "sort"]:
        assert name in names, name
    assert all(ring for name, ring in reached if name), "a focus that cannot be seen"
    page.script("document.getElementById('keep-2').focus()")
    page.press(Keys.SPACE)
    assert not page.find("#keep-2").is_selected()
    assert page.find("#play").get_attribute("aria-pressed") == "false"


def test_everything_that_can_be_used_has_a_name(page: Page) -> None:
    nameless = page.script(
        """
        return [...document.querySelectorAll("button, input, canvas, a")].filter((element) =>
          !(element.ariaLabel || element.textContent.trim() || element.labels?.length))
          .map((element) => element.outerHTML);
        """
    )
    assert nameless == []
    assert page.find("html").get_attribute("lang") == "en"
    label = page.find("#picture").get_attribute("aria-label")
    assert "masked objects 1, 2; not masked 3" in label


@pytest.mark.parametrize("width", [390, 800, 1280])
def test_it_fits_every_screen_in_light_and_dark(page: Page, width: int) -> None:
    shades = []
    for dark in (False, True):
        page.show(width, 844, dark=dark)
        page.open()
        assert page.script("return document.documentElement.scrollWidth") <= width
        box = page.find("#picture").rect
        assert 0.5 * min(width, 800) < box["width"] + 1 <= width + 1
        shades.append(page.script("return getComputedStyle(document.body).backgroundColor"))
    light, dark_shade = (int(shade.split("(")[1].split(",")[0]) for shade in shades)
    assert light > 200
    assert dark_shade < 60


def test_names_are_shown_and_do_nothing(chrome: webdriver.Chrome, tmp_path: Path) -> None:
    names = (
        "<img src=x onerror=alert(1)>",
        "</script><b>",
        "\u202egnp",
        "\u05d0\u05d1",
        "\"'{{1}}",
    )
    result = make_result(tmp_path, names)  # the second lies in a folder called "<"
    page = Page(chrome, result / "report.html")
    assert page.messages() == []
    shown = names_of(page)
    assert shown == [*names[:2], "\\u202egnp", *names[3:]]
    assert not chrome.find_elements("css selector", "b, img[src=x]")


def names_of(page: Page) -> list[str]:
    shown = []
    for index in range(5):
        page.set_value("frame", index)
        shown.append(page.text("frame-name"))
    return shown


def test_objects_are_sorted_by_any_column(page: Page) -> None:
    def order() -> list[str]:
        rows = page.chrome.find_elements("css selector", "tbody.object")
        return [str(row.get_attribute("data-id")) for row in rows]

    page.click('[data-sort="score"]')
    assert order() == ["1", "2", "3"]
    page.click('[data-sort="score"]')
    assert order() == ["3", "2", "1"]
    page.click('[data-sort="id"]')
    assert order() == ["1", "2", "3"]
