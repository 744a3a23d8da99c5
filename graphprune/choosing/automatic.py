"""``importance="auto"``: plan by several criteria, repair each slim model, keep the one with the nearest outputs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from graphprune.calibration.batches import communicator_of
from graphprune.calibration.output_error import OutputTensors, outputs_of, relative_error
from graphprune.choosing.held_back import HeldBack
from graphprune.errors import BatchedSamplesWarning, GraphpruneError, InputError, PlanError
from graphprune.evolution.choosing import choose_plan
from graphprune.graph.analysis import Analysis
from graphprune.importance.context import NEEDS_DATA
from graphprune.planning.options import AUTO, PruningOptions
from graphprune.pruning.plan import TRIED, Plan
from graphprune.reconstruction.pipeline import repair

CANDIDATES = ("l2", "wanda", "schur", "taylor", "fisher")
"""The criteria that are tried, the cheapest first. None is best for every network.

Without labels, ``taylor`` and ``fisher`` read gradients of answers that are drawn from the outputs (see
:mod:`graphprune.calibration.own_answers`).
"""


def best_plan(graph: Analysis, options: PruningOptions, repaired: bool = True) -> Plan:
    """The plan that the options ask for; by the best of several criteria with ``importance="auto"``.

    Args:
        graph: the traced model.
        options: what is asked.
        repaired: is the slim model to be repaired? If not, it is judged as it is cut.

    Raises:
        InputError, PlanError: as for :func:`graphprune.evolution.choosing.choose_plan`; or ``"auto"`` is asked for
            without calibration batches, or for a model on the meta device.
    """
    if options.importance != AUTO:
        return choose_plan(graph, options)
    calibration = _calibration(graph, options)
    held = HeldBack.of(calibration, options.loss_fn is not None)
    return _Trials(graph, replace(options, calibration=held.everything), held, repaired).best()


def _calibration(graph: Analysis, options: PruningOptions) -> Iterable[Any]:
    """The batches on which criteria are compared."""
    if options.calibration is None:
        raise InputError(
            f"importance: {AUTO!r} compares slim models on data",
            found="no calibration=",
            needed="calibration batches",
            do=f"{NEEDS_DATA}; or name a criterion, such as importance='l2'",
        )
    if any(parameter.is_meta for parameter in graph.model.parameters()):
        raise PlanError(
            f"importance: {AUTO!r} runs slim models, but the model is on the meta device",
            found="parameters on meta",
            needed="a model with weights",
            do="load the weights first, or name a criterion, such as importance='wanda'",
        )
    return options.calibration


@dataclass(frozen=True, eq=False)
class _Trials:
    """Plans by several criteria.

    Attributes:
        graph: the traced model.
        options: what is asked of each.
        held: the batches.
        repaired: are slim models repaired before they are judged?
        failures: by criterion, why there is no slim model by it.
    """

    graph: Analysis
    options: PruningOptions
    held: HeldBack
    repaired: bool
    failures: dict[str, str] = field(default_factory=dict)

    def best(self) -> Plan:
        """The plan whose outputs are nearest to those of the dense model; of equals the first."""
        plans = self._plans()
        if self._alike(plans):
            errors: Mapping[str, float] = {}
            chosen = next(iter(plans))
        else:
            errors = self._errors(plans)
            chosen = min(plans, key=lambda name: errors.get(name, float("inf")))
        plan = plans[chosen]
        return replace(plan, requested={**plan.requested, TRIED: self._tried(plans, errors)})

    def _plans(self) -> dict[str, Plan]:
        """By criterion, the plan.

        Raises:
            InputError, PlanError: there is none by the first criterion, which reads weights only.
        """
        found: dict[str, Plan] = {}
        for name in CANDIDATES:
            try:
                with _quietly():
                    found[name] = choose_plan(self.graph, replace(self.options, importance=name))
            except GraphpruneError as error:
                if not found:
                    raise
                self.failures[name] = error.what
        return found

    @staticmethod
    def _alike(plans: Mapping[str, Plan]) -> bool:
        """Is the same removed by all of them?"""
        first, *others = plans.values()
        return all(_same(first, other) for other in others)

    def _errors(self, plans: Mapping[str, Plan]) -> dict[str, float]:
        """By criterion the relative error of the outputs; plans that remove the same are tried once."""
        wanted = outputs_of(self.graph.model, self.held.judging)
        found: dict[str, float] = {}
        for name, plan in plans.items():
            same = next((other for other in found if _same(plans[other], plan)), None)
            try:
                found[name] = found[same] if same is not None else self._error(plan, wanted)
            except GraphpruneError as error:
                self.failures[name] = error.what
        return found

    def _error(self, plan: Plan, wanted: OutputTensors) -> float:
        slim: nn.Module = plan.apply(self.graph.model)
        if self.repaired:
            repair(slim, self.graph.model, plan, self.held.repairing)
        return relative_error(outputs_of(slim, self.held.judging), wanted, communicator_of(self.held.judging))

    def _tried(self, plans: Mapping[str, Plan], errors: Mapping[str, float]) -> dict[str, Any]:
        """By criterion the error, or why there is none."""
        same = {name: "the same is removed" for name in plans if name not in errors}
        return {name: {**same, **errors, **self.failures}[name] for name in CANDIDATES}


def _same(plan: Plan, other: Plan) -> bool:
    """Do two plans remove the same?"""
    return plan.removed == other.removed and plan.skipped == other.skipped


@contextmanager
def _quietly() -> Iterator[None]:
    """Without warnings about samples that cannot be told apart: no criterion that is only tried depends on that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BatchedSamplesWarning)
        yield
