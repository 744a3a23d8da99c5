"""Synthesize calibration inputs from the running statistics of a model's batch normalizations, without data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverloadPacket
from torch.nn import functional as F

from graphprune.errors import InputError
from graphprune.rules.registry import norm_call
from graphprune.tracing.example_inputs.guess import example_inputs_for
from graphprune.tracing.inputs import describe, normalize
from graphprune.tracing.places import raised_at
from graphprune.tracing.run_state import evaluating_unchanged
from graphprune.utils.checks import check_count, check_positive
from graphprune.utils.global_state import leaves_torch_alone
from graphprune.utils.model_checks import check_model
from graphprune.utils.operators import FunctionMode, Kwargs
from graphprune.utils.random_state import WORD
from graphprune.utils.tree import map_tensors, tensors_of


@leaves_torch_alone
def synthesize(
    model: nn.Module,
    example_inputs: Any = None,
    samples: int = 128,
    *,
    steps: int = 100,
    lr: float = 0.1,
    batch_size: int = 64,
    seed: int = 0,
) -> list[Any]:
    """Inputs whose statistics at every batch normalization match its running mean and variance.

    Random inputs are optimized with Adam. The loss of a channel is ``(m - μ)² / σ² + (s / σ - 1)²``, with the running
    mean μ and standard deviation σ, and m and s those of the normalization's input over the batch and space. It is
    averaged over channels and summed over normalizations.

    Sources: Cai, Yao, Dong, Gholami, Mahoney and Keutzer, "ZeroQ: A Novel Zero Shot Quantization Framework", CVPR 2020;
    Yin, Molchanov, Alvarez, Li, Mallya, Hoiem, Jha and Kautz, "Dreaming to Distill: Data-free Knowledge Transfer via
    DeepInversion", CVPR 2020.

    Args:
        model: a model with batch normalizations that track running statistics; unchanged.
        example_inputs: as for :func:`graphprune.trace`; None: found from the model. Floating-point tensors with the
            batch size (first dimension) of the first one are synthesized, starting from normal noise of the example's
            mean and standard deviation. Integer tensors with that batch size are repeated; all others are kept.
        samples: the number of inputs, over all batches.
        steps: of the optimizer, for each batch.
        lr: the learning rate, in units of the example's standard deviation, with cosine decay to zero.
        batch_size: the number of inputs that are optimized, and whose statistics are matched, together.
        seed: of the noise.

    Returns:
        Batches, each of the structure of ``example_inputs``; pass them as ``calibration=``.

    Raises:
        InputError: no batch normalization with running statistics depends on the inputs, there is no floating-point
            input, a number is out of range, the model failed, or the inputs diverged.
    """
    check_model(model)
    for name, number in (("samples", samples), ("steps", steps), ("batch_size", batch_size)):
        check_count(name, number, 1)
    check_positive("lr", lr)
    check_count("seed", seed, 0)
    example = example_inputs_for(model) if example_inputs is None else example_inputs
    generator = torch.Generator().manual_seed(seed % WORD)
    sizes = [min(batch_size, samples - start) for start in range(0, samples, batch_size)]
    with evaluating_unchanged(model), torch.enable_grad():
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        return [_Batch(model, example, size, generator).optimized(steps, lr) for size in sizes]


class _Batch:
    """One batch of inputs. The optimized tensors are standardized: they start with mean 0 and standard deviation 1."""

    def __init__(self, model: nn.Module, example: Any, size: int, generator: torch.Generator) -> None:
        self.model = model
        self.example = example
        self.size = size
        floats = [t for t in tensors_of(normalize(example)) if t.is_floating_point() and t.ndim]
        if not floats or any(t.is_meta or not t.numel() for t in floats):
            raise InputError(
                f"example_inputs: {describe(example)} has no floating-point tensor to optimize",
                found=describe(example),
                needed="floating-point tensors with a dimension at least, and with values",
                do="pass real inputs as calibration= instead",
            )
        self.device = next((p.device for p in model.parameters()), floats[0].device)
        self.rows = floats[0].shape[0]
        self.free = {
            id(t): torch.randn((size, *t.shape[1:]), generator=generator, dtype=t.dtype, device="cpu").to(self.device)
            for t in floats
            if t.shape[0] == self.rows
        }

    def inputs(self) -> Any:
        """The current inputs, in the structure of the example."""
        return map_tensors(self._made, self.example)

    def _made(self, tensor: Tensor) -> Tensor:
        if id(tensor) in self.free:
            deviation, mean = torch.std_mean(tensor.detach(), correction=0)
            return self.free[id(tensor)] * (deviation if deviation > 0 else 1.0) + mean
        if tensor.ndim and tensor.shape[0] == self.rows:
            tensor = tensor[torch.arange(self.size, device=tensor.device) % self.rows]
        return tensor.to(self.device)

    def optimized(self, steps: int, lr: float) -> Any:
        optimizer = torch.optim.Adam([t.requires_grad_(True) for t in self.free.values()], lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            optimizer.zero_grad()
            self._loss().backward()
            optimizer.step()
            schedule.step()
        made = map_tensors(Tensor.detach, self.inputs())
        if not all(t.isfinite().all() for t in tensors_of(made) if t.is_floating_point()):
            raise InputError(
                f"lr: the inputs diverged with {lr}",
                found=f"lr={lr}, and inputs that are infinite or NaN after {steps} steps",
                needed="a step with which they stay finite",
                do="pass a smaller lr",
            )
        return made

    def _loss(self) -> Tensor:
        args, kwargs = normalize(self.inputs())
        with _Mismatch() as mismatch:
            try:
                self.model(*args, **kwargs)
            except Exception as error:
                given = describe((*args, *kwargs.values()))
                raise InputError(
                    f"example_inputs: {type(self.model).__name__}.forward failed on {given}: {type(error).__name__}: "
                    f"{error}",
                    where=raised_at(error),
                    found=given,
                    needed=f"what {type(self.model).__name__}.forward takes in training",
                    do="pass example_inputs= with which model(...) runs",
                ) from error
        losses = [loss for loss in mismatch.losses if loss.requires_grad]
        if not losses:
            raise InputError(
                f"model: {type(self.model).__name__} has no batch normalization with running statistics that depends "
                "on the inputs, so nothing remembers what they were like",
                where=type(self.model).__name__,
                found="no running statistics",
                needed="batch normalizations with running statistics",
                do="pass real inputs as calibration= instead, or use fold(), which needs none",
            )
        return torch.stack([loss.float() for loss in losses]).sum()


class _Mismatch(FunctionMode):
    """Collects, while active, how far the inputs of batch normalizations are from their running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Kwargs | None = None) -> Any:
        kwargs = kwargs or {}
        op = func.default if isinstance(func, OpOverloadPacket) else func
        if func in (F.batch_norm, torch.batch_norm):
            x, mean, variance, eps = _statistics(func, *args, **kwargs)
            if mean is not None and variance is not None:
                self._compare(x, mean, variance, eps, [d for d in range(x.ndim) if d != 1])
        elif (call := norm_call(op, args, kwargs)) is not None and call.uses_running_statistics:
            self._compare(call.x, call.mean, call.variance, call.eps, call.other_dims)
        return func(*args, **kwargs)

    def _compare(self, x: Tensor, mean: Tensor, variance: Tensor, eps: float, dims: list[int]) -> None:
        deviation = (variance + eps).sqrt()
        found, center = torch.var_mean(x, dim=dims, correction=0)
        terms = ((center - mean) / deviation).square() + ((found + eps).sqrt() / deviation - 1).square()
        self.losses.append(terms.mean())


def _statistics(func: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None, Tensor | None, float]:
    """Input, running mean, running variance and eps of a call of a batch normalization."""
    if func is torch.batch_norm:
        x, _, _, mean, variance, _, _, eps, *_ = args
        return x, mean, variance, eps
    bound = dict(zip(("input", "running_mean", "running_var", "weight", "bias", "training"), args, strict=False))
    found = {"eps": args[7] if len(args) > 7 else 1e-5, **bound, **kwargs}
    return found["input"], found["running_mean"], found["running_var"], found["eps"]
