"""The HTML page: what is in the file, whatever the names are."""

from __future__ import annotations

import html as html_module
import json
import re
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from t3dgs_masks.report.html import (
    Cleanup,
    ReportObject,
    ReportPage,
    displayed,
    read_page,
    render_page,
    shell_quoted,
)
from t3dgs_masks.report.html_pictures import FramePictures
from t3dgs_masks.report.overlay import object_colour

HOSTILE = [
    "</script><script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>'",
    "<!--",
    "{{ 7 * 7 }}",
    "right-to-left \u202e gnp.exe \u2066",
    "\u05d0\u05d1\u05d2/\u0645\u0631\u062d\u0628\u0627",
    "not UTF-8 \udcff\udc80",
    "line\nbreak\u2028\ttab",
    "&amp; \\ $HOME `id`",
]


def page(**changes: object) -> ReportPage:
    whole = ReportPage(
        result_dir="/data/out",
        frame_names=("a", "b", "c", "d"),
        source_size=(6, 8),
        grid=(6, 8),
        coarse_grid=(6, 8),
        frames=(FramePictures("cGhvdG8=", "05j0", "Z3JleQ=="), *[FramePictures()] * 3),
        objects=(
            ReportObject(1, True, "score is above", 0.25, 2, "cG9ydHJhaXQ=", {0: "05j0", 2: "0h0"}),
            ReportObject(4, False, "score is not above", 0.01, None, None, {}),
        ),
        threshold=0.08,
        cleanup=Cleanup(dilate=2),
        residual_top=0.5,
        fps=10.0,
        highlights=(("Objects", "1 kept, 1 rejected"),),
        seconds={"forward pass": 61.0, "filter": 0.2},
        facts=(("Network calls", (("mask decoder", "12"),)),),
        notices=("one frame has no mask",),
        missing=("The frames were not found.",),
    )
    return replace(whole, **changes)


class Elements(HTMLParser):
    """Tags with their attributes, and the text of all but scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self._inside: str | None = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else None

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is None:
            self.text.append(data)
        elif self._inside == "script":
            self.scripts.append(data)

    def shown(self) -> str:
        return " ".join(" ".join(self.text).split())


def test_a_page_comes_back_as_it_was() -> None:
    assert read_page(render_page(page())) == page()


def test_other_files_are_no_pages() -> None:
    assert read_page("<html></html>") is None
    text = render_page(page())
    assert read_page(text[: text.index('"notices"')]) is None
    assert read_page(text.replace('"version":1', '"version":2')) is None
    assert read_page(text.replace('"frame_names"', '"names"')) is None


def test_everything_is_said() -> None:
    shown = Elements(render_page(page())).shown()
    for text in (
        "1 kept, 1 rejected",
        "score is not above",
        "0.2500",
        "2 of 4 frames",
        "1, 3",  # where the first object is seen
        "forward pass 1:01",
        "mask decoder 12",
        "one frame has no mask",
        "The frames were not found.",
    ):
        assert text in shown


def test_the_table_has_the_colours_of_the_overlay_video() -> None:
    fills = [a.get("fill") for tag, a in Elements(render_page(page())).tags if tag == "rect"]
    assert "#{:02x}{:02x}{:02x}".format(*object_colour(1)) in fills
    assert "#{:02x}{:02x}{:02x}".format(*object_colour(4)) in fills


def test_nothing_is_fetched_and_nothing_else_may_run() -> None:
    text = render_page(page())
    namespace = "http://www.w3.org/2000/svg"  # a name, not an address
    assert not re.search(r"(?i)(https?:)?//[a-z]+\.", text.replace(namespace, ""))
    elements = Elements(text)
    for _, attributes in elements.tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        for name in ("src", "href"):
            value = attributes.get(name) or "#"
            assert value.startswith(("data:", "#"))
    policy = next(
        a["content"] for _, a in elements.tags if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_can_leave_its_place(name: str) -> None:
    given = page(
        frame_names=(name, "b", "c", "d"),
        result_dir=f"/data/{name}",
        notices=(name,),
        missing=(name,),
        facts=((("Settings"), ((("sam2"), name),)),),
        objects=(ReportObject(1, True, name, 0.2, 0, None, {0: "05j0"}, {name: [0]}),),
    )
    text = render_page(given)
    text.encode("ascii")
    assert read_page(text) == given
    usual = Elements(render_page(page(objects=page().objects[:1])))
    elements = Elements(text)
    kinds = [tag for tag, _ in elements.tags if tag in ("script", "img", "b")]
    assert kinds == [tag for tag, _ in usual.tags if tag in ("script", "img", "b")]
    assert len(elements.scripts) == 2
    data = json.loads(elements.scripts[0])
    assert data["frame_names"][0] == name
    assert data["shown_names"][0] == displayed(name)
    assert displayed(name) in "".join(elements.text)


def test_displayed_shows_what_would_hide() -> None:
    assert displayed("a\u202eb") == "a\\u202eb"
    assert displayed("\udcff\udc80x") == "\\xff\\x80x"
    assert displayed("\ud800") == "\\ud800"
    assert displayed("a\nb") == "a\\nb"
    assert displayed("\u05d0 b/c\u00e4") == "\u05d0 b/c\u00e4"


@pytest.mark.parametrize("name", [*HOSTILE, "plain/path", "with space", "it's", "\udcffa0"])
def test_the_shell_reads_the_folder_as_it_is(name: str) -> None:
    script = f"printf %s {shell_quoted(name)}"
    assert displayed(script) == script  # nothing hidden in what people copy
    printed = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout
    assert printed == name.encode("utf-8", "surrogateescape")


def test_a_result_without_objects_and_scores() -> None:
    empty = Elements(render_page(page(objects=())))
    assert "No objects were found" in empty.shown()
    promptless = (
        ReportObject(1, True, "promptless: every object is kept", None, 0, None, {0: "0h0"}),
    )
    shown = Elements(render_page(page(objects=promptless, residual_top=None)))
    assert "not judged" in shown.shown()
    assert "Threshold" not in shown.shown()


def test_what_the_guard_did_not_believe_is_said() -> None:
    doubts = {"the residual there is that of the static scene": [0, 1, 2], "it lingers": [2]}
    item = ReportObject(1, True, "score is above", 0.2, 0, None, {0: "05j0"}, doubts)
    given = page(objects=(item, *page().objects[1:]))
    text = render_page(given)
    assert read_page(text) == given
    shown = Elements(text).shown()
    told = "tracked mask not (all) believed on"
    assert f"{told} 3 frames (1\u20133): the residual there is that of the static scene" in shown
    assert f"{told} 1 frame (3): it lingers" in shown
    assert shown.count(told) == 2


def test_a_page_from_before_there_were_doubts_can_be_read() -> None:
    text = render_page(page())
    assert '"doubts":{}' in text
    assert read_page(text.replace(',"doubts":{}', "")) == page()


def test_long_lists_of_frames_are_cut() -> None:
    item = ReportObject(1, True, "", 0.2, 0, None, dict.fromkeys(range(0, 40, 2), "0h0"))
    names = tuple(map(str, range(40)))
    text = render_page(page(objects=(item,), frame_names=names, frames=(FramePictures(),) * 40))
    assert "1, 3, 5, 7, 9, \u2026, 39" in html_module.unescape(text)
