"""Blocks of Markdown files are run, and what they print is compared with what the file says.

Blocks of Python go on from one another, as one program in an empty folder. A block of ``text`` right after one says
what it prints. One right after a block of ``console`` says what these commands print, and only then are they run. In
it ``…`` stands for what differs from run to run: some characters, or, alone in a line, some lines. A block of Python
that begins with a line ``# net.py`` is a file of this name, for what speaks of its lines.

``python -m tests.documents docs/tutorial.md`` shows the differences of a file, run with this tree's package.
"""

from __future__ import annotations

import difflib
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

FENCED = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1``` *$", re.DOTALL | re.MULTILINE)
NAMED = re.compile(r"# (\w+\.py)\n")
RAN = "\x00"
"""Printed before each block, so that one knows what it prints."""

RUN = """
import json, linecache, os, subprocess, sys, types
from pathlib import Path
import torch

site, *folders = sys.argv[1:]
for folder in folders:
    os.chdir(folder)
    torch.manual_seed(67280421310721)  # what a fresh process begins with
    program = sys.modules["__main__"] = types.ModuleType("__main__")
    for language, file, code in json.loads(Path(folder + ".json").read_text()):
        print("\\0", end="", flush=True)
        if language == "console":
            subprocess.run(["bash", "-ec", code], check=True)
        else:
            program.__file__ = os.path.join(folder, file)
            Path(file).write_text(code)
            linecache.checkcache()
            exec(compile(code, program.__file__, "exec", dont_inherit=True), program.__dict__)
    print("\\0", end="", flush=True)
outside = {"models", "benchmarks", "tests"} & sys.modules.keys()
assert not outside, f"{outside} are not in the wheel"
assert "graphprune" in sys.modules and Path(sys.modules["graphprune"].__file__).is_relative_to(site)
"""

COMMAND = """#!{python}
import sys

from graphprune.cli import main

sys.exit(main())
"""


@dataclass(frozen=True)
class Block:
    """Something to run, and what it prints.

    Attributes:
        language: ``python`` or ``console``.
        code: what stands in it.
        line: the number of its first line in the file, from 0.
        prints: what the file says that it prints; None: nothing is said.
    """

    language: str
    code: str
    line: int
    prints: str | None

    def program(self, document: Path) -> tuple[str, str, str]:
        """Language, file, and the code at the lines where tracebacks are to show it."""
        if self.language == "console":
            return self.language, "", self.code
        if named := NAMED.match(self.code):
            return self.language, named[1], self.code
        return self.language, f"{document.stem}.py", "\n" * self.line + self.code


def blocks(document: Path) -> list[Block]:
    """What is run of a Markdown file."""
    text = document.read_text()
    fenced = list(FENCED.finditer(text))
    found = []
    for block, after in itertools.zip_longest(fenced, fenced[1:]):
        adjacent = after is not None and after[2] == "text" and not text[block.end() : after.start()].strip()
        prints = textwrap.dedent(after[3]) if after is not None and adjacent else None
        if block[2] == "python" or (block[2] == "console" and adjacent):
            found.append(Block(block[2], textwrap.dedent(block[3]), text.count("\n", 0, block.start(3)), prints))
    return found


def run_documents(documents: Sequence[Path], folder: Path, site: Path) -> list[list[str]]:
    """What the blocks of each file print, with the package of ``site``. One process runs all, each in a folder."""
    folders = []
    for number, document in enumerate(documents):
        own = folder / f"{number}-{document.stem}"
        own.mkdir()
        own.with_name(own.name + ".json").write_text(json.dumps([b.program(document) for b in blocks(document)]))
        folders.append(str(own))
    command = [sys.executable, "-u", "-W", "error::UserWarning", "-c", RUN, str(site), *folders]
    done = subprocess.run(command, cwd=folder, env=_environment(folder, site), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(_divided(done.stdout, documents, folders))


def _environment(folder: Path, site: Path) -> dict[str, str]:
    """That of this process, with the package first and its command."""
    command = folder / "bin" / "graphprune"
    command.parent.mkdir()
    command.write_text(COMMAND.format(python=sys.executable))
    command.chmod(0o755)
    path = os.pathsep.join([str(command.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PYTHONPATH": str(site), "PATH": path, "COLUMNS": "120"}


def _divided(printed: str, documents: Sequence[Path], folders: Sequence[str]) -> Iterator[list[str]]:
    _, *parts = printed.split(RAN)
    for document, folder in zip(documents, folders, strict=True):
        count = len(blocks(document))
        yield [part.replace(f"{folder}/", "") for part in parts[:count]]
        parts = parts[count + 1 :]


def differences(document: Path, printed: Sequence[str]) -> str:
    """Where a file says something else than its blocks print; empty: nowhere."""
    found = []
    for block, shown in zip(blocks(document), printed, strict=True):
        if block.prints is not None and not agree(block.prints, shown):
            lines = (text.rstrip().splitlines(keepends=False) for text in (block.prints, shown))
            found += [f"{document.name}, block at line {block.line + 1}", *difflib.ndiff(*lines)]
    return "\n".join(found)


def agree(said: str, shown: str) -> bool:
    """Is this what is shown? ``…`` stands for some characters, or alone in a line for lines; then columns may move."""
    spaces = " +" if "…" in said else "$"
    lines, found = (
        [re.sub(spaces, " ", line.strip() if "…" in said else line.rstrip()) for line in text.rstrip().splitlines()]
        for text in (said, shown)
    )
    pattern = "".join(
        r"(?:.*\n)*?" if line == "…" else ".*?".join(map(re.escape, line.split("…"))) + r"\n" for line in lines
    )
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in found)) is not None


def main(names: Sequence[str]) -> int:
    """Compare files with what this tree's package prints."""
    documents = [Path(name) for name in names]
    with tempfile.TemporaryDirectory() as folder:
        printed = run_documents(documents, Path(folder), Path(__file__).parents[1])
    found = [different for pair in zip(documents, printed, strict=True) if (different := differences(*pair))]
    print("\n\n".join(found) or "no differences")
    return len(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
