"""Repair against least squares worked out in other paths, and what it promises whatever the network."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

import graphprune
from graphprune.errors import InputError, PlanError
from graphprune.pruning.attention import PrunedMultiheadAttention
from graphprune.pruning.plan import Plan
from graphprune.reconstruction import layerwise
from graphprune.reconstruction.positive_systems import solve_positive
from graphprune.reconstruction.regression import BatchMoments, Regression
from graphprune.rules.registry import matmul_views
from models.gpt import gpt
from tests.networks import ConvNorm, FusedAttention, Residual, TorchAttention, randomize

aten = torch.ops.aten
TINY = 1e-10
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def pruned(model: nn.Module, example: Any, ratio: float | None = 0.5, **options: Any) -> tuple[Plan, nn.Module]:
    plan = graphprune.trace(model, example).plan(ratio, **options)
    return plan, plan.apply(model)


def made(model: nn.Module) -> nn.Module:
    return randomize(model).double().eval()


def recorded(model: nn.Module, layer: str, batches: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Inputs and outputs of a layer, over all calls."""
    calls: list[tuple[Tensor, Tensor]] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _, x, y: calls.append((x[0], y)))
    with torch.no_grad():
        for batch in batches:
            model(batch)
    handle.remove()
    xs, ys = zip(*calls, strict=True)
    return torch.cat(xs), torch.cat(ys)


def least_squares(
    call: Callable[[Tensor], Tensor], weight: Tensor, target: Tensor, intercept: bool
) -> tuple[Tensor, Tensor]:
    """The weight and outputs of a map that is linear in its weight, from its columns."""
    units = torch.eye(weight.numel(), dtype=weight.dtype).view(-1, *weight.shape)
    columns = torch.stack([call(unit) for unit in units], -1)  # [n, outputs, ..., weight]
    each = columns.movedim(1, -1).flatten(0, -3)  # [rows, weight, outputs]
    wanted = target.movedim(1, -1).flatten(0, -2)  # [rows, outputs]
    if intercept:
        each, wanted = each - each.mean(0), wanted - wanted.mean(0)
    a, b = each.transpose(1, 2).flatten(0, 1).numpy(), wanted.flatten().numpy()
    found = torch.from_numpy(np.linalg.lstsq(a, b, rcond=None)[0]).view(weight.shape)
    return found, call(found)


# ---------------------------------------------------------------- against other computations


