"""Why each group keeps as many units as it does, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from math import ceil, floor

import numpy as np

from graphprune.errors import PlanError
from graphprune.graph.candidates import held_width, reason_of_kind, tie_of, tied_by
from graphprune.graph.constraints import SizeConstraints
from graphprune.graph.groups import Group
from graphprune.graph.heads_in_one import why_one_stays
from graphprune.graph.living import all_living
from graphprune.planning.limits import Limit
from graphprune.planning.objectives import UNIT_KIND, Budget
from graphprune.planning.options import ROLE_OPTIONS
from graphprune.planning.search import Problem
from graphprune.planning.setup import PlanSetup
from graphprune.utils.arrays import Mask


def decided_by(setup: PlanSetup, number: int, asked: Mapping[int, float | None]) -> str:
    """What decides how many units of a group stay.

    Args:
        setup: the model and what is asked.
        number: of the group.
        asked: the ratios of the groups that lose units in step with it, itself included; None: nothing is asked of one.
            The least decides.
    """
    options, limit = setup.options, setup.limits[number]
    if limit.frozen:
        return f"frozen{_by(limit)}"
    others = len(asked) - 1
    tied = f", in step with {others} other group{'s' * (others > 1)}" if others else ""
    ratios = {group: ratio for group, ratio in asked.items() if ratio is not None}
    if not ratios:
        under = ", ".join(options.budget_specs) or "ratio"
        return f"{options.allocation_name or 'global'} under {under}{_by(limit)}{tied}"
    least, own = min(ratios, key=ratios.__getitem__), ratios.get(number)
    lower = f"{ratios[least]:g}"
    if own is None or own == ratios[least]:
        return f"ratio {lower}{_by(setup.limits[least] if own is None else limit)}{tied}"
    by = f"{setup.groups[least].name}{_by(setup.limits[least])}"
    return f"ratio {own:g}{_by(limit)}, lowered to {lower} by {by}{tied}"


def _by(limit: Limit) -> str:
    """What asked for a limit, in brackets."""
    return f" ({limit.why})" if limit.why else ""


def why_held(setup: PlanSetup, number: int, holding: int | None, divisor: int) -> str:
    """Why nothing goes of a group although its ratio is not 0; empty where its own limits say so already.

    Args:
        setup: the model and what is asked.
        number: of the group.
        holding: the group whose limits let nothing go of what goes in step; None: each would let something go.
        divisor: what sizes of the code divide the number of its units by.
    """
    limit = setup.limits[number if holding is None else holding]
    if holding == number:
        told = limit.multiple > 1 or limit.least == setup.groups[number].units
        return "" if told else f"the least that can go at once leaves less than the {limit.least} that must stay"
    if holding is None:
        whole = f"sizes of the code divide what is left by {divisor}, and " if divisor > 1 else ""
        return "" if limit.multiple > 1 else f"{whole}the least that can go at once is more than that"
    name = setup.groups[holding].name
    if limit.frozen:
        return f"{name} is frozen{_by(limit)}"
    multiple = f", and a multiple of {limit.multiple} or everything" if limit.multiple > 1 else ""
    return f"{name} keeps at least {limit.least} of its {setup.groups[holding].units} units{multiple}{_by(limit)}"


def left_in_multiples(multiple: int, beside: int) -> str:
    """What holds of the number of units that stay, with so many beside them that stay anyway."""
    return f"what is left is a multiple of {multiple}" + (f" with {beside} beside it that cannot go" if beside else "")


def reasons(setup: PlanSetup, constraints: SizeConstraints, why: Mapping[int, str], alive: Mask) -> list[str]:
    """Why each group has as many units as it has.

    Args:
        setup: the model and what was asked.
        constraints: what sizes in the program ask.
        why: what decided, by group; groups that nothing could be taken from are missing.
        alive: which classes live.
    """
    found = []
    for number, group in enumerate(setup.groups):
        kept, limit = int(np.count_nonzero(alive[group.unit_ids])), setup.limits[number]
        if number not in why:
            held = [constraints.frozen[u] for u in group.unit_ids.tolist() if u in constraints.frozen]
            found.append(str(held[0]) if held else _untouched(setup, constraints, number))
        elif limit.frozen:
            found.append(why[number])
        elif kept == limit.least:
            found.append(f"{why[number]}; {_at_floor(limit)}")
        elif kept == group.units and limit.multiple > 1 and setup.ratio(number) != 0:
            beside = len(setup.beside.get(number, ()))
            found.append(f"{why[number]}; {left_in_multiples(limit.multiple, beside)}, or everything")
        else:
            found.append(why[number])
    return found


def _untouched(setup: PlanSetup, constraints: SizeConstraints, number: int) -> str:
    """Why nothing was taken from a group that could lose something."""
    group, narrower = setup.groups[number], setup.options.narrower
    if group.units == 1:
        return why_one_stays(setup.graph, int(group.unit_ids[0]))
    kind = setup.graph.units.kind_of(group.unit_ids)
    if group.scoring and narrower:  # a size is that of values too
        return str(tied_by(tie_of(constraints, group), " (head_width= narrows queries, keys and values)"))
    whole = not narrower or "head_width" in narrower
    held = held_width(setup.graph) if kind == "cell" and whole else {}
    if setup.graph.units.is_grouped_stream(group) and not setup.reached[number]:
        return _unasked(setup, number)
    if known := held.get(int(group.unit_ids[0])):
        return str(known)
    if kind in ("cell", "repeat"):
        return reason_of_kind(kind, narrower, group.role)
    if not setup.reached[number]:
        return reason_of_kind(kind, narrower) if kind == "row" and narrower else _unasked(setup, number)
    tie = tie_of(constraints, group)
    return str(tied_by(tie, _in_step(setup, group))) if tie else reason_of_kind(kind, narrower)


def _in_step(setup: PlanSetup, group: Group) -> str:
    """What to ask for too, with which a group that is tied to channels that stay would lose some of its own."""
    if tie_of(setup.demands, group):
        return ""
    units = [e.expression.units for e in setup.demands.equations if np.isin(e.expression.units, group.unit_ids).any()]
    numbers = np.unique(setup.graph.units.group_of[np.concatenate(units)]).tolist() if units else ()
    roles = {setup.groups[n].role for n in numbers if n >= 0 and not setup.reached[n] and not setup.limits[n].frozen}
    asked = [f"{role}=" for role in ROLE_OPTIONS if role in roles]
    return f" (give {' and '.join(asked)} too: they go in step)" if asked else ""


def _at_floor(limit: Limit) -> str:
    """That no less can stay, and what operation needs so many, if one does."""
    return f"at its floor: {limit.need}" if limit.need else "at its floor"


def _unasked(setup: PlanSetup, number: int) -> str:
    """Why a group is not to lose anything."""
    limit, ratio = setup.limits[number], setup.ratio(number)
    by = _by(limit)
    if limit.frozen:
        return f"frozen{by}"
    if limit.ratio == 0:
        return f"ratio 0{by}"
    if setup.groups[number].units <= limit.least:
        return f"{_at_floor(limit)}{by}"
    return f"ratio {ratio:g} is less than one unit{by}" if ratio else f"nothing is asked of it{by}"


def out_of_reach(problem: Problem, budgets: Sequence[Budget], setup: PlanSetup) -> PlanError:
    """The error of budgets that cannot be met, which says what the smallest reachable value is."""
    least = problem.costs(problem.living(problem.state.lengths))
    dense = problem.costs(all_living(problem.solution))
    wrong = [i for i, budget in enumerate(budgets) if least[i] > budget.limit]
    worst = max(wrong, key=lambda i: least[i] / budgets[i].limit, default=0)
    budget, left = budgets[worst], budgets[worst].shown_as_limit(least[worst])
    share = _thousandths(least[worst], dense[worst]) / 1000
    asked = budget.text if budget.kind == UNIT_KIND else f"{budget.kind}: {budget.text}"
    if budget.kind == UNIT_KIND:
        reached = f"{left} of {budget.shown(dense[worst])} units are left"
        needed, ask = f"ratio={floor(1000 * (1 - least[worst] / dense[worst])) / 1000:.3f} or less", "that or less"
    else:
        reached = f"the model still costs {left}, {share:.3f} of what it costs now"
        needed, ask = f"{left} or more, {budget.kind}={share:.3f}", "that or more"
    return PlanError(
        f"{asked} is out of reach; with every group at its floor {reached}",
        found=budget.text,
        needed=needed,
        do=f"ask for {ask}, or {_lower_floors(setup)}",
    )


def _thousandths(least: float, dense: float) -> int:
    """The fewest thousandths of what a model costs now that are a budget within reach."""
    return next(number for number in count(ceil(1000 * least / dense)) if number / 1000 * dense >= least)


def _lower_floors(setup: PlanSetup) -> str:
    """What lets more units go."""
    multiple = max((limit.multiple for limit in setup.limits), default=1)
    layers = setup.options.layers
    ways = [f"leave out layers={layers!r}, with which layers go together"] if layers else []
    most, movable = setup.options.limits.max_ratio, not all(limit.frozen or limit.need for limit in setup.limits)
    ways += [f"raise max_ratio (now {most:g})"] if movable and most is not None and most < 1 else []
    ways += [f"let multiples of less than {multiple} units be left"] if multiple > 1 else []
    ways += ["hold less by overrides="] if setup.options.overrides else []
    ways += ["give larger ratios by role"] if any(setup.options.role_ratios.values()) else []
    return ", or ".join([*ways, "free what is frozen (print(graph) lists it)"])
