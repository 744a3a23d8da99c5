"""What a caller may ask a model to cost, as fractions or absolute numbers with units."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from graphprune.errors import InputError

BudgetSpec = int | float | str
"""A fraction of the dense cost (``0.5``), a number (``2_000_000``), or one with a unit (``"2G"``, ``"5ms"``)."""


_COUNTS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


_BYTES = {f"{p}B": v for p, v in _COUNTS.items()} | {"KB": 1e3, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}


UNITS: dict[str, Mapping[str, float]] = {
    "macs": _COUNTS | {"K": 1e3},
    "params": _COUNTS | {"K": 1e3, "B": 1e9},
    "bytes": _COUNTS | {"K": 1e3} | _BYTES,
    "latency": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6},
}


@dataclass(frozen=True)
class Budget:
    """A ceiling: ``kind`` is a key of ``UNITS``; ``limit`` in MACs, entries, bytes or seconds; ``text`` as asked."""

    kind: str
    limit: float
    text: str

    def shown(self, value: float) -> str:
        """A value of this kind as people read it."""
        return f"{value * 1e3:.2f} ms" if self.kind == "latency" else f"{value:,.0f}"


def parse_budgets(asked: Mapping[str, BudgetSpec | None], dense: Callable[[str], float]) -> list[Budget]:
    """The budgets that were given. ``dense(kind)`` is what the model costs now; it is asked for fractions only.

    Raises:
        InputError: a budget is neither a fraction in (0, 1] nor a positive number with a known unit.
    """
    return [Budget(k, _limit(k, ask, dense), f"{k}={ask!r}") for k, ask in asked.items() if ask is not None]


def _limit(kind: str, ask: BudgetSpec, dense: Callable[[str], float]) -> float:
    if isinstance(ask, str):
        return _with_unit(kind, ask)
    if isinstance(ask, bool) or not isinstance(ask, int | float) or not ask > 0:
        raise InputError(f"{kind}: must be {_needed(kind)}, but is {ask!r}")
    if isinstance(ask, float) and ask <= 1:
        return ask * dense(kind)
    if kind == "latency":
        raise InputError(f"latency: {ask!r} has no unit; write {ask}s, {ask}ms, or a fraction of the dense latency")
    return float(ask)


def _with_unit(kind: str, ask: str) -> float:
    found = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?\d+)?)\s*([A-Za-zµ]*)\s*", ask)
    if found is None or found[2] not in UNITS[kind] or found[1].count(".") > 1 or float(found[1]) <= 0:
        raise InputError(f"{kind}: must be {_needed(kind)}, but is {ask!r}")
    return float(found[1]) * UNITS[kind][found[2]]


def _needed(kind: str) -> str:
    units = ", ".join(unit for unit in UNITS[kind] if unit)
    return f"a fraction of what the model costs now (0.5), or a positive number with one of the units {units}"