class Layers(nn.Module):
    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 8), nn.Linear(8, 6, bias=bias), nn.Linear(6, 3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.three(self.two(self.one(x).relu()).relu())


def ridge_by_hand(x: Tensor, w: Tensor, y: Tensor, ridge: float, centered: bool) -> Tensor:
    """Augmented least squares: rows sqrt(lambda) for the pull towards ``w`` [outputs, channels]."""
    x, r = x.numpy(), (y - x @ w.T).numpy()
    if centered:
        x, r = x - x.mean(0), r - r.mean(0)
    pull = np.sqrt(ridge * (x**2).mean() * len(x)) * np.eye(x.shape[1])
    rows, values = np.concatenate([x, pull]), np.concatenate([r, np.zeros((x.shape[1], r.shape[1]))])
    change = np.linalg.lstsq(rows, values, rcond=None)[0]
    return w + torch.from_numpy(change.T)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("ridge", [1e-3, 1.0])
def test_linear_layers_are_fitted_one_after_the_other(bias: bool, ridge: float) -> None:
    model = made(Layers(bias))
    batches = [torch.randn(n, 4, dtype=torch.float64) for n in (50, 30)]
    plan, slim = pruned(model, batches[0])
    raw = plan.apply(model)
    record = graphprune.reconstruct(slim, model, plan, batches, ridge=ridge)
    assert [one.name for one in record.repaired] == ["one.weight", "two.weight", "three.weight"]
    for layer in ("two", "three"):
        x, _ = recorded(slim, layer, batches)
        _, y = recorded(model, layer, batches)
        if layer == "two":
            y = y[:, torch.from_numpy(plan.kept["two.weight"][0])]
        expected = ridge_by_hand(x, raw.get_submodule(layer).weight.detach(), y, ridge, bias)
        torch.testing.assert_close(slim.get_submodule(layer).weight.detach(), expected, rtol=1e-8, atol=1e-10)
        if bias:
            torch.testing.assert_close(recorded(slim, layer, batches)[1].mean(0), y.mean(0))


class OneMore(nn.Module):
    """A scale that is stored as its difference from one, as some RMS norms have it."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.weight, self.leave = nn.Linear(4, 8), nn.Parameter(torch.zeros(8)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.enter(x).relu() * (1.0 + self.weight))


def test_a_vector_may_be_added_to_a_number() -> None:
    model = made(OneMore())
    batch = torch.randn(50, 4, dtype=torch.float64)
    plan, slim = pruned(model, batch)
    record = graphprune.reconstruct(slim, model, plan, [batch])
    assert [one.name for one in record.repaired] == ["enter.weight", "leave.weight"]
    assert record.repaired[1].after < record.repaired[1].before


GEOMETRIES: list[tuple[Callable[..., nn.Module], int, dict[str, Any]]] = [
    (nn.Conv1d, 1, {"kernel_size": 3, "stride": 2, "padding": 2, "dilation": 2}),
    (nn.Conv2d, 2, {"kernel_size": 1, "stride": 2}),
    (nn.Conv2d, 2, {"kernel_size": (3, 2), "stride": (1, 2), "padding": (2, 1), "dilation": (1, 2), "groups": 2}),
    (nn.Conv2d, 2, {"kernel_size": 3, "padding": "same", "bias": False}),
    (nn.Conv3d, 3, {"kernel_size": (2, 1, 2), "padding": 1, "stride": (2, 1, 1)}),
    (nn.ConvTranspose1d, 1, {"kernel_size": 3, "stride": 3, "padding": 1, "output_padding": 2, "groups": 2}),
    (nn.ConvTranspose2d, 2, {"kernel_size": (2, 3), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}),
    (nn.ConvTranspose2d, 2, {"kernel_size": 2, "padding": 1, "bias": False}),
    (nn.ConvTranspose3d, 3, {"kernel_size": (1, 2, 1), "stride": 2}),
]


@pytest.mark.parametrize(("kind", "dims", "settings"), GEOMETRIES)
def test_convolutions_of_any_geometry(kind: Any, dims: int, settings: dict[str, Any]) -> None:
    enter = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](2, 8, 1)
    model = made(nn.Sequential(enter, nn.ReLU(), kind(8, 4, **settings)))
    batches = [torch.randn(n, 2, *[7, 5, 3][:dims], dtype=torch.float64) for n in (12, 8)]
    plan, slim = pruned(model, batches[0])
    graphprune.reconstruct(slim, model, plan, batches, ridge=TINY)
    layer = slim[2]
    x, found = recorded(slim, "2", batches)
    _, target = recorded(model, "2", batches)
    bias, layer.bias = layer.bias, None
    weight = layer.weight.detach().clone()
    assert weight.numel() < model[2].weight.numel()

    def call(w: Tensor) -> Tensor:
        with torch.no_grad():
            layer.weight.copy_(w)
            return layer(x)

    expected, output = least_squares(call, weight, target, bias is not None)
    torch.testing.assert_close(weight, expected, **CLOSE)
    if bias is not None:
        expected_bias = (target - output).movedim(1, -1).flatten(0, -2).mean(0)
        torch.testing.assert_close(bias.detach(), expected_bias, **CLOSE)
        assert (found - target).mean().abs() < 1e-8


def test_a_batch_norm_takes_the_intercept() -> None:
    model = made(nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 3, bias=False), nn.BatchNorm2d(4)))
    batches = [torch.randn(9, 2, 6, 6, dtype=torch.float64)]
    plan, slim = pruned(model, batches[0])
    record = graphprune.reconstruct(slim, model, plan, batches)
    assert record.repaired[-1].intercept == "3.running_mean"
    assert not torch.equal(slim[3].running_mean, model[3].running_mean)
    difference = recorded(slim, "3", batches)[1] - recorded(model, "3", batches)[1]
    assert difference.mean((0, 2, 3)).abs().max() < 1e-12


def test_a_batch_norm_that_sees_other_tensors_too_takes_nothing() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.conv, self.norm = nn.Conv1d(2, 8, 1), nn.Conv1d(8, 4, 1, bias=False), nn.BatchNorm1d(4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(self.enter(x).relu())
            return self.norm(y) + self.norm(y.exp())

    model = made(Shared())
    batch = torch.randn(9, 2, 6, dtype=torch.float64)
    plan, slim = pruned(model, batch)
    record = graphprune.reconstruct(slim, model, plan, [batch])
    assert {one.name: one.intercept for one in record.repaired} == {"enter.weight": "enter.bias", "conv.weight": None}


def test_a_layer_that_is_called_twice_is_one_system_of_dense_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layerwise, "settled", lambda one, *_: one.record)  # the fit on dense inputs alone

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.inner, self.outer = nn.Linear(3, 4), nn.Linear(4, 12), nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.enter(x)
            for _ in range(2):
                x = x + self.outer(self.inner(x).relu())
            return x

    model = made(Loop())
    batches = [torch.randn(40, 3, dtype=torch.float64) for _ in range(2)]
    plan, slim = pruned(model, batches[0], None, mlp=0.5)
    raw = plan.apply(model)
    record = graphprune.reconstruct(slim, model, plan, batches, ridge=1e-3)
    outer = next(one for one in record.repaired if one.name == "outer.weight")
    assert outer.after < 0.9 * outer.before
    x, y = recorded(model, "outer", batches)  # its own inputs would be others after the fit
    kept = torch.from_numpy(plan.kept["outer.weight"][1])
    by_hand = ridge_by_hand(x[:, kept], raw.outer.weight.detach(), y, 1e-3, True)
    torch.testing.assert_close(slim.outer.weight.detach(), by_hand, rtol=1e-8, atol=1e-10)


class Attended(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.enter, self.attention, self.leave = nn.Linear(3, 8), attention, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.attention(self.enter(x)))


def test_fused_attention() -> None:
    model = made(Attended(FusedAttention(8, 4)))
    batches = [torch.randn(6, 10, 3, dtype=torch.float64) for _ in range(2)]
    plan, slim = pruned(model, batches[0], None, heads=0.5)
    before = distance(slim, model, batches)
    record = graphprune.reconstruct(slim, model, plan, batches)
    assert not record.left_alone
    (fused,) = (one for one in record.repaired if one.name == "attention.qkv.weight")
    assert fused.before < 1e-12  # its input is whole
    assert distance(slim, model, batches) < 0.5 * before


def test_parts_of_a_fused_weight_agree_with_the_whole() -> None:
    """Three products with parts of a weight in the slim model, one with all of it in the dense one; bias afterwards."""

    class Projected(nn.Module):
        def __init__(self, parts: int) -> None:
            super().__init__()
            self.parts, self.enter, self.fused = parts, nn.Linear(3, 8), nn.Linear(8, 6)

        def forward(self, x: Tensor) -> Tensor:
            x, weight, bias = self.enter(x).relu(), self.fused.weight, self.fused.bias
            if self.parts == 1:
                return x @ weight.T + bias
            pieces = zip(weight.chunk(self.parts), bias.chunk(self.parts), strict=True)
            return torch.cat([F.linear(x, w, b) for w, b in pieces], -1)

    whole = made(Projected(1))
    batch = torch.randn(40, 3, dtype=torch.float64)
    plan, slim = pruned(whole, batch)
    other = plan.apply(whole)
    other.parts = 3
    record = graphprune.reconstruct(other, whole, plan, [batch])
    assert [one.intercept for one in record.repaired] == ["enter.bias", *["fused.bias"] * 3]
    assert all(0 < one.after < one.before for one in record.repaired[1:])
    graphprune.reconstruct(slim, whole, plan, [batch])
    torch.testing.assert_close(other.fused.weight, slim.fused.weight)
    torch.testing.assert_close(other.fused.bias, slim.fused.bias)


@pytest.mark.parametrize("options", [{"heads": 0.5}, {"head_width": 0.5}])
@pytest.mark.parametrize("batch_first", [True, False])
def test_a_module_that_was_replaced_is_fitted_row_by_row(batch_first: bool, options: dict[str, Any]) -> None:
    model = made(Attended(TorchAttention(8, 2)))
    model.attention.attention.batch_first = batch_first
    batches = [torch.randn(6, 10, 3, dtype=torch.float64) for _ in range(2)]
    plan, slim = pruned(model, batches[0], None, **options)
    assert isinstance(slim.attention.attention, PrunedMultiheadAttention)
    before = distance(slim, model, batches)
    record = graphprune.reconstruct(slim, model, plan, batches)
    parts = [one for one in record.repaired if one.name == "attention.attention.in_proj_weight"]
    assert len(parts) == 3 and max(one.before for one in parts) < 1e-12  # their input is whole
    assert not record.left_alone and all(one.after <= one.before for one in record.repaired)
    assert distance(slim, model, batches) < 0.7 * before


def distance(slim: nn.Module, dense: nn.Module, batches: list[Any]) -> float:
    with torch.no_grad():
        return float(sum((slim(b) - dense(b)).square().sum() for b in batches))


# ---------------------------------------------------------------- what holds for every network


class Branched(nn.Module):
    """Convolutions in a residual block, then attention over positions, then classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = ConvNorm(3, 8), Residual(8, 12, True)
        self.grouped = nn.Conv2d(8, 8, 3, groups=4, padding=1)
        self.attention, self.fc = FusedAttention(8, 2), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.grouped(self.block(x, x)).relu()
        return self.fc(self.attention(x.flatten(2).transpose(1, 2)).mean(1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "branched": (Branched, lambda: torch.randn(8, 3, 6, 6)),
    "attention": (lambda: Attended(TorchAttention(8, 4)), lambda: torch.randn(4, 9, 3)),
    "encoder": (lambda: Attended(nn.TransformerEncoderLayer(8, 4, 12)), lambda: torch.randn(4, 9, 3)),
    "gpt": (lambda: gpt(50, 16, 2, 2, 1, 24, 16, False), lambda: torch.randint(50, (6, 16))),
    "tied gpt": (lambda: gpt(50, 16, 2, 2, 1, 24, 16, True), lambda: torch.randint(50, (6, 16))),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_repair_without_pruning_changes_no_bit(name: str) -> None:
    build, draw = NETWORKS[name]
    model = randomize(build()).eval()
    batches = [draw(), draw()]
    plan, slim = pruned(model, batches[0], 0.0)
    same = slim.state_dict()
    before = {n: t.clone() for n, t in same.items()}
    record = graphprune.reconstruct(slim, model, plan, batches)
    assert record.repaired and all(one.before == one.after == 0 for one in record.repaired)
    graphprune.repair(slim, model, plan, batches)
    assert all(torch.equal(t, before[n]) for n, t in slim.state_dict().items())


@pytest.mark.parametrize("ridge", [1e-6, 1e-2, 1e3])
@pytest.mark.parametrize("name", NETWORKS)
def test_no_error_rises(name: str, ridge: float) -> None:
    build, draw = NETWORKS[name]
    model = randomize(build()).eval()
    batches = [draw(), draw()]
    plan, slim = pruned(model, batches[0])
    before = distance(slim, model, batches)
    record = graphprune.reconstruct(slim, model, plan, batches, ridge=ridge)
    assert all(one.after <= one.before for one in record.repaired)
    assert sum(one.after < one.before for one in record.repaired) >= len(record.repaired) // 2
    if ridge < 1:
        assert distance(slim, model, batches) < 0.7 * before


def test_the_error_that_is_reported_is_the_error_of_the_output() -> None:
    model = made(Layers())
    batch = torch.randn(50, 4, dtype=torch.float64)
    plan, slim = pruned(model, batch)
    record = graphprune.reconstruct(slim, model, plan, [batch])
    with torch.no_grad():
        expected = ((slim(batch) - model(batch)).square().sum() / model(batch).square().sum()).sqrt()
    assert record.repaired[-1].after == pytest.approx(float(expected), rel=1e-9)


def test_the_dense_model_and_modes_are_as_before() -> None:
    model = randomize(Branched()).train()
    model.fc.eval()
    batch = torch.randn(8, 3, 6, 6)
    plan, slim = pruned(model, batch)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    graphprune.repair(slim, model, plan, [batch])
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    for one in (model, slim):
        assert one.training and one.stem.training and not one.fc.training
        assert all(p.requires_grad and p.grad is None for p in one.parameters())


# ---------------------------------------------------------------- what is left alone, and errors


def reasons(record: graphprune.Repair) -> dict[str, str]:
    return {one.name: one.why for one in record.left_alone}


def test_what_cannot_be_fitted_is_left_alone_with_the_reason() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(12, 6)
            self.normed = weight_norm(nn.Linear(6, 8))
            self.inner = nn.Linear(8, 6)
            self.scaled = nn.Parameter(torch.randn(6, 6))
            self.unused = nn.Linear(2, 2)

        def forward(self, ids: Tensor) -> Tensor:
            y = self.inner(self.normed(self.table(ids)).relu()) @ (self.scaled * 2)
            return F.linear(y, self.table.weight)

    model = Odd().eval()
    ids = torch.randint(12, (4, 9))
    plan, slim = pruned(model, ids)
    table = slim.table.weight.detach().clone()
    record = graphprune.reconstruct(slim, model, plan, [ids])
    assert [one.name for one in record.repaired] == ["normed.weight", "inner.weight"]
    found = reasons(record)
    assert found["table.weight"] == "also used by embedding"
    assert found["scaled"].startswith("a weight is computed from it by mul")
    assert found["unused.weight"] == "not used"
    assert torch.equal(slim.table.weight, table)


@pytest.mark.parametrize("keep", [nn.Module.__setattr__, partial(nn.Module.register_buffer, persistent=False)])
@pytest.mark.parametrize("scale", [1, 2])
def test_weights_that_are_not_saved_are_listed_as_left_alone(keep: Callable[..., None], scale: int) -> None:
    class Unsaved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter = nn.Linear(6, 8)
            keep(self, "weight", torch.randn(8, 5))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.enter(x).relu() @ (self.weight if scale == 1 else self.weight * scale)
            return y

    model, x = Unsaved().eval(), torch.randn(9, 6)
    plan, slim = pruned(model, x)
    record = graphprune.reconstruct(slim, model, plan, [x])
    assert [one.name for one in record.repaired] == ["enter.weight"]
    assert reasons(record)["weight"].startswith("not saved with the model")


class Tied(nn.Module):
    """An autoencoder that reads its weights in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.inner = nn.Linear(5, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(self.enter(x).relu()).relu()
        return F.linear(F.linear(y, self.inner.weight.t()).relu(), self.enter.weight.t())


def test_a_weight_that_is_used_in_two_ways_is_listed_once() -> None:
    model, x = randomize(Tied()).eval(), torch.randn(9, 5)
    plan, slim = pruned(model, x)
    record = graphprune.reconstruct(slim, model, plan, [x])
    assert sorted(one.name for one in record.left_alone) == ["enter.weight", "inner.weight"]
    assert set(reasons(record).values()) == {"entries of it are in several weights, as in one and its transpose"}


class Routed(nn.Module):
    """Each row goes through the expert that the router likes best; experts in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.router = nn.Linear(4, 12), nn.Linear(12, 3)
        self.experts = nn.ModuleList(nn.Linear(12, 6) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).relu()
        best = self.router(x).argmax(-1)
        out = x.new_zeros(len(x), 6)
        for number, expert in enumerate(self.experts):
            rows = (best == number).nonzero()[:, 0]
            out = out.index_add(0, rows, expert(x[rows]))
        return out


def test_experts_that_other_rows_go_through_are_left_alone() -> None:
    model = randomize(Routed()).eval()
    batch = torch.randn(64, 4)
    plan, slim = pruned(model, batch, None, overrides={"enter": graphprune.Override(ratio=0.9)}, macs=0.5)
    record = graphprune.reconstruct(slim, model, plan, [batch])
    assert "other rows go through it than in the dense model" in reasons(record).values()
    assert {"enter.weight", "router.weight"} <= {one.name for one in record.repaired}


class AlongChannels(nn.Module):
    """A convolution goes over the channels of a layer; each kernel sees several of them."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 32), nn.Linear(32, 5)
        self.mix = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.leave(self.mix(self.enter(x)).relu())
        return out


@pytest.mark.parametrize("ratio", [0.3, 0.5])
def test_convolutions_over_channels_are_left_alone(ratio: float) -> None:
    model, batch = randomize(AlongChannels()).eval(), torch.randn(64, 1, 8)
    plan, slim = pruned(model, batch, ratio)
    record = graphprune.reconstruct(slim, model, plan, [batch])
    assert reasons(record) == {"mix.weight": "other rows go through it than in the dense model"}
    assert [one.name for one in record.repaired] == ["enter.weight", "leave.weight"]


def test_warnings_are_filtered_as_before() -> None:
    """Passes that wait in such a context leave it in another order than they entered it."""

    class Strict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            with warnings.catch_warnings():
                warnings.simplefilter("always", category=BytesWarning)
                return self.two(self.one(x).relu())

    model, batches = randomize(Strict()).eval(), [torch.randn(9, 4) for _ in range(3)]
    plan, slim = pruned(model, batches[0])
    filters = list(warnings.filters)
    assert len(graphprune.reconstruct(slim, model, plan, batches).repaired) == 2
    assert list(warnings.filters) == filters


@contextmanager
def counted(*models: nn.Module) -> Iterator[list[int]]:
    """The number of forward passes of each model, on whichever copies."""
    passes = [0] * len(models)
    forward = nn.Module.__call__
    classes = [type(model) for model in models]

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if type(module) in classes:
            passes[[len(list(module.parameters())) and width(module) == width(m) for m in models].index(True)] += 1
        return forward(module, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "__call__", call)
        yield passes


def width(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_one_pass_of_each_batch_fits_a_chain_of_consumers() -> None:
    for depth in (1, 3):
        model = randomize(gpt(50, 16, depth, 2, 1, 24, 16, False)).eval()
        batches = [torch.randint(50, (4, 16)) for _ in range(3)]
        plan, slim = pruned(model, batches[0])
        with counted(model, slim) as passes:
            record = graphprune.reconstruct(slim, model, plan, batches)
        assert len(record.repaired) == 7 * depth + 1
        assert passes == [1 + 3, 1 + 3]  # one batch is recorded, and stands for the others of its shape


def test_consumers_of_one_weight_take_a_pass_each() -> None:
    """What one encoder makes of two inputs is fitted to both at once."""

    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = nn.Linear(6, 12), nn.Linear(12, 8), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            sides = [self.two(self.one(side).relu()).relu() for side in (x, 2 * x.flip(1))]
            return self.head(torch.cat(sides, 1))

    model, batches = randomize(Twins()).double().eval(), [torch.randn(32, 6).double() for _ in range(2)]
    plan, slim = pruned(model, batches[0])
    with counted(model, slim) as passes:
        record = graphprune.reconstruct(slim, model, plan, batches)
    assert [one.name for one in record.repaired] == ["one.weight", "two.weight", "head.weight"]
    assert passes[1] == 1 + 2 * 3 and all(one.after <= one.before for one in record.repaired)
    whole = plan.apply(model)
    graphprune.reconstruct(whole, model, plan, [torch.cat(batches)])
    for mine, theirs in zip(slim.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-8)


def test_batches_of_the_same_shape_may_call_other_consumers() -> None:
    class Either(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.plus, self.minus, self.head = (
                nn.Linear(n, m) for n, m in ((4, 8), (8, 8), (8, 8), (8, 3))
            )

        def forward(self, x: Tensor) -> Tensor:
            y = self.enter(x).relu()
            return self.head((self.plus(y) if x.sum() > 0 else self.minus(y)).relu())

    model, batch = randomize(Either()).double().eval(), torch.rand(32, 4).double()
    graph = graphprune.trace(model, [batch, -batch])
    plan = graph.plan(0.5)
    slim = plan.apply(model)
    record = graphprune.reconstruct(slim, model, plan, [batch, -batch, 2 * batch])
    assert [one.name for one in record.repaired] == ["enter.weight", "plus.weight", "minus.weight", "head.weight"]
    alone = plan.apply(model)
    graphprune.reconstruct(alone, model, plan, [torch.cat([batch, 2 * batch]), -batch])
    for mine, theirs in zip(slim.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-8)


def test_batches_may_meet_consumers_in_another_order() -> None:
    """Passes that wait at different consumers do not wait for each other."""

    class Swapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(6, 12), nn.Linear(12, 3)
            self.one, self.two = nn.Linear(12, 12), nn.Linear(12, 12)

        def forward(self, x: Tensor) -> Tensor:
            y = self.enter(x).relu()
            first, second = (self.one, self.two) if x.sum() > 0 else (self.two, self.one)
            return self.leave(y + second(y + first(y).relu()).relu())

    model, batch = randomize(Swapped()).double().eval(), torch.rand(32, 6).double()
    graph = graphprune.trace(model, [batch, -batch])
    plan = graph.plan(0.4)
    slim = plan.apply(model)
    record = graphprune.reconstruct(slim, model, plan, [batch, -batch, 2 * batch])
    assert {one.name for one in record.repaired} == {f"{name}.weight" for name in ("enter", "one", "two", "leave")}
    assert all(one.after < one.before for one in record.repaired if one.name != "enter.weight")


def test_a_model_may_write_to_its_inputs() -> None:
    """Both models see the same batches, in every pass, and the caller has them as they were."""

    class Scaling(nn.Module):
        def __init__(self, in_place: bool) -> None:
            super().__init__()
            self.in_place = in_place
            self.one, self.two, self.head = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x.mul_(0.5).add_(1) if self.in_place else x * 0.5 + 1
            return self.head(self.two(self.one(x).relu()).relu())

    batches = [torch.randn(n, 6, generator=torch.Generator().manual_seed(n)).double() for n in (16, 24)]
    first = [batch.clone() for batch in batches]
    plain, writing = (randomize(Scaling(in_place)).double().eval() for in_place in (False, True))
    writing.load_state_dict(plain.state_dict())
    slims = []
    for model in (plain, writing):
        plan, slim = pruned(model, first[0].clone())
        graphprune.repair(slim, model, plan, batches)
        slims.append(slim)
    assert all(map(torch.equal, batches, first))
    assert all(map(torch.equal, slims[0].state_dict().values(), slims[1].state_dict().values()))


def test_what_a_pass_keeps_in_modules_is_that_of_its_own_batch() -> None:
    """Passes of several batches wait in the midst of a forward that notes values in the module."""

    class Noting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 3)
            self.notes: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            self.notes.clear()
            self.notes.append(x.abs().mean())
            self.size = len(x)
            y = self.two(self.one(x).relu()).relu()
            assert self.size == len(x) and len(self.notes) == 1
            return self.head(y * self.notes[0])

    model, batches = randomize(Noting()).double().eval(), [torch.randn(n, 6).double() * n for n in (16, 24, 32)]
    plan, slim = pruned(model, batches[0])
    whole = plan.apply(model)
    record = graphprune.reconstruct(slim, model, plan, batches)
    for batch in reversed(batches):
        graphprune.reconstruct(whole, model, plan, [batch])
    assert len(record.repaired) == 3 and all(one.after <= one.before for one in record.repaired)
    assert not slim.notes and not hasattr(slim, "size")


BAD: list[tuple[Any, str]] = [
    (torch.randn(4, 4), r"calibration: is a Tensor[\s\S]*needed: an iterable of batches"),
    (3, r"calibration: is an int[\s\S]*needed: an iterable of batches"),
    (
        iter([torch.randn(4, 4)]),
        r"calibration[\s\S]*is a list_iterator[\s\S]*which can be read only once[\s\S]*.* pass a list",
    ),
    ([], r"calibration: there are no batches"),
    ([5], r"calibration: batch 0 is an int"),
    ([torch.randn(4, 4), torch.randn(4, 5)], r"calibration: Layers.forward failed on batch 1[\s\S]*f32\[4, 5\]"),
    ([(torch.randn(4, 4), torch.zeros(4))], r"forward failed on batch 0[\s\S]*pass batches of inputs alone"),
]


@pytest.mark.parametrize(("calibration", "message"), BAD)
def test_bad_calibration_is_refused(calibration: Any, message: str) -> None:
    model = Layers().eval()
    plan, slim = pruned(model, torch.randn(2, 4))
    with pytest.raises(InputError, match=message):
        graphprune.repair(slim, model, plan, calibration)
    with pytest.raises(InputError, match=message):
        graphprune.prune_model(model, 0.5, torch.randn(2, 4), calibration=calibration)


def test_other_bad_arguments_are_refused() -> None:
    model, batch = Layers().eval(), torch.randn(6, 4)
    plan, slim = pruned(model, batch)
    for ridge in (0, float("inf"), 10**400, "1"):
        with pytest.raises(InputError, match=r"ridge: must be a number above 0, or None, but is .*"):
            graphprune.reconstruct(slim, model, plan, [batch], ridge=ridge)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"ridge: must be a number above 0, but is .*"):
            graphprune.repair(slim, model, plan, [batch], ridge=ridge)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=r"slim: one.weight has shape \[8, 4\], and the plan makes \[4, 4\] of it"):
        graphprune.repair(model, model, plan, [batch])
    nothing, _ = pruned(model, batch, 0.0)
    with pytest.raises(PlanError, match="slim: shares tensors with the dense model"):
        graphprune.repair(model, model, nothing, [batch])
    with pytest.raises(PlanError, match=r"model: one.weight has shape"):
        graphprune.repair(slim, slim, plan, [batch])


class Failing(nn.Module):
    """Fails the ``which``-th time that it is called."""

    times, which = 0, 0

    def forward(self, x: Tensor) -> Tensor:
        Failing.times += 1
        if Failing.times == Failing.which:
            raise RuntimeError("at last")
        return x


@pytest.mark.parametrize("which", range(1, 9))
def test_after_a_failure_the_slim_model_is_unchanged(which: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomize(
        nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), Failing(), nn.Linear(8, 3))
    )
    plan, slim = pruned(model, torch.randn(2, 4))
    before = {n: t.clone() for n, t in slim.state_dict().items()}
    monkeypatch.setattr(Failing, "times", 0)
    monkeypatch.setattr(Failing, "which", which)
    threads = threading.active_count()
    with pytest.raises(InputError, match=r"failed on batch [01]: RuntimeError: at last"):
        graphprune.repair(slim, model, plan, [torch.randn(9, 4), torch.randn(9, 4)])
    assert slim.training and model.training and threading.active_count() == threads
    assert all(torch.equal(t, before[n]) for n, t in slim.state_dict().items())


# ---------------------------------------------------------------- batch norms, and all in one call


def test_batch_norms_get_the_statistics_of_all_batches() -> None:
    model = made(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2), nn.BatchNorm1d(2))).train()
    batches = [torch.randn(n, 3, dtype=torch.float64) * 2 + n for n in (5, 9)]
    assert graphprune.reestimate_batch_norm(model, batches, leave=["2.running_mean"]) == ("0.running_mean",)
    whole = torch.cat(batches)
    torch.testing.assert_close(model[0].running_mean, whole.mean(0))
    torch.testing.assert_close(model[0].running_var, whole.var(0))
    assert model.training and int(model[0].num_batches_tracked) == 0
    last = model[2].running_mean.clone()
    graphprune.reestimate_batch_norm(model, batches[:1])
    assert not torch.equal(model[2].running_mean, last)
    x = (batches[0] - batches[0].mean(0)) / (batches[0].var(0, correction=0) + 1e-5).sqrt()
    x = model[1](x * model[0].weight + model[0].bias)
    torch.testing.assert_close(model[2].running_mean, x.mean(0).detach())


class PreNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 8, 1), nn.Conv2d(16, 8, 1, bias=False)
        self.inner = nn.Conv2d(8, 16, 1, bias=False)
        self.norm1, self.norm2, self.norm3 = nn.BatchNorm2d(8), nn.BatchNorm2d(16), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        x = x + self.leave(self.norm2(self.inner(self.norm1(x).relu())).relu())
        return self.norm3(x).mean((2, 3))


def test_repair_estimates_batch_norms_that_took_no_intercept() -> None:
    model = randomize(PreNorm()).eval()
    batch = torch.randn(8, 3, 5, 5)
    plan, slim = pruned(model, batch)
    record = graphprune.repair(slim, model, plan, [batch])
    assert record.norms == ("norm1.running_mean", "norm3.running_mean")
    plain = plan.apply(model)
    assert graphprune.repair(plain, model, plan, [batch], reestimate=False).norms == ()
    assert torch.equal(plain.norm2.running_var, slim.norm2.running_var)
    assert not torch.equal(plain.norm3.running_var, slim.norm3.running_var)


def test_autocast_gives_the_same_weights() -> None:
    model = randomize(Layers()).eval()
    batches = [torch.randn(64, 4) for _ in range(2)]
    plan, slim = pruned(model, batches[0])
    graphprune.repair(slim, model, plan, batches)
    cast = plan.apply(model)
    with torch.autocast("cpu", torch.bfloat16):
        record = graphprune.repair(cast, model, plan, batches)
        assert model(batches[0]).dtype == torch.bfloat16
    assert len(record.repaired) == 3
    assert all(torch.equal(t, slim.state_dict()[n]) for n, t in cast.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_single(dtype: torch.dtype) -> None:
    model = randomize(Layers()).eval()
    batches = [torch.randn(3000, 4) * 30 for _ in range(3)]  # sums of squares are beyond the range of float16
    plan, slim = pruned(model, batches[0])
    graphprune.repair(slim, model, plan, batches)
    half = copy.deepcopy(model).to(dtype)
    plan = graphprune.trace(half, batches[0].to(dtype)).plan_from_kept(
        {name: plan.kept[f"{name}.weight"][0].tolist() for name in ("one", "two")}
    )
    found = plan.apply(half)
    record = graphprune.repair(found, half, plan, [batch.to(dtype) for batch in batches])
    assert len(record.repaired) == 3
    for name, tensor in found.state_dict().items():
        wanted = slim.state_dict()[name]
        assert tensor.dtype == dtype and float((tensor.float() - wanted).norm() / wanted.norm()) < 0.05, name


def test_prune_model_repairs_with_calibration() -> None:
    model = randomize(Branched()).eval()
    images = [torch.randn(8, 3, 6, 6) for _ in range(2)]
    plain = graphprune.prune_model(model, 0.5, images[0], calibration=images, repair=False)
    slim = graphprune.prune_model(model, 0.5, images[0], calibration=images, importance="l2")
    assert distance(slim, model, images) < 0.5 * distance(plain, model, images)
    pairs = [(x, torch.zeros(8, dtype=torch.long)) for x in images]
    paired = graphprune.prune_model(model, 0.5, images[0], calibration=pairs, loss_fn=F.cross_entropy, importance="l2")
    assert all(torch.equal(t, slim.state_dict()[n]) for n, t in paired.state_dict().items())
    with pytest.raises(
        InputError, match=r"with loss_fn= a batch is a pair \(inputs, target\), but batch 0 is a Tensor"
    ):
        graphprune.prune_model(model, 0.5, images[0], calibration=images, loss_fn=F.cross_entropy)
    same = graphprune.prune_model(model, 0.5, images[0], calibration=images, importance="l2", inplace=True)
    assert same is model
    assert all(torch.equal(t, slim.state_dict()[n]) for n, t in model.state_dict().items())


def test_a_record_prints() -> None:
    model, batch = randomize(Layers()).eval(), torch.randn(9, 4)
    plan, slim = pruned(model, batch)
    text = str(graphprune.repair(slim, model, plan, [batch]))
    assert text.startswith("Repair: 3 weights fitted, 0 batch norms re-estimated, 0 weights left alone")
    assert "two.weight" in text and "two.bias" in text and "after" in text


# ---------------------------------------------------------------- parts


def assert_exact(func: Any, args: tuple[Any, ...], blocks: int) -> None:
    """The product of what a form opens is what the call returns."""
    y = func(*args)
    for number, form in enumerate(view.exact(args) for view in matmul_views(func)):
        x, weight = form.open(args[form.x], args[form.weight], args, blocks)
        product = torch.einsum("nbcm,bco->nbom", x, weight)
        assert form.result is not None
        result = form.result(y, blocks)
        assert product.shape == result.shape, number
        torch.testing.assert_close(product, result)


def test_forms_of_matrix_products_are_exact() -> None:
    a, b = torch.randn(4, 3, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    assert_exact(aten.mm.default, (a, b), 1)
    assert_exact(aten.addmm.default, (torch.zeros(4, 5, dtype=torch.float64), a, b), 1)
    assert_exact(aten.mv.default, (a, b[:, 0]), 1)
    assert_exact(aten.linear.default, (a, b.T), 1)
    assert_exact(aten.bmm.default, (torch.stack([a, 2 * a]), torch.stack([b, b + 1])), 2)
    assert_exact(aten.bmm.default, (a[None], b[None]), 1)


@settings(max_examples=40)
@given(
    dims=st.integers(1, 3),
    transposed=st.booleans(),
    groups=st.integers(1, 2),
    data=st.data(),
)
def test_forms_of_convolutions_are_exact(dims: int, transposed: bool, groups: int, data: st.DataObject) -> None:
    def draw(low: int, high: int) -> list[int]:
        return data.draw(st.lists(st.integers(low, high), min_size=dims, max_size=dims))

    kernel, stride, dilation, padding = draw(1, 3), draw(1, 3), draw(1, 2), draw(0, 2)
    extra = [s - 1 for s in stride] if transposed else [0] * dims
    shape = (2 * groups, 3) if transposed else (3 * groups, 2)
    x = torch.randn(2, 2 * groups, *[s + 5 for s in stride], dtype=torch.float64)
    weight = torch.randn(*shape, *kernel, dtype=torch.float64)
    args = (x, weight, None, stride, padding, dilation, transposed, extra, groups)
    assert_exact(aten.convolution.default, args, groups)


def test_batches_are_joined() -> None:
    x, r = torch.randn(20, 2, 3, 4, dtype=torch.float64) + 5, torch.randn(20, 2, 6, 4, dtype=torch.float64) - 3
    whole, parts = Regression(), Regression()
    whole.add(BatchMoments.of(x, r), r)
    for piece in (slice(0, 3), slice(3, 3), slice(3, 20)):
        parts.add(BatchMoments.of(x[piece], r[piece]), r[piece])
    for centered in (True, False):
        change = whole.solve(1e-2, centered)
        torch.testing.assert_close(parts.solve(1e-2, centered), change)
        intercept = whole.intercept(change) if centered else None
        torch.testing.assert_close(parts.intercept(change), whole.intercept(change))
        assert parts.error(change, intercept) == pytest.approx(whole.error(change, intercept))


def test_many_unknowns_are_solved_for_as_well_in_single_precision() -> None:
    rows = torch.randn(1, 1100, 3000, dtype=torch.float64).cumsum(1)
    system = rows @ rows.mT + 1e-4 * rows.square().sum(2).mean() * torch.eye(1100, dtype=torch.float64)
    right = torch.randn(1, 1100, 2, dtype=torch.float64)
    expected = torch.linalg.solve(system, right)
    for scale in (1.0, 1e-60):
        found = solve_positive(system * scale, right)
        torch.testing.assert_close(found * scale, expected, rtol=1e-5, atol=1e-7 * float(expected.abs().max()))
    assert solve_positive(-system, right).isfinite().all()  # no factor in single precision, nor in double


def test_a_pass_for_batch_norms_is_made_only_for_those_that_took_no_intercept() -> None:
    model = randomize(Branched()).eval()
    batches = [torch.randn(4, 3, 6, 6)]
    plan, slim = pruned(model, batches[0])
    record = graphprune.repair(slim, model, plan, batches)
    taken = {one.intercept for one in record.repaired}
    means = {name for name, _ in slim.named_buffers() if name.endswith("running_mean")}
    assert set(record.norms) == means - taken


def test_inputs_that_are_never_there_change_nothing() -> None:
    regression = Regression()
    moments = BatchMoments.of(torch.zeros(5, 1, 3, 1), torch.randn(5, 1, 2, 1))
    regression.add(moments, torch.ones(5, 1, 2, 1))
    assert torch.equal(regression.solve(1e-3, True), torch.zeros(1, 3, 2, dtype=torch.float64))


def test_weights_in_another_memory_format() -> None:
    model = made(nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 3)))
    batches = [torch.randn(9, 2, 6, 6, dtype=torch.float64)]
    plan, slim = pruned(model, batches[0])
    graphprune.reconstruct(slim, model, plan, batches)
    laid_out = model.to(memory_format=torch.channels_last)
    _, other = pruned(laid_out, batches[0])
    other = other.to(memory_format=torch.channels_last)
    assert not other[2].weight.is_contiguous()
    graphprune.reconstruct(other, laid_out, plan, batches)
    torch.testing.assert_close(other[2].weight, slim[2].weight)


def test_few_rows_are_trusted_less() -> None:
    model = made(Layers(True))
    few, many = torch.randn(6, 4, dtype=torch.float64), torch.randn(6000, 4, dtype=torch.float64)
    for batch, rows in ((few, 6), (many, 6000)):
        plan, by_default = pruned(model, batch)
        by_hand = plan.apply(model)
        graphprune.reconstruct(by_default, model, plan, [batch])
        graphprune.reconstruct(by_hand, model, plan, [batch], ridge=0.01 + by_hand.two.in_features / rows)
        torch.testing.assert_close(by_default.two.weight, by_hand.two.weight, rtol=0, atol=0)
