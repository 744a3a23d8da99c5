"""Record the consumers of a model in forward passes: dependences, numbers of calls, biases, sums and softmaxes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.reconstruction.executed_call import ExecutedCall
from graphprune.reconstruction.linear_calls import (
    CallKey,
    LinearCall,
    ParameterMemory,
    ParameterView,
    address,
    linear_call,
)
from graphprune.reconstruction.parameter_copies import ParameterCopies
from graphprune.reconstruction.passes import run_batch
from graphprune.reconstruction.result_paths import OtherUse, ResidualSum, ResultPaths, Softmax
from graphprune.reconstruction.shared_draws import Drawn, drawn_by
from graphprune.reconstruction.softmax_rows import SoftmaxRows
from graphprune.reconstruction.tensor_group import TensorGroup
from graphprune.rules.registry import has_trait, matmul_views, norm_call
from graphprune.rules.traits import Trait
from graphprune.utils.operators import Args, DispatchMode, Kwargs, short_name
from graphprune.utils.random_state import RandomStream
from graphprune.utils.tree import output_tensors, tensors_of


@dataclass(eq=False)
class Consumer:
    """A weight that is multiplied with inputs, and what was recorded of its calls.

    Attributes:
        number: in order of first execution.
        key: what its calls have in common.
        first: its first call.
        outputs: the number of outputs, over all blocks.
        shape: of its weight. [blocks, channels, outputs of a block]
        largest: the bytes of the input and the result of its largest call.
        sample: the entries of the input, and of the result, that cannot be divided further.
        rows: of its first call: n and m of the result [n, blocks, outputs, m].
        calls: the number of calls in each batch.
        recorded: the number of calls that were recorded.
        after: the consumers that its inputs depend on, as a bit set.
        bias_targets: the biases and running means that are applied to its results first; None for any other first use.
        scaled: a call multiplies the product by a factor.
        adds: a call adds a bias to the product itself.
        bare: a call does not.
        sums: the number of results that are added to a tensor that does not depend on them (a residual sum).
        used_otherwise: a result has a use other than a residual sum or a softmax.
        scores: for each batch and call of which the result goes into a softmax, the rows of that.
        beside: the consumers that the other operands of these sums depend on, as a bit set.
        factor: the factor of each output before the sum. [blocks, outputs]
    """

    number: int
    key: CallKey
    first: LinearCall
    outputs: int
    shape: tuple[int, int, int]
    largest: int = 0
    sample: tuple[int, int] = (0, 0)
    rows: tuple[int, int] = (0, 0)
    calls: list[int] = field(default_factory=list)
    recorded: int = 0
    after: int = 0
    bias_targets: set[BiasTarget | None] = field(default_factory=set)
    scaled: bool = False
    adds: bool = False
    bare: bool = False
    sums: int = 0
    used_otherwise: bool = False
    beside: int = 0
    factor: Tensor | None = None
    scores: list[list[SoftmaxRows]] = field(default_factory=list)

    @property
    def summed(self) -> bool:
        """Whether all its results are used in residual sums only."""
        return not self.used_otherwise and self.sums == self.recorded

    @property
    def scoring(self) -> bool:
        """Whether all its results go into softmaxes only, each along rows of data."""
        every = [len(batch) for batch in self.scores] == self.calls
        return not self.used_otherwise and not self.sums and any(self.calls) and every

    def measure(self, met: LinearCall, result: Tensor) -> None:
        """Record the sizes of a call."""
        self.largest = max(self.largest, met.x.nbytes + result.nbytes)
        rows = max(met.x.shape[0], 1)
        whole = met.x.numel() // rows * met.taps, result.numel() // rows
        one = whole if met.matmul.kernel is not None else (self.shape[0] * self.shape[1], self.outputs)
        self.sample = max(self.sample[0], one[0]), max(self.sample[1], one[1])

    def structure(self) -> tuple[Any, ...]:
        """What is the same in all batches, except how often it is called."""
        targets = sorted(map(repr, self.bias_targets))
        kind = self.scaled, self.adds, self.bare, self.summed, self.scoring, self.used_otherwise, self.factor is None
        return self.number, self.key, self.outputs, sorted(set(self.calls)), self.after, self.beside, targets, kind


class CallRecorder(DispatchMode):
    """Records a model's calls; see :meth:`record`.

    Args:
        model: the model.
        measures: :attr:`peak` is measured.

    Attributes:
        memory: the memory of the model's parameters.
        names: the names of the parameters and buffers that may be weights.
        consumers: consumers by key, in order of execution.
        other_uses: for parameters and buffers that are not only weights or addends, an operation that uses them.
        fed_by: for each addend, the numbers of the consumers whose results it is added to; None for other tensors.
        computed: parameters from which the weight of a product is computed.
        unsaved: tensors of floats that are not saved with the model, and are the weight of a product, or what it is
            computed from.
        running_means: those that normalizations use.
        peak: the most bytes of activations at a time.
        draws: some pass drew random numbers.
        drawn: for each batch, what torch's operations drew.
    """

    def __init__(self, model: nn.Module, measures: bool = False) -> None:
        super().__init__()
        self.memory = ParameterMemory(model)
        self.names = self.memory.weights
        self.consumers: dict[CallKey, Consumer] = {}
        self.other_uses: dict[str, str] = {}
        self.fed_by: dict[ParameterView, set[int | None]] = {}
        self.computed: set[str] = set()
        self.unsaved: set[str] = set()
        self.running_means: set[str] = set()
        self.peak = 0
        self._living = TensorGroup() if measures else None
        self._parameters = ParameterCopies(self.memory)
        self._dependence = Dependence(self.memory)
        self._paths = ResultPaths(self.memory)
        self._results: dict[int, tuple[Consumer, tuple[int, ...]]] = {}
        self._count: Counter[CallKey] = Counter()
        self._scores: defaultdict[CallKey, list[SoftmaxRows]] = defaultdict(list)
        self._batches = 0
        self.draws = False
        self.drawn: list[list[Drawn]] = [[]]

    def record(self, model: nn.Module, number: int, batch: Any) -> None:
        """Record a forward pass on a batch, given with its number.

        Raises:
            InputError: as for :func:`graphprune.reconstruction.passes.run_batch`.
        """
        stream = RandomStream(number)
        with stream.going_on():
            output = run_batch(model, number, batch, self)
        self.draws = self.draws or stream.moved
        for consumer in self._paths.followed_in(output_tensors(output)):
            consumer.used_otherwise = True
        self._end_batch()

    def _end_batch(self) -> None:
        self._parameters.clear()
        self._dependence.clear()
        self._paths.clear()
        self._results.clear()
        for key, consumer in self.consumers.items():
            skipped = self._batches - len(consumer.calls)
            consumer.calls += [0] * skipped + [self._count[key]]
            consumer.scores += [[] for _ in range(skipped)] + [self._scores[key]]
        self._count.clear()
        self._scores.clear()
        self.drawn.append([])
        self._batches += 1

    def stand_for(self, representatives: Sequence[int]) -> None:
        """Take the calls of other batches for those of batches that were recorded.

        Args:
            representatives: for each batch, the number of the recorded one.
        """
        for consumer in self.consumers.values():
            consumer.calls = [consumer.calls[number] for number in representatives]
            consumer.scores = [consumer.scores[number] for number in representatives]
        self.drawn = [self.drawn[number] for number in representatives]

    def __torch_dispatch__(self, func: Any, types: Any, args: Args = (), kwargs: Kwargs | None = None) -> Any:
        kwargs = kwargs or {}
        met = linear_call(func, args, kwargs, self._parameters, self.names)
        consumer = self._record_call(met) if met else None
        call = ExecutedCall(func, args, kwargs, func(*args, **kwargs))
        if (drawn := drawn_by(call)) is not None:
            self.drawn[-1].append(drawn)
        self._use(call, met)
        self._parameters.follow(call)
        for end in self._paths.follow(call):
            self._end(end)
        new = self._dependence.follow(call, 1 << consumer.number if consumer else 0)
        self._forget(new | set(call.read[:1] if call.is_mutable else ()))
        if self._living is not None:
            self._living.add(call.created)
            self.peak = max(self.peak, self._living.size)
        if met and consumer:
            self._add_own(met, consumer, call.results[0])
            consumer.measure(met, call.results[0])
            if met.matmul.result is not None:
                if consumer.recorded == 1:
                    opened = met.result(call.results[0])
                    consumer.rows = opened.shape[0], opened.shape[3]
                self._paths.start(consumer, call.results[0])
        else:
            self._note_computed(func, args)
        return call.out

    @property
    def copied(self) -> frozenset[str]:
        """The parameters that are weights by way of a copy."""
        return frozenset(key.name for key in self.consumers if key.view.copied is not None)

    def structure(self) -> str:
        """What was recorded, without numbers of batches: equal where the same program ran."""
        return repr(
            (
                *(consumer.structure() for consumer in self.consumers.values()),
                sorted(self.other_uses.items()),
                sorted(repr((view, sorted(map(str, by)))) for view, by in self.fed_by.items()),
                sorted(self.computed),
                sorted(self.running_means),
            )
        )

    def bias_target(self, consumer: Consumer) -> BiasTarget | None:
        """The bias or running mean that is added to all results of a consumer and to nothing else."""
        found, *others = consumer.bias_targets or {None}
        if found is None or others or self.fed_by[found.view] != {consumer.number}:
            return None
        name = found.view.name
        places = torch.cat([view.places().flatten() for view in self.fed_by if view.name == name])
        own = name not in self.other_uses and all(key.name != name for key in self.consumers)
        return found if own and len(places.unique()) == len(places) else None

    # ------------------------------------------------------------ consumers

    def _record_call(self, met: LinearCall) -> Consumer:
        key = met.key
        if key not in self.consumers:
            blocks, channels, outputs = met.weight_shape
            shape = blocks, channels, outputs
            self.consumers[key] = Consumer(len(self.consumers), key, met.light(), blocks * outputs, shape)
        consumer = self.consumers[key]
        self._count[key] += 1
        consumer.recorded += 1
        consumer.scaled |= met.scaled
        consumer.adds |= met.bias is not None
        consumer.bare |= met.bias is None
        consumer.after |= self._dependence.reach(tensors_of((met.args, met.kwargs)))
        return consumer

    def _note_computed(self, func: Any, args: Args) -> None:
        for matmul in matmul_views(func):
            sources = self._dependence.sources(args[matmul.weight])
            if sources:
                self.computed |= sources & self.names
                self.unsaved |= {n for n in sources - self.names if self.memory.tensors[n].is_floating_point()}
                return

    # ------------------------------------------------------------ biases and sums

    def _add_own(self, met: LinearCall, consumer: Consumer, result: Tensor) -> None:
        """Record the bias that the call adds; without one, keep the result, since another call may add the bias."""
        if met.bias is None:
            self._results[address(result)] = consumer, tuple(result.shape)
            return
        bias_target = own_bias(met, consumer.outputs, self.memory, self.names)
        self._added(consumer, bias_target)
        if bias_target is None and (name := self.memory.owner(met.bias)):
            self.other_uses.setdefault(name, short_name(met.op))

    def _added(self, consumer: Consumer, bias_target: BiasTarget | None) -> None:
        consumer.bias_targets.add(bias_target)
        if bias_target is not None:
            self.fed_by.setdefault(bias_target.view, set()).add(consumer.number)

    def _forget(self, places: set[int]) -> None:
        """Drop storages that are new or written to: they hold no result of a consumer."""
        for place in places:
            self._results.pop(place, None)

    def _end(self, end: ResidualSum | Softmax | OtherUse) -> None:
        """Record what becomes of a consumer's result."""
        if isinstance(end, OtherUse):
            end.token.used_otherwise = True
        elif isinstance(end, Softmax):
            self._end_in_softmax(end.path.token, end)
        else:
            self._end_in_sum(end.path.token, end)

    def _end_in_softmax(self, consumer: Consumer, end: Softmax) -> None:
        """Record a softmax; another use, if it runs over outputs."""
        rows = SoftmaxRows.of(consumer.first, end)
        if rows is None:
            consumer.used_otherwise = True
        else:
            self._scores[consumer.key].append(rows)

    def _end_in_sum(self, consumer: Consumer, end: ResidualSum) -> None:
        """Record a residual sum; another use, if the other operand depends on the result or on later consumers."""
        reach = self._dependence.reach([end.other])
        factors = consumer.first.result(end.path.factor(end.total))
        factor = factors[0, :, :, 0]
        consumer.used_otherwise |= bool(reach >> consumer.number) or bool((factors != factor.unsqueeze(-1)).any())
        consumer.used_otherwise |= consumer.factor is not None and not torch.equal(consumer.factor, factor)
        consumer.factor = factor.clone()
        consumer.beside |= reach
        consumer.sums += 1

    # ------------------------------------------------------------ uses of tensors

    def _use(self, call: ExecutedCall, met: LinearCall | None) -> None:
        """Record uses of parameters, buffers and results of consumers; a view or a copy of a parameter is no use."""
        if self._parameters.copy_made(call) is not None:
            return
        views = () if call.is_mutable else call.made
        found = addition(call.func, call.args, call.kwargs, self.memory, self.names)
        known = [id(t) for t in ((met.args[met.matmul.weight], met.bias) if met else ())]
        known += [id(found.added)] if found else []
        if found and found.bias_target.sign < 0:
            self.running_means.add(found.bias_target.view.name)
        if found and address(found.to) not in self._results:
            self.fed_by.setdefault(found.bias_target.view, set()).add(None)
        for tensor, place in zip(call.operands, call.read, strict=True):
            if id(tensor) in known or place in views:
                continue
            if name := self._parameters.owner(place, tensor):
                self.other_uses.setdefault(name, short_name(call.func))
            elif result := self._results.get(place):
                self._use_result(*result, tensor, found)

    def _use_result(self, consumer: Consumer, shape: tuple[int, ...], tensor: Tensor, found: Addition | None) -> None:
        straight = found and tensor is found.to and is_added_directly(consumer.first, shape, consumer.outputs, found)
        self._added(consumer, found.bias_target if found and straight else None)
        if found and not straight:
            self.fed_by.setdefault(found.bias_target.view, set()).add(None)


