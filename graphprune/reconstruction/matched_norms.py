"""Give a slim model's batch norms running statistics with which they do to their inputs what the dense ones do."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.calibration.batches import Batches
from graphprune.calibration.communicator import Communicator
from graphprune.calibration.moments import Moments
from graphprune.pruning.plan import Plan
from graphprune.reconstruction.batch_norm import channel_rows, require_finite
from graphprune.reconstruction.linear_calls import ParameterMemory
from graphprune.reconstruction.passes import Rollback, run_alone
from graphprune.rules.norm import NormCall
from graphprune.rules.registry import norm_call
from graphprune.tracing.run_state import evaluating_unchanged
from graphprune.utils.operators import Args, DispatchMode, Kwargs

StatisticNames = tuple[str, str]
"""Those of a running mean and of its variance."""

MOST_CHANGE = 1e3
"""A variance changes by no more than this factor: what hardly varies in the batches may vary in others."""


@torch.no_grad()
def match_batch_norms(
    slim: nn.Module,
    dense: nn.Module,
    plan: Plan,
    calibration: Iterable[Any],
    leave: Collection[str],
    rollback: Rollback,
) -> tuple[str, ...]:
    """Set running means and variances so that normalized channels have the dense ones' means and variances.

    Where the dense statistics are those of the batches, this is to estimate them anew; where they are not (of other
    data, or never trained), they are as wrong for the slim model as for the dense one, whose outputs are wanted. One
    pass of each model sets all batch norms: each normalizes by the statistics that match those of the current batch,
    and the moments of all batches are pooled.

    Args:
        slim: what ``plan.apply(dense)`` returned, with weights that may be fitted.
        dense: the model that the plan was made for; unchanged.
        plan: what was removed.
        calibration: batches as for :func:`graphprune.reconstruct`, iterated once.
        leave: names of running means; these batch norms are unchanged, as are those that are not called alike in both.
        rollback: notes what is changed.

    Returns:
        The names of the running means that were set.

    Raises:
        InputError: a model fails on a batch, or what a batch norm gets is not finite. The slim model is unchanged then.
    """
    batches = Batches(calibration)
    norms = _Norms(plan, ParameterMemory(slim), ParameterMemory(dense), frozenset(leave))
    with batches.communicator.together(), evaluating_unchanged(slim, dense) as state:
        for number, batch in batches:
            wanted = _Dense(norms)
            run_alone(dense, number, batch, wanted)
            run_alone(slim, number, batch, _Slim(norms, wanted))
        found = norms.statistics(batches.communicator)
        for names, values in found.items():
            for tensor, value in zip((norms.slim.tensors[name] for name in names), values, strict=True):
                rollback.note(tensor)
                tensor.copy_(value.view_as(tensor))
                state.leave((tensor,))
    return tuple(mean for mean, _ in found)


@dataclass
class _Norms:
    """The batch norms that both models have.

    Attributes:
        plan: what was removed.
        slim, dense: the models' tensors.
        leave: names of running means that stay.
        eps: what is added to each variance.
        wanted, found: the moments of what the dense norms get in all batches, and of what the slim ones get.
    """

    plan: Plan
    slim: ParameterMemory
    dense: ParameterMemory
    leave: frozenset[str]
    eps: dict[StatisticNames, float] = field(default_factory=dict)
    wanted: dict[StatisticNames, Moments] = field(default_factory=dict)
    found: dict[StatisticNames, Moments] = field(default_factory=dict)

    def names(self, call: NormCall | None, memory: ParameterMemory) -> StatisticNames | None:
        """The statistics of a call, if they are to be set."""
        if call is None or not call.uses_running_statistics:
            return None
        mean, variance = memory.owner(call.mean), memory.owner(call.variance)
        if not (mean and variance) or mean in self.leave:
            return None
        return mean, variance

    def note(self, call: NormCall, names: StatisticNames, together: dict[StatisticNames, Moments]) -> Moments:
        """The moments of what a call gets, which are added to those of all calls."""
        self.eps[names] = call.eps
        rows, own = channel_rows(call), Moments(False)
        own.add(rows)
        together.setdefault(names, Moments(False)).add(rows)
        return own

    def statistics(self, communicator: Communicator) -> dict[StatisticNames, tuple[Tensor, Tensor]]:
        """The new running means and variances."""
        for eps in communicator.gather(self.eps):
            self.eps.update(eps)
        values = {}
        for names in communicator.union(self.eps):
            wanted, found = (moments.setdefault(names, Moments(False)) for moments in (self.wanted, self.found))
            for moments in (wanted, found):
                moments.pool(communicator)
            if wanted.count == found.count > 0:
                values[names] = self.matching(names, wanted, found)
                require_finite(names[0], *values[names])
        return values

    def matching(self, names: StatisticNames, wanted: Moments, found: Moments) -> tuple[Tensor, Tensor]:
        """The running mean and variance with which inputs give results like those of the dense norm.

        Args:
            names: of the norm.
            wanted: the moments of the dense norm's inputs.
            found: those of the slim norm's.

        Returns:
            In float64: [channels], [channels].
        """
        own_mean, own_variance = (self._kept(name, self.dense.tensors[name]) for name in names)
        mean, variance, dense_mean, dense_variance = (
            moment.flatten().to(own_mean) for one in (found, wanted) for moment in (one.mean, one.variance)
        )
        dense_mean, dense_variance = self._kept(names[0], dense_mean), self._kept(names[1], dense_variance)
        ratio = (
            (variance / dense_variance)
            .where((variance > 0) & (dense_variance > 0), 1.0)
            .clamp(1 / MOST_CHANGE, MOST_CHANGE)
        )
        shift = (dense_mean - own_mean) * (1 - ratio.sqrt())  # nothing is added where nothing has changed
        grown = (own_variance + self.eps[names]) * (ratio - 1)
        return own_mean + (mean - dense_mean) + shift, (own_variance + grown).clamp(min=0)

    def _kept(self, name: str, dense: Tensor) -> Tensor:
        """The channels that are left, in float64."""
        ids = self.plan.kept.get(name, {}).get(0)
        values = dense.flatten().double()
        return values if ids is None else values[torch.as_tensor(ids, device=values.device)]


class _Dense(DispatchMode):
    """Notes what the batch norms of the dense model get from a batch.

    Attributes:
        calls: the moments of the inputs of each call.
    """

    def __init__(self, norms: _Norms) -> None:
        super().__init__()
        self.calls: dict[StatisticNames, list[Moments]] = {}
        self._norms = norms

    def __torch_dispatch__(self, func: Any, types: Any, args: Args = (), kwargs: Kwargs | None = None) -> Any:
        call = norm_call(func, args, kwargs or {})
        names = self._norms.names(call, self._norms.dense)
        if call is not None and names is not None:
            self.calls.setdefault(names, []).append(self._norms.note(call, names, self._norms.wanted))
        return func(*args, **(kwargs or {}))


class _Slim(DispatchMode):
    """Notes what the batch norms of the slim model get, and makes them do what the dense ones did in the same batch."""

    def __init__(self, norms: _Norms, dense: _Dense) -> None:
        super().__init__()
        self._norms = norms
        self._wanted = {names: iter(calls) for names, calls in dense.calls.items()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Args = (), kwargs: Kwargs | None = None) -> Any:
        kwargs = kwargs or {}
        call = norm_call(func, args, kwargs)
        names = self._norms.names(call, self._norms.slim)
        if call is None or names is None:
            return func(*args, **kwargs)
        found = self._norms.note(call, names, self._norms.found)
        wanted = next(self._wanted.get(names, iter(())), None)
        if wanted is not None:
            args, kwargs = call.with_statistics(*self._norms.matching(names, wanted, found))
        return func(*args, **kwargs)
