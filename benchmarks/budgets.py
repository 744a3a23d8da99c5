"""Are budgets met? MACs, parameters and bytes of 0.3, 0.5 and 0.7 on thirty models of three zoos.

For each model and kind the table has the least and the largest part of its budgets that the plans spend (never above
1), and the times of the search and of a whole plan (scores, and the check of all sizes, included) beside that of
tracing. The cost of one slim model of each is compared with a new trace of it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any
from unittest import mock

import torch
from rich.table import Table

import graphprune
from benchmarks.common import quiet_one_thread, row, table, wide_console, write_json
from benchmarks.zoos import zoo
from graphprune.planning import allocate
from graphprune.planning.search import search as budget_search
from graphprune.tracing.example_inputs.guess import example_inputs_for

MODELS = {
    "torchvision": "resnet18 resnet50 mobilenet_v2 mobilenet_v3_large densenet121 shufflenet_v2_x1_0 efficientnet_b0 "
    "convnext_tiny swin_t vit_b_32".split(),
    "timm": "resnet26d resnext50_32x4d convnext_atto vit_tiny_patch16_224 xcit_nano_12_p16_224 regnety_002 "
    "mixer_s32_224 mobilenetv3_small_050 hrnet_w18_small poolformer_s12".split(),
    "transformers": "bert distilbert gpt2 llama_gqa qwen2 t5 vit convnext whisper opt".split(),
}
KINDS = ("macs", "params", "bytes")
SHARES = (0.3, 0.5, 0.7)


def main() -> int:
    """Print the table, write ``results/budgets.json``; 1 if a budget is exceeded."""
    options = _options()
    quiet_one_thread()
    results = []
    console = wide_console()
    for zoo_name, names in MODELS.items():
        for name in names:
            if options.only in name:
                with console.status(name):
                    results.append(_measure(zoo_name, name))
    console.print(_table(results))
    if not options.only:
        write_json("budgets.json", {"torch": torch.__version__, "models": results})
    return 1 if any(max(r["spent"][kind]) > 1 for r in results for kind in KINDS) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="only the models whose name contains this")
    return parser.parse_args()


def _measure(zoo_name: str, name: str) -> dict[str, Any]:
    torch.manual_seed(0)
    model, inputs = zoo(zoo_name)[name]()
    model.eval()
    inputs = example_inputs_for(model) if inputs is None else inputs
    traced, graph = _timed(lambda: graphprune.trace(model, inputs))
    dense, spent, seconds = graph.cost(), dict[str, list[float]](), []
    searches: list[float] = []

    def timed_search(*args: Any) -> Any:
        took, found = _timed(lambda: budget_search(*args))
        searches.append(took)
        return found

    for kind in KINDS:
        spent[kind] = []
        for share in SHARES:
            with mock.patch.object(allocate, "search", timed_search):
                took, plan = _timed(lambda kind=kind, share=share: graph.plan(**{kind: share}))
            spent[kind].append(getattr(graph.cost(plan), kind) / getattr(dense, kind) / share)
            seconds.append(took)
    search = statistics.median(searches)
    again = graphprune.trace(plan.apply(model), inputs).cost()
    return {
        "zoo": zoo_name,
        "model": name,
        "spent": spent,
        "trace": traced,
        "plan": statistics.median(seconds),
        "search": search,
        "counted": again == graph.cost(plan),
    }


def _timed(run: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    made = run()
    return time.perf_counter() - start, made


def _table(results: list[dict[str, Any]]) -> Table:
    made = table(
        f"Part of the budget that is spent, at {', '.join(map(str, SHARES))}",
        "model",
        *KINDS,
        "trace, ms",
        "search, ms",
        "plan, ms",
        "counted right",
    )
    for result in results:
        cells = [f"{min(result['spent'][kind]):.4f}-{max(result['spent'][kind]):.4f}" for kind in KINDS]
        times = [f"{result[key] * 1e3:.0f}" for key in ("trace", "search", "plan")]
        row(made, f"{result['zoo']} {result['model']}", *cells, *times, "yes" if result["counted"] else "NO")
    values = [v for r in results for kind in KINDS for v in r["spent"][kind]]
    within = sum(0.99 <= v <= 1 for v in values)
    made.caption = f"{within} of {len(values)} budgets within 1 % below, {sum(v > 1 for v in values)} exceeded"
    return made


if __name__ == "__main__":
    sys.exit(main())
