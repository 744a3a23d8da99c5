"""Every criterion against a computation of its own, written with loops over single units."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import graphprune
from graphprune.calibration.statistics import Statistics
from graphprune.errors import InputError, PlanError
from graphprune.graph.parameter_uses import consumed_axes
from graphprune.importance.activations import SCHUR_RIDGE
from graphprune.importance.combining import NORMALIZATIONS, reduce_parts
from graphprune.importance.context import Context
from graphprune.importance.criteria import CRITERIA, Criterion, find_criterion, scored
from tests.graph.test_experts import grouped_product
from tests.networks import FusedAttention, Grouped, ImageNetwork, PooledTail, TorchAttention, randomize

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


class Small(nn.Module):
    """Two convolutions with a normalization between them, then classes from the mean."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, bias=not norm)
        self.norm = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(6, 5, 1)
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(F.relu(self.norm(self.conv1(x)))).relu()
        return self.fc(x.mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.enter = nn.Linear(3, 8)
        self.block = block
        self.leave = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.block(self.enter(x)))


def made(model: nn.Module) -> nn.Module:
    return randomize(model).double().eval()


def images(count: int = 3, size: int = 6) -> list[Tensor]:
    return [torch.randn(n + 2, 3, size, size, dtype=torch.float64) for n in range(count)]


def tokens(count: int = 3) -> list[Tensor]:
    return [torch.randn(2, n + 8, 3, dtype=torch.float64) for n in range(count)]


def context_of(
    model: nn.Module,
    example: Tensor,
    calibration: Iterable[Any] | None = None,
    loss_fn: Any = None,
    kernel_positions: bool = False,
    **options: Any,
) -> tuple[graphprune.ChannelGraph, Context]:
    graph = graphprune.trace(model, example)
    statistics = None
    if calibration is not None:
        statistics = Statistics(model, graph.units, calibration, loss_fn, kernel_positions)
    return graph, Context(model, dict(model.named_parameters()), graph.units, 0, statistics, **options)


def raw(name: str, graph: graphprune.ChannelGraph, context: Context, group: str) -> Tensor:
    """Scores as the criterion gives them."""
    return find_criterion(name).score(graph.group(group), context)


def recorded(model: nn.Module, name: str, batches: Iterable[Tensor]) -> Tensor:
    """All inputs of one layer, [samples, channels]."""
    layer, found = model.get_submodule(name), []
    channel = 1 if isinstance(layer, nn.Conv2d | nn.ConvTranspose1d) else -1
    handle = layer.register_forward_pre_hook(lambda _, args: found.append(args[0].movedim(channel, -1).flatten(0, -2)))
    with torch.no_grad():
        for batch in batches:
            model(batch)
    handle.remove()
    return torch.cat(found)


def owned(model: Small, unit: int) -> dict[str, Tensor]:
    """For every coupled axis of ``conv1`` the entries that go with a unit."""
    return {
        "conv1.weight": model.conv1.weight[unit],
        "norm.weight": model.norm.weight[unit],
        "norm.bias": model.norm.bias[unit],
        "conv2.weight": model.conv2.weight[:, unit],
    }


# ---------------------------------------------------------------- magnitude


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(("reduce", "combine"), [("sum", sum), ("mean", lambda v: sum(v) / len(v)), ("max", max)])
def test_magnitude(order: int, reduce: str, combine: Callable[[list[float]], float]) -> None:
    model = made(Small())
    graph, context = context_of(model, images()[0], reduce=reduce)
    expected = []
    for unit in range(6):
        expected.append(combine([w.abs().pow(order).sum().item() for w in owned(model, unit).values()]))
    found = raw(f"l{order}", graph, context, "conv1")
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), **CLOSE)


def test_scores_are_relative_to_the_mean_by_default() -> None:
    model = made(Small())
    graph, context = context_of(model, images()[0])
    norms = np.array([sum(w.square().sum().item() for w in owned(model, unit).values()) for unit in range(6)])
    np.testing.assert_allclose(scored(CRITERIA["l2"], graph.group("conv1"), context), norms / norms.mean(), rtol=1e-9)


