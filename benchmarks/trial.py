"""One model of a sweep: pruned, compared with the masked original, and trained for a step."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import graphprune
from benchmarks.common import call
from benchmarks.zoo import zoo
from graphprune.inputs import describe, example_inputs_for

RATIO = 0.5
TOLERANCE = 1e-10
BATCHES = (1, 4)

T = TypeVar("T")


class Clock:
    """Seconds by stage; the stage entered last is where an error came from."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.stage = ""

    def __call__(self, stage: str, run: Callable[[], T]) -> T:
        self.stage = stage
        start = time.perf_counter()
        value = run()
        self.seconds[stage] = round(time.perf_counter() - start, 3)
        return value


def trial(zoo_name: str, name: str, clock: Clock) -> dict[str, Any]:
    """Prune a model of a zoo by half, verify it and train it a step; what came of it, as JSON data.

    Raises:
        Exception: Whatever building, tracing, planning, applying or verifying raises.
    """
    torch.manual_seed(0)
    model, inputs = clock("build", zoo(zoo_name)[name])
    model.eval()
    inputs = clock("inputs", lambda: example_inputs_for(model)) if inputs is None else inputs
    graph = clock("trace", lambda: graphprune.trace(model, inputs))
    plan = clock("plan", lambda: graph.plan(RATIO, seed=0))
    slim = clock("apply", lambda: plan.apply(model))
    check = clock("verify", lambda: graphprune.verify(model, slim, plan, inputs))
    steps = clock("train", lambda: {str(size): _train_step(slim, model, inputs, size) for size in BATCHES})
    before, after = graph.cost(), graph.cost(plan)
    frozen = Counter(str(item.reason) for item in graph.frozen)
    return {
        "zoo": zoo_name,
        "model": name,
        "status": _status(check, steps, frozen),
        "error": _error(check, steps),
        "inputs": describe(inputs),
        "relative": check.relative,
        "inexact": [str(item) for item in check.inexact],
        "train": steps,
        "parameters": [_parameters(model), _parameters(slim)],
        "macs": [int(before.macs), int(after.macs)],
        "prunable": _prunable(model, graph),
        "groups": len(graph.groups),
        "frozen": frozen.most_common(5),
        "seconds": clock.seconds,
    }


def _status(check: Any, steps: dict[str, str], frozen: Counter[str]) -> str:
    if _error(check, steps):
        return "failed"
    return "partly" if any(not is_interface(reason) for reason in frozen) else "passed"


def is_interface(reason: str) -> bool:
    """Whether a reason only says that the model's inputs and outputs keep their shape."""
    return any(
        word in reason
        for word in ("input of the model", "output of the model", "model's input", "model's output")
    )


def _error(check: Any, steps: dict[str, str]) -> str:
    wrong = [f"batch {size}: {said}" for size, said in steps.items() if said.startswith("failed")]
    if not check.relative <= TOLERANCE:  # also when it is not a number
        wrong.insert(0, f"differs by {check.relative:.2g} from the masked original")
    return "; ".join(wrong)


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _prunable(model: nn.Module, graph: Any) -> float:
    """Fraction of the parameters that lie on at least one axis that can lose channels."""
    names = {str(axis).rpartition(".")[0] for group in graph.groups for axis in group.axes}
    names |= {str(axis).partition("[")[0] for group in graph.groups for axis in group.axes}
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    return sum(size for name, size in sizes.items() if name in names) / max(sum(sizes.values()), 1)


# ---------------------------------------------------------------- a training step


def _train_step(slim: nn.Module, dense: nn.Module, inputs: Any, size: int) -> str:
    """What came of a step at this batch size: ``ran``, a remark, or ``failed`` and why."""
    batch = _batch(inputs, size)
    try:
        _forward_backward(slim, batch)
    except Exception as error:
        return _like_the_dense(slim, dense, batch, error)
    return "ran"


def _like_the_dense(slim: nn.Module, dense: nn.Module, batch: Any, error: Exception) -> str:
    """BatchNorm over one value, for instance, has no statistics before pruning either."""
    text = f"{type(error).__name__}: {error}"
    try:
        _forward_backward(dense, batch)
    except type(error) as same:
        said = f"the dense model raises the same {type(same).__name__}"
    except Exception as other:
        said = f"the dense model raises {type(other).__name__}"
    else:
        return f"failed with {text}"
    try:
        _forward_backward(slim, batch, still=nn.modules.batchnorm._BatchNorm)
    except Exception as again:
        return f"failed with {type(again).__name__}: {again} ({said})"
    return f"ran with running statistics ({said})"


def _forward_backward(model: nn.Module, batch: Any, still: type[nn.Module] | None = None) -> None:
    """A step in train mode; layers of the type ``still`` stay in eval mode.

    Raises:
        ArithmeticError: If the loss is not finite.
        RuntimeError: If no parameter got a gradient, besides what the model itself raises.
    """
    model.train()
    for module in model.modules():
        if still is not None and isinstance(module, still):
            module.eval()
    model.zero_grad(set_to_none=True)
    outputs = list(_floats(call(model, batch)))
    loss = torch.stack([output.float().square().mean() for output in outputs]).sum()
    if not torch.isfinite(loss):
        raise ArithmeticError(f"the loss is {loss.item()}")
    loss.backward()
    if not any(p.grad is not None for p in model.parameters()):
        raise RuntimeError("no parameter got a gradient")
    model.zero_grad(set_to_none=True)


def _floats(value: Any) -> Iterator[Tensor]:
    """The differentiable tensors in a nested output."""
    if isinstance(value, Tensor):
        if value.requires_grad and value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _floats(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _floats(item)


def _batch(inputs: Any, size: int) -> Any:
    """The inputs with ``size`` examples: ids are repeated, floats get noise so that examples differ."""
    if isinstance(inputs, Mapping):
        return {name: _batch(value, size) for name, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return tuple(_batch(value, size) for value in inputs)
    if not isinstance(inputs, Tensor) or inputs.ndim == 0:
        return inputs
    many = torch.cat([inputs] * size)
    if not many.is_floating_point():
        return many
    return many + 0.1 * torch.randn(many.shape, generator=torch.Generator().manual_seed(size))
