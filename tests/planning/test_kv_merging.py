"""Key/value heads are merged into means, and query heads stay, where the class has a number of heads for each."""

from __future__ import annotations

import copy
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import graphprune
from graphprune.errors import InputError, LoadError, PlanError
from graphprune.planning.kv_attention import attentions_of
from graphprune.planning.kv_candidates import MOST_WAYS, by_numbers

X = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
IDS = {"input_ids": torch.arange(12).view(2, 6)}


class Repeated(nn.Module):
    """[n, tokens, 16] -> [n, tokens, 16]; several query heads may share a key/value head."""

    def __init__(self, heads: int = 4, kv_heads: int = 4, width: int = 4) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim, self.n_rep = heads, kv_heads, width, heads // kv_heads
        self.wq, self.wo = nn.Linear(16, heads * width), nn.Linear(heads * width, 16)
        self.wk, self.wv = nn.Linear(16, kv_heads * width), nn.Linear(16, kv_heads * width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.split(layer(x), n) for layer, n in zip((self.wq, self.wk, self.wv), self.counts(), strict=True))
        return x + self.wo(self.attend(q, k, v).transpose(1, 2).flatten(2))

    def counts(self) -> tuple[int, int, int]:
        return self.n_heads, self.n_kv_heads, self.n_kv_heads

    def split(self, x: Tensor, heads: int) -> Tensor:
        return x.unflatten(-1, (heads, self.head_dim)).transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (t.repeat_interleave(self.n_rep, 1) for t in (k, v))
        return (q @ k.mT / 2).softmax(-1) @ v


class Expanded(Repeated):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, kv_heads, tokens, width = k.shape
        repeated = (n, kv_heads, self.n_rep, tokens, width)
        k, v = (t[:, :, None].expand(repeated).reshape(n, -1, tokens, width) for t in (k, v))
        return F.scaled_dot_product_attention(q, k, v)


class ByTorch(Repeated):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


class WorkedOut(Repeated):
    """How often keys are repeated is worked out; nothing is done where that is once."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        times = self.n_heads // self.n_kv_heads
        if times > 1:
            k, v = (t.repeat_interleave(times, 1) for t in (k, v))
        return F.scaled_dot_product_attention(q, k, v)


class Tiled(Repeated):
    """Query head h reads key/value head h modulo their number."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (t.repeat(1, self.n_rep, 1, 1) for t in (k, v))
        return F.scaled_dot_product_attention(q, k, v)


class OneNumber(Repeated):
    """Multi-head attention: one number of heads for queries, keys and values."""

    def counts(self) -> tuple[int, int, int]:
        return self.n_heads, self.n_heads, self.n_heads

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


class AnyNumber(OneNumber):
    def counts(self) -> tuple[int, int, int]:
        return -1, -1, -1


class Fused(nn.Module):
    """Queries, keys and values are rows of one projection."""

    def __init__(self, heads: int = 4, kv_heads: int = 4) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, 4
        self.qkv, self.out = nn.Linear(16, (heads + 2 * kv_heads) * 4), nn.Linear(heads * 4, 16)

    def forward(self, x: Tensor) -> Tensor:
        sizes = [self.heads * self.head_dim, self.kv_heads * self.head_dim, self.kv_heads * self.head_dim]
        q, k, v = (t.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for t in self.qkv(x).split(sizes, -1))
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return x + self.out(y.transpose(1, 2).flatten(2))


def averaged(rows: Tensor, kv_heads: int, tiled: bool) -> Tensor:
    """Rows of heads, each replaced by the mean of its group, of the same shape; heads are 4 rows."""
    heads = rows.unflatten(0, (-1, 4))
    groups = heads.unflatten(0, (-1, kv_heads) if tiled else (kv_heads, -1))
    return groups.mean(0 if tiled else 1, keepdim=True).expand_as(groups).reshape(rows.shape)


def oracle(model: nn.Module, kv_heads: int) -> nn.Module:
    """The model in float64 in which all heads of a group have the mean of its keys and values."""
    model = copy.deepcopy(model).double()
    tiled = isinstance(model, Tiled)
    with torch.no_grad():
        for layer in (model.wk, model.wv) if isinstance(model, Repeated) else ():
            for tensor in (layer.weight, layer.bias):
                tensor.copy_(averaged(tensor, kv_heads, tiled))
        for tensor in (model.qkv.weight, model.qkv.bias) if isinstance(model, Fused) else ():
            for part in tensor[model.heads * 4 :].chunk(2):
                part.copy_(averaged(part, kv_heads, tiled))
    return model