def test_entries_of_a_saliency_of_ones_do_the_same_as_magnitudes() -> None:
    model = made(Small())
    graph, context = context_of(model, images()[0], reduce="mean")
    calls = []

    def squares(name: str, w: Tensor) -> Tensor:
        calls.append(name)
        return w.square()

    for group in graph.groups:
        np.testing.assert_allclose(context.saliency(group, squares), context.coupled_norms(group, 2), rtol=1e-12)
    assert len(calls) == len(set(calls)) > 5


def test_lamp() -> None:
    model = made(Small())
    graph, context = context_of(model, images()[0])
    norms = [sum(w.square().sum().item() for w in owned(model, unit).values()) for unit in range(6)]
    expected = []
    for own in norms:
        expected.append(own / sum(other for other in norms if other >= own))
    found = scored(CRITERIA["lamp"], graph.group("conv1"), context)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert found.max() == 1


def test_fpgm() -> None:
    model = made(Small())
    graph, context = context_of(model, images()[0])
    expected = []
    for j in range(6):
        expected.append(sum((model.conv1.weight[j] - model.conv1.weight[k]).norm().item() for k in range(6)))
    found = raw("fpgm", graph, context, "conv1")
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_fpgm_of_heads_looks_at_all_that_makes_them() -> None:
    model = made(Attention(FusedAttention(8, 4)))
    graph, context = context_of(model, tokens()[0])
    heads = next(g for g in graph.groups if g.role == "heads")
    weight = model.block.qkv.weight.detach().view(3, 4, 2, 8)
    expected = []
    for j in range(4):
        expected.append(sum((weight[:, j] - weight[:, k]).norm().item() for k in range(4)))
    found = find_criterion("fpgm").score(heads, context)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)


