"""One name, one meaning: no module hides a public function, and no public name is defined in two files."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

import graphprune

PACKAGE = Path(graphprune.__file__).parent

OPERATION = "the rule of an operation and the reading of the sizes that it is given, both named after it"

ALLOWED: dict[str, tuple[str, str]] = {
    "aten": ("*", "short for torch.ops.aten"),
    "T": ("*", "a type variable, or a tensor among the samples of rules, where dozens stand in a line"),
    "F": ("*", "a type variable: a function that a decorator returns as it is"),
    "PruningCallback": (
        "integrations/lightning.py integrations/transformers.py integrations/ultralytics.py",
        "the callback of a library is imported from the module of that library",
    ),
    "SparsityCallback": (
        "integrations/lightning.py integrations/transformers.py",
        "the callback of a library is imported from the module of that library",
    ),
    "histogram": ("rules/indexing.py tracing/size_tracking/shapes.py", OPERATION),
    "new_tensor": ("rules/factories.py tracing/size_tracking/numbers.py", OPERATION),
    "repeat": ("rules/movement.py tracing/size_tracking/shapes.py", OPERATION),
    "select": ("rules/movement.py tracing/size_tracking/parts.py", OPERATION),
    "split": ("rules/movement.py tracing/size_tracking/parts.py", OPERATION),
    "view": ("rules/movement.py tracing/size_tracking/shapes.py", OPERATION),
}
"""By name the files that may define it, and why."""


def top_level_names(tree: ast.Module) -> Iterator[str]:
    """Functions, classes and constants that a module defines; not what it imports."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            if target is not None:
                yield from (n.id for n in ast.walk(target) if isinstance(n, ast.Name))


def duplicates(root: Path) -> dict[str, list[str]]:
    """By public name, the files that define it, where there are several."""
    found: dict[str, list[str]] = {}
    for path in sorted(root.rglob("*.py")):
        for name in sorted(set(top_level_names(ast.parse(path.read_text())))):
            if not name.startswith("_"):
                found.setdefault(name, []).append(path.relative_to(root).as_posix())
    return {name: files for name, files in found.items() if len(files) > 1}


def unexpected(found: Mapping[str, list[str]], allowed: Mapping[str, tuple[str, str]]) -> dict[str, list[str]]:
    """The duplicates that are not among the allowed ones, or stand in other files too."""
    places = {name: files.split() for name, (files, _) in allowed.items()}
    return {
        name: files
        for name, files in found.items()
        if places.get(name) != ["*"] and not set(files) <= set(places.get(name, []))
    }


def hidden(root: Path, public: Collection[str]) -> list[str]:
    """Modules and folders that have the name of something public."""
    paths = [*root.rglob("*.py"), *(path.parent for path in root.rglob("__init__.py"))]
    return sorted({p.relative_to(root).as_posix() for p in paths if p.stem in public and p != root})


def public_functions_and_classes() -> list[str]:
    values = {name: getattr(graphprune, name) for name in graphprune.__all__}
    return [name for name, value in values.items() if inspect.isfunction(value) or inspect.isclass(value)]


def test_no_module_is_named_like_something_public() -> None:
    """Else ``import graphprune.trace`` would give a function, or ``graphprune.trace`` a module."""
    public = public_functions_and_classes()
    assert len(public) > 40
    assert hidden(PACKAGE, public) == []


def test_no_public_name_is_defined_twice() -> None:
    assert unexpected(duplicates(PACKAGE), ALLOWED) == {}


def test_what_is_allowed_is_needed_and_explained() -> None:
    found = duplicates(PACKAGE)
    assert ALLOWED.keys() <= found.keys()
    assert all(reason for _, reason in (ALLOWED).values())


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A package with two rooms and nothing wrong."""
    for room, text in (("one", "import math\nLIMIT = 3\ndef go() -> None: ...\n"), ("two", "class Thing: ...\n")):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").touch()
        (tmp_path / room / "code.py").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("def go() -> int: ...", "go"),
        ("class go: ...", "go"),
        ("go = 3", "go"),
        ("go: int = 3", "go"),
        ("LIMIT, _other = 1, 2", "LIMIT"),
    ],
)
def test_a_new_duplicate_is_seen(house: Path, text: str, name: str) -> None:
    assert duplicates(house) == {}
    (house / "two" / "more.py").write_text(f"import math\nfrom os import path\n{text}\n")
    found = duplicates(house)
    assert unexpected(found, {}) == {name: ["one/code.py", "two/more.py"]}
    assert unexpected(found, {name: ("one/code.py two/more.py", "")}) == {}
    assert unexpected(found, {name: ("*", "")}) == {}
    (house / "three.py").write_text(text)
    assert list(unexpected(duplicates(house), {name: ("one/code.py two/more.py", "")})) == [name]


def test_private_names_and_imports_may_occur_twice(house: Path) -> None:
    (house / "two" / "more.py").write_text("import math\n_x = 1\nfrom one.code import go\n")
    (house / "three.py").write_text("_x = 1\n")
    assert duplicates(house) == {}


@pytest.mark.parametrize("path", ["trace.py", "two/trace.py", "trace/__init__.py"])
def test_a_module_that_hides_a_function_is_seen(house: Path, path: str) -> None:
    assert hidden(house, ["trace", "Trace"]) == []
    (house / path).parent.mkdir(exist_ok=True)
    (house / path).touch()
    assert path.removesuffix("/__init__.py") in hidden(house, ["trace", "Trace"])
