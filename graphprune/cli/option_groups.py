"""Options that several commands share: a dataclass whose fields are options, given to a command as one parameter."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, ClassVar, TypeVar, get_type_hints

import typer

T = TypeVar("T", bound="OptionGroup")


class OptionGroup:
    """Base of dataclasses whose fields are annotated as typer's options.

    A command that has a parameter of such a class has its options, and is given an instance. ``__post_init__`` says
    what is wrong with them, by :func:`usage_error`.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @classmethod
    def parameters(cls) -> list[inspect.Parameter]:
        """The options as parameters of a function, from which typer makes its own."""
        hints = get_type_hints(cls, include_extras=True)
        defaults = {one.name: inspect.Parameter.empty if one.default is MISSING else one.default for one in fields(cls)}
        return [keyword(name, hints[name], default) for name, default in defaults.items()]

    @classmethod
    def of(cls: type[T], values: Mapping[str, Any]) -> T:
        """An instance from the values that were given, by the names of the parameters."""
        return cls(**values)


def keyword(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    """A parameter that is given by name."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def flattened(function: Callable[..., int]) -> Callable[..., int]:
    """A function whose parameters are the options of its groups one by one, in their places."""
    own = inspect.signature(function, eval_str=True).parameters.values()
    groups = {one.name: one.annotation for one in own if _is_group(one.annotation)}
    parts = {name: group.parameters() for name, group in groups.items()}

    def run(**given: Any) -> int:
        for name, group in groups.items():
            given[name] = group.of({part.name: given.pop(part.name) for part in parts[name]})
        return function(**given)

    single = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own if one.name not in groups]
    # Arguments in the order of the function, then its options, then those of groups.
    first = [part for name in groups for part in parts[name] if _is_argument(part)]
    rest = [part for name in groups for part in parts[name] if not _is_argument(part)]
    parameters = [*first, *single, *rest]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    run.__name__ = function.__name__
    return run


def _is_group(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, OptionGroup)


def _is_argument(parameter: inspect.Parameter) -> bool:
    """Is it found by its place on the command line?"""
    return any("ArgumentInfo" in type(one).__name__ for one in getattr(parameter.annotation, "__metadata__", ()))


def flag(*names: str, help: str, panel: str | None = None, **more: Any) -> Any:
    """An option without a value."""
    return typer.Option(*names, metavar="", help=help, rich_help_panel=panel, **more)


def usage_error(message: str) -> typer.BadParameter:
    """What to raise for wrong usage: the message begins with the option."""
    return typer.BadParameter(message)
