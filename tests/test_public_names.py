"""Public names are imported when they are asked for, and type checkers see the same ones."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import graphprune

PACKAGE = Path(graphprune.__file__).parent


def stated_places() -> dict[str, str]:
    """By public name, the module that the stub imports it from."""
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names if node.module != "graphprune"}


def stated_names() -> list[str]:
    """What the stub exports."""
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text())
    (assigned,) = (node.value for node in tree.body if isinstance(node, ast.Assign))
    return list(ast.literal_eval(assigned))


def test_the_stub_says_what_is_imported() -> None:
    assert stated_places() == graphprune._MODULES
    assert sorted(stated_names()) == graphprune.__all__


def test_every_name_is_there_under_its_own_name() -> None:
    assert all(getattr(graphprune, name).__name__ in (name, "graphprune.errors") for name in graphprune.__all__)
    assert set(graphprune.__all__) <= set(dir(graphprune))


def test_rooms_are_attributes_and_other_names_are_not() -> None:
    assert graphprune.planning.options.PruningOptions is graphprune.PruningOptions  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="'graphprune' has no attribute 'prune_modle'"):
        getattr(graphprune, "prune_" + "modle")


def test_importing_the_package_loads_no_torch() -> None:
    code = "import graphprune, sys; print('torch' in sys.modules); graphprune.Plan; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.stdout.split() == ["False", "True"], done.stderr
