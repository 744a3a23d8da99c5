"""The options of a plan: those of :class:`graphprune.planning.options.PruningOptions`, all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass
from functools import partial
from typing import Annotated, Any

import typer
from rich.markup import escape

from graphprune.cli.option_groups import OptionGroup, keyword, usage_error
from graphprune.cli.option_values import read_budget, read_fraction, read_whole_number
from graphprune.errors import InputError
from graphprune.graph.budget_kinds import BUDGET_KINDS
from graphprune.importance.criteria import find_criterion
from graphprune.planning.options import OPTION_FIELDS, OPTION_NAMES, ROLE_OPTIONS, PruningOptions

REMOVED, CHOSEN, LIMITS = "What is removed (a ratio, budgets, or ratios by role)", "How it is chosen", "What must hold"
PANELS = {
    **dict.fromkeys(("ratio", *BUDGET_KINDS, *ROLE_OPTIONS, "depth"), REMOVED),
    **dict.fromkeys(("layers", "serve", "tensor_parallel", "multiple", "max_ratio", "protect_ends"), LIMITS),
}


@dataclass
class PlanOptions(OptionGroup):
    """What is asked of a plan, by the names of the fields of ``PruningOptions``; what is not given is left out."""

    given: dict[str, Any]

    @classmethod
    def parameters(cls) -> list[inspect.Parameter]:
        """An option for each field, and for each kind of budget that was registered from outside."""
        own = [keyword(name, _annotation(one), _default(one)) for name, one in _plan_fields().items()]
        return [*own, *(keyword(name, _budget(name)) for name in registered_kinds())]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> PlanOptions:
        """The options that were given; wrong usage if they are out of range, or exclude each other."""
        given = {name: value for name, value in values.items() if value is not None and value is not False}
        return cls(given)

    def check(self) -> None:
        """Usage is wrong if nothing is asked for, something is out of its range, or two options exclude each other."""
        arguments = dict(self.given)
        if not arguments.keys() & {"ratio", *BUDGET_KINDS, *ROLE_OPTIONS, "depth"}:
            raise usage_error(
                "--ratio: nothing is asked for; give --ratio 0.5, a budget such as --macs 0.5, or a ratio by role such "
                "as --heads 0.5"
            )
        try:
            find_criterion(arguments.get("importance", "l2"))
            PruningOptions.of(arguments.pop("ratio", None), arguments)
        except InputError as error:
            raise usage_error(_as_options(str(error))) from error

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of ``graph.plan``."""
        return dict(self.given)


def _as_options(message: str) -> str:
    """A message about arguments as one about options."""
    name, colon, rest = message.partition(":")
    known = name in OPTION_NAMES or name == "ratio" or name in BUDGET_KINDS
    return f"{_flag(name)}{colon}{rest}" if known else message


def _plan_fields() -> dict[str, Field[Any]]:
    """The fields of the options that can be given on a command line."""
    return {one.name: one for one in OPTION_FIELDS if one.metadata["kind"]}


def registered_kinds() -> list[str]:
    """Kinds of budgets that were registered from outside."""
    return [name for name in BUDGET_KINDS if name not in OPTION_NAMES]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _default(one: Field[Any]) -> Any:
    return False if one.metadata["kind"] == "flag" else None


def _annotation(one: Field[Any]) -> Any:
    """The field as an option of typer."""
    kind, choices = one.metadata["kind"], one.metadata["choices"]
    default = "" if one.default in (None, False) else f"; without, {one.default}"
    names = f" ({', '.join(sorted(choices()))})" if choices is not None else ""
    option = partial(
        typer.Option,
        _flag(one.name),
        help=escape(f"{one.metadata['help']}{names}{default}"),
        rich_help_panel=PANELS.get(one.name, CHOSEN),
    )
    if kind == "flag":
        return Annotated[bool, option(metavar="")]
    read, metavar = _READERS[kind]
    completion = None if choices is None else lambda: sorted(choices())
    return Annotated[Any, option(parser=read, metavar=metavar, autocompletion=completion)]


def _budget(name: str) -> Any:
    """A kind of budget that was registered from outside as an option of typer."""
    kind = BUDGET_KINDS[name]
    text = f"budget on {kind.help}: a fraction (0.5), or an amount ({kind.example})"
    option = typer.Option(_flag(name), parser=read_budget, metavar="AMOUNT", help=escape(text), rich_help_panel=REMOVED)
    return Annotated[Any, option]


_READERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "fraction": (read_fraction, "FRACTION"),
    "amount": (read_budget, "AMOUNT"),
    "count": (read_whole_number, "N"),
    "name": (str, "NAME"),
}
"""How a field of each kind is read, and what stands for its value in the help."""
