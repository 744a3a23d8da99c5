"""Match consumers of the slim model with those of the dense one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphprune.pruning.plan import Plan
from graphprune.reconstruction.call_recorder import BiasTarget, CallRecorder, Consumer
from graphprune.reconstruction.head_products import output_rows
from graphprune.reconstruction.linear_calls import CallKey, LinearCall, dense_places
from graphprune.reconstruction.row_choice import RowChoice, layouts_between
from graphprune.reconstruction.separate_bias import AppliedVector, SeparateBias
from graphprune.reconstruction.softmax_rows import SoftmaxRows
from graphprune.reconstruction.view_axes import DimensionRun, rows_between, runs_of
from graphprune.utils.operators import is_mutable

SMALL = 1e-3
"""Outputs with a factor below this fraction of the largest factor are not fitted."""


@dataclass(frozen=True, eq=False)
class Match:
    """A consumer of the slim model and the consumer of the dense model that it is fitted to.

    Attributes:
        consumer: the slim model's consumer.
        dense: the dense model's consumer; the j-th call of the one is compared with the j-th of the other.
        rows: the outputs of the dense call, numbered over all blocks, that the slim call has. [outputs]
        bias_target: the bias or running mean that the intercept is added to; None: there is none.
        bare: results are compared without bias, since one of the two models adds it in a call of its own.
        mixing: the targets as linear combinations of dense outputs, instead of ``rows``. [outputs, dense outputs]
        summed: the residual sums that the results are added to are compared, instead of the results.
        scores: for each batch and call, the rows of the softmax that the results go into: differences within these are
            compared. None: the results themselves are.
        columns: for a recurrent layer, the channels of the dense input that the slim input has; the weight is fitted on
            these, not on the slim model's own states, which depend on it. None: it is fitted on the slim input.
        on_own: it is fitted on these and on its own states, both with the dense results.
        separate: biases or running means that other calls apply to the results, which are compared without them.
        row_choice: which rows of the dense result the slim one has, where channels run along rows; None: it has all.
    """

    consumer: Consumer
    dense: Consumer
    rows: Tensor
    bias_target: BiasTarget | None
    bare: bool
    mixing: Tensor | None
    summed: bool
    scores: Sequence[Sequence[SoftmaxRows]] | None
    columns: Tensor | None
    on_own: bool = False
    separate: SeparateBias | None = None
    row_choice: RowChoice | None = None

    @property
    def after(self) -> int:
        """The consumers that must be fitted before this one, as a bit set."""
        return self.consumer.after | self.consumer.beside if self.summed else self.consumer.after

    @property
    def kind(self) -> str:
        """What is compared, without weights or numbers of calls."""
        plain = self.mixing is None, self.summed, self.scores is None, self.columns is None
        return repr((self.dense.key, self.rows.tolist(), self.bias_target, self.bare, plain))

    def factors(self) -> tuple[Tensor, Tensor]:
        """The factor of each output before the comparison, and its inverse. [blocks, outputs] each

        The inverse of a factor near zero is 0: otherwise weights of outputs with hardly any effect would become huge.
        """
        factor = self.consumer.factor if self.summed else None
        if factor is None:
            blocks, _, outputs = self.consumer.first.weight_shape
            factor = torch.ones(blocks, outputs, device="cpu")
        factor = factor.double()
        counts = factor.abs() > SMALL * factor.abs().max()
        return factor, torch.where(counts, 1 / factor, 0.0)

    def target(self, y: Tensor) -> Tensor:
        """The target of the slim call, [n, outputs, m], given the dense call's result ``y`` [n, blocks, outputs, m]."""
        y = y.flatten(1, 2)
        if self.mixing is None:
            return y.index_select(1, self.rows.to(y.device))
        return torch.einsum("sd,ndm->nsm", self.mixing.to(y), y)

    def with_bias(self, result: Tensor) -> Tensor:
        """A result of the slim call, plus what its bias, applied by another call, has more than the dense one."""
        if self.separate is None:
            return result
        slim, dense = self.separate.slim.value(), self.separate.dense.value()
        wanted = self.target(dense.unsqueeze(0).unsqueeze(3)).reshape(slim.shape)
        difference = (slim - wanted.to(slim.device)).to(result)
        return result + difference.unsqueeze(-1) if difference.any() else result

    def state(self, call: LinearCall) -> Tensor:
        """The kept channels of the dense call's input."""
        assert self.columns is not None
        return call.x.index_select(call.matmul.channel_dim, self.columns.to(call.x.device))


