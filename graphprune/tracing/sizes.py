"""Where a size comes from: integers that remember the attribute or tensor shape they were read from.

While a model is traced, integer attributes of its modules and the entries of every ``.shape`` are :class:`Size`
objects. They behave as plain integers, and survive ``+ - * // %``, ``size >> 1``, ``size & 7`` and ``int(size / 2)``.
When one reaches ``view``, ``split`` or a slice, the tracer records a :class:`SizeUse`; the planner later requires that
the expression, evaluated in the slim model, gives the size of the slim tensor. Any other use makes a plain number of
it, which must not change.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from math import isfinite
from types import FrameType
from typing import Any

import numpy as np
from torch import fx

Line = tuple[str, int]
"""A line of the user's source: file name and line number."""


@dataclass(frozen=True, slots=True)
class Const:
    """A literal."""

    value: int

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True, slots=True)
class Attr:
    """An integer attribute, ``"blocks.0.attn.num_heads"``, or one entry of a tuple, ``"norm.shape[0]"``."""

    path: str
    value: int

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class Dim:
    """One entry of the shape of a traced tensor."""

    node: fx.Node
    dim: int
    value: int

    def __str__(self) -> str:
        return f"{self.node.name}.shape[{self.dim}]"


@dataclass(frozen=True, slots=True)
class BinOp:
    """``left op right`` with op one of ``+ - * // %``."""

    op: str
    left: Expr
    right: Expr

    @property
    def value(self) -> int:
        return OPERATORS[self.op](self.left.value, self.right.value)

    def __str__(self) -> str:
        return f"({self.left} {self.op} {self.right})"


Expr = Const | Attr | Dim | BinOp


OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
}


COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "==": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class SizeUse:
    """``expr`` was given as the size of dimension ``dim`` of ``node``.

    ``dim`` may be a string: a size that no dimension shows, such as ``"groups"`` of a convolution.
    With ``prefix`` it is a position: ``expr`` must be the number of living entries before ``expr.value``.
    """

    node: fx.Node
    dim: int | str
    expr: Expr
    line: Line | None
    module: str
    prefix: bool = False

    @property
    def position(self) -> int | None:
        """Before which entry of the dimension those lie that are counted; None: all of them count."""
        return self.expr.value if self.prefix else None


def _nowhere() -> tuple[Line | None, str]:
    """The place and the module of what no program does."""
    return None, ""


@dataclass(slots=True)
class SizeLog:
    """What happened to sizes during one trace."""

    uses: list[SizeUse] = field(default_factory=list)
    equalities: list[tuple[Expr, Expr, Line | None, str]] = field(default_factory=list)
    comparisons: dict[tuple[str, Expr, Expr], bool] = field(default_factory=dict)
    orderings: dict[tuple[Expr, Expr], tuple[Line | None, str]] = field(default_factory=dict)
    """Which sizes the program asked for the smaller one of (``min(x.shape[1], x.shape[2])``), and where first."""
    numbers: list[tuple[Expr, Line | None, str]] = field(default_factory=list)
    values_read: list[tuple[fx.Node, Line | None]] = field(default_factory=list)
    """Tensors whose entries the program read as numbers, past torch, and where."""
    where: Callable[[], tuple[Line | None, str]] = _nowhere
    on_meta: bool = True
    """The trace has no values of floats; else a tensor on ``meta`` is the program's own."""
    unknown: Container[int] = ()
    """The storages of tensors that are not on ``meta``, and whose values are not known there."""
    closed: bool = False
    """The trace has ended: what is done with its sizes from now on is no part of the program."""

    def expressions(self) -> Iterator[Expr]:
        """All that were given, compared or used as numbers."""
        yield from self.worked_with()
        yield from (side for _, left, right in self.comparisons for side in (left, right))

    def worked_with(self) -> Iterator[Expr]:
        """Those that were given, used as numbers, or found equal to a size; not what only decided on a way."""
        yield from (use.expr for use in self.uses)
        yield from (side for left, right, *_ in self.equalities for side in (left, right))
        yield from (expr for expr, *_ in self.numbers)

    def equal(self, left: Expr, right: Expr) -> None:
        """The program compared two sizes and found them equal: it may insist on that."""
        if self.closed:
            return
        if has_remainder(left) or has_remainder(right):
            self.compared("==", left, right, True)  # no equation that could be solved
        elif left != right:
            self.equalities.append((left, right, *self.where()))

    def compared(self, symbol: str, left: Expr, right: Expr, outcome: bool) -> None:
        """The program may have gone one way because of this outcome: the slim model must go there too."""
        if not self.closed:
            self.comparisons[symbol, left, right] = outcome

    def ordered(self, left: Expr, right: Expr) -> None:
        """The program asked which of two sizes is the smaller one."""
        if not self.closed and (left, right) not in self.orderings:
            self.orderings[left, right] = self.where()

    def number(self, expr: Expr) -> None:
        """A size left the world of sizes: it was used as a number (``1 / sqrt(d)``)."""
        if not self.closed:
            self.numbers.append((expr, *self.where()))

    def values(self, node: fx.Node) -> None:
        """The program read the entries of a tensor as numbers."""
        if not self.closed:
            self.values_read.append((node, self.where()[0]))

    def close(self) -> None:
        """End the trace, and let go of what tells places: it holds the model's copy."""
        self.closed = True
        self.where = _nowhere


