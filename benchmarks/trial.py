"""One model of a sweep: pruned cold and hot, compared with the masked original, and trained for a step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import graphprune
from benchmarks.common import call, enliven
from benchmarks.zoos import zoo
from graphprune.graph.frozen import frozen_by_reason
from graphprune.graph.groups import Frozen
from graphprune.tracing.example_inputs.guess import example_inputs_for
from graphprune.tracing.inputs import describe
from graphprune.utils.tree import tensors_of

RATIO = 0.5
TOLERANCE = 1e-10
BATCHES = (1, 4)
COVERED = 0.1
"""A reason that freezes more than this fraction of the parameters is a missing rule."""

LITTLE = RATIO / 3
"""A plan that removes a smaller fraction of the parameters leaves the model mostly frozen. What the traced run does not
use does not count, nor what is whole because it is as wide as an output."""

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
    model, inputs, *made = clock("build", zoo(zoo_name)[name])
    enliven(model.eval())
    inputs = clock("inputs", lambda: example_inputs_for(model)) if inputs is None else inputs
    graph = clock("trace", lambda: graphprune.trace(model, inputs))
    plan = clock("plan", lambda: graph.plan(RATIO, seed=0))
    plan = clock("json", lambda: graphprune.Plan.from_json(plan.to_json()))
    slim = clock("apply", lambda: plan.apply(model))
    check = clock("verify", lambda: graphprune.verify(model, slim, plan, inputs))
    heated = clock("hot", lambda: _heated(model, inputs, plan))
    batch = made[0] if made else partial(_batch, inputs)
    steps = clock("train", lambda: {str(size): _train_step(slim, model, batch(size)) for size in BATCHES})
    before, after = graph.cost(), graph.cost(plan)
    stuck, wrong, sizes = _stuck(model, graph, plan), _error(check, steps), [_parameters(model), _parameters(slim)]
    return {
        "zoo": zoo_name,
        "model": name,
        "status": "wrong" if wrong else "hot" if heated else _status(sizes, stuck, _out_of_reach(model, graph, plan)),
        "error": wrong or heated,
        "inputs": describe(inputs),
        "relative": check.relative,
        "inexact": [str(item) for item in check.inexact],
        "train": steps,
        "unseen": _unseen(slim, inputs),
        "parameters": sizes,
        "macs": [int(before.macs), int(after.macs)],
        "prunable": _prunable(model, plan),
        "groups": len(graph.groups),
        "frozen": _reasons(graph.frozen),
        "stuck": stuck,
        "seconds": clock.seconds,
    }


def _unseen(slim: nn.Module, inputs: Any) -> float:
    """Fraction of the parameters that the output does not depend on: there a verification proves nothing.

    All of them where the model has no gradients outside of training.
    """
    try:
        _forward_backward(slim.eval(), inputs, train=False)
    except RuntimeError:
        slim.zero_grad(set_to_none=True)
    unseen = sum(p.numel() for p in slim.parameters() if p.grad is None or not p.grad.any())
    return unseen / max(_parameters(slim), 1)


def _heated(model: nn.Module, inputs: Any, cold: graphprune.Plan) -> str:
    """What differs from the cold plan when the model is traced after an ordinary forward; empty if nothing does."""
    with torch.no_grad():
        call(model, inputs)
    try:
        hot = graphprune.trace(model, inputs).plan(RATIO, seed=0)
        return _difference(model, inputs, cold, hot)
    except Exception as error:
        return f"after a forward: {type(error).__name__}: {error}"


def _difference(model: nn.Module, inputs: Any, cold: graphprune.Plan, hot: graphprune.Plan) -> str:
    if hot.sizes != cold.sizes:
        return "after a forward other sizes change"
    others = [name for name in cold.shapes if not _same(cold, hot, name)]
    if others:
        return f"after a forward other channels of {len(others)} parameters go, such as {others[0]}"
    if hot.shapes.keys() == cold.shapes.keys():
        return ""
    # The forward made buffers, which are not in the cold plan.
    check = graphprune.verify(model, hot.apply(model), hot, inputs)
    return "" if check.relative <= TOLERANCE else f"after a forward it differs by {check.relative:.2g}"


def _same(cold: graphprune.Plan, hot: graphprune.Plan, name: str) -> bool:
    """Whether both plans keep the same entries; buffers whose shape a forward changes have no counterpart."""
    if hot.shapes.get(name) != cold.shapes[name]:
        return name in hot.shapes and name not in cold.kept
    return torch.equal(hot.mask(name), cold.mask(name))


def _status(parameters: list[int], stuck: dict[str, float], out_of_reach: int) -> str:
    before, after = parameters
    if before - after < LITTLE * (before - out_of_reach):
        return "frozen"
    return "partly" if any(share > COVERED for share in stuck.values()) else "passed"


def _out_of_reach(model: nn.Module, graph: Any, plan: Any) -> int:
    """Entries of parameters that lose nothing because nothing uses them, or because they make an output."""
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    reasons = _why_whole(graph, plan)
    whole = sizes.keys() - _pruned_names(plan)
    return sum(sizes[name] for name in whole if reasons.get(name, "").startswith(_UNREACHED))


def _stuck(model: nn.Module, graph: Any, plan: Any) -> dict[str, float]:
    """By reason, the fraction of parameters of which the plan removes nothing, outputs and vocabularies aside.

    A dimension that is no channel (a kernel, positions, the colors of an image) shares its
    parameter with one that is. Where channels are frozen, their norms and biases are left with no dimension.
    """
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    reasons = _why_whole(graph, plan)
    shares: dict[str, float] = {}
    for name in sizes.keys() - _pruned_names(plan):
        reason = reasons.get(name, "no reason given")
        if not reason.startswith(_INTENDED):
            shares[reason] = shares.get(reason, 0.0) + sizes[name] / sum(sizes.values())
    return dict(sorted(shares.items(), key=lambda pair: -pair[1]))


_INTENDED = ("output of the model", "embedding: rows", "heads keep their width", "a single unit")
"""Interfaces of the model, and what a plan leaves alone unless it is told not to."""

_UNREACHED = ("output of the model", "not used in the traced run")
"""What no ratio can take."""


def _pruned_names(plan: Any) -> set[str]:
    """Parameters that lose something."""
    return {name for name, shape in plan.shapes.items() if plan.shape(name) != shape}


def _why_whole(graph: Any, plan: Any) -> dict[str, str]:
    """For parameters that may lose nothing: what froze them, or why their groups keep everything."""
    reasons: dict[str, str] = {}
    for why, items in frozen_by_reason(graph.frozen).items():
        for item in items:
            reasons.setdefault(item.axis.partition("[")[0], why)
    for group, choice in zip(graph.groups, plan.choices, strict=True):
        for axis in group.axes:
            reasons.setdefault(axis.partition("[")[0], choice.why if choice.units > 1 else "a single unit")
    return reasons


def _error(check: Any, steps: dict[str, str]) -> str:
    wrong = [f"batch {size}: {said}" for size, said in steps.items() if said.startswith("failed")]
    if not check.relative <= TOLERANCE:  # also when it is not a number
        wrong.insert(0, f"differs by {check.relative:.2g} from the masked original")
    return "; ".join(wrong)


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _prunable(model: nn.Module, plan: Any) -> float:
    """Fraction of the parameters that lose something."""
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    return sum(sizes[name] for name in sizes.keys() & _pruned_names(plan)) / max(sum(sizes.values()), 1)


def _reasons(frozen: Iterable[Frozen]) -> list[dict[str, Any]]:
    """The five most frequent reasons, each with the number of axes and one of them."""
    groups = list(frozen_by_reason(frozen).items())[:5]
    return [{"why": why, "axes": len(items), "example": str(items[0])} for why, items in groups]


# ---------------------------------------------------------------- a training step


def _train_step(slim: nn.Module, dense: nn.Module, batch: Any) -> str:
    """What came of a step with this batch: ``ran``, a remark, or ``failed`` and why."""
    try:
        _forward_backward(slim, batch)
    except Exception as error:
        return _like_the_dense(slim, dense, batch, error)
    return "ran"


def _like_the_dense(slim: nn.Module, dense: nn.Module, batch: Any, error: Exception) -> str:
    """BatchNorm over one value, for instance, has no statistics before pruning either."""
    found = _raised(dense, batch)
    if not found:
        return f"failed: {type(error).__name__}: {error}"
    still = nn.modules.batchnorm._BatchNorm
    again = _raised(slim, batch, still)
    if not again:
        return f"ran with running statistics (the dense model raises {found})"
    if again == _raised(dense, batch, still):
        return f"raises what the dense model raises, {again}"
    return f"failed: {again}"


def _raised(model: nn.Module, batch: Any, still: type[nn.Module] | tuple[()] = ()) -> str:
    """What a step raises; nothing if it runs."""
    try:
        _forward_backward(model, batch, still=still)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _forward_backward(
    model: nn.Module, batch: Any, *, train: bool = True, still: type[nn.Module] | tuple[()] = ()
) -> None:
    """A step in train mode; layers of the type ``still`` stay in eval mode.

    Raises:
        ArithmeticError: If the loss is not finite.
        RuntimeError: If no parameter got a gradient, besides what the model itself raises.
    """
    model.train(train)
    for module in model.modules():
        if isinstance(module, still):
            module.eval()
    model.zero_grad(set_to_none=True)
    outputs = list(_floats(call(model, batch)))
    loss = torch.stack([output.float().square().mean() for output in outputs]).sum()
    if not torch.isfinite(loss):
        raise ArithmeticError(f"the loss is {loss.item()}")
    loss.backward()
    if not any(p.grad is not None for p in model.parameters()):
        raise RuntimeError("no parameter got a gradient")


def _floats(value: Any) -> Iterator[Tensor]:
    """The differentiable tensors in a nested output."""
    yield from (x for x in tensors_of(value) if x.requires_grad and x.is_floating_point())


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
