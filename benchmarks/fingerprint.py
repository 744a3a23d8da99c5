"""A fingerprint of what the engine decides: the same before and after a change that is to change nothing.

    python -m benchmarks.fingerprint --write before.json
    python -m benchmarks.fingerprint --compare before.json

Only what a slim model consists of is hashed: which entries of which tensors survive, sizes, what is left out, and
repaired weights. The library's own names (of roles, options, files) are not part of it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import graphprune
from benchmarks.common import quiet_one_thread

IMAGE = 64
CASES: dict[str, tuple[dict[str, Any], ...]] = {
    "half": ({"ratio": 0.5},),
    "macs": ({"macs": 0.5},),
    "budgets": ({"params": 0.4, "bytes": 0.4, "macs": 0.6, "multiple": 8},),
    "isomorphic": ({"macs": 0.5, "allocation": "isomorphic"},),
    "global": ({"ratio": 0.4, "allocation": "global"},),
}
BLOCKS = {"depth": 0.25, "macs": 0.6}
"""Residual blocks that are left out whole, and channels."""


def vision(name: str) -> Callable[[], tuple[nn.Module, Any]]:
    """A torchvision model with random weights, and one small image."""

    def make() -> tuple[nn.Module, Any]:
        size = 224 if name in ("swin_t", "vit_b_16") else IMAGE
        return torchvision.models.get_model(name, weights=None), torch.randn(1, 3, size, size)

    return make


def llama() -> tuple[nn.Module, Any]:
    """A small Llama whose query heads share keys and values in groups, and token ids."""
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        use_cache=False,
    )
    return LlamaForCausalLM(config), {"input_ids": torch.randint(97, (1, 16))}


MODELS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    name: vision(name)
    for name in ("resnet18", "mobilenet_v2", "densenet121", "shufflenet_v2_x1_0", "swin_t", "vit_b_16")
} | {"llama": llama}


class Digest:
    """A hash of named arrays and numbers, in the order in which they are added."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, *values: Any) -> None:
        for value in values:
            array = isinstance(value, np.ndarray)
            self._hash.update(np.ascontiguousarray(value).tobytes() if array else repr(value).encode())
            self._hash.update(b";")

    def __str__(self) -> str:
        return self._hash.hexdigest()[:16]


def of_plan(plan: graphprune.Plan) -> str:
    """What survives, in which order, and what changes besides tensors."""
    digest = Digest()
    for name, dims in sorted(plan.kept.items()):
        for dim, index in sorted(dims.items()):
            digest.add(name, dim, np.asarray(index, np.int64))
    digest.add(sorted(plan.sizes.items()), sorted(plan.skipped), sorted(plan.shapes.items()))
    for choice in plan.choices:
        digest.add(choice.units, choice.removed, round(choice.macs, 9), round(choice.params, 9))
    return str(digest)


def of_graph(graph: graphprune.ChannelGraph) -> str:
    """Which axes go together, and what is frozen; without reasons, which are prose."""
    digest = Digest()
    for group in graph.groups:
        digest.add(group.units, group.axes, len(group.couplings))
    for frozen in graph.frozen:
        digest.add(frozen.axis, frozen.count, frozen.size)
    digest.add(graph.nx.number_of_nodes(), graph.nx.number_of_edges(), graph.cost().macs, graph.cost().params)
    return str(digest)


def of_weights(model: nn.Module) -> str:
    """All parameters and buffers, bit for bit."""
    digest = Digest()
    for name, tensor in sorted(model.state_dict().items()):
        digest.add(name, tuple(tensor.shape), tensor.detach().numpy())
    return str(digest)


def of_model(name: str) -> dict[str, str]:
    """All fingerprints of one network."""
    torch.manual_seed(0)
    model, example = MODELS[name]()
    graph = graphprune.trace(model.eval(), example)
    found = {"graph": of_graph(graph)}
    for case, (asked,) in CASES.items():
        found[case] = of_plan(graph.plan(**asked))
    if graph.blocks:
        found["blocks"] = of_plan(graph.plan(**BLOCKS))
    if name in ("resnet18", "llama"):
        found |= with_data(name, model, graph)
    return found


def with_data(name: str, model: nn.Module, graph: graphprune.ChannelGraph) -> dict[str, str]:
    """Criteria that read activations or gradients, and repair."""
    images = [torch.randn(4, 3, IMAGE, IMAGE) for _ in range(2)]
    texts = [{"input_ids": torch.randint(97, (4, 16))} for _ in range(2)]
    batches: list[Any] = texts if name == "llama" else images
    found = {}
    for criterion in ("schur", "wanda", "flap"):
        plan = graph.plan(macs=0.5, importance=criterion, calibration=batches)
        found[criterion] = of_plan(plan)
    plans = {"repaired": graph.plan(0.5)}
    if name == "llama":
        plans["narrow"] = graph.plan(head_width=0.5, mlp=0.5)
    else:
        plans["schur, repaired"] = graph.plan(0.5, importance="schur", calibration=batches)
    for kind, plan in plans.items():
        slim = plan.apply(model)
        graphprune.repair(slim, model, plan, batches)
        found[kind] = of_weights(slim)
    return found


def main() -> int:
    """Print the fingerprints; write them, or compare them with those of another tree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="where to write them")
    parser.add_argument("--compare", type=Path, help="those to compare with")
    parser.add_argument("--only", nargs="*", choices=MODELS, default=list(MODELS), help="which networks")
    options = parser.parse_args()
    quiet_one_thread()
    known = json.loads(options.compare.read_text()) if options.compare else {}
    found: dict[str, dict[str, str]] = {}
    different = 0
    for name in options.only:
        found[name] = of_model(name)
        for case, digest in found[name].items():
            same = not known or known[name].get(case) == digest
            different += not same
            said = "" if not known else "equal" if same else "DIFFERENT"
            print(f"{name:<20} {case:<16} {digest}  {said}", flush=True)
    if options.write:
        options.write.write_text(json.dumps(found, indent=1) + "\n")
    if known:
        print(f"{sum(map(len, found.values())) - different} equal, {different} different")
    return min(different, 1)


if __name__ == "__main__":
    raise SystemExit(main())
