"""What an argument chose is not all that the model has: another one chooses other rows, pieces and channels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphprune

X = torch.randn(5, 8)
Choice = Callable[["Net", Tensor, int], Tensor]


class Net(nn.Module):
    def __init__(self, choice: Choice) -> None:
        super().__init__()
        self.enter, self.heads = nn.Linear(8, 16), nn.Linear(16, 12)
        self.leave, self.piece = nn.Linear(16, 3), nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.rand(6, 16) + 0.5)
        self.register_buffer("steps", torch.rand(6))
        self.choice, self.length = choice, 4

    def forward(self, x: Tensor, which: int) -> Tensor:
        return self.choice(self, torch.relu(self.enter(x)), which)


ROWS: dict[str, Choice] = {
    "select": lambda net, h, i: net.leave(h * net.scale[i]),
    "slice": lambda net, h, i: net.leave(h * net.scale[i : i + 1]),
    "narrow": lambda net, h, i: net.leave(h * net.scale.narrow(0, i, 1)),
    "list": lambda net, h, i: net.leave(h * net.scale[[i]]),
    "transposed": lambda net, h, i: net.leave(h * net.scale.t()[:, i]),
    "schedule": lambda net, h, i: net.leave(h * net.steps[i] * net.scale[0]),
    "several": lambda net, h, i: net.leave(h * sum(net.scale[k] for k in range(i + 1))),
}


@pytest.mark.filterwarnings("ignore::graphprune.UnreachedWarning")
@pytest.mark.parametrize("choice", ROWS.values(), ids=ROWS)
def test_other_choices_are_as_right(choice: Choice) -> None:
    model = Net(choice).eval()
    with torch.no_grad():  # half of the channels do nothing
        model.enter.weight[::2], model.enter.bias[::2] = 0, 0
        model.scale[:, ::2] = 0
        model.leave.weight[:, ::2], model.heads.weight[:, ::2] = 0, 0
    slim = graphprune.prune_model(model, 0.5, (X, 0), importance="l2")
    assert slim.enter.out_features == 8 and len(slim.scale) == 6
    for which in range(3):
        torch.testing.assert_close(slim(X, which), model(X, which))


VIEWS: dict[str, Choice] = {
    "view": lambda net, h, i: net.piece(net.heads(h).view(len(h), 3, -1)[:, i]),
    "unbind": lambda net, h, i: net.piece(net.heads(h).view(len(h), 3, -1).unbind(1)[i]),
    "permuted": lambda net, h, i: net.piece(net.heads(h).view(len(h), 3, -1).permute(1, 0, 2)[i]),
    "chunk": lambda net, h, i: net.piece(net.heads(h).chunk(3, -1)[i]),
    "split": lambda net, h, i: net.piece(net.heads(h).split(4, -1)[i]),
    "by attribute": lambda net, h, i: net.piece(net.heads(h)[:, i * net.length : (i + 1) * net.length]),
    "narrow": lambda net, h, i: net.piece(net.heads(h).narrow(1, i * net.length, net.length)),
    "used elsewhere": lambda net, h, i: net.piece(net.heads(h).chunk(3, -1)[i]) + net.heads(h).abs().sum(),
}


def masked_equal(model: nn.Module, example: tuple[object, ...], others: list[tuple[object, ...]]) -> nn.Module:
    """The slim model, which is equal to the masked dense one in other runs than the traced one."""
    plan = graphprune.trace(model, example).plan(0.5, importance="l2")
    slim = plan.apply(model)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.mul_(plan.mask(name))
    for other in others:
        torch.testing.assert_close(slim(*other), model(*other))
    return slim


@pytest.mark.parametrize("choice", VIEWS.values(), ids=VIEWS)
@pytest.mark.filterwarnings("ignore::graphprune.UnreachedWarning")
def test_pieces_of_one_length_keep_the_same_places(choice: Choice) -> None:
    model = Net(choice).double().eval()
    slim = masked_equal(model, (X.double(), 0), [(X.double(), which) for which in range(3)])
    literal = slim.piece.in_features == 4  # which the length of a split is
    assert (slim.heads.out_features, slim.piece.in_features) == ((12, 4) if literal else (6, 2))


class Autoencoder(nn.Module):
    """Adds a deviation in training alone. [n, 8] -> [n, 8]"""

    def __init__(self, parts: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.enter, self.both, self.leave, self.parts = nn.Linear(8, 16), nn.Linear(16, 12), nn.Linear(6, 8), parts

    def forward(self, x: Tensor) -> Tensor:
        mean, deviation = self.parts(self.both(self.enter(x).relu()))
        found: Tensor = self.leave(mean + deviation.exp() if self.training else mean)
        return found


@pytest.mark.parametrize(
    ("parts", "left"),
    [
        (lambda h: h.chunk(2, -1), 6),
        (lambda h: (h[:, : h.shape[1] // 2], h[:, h.shape[1] // 2 :]), 6),
        (lambda h: (h[:, :6], h[:, 6:]), 12),
    ],
)
def test_what_training_adds_elementwise_fits(parts: Callable[[Tensor], tuple[Tensor, Tensor]], left: int) -> None:
    model = Autoencoder(parts).double().eval()
    slim = masked_equal(model, (X.double(),), [(X.double(),)])
    assert slim.both.out_features == left
    torch.testing.assert_close(slim.train()(X.double()), model.train()(X.double()))


class Flagged(nn.Module):
    """A flag or an attribute chooses. [n, 8] -> [n, 3]"""

    other = False

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.both, self.leave = nn.Linear(8, 16), nn.Linear(16, 12), nn.Linear(6, 3)

    def forward(self, x: Tensor, second: bool = False) -> Tensor:
        pair = self.both(self.enter(x).relu()).chunk(2, -1)
        found: Tensor = self.leave(pair[second or self.other])
        return found


def test_flags_and_attributes_choose_too() -> None:
    model = Flagged().double().eval()
    slim = masked_equal(model, (X.double(),), [(X.double(), True), (X.double(), False)])
    model.other = slim.other = True
    torch.testing.assert_close(slim(X.double()), model(X.double()))


class LastResidual(nn.Module):
    """Gates whose last residual part comes to nothing, but is added as the others are. [n, 8] -> [n, 3]"""

    def __init__(self, skip: int) -> None:
        super().__init__()
        self.residual, self.enter, self.leave = 16, nn.Linear(8, 16), nn.Linear(skip, 3)
        self.layers = nn.ModuleList(nn.Linear(16, 16 + skip) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x, skips = self.enter(x), []
        for layer in self.layers:
            y = layer(x.tanh())
            x = x + y[:, : self.residual]
            skips.append(y[:, self.residual :])
        found: Tensor = self.leave(skips[0] + skips[1])
        return found


@pytest.mark.parametrize("skip", [16, 24])
def test_what_is_combined_with_others_is_tied_to_nothing_else(skip: int) -> None:
    model = LastResidual(skip).double().eval()
    groups = graphprune.trace(model, X.double()).groups
    assert sorted(group.units for group in groups) == [16, skip]
    slim = masked_equal(model, (X.double(),), [(X.double(),)])
    assert (slim.enter.out_features, slim.leave.in_features) == (8, skip // 2)
