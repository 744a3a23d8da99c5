"""Sparse matrices by layers' results, as in graph networks: each way of writing the product is the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphprune

X, ADJACENCY = torch.randn(10, 7), torch.eye(10).roll(1, 0)


class Graph(nn.Module):
    def __init__(self, product: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.product, self.enter, self.leave = product, nn.Linear(7, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return self.product(adjacency, self.leave(self.product(adjacency, self.enter(x)).relu()))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.parametrize("product", [torch.spmm, torch.mm, torch.sparse.mm, torch.matmul])
def test_channels_pass_sparse_products(product: Callable[[Tensor, Tensor], Tensor], layout: torch.layout) -> None:
    model, adjacency = Graph(product).eval(), ADJACENCY.to_sparse(layout=layout)
    slim = graphprune.prune_model(model, 0.5, (X, adjacency))
    assert slim.enter.out_features == 8
    torch.testing.assert_close(slim(X, adjacency), slim(X, ADJACENCY.to_sparse()))


class SparseResult(nn.Module):
    def __init__(self, layout: torch.layout) -> None:
        super().__init__()
        self.enter, self.leave, self.layout = nn.Linear(7, 16), nn.Linear(16, 3), layout

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.enter(x).relu()).to_sparse(layout=self.layout)


@pytest.mark.filterwarnings("ignore:Sparse CS. tensor support is in beta state")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_sparse_results_are_compared_as_dense_ones(layout: torch.layout) -> None:
    model = SparseResult(layout).eval()
    plan = graphprune.trace(model, X).plan(0.5, importance="auto", calibration=[X])
    slim = plan.apply(model)
    assert slim.enter.out_features == 8
    assert graphprune.verify(model, slim, plan, X).passed
    assert slim(X).layout is layout


class ConstructedResult(SparseResult):
    """Rows at places of a larger sparse tensor, [20, 3]."""

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(0, 20, 2, device=x.device)[None]
        return torch.sparse_coo_tensor(places, self.leave(self.enter(x).relu()), (20, 3), check_invariants=False)


def test_sparse_results_that_are_constructed_are_compared_as_dense_ones() -> None:
    model = ConstructedResult(torch.sparse_coo).eval()
    plan = graphprune.trace(model, X).plan(0.5)
    slim = plan.apply(model)
    assert slim.enter.out_features == 8
    assert graphprune.verify(model, slim, plan, X).passed
    with torch.no_grad():
        slim.leave.bias += 1
    assert not graphprune.verify(model, slim, plan, X).passed
