from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphprune.export.huggingface.same_program import _factors, equal_tensors, same_program
from graphprune.tracing.inputs import MethodCall
from graphprune.tracing.running import replay_on_shapes


class Net(nn.Module):
    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scale = 2.0
        self.linear = nn.Linear(4, 4)
        self.register_buffer("table", torch.arange(4.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.scale + self.table + torch.arange(4)


def test_a_copy_calls_the_same() -> None:
    net = Net()
    assert same_program(net, copy.deepcopy(net))


def _another_factor(net: Any) -> None:
    net.scale = 3.0


class Scaled(nn.Module):
    """A factor that torch is given by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = 0.5

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(x, x, x, alpha=self.scale)


def test_a_factor_that_is_given_by_its_name_is_seen() -> None:
    one, other = Scaled(), Scaled()
    other.scale = 0.25
    run, changed = (replay_on_shapes(net, [MethodCall("forward", torch.ones(2, 4, 4))]) for net in (one, other))
    assert _factors(run) != _factors(changed)
    assert _factors(run) == _factors(replay_on_shapes(one, [MethodCall("forward", torch.ones(2, 4, 4))]))


def _another_weight(net: Any) -> None:
    net.linear.weight.data[0, 0] += 1


def _another_buffer(net: Any) -> None:
    net.table[1] = 5


def _another_width(net: Any) -> None:
    net.linear = nn.Linear(5, 4)


def _another_operation(net: Any) -> None:
    net.linear.register_forward_hook(lambda _module, _args, output: output.relu())


@pytest.mark.parametrize(
    "change", [_another_factor, _another_weight, _another_buffer, _another_width, _another_operation]
)
def test_a_difference_is_seen(change: Any) -> None:
    net = Net()
    change(other := copy.deepcopy(net))
    assert same_program(net, other) is (False if change is _another_factor else None)


class Looking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if float(x.sum()) else x


def test_of_programs_that_look_at_values_nothing_is_said() -> None:
    net = Looking()
    assert same_program(net, copy.deepcopy(net)) is None


def test_nothing_is_known_of_values_on_meta() -> None:
    one = torch.ones(2, device="meta")
    assert not equal_tensors(one, one)
    assert equal_tensors(one[:0], one[:0])


def test_a_replay_on_shapes_reads_no_weight_and_changes_nothing() -> None:
    net = Net().train()
    net.linear.weight = nn.Parameter(torch.empty(4, 4, device="meta"))
    run = replay_on_shapes(net, [MethodCall("forward", torch.ones(2, 4))])
    assert run.outputs[0].meta["shape"] == (2, 4)
    assert {"linear.weight", "linear.bias", "table"} == run.used
    assert net.training