class MaskedReader(nn.Module):
    """A layer whose weight is masked by truth values, as ``written`` says, and the layer that it reads."""

    def __init__(self, written: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.written = nn.Linear(5, 6), nn.Linear(6, 3), written
        self.register_buffer("mask", torch.arange(18).view(3, 6) % 4 > 0)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.written(self.second.weight, self.mask)
        return nn.functional.linear(self.first(x).relu(), weight, self.second.bias)


@pytest.mark.parametrize(
    "written",
    [
        lambda weight, mask: weight * mask,
        lambda weight, mask: mask * weight,
        lambda weight, mask: weight.masked_fill(~mask, 0.0),
        lambda weight, mask: torch.where(mask, weight, 0.0),
    ],
    ids=["right", "left", "filled", "chosen"],
)
def test_fpgm_leaves_out_layers_that_read_a_unit_however_their_weights_are_masked(
    written: Callable[[Tensor, Tensor], Tensor],
) -> None:
    torch.manual_seed(0)
    model = MaskedReader(written).eval()
    graph, context = context_of(model, torch.randn(2, 5))
    assert {"second.weight[1]", "mask[1]", "first.weight[1]"} == consumed_axes(graph.labeling)
    weight = model.first.weight.detach()
    found = find_criterion("fpgm").score(graph.groups[0], context)
    expected = torch.cdist(weight, weight).sum(1).double()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("criterion", ["wanda", "flap", "schur", "obs"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
@pytest.mark.parametrize(
    "written",
    [
        lambda weight, mask: weight * mask,
        lambda weight, mask: mask * weight,
        lambda weight, mask: weight * mask.float(),
        lambda weight, mask: weight.masked_fill(mask == 0, 0.0),
        lambda weight, mask: torch.where(mask.bool(), weight, 0.0),
        lambda weight, mask: torch.where(mask.bool(), weight, torch.zeros_like(weight)),
    ],
    ids=["right", "left", "cast", "filled", "chosen", "or zeros"],
)
def test_masked_weights_score_as_weights_with_zeros(
    written: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype, criterion: str
) -> None:
    torch.manual_seed(0)
    masked, data = MaskedReader(written).eval(), torch.randn(20, 5)
    masked.mask = masked.mask.to(dtype)
    plain = nn.Sequential(masked.first, nn.ReLU(), copy.deepcopy(masked.second))
    with torch.no_grad():
        plain[2].weight.mul_(masked.mask)
    contexts = (context_of(model, data[:2], [data]) for model in (plain, masked))
    expected, found = (CRITERIA[criterion].score(graph.groups[0], context) for graph, context in contexts)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_twins_are_nearest_to_the_median() -> None:
    model = made(Small())
    with torch.no_grad():
        model.conv1.weight[4] = model.conv1.weight[1]
    graph, context = context_of(model, images()[0])
    with torch.no_grad():
        distances = torch.stack([(model.conv1.weight[1] - w).norm() for w in model.conv1.weight])
    found = raw("fpgm", graph, context, "conv1")
    assert found[1] == pytest.approx(distances.sum().item(), rel=1e-6)
    assert found[1] == pytest.approx(found[4].item(), rel=1e-6)


def test_bn_scale() -> None:
    model = made(Small())
    graph, context = context_of(model, images()[0])
    torch.testing.assert_close(raw("bn_scale", graph, context, "conv1"), model.norm.weight.abs().detach())
    plain = raw("l2", graph, context, "conv2")
    torch.testing.assert_close(raw("bn_scale", graph, context, "conv2"), plain / plain.mean())


def test_bn_scale_without_any_norm() -> None:
    graph, context = context_of(made(Small(norm=False)), images()[0])
    with pytest.raises(InputError, match=r"importance: 'bn_scale' reads the factors of normalizations, and none goes"):
        raw("bn_scale", graph, context, "conv1")


# ---------------------------------------------------------------- gradients


def labeled_images() -> list[tuple[Tensor, Tensor]]:
    return [(x, torch.arange(len(x)) % 4) for x in images()]


def samples_of(batches: Any) -> list[tuple[Tensor, Tensor]]:
    """Each sample as a batch of its own."""
    return [pair for x, target in batches for pair in zip(x.split(1), target.split(1), strict=True)]


def gated(model: Small, batch: tuple[Tensor, Tensor]) -> Tensor:
    """d loss / d gate of the units of ``conv1``; a gate multiplies all that goes with its unit. [units]"""
    gates = torch.ones(6, dtype=torch.float64, requires_grad=True)
    along = {"conv1.weight": 0, "norm.weight": 0, "norm.bias": 0, "conv2.weight": 1}
    weights = {name: p.detach() for name, p in model.named_parameters()}
    for name, dim in along.items():
        shape = [-1 if d == dim else 1 for d in range(weights[name].ndim)]
        weights[name] = weights[name] * gates.view(shape)
    loss = F.cross_entropy(functional_call(model, weights, batch[0]), batch[1])
    return torch.autograd.grad(loss, gates)[0]


def test_taylor() -> None:
    model = made(Small())
    graph, context = context_of(model, images()[0], labeled_images(), F.cross_entropy)
    samples = samples_of(context.data._calibration)
    expected = sum(gated(model, sample).square() for sample in samples) / 9
    assert expected.min() > 0
    torch.testing.assert_close(raw("taylor", graph, context, "conv1"), expected, **CLOSE)


def test_taylor_is_the_gate_of_an_activation() -> None:
    """Behind a ReLU, the gate on a unit's output is seen twice: by what makes the unit and by what reads it."""
    model = made(Small(norm=False))
    graph, context = context_of(model, images()[0], labeled_images(), F.cross_entropy, reduce="sum")
    expected = torch.zeros(6, dtype=torch.float64)
    for x, target in samples_of(context.data._calibration):
        gate = torch.ones(6, dtype=torch.float64, requires_grad=True)
        hidden = F.relu(model.conv1(x)) * gate[:, None, None]
        loss = F.cross_entropy(model.fc(F.relu(model.conv2(hidden)).mean((2, 3))), target)
        expected += torch.autograd.grad(loss, gate)[0].square() / 9
    torch.testing.assert_close(raw("taylor", graph, context, "conv1"), 4 * expected, **CLOSE)


def test_fisher() -> None:
    model = made(Small())
    graph, context = context_of(model, images()[0], labeled_images(), F.cross_entropy)
    expected = torch.zeros(6, dtype=torch.float64)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    for x, target in samples_of(context.data._calibration):
        gates = {name: torch.ones_like(w, requires_grad=True) for name, w in weights.items()}
        output = functional_call(model, {name: w * gates[name] for name, w in weights.items()}, x)
        F.cross_entropy(output, target).backward()
        for unit in range(6):
            for name in ("conv1.weight", "norm.weight", "norm.bias"):
                expected[unit] += gates[name].grad[unit].square().sum() / 2 / 9
            expected[unit] += gates["conv2.weight"].grad[:, unit].square().sum() / 2 / 9
    torch.testing.assert_close(raw("fisher", graph, context, "conv1"), expected, **CLOSE)


def test_scores_that_mean_a_change_of_the_loss_are_not_normalized() -> None:
    graph, context = context_of(made(Small()), images()[0], labeled_images(), F.cross_entropy)
    group = graph.group("conv1")
    np.testing.assert_array_equal(scored(CRITERIA["taylor"], group, context), CRITERIA["taylor"].score(group, context))
    context.normalize = "mean"
    assert scored(CRITERIA["taylor"], group, context).mean() == pytest.approx(1)


# ---------------------------------------------------------------- activations


def test_wanda_and_flap() -> None:
    model = made(Small())
    batches = images()
    graph, context = context_of(model, batches[0], batches)
    x, w = recorded(model, "conv2", batches), model.conv2.weight.detach()
    wanda, flap = [], []
    for unit in range(6):
        wanda.append(w[:, unit].abs().sum() * x[:, unit].square().mean().sqrt())
        flap.append(w[:, unit].square().sum() * x[:, unit].var(correction=0))
    torch.testing.assert_close(raw("wanda", graph, context, "conv1"), torch.stack(wanda), **CLOSE)
    torch.testing.assert_close(raw("flap", graph, context, "conv1"), torch.stack(flap), **CLOSE)


def after_repair(weight: Tensor, moments: Tensor, gone: list[int]) -> float:
    """What is left of the error when the channels that stay do all they can. ``weight`` [outputs, channels]"""
    moments = moments + SCHUR_RIDGE * moments.diagonal().mean() * torch.eye(len(moments), dtype=torch.float64)
    kept = [i for i in range(len(moments)) if i not in gone]
    repaired = torch.zeros_like(weight)
    if kept:
        repaired[:, kept] = weight @ moments[:, kept] @ torch.linalg.inv(moments[kept][:, kept])
    error = weight - repaired
    return (error @ moments @ error.T).trace().item()


def test_schur_is_the_error_that_repair_leaves() -> None:
    model = made(Small())
    batches = images()
    graph, context = context_of(model, batches[0], batches)
    x, w = recorded(model, "conv2", batches), model.conv2.weight.detach().flatten(1)
    moments = (x - x.mean(0)).T @ (x - x.mean(0)) / len(x)
    expected = torch.tensor([after_repair(w, moments, [unit]) for unit in range(6)], dtype=torch.float64)
    torch.testing.assert_close(raw("schur", graph, context, "conv1"), expected, rtol=1e-7, atol=1e-12)


def test_schur_of_heads() -> None:
    """Four heads of two channels each; without a bias the moments are not centered."""
    model = Attention(FusedAttention(8, 4))
    model.block.out = nn.Linear(8, 8, bias=False)
    made(model)
    batches = tokens()
    graph, context = context_of(model, batches[0], batches)
    x, w = recorded(model, "block.out", batches), model.block.out.weight.detach()
    moments = x.T @ x / len(x)
    expected = [after_repair(w, moments, [2 * head, 2 * head + 1]) for head in range(4)]
    heads = next(g for g in graph.groups if g.role == "heads")
    found = find_criterion("schur").score(heads, context)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-7, atol=1e-12)


def test_schur_by_tap_is_exact_for_kernels() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, (2, 3), stride=2, padding=1, dilation=(1, 2)))
    made(model)
    batches = images(size=8)
    graph, context = context_of(model, batches[0], batches, kernel_positions=True)
    taps = [F.unfold(F.relu(model[0](x)), (2, 3), (1, 2), 1, 2) for x in batches]
    x = torch.cat([t.transpose(1, 2).flatten(0, 1) for t in taps]).detach()
    w = model[2].weight.detach().flatten(1)
    moments = (x - x.mean(0)).T @ (x - x.mean(0)) / len(x)
    expected = [after_repair(w, moments, list(range(6 * unit, 6 * unit + 6))) for unit in range(4)]
    found = raw("schur", graph, context, "0")
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-7, atol=1e-12)


