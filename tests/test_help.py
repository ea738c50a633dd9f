"""`--help` of every command: complete, and laid out for reading."""

from __future__ import annotations

import itertools

import pytest

from t3dgs_masks import cli

COMMANDS = [
    *("refine", "report", "prepare", "prompts", "apply", "revert"),
    *("refilter", "export", "evaluate", "demo"),
    *("models list", "models download", "models path"),
]


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "100")

    def ask(command: str) -> str:
        with pytest.raises(SystemExit) as end:
            cli.main([*command.split(), "--help"])
        assert end.value.code == 0
        return capsys.readouterr().out

    return ask


def framed(text: str) -> list[str]:
    """The lines about options. Where the output is no UTF-8, as in these tests, frames are blanks,
    and a rule is below every heading."""
    lines = [line.rstrip() for line in text.splitlines()]
    rules = [index for index, line in enumerate(lines) if line.strip("- ") == "" and "-" in line]
    return [line for line in lines[rules[0] :] if line.startswith("  ") and line.strip()]


def options(text: str) -> dict[str, str]:
    """Option or positional -> its help text in one line."""
    found: dict[str, str] = {}
    name = ""
    for line in framed(text):
        if line[2] != " ":
            name, _, rest = line.strip().partition("  ")
            found[name] = rest.strip()
        else:
            found[name] += f" {line.strip()}"
    assert found
    return {name: text.strip() for name, text in found.items()}


def test_the_list_of_commands_has_a_sentence_for_each(shown):
    text = " ".join(shown("").split())
    for command in COMMANDS:
        assert f" {command.split()[0]} " in text.partition("subcommands")[2]
    assert "--version" in text
    assert "--memory-size" not in text  # of one command's own help


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(shown, command):
    text = shown(command)
    assert text.startswith(f"usage: t3dgs-masks {command}")
    for name, explanation in options(text).items():
        assert len(explanation) > 15, name
        assert "None" not in name, name
        assert "default: None" not in explanation, name
        assert "default: ''" not in explanation, name


@pytest.mark.parametrize("command", COMMANDS)
def test_help_texts_flow(shown, command):
    """No line ends early: the next word would not have fitted on it."""
    lines = framed(shown(command))
    column = max(len(line) - len(line.lstrip()) for line in lines)
    wrapped = 0
    for line, following in itertools.pairwise(lines):
        if line[column - 2 : column] == "  " and not following[:column].strip():
            word = following.split()[0]
            assert len(line) + len(word) > 96, line
            wrapped += 1
    assert wrapped or command.startswith(("models", "revert"))


def test_what_is_required_comes_first(shown):
    names = list(options(shown("refine")))
    assert names[1:4] == ["--video-path PATH", "--result-dir PATH", "--preset STR"]
