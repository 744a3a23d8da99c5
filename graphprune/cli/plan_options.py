"""The options of a plan: those of :class:`graphprune.planning.options.PruningOptions`, all of them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass
from functools import partial
from typing import Annotated, Any

import typer
from rich.markup import escape

from graphprune.cli.option_groups import OptionGroup, keyword, usage_error
from graphprune.cli.option_values import read_budget, read_fraction, read_number, read_whole_number
from graphprune.cli.references import check_reference, load_reference
from graphprune.errors import InputError
from graphprune.graph.budget_kinds import BUDGET_KINDS
from graphprune.importance.criteria import AUTO, Criterion, find_criterion
from graphprune.planning.allocations import SEARCHED
from graphprune.planning.limits import Override
from graphprune.planning.options import OPTION_FIELDS, OPTION_NAMES, ROLE_OPTIONS, PruningOptions
from graphprune.utils.checks import did_you_mean

REMOVED, CHOSEN, LIMITS = "What is removed (a ratio, budgets, or ratios by role)", "How it is chosen", "What must hold"
PANELS = {
    **dict.fromkeys(("ratio", *BUDGET_KINDS, *ROLE_OPTIONS, "depth"), REMOVED),
    "budgets": REMOVED,
    **dict.fromkeys(
        ("overrides", "layers", "serve", "tensor_parallel", "multiple", "max_ratio", "protect_ends"), LIMITS
    ),
}
ELSEWHERE = {"calibration", "weights"}
"""Options that :mod:`graphprune.cli.calibration_options` and :mod:`graphprune.cli.model_options` have."""
REFERENCES = {"loss_fn", "run_with"}
"""Options that name a function of the user."""
HELP = {
    "importance": "criterion that scores units, by name, or as module:function, (group, context) -> scores [units]",
    "allocation": "how groups share what is removed; without: 'uniform' for a ratio, 'global' for a budget",
    "run_with": "how the model is run when it is timed, such as torch:compile; without: eagerly",
    "overrides": "what holds for groups or modules whose name fits a pattern: ratio, min_units, max_ratio, multiple, "
    "frozen; may be given several times",
    "budgets": "a budget of any kind by its name; may be given several times",
}
"""Help of the options that take something else than the fields do."""
REPEATED = {"overrides": "PATTERN:ratio=0.25,...", "budgets": "NAME=AMOUNT"}
"""Options that may be given several times."""


@dataclass
class PlanOptions(OptionGroup):
    """What is asked of a plan, by the names of the fields of ``PruningOptions``; what is not given is left out."""

    given: dict[str, Any]

    @classmethod
    def parameters(cls) -> list[inspect.Parameter]:
        """An option for each field but those of the model and the data, and for each kind of budget from outside."""
        fields = [one for one in OPTION_FIELDS if one.name not in ELSEWHERE]
        own = [keyword(one.name, _annotation(one), _default(one)) for one in fields]
        return [*own, *(keyword(name, _budget(name)) for name in registered_kinds())]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> PlanOptions:
        """The options that were given."""
        given = {name: value for name, value in values.items() if _is_given(value)}
        for name in REFERENCES & given.keys():
            check_reference(_flag(name), given[name])
        for name in _REPEATED_READERS.keys() & given.keys():
            given[name] = _read_all(name, given[name])
        return cls(given)

    def check(self, calibration: bool = False) -> None:
        """Usage is wrong if nothing is asked for, something is out of its range, or two options exclude each other.

        Args:
            calibration: there is data.
        """
        arguments = self.given | dict.fromkeys(REFERENCES & self.given.keys(), _stand_in)
        self._check_references(calibration)
        if calibration:
            arguments["calibration"] = ()
        if not arguments.keys() & {"ratio", *BUDGET_KINDS, "budgets", *ROLE_OPTIONS, "depth", "overrides"}:
            raise usage_error(
                "--ratio: nothing is asked for; give --ratio 0.5, a budget such as --macs 0.5, or a ratio by role such "
                "as --heads 0.5"
            )
        if self.given.get("allocation") == SEARCHED and not calibration:
            raise usage_error(f"--allocation: {SEARCHED} compares plans on data; give --calibration DIR, too")
        try:
            criterion = self._criterion()
            if self.given.get("importance") == AUTO and not calibration:
                raise usage_error(f"--importance: {AUTO} compares slim models on data; give --calibration DIR, too")
            if criterion is None:
                arguments.pop("importance")
            elif criterion.data and not calibration:
                raise usage_error(f"--importance: {criterion.name} reads data; give --calibration DIR, too")
            elif "seed" in self.given and not calibration and criterion.name != "random":
                raise usage_error(f"--seed: nothing is drawn for --importance {criterion.name}; leave it out")
            PruningOptions.of(arguments.pop("ratio", None), arguments)
        except InputError as error:
            raise usage_error(_as_options(f"{error.what}; {error.do}")) from error

    def _check_references(self, calibration: bool) -> None:
        """Usage is wrong if a function of the user is for something that is not asked for."""
        if "run_with" in self.given and not ("latency" in self.given or "latency" in self.given.get("budgets", ())):
            raise usage_error("--run-with: is for models that are timed; give --latency, too, or leave it out")
        if "loss_fn" in self.given and not calibration:
            raise usage_error("--loss-fn: is of batches; give --calibration DIR, too, or leave it out")

    def _criterion(self) -> Criterion | None:
        """The criterion by name; None: it is a function of the user, or several are tried."""
        name = self.given.get("importance", "l2")
        if name == AUTO:
            return None
        if ":" not in name:
            return find_criterion(name)
        check_reference("--importance", name)
        return None

    def reads_data(self) -> bool:
        """Does a plan depend on calibration batches?"""
        criterion = self._criterion()
        searched = self.given.get("allocation") == SEARCHED
        return criterion is None or criterion.data or searched or "depth" in self.given

    def reads_weights(self) -> bool:
        """Does the criterion read weights?"""
        criterion = self._criterion()
        return criterion is None or criterion.weights

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of ``graph.plan``; the user's functions are imported."""
        found = dict(self.given)
        for name in {"importance", *REFERENCES} & found.keys():
            if ":" in found[name]:
                found[name] = load_reference(_flag(name), found[name])
        return found


