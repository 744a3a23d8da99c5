"""Layers along tokens, whose rows are channels, are repaired."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune
from graphprune.reconstruction import row_choice
from graphprune.reconstruction.row_choice import RowLayout
from tests.networks import randomize

TOKENS, CHANNELS = 10, 24


class AlongTokens(nn.Module):
    """A residual block of layers along tokens, between layers along channels."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, CHANNELS), nn.Linear(CHANNELS, 4)
        self.make()

    def make(self) -> None:
        self.first, self.second = nn.Linear(TOKENS, 16), nn.Linear(16, TOKENS)

    def mixed(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.second(F.gelu(self.first(x.transpose(1, 2))))
        return mixed.transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        out: Tensor = self.leave((x + self.mixed(x)).tanh())
        return out


class Convolved(AlongTokens):
    """Tokens are the channels of a convolution, and channels its positions."""

    def make(self) -> None:
        self.first, self.second = nn.Conv1d(TOKENS, 16, 1), nn.Conv1d(16, TOKENS, 1)

    def mixed(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.second(F.gelu(self.first(x)))
        return mixed


class Multiplied(AlongTokens):
    """The weight is the left operand of a product."""

    def make(self) -> None:
        self.first, self.second = (nn.Parameter(torch.empty(*size)) for size in ((16, TOKENS), (TOKENS, 16)))

    def mixed(self, x: Tensor) -> Tensor:
        return self.second @ F.gelu(self.first @ x)


def pruned(kind: type[AlongTokens]) -> tuple[nn.Module, nn.Module, graphprune.Plan, list[Tensor]]:
    torch.manual_seed(0)
    model = randomize(kind()).double().eval()
    # one row of channels is far from the others, so that a wrong choice of rows costs much
    batches = [torch.randn(16, TOKENS, 6, dtype=torch.float64) + torch.randn(6, dtype=torch.float64) for _ in range(5)]
    plan = graphprune.trace(model, batches[0][:2]).plan(0.5)
    return model, plan.apply(model), plan, batches


@pytest.mark.parametrize("kind", [AlongTokens, Convolved, Multiplied])
def test_layers_along_tokens_are_fitted(kind: type[AlongTokens]) -> None:
    model, slim, plan, batches = pruned(kind)
    assert 0 < slim.enter.out_features < CHANNELS, "the rows are fewer"
    repair = graphprune.repair(slim, model, plan, batches)
    fitted = {one.name: one for one in repair.repaired}
    names = [name for name in fitted if name.startswith(("first", "second"))]
    assert len(names) == 2
    assert not repair.left_alone
    assert fitted[names[1]].after < 0.9 * fitted[names[1]].before


def test_rows_are_those_of_the_channels_that_are_kept() -> None:
    model, slim, plan, batches = pruned(AlongTokens)
    kept = torch.as_tensor(plan.kept["enter.weight"][0])
    graphprune.reconstruct(slim, model, plan, batches, ridge=1e-9)
    x = torch.cat(batches)
    with torch.no_grad():
        hidden = F.gelu(slim.first(slim.enter(x).transpose(1, 2)))
        target = (model.enter(x) + model.mixed(model.enter(x)))[..., kept] - slim.enter(x)
        ones = torch.cat([hidden, torch.ones_like(hidden[..., :1])], -1).flatten(0, 1)
        best = torch.linalg.lstsq(ones, target.transpose(1, 2).flatten(0, 1)).solution
    assert torch.allclose(slim.second.weight, best[:-1].T, rtol=1e-4, atol=1e-5)


def test_a_last_batch_with_fewer_samples_is_read_alike() -> None:
    model, slim, plan, batches = pruned(AlongTokens)
    again = plan.apply(model)
    graphprune.reconstruct(slim, model, plan, [torch.cat(batches)])
    graphprune.reconstruct(again, model, plan, [torch.cat(batches)[:70], torch.cat(batches)[70:]])
    for name, values in slim.state_dict().items():
        assert torch.allclose(values, again.state_dict()[name], rtol=1e-8, atol=1e-10), name


def test_rows_that_are_like_none_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_choice, "LIKE", 1.1)
    model, slim, plan, batches = pruned(AlongTokens)
    repair = graphprune.reconstruct(slim, model, plan, batches)
    left = {one.name: one.why for one in repair.left_alone}
    assert left["first.weight"] == "other rows go through it than in the dense model"


@pytest.mark.parametrize("dim", [0, 3])
def test_layout_with_rows_beside_channels(dim: int) -> None:
    dense = torch.arange(2 * 4 * 3)
    index = torch.tensor([1, 3])
    wanted = dense.view(2, 4, 3)[:, index].flatten()
    shape = (-1, 1, 1) if dim == 0 else (1, 1, -1)
    chosen = RowLayout(dim, 4, index, inner=3).select(dense.view(shape), 12)
    assert chosen is not None
    assert torch.equal(chosen.flatten(), wanted)
    assert RowLayout(dim, 4, index, inner=3).select(dense.view(shape), 11) is None
