"""Slim models of thirteen families as folders that stock Transformers loads: are logits and tokens equal?

Each is pruned to half of its MACs and to half of its parameters, so that layers differ. The folders are read in a
process that cannot import graphprune: logits, greedy tokens with a growing cache, a static one and one that is filled
in chunks, a copy that was saved again, and weights in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import transformers
from rich.table import Table

import graphprune
from benchmarks.common import quiet_one_thread, row, table, wide_console, write_json
from benchmarks.families import FAMILIES, family, inputs_for
from benchmarks.folder_reading import expected, passed, read_back
from graphprune.export.huggingface.auto_map import write_auto_map

BUDGETS = ("macs", "params")


def main(arguments: list[str] | None = None) -> int:
    """Print the table, write ``results/export_auto_map.json``; 1 unless everything is equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(FAMILIES), help="families (default: all)")
    names = parser.parse_args(arguments).names
    quiet_one_thread()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    found = round_trips(names)
    wide_console().print(_table(found))
    if names == list(FAMILIES):
        write_json("export_auto_map.json", {"transformers": transformers.__version__, "cases": found})
    return 0 if all(map(passed, found)) else 1


def round_trips(names: list[str], budgets: tuple[str, ...] = BUDGETS) -> list[dict[str, Any]]:
    """What a process without graphprune finds in the folders of these families."""
    with tempfile.TemporaryDirectory() as folder:
        cases = [_case(name, kind, Path(folder) / f"{name}-{kind}") for name in names for kind in budgets]
        return read_back(cases, Path(folder))


def _case(name: str, budget: str, folder: Path) -> dict[str, Any]:
    dense = family(name)
    slim = graphprune.trace(dense).plan(**{budget: 0.5}).apply(dense)
    write_auto_map(slim, folder)
    config = json.loads((folder / "config.json").read_text())
    lines = sum(len(path.read_text().splitlines()) for path in folder.glob("*.py"))
    sizes = [sum(p.numel() for p in model.parameters()) for model in (slim, dense)]
    about = {"name": name, "budget": budget, "params": sizes[0] / sizes[1], "lines": lines}
    autos = [auto for auto in config["auto_map"] if auto not in ("AutoConfig", "AutoModelForPreTraining")]
    return {"folder": str(folder), "auto": autos[0], "about": about} | expected(slim, inputs_for(name))


def _table(found: list[dict[str, Any]]) -> Table:
    names = ("params", "lines", "difference", "dynamic", "static", "chunks", "again", "half")
    made = table("Folders for trust_remote_code", "family", "budget 0.5", *names, left=2)
    for one in found:
        cells = (f"{one['params']:.0%}", one["lines"], *(_cell(one.get(name)) for name in names[2:]))
        row(made, one["name"], one["budget"], *cells, style="" if passed(one) else "red")
    return made


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return ("equal" if value else "differs") if isinstance(value, bool) else f"{value:g}"


if __name__ == "__main__":
    sys.exit(main())