def _is_given(value: Any) -> bool:
    """Is it no default? Zero is none: it is equal to False."""
    return value is not None and value is not False and value != () and value != []


def _stand_in(*_: Any) -> None:
    """Stands in for a function that is not imported yet."""


def _read_all(name: str, texts: list[str]) -> dict[str, Any]:
    """The values of an option that may be given several times, by what each is about."""
    found: dict[str, Any] = {}
    for text in texts:
        about, value = _REPEATED_READERS[name](text)
        if about in found:
            raise usage_error(f"{_flag(name)}: {about!r} is given twice; give it once")
        found[about] = value
    return found


def read_override(text: str) -> tuple[str, Override]:
    """What holds for some groups.

    >>> read_override("layer1.*:ratio=25%,multiple=8")
    ('layer1.*', Override(ratio=0.25, min_units=None, max_ratio=None, multiple=8, frozen=None))
    """
    pattern, colon, rest = text.rpartition(":")
    if not colon or not pattern:
        raise usage_error(f"--overrides: {text!r} is none; needed is PATTERN:ratio=0.25,multiple=8 or PATTERN:frozen")
    given: dict[str, Any] = {}
    for part in rest.split(","):
        name, _, value = (word.strip() for word in part.partition("="))
        if name not in _OVERRIDE_READERS:
            known = ", ".join(_OVERRIDE_READERS)
            raise usage_error(f"--overrides: {name!r} is none of {known}{did_you_mean(name, _OVERRIDE_READERS)}")
        if name in given:
            raise usage_error(f"--overrides: {text!r}: {name} is given twice; give it once")
        given[name] = _override_value(text, name, value)
    try:
        return pattern, Override(**given)
    except InputError as error:
        raise usage_error(f"--overrides: {text!r}: {error.what}; {error.do}") from error


