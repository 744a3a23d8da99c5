"""Layerwise reconstruction: fit the kept weights to the outputs of the dense model by ridge regression."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.calibration.batches import Batches, not_finite
from graphprune.calibration.communicator import ALONE, Communicator
from graphprune.errors import PlanError
from graphprune.pruning.averaged import mixing
from graphprune.pruning.fits import check_fits, rebuilt_otherwise
from graphprune.pruning.plan import Plan
from graphprune.reconstruction.call_recorder import BiasTarget, CallRecorder
from graphprune.reconstruction.fit_memory import bounded
from graphprune.reconstruction.iterative_regression import IterativeRegression
from graphprune.reconstruction.linear_calls import address, flat
from graphprune.reconstruction.lockstep import Fit, Gathered, Side, Sweep
from graphprune.reconstruction.matching import Match, Matcher, computed_reason
from graphprune.reconstruction.memory_bound import MemorySpec, parse_memory
from graphprune.reconstruction.parametrized import plain_pair
from graphprune.reconstruction.passes import OtherCalls, Rollback
from graphprune.reconstruction.records import LeftAlone, Repair, Repaired
from graphprune.reconstruction.recurrent_fit import Entries, Fitted, settled
from graphprune.reconstruction.regression import Regression
from graphprune.tracing.inputs import describe
from graphprune.tracing.run_state import evaluating_unchanged
from graphprune.utils.checks import check_known, check_optional, check_positive, check_type
from graphprune.utils.compiled import uncompiled
from graphprune.utils.devices import changing_with_float64, with_float64
from graphprune.utils.dispatched import resident
from graphprune.utils.global_state import leaves_torch_alone
from graphprune.utils.model_checks import check_model
from graphprune.utils.modules import named_modules, named_tensors, within
from graphprune.utils.tree import map_tensors

RIDGE, UNCERTAIN = 1e-2, 1.0
"""The default ridge is ``RIDGE + UNCERTAIN * p / n``: second moments of p channels from n rows have a relative error of
about p / n. Both constants were the best or nearly the best with 128 samples, on convolutions and transformers (see
docs/design.md)."""


@leaves_torch_alone
def reconstruct(
    slim: nn.Module,
    dense: nn.Module,
    plan: Plan,
    calibration: Iterable[Any],
    *,
    ridge: float | None = None,
    targets: Mapping[str, Tensor] | None = None,
    memory: MemorySpec | None = None,
) -> Repair:
    """Fit the weights of ``slim`` in place, consumer by consumer, to the outputs of the dense model.

    A consumer is a linear layer, a convolution, or any other product of an input with a part of a parameter. Consumers
    are fitted in order of execution by ridge regression. The input is that of the slim model, after the fit of all
    consumers before; the target is the result of the same call of the dense model, restricted to the kept outputs. If
    all results of a consumer are added to a residual stream, the target is the dense sum; if they go into a softmax
    along rows of data, differences within each row of it are fitted. Both models get the same random numbers, where
    they draw some. The regression is on the residual, so the ridge penalizes changes of the weights: where nothing was
    removed, nothing changes, and no consumer's error rises. Biases, or the running means of batch norms, absorb the
    difference of means.

    One pass of each model records which consumers there are. In a second one, all batches run side by side and wait at
    each consumer until it is fitted (see :mod:`graphprune.reconstruction.lockstep`), so the cost is linear in depth. A
    consumer that is called several times in a batch, and what depends on it, takes further passes. Memory: the second
    moments of one consumer, and for each batch what both models keep at a time, within ``memory``.

    Sources: He, Zhang and Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017 (layerwise least
    squares); Ling, Wang, Yan and Liu, "SlimGPT: Layer-wise Structured Pruning for Large Language Models", NeurIPS 2024
    (from second moments of inputs).

    Args:
        slim: what ``plan.apply(dense)`` returned.
        dense: the model that the plan was made for.
        plan: what was removed.
        calibration: an iterable of batches that can be iterated several times. A batch is a tensor, a tuple (positional
            arguments) or a dict (keyword arguments), without targets.
        ridge: the ridge penalty on changes of weights, as a fraction of the inputs' mean square. None: 0.01, plus the
            number of channels divided by the number of rows of data.
        targets: by parameter, the target outputs as linear combinations of dense outputs, as returned by
            :func:`graphprune.compensate_heads`. [slim outputs, dense outputs]
        memory: a bound on what is held beside the models and the batches, such as ``"4GB"``: activations that wait go
            to the CPU from an accelerator, and to temporary files, and consumers too wide for their matrix of second
            moments are fitted by conjugate gradients. None: nothing is moved, and only what does not fit into the free
            memory is fitted that way.

    Raises:
        InputError: an argument is invalid, ``memory`` is too little (the message says what the least is), or a model
            fails on a batch. ``slim`` is unchanged then.
        PlanError: the plan does not lead from ``dense`` to ``slim``.
        SaveError: temporary files, which ``memory`` needs, cannot be written. ``slim`` is unchanged then.
    """
    slim, dense = check_pair(slim, dense, plan)
    check_optional("targets", targets, Mapping, "a dict of tensors, what graphprune.compensate_heads returned")
    for name in targets or {}:
        check_known("targets", name, plan.shapes)
    limit = parse_memory(memory)
    with changing_with_float64(slim) as changed, Rollback(to_file=limit is not None) as rollback:
        return fit(changed, with_float64(resident(dense)), plan, calibration, ridge, rollback, targets or {}, limit)[0]


def fit(
    slim: nn.Module,
    dense: nn.Module,
    plan: Plan,
    calibration: Iterable[Any],
    ridge: float | None,
    rollback: Rollback,
    targets: Mapping[str, Tensor],
    limit: int | None,
) -> tuple[Repair, frozenset[str]]:
    """:func:`reconstruct` within a :class:`Rollback` of the caller's, and the running means that ``slim`` uses."""
    slim, dense = check_pair(slim, dense, plan)
    ridge = None if ridge is None else check_positive("ridge", ridge, "a number above 0, or None")
    targets = {**{name: mixing(plan, name) for name in plan.merged}, **targets}
    given = Batches(calibration)
    with given.communicator.together(), evaluating_unchanged(slim, dense) as state, torch.no_grad():
        given.communicator.check_same_model(dense)
        given.communicator.check_same_model(slim)
        plain = plain_pair(slim, dense, plan)
        for data in _attempts(list(given), given.communicator):
            with suppress(OtherCalls), Rollback(rollback) as own:
                made = _Reconstruction(plain.slim, plain.dense, plain.plan, data, ridge, own, targets, limit)
                record = made.record()
                plain.write_back(own)
                state.leave(own.noted)
                return record, frozenset(made.seen.running_means)
    raise AssertionError("with every batch recorded no calls are unexpected")


