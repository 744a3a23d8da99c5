"""A plan: which channels survive. Frozen data that prints, goes through JSON, and applies to any fitting model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from msgspec import Struct, structs
from torch import Tensor, nn

from graphprune.errors import InputError
from graphprune.pruning.added_tensors import warn_of_added_tensors
from graphprune.pruning.fits import check_fits, check_sizes, has_size
from graphprune.pruning.later_tensors import empty_later_tensors, later_tensors
from graphprune.pruning.plan_json import PLAN_FORMAT, ChoiceData, PlanData, read_plan_data, write_plan_data
from graphprune.pruning.rewrite import Kept, Merged, rewrite
from graphprune.pruning.runs import Runs
from graphprune.pruning.shared_memory import warn_of_shared_memory
from graphprune.pruning.skip import check_blocks, skip_blocks
from graphprune.pruning.state_dict import Renaming, cut_state_dict
from graphprune.utils.checks import check_callable, check_flag, check_type, did_you_mean
from graphprune.utils.compiled import compiled_as, uncompiled
from graphprune.utils.dispatched import resident
from graphprune.utils.global_state import leaves_torch_alone
from graphprune.utils.model_checks import check_model
from graphprune.utils.model_tensors import check_tensors
from graphprune.utils.modules import Tables, module_kind, named_modules, tables, within
from graphprune.utils.tables import Printed, Table
from graphprune.utils.typed_json import convert_data, parse_json

TRIED = "tried"
"""Where :attr:`Plan.requested` has what was tried: by criterion the relative error of outputs, or why there is none."""


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
    removed: tuple[int, ...] = field(repr=False)
    role: str = ""
    macs: float = 0.0
    params: float = 0.0
    why: str = ""

    @property
    def kept(self) -> int:
        return self.units - len(self.removed)


def tried_table(tried: Mapping[str, float | str], taken: str | None) -> Table:
    """What several criteria came to, the best first; where there is no number, why.

    Args:
        tried: by criterion its error, or why there is none.
        taken: the criterion that planned; None: a file does not say.
    """
    numbers = sorted((value, name) for name, value in tried.items() if isinstance(value, int | float))
    rows = [(name, f"{value:.4g}") for value, name in numbers]
    rows += [(name, str(value)) for name, value in tried.items() if isinstance(value, str)]
    own = min((value for value, name in numbers if name.partition(",")[0] == taken), default=None)
    preferred = own is not None and numbers[0][0] < own
    why = f"; {taken} is taken, since these samples do not tell it from the nearest" if preferred else ""
    title = f"Tried, by the relative error of outputs on samples held back{why}:"
    return Table(title, ("criterion", "error"), tuple(rows))


@dataclass(frozen=True, eq=False, repr=False)
class Plan(Printed):
    """Which channels survive, by parameter and dimension. ``print(plan)`` lists what is left of each group.

    Plans are equal if they say the same: if :meth:`to_data` of both is. So a plan is equal to its copy, and to what
    :meth:`from_json` reads.

    Attributes:
        kept: for every parameter and buffer that changes, by dimension, the surviving entries in their new order: what
            else goes with a weight, such as an adapter that was trained for the dense model, is cut by
            ``kept["layer.weight"][0]`` along the layer's outputs and ``kept["layer.weight"][1]`` along its inputs.
            Of tied parameters, and of those of a module with several paths, it has the first name.
        shapes: the original shape of every parameter and buffer, by its first name.
        sizes: the new values of integer attributes, ``{"blocks.0.attn.num_heads": 6}``.
        choices: what was removed of each group.
        skipped: modules that are left out whole (see :mod:`graphprune.graph.blocks` and
            :mod:`graphprune.graph.branches`).
        unread: the new values of integer attributes that ``forward`` does not read, but other methods may.
        stale: the names of integer attributes that may be sizes of what shrank and keep their value, since nobody can
            tell; ``forward`` does not read them.
        requested: how the plan was made: ratio, budgets, importance, seed, as JSON data; with ``"auto"`` also
            ``tried``: by criterion how far the outputs are from the dense ones, or why there is none.
        costs: by budget kind (``macs``, ``params``, ``bytes``) what the model costs before and after.
        inputs: what the model was traced with (see :func:`graphprune.tracing.input_specs.input_specs`).
        merged: for parameters of which heads are merged, by dimension, the other entries that go into each surviving
            one: the mean of entry ``kept[name][dim][i]`` and of entry ``i`` of each of these takes its place.
        zeroed: those of ``skipped`` that are modules of residual branches, in whose places zeros stand, with the number
            of results in their tuple (0: a tensor alone); the others are whole blocks.
        results: those of the whole blocks that return a tuple, with the number of results in it; the first is their
            input, the others are None.
        tied: the other names of parameters and buffers, with the first one of each:
            ``plan.kept[plan.tied["lm_head.weight"]]``.
    """

    kept: Kept
    shapes: Mapping[str, tuple[int, ...]]
    sizes: Mapping[str, int]
    choices: tuple[Choice, ...]
    requested: Mapping[str, Any]
    skipped: tuple[str, ...] = ()
    unread: Mapping[str, int] = field(default_factory=dict)
    stale: tuple[str, ...] = ()
    costs: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    inputs: tuple[dict[str, Any], ...] = ()
    merged: Merged = field(default_factory=dict)
    zeroed: Mapping[str, int] = field(default_factory=dict)
    results: Mapping[str, int] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        return self is other or self._text() == other._text()

    def __hash__(self) -> int:
        return hash(tuple((c.group, c.units, c.removed) for c in self.choices))

    def _text(self) -> str:
        """All that the plan says, whatever the order of names in its dictionaries."""
        return json.dumps(self.to_data(), sort_keys=True)

    def mask(self, name: str) -> Tensor:
        """Which entries of a parameter or buffer, by any of its names, survive. BoolTensor of its original shape.

        Raises:
            InputError: the plan knows none of this name.
        """
        first = self._first_name(name)
        shape = self.shapes[first]
        mask = torch.full(shape, not within(name, self.skipped), device="cpu")
        for dim, index in self.kept.get(first, {}).items():
            alive = torch.zeros(shape[dim], dtype=torch.bool, device="cpu")
            alive[torch.from_numpy(np.ascontiguousarray(index))] = True
            mask &= alive.view([-1 if d == dim else 1 for d in range(len(shape))])
        return mask

    @leaves_torch_alone
    def apply(self, model: nn.Module, inplace: bool = False) -> nn.Module:
        """A new, smaller module of the same class; with ``inplace`` the model itself becomes smaller.

        Raises:
            PlanError: the model does not have what the plan was made for. It is unchanged then.

        Warns:
            SharedMemoryWarning: parameters are views of one memory, and are separate in the slim model.
            UnreachedWarning: the model has gained parameters that may belong to channels that are removed.
        """
        check_model(model)
        check_flag("inplace", inplace)
        slim = self._applied(uncompiled(model), inplace, replayed=False)
        return model if inplace else compiled_as(model, slim)

    def _applied(self, model: nn.Module, inplace: bool, replayed: bool) -> nn.Module:
        """See :meth:`apply`; ``replayed``: all tensors are compared with what was saved afterwards."""
        modules = named_modules(model)
        check_tensors(modules)
        model = resident(model, inplace, modules)
        own = tables(model)
        sizes = self._checked_sizes(model, own)
        history = history_of(model)
        warn_of_shared_memory(own, self.kept)
        if not replayed:
            warn_of_added_tensors(own, self.shapes, self.kept, self.skipped)
        slim = rewrite(model, self.kept, sizes, inplace, own=own, merged=self.merged)
        if later_tensors(own, self.shapes):
            empty_later_tensors(slim, self.shapes)
        skip_blocks(slim, self.skipped, self.zeroed, self.results)
        record_history(slim, history.after(self, slim))
        return slim

    def apply_to_state_dict(
        self, state: Mapping[str, Any], *, prefix: str = "", rename: Renaming | None = None
    ) -> dict[str, Any]:
        """The state dict of a dense model, such as averaged weights or an older checkpoint, for the slim one.

        Args:
            state: tensors by name; a part of the model, such as an adapter, will do.
            prefix: what names in ``state`` begin with and names in the model do not (``"module."``). Entries without it
                are not the model's, such as the ``n_averaged`` of an ``AveragedModel``.
            rename: the name in the model for a name in ``state`` without the prefix; None: the same.

        Returns:
            The tensors under the names in ``state``; those of blocks that are left out are not there. Entries without
            the prefix are as they were, and so are those that modules make themselves (``get_extra_state``).

        Raises:
            InputError: an entry is no tensor, is called like nothing in the model, or has another shape, or none has
                the prefix.
        """
        check_type("prefix", prefix, str, "a string")
        if rename is not None:
            check_callable("rename", rename, "a function (name) -> name", takes="name")
        renamed = rename if rename is not None else str
        return cut_state_dict(state, self.kept, self.shapes, self.skipped, prefix, renamed, self.merged, self.tied)

    def shapes_only(self, model: nn.Module) -> nn.Module:
        """What :meth:`apply` makes, with floating-point tensors on ``meta``: no weight is read.

        Raises:
            PlanError: the model does not have what the plan was made for.
        """
        self.check(model)
        return slim_on_meta(self, uncompiled(model))

    def all_sizes(self, model: nn.Module) -> dict[str, int]:
        """The integers that change in ``model``; what ``forward`` does not read, it need not have."""
        return {**self.sizes, **{path: size for path, size in self.unread.items() if has_size(model, path)}}

    def check(self, model: nn.Module) -> None:
        """Raise a PlanError unless the plan can be applied to ``model``, to the end."""
        check_model(model)
        model = uncompiled(model)
        self._checked_sizes(model, tables(model))

    def _checked_sizes(self, model: nn.Module, own: Tables) -> dict[str, int]:
        """The integers that change in ``model``, to which the plan can be applied; ``own``: its tensors."""
        check_fits(model, self.shapes, self.kept, own)
        sizes = self.all_sizes(model)
        check_sizes(model, sizes)
        check_blocks(model, self.skipped)
        return sizes

    def shape(self, name: str) -> tuple[int, ...]:
        """The slim shape of a parameter or buffer, by any of its names.

        Raises:
            InputError: the plan knows none of this name.
        """
        first = self._first_name(name)
        kept = self.kept.get(first, {})
        return tuple([len(kept[d]) if d in kept else n for d, n in enumerate(self.shapes[first])])

    def _first_name(self, name: str) -> str:
        """The name that the plan has of a parameter or buffer with this one.

        Raises:
            InputError: the plan knows none of this name.
        """
        check_type("name", name, str, "the name of a parameter or buffer")
        first = self.tied.get(name, name)
        if first not in self.shapes:
            raise InputError(
                f"name: the plan knows no parameter or buffer {name!r}; it has {len(self.shapes)}, such as "
                f"{next(iter(self.shapes), None)!r}{did_you_mean(name, [*self.shapes, *self.tied])}",
                found=f"the name {name!r}",
                needed=f"one of the {len(self.shapes)} names in plan.shapes, or another name of a tied one",
                do="name it as model.state_dict() of the dense model does",
            )
        return first

    @property
    def removed(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """By the name of each group, how many units it had and the numbers of those that are gone."""
        return {c.group: (c.units, c.removed) for c in self.choices}

    @property
    def entries(self) -> tuple[int, int]:
        """Entries of all parameters and buffers before and after."""
        before = sum(int(np.prod(s)) for s in self.shapes.values())
        return before, sum(int(np.prod(self.shape(n))) for n in self.shapes if not within(n, self.skipped))

    def _summary(self) -> str:
        before, after = self.entries
        requested = ", ".join(f"{key} {value}" for key, value in self.requested.items() if key != TRIED)
        return (
            f"Plan: {requested}; {len(self.choices)} groups, "
            f"{before:,} -> {after:,} parameter and buffer entries ({after / max(before, 1):.1%})"
        )

    def _parts(self) -> Iterator[str | Table]:
        yield self._summary()
        yield from (f"without {path}" for path in self.skipped)
        if TRIED in self.requested:
            yield tried_table(self.requested[TRIED], self.requested.get("importance"))
        if self.merged:
            yield self._merged_table()
            return
        columns = ("group", "role", "units", "kept", "MACs", "params", "why")
        rows = (
            (c.group, c.role, str(c.units), str(c.kept), f"{c.macs:.1%}", f"{c.params:.1%}", c.why)
            for c in self.choices
        )
        yield Table("What is left:", columns, tuple(rows), numbers=columns[2:6])
        if self.stale:
            yield f"stale (sizes that forward does not read, as they were): {', '.join(self.stale)}"

    def _merged_table(self) -> Table:
        columns = ("parameter", "entries", "left", "each the mean of")
        rows = (
            (f"{name}[{dim}]", str(self.shapes[name][dim]), str(len(self.kept[name][dim])), str(1 + len(others)))
            for name, dims in self.merged.items()
            for dim, others in dims.items()
        )
        return Table("Merged key/value heads:", columns, tuple(rows), numbers=columns[1:])

    def to_json(self) -> str:
        """The plan as JSON; indices are runs such as ``"0-31 40"``."""
        return json.dumps(self.to_data(), indent=1)

    @staticmethod
    def from_json(text: str) -> Plan:
        """The inverse of :meth:`to_json`.

        Raises:
            LoadError: the text is not a plan of a format that this version reads, is damaged or contradicts itself.
        """
        return Plan.from_data(parse_json(text, "text", "pass what Plan.to_json() returned"))

    def to_data(self) -> dict[str, Any]:
        """The plan as JSON data, to be part of other data."""
        return write_plan_data(
            PlanData(
                format=PLAN_FORMAT,
                requested=dict(self.requested),
                choices=tuple(_choice_data(choice) for choice in self.choices),
                sizes=dict(self.sizes),
                skipped=self.skipped,
                shapes=dict(self.shapes),
                unread=dict(self.unread),
                stale=self.stale,
                costs=dict(self.costs),
                inputs=self.inputs,
                zeroed=dict(self.zeroed),
                results=dict(self.results),
                tied=dict(self.tied),
                kept={n: {d: Runs.of(index) for d, index in dims.items()} for n, dims in self.kept.items()},
                merged={n: {d: tuple(map(Runs.of, many)) for d, many in ds.items()} for n, ds in self.merged.items()},
            )
        )

    @staticmethod
    def from_data(data: object, what: str = "text") -> Plan:
        """The inverse of :meth:`to_data`; ``what`` names the data in messages.

        Raises:
            LoadError: as for :meth:`from_json`.
        """
        found = read_plan_data(data, what)
        return Plan(
            kept={n: {d: runs.indices() for d, runs in dims.items()} for n, dims in found.kept.items()},
            shapes=found.shapes,
            sizes=found.sizes,
            choices=tuple(_choice_of(choice) for choice in found.choices),
            requested=found.requested,
            skipped=found.skipped,
            unread=found.unread,
            stale=found.stale,
            costs=found.costs,
            inputs=found.inputs,
            merged={
                n: {d: tuple(runs.indices() for runs in many) for d, many in dims.items()}
                for n, dims in found.merged.items()
            },
            zeroed=found.zeroed,
            results=found.results,
            tied=found.tied,
        )


@leaves_torch_alone
def replay(plan: Plan, model: nn.Module) -> None:
    """Apply a saved plan to the model itself, all tensors of which are compared with what was saved."""
    check_model(model)
    plan._applied(uncompiled(model), inplace=True, replayed=True)


def slim_on_meta(plan: Plan, model: nn.Module) -> nn.Module:
    """See :meth:`Plan.shapes_only`; ``model`` is known to be one that the plan fits."""
    slim = rewrite(model, plan.kept, plan.all_sizes(model), on_meta=True)
    skip_blocks(slim, plan.skipped, plan.zeroed, plan.results)
    return slim


def _choice_data(choice: Choice) -> ChoiceData:
    return ChoiceData(**vars(choice) | {"removed": Runs.of(np.array(choice.removed, np.int64))})


def _choice_of(data: ChoiceData) -> Choice:
    return Choice(**structs.asdict(data) | {"removed": tuple(data.removed.indices().tolist())})


# ---------------------------------------------------------------- the plans that a model has gone through

_HISTORY = "_graphprune_plans"
"""An attribute of modules: it is copied with them."""


@dataclass(frozen=True, slots=True)
class PruningHistory:
    """How a model came to be as it is, as an attribute of the module.

    In a pickle it is a string, its JSON, so that ``torch.load`` needs no class of graphprune.

    Attributes:
        plans: those that were applied, in order.
        config: the configuration of the dense model as data, if its class keeps one as Transformers' do.
        kinds: of every module after the last plan, by path (see :func:`graphprune.utils.modules.module_kind`).
    """

    plans: tuple[Plan, ...] = ()
    config: Mapping[str, Any] | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)

    def after(self, plan: Plan, slim: nn.Module) -> PruningHistory:
        """The history of what a plan made of a model that has this one."""
        kinds = {path: module_kind(module) for path, module in named_modules(slim)}
        return PruningHistory((*self.plans, plan), self.config, kinds)

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        plans = [plan.to_data() for plan in self.plans]
        return str, (json.dumps({"plans": plans, "config": self.config, "kinds": self.kinds}),)

    def __copy__(self) -> PruningHistory:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> PruningHistory:
        return self


class _HistoryData(Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON of a history."""

    plans: list[Any]
    config: dict[str, Any] | None
    kinds: dict[str, str]


