"""What the README promises, as typed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PilImage

from t3dgs_masks import cli
from t3dgs_masks.datasets.export_formats import FORMATS
from t3dgs_masks.synthetic.capture import CaptureSpec, make_capture
from t3dgs_masks.synthetic.coarse import half_trained_prompts
from t3dgs_masks.synthetic.dataset import write_nerfstudio

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


def three_commands() -> list[list[str]]:
    """The words of each."""
    _, _, rest = README.partition("in three commands:")
    block = rest.partition("```bash\n")[2].partition("```")[0]
    return [shlex.split(line, comments=True) for line in block.splitlines() if line]


def transient(folder: Path) -> np.ndarray:
    """[N, H, W] bool of all masks in a folder."""
    masks = []
    for path in sorted(folder.iterdir()):
        with PilImage.open(path) as image:
            masks.append(np.asarray(image) == 0)
    return np.stack(masks)


def test_from_refine_to_a_corrected_exported_mask_set_in_three_commands(tmp_path, monkeypatch):
    """On the demo's capture, with the network that is packaged."""
    capture = make_capture(CaptureSpec(seed=0, num_frames=16))
    write_nerfstudio(capture, half_trained_prompts(capture, seed=0), tmp_path / "scene")
    monkeypatch.chdir(tmp_path)
    refine, refilter, export = three_commands()
    assert [words[:2] for words in (refine, refilter, export)] == [
        ["t3dgs-masks", "refine"],
        ["t3dgs-masks", "refilter"],
        ["t3dgs-masks", "export"],
    ]
    assert cli.main([*refine[1:], "--sam2-checkpoint", "tiny-synthetic", "--no-overlay"]) == 0
    result = tmp_path / "refined"
    dropped = int(refilter[refilter.index("--drop") + 1])
    before = transient(result / "binary_masks")
    objects = json.loads((result / "masklets.json").read_text())["masklets"]
    assert dropped in [item["object_id"] for item in objects if item["kept"]]

    assert cli.main(refilter[1:]) == 0
    corrected = transient(result / "binary_masks")
    assert (before & ~corrected).any()  # one object less
    objects = json.loads((result / "masklets.json").read_text())["masklets"]
    assert [item["kept"] for item in objects if item["object_id"] == dropped] == [False]

    assert cli.main(export[1:]) == 0
    tool = export[export.index("--to") + 1]
    (format_,) = [each for each in FORMATS if each.name == tool]
    assert format_.polarity == "black"
    exported = tmp_path / export[export.index("--dest") + 1] / "masks"
    assert np.array_equal(transient(exported), corrected)


def commands_of(section: str) -> list[str]:
    """Everything that stands as code in a section, one string each."""
    text = README.partition(f"## {section}\n")[2].partition("\n## ")[0]
    assert text
    return [part for part in text.split("`")[1::2] if part]


@pytest.mark.parametrize(
    "flag",
    sorted(
        {
            word
            for code in commands_of("When something goes wrong")
            for word in code.split()
            if word.startswith("--") and "." not in word
        }
    ),
)
def test_every_flag_of_the_troubleshooting_list_exists(flag, capsys, monkeypatch):
    elsewhere = {"--masks-path", "--data-dir"}  # of ns-train and of the benchmark
    if flag in elsewhere:
        return
    monkeypatch.setenv("COLUMNS", "100")
    text = ""
    for command in ("refine", "apply", "refilter"):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        text += capsys.readouterr().out
    assert f"{flag} " in text or f"{flag}," in text
