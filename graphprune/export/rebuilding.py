"""Before a model is saved: what builds its dense form, tried by building it and pruning it, and what would not load."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import nn
from torch.nn.utils import prune

from graphprune.errors import InputError, LoadError, PlanError, SaveError
from graphprune.export.architecture import IMPORT, Architecture, build, factory_name
from graphprune.export.libraries import is_data, timm_arguments, torchvision_arguments, transformers_arguments
from graphprune.export.likeness import first_difference
from graphprune.export.restoring import can_be_made, is_class, placeholders, restore
from graphprune.export.structure import Structure
from graphprune.pruning.plan import history_of
from graphprune.pruning.resuming import fitting_plans, replayed_without_data
from graphprune.utils.checks import check_callable, check_optional, found_value, shown, with_article
from graphprune.utils.modules import class_name, named_modules

_MODULES_EACH, _MODULES_FREE = 64, 10_000


def module_limit(structure: Structure) -> int:
    """How many modules the dense form of a model may have: blocks may have been left out."""
    return _MODULES_FREE + _MODULES_EACH * len(structure.modules)


def find_architecture(slim: nn.Module, structure: Structure) -> tuple[Architecture | None, str]:
    """What builds the dense model, or why nothing is known that does."""
    why = f"{class_name(type(slim))} is not a model of torchvision, timm or Transformers, nor made without arguments"
    if factory_name(type(slim)) is None:
        why = f"{class_name(type(slim))} is not at the top of a module that other programs can import"
    for record in _candidates(slim):
        problem = _problem(record, slim, structure)
        if problem is None:
            return record, ""
        if not isinstance(problem, _Misfit):
            why = f"{record}: {problem}"
    return None, why


def given_architecture(
    slim: nn.Module, structure: Structure, factory: Callable[..., nn.Module], arguments: Mapping[str, Any] | None
) -> Architecture:
    """A factory of the user's, which was tried; of a ``functools.partial``, the function and its arguments.

    Raises:
        InputError: it cannot be imported, or an argument is no JSON data.
        SaveError: what it makes does not become the slim model.
    """
    check_callable("factory", factory, "a function or class that makes the dense model")
    check_optional("arguments", arguments, Mapping, "a dict of the factory's keyword arguments")
    given = dict(arguments or {})
    if isinstance(factory, functools.partial):
        given = _named(factory) | given
        factory = factory.func
    name = factory_name(factory)
    if name is None:
        raise InputError(
            f"factory: {getattr(factory, '__qualname__', factory)!r} cannot be imported by its name",
            found=found_value(factory),
            needed="a function or class at the top of a module that can be imported, or a functools.partial of one",
            do="define it there, and pass the function itself",
        )
    if not is_data(given):
        raise InputError(
            "arguments: must be JSON data (numbers, strings, truth values, None, lists, dicts)",
            found=shown(given),
            needed="numbers, strings, truth values, None, and lists and dicts of them",
            do="make the rest within the factory",
        )
    for meta in (True, False):
        record = Architecture(IMPORT, name, given, meta)
        problem = _problem(record, slim, structure)
        if problem is None:
            return record
    raise SaveError(
        f"factory: {name} does not make the dense model of this {type(slim).__name__}: {problem}",
        where=name,
        found=str(problem),
        needed=f"the {type(slim).__name__} as it was before pruning",
        do="pass a factory= that makes the architecture that was pruned, with its arguments=",
    )


def _named(factory: functools.partial[nn.Module]) -> dict[str, Any]:
    """The arguments that a partial gives, by name.

    Raises:
        InputError: the function does not take one of them by name.
    """
    by_name = [p.name for p in _parameters(factory.func) if p.kind is p.POSITIONAL_OR_KEYWORD]
    if len(factory.args) > len(by_name):
        raise InputError(
            f"factory: argument {len(by_name) + 1} of the functools.partial has no name, and a bundle names arguments",
            found=shown(factory.args[len(by_name)]),
            needed="arguments that the function takes by name",
            do="give them by name, or define a function without arguments that makes the model",
        )
    return dict(zip(by_name, factory.args, strict=False)) | factory.keywords


def _parameters(function: Callable[..., nn.Module]) -> Iterable[inspect.Parameter]:
    """Those of a function; none if Python does not know them."""
    try:
        return inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()


def check_restorable(slim: nn.Module, structure: Structure) -> None:
    """Raise a SaveError if not even the dense model would be enough: modules were changed that torch does not make."""
    known = history_of(slim).kinds
    for data in structure.modules:
        same = data.path in known and is_class(known[data.path], data.kind)
        if not same and not (can_be_made(data) and data.path):
            was = f"was {known[data.path]} after pruning" if data.path in known else "was not there after pruning"
            masks = "turn masks into zeros by graphprune.make_permanent(slim); " if prune.is_pruned(slim) else ""
            raise SaveError(
                f"slim: {data.path or 'the model'} is {data.kind} and {was}, so that it could not be loaded into a "
                "dense model",
                where=data.path or type(slim).__name__,
                found=f"{data.kind}, which {was}",
                needed="modules as the dense model has them",
                do=f"{masks}save with factory=, a function that makes the dense model with this module; or use "
                "torch.save(slim)",
            )


class _Misfit(str):
    """A candidate that is another model altogether: nothing that a user wants to hear of."""


class _Difference(str):
    """A candidate that is the model but for a value which no bundle holds."""


def differing_values(slim: nn.Module, structure: Structure) -> list[str]:
    """The first value in which the model differs from what its class makes without arguments, if that is all.

    Only plain data counts: what else a model holds may be worked out when it is made.
    """
    own = factory_name(type(slim))
    problem = None if own is None else _problem(Architecture(IMPORT, own, {}, True), slim, structure)
    path = problem.removesuffix(" differs") if isinstance(problem, _Difference) else ""
    owner, _, name = path.rpartition(".")
    value = vars(dict(named_modules(slim))[owner]).get(name) if path else None
    return [f"{path} ({with_article(type(value).__name__)})"] if isinstance(value, dict | list | tuple | str) else []


def _candidates(slim: nn.Module) -> Iterator[Architecture]:
    history = history_of(slim)
    plan = history.plans[0]
    for source, found in (
        ("transformers", transformers_arguments(slim, history.config)),
        ("timm", timm_arguments(slim, plan)),
        ("torchvision", torchvision_arguments(type(slim), plan)),
    ):
        yield from (Architecture(source, name, arguments) for name, arguments in found)
    own = factory_name(type(slim))
    if own is not None:
        yield from (Architecture(IMPORT, own, {}, meta) for meta in (True, False))


def _problem(record: Architecture, slim: nn.Module, structure: Structure) -> str | None:
    """Why what a record builds does not become the slim model; None: it does."""
    plans = history_of(slim).plans
    most = 64 + 3 * len(structure.modules) if not any(p.skipped for p in plans) else module_limit(structure)
    if not is_data(record.arguments):
        return "its configuration holds what is no JSON data"
    try:
        dense = build(record, most, trusted=True)
    except LoadError as error:
        return _Misfit(error.what)
    left = fitting_plans(dense, plans)
    try:
        for first in left[:1]:
            first.check(dense)
            if more := [name for name, _ in dense.named_parameters() if name not in first.shapes]:
                return _Misfit(f"has {more[0]} too")
        made = replayed_without_data(dense, left, "it", len(plans) - len(left), reshaping=True)
    except PlanError as error:
        return _Misfit(error.what)
    except LoadError as error:
        return error.what
    problems = restore(made, structure, placeholders(structure))
    if problems:
        return problems[0]
    different = first_difference(made, slim)
    return None if different is None else _Difference(f"{different} differs")
