"""Repair in one call: heads, reconstruction, then the statistics of batch norms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from graphprune.calibration.batches import communicator_of
from graphprune.pruning.plan import Plan
from graphprune.reconstruction.heads import compensate
from graphprune.reconstruction.layerwise import RIDGE, check_pair, fit
from graphprune.reconstruction.matched_norms import match_batch_norms
from graphprune.reconstruction.memory_bound import MemorySpec, parse_memory
from graphprune.reconstruction.passes import Rollback
from graphprune.reconstruction.records import Repair
from graphprune.utils.checks import check_flag
from graphprune.utils.devices import changing_with_float64, with_float64
from graphprune.utils.dispatched import resident
from graphprune.utils.global_state import leaves_torch_alone


@leaves_torch_alone
def repair(
    slim: nn.Module,
    dense: nn.Module,
    plan: Plan,
    calibration: Iterable[Any],
    *,
    ridge: float | None = None,
    reestimate: bool = True,
    memory: MemorySpec | None = None,
) -> Repair:
    """Compensate for removed channels in place, without labels and in closed form.

    First :func:`graphprune.compensate_heads`, if heads became narrower, and :func:`graphprune.reconstruct`. Then the
    running statistics of batch norms are re-estimated so that each does to what it gets now what the dense one does,
    also where the statistics are of other data than the batches. Batch norms whose running mean stands in for the bias
    of a fitted weight stay: their inputs are close to those in the dense model.
    A plan that removes nothing changes nothing.

    Args:
        slim: what ``plan.apply(dense)`` returned.
        dense: the model that the plan was made for; unchanged.
        plan: what was removed.
        calibration: an iterable of batches that can be iterated several times. A batch is a tensor, a tuple (positional
            arguments) or a dict (keyword arguments), without targets. 128 samples go a long way.
        ridge: the ridge penalty on changes of weights, as a fraction of the inputs' mean square. None: 0.01, plus the
            number of channels divided by the number of rows of data.
        reestimate: also re-estimate the statistics of batch norms.
        memory: a bound on what is held beside the models and the batches, such as ``"4GB"``: activations that wait go
            to the CPU from an accelerator, and to temporary files, and consumers too wide for their matrix of second
            moments are fitted by conjugate gradients. None: nothing is moved, and only what does not fit into the free
            memory is fitted that way.

    Raises:
        InputError: an argument is invalid, ``memory`` is too little (the message says what the least is), or a model
            fails on a batch. ``slim`` is unchanged then.
        PlanError: the plan does not lead from ``dense`` to ``slim``.
        SaveError: temporary files, which ``memory`` needs, cannot be written. ``slim`` is unchanged then.
    """
    slim, dense = check_pair(slim, dense, plan)
    check_flag("reestimate", reestimate)
    limit = parse_memory(memory)
    dense = resident(dense)
    if not plan.kept and not plan.skipped:
        return Repair((), ())
    rollback = Rollback(to_file=limit is not None)
    with changing_with_float64(slim) as changed:
        return repair_within(rollback, changed, with_float64(dense), plan, calibration, ridge, reestimate, limit)


def repair_within(
    rollback: Rollback,
    slim: nn.Module,
    dense: nn.Module,
    plan: Plan,
    calibration: Iterable[Any],
    ridge: float | None = None,
    reestimate: bool = True,
    limit: int | None = None,
) -> Repair:
    """:func:`repair` of models that belong together, within ``rollback``, which is entered; ``limit`` is in bytes."""
    with rollback, communicator_of(calibration).together():
        heads = compensate(slim, dense, plan, calibration, RIDGE if ridge is None else ridge, rollback)
        record, means = fit(slim, dense, plan, calibration, ridge, rollback, heads.targets, limit)
        if heads.compensated or heads.left_alone:
            record = replace(record, heads=heads)
        fitted = {one.intercept for one in record.repaired if one.intercept}
        if not (reestimate and means - fitted):
            return record
        return replace(record, norms=match_batch_norms(slim, dense, plan, calibration, fitted, rollback))