@dataclass(frozen=True)
class BiasTarget:
    """A bias, or (``sign`` -1) the running mean that a batch norm subtracts.

    Attributes:
        view: the parameter or buffer.
        sign: 1 for a bias, -1 for a running mean.
        dim: the dimension, of the tensor that it is added to, that its entries belong to.
    """

    view: ParameterView
    sign: int
    dim: int


@dataclass(frozen=True)
class Addition:
    """A call that adds a bias, or subtracts a running mean."""

    to: Tensor
    added: Tensor
    bias_target: BiasTarget


def addition(
    func: Any, args: Args, kwargs: Mapping[str, Any], memory: ParameterMemory, names: frozenset[str]
) -> Addition | None:
    """The call as one that adds a vector of the model: a parameter of ``names``, or a batch norm's running mean."""
    call = norm_call(func, args, kwargs)
    if call is not None and call.mean is not None:
        view = memory.find(call.mean)
        return Addition(call.x, call.mean, BiasTarget(view, -1, call.norm.channels)) if view else None
    if has_trait(func, Trait.ADDS) and kwargs.get("alpha", 1) == 1:
        for to, added in (args[:2], args[1::-1]):
            view = memory.find(added) if isinstance(added, Tensor) and added.ndim == 1 else None
            if view is not None and view.name in names and isinstance(to, Tensor) and to.ndim > 1:
                return Addition(to, added, BiasTarget(view, 1, -1))
    return None


