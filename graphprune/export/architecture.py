"""What builds the dense model of a bundle again, on ``meta``: a name that a library knows, or a function of the user's.

Reading a bundle runs the constructors of torchvision, timm and Transformers, with arguments of a few known kinds. What
is imported otherwise may run anything, and needs the caller's consent.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import torch
from msgspec import Struct
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from graphprune.errors import LoadError
from graphprune.export import libraries
from graphprune.tracing.places import raised_at
from graphprune.utils.checks import found_value, with_article
from graphprune.utils.global_state import changing_globals
from graphprune.utils.random_state import random_numbers_kept

IMPORT = "import"
"""The source of what is imported by a path such as ``package.module:function``."""

_BUILDERS: dict[str, Callable[[str, dict[str, Any]], Any]] = {
    "torchvision": libraries.build_torchvision,
    "timm": libraries.build_timm,
    "transformers": libraries.build_transformers,
}


class Architecture(Struct, frozen=True, forbid_unknown_fields=True):
    """How a model is built.

    Attributes:
        source: a library, or ``"import"``.
        name: of the model there, or a path such as ``package.module:function``.
        arguments: JSON data.
        meta: can it be built on ``meta``? Else it is built on the CPU for a moment.
    """

    source: str
    name: str
    arguments: dict[str, Any]
    meta: bool = True

    def __str__(self) -> str:
        return f"{self.name} of {self.source}" if self.source != IMPORT else self.name


def build(record: Architecture, most: int, trusted: bool) -> nn.Module:
    """The dense model, on ``meta`` if it can be.

    Args:
        record: from a bundle, so that nothing of it can be relied on.
        most: modules that the model may have at most.
        trusted: may anything be imported?

    Raises:
        LoadError: it cannot be built, or may not.
    """
    make = _maker(record, trusted)
    try:
        with changing_globals(), random_numbers_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what constructors announce was news when the model was first made
            with torch.device("meta" if record.meta else "cpu"):
                made = _limited(make, most)
    except LoadError:
        raise
    except Exception as error:
        raise LoadError(
            f"directory: building {record} failed with {type(error).__name__}: {error}",
            where="\n".join(filter(None, (str(record), raised_at(error)))),
            found=f"{type(error).__name__}: {error}",
            needed="the libraries and code with which the bundle was saved",
            do=_OTHER,
        ) from error
    if not isinstance(made, nn.Module):
        raise LoadError(
            f"directory: {record} made {with_article(type(made).__name__)}, not a torch.nn.Module",
            where=str(record),
            found=found_value(made),
            needed="a torch.nn.Module",
            do=_OTHER,
        )
    return made


_OTHER = "pass the dense model, on any device: load(directory, model=...)"


def _maker(record: Architecture, trusted: bool) -> Callable[[], Any]:
    if record.source in _BUILDERS:
        return lambda: _BUILDERS[record.source](record.name, record.arguments)
    if record.source != IMPORT:
        raise LoadError(
            f"directory: the model is of {record.source[:40]!r}, which is not known",
            where="the manifest's architecture",
            found=f"the source {record.source[:40]!r}",
            needed=f"one of {', '.join([*_BUILDERS, IMPORT])}",
            do=_OTHER,
        )
    if not trusted:
        raise LoadError(
            f"directory: the model is made by {record.name[:200]!r}, which importing and calling may run any code",
            where="the manifest's architecture",
            found=f"the function {record.name[:200]!r}",
            needed="your word that you trust whoever saved it, or the dense model",
            do=f"if you trust whoever saved it: load(directory, trust_factory=True); else {_OTHER}",
        )
    return lambda: find_factory(record.name)(**record.arguments)


def find_factory(name: str) -> Callable[..., Any]:
    """What a path such as ``package.module:function`` names.

    Raises:
        LoadError: nothing that can be called, or nothing that can be imported.
    """
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for step in path.split("."):
            found = getattr(found, step)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise LoadError(
            f"directory: {name[:200]!r} cannot be imported ({error})",
            where=name[:200],
            found=str(error),
            needed="a module and a name in it that can be imported here",
            do=_OTHER,
        ) from error
    if not callable(found):
        raise LoadError(
            f"directory: {name[:200]!r} is {with_article(type(found).__name__)} and makes no model",
            where=name[:200],
            found=found_value(found),
            needed="a function or class",
            do=_OTHER,
        )
    return found  # type: ignore[no-any-return]


def _limited(make: Callable[[], Any], most: int) -> Any:
    """What ``make`` returns, unless it takes more than so many modules."""
    count = 0

    def registered(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > most:
            raise LoadError(
                f"directory: its model has more than {most} modules, unlike what was saved",
                where="the manifest's architecture",
                found=f"more than {most} modules",
                needed="about as many as were saved",
                do=_OTHER,
            )

    hook = register_module_module_registration_hook(registered)
    try:
        return make()
    finally:
        hook.remove()


def factory_name(factory: Callable[..., Any]) -> str | None:
    """The path by which a function or class can be imported; None if it cannot."""
    module, path = getattr(factory, "__module__", None), getattr(factory, "__qualname__", None)
    if not module or not path or module == "__main__" or "<" in path:
        return None
    name = f"{module}:{path}"
    try:
        return name if find_factory(name) is factory else None
    except LoadError:
        return None
