"""Weights that a forward pass copies before it multiplies with them, such as the operands of ``torch.einsum``."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphprune
from graphprune.errors import ChannelsKeptWarning
from tests.networks import randomize
from tests.reconstruction.test_memory_bound import least

Read = Callable[[Tensor], Tensor]
TINY = {"rtol": 1e-9, "atol": 1e-11}


class Reading(nn.Module):
    """A residual network that multiplies with weights as ``read`` gives them."""

    def __init__(self, read: Read = lambda weight: weight, kernel: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.read = read
        self.enter = nn.Linear(4, 12)
        self.inner, self.back = nn.Parameter(torch.empty(8, 12, *kernel)), nn.Parameter(torch.empty(12, 8))
        self.leave = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).relu()
        weight = self.read(self.inner)
        y = F.linear(x, weight) if weight.ndim == 2 else F.conv1d(x[..., None], weight, padding=1)[..., 0]
        return self.leave((x + F.linear(y.relu(), self.read(self.back))).relu())


def repaired(read: Read, kernel: tuple[int, ...] = (), memory: int | None = None) -> tuple[nn.Module, set[str]]:
    """The network, repaired after a plan of one that does not copy; and the names of the fitted weights."""
    torch.manual_seed(0)
    model = randomize(Reading(kernel=kernel)).double().eval()
    batches = [torch.randn(60, 4, dtype=torch.float64) for _ in range(2)]
    plan = graphprune.trace(model, batches[0]).plan(0.5)
    slim = plan.apply(model)
    model.read, slim.read = read, read
    record = graphprune.repair(slim, model, plan, batches, memory=memory)
    return slim, {one.name for one in record.repaired}


def check_same_weights(mine: nn.Module, theirs: nn.Module) -> None:
    for (name, one), (_, other) in zip(mine.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(one, other, **TINY, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    "read",
    [
        lambda w: w.clone(),
        lambda w: w.t().contiguous().t(),
        lambda w: w.flip(0).clone().flip(0),
        lambda w: w.roll(1, 0).roll(-1, 0),
        lambda w: w.unflatten(0, (2, -1)).transpose(0, 1).clone().transpose(0, 1).flatten(0, 1),
    ],
    ids=["clone", "transposed", "flipped", "rolled", "regrouped"],
)
def test_a_copied_weight_is_fitted_as_one_that_is_not(read: Read) -> None:
    plain, fitted = repaired(lambda weight: weight)
    copied, fitted_too = repaired(read)
    assert {"inner", "back"} <= fitted == fitted_too
    check_same_weights(copied, plain)


def test_a_kernel_that_is_turned_is_fitted() -> None:
    plain, _ = repaired(lambda weight: weight, kernel=(3,))
    turned, fitted = repaired(lambda weight: weight.flip(-1).flip(-1) if weight.ndim == 3 else weight, kernel=(3,))
    assert "inner" in fitted
    check_same_weights(turned, plain)


def test_copies_may_wait_outside_of_memory() -> None:
    torch.manual_seed(0)
    model = randomize(Reading(lambda weight: weight.t().contiguous().t())).double().eval()
    batches = [torch.randn(300, 4, dtype=torch.float64) for _ in range(4)]
    plan = graphprune.trace(model, batches[0]).plan(0.5)
    free, bounded = plan.apply(model), plan.apply(model)
    graphprune.repair(free, model, plan, batches)
    graphprune.repair(bounded, model, plan, batches, memory=least(model, plan, batches))
    check_same_weights(bounded, free)


class Heads(nn.Module):
    """A weight for every head and key, which ``einsum`` rearranges."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.weight = nn.Linear(5, 16), nn.Parameter(torch.empty(4, 3, 16, 6))
        self.leave = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(torch.einsum("bnd,hkde->bhnke", self.enter(x).relu(), self.weight).relu())


def test_weights_of_einsum_are_fitted_to_the_least_squares() -> None:
    torch.manual_seed(0)
    model, batch = randomize(Heads()).double().eval(), torch.randn(50, 2, 5, dtype=torch.float64)
    plan = graphprune.trace(model, batch[:2]).plan(0.5)
    slim = plan.apply(model)
    assert slim.weight.shape == (4, 3, 8, 3)
    record = graphprune.repair(slim, model, plan, [batch], ridge=1e-9)
    assert not record.left_alone
    with torch.no_grad():
        x, dense_x = (one.enter(batch).relu().flatten(0, 1) for one in (slim, model))
        wanted = torch.einsum("nd,hkde->nhke", dense_x, model.weight)[..., torch.as_tensor(plan.kept["weight"][3])]
        found = torch.linalg.lstsq(x, wanted.flatten(1)).solution.view(8, 4, 3, 3)
        fitted = torch.einsum("nd,hkde->nhke", x, slim.weight)
    torch.testing.assert_close(fitted, torch.einsum("nd,dhke->nhke", x, found), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("read", "why"),
    [
        (lambda w: w.clone().mul_(2), "a weight is computed from it by mul_"),
        (lambda w: w[:1].repeat(len(w), 1), "its entries are in the weight several times"),
        (lambda w: w.float().double(), "a weight is computed from it by _to_copy"),
        (lambda w: w.clone() if len(w.clone().add_(w)) else w, "also used by add_"),
    ],
    ids=["written to", "repeated", "rounded", "used otherwise"],
)
def test_what_is_more_than_a_copy_is_left_alone_with_the_reason(read: Read, why: str) -> None:
    torch.manual_seed(0)
    model, batch = randomize(Reading()).double().eval(), torch.randn(60, 4, dtype=torch.float64)
    plan = graphprune.trace(model, batch).plan(0.5)
    slim = plan.apply(model)
    model.read, slim.read = read, read
    before = slim.inner.detach().clone()
    record = graphprune.repair(slim, model, plan, [batch])
    reasons = {one.name: one.why for one in record.left_alone}
    assert reasons.keys() == {"inner", "back"}
    assert all(text.startswith(why) for text in reasons.values())
    assert torch.equal(slim.inner, before)


class Twice(nn.Module):
    """A weight that is multiplied with a channel that is constant, once by itself and once by way of a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).relu()
        return self.leave(x) + F.linear(x, self.leave.weight.clone())


def test_compact_folds_nothing_into_a_weight_that_is_also_copied() -> None:
    torch.manual_seed(0)
    model, batch = randomize(Twice()).double().eval(), torch.randn(20, 4, dtype=torch.float64)
    with torch.no_grad():
        model.enter.weight[2] = 0
        model.enter.bias[2] = 1.5
    with pytest.warns(ChannelsKeptWarning, match=r"as leave\.weight is no plain weight"):
        small = graphprune.compact(model, batch)
    torch.testing.assert_close(small(batch), model(batch), **TINY)
