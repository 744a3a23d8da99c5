"""Requests of which nothing came: a plan that removes nothing of what it was asked for is warned of."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from math import ceil, floor

from torch import Tensor

from graphprune.errors import ChannelsKeptWarning, NothingRemovedWarning
from graphprune.graph.analysis import Analysis
from graphprune.graph.frozen import frozen_axes
from graphprune.planning.chosen_channels import empty_entries, partly_masked_units, units_left
from graphprune.planning.depth_units import REMOVABLE
from graphprune.planning.limits import described, matches
from graphprune.planning.options import PruningOptions
from graphprune.pruning.plan import Choice, Plan
from graphprune.rules.labels import ParameterAxis
from graphprune.utils.callers import frames_of_this_package
from graphprune.utils.modules import named_modules

SHOWN = 3
"""How many groups a warning names."""


def warn_of_empty_requests(graph: Analysis, options: PruningOptions, plan: Plan) -> None:
    """Warn of everything that was asked for and of which the plan removes nothing."""
    blocks = plan.requested.get(REMOVABLE, len(graph.blocks)) if options.depth else 0
    warn_of_empty_choices(graph, options, plan.choices, blocks)


def warn_of_empty_choices(graph: Analysis, options: PruningOptions, choices: Sequence[Choice], blocks: int) -> None:
    """Warn of everything that was asked for and of which nothing is removed.

    Args:
        graph: the analyzed model.
        options: what was asked for.
        choices: what is removed of each group.
        blocks: of how many blocks ``depth=`` leaves some out.
    """
    left_out = floor((options.depth or 0.0) * blocks + 1e-9)
    for asked, named in _requests(graph, options, choices, left_out):
        if not any(choice.removed for choice in named):
            _warn("\n  ".join([f"{asked}: nothing is removed; {_hint(options, named)}", *_shown(named)]))
    for asked in _beyond_all_groups(graph, options):
        _warn(asked)
    if options.depth and not left_out:
        least = ceil(1000 / blocks) / 1000
        _warn(f"depth={options.depth:g}: no block is left out; {blocks} can be, so ask for {least:g} or more")


def warn_of_kept_channels(graph: Analysis, masks: Mapping[str, Tensor], plan: Plan) -> None:
    """Warn of channels that masks leave nothing of in some weights, but not in all, and if nothing goes at all."""
    partly = partly_masked_units(graph, masks) & units_left(graph, ~graph.alive(plan.removed))
    counts = [(group, int(partly[group.unit_ids].sum())) for group in graph.groups]
    kept = [
        f"{group.name} keeps {count} of {group.units} units that are masked in some weights and not in others"
        for group, count in counts
        if count
    ]
    if not any(choice.removed for choice in plan.choices):
        kept += _masked_and_frozen(graph, masks)
        kept = kept or ["no mask leaves nothing of a row, a column or a scale"]
        _warn("\n  ".join(["masks: nothing is removed", *kept]))
    elif kept:
        _warn("\n  ".join(["masks: some channels stay", *kept]), ChannelsKeptWarning)


def _masked_and_frozen(graph: Analysis, masks: Mapping[str, Tensor]) -> list[str]:
    """Axes of which nothing can go, with entries that masks leave nothing of."""
    counts = {
        str(ParameterAxis(name, dim)): len(entries)
        for name, dims in empty_entries(graph, masks).items()
        for dim, entries in enumerate(dims)
    }
    axes = [one for one in frozen_axes(graph) if one.count == one.size and counts.get(one.axis)]
    return [f"{counts[one.axis]} of {one.size} entries of {one.axis} are masked and stay: {one.reason}" for one in axes]


def _shown(choices: list[Choice]) -> list[str]:
    lines = [f"{c.group} keeps {_all_units(c.units)}: {c.why}" for c in choices[:SHOWN]]
    return [*lines, f"and {len(choices) - SHOWN} more groups"] if len(choices) > SHOWN else lines


def _all_units(count: int) -> str:
    return f"all of its {count} units" if count > 1 else "its only unit"


def _warn(message: str, category: type[Warning] = NothingRemovedWarning) -> None:
    warnings.warn(message, category, stacklevel=frames_of_this_package())


def _requests(
    graph: Analysis, options: PruningOptions, choices: Sequence[Choice], left_out: int
) -> Iterator[tuple[str, list[Choice]]]:
    """What something is to be removed for, in words, and the groups that it names."""
    by_name = {choice.group: choice for choice in choices}
    budgets = {kind: spec for kind, spec in options.budget_specs.items() if spec != 1.0}
    everything = budgets | ({"ratio": options.ratio} if options.ratio else {})
    if everything and not left_out:
        yield ", ".join(f"{name}={value}" for name, value in everything.items()), list(choices)
    for role, ratio in options.role_ratios.items():
        if ratio:
            yield f"{role}={ratio:g}", [by_name[group.name] for group in graph.units.groups if group.asked_by(role)]
    modules = dict(named_modules(graph.model)) if options.overrides else {}
    for match, override in options.overrides.items():
        if override.ratio and not override.frozen:
            named = [by_name[group.name] for group in graph.units.groups if matches(match, group, modules)]
            yield f"overrides of {described(match, modules)}, ratio={override.ratio:g}", named


def _beyond_all_groups(graph: Analysis, options: PruningOptions) -> Iterator[str]:
    """Floors and multiples of overrides that are larger than every group that they are for."""
    modules = dict(named_modules(graph.model)) if options.overrides else {}
    for match, override in options.overrides.items():
        largest = max(group.units for group in graph.units.groups if matches(match, group, modules))
        for name in ("min_units", "multiple"):
            value = getattr(override, name)
            if value is not None and value > largest and not override.frozen:
                yield (
                    f"overrides of {described(match, modules)}, {name}={value}: no group that it is for has more than "
                    f"{largest} units, so nothing of them is removed; ask for less, or for frozen=True"
                )


def _hint(options: PruningOptions, choices: list[Choice]) -> str:
    """What can be done about it."""
    largest = max((choice.units for choice in choices), default=1)
    if options.max_ratio is not None and options.max_ratio * largest < 1:
        return f"max_ratio={options.max_ratio:g} lets less than one unit of each group go"
    if options.multiple is not None and options.multiple >= largest:
        return f"no group has more than multiple={options.multiple} units: ask for a smaller multiple"
    if options.budget_specs:
        return "the model is within the budget as it is, or nothing may be removed"
    return f"the ratio is less than one unit of the groups, or they are held (the largest has {largest} units)"
