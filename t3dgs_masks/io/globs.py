"""``--include`` and ``--exclude``: which frames take part, by their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from t3dgs_masks.errors import UserError
from t3dgs_masks.io.images import shown


@dataclass(frozen=True)
class Globs:
    """Shell patterns over the names of frames; ``*`` matches '/' as well, and case counts.

    A pattern is held against the source path (``images/cam0/a.png``), the name (``cam0/a``), and
    the last part of both.
    """

    include: Sequence[str] = ()
    """Only frames that match one of these; all if empty."""
    exclude: Sequence[str] = ()
    """No frame that matches one of these."""

    def __bool__(self) -> bool:
        return bool(self.include or self.exclude)

    def admits(self, name: str, source: str) -> bool:
        """Whether a frame takes part."""
        texts = {name, source, name.rpartition("/")[2], source.rpartition("/")[2]}
        included = not self.include or _matches(texts, self.include)
        return included and not _matches(texts, self.exclude)

    def choose(
        self,
        names: Sequence[str],
        source_of: Callable[[str], str],
        where: Path,
        notify: Callable[[str], None],
    ) -> list[str]:
        """Those of `names` that take part, at least one; says how many they are.

        Args:
            names: of all frames.
            source_of: gives the source path of a name.
            where: the input that the frames are from, for messages.
            notify: takes one-line notices for the user.

        Raises:
            UserError: no frame is left.
        """
        if not self:
            return list(names)
        chosen = [name for name in names if self.admits(name, source_of(name))]
        flags = " and ".join(
            f"{flag} {' '.join(map(shown, patterns))}"
            for flag, patterns in (("--include", self.include), ("--exclude", self.exclude))
            if patterns
        )
        if not chosen:
            raise UserError(
                f"{flags} leaves none of the {len(names)} frames of {shown(where)} (the first:"
                f" {shown(source_of(names[0]))}): correct the pattern"
            )
        notify(f"{flags}: {len(chosen)} of {len(names)} frames")
        return chosen


NO_GLOBS = Globs()


def _matches(texts: set[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(text, pattern) for text in texts for pattern in patterns)
