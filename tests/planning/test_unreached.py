"""What no example runs is warned of where channels beside it are removed."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import graphprune
from graphprune import UnreachedWarning

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Tasks(nn.Module):
    """A head for each task, one of which reads flattened maps; tables that nothing shrinks."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 32, 3, padding=1)
        self.heads = nn.ModuleDict({"a": nn.Conv2d(32, 4, 1), "b": nn.Conv2d(32, 6, 1)})
        self.flat = nn.Linear(32 * 64, 5)
        self.extra = nn.Parameter(torch.zeros(10))
        self.register_buffer("numbers", torch.arange(32))

    def forward(self, x: Tensor, task: str = "a") -> Tensor:
        h = self.body(x).relu()
        return self.flat(h.flatten(1)) if task == "flat" else self.heads[task](h)


def test_heads_that_no_example_runs() -> None:
    with pytest.warns(UnreachedWarning) as found:
        graphprune.prune_model(Tasks(), 0.5, IMAGE)
    (warning,) = found
    message = str(warning.message)
    assert message.startswith("heads.b.weight, flat.weight: no example runs what uses this, and it has the size of")
    assert "example_inputs=[first, second]" in message
    assert warning.filename == __file__


def test_examples_for_all_of_them() -> None:
    examples = [IMAGE, {"x": IMAGE, "task": "b"}, (IMAGE, "flat")]
    slim = graphprune.prune_model(Tasks(), 0.5, examples, verify=True)
    assert [tuple(slim(IMAGE, task).shape[1:]) for task in ("a", "b", "flat")] == [(4, 8, 8), (6, 8, 8), (5,)]


def test_nothing_is_said_of_other_sizes() -> None:
    model = Tasks()
    del model.heads["b"], model.flat
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graphprune.trace(model, IMAGE).plan(0.5)


class Targets(nn.Module):
    """Training needs targets, so that the auxiliary head cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.aux = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        h = self.body(x).relu()
        if not self.training:
            return self.head(h)
        return nn.functional.cross_entropy(self.head(h) + self.aux(h), target)


def test_training_that_needs_targets() -> None:
    x, target = torch.randn(2, 8), torch.tensor([1, 2])
    with pytest.warns(UnreachedWarning, match=r"aux\.weight: .*training mode could not be traced: TypeError"):
        graphprune.prune_model(Targets(), 0.5, x)
    slim = graphprune.prune_model(Targets(), 0.5, (x, target))
    assert slim.aux.in_features == 8
    assert slim.train()(x, target).shape == ()


class Normalized(nn.Module):
    """Divides a weight by its largest singular value, whose vector forward gives a parameter before it reads that."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.weight = nn.Linear(6, 16), nn.Parameter(torch.randn(16, 8))
        self.v, self.leave = nn.Parameter(torch.randn(16), requires_grad=False), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.v.data = functional.normalize(self.weight.data.sum(1), dim=0)
        found: Tensor = self.leave(self.enter(x).relu() @ self.weight / (self.v @ self.weight).norm())
        return found


def test_what_forward_gives_other_entries_is_used(recwarn: pytest.WarningsRecorder) -> None:
    graph = graphprune.trace(Normalized().eval(), torch.randn(2, 6))
    assert not any("not used" in frozen.reason for frozen in graph.frozen)
    slim = graph.plan(0.5).apply(graph.model)
    assert not recwarn.list
    slim(torch.randn(2, 6))
    assert slim.v.shape == (8,)


class Fused(nn.Module):
    """Keeps a tensor of the width in an attribute, which only a method that no example runs uses."""

    def __init__(self, kept_by: str) -> None:
        super().__init__()
        self.enter, self.middle, self.leave = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        if kept_by == "attribute":
            self.identity = torch.eye(16)
        elif kept_by == "buffer":
            self.register_buffer("identity", torch.eye(16))
        elif kept_by == "hook":
            self.middle.register_forward_hook(lambda module, _, result: setattr(module, "seen", result))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.leave(self.middle(self.enter(x)))
        return found

    def fused(self) -> Tensor:
        if not hasattr(self, "identity"):
            self.identity = torch.eye(16)
        return self.middle.weight + self.identity


@pytest.mark.parametrize("kept_by", ["attribute", "buffer", "method"])
def test_tensors_in_attributes_are_named_as_buffers_are(kept_by: str) -> None:
    model = Fused(kept_by).eval()
    model.fused()
    with pytest.warns(UnreachedWarning, match="^identity: no example runs what uses this"):
        graphprune.prune_model(model, 0.5, torch.randn(2, 4))


