"""How the architecture of a slim network is made: an expression that builds the same modules without weights.

Its sizes need not be the original ones: whatever differs is recorded. So the expression is tried, and what it makes is
compared with the slim network.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from graphprune.errors import ExportError
from graphprune.export.loader_text import OWN_NAMES, Builder
from graphprune.export.python_text import Expressions
from graphprune.export.slim_record import slim_record
from graphprune.pruning.plan import history_of
from graphprune.utils.checks import found_value, with_article
from graphprune.utils.random_state import random_numbers_kept


def find_builder(slim: nn.Module, factory: Callable[[], nn.Module] | None) -> tuple[Builder, nn.Module]:
    """The builder and what it makes: of those that fit the one from which least differs.

    Raises:
        ExportError: none fits; the message says what was tried.
    """
    found: list[tuple[int, int, Builder, nn.Module]] = []
    failures = []
    for candidate in _candidates(slim, factory):
        try:
            builder, dense = _built(candidate)
            record = slim_record(slim, dense)
        except Exception as error:  # constructors may raise whatever they like
            failures.append(f"{candidate.expression}: {type(error).__name__}: {error}"[:300])
            continue
        found.append((len(record.attributes) + len(record.shapes), len(found), builder, dense))
    if not found:
        tried = (
            "; ".join(failures[:MOST_SHOWN])
            or f"{type(slim).__name__} takes arguments that are not among its attributes"
        )
        raise ExportError(
            f"slim: found no way to build its architecture ({tried})",
            where=type(slim).__name__,
            found=tried,
            needed="a class, function or functools.partial that makes it, importable from a module",
            do="give one as factory=",
        )
    return min(found, key=lambda one: one[:2])[2:]


MOST_SHOWN = 3
"""Failures in a message."""


def _built(builder: Builder) -> tuple[Builder, nn.Module]:
    """On ``meta``, or with storage where a constructor works with values."""
    try:
        return builder, _run(builder)
    except (RuntimeError, TypeError, ValueError):
        return built_with_storage(builder)


def built_with_storage(builder: Builder) -> tuple[Builder, nn.Module]:
    """The same builder, not on ``meta``, and what it makes."""
    stored = replace(builder, on_meta=False)
    return stored, _run(stored)


def _run(builder: Builder) -> nn.Module:
    """Run the very text that is written."""
    scope: dict[str, Any] = {"torch": torch, "nn": nn}
    with random_numbers_kept(), contextlib.redirect_stdout(sys.stderr):
        exec("\n".join(("from __future__ import annotations", *builder.imports, builder.text())), scope)
        made = scope["build"]()
    if not isinstance(made, nn.Module):
        raise ExportError(
            f"factory: made {with_article(type(made).__name__)}, no module",
            where=builder.expression,
            found=found_value(made),
            needed="a torch.nn.Module",
            do="give a factory= that returns the dense model",
        )
    return made


# ---------------------------------------------------------------- expressions


def _candidates(slim: nn.Module, factory: Callable[[], nn.Module] | None) -> Iterator[Builder]:
    """What may make the architecture."""
    if factory is None:
        yield from _timm_calls(slim)
        yield from _torchvision_calls(slim)
        yield from _constructor_calls(slim)
        yield from _dense_configuration(slim)
        return
    partial = factory if isinstance(factory, functools.partial) else functools.partial(factory)
    writer = Expressions(OWN_NAMES)
    yield Builder.of(writer.call(partial.func, *partial.args, **partial.keywords), writer)


def _timm_calls(slim: nn.Module) -> Iterator[Builder]:
    """Models of timm keep the name that ``create_model`` takes."""
    found = getattr(slim, "pretrained_cfg", None) or getattr(slim, "default_cfg", None) or {}
    name = found.get("architecture") if isinstance(found, dict) else getattr(found, "architecture", None)
    if isinstance(name, str) and "timm" in sys.modules:
        yield Builder(f'create_model("{name}")', ("from timm import create_model",))


def _torchvision_calls(slim: nn.Module) -> Iterator[Builder]:
    """The registered builders of the module in which a class of torchvision is defined."""
    home = type(slim).__module__
    if not home.startswith("torchvision.models"):
        return
    from torchvision.models import get_model_builder, list_models

    for name in list_models():
        builder = get_model_builder(name)
        if builder.__module__ == home:
            backbone = ", weights_backbone=None" if "weights_backbone" in inspect.signature(builder).parameters else ""
            expression = f'get_model("{name}", weights=None{backbone})'
            yield Builder(expression, ("from torchvision.models import get_model",))


def _dense_configuration(slim: nn.Module) -> Iterator[Builder]:
    """The class with the configuration that it had before pruning, where it refuses the present one."""
    data, kind = history_of(slim).config, type(getattr(slim, "config", None))
    make = getattr(kind, "from_dict", None)
    if data is not None and make is not None:
        writer = Expressions(OWN_NAMES)
        yield Builder.of(writer.call(type(slim), make(dict(data))), writer)


def _constructor_calls(slim: nn.Module) -> Iterator[Builder]:
    """The class, with the attributes that are called like its arguments: all of them, or those that it needs."""
    parameters = inspect.signature(type(slim)).parameters.values()
    named = {p.name: p.default is p.empty for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    held = {name: vars(slim)[name] for name in named if name in vars(slim)}
    needed = [name for name, required in named.items() if required]
    for names in dict.fromkeys((tuple(held), tuple(needed))):
        writer = Expressions(OWN_NAMES)
        if held.keys() >= set(needed):
            with contextlib.suppress(ExportError):  # an argument that cannot be written
                yield Builder.of(writer.call(type(slim), **{name: held[name] for name in names}), writer)
