"""Compare the slim model with the masked original (:mod:`graphprune.pruning.masked`), both in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from graphprune.errors import PlanError
from graphprune.graph.analysis import Analysis, analyze
from graphprune.pruning.float64 import Widen, in_float64, narrow_finfo, wide_module, widened_tensor
from graphprune.pruning.masked import MaskedOutputs, run_masked_graph, run_masked_model
from graphprune.pruning.plan import Plan
from graphprune.tracing.inputs import normalize
from graphprune.tracing.meta import is_float
from graphprune.utils.contexts import eagerly
from graphprune.utils.operators import Args, Kwargs
from graphprune.utils.tree import map_tensors, tensors_of


@dataclass(frozen=True)
class Verification:
    """How far the slim model is from the masked original.

    ``relative`` is the largest difference of an output divided by that output's largest magnitude; ``absolute``
    the largest difference; ``inexact`` names the operations that took statistics over the surviving channels.
    """

    relative: float
    absolute: float
    outputs: int
    tolerance: float
    inexact: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return self.relative <= self.tolerance

    def __str__(self) -> str:
        verdict = "equal to" if self.passed else "DIFFERENT from"
        lines = [
            f"The slim model is {verdict} the masked original: largest relative difference {self.relative:.1e} "
            f"(absolute {self.absolute:.1e}) over {self.outputs} output tensors in float64, tolerance "
            f"{self.tolerance:.0e}."
        ]
        if self.inexact:
            lines.append(
                f"Statistics over the surviving channels in {len(self.inexact)} places: {self.inexact[0]}, ..."
            )
        return "\n".join(lines)


@eagerly()
def run_slim(slim: nn.Module, args: Args, kwargs: Kwargs) -> list[Tensor]:
    """The outputs of a module in evaluation mode and float64; the module is not changed."""
    module = wide_module(slim)
    with in_float64(), narrow_finfo(slim), Widen():
        result = module(*map_tensors(widened_tensor, args), **map_tensors(widened_tensor, kwargs))
    return list(tensors_of(result))


def verify(
    model: nn.Module, slim: nn.Module, plan: Plan, example_inputs: Any, *, tolerance: float = 1e-10
) -> Verification:
    """Compare the slim model with the masked original, both in evaluation mode and float64.

    Args:
        model: the original; its weights must be those the slim model was made from.
        slim: the result of ``plan.apply(model)``.
        plan: what was removed.
        example_inputs: as for :func:`graphprune.trace`; real tensors.
        tolerance: largest relative difference that passes.

    Raises:
        PlanError: the plan is not for this model, or the slim outputs differ in number or shape.
    """
    args, kwargs = normalize(example_inputs)
    graph, found = analyze(model, example_inputs), run_slim(slim, args, kwargs)
    check = _compared(_masked_outputs(graph, plan, args, kwargs), found, tolerance)
    if graph.trace.on_meta and not plan.skipped and tolerance < check.relative <= ROUNDING:
        check = _compared(run_masked_model(graph, plan, args, kwargs), found, tolerance)
    return check


ROUNDING = 1e-5
"""A graph holds numbers that the program worked out in its own precision: a table that it keeps between calls, an
epsilon in float32. Where that may be all the difference, the model itself is run in float64 and works them out anew."""


def _compared(masked: MaskedOutputs, found: list[Tensor], tolerance: float) -> Verification:
    expected, inexact = masked
    if [t.shape for t in expected] != [t.shape for t in found]:
        raise PlanError(
            f"slim: its outputs have shapes {[list(t.shape) for t in found]}, the original's are "
            f"{[list(t.shape) for t in expected]}; pass the module that plan.apply(model) returned"
        )
    pairs = [(a, b) for a, b in zip(expected, found, strict=True) if a.numel()]
    absolute = [float((a - b).abs().max()) if is_float(a) else float((a != b).any()) for a, b in pairs]
    relative = [d / max(float(a.abs().max()), 1e-300) for d, (a, _) in zip(absolute, pairs, strict=True)]
    worst = max(relative, default=float("nan"))  # nothing to compare proves nothing
    worst = worst if all(r == r for r in relative) else float("nan")
    return Verification(worst, max(absolute, default=0.0), len(pairs), tolerance, inexact)


def _masked_outputs(graph: Analysis, plan: Plan, args: Args, kwargs: Kwargs) -> MaskedOutputs:
    """By running the graph or, where the model looks at values, the model itself."""
    if graph.trace.on_meta:
        return run_masked_graph(graph, plan, [*tensors_of(args), *tensors_of(kwargs)])
    return run_masked_model(graph, plan, args, kwargs)
