"""Golden plans: what is kept of some networks, on every machine, in every version.

    python -m tests.golden.plans            # say what differs from tests/golden/plans.json
    python -m tests.golden.plans --write    # after a change that is meant to choose other channels

Weights and inputs are made of integers, so that no generator of random numbers and no library of functions takes part.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import graphprune
from models import gpt, hardnet, mobilenet_v2, resnet_cifar, vit

FILE = Path(__file__).with_name("plans.json")

Case = tuple[Callable[[], nn.Module], Callable[[], Tensor]]


def numbers(*shape: int, seed: int) -> Tensor:
    """Numbers between -0.5 and 0.5 that look random. float32 of the shape."""
    index = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(seed * 1_000_003)
    mixed = (index * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)) >> np.uint64(33)
    mixed = (mixed * np.uint64(2685821657736338717)) >> np.uint64(40)
    return torch.from_numpy((mixed / 2.0**24 - 0.5).astype(np.float32)).reshape(shape)


def images() -> Tensor:
    return numbers(4, 3, 32, 32, seed=1)


def tokens() -> Tensor:
    return ((numbers(4, 12, seed=2) + 0.5) * 64).long()


NETWORKS: dict[str, Case] = {
    "resnet": (resnet_cifar.resnet20, images),
    "mobilenet": (mobilenet_v2.mobilenet_v2, images),
    "hardnet": (hardnet.hardnet, images),
    "vit": (vit.vit, images),
    "gpt": (gpt.gpt, tokens),
}

REQUESTS: dict[str, dict[str, Any]] = {
    "half": {"ratio": 0.5},
    "L1 norms": {"ratio": 0.3, "importance": "l1"},
    "multiply-adds": {"macs": 0.5, "allocation": "isomorphic"},
    "parameters in eights": {"params": 0.5, "multiple": 8},
    "random": {"ratio": 0.5, "importance": "random", "seed": 3},
    "activations": {"ratio": 0.5, "importance": "wanda"},
}
"""What is asked for. ``activations`` looks at data: a batch of the inputs."""


def network(make: Callable[[], nn.Module]) -> nn.Module:
    """A model whose weights are always the same: those of norms near 1, others small, variances positive."""
    model = make().eval()
    with torch.no_grad():
        for seed, (name, tensor) in enumerate((*model.named_parameters(), *model.named_buffers())):
            if tensor.is_floating_point():
                one = 1.0 if tensor.ndim == 1 and name.endswith(("weight", "running_var")) else 0.0
                tensor.copy_(one + 0.2 * numbers(*tensor.shape, seed=seed + 10))
    return model


def kept(plan: graphprune.Plan) -> dict[str, str]:
    """By group, how many units stay, of how many, and a hash of which; and a hash of all that stays."""
    found = {c.group: f"{c.kept} of {c.units}, {digest(c.removed)}" for c in plan.choices}
    axes = [
        f"{name} {dim} {list(map(int, i))}" for name in sorted(plan.kept) for dim, i in sorted(plan.kept[name].items())
    ]
    return found | {"all axes": digest(axes)}


def digest(values: Any) -> str:
    return hashlib.sha256(repr(list(values)).encode()).hexdigest()[:8]


def golden(names: Sequence[str] = tuple(NETWORKS)) -> dict[str, dict[str, dict[str, str]]]:
    """What is kept, by network and request."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for name in names:
        make, inputs = NETWORKS[name]
        graph = graphprune.trace(network(make), inputs())
        found[name] = {}
        for request, options in REQUESTS.items():
            data = {"calibration": [inputs()]} if request == "activations" else {}
            found[name][request] = kept(graph.plan(**options, **data))
    return found


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Where the plans that were found differ from those expected."""
    return [
        f"{network} {request} {axis}: {found[network][request].get(axis)} instead of {index}"
        for network, requests in expected.items()
        if network in found
        for request, axes in requests.items()
        for axis, index in axes.items()
        if found[network][request].get(axis) != index
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="make the plans of this tree the golden ones")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    if options.write:
        FILE.write_text(json.dumps(golden(), indent=0) + "\n")
        return 0
    found = differences(golden(options.networks), json.loads(FILE.read_text()))
    print("\n".join(found) or "as always")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
