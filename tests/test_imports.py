"""Imports point one way: a module of the package imports only earlier ones of the pipeline."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "graphprune"
ORDER = (
    "errors collector eager sizes nested modules declared copying abstract provenance shadow trace lending inputs "
    "feeding labels rules label solve prove couplings groups "
    "patches contractions moments observer calibration combining criteria importance depth "
    "equations dimensions cost budgets limits sensitivity ties search roles "
    "request order audit attention rewrite plan optimizer_state carry storage "
    "latency spending eligible planner probe timed graph masking "
    "verify repair prune random_state checkpoints training schedules integrations __init__ specs cli __main__"
).split()
PACKAGES = ("provenance", "rules", "criteria", "repair", "checkpoints", "training", "schedules", "integrations")


def imported(file: Path) -> set[str]:
    """The package's modules that a file imports when it runs."""
    names: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("graphprune"):
            inner = (node.module or "").split(".")[1:]
            names |= {inner[0]} if inner else {alias.name for alias in node.names}
    return names


def modules() -> dict[str, list[Path]]:
    files = {p.stem: [p] for p in PACKAGE.glob("*.py")}
    return files | {package: list((PACKAGE / package).glob("*.py")) for package in PACKAGES}


def test_every_module_has_a_place() -> None:
    assert sorted(modules()) == sorted(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_imports_point_backwards(name: str) -> None:
    earlier = {*ORDER[: ORDER.index(name)], name if name in PACKAGES else ""}
    for file in modules()[name]:
        wrong = {m for m in imported(file) if m in ORDER and m not in earlier}
        assert not wrong, f"{file.name} imports {wrong}, which come later"


def test_a_wrong_import_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "labels.py"
    file.write_text("from graphprune.verify import verify\n")
    assert imported(file) == {"verify"}
    assert ORDER.index("verify") > ORDER.index("labels")
