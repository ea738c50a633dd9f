"""Presets of `refine`: settings under a name, in YAML files that people read, copy and edit.

A file has a flag per line, without its dashes: ``memory-size: 5``, or ``memory_size: 5``. The
packaged ones are those in ``configs/presets``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, fields, replace
from importlib import resources
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from t3dgs_masks.config import RefineConfig, RefineSettings
from t3dgs_masks.errors import UserError

_Settings = TypeVar("_Settings", bound=RefineSettings)

PRESET_NAMES = ("fast", "default", "best")
DEFAULT_PRESET = "default"

_NESTED = "algorithm"
"""The field of `RefineSettings` whose own fields are flags like the others."""
_OF_ONE_RUN = frozenset({"video_path", "result_dir", "prompt_dir", "resume", "debug"})
"""What a run is about, rather than how it is done."""


@dataclass(frozen=True)
class Preset:
    """Settings under a name."""

    name: str
    """As the user gave it: a name or a path."""
    values: Mapping[str, Any]
    """Flag without dashes and with hyphens, such as ``memory-size`` -> its value."""

    def applied_to(self, settings: _Settings) -> _Settings:
        """`settings` with those of the preset in place of theirs."""
        flags = _flags()
        outer = {flags[name].field: v for name, v in self.values.items() if not flags[name].nested}
        inner = {flags[name].field: v for name, v in self.values.items() if flags[name].nested}
        algorithm = replace(settings.algorithm, **inner)
        return replace(settings, **{**outer, _NESTED: algorithm})

    def as_flags(self) -> str:
        """What one would type to get the same, such as ``--memory-size 5 --no-final-pass``."""
        return " ".join(_as_flag(name, value) for name, value in self.values.items())


def read_preset(name: str) -> Preset:
    """A packaged preset, or one from a file.

    Args:
        name: one of `PRESET_NAMES`, or the path of a YAML file.

    Raises:
        UserError: no such preset or file, or something in it is no setting of `refine`.
    """
    if name in PRESET_NAMES:
        return Preset(name, _checked(_loaded(_packaged(name), name), name))
    path = Path(name)
    where = _shown(name)
    if not path.is_file():
        raise UserError(
            f"--preset {where} is neither a file nor one of {', '.join(PRESET_NAMES)}: give one of"
            " these names, or the path of a YAML file"
        )
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"cannot read the preset {where}: {reason}") from error
    return Preset(name, _checked(_loaded(text, where), where))


def presets_help() -> str:
    """What every packaged preset sets, in lines for a help text."""
    width = max(map(len, PRESET_NAMES))
    lines = [
        f"  {name:<{width}}  {read_preset(name).as_flags() or 'the defaults listed below'}"
        for name in PRESET_NAMES
    ]
    return "\n".join(["Presets (--preset; flags given beside it win):", *lines])


# --- files ----------------------------------------------------------------------------------------


def _packaged(name: str) -> str:
    """The text of a packaged preset. In an installed package they lie inside of it, in a checkout
    where people edit them."""
    file = f"{name}.yaml"
    installed = resources.files("t3dgs_masks").joinpath("presets").joinpath(file)
    if installed.is_file():
        return installed.read_text("utf-8")
    return (Path(__file__).parent.parent / "configs" / "presets" / file).read_text("utf-8")


def _loaded(text: str, where: str) -> Mapping[Any, Any]:
    try:
        contents = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        at = f" (line {mark.line + 1})" if mark is not None else ""
        raise UserError(
            f"the preset {where} is no YAML that can be read{at}: write one `flag: value` a line"
        ) from error
    if contents is None:
        return {}
    if not isinstance(contents, dict):
        raise UserError(
            f"the preset {where} is no list of settings: write one `flag: value` a line"
        )
    return contents


def _checked(contents: Mapping[Any, Any], where: str) -> dict[str, Any]:
    flags = _flags()
    values = {}
    for key, value in contents.items():
        name = str(key).replace("_", "-")
        if name in {word.replace("_", "-") for word in _OF_ONE_RUN}:
            raise UserError(
                f"the preset {where} sets {_shown(key)}, which is of one run: give it to `refine`"
                " as a flag"
            )
        if name not in flags:
            close = difflib.get_close_matches(name, flags, n=1)
            meant = f"did you mean {close[0]}? " if close else ""
            raise UserError(
                f"the preset {where} has no known setting {_shown(key)}: {meant}`t3dgs-masks refine"
                " --help` lists them"
            )
        if name in values:
            raise UserError(f"the preset {where} sets {name} twice: keep one of them")
        try:
            values[name] = _converted(value, flags[name].type)
        except ValueError:
            raise UserError(
                f"the preset {where} sets {name} to {_shown(value)}: it has to be"
                f" {_described(flags[name].type)}"
            ) from None
    return values


# --- flags ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Flag:
    """A setting that a preset may hold."""

    field: str
    type: Any
    nested: bool
    """Of `RefineConfig` rather than of `RefineSettings`."""


def _flags() -> dict[str, _Flag]:
    """Name, with hyphens -> setting."""
    return {
        **dict(_flags_of(RefineSettings, nested=False)),
        **dict(_flags_of(RefineConfig, nested=True)),
    }


def _flags_of(owner: type, nested: bool) -> Iterator[tuple[str, _Flag]]:
    hints = get_type_hints(owner, include_extras=True)
    for item in fields(owner):
        if item.name != _NESTED and item.name not in _OF_ONE_RUN:
            kind = hints[item.name]
            plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
            yield _flag_name(item, kind), _Flag(item.name, plain, nested)


def _flag_name(item: Field[Any], kind: Any) -> str:
    extras = getattr(kind, "__metadata__", ())  # of tyro.conf.arg(name=...)
    renamed = [extra.name for extra in extras if getattr(extra, "name", None)]
    return (renamed[0] if renamed else item.name).replace("_", "-")


def _as_flag(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    if isinstance(value, tuple):
        return " ".join([f"--{name}", *map(str, value)])
    return f"--{name} {value}"


# --- values ---------------------------------------------------------------------------------------


def _converted(value: Any, kind: Any) -> Any:
    """`value`, as YAML reads it, as a setting of type `kind`.

    Raises:
        ValueError: it is of another type, or none of the choices.
    """
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        if value is None and NoneType in get_args(kind):
            return None
        (inner,) = [one for one in get_args(kind) if one is not NoneType]
        return _converted(value, inner)
    if origin is Literal:
        return _choice(value, get_args(kind))
    if origin is tuple:
        items = value if isinstance(value, list) else [value]
        return tuple(_converted(item, get_args(kind)[0]) for item in items)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        return float(value)  # YAML takes 1e-3 for text
    if kind is str and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    raise ValueError


def _choice(value: Any, choices: tuple[str, ...]) -> str:
    # YAML takes a bare yes, no, on and off for truth values.
    words = (("on", "yes") if value else ("off", "no")) if isinstance(value, bool) else (value,)
    for word in words:
        if word in choices:
            return word
    raise ValueError


def _described(kind: Any) -> str:
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        kinds = [one for one in get_args(kind) if one is not NoneType]
        return " or ".join([*map(_described, kinds), "null"])
    if origin is Literal:
        return _either(get_args(kind))
    if origin is tuple:
        return "a list of words"
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "a word")


def _either(words: Sequence[str]) -> str:
    *others, last = words
    return " or ".join([", ".join(others), last]) if others else last


def _shown(value: Any) -> str:
    """In one line of bounded length."""
    text = re.sub(r"\s+", " ", str(value)).strip()
    return text if len(text) <= 80 else f"{text[:77]}..."
