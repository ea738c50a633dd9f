"""The method as `ns-train` gets it."""

from __future__ import annotations

from copy import deepcopy

import pytest
import tyro

from t3dgs_masks.plugin.datamanager import T3dgsDatamanager
from t3dgs_masks.plugin.method import T3dgsTrainerConfig, t3dgs_splatfacto
from t3dgs_masks.plugin.model import T3dgsSplatfactoModel

OURS = ("pipeline.datamanager.", "pipeline.model.robust.")
OF_OURS = (
    *("refine-steps", "after-refine", "write-back", "dilate", "coarse.", "refiner."),
    *("refiner.algorithm.", "robust."),
)


def test_every_option_of_ours_has_a_help_text() -> None:
    parser = tyro.extras.get_parser(
        tyro.conf.FlagConversionOff[T3dgsTrainerConfig], default=t3dgs_splatfacto.config
    )
    texts = {
        action.option_strings[-1].removeprefix("--"): action.help or ""
        for action in parser._actions
        if action.option_strings
    }
    ours = {name: text for name, text in texts.items() if name.startswith(OURS)}
    assert len(ours) > 40
    for option in OF_OURS:
        assert any(option in name for name in ours), option
    for name, text in ours.items():
        words = text.split("(default:")[0]
        assert len(words.split()) > 3, name


def test_the_description_is_what_ns_train_lists() -> None:
    config = t3dgs_splatfacto.config
    assert config.method_name == "t3dgs-splatfacto"
    assert config.pipeline.datamanager._target is T3dgsDatamanager
    assert config.pipeline.model._target is T3dgsSplatfactoModel
    assert t3dgs_splatfacto.description.endswith(".")


@pytest.mark.parametrize(("devices", "machines", "asked"), [(2, 1, 2), (1, 3, 3), (2, 2, 4)])
def test_more_than_one_device_is_refused(devices: int, machines: int, asked: int) -> None:
    config = deepcopy(t3dgs_splatfacto.config)
    config.machine.num_devices, config.machine.num_machines = devices, machines
    with pytest.raises(SystemExit, match=f"on one device, but {asked} were asked for"):
        config.print_to_terminal()


def test_one_device_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    deepcopy(t3dgs_splatfacto.config).print_to_terminal()
    assert "T3dgsTrainerConfig" in capsys.readouterr().out
