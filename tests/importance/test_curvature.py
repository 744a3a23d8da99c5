"""The Kronecker-factored loss of removal, on networks whose losses have a closed form."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.calibration.statistics import Statistics
from graphprune.importance.activations import SCHUR_RIDGE
from graphprune.importance.context import Context
from graphprune.importance.criteria import CRITERIA
from graphprune.importance.gradient_sums import gathered


def scores_of(model: nn.Module, batches: list[Tensor], group: str | None = None, loss_fn: object = None) -> Tensor:
    graph = graphprune.trace(model, batches[0][0] if loss_fn else batches[0])
    statistics = Statistics(model, graph.units, batches, loss_fn)  # type: ignore[arg-type]
    context = Context(model, dict(model.named_parameters()), graph.units, 0, statistics)
    return CRITERIA["kfac"].score(graph.group(group) if group else graph.groups[0], context)


def chain(outputs: int = 3) -> nn.Sequential:
    """The first layer gives its inputs as they are."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, outputs, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4))
    return model


def pairs() -> tuple[Tensor, Tensor]:
    """Inputs [32, 4] of equal length, and signs [32, 2], all combinations of both."""
    x = torch.tensor(list(product((-1.0, 1.0), repeat=3)), dtype=torch.float64)
    x = torch.cat([x, x[:, :1] * x[:, 1:2] + 0.5 * x[:, 2:]], 1)
    x = x / x.norm(dim=1, keepdim=True)
    signs = torch.tensor(list(product((-1.0, 1.0), repeat=2)), dtype=torch.float64)
    return x.repeat_interleave(4, 0), signs.repeat(8, 1)


def test_it_is_the_loss_that_is_left_after_least_squares() -> None:
    """With G = [[4, 0], [0, 1]], half of the squared residual of each channel, weighted by output."""
    model, (x, signs) = chain(2), pairs()
    scale = torch.tensor([2.0, 1.0], dtype=torch.float64)

    def loss_fn(output: Tensor, target: Tensor) -> Tensor:
        return (output * target * scale).sum()

    found = scores_of(model, [(x, signs)], "0", loss_fn)  # type: ignore[list-item]
    moments = x.T @ x / len(x)
    moments += SCHUR_RIDGE * moments.diagonal().mean() * torch.eye(4)
    for unit in range(4):
        others = [i for i in range(4) if i != unit]
        left = moments[unit, unit] - moments[unit, others] @ torch.linalg.solve(
            moments[others][:, others], moments[others, unit]
        )
        weighted = (model[1].weight[:, unit] * scale).square().sum()
        assert float(found[unit]) == pytest.approx(float((0.5 * left * weighted).sqrt().detach()), rel=1e-6)


@pytest.mark.parametrize("size", [1, 4, 16])
def test_scores_do_not_depend_on_how_batches_are_cut(size: int) -> None:
    model, x = chain(6), torch.randn(16, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(scores_of(model, list(x.split(size)), "0"), scores_of(model, [x], "0"))


def test_steps_of_time_that_share_a_weight_are_all_in_it() -> None:
    """A recurrence unrolled over copies of the same inputs has a larger gradient than a single step."""
    torch.manual_seed(0)

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.out = nn.GRU(3, 8, batch_first=True), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.cell(x)[0][:, -1])

    model, x = Recurrent().eval(), torch.randn(24, 5, 3)
    found = scores_of(model, [x])
    assert found.shape == (8,)
    assert bool((found > 0).all())
    with torch.no_grad():  # a unit that nothing reads
        model.out.weight[:, 3] = 0
        model.cell.weight_hh_l0[:, 3] = 0
    assert int(scores_of(model, [x]).argmin()) == 3


def test_channels_of_grouped_convolutions_are_read_group_by_group() -> None:
    """A convolution in two groups is two convolutions of their own."""
    torch.manual_seed(0)
    x = torch.randn(6, 4, 5, 5)

    class Two(nn.Module):
        def __init__(self, grouped: bool) -> None:
            super().__init__()
            self.first = nn.Conv2d(4, 8, 1, bias=False)
            self.both = nn.Conv2d(8, 6, 3, groups=2) if grouped else None
            self.parts = nn.ModuleList([] if grouped else [nn.Conv2d(4, 3, 3), nn.Conv2d(4, 3, 3)])

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            halves = zip(self.parts, x.chunk(2, 1), strict=False)
            return self.both(x) if self.both is not None else torch.cat([part(half) for part, half in halves], 1)

    grouped, apart = Two(True).eval(), Two(False).eval()
    with torch.no_grad():
        apart.first.weight.copy_(grouped.first.weight)
        for number, part in enumerate(apart.parts):
            part.weight.copy_(grouped.both.weight[3 * number :][:3])  # type: ignore[union-attr]
    curvatures = []
    for model in (grouped, apart):
        graph = graphprune.trace(model, x)
        context = Context(model, dict(model.named_parameters()), graph.units, 0, Statistics(model, graph.units, [x]))
        products = gathered(context, "kfac").products
        curvatures.append(torch.cat([p for consumer, p in products.items() if "first" not in str(consumer.axes)]))
    torch.testing.assert_close(*curvatures, rtol=1e-4, atol=1e-6)


def products_of(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """W G Wᵀ by the parameters that are the weights."""
    graph = graphprune.trace(model, x)
    context = Context(model, dict(model.named_parameters()), graph.units, 0, Statistics(model, graph.units, [x]))
    found = gathered(context, "kfac").products
    return {consumer.axes[0].parameter: products for consumer, products in found.items()}


class Experts(nn.Module):
    """The sum of experts of two layers, whose second ones are one parameter or layers of their own."""

    def __init__(self, together: bool) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(3, 4, 10))
        self.second = nn.Parameter(torch.randn(3, 10, 2)) if together else None
        self.parts = nn.ModuleList([] if together else [nn.Linear(10, 2, bias=False) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.einsum("nd,edh->neh", x, self.first).relu()
        if self.second is not None:
            return torch.einsum("neh,eho->neo", hidden, self.second).sum(1)
        return torch.stack([part(hidden[:, e]) for e, part in enumerate(self.parts)]).sum(0)


def test_experts_in_one_parameter_are_read_one_by_one() -> None:
    torch.manual_seed(0)
    x, together, apart = torch.randn(16, 4), Experts(True).eval(), Experts(False).eval()
    with torch.no_grad():
        apart.first.copy_(together.first)
        for part, weight in zip(apart.parts, together.second, strict=True):  # type: ignore[arg-type]
            part.weight.copy_(weight.T)  # type: ignore[operator, union-attr]
    one, several = products_of(together, x), products_of(apart, x)
    wanted = torch.cat([several[f"parts.{e}.weight"] for e in range(3)])
    torch.testing.assert_close(one["second"], wanted, rtol=1e-4, atol=1e-6)


def test_gradients_are_taken_once_for_several_criteria() -> None:
    model, x = chain(), torch.randn(8, 4, dtype=torch.float64)
    graph = graphprune.trace(model, x)
    statistics, passes = Statistics(model, graph.units, [x]), []
    context = Context(model, dict(model.named_parameters()), graph.units, 0, statistics)
    each_backward = statistics.each_backward

    def counted(visit: object) -> int:
        passes.append(visit)
        return each_backward(visit)  # type: ignore[arg-type]

    statistics.each_backward = counted  # type: ignore[method-assign, assignment]
    for name in ("kfac", "taylor", "kfac"):
        CRITERIA[name].score(graph.groups[0], context)
    assert len(passes) == 1
