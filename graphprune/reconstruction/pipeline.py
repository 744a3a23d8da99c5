"""Repair in one call: reconstruction, then the statistics of batch norms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from graphprune.pruning.plan import Plan
from graphprune.reconstruction.batch_norm import reestimate_batch_norm
from graphprune.reconstruction.heads import compensate
from graphprune.reconstruction.layerwise import RIDGE, check_pair, fit
from graphprune.reconstruction.passes import Rollback
from graphprune.reconstruction.records import Repair


def repair(
    slim: nn.Module,
    dense: nn.Module,
    plan: Plan,
    calibration: Iterable[Any],
    *,
    ridge: float | None = None,
    reestimate: bool = True,
) -> Repair:
    """Make up, in place, for what was removed: without labels, in closed matmul.

    First :func:`graphprune.repair.compensate_heads`, where heads became narrower, and
    :func:`graphprune.repair.reconstruct`. Then the statistics of batch norms are estimated anew, but for those
    that directly follow a weight that was fitted: those see nearly what they saw in the dense model, of which they know
    more than a few batches can say. A plan that removes nothing leaves nothing to repair.

    Args:
        slim: what ``plan.apply(dense)`` returned.
        dense: the model that the plan was made for; unchanged.
        plan: what was removed.
        calibration: an iterable of batches that can be gone through several times. A batch is a tensor, a tuple
            (positional arguments) or a dict (keyword arguments); no targets. 128 samples go a long path.
        ridge: how strongly weights are pulled towards what they are: a fraction of the inputs' mean square. None: 0.01,
            and more where there are few rows for each channel.
        reestimate: estimate the statistics of batch norms, too.

    Raises:
        InputError: an argument is not what it should be, or a model fails on a batch. ``slim`` is unchanged then.
        PlanError: the plan does not lead from ``dense`` to ``slim``.
    """
    if not plan.kept and not plan.skipped:
        check_pair(slim, dense, plan)
        return Repair((), ())
    with Rollback() as rollback:
        heads = compensate(slim, dense, plan, calibration, RIDGE if ridge is None else ridge, rollback)
        record = fit(slim, dense, plan, calibration, ridge, rollback, heads.targets)
        if heads.compensated or heads.left_alone:
            record = replace(record, heads=heads)
        if not reestimate:
            return record
        fitted = [one.intercept for one in record.repaired if one.intercept]
        return replace(record, norms=reestimate_batch_norm(slim, calibration, leave=fitted))
