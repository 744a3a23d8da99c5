"""What is asked of a plan, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from graphprune.budgets import Ask
from graphprune.errors import InputError
from graphprune.importance import Importance
from graphprune.limits import Override
from graphprune.sensitivity import Sensitivity

ALLOCATIONS = ("uniform", "global", "isomorphic")
UNDER_BUDGETS = 0.9
"""Without a word from the caller, budgets take at most this fraction of a group."""


@dataclass(frozen=True)
class Request:
    """What is asked of a plan; the arguments of :meth:`graphprune.graph.ChannelGraph.plan`."""

    ratio: float | None = None
    budgets: Mapping[str, Ask | None] = field(default_factory=dict)
    importance: str | Importance = "l2"
    allocation: str | Sensitivity | None = None
    overrides: Mapping[Any, Override] = field(default_factory=dict)
    roles: Mapping[str, float | None] = field(default_factory=dict)
    depth: float | None = None
    multiple: int = 1
    max_ratio: float | None = None
    gentle_ends: bool = False
    seed: int = 0
    calibration: Iterable[Any] | None = None
    loss_fn: Callable[[Any, Any], Tensor] | None = None
    reduce: str = "sum"
    normalise: str | None = None

    def check(self) -> None:
        """Raise an InputError unless everything is in its range."""
        _check_fraction("ratio", self.ratio)
        for role, ratio in (*self.roles.items(), ("depth", self.depth)):
            _check_fraction(role, ratio)
        if isinstance(self.allocation, str) and self.allocation not in ALLOCATIONS:
            known = ", ".join(map(repr, ALLOCATIONS))
            raise InputError(f"allocation: {self.allocation!r} is not known; use one of {known}, or a Sensitivity")
        if self.ratio is not None and self.asked:
            raise InputError(f"ratio: given together with {', '.join(self.asked)}; give a ratio or budgets, not both")
        if self.roles.get("head_width") and (self.roles.get("heads") or self.roles.get("kv_groups")):
            raise InputError(
                "head_width: given together with heads or kv_groups; a plan either removes whole heads or makes them "
                "narrower: apply one plan, then another"
            )
        parts = (*self.roles.values(), self.depth)
        if self.ratio is None and not self.asked and not self.overrides and all(r is None for r in parts):
            raise InputError("ratio: nothing is asked for; give a ratio (0.5) or a budget (macs=0.5)")

    @property
    def asked(self) -> list[str]:
        """The budgets that are given."""
        return [kind for kind, ask in self.budgets.items() if ask is not None]

    @property
    def searched(self) -> bool:
        """Is the number of units of each group left to a search?"""
        return bool(self.asked) or (self.ratio is not None and self.allocation not in (None, "uniform"))

    @property
    def limits(self) -> Override:
        """What holds for every group."""
        ceiling = UNDER_BUDGETS if self.searched else 1.0
        return Override(max_ratio=ceiling if self.max_ratio is None else self.max_ratio, multiple=self.multiple)

    @property
    def allocated(self) -> str | None:
        """The allocation by name."""
        return "sensitivity" if isinstance(self.allocation, Sensitivity) else self.allocation

    def described(self) -> dict[str, Any]:
        """What was asked, for the plan's own record."""
        name = self.importance if isinstance(self.importance, str) else getattr(self.importance, "__name__", "custom")
        given = {"ratio": self.ratio, "importance": name, "allocation": self.allocated, "seed": self.seed}
        given |= {kind: self.budgets[kind] for kind in self.asked} | dict(self.roles) | {"depth": self.depth}
        return {key: value for key, value in given.items() if value is not None}


def _check_fraction(name: str, ratio: Any) -> None:
    if ratio is None:
        return
    if not isinstance(ratio, int | float) or isinstance(ratio, bool) or not 0 <= ratio < 1:
        raise InputError(f"{name}: must be a fraction of channels to remove, 0 <= ratio < 1, but is {ratio!r}")