class Matcher:
    """Matches the recorded consumers of two models.

    Args:
        slim: the recorded calls of the slim model.
        dense: the recorded calls of the dense model.
        plan: the plan that leads from the dense to the slim model.
        targets: by parameter, the targets as linear combinations of dense outputs. [slim outputs, dense outputs]
        alone: no other process has a share of the batches; such processes could choose other rows.
    """

    def __init__(
        self, slim: CallRecorder, dense: CallRecorder, plan: Plan, targets: Mapping[str, Tensor], alone: bool
    ) -> None:
        self.slim = slim
        self.dense = dense
        self.plan = plan
        self.targets = targets
        self.alone = alone
        self._crossed = _crossed(slim.consumers)

    def match(self, consumer: Consumer) -> Match | str:
        """The match of a consumer, or why it is not fitted."""
        reason = self._unfit(consumer)
        if reason:
            return reason
        found = [
            (other, rows)
            for other in self._others(consumer)
            for rows in [self._rows(consumer, other)]
            if rows is not None
        ]
        if not found:
            return "no call of the dense model has all of its entries"
        other, rows = next(((o, r) for o, r in found if o.calls == consumer.calls), found[0])
        if other.calls != consumer.calls:
            return f"called {sum(consumer.calls)} times, in the dense model {sum(other.calls)} times"
        mixing = self._mixing(consumer, other)
        summed = consumer.summed and other.summed and mixing is None
        varies = (consumer.adds, consumer.bare) != (other.adds, other.bare) or consumer.adds is consumer.bare
        bare = varies and not summed
        if bare and any(
            bias_target is None or bias_target.sign < 0 for bias_target in (*consumer.bias_targets, *other.bias_targets)
        ):
            return "what is added to its product is not the same parameter in both models"
        scores = consumer.scores if consumer.scoring and other.scores == consumer.scores and other.scoring else None
        columns = self._columns(consumer, other) if self._recurrent(consumer) else None
        separate = self._separate(consumer, other) if bare or not (summed or consumer.adds) else None
        choice = self._row_choice(consumer, other) if scores is None and columns is None else None
        bias_target = self.slim.bias_target(consumer)
        return Match(
            consumer,
            other,
            rows,
            bias_target,
            bare,
            mixing,
            summed,
            scores,
            columns,
            separate=separate,
            row_choice=choice,
        )

    def _row_choice(self, consumer: Consumer, other: Consumer) -> RowChoice | None:
        layouts = layouts_between(consumer, other, self.plan) if self.alone else ()
        columns = self._columns(consumer, other) if layouts else None
        return None if columns is None else RowChoice(layouts, columns)

    def _separate(self, consumer: Consumer, other: Consumer) -> SeparateBias | None:
        return SeparateBias.between(AppliedVector.of(consumer, self.slim), AppliedVector.of(other, self.dense))

    @staticmethod
    def _recurrent(consumer: Consumer) -> bool:
        """Whether a consumer's input depends on its earlier results: a recurrent state, perhaps through others."""
        return bool(consumer.after >> consumer.number & 1)

    def _unfit(self, consumer: Consumer) -> str | None:
        name = consumer.key.name
        use = self.slim.other_uses.get(name)
        if name in self.slim.computed and (use is not None or name not in self.slim.memory.parameters):
            return computed_reason(use)
        if use is not None:
            return f"also used by {use}"
        if consumer.first.matmul.result is None:
            return "each part of its rows has a weight of its own"
        if consumer.scaled:
            return "its product is multiplied by a factor"
        if consumer.key.view.copied is not None and _repeats(consumer.first.places()):
            return "its entries are in the weight several times"
        if name in self._crossed:
            return "entries of it are in several weights, as in one and its transpose"
        return None

    def _others(self, consumer: Consumer) -> list[Consumer]:
        return [
            other
            for key, other in self.dense.consumers.items()
            if key.name == consumer.key.name and other.first.matmul.result
        ]

    def _entries(self, consumer: Consumer) -> Tensor:
        """The place, in the dense parameter's memory, of each entry of a weight. [blocks, channels, outputs]"""
        name = consumer.key.name
        kept = [(dim, torch.from_numpy(np.ascontiguousarray(i))) for dim, i in self.plan.kept.get(name, {}).items()]
        whole, dense = self.slim.memory.whole(name), self.dense.memory.whole(name)
        return dense_places(whole, dense, kept)[consumer.first.places()]

    def _columns(self, consumer: Consumer, other: Consumer) -> Tensor | None:
        """The channels of a dense call's input that the slim call's input has; None for several blocks. [channels]"""
        wanted, places = self._entries(consumer), other.first.places()
        blocks, channels, _ = places.shape
        if blocks > 1 or is_mutable(consumer.first.op):
            return None
        column = torch.full((self.dense.memory.whole(consumer.key.name).span,), -1, device="cpu")
        column[places] = torch.arange(channels, device="cpu").view(1, -1, 1).expand(places.shape)
        taps = consumer.first.taps
        return column[wanted[0, ::taps, 0]] // taps

    def _rows(self, consumer: Consumer, other: Consumer) -> Tensor | None:
        """The outputs of a dense call that the slim call's outputs come from; None if it lacks some. [outputs]"""
        name, dense = consumer.key.name, self.dense.memory.whole(consumer.key.name)
        runs = self._runs(consumer, self.slim), self._runs(other, self.dense)
        if runs[0] is not None and runs[1] is not None and len(runs[0]) == len(runs[1]):
            kept = self.plan.kept.get(name, {})
            return rows_between((consumer.key.view, runs[0]), (other.key.view, runs[1]), kept)
        wanted = self._entries(consumer)
        places = other.first.places()
        blocks, _, outputs = places.shape
        row = torch.full((dense.span,), -1, device="cpu")
        row[places] = torch.arange(blocks * outputs, device="cpu").view(blocks, 1, outputs).expand(places.shape)
        rows = row[wanted]
        return rows[:, 0].flatten() if bool(((rows == rows[:, :1]) & (rows >= 0)).all()) else None

    def _runs(self, consumer: Consumer, seen: CallRecorder) -> list[DimensionRun] | None:
        """What the weight of a product of matrices takes of each dimension of its parameter, if that can be said."""
        if consumer.first.matmul.kernel is not None or consumer.key.view.copied is not None:
            return None
        return runs_of(consumer.key.view, seen.memory.whole(consumer.key.name))

    def _mixing(self, consumer: Consumer, other: Consumer) -> Tensor | None:
        """The targets as linear combinations of a dense call's outputs, if any. [slim outputs, dense outputs]"""
        name = consumer.key.name
        if name not in self.targets:
            return None
        mine = output_rows(self.slim.memory.whole(name), consumer.first.places()[0])
        theirs = output_rows(self.dense.memory.whole(name), other.first.places()[0])
        return self.targets[name][mine[1]][:, theirs[1]] if mine and theirs else None


def computed_reason(use: str | None) -> str:
    """Why a parameter is left alone from which a weight is computed, by an operation of this name."""
    how = "" if use is None else f" by {use}"
    return f"a weight is computed from it{how}, not by a parametrization that can be given a value"


def _crossed(consumers: Mapping[CallKey, Consumer]) -> frozenset[str]:
    """Parameters with entries that occur in the weights of several consumers."""
    by_name: dict[str, list[Consumer]] = {}
    for key, consumer in consumers.items():
        by_name.setdefault(key.name, []).append(consumer)
    found = set()
    for name, group in by_name.items():
        places = [consumer.first.places().flatten() for consumer in group] if len(group) > 1 else []
        if places and _repeats(torch.cat(places)):
            found.add(name)
    return frozenset(found)


def _repeats(places: Tensor) -> bool:
    return len(places.unique()) < places.numel()
