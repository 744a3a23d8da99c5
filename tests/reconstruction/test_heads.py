"""Narrower heads keep the best subspace of keys and of values; others are left alone, with a reason."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphprune
from graphprune.errors import InputError, PlanError
from graphprune.pruning.plan import Plan
from graphprune.reconstruction.heads import compensate_heads
from graphprune.reconstruction.layerwise import reconstruct
from models import gpt, vit

WIDTH, HEADS, HEAD = 12, 2, 6


class Scores(nn.Module):
    """Attention of which the projections may be separate, shared by query heads, and changed on the path."""

    def __init__(
        self, bias: bool = True, kv_heads: int = HEADS, change: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.change = HEADS, kv_heads, change
        self.query = nn.Linear(WIDTH, HEADS * HEAD, bias=bias)
        self.key = nn.Linear(WIDTH, kv_heads * HEAD, bias=bias)
        self.value = nn.Linear(WIDTH, kv_heads * HEAD)
        self.out = nn.Linear(HEADS * HEAD, WIDTH)
        self.scale = 0.4

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).view(*x.shape[:2], heads, -1).transpose(1, 2)
            for layer, heads in ((self.query, self.heads), (self.key, self.kv_heads), (self.value, self.kv_heads))
        )
        if self.change is not None:
            q, k = self.change(q), self.change(k)
        group = self.heads // self.kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        y = ((q * self.scale) @ k.transpose(-1, -2)).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(*x.shape[:2], -1))


def narrow(model: nn.Module, x: Tensor, width: float = 0.5) -> tuple[Plan, nn.Module]:
    plan = graphprune.trace(model, x).plan(0.0, head_width=width)
    return plan, plan.apply(model)


def scores(model: Scores, x: Tensor) -> Tensor:
    q = model.query(x).view(*x.shape[:2], model.heads, -1).transpose(1, 2)
    k = model.key(x).view(*x.shape[:2], model.kv_heads, -1).transpose(1, 2)
    return (q @ k.repeat_interleave(model.heads // model.kv_heads, 1).transpose(-1, -2)).detach()


def dependent(model: Scores, layer: str = "key") -> Scores:
    """Keys (or values) of every head lie in the span of three channels, whatever the input."""
    made = getattr(model, layer)
    with torch.no_grad():
        mixing = torch.randn(HEAD, 3) @ torch.randn(3, HEAD)
        for tensor in (made.weight, made.bias):
            if tensor is not None:
                tensor.copy_((mixing @ tensor.view(model.kv_heads, HEAD, -1)).reshape(tensor.shape))
    return model


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kv_heads", [2, 1])
def test_scores_are_exact_where_keys_depend_on_kept_ones(bias: bool, kv_heads: int) -> None:
    model, x = dependent(Scores(bias, kv_heads)).eval(), torch.randn(4, 9, WIDTH)
    plan, slim = narrow(model, x)
    wanted = scores(model, x)
    assert slim.query.weight.shape[0] == HEADS * HEAD // 2
    assert (scores(slim, x) - wanted).norm() > 0.1 * wanted.norm()
    done = compensate_heads(slim, model, plan, [x[:2], x[2:]], ridge=1e-9)
    assert (scores(slim, x) - wanted).norm() < 1e-3 * wanted.norm()
    keys = next(one for one in done.compensated if one.name == "key.weight")
    assert keys.heads == kv_heads and keys.after < 1e-3 < keys.before and keys.other == "query.weight"


def test_outputs_are_exact_where_keys_and_values_depend_on_fewer() -> None:
    model, x = dependent(dependent(Scores()), "value").eval(), torch.randn(4, 9, WIDTH)
    plan, slim = narrow(model, x)
    wanted = model(x)
    assert (slim(x) - wanted).norm() > 0.1 * wanted.norm()
    done = compensate_heads(slim, model, plan, [x[:1], x[1:]], ridge=1e-9)
    assert (slim(x) - wanted).norm() < 1e-3 * wanted.norm()
    assert [(one.name, one.other) for one in done.compensated] == [
        ("key.weight", "query.weight"),
        ("value.weight", "out.weight"),
    ]
    assert done.targets.keys() == {f"{n}.{t}" for n in ("query", "key", "value") for t in ("weight", "bias")}


def test_no_subspace_is_better() -> None:
    """What is lost are the smaller singular values of the product of both factors."""
    model, x = Scores().eval(), torch.randn(4, 9, WIDTH)
    plan, slim = narrow(model, x)
    done = compensate_heads(slim, model, plan, [x], ridge=1e-9)
    q, k = (layer(x).flatten(0, 1).double().detach() for layer in (model.query, model.key))
    values = model.value(x).view(4, 9, HEADS, HEAD).transpose(1, 2)
    split = [t.view(4, 9, HEADS, HEAD).transpose(1, 2) for t in (q, k)]
    mixed = ((split[0] * 0.4) @ split[1].mT).softmax(-1) @ values.double()
    v = mixed.transpose(1, 2).reshape(36, -1).detach()
    for one, left, right in zip(done.compensated, (q, model.out.weight.detach().double()), (k, v), strict=True):
        lost = whole = 0.0
        for h in range(HEADS):
            columns = slice(h * HEAD, (h + 1) * HEAD)
            strengths = torch.linalg.svdvals(left[:, columns] @ right[:, columns].T).square()
            lost, whole = lost + float(strengths[HEAD // 2 :].sum()), whole + float(strengths.sum())
        assert one.after == pytest.approx((lost / whole) ** 0.5, rel=1e-4)
        assert one.before > 1.2 * one.after


def test_no_error_rises_and_the_record_says_what_was_measured() -> None:
    model, x = Scores().eval(), torch.randn(4, 9, WIDTH)
    for ridge in (1e-4, 1.0, 100.0):
        plan, slim = narrow(model, x)
        done = compensate_heads(slim, model, plan, [x], ridge=ridge).compensated
        assert len(done) == 2 and all(0 < one.after < one.before < 1.5 for one in done)


def test_a_fused_projection_and_torch_attention() -> None:
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True).eval()
    for model, x, name, reads in (
        (vit.vit(depth=1).eval(), torch.randn(2, 3, 32, 32), "blocks.0.attn.qkv", "blocks.0.attn.proj.weight"),
        (layer, torch.randn(2, 5, 16), "self_attn.in_proj", "self_attn.out_proj.weight"),
    ):
        plan, slim = narrow(model, x)
        done = compensate_heads(slim, model, plan, [x])
        made = next(key for key in done.targets if key.endswith("weight"))
        assert [(one.name, one.other) for one in done.compensated] == [(made, made), (made, reads)]
        assert made.startswith(name) and done.targets.keys() == {made, made.replace("weight", "bias")}
        assert all(one.after < one.before for one in done.compensated)
        assert slim(x).isfinite().all()


def test_values_are_repaired_by_reconstruction() -> None:
    """The output projection is fitted to what heads of narrower values give."""
    model, x = Scores().eval(), torch.randn(8, 9, WIDTH)
    plan, slim = narrow(model, x)
    plain = (slim(x) - model(x)).norm()
    done = compensate_heads(slim, model, plan, [x])
    before = (slim(x) - model(x)).norm()
    assert before < 0.8 * plain
    repair = reconstruct(slim, model, plan, [x], targets=done.targets)
    assert (slim(x) - model(x)).norm() < before
    assert "out.weight" in [one.name for one in repair.repaired]


def test_reconstruction_keeps_to_the_targets() -> None:
    model, x = dependent(Scores()).eval(), torch.randn(8, 9, WIDTH)
    plan, slim = narrow(model, x)
    plain, wanted = plan.apply(model), scores(model, x)
    record = graphprune.repair(slim, model, plan, [x[:5], x[5:]])
    graphprune.reconstruct(plain, model, plan, [x[:5], x[5:]])
    assert (scores(slim, x) - wanted).norm() < 0.1 * (scores(plain, x) - wanted).norm()
    query = next(one for one in record.repaired if one.name == "query.weight")
    assert query.before < 1e-5 and all(one.after <= one.before for one in record.repaired)
    assert record.heads is not None and str(record.heads) in str(record)


def test_targets_of_a_projection_whose_input_lost_channels() -> None:
    """Compensated queries are fitted to the same combinations of dense ones, in parts of a fused weight as well."""
    torch.manual_seed(0)
    for model, x, name in (
        (nn.Sequential(nn.Linear(4, WIDTH), nn.ReLU(), Scores()), torch.randn(40, 9, 4), "2.query.weight"),
        (vit.vit(depth=1), torch.randn(8, 3, 32, 32), "blocks.0.attn.qkv.weight"),
        (
            nn.Sequential(nn.Linear(4, 16), nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)),
            torch.randn(40, 9, 4),
            "1.self_attn.in_proj_weight",
        ),
    ):
        model.eval()
        plan = graphprune.trace(model, x).plan(0.25, head_width=0.5)
        slim = plan.apply(model)
        done = compensate_heads(slim, model, plan, [x])
        assert name in {one.other for one in done.compensated}
        record = reconstruct(slim, model, plan, [x], targets=done.targets)
        fitted = [one for one in record.repaired if one.name == name]
        assert fitted and all(one.after < one.before for one in fitted)
        other = plan.apply(model)
        compensate_heads(other, model, plan, [x])
        reconstruct(other, model, plan, [x])
        assert (slim(x) - model(x)).norm() < 1.05 * (other(x) - model(x)).norm()


def test_a_failure_after_compensation_undoes_it() -> None:
    class Failing:
        """Good batches, until the second time that they are gone through."""

        times = 0

        def __iter__(self) -> Iterator[Tensor]:
            self.times += 1
            yield torch.randn(4, 9, WIDTH if self.times < 2 else 5)

    model, x = Scores().eval(), torch.randn(2, 9, WIDTH)
    plan, slim = narrow(model, x)
    before = {name: tensor.clone() for name, tensor in slim.state_dict().items()}
    with pytest.raises(InputError, match="failed on batch 0"):
        graphprune.repair(slim, model, plan, Failing())
    assert all(torch.equal(tensor, before[name]) for name, tensor in slim.state_dict().items())


# ---------------------------------------------------------------- what is left alone


@pytest.mark.parametrize(
    ("change", "op"),
    [
        (lambda t: t * t.new_ones(t.shape[2], 1).cumsum(0), "mul"),
        (lambda t: F.normalize(t, dim=-1), "div"),
        (lambda t: t.tanh(), "tanh"),
    ],
)
def test_changed_factors_are_left_alone(change: Callable[[Tensor], Tensor], op: str) -> None:
    model, x = Scores(change=change).eval(), torch.randn(2, 9, WIDTH)
    plan, slim = narrow(model, x)
    before = slim.query.weight.clone()
    done = compensate_heads(slim, model, plan, [x])
    assert [one.name for one in done.compensated] == ["value.weight"] and torch.equal(slim.query.weight, before)
    assert {one.name: one.why for one in done.left_alone}["query.weight"].startswith(f"{op} comes between")
    assert re.search(rf"left alone:\n(.*\n)*  query.weight +{op} comes between", str(done))


@pytest.mark.parametrize("shared", ["queries", "both"])
def test_factors_of_several_products_are_left_alone(shared: str) -> None:
    """Queries that meet two sets of keys, or keys that are the queries: a basis for one product is none for another."""

    class Several(Scores):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Linear(WIDTH, HEADS * HEAD)

        def forward(self, x: Tensor) -> Tensor:
            layers = (self.query, self.key, self.other, self.value)
            q, k, o, v = (layer(x).view(*x.shape[:2], HEADS, -1).transpose(1, 2) for layer in layers)
            first, second = (k, o) if shared == "queries" else (q, q)
            y = ((q @ first.mT).softmax(-1) + (q @ second.mT).softmax(-1)) @ v
            return self.out(y.transpose(1, 2).reshape(*x.shape[:2], -1))

    model, x = Several().eval(), torch.randn(2, 9, WIDTH)
    plan, slim = narrow(model, x)
    before = slim.query.weight.clone()
    done = compensate_heads(slim, model, plan, [x])
    assert plan.kept["query.weight"] and torch.equal(slim.query.weight, before)
    assert [one.name for one in done.compensated] == ["value.weight"]
    assert "one of several products" in done.left_alone[0].why


def test_mixed_values_that_are_changed_are_left_to_reconstruction() -> None:
    class Gated(Scores):
        def forward(self, x: Tensor) -> Tensor:
            layers = (self.query, self.key, self.value)
            q, k, v = (layer(x).view(*x.shape[:2], HEADS, -1).transpose(1, 2) for layer in layers)
            y = (q @ k.transpose(-1, -2)).softmax(-1) @ v
            return self.out((y * y.sigmoid()).transpose(1, 2).reshape(*x.shape[:2], -1))

    model, x = Gated().eval(), torch.randn(2, 9, WIDTH)
    plan, slim = narrow(model, x)
    before = slim.value.weight.clone()
    done = compensate_heads(slim, model, plan, [x])
    assert [one.name for one in done.compensated] == ["key.weight"] and torch.equal(slim.value.weight, before)


def test_values_that_change_in_place_are_seen() -> None:
    def change(t: Tensor) -> Tensor:
        t[..., :3].mul_(torch.arange(1.0, 4.0))
        return t

    model, x = Scores(change=change).eval(), torch.randn(2, 9, WIDTH)
    plan = graphprune.trace(Scores().eval(), x).plan(0.0, head_width=0.5)
    done = compensate_heads(plan.apply(model), model, plan, [x])
    assert [one.name for one in done.compensated] == ["value.weight"] and "in place" in done.left_alone[0].why


def test_rotary_positions_are_left_alone_but_values_are_not() -> None:
    model, ids = gpt.gpt(depth=1).eval(), torch.randint(256, (2, 8))
    plan, slim = narrow(model, ids)
    done = compensate_heads(slim, model, plan, [ids])
    assert [one.name for one in done.compensated] == ["blocks.0.attn.v_proj.weight"]
    assert [one.name for one in done.left_alone] == [f"blocks.0.attn.{n}_proj.weight" for n in "qk"]


def test_query_heads_that_share_values_share_the_subspace() -> None:
    torch.manual_seed(0)
    model, ids = gpt.gpt(depth=1, heads=4, kv_heads=2).eval(), torch.randint(256, (2, 8))
    with torch.no_grad():  # values of rank one half
        v = model.blocks[0].attn.v_proj.weight
        half = v.view(2, -1, v.shape[1]).shape[1] // 2
        v.copy_((torch.randn(2, 2 * half, half) @ torch.randn(2, half, v.shape[1])).flatten(0, 1))
    plan, slim = narrow(model, ids)
    done = compensate_heads(slim, model, plan, [ids], ridge=1e-9).compensated[0]
    assert (done.name, done.heads) == ("blocks.0.attn.v_proj.weight", 2) and done.after < 1e-3 < done.before


def test_whole_heads_and_nothing_change_nothing() -> None:
    model, x = vit.vit(depth=1).eval(), torch.randn(2, 3, 32, 32)
    for ratio in (0.0, 0.5):
        plan = graphprune.trace(model, x).plan(ratio)
        slim = plan.apply(model)
        before = {name: tensor.clone() for name, tensor in slim.state_dict().items()}
        assert not compensate_heads(slim, model, plan, [x]).compensated
        assert all(torch.equal(tensor, slim.state_dict()[name]) for name, tensor in before.items())


def test_wrong_arguments_are_named_and_nothing_changes() -> None:
    model, x = Scores().train(), torch.randn(2, 9, WIDTH)
    plan, slim = narrow(model, x)
    before = slim.query.weight.clone()
    with pytest.raises(InputError, match="calibration: there are no batches"):
        compensate_heads(slim, model, plan, [])
    with pytest.raises(InputError, match=r"calibration: Scores\.forward failed on batch 1"):
        compensate_heads(slim, model, plan, [x, x[..., :3]])
    for ridge in (0, float("inf"), None):
        with pytest.raises(InputError, match="ridge: must be a number above 0, but is") as raised:
            compensate_heads(slim, model, plan, [x], ridge=ridge)  # type: ignore[arg-type]
        assert raised.value.needed == "a number above 0"
    compensate_heads(copy.deepcopy(slim), model, plan, [x], ridge=Fraction(1, 100))  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="slim"):
        compensate_heads(Scores(), model, plan, [x])
    assert model.training and torch.equal(slim.query.weight, before)