def test_schur_with_fewer_samples_than_channels_is_finite_and_positive() -> None:
    model = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 2)).eval()
    batch = torch.randn(4, 3)
    graph, context = context_of(model, batch, [batch, 100 + batch])
    assert (scored(CRITERIA["schur"], graph.group("0"), context) > 0).all()


@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
def test_consumers_are_reduced(reduce: str) -> None:
    class TwoReaders(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.make, self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.make(x).relu()
            return self.one(x), self.two(x + 1)

    model = made(TwoReaders())
    batches = tokens()
    graph, context = context_of(model, batches[0], batches, reduce=reduce)
    each = []
    for name in ("one", "two"):
        x, w = recorded(model, name, batches), model.get_submodule(name).weight.detach()
        each.append(w.abs().sum(0) * x.square().mean(0).sqrt())
    pair = torch.stack(each)
    expected = {"sum": pair.sum(0), "mean": pair.mean(0), "max": pair.amax(0)}[reduce]
    torch.testing.assert_close(raw("wanda", graph, context, "make"), expected, **CLOSE)


def test_a_group_that_no_weight_reads_has_its_magnitude() -> None:
    model = made(Attention(FusedAttention(8, 4)))
    graph, context = context_of(model, tokens()[0], tokens())
    queries = next(g for g in graph.groups if g.role == "head_width" and "block.out.weight[1]" not in g.axes)
    plain = find_criterion("l2").score(queries, context)
    for name in ("wanda", "flap", "schur"):
        torch.testing.assert_close(find_criterion(name).score(queries, context), plain / plain.mean())


# ---------------------------------------------------------------- every way in which a weight meets its input


def flaps(model: nn.Module, batches: list[Tensor], group: str, **options: Any) -> Tensor:
    graph, context = context_of(model, batches[0], batches, **options)
    return raw("flap", graph, context, group)


def test_grouped_convolution() -> None:
    model = made(ImageNetwork(6, [Grouped(6, groups=3, width=2, multiplier=2)], PooledTail(6, 4)))
    batches = images()
    graph, context = context_of(model, batches[0], batches)
    x, w = recorded(model, "blocks.0.grouped.conv", batches), model.blocks[0].grouped.conv.weight.detach()
    variance, squares = x.var(0, correction=0), w.square().sum((2, 3)).view(3, 4, 2).sum(1).flatten()
    consumer = next(c for c in context.data.consumers() if "blocks.0.grouped.conv.weight[1]" in c.axes)
    scores = (consumer.squares * consumer.inputs.variance).flatten()
    torch.testing.assert_close(scores, squares * variance, **CLOSE)
    for group in graph.groups:
        if "blocks.0.grouped.conv.weight[0]" not in group.axes and "blocks.0.grouped.conv.weight[1]" not in group.axes:
            continue
        places = [sorted(consumer.place[consumer.unit == unit].tolist()) for unit in group.unit_ids]
        if group.role == "groups":
            assert places == [[0, 1], [2, 3], [4, 5]]
        elif "blocks.0.grouped.conv.weight[1]" in group.axes:
            assert places == [[0, 2, 4], [1, 3, 5]]
        else:
            assert places == [[]] * 12


def test_depthwise_convolution() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(8, 2, 1))
    made(model)
    batches = images()
    x, y = recorded(model, "2", batches), recorded(model, "3", batches)
    expected = []
    for j in range(4):
        score = model[2].weight[2 * j : 2 * j + 2].square().sum() * x[:, j].var(correction=0)
        for k in (2 * j, 2 * j + 1):
            score = score + model[3].weight[:, k].square().sum() * y[:, k].var(correction=0)
        expected.append(score.detach())
    torch.testing.assert_close(flaps(model, batches, "0"), torch.stack(expected), **CLOSE)


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolution(groups: int) -> None:
    up = nn.ConvTranspose1d(4, 6, 3, stride=2, groups=groups)
    model = made(nn.Sequential(nn.Conv1d(3, 4, 1), nn.ReLU(), up))
    batches = [torch.randn(2, 3, 7, dtype=torch.float64) for _ in range(2)]
    graph, context = context_of(model, batches[0], batches)
    x = recorded(model, "2", batches)
    scores = up.weight.detach().square().sum((1, 2)) * x.var(0, correction=0)
    consumer = next(c for c in context.data.consumers() if c.axes == ("2.weight[0]",))
    torch.testing.assert_close((consumer.squares * consumer.inputs.variance).flatten(), scores, **CLOSE)
    for group in graph.groups:
        for number, unit in enumerate(group.unit_ids):
            assert consumer.place[consumer.unit == unit].tolist() == [number]


