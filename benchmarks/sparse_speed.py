"""When are zeros faster? One network with the same share of zeros, or of channels gone, on this machine's CPU.

All forms run in turns, A B A B, in one process on one thread; milliseconds are medians of the processor time of a run,
which other work on the machine does not change much.

- *dense*: as it was.
- *masked*: masks of ``torch.nn.utils.prune``, which are multiplied before each call.
- *zeros*: the masks made permanent.
- *CSR*: the weights of linear layers as ``torch.sparse_csr`` tensors.
- *2:4*: ``to_semi_structured``, where the device has such units; always half of the weights.
- *structured*: ``graphprune.prune_model`` to a share of the parameters that is as small.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torchvision
from rich.table import Table
from torch import Tensor, nn

import graphprune
from benchmarks.common import keep_memory, quiet_one_thread, row, table, wide_console, write_json
from graphprune.errors import InputError

AMOUNTS = (0.5, 0.9, 0.98)


def mlp() -> tuple[nn.Module, Tensor]:
    """Three linear layers of 2048."""
    layers = [layer for _ in range(3) for layer in (nn.Linear(2048, 2048), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(2048, 1000)), torch.randn(1, 2048)


def vit() -> tuple[nn.Module, Tensor]:
    """ViT-S/16 in torchvision's code."""
    return torchvision.models.VisionTransformer(224, 16, 12, 6, 384, 1536), torch.randn(1, 3, 224, 224)


def resnet() -> tuple[nn.Module, Tensor]:
    """ResNet-18 of torchvision."""
    return torchvision.models.resnet18(), torch.randn(1, 3, 224, 224)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {"MLP": mlp, "ResNet-18": resnet, "ViT-S/16": vit}
BATCHES = {"MLP": (1, 64), "ResNet-18": (1,), "ViT-S/16": (1,)}


def main() -> int:
    """Print the table, write ``results/sparse_speed.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="only the networks whose name contains this")
    parser.add_argument("--repeats", type=int, default=15, help="runs of each form")
    options = parser.parse_args()
    quiet_one_thread()
    keep_memory()
    console = wide_console()
    results = []
    for name in NETWORKS:
        for batch in BATCHES[name]:
            for amount in AMOUNTS:
                if options.only in name:
                    with console.status(f"{name}, batch {batch}, {amount:.0%}"):
                        results.append(measured(name, batch, amount, options.repeats))
    console.print(_table(results))
    console.print(f"2:4 on this machine: {refusal()}")
    if not options.only:
        data = {"torch": torch.__version__, "threads": 1, "semi_structured": refusal(), "results": results}
        write_json("sparse_speed.json", data)
    return 0


def measured(name: str, batch: int, amount: float, repeats: int) -> dict[str, Any]:
    """Milliseconds of all forms of a network."""
    torch.manual_seed(0)
    model, example = NETWORKS[name]()
    inputs = example.expand(batch, *example.shape[1:]).contiguous()
    forms = forms_of(model.eval(), example, amount)
    with torch.inference_mode():
        found = processor_times([partial(form, inputs) for form in forms.values()], repeats)
    slim = sum(p.numel() for p in forms["structured"].parameters())
    return {
        "network": name,
        "batch": batch,
        "zeros": amount,
        "structured_params": slim / sum(p.numel() for p in model.parameters()),
        "ms": dict(zip(forms, found, strict=True)),
    }


def processor_times(runs: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """Median milliseconds of the processor for each run, measured in turns."""
    times: list[list[float]] = [[] for _ in runs]
    for number in range(repeats + 1):
        for run, found in zip(runs, times, strict=True):
            start = time.process_time()
            run()
            if number:  # the first warms up
                found.append((time.process_time() - start) * 1e3)
    return [statistics.median(found) for found in times]


def forms_of(model: nn.Module, example: Tensor, amount: float) -> dict[str, nn.Module]:
    """The forms in which a network has a share of zeros, or of parameters gone."""
    masked = copy.deepcopy(model)
    graphprune.sparsify(masked, amount)
    zeros = graphprune.make_permanent(copy.deepcopy(masked))
    forms = {"dense": model, "masked": masked, "zeros": zeros}
    if any(isinstance(module, nn.Linear) for module in model.modules()):
        forms["CSR"] = as_csr(copy.deepcopy(zeros))
    slim = graphprune.prune_model(model, example_inputs=example, params=1 - amount, max_ratio=0.995)
    return {**forms, "structured": slim}


def as_csr(model: nn.Module) -> nn.Module:
    """The model with the weights of its linear layers as CSR tensors, where their forward takes them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls CSR a beta
        for module in [m for m in model.modules() if type(m) is nn.Linear]:
            module.weight = nn.Parameter(module.weight.detach().to_sparse_csr(), requires_grad=False)
            module.forward = partial(_csr_linear, module)  # type: ignore[method-assign]
    return model


def _csr_linear(module: nn.Linear, x: Tensor) -> Tensor:
    flat = x.reshape(-1, x.shape[-1])
    found = (module.weight @ flat.t()).t() + module.bias
    return found.reshape(*x.shape[:-1], -1)


def refusal() -> str:
    """What ``to_semi_structured`` says here."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = nn.Sequential(nn.Linear(2048, 2048)).to(device, torch.bfloat16)
    graphprune.sparsify(model, "2:4")
    try:
        return str(graphprune.to_semi_structured(model))
    except InputError as error:
        return str(error)


def _table(results: list[dict[str, Any]]) -> Table:
    forms = ["dense", "masked", "zeros", "CSR", "structured"]
    made = table("Milliseconds on one core", "network", "batch", "zeros", *forms, "its parameters", left=1)
    for r in results:
        times = [f"{r['ms'][form]:.2f}" if form in r["ms"] else "-" for form in forms]
        row(made, r["network"], r["batch"], f"{r['zeros']:.0%}", *times, f"{r['structured_params']:.1%}")
    return made


if __name__ == "__main__":
    sys.exit(main())
