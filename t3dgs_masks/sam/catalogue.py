"""Names of the checkpoints that can be fetched, and where they come from.

Imports neither torch nor sam2, so that ``t3dgs-masks models list`` answers at once.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from t3dgs_masks.errors import UserError

Family = Literal["sam2", "sam1"]

SAM1_HUB_REPO = "ybelkada/segment-anything"
"""Copy of the official ``.pth`` files on the hub (Meta publishes them only on its own server).
What is fetched from it is checked against the official files' published SHA-256."""
SAM1_URL = "https://dl.fbaipublicfiles.com/segment_anything"
SAM2_URL = "https://dl.fbaipublicfiles.com/segment_anything_2"

TINY_SYNTHETIC = "tiny-synthetic"
WEIGHTS_DIR = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class CatalogueEntry:
    """One checkpoint that can be asked for by name."""

    name: str
    family: Family
    file_name: str
    size_mb: int  # of the file, in 10^6 bytes, rounded
    licence: str
    source: str  # for people: who made it
    repo_id: str | None = None  # hub repository; None: shipped inside this package
    hub_file: str = ""  # path of the file in that repository
    url: str = ""  # the same file outside the hub
    sha256: str = ""  # of the file; empty where the hub repository is the maker's own

    @property
    def packaged_path(self) -> Path | None:
        """Where the file lies inside this package; None for one that has to be fetched."""
        return WEIGHTS_DIR / self.file_name if self.repo_id is None else None


def _sam2_entry(version: str, size: str, size_mb: int) -> CatalogueEntry:
    """Repository and file names as in sam2/build_sam.py:HF_MODEL_ID_TO_FILENAMES."""
    release = "092824" if version == "2.1" else "072824"
    file_name = f"sam{version}_hiera_{size.replace('-', '_')}.pt"
    return CatalogueEntry(
        name=f"sam{version}-hiera-{size}",
        family="sam2",
        file_name=file_name,
        size_mb=size_mb,
        licence="Apache-2.0",
        source=f"Meta, SAM {version}",
        repo_id=f"facebook/sam{version}-hiera-{size}",
        hub_file=file_name,
        url=f"{SAM2_URL}/{release}/{file_name}",
    )


def _sam1_entry(name: str, file_name: str, size_mb: int, sha256: str) -> CatalogueEntry:
    """The digits in the file names begin the files' MD5, which is not worth checking."""
    return CatalogueEntry(
        name=name,
        family="sam1",
        file_name=file_name,
        size_mb=size_mb,
        licence="Apache-2.0",
        source="Meta, SAM 1",
        repo_id=SAM1_HUB_REPO,
        hub_file=f"checkpoints/{file_name}",
        url=f"{SAM1_URL}/{file_name}",
        sha256=sha256,
    )


CATALOGUE: tuple[CatalogueEntry, ...] = (
    _sam2_entry("2.1", "large", 898),
    _sam2_entry("2.1", "base-plus", 324),
    _sam2_entry("2.1", "small", 184),
    _sam2_entry("2.1", "tiny", 156),
    _sam2_entry("2", "large", 898),
    _sam2_entry("2", "base-plus", 323),
    _sam2_entry("2", "small", 184),
    _sam2_entry("2", "tiny", 156),
    _sam1_entry(
        "vit_h",
        "sam_vit_h_4b8939.pth",
        2565,
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
    _sam1_entry(
        "vit_l",
        "sam_vit_l_0b3195.pth",
        1250,
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    _sam1_entry(
        "vit_b",
        "sam_vit_b_01ec64.pth",
        375,
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    CatalogueEntry(
        name=TINY_SYNTHETIC,
        family="sam2",
        file_name="tiny_synthetic.pt",
        size_mb=5,
        licence="Apache-2.0",
        source="this package, for demonstration and tests only",
    ),
)


def _key(text: str) -> str:
    """Spelling that tolerates '_' for '-', capitals and the hub's ``facebook/``."""
    return text.lower().removeprefix("facebook/").replace("_", "-")


_BY_KEY = {_key(entry.name): entry for entry in CATALOGUE}
_BY_FILE_NAME = {entry.file_name.lower(): entry for entry in CATALOGUE}


def find_entry(name: str) -> CatalogueEntry | None:
    """The checkpoint of that name (``sam2.1_hiera_large`` and ``facebook/…`` are understood)."""
    return _BY_KEY.get(_key(name))


def find_entry_of_file(path: Path) -> CatalogueEntry | None:
    """The checkpoint whose official file name `path` has."""
    return _BY_FILE_NAME.get(path.name.lower())


def get_entry(name: str) -> CatalogueEntry:
    """Like `find_entry`, with a UserError that suggests the nearest name."""
    entry = find_entry(name)
    if entry is None:
        near = _nearest(name)
        hint = f"did you mean '{near.name}'?" if near else "see `t3dgs-masks models list`."
        raise UserError(f"There is no checkpoint called '{name}'; {hint}")
    return entry


def names(family: Family) -> list[str]:
    """Names of all checkpoints of one family."""
    return [entry.name for entry in CATALOGUE if entry.family == family]


def _nearest(name: str) -> CatalogueEntry | None:
    near = difflib.get_close_matches(_key(name), _BY_KEY, n=1)
    return _BY_KEY[near[0]] if near else None


def explain_missing(value: str, family: Family) -> str:
    """One line for a checkpoint that is neither a file nor a name."""
    known = find_entry_of_file(Path(value))
    if known is not None and known.repo_id is not None:
        return (
            f"There is no file {value}; give the name '{known.name}' instead, which is fetched "
            f"once (`t3dgs-masks models download {known.name}`, or {known.url})."
        )
    near = _nearest(value)
    if near is not None and near.family == family:
        return f"'{value}' is neither a file nor the name of a checkpoint; '{near.name}' is one."
    default = "sam2.1-hiera-large" if family == "sam2" else "vit_h"
    return (
        f"'{value}' is neither a file nor the name of a checkpoint; `t3dgs-masks models list` "
        f"shows the names, `t3dgs-masks models download {default}` fetches a good one."
    )
