"""Checks of arguments: the message says which argument it is, what is needed and what was found.

Numbers are those of Python, numpy and ``fractions``; truth values are none.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from types import FunctionType, MethodType, UnionType
from typing import Any, TypeGuard

import numpy as np
from torch import Tensor, nn

from graphprune.errors import InputError


def is_number(value: object) -> TypeGuard[float]:
    """Is this a real number? It need not be a ``float`` but behaves as one."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_finite_number(value: object) -> TypeGuard[float]:
    """Is this a real number that a float holds? Infinity is none, and a whole number of 400 digits is none."""
    try:
        return is_number(value) and math.isfinite(value)
    except OverflowError:
        return False


def loss_number(loss: object, name: str = "evaluate") -> float:
    """The loss, one number, that a user's function returned; ``name``: of the argument.

    Raises:
        InputError: it is none.
    """
    number = loss.item() if isinstance(loss, Tensor) and loss.numel() == 1 else loss
    if not is_number(number):
        raise InputError(
            f"{name}: must return a loss, one number, but returned {shown(loss)}",
            found=found_value(loss),
            needed="a number, or a tensor with one entry",
            do="return the loss from evaluate(model)" if name == "evaluate" else "return the mean of the loss",
        )
    return float(number)


def shown(value: object) -> str:
    """A value as messages show it: tensors by their shape, and nothing that fills the screen."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{with_article(type(value).__name__)} of shape {tuple(value.shape)}"
    if isinstance(value, nn.Module):
        return with_article(type(value).__name__)
    if isinstance(value, FunctionType | MethodType):
        return f"the function {value.__qualname__}"
    text = _ADDRESS.sub("", " ".join(repr(value).split()))
    if len(text) <= _LONGEST_SHOWN:
        return text
    if isinstance(value, Mapping):
        return f"{with_article(type(value).__name__)} of {len(value)} entries"
    return f"{text[: _LONGEST_SHOWN - 3]}..."


_LONGEST_SHOWN = 120
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def found_value(value: object) -> str:
    """A value and its type, for the part of a message that says what was found.

    >>> found_value(1.5), found_value(None)
    ('1.5, a float', 'None')
    """
    text, kind = shown(value), with_article(type(value).__name__)
    return text if value is None or kind in text or text.startswith("the function") else f"{text}, {kind}"


def with_article(noun: str) -> str:
    """``"an int"``, ``"a float"``."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def _pass(name: str, what: str) -> str:
    return f"pass {what} as {name}="


def check_type(name: str, value: object, kind: type | UnionType, what: str) -> None:
    """Raise an InputError unless a value is of a type, which ``what`` is in words (``"a graphprune.Plan"``)."""
    if not isinstance(value, kind):
        raise InputError(
            f"{name}: must be {what}, but is {shown(value)}",
            found=found_value(value),
            needed=what,
            do=_pass(name, what),
        )


def check_optional(name: str, value: object, kind: type | UnionType, what: str) -> None:
    """Raise an InputError unless a value is None or of a type, which ``what`` is in words."""
    if value is not None:
        check_type(name, value, kind, what)


def check_sequence(name: str, value: object, kind: type | UnionType, what: str) -> None:
    """Raise an InputError unless a value is a sequence of things of a type, which ``what`` is in words."""
    check_type(name, value, Sequence, what)
    for one in value if isinstance(value, Sequence) else ():
        check_type(name, one, kind, what)


def check_flag(name: str, value: object) -> None:
    """Raise an InputError unless a value is a truth value; a string is none."""
    check_type(name, value, bool | np.bool_, "True or False")


def check_callable(name: str, value: object, what: str = "a function", *, takes: str | None = None) -> None:
    """Raise an InputError unless a value can be called; ``takes`` names the arguments that it is called with."""
    if callable(value):
        if takes is not None:
            _check_takes(name, value, what, takes)
    else:
        raise InputError(
            f"{name}: must be {what}, but is {shown(value)}",
            found=found_value(value),
            needed=what,
            do=_pass(name, what),
        )


def _check_takes(name: str, function: Callable[..., Any], what: str, takes: str) -> None:
    """Raise an InputError if a function, or the ``forward`` of a module, does not take so many arguments."""
    if takes and isinstance(function, type) and issubclass(function, nn.Module):
        raise InputError(
            f"{name}: must be {what}, but is the class {function.__name__}",
            found=f"the class {function.__name__}, which is called to make a module",
            needed=what,
            do=f"pass an instance: {name}={function.__name__}(...)",
        )
    is_module = isinstance(function, nn.Module) and type(function).__call__ is nn.Module.__call__
    try:
        parameters = inspect.signature(function.forward if is_module else function)  # type: ignore[attr-defined]
    except (TypeError, ValueError):  # builtins have none
        return
    given = [argument.strip() for argument in takes.split(",") if argument]
    own = name_of(function)
    try:
        parameters.bind(*(a for a in given if "=" not in a), **{a[:-1]: None for a in given if a.endswith("=")})
    except TypeError:
        raise InputError(
            f"{name}: {own}{parameters} is called as {own}({takes}), which it does not take",
            found=f"a function with the parameters {parameters}",
            needed=what,
            do=f"write def {own}({takes.replace('=', '')})" if own.isidentifier() else f"pass {what}",
        ) from None


