"""Run the dense and the slim model on all batches side by side, and fit each consumer when all batches have reached it.

Every batch has a forward pass of each model, which waits at the calls of consumers (:mod:`.paused_forward`). When the
slim passes of all batches wait at a consumer, it is fitted, and they go on with the new weight: one pass suffices for
consumers that are called once in a batch, however many follow each other. A consumer that is called several times (in a
loop, or for two inputs) can be fitted only at the end of a pass, and what depends on it in the next one.

Where processes share the batches, they go from consumer to consumer together, and pool what they have gathered.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from graphprune.calibration.batches import not_finite
from graphprune.calibration.communicator import Communicator
from graphprune.reconstruction.call_recorder import CallRecorder, Consumer
from graphprune.reconstruction.call_watch import CallWatch, WatchedCall
from graphprune.reconstruction.fit_memory import regression_for
from graphprune.reconstruction.iterative_regression import IterativeRegression
from graphprune.reconstruction.linear_calls import CallKey, LinearCall
from graphprune.reconstruction.matching import Match
from graphprune.reconstruction.memory_bound import BYTES_OF_ENTRY, MemoryBound, WaitingTensors
from graphprune.reconstruction.passes import OtherCalls, run_batch
from graphprune.reconstruction.paused_forward import PausedForward
from graphprune.reconstruction.regression import BatchMoments, Regression
from graphprune.reconstruction.shared_draws import AveragedDraws, unlike
from graphprune.reconstruction.softmax_rows import SoftmaxRows
from graphprune.reconstruction.window_moments import window_moments
from graphprune.utils.deepcopy import copy_module
from graphprune.utils.modules import named_tensors
from graphprune.utils.operators import is_mutable
from graphprune.utils.random_state import RandomStream

WIDE_WEIGHT = 1024
"""Rows are kept for weights of so many channels; for others, their matrix of second moments is soon made."""


@dataclass(frozen=True)
class Target:
    """What a call of the slim model is fitted to.

    Attributes:
        result: the dense model's result, or the sum that it is added to. [n, outputs, m]
        state: the kept channels of the dense call's input, if the call is fitted on that.
        input: the dense call's input, by which its rows are told apart, until they are. [n, blocks, channels, m]
    """

    result: Tensor
    state: Tensor | None
    input: Tensor | None = None


Fit = Callable[["Gathered"], bool]
"""Fits a consumer to what was gathered; whether it has changed."""


@dataclass
class Gathered:
    """The data of one consumer.

    Attributes:
        match: the consumer and its counterpart in the dense model.
        memory: what bounds the regression.
        regression: of the residuals on the inputs.
        reserved: the bytes that it takes.
        rows_differ: in some batch the two calls had different numbers of rows.
        own_error: the sum of squares of the residuals on the slim model's own states, where dense ones are fitted on.
        met: how many calls were seen.
        passed: a batch went on before all batches had reached it.
    """

    match: Match
    memory: MemoryBound
    regression: Regression | IterativeRegression
    reserved: int
    rows_differ: bool = False
    own_error: float = 0.0
    met: int = 0
    passed: bool = False

    def add(self, batch: int, met: WatchedCall, wanted: Target | None) -> None:
        """Add the residuals of a call of the slim model.

        Args:
            batch: its number.
            wanted: what it is fitted to; None: the dense model has no such call.

        Raises:
            OtherCalls: its softmax has other rows than one that was recorded with another batch.
            InputError: the target is not finite.
        """
        self.met += 1
        whole, result = met.call, self.match.with_bias(met.call.result(met.out, self.match.bare))
        target = None if wanted is None else self._target(wanted, whole, result)
        state = None if wanted is None else wanted.state
        if target is None or target.shape != result.shape or (state is not None and state.shape != whole.x.shape):
            self.rows_differ = True
            return
        if state is not None:
            self._note_own(batch, met.number, whole, target - result)
            if self.match.on_own:
                self._add(batch, met.number, whole, result, target)
            whole, result = self._on_state(whole, result, state)
        self._add(batch, met.number, whole, result, target)
        if not math.isfinite(self.regression.target):
            raise not_finite(f"what {self.match.consumer.key.name} makes", batch)

    def _target(self, wanted: Target, call: LinearCall, result: Tensor) -> Tensor | None:
        """What a call is fitted to, of the rows that the call has. [n, blocks, outputs, m]"""
        target, choice = wanted.result, self.match.row_choice
        if choice is not None:
            if wanted.input is not None and not choice.made:
                choice.make(call, wanted.input)
            chosen = choice.select(target, (result.shape[0], result.shape[3]))
            if chosen is None:
                return None
            target = chosen
        unflattened: Tensor = target.unflatten(1, result.shape[1:3])
        return unflattened

    def _add(self, batch: int, number: int, whole: LinearCall, result: Tensor, target: Tensor) -> None:
        """Add the residuals of a call of this number in a batch."""
        residual = target - result
        if isinstance(self.regression, IterativeRegression):
            self.regression.add(whole, residual, target)
            return
        rows = self._score_rows(batch, number, whole)
        if rows is not None:
            self._add_scores(self.regression, rows, whole, residual, target)
            return
        for some, call in self._parts(whole):
            self._add_part(self.regression, call, residual[some], target[some])

    def _note_own(self, batch: int, number: int, whole: LinearCall, residual: Tensor) -> None:
        """Add the residuals of a call on the slim model's own states; of scores, those within each row of a softmax."""
        rows = self._score_rows(batch, number, whole)
        if rows is not None:
            residual = rows.centered(residual)
        self.own_error += float(residual.double().square().sum())

    def _score_rows(self, batch: int, number: int, call: LinearCall) -> SoftmaxRows | None:
        """The rows of a softmax within which results are compared; None: the results themselves are.

        Raises:
            OtherCalls: they are others than those of the call.
        """
        iterative = isinstance(self.regression, IterativeRegression)
        if self.match.scores is None or iterative or not self._whole_at_once(call):
            return None
        rows = self.match.scores[batch][number]
        ((_, x),) = call.inputs()
        if x.shape[0] * x.shape[3] != rows.count:
            raise OtherCalls
        return rows

    def _on_state(self, call: LinearCall, result: Tensor, state: Tensor) -> tuple[LinearCall, Tensor]:
        """The call on another input, and its result then, or the sum that it is added to."""
        other, factor = call.with_input(state), self.match.factors()[0].to(result)
        change = call.result(other.again()) - call.result(call.again())
        return other, result + change * factor.unsqueeze(-1)

    def _parts(self, call: LinearCall) -> Iterator[tuple[slice, LinearCall]]:
        """A convolution's call for as many samples at a time as the workspace is made for."""
        piece, samples = self.memory.piece, call.x.shape[0]
        if piece is None or call.matmul.kernel is None or not samples:
            yield slice(None), call
            return
        step = max(1, piece * samples // (call.x.numel() * call.taps))
        for start in range(0, samples, step):
            yield slice(start, start + step), call.of_samples(slice(start, start + step))

    def _add_part(self, regression: Regression, call: LinearCall, residual: Tensor, target: Tensor) -> None:
        if (moments := window_moments(call, residual, regression.spare)) is not None:
            regression.add(moments, target)
            return
        wide = call.matmul.kernel is None and self.match.consumer.shape[1] >= WIDE_WEIGHT
        for place, x in call.inputs(self.memory.piece):
            if wide:
                regression.add_rows(x, residual[place], target[place])
            else:
                regression.add(BatchMoments.of(x, residual[place], regression.spare), target[place])

    def _whole_at_once(self, call: LinearCall) -> bool:
        """Is the input as it is the rows of data, and is there room for all rows of the largest call together?"""
        piece = self.memory.piece
        return call.taps == 1 and (piece is None or self.match.consumer.largest <= piece * BYTES_OF_ENTRY)

    @staticmethod
    def _add_scores(
        regression: Regression, rows: SoftmaxRows, call: LinearCall, residual: Tensor, target: Tensor
    ) -> None:
        """Add how the rows of data differ within each row of a softmax."""
        ((_, x),) = call.inputs()
        x, residual, target = (rows.centered(t) for t in (x, residual, target))
        regression.add(BatchMoments.of(x, residual, regression.spare), target)

    def close(self) -> None:
        """Give the memory back."""
        self.memory.reserved -= self.reserved
        if isinstance(self.regression, IterativeRegression):
            self.regression.close()

    def pool(self, communicator: Communicator) -> None:
        """Pool the data of all processes."""
        self.rows_differ = any(communicator.gather(self.rows_differ))
        self.own_error = sum(communicator.gather(self.own_error))
        self.regression.pool(communicator)

    @property
    def unfit(self) -> str | None:
        """Why the consumer cannot be fitted; None if it can."""
        if self.rows_differ:
            return "other rows go through it than in the dense model"
        return None if self.regression.count else "no row goes through it"


@dataclass(frozen=True)
class Side:
    """The dense or the slim model.

    Attributes:
        models: the model for each batch: copies that share its tensors, since a forward pass may keep what it computes
            in its modules.
        recorded: the calls of its consumers.
        all_recorded: they were recorded with every batch, not with one of those of the same shapes.
    """

    models: Sequence[nn.Module]
    recorded: CallRecorder
    all_recorded: bool

    @staticmethod
    def of(model: nn.Module, recorded: CallRecorder, batches: int, all_recorded: bool) -> Side:
        tensors = {id(t): t for _, t in named_tensors(model)}
        copies = (copy_module(model, tensors) for _ in range(batches - 1))
        return Side([model, *copies], recorded, all_recorded)

    def forward(
        self,
        number: int,
        batch: Any,
        consumers: Iterable[Consumer],
        summed: set[CallKey],
        waiting: WaitingTensors,
        averaged: frozenset[int],
    ) -> tuple[PausedForward, list[CallWatch]]:
        """The pass of a batch, and its watch once it has begun.

        The pass ends with an OtherCalls if its calls are not those that were recorded with another batch.
        """
        watches: list[CallWatch] = []
        expected = None if self.all_recorded else {k: c.calls[number] for k, c in self.recorded.consumers.items()}

        def run(forward: PausedForward) -> None:
            draws = AveragedDraws(averaged)
            watches.append(CallWatch(self.recorded.memory, consumers, summed, forward, expected, waiting, draws))
            run_batch(self.models[number], number, batch, watches[0])
            forward.check()
            watches[0].check_end()

        return PausedForward(run, RandomStream(number) if self.recorded.draws else None), watches


class PairOfPasses:
    """The two models on one batch."""

    def __init__(
        self, number: int, batch: Any, dense: Side, slim: Side, matches: Sequence[Match], memory: MemoryBound
    ) -> None:
        self.number = number
        self._matches = matches
        self._memory = memory
        self._waiting = WaitingTensors(memory, memory.group())
        if self._waiting.group is not None:
            self._waiting.group.on_return = self._move
        summed = [m for m in matches if m.summed]
        averaged = unlike(dense.recorded.drawn[number], slim.recorded.drawn[number])
        self._dense, self._dense_watch = dense.forward(
            number, batch, [m.dense for m in matches], {m.dense.key for m in summed}, self._waiting, averaged
        )
        self._slim, self._slim_watch = slim.forward(
            number, batch, [m.consumer for m in matches], {m.consumer.key for m in summed}, self._waiting, averaged
        )
        self._targets: dict[tuple[CallKey, int], Target] = {}
        self.met: WatchedCall | None = None

    def advance(self) -> WatchedCall | None:
        """The next call of a consumer in the slim model; None at the end."""
        self._memory.use(self._waiting.group, running=True)
        self.met = self._slim_watch[0].met if self._slim.advance() else None
        return self.met

    def repeat(self) -> None:
        """Go on with the new weight of the consumer that the slim model waits at."""
        self._slim_watch[0].again = True

    def target(self, met: WatchedCall) -> Target | None:
        """The target of a call of the slim model; None if the dense model has no such call."""
        wanted = met.key, met.number
        while wanted not in self._targets and self._dense.advance():
            self._keep(self._dense_watch[0].met)
        return self._targets.pop(wanted, None)

    def _keep(self, met: WatchedCall | None) -> None:
        assert met is not None  # the pass waits
        for match in self._matches:
            if match.dense.key == met.key:
                result = self._waiting.added(match.target(met.call.result(met.out, match.bare)))
                state = None if match.columns is None else self._waiting.added(match.state(met.call))
                self._targets[match.consumer.key, met.number] = Target(result, state, self._input(match, met.call))

    def _input(self, match: Match, call: LinearCall) -> Tensor | None:
        """A copy of a dense call's input, where it is needed to choose among its rows."""
        if match.row_choice is None or match.row_choice.made:
            return None
        ((_, x),) = call.inputs()
        return self._waiting.added(x.clone())

    def _move(self, addresses: dict[int, int]) -> None:
        for watch in (*self._dense_watch, *self._slim_watch):
            watch.move(addresses)

    def close(self) -> None:
        self._slim.close()
        self._dense.close()
        self._memory.drop(self._waiting.group)


class Sweep:
    """One pass of both models over all batches.

    Args:
        batches: numbers and batches.
        matches: the consumers that are not fitted yet, in order of execution.
        fit: fits a consumer.
        memory: what bounds the tensors that wait, and the moments.
        communicator: the processes that share the batches; all have recorded the same calls.
    """

    def __init__(
        self,
        batches: Sequence[tuple[int, Any]],
        dense: Side,
        slim: Side,
        matches: Sequence[Match],
        fit: Fit,
        memory: MemoryBound,
        communicator: Communicator,
    ) -> None:
        self._memory = memory
        self._pairs = [PairOfPasses(number, batch, dense, slim, matches, memory) for number, batch in batches]
        self._matches = {m.consumer.key: m for m in matches}
        self._unfitted = sum(1 << m.consumer.number for m in matches)
        self._fit = fit
        self._communicator = communicator
        first = [m for m in matches if self._is_ready(m)] or matches[:1]
        self._ready = {m.consumer.key for m in first}
        self._gathered: dict[CallKey, Gathered | None] = {}

    def run(self) -> list[Match]:
        """Fit what can be fitted in one pass, and return what is left."""
        with warnings.catch_warnings(), ExitStack() as stack:  # passes may leave such a context in another order
            for pair in self._pairs:
                stack.callback(pair.close)
            stack.callback(self._close)
            for pair in self._pairs:
                self._advance(pair)
            while (number := self._next()) is not None:
                self._meet(next(m for m in self._matches.values() if m.consumer.number == number))
            for match in self._matches.values():
                if self._is_unfitted(match):
                    self._fit_late(match)
        return [m for m in self._matches.values() if self._is_unfitted(m)]

    def _next(self) -> int | None:
        """The number of the first consumer that passes wait at, in any process."""
        waiting = [self._matches[pair.met.key].consumer.number for pair in self._pairs if pair.met]
        found = self._communicator.gather(min(waiting, default=None))
        return min((number for number in found if number is not None), default=None)

    def _meet(self, match: Match) -> None:
        """Fit a consumer that passes wait at, if all of them have reached it, and go on."""
        key = match.consumer.key
        here = [pair for pair in self._pairs if pair.met and pair.met.key == key]
        one = self._gathering(key)
        complete = one is not None and not one.passed and one.met == sum(match.consumer.calls)
        complete = all(self._communicator.gather(complete))
        if one is not None:
            one.passed = not complete
        changed = complete and one is not None and self._fitted(one)
        for pair in here:
            if changed:
                pair.repeat()
            self._advance(pair)

    def _advance(self, pair: PairOfPasses) -> None:
        """Go on to the next consumer that is fitted where it is met."""
        while (met := pair.advance()) is not None:
            target, one = pair.target(met), self._gathering(met.key)
            if one is not None:
                one.add(pair.number, met, target)
                if _is_met_once(one.match.consumer):
                    return

    def _gathering(self, key: CallKey) -> Gathered | None:
        """The data of a consumer; None if it depends on others that are not fitted in this pass before."""
        if key not in self._gathered:
            match = self._matches[key]
            ready = key in self._ready or self._is_ready(match)
            found = regression_for(match.consumer, self._memory) if ready else None
            self._gathered[key] = None if found is None else Gathered(match, self._memory, *found)
            self._memory.reserved += 0 if found is None else found[1]
        return self._gathered[key]

    def _fitted(self, one: Gathered) -> bool:
        self._unfitted &= ~(1 << one.match.consumer.number)
        one.pool(self._communicator)
        changed = self._fit(one)
        self._gathered[one.match.consumer.key] = None
        one.close()
        return changed

    def _fit_late(self, match: Match) -> None:
        """Fit a consumer at the end of the pass, if it was gathered in all processes, or never called."""
        key = match.consumer.key
        one = self._gathering(key) if key in self._ready else self._gathered.get(key)
        if all(self._communicator.gather(one is not None)) and one is not None:
            self._fitted(one)

    def _close(self) -> None:
        for one in self._gathered.values():
            if one is not None:
                one.close()

    def _is_unfitted(self, match: Match) -> bool:
        return bool(self._unfitted >> match.consumer.number & 1)

    def _is_ready(self, match: Match) -> bool:
        return not match.after & self._unfitted & ~(1 << match.consumer.number)


def _is_met_once(consumer: Consumer) -> bool:
    """Whether a pass can wait at a consumer until it is fitted, and make its call again."""
    return max(consumer.calls) <= 1 and not is_mutable(consumer.first.op)
