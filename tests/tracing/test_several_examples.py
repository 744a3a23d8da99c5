"""Several example inputs: tasks, optional inputs and other methods make one graph."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune import InputError, MethodCall, TraceError

GENERATOR = torch.Generator().manual_seed(0)
X, C, Z = (torch.randn(2, n, generator=GENERATOR) for n in (8, 5, 3))


class Tasks(nn.Module):
    """A head for each task, an optional condition, a decoder, and an inverse pass."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.condition = nn.Linear(5, 16)
        self.heads = nn.ModuleDict({"a": nn.Linear(16, 4), "b": nn.Linear(16, 6)})
        self.code = nn.Linear(3, 16)
        self.back = nn.Parameter(torch.randn(8, 16))

    def forward(self, x: Tensor, task: str = "a", c: Tensor | None = None, rev: bool = False) -> Tensor:
        h = self.body(x)
        if c is not None:
            h = h + self.condition(c)
        return h @ self.back.T if rev else self.heads[task](h.relu())

    def decode(self, z: Tensor, task: str = "a") -> Tensor:
        return self.heads[task](self.code(z))


class Looking(Tasks):
    """Looks at values, so that it is traced with everything real."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = super().forward(x, *args, **kwargs)
        return y * 2 if float(y.sum()) > 1e9 else y


EXAMPLES = [X, {"x": X, "task": "b"}, (X, "a", C), MethodCall("forward", X, rev=True), MethodCall("decode", Z)]


@pytest.mark.parametrize("kind", [Tasks, Looking])
def test_all_calls_of_a_slim_model_work(kind: type[Tasks]) -> None:
    torch.manual_seed(0)
    model = kind()
    graph = graphprune.trace(model, EXAMPLES)
    plan = graph.plan(0.5)
    slim = plan.apply(model)
    assert not graph.trace.unreached
    assert slim.body.out_features == slim.condition.out_features == slim.code.out_features == slim.back.shape[1] == 8
    check = graphprune.verify(model, slim, plan, EXAMPLES)
    assert check.passed
    assert check.outputs == len(EXAMPLES)


@pytest.mark.parametrize("broken", range(len(EXAMPLES)))
def test_every_example_is_verified(broken: int) -> None:
    """One that the slim model gets wrong is enough."""

    class Broken(Tasks):
        def __init__(self) -> None:
            super().__init__()
            self.calls, self.wrong = 0, False

        def forward(self, *args: Any, **kwargs: Any) -> Tensor:
            return self._counted(super().forward(*args, **kwargs))

        def decode(self, z: Tensor, task: str = "a") -> Tensor:
            return self._counted(super().decode(z, task))

        def _counted(self, y: Tensor) -> Tensor:
            self.calls += 1
            return y + 1 if self.wrong and (self.calls - 1) % len(EXAMPLES) == broken else y

    torch.manual_seed(0)
    model = Broken()
    graph = graphprune.trace(model, EXAMPLES)
    plan = graph.plan(0.5)
    slim = plan.apply(model)
    graph.model.calls = slim.calls = 0
    assert graphprune.pruning.verification.compare_slim(graph, slim, plan).passed
    slim.calls, slim.wrong = 0, True
    assert not graphprune.pruning.verification.compare_slim(graph, slim, plan).passed


def test_one_example_is_the_same_as_a_list_of_it() -> None:
    model = Tasks()
    one, same = (graphprune.trace(model, example) for example in (X, [X]))
    assert [g.name for g in one.groups] == [g.name for g in same.groups]
    assert one.cost().macs == same.cost().macs


def test_costs_are_those_of_all_examples() -> None:
    model = Tasks()
    a, b, both = (graphprune.trace(model, i).cost().macs for i in (X, EXAMPLES[1], EXAMPLES[:2]))
    assert both == a + b


@pytest.mark.filterwarnings("ignore::graphprune.UnreachedWarning")
def test_a_number_that_leaks_in_one_example_only() -> None:
    """The slim model's program is checked on every example."""

    class Scaled(Tasks):
        def decode(self, z: Tensor, task: str = "a") -> Tensor:
            h = self.code(z)
            return self.heads[task](h * (1.0 / int(f"{h.shape[1]}")))

    model = Scaled()
    with pytest.warns(graphprune.NothingRemovedWarning, match=r"0.0625 .* becomes 0.125"):
        graphprune.trace(model, [X, MethodCall("decode", Z)]).plan(0.5)
    assert graphprune.trace(model, X).plan(0.5).shape("body.weight") == (8, 8)


def test_what_fails_is_named() -> None:
    with pytest.raises(TraceError, match=r"Tasks\.decode failed on example_inputs of shape \(2, 8\)"):
        graphprune.trace(Tasks(), [X, MethodCall("decode", X)])
    with pytest.raises(InputError, match="an empty list"):
        graphprune.trace(Tasks(), [])
    with pytest.raises(InputError, match="example_inputs: is a str"):
        graphprune.trace(Tasks(), [X, "decode"])


def test_a_call_prints_itself() -> None:
    assert repr(MethodCall("decode", Z, task="b")) == "MethodCall('decode', f32[2, 3], task='b')"


class MeanTeacher(nn.Module):
    """A student, and a teacher that a method of its own makes its moving average. [n, 4] -> two of [n, 8]"""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = (nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8)) for _ in range(2))

    @torch.no_grad()
    def update(self) -> None:
        for own, other in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            own.lerp_(other, 0.1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.student(x), self.teacher(x)


def test_a_call_that_returns_nothing_may_tie_channels() -> None:
    model, inputs = MeanTeacher().double().eval(), torch.randn(2, 4, dtype=torch.float64)
    examples = [MethodCall("forward", inputs), MethodCall("update")]
    before = copy.deepcopy(model.state_dict())
    plan = graphprune.trace(model, examples).plan(0.5)
    assert [kept.tolist() for kept in plan.kept["teacher.0.weight"].values()] == [
        kept.tolist() for kept in plan.kept["student.0.weight"].values()
    ]
    assert graphprune.verify(model, plan.apply(model), plan, examples).passed
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_no_call_returns_a_tensor() -> None:
    with pytest.raises(TraceError, match="model: it returned no tensor"):
        graphprune.trace(MeanTeacher(), MethodCall("update"))
