"""The criterion for experts against a loop over single tokens and experts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, MixtralConfig, MixtralForCausalLM, PreTrainedModel

import graphprune
from graphprune.errors import InputError
from graphprune.graph.groups import Group
from graphprune.importance import CRITERIA, Context, Criterion
from tests.graph.test_experts import LookedUp

BATCHES = [torch.randn(n, 12, generator=torch.Generator().manual_seed(n)) for n in (5, 3)]


class Multiplied(LookedUp):
    """Gates are applied by a product of matrices, and their sum is not one."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        weights, which = self.router(x).sigmoid().topk(self.chosen)
        out = self.outputs(x, which)
        return self.leave(x + torch.einsum("nkd,nk->nd", out, weights))

    def outputs(self, x: Tensor, which: Tensor) -> Tensor:
        """Outputs of experts. [n, chosen, 12]"""
        hidden = F.relu(torch.einsum("nd,nkdh->nkh", x, self.up[which]) + self.bias[which])
        return torch.einsum("nkh,nkhd->nkd", hidden, self.down[which])


class GatedBefore(Multiplied):
    """Gates scale what goes into the experts."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        weights, which = self.router(x).sigmoid().topk(self.chosen)
        entering = x[:, None] * weights[..., None]
        hidden = F.relu(torch.einsum("nkd,nkdh->nkh", entering, self.up[which]))
        return self.leave(x + torch.einsum("nkh,nkhd->nd", hidden, self.down[which]))


def scores(model: nn.Module, batches: list[Tensor]) -> list[Tensor]:
    """What the criterion gives for every group of experts, as a plan asks for it."""
    found: list[Tensor] = []

    def kept(group: Group, context: Context) -> Tensor:
        values = CRITERIA["reap"].score(group, context)
        if group.role == "experts":
            found.append(values)
        return values

    graph = graphprune.trace(model, batches[0])
    CRITERIA["kept"] = Criterion("kept", kept, data=True)
    try:
        graph.plan(experts=0.5, importance="kept", calibration=batches)
    finally:
        del CRITERIA["kept"]
    return found


def mean_by_expert(experts: int, visits: list[tuple[int, float, float]]) -> Tensor:
    """Means of gate times norm, from (expert, gate, norm)."""
    total, count = torch.zeros(experts, dtype=torch.float64), torch.zeros(experts, dtype=torch.float64)
    for expert, gate, norm in visits:
        total[expert] += gate * norm
        count[expert] += 1
    return total / count.clamp(min=1)


@pytest.mark.parametrize("made", [LookedUp, Multiplied])
@torch.no_grad()
def test_mean_over_tokens_of_gate_times_norm(made: Callable[[], LookedUp]) -> None:
    torch.manual_seed(0)
    model = made().eval()
    (found,) = scores(model, BATCHES)
    visits = []
    for token in torch.cat(BATCHES):
        x = model.enter(token)
        logits = model.router(x)
        gates = logits.sigmoid() if made is Multiplied else logits.softmax(-1)
        largest = gates.topk(2).indices.tolist()
        for e in largest:
            output = F.relu(x @ model.up[e] + model.bias[e]) @ model.down[e]
            visits.append((e, float(gates[e] / gates[largest].sum()), float(output.norm())))
    torch.testing.assert_close(found, mean_by_expert(6, visits), rtol=1e-5, atol=1e-7)
    assert found.count_nonzero() >= 5


def mixtral() -> PreTrainedModel:
    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, num_local_experts=5, num_experts_per_tok=2,
        )
    )  # fmt: skip


def deepseek() -> PreTrainedModel:
    """A bias in the router's choice, one group, a shared expert, and a first layer without experts."""
    return DeepseekV3ForCausalLM(
        DeepseekV3Config(
            vocab_size=32, hidden_size=16, intermediate_size=16, moe_intermediate_size=16, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, n_routed_experts=5, num_experts_per_tok=2, n_group=1,
            topk_group=1, n_shared_experts=1, first_k_dense_replace=1, kv_lora_rank=8, q_lora_rank=None,
            qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=4,
        )
    )  # fmt: skip


@torch.no_grad()
def by_single_experts(model: PreTrainedModel, tokens: Tensor) -> list[Tensor]:
    """The scores of each layer, from its experts called one token and one expert at a time."""
    calls: list[tuple[nn.Module, tuple[Tensor, ...]]] = []
    layers = [module for name, module in model.named_modules() if name.endswith(".experts")]
    handles = [m.register_forward_pre_hook(lambda module, args: calls.append((module, args))) for m in layers]
    model(tokens)
    for handle in handles:
        handle.remove()
    found = []
    for module, (x, which, gates) in calls:
        visits = []
        for token, numbers, weights in zip(x, which.tolist(), gates, strict=True):
            for e, gate in zip(numbers, weights / weights.sum(), strict=True):
                output = module(token[None], torch.tensor([[e]]), torch.ones(1, 1))
                visits.append((e, float(gate), float(output.norm())))
        found.append(mean_by_expert(5, visits))
    return found


stacked_experts = pytest.mark.skipif(
    not any(parameter.ndim == 3 for parameter in mixtral().parameters()),
    reason="Transformers 4 has a module for each expert",
)


@stacked_experts
@pytest.mark.parametrize("made", [mixtral, deepseek])
def test_experts_of_transformers(made: Callable[[], PreTrainedModel]) -> None:
    torch.manual_seed(0)
    model = made().eval()
    tokens = torch.randint(0, 32, (2, 8))
    for found, expected in zip(scores(model, [tokens]), by_single_experts(model, tokens), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


@stacked_experts
def test_layers_keep_equally_many_and_no_fewer_than_the_router_takes() -> None:
    torch.manual_seed(0)
    model = mixtral().eval()
    tokens = torch.randint(0, 32, (2, 8))
    graph = graphprune.trace(model, tokens)
    plan = graph.plan(experts=0.4, importance="reap", calibration=[tokens])
    slim = plan.apply(model)
    assert [choice.kept for choice in plan.choices if choice.role == "experts"] == [3, 3]
    assert slim.config.num_local_experts == 3
    assert graphprune.verify(model, slim, plan, tokens).passed
    plan = graph.plan(experts=0.9, importance="reap", calibration=[tokens])
    assert [choice.kept for choice in plan.choices if choice.role == "experts"] == [2, 2]


def test_gates_that_scale_inputs_are_refused() -> None:
    with pytest.raises(InputError, match="does not see a gate multiplied with the output"):
        scores(GatedBefore().eval(), BATCHES)


def test_models_without_experts_are_refused() -> None:
    model = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(InputError, match="'reap' scores experts, and the model has none"):
        graphprune.trace(model, BATCHES[0]).plan(0.5, importance="reap", calibration=BATCHES)
