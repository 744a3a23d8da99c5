"""Which calls of the dense model a consumer of the slim model is to agree with, and in which of their outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphprune.plan import Plan
from graphprune.repair.calls import Key
from graphprune.repair.memory import numbers
from graphprune.repair.sources import output_rows
from graphprune.repair.survey import Site, Survey
from graphprune.repair.takers import Taker

SMALL = 1e-3
"""Outputs that are multiplied with less than this fraction of the largest factor are not fitted."""


@dataclass(frozen=True, eq=False)
class Match:
    """A consumer of the slim model and what it is repaired against.

    Attributes:
        site: the consumer.
        dense: the dense model's consumer; the j-th call of the one is compared with the j-th of the other.
        rows: of the dense call's outputs (of all blocks, in order), those that the slim call has. [outputs]
        taker: the bias or running mean that takes an intercept, if there is one.
        bare: one of the two models adds the bias afterwards, so results are compared without it.
        mixing: which combinations of those outputs are wanted instead. [outputs, outputs of the dense call]
        summed: what is compared are the sums that the results go into.
    """

    site: Site
    dense: Site
    rows: Tensor
    taker: Taker | None
    bare: bool
    mixing: Tensor | None
    summed: bool

    @property
    def after(self) -> int:
        """The consumers that are to be fitted before, as a set of bits."""
        return self.site.after | self.site.beside if self.summed else self.site.after

    def factors(self) -> tuple[Tensor, Tensor]:
        """What outputs are multiplied with before they are compared, and the inverse. [blocks, outputs] each

        The inverse of what is nearly nothing is 0: no weight has to grow a thousandfold for what hardly counts.
        """
        factor = self.site.factor if self.summed else None
        if factor is None:
            blocks, _, outputs = self.site.first.places().shape
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

    def __init__(self, slim: Survey, dense: Survey, plan: Plan, targets: Mapping[str, Tensor]) -> None:
        self.slim = slim
        self.dense = dense
        self.plan = plan
        self.targets = targets
        self._crossed = _crossed(slim.sites)

    def match(self, site: Site) -> Match | str:
        """The match of a consumer, or why it is left alone."""
        reason = self._unfit(site)
        if reason:
            return reason
        found = [
            (other, rows) for other in self._others(site) for rows in [self._rows(site, other)] if rows is not None
        ]
        if not found:
            return "no call of the dense model has all of its entries"
        other, rows = next(((o, r) for o, r in found if o.calls == site.calls), found[0])
        if other.calls != site.calls:
            return f"called {sum(site.calls)} times, in the dense model {sum(other.calls)} times"
        mixing = self._mixing(site, other)
        summed = site.summed and other.summed and mixing is None
        bare = site.adds != other.adds and not summed
        if bare and any(taker is None or taker.sign < 0 for taker in (*site.takers, *other.takers)):
            return "what is added to its product is not the same parameter in both models"
        return Match(site, other, rows, self._taker(site), bare, mixing, summed)

    def _unfit(self, site: Site) -> str | None:
        use = self.slim.other_uses.get(site.key.name)
        if use is not None:
            return f"also used by {use}"
        if site.first.form.result is None:
            return "each part of its rows has a weight of its own"
        if site.scaled:
            return "its product is multiplied by a factor"
        if site.key.name in self._crossed:
            return "used in several overlapping parts"
        return None

    def _others(self, site: Site) -> list[Site]:
        return [
            other for key, other in self.dense.sites.items() if key.name == site.key.name and other.first.form.result
        ]

    def _rows(self, site: Site, other: Site) -> Tensor | None:
        """The outputs of a dense call whose entries a slim one has; None where it does not have them all."""
        name = site.key.name
        kept = [(dim, torch.from_numpy(np.ascontiguousarray(i))) for dim, i in self.plan.kept.get(name, {}).items()]
        whole, dense = self.slim.memory.whole(name), self.dense.memory.whole(name)
        wanted = numbers(whole, dense, kept)[site.first.places()]
        places = other.first.places()
        blocks, _, outputs = places.shape
        row = torch.full((dense.span,), -1)
        row[places] = torch.arange(blocks * outputs).view(blocks, 1, outputs).expand(places.shape)
        rows = row[wanted]
        return rows[:, 0].flatten() if bool(((rows == rows[:, :1]) & (rows >= 0)).all()) else None

    def _mixing(self, site: Site, other: Site) -> Tensor | None:
        """The combinations that are wanted of the outputs of a dense call. [slim outputs, dense outputs]"""
        name = site.key.name
        if name not in self.targets:
            return None
        mine = output_rows(self.slim.memory.whole(name), site.first.places()[0])
        theirs = output_rows(self.dense.memory.whole(name), other.first.places()[0])
        return self.targets[name][mine[1]][:, theirs[1]] if mine and theirs else None

    def _taker(self, site: Site) -> Taker | None:
        """What is added to all results of a consumer, and to nothing else."""
        taker, *others = site.takers or {None}
        if taker is None or others or self.slim.fed_by[taker.view] != {site.number}:
            return None
        name = taker.view.name
        places = torch.cat([view.places().flatten() for view in self.slim.fed_by if view.name == name])
        own = name not in self.slim.other_uses and all(key.name != name for key in self.slim.sites)
        return taker if own and len(places.unique()) == len(places) else None


def _crossed(sites: Mapping[Key, Site]) -> frozenset[str]:
    """Parameters that have entries in more than one consumer."""
    by_name: dict[str, list[Site]] = {}
    for key, site in sites.items():
        by_name.setdefault(key.name, []).append(site)
    found = set()
    for name, group in by_name.items():
        places = [site.first.places().flatten() for site in group] if len(group) > 1 else []
        if places and len(torch.cat(places).unique()) < sum(map(len, places)):
            found.add(name)
    return frozenset(found)
