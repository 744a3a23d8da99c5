"""Models whose class builds them from a configuration object, as those of Transformers do.

The protocol: ``model.config`` is an instance of ``type(model).config_class``, which ``to_dict`` and ``from_dict`` write
and read, and ``type(model)(config)`` builds the model. Fields are named by their path in the configuration,
``"hidden_size"``, ``"text_config.hidden_size"``, ``"hidden_sizes[0]"``.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from graphprune.errors import InputError
from graphprune.tracing.size_places import SizePlace
from graphprune.utils.global_state import changing_globals
from graphprune.utils.modules import named_modules, tables
from graphprune.utils.random_state import random_numbers_kept

Column = tuple[str, int]
"""A dimension of a tensor, by its name; or, with ``ATTRIBUTE``, a number that a module holds, by its path."""
Columns = dict[Column, float]
ATTRIBUTE = -1


class Refused(InputError):
    """A class does not build a model from a configuration."""


def config_of(model: nn.Module) -> Any | None:
    """The configuration that a model's class builds it from; None: it follows no such protocol."""
    kind = getattr(type(model), "config_class", None)
    config = getattr(model, "config", None)
    return config if isinstance(kind, type) and _is_a(config, kind) and hasattr(kind, "from_dict") else None


def _is_a(config: Any, kind: type) -> bool:
    """Is it an instance of a class, or of the same class of a file that Transformers has imported twice?"""
    name = kind.__module__.rpartition(".")[2], kind.__qualname__
    return any(
        one is kind or (one.__module__.rpartition(".")[2], one.__qualname__) == name for one in type(config).__mro__
    )


def needs_code(error: Exception) -> bool:
    """Did Transformers refuse a checkpoint because code that comes with it would have to be run?"""
    return "trust_remote_code" in str(error)


def configurations(model: nn.Module) -> list[tuple[str, Any]]:
    """All configurations that modules hold, with their paths: the model's own, those within, and copies."""
    own = config_of(model)
    base = next((kind for kind in reversed(type(own).__mro__) if "from_dict" in vars(kind)), None)
    if base is None:
        return []
    found = []
    for path, module in named_modules(model):
        prefix = f"{path}." if path else ""
        found += [(prefix + name, value) for name, value in vars(module).items() if isinstance(value, base)]
    return found


def config_fields(config: Any) -> dict[str, int | None]:
    """All fields that hold a whole number above zero, or nothing, those of configurations within too."""
    return dict(_fields(config, ""))


def _fields(config: Any, prefix: str) -> Iterator[tuple[str, int | None]]:
    for name, value in vars(config).items():
        if name.startswith("_"):
            continue
        if value is None or (type(value) is int and value > 0):
            yield prefix + name, value
        elif type(value) in (list, tuple) and value and all(type(v) is int for v in value):
            yield from ((f"{prefix}{name}[{i}]", v) for i, v in enumerate(value) if v > 0)
        elif hasattr(value, "to_dict") and hasattr(value, "__dict__"):
            yield from _fields(value, f"{prefix}{name}.")


def changed_config(config: Any, values: Mapping[str, int]) -> Any:
    """A copy of a configuration with other values, read as it would be from a file.

    Raises:
        Refused: the configuration's own checks do not pass.
    """
    changed = copy.deepcopy(config)
    for path, value in values.items():
        SizePlace.of(changed, path).change(value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = type(config).from_dict(changed.to_dict())
            if hasattr(made, "validate"):  # not all classes of configurations check themselves before they are written
                made.validate()
            return made
    except Exception as error:  # checks of other libraries raise what they like
        raise Refused(f"config: {type(config).__name__} refuses {_shown(values)}: {_first_line(error)}") from error


def keep_layers(config: Any, field: str, count: int, kept: Sequence[int]) -> None:
    """Let a configuration speak of some of its layers only, in place.

    What the same configuration lists for every layer is kept of those that stay. Where the number is an entry of a list
    (``depths`` of several stages), nothing is: other lists have an entry for each stage.

    Args:
        config: is changed.
        field: that counts the layers.
        count: how many layers there are.
        kept: the numbers of those that stay.
    """
    place = SizePlace.of(config, field)
    place.change(len(kept))
    owner = getattr(place.holders[-1], "__dict__", {})
    for name, value in owner.items():
        if type(value) in (list, tuple) and len(value) == count:
            owner[name] = type(value)(value[i] for i in kept)


def build_on_meta(model: nn.Module, config: Any) -> nn.Module:
    """What the class of ``model`` builds from a configuration, in evaluation mode, with all tensors on ``meta``.

    Raises:
        Refused: it builds none.
    """
    with changing_globals(), random_numbers_kept(), warnings.catch_warnings(), uninitialized():
        warnings.simplefilter("ignore")
        try:
            with torch.device("meta"), torch.no_grad():
                return type(model)(config).eval()
        except Exception as error:
            raise Refused(f"config: {type(model).__name__} builds no model from it: {_first_line(error)}") from error


def uninitialized() -> AbstractContextManager[Any]:
    """Transformers' own way to leave out initial values, which take most of the time of building a model."""
    library = sys.modules.get("transformers.initialization")
    skip = getattr(library, "no_init_weights", None)
    return skip() if skip is not None else nullcontext()


def rebuilt(model: nn.Module, values: Mapping[str, int]) -> nn.Module:
    """The model that the class builds, on ``meta``, when fields of the configuration have other values.

    Raises:
        Refused: there is none.
    """
    return build_on_meta(model, changed_config(config_of(model), values))


def columns(model: nn.Module, attributes: Iterable[str]) -> Columns:
    """The size of every dimension of every parameter and buffer, under all names; floats; and these integers."""
    own = tables(model)
    found: Columns = {}
    for name, tensor in (*own.parameters.items(), *own.buffers.items()):
        found.update({(name, dim): size for dim, size in enumerate(tensor.shape)})
    for path, module in named_modules(model):
        prefix = f"{path}." if path else ""
        numbers = {n: v for n, v in vars(module).items() if type(v) is float and v == v}
        found.update({(prefix + name, ATTRIBUTE): value for name, value in numbers.items()})
    for path in attributes:
        try:
            value = SizePlace.of(model, path).value
        except (AttributeError, LookupError, TypeError):
            continue
        if type(value) is int:
            found[path, ATTRIBUTE] = value
    return found


def _shown(values: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items()) or "its own values"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
