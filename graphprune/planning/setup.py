"""What is the same for all attempts at a plan: limits of every group, scores, costs, blocks that are left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from math import ceil, floor, lcm

import numpy as np
from torch import nn

from graphprune.calibration.statistics import Statistics
from graphprune.errors import PlanError
from graphprune.graph.analysis import Analysis
from graphprune.graph.blocks import Block, hindrance
from graphprune.graph.candidates import candidates
from graphprune.graph.constraints import SizeConstraints
from graphprune.graph.cost import CostModel
from graphprune.graph.frozen import frozen_axes
from graphprune.graph.groups import Frozen, Group
from graphprune.graph.roles import rows_around
from graphprune.importance.block_influence import influence
from graphprune.planning.allocations import SEARCHED
from graphprune.planning.depth_units import DepthUnits, LeftOut, counts_tokens
from graphprune.planning.frozen_parts import FrozenParts
from graphprune.planning.layer_widths import staying_beside
from graphprune.planning.limits import Limit, group_limits, share_kept
from graphprune.planning.masked_comparison import MaskedComparison, Renumbering, slim_check
from graphprune.planning.options import PruningOptions
from graphprune.planning.serving import serving_limits
from graphprune.planning.translation import Translation
from graphprune.planning.unit_scores import UnitScores
from graphprune.utils.arrays import Ids, Mask, distinct_columns
from graphprune.utils.checks import with_article
from graphprune.utils.modules import class_name, named_modules, tables
from graphprune.utils.tied_names import later_names

PROTECTED = 0.5
"""Protected first and last layers lose this much of what the others lose."""


@dataclass(frozen=True, eq=False)
class PlanSetup:
    """A model and what is asked of a plan for it.

    Attributes:
        graph: the analyzed model.
        options: what is asked.
        scores: the scores of all units.
        skipped: modules that are left out, by path: residual blocks, and those of residual branches.
        zeroed: as in a :class:`graphprune.Plan`.
        limits: for each group, how many units may go.
        renumbered: as for :func:`slim_check`.
        aligned: numbers of channels are those that kernels are written for, where nothing else is asked of them.
    """

    graph: Analysis
    options: PruningOptions
    scores: UnitScores
    skipped: tuple[str, ...]
    limits: Sequence[Limit]
    zeroed: Mapping[str, int] = field(default_factory=dict)
    renumbered: Renumbering | None = None
    aligned: bool = False

    @staticmethod
    def of(graph: Analysis, options: PruningOptions, statistics: Statistics | None = None) -> PlanSetup:
        """Check that there is something to plan, and work out what all attempts need.

        Args:
            graph: the analyzed model.
            options: what is asked.
            statistics: those of the calibration batches, if several plans share them; None: they are made.

        Raises:
            InputError: an override matches nothing, or the criterion is not known.
            PlanError: the model has nothing that can be removed, or no block that can be left out.
        """
        if not (options.depth and graph.blocks):
            _require_groups(graph)
        _require_traced_sizes(graph)
        scores = UnitScores(graph, options, statistics)
        limits = _limits(graph, options)
        setup = PlanSetup(graph, options, scores, (), limits, aligned=options.aligned)
        chosen_later = not options.depth or options.allocation == SEARCHED
        return setup if chosen_later else replace(setup, skipped=setup.least_influential())

    @property
    def groups(self) -> tuple[Group, ...]:
        """What can be removed."""
        return self.graph.units.groups

    @cached_property
    def tied(self) -> dict[str, str]:
        """The other names of tied tensors, as in a :class:`graphprune.Plan`."""
        return later_names(self.graph.model)

    @property
    def frozen_parts(self) -> FrozenParts:
        """What overrides freeze of the model."""
        return FrozenParts.of(self.groups, self.limits)

    def least_influential(self) -> tuple[str, ...]:
        """The blocks with the least influence without which the rest runs as before: the fraction ``depth=`` of all.

        Raises:
            PlanError: there are not so many that can be left out.
        """
        blocks = removable_blocks(self.graph, self.options, self.frozen_parts)
        weight = influence(self.scores.model, blocks, self.scores.context.statistics)
        count = _depth_in_blocks(self.graph, self.options)
        chosen = self._that_can_go([blocks[i].path for i in np.argsort(weight, kind="stable").tolist()], count)
        return tuple(block.path for block in blocks if block.path in chosen)

    def _that_can_go(self, paths: Sequence[str], count: int) -> Sequence[str]:
        """The first blocks without which the rest of the model runs as before; the first of all if there are too few.

        What else reads the weights of a block, as ``torch.nn.TransformerEncoder`` those of its first, cannot do so.
        """
        if not count or LeftOut(tuple(paths[:count])).runs_in(self.graph):
            return paths[:count]
        free = list(islice((path for path in paths if LeftOut((path,)).runs_in(self.graph)), count))
        return free if len(free) == count else paths[:count]

    @cached_property
    def costs(self) -> CostModel:
        """The cost of any choice of channels, without what is left out."""
        return self.graph.costs_without(self.skipped) if self.skipped else self.graph.costs

    @cached_property
    def check(self) -> Translation | MaskedComparison:
        """What slim models must do."""
        return slim_check(self.graph, self.skipped, self.zeroed, self.renumbered)

    @cached_property
    def protected(self) -> frozenset[int]:
        """The groups that first and last layers make, if they are to be protected."""
        if not self.options.protect_ends or not self.groups:
            return frozenset()
        return frozenset((0, self.graph.units.last_group))

    def layers(self, group: int) -> int:
        """How many layers a group runs through: the weights (not biases, not norms) that have its channels."""
        names = {axis.parameter for axis in self.groups[group].axes}
        return max(sum(len(self.graph.trace.shapes[name]) > 1 for name in names), 1)

    def ratio(self, group: int) -> float | None:
        """The fraction asked of a group; None: left to the search."""
        own = self.limits[group].ratio
        if own is not None:
            return own
        if self.options.searched:
            return None
        ratio = self.options.ratio or 0.0
        return ratio * PROTECTED if group in self.protected else ratio

    @cached_property
    def reached(self) -> Mask:
        """The groups that something is to be taken from. [groups]"""
        found = []
        for number, group in enumerate(self.groups):
            ratio = self.ratio(number)
            wanted = group.units > self.limits[number].least
            found.append(wanted if ratio is None else wanted and share_kept(group.units, ratio) < group.units)
        return np.array(found, bool)

    @cached_property
    def beside(self) -> Mapping[int, Ids]:
        """By group what stays of its layer beside its units; see :func:`staying_beside`."""
        return staying_beside(self.graph.units, self.limits, self.graph.model)

    @cached_property
    def demands(self) -> SizeConstraints:
        """What sizes in the program would demand if something were asked of every group."""
        return candidates(self.graph, narrower=self.options.narrower)[1]


def _require_groups(graph: Analysis) -> None:
    """Raise a PlanError if a model has nothing that can be removed."""
    if graph.units.groups:
        return
    frozen = frozen_axes(graph)
    found, do = _all_frozen(graph.model, frozen) if frozen else _no_parameters(graph.model)
    raise PlanError(
        f"model: {type(graph.model).__name__} has nothing that can be pruned",
        where=str(frozen[0].axis) if frozen else type(graph.model).__name__,
        found=found,
        needed="channels, heads or experts that can go without changing the shapes of inputs and outputs",
        do=do,
    )


def _needed(graph: Analysis) -> dict[tuple[int, int, str], int]:
    """By group, operation and reason how many units it needs of the group: of rows with units of their own each."""
    found: dict[tuple[int, int, str], dict[bytes, int]] = defaultdict(dict)
    choices = graph.labeling.labels.facts.choices
    for row, least, node, why in ((row, least, node, why) for rows, least, node, why in choices for row in rows):
        for group, units, number in _needed_of_row(graph, row, least):
            known = found[group, node, why]
            known[units] = max(number, known.get(units, 0))
    return {key: sum(rows.values()) for key, rows in found.items()}


def _needed_of_row(graph: Analysis, row: Ids, least: int) -> Iterator[tuple[int, bytes, int]]:
    """The groups of which ``least`` entries of a row need units, their units, and of how many something must be left.

    Entries that never go count as left, and a unit that several entries need leaves all of them.
    """
    unit, entry = graph.solution.expand(graph.solution.of[row], np.arange(row.size))
    group_of = graph.units.group_of
    fixed = row.size - len(np.unique(entry[group_of[unit] >= 0]))
    pairs, _ = distinct_columns(np.stack([unit, entry]))
    units, times = np.unique(pairs[0], return_counts=True)
    within = times < row.size  # what all of them need holds the whole row
    groups = group_of[units]
    for group in np.unique(groups[within & (groups >= 0)]).tolist():
        mine = within & (groups == group)
        yield group, units[mine].tobytes(), max(-(-(least - fixed) // int(times[mine].min())), 0)


def _all_frozen(model: nn.Module, frozen: Sequence[Frozen]) -> tuple[str, str]:
    """Why everything is frozen, and what to do: torch.ao may have quantized a module, or prepared for that."""
    reasons = list(map(str, frozen[:5]))
    kinds = ((path, class_name(type(module))) for path, module in named_modules(model))
    quantized = [f"{path} is {with_article(kind)}" for path, kind in kinds if kind.startswith("torch.ao.")]
    return "\n".join((*quantized[:1], *reasons)), PRUNE_FIRST if quantized else _PART_OF


def _require_traced_sizes(graph: Analysis) -> None:
    """Raise a PlanError if a model has other sizes than when it was traced: it was pruned in place since then."""
    traced = graph.trace.shapes
    for name, parameter in tables(graph.model).parameters.items():
        if name in traced and parameter.shape != traced[name]:
            raise PlanError(
                f"model: {name} has the shape {list(parameter.shape)}, and had {list(traced[name])} when it was traced",
                where=name,
                found=f"shape {list(parameter.shape)}",
                needed=f"shape {list(traced[name])}, as the graph was made of it",
                do="trace the model again after it was pruned in place: graphprune.trace(model, example_inputs)",
            )


def types_changed(graph: Analysis) -> Iterator[tuple[str, str, str]]:
    """What has another type than when it was traced, as after ``model.half()``: its name, its type and the one then."""
    own = tables(graph.model)
    for node in graph.trace.graph.nodes:
        name = node.meta.get("tensor")
        now = own.parameters.get(name, own.buffers.get(name)) if node.op == "get_attr" else None
        if now is not None and now.dtype != node.meta["dtype"]:
            yield name, str(now.dtype), str(node.meta["dtype"])


_PART_OF = "prune the model that these layers are a part of; graph.explain(name) says what holds an axis"


def _no_parameters(model: nn.Module) -> tuple[str, str]:
    """Why a model without parameters has none, if that can be told, and what to do."""
    packed = packed_layer(model)
    if packed is None:
        return "it has no parameters", "pass a model with convolutions, linear layers or attention"
    return f"its layers are quantized ({packed})", PRUNE_FIRST


PRUNE_FIRST = "prune the model, then quantize the slim one"


def packed_layer(model: nn.Module) -> str | None:
    """The class of a layer whose weights torch has packed as integers; None: there is none."""
    kinds = (type(module) for _, module in named_modules(model))
    return next((f"{k.__module__}.{k.__name__}" for k in kinds if ".quantized." in k.__module__), None)


def _depth_in_blocks(graph: Analysis, options: PruningOptions) -> int:
    """How many blocks are to be left out."""
    return floor((options.depth or 0.0) * len(graph.blocks) + 1e-9)


def removable_blocks(graph: Analysis, options: PruningOptions, frozen: FrozenParts) -> list[Block]:
    """The blocks of which ``depth=`` leaves some out.

    Raises:
        PlanError: there is none, or overrides freeze parts of so many that the rest is not enough.
    """
    blocks = [block for block in graph.blocks if not counts_tokens(graph.model, [block.path])]
    free = [block for block in blocks if not frozen.are_in([block.path])]
    if not free or (len(free) < len(blocks) and len(free) < _depth_in_blocks(graph, options)):
        raise no_block(graph, options, frozen)
    return free


def no_block(graph: Analysis, options: PruningOptions, frozen: FrozenParts) -> PlanError:
    """The error of a model of which nothing can be left out whole, or not so much as is asked for."""
    may_go = [path for path in _wholes(graph) if not counts_tokens(graph.model, [path])]
    stay = [path for path in may_go if frozen.are_in([path])]
    if stay:
        return _too_much_frozen(options, stay, len(may_go) - len(stay), len(_wholes(graph)))
    held = [block.path for block in graph.blocks]
    if held:
        return PlanError(
            f"depth: {', '.join(held)} cannot be left out, as Transformers counts tokens by the cache of layer 0, and "
            "there is no other residual block",
            where=held[0],
            found=f"depth={options.depth:g}, and {len(held)} block{'s' if len(held) > 1 else ''}",
            needed="a model with several residual blocks",
            do="leave out depth=, and prune channels instead: ratio=0.5",
        )
    path, why = hindrance(graph.trace, graph.model) or ("", "")
    other = "no module whose result is its input plus something"
    return PlanError(
        f"depth: the model has no residual block that can be left out{f': {path} {why}' if path else ''}",
        where=path,
        found=f"depth={options.depth:g}, and {f'{path}, which {why}' if path else other}",
        needed="modules that run once, are given a tensor, and return that tensor plus something",
        do="leave out depth=, and prune channels instead: ratio=0.5"
        + (_SEARCHED if options.allocation != SEARCHED and len(DepthUnits.of(graph)) else ""),
    )


def _wholes(graph: Analysis) -> list[str]:
    """Blocks, or branches of a model that has none, by path."""
    return [block.path for block in graph.blocks] or [branch.path for branch in graph.branches]


def _too_much_frozen(options: PruningOptions, stay: Sequence[str], left: int, count: int) -> PlanError:
    """The error of a model of which overrides freeze parts of too many blocks.

    Args:
        options: what is asked.
        stay: the blocks that have frozen parts.
        left: how many others can be left out.
        count: how many blocks there are.
    """
    shown = ", ".join([*stay[:4], *(["..."] if len(stay) > 4 else [])])
    less = f", or ask for depth={ceil(1000 * left / count) / 1000:g}" if left else ""
    return PlanError(
        f"depth: parts of {shown} are frozen by overrides=, and of the rest {left or 'nothing'} can be left out",
        where=stay[0],
        found=f"depth={options.depth:g}, and {len(stay)} of {count} blocks with frozen parts",
        needed="as many blocks without frozen parts as are to be left out",
        do=f"freeze less by overrides={less}",
    )


_SEARCHED = (
    '; or leave out attention and MLPs: graph.plan(macs=0.7, depth=0.25, calibration=batches, allocation="searched")'
)


def _limits(graph: Analysis, options: PruningOptions) -> tuple[Limit, ...]:
    """One limit for each group: what the options ask, and what operations need."""
    limits = group_limits(graph.units.groups, options.overrides, options.role_ratios, options.limits, graph.model)
    solution, group_of = graph.solution, graph.units.group_of
    facts = graph.labeling.labels.facts
    for ids, number, _ in facts.multiples:  # an operation runs on multiples of a number only
        for group in np.unique(group_of[solution.expand(solution.of[ids.ravel()])[0]]).tolist():
            if group >= 0:
                limits[group] = replace(limits[group], multiple=lcm(limits[group].multiple, number))
    for (group, _, why), number in _needed(graph).items():
        least = min(number, graph.units.groups[group].units)
        if least > limits[group].least:
            limits[group] = replace(limits[group], least=least, need=why)
    _keep_groups_of_streams(graph, limits)
    if options.serve is not None:
        groups = graph.units.groups
        limits = serving_limits(limits, groups, options.serve, options.multiple, options.tensor_parallel)
    return tuple(limits)


def _keep_groups_of_streams(graph: Analysis, limits: list[Limit]) -> None:
    """Where something is asked of the channels of a residual stream, the groups that these are read in stay."""
    for group, limit in zip(graph.units.groups, tuple(limits), strict=True):
        if limit.ratio is None or not graph.units.is_grouped_stream(group):
            continue
        around = graph.units.group_of[rows_around(graph.solution, group.unit_ids)]
        for number in np.unique(around[around >= 0]).tolist():
            if limits[number].ratio is None:
                limits[number] = replace(limits[number], ratio=0.0, why=f"{limit.why} is of the channels within them")
