"""Candidates of any depth: which branches and blocks are left out, besides how much goes of each group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import floor, inf

import numpy as np

from graphprune.evolution.candidates import Allotment, Space
from graphprune.planning.allocations import ALLOCATIONS
from graphprune.planning.depth_units import DepthUnits
from graphprune.planning.setup import PlanSetup, no_block
from graphprune.pruning.plan import Plan
from graphprune.utils.arrays import Scores

MOVED = 0.3
"""So often a candidate leaves out something else than its parent; otherwise width is exchanged."""
SPACES = 32
"""For so many choices of what is left out, at most, it is remembered what the rest costs."""


@dataclass(eq=False)
class Depth:
    """What can be left out whole, and how much of it at most.

    Attributes:
        units: the residual branches and blocks.
        most: so many may go.
        harm: the loss without each of them alone. [units]
    """

    units: DepthUnits
    most: int
    harm: Scores = field(default_factory=lambda: np.zeros(0))

    @staticmethod
    def of(setup: PlanSetup) -> Depth:
        """What is asked for.

        Raises:
            PlanError: nothing can be left out.
        """
        share = setup.options.depth
        if not share:
            return Depth(DepthUnits(), 0)
        units = DepthUnits.of(setup.graph, setup.frozen_parts)
        if not len(units):
            raise no_block(setup.graph, setup.options, setup.frozen_parts)
        return Depth(units, floor(share * len(units) + 1e-9))

    @cached_property
    def ranks(self) -> Scores:
        """The place of each unit by the harm that it does. [units]"""
        found: Scores = self.harm.argsort(kind="stable").argsort().astype(float)
        return found

    def moved(self, gone: frozenset[int], rng: np.random.Generator) -> frozenset[int]:
        """One unit more is left out, one less, or another one instead; those that do little harm rather than others."""
        there = np.array([n for n in range(len(self.units)) if n not in gone])
        more = len(there) > 0 and (not gone or rng.random() < 0.67)
        less = len(gone) > 0 and (len(gone) >= self.most or not more or rng.random() < 0.33)
        found = gone
        if less:
            found -= {int(rng.choice(sorted(gone)))}
        if more:
            weights = 1 / (1 + self.ranks[there])
            found |= {int(rng.choice(there, p=weights / weights.sum()))}
        return found


@dataclass(eq=False)
class Candidates:
    """All candidates of one request.

    Attributes:
        width: those in which nothing is left out whole.
        depth: what can be.
    """

    width: Space
    depth: Depth
    _spaces: dict[frozenset[int], Space | None] = field(default_factory=dict)

    def at(self, gone: frozenset[int]) -> Space | None:
        """The candidates without these units; None: the rest of the model does not run as before."""
        if not gone:
            return self.width
        if gone not in self._spaces:
            while len(self._spaces) >= SPACES:
                del self._spaces[next(iter(self._spaces))]
            self._spaces[gone] = self._made(gone)
        return self._spaces[gone]

    def _made(self, gone: frozenset[int]) -> Space | None:
        setup = self.width.setup
        for whole in (True, False):
            left = self.depth.units.left_out(gone, whole)
            if len(gone) == 1 or left.runs_in(setup.graph):  # each alone is known to run
                return self.width.without(replace(setup, skipped=left.skipped, zeroed=left.zeroed))
        return None

    def choice(self, candidate: Allotment) -> Plan | None:
        """As :meth:`graphprune.evolution.candidates.Space.choice`."""
        space = self.at(candidate.gone)
        return None if space is None else space.choice(candidate)

    def lost(self, candidate: Allotment) -> float:
        """As :meth:`graphprune.evolution.candidates.Space.lost`; infinite: the rest does not run."""
        space = self.at(candidate.gone)
        return inf if space is None else space.lost(candidate)

    def plan(self, candidate: Allotment) -> Plan | None:
        """As :meth:`graphprune.evolution.candidates.Space.plan`."""
        space = self.at(candidate.gone)
        return None if space is None else space.plan(candidate)

    def exchanged(self, parent: Allotment, step: float, rng: np.random.Generator) -> Allotment:
        """A candidate near another one: with other widths, or without another unit and widths in proportion."""
        space = self.at(parent.gone)
        assert space is not None  # a candidate that was tried has one
        if not self.depth.most or rng.random() >= MOVED:
            return space.exchanged(parent, step, rng)
        gone = self.depth.moved(parent.gone, rng)
        other = self.at(gone)
        return parent if other is None else other.in_proportion(parent, gone, rng) or parent

    # ------------------------------------------------------------ starts

    def whole(self, gone: frozenset[int]) -> Allotment:
        """The candidate that keeps all width of what is there; it may be beyond the budgets."""
        return Allotment(np.zeros_like(self.width.problem.state.lengths), gone)

    def shallow(self) -> Iterator[Allotment]:
        """Without the units that do the least harm: one, two, four, ... of them; the rest is shared out at once."""
        order = self.depth.harm.argsort(kind="stable").tolist()
        counts = sorted({*(2**i for i in range(self.depth.most.bit_length())), self.depth.most} - {0})
        for gone in (frozenset(order[:count]) for count in counts):
            space = self.at(gone)
            passed = None if space is None else space.by_allocation(ALLOCATIONS["global"])
            if passed is not None:
                yield Allotment(passed, gone)