def plans_of(model: nn.Module) -> tuple[Plan, ...]:
    """The plans that a model has gone through, in order.

    Raises:
        LoadError: the model was read from a pickle in which they are damaged.
    """
    found: PruningHistory | str | None = getattr(model, _HISTORY, None)
    if isinstance(found, str):
        return history_of(model).plans
    return found.plans if found is not None else ()


def history_of(model: nn.Module) -> PruningHistory:
    """The history of a model; that of one which was never pruned has no plans.

    Raises:
        LoadError: the model was read from a pickle in which it is damaged.
    """
    found: PruningHistory | str | None = getattr(model, _HISTORY, None)
    if isinstance(found, str):
        found = _read_history(found, f"model: the plans of this {type(model).__name__}")
        record_history(model, found)
    return found if found is not None else PruningHistory(config=_configuration(model))


def record_history(model: nn.Module, history: PruningHistory) -> None:
    """Note how a model came to be; past ``__setattr__``, which classes override."""
    object.__setattr__(uncompiled(model), _HISTORY, history)


def _read_history(text: str, what: str) -> PruningHistory:
    advice = "load another copy"
    data = convert_data(parse_json(text, what, advice), _HistoryData, what, advice)
    return PruningHistory(tuple(Plan.from_data(one, what) for one in data.plans), data.config, data.kinds)


def _configuration(model: nn.Module) -> dict[str, Any] | None:
    """What a model says it was built from, as JSON data."""
    config: Any = getattr(model, "config", None)
    if not all(hasattr(type(config), name) for name in ("model_type", "to_dict", "from_dict")):
        return None
    try:
        data: dict[str, Any] = json.loads(json.dumps(config.to_dict()))
    except (TypeError, ValueError):  # it holds what is no data, so that nothing can be built from it
        return None
    return data
