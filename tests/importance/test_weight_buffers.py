"""Weights that a model holds as buffers count as parameters do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.graph.parameter_uses import weight_buffers
from graphprune.utils.modules import tables

CRITERIA = ["l1", "l2", "lamp", "fpgm", "taylor", "fisher", "kfac", "surgeon", "wanda", "schur", "obs"]


class Net(nn.Module):
    """Two layers between which channels go; their weights are parameters or buffers."""

    def __init__(self, as_buffers: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        for name, shape in (("first", (6, 12)), ("second", (12, 12)), ("last", (12, 4))):
            weight = torch.randn(*shape) * torch.rand(shape[1])
            if as_buffers:
                self.register_buffer(name, weight)
            else:
                self.register_parameter(name, nn.Parameter(weight))
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(torch.relu(torch.relu(x @ self.first) @ self.second) @ self.last)
        return out


def batches() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(16, 6) for _ in range(3)]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_plans_are_those_of_parameters(criterion: str) -> None:
    plans = [
        graphprune.trace(Net(as_buffers).eval(), batches()[0]).plan(0.5, importance=criterion, calibration=batches())
        for as_buffers in (True, False)
    ]
    for name in ("first", "second"):
        assert plans[0].kept[name][1].tolist() == plans[1].kept[name][1].tolist(), name


@pytest.mark.parametrize("criterion", ["taylor", "kfac"])
def test_buffers_are_left_as_they_were(criterion: str) -> None:
    model = Net(True).eval()
    model.first.requires_grad_(True).grad = torch.ones(6, 12)
    before = {name: t.detach().clone() for name, t in model.named_buffers()}
    graphprune.trace(model, batches()[0]).plan(0.5, importance=criterion, calibration=batches())
    assert [b.requires_grad for b in model.buffers()] == [True, False, False]
    assert torch.equal(model.first.grad, torch.ones(6, 12))
    assert model.second.grad is None
    assert all(torch.equal(t, before[name]) for name, t in model.named_buffers())


def test_a_failing_loss_leaves_them_as_they_were() -> None:
    model = Net(True).eval()

    def loss(output: Tensor, target: Tensor) -> Tensor:
        raise ZeroDivisionError

    pairs = [(batch, batch) for batch in batches()]
    with pytest.raises(ZeroDivisionError):
        graphprune.trace(model, batches()[0]).plan(0.5, importance="taylor", calibration=pairs, loss_fn=loss)
    assert not any(b.requires_grad for b in model.buffers())


class Others(nn.Module):
    """Buffers that are no weights: not saved, a vector, a mask of a parameter, what a call writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 8)
        self.register_buffer("unsaved", torch.randn(8, 8), persistent=False)
        self.register_buffer("scale", torch.rand(8))
        self.register_buffer("mask", (torch.rand(8, 8) > 0.2).float())
        self.register_buffer("memory", torch.randn(8, 8))
        self.register_buffer("weight", torch.randn(8, 8))
        self.masked = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x) * self.scale
        x = x @ self.unsaved + x @ (self.masked * self.mask)
        out = x @ self.memory.clone()
        self.memory.mul_(0.5)
        return out @ self.weight.t()


def test_only_what_is_saved_and_multiplied_as_it_is() -> None:
    model = Others().eval()
    graph = graphprune.trace(model, torch.randn(3, 6))
    assert list(weight_buffers(graph.labeling, tables(model))) == ["weight"]
    with pytest.warns(graphprune.BatchedSamplesWarning):  # the memory fades from call to call
        graph.plan(0.5, importance="taylor", calibration=[torch.randn(4, 6)])


@contextmanager
def on_meta() -> Iterator[None]:
    with torch.device("meta"):
        yield


def test_weights_of_a_model_on_meta_are_those_that_are_given() -> None:
    here = Net(True).eval()
    with on_meta():
        there = Net(True).eval()
    x = batches()[0]
    wanted = graphprune.trace(here, x).plan(0.5, importance="l2").kept
    found = graphprune.trace(there, x.to("meta")).plan(0.5, importance="l2", weights=here.state_dict()).kept
    assert all(np.array_equal(index, found[name][dim]) for name, dims in wanted.items() for dim, index in dims.items())


def test_weights_may_lack_them() -> None:
    with on_meta():
        there = Net(True).eval()
    given = {name: t for name, t in Net(True).state_dict().items() if name.startswith("norm")}
    plan = graphprune.trace(there, batches()[0].to("meta")).plan(0.5, importance="l2", weights=given)
    assert len(plan.kept["first"][1]) == 6
