"""Anti-unification: one expression for many, with a parameter wherever they differ.

Plotkin: "A note on inductive generalization" (1970). Differences that are the same in every instance are one parameter.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from keyword import iskeyword

from graphprune.export.source.expressions import Argument, Code, Display, Expression, Invocation, calls_in

_WIDTH = re.compile(
    r"(in|out|num|in1|in2|q|k|v)_(channels|features|embeddings|parameters)|normalized_shape|embedding_dim|input_size"
    r"|hidden_size|embed_dim|size\d"
)
"""Parameters that are numbers of channels."""

_MADE = ("out_channels", "out_features", "embedding_dim", "hidden_size")
"""Those that a layer makes."""

_MARK = "\0"


@dataclass
class Variable:
    """What differs between the instances of a class.

    Attributes:
        values: by instance.
        paths: where it occurs: names of attributes and of the parameter.
        places: the same as numbers, in the order of the constructor.
        name: in the constructor.
        default: the value that is taken where none is given.
    """

    number: int
    values: tuple[Expression, ...]
    paths: list[tuple[str, ...]] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    name: str = ""
    default: Expression | None = None

    @property
    def is_width(self) -> bool:
        """Is it a number of channels?"""
        return _is_width(self.paths[0])

    @property
    def order(self) -> tuple[bool, int]:
        """Where it first occurs: layers count before attributes, so that inputs come before outputs."""
        layers = [place for place, path in zip(self.places, self.paths, strict=True) if len(path) > 1]
        return (False, layers[0]) if layers else (True, self.places[0])

    @property
    def takes_modules(self) -> bool:
        """Is it a submodule, and always one?"""
        return all(isinstance(value, Invocation) for value in self.values)

    @property
    def annotation(self) -> str:
        """The type of the parameter; empty where it is not plain."""
        kinds = {_kind(value) for value in self.values}
        optional = " | None" if "None" in kinds else ""
        kinds -= {"None"}
        if kinds == {"int", "float"}:
            kinds = {"float"}
        return f": {kinds.pop()}{optional}" if len(kinds) == 1 and "" not in kinds else ""


def _kind(value: Expression) -> str:
    if isinstance(value, Invocation):
        if value.callee == "nn.Parameter":
            return value.callee
        return "nn.Module" if value.callee.startswith("nn.") and value.callee[3:4].isupper() else ""
    if isinstance(value, Display):
        return {"()": "tuple", "[]": "list"}.get(value.brackets, "")
    for pattern, kind in ((r"None", "None"), (r"True|False", "bool"), (r"-?\d+", "int"), (r'"[^"]*"', "str")):
        if re.fullmatch(pattern, value.text):
            return kind
    return "float" if re.fullmatch(r"-?[\d.]+(e[+-]?\d+)?", value.text) else ""


class Unifier:
    """Unifies expressions of the instances of one class."""

    def __init__(self) -> None:
        self._variables: dict[tuple[object, ...], Variable] = {}

    def unify(self, values: Sequence[Expression], path: tuple[str, ...]) -> Expression:
        """The expression that all have in common, with marks for parameters."""
        first = values[0]
        if all(value == first for value in values):
            return first
        if isinstance(first, Invocation) and all(
            isinstance(v, Invocation) and _form(v) == _form(first) for v in values
        ):
            return self._calls(values, path)  # type: ignore[arg-type]
        if isinstance(first, Display) and all(isinstance(v, Display) and _shape(v) == _shape(first) for v in values):
            columns = zip(*(v.items for v in values), strict=True)  # type: ignore[union-attr]
            items = tuple(self.unify(column, (*path, str(i))) for i, column in enumerate(columns))
            return replace(first, items=items)
        return self._variable(tuple(values), path)

    def _calls(self, calls: Sequence[Invocation], path: tuple[str, ...]) -> Expression:
        arguments = []
        for position, column in enumerate(zip(*(call.arguments for call in calls), strict=True)):
            one = column[0]
            inner = (*path, one.name or str(position))
            arguments.append(replace(one, value=self.unify([a.value for a in column], inner)))
        return replace(calls[0], arguments=tuple(arguments))

    def _variable(self, values: tuple[Expression, ...], path: tuple[str, ...]) -> Expression:
        is_depthwise = path[-1] == "groups" and ("width", *values, ()) in self._variables
        role = "width" if _is_width(path) or is_depthwise else path[-1]
        own = () if all(map(_can_be_shared, values)) else path  # a module that is made once stands in one place
        known = self._variables.setdefault((role, *values, own), Variable(len(self._variables), values))
        known.paths.append(path)
        known.places.append(sum(len(v.places) for v in self._variables.values()))
        return Code(f"{_MARK}{known.number}{_MARK}")

    def parameters(self, reserved: Iterable[str]) -> list[Variable]:
        """What differs, with names; those without a default first."""
        found = list(self._variables.values())
        _give_names(found, set(reserved))
        for variable in found:
            variable.default = _default(variable)
        return sorted(found, key=lambda v: (v.default is not None, v.annotation.startswith(": nn.Module"), v.order))


def with_names(expression: Expression, variables: Sequence[Variable]) -> Expression:
    """An expression with the names of parameters in place of marks."""
    names = {f"{_MARK}{v.number}{_MARK}": Code(v.name) for v in variables}
    return _replaced(expression, names)


def _replaced(expression: Expression, names: dict[str, Code]) -> Expression:
    if isinstance(expression, Code):
        return names.get(expression.text, expression)
    if isinstance(expression, Display):
        return replace(expression, items=tuple(_replaced(item, names) for item in expression.items))
    return replace(
        expression, arguments=tuple(replace(a, value=_replaced(a.value, names)) for a in expression.arguments)
    )


def _form(call: Invocation) -> tuple[object, ...]:
    return call.callee, tuple((a.name, a.default, a.keyword) for a in call.arguments)


def _shape(display: Display) -> tuple[object, ...]:
    return display.brackets, display.keys, len(display.items)


def _can_be_shared(value: Expression) -> bool:
    """May one value stand in several places: is it a number, a string, a class or the like?"""
    if isinstance(value, Display):
        return value.brackets == "()" and all(map(_can_be_shared, value.items))
    return isinstance(value, Code) and "(" not in value.text


def _is_width(path: tuple[str, ...]) -> bool:
    return _WIDTH.fullmatch(path[-1]) is not None


# ---------------------------------------------------------------- names and defaults


def _default(variable: Variable) -> Expression | None:
    """The most common value, if it is a literal of at least half of the instances and no number of channels."""
    if variable.is_width:
        return None
    value, count = Counter(variable.values).most_common(1)[0]
    return value if isinstance(value, Code) and count * 2 >= len(variable.values) else None


def _give_names(variables: Sequence[Variable], reserved: set[str]) -> None:
    """The shortest name that no other parameter has: its own, that with the layer's before it, or the whole path."""
    made = [place for v in variables for place, path in zip(v.places, v.paths, strict=True) if path[-1] in _MADE]
    options = {v.number: _options(v, max(made, default=-1)) for v in variables}
    level = dict.fromkeys(options, 0)
    for _ in range(max(map(len, options.values()), default=0)):
        names = {n: options[n][min(level[n], len(options[n]) - 1)] for n in options}
        counts = Counter(names.values())
        for number, name in names.items():
            level[number] += counts[name] > 1
    taken = set(reserved)
    for variable in variables:
        found = options[variable.number]
        base = name = found[min(level[variable.number], len(found) - 1)]
        count = 1
        while name in taken:
            count += 1
            name = f"{base}{count}"
        taken.add(name)
        variable.name = name


