"""Numbers worked out from a count of channels that a statistic is taken over."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune
from graphprune.planning.translation import Translation

pytestmark = pytest.mark.filterwarnings("ignore::graphprune.UnreachedWarning")  # not all programs use all there is

Then = Callable[[Any, Tensor], Tensor]


class Norm(nn.Module):
    """A program of the test's on 16 channels, with a factor for each."""

    def __init__(self, then: Then) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(16, generator=torch.Generator().manual_seed(1)) + 0.5)
        self.width = 16
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self, x)


def net(then: Then) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), Norm(then), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def square_sum(x: Tensor) -> Tensor:
    return x.pow(2).sum(-1, keepdim=True)


RMS_NORMS: dict[str, Then] = {
    "a power": lambda m, x: F.normalize(x, dim=-1) * x.shape[-1] ** 0.5 * m.gain,
    "a root": lambda m, x: F.normalize(x, dim=-1) * m.gain * math.sqrt(x.size(-1)),
    "numpy": lambda m, x: F.normalize(x, dim=-1) * np.sqrt(x.shape[-1]) * m.gain,
    "a factor of the weight": lambda m, x: F.normalize(x, dim=-1) * (m.gain * m.gain.numel() ** 0.5),
    "a factor of the input": lambda m, x: x * len(m.gain) ** 0.5 / x.norm(dim=-1, keepdim=True) * m.gain,
    "a factor of the norm": lambda m, x: x / (x.norm(dim=-1, keepdim=True) * x.shape[-1] ** -0.5) * m.gain,
    "a mean by hand": lambda m, x: x * torch.rsqrt(square_sum(x) / x.shape[-1]) * m.gain,
    "a float on the left": lambda m, x: x * torch.rsqrt(square_sum(x) * (1.0 / x.shape[1])) * m.gain,
    "an attribute that is a size": lambda m, x: F.normalize(x.view(-1, m.width)) * m.width**0.5 * m.gain,
    "in place": lambda m, x: F.normalize(x, dim=-1).mul_(x.shape[-1]).div_(x.shape[-1] ** 0.5) * m.gain,
}


@pytest.mark.parametrize("name", RMS_NORMS)
def test_an_rms_norm_that_reads_its_width(name: str) -> None:
    """It is pruned to what torch's own becomes, whose mean square is over the channels that are left."""
    model, x = net(RMS_NORMS[name]), torch.randn(4, 5)
    plan = graphprune.trace(model, x).plan(0.5, importance="random")
    slim = plan.apply(model)
    assert slim[0].out_features == 8
    check = graphprune.verify(model, slim, plan, x)
    assert check.passed
    assert any("worked out from a count of channels" in text for text in check.inexact)
    reference = net(lambda m, y: F.rms_norm(y, (y.shape[-1],), m.gain, 0.0))
    torch.testing.assert_close(slim(x), plan.apply(reference)(x))


STATISTICS: dict[str, Then] = {
    "a centered input": lambda m, x: x - x.sum(-1, keepdim=True) / x.shape[-1],
    "a variance": lambda m, x: x / ((x - x.mean(-1, keepdim=True)).pow(2).sum(-1, True) / (x.shape[-1] - 1)).sqrt(),
    "the norm of heads": lambda m, x: (F.normalize(x.view(-1, 4, x.shape[1] // 4), dim=-1) * (x.shape[1] // 4)).flatten(
        1
    ),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_other_statistics(name: str) -> None:
    model, x = net(STATISTICS[name]), torch.randn(4, 5)
    plan = graphprune.trace(model, x).plan(0.5, importance="random")
    slim = plan.apply(model)
    assert slim[2].out_features == 4
    assert graphprune.verify(model, slim, plan, x).passed


OTHERS: dict[str, Then] = {
    "no statistic": lambda m, x: x * x.shape[-1] ** -0.5,
    "no count": lambda m, x: F.normalize(x, dim=-1) * (x.shape[-1] + 3.0),
    "a score": lambda m, x: x * ((x * m.gain).sum(-1, keepdim=True) / x.shape[-1] ** 0.5),
    "a summand": lambda m, x: F.normalize(x, dim=-1) * x.shape[-1] ** 0.5 + 1.0 * x.shape[-1],
    "a tensor that is made of one": lambda m, x: F.normalize(x, dim=-1) + m.gain.new_tensor(x.shape[-1]),
    "an old tensor that is made of one": lambda m, x: F.normalize(x, dim=-1) + x.detach().new([x.shape[-1] / 2]),
    "a number of parts": lambda m, x: F.normalize(x, dim=-1) * x.chunk(x.shape[-1] // 8, 1)[0].sum(),
    "a default": lambda m, x: F.normalize(x, dim=-1) * F.softplus(torch.ones(1), beta=x.shape[-1] // 8),
    "is it close?": lambda m, x: F.normalize(x, dim=-1) * (1 + 9 * math.isclose(x.shape[-1], 16, rel_tol=0.1)),
    "a statistic of other dimensions": lambda m, x: F.normalize(x, dim=0) * x.shape[-1] ** 0.5,
}


@pytest.mark.parametrize("name", OTHERS)
def test_numbers_that_are_no_part_of_a_statistic(name: str) -> None:
    """What they are the size of stays."""
    model, x = net(OTHERS[name]), torch.randn(4, 5)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert (slim[0].out_features, slim[2].out_features) == (16, 4)
    check = graphprune.verify(model, slim, plan, x)
    assert check.passed
    assert not check.inexact


def test_without_the_check_other_uses_would_be_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Translation, "difference", lambda *choice: None)
    model, x = net(OTHERS["a summand"]), torch.randn(4, 5)
    plan = graphprune.trace(model, x).plan(0.5)
    assert not graphprune.verify(model, plan.apply(model), plan, x).passed


def test_a_number_made_before_stays() -> None:
    """The width as a number in ``__init__`` is no size: the slim model is the model with channels set to zero."""
    model, x = net(lambda m, x: F.normalize(x, dim=-1) * 4.0 * m.gain), torch.randn(4, 5)
    plan = graphprune.trace(model, x).plan(0.5)
    check = graphprune.verify(model, plan.apply(model), plan, x)
    assert check.passed
    assert not check.inexact
