"""Train a pruned network again, for people without a training loop of their own."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from functools import partial
from numbers import Integral
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from graphprune.calibration.statistics import LossFunction
from graphprune.errors import InputError
from graphprune.training.checkpoint import Folder, checkpoint_folder
from graphprune.training.data import check_training_data
from graphprune.training.distributed import processes_for
from graphprune.training.history import History
from graphprune.training.learning_rate import RateSchedule, check_rates, learning_rates
from graphprune.training.loop import OnStep, Quality, Training
from graphprune.training.losses import Distillation, Objective
from graphprune.utils.checks import (
    check_callable,
    check_count,
    check_flag,
    check_known,
    check_positive,
    found_value,
    is_finite_number,
    is_number,
    shown,
    with_article,
)
from graphprune.utils.global_state import leaves_torch_alone
from graphprune.utils.model_tensors import require_values
from graphprune.utils.random_state import random_numbers_kept

Factory = Callable[..., Optimizer]


OPTIMIZERS: dict[str, Factory] = {"sgd": partial(SGD, momentum=0.9), "adamw": AdamW}


@leaves_torch_alone
def finetune(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    epochs: int | None = None,
    steps: int | None = None,
    lr: float | None = None,
    optimizer: str | Factory = "sgd",
    weight_decay: float = 0.0,
    clip: float | None = None,
    loss_fn: LossFunction | None = None,
    teacher: nn.Module | None = None,
    distill: Distillation | None = None,
    schedule: RateSchedule = "cosine",
    warmup: int = 0,
    precision: str = "fp32",
    evaluate: Quality | None = None,
    checkpoint: Folder | None = None,
    every: int | None = None,
    seed: int = 0,
    progress: bool = True,
    accelerator: Any = None,
    on_step: OnStep | None = None,
) -> History:
    """Train ``model`` in place.

    The order of batches and all random numbers follow from ``seed``: the same call gives the same weights (on one
    thread bit for bit), and so does a call that continues from a checkpoint. The caller's random generators are
    restored afterwards.

    Args:
        model: any network with weights to train. It trains in training mode; modes are as before afterwards.
        batches: an iterable that can be read every epoch: a DataLoader or list of pairs ``(inputs, target)``, or of
            dicts of keyword arguments. Inputs are a tensor, a tuple of positional or a dict of keyword arguments.
        epochs, steps: how long to train; one of the two. ``steps`` may end within an epoch.
        lr: the highest learning rate; left out with ``schedule=Rewind(...)``.
        optimizer: ``"sgd"`` (momentum 0.9), ``"adamw"``, or what makes one, called as
            ``factory(parameters, lr=, weight_decay=)``, such as ``torch.optim.RMSprop``.
        weight_decay: for weights; biases and other parameters of one dimension do not decay.
        clip: the largest norm of the gradient; None: it is not clipped.
        loss_fn: ``(output, target) -> loss``; of a dict, the target is the dict. None: cross-entropy, of targets that
            are numbers of classes or probabilities, and the model's own ``loss`` for batches without a target.
        teacher: the dense network, for distillation; it runs in evaluation mode.
        distill: how the teacher is followed; None with a teacher: ``Distillation(temperature=4, alpha=0.9)``. With
            ``Distillation(alpha=1)`` no targets are needed.
        schedule: of the learning rate, see :func:`graphprune.training.learning_rate.learning_rates`.
        warmup: the number of steps at the beginning in which the learning rate rises linearly.
        precision: ``"fp32"``, or ``"bf16"`` or ``"fp16"`` for mixed precision.
        evaluate: ``(model) -> quality``, a number; called in evaluation mode without gradients after every epoch.
        checkpoint: a folder. Training is saved there, and continues from there when the call is repeated.
        every: the number of steps from one checkpoint to the next; None: one after every epoch.
        seed: a non-negative whole number.
        progress: show a bar if stderr is a terminal.
        accelerator: an ``accelerate.Accelerator``: every process of ``accelerate launch`` calls this function.
        on_step: called after every step with the number of steps taken, the model and the optimizer.

    Returns:
        Losses, learning rates and metrics by step.

    Raises:
        InputError: an argument is not what is needed, or training diverged. The model is as it was.
        LoadError: the checkpoint is damaged, or of another training. The model is as it was.
    """
    check_training_data(batches)
    check_gradients_on("finetune")
    _check_trainable(model)
    _check_teacher(teacher, model, distill)
    if loss_fn is not None:
        check_callable("loss_fn", loss_fn, "a function (output, target) -> loss", takes="output, target")
    check_rates(schedule, lr)
    _check_counts(epochs, steps, every, seed)
    if evaluate is not None:
        check_callable("evaluate", evaluate, "a function (model) -> quality", takes="model")
    _check_settings(weight_decay, clip, on_step, progress)
    with random_numbers_kept():
        processes = processes_for(model, accelerator, precision)
        asked: dict[str, Any] = {"epochs": epochs, "steps": steps, "lr": lr, "weight_decay": weight_decay, "clip": clip}
        asked |= {"warmup": warmup, "precision": precision, "seed": seed, "processes": processes.count}
        asked |= {"optimizer": optimizer, "schedule": schedule, "distill": distill}
        asked["loss_fn"] = None if loss_fn is None else "a function"  # whether it is the same one cannot be told
        asked["teacher"] = None if teacher is None else "a model"
        return Training(
            model=model,
            batches=batches,
            optimizer=_optimizer(model, optimizer, lr, float(weight_decay)),
            objective=Objective(loss_fn, teacher, distill or Distillation(), processes.mean, processes.communicator),
            processes=processes,
            rates_of=partial(learning_rates, schedule, lr, warmup),
            asked={name: _described(value) for name, value in asked.items()},
            clip=clip,
            evaluate=evaluate,
            on_step=on_step,
            checkpoint=None if checkpoint is None else checkpoint_folder(checkpoint),
            every=every,
            shown=progress,
        ).run()


def _check_module(name: str, module: Any) -> None:
    if not isinstance(module, nn.Module):
        raise InputError(
            f"{name}: must be a torch.nn.Module, but is {with_article(type(module).__name__)}",
            found=found_value(module),
            needed="a torch.nn.Module",
            do=f"pass the {name} itself, an instance of a class of torch.nn.Module",
        )


def check_gradients_on(caller: str) -> None:
    """Raise an InputError where gradients are off, so that nothing can be trained."""
    inference = torch.is_inference_mode_enabled()
    if torch.is_grad_enabled() and not inference:
        return
    mode = "torch.inference_mode()" if inference else "torch.no_grad()"
    raise InputError(
        f"{caller}: trains, but gradients are off here",
        found=f"a call within {mode}" + ("" if inference else ", or after torch.set_grad_enabled(False)"),
        needed="gradients",
        do=f"call {caller} outside of {mode}" + ("" if inference else ", or within torch.enable_grad()"),
    )


def _check_trainable(model: Any) -> None:
    _check_module("model", model)
    require_values("model", model.named_parameters(), "train")
    count = sum(1 for _ in model.parameters())
    if not count:
        raise InputError(
            "model: has no parameters, so that there is nothing to train",
            where=type(model).__name__,
            found=f"{with_article(type(model).__name__)} without parameters",
            needed="one parameter at least that requires gradients",
            do="pass a network with weights",
        )
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError(
            "model: no parameter requires gradients",
            where=type(model).__name__,
            found=f"{count} parameter{'s' if count > 1 else ''}, {'all ' if count > 1 else ''}with requires_grad=False",
            needed="one parameter at least that requires gradients",
            do="call model.requires_grad_() first",
        )


def _check_teacher(teacher: Any, model: nn.Module, distill: Any) -> None:
    if teacher is not None:
        _check_module("teacher", teacher)
    if teacher is model:
        raise InputError(
            "teacher: is the model that is trained",
            found="one module as model and teacher",
            needed="another module, whose weights stay",
            do="pass the dense model, or a copy from before training: teacher=copy.deepcopy(model)",
        )
    if not isinstance(distill, Distillation | None):
        raise InputError(
            f"distill: must be a graphprune.Distillation, but is {with_article(type(distill).__name__)}",
            found=found_value(distill),
            needed="a graphprune.Distillation",
            do="pass distill=graphprune.Distillation(temperature=4.0), and teacher=",
        )
    if distill is not None and teacher is None:
        raise InputError(
            "distill: is given without a teacher",
            found="distill= and no teacher=",
            needed="a teacher to learn from",
            do="pass teacher=, the dense model",
        )


def _check_counts(epochs: Any, steps: Any, every: Any, seed: Any) -> None:
    for name, count in (("epochs", epochs), ("steps", steps), ("every", every)):
        if count is not None:
            check_count(name, count, 1)
    check_count("seed", seed, 0)
    if (epochs is None) == (steps is None):
        raise InputError(
            f"epochs: is {epochs!r} and steps is {steps!r}; say how long to train by one of the two",
            found=f"epochs={epochs!r} and steps={steps!r}",
            needed="one of them",
            do="pass epochs=3, or steps=1000",
        )


def _check_settings(weight_decay: Any, clip: Any, on_step: Any, progress: Any) -> None:
    if not is_finite_number(weight_decay) or weight_decay < 0:
        raise InputError(
            f"weight_decay: must be a number, 0 or more, but is {shown(weight_decay)}",
            found=found_value(weight_decay),
            needed="a finite number, 0 or more",
            do="pass weight_decay=1e-4",
        )
    if clip is not None:
        check_positive("clip", clip, "a positive number, the largest norm of the gradients")
    if on_step is not None:
        check_callable("on_step", on_step, "a function (step, model, optimizer)", takes="step, model, optimizer")
    check_flag("progress", progress)


_FACTORY = "a function (parameters, lr, weight_decay) -> torch.optim.Optimizer"


def _optimizer(model: nn.Module, optimizer: str | Factory, lr: float | None, weight_decay: float) -> Optimizer:
    """Over two groups of parameters: those that decay, and those of one dimension. The schedule sets the rate later."""
    others = ", or what makes one"
    if callable(optimizer):
        check_callable("optimizer", optimizer, _FACTORY, takes="parameters, lr=, weight_decay=")
    factory = optimizer if callable(optimizer) else OPTIMIZERS[check_known("optimizer", optimizer, OPTIMIZERS, others)]
    learned = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": [p for p in learned if p.ndim > 1]}]
    groups.append({"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0})
    made = factory([g for g in groups if g["params"]], lr=lr or 0.0, weight_decay=weight_decay)
    if not isinstance(made, Optimizer):
        raise InputError(
            f"optimizer: the factory made {with_article(type(made).__name__)}, not a torch.optim.Optimizer",
            found=found_value(made),
            needed=_FACTORY,
            do="pass a class such as torch.optim.AdamW, or a function that returns an optimizer",
        )
    return made


def _described(value: Any) -> Any:
    """What a checkpoint remembers of an argument, to tell it from another one: numbers, and what else is called."""
    if value is None or isinstance(value, int | float):
        return value
    if is_number(value):
        return int(value) if isinstance(value, Integral) else float(value)
    if isinstance(value, partial):
        return f"{_described(value.func)}{value.args}{value.keywords}"
    text = value if isinstance(value, str) else getattr(value, "__qualname__", None) or repr(value)
    return text if len(text) < 200 else f"{text[:20]}... ({zlib.crc32(text.encode())})"
