"""``python -m benchmarks.contexts``: prune small networks in every context, and see that it makes no difference.

Each network is traced, planned, made smaller, verified, saved, loaded and repaired in each context: modes, default
types and devices, threads, profilers, hooks, compiled parts, parameters of every kind. Right is:

- *same*: the plans of the same network without the context, the same weights (those that were repaired up to
  rounding), and afterwards everything of the user's as it was: the model bit for bit, its hooks, flags and gradients,
  random numbers, modes, types and settings of torch, numpy and Python;
- *refused*: an error of graphprune that says what to do, and everything as it was.

    python -m benchmarks.contexts                            # all, and the tables
    python -m benchmarks.contexts --only 'autocast*' --networks gpt
"""

from __future__ import annotations

import argparse
import fnmatch
import gc
import os
import random
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn

from benchmarks.common import RESULTS, quiet_one_thread, read_json, row, table, wide_console, write_json
from benchmarks.context_kinds import AROUND, MADE_OF, Context
from benchmarks.context_networks import NETWORKS, STEPS, Done, Network
from graphprune.errors import GraphpruneError
from tests.random_networks.checker import Wrong, fail, globals_unchanged, of_torch, snapshot, unchanged

STATES = ("same", "refused", "wrong")


def settings() -> dict[str, Any]:
    """What is global in torch, numpy and Python and could be left changed."""
    hooks = nn.modules.module
    return {
        "default device": torch.get_default_device(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "anomalies": torch.is_anomaly_enabled(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "cudnn": torch.backends.cudnn.enabled,
        "attention": (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()),
        "threads of torch": torch.get_num_threads(),
        "hooks": [
            len(held) for name, held in vars(hooks).items() if name.startswith("_global_") and hasattr(held, "keys")
        ],
        "warnings": list(warnings.filters),
        "collector": (gc.isenabled(), gc.get_threshold()),
        "numpy": np.geterr(),
        "tracing": (sys.gettrace(), sys.getprofile()),
        "numpy's random numbers": [np.asarray(part).tolist() for part in np.random.get_state()],
        "Python's random numbers": random.getstate(),
        "limit": sys.getrecursionlimit(),
        "folder": os.getcwd(),
    }


def settings_unchanged(before: dict[str, Any]) -> None:
    after = settings()
    changed = [f"{name}: {before[name]} became {after[name]}"[:200] for name in before if before[name] != after[name]]
    if changed:
        fail("changed", "; ".join(changed))


def watched(step: str, alone: bool, model: nn.Module, x: Tensor, folder: Path) -> Done | GraphpruneError:
    """Do something with a model, and see that torch, numpy and Python are left as they were, if nobody else runs."""
    world, around = of_torch(), settings()
    found: Done | GraphpruneError
    try:
        found = STEPS[step](model, x, folder)
    except GraphpruneError as error:
        found = error.with_traceback(None)
        if not error.do:
            fail("no advice", str(error))
    if alone:
        settings_unchanged(around)
        globals_unchanged(world)
    return found


def state_of(model: nn.Module) -> Any:
    """What a model holds, its gradients, and the flags of its parameters."""
    tensors = [*model.parameters(), *model.buffers()]
    flags = [(id(t), t.requires_grad, id(t.grad), type(t), len(t._backward_hooks or ())) for t in tensors]
    return ([] if any(map(unusual, tensors)) or isinstance(model, torch.jit.ScriptModule) else snapshot(model)), flags


def unusual(tensor: Tensor) -> bool:
    return (
        tensor.layout is not torch.strided or tensor.is_nested or tensor.is_meta or "torchao" in type(tensor).__module__
    )


def unchanged_state(before: Any, model: nn.Module) -> None:
    if before[0]:
        unchanged(before[0], model)
    if before[1] != state_of(model)[1]:
        fail("changed the model", "the flags, gradients or hooks of parameters")


@cache
def expected(network: Network, like: Callable[[nn.Module], nn.Module], step: str) -> Done:
    """What comes of a network of the same numbers without the context."""
    model, x = like(network.model()), network.inputs()
    first = next(p for p in model.parameters() if p.is_floating_point())
    with tempfile.TemporaryDirectory() as folder:
        return STEPS[step](model, x.to(first.dtype) if x.is_floating_point() else x, Path(folder))


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of tensors of the same names, relative to the largest entry; infinite for other shapes."""
    if one.keys() != other.keys() or any(one[name].shape != other[name].shape for name in one):
        return float("inf")
    return max(float(apart(tensor, other[name])) for name, tensor in one.items())


def apart(one: Tensor, other: Tensor) -> Tensor:
    if not one.numel():
        return torch.zeros(())
    kind = torch.complex128 if other.is_complex() else torch.float64
    one, other = one.detach().to(kind), other.detach().to(kind)
    return (one - other).abs().max() / other.abs().max().clamp(min=1e-3)


def compare(step: str, found: Done, right: Done, context: Context) -> None:
    """Raise Wrong unless what was found is what comes without the context."""
    if not found.passed:
        fail("does not pass", "verify, or what was loaded is not what was saved")
    exact = step in EXACT
    if context.freezes and found.plan is not None:
        if any(right.plan[name].get(dim) != index for name, dims in found.plan.items() for dim, index in dims.items()):
            fail("another plan")
    elif context.freezes or (not exact and context.rounding is None):
        if not all(bool(tensor.isfinite().all()) for tensor in found.tensors.values()):
            fail("not finite")
    elif found.plan != right.plan:
        fail("another plan")
    elif not difference(found.tensors, right.tensors) <= (ROUNDED if exact else context.rounding):
        fail("other weights", f"by {difference(found.tensors, right.tensors):.1e}")


EXACT = ("prune and verify", "save and load")
"""Steps after which weights are entries of the original."""
ROUNDED = 1e-7


def examine(network: Network, context: Context, step: str) -> tuple[str, str]:
    """What becomes of a network in a context, and what there is to say."""
    model, x = context.model(network.model()), context.inputs(network.inputs())
    right, results = expected(network, context.like, step), []
    before, around, world, threads = state_of(model), settings(), of_torch(), threading.active_count()
    try:
        with tempfile.TemporaryDirectory() as folder:
            context.run(lambda: results.append(watched(step, context.alone, model, x, Path(folder))), model, x)
        settings_unchanged(around)
        globals_unchanged(world)
        unchanged_state(before, model)
        if threading.active_count() > threads:
            fail("left threads", str(threading.enumerate()))
        if isinstance(results[0], GraphpruneError):
            return "refused", str(results[0])
        compare(step, results[0], right, context)
    except Wrong as error:
        return "wrong", ": ".join(error.args)
    except Exception as error:  # counted and printed: this is what the script looks for
        return "wrong", f"{type(error).__name__}: {error}"[:1000]
    return "same", ""


def main(argv: Sequence[str] | None = None) -> int:
    """Print and write what became of every network in every context; 1 if one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["*"], help="names of contexts, such as 'autocast*'")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    options = parser.parse_args(argv)
    quiet_one_thread()
    wanted = {n: c for n, c in (AROUND | MADE_OF).items() if any(fnmatch.fnmatch(n, p) for p in options.only)}
    console, results = wide_console(), []
    for name, context in track(wanted.items(), "contexts", transient=True):
        networks = {n: NETWORKS[n] for n in options.networks} if context.network is None else {"own": context.network}
        found = {(n, step): examine(one, context, step) for n, one in networks.items() for step in STEPS}
        results.append(as_data(name, found))
        for (network, step), (state, text) in found.items():
            if state == "wrong":
                console.print(f"{name}, {network}, {step}: {text}", markup=False)
        if options.networks == list(NETWORKS):
            note(results[-1])
    made = table("Contexts", "context", *STATES)
    for one in results:
        row(made, one["context"], *(one[state] for state in STATES))
    console.print(made)
    return int(any(one["wrong"] for one in results))


def note(result: dict[str, Any]) -> None:
    """Write one context's results beside those of the others, so that a run can be broken off."""
    known = read_json("contexts.json")["contexts"] if (RESULTS / "contexts.json").exists() else []
    by_name = {one["context"]: one for one in [*known, result]}
    ordered = [by_name[name] for name in (*AROUND, *MADE_OF) if name in by_name]
    write_json("contexts.json", {"networks": list(NETWORKS), "steps": list(STEPS), "contexts": ordered})


def as_data(name: str, found: dict[tuple[str, str], tuple[str, str]]) -> dict[str, Any]:
    """What became of a context: how many runs are in which state, and by step the first message of a refusal."""
    states = {state: sum(one == state for one, _ in found.values()) for state in STATES}
    refused: dict[str, str] = {}
    for (_, step), (state, text) in found.items():
        if state == "refused":
            refused.setdefault(step, text.partition("\n")[0])
    return {"context": name, **states, "refusals": refused}


if __name__ == "__main__":
    sys.exit(main())
