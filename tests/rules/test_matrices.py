"""Functions of whole matrices hold rows and columns, not what goes by itself: batches, right-hand sides."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphprune


class Net(nn.Module):
    """A hidden layer, with a program of the test's on what it gives."""

    def __init__(self, then: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 16), nn.Linear(16, 4)
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.then(x, self.enter(x).relu()))


def square(x: Tensor) -> Tensor:
    """A well-conditioned matrix of inputs. [2, 2]"""
    return torch.eye(2) + 0.1 * x[:2, :2]


def matrices(y: Tensor) -> Tensor:
    """A symmetric positive matrix for every channel. [..., 3, 3]"""
    v = y[..., None] * torch.arange(3.0).cos() + 1
    return v[..., None] * v[..., None, :] + 4 * torch.eye(3)


PROGRAMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "columns of a system": lambda x, y: torch.linalg.solve(square(x), y),
    "rows of a system": lambda x, y: torch.linalg.solve(square(x), y.mT, left=False).mT,
    "a triangular system": lambda x, y: torch.linalg.solve_triangular(square(x), y, upper=True),
    "least squares": lambda x, y: torch.linalg.lstsq(square(x), y).solution,
    "a system for each channel": lambda x, y: torch.linalg.solve(matrices(y), y[..., None].expand(*y.shape, 3)).sum(-1),
    "inv": lambda x, y: torch.linalg.inv(matrices(y)).sum((-1, -2)),
    "det": lambda x, y: torch.linalg.det(matrices(y)),
    "logdet": lambda x, y: torch.logdet(matrices(y)),
    "cholesky": lambda x, y: torch.linalg.cholesky(matrices(y)).sum((-1, -2)),
    "eigvalsh": lambda x, y: torch.linalg.eigvalsh(matrices(y))[..., -1],
    "svdvals": lambda x, y: torch.linalg.svdvals(matrices(y)).sum(-1),
    "qr": lambda x, y: torch.linalg.qr(matrices(y)).R.abs().sum((-1, -2)),
    "pinv": lambda x, y: torch.linalg.pinv(matrices(y)).sum((-1, -2)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_goes_by_itself_is_pruned(name: str) -> None:
    torch.manual_seed(0)
    model, x = Net(PROGRAMS[name]).eval(), torch.randn(2, 8)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert slim.enter.out_features == 8
    check = graphprune.verify(model, slim, plan, x)
    assert check.passed, check


def test_rows_and_columns_stay() -> None:
    model = Net(lambda x, y: y * torch.linalg.matrix_norm(y.mT @ y, 2)).eval()
    with pytest.raises(graphprune.PlanError, match=r"_linalg_svd: a function of the whole matrix"):
        graphprune.trace(model, torch.randn(2, 8)).plan(0.5)


@pytest.mark.parametrize(
    "then",
    [
        lambda x, y: torch.slice_scatter(y, y[:1].tanh(), 0, 0, 1),
        lambda x, y: torch.select_scatter(y, y[0].tanh(), 0, 1),
        lambda x, y: torch.slice_scatter(y[:, None].expand(-1, 3, -1), y[:, None].tanh(), 1, 1, 2).sum(1),
    ],
)
def test_writing_in_the_place_of_rows(then: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model, x = Net(then).eval(), torch.randn(2, 8)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert slim.enter.out_features == 8
    assert graphprune.verify(model, slim, plan, x).passed