def _override_value(text: str, name: str, value: str) -> Any:
    try:
        return _OVERRIDE_READERS[name](value)
    except typer.BadParameter as error:
        raise usage_error(f"--overrides: {text!r}: {name}: {error.message}") from error


def _read_truth(text: str) -> bool:
    """Yes or no; a name without a value is yes."""
    if text in ("", "true", "yes", "1"):
        return True
    if text in ("false", "no", "0"):
        return False
    raise typer.BadParameter(f"{text!r} is neither true nor false")


_OVERRIDE_READERS: dict[str, Callable[[str], Any]] = {
    "ratio": read_fraction,
    "min_units": read_whole_number,
    "max_ratio": read_fraction,
    "multiple": read_whole_number,
    "frozen": _read_truth,
}
"""How the fields of an override are read."""


def read_named_budget(text: str) -> tuple[str, Any]:
    """A budget of a kind by name.

    >>> read_named_budget("macs=0.5")
    ('macs', 0.5)
    """
    name, sign, amount = text.partition("=") if "=" in text else text.partition(":")
    if not sign or name not in BUDGET_KINDS:
        known = ", ".join(BUDGET_KINDS)
        raise usage_error(f"--budgets: {text!r} is none; needed is NAME=AMOUNT, where a name is one of {known}")
    try:
        return name, read_budget(amount)
    except typer.BadParameter as error:
        raise usage_error(f"--budgets: {text!r}: {error.message}") from error


_REPEATED_READERS: dict[str, Callable[[str], tuple[str, Any]]] = {
    "overrides": read_override,
    "budgets": read_named_budget,
}
"""How options that may be given several times are read: what one is about, and its value."""


def _as_options(message: str) -> str:
    """A message about arguments as one about options.

    >>> _as_options("ratio: given together with macs=0.5; pass allocation='searched' too, or leave out ratio=")
    '--ratio: given together with --macs 0.5; pass --allocation searched too, or leave out --ratio'
    """
    names = "|".join({"ratio", *OPTION_NAMES, *BUDGET_KINDS})
    named = re.sub(rf"^({names}):", lambda found: f"{_flag(found[1])}:", message)
    return re.sub(rf"(?<![\w-])({names})=('?)([^\s',;)]*)\2", _as_option, named)


def _as_option(argument: re.Match[str]) -> str:
    return " ".join(filter(None, (_flag(argument[1]), argument[3])))


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
    default = f"; without, {one.default}" if isinstance(one.default, str | int) and one.default is not False else ""
    names = f" ({', '.join(sorted(choices()))})" if choices is not None else ""
    option = partial(
        typer.Option,
        _flag(one.name),
        help=escape(f"{HELP.get(one.name) or _option_help(one)}{names}{default}"),
        rich_help_panel=PANELS.get(one.name, CHOSEN),
    )
    if kind == "flag":
        return Annotated[bool, option(metavar="")]
    if one.name in REFERENCES:
        return Annotated[str | None, option(metavar="module:function")]
    if one.name in REPEATED:
        return Annotated[list[str] | None, option(metavar=REPEATED[one.name])]
    read, metavar = _READERS[kind]
    completion = None if choices is None else lambda: sorted(choices())
    return Annotated[Any, option(parser=read, metavar=metavar, autocompletion=completion)]


def _option_help(one: Field[Any]) -> str:
    """The help of a field, with the names that options have on the command line.

    >>> _option_help(next(one for one in OPTION_FIELDS if one.name == "seed"))
    'seed of --importance random, of answers drawn where there is no loss, and of --allocation searched'
    """
    text = re.sub(r"\b(\w+)='(\w+)'", lambda found: f"{_flag(found[1])} {found[2]}", one.metadata["help"])
    text = re.sub(r"\b(\w+)=(?=[,; ])", lambda found: _flag(found[1]), text)
    return text.replace("None: ", "without: ")


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
    "seconds": (read_number, "SECONDS"),
    "name": (str, "NAME"),
}
"""How a field of each kind is read, and what stands for its value in the help."""
