"""Reconstruction: change the weights that are left so that outputs are nearest to those of the dense model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.calibration.batches import Batches
from graphprune.errors import InputError, PlanError
from graphprune.pruning.plan import Plan
from graphprune.pruning.rewrite import check_fits
from graphprune.reconstruction.call_recorder import BiasTarget, CallRecorder
from graphprune.reconstruction.linear_calls import address, flat
from graphprune.reconstruction.matching import DenseOutputs, Gathered, Match, Matcher, SlimResiduals
from graphprune.reconstruction.passes import Rollback, run_batch
from graphprune.reconstruction.records import LeftAlone, Repair, Repaired
from graphprune.reconstruction.regression import Regression
from graphprune.utils.contexts import evaluating_eagerly
from graphprune.utils.modules import named_tensors, within

RIDGE, UNCERTAIN = 1e-2, 1.0
"""The ridge if none is given: ``RIDGE + UNCERTAIN * p / n``. Moments of n rows of p channels err by about p / n. Both
were the best or nearly so with 128 samples, on convolutions and transformers (see docs/design.md)."""


def reconstruct(
    slim: nn.Module,
    dense: nn.Module,
    plan: Plan,
    calibration: Iterable[Any],
    *,
    ridge: float | None = None,
    targets: Mapping[str, Tensor] | None = None,
) -> Repair:
    """Change the weights of ``slim``, in place, so that every consumer's output is nearest to the dense model's.

    A consumer is a linear layer, a convolution, or any other product of an input with a part of a parameter. In order
    of execution, each is fitted by ridge regression: its input is that of the slim model, in which everything before
    has been fitted; its target is what the same call of the dense model returns, in the outputs that are left. Where
    all that a consumer returns is added to something else (a residual stream), the target is the dense sum. What is
    fitted is the residual, so the ridge pulls towards the weights as they are: where nothing was removed, nothing
    changes, and no consumer's error rises. Biases, or the running means of batch norms, take the difference of means.

    The batches are gone through once for each step of the longest chain of consumers; at most one batch, the outputs of
    the consumers that are being fitted and their second moments are held.

    Layerwise least squares: He, Zhang, Sun, "Channel pruning for accelerating very deep neural networks", ICCV 2017;
    with the second moments of inputs: Ling et al., "SlimGPT", NeurIPS 2024.

    Args:
        slim: what ``plan.apply(dense)`` returned.
        dense: the model that the plan was made for.
        plan: what was removed.
        calibration: an iterable of batches that can be gone through several times. A batch is a tensor, a tuple
            (positional arguments) or a dict (keyword arguments); no targets.
        ridge: how strongly weights are pulled towards what they are: a fraction of the inputs' mean square. None: 0.01,
            and more where there are few rows for each channel.
        targets: by parameter, which combinations of dense outputs its outputs are to be, as ``compensate_heads``
            returns them. [slim outputs, dense outputs]

    Raises:
        InputError: an argument is not what it should be, or a model fails on a batch. ``slim`` is unchanged then.
        PlanError: the plan does not lead from ``dense`` to ``slim``.
    """
    with Rollback() as rollback:
        return fit(slim, dense, plan, calibration, ridge, rollback, targets or {})


def fit(
    slim: nn.Module,
    dense: nn.Module,
    plan: Plan,
    calibration: Iterable[Any],
    ridge: float | None,
    rollback: Rollback,
    targets: Mapping[str, Tensor],
) -> Repair:
    """:func:`reconstruct`, which can be undone."""
    check_pair(slim, dense, plan)
    if ridge is not None and not ridge > 0:
        raise InputError(f"ridge: is {ridge!r}; pass a number above 0, such as {RIDGE}")
    with evaluating_eagerly(slim, dense), torch.no_grad():
        return _Reconstruction(slim, dense, plan, Batches(calibration), ridge, rollback, targets).record()


class _Reconstruction:
    def __init__(
        self,
        slim: nn.Module,
        dense: nn.Module,
        plan: Plan,
        batches: Batches,
        ridge: float | None,
        rollback: Rollback,
        targets: Mapping[str, Tensor],
    ) -> None:
        self.slim = slim
        self.dense = dense
        self.batches = batches
        self.ridge = ridge
        self.rollback = rollback
        self.seen, self.target = CallRecorder(slim), CallRecorder(dense)
        for number, batch in batches:
            run_batch(dense, number, batch, self.target.batch())
            run_batch(slim, number, batch, self.seen.batch())
        matcher = Matcher(self.seen, self.target, plan, targets)
        self.matches = {consumer.key: matcher.match(consumer) for consumer in self.seen.consumers.values()}

    def record(self) -> Repair:
        """Fit all consumers."""
        repaired: list[Repaired] = []
        left = [LeftAlone(key.view.name, m) for key, m in self.matches.items() if isinstance(m, str)]
        for level in levels([m for m in self.matches.values() if isinstance(m, Match)]):
            for one in self._gathered(level):
                if why := one.unfit:
                    left.append(LeftAlone(one.match.consumer.key.name, why))
                else:
                    repaired.append(self._fitted(one))
        return Repair(tuple(repaired), (*left, *self._not_met()))

    def _gathered(self, level: Sequence[Match]) -> list[Gathered]:
        gathered = {match.consumer.key: Gathered(match) for match in level}
        targets = DenseOutputs(self.target.memory, gathered.values())
        residuals = SlimResiduals(self.seen.memory, gathered)
        for number, batch in self.batches:
            for one in gathered.values():
                one.targets.clear()
            run_batch(self.dense, number, batch, targets)
            run_batch(self.slim, number, batch, residuals)
        return list(gathered.values())

    # ------------------------------------------------------------ one consumer

    def _fitted(self, one: Gathered) -> Repaired:
        consumer, regression, bias_target = one.match.consumer, one.regression, one.match.bias_target
        places = consumer.first.places()
        old = self._memory(consumer.key.name)[places]
        factor, inverse = one.match.factors()
        change = regression.solve(self._ridge(regression), bias_target is not None)
        new = (old.double() + change * inverse.unsqueeze(1)).to(old.dtype)
        change = (new.double() - old.double()) * factor.unsqueeze(1)  # what is left of it in the parameter's type
        intercept = None if bias_target is None else regression.intercept(change) * inverse
        before = regression.error()
        after = regression.error(change, None if intercept is None else intercept * factor)
        if after < before:
            self._write(consumer.key.name, places, new)
            if bias_target is not None and intercept is not None:
                self._take(bias_target, intercept)
        name = bias_target.view.name if bias_target else None
        return Repaired(consumer.key.name, before**0.5, min(before, after) ** 0.5, name, one.match.summed)

    def _ridge(self, regression: Regression) -> float:
        return RIDGE + UNCERTAIN * regression.channels / regression.count if self.ridge is None else self.ridge

    def _take(self, bias_target: BiasTarget, intercept: Tensor) -> None:
        """Let a bias or a running mean take an intercept [blocks, outputs]."""
        places = bias_target.view.places()
        old = self._memory(bias_target.view.name)[places]
        new = old.double() + bias_target.sign * intercept.reshape(old.shape)
        self._write(bias_target.view.name, places, new.to(old.dtype))

    def _memory(self, name: str) -> Tensor:
        return flat(self.seen.memory.tensors[name])

    def _write(self, name: str, places: Tensor, values: Tensor) -> None:
        self.rollback.note(self.seen.memory.tensors[name])
        self._memory(name)[places] = values

    def _not_met(self) -> list[LeftAlone]:
        """Matrices and kernels of which no part is a consumer's weight."""
        known = {key.name for key in self.seen.consumers}
        found = []
        for name in sorted(self.seen.names - known):
            if self.seen.memory.tensors[name].ndim > 1:
                use = self.seen.other_uses.get(name)
                why = "not used" if use is None else f"used by {use}"
                computed = "a weight is computed from it, " if name in self.seen.computed else ""
                found.append(LeftAlone(name, computed + why))
        return found


