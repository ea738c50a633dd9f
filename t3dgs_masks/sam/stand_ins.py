"""Functions that take the place of a network's methods for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

Method = tuple[nn.Module, str, Callable[..., Any]]  # module, name of the method, what stands in


class StandIns:
    """Replaces methods of modules, and puts them back.

    A module finds what was put on itself before the methods of its class, and hooks run as ever.

    Args:
        methods: of any modules, each method once.
    """

    def __init__(self, methods: Sequence[Method]) -> None:
        self._methods = [(vars(module), name, stand_in) for module, name, stand_in in methods]
        self._depth = 0

    def __len__(self) -> int:
        return len(self._methods)

    @property
    def are_in_place(self) -> bool:
        return self._depth > 0

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """They stand in while the block runs; blocks may be nested, also with those of others."""
        before: list[tuple[dict[str, Any], str, Any]] = []
        if not self.are_in_place:
            for attributes, name, stand_in in self._methods:
                before.append((attributes, name, attributes.get(name)))
                attributes[name] = stand_in
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            for attributes, name, previous in before:
                if previous is None:
                    del attributes[name]
                else:
                    attributes[name] = previous
