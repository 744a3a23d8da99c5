"""Mask single weights amid a training loop, more and more of them, step by step of a schedule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from msgspec import Meta, Struct, to_builtins
from torch import nn
from torch.optim import Optimizer

from graphprune.errors import InputError, LoadError
from graphprune.sparsity.amounts import MethodClass, check_amount, method_class
from graphprune.sparsity.masking import SCOPES, check_overrides, drawn, put_masks
from graphprune.sparsity.methods import PercentileUnstructured, ThresholdUnstructured
from graphprune.sparsity.ranking import Ranking, WeightMasks
from graphprune.sparsity.selection import LayerKey, LayerKeys, Weight, all_weights, chosen_weights, several_keys
from graphprune.training.schedules import Schedule, check_schedule, check_step, total_at
from graphprune.utils.checks import check_known, found_value
from graphprune.utils.model_checks import check_model
from graphprune.utils.model_tensors import check_tensors
from graphprune.utils.prune_masks import apply_masks
from graphprune.utils.tables import Printed
from graphprune.utils.typed_json import Count, convert_data

MaskedShare = Annotated[float, Meta(ge=0, le=1)]


@dataclass(frozen=True)
class Masking:
    """What was masked ``step`` steps after the beginning: ``zeros`` of ``size`` weights, in all chosen layers."""

    step: Count
    zeros: Count
    size: Count

    @property
    def sparsity(self) -> float:
        """The fraction of weights that are masked."""
        return self.zeros / self.size

    def __str__(self) -> str:
        return f"after step {self.step}: {self.zeros:,} of {self.size:,} weights masked ({self.sparsity:.1%})"


class SparsifierState(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a :class:`GradualSparsifier` stands; masks are part of the model's state dict.

    Attributes:
        initial: the fractions that were masked at the beginning, of each layer or of all together.
    """

    steps: Count
    initial: tuple[MaskedShare, ...]
    history: tuple[Masking, ...]


@dataclass(eq=False)
class _Target:
    """Weights that are ranked together, by name, and the fractions of them that are masked at first and in the end.

    Attributes:
        looked: the fraction that was last asked for.
    """

    names: frozenset[str]
    initial: float
    final: float
    looked: float | None = None

    def share_at(self, schedule: Schedule, step: int) -> float:
        """The fraction that is masked after ``step`` steps."""
        return self.initial + total_at(schedule, step, self.final - self.initial)

    def masks(self, weights: Sequence[Weight], share: float, ranking: Ranking) -> WeightMasks:
        """The masks with which this fraction is masked, if less is by now."""
        self.looked = share
        own = [weight for weight in weights if weight.name in self.names]
        zeros, size = _counted(own)
        more = round(share * size) - zeros
        if more <= 0:
            return {}
        return ranking.masks_of(own, more) if len(self.names) > 1 else {own[0]: ranking.mask_of(own[0], more)}


def _counted(weights: Sequence[Weight]) -> tuple[int, int]:
    """How many entries are masked, and how many there are."""
    size = sum(weight.place.parameter.numel() for weight in weights)
    return size - sum(weight.left for weight in weights), size


