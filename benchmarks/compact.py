"""Channels of models of the zoos are zeroed at random, and ``graphprune.compact`` removes them with equal outputs.

Every model is zeroed layer by layer (``torch.nn.utils.prune``, batch norms, masks, tiny numbers) and by whole units of
its groups; see ``benchmarks/zeroing.py``. *Zero* are the units of which nothing is left on one side, counted here from
the graph's groups; *removed* are those of them that went, and *beyond* others that went as well, because nothing reads
them or all that they do is a constant. *Not whole* are zeroed rows and columns of weights that belong to units of
which other weights are not zero, or to no unit. The difference is that of whole outputs in float64, relative, on two
inputs that ``compact`` did not see.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import graphprune
from benchmarks.common import RESULTS, enliven, quiet_one_thread, row, table, wide_console, write_json
from benchmarks.zeroing import (
    THRESHOLD,
    Zeroed,
    masked_copy_of,
    zero_channels_at_random,
    zero_units,
    zero_units_at_random,
)
from benchmarks.zoos import zoo
from graphprune.pruning.comparison import difference
from graphprune.pruning.plan import plans_of
from graphprune.pruning.wide_run import run_slim
from graphprune.rules.labels import ParameterAxis
from graphprune.tracing.example_inputs.guess import example_inputs_for
from graphprune.tracing.inputs import MethodCall, calls_of

TOLERANCE = 1e-10
NAMES = {
    "torchvision": "squeezenet1_1 resnet18 mobilenet_v2 shufflenet_v2_x0_5 mnasnet0_5",
    "timm": "test_resnet test_vit test_byobnet test_efficientnet_gn mobilenetv3_small_050 lcnet_035 convnext_atto "
    "ghostnet_050",
    "transformers": "bert gpt2 llama_gqa opt t5 phi3 vit resnet mobilenet_v2 wav2vec2 mamba",
    "layers": "conv1d conv1d_grouped conv_transpose2d conv_transpose2d_grouped circular_conv reflect_conv conv3d lstm "
    "lstm_bidirectional gru gru_stacked weight_norm spectral_norm group_norm layer_norm rms_norm attention embedding "
    "tied_embedding twice bilinear instance_norm_affine glu prelu_channels max_pool_ceil",
    "networks": "unet dense_block c2f squeeze_excite vae film mlp_mixer wavenet shared_weights flatten_reshape "
    "parametrized siamese",
}
SUMMED = ("zeroed", "zero", "removed", "beyond", "not_whole")


def main(arguments: list[str] | None = None) -> int:
    """Print the table, write ``results/compact.json``; 1 if an output differs."""
    options = _options(arguments)
    quiet_one_thread()
    console = wide_console()
    results = []
    for zoo_name, name in _chosen(options.only):
        with console.status(f"{zoo_name} {name}"):
            results.append(_attempt(zoo_name, name, options.seed))
    console.print(_table(results))
    everything = results if options.seed else _with_earlier(results)
    console.print(summary(everything))
    if not options.seed:
        settings = {"torch": torch.__version__, "tolerance": TOLERANCE}
        write_json("compact.json", settings | {"summary": summary(everything), "models": everything})
    return 0 if all(result["difference"] <= TOLERANCE for result in results) else 1


def _with_earlier(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The new results, and those of other models that were written before, in the order of the table."""
    path = RESULTS / "compact.json"
    earlier = json.loads(path.read_text())["models"] if path.exists() else []
    known = {(r["zoo"], r["model"]): r for r in [*earlier, *results]}
    return [known[job] for job in _chosen([]) if job in known]


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", help="names of models, or of zoos; all if left out")
    parser.add_argument("--seed", type=int, default=0, help="of what becomes zero (default: 0)")
    return parser.parse_args(arguments)


def _chosen(only: list[str]) -> Iterable[tuple[str, str]]:
    for zoo_name, names in NAMES.items():
        for name in names.split():
            if not only or name in only or zoo_name in only:
                yield zoo_name, name


def _attempt(zoo_name: str, name: str, seed: int) -> dict[str, Any]:
    """:func:`measure`, or why it failed."""
    try:
        return measure(zoo_name, name, seed)
    except Exception as error:
        traceback.print_exc()
        none = dict.fromkeys(SUMMED, 0)
        failed = {"difference": math.inf, "kept": {f"{type(error).__name__}: {error}": 0}, "seconds": 0.0}
        return {"zoo": zoo_name, "model": name, "ways": {}, **none, "parameters": [0, 0], **failed}


def measure(zoo_name: str, name: str, seed: int = 0) -> dict[str, Any]:
    """Zero channels of one model, compact it, and compare; as JSON data."""
    torch.manual_seed(seed)
    model, inputs, *_ = zoo(zoo_name)[name]()
    enliven(model.eval())
    inputs = example_inputs_for(model) if inputs is None else inputs
    model.double()
    calls = [call.mapped(_wide) for call in calls_of(inputs)]
    graph = graphprune.trace(model, calls)
    with torch.no_grad():  # or no pruned model could be copied
        made = zero_channels_at_random(model, seed)
        zero_units_at_random(made, graph, seed)
        masked = masked_copy_of(model, made)
    allowed = zero_units(graph, masked)
    start = time.perf_counter()
    found = graphprune.zero_channels(model, calls, masks=made.masks, threshold=THRESHOLD)
    seconds = time.perf_counter() - start
    return {
        "zoo": zoo_name,
        "model": name,
        "ways": made.ways,
        **_counted(graph, found.slim, made, allowed),
        "parameters": list(found.params),
        "difference": _apart(masked, found.slim, calls, seed),
        "kept": _kept(found),
        "seconds": round(seconds, 2),
    }


