"""How much is masked: fractions, numbers of weights, magnitudes, percentiles and patterns."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from numbers import Integral

from torch.nn.utils import prune

from graphprune.errors import InputError
from graphprune.sparsity.methods import PercentileUnstructured, ThresholdUnstructured
from graphprune.utils.checks import check_known, found_value, is_finite_number, is_number, shown

MaskAmount = float | int | str
"""A fraction, a number of weights, a magnitude, a percentile, or a pattern such as ``"2:4"``."""
MethodClass = type[prune.BasePruningMethod]

METHODS: dict[str, MethodClass] = {
    "l1": prune.L1Unstructured,
    "random": prune.RandomUnstructured,
    "threshold": ThresholdUnstructured,
    "percentile": PercentileUnstructured,
}


@dataclass(frozen=True)
class Pattern:
    """``kept`` of every ``group`` weights."""

    kept: int
    group: int

    def __str__(self) -> str:
        return f"{self.kept}:{self.group}"


def method_class(method: object) -> MethodClass:
    """The pruning method that an argument names or is.

    Raises:
        InputError: there is none of this name, or it masks whole channels.
    """
    if not (isinstance(method, type) and issubclass(method, prune.BasePruningMethod)):
        return METHODS[check_known("method", method, METHODS, ", or a class of torch.nn.utils.prune")]
    kind = getattr(method, "PRUNING_TYPE", None)
    if kind != "unstructured":
        raise InputError(
            f"method: {method.__name__} is of the type {kind!r}, and needed is 'unstructured'",
            found=f"{method.__name__}, of the type {kind!r}",
            needed="a method of the type 'unstructured'",
            do="use graphprune.prune_model to remove whole channels, and graphprune.compact for those that are masked",
        )
    return method


def read_amount(name: str, amount: object, method: MethodClass) -> float | int | Pattern:
    """The amount that an argument gives to a method.

    Raises:
        InputError: it is none.
    """
    if isinstance(amount, str):
        return _pattern(name, amount, method)
    if method is ThresholdUnstructured:
        return _number(name, amount, math.inf, "a magnitude of 0 or more")
    if method is PercentileUnstructured:
        return _number(name, amount, 100, "a percentile between 0 and 100")
    return check_amount(name, amount)


def check_amount(name: str, amount: object) -> float | int:
    """A fraction or a number of weights, as torch takes it.

    Raises:
        InputError: it is neither.
    """
    if isinstance(amount, Integral) and not isinstance(amount, bool) and int(amount) >= 0:
        return int(amount)
    if is_number(amount) and not isinstance(amount, Integral) and 0 <= amount <= 1:
        return float(amount)
    raise InputError(
        f"{name}: must be a fraction between 0.0 and 1.0, or a whole number of weights, but is {shown(amount)}",
        found=found_value(amount),
        needed="a fraction between 0.0 and 1.0, or a whole number of weights",
        do=f"pass {name}=0.9 to mask nine tenths",
    )


def _number(name: str, value: object, most: float, what: str) -> float:
    if is_finite_number(value) and 0 <= value <= most:
        return float(value)
    raise InputError(
        f"{name}: must be {what}, but is {shown(value)}",
        found=found_value(value),
        needed=what,
        do=f"pass {what} as {name}=",
    )


def _pattern(name: str, text: str, method: MethodClass) -> Pattern:
    found = re.fullmatch(r"(\d{1,4}):(\d{1,4})", text, re.ASCII)
    if found is None or not 0 < int(found[1]) < int(found[2]):
        raise InputError(
            f"{name}: must be a fraction such as 0.9, a number of weights, or a pattern such as '2:4' (2 of 4 are "
            f"kept), but is {text!r}",
            found=found_value(text),
            needed="a fraction, a number of weights, or a pattern 'kept:group' with kept < group",
            do=f"pass {name}='2:4', or a number instead of a string",
        )
    if method not in (prune.L1Unstructured, prune.RandomUnstructured):
        raise InputError(
            f"{name}: a pattern such as {text!r} goes with method='l1' or 'random'",
            found=f"{text!r} with method {method.__name__}",
            needed="method='l1' or method='random'",
            do="pass method='l1', or an amount that is no pattern",
        )
    return Pattern(int(found[1]), int(found[2]))