class Reads(nn.Module):
    """A linear layer, then a weight that is used in an unusual way."""

    def __init__(self, shape: tuple[int, ...], use: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.enter = nn.Linear(3, 4)
        self.weight = nn.Parameter(torch.empty(shape))
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self.enter(x).relu(), self.weight)


def whole(x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize(
    ("shape", "dim", "part", "use"),
    [
        ((4, 5), 0, whole, lambda x, w: x @ w),
        ((5, 4), 1, lambda x: x[0], lambda x, w: (w @ x.T).T),
        ((4,), 0, lambda x: x[0], lambda x, w: x @ w),
        ((5, 4), 1, lambda x: x[:, 0], lambda x, w: F.linear(x, w)),
        ((5, 4), 1, lambda x: x[0, 0], lambda x, w: w.mv(x)),
        ((2, 4, 5), 1, whole, lambda x, w: torch.einsum("btc,gco->btgo", x, w)),
        ((4, 3, 5), 0, whole, lambda x, w: x @ w.flatten(1)),
        ((6, 4), 1, whole, lambda x, w: F.linear(x, w[:3]) + F.linear(x, w[3:])),
        ((5, 4), 1, whole, lambda x, w: torch.bmm(x, w.t().expand(len(x), -1, -1))),
        ((5, 4), 1, whole, lambda x, w: torch.baddbmm(x.new_ones(1), x, w.t().expand(len(x), -1, -1))),
        ((5, 4), 1, whole, lambda x, w: torch.bmm(w.expand(len(x), -1, -1), x.mT)),
    ],
)
def test_a_weight_used_as(
    shape: tuple[int, ...], dim: int, part: Callable[[Tensor], Tensor], use: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """Batches of different sizes; ``part`` of the inputs meets the weight, whose dimension ``dim`` is summed over."""
    model = made(Reads(shape, lambda x, w: use(part(x), w)))
    batches = tokens()
    graph, context = context_of(model, batches[0], batches)
    x = torch.cat([part(model.enter(batch).relu()).reshape(-1, 4) for batch in batches]).detach()
    squares = model.weight.detach().movedim(dim, 0).reshape(4, -1).square().sum(1)
    torch.testing.assert_close(raw("flap", graph, context, "enter"), squares * x.var(0, correction=0), **CLOSE)


def test_experts_keep_their_own_moments() -> None:
    model = made(Reads((2, 4, 5), lambda x, w: torch.bmm(x[:2] * torch.tensor([[[1.0]], [[3.0]]]).double(), w)))
    batches = tokens()
    graph, context = context_of(model, batches[0], batches)
    with torch.no_grad():
        x = torch.cat([model.enter(b).relu() for b in batches], dim=1)
        x[1] *= 3
    expected = sum(model.weight.detach()[e].square().sum(1) * x[e].var(0, correction=0) for e in range(2))
    torch.testing.assert_close(raw("flap", graph, context, "enter"), expected, **CLOSE)


@grouped_product
def test_grouped_product_takes_all_rows_together() -> None:
    """Rows 0 to 2 meet the first matrix, the others the second; both share their channels."""
    ends = torch.tensor([3, 8], dtype=torch.int32)
    model = nn.Sequential(nn.Linear(3, 8), Reads((2, 8, 8), lambda x, w: torch._grouped_mm(x, w, offs=ends)))
    model[1].enter = nn.Identity()
    randomize(model)
    batches = [torch.randn(8, 3) for _ in range(3)]
    graph, context = context_of(model, batches[0], batches)
    x = torch.cat([model[0](b).relu() for b in batches]).detach()
    expected = model[1].weight.detach().square().sum((0, 2)) * x.var(0, correction=0)
    torch.testing.assert_close(raw("flap", graph, context, "0"), expected.double(), rtol=1e-4, atol=1e-6)


def test_attention_of_torch() -> None:
    """One weight for queries, keys and values, all of the same input; the fast path would hide it."""
    model = made(Attention(TorchAttention(8, 2)))
    batches = tokens()
    graph, context = context_of(model, batches[0], batches)
    x = torch.cat([model.enter(b).flatten(0, 1) for b in batches]).detach()
    width = model.block.attention.in_proj_weight.detach().square().sum(0) * x.var(0, correction=0)
    assert raw("flap", graph, context, "enter").shape == (8,)
    consumers = [c for c in context.data.consumers() if c.axes == ("block.attention.in_proj_weight[1]",)]
    found = sum((c.squares * c.inputs.variance)[0] for c in consumers)
    torch.testing.assert_close(found, width, **CLOSE)


def test_a_weight_that_is_computed() -> None:
    """The moments are weighted with the weight that is used, not with the parameters behind it."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)))
    made(model)
    batches = tokens()
    x = recorded(model, "2", batches)
    expected = model[2].weight.detach().square().sum(0) * x.var(0, correction=0)
    torch.testing.assert_close(flaps(model, batches, "0"), expected, **CLOSE)


def test_one_weight_used_twice_counts_both_inputs() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.shared, self.leave = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(self.shared(self.shared(self.enter(x))))

    model = made(Twice())
    batches = tokens()
    graph, context = context_of(model, batches[0], batches)
    expected = torch.zeros(4, dtype=torch.float64)
    for name in ("shared", "leave"):
        x, w = recorded(model, name, batches), model.get_submodule(name).weight.detach()
        expected += w.square().sum(0) * x.var(0, correction=0)
    torch.testing.assert_close(raw("flap", graph, context, "enter"), expected, **CLOSE)


# ---------------------------------------------------------------- combining


def test_reduced() -> None:
    unit, part = np.array([0, 0, 0, 1, 1, 3]), np.array([0, 0, 1, 0, 1, 1])
    values = np.array([1.0, 2.0, -5.0, 4.0, 1.0, -2.0])
    assert reduce_parts("sum", unit, part, values, 4).tolist() == [-2, 5, 0, -2]
    assert reduce_parts("mean", unit, part, values, 4).tolist() == [-1, 2.5, 0, -2]
    assert reduce_parts("max", unit, part, values, 4).tolist() == [-5, 4, 0, -2]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", [1, 2, 6]),
        ("mean", [1 / 3, 2 / 3, 2]),
        ("sum", [1 / 9, 2 / 9, 2 / 3]),
        ("max", [1 / 6, 1 / 3, 1]),
        ("gaussian", None),
    ],
)
def test_normalized(name: str, expected: list[float] | None) -> None:
    found = NORMALIZATIONS[name](np.array([1.0, 2.0, 6.0]))
    if expected is None:
        assert (found.mean(), found.std()) == (pytest.approx(0), pytest.approx(1))
    else:
        np.testing.assert_allclose(found, expected)
    assert (np.diff(NORMALIZATIONS[name](np.array([-9.0, -1.0, 2.0]))) > 0).all()
    assert np.isfinite(NORMALIZATIONS[name](np.zeros(3))).all()
    assert np.isfinite(NORMALIZATIONS[name](np.ones(1))).all()


def test_a_callable_is_normalized_too() -> None:
    graph, context = context_of(made(Small()), images()[0], normalize="max")
    found = scored(
        find_criterion(lambda group, context: torch.arange(group.units) * 7.0), graph.group("conv1"), context
    )
    np.testing.assert_allclose(found, np.arange(6) / 5)


def test_a_callable_may_look_at_everything() -> None:
    model = made(Small())

    def mine(group: graphprune.Group, context: Context) -> Tensor:
        entries = context.once("mine", lambda: lambda name, w: w.abs() if name.startswith("conv") else None)
        return torch.from_numpy(context.saliency(group, entries) + context.coupled_norms(group, 1))

    graph, context = context_of(model, images()[0])
    expected = [
        sum(w.abs().sum().item() * (2 if "conv" in n else 1) for n, w in owned(model, u).items()) for u in range(6)
    ]
    torch.testing.assert_close(mine(graph.group("conv1"), context), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("name", [name for name in CRITERIA if name != "reap"])  # which wants experts
def test_every_criterion_scores_every_group(name: str) -> None:
    model = made(ImageNetwork(6, [Grouped(6, groups=3, width=2, multiplier=2)], PooledTail(6, 4)))
    pairs = [(x, torch.arange(len(x)) % 4) for x in images()]
    graph, context = context_of(model, pairs[0][0], pairs, F.cross_entropy)
    for group in graph.groups:
        scores = scored(CRITERIA[name], group, context)
        assert scores.shape == (group.units,) and (scores >= 0).all()
        assert scores.std() > 0 or group.units <= 2


# ---------------------------------------------------------------- errors


def test_unknown_ways_to_combine() -> None:
    with pytest.raises(InputError, match=r"reduce: 'median' is not known; use one of 'sum', 'mean', 'max'"):
        context_of(made(Small()), images()[0], reduce="median")
    known = "'none', 'mean', 'sum', 'max', 'gaussian'"
    with pytest.raises(InputError, match=rf"normalize: 'l2' is not known; use one of {known}"):
        context_of(made(Small()), images()[0], normalize="l2")


@pytest.mark.parametrize("criterion", [c for c in CRITERIA.values() if c.data], ids=lambda c: c.name)
def test_data_that_are_missing(criterion: Criterion) -> None:
    graph, context = context_of(made(Small()), images()[0])
    with pytest.raises(InputError, match=r"importance: this criterion reads data[\s\S]*pass calibration="):
        scored(criterion, graph.group("conv1"), context)


def test_scores_that_are_no_numbers() -> None:
    graph, context = context_of(made(Small()), images()[0])
    with pytest.raises(PlanError, match=r"importance: 6 of 6 scores of group 'conv1' are not finite"):
        scored(find_criterion(lambda group, _: torch.full((group.units,), torch.nan)), graph.group("conv1"), context)


def test_plans_by_criteria_without_data() -> None:
    model = made(Small())
    graph = graphprune.trace(model, images()[0])
    for name in ("l1", "lamp", "fpgm", "bn_scale"):
        plan = graph.plan(0.5, importance=name)
        context = context_of(model, images()[0])[1]
        scores = scored(CRITERIA[name], graph.group("conv1"), context)
        removed = next(c.removed for c in plan.choices if c.group == "conv1")
        assert sorted(removed) == sorted(np.argsort(scores)[:3].tolist())
