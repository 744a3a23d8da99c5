"""Compare the slim model with the masked original (:mod:`graphprune.pruning.masked`), both in float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.errors import InputError, PlanError
from graphprune.graph.analysis import Analysis, analyze
from graphprune.pruning.averaged import with_means
from graphprune.pruning.comparison import difference
from graphprune.pruning.float64 import reads_default_type, wide_module
from graphprune.pruning.later_tensors import without_later_tensors
from graphprune.pruning.masked import MaskedRun, run_masked_graph, run_masked_model, surviving_entries, tells_removed
from graphprune.pruning.no_float64 import float64_required
from graphprune.pruning.own_types import require_runs
from graphprune.pruning.perturbation import noise_on_all, noise_on_zeros, slim_noise, with_noise
from graphprune.pruning.plan import Plan
from graphprune.pruning.weight_statistics import weight_statistics
from graphprune.pruning.wide_run import run_slim
from graphprune.tracing.inputs import MethodCall
from graphprune.tracing.meta import is_float
from graphprune.tracing.outside_tensors import outside_kept
from graphprune.tracing.places import raised_at
from graphprune.tracing.running import Outputs
from graphprune.utils.checks import check_positive, check_type
from graphprune.utils.compiled import uncompiled
from graphprune.utils.global_state import changing_globals, leaves_torch_alone
from graphprune.utils.model_checks import check_model
from graphprune.utils.model_tensors import require_values
from graphprune.utils.modules import named_tensors
from graphprune.utils.random_state import random_numbers_kept
from graphprune.utils.tables import Printed


@dataclass(frozen=True, repr=False)
class Verification(Printed):
    """How far the slim model is from the masked original.

    Attributes:
        relative: the largest difference of an output divided by that output's largest magnitude; infinite where
            integers, truth values or the places of infinities differ.
        absolute: the largest difference.
        outputs: how many output tensors were compared.
        tolerance: the largest relative difference that passes; one that rounding alone makes passes, too.
        inexact: the operations that took statistics over the surviving channels.
        perturbed: all-zero parameters that got the same random values in copies of both models, so that they hide
            nothing.
        vacuous: why the comparison shows nothing; empty: it does.
        rounding: where the tolerance is exceeded, how far rounding alone moves the outputs: ten times what they change
            by when the parameters change by 1e-15 of their size. A network that amplifies its values without bound
            (products of products, sines of large numbers) cannot be compared more exactly.
    """

    relative: float
    absolute: float
    outputs: int
    tolerance: float
    inexact: tuple[str, ...]
    perturbed: tuple[str, ...] = ()
    vacuous: str = ""
    rounding: float = 0.0

    @property
    def passed(self) -> bool:
        """The models are equal, and what was compared depends on what is left of the weights."""
        return not self.vacuous and self.equal

    @property
    def equal(self) -> bool:
        """The difference is within the tolerance, or is one that rounding makes."""
        return self.relative <= max(self.tolerance, self.rounding)

    def _summary(self) -> str:
        verdict = "passed" if self.passed else "failed"
        return f"Verification: {verdict}, relative difference {self.relative:.1e} over {self.outputs} output tensors"

    def _parts(self) -> Iterator[str]:
        if self.vacuous:
            yield f"Nothing was verified: {self.vacuous}."
            if self.equal:
                return
        verdict = "equal to" if self.equal else "DIFFERENT from"
        yield (
            f"The slim model is {verdict} the masked original: largest relative difference {self.relative:.1e} "
            f"(absolute {self.absolute:.1e}) over {self.outputs} output tensors in float64, tolerance "
            f"{self.tolerance:.0e}."
        )
        if self.rounding:
            yield f"Rounding alone moves the outputs of this model by up to {self.rounding:.1e}."
        if self.perturbed:
            yield f"All-zero parameters got random values in copies of both: {_some(self.perturbed)}."
        if self.inexact:
            yield f"Statistics over the surviving channels in {_places(self.inexact)}"


def _places(names: Sequence[str]) -> str:
    return f"1 place: {names[0]}." if len(names) == 1 else f"{len(names)} places: {names[0]}, ..."


def _some(names: Sequence[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


@leaves_torch_alone
def verify(
    model: nn.Module,
    slim: nn.Module,
    plan: Plan,
    example_inputs: Any,
    *,
    outputs: Outputs | None = None,
    tolerance: float = 1e-10,
) -> Verification:
    """Compare the slim model with the masked original, both in evaluation mode and float64.

    Integers and truth values are compared exactly. Random numbers that the original draws are given to the slim
    model too, without the entries that are gone.

    Args:
        model: the original; its weights must be those the slim model was made from.
        slim: the result of ``plan.apply(model)``.
        plan: what was removed.
        example_inputs: as for :func:`graphprune.trace`; real tensors.
        outputs: picks from a result what is compared, as for :func:`graphprune.trace`; None: everything.
        tolerance: largest relative difference that passes; one that rounding alone makes passes, too.

    Raises:
        InputError: the weights of one of the models are on ``meta``, or ``outputs`` failed on results in float64.
        NoFloat64Error: an operation of the model does not run in float64 on the CPU.
        PlanError: the plan is not for this model, or the slim outputs differ in number or shape.
        NoFloat64Error: an operation of the model does not run in float64 on the CPU.
    """
    for argument, module in (("model", model), ("slim", slim)):
        check_model(module, argument)
    check_positive("tolerance", tolerance, "a positive number, the largest relative difference that passes")
    check_type("plan", plan, Plan, "the graphprune.Plan that the slim model was made with")
    dense, slim = without_later_tensors(uncompiled(model), plan.shapes), uncompiled(slim)
    with changing_globals():
        graph = analyze(dense, example_inputs, outputs)
    _require_known(graph, plan)
    return compare_slim(graph, without_later_tensors(slim, plan.shapes), plan, outputs, tolerance)


def compare_slim(
    graph: Analysis,
    slim: nn.Module,
    plan: Plan,
    outputs: Outputs | None = None,
    tolerance: float = 1e-10,
    slim_calls: Sequence[MethodCall] | None = None,
) -> Verification:
    """The same for a model that is analyzed, on the example inputs of its trace.

    Args:
        graph: the analyzed original.
        slim, plan, outputs, tolerance: as for :func:`verify`.
        slim_calls: what the slim model is given in the place of the examples, where its inputs mean other things.

    Raises:
        InputError, PlanError, NoFloat64Error: as for :func:`verify`.
    """
    check = replace(_check_of(graph, slim, plan, outputs, tolerance), slim_calls=slim_calls or graph.examples)
    with outside_kept(graph.trace.graph, graph.trace.constants), float64_required(graph):
        return _compared(check)


def _compared(check: _Check) -> Verification:
    """The comparison by the traced program, or by the model itself where that says more."""
    graph, tolerance = check.graph, check.tolerance
    has_program = graph.trace.on_meta and not any(t.is_meta for t in graph.trace.constants.values())
    masked = check.masked_graph() if has_program else check.masked_model()
    result = check.compared(masked)
    if has_program and not result.relative <= tolerance:
        # A graph holds numbers that the program worked out in its own precision (a table that it keeps between calls)
        # or chose by it (an epsilon for float32): the model itself, run in float64, does what the slim one does.
        check = replace(check, as_default=True)
        masked = check.masked_model()
        result = check.compared(masked)
    if result.relative <= tolerance:
        check.require_runs()
        return result
    return replace(result, rounding=check.rounding(masked))


def largest_difference(graph: Analysis, slim: nn.Module, plan: Plan, slim_calls: Sequence[MethodCall]) -> float:
    """The largest relative difference of an output of a model that looks at values, on the example inputs of its trace.

    Args:
        graph, slim, plan: as for :func:`compare_slim`.
        slim_calls: what the slim model is given in their place, where its inputs mean other things.

    Raises:
        InputError, PlanError, NoFloat64Error: as for :func:`verify`.
    """
    check = replace(_check_of(graph, slim, plan, graph.trace.pick, tolerance=0.0), slim_calls=slim_calls)
    with float64_required(graph):
        masked = check.masked_model()
        outputs = surviving_entries(check.graph, plan, masked.outputs)
        found = difference(outputs, check.slim_outputs(check.slim, masked)).relative
    check.require_runs()
    return found


def _check_of(graph: Analysis, slim: nn.Module, plan: Plan, outputs: Outputs | None, tolerance: float) -> _Check:
    """Copies of both models with the same random values in the place of all-zero parameters."""
    require_values("model", named_tensors(graph.model), "compare")
    require_values("slim", named_tensors(slim), "compare")
    _require_real(graph)
    noise = noise_on_zeros(graph.model, slim, plan)
    dense, smaller = with_noise(graph.model, noise), with_noise(slim, slim_noise(noise, plan))
    as_default = not graph.trace.on_meta or reads_default_type(graph.trace.graph)
    calls, graph = graph.examples, replace(graph, model=with_means(dense, plan))
    return _Check(graph, smaller, plan, outputs, tolerance, tuple(noise), as_default, calls)


def _require_known(graph: Analysis, plan: Plan) -> None:
    """Raise a PlanError if a plan removes something of groups that were not found: other outputs make other groups.

    So does every run of a model that looks at values; its plan need only fit its tensors. A model that keeps what a run
    worked out has other groups after it; the entries that the plan takes from its parameters may tell as much.
    """
    own = {group.name for group in graph.groups}
    taken = (choice.group for choice in plan.choices if choice.removed) if graph.trace.on_meta else ()
    other = next((name for name in taken if name not in own), None)
    if other is not None and not tells_removed(graph, plan):
        names = ", ".join([*sorted(own)[:4], *(["..."] if len(own) > 4 else [])])
        raise PlanError(
            f"plan: it speaks of group {other!r}, which was not found in this {type(graph.model).__name__}",
            where=f"group {other!r}",
            found=f"the groups {names}" if own else "no group: all channels stay, as those of outputs do",
            needed="the groups of the plan",
            do="pass the model that the plan was made for, inputs like those it was traced with (a batch of one, or of "
            "several), and outputs= if trace was given it",
        )
    plan.check(graph.model)


def _require_real(graph: Analysis) -> None:
    """Raise an InputError if an example input has no values with which the models could be run."""
    if any(tensor.is_meta for call in graph.examples for tensor in call.tensors):
        raise InputError(
            "example_inputs: are on meta and have no values to compare outputs for",
            found=", ".join(str(call) for call in graph.examples)[:200] + " on meta",
            needed="tensors with values",
            do="pass real tensors, such as torch.randn(1, 3, 224, 224)",
        )


RESPONSE_SCALES = (1e-3, 0.3, 1.0, 3.0)
"""How much weights are changed, relative to their size, to see whether the outputs depend on them. Integers that were
chosen by value need much."""


SMALLEST_CHANGE = 1e-15
"""A change of parameters, relative to their size, such as rounding makes in float64."""
ROUNDED_AWAY = 1e-3
"""Where rounding moves the outputs further than this, nothing can be said about them."""


@dataclass(frozen=True, eq=False)
class _Check:
    """Copies of both models in which nothing is hidden behind zeros, and what is compared."""

    graph: Analysis
    slim: nn.Module
    plan: Plan
    select: Outputs | None
    tolerance: float
    perturbed: tuple[str, ...]
    as_default: bool
    slim_calls: Sequence[MethodCall]

    def masked_graph(self) -> MaskedRun:
        """The masked original as its graph."""
        inputs = [tensor for call in self.graph.examples for tensor in call.tensors]
        return run_masked_graph(self.graph, self.plan, inputs)

    def masked_model(self) -> MaskedRun:
        """The masked original as its own program."""
        with changing_globals(), random_numbers_kept():
            return run_masked_model(self.graph, self.plan, self.select)

    def compared(self, masked: MaskedRun) -> Verification:
        """The slim model, with the same random numbers, against a run of the masked original."""
        found = self.slim_outputs(self.slim, masked)
        apart = difference(surviving_entries(self.graph, self.plan, masked.outputs), found)
        return Verification(
            apart.relative,
            apart.absolute,
            apart.compared,
            self.tolerance,
            (*masked.inexact, *weight_statistics(self.graph, self.plan)),
            self.perturbed,
            self._vacuous(masked, found),
        )

    def require_runs(self) -> None:
        """Raise a PlanError if the slim model fails in its own types."""
        require_runs(self.slim, self.slim_calls, self.graph.model, self.graph.examples)

    def rounding(self, masked: MaskedRun) -> float:
        """How far rounding alone moves the outputs; 0 where it is so far that nothing can be said about them."""
        wide = wide_module(self.slim)
        noise = noise_on_all(wide, [name for name, _ in wide.named_parameters()], SMALLEST_CHANGE)
        found = (self.slim_outputs(slim, masked) for slim in (wide, with_noise(wide, noise)))
        moved = 10 * difference(*found).relative
        return moved if moved <= ROUNDED_AWAY else 0.0

    def slim_outputs(self, slim: nn.Module, masked: MaskedRun) -> list[Tensor]:
        """What a slim model gives with the random numbers that a masked run drew.

        Raises:
            PlanError: it fails.
            InputError: what picks from its results fails.
        """
        try:
            return run_slim(slim, self.slim_calls, masked.draws, self.select, self.as_default)
        except (torch.OutOfMemoryError, InputError):
            raise
        except Exception as error:  # of any kind, as forward is the user's
            raise PlanError(
                f"slim: {type(slim).__name__}.forward failed on the example inputs: {error}",
                where=raised_at(error) or type(slim).__name__,
                found=f"{type(error).__name__}: {error}",
                needed="what plan.apply(model) returned, and a forward that takes the same way for the same inputs",
                do="pass the module that plan.apply(model) returned; remove control flow that depends on random "
                "numbers",
            ) from error

    def _vacuous(self, masked: MaskedRun, found: Sequence[Tensor]) -> str:
        """Why the outputs cannot show that something is wrong; empty: they change with the weights that were cut."""
        if not any(t.numel() for t in found):
            return "the outputs are empty; pass example inputs for which they are not"
        if all(bool(t.isnan().all()) for t in found if t.numel()):
            return "the outputs are not a number (NaN); pass other example inputs or weights"
        scales = RESPONSE_SCALES[: 1 if any(map(is_float, found)) else None]
        for names in self._weights():
            for scale in scales:
                changed = self.slim_outputs(with_noise(self.slim, noise_on_all(self.slim, names, scale)), masked)
                if not _identical(found, changed):
                    return ""
        return (
            "the outputs stay the same whatever the weights are (they are constant, or cut off from them); pass other "
            "example inputs or weights"
        )

    def _weights(self) -> list[list[str]]:
        """The parameters that lost entries, and all that multiply channels: some of them must have an effect."""
        own = dict(self.slim.named_parameters())
        matrices = [name for name, tensor in own.items() if tensor.ndim > 1] or list(own)
        cut = [name for name in self.plan.kept if name in own]
        return [cut, matrices] if cut else [matrices]


def _identical(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(some) == len(others) and all(map(_same_bits, some, others))


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())