def name_of(function: object) -> str:
    """The name of a function, or of the class of something else that can be called."""
    return str(getattr(function, "__name__", type(function).__name__))


def is_defined_again(function: object, known: object) -> bool:
    """Is it what a definition gave when it ran once more: the cell of a notebook, or a module that was loaded again?

    Functions without a name of their own, or made within another one, are told apart by nothing.
    """
    own, its = ([getattr(one, name, None) for name in ("__module__", "__qualname__")] for one in (function, known))
    return None not in own and "<" not in str(own[1]) and own == its


def check_fraction(
    name: str, value: object, what: str = "a fraction", *, zero: bool = True, one: bool = False
) -> float:
    """A fraction between 0 and 1; ``zero`` and ``one`` say which of the ends are allowed, ``what`` it is a fraction of.

    Raises:
        InputError: the value is no number, or out of this range.
    """
    if is_number(value) and (0 < value < 1 or (zero and value == 0) or (one and value == 1)):
        return float(value)
    bounds = f"0 {'<=' if zero else '<'} {name} {'<=' if one else '<'} 1"
    raise InputError(
        f"{name}: must be {what}, {bounds}, but is {shown(value)}",
        found=found_value(value),
        needed=f"{what}, {bounds}",
        do=f"pass a number within these bounds, such as {name}=0.5",
    )


def check_count(name: str, value: object, least: int, what: str = "a whole number") -> int:
    """A whole number, at least ``least``.

    Raises:
        InputError: the value is no whole number, or less.
    """
    if isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least:
        return int(value)
    raise InputError(
        f"{name}: must be {what}, at least {least}, but is {shown(value)}",
        found=found_value(value),
        needed=f"{what}, at least {least}",
        do=f"pass {name}={least} or more",
    )


def check_positive(name: str, value: object, what: str = "a positive number") -> float:
    """A finite number above zero.

    Raises:
        InputError: the value is no number, zero, negative, infinite or not a number.
    """
    if is_finite_number(value) and value > 0:
        return float(value)
    raise InputError(
        f"{name}: must be {what}, but is {shown(value)}", found=found_value(value), needed=what, do=_pass(name, what)
    )


def number_and_unit(text: str) -> tuple[float, str]:
    """The number that a text begins with, and the unit behind it; 0 where it is none, or not finite.

    >>> number_and_unit("1.5 kB"), number_and_unit("2e9"), number_and_unit("kB")
    ((1.5, 'kB'), (2000000000.0, ''), (0.0, ''))
    """
    found = _AMOUNT.fullmatch(text.strip())
    number = float(found[1]) if found else 0.0
    return (number, found[2]) if found and math.isfinite(number) else (0.0, "")


_AMOUNT = re.compile(r"((?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*([A-Za-zµ]*)")

_MOST_NAMED = 24


def check_known(
    name: str, value: object, known: Iterable[str], others: str = "", form: Callable[[str], str] = repr
) -> str:
    """One of several names.

    Args:
        name: of the argument.
        value: that was given.
        known: the names.
        others: what else would do (``", or a function"``).
        form: how the argument is written with one of the names (:func:`as_key`, :func:`as_entry`).

    Raises:
        InputError: the value is none of them.
    """
    names = list(known)
    if isinstance(value, str) and value in names:
        return value
    first = (close_matches(value, names) or names or [""])[0]
    needed = ", ".join(map(repr, names[:_MOST_NAMED]))
    if len(names) > _MOST_NAMED:
        needed += f" and {len(names) - _MOST_NAMED} more"
    raise InputError(
        f"{name}: {shown(value)} is not known; use one of {needed}{others}{did_you_mean(value, names)}",
        found=found_value(value),
        needed=f"one of {needed}{others}",
        do=f"pass {name}={form(first)}, or another of these",
    )


def as_key(name: str) -> str:
    """A name as the key of a dict, in advice."""
    return f"{{{name!r}: ...}}"


def as_entry(name: str) -> str:
    """A name as the entry of a list, in advice."""
    return f"[{name!r}]"


def did_you_mean(value: object, known: Iterable[str]) -> str:
    """The end of a message about a name that is not known: up to three that resemble it, or nothing.

    >>> did_you_mean("consine", ["cosine", "linear"])
    '; did you mean cosine?'
    """
    close = close_matches(value, known)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def close_matches(value: object, known: Iterable[str]) -> list[str]:
    """Up to three names that resemble one that is not known, the closest first."""
    return difflib.get_close_matches(str(value), list(dict.fromkeys(known)), n=3)
