"""What a model costs and what a budget can limit: one record for each kind.

A kind is counted on the traced graph, as a sum of products of sizes, so that it is known for any choice of channels
without building a model. Register one of your own with :func:`budget_kind`; ``graph.plan(my_kind=0.5)``,
``graph.cost()["my_kind"]`` and the command line's ``--my-kind`` know it from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TypeVar

from torch import Tensor, fx

from graphprune.errors import InputError
from graphprune.rules.labels import ParameterAxis, parameter_axes
from graphprune.rules.macs import SizeFactor
from graphprune.rules.registry import macs_of
from graphprune.tracing.places import raised_at
from graphprune.utils.checks import check_callable, check_positive, check_type, is_defined_again, shown
from graphprune.utils.modules import is_parameter

Factor = SizeFactor | ParameterAxis
"""A size that pruning may change: one dimension of a traced tensor, or of a parameter or buffer."""
Product = tuple[int, Sequence[Factor]]
"""A whole number times sizes."""


@dataclass(frozen=True)
class Counted:
    """What there is to count.

    Attributes:
        nodes: what evaluation reads and calls, in order: inputs (``node.op`` is ``"placeholder"``), parameters and
            buffers (``"get_attr"``), and calls (``"call_function"``), those that only make a view of a tensor too.
            ``node.target`` of a call is the operator, ``node.meta["shape"]`` the shape of what it returned. Where an
            operation has several results, each is a node of its own that has one.
        tensors: parameters and buffers by name, tied ones once.
    """

    nodes: Sequence[fx.Node]
    tensors: Sequence[tuple[str, Tensor]]


CountFunction = Callable[[Counted], Iterable[Product]]
F = TypeVar("F", bound=CountFunction)


@dataclass(frozen=True)
class BudgetKind:
    """One thing that a model costs.

    Attributes:
        name: the argument of ``graph.plan``.
        help: what it is, in a sentence.
        units: factors by the unit that an amount may be given in (``{"M": 1e6}``; ``""``: a plain number).
        example: an amount, for messages and help.
        count: the cost as a sum of products of sizes; None: it is measured (latency).
    """

    name: str
    help: str
    units: Mapping[str, float]
    example: str
    count: CountFunction | None = None

    def shown(self, value: float) -> str:
        """An amount as people read it."""
        return f"{value:,.0f}" if self.count is not None else f"{value * 1e3:.2f} ms"

    def products(self, counted: Counted) -> list[Product]:
        """The cost as a sum of products of sizes; none if it is measured.

        Raises:
            InputError: the function that counts it fails, or gives something else.
        """
        if self.count is None:
            return []
        if self.name in _OWN:
            return list(self.count(counted))
        try:
            found = list(self.count(counted))
        except Exception as error:
            raise self._miscounted(f"{type(error).__name__}: {error}", raised_at(error)) from error
        wrong = next((one for one in found if not _is_product(one)), None)
        if wrong is not None:
            raise self._miscounted(shown(wrong))
        return found

    def _miscounted(self, found: str, where: str = "") -> InputError:
        return InputError(
            f"{self.name}: the function that counts this budget kind gave no products of sizes, but {found}",
            where=where,
            found=found,
            needed="pairs of a whole number and sizes: each (node, dim) of a node with a shape, or a ParameterAxis",
            do=f"correct the function, and register it again by graphprune.budget_kind({self.name!r}, ...)",
        )


BUDGET_KINDS: dict[str, BudgetKind] = {}

COUNTS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
"""Units of plain numbers."""
_BYTES = {"B": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
BYTES = COUNTS | _BYTES | {f"{prefix}B": factor for prefix, factor in COUNTS.items()}
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}


def budget_kind(name: str, *, units: Mapping[str, float], example: str, help: str) -> Callable[[F], F]:
    """Register a function that counts a cost: given a :class:`Counted`, it returns products of sizes.

    To count the entries of all activations, which views have none of::

        @graphprune.budget_kind("activations", units={"": 1, "M": 1e6}, example="2M", help="entries of activations")
        def count_activations(counted):
            calls = [node for node in counted.nodes if node.op == "call_function" and "shape" in node.meta]
            made = [node for node in calls if not getattr(node.target, "is_view", False)]
            return [(1, [(node, dim) for dim in range(len(node.meta["shape"]))]) for node in made]

    Raises:
        InputError: the name is taken, or is no Python identifier, or an argument is of another kind. A function that
            is defined again (the cell of a notebook that is run twice) takes the place of the earlier one.
    """
    check_type("units", units, Mapping, "factors by unit, such as {'': 1.0, 'M': 1e6}")
    for unit, factor in units.items():
        check_type("units", unit, str, "factors by unit, such as {'': 1.0, 'M': 1e6}")
        check_positive(f"units[{unit!r}]", factor)
    check_type("example", example, str, "an amount as text, such as '2M'")
    check_type("help", help, str, "a sentence")

    def register(count: F) -> F:
        check_callable("count", count, "a function that returns products of sizes", takes="counted")
        _add(BudgetKind(name, help, units, example, count))
        return count

    return register


def _add(kind: BudgetKind) -> None:
    known = BUDGET_KINDS.get(kind.name)
    taken = known is not None and not is_defined_again(kind.count, known.count)
    if taken or not kind.name.isidentifier():
        wrong = "is taken" if taken else "is no name of an argument"
        raise InputError(
            f"name: {kind.name!r} {wrong}",
            found=f"{kind.name!r}; there are {', '.join(BUDGET_KINDS)}",
            needed="a name that could be an argument, and that no other kind has",
            do="give the budget kind another name",
        )
    BUDGET_KINDS[kind.name] = kind


def _is_product(found: object) -> bool:
    if not (isinstance(found, tuple | list) and len(found) == 2 and isinstance(found[0], Integral)):
        return False
    return isinstance(found[1], Sequence) and all(map(_is_factor, found[1]))


def _is_factor(found: object) -> bool:
    if isinstance(found, ParameterAxis):
        return True
    if not (isinstance(found, tuple | list) and len(found) == 2 and isinstance(found[0], fx.Node)):
        return False
    dims = len(found[0].meta.get("shape", ()))
    return isinstance(found[1], Integral) and -dims <= int(found[1]) < dims


def counted_kinds() -> tuple[BudgetKind, ...]:
    """The kinds that are counted, not measured."""
    return tuple(kind for kind in BUDGET_KINDS.values() if kind.count is not None)


@budget_kind("macs", units=COUNTS, example="2G", help="multiply-adds (1 MAC = one multiply-add) of the traced input")
def count_macs(counted: Counted) -> list[Product]:
    """Every product of matrices and every convolution that evaluation runs."""
    calls = [node for node in counted.nodes if node.op == "call_function"]
    return [(1, macs(node)) for node in calls if (macs := macs_of(node.target)) is not None]


@budget_kind("params", units=COUNTS | {"B": 1e9}, example="5M", help="entries of parameters")
def count_parameters(counted: Counted) -> list[Product]:
    """Every entry of a parameter; tied ones count once."""
    return [(1, parameter_axes(name, t.ndim)) for name, t in counted.tensors if is_parameter(t)]


@budget_kind("bytes", units=BYTES, example="20MB", help="bytes of parameters and buffers in memory")
def count_bytes(counted: Counted) -> list[Product]:
    """Every entry of a parameter, of a buffer or of another tensor of a module that runs read, in bytes of its type."""
    return [(tensor.element_size(), parameter_axes(name, tensor.ndim)) for name, tensor in counted.tensors]


_add(
    BudgetKind(
        "latency",
        "the time of a forward pass on the example inputs, measured on the slim model; kernels are measured where the "
        "model is, and kept in a table on disk",
        SECONDS,
        "5ms",
    )
)

_OWN = frozenset(BUDGET_KINDS)
"""The kinds of this library, which need no check."""
