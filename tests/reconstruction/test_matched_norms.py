"""Running statistics in repair: batch norms do to what they get now what the dense ones do, whatever they remember."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.errors import InputError
from graphprune.pruning.plan import Plan

BATCHES = list(torch.randn(4, 16, 3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5)


class Net(nn.Module):
    """Its first norm gets what it got; what the second one gets is fitted through a bias, so that no mean takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12)
        self.second, self.after = nn.Conv2d(12, 8, 3), nn.BatchNorm2d(8)
        self.last = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        return self.last(self.after(self.second(x)).relu().mean((2, 3)))


def made(trained: bool) -> Net:
    """In float64; the statistics are those of the batches, or of quite other data."""
    torch.manual_seed(0)
    model = Net().double().eval()
    if trained:
        graphprune.reestimate_batch_norm(model, BATCHES)
    else:
        for norm in (model.norm, model.after):
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(2, 9)
    return model


def slim_of(model: nn.Module) -> tuple[Plan, nn.Module]:
    plan = graphprune.trace(model, BATCHES[0]).plan(0.5)
    return plan, plan.apply(model)


def error(slim: nn.Module, model: nn.Module) -> float:
    with torch.no_grad():
        found, wanted = (one(torch.cat(BATCHES)) for one in (slim, model))
    return float((found - wanted).norm() / (wanted - wanted.mean(0)).norm())


def given(model: nn.Module, path: str) -> Tensor:
    """What a batch norm gives, before its weight and bias, for all batches: [channels, entries]."""
    found: list[Tensor] = []
    norm = model.get_submodule(path)
    assert isinstance(norm, nn.BatchNorm2d)
    plain = copy.deepcopy(norm)
    nn.init.ones_(plain.weight)
    nn.init.zeros_(plain.bias)
    with torch.no_grad(), norm.register_forward_hook(lambda *call: found.append(plain(call[1][0]))):
        model(torch.cat(BATCHES))
    return found[0].transpose(0, 1).flatten(1)


@pytest.mark.parametrize("trained", [False, True])
def test_results_have_the_means_and_variances_of_the_dense_ones(trained: bool) -> None:
    model = made(trained)
    plan, slim = slim_of(model)
    record = graphprune.repair(slim, model, plan, [torch.cat(BATCHES)])
    assert record.norms == ("norm.running_mean", "after.running_mean")
    kept = torch.as_tensor(plan.kept["after.running_mean"][0])
    found, wanted = given(slim, "after"), given(model, "after")[kept]
    torch.testing.assert_close(found.mean(1), wanted.mean(1), rtol=0, atol=1e-10)
    torch.testing.assert_close(found.var(1), wanted.var(1), rtol=1e-10, atol=0)


@pytest.mark.parametrize("trained", [False, True])
def test_it_is_nearer_to_the_dense_model_than_without_whatever_the_statistics_are_of(trained: bool) -> None:
    model = made(trained)
    plan, plain = slim_of(model)
    slim, without = plan.apply(model), plan.apply(model)
    graphprune.repair(slim, model, plan, BATCHES)
    graphprune.repair(without, model, plan, BATCHES, reestimate=False)
    assert error(slim, model) < 1.1 * error(without, model) < 0.7 * error(plain, model)


def test_what_gets_the_same_inputs_keeps_its_statistics() -> None:
    model = made(False)
    plan, slim = slim_of(model)
    graphprune.repair(slim, model, plan, BATCHES)
    kept = torch.as_tensor(plan.kept["norm.running_mean"][0])
    for name in ("norm.running_mean", "norm.running_var"):
        torch.testing.assert_close(slim.get_buffer(name), model.get_buffer(name)[kept], rtol=1e-12, atol=1e-12)


def test_batches_of_one_sample_give_what_larger_ones_give() -> None:
    model = made(False)
    plan, slim = slim_of(model)
    single = plan.apply(model)
    graphprune.repair(slim, model, plan, BATCHES)
    graphprune.repair(single, model, plan, [sample[None] for batch in BATCHES for sample in batch])
    for name in ("after.running_mean", "after.running_var"):
        torch.testing.assert_close(single.get_buffer(name), slim.get_buffer(name), rtol=1e-6, atol=1e-8)


class Constant(nn.Module):
    """A channel of its norm is the same for all inputs, and heavy enough to stay."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 8), nn.Linear(8, 4)
        self.norm, self.last = nn.BatchNorm1d(4), nn.Linear(4, 2)
        with torch.no_grad():
            self.second.weight[0] = 0
            self.last.weight[:, 0] = 9

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.second(self.first(x).relu())))


def test_a_channel_that_does_not_vary_keeps_its_variance() -> None:
    torch.manual_seed(0)
    model = Constant().double().eval()
    batch = torch.randn(32, 3, dtype=torch.float64)
    plan = graphprune.trace(model, batch).plan(0.5)
    assert next(iter(plan.kept["norm.running_var"][0])) == 0
    slim = plan.apply(model)
    assert graphprune.repair(slim, model, plan, [batch]).norms
    variances = slim.get_buffer("norm.running_var")
    assert float(variances[0]) == 1.0 and float(variances[1]) != 1.0
    assert slim(batch).isfinite().all()


def test_a_norm_that_the_models_call_differently_often_keeps_its_statistics() -> None:
    class Often(Net):
        calls = 1

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.first(x)).relu()
            x = self.second(x)
            for _ in range(self.calls):
                x = self.after(x)
            return self.last(x.relu().mean((2, 3)))

    torch.manual_seed(0)
    model = Often().double().eval()
    plan, slim = slim_of(model)
    assert isinstance(slim, Often)
    slim.calls = 2
    record = graphprune.repair(slim, model, plan, BATCHES)
    assert record.norms == ("norm.running_mean",)
    assert bool((slim.get_buffer("after.running_var") == 1).all())


class Found(Net):
    """Its second norm gets those samples alone that have a place with a sum above a threshold."""

    least = 0.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        there = x.sum(1).amax((1, 2)) > self.least
        return self.last(self.after(self.second(x)[there]).relu().mean((2, 3)))


@pytest.mark.parametrize("which", ["dense", "slim"])
def test_a_norm_that_gets_nothing_in_one_of_the_models_is_left_as_it_is(which: str) -> None:
    torch.manual_seed(0)
    model = Found().double().eval()
    plan, slim = slim_of(model)
    assert isinstance(slim, Found)
    (model if which == "dense" else slim).least = torch.inf
    record = graphprune.repair(slim, model, plan, BATCHES)
    assert record.norms == ("norm.running_mean",)
    assert bool((slim.get_buffer("after.running_var") == 1).all())


def test_what_is_not_finite_is_refused_and_nothing_is_changed() -> None:
    model = made(True)
    plan, slim = slim_of(model)
    before = copy.deepcopy(slim.state_dict())
    broken = [*BATCHES[:3], BATCHES[3].clone()]
    broken[3][0, 0, 0, 0] = torch.inf
    with pytest.raises(InputError, match="not finite"):
        graphprune.repair(slim, model, plan, broken)
    assert all(torch.equal(tensor, before[name]) for name, tensor in slim.state_dict().items())
