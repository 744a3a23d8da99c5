"""Biases and running means that another call than a layer's own applies count in what is compared."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune
from graphprune.reconstruction.records import Repair
from tests.networks import randomize


class Product(nn.Module):
    """``x @ w + b``."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 32), nn.Linear(16, 4)
        self.weight, self.bias = nn.Parameter(torch.empty(32, 16)), nn.Parameter(torch.empty(16))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last((F.relu(self.first(x)) @ self.weight + self.bias).relu())
        return out


class Transposed(nn.Module):
    """A linear layer behind a transposed input: a product and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv1d(8, 32, 1), nn.Linear(32, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.first(x.unsqueeze(2).expand(-1, -1, 3))).transpose(1, 2)
        out: Tensor = self.last(self.second(inner).relu()).mean(1)
        return out


class Normalized(nn.Module):
    """Convolutions whose biases are the running means of batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(8, 32, 1, bias=False), nn.Conv1d(32, 16, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm1d(32), nn.BatchNorm1d(16)])
        self.last = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[0](self.first(x.unsqueeze(2))).relu()
        out: Tensor = self.last(self.norms[1](self.second(x)).relu().squeeze(2))
        return out


class Recurrent(nn.Module):
    """A layer behind states that come with time first."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.GRU(8, 24, batch_first=True), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layer(x.unsqueeze(1) * torch.tensor([[[1.0], [0.5], [-1.0]]]).to(x))[0])
        return out


MODELS = [Product, Transposed, Normalized, Recurrent]
BIASES = {Product: "bias", Transposed: "second.bias", Normalized: "norms.1.running_mean"}


def pruned(kind: type[nn.Module]) -> tuple[nn.Module, nn.Module, graphprune.Plan, list[Tensor]]:
    torch.manual_seed(0)
    model = randomize(kind()).double().eval()
    batches = [torch.randn(64, 8, dtype=torch.float64) for _ in range(4)]
    plan = graphprune.trace(model, batches[0][:2]).plan(0.6)
    return model, plan.apply(model), plan, batches


def error(slim: nn.Module, dense: nn.Module, batches: list[Tensor]) -> float:
    with torch.no_grad():
        x = torch.cat(batches)
        return float((slim(x) - dense(x)).norm() / dense(x).norm())


def errors(repair: Repair, side: str) -> dict[str, float]:
    return {one.name: getattr(one, side) for one in repair.repaired}


@pytest.mark.parametrize("kind", MODELS)
def test_second_repair_begins_where_the_first_one_ended(kind: type[nn.Module]) -> None:
    model, slim, plan, batches = pruned(kind)
    first = graphprune.reconstruct(slim, model, plan, batches, ridge=1e-9)
    after_one = error(slim, model, batches)
    second = graphprune.reconstruct(slim, model, plan, batches, ridge=1e-9)
    for name, before in errors(second, "before").items():
        assert before == pytest.approx(errors(first, "after")[name], rel=2e-2, abs=1e-6), name
    assert error(slim, model, batches) <= after_one * 1.02


@pytest.mark.parametrize("kind", BIASES)
def test_bias_that_training_moved_is_moved_back(kind: type[nn.Module]) -> None:
    model, slim, plan, batches = pruned(kind)
    graphprune.reconstruct(slim, model, plan, batches, ridge=1e-9)
    moved = slim.get_parameter(BIASES[kind]) if kind is not Normalized else slim.get_buffer(BIASES[kind])
    repaired = moved.detach().clone()
    with torch.no_grad():
        moved += 3.0
    graphprune.reconstruct(slim, model, plan, batches, ridge=1e-9)
    assert (moved - repaired).abs().max() < 0.1 * repaired.abs().max()


@pytest.mark.parametrize("kind", BIASES)
def test_error_of_a_moved_bias_is_told(kind: type[nn.Module]) -> None:
    model, slim, plan, batches = pruned(kind)
    graphprune.reconstruct(slim, model, plan, batches)
    settled = graphprune.reconstruct(slim, model, plan, batches)
    moved = slim.get_parameter(BIASES[kind]) if kind is not Normalized else slim.get_buffer(BIASES[kind])
    with torch.no_grad():
        moved += 3.0
    told = graphprune.reconstruct(slim, model, plan, batches)
    name = {Product: "weight", Transposed: "second.weight", Normalized: "second.weight"}[kind]
    assert errors(told, "before")[name] > errors(settled, "after")[name] + 0.5
    assert errors(told, "after")[name] == pytest.approx(errors(settled, "after")[name], rel=5e-2, abs=1e-3)
