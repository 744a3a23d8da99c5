"""In which order channels go, and where to stop.

Every allocation is an order of removal: *uniform* takes the same fraction of every group, *global* the channels with
the least importance for what they cost. A budget says how far to go in that order, which is found by bisection on the
cost function, without building a model. Prices depend on what is gone already, so the order is made anew a few times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from graphprune.graph.coupled_steps import CoupledStep
from graphprune.graph.solve import Solution
from graphprune.utils.arrays import Ids, Mask, Scores

ROUNDS = 4


REFINEMENTS = 12


CLOSE = 0.002
"""A budget is used up when less than this fraction of it is left."""


@dataclass(frozen=True, eq=False)
class RemovalPath:
    """The stations of one bundle on its way down.

    Attributes:
        bundle: the units.
        stops: the numbers of steps after which a pause is allowed, increasing. [stations]
        unit_ids: the units that go by the last station. [units]
        station: at which station each of them goes. [units]
        scores: the mean score of the units that go at each station. [stations]
        lost: what is lost between the station before and each station, see :func:`make_track`. [stations]
        gone: the mean fraction of the bundle's parts that is gone at each station. [stations]
    """

    bundle: CoupledStep
    stops: Ids
    unit_ids: Ids
    station: Ids
    scores: Scores
    lost: Scores
    gone: Scores


def make_path(bundle: CoupledStep, stops: Ids, scores: Sequence[Scores], layers: Sequence[int]) -> RemovalPath:
    """The way down of one bundle.

    What is lost grows as the importance that is kept shrinks: with the share ``r`` kept, every layer that a part runs
    through has lost ``mean score * (1 / r**2 - 1)``. A plain sum of scores would empty the groups that are dearest;
    weighted by layers, so that the width of a residual stream counts in every block, this was as good as uniform
    pruning or better on trained networks (see docs/design.md).

    Args:
        stops: without 0.
        scores: of the units of each part, which go in this order.
        layers: the number of layers that each part runs through.
    """
    count = len(stops)
    units, station, total = [], [], np.zeros(count)
    lost, gone = np.zeros(count), np.zeros(count)
    for part, each, values, number in zip(bundle.parts, bundle.each, scores, layers, strict=True):
        order = np.argsort(values, kind="stable")
        going = order[: each * int(stops[-1])] if count else order[:0]
        at = np.searchsorted(stops, np.arange(len(going)) // each + 1)
        units.append(part.unit_ids[going])
        station.append(at)
        total += np.bincount(at, values[going], count)
        lost += number * _losses(values, going, at, count)
        gone += each * stops / len(part.unit_ids) / len(bundle.parts)
    where = np.concatenate(station)
    mean = total / np.maximum(np.bincount(where, minlength=count), 1)
    return RemovalPath(bundle, stops, np.concatenate(units), where, mean, lost, gone)


def _losses(values: Scores, going: Ids, station: Ids, count: int) -> Scores:
    """``mean * (1 / r**2)`` from station to station, where the units ``going`` go at theirs."""
    values = values - min(values.min(), 0.0)
    removed = np.bincount(station, values[going], count)
    whole = max(float(values.sum()), np.finfo(float).tiny)
    share = np.maximum(1 - np.cumsum(removed) / whole, 1e-6)
    worth = float(values.mean()) / np.square(np.concatenate([[1.0], share]))
    return np.diff(worth)


class RemovalState:
    """All tracks of a model laid end to end. Where things stand is ``passed`` [tracks]: the stations behind each."""

    def __init__(self, tracks: Sequence[RemovalPath]) -> None:
        self.tracks = tracks
        self.lengths = np.array([len(t.stops) for t in tracks], np.int64)
        empty = np.zeros(0, np.int64)
        self._units = np.concatenate([empty, *(t.unit_ids for t in tracks)])
        self._station = np.concatenate([empty, *(t.station for t in tracks)])
        self._track = np.repeat(np.arange(len(tracks)), [len(t.unit_ids) for t in tracks])
        self._lost = [np.concatenate([[0.0], np.cumsum(t.lost)]) for t in tracks]

    def removed(self, passed: Ids) -> Ids:
        """The units that are gone."""
        return self._units[self._station < passed[self._track]]

    def lost(self, passed: Ids) -> float:
        """The importance that is gone."""
        return float(sum(lost[n] for lost, n in zip(self._lost, passed.tolist(), strict=True)))

    def order(self, keys: Sequence[Scores]) -> Ids:
        """The track of every station in the order of removal; stations of one track keep their own order.

        ``keys[t]`` says how early each station of track ``t`` comes.
        """
        rising = np.concatenate([np.zeros(0), *(np.maximum.accumulate(k) for k in keys if len(k))])
        track: Ids = np.repeat(np.arange(len(self.tracks)), self.lengths)
        return track[np.argsort(rising, kind="stable")]

    def after(self, order: Ids, count: int) -> Ids:
        """Where things stand after the first ``count`` stations of an order."""
        return np.bincount(order[:count], minlength=len(self.tracks))


@dataclass(frozen=True, eq=False)
class Problem:
    """What a search works on. ``costs(alive)`` and ``budgets`` are [budgets], ``prices(alive)`` [budgets, classes].

    ``fixed`` are units that are gone whatever the search does.
    """

    solution: Solution
    network: RemovalState
    costs: Callable[[Mask], Scores]
    prices: Callable[[Mask], Scores]
    budgets: Scores
    fixed: Ids

    def alive(self, passed: Ids) -> Mask:
        return self.solution.alive(np.concatenate([self.fixed, self.network.removed(passed)]))

    def fits(self, passed: Ids) -> bool:
        return bool((self.costs(self.alive(passed)) <= self.budgets).all())

    def slack(self, passed: Ids) -> float:
        """The fraction that is left of the tightest budget."""
        return float((1 - self.costs(self.alive(passed)) / self.budgets).min())

    def price(self, alive: Mask, weights: Scores) -> Scores:
        """What one unit takes of the budgets, weighted. [classes]"""
        found: Scores = (weights / self.budgets) @ self.prices(alive)
        return found


PriorityAt = Callable[[Scores], list[Scores]]


def search(problem: Problem, keys_at: PriorityAt, known: Sequence[Scores] | None = None) -> Ids | None:
    """How far to go on every track so that all budgets are met and little is lost; None: they are out of reach.

    ``keys_at(price)`` orders the stations, given what each unit costs. Where several budgets bind, the tighter one
    gets more weight from round to round. ``known`` keys are tried too: prices are slopes, and may mislead.
    """
    weights = np.full(len(problem.budgets), 1 / len(problem.budgets))
    price = problem.price(problem.alive(np.zeros_like(problem.network.lengths)), weights)
    even = _candidate(problem, known) if known is not None else None
    found = [even] if even else []
    least = np.inf
    for _ in range(ROUNDS):
        last = _candidate(problem, keys_at(price))
        if last is None or last.lost >= least:
            break
        least = last.lost
        found.append(last)
        alive = problem.alive(problem.network.after(last.order, last.count))
        weights = weights * np.square(problem.costs(alive) / problem.budgets)
        price = (price + problem.price(alive, weights / weights.sum())) / 2
    best = min(found, key=lambda candidate: candidate.lost, default=None)
    return _used_up(problem, best.order, best.count) if best else None


@dataclass(frozen=True, eq=False)
class Candidate:
    """An order of stations, how many of them meet all budgets, and what is lost by then."""

    order: Ids
    count: int
    lost: float


def _candidate(problem: Problem, keys: Sequence[Scores]) -> Candidate | None:
    order = problem.network.order(keys)
    count = _first_that_fits(problem, order, 0)
    if count is None:
        return None
    return Candidate(order, count, problem.network.lost(problem.network.after(order, count)))


def _first_that_fits(problem: Problem, order: Ids, start: int) -> int | None:
    """The first place in an order, from ``start`` on, at which every budget is met; None: there is none."""
    low, high = start - 1, len(order)
    if not problem.fits(problem.network.after(order, high)):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if problem.fits(problem.network.after(order, middle)):
            high = middle
        else:
            low = middle
    return high


def _used_up(problem: Problem, order: Ids, count: int) -> Ids:
    """Come nearer to the budgets: a step too long is not taken, and shorter ones that come later are.

    What is passed over once stays where it is; the nearest place seen is the answer.
    """
    best = problem.network.after(order, count)
    slack = problem.slack(best)
    for _ in range(REFINEMENTS):
        if slack < CLOSE or not count:
            break
        long = order[count - 1]
        rest = order[count - 1 :]
        order = np.concatenate([order[: count - 1], rest[rest != long]])
        found = _first_that_fits(problem, order, count - 1)
        if found is None:
            break
        count = found
        passed = problem.network.after(order, count)
        if problem.slack(passed) < slack:
            best, slack = passed, problem.slack(passed)
    return best


def uniform_priority(tracks: Sequence[RemovalPath]) -> list[Scores]:
    """The same fraction of every group."""
    return [t.gone for t in tracks]


def cost_aware_priority(tracks: Sequence[RemovalPath], price: Scores) -> list[Scores]:
    """Importance lost for every unit of cost saved. ``price`` [classes] is the cost of one unit."""
    keys = []
    for track in tracks:
        saved = np.bincount(track.station, price[track.unit_ids], len(track.stops))
        keys.append(track.lost / np.maximum(saved, 1e-15))
    return keys


def sensitivity_priority(tracks: Sequence[RemovalPath], rises: Sequence[Scores], price: Scores) -> list[Scores]:
    """The rise of a measured loss for every unit of cost saved. ``rises`` [stations] are counted from the dense model.

    Where nothing was seen to rise, importance decides.
    """
    keys = []
    for track, rise in zip(tracks, rises, strict=True):
        saved = np.bincount(track.station, price[track.unit_ids], len(track.stops))
        each = np.diff(rise, prepend=0.0) + 1e-6 * track.lost
        keys.append(each / np.maximum(saved, 1e-15))
    return keys


def isomorphic_priority(tracks: Sequence[RemovalPath], structures: Sequence[object]) -> list[Scores]:
    """One ranking among all groups of equal structure, and the same fraction of every structure.

    Source: Fang et al., "Isomorphic Pruning for Vision Models", ECCV 2024.
    """
    keys: list[Scores] = [t.scores for t in tracks]
    for structure in set(structures):
        mine = [i for i, s in enumerate(structures) if s == structure]
        each = [np.maximum.accumulate(tracks[i].scores) for i in mine]
        ranks = np.argsort(np.argsort(np.concatenate(each), kind="stable")) / max(sum(map(len, each)), 1)
        for i, key in zip(mine, np.split(ranks, np.cumsum([len(e) for e in each])[:-1]), strict=True):
            keys[i] = key
    return keys
