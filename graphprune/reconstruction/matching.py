"""Which calls of the dense model a consumer of the slim model is to agree with; and what its outputs lack, gathered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphprune.pruning.plan import Plan
from graphprune.reconstruction.call_recorder import BiasTarget, CallRecorder, Consumer
from graphprune.reconstruction.head_products import output_rows
from graphprune.reconstruction.linear_calls import CallKey, LinearCall, ParameterMemory, dense_places, linear_call
from graphprune.reconstruction.passes import StopForward
from graphprune.reconstruction.regression import Regression
from graphprune.reconstruction.residual_sums import ResidualSum, SumPaths
from graphprune.utils.operators import Args, DispatchMode, Kwargs
from graphprune.utils.tree import tensors_of

SMALL = 1e-3
"""Outputs that are multiplied with less than this fraction of the largest factor are not fitted."""


@dataclass(frozen=True, eq=False)
class Match:
    """A consumer of the slim model and what it is repaired against.

    Attributes:
        consumer: the consumer.
        dense: the dense model's consumer; the j-th call of the one is compared with the j-th of the other.
        rows: of the dense call's outputs (of all blocks, in order), those that the slim call has. [outputs]
        bias_target: the bias or running mean that takes an intercept, if there is one.
        bare: one of the two models adds the bias afterwards, so results are compared without it.
        mixing: which combinations of those outputs are wanted instead. [outputs, outputs of the dense call]
        summed: what is compared are the sums that the results go into.
    """

    consumer: Consumer
    dense: Consumer
    rows: Tensor
    bias_target: BiasTarget | None
    bare: bool
    mixing: Tensor | None
    summed: bool

    @property
    def after(self) -> int:
        """The consumers that are to be fitted before, as a set of bits."""
        return self.consumer.after | self.consumer.beside if self.summed else self.consumer.after

    def factors(self) -> tuple[Tensor, Tensor]:
        """What outputs are multiplied with before they are compared, and the inverse. [blocks, outputs] each

        The inverse of what is nearly nothing is 0: no weight has to grow a thousandfold for what hardly counts.
        """
        factor = self.consumer.factor if self.summed else None
        if factor is None:
            blocks, _, outputs = self.consumer.first.places().shape
            factor = torch.ones(blocks, outputs)
        factor = factor.double()
        counts = factor.abs() > SMALL * factor.abs().max()
        return factor, torch.where(counts, 1 / factor, 0.0)

    def target(self, y: Tensor) -> Tensor:
        """What the slim call is to return, [n, outputs, m], if the dense one returns ``y`` [n, blocks, outputs, m]."""
        y = y.flatten(1, 2)
        if self.mixing is None:
            return y.index_select(1, self.rows.to(y.device))
        return torch.einsum("sd,ndm->nsm", self.mixing.to(y), y)


class Matcher:
    """Matches what two surveys found.

    Args:
        targets: by parameter, the combinations of dense outputs that are wanted. [slim outputs, dense outputs]
    """

    def __init__(self, slim: CallRecorder, dense: CallRecorder, plan: Plan, targets: Mapping[str, Tensor]) -> None:
        self.slim = slim
        self.dense = dense
        self.plan = plan
        self.targets = targets
        self._crossed = _crossed(slim.consumers)

    def match(self, consumer: Consumer) -> Match | str:
        """The match of a consumer, or why it is left alone."""
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
        bare = consumer.adds != other.adds and not summed
        if bare and any(
            bias_target is None or bias_target.sign < 0 for bias_target in (*consumer.bias_targets, *other.bias_targets)
        ):
            return "what is added to its product is not the same parameter in both models"
        return Match(consumer, other, rows, self._taker(consumer), bare, mixing, summed)

    def _unfit(self, consumer: Consumer) -> str | None:
        use = self.slim.other_uses.get(consumer.key.name)
        if use is not None:
            return f"also used by {use}"
        if consumer.first.matmul.result is None:
            return "each part of its rows has a weight of its own"
        if consumer.scaled:
            return "its product is multiplied by a factor"
        if consumer.key.name in self._crossed:
            return "used in several overlapping parts"
        return None

    def _others(self, consumer: Consumer) -> list[Consumer]:
        return [
            other
            for key, other in self.dense.consumers.items()
            if key.name == consumer.key.name and other.first.matmul.result
        ]

    def _rows(self, consumer: Consumer, other: Consumer) -> Tensor | None:
        """The outputs of a dense call whose entries a slim one has; None where it does not have them all."""
        name = consumer.key.name
        kept = [(dim, torch.from_numpy(np.ascontiguousarray(i))) for dim, i in self.plan.kept.get(name, {}).items()]
        whole, dense = self.slim.memory.whole(name), self.dense.memory.whole(name)
        wanted = dense_places(whole, dense, kept)[consumer.first.places()]
        places = other.first.places()
        blocks, _, outputs = places.shape
        row = torch.full((dense.span,), -1)
        row[places] = torch.arange(blocks * outputs).view(blocks, 1, outputs).expand(places.shape)
        rows = row[wanted]
        return rows[:, 0].flatten() if bool(((rows == rows[:, :1]) & (rows >= 0)).all()) else None

    def _mixing(self, consumer: Consumer, other: Consumer) -> Tensor | None:
        """The combinations that are wanted of the outputs of a dense call. [slim outputs, dense outputs]"""
        name = consumer.key.name
        if name not in self.targets:
            return None
        mine = output_rows(self.slim.memory.whole(name), consumer.first.places()[0])
        theirs = output_rows(self.dense.memory.whole(name), other.first.places()[0])
        return self.targets[name][mine[1]][:, theirs[1]] if mine and theirs else None

    def _taker(self, consumer: Consumer) -> BiasTarget | None:
        """What is added to all results of a consumer, and to nothing else."""
        bias_target, *others = consumer.bias_targets or {None}
        if bias_target is None or others or self.slim.fed_by[bias_target.view] != {consumer.number}:
            return None
        name = bias_target.view.name
        places = torch.cat([view.places().flatten() for view in self.slim.fed_by if view.name == name])
        own = name not in self.slim.other_uses and all(key.name != name for key in self.slim.consumers)
        return bias_target if own and len(places.unique()) == len(places) else None


def _crossed(consumers: Mapping[CallKey, Consumer]) -> frozenset[str]:
    """Parameters that have entries in more than one consumer."""
    by_name: dict[str, list[Consumer]] = {}
    for key, consumer in consumers.items():
        by_name.setdefault(key.name, []).append(consumer)
    found = set()
    for name, group in by_name.items():
        places = [consumer.first.places().flatten() for consumer in group] if len(group) > 1 else []
        if places and len(torch.cat(places).unique()) < sum(map(len, places)):
            found.add(name)
    return frozenset(found)


@dataclass
class Gathered:
    """What a pass gathers of one consumer.

    Attributes:
        targets: what each slim call is to return for the current batch.
        regression: of the residuals on the inputs.
        rows_differ: in some batch the two calls had different numbers of rows.
    """

    match: Match
    targets: dict[int, Tensor] = field(default_factory=dict)
    regression: Regression = field(default_factory=Regression)
    rows_differ: bool = False

    @property
    def unfit(self) -> str | None:
        """Why there is nothing to fit, if so."""
        if self.rows_differ:
            return "other rows go through it than in the dense model"
        return None if self.regression.count else "no row goes through it"


class CallWatch(DispatchMode):
    """Sees the calls of some consumers, and ends the run after the last of them.

    Args:
        memory: the model's.
        consumers: the consumers.
        summed: those of which not the results are to be seen, but the sums that these go into.
    """

    def __init__(self, memory: ParameterMemory, consumers: Iterable[Consumer], summed: Set[CallKey]) -> None:
        super().__init__()
        self._memory = memory
        self._calls = {consumer.key: consumer.calls for consumer in consumers}
        self._names = frozenset(key.name for key in self._calls)
        self._last = {key: calls[0] for key, calls in self._calls.items() if len(set(calls)) == 1}
        self._summed = summed
        self._paths = SumPaths(memory)
        self._count: Counter[CallKey] = Counter()
        self._seen: Counter[CallKey] = Counter()

    def __enter__(self) -> CallWatch:
        self._count.clear()
        self._seen.clear()
        self._paths.clear()
        super().__enter__()
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Args = (), kwargs: Kwargs | None = None) -> Any:
        kwargs = kwargs or {}
        met = linear_call(func, args, kwargs, self._memory, self._names)
        out = func(*args, **kwargs)
        if self._summed:
            self._follow(func, args, kwargs, out)
        if met is not None and met.key in self._calls:
            self._meet(met, out)
        if self._all_seen():
            raise StopForward
        return out

    def _follow(self, func: Any, args: Args, kwargs: Kwargs, out: Any) -> None:
        operands = [*tensors_of(args), *tensors_of(kwargs)]
        for end in self._paths.follow(func, args, kwargs, operands, list(tensors_of(out))):
            if isinstance(end, ResidualSum):
                met, number = end.path.token
                self._see(met, number, end.path.laid_out(end.total))

    def _meet(self, met: LinearCall, out: Tensor) -> None:
        number = self._count[met.key]
        self._count[met.key] += 1
        if met.key in self._summed:
            self._paths.start((self.kept(met), number), out)
        else:
            self._see(met, number, out)

    def _see(self, met: LinearCall, number: int, out: Tensor) -> None:
        self._seen[met.key] += 1
        self.see(met, number, out)

    def _all_seen(self) -> bool:
        """Every batch of the survey called every consumer as often as this one has."""
        return len(self._last) == len(self._calls) and all(self._seen[key] >= n for key, n in self._last.items())

    def see(self, met: LinearCall, number: int, out: Tensor) -> None:
        """One call of a consumer, its ``number``-th of this run, and what it returned or the sum of that."""
        raise NotImplementedError

    def kept(self, met: LinearCall) -> LinearCall:
        """What is needed of a call until the sum is seen."""
        return met.light()


class DenseOutputs(CallWatch):
    """Keeps what the dense model's calls return."""

    def __init__(self, memory: ParameterMemory, gathered: Iterable[Gathered]) -> None:
        self._gathered = list(gathered)
        summed = {g.match.dense.key for g in self._gathered if g.match.summed}
        super().__init__(memory, [g.match.dense for g in self._gathered], summed)

    def see(self, met: LinearCall, number: int, out: Tensor) -> None:
        for one in self._gathered:
            if one.match.dense.key == met.key:
                one.targets[number] = one.match.target(met.result(out, one.match.bare))


class SlimResiduals(CallWatch):
    """Counts in what the slim model's calls lack."""

    def __init__(self, memory: ParameterMemory, gathered: Mapping[CallKey, Gathered]) -> None:
        self._gathered = gathered
        summed = {key for key, g in gathered.items() if g.match.summed}
        super().__init__(memory, [g.match.consumer for g in gathered.values()], summed)

    def kept(self, met: LinearCall) -> LinearCall:
        return met.copied()

    def see(self, met: LinearCall, number: int, out: Tensor) -> None:
        one = self._gathered[met.key]
        result = met.result(out, one.match.bare)
        target = one.targets[number].view(-1, *result.shape[1:]) if number in one.targets else None
        if target is None or target.shape != result.shape:
            one.rows_differ = True
            return
        for piece, x in met.inputs():
            one.regression.add(x, target[piece] - result[piece], target[piece])