@dataclass(frozen=True)
class Data:
    """Batches to reconstruct with.

    Attributes:
        batches: numbers and batches.
        alike: for each batch, the number of the one that is recorded for it.
        communicator: the processes that share the batches.
    """

    batches: Sequence[tuple[int, Any]]
    alike: Sequence[int]
    communicator: Communicator


def _attempts(batches: Sequence[tuple[int, Any]], communicator: Communicator) -> Iterator[Data]:
    """What to try in turn, while batches of the same shapes, or of other processes, call other consumers."""
    if communicator.count > 1:
        yield Data(batches, range(len(batches)), communicator)
        every = communicator.gather([map_tensors(Tensor.cpu, batch) for _, batch in batches])
        batches = list(enumerate(batch for one in every for batch in one))
    yield Data(batches, representatives(batches), ALONE)
    yield Data(batches, range(len(batches)), ALONE)


class _Reconstruction:
    def __init__(
        self,
        slim: nn.Module,
        dense: nn.Module,
        plan: Plan,
        data: Data,
        ridge: float | None,
        rollback: Rollback,
        targets: Mapping[str, Tensor],
        limit: int | None,
    ) -> None:
        self.slim = slim
        self.dense = dense
        self.batches = data.batches
        self.communicator = data.communicator
        self.all_recorded = list(data.alike) == list(range(len(data.batches)))
        self.ridge = ridge
        self.shrunk = plan.kept.keys()
        self.rollback = rollback
        self.repaired: list[Repaired] = []
        self.left: list[LeftAlone] = []
        self.unsettled: list[Fitted] = []
        self.seen, self.target = (self._recorded(model, data.alike, limit is not None) for model in (slim, dense))
        matcher = Matcher(self.seen, self.target, plan, targets, self.communicator.count == 1)
        self.matches = {consumer.key: matcher.match(consumer) for consumer in self.seen.consumers.values()}
        self._check_agreement()
        fitted = [match.consumer for match in self.matches.values() if isinstance(match, Match)]
        self.memory = bounded(limit, self.target, self.seen, fitted, self.communicator)

    def _check_agreement(self) -> None:
        """Raise an OtherCalls in all processes unless all of them have recorded the same."""
        kinds = [(repr(key), match if isinstance(match, str) else match.kind) for key, match in self.matches.items()]
        found = self.communicator.gather((self.seen.structure(), self.target.structure(), kinds))
        if any(one != found[0] for one in found):
            raise OtherCalls

    def _recorded(self, model: nn.Module, alike: Sequence[int], measures: bool) -> CallRecorder:
        """The calls of a model, recorded with the first of the batches that are alike."""
        recorder, chosen = CallRecorder(model, measures), sorted(set(alike))
        for number in chosen:
            recorder.record(model, *self.batches[number])
        recorder.stand_for([chosen.index(number) for number in alike])
        return recorder

    def record(self) -> Repair:
        """Fit all consumers."""
        pending = [m for m in self.matches.values() if isinstance(m, Match)]
        dense, slim = (
            Side.of(model, recorded, len(self.batches), self.all_recorded)
            for model, recorded in ((self.dense, self.target), (self.slim, self.seen))
        )

        def sweep(matches: Sequence[Match], fit: Fit) -> list[Match]:
            return Sweep(self.batches, dense, slim, matches, fit, self.memory, self.communicator).run()

        while pending:
            pending = sweep(pending, self._fit)
            while self.unsettled:
                self._note(settled(self.unsettled.pop(0), lambda m, fit: sweep([m], fit), self._fitted, self._undo))
        unmatched = (LeftAlone(key.view.name, m) for key, m in self.matches.items() if isinstance(m, str))
        return Repair(tuple(self.repaired), tuple(dict.fromkeys((*unmatched, *self.left, *self._not_met()))))

    # ------------------------------------------------------------ one consumer

    def _fit(self, one: Gathered) -> bool:
        if why := one.unfit:
            self._note(LeftAlone(one.match.consumer.key.name, why))
            return False
        fitted = self._fitted(one)
        if one.match.columns is not None and fitted.before:
            self.unsettled.append(fitted)
        else:
            self._note(fitted.record)
        return bool(fitted.before)

    def _note(self, record: Repaired | LeftAlone) -> None:
        if isinstance(record, LeftAlone):
            self.left.append(record)
        else:
            self.repaired.append(record)

    def _fitted(self, one: Gathered) -> Fitted:
        """Fit a consumer, and write to its weight and bias if that is better."""
        consumer, regression, bias_target = one.match.consumer, one.regression, one.match.bias_target
        places = consumer.first.places()
        old = self._entries(consumer.key.name)[places]
        factor, inverse = (t.to(old.device) for t in one.match.factors())
        change = regression.solve(self._ridge(regression), bias_target is not None)
        new = (old.double() + change * inverse.unsqueeze(1)).to(old.dtype)
        change = (new.double() - old.double()) * factor.unsqueeze(1)  # as rounded to the parameter's dtype
        intercept = None if bias_target is None else regression.intercept(change) * inverse
        before = regression.error()
        if not math.isfinite(before):
            raise not_finite(f"what {consumer.key.name} makes in the slim model")
        after = regression.error(change, None if intercept is None else intercept * factor)
        written: list[Entries] = []
        if after < before:
            written.append(self._write(consumer.key.name, places, new))
            if bias_target is not None and intercept is not None:
                written.append(self._add_to_bias(bias_target, intercept))
        name = bias_target.view.name if bias_target else None
        record = Repaired(consumer.key.name, before**0.5, min(before, after) ** 0.5, name, one.match.summed)
        return Fitted(one.match, record, one.own_error, tuple(written))

    def _undo(self, fitted: Fitted) -> None:
        for name, places, values in fitted.before:
            self._write(name, places, values)

    def _ridge(self, regression: Regression | IterativeRegression) -> float:
        return RIDGE + UNCERTAIN * regression.channels / regression.count if self.ridge is None else self.ridge

    def _add_to_bias(self, bias_target: BiasTarget, intercept: Tensor) -> Entries:
        """Add an intercept [blocks, outputs] to a bias, or subtract it from a running mean."""
        places = bias_target.view.places()
        old = self._entries(bias_target.view.name)[places]
        new = old.double() + bias_target.sign * intercept.reshape(old.shape)
        return self._write(bias_target.view.name, places, new.to(old.dtype))

    def _entries(self, name: str) -> Tensor:
        return flat(self.seen.memory.tensors[name])

    def _write(self, name: str, places: Tensor, values: Tensor) -> Entries:
        """Overwrite some entries; what they had before."""
        self.rollback.note(self.seen.memory.tensors[name])
        before = self._entries(name)[places].clone()
        self._entries(name)[places] = values
        return name, places, before

    def _not_met(self) -> list[LeftAlone]:
        """Matrices and kernels of which no part is a consumer's weight, and how they are used."""
        known = {key.name for key in self.seen.consumers}
        found = []
        lost = self.shrunk & (self.seen.memory.weights | self.seen.unsaved)
        for name in sorted((self.seen.memory.parameters | lost) - known):
            if self.seen.memory.tensors[name].ndim > 1:
                found.append(LeftAlone(name, self._unmet_reason(name)))
        return found

    def _unmet_reason(self, name: str) -> str:
        """Why a tensor of the model is no weight of a consumer."""
        use = self.seen.other_uses.get(name)
        if name in self.seen.unsaved:
            return "not saved with the model (no parameter, no persistent buffer): what is written to it would be lost"
        if name in self.seen.computed:
            return computed_reason(use)
        return "not used" if use is None else f"used by {use}, which is no product of it with an input"