def test_examples_of_inputs_and_what_others_keep_are_not_named(recwarn: pytest.WarningsRecorder) -> None:
    model, x = Fused("method").eval(), torch.randn(16, 4)
    model.identity = x[:16]
    model.seen = torch.zeros(16, 16)
    graphprune.prune_model(model, 0.5, x)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    model.example = torch.zeros(1, 16)
    graphprune.prune_model(model, 0.5, torch.randn(2, 16))
    assert not recwarn.list


def test_what_each_run_puts_anew_is_not_named(recwarn: pytest.WarningsRecorder) -> None:
    model = Fused("hook").eval()
    model(torch.randn(16, 4))
    assert model.middle.seen.shape == (16, 16)
    model.later = torch.zeros(0)
    model.register_buffer("later_too", torch.zeros(0, 16))
    graphprune.prune_model(model, 0.5, torch.randn(16, 4))
    assert not recwarn.list


def mlp(*between: nn.Module) -> nn.Sequential:
    """Layers between the first and the last one, under names of their own."""
    layers = {"enter": nn.Linear(8, 16), "act": nn.ReLU(), **{f"more{n}": one for n, one in enumerate(between)}}
    return nn.Sequential(OrderedDict(layers | {"leave": nn.Linear(16, 3)}))


def plan_of_mlp() -> graphprune.Plan:
    return graphprune.trace(mlp(), torch.randn(2, 8)).plan(0.5)


@pytest.mark.parametrize(
    ("gained", "named"),
    [(nn.Linear(16, 16), "more0.weight, more0.bias"), (nn.BatchNorm1d(16), "more0.running_mean, more0.running_var")],
)
def test_layers_that_a_model_gained_since_its_plan(gained: nn.Module, named: str) -> None:
    plan = plan_of_mlp()
    with pytest.warns(UnreachedWarning, match=rf"{named}: the plan was made before the model had this") as found:
        plan.apply(mlp(copy.deepcopy(gained)))
    assert found[0].filename == __file__
    with pytest.warns(UnreachedWarning, match="made before the model had this"):
        graphprune.prune_in_place(mlp(copy.deepcopy(gained)), plan)


class Cached(nn.Module):
    """Keeps what it worked out."""

    def forward(self, x: Tensor) -> Tensor:
        self.register_buffer("last", x.detach(), persistent=False)
        self.other = x.detach()
        return x


def test_nothing_is_said_of_what_a_model_gained_that_has_other_sizes_or_is_made_anew(
    recwarn: pytest.WarningsRecorder,
) -> None:
    plan, x = plan_of_mlp(), torch.randn(2, 8)
    model = mlp(Cached())
    model.append(nn.Linear(3, 5))
    model.enter.adapter = nn.Parameter(torch.randn(10))  # type: ignore[union-attr, assignment]
    model(x)
    assert plan.apply(model)(x).shape == (2, 5)
    assert not recwarn.list


def test_nothing_is_said_of_plans_that_are_replayed(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    slim = plan_of_mlp().apply(mlp())
    slim.other = nn.Sequential(nn.Linear(16, 2))
    graphprune.save(slim, tmp_path)
    dense = mlp()
    dense.other = nn.Sequential(nn.Linear(16, 2))
    assert graphprune.load(tmp_path, dense).other[0].in_features == 16  # type: ignore[index, union-attr]
    assert not recwarn.list


class Rotary(nn.Module):
    """Turns pairs of channels by frequencies, of which it keeps the first ones."""

    def __init__(self, first: float) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 16), nn.Linear(16, 3)
        self.register_buffer("frequencies", torch.linspace(1, 2, 16), persistent=False)
        self.register_buffer("original", torch.linspace(first, 2, 16), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.leave(self.enter(x) * self.frequencies)
        return found


def test_a_copy_of_a_buffer_that_no_run_reads_is_cut_with_it(recwarn: pytest.WarningsRecorder) -> None:
    model, x = Rotary(1), torch.randn(2, 6)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert not recwarn.list
    assert torch.equal(slim.original, slim.frequencies) and len(slim.original) == 8
    assert graphprune.verify(model, slim, plan, x).passed
    assert graphprune.Plan.from_json(plan.to_json()) == plan


def test_another_buffer_is_no_copy() -> None:
    model = Rotary(0)
    with pytest.warns(UnreachedWarning, match="original"):
        slim = graphprune.trace(model, torch.randn(2, 6)).plan(0.5).apply(model)
    assert len(slim.original) == 16
