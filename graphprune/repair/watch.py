"""Watch a pair of runs, the dense model's and the slim one's, and gather what consumers' outputs lack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from graphprune.nested import tensors_of
from graphprune.repair.calls import Contact, Key, contact
from graphprune.repair.matching import Match
from graphprune.repair.memory import Memory
from graphprune.repair.passes import Enough
from graphprune.repair.regression import Regression
from graphprune.repair.sums import Sum, Ways
from graphprune.repair.survey import Site


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


class Watch(TorchDispatchMode):
    """Sees the calls of some consumers, and ends the run after the last of them.

    Args:
        memory: the model's.
        sites: the consumers.
        summed: those of which not the results are to be seen, but the sums that these go into.
    """

    def __init__(self, memory: Memory, sites: Iterable[Site], summed: Set[Key]) -> None:
        super().__init__()
        self._memory = memory
        self._calls = {site.key: site.calls for site in sites}
        self._names = frozenset(key.name for key in self._calls)
        self._last = {key: calls[0] for key, calls in self._calls.items() if len(set(calls)) == 1}
        self._summed = summed
        self._ways = Ways(memory)
        self._count: Counter[Key] = Counter()
        self._seen: Counter[Key] = Counter()

    def __enter__(self) -> Watch:
        self._count.clear()
        self._seen.clear()
        self._ways.clear()
        super().__enter__()
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        met = contact(func, args, kwargs, self._memory, self._names)
        out = func(*args, **kwargs)
        if self._summed:
            self._follow(func, args, kwargs, out)
        if met is not None and met.key in self._calls:
            self._meet(met, out)
        if self._all_seen():
            raise Enough
        return out

    def _follow(self, func: Any, args: tuple, kwargs: dict, out: Any) -> None:
        operands = [*tensors_of(args), *tensors_of(kwargs)]
        for end in self._ways.follow(func, args, kwargs, operands, list(tensors_of(out))):
            if isinstance(end, Sum):
                met, number = end.way.token
                self._see(met, number, end.way.laid_out(end.total))

    def _meet(self, met: Contact, out: Tensor) -> None:
        number = self._count[met.key]
        self._count[met.key] += 1
        if met.key in self._summed:
            self._ways.start((self.kept(met), number), out)
        else:
            self._see(met, number, out)

    def _see(self, met: Contact, number: int, out: Tensor) -> None:
        self._seen[met.key] += 1
        self.see(met, number, out)

    def _all_seen(self) -> bool:
        """Every batch of the survey called every consumer as often as this one has."""
        return len(self._last) == len(self._calls) and all(self._seen[key] >= n for key, n in self._last.items())

    def see(self, met: Contact, number: int, out: Tensor) -> None:
        """One call of a consumer, its ``number``-th of this run, and what it returned or the sum of that."""
        raise NotImplementedError

    def kept(self, met: Contact) -> Contact:
        """What is needed of a call until the sum is seen."""
        return met.light()


class Targets(Watch):
    """Keeps what the dense model's calls return."""

    def __init__(self, memory: Memory, gathered: Iterable[Gathered]) -> None:
        self._gathered = list(gathered)
        summed = {g.match.dense.key for g in self._gathered if g.match.summed}
        super().__init__(memory, [g.match.dense for g in self._gathered], summed)

    def see(self, met: Contact, number: int, out: Tensor) -> None:
        for one in self._gathered:
            if one.match.dense.key == met.key:
                one.targets[number] = one.match.target(met.result(out, one.match.bare))


class Residuals(Watch):
    """Counts in what the slim model's calls lack."""

    def __init__(self, memory: Memory, gathered: Mapping[Key, Gathered]) -> None:
        self._gathered = gathered
        summed = {key for key, g in gathered.items() if g.match.summed}
        super().__init__(memory, [g.match.site for g in gathered.values()], summed)

    def kept(self, met: Contact) -> Contact:
        return met.copied()

    def see(self, met: Contact, number: int, out: Tensor) -> None:
        one = self._gathered[met.key]
        result = met.result(out, one.match.bare)
        target = one.targets[number].view(-1, *result.shape[1:]) if number in one.targets else None
        if target is None or target.shape != result.shape:
            one.rows_differ = True
            return
        for piece, x in met.inputs():
            one.regression.add(x, target[piece] - result[piece], target[piece])
