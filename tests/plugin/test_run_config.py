from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from nerfstudio.configs.method_configs import method_configs
from nerfstudio.utils.writer import EventName

from t3dgs_masks.plugin.method import t3dgs_splatfacto
from t3dgs_masks.plugin.run_config import read_run_config


@pytest.mark.parametrize("method", ["splatfacto", "splatfacto-big", "ours"])
def test_what_nerfstudio_writes_is_read(method: str) -> None:
    original = t3dgs_splatfacto.config if method == "ours" else method_configs[method]
    config: Any = copy.deepcopy(original)
    config.data = Path("somewhere")
    assert read_run_config(yaml.dump(config)) == config


def test_members_of_enumerations_are_read_however_they_are_written() -> None:
    text = "!!python/object/apply:builtins.getattr [!!python/name:{}.EventName '', {}]"
    module = EventName.__module__
    assert read_run_config(text.format(module, "ETA")) is EventName.ETA
    for name in ("__class__", "mro", "NO_SUCH"):
        with pytest.raises(ValueError, match="it asks for"):
            read_run_config(text.format(module, name))


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:builtins.getattr [!!python/name:pathlib.Path '', rmdir]",
        "!!python/object/apply:os.mkdir [{bait}]",
        "!!python/object/apply:builtins.open [{bait}, w]",
        "!!python/object/new:pathlib.Path {{args: [{bait}], state: !!python/name:os.mkdir }}",
        "_target: !!python/name:os.mkdir ",
        "!!python/module:antigravity ",
        "!!python/object/apply:nerfstudio.utils.scripts.run_command ['mkdir {bait}']",
        "!!python/object/apply:torch.hub.load [{bait}]",
    ],
)
def test_nothing_else_is_called(tmp_path: Path, text: str) -> None:
    bait = tmp_path / "was_executed"
    with pytest.raises(ValueError, match="it asks for"):
        read_run_config(text.format(bait=bait))
    assert not bait.exists()


@pytest.mark.parametrize("text", ["a: [1", "\tx", "!!python/object:pathlib.Gone {}"])
def test_what_cannot_be_read_is_told_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S") as caught:
        read_run_config(text)
    assert "\n" not in str(caught.value)
