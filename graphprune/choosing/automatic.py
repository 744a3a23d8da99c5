"""``importance="auto"``: plan by several criteria, repair each slim model, keep the one with the nearest outputs.

A few dozen samples judge, and their noise is often more than what criteria differ by; the nearest of several is often
so by luck. One of them is therefore preferred, :data:`PREFERRED`, unless another is nearer by more than this noise, as
Breiman, Friedman, Olshen and Stone (*Classification and Regression Trees*, 1984) choose among trees.
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from graphprune.calibration.batches import communicator_of
from graphprune.calibration.output_error import DenseOutputs, OutputError, OutputTensors, check_comparable, outputs_of
from graphprune.calibration.statistics import Statistics
from graphprune.choosing.held_back import HeldBack
from graphprune.errors import BatchedSamplesWarning, GraphpruneError, InputError
from graphprune.evolution.choosing import choose_plan
from graphprune.graph.analysis import Analysis
from graphprune.importance.context import NEEDS_DATA
from graphprune.importance.criteria import AUTO
from graphprune.planning.allocations import SEARCHED
from graphprune.planning.options import PruningOptions
from graphprune.planning.requirements import require_batches, require_weights
from graphprune.pruning.plan import TRIED, Plan
from graphprune.reconstruction.memory_bound import MemorySpec
from graphprune.reconstruction.pipeline import repair
from graphprune.utils.devices import with_float64
from graphprune.utils.modules import tables

CANDIDATES: Mapping[str, Mapping[str, Any]] = {
    "wanda": {"importance": "wanda"},
    "schur": {"importance": "schur"},
    "obs": {"importance": "obs"},
    "obs, normalize='sum'": {"importance": "obs", "normalize": "sum"},
    "surgeon": {"importance": "surgeon"},
    "taylor": {"importance": "taylor"},
}
"""What is tried, the cheapest first; none is best for every network. All share one pass for moments and one for
gradients: without labels, those of answers that are drawn from the outputs (see
:mod:`graphprune.calibration.own_answers`)."""
PREFERRED = "surgeon"
"""What is chosen where samples do not tell it from the nearest: of networks that were really trained, it is the best or
within 1 % of it on all but one (docs/benchmarks.md)."""
CERTAIN = 2.5
"""Standard errors by which another must be nearer: of two dozen samples, luck alone makes one of five others so much
nearer once in twenty times."""

COMPARED = "global"
"""The allocation with which criteria are compared where the allocation is searched: one search, not one for each."""
LEAST_SECONDS = 1e-3
"""What a search is left where comparing the criteria took all of its time: it ends at its start."""
NAME_ONE = "name a criterion, such as importance='wanda'"
"""What to do where criteria cannot be compared."""
_ASKED = f"importance={AUTO!r}"


def best_plan(
    graph: Analysis, options: PruningOptions, repaired: bool = True, memory: MemorySpec | None = None
) -> Plan:
    """The plan that the options ask for; by the best of several criteria with ``importance="auto"``.

    Args:
        graph: the traced model.
        options: what is asked.
        repaired: is the slim model to be repaired? If not, it is judged as it is cut.
        memory: a bound on what each repair holds.

    Raises:
        InputError, PlanError: as for :func:`graphprune.evolution.choosing.choose_plan`; or ``"auto"`` is asked for
            without calibration batches, or for a model on the meta device.
    """
    if options.importance != AUTO:
        return choose_plan(graph, options)
    if options.allocation == SEARCHED:
        return _searched(graph, options, repaired, memory)
    held, plan = _compared(graph, options, repaired, memory)
    if not held.in_part:
        return plan
    _say("plan by the best with all samples")
    return _as_chosen(graph, replace(options, calibration=held.given), plan)


def _compared(
    graph: Analysis, options: PruningOptions, repaired: bool, memory: MemorySpec | None
) -> tuple[HeldBack, Plan]:
    """The calibration batches, and the best of the plans that some of them make."""
    do = f"{NEEDS_DATA}; or {NAME_ONE}"
    calibration = require_batches(options.calibration, _ASKED, "compares slim models", do)
    require_weights(graph.model, _ASKED, "run", f"load the weights first, or {NAME_ONE}")
    held = HeldBack.of(graph.model, calibration, options.loss_fn is not None)
    model = with_float64(graph.model, tables(graph.model))
    statistics = Statistics(model, graph.units, held.everything, options.loss_fn, seed=options.seed)
    options = replace(options, calibration=held.everything)
    return held, _Trials(graph, options, held, repaired, memory, statistics).best()


def _searched(graph: Analysis, options: PruningOptions, repaired: bool, memory: MemorySpec | None) -> Plan:
    """A search with the criterion that is best for one allocation; the time limit holds for both together."""
    began = time.monotonic()
    one_shot = replace(options, allocation=COMPARED, candidates=PruningOptions.candidates, time_limit=None, depth=None)
    _, plan = _compared(graph, one_shot, repaired, memory)
    left = None
    if options.time_limit is not None:
        left = max(options.time_limit - (time.monotonic() - began), LEAST_SECONDS)
    return _as_chosen(graph, replace(options, time_limit=left), plan)


def _as_chosen(graph: Analysis, options: PruningOptions, chosen: Plan) -> Plan:
    """The plan that the options ask for, by the criterion of the plan that was chosen."""
    fields = {name: chosen.requested.get(name, getattr(options, name)) for name in ("importance", "normalize")}
    plan = choose_plan(graph, replace(options, **fields))
    given = {name: value for name, value in fields.items() if value is not None}
    return replace(plan, requested={**plan.requested, **given, TRIED: chosen.requested[TRIED]})


@dataclass(frozen=True, eq=False)
class _Trials:
    """Plans by several criteria.

    Attributes:
        graph: the traced model.
        options: what is asked of each.
        held: the batches.
        repaired: are slim models repaired before they are judged?
        memory: a bound on what each repair holds.
        statistics: those of the batches, which all criteria share.
        failures: by candidate, why there is no slim model by it.
    """

    graph: Analysis
    options: PruningOptions
    held: HeldBack
    repaired: bool
    memory: MemorySpec | None
    statistics: Statistics
    failures: dict[str, str] = field(default_factory=dict)

    def best(self) -> Plan:
        """The plan whose outputs are nearest to those of the dense model, or the preferred one."""
        plans = self._plans()
        errors = {} if self._alike(plans) else self._errors(plans)
        plan = plans[_chosen(errors) if errors else next(iter(plans))]
        return replace(plan, requested={**plan.requested, TRIED: self._tried(plans, errors)})

    def _plans(self) -> dict[str, Plan]:
        """By candidate, the plan.

        Raises:
            InputError, PlanError: there is none by the first.
        """
        self.statistics.consumers(products=True)  # at once, or a criterion without them would need a pass of its own
        found: dict[str, Plan] = {}
        for name, fields in self._candidates().items():
            _say(f"plan by {name}")
            try:
                with _quietly():
                    plan = choose_plan(self.graph, replace(self.options, **fields), self.statistics)
            except GraphpruneError as error:
                if not found:
                    raise
                self.failures[name] = error.what
            else:
                found[name] = replace(plan, requested={**plan.requested, **fields})
        return found

    def _candidates(self) -> Mapping[str, Mapping[str, Any]]:
        """What is tried: with a normalization that the user gave, every criterion once."""
        if self.options.normalize is None:
            return CANDIDATES
        return {name: fields for name, fields in CANDIDATES.items() if "normalize" not in fields}

    @staticmethod
    def _alike(plans: Mapping[str, Plan]) -> bool:
        """Is the same removed by all of them?"""
        first, *others = plans.values()
        return all(_same(first, other) for other in others)

    def _errors(self, plans: Mapping[str, Plan]) -> dict[str, OutputError]:
        """By candidate the error of the outputs; plans that remove the same are tried once.

        Raises:
            GraphpruneError: no slim model could be made, for the reason of the first; or none can be compared.
        """
        communicator = communicator_of(self.held.judging)
        wanted = self._outputs(self.graph.model)
        check_comparable(wanted, "importance", NAME_ONE, communicator)
        dense = DenseOutputs(wanted, communicator)
        found: dict[str, OutputError] = {}
        first: GraphpruneError | None = None
        for name, plan in plans.items():
            same = next((other for other in found if _same(plans[other], plan)), None)
            if same is None:
                _say(f"{'repair' if self.repaired else 'outputs'} by {name}")
            try:
                found[name] = found[same] if same is not None else self._error(plan, dense)
            except GraphpruneError as error:
                self.failures[name] = error.what
                first = first or error
        if not found and first is not None:
            raise first
        if not any(math.isfinite(error.value) for error in found.values()):
            raise self._none_compared()
        return found

    def _error(self, plan: Plan, dense: DenseOutputs) -> OutputError:
        slim: nn.Module = plan.apply(self.graph.model)
        if self.repaired:
            repair(slim, self.graph.model, plan, self.held.repairing, memory=self.memory)
        return dense.error(self._outputs(slim))

    def _outputs(self, model: nn.Module) -> OutputTensors:
        return outputs_of(model, enumerate(self.held.judging), self.graph.trace.pick)

    def _none_compared(self) -> InputError:
        """What is said where no slim model's outputs can be compared with the dense ones."""
        why = "".join(f"; by {name}: {said}" for name, said in self.failures.items())
        return InputError(
            f"importance: {AUTO!r} could compare the outputs of no slim model with those of the dense one",
            found=f"outputs of other shapes, or that are no numbers, by every criterion that was tried{why}",
            needed="a slim model whose outputs have the shapes of the dense model's, and are finite",
            do=NAME_ONE,
        )

    def _tried(self, plans: Mapping[str, Plan], errors: Mapping[str, OutputError]) -> dict[str, Any]:
        """By candidate the error, or why there is none."""
        same = {name: "the same is removed" for name in plans if name not in errors}
        numbers = {name: error.value for name, error in errors.items()}
        return {name: {**same, **numbers, **self.failures}[name] for name in self._candidates()}


def _chosen(errors: Mapping[str, OutputError]) -> str:
    """The candidate that is preferred, unless another is nearer by more than noise; of equals the first."""
    nearest = min(errors, key=lambda name: errors[name].value)
    if PREFERRED in errors:
        least, own = errors[nearest], errors[PREFERRED]
        if own.value - least.value <= CERTAIN * own.noise(least):
            return PREFERRED
    return nearest


def _same(plan: Plan, other: Plan) -> bool:
    """Do two plans remove the same?"""
    return plan.removed == other.removed and plan.skipped == other.skipped


def _say(step: str) -> None:
    """Show what is going on, if stderr is a terminal."""
    if sys.stderr.isatty():
        print(f"{_ASKED}: {step}", file=sys.stderr)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without warnings about samples that cannot be told apart: no criterion that is only tried depends on that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BatchedSamplesWarning)
        yield
