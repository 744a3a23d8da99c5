"""What a program may contain besides tensor operations: TorchScript, and results in wrappers."""

from __future__ import annotations

from collections import OrderedDict, UserDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

import graphprune
from graphprune.errors import InputError, TraceError

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning")


def halves(x: Tensor) -> Tensor:
    """A size that is written down: eight channels of each of two halves."""
    return x.view(-1, 2, 8).softmax(-1).view(-1, 16)


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


class Around(nn.Module):
    """Two layers before and two behind what is under test, which takes and gives 16 channels."""

    def __init__(self, middle: object) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 16))
        self.middle = middle
        self.leave = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.middle(self.enter(x)))  # type: ignore[operator]


def pruned(model: nn.Module) -> nn.Module:
    """``model`` at half its width, verified, and still the same class."""
    inputs = torch.randn(2, 4)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    graph = graphprune.trace(model.eval(), inputs)
    plan = graph.plan(0.5)
    slim = plan.apply(model)
    assert graphprune.verify(model, slim, plan, inputs).passed
    assert type(slim) is type(model)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    slim(torch.randn(4, 4)).sum().backward()
    return slim


def test_a_scripted_module_keeps_its_shape_and_the_rest_is_pruned() -> None:
    model = Around(torch.jit.script(nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16))))
    slim = pruned(model)
    assert slim.enter[2].out_features == slim.leave[0].in_features == 16
    assert slim.enter[0].out_features == slim.leave[0].out_features == 16
    assert isinstance(slim.middle, torch.jit.ScriptModule)
    (reason,) = [f for f in graphprune.trace(model, torch.randn(2, 4)).frozen if f.axis == "enter.2.weight[0]"]
    assert "compiled by TorchScript" in reason.reason


@pytest.mark.filterwarnings("ignore:.torch.jit.trace. is deprecated")
def test_a_module_recorded_by_torchscript_keeps_its_shape_too() -> None:
    middle = nn.Sequential(nn.Linear(16, 16), nn.Sequential(nn.BatchNorm1d(16))).eval()
    slim = pruned(Around(torch.jit.trace(middle, torch.randn(2, 16))))
    assert slim.enter[2].out_features == slim.leave[0].in_features == 16
    assert slim.enter[0].out_features == slim.leave[0].out_features == 16
    assert isinstance(slim.middle, torch.jit.ScriptModule)


def test_a_whole_scripted_model_says_why_it_is_not_pruned() -> None:
    model = torch.jit.script(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)))
    with pytest.raises(graphprune.errors.PlanError, match=r"compiled by TorchScript, at .*test_programs\.py"):
        graphprune.trace(model, torch.randn(2, 4)).plan(0.5)


def test_a_scripted_function_that_is_an_attribute_is_shared() -> None:
    class Holds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.function = torch.jit.script(swish)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.function(x)
            return found

    model = Around(Holds())
    slim = pruned(model)
    assert slim.leave[0].in_features == 8
    assert slim.middle.function is model.middle.function


def test_a_scripted_function_is_pruned_through_unless_it_uses_sizes() -> None:
    functions = {"swish": torch.jit.script(swish), "halves": torch.jit.script(halves)}

    class Calls(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: Tensor) -> Tensor:
            return functions[self.name](x)

    assert pruned(Around(Calls("swish"))).leave[0].in_features == 8
    model = Around(Calls("halves"))
    assert pruned(model).leave[0].in_features == 16
    reasons = [f.reason for f in graphprune.trace(model, torch.randn(2, 4)).frozen if f.axis == "leave.0.weight[1]"]
    assert "sizes inside TorchScript are not followed" in reasons[0]


@dataclass
class Result:
    scores: Tensor
    extra: tuple[Tensor, ...] = ()
    name: str = "result"


