"""Numbers that channels make, and by which rows of a table are looked up, go with these channels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune

X = torch.randn(4, 6)


class Net(nn.Module):
    """Two layers with a function between them that is given a table of two rows."""

    def __init__(self, between: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 3)
        self.table = nn.Parameter(torch.randn(2, 8))
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self.a(x), self.table))


@pytest.mark.parametrize(
    "between",
    [
        lambda y, table: F.embedding((y > 0).long(), table).sum(-1),
        lambda y, table: F.embedding((y > 0).long(), table)[..., 0] + y,
        lambda y, table: table[(y > 0).long()].sum(-1),
        lambda y, table: table.T[:, (y > 0).long()].sum(0),
        lambda y, table: table[:, 0][(y.T > 0).long()].T * y,
        lambda y, table: F.embedding((y.T > 0).long(), table).amax(-1).T * y,
    ],
)
def test_rows_of_a_table_go_with_the_channels_that_chose_them(between: Callable[[Tensor, Tensor], Tensor]) -> None:
    net = Net(between).double().eval()
    graph = graphprune.trace(net, X.double())
    plan = graph.plan(0.5)
    slim = plan.apply(net)
    assert slim.a.out_features == 6
    assert graphprune.verify(net, slim, plan, X.double()).passed
