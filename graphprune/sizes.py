"""Where a size comes from: integers that remember the attribute or tensor shape they were read from.

While a model is traced, integer attributes of its modules and the entries of every ``.shape`` are :class:`Size`
objects. They behave as plain integers, and survive ``+ - * //``. When one reaches ``view``, ``split`` or a
slice, the tracer writes down an :class:`SizeUse`; the planner later asks that the expression, evaluated in
the slim model, gives the size that the slim tensor really has.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

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
    """``left op right`` with op one of ``+ - * //``."""

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


@dataclass(slots=True)
class SizeLog:
    """What happened to sizes during one trace."""

    uses: list[SizeUse] = field(default_factory=list)
    equalities: list[tuple[Expr, Expr, Line | None, str]] = field(default_factory=list)
    comparisons: dict[tuple[str, Expr, Expr], bool] = field(default_factory=dict)
    numbers: list[tuple[Expr, Line | None, str]] = field(default_factory=list)
    where: Callable[[], tuple[Line | None, str]] = lambda: (None, "")

    def equal(self, left: Expr, right: Expr) -> None:
        """The program compared two sizes and found them equal: it may insist on that."""
        if left != right:
            self.equalities.append((left, right, *self.where()))

    def compared(self, symbol: str, left: Expr, right: Expr, outcome: bool) -> None:
        """The program may have gone one way because of this outcome: the slim model must go there too."""
        self.comparisons[symbol, left, right] = outcome

    def number(self, expr: Expr) -> None:
        """A size left the world of sizes: it was used as a number (``1 / sqrt(d)``)."""
        self.numbers.append((expr, *self.where()))


class Size(int):
    """An ``int`` that knows the expression it came from."""

    expr: Expr
    log: SizeLog

    def __new__(cls, value: int, expr: Expr, log: SizeLog) -> Size:
        self = int.__new__(cls, value)
        self.expr = expr
        self.log = log
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Size:
        return self

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)

    def __hash__(self) -> int:
        return int.__hash__(self)

    def __eq__(self, other: object) -> bool:
        same = int.__eq__(self, other)
        if same is True:
            self.log.equal(self.expr, expr_of(other))
        elif same is False:
            self.log.compared("==", self.expr, expr_of(other), False)
        return same

    def __ne__(self, other: object) -> bool:
        differ = int.__ne__(self, other)
        if differ is False:
            self.log.equal(self.expr, expr_of(other))
        elif differ is True:
            self.log.compared("==", self.expr, expr_of(other), False)
        return differ

    def __neg__(self) -> Any:
        return Size(-int(self), BinOp("-", Const(0), self.expr), self.log)

    def __float__(self) -> float:
        self.log.number(self.expr)
        return int.__float__(self)

    def __pow__(self, other: Any, modulo: Any = None) -> Any:
        self.log.number(self.expr)
        return pow(int(self), other, modulo)

    def __truediv__(self, other: Any) -> Any:
        self.log.number(self.expr)
        return int(self) / other

    def __rtruediv__(self, other: Any) -> Any:
        self.log.number(self.expr)
        return other / int(self)


def expr_of(value: object) -> Expr:
    """The expression of a size, or the constant it is."""
    return value.expr if isinstance(value, Size) else Const(int(value))  # type: ignore[call-overload]


def _arithmetic(symbol: str, reflected: bool) -> Callable[[Size, Any], Any]:
    function = OPERATORS[symbol]

    def method(self: Size, other: Any) -> Any:
        if not isinstance(other, int) or isinstance(other, bool):
            self.log.number(self.expr)
            return function(other, int(self)) if reflected else function(int(self), other)
        left, right = (other, self) if reflected else (self, other)
        value = function(int(left), int(right))
        return Size(value, BinOp(symbol, expr_of(left), expr_of(right)), self.log)

    return method


def _comparison(symbol: str) -> Callable[[Size, Any], Any]:
    function = COMPARISONS[symbol]

    def method(self: Size, other: Any) -> Any:
        if not isinstance(other, int):
            self.log.number(self.expr)
            return function(int(self), other)
        outcome = function(int(self), int(other))
        self.log.compared(symbol, self.expr, expr_of(other), outcome)
        return outcome

    return method


for _symbol, _name in {"<": "lt", "<=": "le", ">": "gt", ">=": "ge"}.items():
    setattr(Size, f"__{_name}__", _comparison(_symbol))
for _symbol, _name in {"+": "add", "-": "sub", "*": "mul", "//": "floordiv"}.items():
    setattr(Size, f"__{_name}__", _arithmetic(_symbol, reflected=False))
    setattr(Size, f"__r{_name}__", _arithmetic(_symbol, reflected=True))
