"""Functions that take sizes mean the same whether arguments are given by position, by name, or by numpy's names."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune

X = torch.randn(2, 8)


class Between(nn.Module):
    """Two layers with a function between them that makes ``width`` numbers of 16. [2, 8] -> [2, 4]"""

    def __init__(self, between: Callable[[Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 16), nn.Linear(width, 4)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.between(self.enter(x)))


Function = Callable[[Tensor], Tensor]

_PLACES = torch.arange(2)[:, None]

FORMS: dict[str, tuple[int, list[Function]]] = {
    "chunk": (
        8,
        [
            lambda y: y.chunk(2, 1)[0],
            lambda y: torch.chunk(input=y, chunks=2, dim=1)[0],
            lambda y: torch.chunk(dim=1, chunks=2, a=y)[0],
            lambda y: y.chunk(2, axis=1)[0],  # type: ignore[call-arg]
        ],
    ),
    "split": (
        6,
        [
            lambda y: y.split([6, 10], 1)[0],
            lambda y: torch.split_with_sizes(input=y, split_sizes=[6, 10], dim=1)[0],
            lambda y: torch.split_with_sizes(y, [6, 10], axis=1)[0],  # type: ignore[call-arg]
            lambda y: y.split_with_sizes(split_sizes=[6, 10], dim=1)[0],
        ],
    ),
    "equal parts": (
        8,
        [
            lambda y: y.unsafe_split(8, 1)[1],
            lambda y: torch.unsafe_split(input=y, split_size=8, axis=1)[1],  # type: ignore[call-arg]
        ],
    ),
    "tensor_split": (
        8,
        [
            lambda y: y.tensor_split(2, 1)[0],
            lambda y: torch.tensor_split(input=y, sections=2, axis=1)[0],  # type: ignore[call-overload]
            lambda y: torch.hsplit(input=y, sections=2)[0],  # type: ignore[call-overload]
        ],
    ),
    "narrow": (
        4,
        [
            lambda y: y.narrow(1, 2, 4),
            lambda y: torch.narrow(length=4, start=2, dim=1, input=y),
            lambda y: y.narrow(axis=1, start=2, length=4),  # type: ignore[call-arg]
        ],
    ),
    "select": (
        1,
        [
            lambda y: y.select(1, 3)[:, None],
            lambda y: torch.select(input=y, axis=1, index=3)[:, None],  # type: ignore[call-overload]
        ],
    ),
    "take_along_dim": (
        1,
        [
            lambda y: torch.take_along_dim(y, _PLACES, 1),
            lambda y: torch.take_along_dim(input=y, indices=_PLACES, axis=1),  # type: ignore[call-arg]
        ],
    ),
    "reshape": (
        16,
        [
            lambda y: torch.reshape(y.view(2, 4, 4), (2, y.shape[1])),
            lambda y: torch.reshape(shape=(2, y.size(axis=1)), input=y.view(size=(2, 4, 4))),  # type: ignore[call-overload]
        ],
    ),
    "unflatten": (
        4,
        [
            lambda y: torch.unflatten(y, 1, (4, 4)).mean(1),
            lambda y: torch.unflatten(input=y, sizes=(4, 4), dim=1).mean(1),
            lambda y: torch.unflatten(y, sizes=(4, 4), axis=1).mean(1),  # type: ignore[call-arg]
        ],
    ),
    "expand_as": (
        16,
        [
            lambda y: y[:1].expand_as(y),
            lambda y: y[:1].expand_as(other=y),
            lambda y: y[:1].expand_as(x2=y),  # type: ignore[call-arg]
        ],
    ),
    "tile": (
        32,
        [
            lambda y: torch.tile(y, (1, 2)),
            lambda y: torch.tile(dims=(1, 2), input=y),
            lambda y: y.repeat(repeats=(1, 2)),
        ],
    ),
    "repeat_interleave": (
        32,
        [
            lambda y: y.repeat_interleave(2, 1),
            lambda y: torch.repeat_interleave(input=y, repeats=2, dim=1),
            lambda y: y.repeat_interleave(2, axis=1),  # type: ignore[call-arg]
        ],
    ),
    "numel": (
        16,
        [lambda y: y / y.numel(), lambda y: y / torch.numel(input=y)],
    ),
    "layer_norm": (
        16,
        [
            lambda y: torch.layer_norm(y, (y.shape[1],)),
            lambda y: torch.layer_norm(normalized_shape=(y.shape[1],), input=y),  # type: ignore[call-arg]
            lambda y: F.layer_norm(input=y, normalized_shape=(y.shape[1],)),
        ],
    ),
    "rms_norm": (
        16,
        [
            lambda y: F.rms_norm(y, (y.shape[1],)),
            lambda y: torch.rms_norm(input=y, normalized_shape=(y.shape[1],)),
        ],
    ),
    "group_norm": (
        16,
        [
            lambda y: F.group_norm(y, 4),
            lambda y: torch.group_norm(input=y, num_groups=4),
        ],
    ),
    "pad": (
        18,
        [lambda y: F.pad(y, (1, 1)), lambda y: F.pad(pad=(1, 1), input=y)],
    ),
    "arange": (
        16,
        [lambda y: y + torch.arange(y.shape[1]), lambda y: y + torch.arange(end=y.shape[1])],
    ),
    "eye": (
        16,
        [lambda y: y @ torch.eye(y.shape[1]), lambda y: y @ torch.eye(n=y.shape[1])],
    ),
    "eye of two sizes": (
        16,
        [lambda y: y @ torch.eye(y.shape[1], 16), lambda y: y @ torch.eye(y.shape[1], m=16)],
    ),
    "counts in a tensor": (
        16,
        [
            lambda y: y[torch.repeat_interleave(_PLACES[:, 0] + 1)[:2]],
            lambda y: y[torch.repeat_interleave(repeats=_PLACES[:, 0] + 1)[:2]],
        ],
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_arguments_by_name_are_those_by_position(name: str) -> None:
    width, forms = FORMS[name]
    found = []
    for between in forms:
        model = Between(between, width).eval()
        model(X)
        graph = graphprune.trace(model, X)
        reasons = {str(frozen.axis): re.split(r", at | \(in ", frozen.reason)[0] for frozen in graph.frozen}
        found.append((reasons, [(group.name, group.units) for group in graph.groups]))
    assert all(other == found[0] for other in found)
