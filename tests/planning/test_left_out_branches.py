"""Attention or MLP of a layer left out alone: exact, counted, and the same again after files."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import MixtralConfig, MixtralForCausalLM, T5Config, T5EncoderModel

import graphprune
from graphprune.planning.depth_units import DepthUnits
from graphprune.pruning.skip import Skip, Zeros
from graphprune.utils.tree import tensors_of
from tests.branches import IDS, NETWORKS, bert, gpt2, llama, plan_without
from tests.networks import randomize


def network(name: str) -> tuple[nn.Module, Tensor]:
    build, inputs, _ = NETWORKS[name]
    return randomize(build()).eval(), inputs


def outputs(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return list(tensors_of(model(inputs)))


@pytest.mark.parametrize("name", NETWORKS)
def test_branches_left_out_with_width_are_exact(name: str) -> None:
    """One alone, and every other one; the slim model costs what the plan says, and learns."""
    model, inputs = network(name)
    graph = graphprune.trace(model, inputs)
    paths = [branch.path for branch in graph.branches]
    for chosen in (paths[1:2], paths[::2]):
        plan = plan_without(graph, *chosen, macs=0.6)
        slim = plan.apply(model)
        check = graphprune.verify(model, slim, plan, inputs)
        assert check.passed and check.relative < 1e-10, str(check)
        assert graph.cost(plan).macs == graphprune.trace(slim, inputs).cost().macs <= 0.6 * graph.cost().macs
        assert graph.cost(plan).params == sum(p.numel() for p in slim.parameters())
        assert not any(name.startswith(f"{path}.") for name in slim.state_dict() for path in plan.skipped)
    next(tensors_of(slim.train()(inputs))).square().mean().backward()


def test_branches_of_a_model_that_looks_at_values() -> None:
    """Each is found not to be needed by a real run; what is left equals the original in which the branch is zero."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    experts = {"num_key_value_heads": 2, "num_local_experts": 3, "pad_token_id": 0}
    model = randomize(MixtralForCausalLM(MixtralConfig(vocab_size=99, **sizes, **experts))).eval()
    graph = graphprune.trace(model, IDS)
    assert not graph.trace.on_meta and len(DepthUnits.of(graph)) == 3 and len(graph.branches) == 4
    for path in ("model.layers.0.mlp", "model.layers.1.self_attn"):
        plan = plan_without(graph, path, macs=0.7)
        check = graphprune.verify(model, plan.apply(model), plan, IDS)
        assert check.passed and check.relative < 1e-10, str(check)


@pytest.mark.parametrize("name", ["post-norm bert", "pre-norm gpt"])
def test_without_a_branch_nothing_is_added(name: str) -> None:
    """Without width removed, the outputs are those of the dense model with the last weights of the branch zeroed."""
    model, inputs = network(name)
    graph = graphprune.trace(model, inputs)
    path = graph.branches[1].path
    slim = plan_without(graph, path, macs=1.0).apply(model)
    zeroed = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in zeroed.get_submodule(path).parameters():
            parameter.zero_()
    for one, other in zip(outputs(slim, inputs), outputs(zeroed, inputs), strict=True):
        torch.testing.assert_close(one, other)


def test_a_plan_without_branches_goes_through_json_and_files(tmp_path: Any) -> None:
    model, inputs = network("post-norm bert")
    plan = plan_without(graphprune.trace(model, inputs), "encoder.layer.0.attention.output.dense", macs=0.7)
    again = graphprune.Plan.from_json(plan.to_json())
    assert again.zeroed == plan.zeroed == {p: 2 if p.endswith("self") else 0 for p in plan.skipped}
    assert again.to_json() == plan.to_json() and "without encoder.layer.0.attention.self" in str(plan)
    slim = again.apply(model)
    assert isinstance(slim.get_submodule("encoder.layer.0.attention.self"), Zeros)
    graphprune.save(slim, tmp_path / "bundle")
    torch.save(slim, tmp_path / "slim.pt")
    loaded = graphprune.load(tmp_path / "bundle"), torch.load(tmp_path / "slim.pt", weights_only=False)
    for other in loaded:
        assert all(map(torch.equal, outputs(other.eval(), inputs), outputs(slim, inputs)))
    state = plan.apply_to_state_dict(model.state_dict())
    assert state.keys() == slim.state_dict().keys()


@pytest.mark.parametrize("build", [llama, gpt2])
def test_tokens_are_the_same_with_a_cache(build: Any) -> None:
    """Tokens are counted by the cache of the first attention, which is no unit."""
    model = randomize(build()).eval()
    graph = graphprune.trace(model, IDS)
    unit, *units = DepthUnits.of(graph).units
    assert len(units) == 4 and unit.left_out.skipped[-1] == graph.branches[1].path and not unit.block
    slim: Any = plan_without(graph, *(branch.path for branch in graph.branches[2::2]), macs=0.7).apply(model)
    given = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    one, other = (slim.generate(IDS, use_cache=cached, **given) for cached in (True, False))
    assert torch.equal(one, other)


def test_a_slim_model_is_pruned_again_and_repaired() -> None:
    model, inputs = network("post-norm bert")
    plan = plan_without(graphprune.trace(model, inputs), "encoder.layer.1.output.dense", macs=0.7)
    slim = plan.apply(model)
    batches = [torch.randint(0, 99, (8, 12), generator=torch.Generator().manual_seed(n)) for n in range(2)]
    graphprune.repair(slim, model, plan, batches)
    graph = graphprune.trace(slim, inputs)
    assert len(graph.branches) == 5
    twice = graph.plan(macs=0.7)
    check = graphprune.verify(slim, twice.apply(slim), twice, inputs)
    assert check.passed and check.relative < 1e-10, str(check)


# ---------------------------------------------------------------- units


def test_a_layer_goes_whole_once_all_of_it_goes() -> None:
    graph = graphprune.trace(bert().eval(), IDS)
    units = DepthUnits.of(graph)
    assert len(units) == 6
    left = units.left_out({0, 2, 3})
    assert left.skipped == (*units.units[0].left_out.skipped, "encoder.layer.1")
    assert left.zeroed == units.units[0].left_out.zeroed
    assert units.left_out({2, 3}, whole=False).skipped[0] == "encoder.layer.1.attention.self"


def test_blocks_of_one_branch_are_units_themselves() -> None:
    build, inputs, count = NETWORKS["resnet"]
    units = DepthUnits.of(graphprune.trace(build().eval(), inputs))
    assert len(units) == count and not any(unit.left_out.zeroed for unit in units.units)
    slim = build().eval()
    graphprune.pruning.skip.skip_blocks(slim, units.left_out({0}).skipped, {}, {})
    assert isinstance(slim.layer1[0], Skip | nn.Identity)


def test_what_the_rest_cannot_do_without_is_no_unit() -> None:
    """T5's first attention makes the position bias of all others, and the second asks for it by its own weights."""
    config = T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=3, num_heads=4, vocab_size=99)
    graph = graphprune.trace(T5EncoderModel(config).eval(), IDS)
    ends = [unit.left_out.skipped[-1] for unit in DepthUnits.of(graph).units]
    assert "encoder.block.1.layer.0.SelfAttention" not in ends
    assert "encoder.block.2.layer.0.SelfAttention" in ends and "encoder.block.0.layer.1" in ends