def representatives(batches: Sequence[tuple[int, Any]]) -> list[int]:
    """For each batch, the number of the first with tensors of the same shapes and types."""
    first: dict[str, int] = {}
    return [first.setdefault(describe(batch), number) for number, batch in batches]


def check_pair(slim: nn.Module, dense: nn.Module, plan: Plan) -> tuple[nn.Module, nn.Module]:
    """Raise a PlanError unless the plan leads from the dense model to the slim one.

    Returns:
        Both, without what ``torch.compile`` put around them.

    Raises:
        InputError: these are no models and no plan.
    """
    check_model(slim, "slim")
    check_model(dense, "dense")
    check_type("plan", plan, Plan, "the graphprune.Plan that the slim model was made with")
    slim, dense = uncompiled(slim), uncompiled(dense)
    check_fits(dense, plan.shapes, plan.kept)
    found = {name: tuple(t.shape) for name, t in named_tensors(slim)}
    wanted = {name: plan.shape(name) for name in plan.shapes if not within(name, plan.skipped)}
    rebuilt = rebuilt_otherwise(wanted, found, plan.kept, named_modules(slim))
    for name, needed in wanted.items():
        if found.get(name) != needed and name not in rebuilt:
            shape = f"has shape {list(found[name])}" if name in found else "does not exist"
            raise PlanError(
                f"slim: {name} {shape}, and the plan makes {list(needed)} of it",
                where=name,
                found=shape.removeprefix("has "),
                needed=f"shape {list(needed)}",
                do="pass the module that plan.apply(dense) returned",
            )
    shared = {address(t) for _, t in named_tensors(slim)} & {address(t) for _, t in named_tensors(dense)} - {0}
    if shared:
        raise PlanError(
            "slim: shares tensors with the dense model",
            found=f"{len(shared)} tensors in the same memory",
            needed="a slim model with tensors of its own, since repair changes them",
            do="pass the module that plan.apply(dense) returned",
        )
    return slim, dense
