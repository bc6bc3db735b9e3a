"""Names on the command line that no record, report or terminal can show."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from edgepress.cli import cli
from edgepress.errors import ExitCode

NAMES = ["bytes\udcff", "two\nlines", "bell\x07", "line\u2028end"]
COMMANDS = [
    ["run", "recipe.yaml", "-o"],
    ["pack", "model.onnx", "-o"],
    ["demo", "--out"],
    ["report", "runs/a", "-o"],
    ["inspect"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_odd_names_are_refused_before_anything_is_read(command: list[str], name: str) -> None:
    found = CliRunner().invoke(cli, [*command, name])
    assert found.exit_code == ExitCode.USAGE_ERROR
    assert f"{name!r} holds characters that are not UTF-8 text, or control characters" in found.output


def test_words_of_every_language_are_names() -> None:
    name = "проект\u202f1 – Fußgänger/モデル.pt"  # with the space that macOS puts before AM and PM
    assert f"{name} does not exist" in CliRunner().invoke(cli, ["inspect", name]).output
