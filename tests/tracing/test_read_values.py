"""Entries of tensors that a program reads as numbers, and sizes that it reads past ``shape``."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.onnx.operators
from torch import Tensor, nn

import graphprune


class Scaled(nn.Module):
    """16 channels, multiplied by a number that is worked out from a buffer. [n, 5] -> [n, 3]"""

    def __init__(self, read: Callable[[Tensor], float]) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 16), nn.Linear(16, 3)
        self.register_buffer("scales", torch.tensor([1.0, 1.5, 2.0, 2.5]))
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        count = self.scales.numel() + self.scales.shape[0]
        found: Tensor = self.leave(y * (self.read(self.scales) + 0 * (count > 1)))
        return found


READINGS: dict[str, Callable[[Any], float]] = {
    "a list": lambda s: s.tolist()[2],
    "an array": lambda s: float(np.asarray(s)[2]),
    "numpy": lambda s: float(s.detach().numpy()[2]),
    "one entry": lambda s: float(s[2]),
    "the last entry": lambda s: s[-1].item(),
    "every entry": lambda s: sum(float(x) for x in s),
    "their sum": lambda s: s.sum().item(),
    "their mean": lambda s: float(s.mean()),
    "a truth value": lambda s: 2.0 if (s > 0).all() else 1.0,
    "whether it is among them": lambda s: 2.0 if 2.5 in s else 1.0,
    "text": lambda s: float(f"{s[2]:.1f}"),
    "pickled": lambda s: pickle.loads(pickle.dumps(s)).tolist()[2],
    "memory": lambda s: float(sum(s.untyped_storage().tolist())),
}


@pytest.mark.parametrize("name", READINGS)
def test_a_buffer_that_is_read_stays(name: str) -> None:
    model, x = Scaled(READINGS[name]).eval(), torch.randn(4, 5)
    graph = graphprune.trace(model, x)
    plan = graph.plan(0.5, importance="random")
    slim = plan.apply(model)
    assert torch.equal(slim.scales, model.scales)
    assert slim.enter.out_features == 8
    assert graphprune.verify(model, slim, plan, x).passed


def test_the_reason_says_where_it_is_read() -> None:
    graph = graphprune.trace(Scaled(READINGS["a list"]).eval(), torch.randn(4, 5))
    (reason,) = [f.reason for f in graph.frozen if f.axis == "scales[0]"]
    assert reason.startswith("its entries are read as numbers, at ")
    assert "test_read_values.py" in reason
    assert "s.tolist()[2]" in reason


def test_channels_that_are_read_stay() -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.middle, self.leave = nn.Linear(5, 16), nn.Linear(16, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.enter(x)
            found: Tensor = self.leave(self.middle(y * max(y.mean(0).tolist())))
            return found

    model, x = Reading().eval(), torch.randn(4, 5)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert (slim.enter.out_features, slim.middle.out_features) == (16, 4)
    assert graphprune.verify(model, slim, plan, x).passed


SIZES: dict[str, Callable[[Tensor], Any]] = {
    "a tensor of the shape": lambda y: torch._shape_as_tensor(y)[1],
    "the same for ONNX": lambda y: torch.onnx.operators.shape_as_tensor(y)[1],
    "memory": lambda y: y.contiguous().untyped_storage().nbytes() / y.element_size(),
    "strides": lambda y: y.stride(0),
    "an offset": lambda y: y[1:].storage_offset(),
    "an array": lambda y: y.detach().numpy().shape[1],
    "a list": lambda y: len(y[0].tolist()),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_size_that_is_read_past_the_shape(name: str) -> None:
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.middle, self.leave = nn.Linear(5, 16), nn.Linear(16, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.enter(x)
            found: Tensor = self.leave(self.middle(y / SIZES[name](y)).relu())
            return found

    model, x = Sized().eval(), torch.randn(4, 5)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert (slim.enter.out_features, slim.middle.out_features) == (16, 4)
    assert graphprune.verify(model, slim, plan, x).passed


class Saved(nn.Module):
    """What a hidden layer gives is written to memory and read back. [n, 5] -> [n, 3]"""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.middle, self.leave = nn.Linear(5, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        buffer = io.BytesIO()
        torch.save(self.enter(x), buffer)
        buffer.seek(0)
        return self.leave(self.middle(torch.load(buffer)).relu())


def test_an_activation_that_is_saved_and_read_back() -> None:
    """Its sizes are plain numbers in the file; what was written stays, and the rest is pruned."""
    model, x = Saved().eval(), torch.randn(2, 5)
    graph = graphprune.trace(model, x)
    plan = graph.plan(0.5)
    slim = plan.apply(model)
    assert (slim.enter.out_features, slim.middle.out_features) == (16, 8)
    assert any("its entries are read as numbers" in frozen.reason for frozen in graph.frozen)
    assert graphprune.verify(model, slim, plan, x).passed
