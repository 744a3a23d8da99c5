"""Which calls of the dense model a consumer of the slim model is to agree with, and in which of their outputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphprune.plan import Plan
from graphprune.repair.calls import Key
from graphprune.repair.memory import numbers
from graphprune.repair.survey import Site, Survey
from graphprune.repair.takers import Taker


@dataclass(frozen=True, eq=False)
class Match:
    """A consumer of the slim model and what it is repaired against.

    Attributes:
        site: the consumer.
        dense: the dense model's consumer; the j-th call of the one is compared with the j-th of the other.
        rows: of the dense call's outputs (of all blocks, in order), those that the slim call has. [outputs]
        taker: the bias or running mean that takes an intercept, if there is one.
        bare: one of the two models adds the bias afterwards, so results are compared without it.
    """

    site: Site
    dense: Site
    rows: Tensor
    taker: Taker | None
    bare: bool


class Matcher:
    """Matches what two surveys found.

    Args:
        replaced: paths of modules that are of another class in the slim model.
    """

    def __init__(self, slim: Survey, dense: Survey, plan: Plan, replaced: Collection[str] = ()) -> None:
        self.slim = slim
        self.dense = dense
        self.plan = plan
        self.replaced = tuple(replaced)
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
        bare = site.adds != other.adds
        if bare and any(taker is None or taker.sign < 0 for taker in (*site.takers, *other.takers)):
            return "what is added to its product is not the same parameter in both models"
        return Match(site, other, rows, self._taker(site), bare)

    def _unfit(self, site: Site) -> str | None:
        use = self.slim.other_uses.get(site.key.name)
        if use is not None:
            return f"also used by {use}"
        if site.first.form.result is None:
            return "each part of its rows has a weight of its own"
        if site.scaled:
            return "its product is multiplied by a factor"
        if any(site.key.name.startswith(f"{path}.") for path in self.replaced):
            return "its module was replaced by one of another class, whose rows may come in another order"
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