def has_remainder(expr: Expr) -> bool:
    """Does ``%`` occur in the expression?"""
    return isinstance(expr, BinOp) and (expr.op == "%" or has_remainder(expr.left) or has_remainder(expr.right))


def plain(value: int) -> int:
    """The integer alone; ``int(size)`` is what a program does that makes a number of a size."""
    return int.__int__(value)


def attributes_of(expr: Expr) -> Iterator[Attr]:
    """The attributes that a size expression mentions."""
    return (leaf for leaf in _leaves(expr) if isinstance(leaf, Attr))


def dims_of(expr: Expr) -> Iterator[Dim]:
    """The tensor shapes that a size expression mentions."""
    return (leaf for leaf in _leaves(expr) if isinstance(leaf, Dim))


def _leaves(expr: Expr) -> Iterator[Const | Attr | Dim]:
    if isinstance(expr, BinOp):
        yield from _leaves(expr.left)
        yield from _leaves(expr.right)
    else:
        yield expr


class Size(int):
    """An ``int`` with the expression that it came from.

    Attributes:
        expr: where it came from.
        log: where it notes what is done with it.
        kind: numpy's type of whole numbers that it stands for; None: Python's.
    """

    expr: Expr
    log: SizeLog
    kind: type[np.integer[Any]] | None = None

    def __new__(cls, value: Any = 0, expr: Expr | None = None, log: SizeLog | None = None) -> Any:
        """A size; without an expression the plain integer that a program asks for, ``type(size)(value)``."""
        if expr is None or log is None:
            return int(value)
        self = int.__new__(cls, value)
        self.expr = expr
        self.log = log
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Size:
        return self

    @property
    def __class__(self) -> type:
        """What a program that asks ``size.__class__ is int`` is told; numpy would make a number of one of its own."""
        return int if self.kind is None else Size

    @__class__.setter
    def __class__(self, kind: type) -> None:
        raise TypeError("__class__ assignment is not supported for 'int' objects")

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (plain(self),)

    def __hash__(self) -> int:
        return int.__hash__(self)

    def __getattr__(self, name: str) -> Any:
        """What numpy's numbers have and Python's have not (``size.astype(float)``): it is a number then."""
        if self.kind is None or name.startswith("__"):
            raise AttributeError(f"'int' object has no attribute {name!r}")
        return getattr(self.kind(self.number()), name)

    def item(self) -> Size:
        """The size itself: NumPy makes a product of sizes one of its own integers, which have this."""
        return self

    def __eq__(self, other: object) -> bool:
        if isinstance(other, int):
            self._compared(other)
        return int.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        if isinstance(other, int):
            self._compared(other)
        return int.__ne__(self, other)

    def _compared(self, other: int) -> None:
        if plain(self) == plain(other):
            self.log.equal(self.expr, expr_of(other))
        else:
            self.log.compared("==", self.expr, expr_of(other), False)

    def __neg__(self) -> Any:
        return Size(-plain(self), BinOp("-", Const(0), self.expr), self.log)

    def __bool__(self) -> bool:
        self.log.compared("==", self.expr, Const(0), plain(self) == 0)
        return plain(self) != 0

    def __floor__(self) -> Any:
        return self

    __trunc__ = __ceil__ = __floor__

    def __abs__(self) -> Any:
        return self if plain(self) >= 0 else -self

    def __round__(self, digits: Any = None) -> Any:
        return self if digits is None else round(self.number(), digits)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """What numpy makes of it: ``np.sqrt(size)``."""
        return getattr(function, method)(*(x.number() if type(x) is Size else x for x in inputs), **options)

    def number(self) -> int:
        """The integer, which is used as a number."""
        self.log.number(self.expr)
        return plain(self)


