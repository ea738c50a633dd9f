"""Rules that hold for the package as a whole."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "sam2", "segment_anything", "nerfstudio", "cv2", "huggingface_hub")


@pytest.mark.parametrize(
    "command", [[], ["refine"], ["demo"], ["models"], ["models", "list"]], ids=" ".join
)
def test_help_loads_nothing_heavy(command):
    program = (
        "import sys\n"
        "from t3dgs_masks.cli import main\n"
        "try:\n"
        f"    main({[*command, '--help']})\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0, end.code\n"
        f"print('LOADED', [name for name in {HEAVY} if name in sys.modules])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "usage: t3dgs-masks" in result.stdout
    assert "LOADED []" in result.stdout


def test_importing_the_package_loads_nothing_heavy():
    program = f"import sys, t3dgs_masks; print([n for n in {HEAVY} if n in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_imports_run_one_way():
    """The contracts in pyproject.toml."""
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as run; run()",
            "--no-cache",
        ],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    assert "0 broken" in result.stdout