def own_bias(met: LinearCall, outputs: int, memory: ParameterMemory, names: frozenset[str]) -> BiasTarget | None:
    """The bias that the call of a consumer adds itself, if it is a parameter with an entry for each output."""
    view = None if met.bias is None or met.bias.numel() != outputs else memory.find(met.bias)
    return BiasTarget(view, 1, -1) if view is not None and view.name in names else None


def is_added_directly(met: LinearCall, result: tuple[int, ...], outputs: int, sum_: Addition) -> bool:
    """Whether a vector is added to the result of a consumer, with one entry for each output."""
    to, dim = sum_.to, sum_.bias_target.dim % sum_.to.ndim
    if met.key.matmul or sum_.added.numel() != outputs or to.shape[dim] != outputs:
        return False
    if met.matmul.kernel is not None:
        return dim == 1 and tuple(to.shape) == result
    flat_rows = dim == to.ndim - 1 and met.key.blocks == 1
    return flat_rows and to.is_contiguous() and to.numel() == torch.Size(result).numel()


class Dependence:
    """Tracks, call by call, which consumers and parameters tensors depend on.

    All tensors of a storage share one entry. A result in a new storage depends on the call's operands only, even if a
    freed storage had the same address.
    """

    def __init__(self, memory: ParameterMemory) -> None:
        self._memory = memory
        self._reach: dict[int, int] = {}
        self._made: dict[int, frozenset[str]] = {}

    def clear(self) -> None:
        self._reach.clear()
        self._made.clear()

    def reach(self, tensors: Iterable[Tensor]) -> int:
        """The consumers that any of the tensors depends on, as a set of bits."""
        found = 0
        for tensor in tensors:
            found |= self._reach.get(address(tensor), 0)
        return found

    def sources(self, tensor: Tensor) -> frozenset[str] | None:
        """The parameters and buffers that a tensor was computed from; None if it depends on anything else."""
        return self._sources(address(tensor), tensor)

    def follow(self, call: ExecutedCall, consumer: int = 0) -> set[int]:
        """Record the dependences of a call's results, and return the addresses of new storages.

        Args:
            consumer: the bit of the consumer that was called.
        """
        reach, alone = consumer, self._alone(call)
        for place in call.read:
            reach |= self._reach.get(place, 0)
        new = {place for place in call.made if place not in call.read} - {0}
        written = call.read[:1] if call.is_mutable else ()
        for place in {*call.made, *written} - {0}:
            self._reach[place] = reach | (0 if place in new else self._reach.get(place, 0))
            self._made.pop(place, None)
            if alone is not None:
                self._made[place] = alone
        return new

    def _alone(self, call: ExecutedCall) -> frozenset[str] | None:
        """The parameters and buffers that all operands of a call were computed from; None if there are others."""
        found: frozenset[str] = frozenset()
        for tensor, place in zip(call.operands, call.read, strict=True):
            sources = self._sources(place, tensor)
            if sources is None:
                return None
            found |= sources
        return found if call.operands else None

    def _sources(self, place: int, tensor: Tensor) -> frozenset[str] | None:
        name = self._memory.owner_at(place, tensor)
        return self._made.get(place) if name is None else frozenset((name,))
