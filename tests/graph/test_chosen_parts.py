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
        self.choice = choice

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
PIECES: dict[str, Choice] = {
    "chunk": lambda net, h, i: net.piece(net.heads(h).chunk(3, -1)[i]),
    "channels": lambda net, h, i: net.piece(net.heads(h)[:, 4 * i : 4 * i + 4]),
    "split": lambda net, h, i: net.piece(net.heads(h).split(4, -1)[i]),
}


@pytest.mark.filterwarnings("ignore::graphprune.UnreachedWarning")
@pytest.mark.parametrize("choice", [*ROWS.values(), *PIECES.values()], ids=[*ROWS, *PIECES])
def test_other_choices_are_as_right(choice: Choice) -> None:
    model = Net(choice).eval()
    with torch.no_grad():  # half of the channels do nothing
        model.enter.weight[::2], model.enter.bias[::2] = 0, 0
        model.scale[:, ::2] = 0
        model.leave.weight[:, ::2], model.heads.weight[:, ::2] = 0, 0
    slim = graphprune.prune_model(model, 0.5, (X, 0), importance="l2")
    assert slim.enter.out_features == 8 and len(slim.scale) == 6 and slim.heads.out_features == 12
    for which in range(3):
        torch.testing.assert_close(slim(X, which), model(X, which))


class Literal(nn.Module):
    """What a literal leaves out of a layer's result is dead, and goes."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 16), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.leave(self.enter(x)[:, :4])
        return found


def test_what_a_program_without_choices_leaves_out_is_dead() -> None:
    model = Literal().eval()
    slim = graphprune.prune_model(model, 0.5, X)
    assert slim.enter.out_features < 16
    torch.testing.assert_close(slim(X), model(X))