class Wrapped(nn.Module):
    """What a result is wrapped in."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.kind = kind
        self.layers = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> object:
        return self.kind(self.layers(x))


class Box:
    def __init__(self, content: Tensor) -> None:
        self.content = content


def test_the_fields_of_a_dataclass_are_outputs() -> None:
    model, inputs = Wrapped(Result).eval(), torch.randn(2, 4)
    plan = graphprune.trace(model, inputs).plan(0.5)
    slim = plan.apply(model)
    assert slim(inputs).scores.shape == (2, 16)
    assert slim.layers[0].out_features == 16
    check = graphprune.verify(model, slim, plan, inputs)
    assert check.passed and check.outputs == 1


def test_an_output_without_tensors_is_refused() -> None:
    model, inputs = Wrapped(Box).eval(), torch.randn(2, 4)
    with pytest.raises(TraceError, match=r"output is a Box, in which no tensor was found[\s\S]*pass outputs="):
        graphprune.trace(model, inputs)
    graph = graphprune.trace(model, inputs, outputs=lambda box: box.content)
    assert graph.plan(0.5).apply(model)(inputs).content.shape == (2, 16)


class Actor(nn.Module):
    """Actions and a value: of normal distributions, [n, 4] -> [n, 16], or what ``wrap`` makes of the means."""

    def __init__(self, wrap: Callable[[Tensor], Any] | None = None) -> None:
        super().__init__()
        self.wrap = wrap
        self.trunk, self.mean, self.value = nn.Linear(4, 32), nn.Linear(32, 16), nn.Linear(32, 1)
        self.log_std = nn.Parameter(torch.randn(16))

    def forward(self, x: Tensor) -> tuple[Any, Tensor]:
        hidden = self.trunk(x).tanh()
        mean = self.mean(hidden)
        wrapped = self.wrap(mean) if self.wrap else Independent(Normal(mean, self.log_std.exp()), 1)
        return wrapped, self.value(hidden)


class LazyItems(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Any:
        hidden = self.first(x).relu()
        return self.second(hidden), zip([self.third(hidden)], ["a"], strict=True)


def test_iterators_beside_tensors_are_refused_since_their_items_are_not_seen() -> None:
    with pytest.raises(TraceError, match=r"its output holds a zip[\s\S]*return a list"):
        graphprune.trace(LazyItems(), torch.randn(2, 4))
    graph = graphprune.trace(LazyItems(), torch.randn(2, 4), outputs=lambda out: out[0])
    assert graph.groups


def test_the_parameters_of_a_distribution_are_outputs() -> None:
    model, inputs = Actor().eval(), torch.randn(2, 4)
    plan = graphprune.trace(model, inputs).plan(0.5)
    slim = plan.apply(model)
    assert slim(inputs)[0].mean.shape == (2, 16)
    assert slim.trunk.out_features == 16
    check = graphprune.verify(model, slim, plan, inputs)
    assert check.passed and check.outputs == 3


HOLDERS: list[Callable[[Tensor], Any]] = [
    Box,
    lambda mean: [Box({"mean": mean})],
    lambda mean: lambda: mean,
    lambda mean: mean.sum,
    lambda mean: slice(mean, None),
    lambda mean: ValueError(mean),
    lambda mean: np.array([mean, None], dtype=object),
]


@pytest.mark.parametrize("view", [dict.values, dict.items])
def test_tensors_in_views_of_dictionaries_are_outputs(view: Callable[[dict[str, Tensor]], Any]) -> None:
    model, inputs = Actor(lambda mean: view({"mean": mean})).eval(), torch.randn(2, 4)
    plan = graphprune.trace(model, inputs).plan(0.5)
    slim = plan.apply(model)
    assert (slim.mean.out_features, slim.trunk.out_features) == (16, 16)
    assert graphprune.verify(model, slim, plan, inputs).outputs == 2


@pytest.mark.parametrize("wrap", HOLDERS)
def test_tensors_in_objects_beside_tensors_keep_their_shape(wrap: Callable[[Tensor], Any]) -> None:
    model, inputs = Actor(wrap).eval(), torch.randn(2, 4)
    slim = graphprune.trace(model, inputs).plan(0.5).apply(model)
    assert (slim.mean.out_features, slim.trunk.out_features) == (16, 16)


class Keeping(nn.Module):
    """A layer that puts its keys into the cache that it is given. [n, 4] -> [n, 8]"""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.leave = nn.Linear(4, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor, cache: Box) -> Tensor:
        cache.content = self.keys(x)
        return self.leave(cache.content)


class Cached(nn.Module):
    """A network that returns its cache too. [n, 4] -> [n, 8]"""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Keeping()

    def forward(self, x: Tensor) -> tuple[Tensor, Box]:
        cache = Box(x)
        return self.layer(x, cache), cache


def test_caches_that_layers_are_given_are_no_outputs() -> None:
    slim = graphprune.trace(Cached().eval(), torch.randn(2, 4)).plan(0.5).apply(Cached())
    assert slim.layer.keys.out_features == 8


class BuiltLate(nn.Module):
    """Makes its last layer when it first sees an input. [n, 4] -> [n, 3]"""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 16), None

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.enter(x).relu()
        if self.leave is None:
            self.leave = nn.Linear(hidden.shape[1], 3)
        return self.leave(hidden)


def test_layers_that_are_built_at_the_first_call_are_asked_for() -> None:
    model, inputs = BuiltLate(), torch.randn(2, 4)
    with pytest.raises(InputError, match=r"makes parameters at its first call, leave.bias and 1 more[\s\S]*run the mo"):
        graphprune.trace(model, inputs)
    assert model.leave is None
    model(inputs)
    assert graphprune.prune_model(model, 0.5, inputs, verify=True).leave.in_features == 8


class Biased(nn.Module):
    """Four heads of width 8 whose scores get a bias, which ``copies`` makes for every head. [n, 6, 5] -> [n, 6, 3]"""

    def __init__(self, copies: Callable[[Biased, Tensor], Tensor]) -> None:
        super().__init__()
        self.heads = 4
        self.enter, self.leave = nn.Linear(5, 96), nn.Linear(32, 3)
        self.bias = nn.Parameter(torch.randn(6, 6))
        self.copies = copies

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = self.enter(x).view(n, length, 3, self.heads, 8).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2)
        weights = (scores + self.copies(self, scores)).softmax(-1)
        return self.leave((weights @ v).transpose(1, 2).reshape(n, length, -1))


@pytest.mark.filterwarnings("ignore::graphprune.errors.NothingRemovedWarning")
@pytest.mark.parametrize(
    ("heads", "copies"),
    [
        (4, lambda m, scores: m.bias.repeat(4, 1, 1)),
        (2, lambda m, scores: m.bias.repeat(m.heads, 1, 1)),
        (2, lambda m, scores: m.bias.repeat(1, scores.shape[1], 1, 1)),
        (4, lambda m, scores: torch.tile(m.bias, (4, 1, 1))),
        (2, lambda m, scores: m.bias[None].tile(m.heads, 1, 1)),
        (4, lambda m, scores: m.bias[None].repeat_interleave(4, 0)),
        (2, lambda m, scores: m.bias[None].repeat_interleave(m.heads, dim=-3)),
        (2, lambda m, scores: torch.repeat_interleave(m.bias[None], repeats=scores.shape[1], dim=0)),
        (4, lambda m, scores: m.bias[:1, :1].repeat_interleave(4).view(4, 1, 1)),
        (2, lambda m, scores: m.bias[:1, :1].repeat_interleave(m.heads).view(m.heads, 1, 1)),
        (4, lambda m, scores: m.bias[None].repeat_interleave(torch.tensor([4]), 0)),
        (2, lambda m, scores: torch.zeros(len(scores), 6, 6).repeat_interleave(m.heads, 0).view(scores.shape)),
    ],
)
def test_how_many_copies_are_made_is_a_size(heads: int, copies: Callable[[Biased, Tensor], Tensor]) -> None:
    """Heads go where the number of copies is that of the heads, and not where it is written down."""
    model, inputs = Biased(copies).eval(), torch.randn(2, 6, 5)
    plan = graphprune.trace(model, inputs).plan(0.5)
    slim = plan.apply(model)
    assert graphprune.verify(model, slim, plan, inputs).passed
    assert slim.heads == heads and slim.leave.in_features == 8 * heads


class Batch(NamedTuple):
    """What a model may be given its inputs in."""

    x: Tensor


class Unpacking(nn.Module):
    """Takes one tensor out of what holds it. {[n, 6]} -> [n, 3]"""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, batch: Any) -> Tensor:
        return self.leave(self.enter(batch["x"] if isinstance(batch, Mapping) else batch.x).relu())


@pytest.mark.parametrize("hold", [Batch, lambda x: OrderedDict(x=x), lambda x: UserDict(x=x)])
def test_inputs_may_be_held_by_classes_of_their_own(hold: Callable[[Tensor], Any]) -> None:
    model, x = Unpacking().eval(), hold(torch.randn(2, 6))
    graph = graphprune.trace(model, (x,))
    assert len(graph.trace.inputs) == 1 and not graph.trace.constants
    plan = graph.plan(0.5)
    slim = plan.apply(model)
    assert slim.enter.out_features == 8
    assert graphprune.verify(model, slim, plan, (hold(torch.randn(5, 6)),)).passed


def test_a_failure_of_what_picks_outputs_is_no_failure_of_the_model() -> None:
    with pytest.raises(InputError, match=r"outputs: the function failed on what the model returned, a Tensor: Attr"):
        graphprune.trace(nn.Linear(4, 3), torch.randn(2, 4), outputs=lambda out: out.logits)
