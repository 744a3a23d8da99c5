"""Penalties that make units small before they are removed, so that little is lost when they are.

A unit is everything that goes at once: with a channel its filter, its norm's scale and shift, and what every consumer
has for it. All of that is pushed down together.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from graphprune.api import ChannelGraph
from graphprune.errors import InputError
from graphprune.graph.candidates import candidates
from graphprune.pruning.averaged import refuse_merged
from graphprune.pruning.fits import check_fits
from graphprune.pruning.plan import Plan
from graphprune.utils.arrays import Mask
from graphprune.utils.checks import check_count, check_positive, check_type, found_value
from graphprune.utils.compiled import uncompiled
from graphprune.utils.complex_numbers import real_parts
from graphprune.utils.model_checks import check_model
from graphprune.utils.modules import tables, within


@dataclass(frozen=True)
class _Place:
    """Where units stand in a parameter: unit ``unit[i]`` has entry ``index[i]`` of dimension ``dim``."""

    name: str
    dim: int
    unit: Tensor
    index: Tensor


class GroupLasso:
    """The group lasso over coupled units: ``strength`` times the sum of ``sqrt(entries) * norm`` of every unit.

    The norm is that of all parameter entries that go with the unit; an entry between two channels counts for both.
    Unlike weight decay, it drives whole units to zero and leaves others alone. Add the result to the loss; or, where
    the loss is scaled or not at hand, call ``lasso().backward()`` before the step of the optimizer.

    Sources: Yuan and Lin, "Model selection and estimation in regression with grouped variables", Journal of the Royal
    Statistical Society B, 2006; Wen et al., "Learning structured sparsity in deep neural networks", NeurIPS 2016.

    Args:
        graph: of the model that is trained. After a pruning make a new one.
        strength: the factor.
        groups: names of the groups that are penalized (:meth:`ChannelGraph.group` takes others for them, too); None:
            all that a plan without further arguments can take from, so heads but not their width.

    Raises:
        InputError: ``strength`` is not positive, or there is no such group.
    """

    def __init__(self, graph: ChannelGraph, strength: float, groups: Collection[str] | None = None) -> None:
        check_type("graph", graph, ChannelGraph, "what graphprune.trace returned")
        check_positive("strength", strength)
        self.model = graph.model
        self.strength = strength
        self._shapes = graph.trace.shapes
        chosen = candidates(graph)[0] if groups is None else _named(graph, groups)
        self._count = int(chosen.sum())
        self._numbers = np.where(chosen, np.cumsum(chosen) - 1, -1)
        self._groups = {g.name: g.unit_ids[chosen[g.unit_ids]] for g in graph.groups}
        self._places = self._find(graph)

    def __call__(self) -> Tensor:
        """The penalty, a differentiable number."""
        squares = self._squares()
        norms = squares.clamp(min=torch.finfo(squares.dtype).tiny).sqrt()
        return self.strength * (self._sizes.sqrt().to(norms) * norms).sum()

    def norms(self) -> dict[str, Tensor]:
        """By group, the norm of each unit that is penalized. [units]"""
        with torch.no_grad():
            norms = self._squares().sqrt()
        numbers = {name: torch.from_numpy(self._numbers[units]) for name, units in self._groups.items() if len(units)}
        return {name: norms[number.to(norms.device)] for name, number in numbers.items()}

    def _squares(self) -> Tensor:
        """Sums of squares over the entries of each unit. [units]"""
        squares = {
            name: _squared(tensor)
            for name, tensor in _parameters(self.model, dict.fromkeys(p.name for p in self._places), self._shapes)
        }
        total = torch.zeros(self._count, device=next(iter(squares.values())).device)
        for place in self._places:
            square = squares[place.name]
            others = [d for d in range(square.ndim) if d != place.dim]
            sums = square.sum(others) if others else square
            parts = sums[place.index.to(sums.device)].to(total.device, torch.promote_types(sums.dtype, total.dtype))
            total = total.to(parts.dtype).index_add(0, place.unit.to(total.device), parts)
        return total

    @cached_property
    def _sizes(self) -> Tensor:
        """How many entries each unit has. [units]"""
        total = torch.zeros(self._count, device="cpu")
        for place in self._places:
            shape = self._shapes[place.name]
            each = float(np.prod(shape)) / shape[place.dim]
            total.index_add_(0, place.unit, torch.full([len(place.unit)], each, device="cpu"))
        return total

    def _find(self, graph: ChannelGraph) -> list[_Place]:
        """The places of all units in parameters, in order of parameters."""
        parameters = {name for name, t in tables(graph.model).unique() if isinstance(t, nn.Parameter)}
        occurrences, axes = graph.units.occurrences, graph.units.axes
        mine = self._numbers[occurrences.unit] >= 0
        unit, axis, index = occurrences.unit[mine], occurrences.axis[mine], occurrences.index[mine]
        bounds = np.searchsorted(axis, np.arange(len(axes) + 1))
        found = []
        for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
            name = axes[number].parameter_axis
            if stop > start and name.parameter in parameters:
                units, entries = self._numbers[unit[start:stop]], index[start:stop]
                found.append(_Place(name.parameter, name.dim, torch.from_numpy(units), torch.from_numpy(entries)))
        if not found:
            raise InputError(
                "groups: nothing of them can be removed, so there is nothing to penalize",
                found="groups without parameters that can go",
                needed="one group at least that can lose channels",
                do="print(graph) lists the groups; name some of them, or leave out groups=",
            )
        return found


class GrowingRegularization:
    """A penalty on what a plan removes, growing until it is gone: ``strength / 2`` times the squares of its entries.

    Weights adapt to each other gently while some of them fade. Add the result to the loss, call :meth:`step` after
    every step of the optimizer, and apply the plan when :attr:`finished`.

    Source: Wang, Qin, Zhang and Fu, "Neural pruning via growing regularization", ICLR 2021 (there ``growth=1e-4``,
    ``ceiling=1``, ``every=10`` for networks trained from scratch).

    Args:
        model: what the plan was made for.
        plan: what will be removed.
        growth: by how much the strength grows, beginning with this.
        every: after how many steps it does.
        ceiling: where it ends.
        steps: how many steps there were already, when training goes on.

    Raises:
        InputError: a number is out of its range.
        PlanError: the plan is not for this model.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        *,
        growth: float = 1e-4,
        every: int = 10,
        ceiling: float = 1.0,
        steps: int = 0,
    ) -> None:
        check_model(model)
        check_type("plan", plan, Plan, "a graphprune.Plan, which graph.plan(0.5) returns")
        check_positive("growth", growth)
        check_positive("ceiling", ceiling)
        check_count("every", every, 1)
        check_count("steps", steps, 0)
        model = uncompiled(model)
        check_fits(model, plan.shapes, plan.kept)
        _check_removes(plan)
        self.model, self.plan = model, plan
        self.growth, self.every, self.ceiling = growth, every, ceiling
        self.steps = steps
        self._removed = {
            name: _living_entries(plan, name)
            for name, tensor in tables(model).unique()
            if isinstance(tensor, nn.Parameter) and (plan.kept.get(name) or within(name, plan.skipped))
        }

    @property
    def strength(self) -> float:
        """The factor at this step."""
        return min(self.growth * (1 + self.steps // self.every), self.ceiling)

    @property
    def finished(self) -> bool:
        """Has the strength reached its ceiling?"""
        return self.strength >= self.ceiling

    def step(self) -> None:
        """Count a step of training."""
        self.steps += 1

    def __call__(self) -> Tensor:
        """The penalty, a differentiable number."""
        found = _parameters(self.model, self._removed, self.plan.shapes)
        parts = [_gone(_squared(tensor), self._removed[name]) for name, tensor in found]
        total = sum((part.to(parts[0].device) for part in parts[1:]), parts[0])
        return 0.5 * self.strength * total


_AGAIN = "after a pruning make a new penalty, for the model that is there"


def _gone(squares: Tensor, alive: dict[int, Tensor]) -> Tensor:
    """The sum over what does not live along all dimensions."""
    if not alive:
        return squares.sum()
    stays = torch.ones((), dtype=torch.bool, device=squares.device)
    for dim, lives in alive.items():
        stays = stays & lives.to(squares.device).view([-1 if d == dim else 1 for d in range(squares.ndim)])
    return squares.masked_fill(stays, 0.0).sum()


def _living_entries(plan: Plan, name: str) -> dict[int, Tensor]:
    """By dimension, which entries of a parameter survive; empty for a parameter that is gone altogether."""
    kept = {} if within(name, plan.skipped) else plan.kept[name]
    found = {dim: torch.zeros(plan.shapes[name][dim], dtype=torch.bool, device="cpu") for dim in kept}
    for dim, lives in found.items():
        lives[torch.from_numpy(np.ascontiguousarray(kept[dim]))] = True
    return found


def _parameters(
    model: nn.Module, names: Iterable[str], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, Tensor]]:
    """The parameters of these names, which must have these shapes still."""
    own = tables(model).parameters
    for name in names:
        if name not in own or tuple(own[name].shape) != tuple(shapes[name]):
            raise InputError(
                f"model: {name} is not what it was when the penalty was made",
                where=name,
                found=f"shape {list(own[name].shape)}" if name in own else "no such parameter",
                needed=f"shape {list(shapes[name])}",
                do=_AGAIN,
            )
        yield name, own[name]


def _check_removes(plan: Plan) -> None:
    refuse_merged(plan, "a penalty would make some of them zero first", "apply it: plan.apply(model)")
    if not plan.kept and not plan.skipped:
        raise InputError(
            "plan: it removes nothing, so there is nothing to penalize",
            found="a plan that keeps every channel",
            needed="a plan that removes something",
            do="plan with a larger ratio, or a smaller budget",
        )


def _named(graph: ChannelGraph, names: Collection[str]) -> Mask:
    """The units of these groups. [classes]"""
    if isinstance(names, str):
        raise InputError(
            f"groups: must be several names, but is the string {names!r}",
            found=found_value(names),
            needed="names of groups, in a list",
            do=f"pass [{names!r}]",
        )
    check_type("groups", names, Collection, "names of groups, in a list")
    chosen = np.zeros(graph.solution.count, bool)
    for name in names:
        chosen[graph.group(name).unit_ids] = True
    return chosen


def _squared(tensor: Tensor) -> Tensor:
    """The squares of entries, of complex ones those of moduli; sums of them overflow or vanish in half precision."""
    parts = real_parts(tensor)
    squares = (parts if parts.dtype in (torch.float32, torch.float64) else parts.float()).square()
    return squares.sum(-1) if tensor.is_complex() else squares
