"""What repair costs, in forward passes of the dense model over the calibration batches.

*Linear algebra* is the sums of products of inputs and residuals, with the unfolding of windows, and the solution of the
normal equations; *passes* is everything else: both models are run, recorded and fitted in turn. *Counted* passes are
the operations of products and convolutions in the passes, as a multiple of the dense model's, which do not depend on
what else the machine does. Times are those of the processor, the least of several runs. *Memory* is what the peak of
the resident set grows by during a repair with a bound. Weights are random: they do not change the cost.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry

import graphprune
from benchmarks.common import (
    call,
    keep_memory,
    llama,
    quiet_one_thread,
    read_json,
    reset_peak,
    resident,
    row,
    table,
    wide_console,
    write_json,
)
from graphprune.reconstruction.call_recorder import CallRecorder
from graphprune.reconstruction.call_watch import CallWatch
from graphprune.reconstruction.linear_calls import LinearCall
from graphprune.reconstruction.lockstep import Gathered
from graphprune.reconstruction.memory_bound import parse_memory
from graphprune.reconstruction.regression import Regression

LIMIT = 5.0
"""Passes beside the linear algebra."""
DEPTHS = (2, 4, 8, 16, 32, 64)
BATCHES = 4


@dataclass(frozen=True)
class Network:
    """A network and one batch of its inputs."""

    build: Callable[[], nn.Module]
    batch: Callable[[], Any]


@dataclass(frozen=True)
class Costs:
    """What repair of one network takes.

    Attributes:
        forward: processor seconds of a dense forward pass over all batches.
        passes, linear_algebra: multiples of it.
        counted: passes by their operations.
        fitted: the number of consumers.
        memory: bytes that the peak of the resident set grows by.
    """

    forward: float
    passes: float
    linear_algebra: float
    counted: float
    fitted: int
    memory: int


class PitchNetwork(nn.Module):
    """Six convolutions with long kernels over 1,024 samples of sound, as in CREPE (Kim and others, ICASSP 2018)."""

    def __init__(self) -> None:
        super().__init__()
        outputs = [128, 16, 16, 16, 32, 64]
        kernels = [512, 64, 64, 64, 64, 64]
        convolutions, norms = [], []
        for number, (inputs, channels, kernel) in enumerate(zip([1, *outputs], outputs, kernels, strict=False)):
            stride, padding = (4, 254) if number == 0 else (1, 0)
            convolutions.append(nn.Conv2d(inputs, channels, (kernel, 1), (stride, 1), (padding, 0)))
            norms.append(nn.BatchNorm2d(channels))
        self.convolutions, self.norms = nn.ModuleList(convolutions), nn.ModuleList(norms)
        self.classifier = nn.Linear(64 * 4, 360)

    def forward(self, x: Tensor) -> Tensor:
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            if number:
                x = nn.functional.pad(x, (0, 0, 31, 32))
            x = nn.functional.max_pool2d(norm(convolution(x).relu()), (2, 1), (2, 1))
        return self.classifier(x.permute(0, 2, 1, 3).flatten(1))


def main() -> int:
    """Measure all networks, print the table, write ``results/repair_cost.json``; 1 if a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", help=f"of {', '.join(NETWORKS)}; all if none is given; the others keep their figures"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", default="4GB", help="the bound on memory")
    options = parser.parse_args()
    quiet_one_thread()
    keep_memory()
    found = {}
    for name in options.names or NETWORKS:
        found[name] = measured(NETWORKS[name], options.repeats, options.memory)
        print(f"{name}: {found[name]}", flush=True)
    console = wide_console()
    console.print(shown(found))
    before = read_json("repair_cost.json")["networks"] if options.names else {}
    costs = before | {name: asdict(one) for name, one in found.items()}
    slope = growth([(depth, costs[f"llama-{depth}"]) for depth in DEPTHS if f"llama-{depth}" in costs])
    if slope is not None:
        console.print(f"Seconds grow with depth to the power of {slope:.2f} (llama).")
    write_json("repair_cost.json", {"growth": slope, "limit": LIMIT, "memory": options.memory, "networks": costs})
    most = parse_memory(options.memory) or 0
    return 0 if all(max(one.passes, one.counted) <= LIMIT and one.memory <= most for one in found.values()) else 1


def measured(network: Network, repeats: int, memory: str) -> Costs:
    """The costs of repairing half of a network."""
    torch.manual_seed(0)
    model = network.build().eval()
    batches = [network.batch() for _ in range(BATCHES)]
    plan = graphprune.trace(model, batches[0]).plan(macs=0.5)
    peak = peak_of(lambda: graphprune.repair(plan.apply(model), model, plan, batches, memory=memory))
    with FlopCounterMode(display=False) as counter:
        run(model, batches)
    with counted_operations() as operations:
        fitted = len(graphprune.repair(plan.apply(model), model, plan, batches).repaired)
    forwards, passes, algebra = [], [], []
    for _ in range(repeats):
        start = time.process_time()
        run(model, batches)
        forwards.append(time.process_time() - start)
        slim = plan.apply(model)
        with timed_algebra() as spent:
            start = time.process_time()
            graphprune.repair(slim, model, plan, batches)
            passes.append(time.process_time() - start - sum(spent))
        algebra.append(sum(spent))
    forward, counted = min(forwards), sum(operations) / counter.get_total_flops()
    return Costs(forward, min(passes) / forward, min(algebra) / forward, counted, fitted, peak)


