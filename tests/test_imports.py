"""A room of the package imports only rooms below it, as the contract in ``pyproject.toml`` says."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "graphprune").rglob("*.py"))
COMMAND = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", COMMAND, "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def test_rooms_import_rooms_below() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout
    assert "1 kept, 0 broken" in done.stdout


@pytest.mark.parametrize("guard", ["", "if __import__('typing').TYPE_CHECKING: "])
def test_an_upward_import_is_found(guard: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "graphprune", tmp_path / "graphprune")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "graphprune/utils/tree.py").open("a") as file:
        file.write(f"\n{guard}import graphprune.graph.groups\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert "graphprune.utils.tree -> graphprune.graph.groups" in done.stdout


def guarded_imports(source: str) -> list[str]:
    """What is imported from this package for type checkers only."""
    guards = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.If)]
    statements = [s for guard in guards if "TYPE_CHECKING" in ast.unparse(guard.test) for s in guard.body]
    return [line for line in map(ast.unparse, statements) if re.match(r"(import|from) (graphprune|\.)", line)]


def test_no_import_is_for_type_checkers_only() -> None:
    assert {file: guarded_imports(file.read_text()) for file in FILES} == {file: [] for file in FILES}


def test_imports_for_type_checkers_are_recognized() -> None:
    source = "if typing.TYPE_CHECKING:\n    import graphprune.graph\n    from . import api\n    import torch\n"
    assert guarded_imports(source) == ["import graphprune.graph", "from . import api"]
