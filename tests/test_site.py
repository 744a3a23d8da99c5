"""The site of ``make docs``: every page is reached, every link leads somewhere, every public name is explained."""

import importlib
import os
import re
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import griffe
import pytest
from mkdocs.config import load_config

import graphprune
import graphprune.importance
import graphprune.rules

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REPOSITORY_FILES = runpy.run_path(str(DOCS / "hooks/repository_files.py"))
DOCSTRINGS = runpy.run_path(str(DOCS / "hooks/docstrings.py"))
DIRECTIVE = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)
SUBMODULES = (graphprune.rules, graphprune.importance)
"""Those besides ``graphprune`` that say what is public."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. A warning fails the build: a page outside the navigation, a link or an anchor of nothing."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def pages_of(nav: list[Any]) -> list[str]:
    """The pages that a navigation names, with those of its sections."""
    found = []
    for entry in nav:
        what = entry if isinstance(entry, str) else next(iter(entry.values()))
        found += pages_of(what) if isinstance(what, list) else [what]
    return found


def test_every_page_is_in_the_navigation_once() -> None:
    config = load_config(str(ROOT / "mkdocs.yml"))
    named = pages_of(REPOSITORY_FILES["on_config"](config).nav)
    written = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert sorted(named) == sorted([*written, *REPOSITORY_FILES["PAGES"]])


def test_pages_are_built_and_load_nothing_from_elsewhere(site: Path) -> None:
    pages = [page for page in site.rglob("*.html") if page.name != "404.html"]
    assert len(pages) > 20
    loaded = {
        name
        for page in pages
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page.read_text())
        for name in re.findall(r'\b(?:src|href)="?((?:https?:)?//[^" >]*)', tag)
    }
    assert loaded == set()


def test_files_of_the_repository_are_in_the_site(site: Path) -> None:
    assert (site / "examples/prune_yolo.py").read_text() == (ROOT / "examples/prune_yolo.py").read_text()
    assert not (site / "hooks").exists()


@pytest.mark.parametrize(
    ("path", "uri", "link", "becomes"),
    [
        ("docs/export.md", "export.md", "../examples/a.py", "examples/a.py"),
        ("docs/how_to/yolo.md", "how_to/yolo.md", "../../CHANGELOG.md#added", "../CHANGELOG.md#added"),
        ("docs/how_to/yolo.md", "how_to/yolo.md", "../export.md", "../export.md"),
        ("CONTRIBUTING.md", "CONTRIBUTING.md", "docs/glossary.md", "glossary.md"),
        ("docs/sparsity.md", "sparsity.md", "../README.md", "index.md"),
        ("docs/sparsity.md", "sparsity.md", "https://pytorch.org/docs", "https://pytorch.org/docs"),
    ],
)
def test_links_out_of_docs(path: str, uri: str, link: str, becomes: str) -> None:
    rewrite = REPOSITORY_FILES["rewrite_links"]
    assert rewrite(f"see [it]({link})", path, uri) == f"see [it]({becomes})"
    assert rewrite(f"`x[0]({link})`", path, uri) == f"`x[0]({link})`"


def documented(name: str) -> list[object]:
    """What a directive of the reference shows: an object, or those that a module defines."""
    found = resolved(name)
    if not isinstance(found, ModuleType):
        return [found]
    return [one for one in vars(found).values() if getattr(one, "__module__", None) == found.__name__]


def resolved(name: str) -> object:
    """The object of a dotted name."""
    module, _, rest = name.rpartition(".")
    try:
        return importlib.import_module(name)
    except ImportError:
        return getattr(importlib.import_module(module), rest)


def test_every_public_name_is_in_the_reference_once() -> None:
    names = [name for page in (DOCS / "reference").glob("*.md") for name in DIRECTIVE.findall(page.read_text())]
    counts = Counter(id(one) for name in names for one in documented(name))
    modules = (graphprune, *SUBMODULES)
    public = {f"{m.__name__}.{name}": getattr(m, name) for m in modules for name in m.__all__}
    shown = {name: counts[id(one)] for name, one in public.items() if not isinstance(one, ModuleType)}
    assert {name: count for name, count in shown.items() if count != 1} == {}
    assert [one for one, count in Counter(names).items() if count > 1] == []
    assert len(public) > 100


def test_docstrings_become_markdown() -> None:
    module = griffe.visit("graphprune", filepath=Path("graphprune.py"), code="def trace(): ...\ndef load(): ...\n")
    convert = DOCSTRINGS["in_markdown"]
    link = '<autoref optional identifier="graphprune.trace"><code>trace</code></autoref>'
    assert convert("As :func:`trace` and :func:`~graphprune.trace`.", module) == f"As {link} and {link}."
    assert convert("Args:\n    a, b: two\n        lines\n    c: one", module) == (
        "Args:\n    a: two\n        lines\n    b: two\n        lines\n    c: one"
    )
    assert convert("See\n\n::\n\n    x ─▶ y\n\nAfter.", module) == "See\n\n```text\n    x ─▶ y\n```\n\nAfter."


def test_options_show_their_help(tmp_path: Path) -> None:
    code = 'class Options:\n    seed: int = option(0, "seed of " "all", kind="count")\n    other: int = 3\n'
    (tmp_path / "options.py").write_text(code)
    extensions = griffe.Extensions(DOCSTRINGS["Docstrings"]())
    module = griffe.load("options", search_paths=[tmp_path], extensions=extensions)
    assert module["Options.seed"].docstring.value == "Seed of all."
    assert str(module["Options.seed"].value) == "0"
    assert module["Options.other"].docstring is None
