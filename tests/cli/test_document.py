"""docs/command_line.md: every command and option is there, and its examples print what it says."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path

import pytest

from graphprune.cli import main
from graphprune.cli.commands import COMMANDS
from tests.cli.option_tables import DOCUMENT, MARK, SHARED, options_of, own_options, renewed
from tests.documents import agree

BLOCK = re.compile(r"^```(sh|toml|python)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
PRESETS = "presets.toml"


def marked(name: str) -> str:
    """What stands between the comments of a command or a group."""
    (found,) = (one[0] for one in MARK.finditer(DOCUMENT.read_text()) if one[1] == name)
    return found


def test_every_command_and_group_is_there_once() -> None:
    assert sorted(one[1] for one in MARK.finditer(DOCUMENT.read_text())) == sorted([*COMMANDS, *SHARED])


@pytest.mark.parametrize("name", [*COMMANDS, *SHARED])
def test_every_option_is_there(name: str) -> None:
    text = marked(name)
    options = own_options(name) if name in COMMANDS else options_of(name)
    missing = [one.name for one in options if not all(f"`{flag}`" in text for flag in one.opts if "-" in flag)]
    assert missing == [], "write the tables anew with: python -m tests.cli.option_tables"
    assert name not in COMMANDS or f"graphprune {name} " in text


def test_tables_can_be_written_anew() -> None:
    written = renewed(DOCUMENT.read_text())
    assert renewed(written) == written
    assert MARK.sub("", written) == MARK.sub("", DOCUMENT.read_text())


def test_examples_print_what_the_document_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    ran = 0
    for language, code, said in BLOCK.findall(DOCUMENT.read_text()):
        if language == "sh":
            shown = printed(code, capsys)
            assert agree(textwrap.dedent(said), shown), f"{code}\n{shown}"
            ran += 1
        else:
            Path(PRESETS if language == "toml" else code.split()[1]).write_text(code)
    assert ran >= len(COMMANDS)


def printed(code: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What command lines print, with what they say on standard error first if it is asked for."""
    shown = ""
    for line in code.splitlines():
        words = shlex.split(line.removesuffix("2>&1"))
        assert words[0] == "graphprune"
        main(words[1:])
        captured = capsys.readouterr()
        shown += captured.err + captured.out if line.endswith("2>&1") else captured.out
    return shown
