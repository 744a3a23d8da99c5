"""What the program of a model writes to its parameters is undone, wherever the user's own model is run."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune

WORDS = torch.arange(10).view(2, 5)


class Words(nn.Module):
    """Looks words up in a way of its own, before two layers."""

    def __init__(self, look_up: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.look_up, self.table = look_up, nn.Embedding(20, 12, max_norm=1.0)
        self.bag = nn.EmbeddingBag(20, 12, max_norm=1.0)
        self.up, self.down = nn.Linear(12, 16), nn.Linear(16, 4)

    def forward(self, words: Tensor) -> Tensor:
        out: Tensor = self.down(self.up(self.look_up(self, words)).relu())
        return out


def clamped(net: nn.Module, words: Tensor) -> Tensor:
    net.up.weight.data.clamp_(-0.01, 0.01)
    return F.embedding(words, net.table.weight)


def halved(net: nn.Module, words: Tensor) -> Tensor:
    with torch.no_grad():
        net.up.weight.mul_(0.5)
    return F.embedding(words, net.table.weight)


def assigned(net: nn.Module, words: Tensor) -> Tensor:
    net.up.weight.data = net.up.weight.data * 0.5
    return F.embedding(words, net.table.weight)


def given(net: nn.Module, words: Tensor) -> Tensor:
    with torch.no_grad():
        torch.mul(net.up.bias, 0.5, out=net.up.bias)
    return F.embedding(words, net.table.weight)


WAYS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "layer": lambda net, words: net.table(words),
    "function": lambda net, words: F.embedding(words, net.table.weight, None, 1.0),
    "bag": lambda net, words: net.bag(words),
    "clamped": clamped,
    "halved": halved,
    "assigned": assigned,
    "given": given,
}


@pytest.mark.filterwarnings("ignore::graphprune.UnreachedWarning")
@pytest.mark.parametrize("name", WAYS)
def test_parameters_are_as_they_were(name: str) -> None:
    model = Words(WAYS[name]).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    memory = model.up.weight.data_ptr()
    graph = graphprune.trace(model, WORDS)
    plan = graph.plan(0.5, importance="wanda", calibration=[WORDS, WORDS])
    slim = plan.apply(model)
    graphprune.repair(slim, model, plan, [WORDS, WORDS])
    assert slim.up.out_features == 8
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.up.weight.data_ptr() == memory


def test_columns_that_count_in_a_norm_stay() -> None:
    model = Words(WAYS["layer"]).eval()
    with torch.no_grad():
        model.table.weight.mul_(10)
    graph = graphprune.trace(model, WORDS)
    assert "max_norm makes rows shorter by their norm over all columns" in str(graph.why_frozen("table"))
    plan = graph.plan(0.5)
    slim = plan.apply(model)
    assert (slim.table.embedding_dim, slim.up.out_features) == (12, 8)
    assert graphprune.verify(model, slim, plan, WORDS).passed