class GradualSparsifier(Printed):
    """Masks the weights of a model while it is trained: call :meth:`step` after every step of the optimizer.

    Weights get masks of ones at once, in the parametrization of ``torch.nn.utils.prune``
    (:func:`graphprune.sparsify`), and more of each mask becomes zero as the schedule says. What is masked stays masked.
    Parameters are the same objects as before, so an optimizer may be made before or after.

    In :func:`graphprune.finetune`, pass ``on_step=sparsifier.on_step``. Checkpoints need nothing else: masks are part
    of the model's state, and a sparsifier that is made anew for the same dense model goes on from them.

    Source of the cubic schedule, :class:`graphprune.Gradual`: Zhu and Gupta, "To prune, or not to prune: exploring the
    efficacy of pruning for model compression", 2017. Their initial sparsity is what is masked when this is made.

    Args:
        model: what is trained; its weights get masks.
        schedule: when how much is masked, in steps: :class:`graphprune.Gradual`, ``Iterative`` or ``OneShot``.
        amount: masked in the end: a fraction below 1 or a number of weights, earlier masks included.
        method, scope, layers, skip: as for :func:`graphprune.sparsify`; the method is ``"l1"`` or ``"random"``.
        overrides: other amounts for layers, by the same keys.
        seed: of ``"random"``.

    Attributes:
        steps: how many were counted.
        history: what was masked so far.

    Raises:
        InputError: an argument is not what is needed. The model is unchanged.
    """

    def __init__(
        self,
        model: nn.Module,
        schedule: Schedule,
        amount: float | int,
        *,
        method: str | MethodClass = "l1",
        scope: str = "local",
        layers: LayerKeys | None = None,
        skip: LayerKeys = (),
        overrides: Mapping[LayerKey, float | int] | None = None,
        seed: int = 0,
    ) -> None:
        check_tensors(check_model(model))
        check_schedule(schedule)
        check_known("scope", scope, SCOPES)
        self.model = model
        self.schedule = schedule
        self.seed = seed
        self.steps = 0
        self.history: tuple[Masking, ...] = ()
        self._ranking = Ranking(_ranked(method), {})
        amounts = check_overrides(overrides)
        weights = chosen_weights(model, None if layers is None else several_keys(layers), several_keys(skip), amounts)
        self._targets = _targets(weights, amount, scope, amounts)
        put_masks(model, {w: torch.ones_like(w.place.parameter) for w in weights if w.place.mask is None})

    def step(self) -> int:
        """Count one step of training, and mask more weights if it is time to.

        Returns:
            How many weights were masked now.
        """
        return self.at(self.steps + 1)

    def at(self, step: int) -> int:
        """The same for loops that count steps themselves: ``step`` steps were taken in all."""
        check_step(step, self.steps)
        self.steps = step
        shares = [target.share_at(self.schedule, step) for target in self._targets]
        due = [(target, share) for target, share in zip(self._targets, shares, strict=True) if share != target.looked]
        return self._mask(due) if due else self._refresh()

    def _refresh(self) -> int:
        apply_masks(self.model)
        return 0

    def _mask(self, due: Sequence[tuple[_Target, float]]) -> int:
        """Mask what is due. The weights are found anew: the model may have been pruned since, too."""
        names = {name for target in self._targets for name in target.names}
        weights = [weight for weight in all_weights(self.model) if weight.name in names]
        before, size = _counted(weights)
        with drawn(self.seed, self.steps):
            masks = [target.masks(weights, share, self._ranking) for target, share in due]
        put_masks(self.model, {weight: mask for each in masks for weight, mask in each.items()})
        zeros, _ = _counted(weights)
        if zeros > before:
            self.history = (*self.history, Masking(self.steps, zeros, size))
        return zeros - before

    def on_step(self, step: int, model: nn.Module, optimizer: Optimizer) -> None:
        """The same for ``graphprune.finetune(..., on_step=)``."""
        self.at(step)

    # ------------------------------------------------------------ to go on later

    def state(self) -> dict[str, Any]:
        """Where the schedule stands, as JSON data. Masks are in the model's state dict."""
        state = SparsifierState(self.steps, tuple(target.initial for target in self._targets), self.history)
        data: dict[str, Any] = to_builtins(state)
        return data

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state` was called; the model's state dict is loaded before or after.

        Raises:
            LoadError: the state is not that of a sparsifier, or of one with other layers. Nothing is changed then.
        """
        saved = convert_data(state, SparsifierState, "state", "pass what GradualSparsifier.state() returned")
        if len(saved.initial) != len(self._targets):
            raise LoadError(
                f"state: is of {len(saved.initial)} rankings, but there are {len(self._targets)}",
                where="state: initial",
                found=f"{len(saved.initial)} rankings",
                needed=f"{len(self._targets)}",
                do="make the sparsifier as it was made before",
            )
        for target, initial in zip(self._targets, saved.initial, strict=True):
            target.initial = min(initial, target.final)
        self.steps, self.history = saved.steps, saved.history

    def _summary(self) -> str:
        return f"{type(self).__name__} of {type(self.model).__name__}, {self.schedule}, after {self.steps} steps"

    def _parts(self) -> Iterator[str]:
        yield self._summary()
        yield from (f"  {masking}" for masking in self.history)


def _ranked(method: str | MethodClass) -> MethodClass:
    found = method_class(method)
    if found in (ThresholdUnstructured, PercentileUnstructured):
        raise InputError(
            f"method: {method!r} masks no given number of weights; a schedule needs 'l1' or 'random'",
            found=found_value(method),
            needed="'l1' or 'random'",
            do="pass method='l1', or graphprune.sparsify for thresholds, without a schedule",
        )
    return found


def _targets(
    weights: Sequence[Weight], amount: object, scope: str, overrides: Mapping[LayerKey, object]
) -> list[_Target]:
    own = [(weight, each) for weight in weights if (each := weight.override(overrides)) is not None]
    apart = {id(weight) for weight, _ in own}
    others = [weight for weight in weights if id(weight) not in apart]
    together = [others] if scope == "global" and others else [[weight] for weight in others]
    found = [_target("overrides", [weight], each) for weight, each in own]
    return [*found, *(_target("amount", each, amount) for each in together)]


def _target(name: str, weights: Sequence[Weight], amount: object) -> _Target:
    zeros, size = _counted(weights)
    asked, what = check_amount(name, amount), weights[0].name if len(weights) == 1 else "all layers together"
    final = asked / max(size, 1) if isinstance(asked, int) else asked
    if final >= 1:
        raise InputError(
            f"{name}: {asked!r} leaves none of the {size:,} weights of {what}; ask for less than all",
            where=what,
            found=found_value(asked),
            needed=f"less than all {size:,} weights",
            do=f"pass {name}=0.9, or a number below {size:,}",
        )
    if round(final * size) < zeros:
        raise InputError(
            f"{name}: {asked!r} is less than what is masked of {what} already, {zeros:,} of {size:,}",
            where=what,
            found=found_value(asked),
            needed=f"{zeros:,} weights or more",
            do="ask for more than is masked, or make the masks permanent first: graphprune.make_permanent(model)",
        )
    initial = zeros / max(size, 1)
    return _Target(frozenset(weight.name for weight in weights), initial, max(final, initial))
