"""How tyro reads our settings: help texts that flow, and no defaults that say nothing."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser
import tyro
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

_POSITIONAL = get_args(tyro.conf.Positional[int])[1]


def settings_registry() -> ConstructorRegistry:
    """What `tyro.cli` is given as its ``registry``.

    The text under a field is indented, and tyro takes an indented line for a new paragraph: help
    texts would break where our source does. An option that is not set has no default to show, and
    its text says what happens without it; that it can be given None is for the few who undo a
    preset. What a command adds to its settings comes right behind what is required.
    """
    registry = ConstructorRegistry()
    registry.struct_rule(_settings_rule)
    return registry


def _settings_rule(info: StructTypeInfo) -> StructConstructorSpec | None:
    kind = info.type
    # tyro wraps unions in a generic dataclass of its own.
    if not is_dataclass(kind) or not kind.__module__.startswith("t3dgs_masks"):
        return None
    hints = get_type_hints(kind, include_extras=True)
    texts = _texts_of(kind)
    given = info.default if is_dataclass(info.default) else None
    specs = []
    for item in fields(kind):
        default = getattr(given, item.name) if given is not None else _default_of(item)
        hint: Any = Annotated[
            hints[item.name],
            tyro.conf.arg(
                metavar=_metavar(item.name, hints[item.name]),
                help_behavior_hint=_behaviour(default),
            ),
        ]
        specs.append(StructFieldSpec(item.name, hint, default, texts.get(item.name)))
    added = vars(kind).get("__annotations__", {}) if is_dataclass(kind.__base__) else {}
    specs.sort(key=lambda spec: (spec.default is not tyro.MISSING, spec.name not in added))
    return StructConstructorSpec(instantiate=kind, fields=tuple(specs))


def _metavar(name: str, hint: Any) -> str | None:
    """What stands for the value: ``RESULT`` for a positional ``result``, ``INT`` for
    ``int | None``; None where tyro's own choice is as good."""
    plain, *extras = get_args(hint) if get_origin(hint) is Annotated else [hint]
    if _POSITIONAL in extras:
        return name.upper()
    if get_origin(plain) not in (Union, UnionType):
        return None
    kinds = [kind for kind in get_args(plain) if kind is not NoneType]
    if len(kinds) != 1:
        return None
    if get_origin(kinds[0]) is Literal:
        return f"{{{','.join(get_args(kinds[0]))}}}"
    return kinds[0].__name__.upper() if isinstance(kinds[0], type) else None


def _behaviour(default: Any) -> str | None:
    """What stands behind a help text; None leaves it to tyro."""
    if isinstance(default, bool):
        return f"(default: {'on' if default else 'off'})"
    return " " if default in (None, (), "") else None


def _default_of(item: Any) -> Any:
    if item.default is not MISSING:
        return item.default
    if item.default_factory is not MISSING:
        return item.default_factory()
    return tyro.MISSING


def _texts_of(kind: type) -> dict[str, str]:
    """Field -> the text under it, in one line; those of base classes too."""
    texts = {}
    for owner in reversed(inspect.getmro(kind)):
        if owner is not object:
            for parameter in docstring_parser.parse_from_object(owner).params:
                texts[parameter.arg_name] = " ".join((parameter.description or "").split())
    return texts
