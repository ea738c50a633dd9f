"""Editing the text of a transforms.json changes nothing but the mask paths."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t3dgs_masks.datasets.transforms_text import set_mask_paths

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
FRAMES = st.lists(
    st.dictionaries(st.sampled_from(["file_path", "w", "mask_path", "é"]), PLAIN), max_size=4
)
STYLES = st.sampled_from(
    [
        {"indent": 2},
        {"indent": "\t"},
        {"separators": (",", ":")},
        {"indent": 4, "ensure_ascii": False},
        {},
    ]
)


@settings(deadline=None)
@given(FRAMES, st.dictionaries(st.text(), PLAIN, max_size=3), STYLES, st.data())
def test_means_the_same_but_for_the_mask_paths(
    frames: list[dict[str, Any]], top: dict[str, Any], style: dict[str, Any], data: st.DataObject
) -> None:
    meta = {**top, "frames": frames, "last": 1}
    indices = st.sampled_from(range(len(frames))) if frames else st.nothing()
    wanted = data.draw(st.dictionaries(indices, st.none() | st.text()))
    edited = set_mask_paths(json.dumps(meta, **style), wanted)
    for index, mask_path in wanted.items():
        if mask_path is None:
            frames[index].pop("mask_path", None)
        else:
            frames[index]["mask_path"] = mask_path
    result = json.loads(edited)
    assert result == meta
    assert list(result) == list(meta)
    assert [list(frame) for frame in result["frames"]] == [list(frame) for frame in frames]


@settings(deadline=None)
@given(FRAMES, STYLES)
def test_setting_and_removing_gives_the_same_bytes(
    frames: list[dict[str, Any]], style: dict[str, Any]
) -> None:
    frames = [{key: v for key, v in frame.items() if key != "mask_path"} for frame in frames]
    text = json.dumps({"frames": frames}, **style)
    there = set_mask_paths(text, dict.fromkeys(range(len(frames)), "masks/ü.png"))
    assert set_mask_paths(there, dict.fromkeys(range(len(frames)))) == text


def test_style_is_kept() -> None:
    text = '{\r\n  "w": 1.0e1, "frames" :[ {\r\n\t"file_path":"a",\r\n\t"x": [1,2]\r\n} ] }\r\n'
    new = set_mask_paths(text, {0: "masks/a.png"})
    assert new == text.replace("[1,2]", '[1,2],\r\n\t"mask_path":"masks/a.png"')


@pytest.mark.parametrize("text", ["[]", "{}", '{"frames": [1]}', '{"frames": {}}', "", '{"fra'])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        set_mask_paths(text, {0: "a"})
