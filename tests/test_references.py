"""What prose calls by its full name (``graphprune.planning.search``) exists."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [
    *ROOT.glob("*.md"),
    *(p for d in ("docs", "graphprune", "benchmarks", "tests") for p in ROOT.glob(f"{d}/**/*.*")),
]
REFERENCE = re.compile(r"(?<![\w/.-])graphprune(?:\.[A-Za-z_]\w*)+")


def exists(reference: str) -> bool:
    """Is there a module, or something in one, of this name?"""
    parts = reference.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        return _has(found, parts[length:])
    return False


def _has(found: object, names: list[str]) -> bool:
    for name in names:
        if not hasattr(found, name):
            return False
        found = getattr(found, name)
    return True


@pytest.mark.parametrize(
    ("reference", "there"),
    [("graphprune.Plan.apply", True), ("graphprune.planning.search", True), ("graphprune.search", False)],
)
def test_a_reference(reference: str, there: bool) -> None:
    assert exists(reference) == there


def test_references_lead_somewhere() -> None:
    missing = {
        f"{path.relative_to(ROOT)}: {reference}"
        for path in FILES
        if path.suffix in (".md", ".py") and path != Path(__file__)
        for reference in REFERENCE.findall(path.read_text())
        if not reference.endswith((".json", ".py", ".md")) and not exists(reference)
    }
    assert missing == set()
