"""Slim models run the program that was traced, however sizes reach it."""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.planning.translation import Translation, responsible
from graphprune.tracing.inputs import MethodCall
from graphprune.tracing.running import replay_program


class Net(nn.Module):
    """Two hidden layers, with a program of the test's on the first. [n, 5] -> [n, 3]"""

    def __init__(self, then: Callable[[Any, Tensor], Any], inputs: int = 16) -> None:
        super().__init__()
        self.enter, self.middle, self.leave = nn.Linear(5, 16), nn.Linear(inputs, 8), nn.Linear(8, 3)
        self.width = 16
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.leave(self.middle(self.then(self, self.enter(x))).relu())
        return y


LEAKS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "float on the left": lambda m, y: y * (1.0 / y.shape[1]),
    "a product": lambda m, y: y * (0.5 * y.shape[1]),
    "a difference": lambda m, y: y * (40.0 - y.shape[1]),
    "a quotient": lambda m, y: y * (64.0 // y.shape[1]),
    "a logarithm": lambda m, y: y * (math.log(1e4) / y.shape[1]),
    "an attribute": lambda m, y: y.view(-1, m.width) * (1.0 / m.width),
    "a comparison": lambda m, y: y * (2.0 if (12.0).__lt__(y.shape[1]) else 1.0),
    "an equality": lambda m, y: y * (2.0 if y.shape[1] == 16.0 else 1.0),
    "a complex number": lambda m, y: y * abs(1j * y.shape[1]),
    "a whole root": lambda m, y: y * math.isqrt(y.shape[1]),
    "text": lambda m, y: y * float(f"{y.shape[1]:d}"),
    "a key": lambda m, y: y * {"16": 2.0}.get(str(int(y.shape[1])), 1.0),
    "numpy": lambda m, y: y * float(np.array([y.shape[1]]).mean()),
    "a binary length": lambda m, y: y * int(y.shape[1]).bit_length(),
    "a formatted branch": lambda m, y: y.tanh() if f"{y.size(1)}" == "16" else y.sigmoid(),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_size_that_became_a_number(name: str) -> None:
    """The layer whose size it is stays, with the reason; the other one is pruned."""
    model, x = Net(LEAKS[name]).eval(), torch.randn(4, 5)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    check = graphprune.verify(model, slim, plan, x)
    assert check.passed, check
    assert slim.middle.out_features == 4
    assert slim.enter.out_features == 16


def test_the_reason_says_what_would_change_and_where() -> None:
    plan = graphprune.trace(Net(LEAKS["a product"]).eval(), torch.randn(4, 5)).plan(0.5)
    why = {choice.group: choice.why for choice in plan.choices}
    changed = r"the number 8\.0 \(other of mul\) becomes 4\.0, at .*test_translation\.py:\d+: "
    assert re.match(f"the program would be another one: {changed}", why["enter"])
    assert why["middle"] == "ratio 0.5"


def test_without_the_check_it_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Translation, "difference", lambda *choice: None)
    model, x = Net(LEAKS["a product"]).eval(), torch.randn(4, 5)
    plan = graphprune.trace(model, x).plan(0.5)
    assert not graphprune.verify(model, plan.apply(model), plan, x).passed


def test_a_slim_model_that_would_fail() -> None:
    """A length that was cut by a number: the slim model's next layer does not fit."""
    model, x = Net(lambda m, y: y[:, : int(0.75 * y.shape[1])], inputs=12).eval(), torch.randn(4, 5)
    plan = graphprune.trace(model, x).plan(0.5)
    assert graphprune.verify(model, plan.apply(model), plan, x).passed


def test_programs_without_leaks_are_not_held() -> None:
    for then in (
        torch.tanh,
        lambda y: y.view(-1, 4, 4).flatten(1),
        lambda y: y / y.norm(),
        lambda y: y.clone().relu_(),
    ):
        model = Net(lambda m, y, then=then: then(y)).eval()
        plan = graphprune.trace(model, torch.randn(4, 5)).plan(0.5)
        assert all("the program would be" not in choice.why for choice in plan.choices)


@pytest.mark.parametrize(
    "made",
    [
        lambda y: torch.tensor(float("nan")),
        lambda y: y.new_tensor(math.nan),
        lambda y: torch.as_tensor(np.float32(np.nan)),
        lambda y: torch.tensor([[0.0], [math.nan], [1.0], [math.nan]]),
    ],
)
def test_a_constant_that_is_not_a_number(made: Callable[[Tensor], Tensor]) -> None:
    """NaN is not equal to itself; the constant is the same in both runs all the same."""
    model, x = Net(lambda m, y: torch.where(y > 9, made(y), y)).eval(), torch.randn(4, 5)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert slim.enter.out_features == 8
    assert graphprune.verify(model, slim, plan, x).passed


def test_a_buffer_that_is_not_a_number_is_left_alone() -> None:
    """Its entries are one in memory, so it could not be written to."""
    model, x = Net(lambda m, y: torch.where(y > 9, m.fill, y)).eval(), torch.randn(4, 5)
    model.register_buffer("fill", torch.tensor([math.nan]).expand(4, 1))
    plan = graphprune.trace(model, x).plan(0.5)
    assert graphprune.verify(model, plan.apply(model), plan, x).passed
    assert graphprune.measure(model, x).parameters == 259


def test_heads_blocks_and_attention_of_torch() -> None:
    """Modules that pruning exchanges, and blocks that are left out, are no differences."""
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)
    model, x = nn.Sequential(*(copy.deepcopy(layer) for _ in range(3))).eval(), torch.randn(2, 6, 16)
    plan = graphprune.trace(model, x).plan(0.5, depth=0.4)
    assert len(plan.skipped) == 1
    assert all("the program would be" not in choice.why for choice in plan.choices)
    assert plan.entries[1] < 0.6 * plan.entries[0]


