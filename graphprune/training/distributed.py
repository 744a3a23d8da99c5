"""Where training runs: in this process alone, or in several through Hugging Face Accelerate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from graphprune.calibration.batches import communicator_of
from graphprune.calibration.communicator import ALONE, TIMEOUT, Communicator
from graphprune.errors import InputError
from graphprune.utils.checks import check_known, found_value, with_article

T = TypeVar("T")


PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Processes(Protocol):
    """What a training loop needs to know and do about processes, devices and mixed precision.

    Attributes:
        count: the number of processes.
        rank: the number of this one; process 0 writes files and shows progress.
        device: where batches go.
        run: calls the model; ready after :meth:`prepare`.
        scaler: scales losses so that gradients in float16 do not vanish, if there are such.
        communicator: exchanges what is no tensor.
    """

    count: int
    rank: int
    device: torch.device
    run: Callable[..., Any]
    scaler: Any
    communicator: Communicator

    def prepare(self, model: nn.Module, optimizer: Optimizer, batches: Iterable[Any]) -> Iterable[Any]:
        """Get ready to train ``model``; returns the batches of this process."""

    def precision(self) -> AbstractContextManager[Any]:
        """The context in which the loss is computed."""

    def update(self, loss: Tensor, clip: float | None) -> None:
        """Go one step down: backward, clip the norm of the gradients, and the optimizer's step."""

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over all processes."""

    def agree(self) -> None:
        """Give every process the buffers (running statistics) of process 0, and wait for each other."""

    def close(self) -> None:
        """Let go of the model, which is as it was but for its weights."""


class Alone:
    """One process, on the device where the model is.

    Args:
        precision: ``"fp32"``; ``"bf16"`` or ``"fp16"`` for mixed precision (Micikevicius et al., "Mixed Precision
            Training", ICLR 2018), where weights stay as they are.
    """

    count = 1
    rank = 0
    communicator = ALONE

    def __init__(self, model: nn.Module, precision: str) -> None:
        check_known("precision", precision, PRECISIONS)
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.dtype = PRECISIONS[precision]
        scaled = self.dtype is torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type) if scaled else None
        self.run: Callable[..., Any] = model

    def prepare(self, model: nn.Module, optimizer: Optimizer, batches: Iterable[Any]) -> Iterable[Any]:
        self._model, self._optimizer = model, optimizer
        return batches

    def precision(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.dtype is None else torch.autocast(self.device.type, self.dtype)

    def update(self, loss: Tensor, clip: float | None) -> None:
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        if clip is not None:
            if self.scaler is not None:
                self.scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._model.parameters(), clip)
        if self.scaler is None:
            self._optimizer.step()
        else:
            self.scaler.step(self._optimizer)
            self.scaler.update()
        self._optimizer.zero_grad(set_to_none=True)

    def mean(self, tensor: Tensor) -> Tensor:
        return tensor

    def agree(self) -> None:
        """There is nobody to agree with."""

    def close(self) -> None:
        """The model was never changed but for its weights."""


class Accelerated:
    """The processes that ``accelerate launch`` started.

    Args:
        accelerator: an ``accelerate.Accelerator``; it decides the device and the precision. What it has prepared is
            released at the end.
    """

    def __init__(self, model: nn.Module, accelerator: Any, precision: str) -> None:
        if precision != "fp32":
            raise InputError(
                f"precision: is {precision!r}, but the accelerator decides it",
                found=f"precision={precision!r} and an accelerator",
                needed="one of them",
                do=f'pass accelerator=Accelerator(mixed_precision="{precision}") and leave out precision',
            )
        if accelerator.gradient_accumulation_steps != 1:
            raise InputError(
                f"accelerator: accumulates gradients over {accelerator.gradient_accumulation_steps} steps, which "
                "finetune does not do",
                found=f"gradient_accumulation_steps={accelerator.gradient_accumulation_steps}",
                needed="gradient_accumulation_steps=1",
                do="pass an Accelerator() without, and larger batches",
            )
        self.accelerator = accelerator
        self.count: int = accelerator.num_processes
        self.rank: int = accelerator.process_index
        self.device: torch.device = accelerator.device
        self.scaler = accelerator.scaler
        self.communicator = Communicator.of(None, TIMEOUT) if self.count > 1 else ALONE
        self.run: Callable[..., Any] = model
        model.to(self.device)

    def prepare(self, model: nn.Module, optimizer: Optimizer, batches: Iterable[Any]) -> Iterable[Any]:
        if self.accelerator.num_processes > 1 and not isinstance(batches, DataLoader):
            raise InputError(
                f"batches: is {with_article(type(batches).__name__)}, which cannot be dealt to "
                f"{self.accelerator.num_processes} "
                "processes",
                found=f"{with_article(type(batches).__name__)} and {self.accelerator.num_processes} processes",
                needed="batches that each process can take its part of",
                do="pass a torch.utils.data.DataLoader",
            )
        self._model = model
        self.run, self._optimizer, dealt = self.accelerator.prepare(model, optimizer, batches)
        return cast("Iterable[Any]", dealt)

    def precision(self) -> AbstractContextManager[Any]:
        return cast("AbstractContextManager[Any]", self.accelerator.autocast())

    def update(self, loss: Tensor, clip: float | None) -> None:
        self.accelerator.backward(loss)
        if clip is not None:
            self.accelerator.clip_grad_norm_(self._model.parameters(), clip)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def mean(self, tensor: Tensor) -> Tensor:
        return cast("Tensor", self.accelerator.reduce(tensor.clone(), reduction="mean"))

    def agree(self) -> None:
        from accelerate.utils import broadcast

        for buffer in self._model.buffers():
            buffer.copy_(broadcast(buffer.clone()))
        self.accelerator.wait_for_everyone()

    def close(self) -> None:
        self.accelerator.unwrap_model(self.run, keep_fp32_wrapper=False)
        self.accelerator.free_memory()


def processes_for(model: nn.Module, accelerator: Any, precision: str) -> Processes:
    """Alone without an accelerator.

    Raises:
        InputError: the precision is unknown, the accelerator's business, or none for these weights.
    """
    check_accelerator(accelerator)
    found = Alone(model, precision) if accelerator is None else Accelerated(model, accelerator, precision)
    if found.scaler is not None:
        _check_scalable(model, "precision='fp16'" if accelerator is None else "Accelerator(mixed_precision='fp16')")
    return found


def _check_scalable(model: nn.Module, asked: str) -> None:
    """Raise an InputError if gradients of weights in float16 would have to be scaled back, which torch refuses."""
    half = next((name for name, p in model.named_parameters() if p.requires_grad and p.dtype is torch.float16), None)
    if half is not None:
        raise InputError(
            f"precision: {asked} needs weights in float32, but {half} is in float16",
            where=half,
            found="a parameter in torch.float16 that is trained",
            needed="weights in float32, which mixed precision turns into float16 where that is enough",
            do="call model.float() first, or train without mixed precision",
        )


def check_accelerator(accelerator: Any) -> None:
    """Raise an InputError unless it is one, or None."""
    needed = ("prepare", "backward", "process_index", "reduce")
    if accelerator is not None and not all(hasattr(accelerator, name) for name in needed):
        raise InputError(
            f"accelerator: is {with_article(type(accelerator).__name__)}",
            found=found_value(accelerator),
            needed="an accelerate.Accelerator, or None to train in this process alone",
            do="pass accelerator=accelerate.Accelerator() (pip install accelerate)",
        )


def from_first_process(accelerator: Any, make: Callable[[], T], calibration: Any = None) -> T:
    """What process 0 makes, in every process; the others wait. An error of it is raised in all of them.

    What processes decide each for themselves may differ: a latency is measured, calibration data are dealt. Where they
    share ``calibration`` (:func:`graphprune.across_processes`), all make it together.
    """
    if accelerator is None or accelerator.num_processes == 1 or communicator_of(calibration).count > 1:
        return make()
    from accelerate.utils import broadcast_object_list

    found: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            found[0] = make()
        except Exception as error:
            found[1] = error
    made, failure = broadcast_object_list(found)
    if failure is not None:
        raise failure
    return cast("T", made)
