"""Slim models are programs like any other: torch.export with open sizes, torch.compile in one piece, other runtimes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import graphprune
from benchmarks.common import call
from benchmarks.export_runtimes import RUNTIMES, Runtime, exported_program, measured
from benchmarks.networks_to_export import NETWORKS, VOCABULARY, ExportedNetwork
from graphprune.utils.tree import tensors_of
from models import resnet_cifar, vit


def small_llama() -> nn.Module:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1, vocab_size=VOCABULARY, use_cache=False))


SMALL = {
    "ResNet": ExportedNetwork(lambda: resnet_cifar.ResNet(1), NETWORKS["ResNet-20"].inputs),
    "ViT": ExportedNetwork(lambda: vit.vit(dim=32, depth=1), NETWORKS["ViT"].inputs),
    "Llama": ExportedNetwork(small_llama, NETWORKS["HF Llama"].inputs, generates=True),
}


def slim_network(name: str) -> nn.Module:
    model = SMALL[name].make().eval()
    return graphprune.trace(model, SMALL[name].inputs(2, 7)).plan(macs=0.6).apply(model)


def outputs(model: Any, inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        return next(iter(tensors_of(call(model, inputs))))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.filterwarnings("ignore::FutureWarning:torch", "ignore::DeprecationWarning")
def test_torch_export_and_compile(name: str) -> None:
    network, slim = SMALL[name], slim_network(name)
    exported = exported_program(slim, network).module()
    torch._dynamo.reset()
    compiled = torch.compile(slim, fullgraph=True, backend="eager")
    for batch, length in ((1, 5), (5, 11)):
        inputs = network.inputs(batch, length)
        assert torch.equal(outputs(exported, inputs), outputs(slim, inputs))
        assert torch.equal(outputs(compiled, inputs), outputs(slim, inputs))


def test_the_table_of_runtimes() -> None:
    """What runs is measured, what is not installed or cannot run is named, and a wrong result is an error."""
    network, slim = SMALL["Llama"], slim_network("Llama")

    def measure(made: nn.Module, of: ExportedNetwork, folder: Path) -> tuple[float, int | None]:
        assert folder.is_dir()
        return 0.5, 3

    def broken(*_: Any) -> tuple[float, int | None]:
        raise RuntimeError("no such kernel")

    assert measured(slim, network, Runtime(("torch",), 1.0, measure)) == {"difference": 0.5, "size": 3}
    assert measured(slim, network, Runtime((), 0.1, measure))["error"] == "differs by 5.0e-01"
    assert measured(slim, network, Runtime((), 0.1, broken)) == {"error": "RuntimeError: no such kernel"}
    assert measured(slim, network, Runtime(("nowhere",), 1.0, broken)) == {"skipped": "nowhere is not installed"}
    assert "skipped" in measured(slim, NETWORKS["ViT"], RUNTIMES["llama.cpp"])
    assert measured(slim, network, RUNTIMES["llama.cpp"])["difference"] < 1e-5