class Ratio(float):
    """A size by a number, ``size / 2`` or ``size * 0.5``, that comes out whole. Made an integer, it is a size again.

    Attributes:
        over, under: the size, or a multiple of it, and what that is divided by.
    """

    over: Size
    under: int

    def __new__(cls, value: Any = 0.0, over: Size | None = None, under: int = 1) -> Any:
        """A ratio; without a size the plain number that a program asks for, ``type(ratio)(value)``."""
        if over is None:
            return float(value)
        self = float.__new__(cls, value)
        self.over, self.under = over, under
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Ratio:
        return self

    @property
    def __class__(self) -> type:
        """What a program that asks ``(size / 2).__class__ is float`` is told."""
        return float

    @__class__.setter
    def __class__(self, kind: type) -> None:
        raise TypeError("__class__ assignment is not supported for 'float' objects")

    def __reduce__(self) -> tuple[type[float], tuple[float]]:
        return float, (float.__float__(self),)

    def __floor__(self) -> Any:
        return self.over // self.under

    __trunc__ = __floor__

    def __ceil__(self) -> Any:
        return -(-self.over // self.under)

    def __round__(self, digits: Any = None) -> Any:
        exact: bool = digits is None and self.over % self.under == 0
        return self.over // self.under if exact else round(self.number(), digits)

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """What numpy makes of it: ``np.sqrt(ratio)``."""
        return getattr(function, method)(*(x.number() if type(x) in (Size, Ratio) else x for x in inputs), **options)

    def number(self) -> float:
        """The number, which is used as one: of two sizes their quotient is, which stays where both change alike."""
        used: Any = self.over // self.under if type(self.under) is Size else self.over
        used.number()
        return float.__float__(self)


_FINEST = 64
"""A factor such as 0.75 is a fraction whose denominator is no larger; 0.0883 is not."""


def _ratio(over: Size, under: int) -> Any:
    """``over / under`` if that is whole."""
    if plain(under) and plain(over) % plain(under) == 0:
        return Ratio(plain(over) / plain(under), over, under)
    return over.number() / (under.number() if type(under) is Size else under)


def _times(size: Size, factor: float) -> Any:
    """``size * factor`` if that is whole and the factor is a simple fraction."""
    simple = Fraction(factor).limit_denominator(_FINEST) if isfinite(factor) else Fraction(0)
    if not simple or float(simple) != factor or not (plain(size) * factor).is_integer():
        return size.number() * factor
    over: Any = size * simple.numerator
    return Ratio(plain(size) * factor, over, simple.denominator)


def expr_of(value: int) -> Expr:
    """The expression of a size, or the constant it is."""
    return value.expr if isinstance(value, Size) else Const(plain(value))


def _arithmetic(symbol: str, reflected: bool) -> Callable[[Size, Any], Any]:
    function = OPERATORS[symbol]

    def method(self: Size, other: Any) -> Any:
        other = int(other) if isinstance(other, np.integer) else other
        if type(other) is float and symbol == "*":
            return _times(self, other)
        if not isinstance(other, int) or isinstance(other, bool):
            return function(other, self.number()) if reflected else function(self.number(), other)
        left, right = (other, self) if reflected else (self, other)
        value = function(plain(left), plain(right))
        if type(other) is Size and symbol == "//" and not value:  # a quotient that shows only which one is smaller
            self.log.ordered(expr_of(left), expr_of(right))
        return Size(value, BinOp(symbol, expr_of(left), expr_of(right)), self.log)

    return method


def _comparison(symbol: str) -> Callable[[Size, Any], Any]:
    function = COMPARISONS[symbol]

    def method(self: Size, other: Any) -> Any:
        if not isinstance(other, int):
            return function(self.number(), other)
        outcome = function(plain(self), plain(other))
        self.log.compared(symbol, self.expr, expr_of(other), outcome)
        if type(other) is Size and not _is_torchs(sys._getframe(1)):
            self.log.ordered(self.expr, other.expr)
        return outcome

    return method


def _is_torchs(frame: FrameType) -> bool:
    """Is it torch that asks, to check its arguments?"""
    return str(frame.f_globals.get("__name__", "")).startswith("torch.")


def _as_number(kind: type, name: str) -> Callable[..., Any]:
    function = getattr(kind, name)

    def method(self: Size | Ratio, *others: Any) -> Any:
        values = (other.number() if type(other) in (Size, Ratio) else other for other in others)
        return function(self.number(), *values)

    return method


def _true_quotient(self: Size, other: Any) -> Any:
    other = int(other) if isinstance(other, np.integer) else other
    return _ratio(self, other) if isinstance(other, int) else self.number() / other


def _shifted(self: Size, places: Any) -> Any:
    """``size >> 1`` is ``size // 2``."""
    return self // (1 << int(places)) if _counts(places) else self.number() >> places


def _shifted_up(self: Size, places: Any) -> Any:
    """``size << 1`` is ``size * 2``."""
    return self * (1 << int(places)) if _counts(places) else self.number() << places


def _masked(self: Size, bits: Any) -> Any:
    """``size & 7`` is ``size % 8``, and ``size & ~7`` the multiple of 8 below; with other bits it is a number."""
    bits = int(bits) if isinstance(bits, np.integer) else bits
    if _counts(bits) and not bits & (bits + 1):
        return self % (bits + 1)
    if type(bits) is int and bits < 0 and not bits & (-bits - 1):
        return self // -bits * -bits
    return self.number() & bits


def _counts(value: Any) -> bool:
    """Is it a whole number that is no size, and not negative?"""
    return (type(value) is int or isinstance(value, np.integer)) and int(value) >= 0


_NUMBERS = "int float invert rtruediv pow rpow or ror xor rxor rlshift rrshift"


for _name in (*(f"__{name}__" for name in _NUMBERS.split()), "bit_length", "bit_count"):
    setattr(Size, _name, _as_number(int, _name))
Size.__truediv__ = _true_quotient  # type: ignore[method-assign, assignment]
Size.__rshift__, Size.__lshift__ = _shifted, _shifted_up  # type: ignore[method-assign, assignment]
Size.__and__ = Size.__rand__ = _masked  # type: ignore[method-assign, assignment]

_FLOATS = (
    "int float bool neg pos abs eq ne lt le gt ge add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod "
    "rmod divmod rdivmod pow rpow"
)


for _name in (*(f"__{name}__" for name in _FLOATS.split()), "is_integer", "as_integer_ratio", "hex"):
    setattr(Ratio, _name, _as_number(float, _name))
Ratio.__hash__ = float.__hash__  # type: ignore[method-assign]


for _symbol, _name in {"<": "lt", "<=": "le", ">": "gt", ">=": "ge"}.items():
    setattr(Size, f"__{_name}__", _comparison(_symbol))


for _symbol, _name in {"+": "add", "-": "sub", "*": "mul", "//": "floordiv", "%": "mod"}.items():
    setattr(Size, f"__{_name}__", _arithmetic(_symbol, reflected=False))
    setattr(Size, f"__r{_name}__", _arithmetic(_symbol, reflected=True))
