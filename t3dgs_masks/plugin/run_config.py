"""Reads the `config.yml` of a run, which holds Python objects, without running foreign code."""

from __future__ import annotations

from enum import Enum
from typing import Any

import yaml
from yaml.constructor import ConstructorError

_TRUSTED = ("nerfstudio.", "t3dgs_masks.", "torch.optim.", "pathlib.")
"""Where the classes are that nerfstudio and this package put into their runs' settings."""
_TRUSTED_FUNCTIONS = frozenset({"_operator.getitem"})
"""How classes with parameters are written: `DataManager[Dataset]`."""
_GETATTR = "builtins.getattr"
"""How some releases of Python write members of enumerations: `getattr(EventName, "ETA")`."""


def _member(kind: Any, name: Any) -> Any:
    """A member of an enumeration, and nothing else that `getattr` could give.

    Raises:
        ConstructorError: it is something else.
    """
    if isinstance(kind, type) and issubclass(kind, Enum) and name in kind.__members__:
        return kind[name]
    raise ConstructorError(None, None, f"it asks for {_GETATTR}, which was not called")


class _Loader(yaml.UnsafeLoader):
    """Makes objects of trusted classes alone."""

    def find_python_name(self, name: str, mark: Any, unsafe: bool = True) -> Any:
        if name == _GETATTR:
            return _member
        is_function = name in _TRUSTED_FUNCTIONS
        if not (is_function or name.startswith(_TRUSTED)):
            raise ConstructorError(None, None, f"it asks for {name}, which was not called", mark)
        found = super().find_python_name(name, mark)
        if not (is_function or isinstance(found, type)):
            raise ConstructorError(None, None, f"it asks for {name}, which was not called", mark)
        return found

    def find_python_module(self, name: str, mark: Any, unsafe: bool = True) -> Any:
        raise ConstructorError(None, None, f"it asks for the module {name}", mark)


def read_run_config(text: str) -> Any:
    """The object that a run's configuration describes.

    Raises:
        ValueError: it is no YAML, or asks for anything but classes of nerfstudio and this package.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or str(error)
        raise ValueError(" ".join(str(reason).split())) from error
    except Exception as error:  # classes that are called with what they do not expect
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(reason) from error
