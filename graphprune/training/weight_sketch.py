"""A few numbers of each weight, by which a model is known again, on another machine or after a repair there, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from graphprune.utils.modules import tables
from graphprune.utils.tree import as_dense

ALIKE = 1e-3
"""Sums and norms of the same weights differ by no more than this share of the norm."""


class WeightSketch(NamedTuple):
    """What is known of one parameter.

    Attributes:
        name: its first name.
        shape: its shape.
        total, norm: of its finite entries, the sum and the Euclidean norm; 0.0 of one without values. The sum of other
            random numbers differs by about the norm.
    """

    name: str
    shape: list[int]
    total: float
    norm: float

    def like(self, other: WeightSketch) -> bool:
        """May both be of the same weight?"""
        near = ALIKE * max(self.norm, other.norm)
        same = self.name == other.name and self.shape == other.shape
        return same and abs(self.total - other.total) <= near and abs(self.norm - other.norm) <= near


def sketch_of(model: nn.Module) -> list[WeightSketch]:
    """What is known of the parameters of a model; lazy ones that have no shape are left out."""
    return [_sketched(name, p) for name, p in tables(model).parameters.items() if not is_lazy(p)]


@torch.no_grad()
def _sketched(name: str, parameter: Tensor) -> WeightSketch:
    if parameter.is_meta:
        return WeightSketch(name, list(parameter.shape), 0.0, 0.0)
    values = as_dense(parameter.detach())
    values = (torch.view_as_real(values.resolve_conj()) if values.is_complex() else values).to(torch.float64)
    values = values.where(values.isfinite(), 0.0)
    return WeightSketch(name, list(parameter.shape), float(values.sum()), float(values.square().sum().sqrt()))


def other_weight(kept: Sequence[WeightSketch], model: nn.Module) -> str | None:
    """The first weight of a model that is not its sketch says; None: all may be the same."""
    own = sketch_of(model)
    if [one.name for one in own] != [one.name for one in kept]:
        names = {one.name for one in own} ^ {one.name for one in kept}
        return min(names, default=own[0].name if own else "")
    return next((mine.name for mine, other in zip(own, kept, strict=True) if not mine.like(other)), None)