@pytest.mark.parametrize("made", [Repeated, Expanded, ByTorch, WorkedOut, Tiled, Fused])
@pytest.mark.parametrize(("heads", "before", "after"), [(4, 4, 2), (8, 4, 2), (8, 4, 1), (4, 4, 1)])
def test_the_merged_model_equals_the_one_with_means(made: Any, heads: int, before: int, after: int) -> None:
    torch.manual_seed(0)
    model = made(heads, before).eval()
    plan = graphprune.trace(model, X).plan_merged_heads(after)
    slim = plan.apply(model)
    assert type(slim) is made
    wide = plan.apply(copy.deepcopy(model).double())
    torch.testing.assert_close(wide(X.double()), oracle(model, after)(X.double()), rtol=0, atol=1e-10)
    assert graphprune.verify(model, slim, plan, X).passed
    kept = [slim.qkv.out_features] if made is Fused else [slim.wq.out_features, slim.wk.out_features]
    assert kept == ([4 * heads + 8 * after] if made is Fused else [4 * heads, 4 * after])


class Looking(Repeated):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.clamp(-1e4, 1e4) if bool(x.abs().max() > 1e4) else x)


@pytest.mark.parametrize("heads", [1, 2])
def test_models_that_look_at_values(heads: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Looking(8, 4), Looking(8, 4)).eval()
    graph = graphprune.trace(model, X)
    plan = graph.plan_merged_heads(heads)
    slim = plan.apply(model)
    check = graphprune.verify(model, slim, plan, X)
    assert not graph.trace.on_meta and check.passed and check.relative < 1e-10, str(check)
    with torch.no_grad():
        slim[0].wk.weight.mul_(1.1)
    assert not graphprune.verify(model, slim, plan, X).passed


def test_several_layers_and_numbers_that_forward_does_not_read() -> None:
    model = nn.Sequential(WorkedOut(), WorkedOut()).eval()
    for layer in model:
        layer.attend = ByTorch.attend.__get__(layer)  # type: ignore[method-assign]
        layer.num_kv_heads, layer.max_kv_heads = 4, 7
    slim: Any = graphprune.trace(model, X).plan_merged_heads(2).apply(model)
    assert [(one.n_kv_heads, one.n_heads, one.num_kv_heads, one.max_kv_heads) for one in slim] == [(2, 4, 2, 7)] * 2


def test_labels_tell_queries_from_keys() -> None:
    (found,) = attentions_of(graphprune.trace(Expanded(8, 4).eval(), X))
    assert (found.heads, found.shared, found.is_grouped) == (4, 2, True)
    assert [str(axis) for axis in found.queries] == ["wq.weight[0]", "wq.bias[0]", "wo.weight[1]"]
    assert [rows.tolist() for rows in found.rows["wk.weight[0]"].values()][1] == [4, 5, 6, 7]  # type: ignore[index]
    (found,) = attentions_of(graphprune.trace(Expanded().eval(), X))
    assert not found.is_grouped and {"wq.weight[0]", "wv.bias[0]"} < set(found.rows)


# ---------------------------------------------------------------- Transformers

SIZES = dict(vocab_size=64, hidden_size=64, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)  # noqa: C408


def language_model(kind: str, kv_heads: int, **others: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES, num_key_value_heads=kv_heads, pad_token_id=0, **others)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("Llama", 4, 2),
        ("Llama", 4, 1),
        ("Qwen2", 2, 1),
        ("Qwen3", 4, 2),
        ("Olmo2", 4, 2),
        ("Phi3", 4, 2),
        ("Phi3", 2, 1),
        ("Cohere", 4, 2),
        ("Cohere", 2, 1),
        ("Glm", 2, 1),
    ],
)
def test_configurations_follow(tmp_path: Path, kind: str, before: int, after: int) -> None:
    """Cohere and GLM turn neighboring channels, for which angles are repeated within each head."""
    model = language_model(kind, before, **({"head_dim": 16} if kind in ("Qwen3", "Glm") else {}))
    graph = graphprune.trace(model, IDS)
    plan = graph.plan_merged_heads(after)
    slim: Any = plan.apply(model)
    assert graphprune.verify(model, slim, plan, IDS).passed
    assert slim.config.num_key_value_heads == after and model.config.num_key_value_heads == before
    assert graph.cost(plan).params == sum(p.numel() for p in slim.parameters()) < graph.cost().params
    slim.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**IDS).logits, slim(**IDS).logits, rtol=0, atol=0)


