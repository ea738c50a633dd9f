"""`refine --preset`: what is packaged, one's own files, and what the command line makes of both."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from t3dgs_masks import cli
from t3dgs_masks.config import RefineConfig, RefineSettings
from t3dgs_masks.presets import PRESET_NAMES, read_preset

REPOSITORY = Path(__file__).parent.parent


def parsed(*flags: object) -> cli.Refine:
    command = cli.parse(["refine", "--video-path", "f", "--result-dir", "r", *map(str, flags)])
    assert isinstance(command, cli.Refine)
    return command


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


# --- the packaged ones ----------------------------------------------------------------------------


def test_the_default_preset_is_the_defaults():
    plain = RefineSettings(Path("f"), Path("r"))
    assert parsed().settings() == plain
    assert parsed("--preset", "default").settings() == plain


def test_fast_asks_for_less_and_best_for_more():
    fast, default, best = (parsed("--preset", name).settings() for name in PRESET_NAMES)
    assert fast.sam2_checkpoint == "sam2.1-hiera-small"
    assert fast.resolution == 720
    assert not fast.algorithm.final_pass
    assert best.algorithm.final_pass
    assert best.sam2_checkpoint == "sam2.1-hiera-large"
    assert best.sam_checkpoint == "vit_h"
    assert fast.algorithm.max_conditioning_frames < default.algorithm.max_conditioning_frames
    assert best.algorithm.start_points_per_side > default.algorithm.start_points_per_side
    assert best.algorithm.prompt_points_per_side > default.algorithm.prompt_points_per_side


def test_checkpoints_of_the_presets_have_a_name_in_the_catalogue():
    from t3dgs_masks.sam.catalogue import CATALOGUE

    known = {entry.name for entry in CATALOGUE}
    for name in PRESET_NAMES:
        settings = parsed("--preset", name).settings()
        assert {settings.sam2_checkpoint, settings.sam_checkpoint or "vit_h"} <= known


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_every_packaged_preset_explains_itself(name):
    text = (REPOSITORY / "configs" / "presets" / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    settings = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(settings) == len(read_preset(name).values)


# --- with flags -----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["before", "behind"])
def test_flags_win_wherever_they_stand(order):
    flags = ["--memory-size", "7", "--final-pass", "--resolution", "None"]
    preset = ["--preset=fast"]
    settings = parsed(*(flags + preset if order == "before" else preset + flags)).settings()
    assert settings.algorithm.max_conditioning_frames == 7
    assert settings.algorithm.final_pass
    assert settings.resolution is None
    assert settings.sam2_checkpoint == "sam2.1-hiera-small"  # of the preset


def test_a_preset_and_its_flags_are_the_same_run():
    flags = read_preset("fast").as_flags().split()
    assert parsed("--preset", "fast").settings() == parsed(*flags).settings()
    assert "preset" not in asdict(parsed("--preset", "fast").settings())


def test_other_commands_take_no_preset(capsys):
    assert cli.main(["demo", "--preset", "fast"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


# --- files ----------------------------------------------------------------------------------------


def test_a_copy_that_was_edited(tmp_path):
    text = (REPOSITORY / "configs" / "presets" / "fast.yaml").read_text()
    assert parsed("--preset", write(tmp_path, text)) != parsed("--preset", "fast")  # the name
    same = parsed("--preset", write(tmp_path, text)).settings()
    assert same == parsed("--preset", "fast").settings()
    edited = write(tmp_path, text.replace("resolution: 720", "resolution: 540"))
    assert parsed("--preset", edited).settings().resolution == 540


def test_every_kind_of_value(tmp_path):
    preset = write(
        tmp_path,
        "memory_size: 3\nlambda-ref: 0.5\nfilter_threshold: 1e-3\nguard: off\nordered: no\n"
        "overlay: false\ninclude: ['*clutter*', 'b*']\nexclude: x\nresolution: null\n"
        "feature-cache-gb: 2\nsam2-config: sam2_hiera_l.yaml\n",
    )
    settings = parsed("--preset", preset).settings()
    algorithm = settings.algorithm
    assert (algorithm.max_conditioning_frames, algorithm.min_proposal_coverage) == (3, 0.5)
    assert algorithm.filter_threshold == 0.001
    assert (algorithm.guard, algorithm.ordered) == ("off", "no")  # YAML reads both as false
    assert settings.overlay is False
    assert settings.include == ("*clutter*", "b*")
    assert settings.exclude == ("x",)
    assert settings.resolution is None
    assert settings.feature_cache_gb == 2.0
    assert settings.sam2_config == "sam2_hiera_l.yaml"


def test_an_empty_file_sets_nothing(tmp_path):
    preset = write(tmp_path, "# nothing yet\n")
    assert parsed("--preset", preset).settings() == parsed().settings()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("memory_sise: 3", "did you mean memory-size?"),
        ("colour: red", "no known setting colour"),
        ("max_conditioning_frames: 3", "no known setting"),  # the field's name, not the flag's
        ("memory-size: ten", "memory-size to ten: it has to be a whole number"),
        ("memory-size: 2.5", "it has to be a whole number"),
        ("memory-size: true", "it has to be a whole number"),
        ("lambda-ref: [1, 2]", "it has to be a number"),
        ("final-pass: maybe", "it has to be true or false"),
        ("guard: perhaps", "it has to be auto or off"),
        ("precision: true", "it has to be auto, bfloat16 or float32"),
        ("resolution: big", "it has to be a whole number or null"),
        ("include: {a: b}", "it has to be a list of words"),
        ("sam2-checkpoint: null", "it has to be a word"),
        ("video-path: here", "of one run"),
        ("prompt_dir: here", "of one run"),
        ("memory-size: 1\nmemory_size: 2", "twice"),
        ("- memory-size", "no list of settings"),
        ("memory-size", "no list of settings"),
        ("a: b: c", "no YAML that can be read (line 1)"),
        ("a: [1,\n\n", "no YAML that can be read (line 3)"),
        ("\x00", "no YAML that can be read"),
        ("!!python/object/apply:os.system [ls]", "no YAML that can be read"),
        ("2026-99-99: 1", "no YAML that can be read"),
        (f"memory-size: {'x' * 500}", "x..."),
    ],
)
def test_what_a_file_cannot_hold_is_one_line(text, complaint, tmp_path, capsys):
    preset = write(tmp_path, text)
    code = cli.main(["refine", "--video-path", "f", "--result-dir", "r", "--preset", str(preset)])
    assert code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert complaint in error


@pytest.mark.parametrize("name", ["quick", "", "no/such.yaml", "."])
def test_no_such_preset_is_one_line(name, capsys):
    code = cli.main(["refine", "--video-path", "f", "--result-dir", "r", f"--preset={name}"])
    assert code == 2
    error = capsys.readouterr().err
    assert "fast, default, best" in error
    assert error.count("\n") == 1


def test_bytes_that_are_no_text(tmp_path, capsys):
    preset = tmp_path / "mine.yaml"
    preset.write_bytes(b"\xff\xfe\x00")
    assert cli.main(["refine", "--preset", str(preset), "--help"]) == 2
    assert "not UTF-8" in capsys.readouterr().err


def test_every_flag_of_refine_can_be_set(tmp_path):
    """But for those that say what a run is about."""
    settings = RefineSettings(Path("f"), Path("r"))
    names = [f.name for f in fields(settings)] + [f.name for f in fields(RefineConfig)]
    known = read_preset_flags()
    renamed = {
        "max_conditioning_frames": "memory-size",
        "min_proposal_coverage": "lambda-ref",
        "min_scoring_coverage": "lambda-val",
        "merge_iou": "lambda-merge",
    }
    of_one_run = {"video_path", "result_dir", "prompt_dir", "resume", "debug", "algorithm"}
    expected = {renamed.get(n, n.replace("_", "-")) for n in names if n not in of_one_run}
    assert known == expected


def read_preset_flags() -> set[str]:
    from t3dgs_masks import presets

    return set(presets._flags())


# --- help and installation ------------------------------------------------------------------------


def test_help_shows_what_each_preset_sets(capsys):
    with pytest.raises(SystemExit):
        cli.main(["refine", "--help"])
    shown = capsys.readouterr().out
    for name in PRESET_NAMES:
        assert f"  {name}" in shown
        assert read_preset(name).as_flags() in shown
    with pytest.raises(SystemExit):
        cli.main(["refine", "--preset", "fast", "--help"])
    assert "(default: 720)" in capsys.readouterr().out


def test_an_installed_package_holds_the_presets(tmp_path):
    """A wheel, unpacked where no checkout is near."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from t3dgs_masks import presets\n"
        "print(presets.__file__)\n"
        "print([presets.read_preset(name).as_flags() for name in presets.PRESET_NAMES])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "site")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    where, flags = ran.stdout.splitlines()
    assert where.startswith(str(tmp_path))
    assert flags == str([read_preset(name).as_flags() for name in PRESET_NAMES])
