"""Residual branches: which parts of a network are one, by its operations alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from tests.branches import NETWORKS, bert, llama


@pytest.mark.parametrize("name", NETWORKS)
def test_real_networks(name: str) -> None:
    build, inputs, count = NETWORKS[name]
    assert len(graphprune.trace(build().eval(), inputs).branches) == count


def branches_of(model: nn.Module, *inputs: Tensor) -> list[dict[str, int]]:
    return [dict(branch.modules) for branch in graphprune.trace(model.eval(), inputs).branches]


def test_what_goes_with_a_branch() -> None:
    """The norm before it, and in post-norm layers nothing of the stream; modules that return several things do so."""
    first, second, *_ = branches_of(bert(), NETWORKS["post-norm bert"][1])
    assert first == {"encoder.layer.0.attention.self": 2, "encoder.layer.0.attention.output.dense": 0}
    assert second == {"encoder.layer.0.intermediate": 0, "encoder.layer.0.output.dense": 0}
    first, second, *_ = branches_of(llama(), NETWORKS["llama"][1])
    assert first == {"model.layers.0.input_layernorm": 0, "model.layers.0.self_attn": 2}
    assert second == {"model.layers.0.post_attention_layernorm": 0, "model.layers.0.mlp": 0}


class Layer(nn.Module):
    """A stream with one branch, of which subclasses do something else."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner, self.leave = nn.LayerNorm(6), nn.Linear(6, 12), nn.Linear(12, 6)
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Any:
        x = x.tanh()
        return (x + self.branch(x)).sin()

    def branch(self, x: Tensor) -> Tensor:
        y: Tensor = self.leave(self.inner(self.norm(x)).relu())
        return y


class Scaled(Layer):
    def branch(self, x: Tensor) -> Tensor:
        return 0.5 * (super().branch(x) * self.scale)


class Activated(Layer):
    def branch(self, x: Tensor) -> Tensor:
        return torch.nn.functional.gelu(super().branch(x)).tanh() * 0.5


class Permuted(Layer):
    """Entries are taken by numbers, and some are set to zero."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.randperm(4))
        self.register_buffer("gone", torch.rand(4, 1) < 0.5)

    def branch(self, x: Tensor) -> Tensor:
        return super().branch(x)[:, self.order].masked_fill(self.gone, 0.0)


class Turned(Layer):
    def forward(self, x: Tensor) -> Tensor:
        x = x.tanh()
        return (self.branch(x.transpose(0, 1)).transpose(0, 1) + x).sin()


class Broadcast(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.leave(self.inner(x.mean(0, keepdim=True)).relu())


class Parallel(Layer):
    """Two branches that share a norm, which stays."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = x.tanh()
        y = self.norm(x)
        return (self.other(y) + self.leave(self.inner(y).relu()) + x).sin()


@pytest.mark.parametrize(
    ("kind", "paths"),
    [
        (Layer, [["norm", "inner", "leave"]]),
        (Scaled, [["norm", "inner", "leave"]]),
        (Activated, [["norm", "inner", "leave"]]),
        (Permuted, [["norm", "inner", "leave"]]),
        (Turned, [["norm", "inner", "leave"]]),
        (Broadcast, [["inner", "leave"]]),
        (Parallel, [["other"], ["inner", "leave"]]),
    ],
)
def test_branches(kind: type[Layer], paths: list[list[str]]) -> None:
    assert [list(found) for found in branches_of(kind(), torch.randn(4, 4, 6))] == paths


class Read(Layer):
    """Something within the branch is a result too."""

    def forward(self, x: Tensor) -> Any:
        y = self.leave(self.inner(x).relu())
        return x + y, y


class Sigmoid(Layer):
    """Of zeros it makes others."""

    def branch(self, x: Tensor) -> Tensor:
        return super().branch(x).sigmoid()


class Divisor(Layer):
    """A number is divided by what a module gives."""

    def branch(self, x: Tensor) -> Tensor:
        return self.scale / super().branch(x)


class Filled(Layer):
    """Where it is masked, the branch has another number."""

    def branch(self, x: Tensor) -> Tensor:
        return super().branch(x).masked_fill(self.scale < 0.5, 3.0)


class Padded(Layer):
    """The entry that is added is not zero."""

    def branch(self, x: Tensor) -> Tensor:
        return torch.nn.functional.pad(super().branch(x)[..., 1:], (1, 0), value=3.0)


class Biased(Layer):
    """The weights that it is multiplied with after its last module have a bias."""

    def branch(self, x: Tensor) -> Tensor:
        return torch.nn.functional.layer_norm(super().branch(x), (6,), bias=self.scale)


class OtherStream(Layer):
    """What is added does not come from what it is added to."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.cos() + self.branch(x.tanh())).sin()


class Wider(Layer):
    """Zeros in the place of its only module would have another shape."""

    def branch(self, x: Tensor) -> Tensor:
        y: Tensor = self.leave(torch.cat((x, x), -1))
        return y


class Heads(Layer):
    """What its last module gets loses other channels than the stream, though it has as many."""

    def branch(self, x: Tensor) -> Tensor:
        y: Tensor = self.leave(self.inner(x).relu() * self.inner(x).sigmoid())
        return y


class Shared(Layer):
    """A module is called twice."""

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.leave(self.inner(x).relu())
        return x + self.leave(self.inner(x).relu())


class Inline(Layer):
    """Its layers are no modules."""

    def branch(self, x: Tensor) -> Tensor:
        return x @ self.inner.weight.T @ self.leave.weight.T


@pytest.mark.parametrize(
    "kind", [Read, Sigmoid, Divisor, Filled, Padded, Biased, OtherStream, Wider, Heads, Shared, Inline]
)
def test_what_is_no_branch(kind: type[Layer]) -> None:
    assert branches_of(kind(), torch.randn(4, 6)) == []


def test_layers_whose_fast_path_reads_weights_have_none() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
    assert branches_of(model, torch.randn(2, 5, 16)) == []
