"""Watch the calls of some consumers in a forward pass, and the residual sums that their results are added to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from graphprune.reconstruction.call_recorder import Consumer
from graphprune.reconstruction.executed_call import ExecutedCall
from graphprune.reconstruction.linear_calls import CallKey, LinearCall, ParameterMemory, linear_call
from graphprune.reconstruction.memory_bound import WaitingTensors
from graphprune.reconstruction.parameter_copies import ParameterCopies
from graphprune.reconstruction.passes import OtherCalls, StopForward
from graphprune.reconstruction.paused_forward import PausedForward
from graphprune.reconstruction.result_paths import OtherUse, ResidualSum, ResultPaths
from graphprune.reconstruction.shared_draws import AveragedDraws
from graphprune.utils.operators import Args, DispatchMode, Kwargs, is_mutable


@dataclass(frozen=True, eq=False)
class WatchedCall:
    """A call of a consumer at which a forward pass waits.

    Attributes:
        call: its operands.
        number: it is the consumer's call of this number in this pass.
        out: its result, or the residual sum in the order and shape of the result.
    """

    call: LinearCall
    number: int
    out: Tensor

    @property
    def key(self) -> CallKey:
        return self.call.key


class CallWatch(DispatchMode):
    """Pauses a forward pass after each call of some consumers, and ends it after the last of them.

    Where :attr:`again` is set during a pause, because the consumer's weight has changed, the pass goes on with what the
    call gives then.

    Args:
        memory: the memory of the model's parameters.
        consumers: the consumers.
        summed: the consumers for which the pass waits at their residual sums instead.
        forward: the pass.
        expected: how often the pass calls each of all consumers of the model, if that was recorded with another batch.
        waiting: gets to know the pass's tensors.
        draws: those that are replaced by their means.
    """

    def __init__(
        self,
        memory: ParameterMemory,
        consumers: Iterable[Consumer],
        summed: Set[CallKey],
        forward: PausedForward,
        expected: Mapping[CallKey, int] | None,
        waiting: WaitingTensors,
        draws: AveragedDraws,
    ) -> None:
        super().__init__()
        self.met: WatchedCall | None = None
        self.again = False
        self._parameters = ParameterCopies(memory)
        self._calls = {consumer.key: consumer.calls for consumer in consumers}
        self._names = frozenset(key.name for key in self._calls) if expected is None else memory.weights
        self._expected = expected
        self._last = {key: calls[0] for key, calls in self._calls.items() if len(set(calls)) == 1}
        self._summed = summed
        self._forward = forward
        self._waiting = waiting
        self._draws = draws
        self._paths = ResultPaths(memory)
        self._count: Counter[CallKey] = Counter()
        self._seen: Counter[CallKey] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Args = (), kwargs: Kwargs | None = None) -> Any:
        self._forward.check()
        kwargs = kwargs or {}
        self._waiting.recall(args, kwargs)
        met = linear_call(func, args, kwargs, self._parameters, self._names)
        if met is not None:
            self._count_call(met.key)
        before = self._before(func, args)
        out = self._draws.call(func, args, kwargs)
        call = ExecutedCall(func, args, kwargs, out)
        self._waiting.add_results(call)
        self._parameters.follow(call)
        if self._summed:
            out = self._follow(call, before)
        if met is not None and met.key in self._calls:
            out = self._record_call(met, out)
        if self._all_seen():
            raise StopForward
        return out

    def _count_call(self, key: CallKey) -> None:
        self._count[key] += 1
        if self._expected is not None and self._count[key] > self._expected.get(key, 0):
            raise OtherCalls

    def check_end(self) -> None:
        """Raise an OtherCalls if the pass, which is at its end, did not call all consumers as often as expected."""
        if self._expected is not None and any(self._count[key] < n for key, n in self._expected.items()):
            raise OtherCalls

    def _before(self, func: Any, args: Args) -> Tensor | None:
        """A copy of a tensor that a followed result is about to be added to in place."""
        if not (self._summed and is_mutable(func) and len(args) > 1 and self._paths.follows(args[1])):
            return None
        return self._waiting.added(args[0].clone()) if isinstance(args[0], Tensor) else None

    def _follow(self, call: ExecutedCall, before: Tensor | None) -> Any:
        out = call.out
        for end in self._paths.follow(call):
            self._paths.drop(end.token if isinstance(end, OtherUse) else end.path.token)
            if isinstance(end, ResidualSum):
                met, number = end.path.token
                if self._see(met, number, end.path.laid_out(end.total)):
                    out = self._summed_again(end, met, call, before)
        return out

    def _record_call(self, met: LinearCall, out: Tensor) -> Tensor:
        number = self._count[met.key] - 1
        if met.key in self._summed:
            met = met.copied()
            self._waiting.added(met.x)
            self._paths.start((met, number), out)
        elif self._see(met, number, out):
            return self._waiting.added(self._again(met))
        return out

    def _again(self, met: LinearCall) -> Tensor:
        """What a call gives with the consumer's weight of now."""
        self._parameters.renew(met)
        return met.again()

    def _see(self, met: LinearCall, number: int, out: Tensor) -> bool:
        """Wait; whether the consumer has another weight now."""
        self._seen[met.key] += 1
        self.met, self.again = WatchedCall(met, number, out), False
        self._forward.wait()
        self.met = None
        return self.again

    def _summed_again(self, end: ResidualSum, met: LinearCall, call: ExecutedCall, before: Tensor | None) -> Tensor:
        """The residual sum with the consumer's weight of now."""
        added = end.path.replay(self._again(met))
        operands = [added if i == end.position else a for i, a in enumerate(call.args)]
        if before is not None:
            operands[0] = before
        total: Tensor = call.func(*operands, **call.kwargs)
        return call.args[0].copy_(total) if call.is_mutable else self._waiting.added(total)

    def move(self, addresses: Mapping[int, int]) -> None:
        """Storages of the pass have new addresses, given by the old ones."""
        self._paths.move(addresses)

    def _all_seen(self) -> bool:
        """Whether all consumers have been called as often as in every recorded batch."""
        if self._expected is not None:
            return False
        return len(self._last) == len(self._calls) and all(self._seen[key] >= n for key, n in self._last.items())