def test_means_of_keys_are_those_of_rotated_keys() -> None:
    """With a Llama the oracle is made by hand: rotary positions turn all heads alike."""
    model = language_model("Llama", 4).double()
    slim: Any = graphprune.trace(model, IDS).plan_merged_heads(2).apply(model)
    with torch.no_grad():
        for layer in model.model.layers:
            for projection in (layer.self_attn.k_proj, layer.self_attn.v_proj):
                groups = projection.weight.view(2, 2, 16, 64)
                projection.weight.copy_(groups.mean(1, keepdim=True).expand_as(groups).reshape(64, 64))
        torch.testing.assert_close(slim(**IDS).logits, model(**IDS).logits, rtol=0, atol=1e-10)


def test_repair_fits_the_other_layers() -> None:
    model = language_model("Llama", 4)
    plan = graphprune.trace(model, IDS).plan_merged_heads(2)
    slim, repaired = plan.apply(model), plan.apply(model)
    batches = [{"input_ids": torch.randint(0, 64, (8, 16))} for _ in range(8)]
    record = graphprune.repair(repaired, model, plan, batches)
    first = next(one for one in record.repaired if "layers.0.self_attn.k_proj" in one.name)
    assert first.before < 1e-6, "keys of the first layer are fitted to the means, which they are"
    test = {"input_ids": torch.randint(0, 64, (16, 16))}
    with torch.no_grad():
        errors = [float((one(**test).logits - model(**test).logits).norm()) for one in (repaired, slim)]
    assert errors[0] < 0.9 * errors[1]


def test_a_merged_model_is_pruned_further() -> None:
    model = language_model("Llama", 4)
    slim = graphprune.trace(model, IDS).plan_merged_heads(2).apply(model)
    graph = graphprune.trace(slim, IDS)
    assert [group.units for group in graph.groups if group.role == "kv_groups"] == [2, 2]
    plan = graph.plan(kv_groups=0.5)
    smaller: Any = plan.apply(slim)
    assert smaller.model.layers[0].self_attn.q_proj.out_features == 32
    assert graphprune.verify(slim, smaller, plan, IDS).passed


# ---------------------------------------------------------------- plans as data


def test_plans_are_saved_and_carried_out_again(tmp_path: Path) -> None:
    model = Expanded().eval()
    plan = graphprune.trace(model, X).plan_merged_heads(2)
    again = graphprune.Plan.from_json(plan.to_json())
    slim = plan.apply(model)
    graphprune.save(slim, tmp_path / "slim")
    for other in (again.apply(model), graphprune.load(tmp_path / "slim", Expanded())):
        torch.testing.assert_close(other(X), slim(X), rtol=0, atol=0)
    state = plan.apply_to_state_dict(model.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in slim.state_dict().items())
    assert "wk.weight[0]" in str(plan) and "each the mean of" in str(plan)
    whole = copy.deepcopy(model)
    assert plan.apply(whole, inplace=True) is whole and torch.equal(whole(X), slim(X))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (["0-3"], "there are not as many indices as survive"),
        (["0-2 99 5-8"], "found index 99"),
    ],
)
def test_damaged_plans_are_refused(damage: list[str], message: str) -> None:
    data = json.loads(graphprune.trace(Expanded().eval(), X).plan_merged_heads(2).to_json())
    data["merged"]["wk.weight"]["0"] = damage
    with pytest.raises(LoadError, match=message):
        graphprune.Plan.from_json(json.dumps(data))


def test_means_of_half_precision_are_added_up_in_float32() -> None:
    model = Expanded().eval()
    plan = graphprune.trace(model, X).plan_merged_heads(1)
    with torch.no_grad():
        model.wk.weight.copy_(torch.tensor([256.0, 1.0, 1.0, 1.0]).repeat_interleave(4)[:, None].expand(16, 16))
    small: Any = plan.apply(copy.deepcopy(model).bfloat16())
    assert float(small.wk.weight[0, 0].detach()) == float(torch.tensor(259 / 4).bfloat16())