def _kept(found: graphprune.ZeroChannels) -> dict[str, int]:
    """How many zero channels stay, by the kind of reason."""
    kept: Counter[str] = Counter()
    for group in found.groups:
        for why, count in group.kept:
            kept[next((kind for kind, text in KINDS.items() if text in why), why)] += count
    return dict(kept)


KINDS = {
    "carries the constants of others": "it carries",
    "counted in the statistics of a norm": "statistics",
    "heads or groups have to lose equally many": "equally many",
    "heads go whole or become narrower": "whole or become narrower",
    "one has to stay": "has to stay",
    "its constant is none at padded borders": "pads with zeros",
    "no bias takes its constant": "no bias",
    "read by a weight that is computed": "no plain weight",
    "not constant": "no constant",
    "a size in the code": "a size",
    "a size that counts as a number": "used as a number",
}
"""Kinds of reasons why a zero channel stays, and the words that tell them."""


def _wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


# ---------------------------------------------------------------- what went


def _counted(
    graph: graphprune.ChannelGraph, slim: nn.Module, made: Zeroed, allowed: np.ndarray[Any, Any]
) -> dict[str, int]:
    """How many units were zero, how many of them went, how many others did, and which zeros are no whole units."""
    kept = survivors(graph, slim)
    where = graph.units.occurrences
    axes = [axis.parameter_axis for axis in graph.units.axes]
    stays = np.array([kept[axes[a]][i] for a, i in zip(where.axis.tolist(), where.index.tolist(), strict=True)], bool)
    gone = np.setdiff1d(where.unit[~stays], where.unit[stays])
    whole = set(allowed.tolist())
    prunable = {(axes[a], i) for a, i, u in _triples(where) if u in whole}
    slices = [(p, d, i) for (p, d), found in made.slices.items() for i in found]
    return {
        "zeroed": len(slices),
        "zero": len(allowed),
        "removed": len(np.intersect1d(allowed, gone)),
        "beyond": len(np.setdiff1d(gone, allowed)),
        "not_whole": sum((ParameterAxis(p, d), i) not in prunable for p, d, i in slices),
    }


def _triples(where: Any) -> list[tuple[int, int, int]]:
    return list(zip(where.axis.tolist(), where.index.tolist(), where.unit.tolist(), strict=True))


def survivors(graph: graphprune.ChannelGraph, slim: nn.Module) -> dict[ParameterAxis, np.ndarray[Any, Any]]:
    """For every axis of the model, which entries are left after all plans that the slim model has gone through."""
    found = {}
    for axis in graph.units.axes:
        left = np.arange(axis.size)
        for plan in plans_of(slim):
            index = plan.kept.get(axis.parameter_axis.parameter, {}).get(axis.parameter_axis.dim)
            left = left if index is None else left[np.asarray(index)]
        found[axis.parameter_axis] = np.isin(np.arange(axis.size), left)
    return found


def _apart(masked: nn.Module, slim: nn.Module, calls: list[MethodCall], seed: int) -> float:
    """The relative difference of whole outputs for two other inputs of the same shapes, and for them as one batch."""
    generator = torch.Generator().manual_seed(1000 + seed)
    others = [call.mapped(lambda t: _other(t, generator)) for call in calls for _ in range(2)]
    doubled = [call.mapped(lambda t: torch.cat([t, _other(t, generator)]) if t.ndim > 1 else t) for call in calls]
    try:
        expected = run_slim(masked, others + doubled)
        others = others + doubled
    except (RuntimeError, ValueError, AssertionError, IndexError):  # the batch is not the first dimension
        expected = run_slim(masked, others)
    return difference(expected, run_slim(slim, others)).relative


def _other(tensor: Tensor, generator: torch.Generator) -> Tensor:
    if tensor.is_floating_point():
        return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
    if tensor.dtype == torch.bool or not tensor.numel():
        return tensor
    return tensor.flatten()[torch.randint(tensor.numel(), (tensor.numel(),), generator=generator)].view_as(tensor)


# ---------------------------------------------------------------- the table


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The sums, and the share of zero units that went."""
    sums = {key: sum(r[key] for r in results) for key in SUMMED}
    kept: Counter[str] = Counter()
    for result in results:
        kept.update(result["kept"])
    return {
        "models": len(results),
        "exact": sum(result["difference"] <= TOLERANCE for result in results),
        "share": sums["removed"] / max(sums["zero"], 1),
        **sums,
        "kept": dict(kept.most_common()),
    }


def _table(results: list[dict[str, Any]]) -> Any:
    columns = ("zeroed", "not whole", "zero", "removed", "share", "beyond", "parameters", "difference", "s")
    made = table("compact: zero channels go", "zoo", "model", *columns, left=2)
    for r in results:
        share = f"{r['removed'] / r['zero']:.0%}" if r["zero"] else ""
        counts = (r["zeroed"], r["not_whole"], r["zero"], r["removed"], share, r["beyond"])
        before, after = r["parameters"]
        numbers = (f"{before / 1e3:,.0f} k → {after / 1e3:,.0f} k", f"{r['difference']:.1e}", r["seconds"])
        row(made, r["zoo"], r["model"], *counts, *numbers, style="red" if r["difference"] > TOLERANCE else "")
    return made


if __name__ == "__main__":
    sys.exit(main())