def peak_of(function: Callable[[], Any]) -> int:
    """Bytes that the peak of the resident set grows by during a call."""
    reset_peak()
    before = resident("VmRSS")
    function()
    return resident("VmHWM") - before


@torch.no_grad()
def run(model: nn.Module, batches: Sequence[Any]) -> None:
    """One forward pass over all batches."""
    for batch in batches:
        call(model, batch)


@contextmanager
def timed_algebra() -> Iterator[list[float]]:
    """A list to which the seconds of linear algebra are added."""
    spent: list[float] = []
    with ExitStack() as stack:
        for owner, name in ((Gathered, "add"), (Regression, "solve"), (Regression, "intercept"), (Regression, "error")):
            stack.enter_context(mock.patch.object(owner, name, timed(getattr(owner, name), spent)))
        yield spent


@contextmanager
def counted_operations() -> Iterator[list[int]]:
    """A list to which the operations of the models' passes are added: what recorders and watches see, and new calls."""
    made: list[int] = []
    with ExitStack() as stack:
        for owner in (CallRecorder, CallWatch):
            seen = counted(owner.__torch_dispatch__, made)
            stack.enter_context(mock.patch.object(owner, "__torch_dispatch__", seen))

        def again(one: LinearCall, call_again: Callable[[LinearCall], Tensor] = LinearCall.again) -> Tensor:
            out = call_again(one)
            made.append(operations_of(one.op, one.args, one.kwargs, out))
            return out

        stack.enter_context(mock.patch.object(LinearCall, "again", again))
        yield made


def counted(dispatch: Callable[..., Any], made: list[int]) -> Callable[..., Any]:
    """A mode's method, which notes the operations of the calls that it sees."""

    def dispatch_counted(mode: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = dispatch(mode, func, types, args, kwargs)
        made.append(operations_of(func, args, kwargs or {}, out))
        return out

    return dispatch_counted


def operations_of(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Operations of a product or a convolution, by torch's formulas; 0 for other calls."""
    formula = flop_registry.get(func.overloadpacket)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=out))


def timed(function: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    """The function, which notes the processor seconds it takes, without those of calls inside it."""

    def call_timed(*args: Any, **kwargs: Any) -> Any:
        start, before = time.process_time(), sum(spent)
        try:
            return function(*args, **kwargs)
        finally:
            spent.append(time.process_time() - start - (sum(spent) - before))

    return call_timed


def growth(costs: Sequence[tuple[int, dict[str, Any]]]) -> float | None:
    """The power of depth that the seconds of passes grow with, by least squares of logarithms."""
    if len(costs) < 2:
        return None
    x, y = zip(*((math.log(depth), math.log(c["passes"] * c["forward"])) for depth, c in costs), strict=True)
    return statistics.linear_regression(x, y).slope


def shown(found: dict[str, Costs]) -> Any:
    """The table of results."""
    made = table(
        f"Repair, in forward passes over {BATCHES} batches",
        "network",
        "fitted",
        "forward, s",
        "passes",
        "counted",
        "linear algebra",
        "in all",
        "memory, MB",
    )
    for name, one in found.items():
        total = one.passes + one.linear_algebra
        multiples = (one.passes, one.counted, one.linear_algebra, total)
        cells = (one.fitted, f"{one.forward:.2f}", *(f"{cell:.1f}" for cell in multiples), f"{one.memory / 1e6:.0f}")
        row(made, name, *cells, style="" if max(one.passes, one.counted) <= LIMIT else "red")
    return made


# ---------------------------------------------------------------- networks


def _tokens(rows: int = 4, length: int = 128) -> dict[str, Any]:
    return {"input_ids": torch.randint(1000, (rows, length)), "use_cache": False}


def _images(size: int, rows: int = 8) -> Tensor:
    return torch.randn(rows, 3, size, size)


def _llama(layers: int) -> Network:
    return Network(lambda: llama(layers, hidden=256, vocabulary=1000), _tokens)


def _resnet20() -> nn.Module:
    from models.resnet_cifar import resnet20

    return resnet20()


def _resnet50() -> nn.Module:
    from torchvision import models

    return models.resnet50()


def _vit() -> nn.Module:
    from torchvision import models

    return models.vit_b_16()


def _encoder() -> nn.Module:
    """An encoder of the shape of MiniLM-L6."""
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
    return BertModel(BertConfig(vocab_size=1000, **sizes), add_pooling_layer=False)


NETWORKS: dict[str, Network] = {
    **{f"llama-{layers}": _llama(layers) for layers in DEPTHS},
    "resnet20": Network(_resnet20, lambda: _images(32, 32)),
    "resnet50": Network(_resnet50, lambda: _images(224, 2)),
    "vit_b_16": Network(_vit, lambda: _images(224, 2)),
    "minilm": Network(_encoder, lambda: {"input_ids": torch.randint(1000, (8, 64))}),
    "pitch": Network(PitchNetwork, lambda: torch.randn(32, 1, 1024, 1)),
}


if __name__ == "__main__":
    raise SystemExit(main())
