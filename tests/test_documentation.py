"""Every Python block of the Markdown files runs from the installed wheel, and every example from the repository."""

import ast
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.documents import agree, blocks, differences, run_documents

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
RECIPES = sorted(file for file in (ROOT / "examples/recipes").glob("*.py") if file.stem != "digits")
"""They share the module ``digits``."""

PARTS = 4


def test_there_is_something_to_run() -> None:
    assert len([document for document in DOCUMENTS if blocks(document)]) >= 10
    assert len([block for document in DOCUMENTS for block in blocks(document) if block.prints]) >= 8
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("part", range(PARTS))
def test_blocks_run_and_print_what_the_documents_say(tmp_path: Path, wheel: Path, part: int) -> None:
    """Many in one process, because a process takes longer to start than most documents take."""
    documents = [document for document in DOCUMENTS if blocks(document)][part::PARTS]
    printed = run_documents(documents, tmp_path, wheel)
    assert "\n".join(filter(None, map(differences, documents, printed))) == ""


@pytest.mark.parametrize(
    ("said", "shown", "same"),
    [
        ("a  b\n", "a  b \n\n", True),
        ("a  b\n", "a b\n", False),
        ("a … b", "a  12.5 ms   b", True),
        ("a … b", "a  12.5 ms   c", False),
        ("first\n…\nlast", "first\nsecond\nthird\nlast", True),
        ("first\n…\nlast", "first\nlast", True),
        ("first\n…\nlast", "second\nlast", False),
        ("first", "first\nsecond", False),
    ],
)
def test_what_differs_from_run_to_run_is_left_open(said: str, shown: str, same: bool) -> None:
    assert agree(said, shown) == same


def page(folder: Path, *fenced: tuple[str, str]) -> Path:
    """A file of blocks."""
    file = folder / "page.md"
    file.write_text("\n".join(f"```{language}\n{code}\n```\n" for language, code in fenced))
    return file


def test_blocks_of_text_are_compared_with_what_is_printed(tmp_path: Path, wheel: Path) -> None:
    written = page(
        tmp_path,
        ("python", "import graphprune, pathlib\npathlib.Path('a').touch()\nprint('it')"),
        ("text", "it"),
        ("console", "graphprune --help > help; ls"),
        ("text", "nothing"),
        ("console", "exit 1"),
    )
    (printed,) = run_documents([written], tmp_path, wheel)
    assert printed[0] == "it\n"
    assert printed[1] == "a\nhelp\npage.py\n"
    assert differences(written, printed).splitlines()[:2] == ["page.md, block at line 12", "- nothing"]


def test_what_is_not_in_the_wheel_is_noticed(tmp_path: Path, wheel: Path) -> None:
    written = page(tmp_path, ("python", "import sys, types\nsys.modules['models'] = types.ModuleType('models')"))
    with pytest.raises(AssertionError, match="'models'} are not in the wheel"):
        run_documents([written], tmp_path, wheel)


def test_files_that_documents_name_exist() -> None:
    named = {(d.name, f) for d in DOCUMENTS for f in re.findall(r"`((?:\w+/)+\w+\.py)`", d.read_text())}
    assert len(named) > 20
    assert [(document, file) for document, file in sorted(named) if not (ROOT / file).exists()] == []


def test_the_glossary_is_short_and_every_room_refers_to_it() -> None:
    rooms = sorted((ROOT / "graphprune").glob("*/__init__.py"))
    assert [room for room in rooms if "\nWords: docs/glossary.md.\n" not in room.read_text()] == []
    assert 15 < len(re.findall(r"^\| \*\*", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)) <= 25


NO_MODULES = {"forward", "meta", "sparsify"}
"""Words that docstrings of rooms quote and that are no modules."""


def test_the_maps_of_the_house_name_every_room() -> None:
    rooms = {room.parent.name for room in (ROOT / "graphprune").glob("*/__init__.py")}
    for page in ("CONTRIBUTING.md", "docs/design.md"):
        assert (page, rooms - set(re.findall(r"`(\w+)`", (ROOT / page).read_text()))) == (page, set())


def test_the_docstring_of_a_room_names_its_modules() -> None:
    """So that whoever reads a room knows where to begin, and finds every file."""
    for room in (ROOT / "graphprune").rglob("*/__init__.py"):
        text = ast.get_docstring(ast.parse(room.read_text())) or ""
        quoted = {plain or last for plain, last in re.findall(r"``(\w+)``|:mod:`[\w.]+\.(\w+)`", text)}
        files = [*room.parent.glob("[a-z]*.py"), *(folder.parent for folder in room.parent.glob("*/__init__.py"))]
        modules = {file.stem for file in files}
        assert (room, modules - quoted, quoted - modules - NO_MODULES) == (room, set(), set())


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
