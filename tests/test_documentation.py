"""Every Python block of the Markdown files runs from the installed wheel, and every example from the repository."""

import os
import re
import runpy
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
RECIPES = sorted(file for file in (ROOT / "examples/recipes").glob("*.py") if file.stem != "digits")
"""They share the module ``digits``."""
BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```", re.DOTALL | re.MULTILINE)

RUN = """
import runpy, sys
from pathlib import Path

site, *files = sys.argv[1:]
for file in files:
    runpy.run_path(file)
outside = {"models", "benchmarks", "tests"} & sys.modules.keys()
assert not outside, f"{outside} are not in the wheel"
assert "graphprune" in sys.modules and Path(sys.modules["graphprune"].__file__).is_relative_to(site)
"""


def blocks(document: Path) -> list[str]:
    """The Python blocks of a document, each moved down to its line, so that a traceback shows where it stands."""
    text = document.read_text()
    return ["\n" * text.count("\n", 0, m.start(2)) + textwrap.dedent(m[2]) for m in BLOCK.finditer(text)]


def together(parts: list[str]) -> str:
    """Blocks that go on from one another as one program, each still at its line."""
    lines = [""] * max(part.count("\n") for part in parts)
    for part in parts:
        for number, line in enumerate(part.splitlines()):
            lines[number] = line or lines[number]
    return "\n".join(lines)


def run_programs(programs: dict[str, str], folder: Path, wheel: Path) -> str:
    """What programs print that are run one after the other, with the package of the wheel, outside the repository."""
    for name, program in programs.items():
        (folder / name).write_text(program)
    command = [sys.executable, "-W", "error::UserWarning", "-c", RUN, str(wheel), *programs]
    environment = os.environ | {"PYTHONPATH": str(wheel)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_is_something_to_run() -> None:
    assert len(blocks(README)) >= 4
    named = [document.name for document in DOCUMENTS if blocks(document)]
    pages = "adding_a_rule choosing compact export how_graphprune_works inspecting measuring report sparsity"
    assert named == ["CONTRIBUTING.md", *(f"{page}.md" for page in pages.split())]
    assert len(EXAMPLES) >= 3


def test_blocks_run_and_the_first_prints_what_the_readme_says(tmp_path: Path, wheel: Path) -> None:
    """Those of the README one by one, those of another document as one program."""
    programs = {f"README-{number}.py": block for number, block in enumerate(blocks(README))}
    programs |= {f"{document.stem}.py": together(parts) for document in DOCUMENTS if (parts := blocks(document))}
    printed = run_programs(programs, tmp_path, wheel).splitlines()
    said = re.search(r"```text\n(.*?)```", README.read_text(), re.DOTALL)
    assert said is not None
    assert printed[:2] == said[1].splitlines()[:2]
    assert printed[2].split(":")[0] == said[1].splitlines()[2].split(":")[0]


def test_what_is_not_in_the_wheel_is_noticed(tmp_path: Path, wheel: Path) -> None:
    (tmp_path / "models.py").touch()
    with pytest.raises(AssertionError, match="'models'} are not in the wheel"):
        run_programs({"block.py": "import sys\nsys.path.insert(0, '.')\nimport models\n"}, tmp_path, wheel)


def test_files_that_documents_name_exist() -> None:
    named = {(d.name, f) for d in (README, *DOCUMENTS) for f in re.findall(r"`((?:\w+/)+\w+\.py)`", d.read_text())}
    assert len(named) > 20
    assert [(document, file) for document, file in sorted(named) if not (ROOT / file).exists()] == []


def test_the_glossary_is_short_and_every_room_refers_to_it() -> None:
    rooms = sorted((ROOT / "graphprune").glob("*/__init__.py"))
    assert [room for room in rooms if "\nWords: docs/glossary.md.\n" not in room.read_text()] == []
    assert 15 < len(re.findall(r"^\| \*\*", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)) <= 25


@pytest.fixture
def _threads() -> Iterator[None]:
    """As many as before, whatever is asked for."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("example", [*EXAMPLES, *RECIPES], ids=lambda example: example.name)
@pytest.mark.usefixtures("_threads")
def test_example_runs_and_is_short(
    example: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(example.read_text().splitlines()) < (120 if example in RECIPES else 60)
    monkeypatch.setattr(sys, "argv", [str(example)])
    monkeypatch.setattr(sys, "path", [str(example.parent), *sys.path])  # as Python does
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out.strip()


def test_an_example_runs_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error::UserWarning", str(ROOT / "examples/save_and_load.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
