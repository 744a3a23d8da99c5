"""Observe a model's ATen calls on calibration batches, and stream the moments of the inputs of each weight.

Tensors computed from parameters alone (a transposed weight, a slice of a fused one, a normalized one) are labeled by
the same rules as in a trace. The labels of a contraction's weight determine the channels that it sums over; the other
operand is the input of this consumer. Modules are not needed for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphprune.calibration.batches import not_finite
from graphprune.calibration.communicator import Communicator
from graphprune.calibration.moments import ConsumerStatistics, Moments
from graphprune.graph.groups import Units
from graphprune.graph.propagate import call_rule
from graphprune.rules.labels import LabeledTensor, Labels, ParameterAxis
from graphprune.rules.matmul_view import AxisTable, MatmulView, Owners
from graphprune.rules.registry import has_trait, is_elementwise, matmul_views
from graphprune.rules.traits import Trait
from graphprune.tracing.meta import is_float
from graphprune.utils.arrays import Ids, distinct_columns
from graphprune.utils.complex_numbers import real_parts
from graphprune.utils.modules import is_parameter
from graphprune.utils.operators import Args, DispatchMode, Kwargs, is_mutable, is_random
from graphprune.utils.tree import map_tensors, tensors_of


@dataclass(frozen=True)
class _Entrance:
    """How to read the inputs of one consumer from a call; ``key`` is that of the consumer."""

    matmul: MatmulView
    owners: Owners
    consumer: ConsumerStatistics
    key: Any


class Observer(DispatchMode):
    """Streams moments while it is active; see :meth:`batch`.

    Args:
        tensors: parameters and buffers by name.
        units: the units of the model.
        products: also stream products of channels.
        kernel_positions: treat every kernel position of a channel as a channel.
    """

    def __init__(self, tensors: Mapping[str, Tensor], units: Units, products: bool, kernel_positions: bool) -> None:
        super().__init__()
        self.units = units
        self.products = products
        self.kernel_positions = kernel_positions
        self._labels = Labels()
        self._axes = {axis.name: axis for axis in units.axes}
        self._roots = {id(t): (t, name) for name, t in tensors.items()}
        self._parameters = {name for name, t in tensors.items() if is_parameter(t)}
        self._numbers: dict[tuple[int, ...], LabeledTensor] = {}
        self._named: dict[int, LabeledTensor] = {}
        self._known: dict[int, tuple[Tensor, LabeledTensor | None]] = {}
        self._results: dict[Any, Any] = {}
        self._entrances: dict[tuple[int, Any, int], _Entrance | None] = {}
        self._consumers: dict[Any, ConsumerStatistics] = {}
        self._product: tuple[Tensor, Any] | None = None

    @property
    def consumers(self) -> tuple[ConsumerStatistics, ...]:
        """All consumers with inputs, in the order of their first call. An expert may be called with no rows."""
        return tuple(c for c in self._consumers.values() if c.inputs.count)

    def pool(self, communicator: Communicator, device: torch.device) -> None:
        """Pool the moments of all processes; a consumer may be called in some of them only.

        Args:
            device: where the statistics of consumers go that this process has not met.
        """
        if communicator.count == 1:
            return
        met = communicator.gather({key: consumer.intercept for key, consumer in self._consumers.items()})
        keys = list(dict.fromkeys(key for one in met for key in one))
        first = {key: next(rank for rank, one in enumerate(met) if key in one) for key in keys}
        lent = [key for key in keys if first[key] == communicator.rank and any(key not in one for one in met)]
        others = communicator.gather({key: self._consumers[key].without_inputs("cpu") for key in lent})
        for key in keys:
            if key not in self._consumers:
                self._consumers[key] = others[first[key]][key].without_inputs(device)
            self._consumers[key].inputs.pool(communicator, device)
        self._consumers = {
            key: replace(self._consumers[key], intercept=any(one.get(key, False) for one in met)) for key in keys
        }

    @contextmanager
    def batch(self, number: int) -> Iterator[None]:
        """Observe one forward pass on the batch of this number; its tensors are dropped afterwards.

        Raises:
            InputError: the inputs of a consumer are not finite.
        """
        try:
            with self:
                yield
        finally:
            self._known.clear()
            self._product = None
        for consumer in self._consumers.values():
            if not consumer.inputs.finite:
                raise not_finite(f"the inputs of {', '.join(consumer.axes) or 'a weight'}", number)

    def __torch_dispatch__(self, func: Any, types: Any, args: Args = (), kwargs: Kwargs | None = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)  # first: what is wrong with its arguments it says itself
        self._note_bias(func, args, kwargs)
        consumer = self._record_call(func, args)
        self._follow(func, args, kwargs, out)
        self._follow_product(func, args, out, consumer)
        return out

    # ------------------------------------------------------------ labels of tensors computed from parameters

    def _label(self, tensor: Tensor) -> LabeledTensor | None:
        """The labels of a tensor that is computed from parameters alone."""
        found = self._known.get(id(tensor))
        if found is not None:
            return found[1]
        root = self._roots.get(id(tensor))
        if root is not None and id(tensor) not in self._named:
            shape = tuple(tensor.shape)
            self._named[id(tensor)] = self._labels.parameter(root[1], shape) if is_float(tensor) else self._plain(shape)
        return self._named.get(id(tensor))

    def _plain(self, shape: tuple[int, ...]) -> LabeledTensor:
        """The labels of numbers that are the same in every run and have no channels: masks, what is made of sizes."""
        return self._numbers.setdefault(shape, LabeledTensor(shape))

    def _follow(self, func: Any, args: Args, kwargs: Kwargs, out: Any) -> None:
        operands = [*tensors_of(args), *tensors_of(kwargs)]
        labels = [self._label(t) for t in operands]
        known = all(value is not None for value in labels) if labels else _is_number(func, out)
        if known:
            outs = out if isinstance(out, tuple | list) else [out]
            made = self._results_of(func, args, kwargs, outs, [label for label in labels if label is not None])
            for tensor, value in zip(outs, made, strict=True):
                if isinstance(tensor, Tensor):
                    self._known[id(tensor)] = tensor, value
        elif labels and labels[0] is not None and is_mutable(func):
            self._known[id(operands[0])] = operands[0], None  # overwritten with other values

    def _results_of(
        self, func: Any, args: Args, kwargs: Kwargs, outs: Sequence[Any], labels: Sequence[LabeledTensor]
    ) -> Sequence[LabeledTensor | None]:
        """The labels of the results of a call on parameters and buffers alone; None: it cannot be told."""
        shapes = [tuple(one.shape) if isinstance(one, Tensor) else () for one in outs]
        plain = [not label.arrays and label is self._numbers.get(label.shape) for label in labels]
        if all(plain):
            return [self._plain(shape) for shape in shapes]
        entrywise = is_elementwise(func, Trait.ENTRYWISE, Trait.MASKS)
        whole = [label for label in labels if label.arrays and label.shape == shapes[0]] if entrywise else []
        if whole:
            return [whole[0] if len(whole) == 1 else max(whole, key=self._is_weight)]
        return self._labeled(func, args, kwargs, outs) if entrywise or not any(plain) else [None] * len(outs)

    def _is_weight(self, labels: LabeledTensor) -> bool:
        """Are these the channels of one parameter, each dimension by itself? Of several tensors that are merged it is
        the one whose channels the result has."""
        table = AxisTable(self._labels.axes)
        alone = all(len(array.dims) == 1 and table.named(array) for array in labels.arrays)
        names = {axis.parameter for array in labels.arrays for axis in table.names(array.ids)} if alone else set()
        return len(names) == 1 and names <= self._parameters

    def _labeled(self, func: Any, args: Args, kwargs: Kwargs, outs: Sequence[Any]) -> Sequence[LabeledTensor]:
        """The labels of the results, cached for equal calls: applying a rule again would add the same facts again."""
        args, kwargs = map_tensors(self._label, (args, kwargs))
        key = func, repr(map_labeled((args, kwargs)))
        if key not in self._results:
            shapes = tuple(tuple(t.shape) if isinstance(t, Tensor) else () for t in outs)
            made, _ = call_rule(func, args, kwargs, self._labels, shapes or ((),))
            results = made if isinstance(made, tuple | list) else [made]
            self._results[key] = results[: len(shapes)], (args, kwargs)
        found: Sequence[LabeledTensor] = self._results[key][0]
        return found

    # ------------------------------------------------------------ contractions with inputs

    def _record_call(self, func: Any, args: Args) -> Any:
        """Add the inputs of a consumer; returns its key."""
        for matmul in matmul_views(func):
            weight = self._label(args[matmul.weight])
            if weight is not None:
                entrance = self._entrance(matmul, func, weight, args)
                if entrance is not None:
                    x, _ = entrance.matmul.open(args[matmul.x], args[matmul.weight], args, entrance.owners.blocks)
                    entrance.consumer.inputs.add(x)
                    return entrance.key
                return None
        return None

    # ------------------------------------------------------------ biases that are added after a product

    def _follow_product(self, func: Any, args: Args, out: Any, consumer: Any) -> None:
        """Keep the result of the last product: torch adds a bias itself, or right after, depending on strides."""
        if consumer is not None:
            self._product = out, consumer
        elif self._product is not None:
            passed = args and args[0] is self._product[0] and has_trait(func, Trait.MOVES, Trait.RESHAPES)
            self._product = (out, self._product[1]) if passed else None

    def _note_bias(self, func: Any, args: Args, kwargs: Kwargs) -> None:
        """Record that a consumer has an intercept, if the call adds a vector of the model to its product."""
        if self._product is None or not has_trait(func, Trait.ADDS) or kwargs.get("alpha", 1) != 1:
            return
        product, key = self._product
        for to, added in (args[:2], args[1::-1]):
            if to is product and isinstance(added, Tensor) and added.ndim == 1 and self._label(added) is not None:
                self._consumers[key] = replace(self._consumers[key], intercept=True)

    def _entrance(self, matmul: MatmulView, func: Any, weight: LabeledTensor, args: Args) -> _Entrance | None:
        key = id(weight), func, matmul.weight
        if key not in self._entrances:
            table = AxisTable(self._labels.axes)
            owners = matmul.owners(weight, args, table)
            made = self._opened(matmul, owners, weight, args, table) if owners else None
            self._entrances[key] = made
            self._results[key] = weight  # a reference, so that its id is not reused
        return self._entrances[key]

    def _opened(
        self, matmul: MatmulView, owners: Owners, labels: LabeledTensor, args: Args, table: AxisTable
    ) -> _Entrance:
        weight = args[matmul.weight]
        if self.kernel_positions:
            matmul, owners = matmul.by_kernel_position(owners, weight, args)
        key = (
            owners.blocks,
            owners.channels,
            tuple(_entries(array.ids, table) for array in labels.arrays if table.named(array)),
        )
        if key not in self._consumers:
            _, opened = matmul.open(args[matmul.x], weight, args, owners.blocks)
            self._consumers[key] = self._consumer(owners, opened, matmul.intercept(args), table)
        return _Entrance(matmul, owners, self._consumers[key], key)

    def _consumer(self, owners: Owners, weight: Tensor, intercept: bool, table: AxisTable) -> ConsumerStatistics:
        unit, place = self._owned(owners, table)
        weight = weight.detach()
        parts = real_parts(weight).flatten(2).double()
        return ConsumerStatistics(
            tuple(sorted(set().union(*(table.names(ids) for ids in owners.contracted)))),
            unit,
            place,
            weight.abs().double().sum(-1),
            parts.square().sum(-1),
            parts @ parts.mT if self.products else None,
            intercept,
            Moments(self.products),
        )

    # ------------------------------------------------------------ units of input channels

    def _owned(self, owners: Owners, table: AxisTable) -> tuple[Ids, Ids]:
        """Pairs of a unit and an input channel (an index into blocks * channels) that is removed with it."""
        shape = owners.blocks, owners.channels
        grid = np.arange(shape[0] * shape[1]).reshape(shape)
        pairs = [np.zeros((2, 0), np.int64)]
        for ids in owners.contracted:
            classes = np.broadcast_to(self._classes(ids, table), shape)
            pairs.append(np.stack(self.units.solution.expand(classes.ravel(), grid.ravel())))
        for ids in owners.rows:
            unit, block = self._whole_rows(self._classes(ids, table))
            pairs.append(np.stack([np.repeat(unit, shape[1]), grid[block].ravel()]))
        (unit, place), _ = distinct_columns(np.concatenate(pairs, axis=1))
        return unit, place

    def _whole_rows(self, classes: Ids) -> tuple[Ids, Ids]:
        """Pairs of a unit and a row of ``classes`` [rows, n] that is removed entirely with it."""
        count, n = classes.shape
        units, row = self.units.solution.expand(classes.ravel(), np.repeat(np.arange(count), n))
        pairs, times = np.unique(np.stack([units, row]), axis=1, return_counts=True)
        unit, row = pairs[:, times == n]
        return unit, row

    def _classes(self, ids: Ids, table: AxisTable) -> Ids:
        """The classes of labels of parameters; axes that are missing in the trace are frozen (class 0)."""
        number = table.number(ids)
        found = np.zeros(ids.shape, np.int64)
        for n in np.unique(number).tolist():
            axis, here = table.axes[n], number == n
            if axis.name in self._axes:
                found[here] = self.units.labels_of(self._axes[axis.name])[ids[here] - axis.start]
        return found


def _is_number(func: Any, out: Any) -> bool:
    """Does a call without tensors make a number, the same each time?"""
    return isinstance(out, Tensor) and not out.ndim and not is_random(func)


def _entries(ids: Ids, table: AxisTable) -> tuple[tuple[ParameterAxis | None, ...], bytes, bytes]:
    """The entries of parameters that labels are of: the same in every process."""
    axes, number = np.unique(table.number(ids), return_inverse=True)
    starts = np.array([table.axes[n].start for n in axes.tolist()])
    return (
        tuple(table.axes[n].name for n in axes.tolist()),
        number.tobytes(),
        (ids - starts[number].reshape(ids.shape)).tobytes(),
    )


def map_labeled(value: Any) -> Any:
    """Nested arguments with every labeled tensor replaced by its id, for cache keys."""
    if isinstance(value, LabeledTensor):
        return "labeled", id(value)
    if isinstance(value, Mapping):
        return {k: map_labeled(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(map_labeled(v) for v in value)
    return value
