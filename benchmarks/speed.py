"""Time from a model to its slim model: ``prune_model`` against Torch-Pruning's init + step.

Both run in one process on one thread, A B A B, each time on a fresh copy made outside the clock, because
Torch-Pruning changes the model that it is given. Torch-Pruning is told what it has to be told: the classifier
to leave alone, the number of heads, the layer types, where the output is; graphprune is told nothing.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from rich.table import Table
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import graphprune
from benchmarks.common import (
    call,
    cpu_milliseconds,
    image,
    llama,
    quiet_one_thread,
    row,
    table,
    token_ids,
    wide_console,
    write_json,
)
from graphprune.planning.translation import Translation

RATIO = 0.5
LLAMA_LAYERS = (4, 8, 16, 32)
_HEADS = {"prune_num_heads": True, "head_pruning_ratio": RATIO, "prune_head_dims": False}
"""Whole heads, as graphprune removes them."""


@dataclass(frozen=True)
class Case:
    """A network, its inputs, and the keyword arguments that Torch-Pruning needs for it."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    hints: Callable[[nn.Module], dict[str, Any]]


@dataclass
class Result:
    """Times in milliseconds (``check``: what of ours goes into running the slim model's program), parameters left
    (millions), and what went wrong."""

    name: str
    operations: int
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    check: float = 0.0
    our_parameters: float = 0.0
    their_parameters: float = 0.0
    our_error: str = ""
    their_error: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times as long Torch-Pruning took."""
        if not self.ours or not self.theirs or self.our_error or self.their_error:
            return None
        return statistics.median(self.theirs) / statistics.median(self.ours)


def main() -> int:
    """Measure every case, print the tables, write ``results/speed.json``; 1 if graphprune failed on one."""
    options = _options()
    quiet_one_thread()
    cases = [case for case in _cases() if options.only in case.name]
    console = wide_console()
    _warm_up()
    results = []
    for case in cases:
        with console.status(case.name):
            results.append(_measure(case, options.repeats, options.budget))
    console.print(_ratio_table(results))
    console.print(_linearity_table(results))
    if not options.only:
        write_json("speed.json", _summary(results))
    return 1 if any(result.our_error for result in results) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="runs of each library (default: 7)")
    parser.add_argument("--budget", type=float, default=180, help="seconds after which a model is not repeated")
    parser.add_argument("--quick", action="store_true", help="two runs of each")
    parser.add_argument("--only", default="", metavar="TEXT", help="only the models whose name contains this")
    options = parser.parse_args()
    if options.quick:
        options.repeats = 2
    return options


# ---------------------------------------------------------------- the cases


def _cases() -> list[Case]:
    names = {
        "MobileNetV2": "mobilenet_v2",
        "ResNet-50": "resnet50",
        "DenseNet-121": "densenet121",
        "DenseNet-201": "densenet201",
        "EfficientNet-B0": "efficientnet_b0",
        "ConvNeXt-T": "convnext_tiny",
    }
    cases = [Case(name, partial(_torchvision, model), image, _classifier_hints) for name, model in names.items()]
    cases.append(Case("ViT-B/16", partial(_torchvision, "vit_b_16"), image, _vit_hints))
    return cases + [Case(f"Llama, {n} layers", partial(llama, n), token_ids, _llama_hints) for n in LLAMA_LAYERS]


def _torchvision(name: str) -> nn.Module:
    from torchvision import models

    return models.get_model(name, weights=None).eval()


def _classifier_hints(model: nn.Module) -> dict[str, Any]:
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    return {"ignored_layers": [last]}


def _vit_hints(model: Any) -> dict[str, Any]:
    heads = {block.self_attention: block.num_heads for block in model.encoder.layers}
    return _classifier_hints(model) | {
        "num_heads": heads,
        "prune_num_heads": True,
        "head_pruning_ratio": RATIO,
    }


def _llama_hints(model: Any) -> dict[str, Any]:
    model.config.use_cache = False
    config = model.config
    heads: dict[nn.Module, int] = {}
    for layer in model.model.layers:
        attention = layer.self_attn
        heads[attention.q_proj] = config.num_attention_heads
        heads |= dict.fromkeys((attention.k_proj, attention.v_proj), config.num_key_value_heads)
    return {
        "ignored_layers": [model.lm_head],
        "num_heads": heads,
        **_HEADS,
        "root_module_types": [nn.Linear],
        "output_transform": lambda output: output.logits,
    }


# ---------------------------------------------------------------- measuring


def _measure(case: Case, repeats: int, budget: float) -> Result:
    torch.manual_seed(0)
    model, inputs = case.build(), case.inputs()
    result = Result(case.name, _operations(model, inputs))
    started = time.perf_counter()
    for _ in range(repeats):
        _run_ours(result, copy.deepcopy(model), inputs)
        _run_theirs(result, copy.deepcopy(model), inputs, case.hints)
        if time.perf_counter() - started > budget:
            break
    result.check = _check_time(model, inputs, repeats)
    return result


def _check_time(model: nn.Module, inputs: Any, repeats: int) -> float:
    """Milliseconds to check a plan against the program."""
    graph = graphprune.trace(model, inputs)
    plan = graph.plan(RATIO)
    alive = graph.alive(plan.removed)
    times = [cpu_milliseconds(lambda: Translation(graph, plan.skipped).difference(plan, alive)) for _ in range(repeats)]
    return statistics.median(times)


def _run_ours(result: Result, model: nn.Module, inputs: Any) -> None:
    made: list[nn.Module] = []
    try:
        result.ours.append(cpu_milliseconds(lambda: made.append(_ours(model, inputs))))
        result.our_parameters = _runs_with(made[0], inputs)
    except Exception as error:
        result.our_error = _short(error)


def _ours(model: nn.Module, inputs: Any) -> nn.Module:
    return graphprune.prune_model(model, RATIO, example_inputs=inputs)


def _run_theirs(result: Result, model: nn.Module, inputs: Any, hints: Callable[[nn.Module], Any]) -> None:
    known = hints(model)
    try:
        result.theirs.append(cpu_milliseconds(lambda: _theirs(model, inputs, known)))
        result.their_parameters = _runs_with(model, inputs)
    except Exception as error:
        result.their_error = _short(error)


def _theirs(model: nn.Module, inputs: Any, hints: dict[str, Any]) -> None:
    import torch_pruning as tp

    importance = tp.importance.GroupMagnitudeImportance(p=2)
    pruner = tp.pruner.BasePruner(model, inputs, importance=importance, pruning_ratio=RATIO, **hints)
    pruner.step()


def _runs_with(model: nn.Module, inputs: Any) -> float:
    """Parameters in millions of a model that proves able to run."""
    with torch.no_grad():
        call(model, inputs)
    return sum(p.numel() for p in model.parameters()) / 1e6


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"


def _warm_up() -> None:
    """Imports, caches and code paths that are only built once."""
    model = _torchvision("resnet18")
    _ours(model, image())
    _theirs(copy.deepcopy(model), image(), _classifier_hints(model))


class _Counter(TorchDispatchMode):
    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def _operations(model: nn.Module, inputs: Any) -> int:
    """ATen operations of one forward pass (fewer where a fused kernel stands for several)."""
    with torch.no_grad(), _Counter() as counter:
        call(model, inputs)
    return counter.calls


# ---------------------------------------------------------------- reporting


def _ratio_table(results: list[Result]) -> Table:
    made = table(
        "Trace to slim model, milliseconds (medians)",
        "model",
        "graphprune",
        "of that the check",
        "Torch-Pruning",
        "times faster",
        "M parameters left",
        "M left by TP",
    )
    for result in results:
        ratio = "" if result.ratio is None else f"{result.ratio:.1f}"
        ours = result.our_error or f"{statistics.median(result.ours):.0f}"
        theirs = result.their_error or f"{statistics.median(result.theirs):.0f}"
        left = (f"{result.our_parameters:.2f}", f"{result.their_parameters:.2f}")
        row(made, result.name, ours, f"{result.check:.0f}", theirs, ratio, *left)
    made.caption = f"geometric mean: {_geometric_mean(results):.1f} times faster"
    return made


def _geometric_mean(results: list[Result]) -> float:
    ratios = [result.ratio for result in results if result.ratio is not None]
    return statistics.geometric_mean(ratios) if ratios else float("nan")


def _linearity_table(results: list[Result]) -> Table:
    made = table("Time per operation", "model", "operations", "graphprune, µs", "Torch-Pruning, µs")
    for result in results:
        if result.name.startswith("Llama"):
            ours = _per_operation(result.ours, result.operations)
            row(made, result.name, result.operations, ours, _per_operation(result.theirs, result.operations))
    return made


def _per_operation(times: list[float], operations: int) -> str:
    return f"{statistics.median(times) * 1e3 / operations:.0f}" if times else ""


def _summary(results: list[Result]) -> dict[str, Any]:
    return {
        "torch": torch.__version__,
        "ratio": RATIO,
        "geometric_mean": _geometric_mean(results),
        "models": [asdict(result) | {"times_faster": result.ratio} for result in results],
    }


if __name__ == "__main__":
    sys.exit(main())
