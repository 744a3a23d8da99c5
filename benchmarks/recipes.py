"""What the recipes of ``examples/recipes`` come to: accuracy before and after, sizes, MACs, seconds on one core.

Each recipe runs in full in a process of its own. Its figures take their place in ``results/recipes.json`` as it ends,
so that some can be measured again with ``--only``. The table has the first and the last network of every recipe; with
``--markdown`` every step of each is printed as ``docs/recipes.md`` shows it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.common import RESULTS, row, table, wide_console, write_json

ROOT = Path(__file__).parents[1]
RECIPES = {file.stem: file for file in sorted((ROOT / "examples/recipes").glob("*.py")) if file.stem != "digits"}
RUN = """
import json, os, runpy, sys
folder, file = os.path.split(sys.argv[1])
sys.path[0] = folder
table = runpy.run_path(sys.argv[1], run_name="__main__")["table"]
keys = "parameters nonzero macs disk_bytes".split()
print(json.dumps({name: {k: getattr(m, k) for k in keys} | dict(m.scores) for name, m in table.rows.items()}))
"""

FILE = "recipes.json"
Figures = dict[str, Any]


def run(file: Path, quick: bool) -> Figures:
    """The networks of a recipe by step, and the seconds that it took of the processor, imports included."""
    command = [sys.executable, "-c", RUN, str(file), *([] if quick else ["--full"])]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    before = children_seconds()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return {"seconds": children_seconds() - before, "steps": json.loads(done.stdout.splitlines()[-1])}


def children_seconds() -> float:
    """User and system seconds of the processes that ended."""
    times = os.times()
    return times.children_user + times.children_system


COLUMNS = ("recipe", "accuracy", "parameters", "non-zero", "MACs", "on disk", "seconds")


def cells(name: str, figures: Figures) -> tuple[str, ...]:
    """The first and the last network of a recipe."""
    first, *_, last = figures["steps"].values()
    sizes = (f"{first[key]:,} → {last[key]:,}" for key in ("parameters", "nonzero", "macs", "disk_bytes"))
    return name, f"{first['accuracy']:.1%} → {last['accuracy']:.1%}", *sizes, f"{figures['seconds']:.0f}"


def shown(found: dict[str, Figures]) -> Table:
    """A row for each recipe."""
    made = table("recipes", *COLUMNS)
    for name, figures in found.items():
        row(made, *cells(name, figures))
    return made


def overview(found: dict[str, Figures]) -> str:
    """A row for each recipe, in Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    return "\n".join([*lines, *("| " + " | ".join(cells(name, figures)) + " |" for name, figures in found.items())])


def markdown(figures: Figures) -> str:
    """Every step of a recipe."""
    lines = ["| step | parameters | non-zero | MACs | on disk | accuracy |", "|---|---|---|---|---|---|"]
    for step, m in figures["steps"].items():
        sizes = " | ".join(f"{m[key]:,}" for key in ("parameters", "nonzero", "macs", "disk_bytes"))
        lines.append(f"| {step} | {sizes} | {m['accuracy']:.1%} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="*", help="a pattern for names of recipes")
    parser.add_argument("--quick", action="store_true", help="as the tests run them; nothing is written")
    parser.add_argument("--markdown", action="store_true", help="run nothing, and print the steps that were measured")
    asked = parser.parse_args(arguments)
    if asked.markdown:
        print(overview(measured()), *(f"{name}\n\n{markdown(one)}" for name, one in measured().items()), sep="\n\n")
        return
    found: dict[str, Figures] = {}
    for name in [name for name in RECIPES if fnmatch(name, asked.only)]:
        found[name] = run(RECIPES[name], asked.quick)
        print(f"{name}: {found[name]['seconds']:.0f} s", file=sys.stderr, flush=True)
        if not asked.quick:
            together = measured() | found
            write_json(FILE, {name: together[name] for name in RECIPES if name in together})
    wide_console().print(shown(found if asked.quick else measured()))


def measured() -> dict[str, Figures]:
    """What was measured so far."""
    file = RESULTS / FILE
    return json.loads(file.read_text()) if file.exists() else {}


if __name__ == "__main__":
    main()
