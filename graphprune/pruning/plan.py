"""A plan: which channels survive. Frozen data that prints, goes through JSON, and applies to any fitting model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphprune.errors import InputError, LoadError
from graphprune.pruning.rewrite import Kept, check_fits, rewrite
from graphprune.pruning.skip import skip_blocks
from graphprune.utils.arrays import Ids
from graphprune.utils.modules import within

FORMAT = 3


HISTORY = "_graphprune_plans"


@dataclass(frozen=True)
class Choice:
    """What is removed of one group: the numbers of the units.

    Attributes:
        role: what the group is in its network (see :mod:`graphprune.graph.roles`).
        macs, params: the fraction of the model's MACs and parameters in which the group takes part.
        why: what decided the number that is kept.
    """

    group: str
    units: int
    removed: tuple[int, ...]
    role: str = ""
    macs: float = 0.0
    params: float = 0.0
    why: str = ""

    @property
    def kept(self) -> int:
        return self.units - len(self.removed)

    def __str__(self) -> str:
        shares = f"{self.macs:>5.1%}  {self.params:>6.1%}"
        return f"{self.role:<10}  {self.units:>6} -> {self.kept:>5}  {shares}  {self.why}"


@dataclass(frozen=True, eq=False)
class Plan:
    """Which channels survive, by parameter and dimension.

    Attributes:
        kept: for every parameter and buffer that changes, by dimension, the surviving entries in their new order.
        shapes: the original shape of every parameter and buffer.
        sizes: the new values of integer attributes, ``{"blocks.0.attn.num_heads": 6}``.
        choices: what was removed of each group.
        skipped: modules that are left out whole (see :mod:`graphprune.graph.blocks`).
        asked: how the plan was made: ratio, budgets, importance, seed, as JSON data.
    """

    kept: Kept
    shapes: Mapping[str, tuple[int, ...]]
    sizes: Mapping[str, int]
    choices: tuple[Choice, ...]
    asked: Mapping[str, Any]
    skipped: tuple[str, ...] = ()

    def mask(self, name: str) -> Tensor:
        """Which entries of a parameter or buffer survive. BoolTensor of its original shape."""
        if name not in self.shapes:
            raise InputError(
                f"name: the plan knows no parameter or buffer {name!r}; it has {len(self.shapes)}, such as "
                f"{next(iter(self.shapes), None)!r}"
            )
        shape = self.shapes[name]
        mask = torch.full(shape, not within(name, self.skipped))
        for dim, index in self.kept.get(name, {}).items():
            alive = torch.zeros(shape[dim], dtype=torch.bool)
            alive[torch.from_numpy(np.ascontiguousarray(index))] = True
            mask &= alive.view([-1 if d == dim else 1 for d in range(len(shape))])
        return mask

    def apply(self, model: nn.Module, inplace: bool = False) -> nn.Module:
        """A new, smaller module of the same class; with ``inplace`` the model itself becomes smaller.

        Raises:
            PlanError: the model does not have the parameters that the plan was made for. It is unchanged then.
        """
        check_fits(model, self.shapes)
        history = (*getattr(model, HISTORY, ()), self)
        slim = rewrite(model, self.kept, self.sizes, inplace)
        skip_blocks(slim, self.skipped)
        object.__setattr__(slim, HISTORY, history)
        return slim

    def shape(self, name: str) -> tuple[int, ...]:
        """The slim shape of a parameter or buffer."""
        kept = self.kept.get(name, {})
        return tuple(len(kept[d]) if d in kept else n for d, n in enumerate(self.shapes[name]))

    @property
    def removed(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """By the name of each group, how many units it had and the numbers of those that are gone."""
        return {c.group: (c.units, c.removed) for c in self.choices}

    @property
    def entries(self) -> tuple[int, int]:
        """Entries of all parameters and buffers before and after."""
        before = sum(int(np.prod(s)) for s in self.shapes.values())
        return before, sum(int(np.prod(self.shape(n))) for n in self.shapes if not within(n, self.skipped))

    def __str__(self) -> str:
        before, after = self.entries
        asked = ", ".join(f"{key} {value}" for key, value in self.asked.items())
        lines = [
            f"Plan: {asked}; {len(self.choices)} groups, "
            f"{before:,} -> {after:,} parameter and buffer entries ({after / max(before, 1):.1%})"
        ]
        width = max((len(c.group) for c in self.choices), default=5)
        lines.append(f"  {'group':<{width}}  {'role':<10}  {'units':>6}    kept   MACs  params  why")
        lines += [f"  without {path}" for path in self.skipped]
        return "\n".join([*lines, *(f"  {choice.group:<{width}}  {choice}" for choice in self.choices)])

    def to_json(self) -> str:
        """The plan as JSON; indices are runs such as ``"0-31 40"``."""
        data = {
            "format": FORMAT,
            "asked": dict(self.asked),
            "choices": [_choice_data(c) for c in self.choices],
            "sizes": dict(self.sizes),
            "skipped": list(self.skipped),
            "shapes": {n: list(s) for n, s in self.shapes.items()},
            "kept": {n: {str(d): to_runs(i) for d, i in dims.items()} for n, dims in self.kept.items()},
        }
        return json.dumps(data, indent=1)

    @staticmethod
    def from_json(text: str) -> Plan:
        """The inverse of :meth:`to_json`.

        Raises:
            LoadError: the text is not a plan of a format that this version reads.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise LoadError(f"text: not JSON ({error}); pass what Plan.to_json() returned") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise LoadError(f"text: plan format {found!r}; this version reads format {FORMAT}")
        return _plan_of(data)


def _choice_data(choice: Choice) -> dict[str, Any]:
    return vars(choice) | {"removed": to_runs(np.array(choice.removed, np.int64))}


def _plan_of(data: dict[str, Any]) -> Plan:
    choices = (Choice(**c | {"removed": tuple(from_runs(c["removed"]).tolist())}) for c in data["choices"])
    return Plan(
        kept={n: {int(d): from_runs(r) for d, r in dims.items()} for n, dims in data["kept"].items()},
        shapes={n: tuple(s) for n, s in data["shapes"].items()},
        sizes=data["sizes"],
        choices=tuple(choices),
        asked=data["asked"],
        skipped=tuple(data["skipped"]),
    )


def to_runs(index: Ids) -> str:
    """Indices as runs of consecutive numbers.

    >>> to_runs(np.array([0, 1, 2, 7, 5, 6]))
    '0-2 7 5-6'
    """
    if not len(index):
        return ""
    cuts = np.flatnonzero(np.diff(index) != 1) + 1
    bounds = [0, *cuts.tolist(), len(index)]
    ends = [(int(index[a]), int(index[b - 1])) for a, b in pairwise(bounds)]
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in ends)


def from_runs(text: str) -> Ids:
    """The inverse of :func:`to_runs`."""
    pieces = []
    for run in text.split():
        first, _, last = run.partition("-")
        pieces.append(np.arange(int(first), int(last or first) + 1, dtype=np.int64))
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int64)