def test_verification_tells_other_heads() -> None:
    model = Expanded().eval()
    plan = graphprune.trace(model, X).plan_merged_heads(2)
    slim: Any = plan.apply(model)
    with torch.no_grad():
        slim.wk.weight.copy_(slim.wk.weight.roll(4, 0))
    assert not graphprune.verify(model, slim, plan, X).passed


class ManyNumbers(Repeated):
    """Integers that forward does not read have the value of its number of heads."""

    def __init__(self) -> None:
        super().__init__()
        vars(self).update({f"unread_{number}": self.n_heads for number in range(16)})


def test_ways_to_change_numbers_are_not_listed_before_they_are_tried() -> None:
    graph = graphprune.trace(ManyNumbers().eval(), X)
    attentions = attentions_of(graph)
    tracemalloc.start()
    try:
        found = [one.sizes for one in by_numbers(graph, attentions, 2)]
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    changes = [len(sizes) for sizes in found]
    assert len(found) == MOST_WAYS and changes == sorted(changes)
    assert most < 4e6  # all 2**18 of them took a hundred times as much


# ---------------------------------------------------------------- what is refused


def vit() -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=4, image_size=8, patch_size=4
    )
    return transformers.ViTModel(config)


@pytest.mark.parametrize(
    ("made", "inputs", "kind"),
    [
        (OneNumber, X, "OneNumber"),
        (lambda: nn.TransformerEncoderLayer(16, 4, 16, batch_first=True), X, "TransformerEncoderLayer"),
        (vit, {"pixel_values": torch.randn(1, 3, 8, 8)}, "ViTAttention"),
    ],
)
def test_one_number_of_heads_is_a_reason(made: Any, inputs: Any, kind: str) -> None:
    graph = graphprune.trace(made().eval(), inputs)
    with pytest.raises(PlanError, match=f"kv_heads: {kind} cannot have 2 key/value heads") as raised:
        graph.plan_merged_heads(2)
    assert "repeat_interleave" in raised.value.do and "4 heads of keys and values in" in raised.value.found


@pytest.mark.parametrize("heads", [1, 2])
def test_a_field_that_counts_query_heads_too(heads: int) -> None:
    sizes = {"d_model": 48, "d_kv": 12, "d_ff": 80, "num_layers": 1, "num_heads": 4, "vocab_size": 99}
    graph = graphprune.trace(transformers.T5EncoderModel(transformers.T5Config(**sizes)).eval(), IDS)
    with pytest.raises(PlanError, match=r"T5Attention cannot have . key/value heads .*: its query heads would become"):
        graph.plan_merged_heads(heads)


def test_nothing_tells_queries_from_keys() -> None:
    graph = graphprune.trace(AnyNumber().eval(), X)
    with pytest.raises(PlanError, match="nothing tells which projection is that of the queries"):
        graph.plan_merged_heads(1)


@pytest.mark.parametrize(("number", "message"), [(0, "1 or more"), (3, "3 does not divide"), (4, "4 does not divide")])
def test_numbers_of_heads(number: int, message: str) -> None:
    with pytest.raises(InputError, match=f"kv_heads: .*{message}"):
        graphprune.trace(Expanded().eval(), X).plan_merged_heads(number)


def test_models_without_attention_are_refused() -> None:
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(PlanError, match="has no attention with several key/value heads"):
        graphprune.trace(model, X).plan_merged_heads(1)


def test_computed_weights_have_no_mean() -> None:
    model = Expanded().eval()
    parametrizations.weight_norm(model.wk)
    with pytest.raises(PlanError, match="the weight of wk is computed from other parameters"):
        graphprune.trace(model, X).plan_merged_heads(2)


def test_states_of_optimizers_have_no_mean() -> None:
    model = Expanded().eval()
    plan = graphprune.trace(model, X).plan_merged_heads(2)
    with pytest.raises(PlanError, match="plan: it merges key/value heads"):
        graphprune.prune_in_place(model, plan, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(PlanError, match="plan: it merges key/value heads"):
        graphprune.GrowingRegularization(model, plan)
