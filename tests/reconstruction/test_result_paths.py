"""What goes into a residual sum is fitted to the dense sum; everything else to its own dense output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphprune
from graphprune.pruning.plan import Plan
from graphprune.reconstruction.call_recorder import CallRecorder
from graphprune.reconstruction.executed_call import ExecutedCall
from graphprune.reconstruction.linear_calls import ParameterMemory
from graphprune.reconstruction.result_paths import OtherUse, ResidualSum, ResultPaths
from tests.networks import randomize

aten = torch.ops.aten
pytestmark = pytest.mark.filterwarnings("ignore::graphprune.UnreachedWarning")
"""Of layers that only some networks use."""


def pruned(model: nn.Module, x: Tensor, **options: Any) -> tuple[Plan, nn.Module]:
    plan = graphprune.trace(model, x).plan(**options) if options else graphprune.trace(model, x).plan(0.5)
    return plan, plan.apply(model)


class Stream(nn.Module):
    """``enter`` writes to a stream, ``inner`` reads it, and what ``outer`` makes of that is added by ``join``."""

    def __init__(self, join: Callable[[Stream, Tensor, Tensor], Tensor], bias: bool = True) -> None:
        super().__init__()
        self.enter, self.inner, self.outer = nn.Linear(4, 8), nn.Linear(8, 12), nn.Linear(12, 8, bias=bias)
        self.leave, self.norm, self.scale = nn.Linear(8, 3), nn.BatchNorm1d(8), nn.Parameter(torch.rand(8) + 0.5)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).tanh()
        return self.leave(self.join(self, x, self.inner(x).relu()).tanh())


def in_place(model: Stream, x: Tensor, y: Tensor) -> Tensor:
    x += model.outer(y)
    return x


def onto_the_result(model: Stream, x: Tensor, y: Tensor) -> Tensor:
    return model.outer(y).add_(x)


def moved(model: Stream, x: Tensor, y: Tensor) -> Tensor:
    y = model.outer(y[:, None]).transpose(0, 1).roll(1, 1)  # [1, n, 8]
    y = F.dropout(y, 0.5, training=False).roll(-1, 1).flatten(0, 1).t().contiguous()
    return (x.t() + y).t()


def squeezed(model: Stream, x: Tensor, y: Tensor) -> Tensor:
    return x + model.outer(y[:, None, None]).squeeze((1, 2))


def scaled(model: Stream, x: Tensor, y: Tensor) -> Tensor:
    return x + model.scale * model.outer(y) * 2


def normed(model: Stream, x: Tensor, y: Tensor) -> Tensor:
    return model.norm(model.outer(y)) + x


JOINS = {
    "plain": lambda m, x, y: x + m.outer(y),
    "in place": in_place,
    "onto the result": onto_the_result,
    "moved": moved,
    "squeezed": squeezed,
    "scaled": scaled,
    "normed": normed,
}


def made(join: Callable[[Stream, Tensor, Tensor], Tensor], bias: bool = True) -> Stream:
    model = randomize(Stream(join, bias)).double().eval()
    model.norm.running_var.uniform_(0.5, 2)
    return model


def read(model: Stream, x: Tensor) -> tuple[Tensor, Tensor]:
    """What goes into ``outer``, and the sum."""
    seen: dict[str, Tensor] = {}
    hooks = [
        model.outer.register_forward_pre_hook(lambda _, args: seen.update(x=args[0].flatten(0, -2).clone())),
        model.leave.register_forward_pre_hook(lambda _, args: seen.update(sum=args[0].atanh())),
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return seen["x"], seen["sum"]


def factor(model: Stream, name: str) -> Tensor:
    if name == "scaled":
        return 2 * model.scale.detach()
    if name == "normed":
        return model.norm.weight.detach() / (model.norm.running_var + model.norm.eps).sqrt()
    return torch.ones(model.outer.out_features, dtype=torch.float64)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", JOINS)
def test_a_sum_is_fitted_as_by_hand(name: str, bias: bool) -> None:
    torch.manual_seed(0)
    model = made(JOINS[name], bias)
    x = torch.randn(60, 4, dtype=torch.float64)
    plan, slim = pruned(model, x[:2])
    raw = slim.outer.weight.detach().clone()
    wanted = read(model, x)[1][:, torch.from_numpy(plan.kept["outer.weight"][0])]
    record = graphprune.reconstruct(slim, model, plan, [x[:35], x[35:]], ridge=1e-3)
    (one,) = (r for r in record.repaired if r.name == "outer.weight")
    assert one.summed and one.after < one.before
    assert f"{one.intercept or 'none'} (sum)" in str(record)

    fitted = slim.outer.weight.detach().clone()
    slim.outer.weight.data.copy_(raw)
    inputs, total = read(slim, x)
    centered = one.intercept is not None
    assert centered == (bias or name == "normed")
    a, b = inputs.numpy(), (wanted - total).numpy()
    if centered:
        a, b = a - a.mean(0), b - b.mean(0)
    pull = np.sqrt(1e-3 * (a**2).mean() * len(a)) * np.eye(a.shape[1])
    rows, values = np.concatenate([a, pull]), np.concatenate([b, np.zeros((len(pull), b.shape[1]))])
    change = np.linalg.lstsq(rows, values, rcond=None)[0]
    expected = raw + torch.from_numpy(change.T) / factor(slim, name).unsqueeze(1)
    torch.testing.assert_close(fitted, expected, rtol=1e-7, atol=1e-9)
    slim.outer.weight.data.copy_(fitted)
    error = (read(slim, x)[1] - wanted).square().sum() / wanted.square().sum()
    assert one.after == pytest.approx(float(error) ** 0.5, rel=1e-6)


@pytest.mark.parametrize("name", JOINS)
def test_without_pruning_no_bit_changes(name: str) -> None:
    model = randomize(Stream(JOINS[name])).eval()
    x = torch.randn(20, 4)
    plan, slim = pruned(model, x, ratio=0.0)
    before = {n: t.clone() for n, t in slim.state_dict().items()}
    record = graphprune.reconstruct(slim, model, plan, [x])
    assert [one.summed for one in record.repaired] == [False, False, True, False]
    assert all(torch.equal(t, before[n]) for n, t in slim.state_dict().items())


def test_outputs_that_hardly_count_are_left_as_they_are() -> None:
    model = made(scaled)
    with torch.no_grad():
        model.scale[:4] = torch.tensor([0.0, 1e-9, -1e-5, -1.0])
    x = torch.randn(60, 4, dtype=torch.float64)
    plan, slim = pruned(model, x[:2], ratio=0.0, mlp=0.5)
    raw, bias = slim.outer.weight.detach().clone(), slim.outer.bias.detach().clone()
    record = graphprune.reconstruct(slim, model, plan, [x])
    assert torch.equal(slim.outer.weight[:3], raw[:3]) and torch.equal(slim.outer.bias[:3], bias[:3])
    assert (slim.outer.weight[3:] != raw[3:]).any(1).all()
    assert all(one.after <= one.before for one in record.repaired)


def test_an_input_that_is_written_to_is_seen_as_it_was() -> None:
    class Square(nn.Module):
        def __init__(self, write: bool) -> None:
            super().__init__()
            self.enter, self.square, self.leave, self.write = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3), write

        def forward(self, x: Tensor) -> Tensor:
            x = self.enter(x).tanh()
            if self.write:
                x += self.square(x)
            else:
                x = x + self.square(x)
            return self.leave(x.tanh())

    models = [Square(write).double().eval() for write in (True, False)]
    models[0].load_state_dict(randomize(models[1]).state_dict())
    x = torch.randn(30, 4, dtype=torch.float64)
    fitted = []
    for model in models:
        plan, slim = pruned(model, x)
        record = graphprune.reconstruct(slim, model, plan, [x])
        assert [one.summed for one in record.repaired] == [False, True, False]
        fitted.append(slim.square.weight.detach())
    torch.testing.assert_close(*fitted)


# ---------------------------------------------------------------- what is no sum of this kind


def also_used(model: Stream, x: Tensor, y: Tensor) -> Tensor:
    y = model.outer(y)
    return x + y + y.exp()


def used_after(model: Stream, x: Tensor, y: Tensor) -> Tensor:
    y = model.outer(y)
    x = x + y
    return x * y[:, :1]


def from_itself(model: Stream, x: Tensor, y: Tensor) -> Tensor:
    y = model.outer(y)
    return y + (y * x)


def changed(model: Stream, x: Tensor, y: Tensor) -> Tensor:
    return x + model.outer(y).relu()


def weighted(model: Stream, x: Tensor, y: Tensor) -> Tensor:
    return torch.add(x, model.outer(y), alpha=2)


def spread(model: Stream, x: Tensor, y: Tensor) -> Tensor:
    return x[:1] + model.outer(y)


@pytest.mark.parametrize("join", [also_used, used_after, from_itself, changed, weighted, spread])
def test_other_uses_are_fitted_to_their_own_output(join: Callable[[Stream, Tensor, Tensor], Tensor]) -> None:
    model = made(join)
    x = torch.randn(30, 4, dtype=torch.float64)
    plan, slim = pruned(model, x[:2])
    record = graphprune.reconstruct(slim, model, plan, [x])
    assert not any(one.summed for one in record.repaired)
    assert all(one.after <= one.before for one in record.repaired)


class Shortcut(nn.Module):
    """Two convolutions whose results are added, each behind its batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.one, self.two = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(8, 6, 1)
        self.norm1, self.norm2, self.leave = nn.BatchNorm2d(6), nn.BatchNorm2d(6), nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).relu()
        return self.leave((self.norm1(self.one(x)) + self.norm2(self.two(x))).relu())


