"""Watch a pair of runs, the dense model's and the slim one's, and gather what consumers' outputs lack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from graphprune.repair.calls import Contact, Key, contact
from graphprune.repair.matching import Match
from graphprune.repair.memory import Memory
from graphprune.repair.passes import Enough
from graphprune.repair.regression import Regression
from graphprune.repair.survey import Site


@dataclass
class Gathered:
    """What a pass gathers of one consumer.

    Attributes:
        targets: what the dense calls of the current batch returned, in the rows that the slim ones have.
        regression: of the residuals on the inputs.
        rows_differ: in some batch the two calls had different numbers of rows.
    """

    match: Match
    targets: list[Tensor] = field(default_factory=list)
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
    """

    def __init__(self, memory: Memory, sites: Iterable[Site]) -> None:
        super().__init__()
        self._memory = memory
        self._calls = {site.key: site.calls for site in sites}
        self._names = frozenset(key.name for key in self._calls)
        self._last = {key: calls[0] for key, calls in self._calls.items() if len(set(calls)) == 1}
        self._count: Counter[Key] = Counter()

    def __enter__(self) -> Watch:
        self._count.clear()
        super().__enter__()
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        met = contact(func, args, kwargs, self._memory, self._names)
        out = func(*args, **kwargs)
        if met is not None and met.key in self._calls:
            self.see(met, self._count[met.key], out)
            self._count[met.key] += 1
            if self._all_seen():
                raise Enough
        return out

    def _all_seen(self) -> bool:
        """Every batch of the survey called every consumer as often as this one has."""
        return len(self._last) == len(self._calls) and all(self._count[key] >= n for key, n in self._last.items())

    def see(self, met: Contact, number: int, out: Tensor) -> None:
        """One call of a consumer, its ``number``-th of this run."""
        raise NotImplementedError


class Targets(Watch):
    """Keeps what the dense model's calls return."""

    def __init__(self, memory: Memory, gathered: Iterable[Gathered]) -> None:
        self._gathered = list(gathered)
        super().__init__(memory, [g.match.dense for g in self._gathered])

    def see(self, met: Contact, number: int, out: Tensor) -> None:
        for one in self._gathered:
            if one.match.dense.key == met.key:
                rows = one.match.rows.to(out.device)
                one.targets.append(met.result(out, one.match.bare).flatten(1, 2).index_select(1, rows))


class Residuals(Watch):
    """Counts in what the slim model's calls lack."""

    def __init__(self, memory: Memory, gathered: Mapping[Key, Gathered]) -> None:
        self._gathered = gathered
        super().__init__(memory, [g.match.site for g in gathered.values()])

    def see(self, met: Contact, number: int, out: Tensor) -> None:
        one = self._gathered[met.key]
        result = met.result(out, one.match.bare)
        target = one.targets[number].view(-1, *result.shape[1:]) if number < len(one.targets) else None
        if target is None or target.shape != result.shape:
            one.rows_differ = True
            return
        for piece, x in met.inputs():
            one.regression.add(x, target[piece] - result[piece], target[piece])
