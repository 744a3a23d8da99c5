"""What no example runs is warned of where channels beside it are removed."""

from __future__ import annotations

import warnings

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
