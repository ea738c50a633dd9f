"""Setting ``mask_path`` in the text of a ``transforms.json``, leaving every other byte as it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

_SPACE = " \t\n\r"
_KEY = "mask_path"
_decoder = json.JSONDecoder()


@dataclass(frozen=True)
class _Member:
    """One ``"key": value`` of an object; positions in the text."""

    key: str
    begin: int
    key_end: int
    value_begin: int
    end: int


def set_mask_paths(text: str, mask_paths: Mapping[int, str | None]) -> str:
    """The text with other mask paths.

    Args:
        text: valid JSON with a list ``frames`` of objects.
        mask_paths: index of the frame in that list -> its mask path, or None to remove it. Frames
            that are not among them stay as they are.

    Raises:
        ValueError: the text is not such JSON.
    """
    pieces: list[str] = []
    done = 0
    for index, begin in enumerate(_frames(text)):
        if index not in mask_paths:
            continue
        at, until, new = _edit(text, begin, mask_paths[index])
        pieces += [text[done:at], new]
        done = until
    return "".join([*pieces, text[done:]])


def _edit(text: str, begin: int, mask_path: str | None) -> tuple[int, int, str]:
    """What to replace by what in the object that begins at `begin`: (from, to, new text)."""
    members, _ = _members(text, begin)
    places = [place for place, member in enumerate(members) if member.key == _KEY]
    if places:
        place = places[-1]  # of duplicate keys the last one counts
        member = members[place]
        if mask_path is not None:
            return member.value_begin, member.end, json.dumps(mask_path)
        if place > 0:
            return members[place - 1].end, member.end, ""
        after = members[1].begin if len(members) > 1 else member.end
        return member.begin, after, ""
    if mask_path is None:
        return begin, begin, ""
    if not members:
        return begin + 1, begin + 1, f'"{_KEY}": {json.dumps(mask_path)}'
    first, last = members[0], members[-1]
    # The separators that the file itself uses.
    comma = (
        text[first.end : members[1].begin]
        if len(members) > 1
        else "," + text[begin + 1 : first.begin]
    )
    colon = text[first.key_end : first.value_begin]
    return last.end, last.end, f'{comma}"{_KEY}"{colon}{json.dumps(mask_path)}'


def _frames(text: str) -> list[int]:
    """Where each object of the list ``frames`` begins."""
    members, _ = _members(text, _skip(text, 0))
    lists = [member for member in members if member.key == "frames"]
    if not lists:
        raise ValueError("no frames")
    begins: list[int] = []
    at = _skip(text, _expect(text, lists[-1].value_begin, "["))
    while _at(text, at) != "]":
        if _at(text, at) != "{":
            raise ValueError(f"no object at {at}")
        begins.append(at)
        _, end = _decoder.raw_decode(text, at)
        at = _skip(text, end)
        if _at(text, at) == ",":
            at = _skip(text, at + 1)
    return begins


def _members(text: str, begin: int) -> tuple[list[_Member], int]:
    """The members of the object that begins at `begin`, and where it ends."""
    members: list[_Member] = []
    at = _skip(text, _expect(text, begin, "{"))
    while _at(text, at) != "}":
        key_begin = at
        key, key_end = _decoder.raw_decode(text, _expect(text, at, '"') - 1)
        value_begin = _skip(text, _expect(text, _skip(text, key_end), ":"))
        _, end = _decoder.raw_decode(text, value_begin)
        members.append(_Member(key, key_begin, key_end, value_begin, end))
        at = _skip(text, end)
        if _at(text, at) == ",":
            at = _skip(text, at + 1)
    return members, at + 1


def _expect(text: str, at: int, character: str) -> int:
    if _at(text, at) != character:
        raise ValueError(f"no {character} at {at}")
    return at + 1


def _at(text: str, at: int) -> str:
    if at >= len(text):
        raise ValueError("the text ends too early")
    return text[at]


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at
