"""Slim models of thirteen families as checkpoints that stock Transformers loads: are logits and tokens equal?

Each is pruned by a ratio, to half of its MACs and to half of its parameters, with ``layers="equal"``. The folders are
read by the ``Auto`` classes in a process that cannot import graphprune, as those of ``benchmarks.export_auto_map`` are.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers
from rich.table import Table
from torch import nn

import graphprune
from benchmarks.common import quiet_one_thread, row, table, wide_console, write_json
from benchmarks.families import FAMILIES, family, inputs_for
from benchmarks.folder_reading import LOGITS, expected, passed, read_back

PLANS: dict[str, dict[str, float]] = {
    "ratio 0.5": {"ratio": 0.5},
    "macs 0.5": {"macs": 0.5},
    "params 0.5": {"params": 0.5},
}

AUTO = {
    "GPT2LMHeadModel": "AutoModelForCausalLM",
    "T5ForConditionalGeneration": "AutoModelForSeq2SeqLM",
    "WhisperForConditionalGeneration": "AutoModelForSpeechSeq2Seq",
    "CLIPModel": "AutoModel",
}
"""The ``Auto`` classes whose names do not say which classes they load."""


def main(arguments: list[str] | None = None) -> int:
    """Print the table, write ``results/export_huggingface.json``; 1 unless everything is equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(FAMILIES), help="families (default: all)")
    names = parser.parse_args(arguments).names
    quiet_one_thread()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    found = round_trips(names)
    wide_console().print(_table(found))
    if names == list(FAMILIES):
        write_json("export_huggingface.json", {"transformers": transformers.__version__, "cases": found})
    return 0 if all(map(passed, found)) else 1


def round_trips(names: Sequence[str], plans: Sequence[str] = tuple(PLANS)) -> list[dict[str, Any]]:
    """What a process without graphprune finds in the folders of these families."""
    with tempfile.TemporaryDirectory() as folder:
        cases = [_case(name, plan, Path(folder) / f"{name}-{n}") for name in names for n, plan in enumerate(plans)]
        return read_back(cases, Path(folder))


def _case(name: str, plan: str, folder: Path) -> dict[str, Any]:
    dense = family(name)
    graph = graphprune.trace(dense, outputs=lambda result: [result[n] for n in LOGITS if n in result])
    slim = graph.plan(**PLANS[plan], layers="equal").apply(dense)
    graphprune.save_pretrained(slim, folder)
    sizes = [sum(p.numel() for p in model.parameters()) for model in (slim, dense)]
    changed = {n: v for n, v in _fields(slim).items() if v != _fields(dense).get(n)}
    about = {"name": name, "plan": plan, "params": sizes[0] / sizes[1], "fields": changed}
    kind = FAMILIES[name][0]
    auto = AUTO.get(kind, f"AutoModelFor{kind.partition('For')[2]}")
    return {"folder": str(folder), "auto": auto, "about": about} | expected(slim, inputs_for(name))


def _fields(model: nn.Module) -> dict[str, int]:
    """The whole numbers of a configuration, those of configurations within too."""
    found: dict[str, int] = {}
    nested = {"": model.config.to_dict()}
    while nested:
        prefix, fields = nested.popitem()
        nested |= {f"{prefix}{n}.": v for n, v in fields.items() if isinstance(v, dict)}
        found |= {prefix + n: v for n, v in fields.items() if type(v) is int}
    return found


def _table(found: Sequence[Mapping[str, Any]]) -> Table:
    names = ("params", "difference", "dynamic", "static", "chunks", "again", "half", "fields")
    made = table("Checkpoints for stock Transformers, layers='equal'", "family", "plan", *names, left=2)
    for one in found:
        cells = [f"{one['params']:.0%}", *(_cell(one.get(name)) for name in names[1:-1])]
        cells.append(", ".join(f"{name}={value}" for name, value in one["fields"].items()))
        row(made, one["name"], one["plan"], *cells, style="" if passed(one) else "red")
    return made


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return ("equal" if value else "differs") if isinstance(value, bool) else f"{value:g}"


if __name__ == "__main__":
    sys.exit(main())
