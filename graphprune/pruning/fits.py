"""Whether a plan fits a model: its tensors, and the integers that change."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import nn

from graphprune.errors import PlanError
from graphprune.pruning.rewrite import Kept, computed_names
from graphprune.tracing.rebuilt_tensors import is_rebuilt
from graphprune.tracing.size_places import SizePlace, is_integer
from graphprune.utils.checks import found_value, with_article
from graphprune.utils.compiled import bare_name
from graphprune.utils.modules import Modules, Tables, tables

ShapesByName = Mapping[str, tuple[int, ...]]


def check_fits(model: nn.Module, wanted: ShapesByName, kept: Kept, own: Tables | None = None) -> None:
    """Raise a PlanError unless the model has exactly the tensors that a plan was made for.

    What forward makes anew when it does not fit may be missing, or be of another size, unless the plan cuts it.

    Args:
        model: to which the plan is to be applied.
        wanted: the shapes of these tensors by name.
        kept: the entries that the plan keeps of those that it cuts.
        own: the model's tensors, if they are known.
    """
    own = own or tables(model)
    found = {name: tuple(t.shape) for name, t in own.unique()}
    rebuilt = rebuilt_otherwise(wanted, found, kept, own.modules)
    shapes = {name: shape for name, shape in wanted.items() if name not in rebuilt}
    missing = sorted(shapes.keys() - found.keys())
    if missing:
        _check_compiled_alike(model, missing[0], found)
        raise PlanError(
            f"model: the plan names {missing[0]!r}, which this {type(model).__name__} does not have "
            f"({len(missing)} such names)",
            where=missing[0],
            found=f"{with_article(type(model).__name__)} without it",
            needed=f"the {len(shapes)} parameters and buffers that the plan was made for",
            do=_OWN,
        )
    for name, shape in shapes.items():
        if found[name] != shape:
            raise PlanError(
                f"model: {name} has shape {list(found[name])}, the plan was made for {list(shape)}",
                where=name,
                found=f"shape {list(found[name])}",
                needed=f"shape {list(shape)}",
                do=f"{_OWN}, once",
            )
    for name in sorted(own.plain.keys() & kept.keys()):
        _check_not_computed(model, name, wanted, own)


def _check_compiled_alike(model: nn.Module, missing: str, found: ShapesByName) -> None:
    """Raise a PlanError if a name is missing because a submodule is compiled, or because it is not."""
    own = next((name for name in found if bare_name(name) == bare_name(missing)), None)
    if own is None:
        return
    there = len(missing) > len(own)
    part = max(missing, own, key=len).rpartition("._orig_mod.")[0]
    raise PlanError(
        f"model: the plan names {missing!r}, which is {own!r} in this {type(model).__name__}: {part!r} was compiled "
        f"{'there and is not here' if there else 'here and was not there'}",
        where=missing,
        found=f"{part!r} {'not compiled' if there else 'compiled by torch.compile'}",
        needed=f"{part!r} {'compiled' if there else 'not compiled'}, as in the model that the plan was made for",
        do=f"compile {part!r} with torch.compile first"
        if there
        else "apply the plan first, and compile the slim parts",
    )


def _check_not_computed(model: nn.Module, name: str, wanted: ShapesByName, own: Tables) -> None:
    """Raise a PlanError if a tensor that a plan cuts is now worked out, before every call, from one that it leaves."""
    path, _, attribute = name.rpartition(".")
    if attribute not in computed_names(dict(own.modules)[path]):
        return
    origin = next((one for one in own.parameters if one.startswith(f"{name}_") and one not in wanted), None)
    if origin is not None:
        raise PlanError(
            f"model: the plan names {name!r}, which this {type(model).__name__} works out from {origin!r} before every "
            "call",
            where=name,
            found="a mask of torch.nn.utils.prune, or weight or spectral normalization, that the plan does not know",
            needed=f"{name!r} as it was in the model that the plan was made for",
            do="trace the model as it is now and make the plan again, or apply the plan first, and add this to the "
            "slim model",
        )


def rebuilt_otherwise(wanted: ShapesByName, found: ShapesByName, kept: Kept, modules: Modules) -> set[str]:
    """The tensors that are missing, or of another size, because forward makes them anew when they do not fit.

    Args:
        wanted: shapes by name.
        found: those that the model has.
        kept: the entries that a plan keeps of those that it cuts, which are none of these.
        modules: of the model.
    """
    others = [name for name, shape in wanted.items() if found.get(name) != shape and name not in kept]
    kinds = {path: type(module) for path, module in modules} if others else {}
    return {name for name in others if is_rebuilt(kinds, name)}


def has_size(model: nn.Module, path: str) -> bool:
    """Has the model an integer at this path, or a field that holds nothing yet?"""
    try:
        value = SizePlace.of(model, path).value
    except (AttributeError, IndexError, KeyError, TypeError):
        return False
    return value is None or is_integer(value)


def check_sizes(model: nn.Module, sizes: Mapping[str, int]) -> None:
    """Raise a PlanError unless the model has an integer at each of these paths, in the place of which a size can be.

    A field of a configuration that holds nothing yet counts as one.
    """
    for path, new in sizes.items():
        try:
            place = SizePlace.of(model, path)
            size = place.value
        except (AttributeError, LookupError, TypeError) as error:
            raise PlanError(
                f"model: has no {path!r} for the plan to change ({error})",
                where=path,
                found=f"{with_article(type(model).__name__)} without it",
                needed=f"an integer at {path!r}, of which the plan makes {new}",
                do=_OWN,
            ) from error
        if not isinstance(size, int | np.integer | None) or isinstance(size, bool):
            raise PlanError(
                f"model: {path!r} is {with_article(type(size).__name__)}, and the plan changes an integer",
                where=path,
                found=found_value(size),
                needed="an integer",
                do=_OWN,
            )
        if not place.is_own:
            raise PlanError(
                f"model: {path!r} is no attribute or entry of the model's own",
                where=path,
                found="an attribute of a class, module or library",
                needed="an attribute or entry of the model's own",
                do=_OWN,
            )
        if new > max(size or 0, MOST_GROWTH):
            raise PlanError(
                f"model: {path!r} is {size}, and the plan makes {new} of it, which nothing shrinks to",
                where=path,
                found=f"{size} in the model, {new} in the plan",
                needed=f"at most {max(size or 0, MOST_GROWTH)}",
                do=_OWN,
            )


MOST_GROWTH = 1 << 16
"""Sizes shrink. What is worked out from them, such as a number of repetitions, may grow, but not without bounds."""


_OWN = "apply a plan to the architecture it was made for"
