"""Work out masks with torch's pruning methods, on modules that stand beside the model, which is unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from graphprune.errors import InputError
from graphprune.sparsity.amounts import MethodClass, Pattern
from graphprune.sparsity.methods import PatternUnstructured
from graphprune.sparsity.selection import Weight
from graphprune.utils.checks import check_type, did_you_mean

WeightMasks = dict[Weight, Tensor]


@dataclass(frozen=True, eq=False)
class Ranking:
    """How it is chosen what goes.

    Attributes:
        method: of torch, or a subclass.
        importance: scores that stand for the values of weights, by name.
    """

    method: MethodClass
    importance: Mapping[str, Tensor]

    def check(self, weights: Sequence[Weight]) -> None:
        """Raise an InputError unless the scores are of weights that are to be masked, and of their shapes."""
        shapes = {weight.name: weight.place.parameter.shape for weight in weights}
        if self.importance and self.method is not prune.L1Unstructured:
            raise InputError(
                "importance: is ranked by method='l1'; leave out one of the two",
                found=f"importance= with method {self.method.__name__}",
                needed="importance= with method='l1', or another method alone",
                do="leave out one of the two",
            )
        for name, scores in self.importance.items():
            check_type(f"importance[{name!r}]", scores, Tensor, "a tensor")
            if name not in shapes:
                raise InputError(
                    f"importance: {name!r} is none of the weights to mask{did_you_mean(name, shapes)}",
                    found=f"the name {name!r}",
                    needed=f"one of {', '.join(list(shapes)[:4])}, ...",
                    do="name the weights as model.named_parameters() does, or choose them with layers=",
                )
            if scores.shape != shapes[name]:
                found, needed = list(scores.shape), list(shapes[name])
                raise InputError(
                    f"importance: the scores of {name} have shape {found}, the parameter {needed}",
                    where=name,
                    found=f"shape {found}",
                    needed=f"shape {needed}",
                    do="pass one score for each entry of the parameter",
                )
            if bool(scores.isnan().any()):
                raise InputError(
                    f"importance: {int(scores.isnan().sum())} scores of {name} are NaN",
                    where=name,
                    found="scores that are NaN",
                    needed="numbers, which can be ranked",
                    do="look for divisions of zero by zero in the scores, or give torch.nan_to_num(scores)",
                )

    def mask_of(self, weight: Weight, amount: float | int | Pattern) -> Tensor:
        """The mask of one weight for itself, which holds what was masked before."""
        if isinstance(amount, Pattern):
            return self._pattern_mask(weight, amount)
        _check_left(weight.name, amount, weight.left)
        beside = _beside(weight)
        self.method.apply(beside, "weight", amount, **self._scores(weight))
        return beside.get_buffer("weight_mask")

    def masks_of(self, weights: Sequence[Weight], amount: float | int) -> WeightMasks:
        """The masks of several weights that are ranked together."""
        _check_left("these layers together", amount, sum(weight.left for weight in weights))
        if len({weight.place.parameter.device for weight in weights}) > 1:
            raise InputError(
                "scope: the weights are on several devices, and cannot be ranked together",
                found=", ".join(sorted({str(weight.place.parameter.device) for weight in weights})),
                needed="weights on one device, or scope='local'",
                do="use scope='local', or move the model to one device",
            )
        beside = {weight: _beside(weight) for weight in weights}
        scores = {(beside[w], "weight"): s for w in weights for s in self._scores(w).values()}
        prune.global_unstructured([(m, "weight") for m in beside.values()], self.method, scores, amount=amount)
        return {weight: module.get_buffer("weight_mask") for weight, module in beside.items()}

    def _pattern_mask(self, weight: Weight, pattern: Pattern) -> Tensor:
        parameter, dim = weight.place.parameter, weight.place.input_dim
        if dim is None:
            kind = type(weight.place.module).__name__
            raise InputError(
                f"amount: which inputs the {kind} of {weight.name} has is unknown",
                where=weight.name,
                found=f"a weight of a {kind}, and the pattern {pattern}",
                needed="a layer of which graphprune knows the dimension of the inputs",
                do=f"pass it as skip=[{weight.name!r}]",
            )
        if parameter.shape[dim] % pattern.group:
            raise InputError(
                f"amount: {pattern} asks for inputs in groups of {pattern.group}, but {weight.name} has "
                f"{parameter.shape[dim]}",
                where=weight.name,
                found=f"{parameter.shape[dim]} inputs",
                needed=f"a multiple of {pattern.group}",
                do=f"pass it as skip=[{weight.name!r}], or another amount for it as overrides=",
            )
        scores = self._scores(weight)
        if self.method is prune.RandomUnstructured:
            scores = {"importance_scores": torch.rand_like(parameter)}
        beside = _beside(weight)
        prune_with: Any = PatternUnstructured.apply
        prune_with(beside, "weight", pattern.kept, pattern.group, dim, **scores)
        return beside.get_buffer("weight_mask")

    def _scores(self, weight: Weight) -> dict[str, Any]:
        scores = self.importance.get(weight.name)
        return {} if scores is None else {"importance_scores": scores.to(weight.place.parameter.device)}


def _check_left(what: str, amount: float | int, left: int) -> None:
    if isinstance(amount, int) and amount > left:
        raise InputError(
            f"amount: is {amount:,} weights, but {what} has {left:,} that are not masked yet",
            where=what,
            found=f"{amount:,} weights",
            needed=f"at most {left:,}",
            do="ask for less, or for a fraction such as amount=0.5",
        )


def _beside(weight: Weight) -> nn.Module:
    """A module that has the weight, and its mask, as its own."""
    beside = nn.Module()
    beside.weight = nn.Parameter(weight.place.parameter.detach(), requires_grad=False)
    if weight.place.mask is not None:
        prune.custom_from_mask(beside, "weight", weight.place.mask)
    return beside