def levels(matches: Sequence[Match]) -> list[list[Match]]:
    """Consumers that can be fitted together, in order: none depends on another that is not yet fitted.

    Where consumers depend on each other (layers that are run through in a loop), the first of them goes alone.
    """
    pending, found = list(matches), []
    while pending:
        waiting = sum(1 << m.consumer.number for m in pending)
        ready = [m for m in pending if not m.after & waiting & ~(1 << m.consumer.number)] or pending[:1]
        found.append(ready)
        pending = [m for m in pending if m not in ready]
    return found


def check_pair(slim: nn.Module, dense: nn.Module, plan: Plan) -> None:
    """Raise a PlanError unless the plan leads from the dense model to the slim one."""
    check_fits(dense, plan.shapes)
    found = {name: tuple(t.shape) for name, t in named_tensors(slim)}
    for name in plan.shapes:
        if found.get(name) != plan.shape(name) and not within(name, plan.skipped):
            shape = f"has shape {list(found[name])}" if name in found else "does not exist"
            raise PlanError(
                f"slim: {name} {shape}, and the plan makes {list(plan.shape(name))} of it; pass the module that "
                "plan.apply(dense) returned"
            )
    shared = {address(t) for _, t in named_tensors(slim)} & {address(t) for _, t in named_tensors(dense)} - {0}
    if shared:
        raise PlanError("slim: shares tensors with the dense model; pass the module that plan.apply(dense) returned")
