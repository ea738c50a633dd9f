"""What a result depends on, and in what two runs differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from t3dgs_masks import __version__
from t3dgs_masks.config import RefineConfig, RefineSettings
from t3dgs_masks.io.plain_json import plain


@dataclass(frozen=True)
class RunIdentity:
    """All that a result depends on. Two runs of one identity give the same masks."""

    settings: Mapping[str, Any]  # plain values, paths, enums and dataclasses
    inputs: Mapping[str, str]  # what -> digest of its content
    checkpoints: Mapping[str, str]  # role -> digest of the file
    program_version: str = __version__

    @property
    def hash(self) -> str:
        """sha256 over all of it, independent of the order of the keys."""
        canonical = json.dumps(self.as_json(), sort_keys=True, separators=(",", ":"), default=plain)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """The parts as they stand in ``config.json``."""
        return {
            "version": self.program_version,
            "settings": self.settings,
            "inputs": self.inputs,
            "checkpoints": self.checkpoints,
        }

    def plain_json(self) -> dict[str, Any]:
        """As `as_json`, of nothing but JSON values."""
        return json.loads(json.dumps(self.as_json(), default=plain))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In what two identities (`RunIdentity.as_json`, with further sections or without) differ, in
    the words of the command line: "--seed (was 0, is 1)"."""
    before, now = (json.loads(json.dumps(each, default=plain)) for each in (before, now))
    found = []
    if before.get("version") != now.get("version"):
        found.append(_changed("the version of t3dgs-masks", before, now, "version"))
    found += [f"the {name}" for name in _changed_keys(before, now, "inputs")]
    found += [f"the {role} checkpoint" for role in _changed_keys(before, now, "checkpoints")]
    then, today = _flat(_section(before, "settings")), _flat(_section(now, "settings"))
    found += [
        _changed(_flag(name), then, today, name)
        for name in dict.fromkeys((*today, *then))
        if then.get(name) != today.get(name) or (name in then) != (name in today)
    ]
    then, today = _section(before, "environment"), _section(now, "environment")
    found += [
        _changed(f"the {name}" if name == "device" else name, then, today, name)
        for name in _changed_keys(before, now, "environment")
    ]
    return found


def _section(identity: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = identity.get(name)
    return section if isinstance(section, Mapping) else {}


def _changed_keys(before: Mapping[str, Any], now: Mapping[str, Any], name: str) -> list[str]:
    then, today = _section(before, name), _section(now, name)
    return [key for key in dict.fromkeys((*today, *then)) if then.get(key) != today.get(key)]


def _changed(what: str, before: Mapping[str, Any], now: Mapping[str, Any], key: str) -> str:
    def words(values: Mapping[str, Any]) -> str:
        value = values.get(key)
        return "not given" if value is None else str(value)

    return f"{what} (was {words(before)}, is {words(now)})"


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the algorithm side by side with the others, as on the command line."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= value
        else:
            flat[name] = value
    return flat


def _flag(field: str) -> str:
    """The command line's name of a setting."""
    for settings in (RefineConfig, RefineSettings):
        hint = get_type_hints(settings, include_extras=True).get(field)
        for note in getattr(hint, "__metadata__", ()):
            if getattr(note, "name", None):
                return f"--{note.name}"
    return f"--{field.replace('_', '-')}"
