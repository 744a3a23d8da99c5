"""How far to go in an order of removal so that all budgets are met.

A budget says how far to go, which is found by bisection on the cost function, without building a model. Prices depend
on what is gone already, so the order is recomputed a few times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from graphprune.graph.living import Living
from graphprune.graph.solve import Solution
from graphprune.planning.removal_order import RemovalOrder
from graphprune.planning.removal_paths import RemovalState
from graphprune.utils.arrays import Ids, Mask, Scores

ROUNDS = 4
"""How often the order is recomputed, at most."""
REFINEMENTS = 12
"""How many steps that are too long are passed over at most, and how many are taken instead of earlier ones."""
CLOSE = 0.002
"""A budget is used up when less than this fraction of it is left."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What a search works on. ``costs(living)`` and ``budgets`` are [budgets].

    ``prices(alive, items)`` tells what the units of these items cost. [budgets, classes]

    ``fixed`` are units that are gone whatever the search does.
    """

    solution: Solution
    state: RemovalState
    costs: Callable[[Living], Scores]
    prices: Callable[[Mask, Mask], Scores]
    budgets: Scores
    fixed: Ids

    @cached_property
    def _fixed(self) -> Ids:
        """How many units of each item are gone whatever the search does. [items]"""
        items = self.solution.items
        return np.bincount(items.item_of(self.fixed), minlength=len(items.size))

    def living(self, passed: Ids) -> Living:
        """What lives after these stops."""
        gone = self._fixed + self.state.gone(passed)
        return Living(self.solution, gone, lambda: np.concatenate([self.fixed, self.state.removed(passed)]))

    def fits(self, passed: Ids) -> bool:
        return bool((self.costs(self.living(passed)) <= self.budgets).all())

    def slack(self, passed: Ids) -> float:
        """The fraction that is left of the tightest budget."""
        return float((1 - self.costs(self.living(passed)) / self.budgets).min())

    def price(self, alive: Mask, weights: Scores) -> Iterator[Scores]:
        """For each path, what each of its units takes of the budgets, weighted. [units] each"""
        share, each = weights / self.budgets, self.prices(alive, self.state.items)
        if len(share) > 1:
            share, each = np.ones(1), (share @ each)[None]
        return (share[0] * each[0, path.unit_ids] for path in self.state.paths)

    def order(self, priority: Iterable[Scores]) -> RemovalOrder:
        """All stops in the order of removal."""
        return RemovalOrder.of(priority, self.state.lengths)


PriorityAt = Callable[[list[Scores]], Iterable[Scores]]
Known = Callable[[], Iterable[Scores]]


def search(problem: Problem, priority_at: PriorityAt, known: Known | None = None) -> Ids | None:
    """How far to go on every path so that all budgets are met and little is lost; None: they are out of reach.

    ``priority_at(prices)`` orders the stops, given what each unit of each path costs. Where several budgets bind, the
    tighter one gets more weight from round to round. A ``known`` priority is tried too where an order is to lose as
    little as it can: prices are slopes, and may mislead. Other orders are kept as even as they are.
    """
    weights = np.full(len(problem.budgets), 1 / len(problem.budgets))
    prices = list(problem.price(problem.living(np.zeros_like(problem.state.lengths)).alive, weights))
    best = _candidate(problem, problem.order(known())) if known is not None else None
    least = np.inf
    for _ in range(ROUNDS):
        last = _candidate(problem, problem.order(priority_at(prices)))
        if last is None or last.lost >= least:
            break
        least, living = last.lost, problem.living(last.order.after(last.count))
        best = last if best is None or last.lost < best.lost else best
        del last  # its order is as large as all prices
        weights = _tightened(weights, problem.costs(living) / problem.budgets)
        for price, other in zip(prices, problem.price(living.alive, weights / weights.sum()), strict=True):
            price += other
            price /= 2
    if best is None:
        return None
    return _used_up(problem, best, problem.state.lost if known else best.order.unevenness)


def _tightened(weights: Scores, spent: Scores) -> Scores:
    """Weights of budgets, larger for those of which more is spent; the same where next to nothing is."""
    found: Scores = weights * np.square(spent)
    return found if found.any() else weights


@dataclass(frozen=True, eq=False)
class Candidate:
    """An order of stops, how many of them meet all budgets, and what is lost by then."""

    order: RemovalOrder
    count: int
    lost: float


def _candidate(problem: Problem, order: RemovalOrder) -> Candidate | None:
    count = first_that_fits(problem, order, 0)
    return None if count is None else Candidate(order, count, problem.state.lost(order.after(count)))


def first_that_fits(problem: Problem, order: RemovalOrder, start: int) -> int | None:
    """The first place in an order, from ``start`` on, at which every budget is met; None: there is none."""
    low, high = start - 1, len(order)
    if not problem.fits(order.after(high)):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if problem.fits(order.after(middle)):
            high = middle
        else:
            low = middle
    return high


def _used_up(problem: Problem, first: Candidate, worse: Callable[[Ids], float]) -> Ids:
    """The place nearest to the budgets, among the first that meets them and those around it that are no ``worse``."""
    best = first.order.after(first.count)
    slack, most = problem.slack(best), worse(best)
    for passed in _nearer(problem, first):
        if slack < CLOSE:
            break
        if problem.slack(passed) < slack and worse(passed) <= most:
            best, slack = passed, problem.slack(passed)
    return best


def _nearer(problem: Problem, first: Candidate) -> Iterator[Ids]:
    """Places around a step that is too long: it is passed over for later ones, or taken instead of earlier ones.

    What is passed over, or taken, once stays so.
    """
    for change in (RemovalOrder.without, RemovalOrder.beginning_with):
        order, count = first.order, first.count
        for _ in range(REFINEMENTS):
            if not count:
                break
            order = change(order, order.path_of(count - 1), count - 1)
            found = first_that_fits(problem, order, 0)
            if found is None:
                break
            count = found
            yield order.after(count)