def test_a_block_that_the_program_looks_into() -> None:
    """``nn.TransformerEncoder`` asks its first layer how it is made."""
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    held = {model.layers[1]: graphprune.Override(frozen=True)}
    with pytest.raises(graphprune.PlanError, match=r"depth: the program would be another one without layers\.0.*Skip"):
        graphprune.trace(model, torch.randn(2, 6, 16)).plan(depth=0.5, overrides=held)


_NUMBERS = itertools.count(1)


class Counting(nn.Module):
    """Another factor in every call, from an iterator that nothing winds back."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.leave(self.enter(x) * float(next(_NUMBERS)))
        return y


def test_a_program_that_is_another_one_each_time_is_refused() -> None:
    with pytest.raises(graphprune.PlanError, match=r"does not do the same again.*the number"):
        graphprune.trace(Counting().eval(), torch.randn(4, 5)).plan(0.5)


class MakesOnce(nn.Module):
    """Makes a table for as many steps as there are, where it has none or a shorter one."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 16), nn.Linear(16, 3)
        self.table: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None or self.table.shape[0] < x.shape[1]:
            self.table = torch.ones(x.shape[1], 1)
        y: Tensor = self.leave(self.enter(x) * self.table[: x.shape[1]])
        return y


class CountsRuns(nn.Module):
    """Its first run is another one than the others."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 16), nn.Linear(16, 3)
        self.runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        y = self.enter(x)
        z: Tensor = self.leave(y.relu() if self.runs == 1 else y)
        return z


@pytest.mark.parametrize("kind", [MakesOnce, CountsRuns])
def test_a_model_that_has_run_since_it_was_traced(kind: type[nn.Module]) -> None:
    model, x = kind().eval(), torch.randn(2, 6, 5)
    graph = graphprune.trace(model, x)
    assert graph.plan(0.5).choices
    model(x)
    with pytest.raises(graphprune.PlanError, match=r"^model: it has run, or was changed, since it was traced") as e:
        graph.plan(0.5)
    assert "trace the model again" in e.value.do
    assert graphprune.trace(model, x).plan(0.5).choices


def test_a_model_of_another_type_than_when_it_was_traced() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 3)).eval()
    graph = graphprune.trace(model, torch.randn(1, 3, 8, 8))
    model.half()
    with pytest.raises(graphprune.PlanError, match=r"0.weight is torch.float16 and was torch.float32 when it was") as e:
        graph.plan(0.5)
    assert "trace the model again" in e.value.do


@pytest.mark.parametrize("guilty", [{3}, {0, 7}, {1, 2, 5}, set(range(8))])
def test_the_responsible_are_found(guilty: set[int]) -> None:
    assert set(responsible(range(8), lambda groups: bool(guilty & set(groups)))) == guilty


def test_what_only_several_do_together_holds_them_all() -> None:
    assert responsible([1, 2, 3], lambda groups: {1, 2, 3} <= set(groups)) == [1, 2, 3]
    for together in ({0, 7}, {3, 4}, {1, 2, 6}, set(range(1, 8))):
        assert set(responsible(range(8), lambda groups, t=together: t <= set(groups))) == together


def test_nothing_of_the_users_model_is_changed() -> None:
    model, x = Net(LEAKS["a product"]), torch.randn(4, 5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graphprune.trace(model, x).plan(0.5)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_threads_that_plan_leave_random_numbers_as_they_were() -> None:
    """The check starts from the state that the trace started from, and puts back what was there."""
    graphs = [graphprune.trace(Net(LEAKS["a product"]).eval(), torch.randn(4, 5)) for _ in range(3)]
    torch.manual_seed(7)
    before = torch.get_rng_state()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda graph: graph.plan(0.5), graphs))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_replay_is_a_trace_without_sizes() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)).to("meta")
    run = replay_program(model, [MethodCall("forward", torch.randn(3, 5))])
    traced = graphprune.trace(
        nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)).eval(), torch.randn(3, 5)
    ).trace
    targets = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert [call.target for call in run.calls if call.op == "call_function"] == targets
    assert [tuple(call.meta["shape"]) for call in run.outputs] == [(3, 2)]


COUNTS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "groups": lambda m, y: nn.functional.group_norm(y, math.gcd(6, y.shape[1])),
    "shuffled groups": lambda m, y: torch.channel_shuffle(y[..., None], math.gcd(6, y.shape[1])).flatten(1),
    "a place": lambda m, y: y[:, int(np.sqrt(y.shape[1])) :][:, :4].repeat(1, 4) + 0 * y[:, :1],
}


@pytest.mark.parametrize("name", COUNTS)
def test_a_size_that_became_a_count_or_a_place(name: str) -> None:
    """What has the right shape may still have other groups, or begin elsewhere."""
    model, x = Net(COUNTS[name]).eval(), torch.randn(4, 5)
    plan = graphprune.trace(model, x).plan(0.5)
    check = graphprune.verify(model, plan.apply(model), plan, x)
    assert check.passed, check
    assert any(choice.removed for choice in plan.choices)


def test_plain_numbers_that_vmap_makes_tensors_of_are_no_leaks() -> None:
    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1)

        def forward(self, x: torch.Tensor) -> Any:
            return self.leave(torch.vmap(lambda t: t / (1 + t.sum()))(self.enter(x)))

    assert graphprune.trace(Mapped(), torch.randn(2, 3, 8, 8)).plan(0.5).kept
