"""Statistics of a model on calibration batches, for criteria: moments of activations, gradients of a loss.

Training modes, ``requires_grad`` and ``.grad`` of the model are restored after each pass, also after an error. One
batch is held in memory at a time. Where the processes of ``torch.distributed`` share the batches
(:func:`graphprune.across_processes`), each runs its own, and what is gathered is pooled.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.calibration.batches import (
    as_share,
    call_arguments,
    call_model,
    check_calibration,
    communicator_of,
    is_read_once,
    moved_to,
    numbered,
    pair_of,
)
from graphprune.calibration.constant_draws import ConstantDraws
from graphprune.calibration.moments import ConsumerStatistics
from graphprune.calibration.observer import Observer
from graphprune.calibration.other_gradients import OtherGradients, other_gradients_kept
from graphprune.calibration.output_error import compared_outputs
from graphprune.calibration.output_kinds import kinds_of
from graphprune.calibration.own_answers import AnswerDraws, answer_loss
from graphprune.calibration.samples import SampleSplitter
from graphprune.errors import InputError
from graphprune.graph.groups import Units
from graphprune.graph.parameter_uses import running_statistics, weight_buffers
from graphprune.tracing.inputs import describe
from graphprune.tracing.meta import is_float
from graphprune.tracing.places import raised_at
from graphprune.tracing.run_state import evaluating_unchanged
from graphprune.utils.checks import with_article
from graphprune.utils.evaluation import clear_gradients
from graphprune.utils.modules import named_tensors, tables
from graphprune.utils.operators import Args, Kwargs
from graphprune.utils.random_state import RandomStream
from graphprune.utils.tree import map_tensors

LossFunction = Callable[[Any, Any], Tensor]

_LOSS = "one number that depends on the weights"


Gradients = Mapping[str, Tensor]


class Statistics:
    """Statistics of a model on calibration batches, computed on first access.

    Args:
        model: the model whose channels are scored. It runs in evaluation mode.
        units: the model's units.
        calibration: any iterable of batches. A batch is a tensor, a tuple (positional arguments) or a dict (keyword
            arguments); with ``loss_fn`` it is a pair (inputs, target).
        loss_fn: ``loss_fn(output, target)`` -> scalar. None: the ``loss`` in the model's own output, or if it has none,
            its loss with answers that are drawn from its outputs (:mod:`graphprune.calibration.own_answers`).
        kernel_positions: keep second moments of every kernel position instead of every channel: exact for one- and
            two-dimensional convolutions; k positions need k² times the memory.
        seed: of the answers that are drawn, and of what the model draws.

    Attributes:
        gathered: what criteria have summed up over the gradients of all samples, by a key of theirs.

    Raises:
        InputError: ``calibration`` is no iterable of batches.
    """

    def __init__(
        self,
        model: nn.Module,
        units: Units,
        calibration: Iterable[Any],
        loss_fn: LossFunction | None = None,
        kernel_positions: bool = False,
        seed: int = 0,
    ) -> None:
        check_calibration(calibration)
        self.model = model
        self.units = units
        self.loss_fn = loss_fn
        self.kernel_positions = kernel_positions
        self.seed = seed
        self.communicator = communicator_of(calibration)
        self._calibration = calibration
        self._read = False
        self._stream = RandomStream(seed)
        self.gathered: dict[Hashable, Any] = {}
        self._consumers: dict[bool, tuple[ConsumerStatistics, ...]] = {}

    def consumers(self, products: bool = False) -> tuple[ConsumerStatistics, ...]:
        """Every weight that sums over channels, with moments of its inputs; with ``products`` also second moments.

        The first call runs one pass over the batches, without gradients.

        Raises:
            InputError: the model fails on a batch, or there is no batch.
        """
        known = self._consumers.get(True) or self._consumers.get(products)
        if known is None:
            known = self._consumers[products] = self._observed(products)
        return known

    def _observed(self, products: bool) -> tuple[ConsumerStatistics, ...]:
        observer = Observer(dict(named_tensors(self.model)), self.units, products, self.kernel_positions)
        with self._pass(), torch.no_grad():
            for number, batch in self._batches():
                args, kwargs, _ = self._call(number, batch)
                with observer.batch(number):
                    self._forward(number, args, kwargs)
            observer.pool(self.communicator, next((p.device for p in self.model.parameters()), torch.device("cpu")))
        return observer.consumers

    @contextmanager
    def _pass(self) -> Iterator[None]:
        """A pass over the batches, in all processes that share them."""
        with self.communicator.together(), evaluating_unchanged(self.model):
            self.communicator.check_same_model(self.model)
            self._stream = RandomStream(self.seed)
            yield

    def each_forward(self, watching: Callable[[int], AbstractContextManager[Any]] = nullcontext) -> None:
        """Run the model on every batch without gradients, for hooks that the caller has registered.

        Where processes share the batches, each runs its own; :meth:`sum` adds up what the hooks have gathered.

        Args:
            watching: makes a context in which the batch of a number runs.

        Raises:
            InputError: the model fails on a batch, or there is no batch.
        """
        with self._pass(), torch.no_grad():
            for number, batch in self._batches():
                args, kwargs, _ = self._call(number, batch)
                with watching(number):
                    self._forward(number, args, kwargs)

    def sum(self, *tensors: Tensor) -> None:
        """Replace tensors, such as sums over batches, by their sums over the processes that share the batches."""
        self.communicator.sum(tensors)

    def each_backward(self, visit: Callable[[Gradients], None]) -> int:
        """Call ``visit`` with the gradients of each sample's loss by parameter name; freed after the call.

        A sample's loss is that of a batch of this sample alone, so it does not depend on how samples are batched.
        Buffers that inputs are multiplied with count as parameters. Parameters that the loss does not depend on have no
        gradient, and neither have running statistics. Where processes share the batches, each visits its own;
        :meth:`sum` adds up what ``visit`` has gathered.

        Returns:
            The number of samples, in all processes.

        Raises:
            InputError: the model fails on a batch, there is no batch or no loss, or a loss is NaN.

        Warns:
            BatchedSamplesWarning: the samples of a batch cannot be told apart (outputs or losses compare them with each
                other); it counts as one sample.
        """
        parameters = {n: t for n, t in named_tensors(self.model) if isinstance(t, nn.Parameter)}
        fixed = running_statistics(self.units.labeling)
        learned: dict[str, Tensor] = {n: p for n, p in parameters.items() if n not in fixed and is_float(p)}
        _check_learnable(learned)
        buffers = _learnable_buffers(self.model, self.units)
        splitter, count = SampleSplitter(self._evaluate_alike), 0
        with self._pass(), torch.enable_grad(), ExitStack() as stack:
            for name, parameter in parameters.items():
                parameter.requires_grad_(name in learned)
            stack.enter_context(_requiring_gradients(buffers.values()))
            learned |= buffers
            others = stack.enter_context(other_gradients_kept(learned.values()))
            draws = self._answer_draws()
            for number, batch in self._batches():
                call = map_tensors(_learnable, self._call(number, batch))
                call = self._answered(number, call, draws)
                for sample in splitter.samples(number, call):
                    self._backward(number, sample, others)
                    visit({n: p.grad for n, p in learned.items() if p.grad is not None})
                    clear_gradients(learned.values())
                    count += 1
            return self.communicator.total(count)

    def _backward(self, number: int, call: Any, others: OtherGradients) -> None:
        loss = self._evaluate(number, call)[1]
        if not loss.requires_grad:
            raise _no_loss(number, f"{describe(loss)}, requires_grad False")
        if bool(loss.isnan()):
            raise InputError(
                f"calibration: a sample of batch {number} ({describe(call)}) has the loss nan by itself",
                where=f"batch {number} of calibration",
                found="a loss of nan",
                needed="a loss that is a number for every sample by itself",
                do="leave out samples without anything to predict, or pass a loss_fn= that is 0 then",
            )
        others.note(number, loss)
        try:
            loss.backward()
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError) as error:
            raise InputError(
                f"calibration: the gradients of batch {number} cannot be computed: {type(error).__name__}: {error}",
                where="\n".join(filter(None, (f"batch {number} of calibration", raised_at(error)))),
                found=f"{type(error).__name__}: {error}",
                needed="a model through which gradients can be computed in evaluation mode",
                do="use a criterion that reads no gradients, such as importance='wanda'",
            ) from error

    @torch.no_grad()
    def _answer_draws(self) -> AnswerDraws | None:
        """What draws answers to the model's outputs, by a pass over the batches; None: there is a loss."""
        if self.loss_fn is not None:
            return None
        if is_read_once(self._calibration):
            self._calibration = as_share(list(self._calibration), self.communicator)
        shapes: list[list[torch.Size]] = []
        kinds = kinds_of(self._outputs_without_loss(shapes), self.communicator)
        return AnswerDraws(self.seed, kinds, shapes, self.communicator)

    def _outputs_without_loss(self, shapes: list[list[torch.Size]]) -> Iterator[list[Tensor]]:
        """The tensors of each output, none of one with a loss; their shapes are appended to ``shapes``."""
        for number, batch in self._batches():
            args, kwargs, _ = self._call(number, batch)
            output = self._forward(number, args, kwargs)
            tensors = [] if has_own_loss(output) else compared_outputs(output)
            shapes.append([tensor.shape for tensor in tensors])
            yield tensors

    @torch.no_grad()
    def _answered(self, number: int, call: Any, draws: AnswerDraws | None) -> Any:
        """A batch with answers that are drawn from the outputs, if there is nothing else to compute a loss of."""
        if draws is None:
            return call
        args, kwargs, _ = call
        output = self._forward(number, args, kwargs)
        return call if has_own_loss(output) else (args, kwargs, draws.answers(number, output))

    def _evaluate(self, number: int, call: Any) -> tuple[Any, Tensor]:
        """The output and the loss of a batch, given as (positional arguments, keyword arguments, target)."""
        args, kwargs, target = call
        output = self._forward(number, args, kwargs)
        if self.loss_fn is not None:
            loss = self.loss_fn(output, target)
        else:
            loss = answer_loss(output, target) if target and compared_outputs(output) else own_loss(output)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            found = f"{describe(loss)}" if isinstance(loss, Tensor) else repr(loss)
            raise _no_loss(number, found)
        return output, loss

    def _evaluate_alike(self, number: int, call: Any) -> tuple[Any, Tensor]:
        """:meth:`_evaluate`; of a model that draws random numbers, as if they were the same for all samples."""
        if not self._stream.moved:
            found = self._evaluate(number, call)
            if not self._stream.moved:
                return found
        stream, self._stream = self._stream, RandomStream(self.seed)
        try:
            with ConstantDraws():
                return self._evaluate(number, call)
        finally:
            self._stream = stream

    # ------------------------------------------------------------ batches

    def _batches(self) -> Iterator[tuple[int, Any]]:
        """The batches with their numbers."""
        if self._read and is_read_once(self._calibration):
            raise InputError(
                "calibration: is an iterator, which can be read only once, and was",
                found=f"{with_article(type(self._calibration).__name__)} that has ended",
                needed="batches that can be read several times",
                do="pass a list or a DataLoader",
            )
        self._read = True
        yield from numbered(self._calibration)

    def _call(self, number: int, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
        """A batch as (positional arguments, keyword arguments, target), on the model's device."""
        inputs, target = (batch, None) if self.loss_fn is None else pair_of(number, batch)
        args, kwargs = call_arguments(number, inputs)
        call: tuple[tuple[Any, ...], dict[str, Any], Any] = moved_to(self.model, (args, kwargs, target))
        return call

    def _forward(self, number: int, args: Args, kwargs: Kwargs) -> Any:
        pairs = "for pairs (inputs, target) pass loss_fn=, or pass batches of inputs alone, [x for x, _ in batches]"
        advice = "" if self.loss_fn else pairs
        with self._stream.going_on():
            return call_model(self.model, number, args, kwargs, advice)


def _learnable_buffers(model: nn.Module, units: Units) -> dict[str, Tensor]:
    """Buffers that are weights and can have gradients."""
    found = weight_buffers(units.labeling, tables(model))
    return {name: t for name, t in found.items() if t.is_leaf and not t.is_inference() and is_float(t)}


@contextmanager
def _requiring_gradients(buffers: Iterable[Tensor]) -> Iterator[None]:
    """Buffers require gradients, and have none yet; afterwards they have what they had."""
    before = [(buffer, buffer.requires_grad, buffer.grad) for buffer in buffers]
    try:
        for buffer, _, _ in before:
            buffer.requires_grad_(True).grad = None
        yield
    finally:
        for buffer, flag, gradient in before:
            buffer.requires_grad_(flag).grad = gradient


def _learnable(tensor: Tensor) -> Tensor:
    """A tensor that gradients can be computed with, which one that was made in inference mode is not."""
    return tensor.clone() if tensor.is_inference() else tensor


def _check_learnable(learned: Mapping[str, Tensor]) -> None:
    """Raise an InputError if parameters can have no gradients, as those that were made in inference mode."""
    fixed = [name for name, parameter in learned.items() if parameter.is_inference()]
    if fixed:
        raise InputError(
            f"model: {fixed[0]} was made in torch.inference_mode() and can have no gradient",
            where=fixed[0],
            found=f"{len(fixed)} inference tensors among {len(learned)} parameters",
            needed="ordinary parameters, since this importance reads gradients",
            do="make the model outside inference mode, or prune copy.deepcopy(model) made outside of it",
        )


def _no_loss(number: int, found: str) -> InputError:
    return InputError(
        f"loss_fn: must give {_LOSS}, but gave {found}",
        where=f"batch {number} of calibration",
        found=found,
        needed=f"loss_fn(output, target) gives {_LOSS}",
        do="return the mean of the loss, without detach(), item() or torch.no_grad()",
    )


def has_own_loss(output: Any) -> bool:
    """Has a model's output a loss of its own?"""
    return (output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)) is not None


_LABELED_BATCHES = (
    "pass loss_fn= and pairs (inputs, target) as calibration batches, or batches with which the model computes its own "
    "loss"
)


def own_loss(output: Any, reader: str = "this importance", do: str = _LABELED_BATCHES) -> Tensor:
    """The loss in a model's own output: the key or attribute ``loss``.

    Args:
        output: what the model returned.
        reader: what needs the loss, for the message.
        do: what to do where there is none.

    Raises:
        InputError: the output has none.
    """
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if loss is None:
        raise InputError(
            f"loss_fn: {reader} needs a loss, and the model's output ({with_article(type(output).__name__)}) has none",
            found=f"{with_article(type(output).__name__)} without loss, and no loss_fn",
            needed="loss_fn(output, target), or outputs with a loss as Transformers computes it",
            do=do,
        )
    found: Tensor = loss
    return found