def test_of_two_that_are_added_the_second_makes_up_for_the_first() -> None:
    model = randomize(Shortcut()).eval()
    x = torch.randn(8, 2, 5, 5)
    plan, slim = pruned(model, x)
    record = graphprune.reconstruct(slim, model, plan, [x])
    assert {one.name: one.summed for one in record.repaired} == {
        "enter.weight": False,
        "one.weight": False,
        "two.weight": True,
        "leave.weight": False,
    }
    assert [one.name for one in record.repaired] == ["enter.weight", "one.weight", "two.weight", "leave.weight"]
    assert all(one.after <= one.before for one in record.repaired)


def test_the_stream_makes_up_for_what_it_lacks() -> None:
    """An exact case: what pruning took from the stream can be made of what ``outer`` reads."""

    class Exact(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.outer, self.leave = nn.Linear(4, 6), nn.Linear(4, 3), nn.Linear(3, 2)
            self.narrow = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(self.narrow(self.enter(x)).relu() * 0 + self.narrow(self.enter(x)) + self.outer(x))

    model = randomize(Exact()).double().eval()
    x = torch.randn(50, 4, dtype=torch.float64)
    plan, slim = pruned(model, x, ratio=0.0, overrides={"enter": graphprune.Override(ratio=0.5)})
    assert slim.enter.out_features == 3
    graphprune.reconstruct(slim, model, plan, [x], ridge=1e-12)
    torch.testing.assert_close(slim(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_constant_on_the_way_is_no_end() -> None:
    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(4, 8), nn.Linear(8, 3)
            self.weight, self.bias = nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(8))
            self.table = nn.Parameter(torch.randn(5, 8))

        def forward(self, x: Tensor) -> Tensor:
            x = self.enter(x).relu()
            return self.leave(x + (x @ self.weight + self.bias + self.table.expand(len(x), -1, -1)))

    model = randomize(Biased()).eval()
    x = torch.randn(30, 5, 4)
    plan, slim = pruned(model, x)
    record = graphprune.reconstruct(slim, model, plan, [x])
    one = next(r for r in record.repaired if r.name == "weight")
    assert one.summed and one.intercept == "bias"
    survey = CallRecorder(slim)
    with torch.no_grad():
        survey.record(slim, 0, x)
    assert [consumer.beside for consumer in survey.consumers.values()] == [0, 1, 0]  # the stream, not the table


def test_survey_waits_for_what_is_added() -> None:
    model = made(JOINS["plain"])
    survey = CallRecorder(model)
    with torch.no_grad():
        survey.record(model, 0, torch.randn(5, 4, dtype=torch.float64))
    enter, _, outer, _ = survey.consumers.values()
    assert outer.summed and outer.beside == 1 << enter.number


def test_memory_that_is_used_again_is_no_use_of_the_result() -> None:
    paths = ResultPaths(ParameterMemory(nn.Linear(1, 1)))
    token, result = object(), torch.randn(3, 2)
    paths.start(token, result)
    (end,) = paths.follow(ExecutedCall(aten.add.Tensor, (result, torch.ones(3, 2)), {}, result + 1))
    assert isinstance(end, ResidualSum) and torch.equal(end.path.laid_out(end.total), result + 1)
    view = result[:1]
    (end,) = paths.follow(ExecutedCall(aten.exp.default, (view,), {}, view.exp()))
    assert isinstance(end, OtherUse) and end.token is token
    assert not paths.follow(ExecutedCall(aten.ones.default, ([3, 2],), {}, result))
    assert not paths.follow(ExecutedCall(aten.exp.default, (result,), {}, result.exp()))