def _options(variable: Variable, last_made: int) -> list[str]:
    """Names from the shortest to the longest.

    Args:
        variable: what is named.
        last_made: the place of the last number of channels that a layer makes: what the whole puts out.
    """
    made = [n for n, path in enumerate(variable.paths) if path[-1] in _MADE]
    is_first = variable.is_width and variable.places[0] == 0
    chosen = made[-1] if made and variable.places[made[-1]] == last_made else made[0] if made else 0
    path = variable.paths[0 if is_first else chosen]
    own = "size" if re.fullmatch(r"size\d", path[-1]) else path[-1]
    places = [part for part in path[:-1] if part]
    if not places:
        return [_identifier(own)]
    is_bare = own not in _MADE or variable.places[chosen] == last_made or is_first
    short = own.removeprefix("out_").removeprefix("num_")
    words = [part for part in places if not part.isdigit()]
    longer = ["_".join((*words[-n:], short)) for n in range(1, len(words) + 1)]
    bare = [own] if is_bare and not own.isdigit() else []
    return [_identifier(name) for name in (*bare, *longer, "_".join((*places, short)))]


def _identifier(text: str) -> str:
    found = re.sub(r"\W", "_", text).strip("_")
    found = found if found and not found[0].isdigit() else f"layer_{found}"
    return f"{found}_" if iskeyword(found) or found == "self" else found


def calls_of_variables(variables: Iterable[Variable]) -> set[str]:
    """Everything that the values of parameters call."""
    return {name for v in variables for value in v.values for name in calls_in(value)}


def arguments_for(variables: Sequence[Variable], instance: int) -> tuple[Argument, ...]:
    """The arguments by which a class builds one of its instances."""
    required = sum(v.default is None for v in variables)
    positional = required <= _MOST_POSITIONAL
    return tuple(
        Argument(v.name, v.values[instance], v.default, keyword=not positional or v.default is not None)
        for v in variables
    )


_MOST_POSITIONAL = 6
"""With more, a reader counts commas: all are written with their names."""
