"""Scores of units that go one after another, against least squares by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.calibration.statistics import Statistics
from graphprune.importance.activations import SCHUR_RIDGE
from graphprune.importance.context import Context
from graphprune.importance.criteria import CRITERIA


def scores_of(model: nn.Module, batches: list[Tensor], criterion: str = "obs", group: str | None = None) -> Tensor:
    graph = graphprune.trace(model, batches[0])
    context = Context(model, dict(model.named_parameters()), graph.units, 0, Statistics(model, graph.units, batches))
    return CRITERIA[criterion].score(graph.group(group) if group else graph.groups[0], context)


def chain(units: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, units), nn.Tanh(), nn.Linear(units, 3, bias=False)).double().eval()


def samples(count: int = 64) -> Tensor:
    return torch.randn(count, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def error_without(model: nn.Sequential, x: Tensor, gone: list[int]) -> float:
    """The squared error of the last layer after ridge regression on the other units."""
    hidden, weight = model[:2](x).detach(), model[2].weight.detach()
    moments = hidden.T @ hidden / len(x)
    moments += SCHUR_RIDGE * moments.diagonal().mean() * torch.eye(len(moments))
    kept = [i for i in range(len(moments)) if i not in gone]
    left = moments[gone][:, gone]
    if kept:
        left = left - moments[gone][:, kept] @ torch.linalg.solve(moments[kept][:, kept], moments[kept][:, gone])
    return float((weight[:, gone] @ left @ weight[:, gone].T).trace())


def test_each_unit_adds_what_least_squares_loses_when_it_goes_next() -> None:
    model, x = chain(), samples()
    found, gone, error, most = scores_of(model, [x]), list[int](), 0.0, 0.0
    while len(gone) < 8:
        others = [unit for unit in range(8) if unit not in gone]
        errors = {unit: error_without(model, x, [*gone, unit]) for unit in others}
        cheapest = min(errors, key=errors.__getitem__)
        most = max(most, errors[cheapest] - error)
        assert float(found[cheapest]) == pytest.approx(most, rel=1e-6)
        gone, error = [*gone, cheapest], errors[cheapest]


def test_of_equal_units_one_stays() -> None:
    """All of the layer that there is says that neither matters, since the other can stand in for it."""
    model, x = chain(), samples()
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = model[0].weight[0], model[0].bias[0]
        model[2].weight[:, :2] *= 4
    by_schur, by_obs = scores_of(model, [x], "schur"), scores_of(model, [x])
    assert float(by_schur[:2].max()) < float(by_schur.median())
    assert float(by_obs[:2].min()) < float(by_obs.median()) < float(by_obs[:2].max())


def test_many_go_at_once_and_together_they_add_up() -> None:
    model, x = chain(40), samples(256)
    found = scores_of(model, [x])
    assert 1 <= float(found.sum()) / error_without(model, x, list(range(40))) < 1.05


@pytest.mark.parametrize("size", [4, 16])
def test_scores_do_not_depend_on_how_batches_are_cut(size: int) -> None:
    model, x = chain(), samples()
    torch.testing.assert_close(scores_of(model, list(x.split(size))), scores_of(model, [x]))


def test_units_of_several_channels() -> None:
    """A channel of four pixels, which the linear layer reads one by one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.Flatten(), nn.Linear(24, 3)).double().eval()
    x = torch.randn(200, 2, 4, 4, dtype=torch.float64)
    moments, weight = torch.cov(model[:2](x).detach().T, correction=0), model[2].weight.detach()
    moments += SCHUR_RIDGE * moments.diagonal().mean() * torch.eye(24)
    found = scores_of(model, [x])
    assert len(found) == 6
    assert 1 <= float(found.sum()) / float((weight @ moments @ weight.T).trace()) < 1.05


def test_consumers_of_several_blocks_keep_their_losses() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.Conv2d(8, 8, 3, groups=4), nn.Flatten(), nn.Linear(128, 3)).eval()
    x = [torch.randn(16, 2, 8, 8)]
    by_obs, by_schur = (scores_of(model.double(), [x[0].double()], name) for name in ("obs", "schur"))
    assert float(by_obs.min()) == pytest.approx(float(by_schur.min()), rel=1e-6)
    assert float(by_obs.max()) > float(by_schur.max())


def test_units_that_nothing_sums_over_go_by_their_size() -> None:
    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k = nn.Linear(6, 8), nn.Linear(6, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.q(x) @ self.k(x).mT

    torch.manual_seed(0)
    model = Scores().double().eval()
    torch.testing.assert_close(scores_of(model, [samples()]), scores_of(model, [samples()], "schur"))


def test_a_budget_stops_where_errors_sum_to_the_least() -> None:
    """Two equal layers beside each other, one with ten times the weights: the other one goes first."""

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.c, self.d = nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(16, 3), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.a(x).tanh()) + self.d(self.b(x).tanh())

    model, x = Beside().eval(), samples().float()
    with torch.no_grad():
        model.c.weight *= 10
    graph = graphprune.trace(model, x)
    kept = {c.group: c.kept for c in graph.plan(macs=0.6, importance="obs", calibration=[x]).choices}
    assert kept["a"] > kept["b"] + 4
    shares = {c.group: c.kept for c in graph.plan(macs=0.6, importance="obs", calibration=[x], normalize="sum").choices}
    assert abs(shares["a"] - shares["b"]) < kept["a"] - kept["b"]


def test_errors_of_outputs_that_the_loss_does_not_read_do_not_count() -> None:
    """By ``obs`` units go that only matter little; by ``surgeon`` those that matter for nothing that is read."""
    model, x = chain(), samples()
    with torch.no_grad():
        model[2].weight[0, :4] *= 20
        model[2].weight[1:, :4] *= 1e-3

    def loss_fn(output: Tensor, target: Tensor) -> Tensor:
        return (output[:, 1:] * target).sum()

    signs = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).sign()
    graph = graphprune.trace(model, x)
    context = Context(
        model, dict(model.named_parameters()), graph.units, 0, Statistics(model, graph.units, [(x, signs)], loss_fn)
    )
    by_surgeon, by_obs = (CRITERIA[name].score(graph.groups[0], context) for name in ("surgeon", "obs"))
    assert sorted(by_surgeon.argsort()[:4].tolist()) == [0, 1, 2, 3]
    assert sorted(by_obs.argsort()[4:].tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("criterion", ["obs", "surgeon", "schur", "kfac"])
@pytest.mark.parametrize("samples", [torch.ones(1, 8), torch.ones(8, 8), torch.zeros(8, 8)], ids=["one", "same", "0"])
def test_samples_that_do_not_differ_give_finite_scores(criterion: str, samples: Tensor) -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    plan = graphprune.trace(model, samples[:1]).plan(0.5, importance=criterion, calibration=[samples])
    assert plan.apply(model)[0].out_features == 8
