"""Re-estimate the running statistics of batch norms."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Set
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.calibration.batches import Batches
from graphprune.calibration.moments import Moments
from graphprune.errors import InputError
from graphprune.reconstruction.linear_calls import ParameterMemory
from graphprune.reconstruction.passes import run_alone
from graphprune.rules.norm import NormCall
from graphprune.rules.registry import norm_call
from graphprune.tracing.meta import is_float
from graphprune.tracing.run_state import evaluating_unchanged
from graphprune.utils.checks import as_entry, check_known, check_type
from graphprune.utils.devices import changing_with_float64
from graphprune.utils.global_state import leaves_torch_alone
from graphprune.utils.model_checks import check_model
from graphprune.utils.modules import tables
from graphprune.utils.operators import Args, DispatchMode, Kwargs


class _Normed(DispatchMode):
    """Collects the statistics of batch norms' inputs, and makes them normalize with those of the current batch."""

    def __init__(self, memory: ParameterMemory, leave: frozenset[str]) -> None:
        super().__init__()
        self.moments: dict[tuple[str, str], Moments] = {}
        self._memory = memory
        self._leave = leave

    def __torch_dispatch__(self, func: Any, types: Any, args: Args = (), kwargs: Kwargs | None = None) -> Any:
        kwargs = kwargs or {}
        call = norm_call(func, args, kwargs)
        found = self._statistics(call) if call is not None else None
        if call is None or found is None:
            return func(*args, **kwargs)
        self.moments.setdefault(found, Moments(False)).add(channel_rows(call))
        args, kwargs = call.with_batch_statistics()
        return func(*args, **kwargs)

    def _statistics(self, call: NormCall) -> tuple[str, str] | None:
        """The names of the running mean and variance that a call uses, if they are to be estimated."""
        if not call.uses_running_statistics:
            return None
        mean, variance = self._memory.owner(call.mean), self._memory.owner(call.variance)
        return (mean, variance) if mean and variance and mean not in self._leave else None


@leaves_torch_alone
def reestimate_batch_norm(
    model: nn.Module, calibration: Iterable[Any], *, leave: Collection[str] = ()
) -> tuple[str, ...]:
    """Set the running means and variances of all batch norms, in place, to those of calibration batches.

    One pass estimates all batch norms: each normalizes with the statistics of the current batch, and the statistics of
    all batches are pooled. ``num_batches_tracked`` is unchanged.

    Source: Jordan, Sedghi, Saukh, Entezari and Neyshabur, "REPAIR: REnormalizing Permuted Activations for Interpolation
    Repair", ICLR 2023 (why a network whose weights were changed without training needs new statistics).

    Args:
        model: any module. It runs in evaluation mode, except for its batch norms.
        calibration: batches as for :func:`graphprune.reconstruct`, iterated once.
        leave: names of running means; these batch norms are unchanged.

    Returns:
        The names of the running means that were estimated.

    Raises:
        InputError: the model fails on a batch, or there is none. The model is unchanged then.
    """
    check_model(model)
    what = "a list of names of running means, such as ['bn1.running_mean']"
    check_type("leave", leave, list | tuple | Set, what)
    means = _possible_means(model)
    for name in leave:
        check_known("leave", name, means, form=as_entry)
    with changing_with_float64(model) as changed:
        return _reestimate(changed, calibration, leave)


def _possible_means(model: nn.Module) -> list[str]:
    """The names of buffers that may be running means: those that are called so, then others of which it is not known.

    ``forward`` may give a buffer of any name to ``torch.nn.functional.batch_norm``.
    """
    names = [name for name, buffer in tables(model).buffers.items() if is_float(buffer)]
    parts = [(name, name.rpartition(".")[2]) for name in names]
    means = [name for name, own in parts if own == "running_mean"]
    return means + [name for name, own in parts if own not in ("running_mean", "running_var")]


def _reestimate(model: nn.Module, calibration: Iterable[Any], leave: Collection[str]) -> tuple[str, ...]:
    memory = ParameterMemory(model)
    watch = _Normed(memory, frozenset(leave))
    batches = Batches(calibration)
    with batches.communicator.together(), evaluating_unchanged(model) as state, torch.no_grad():
        for number, batch in batches:
            run_alone(model, number, batch, watch)
        for names in batches.communicator.union(watch.moments):
            watch.moments.setdefault(names, Moments(False)).pool(batches.communicator)
        for (mean, _), moments in watch.moments.items():
            require_finite(mean, moments.mean, moments.variance)
        for (mean, variance), moments in watch.moments.items():
            _set(memory.tensors[mean], moments.mean)
            _set(memory.tensors[variance], moments.variance * (moments.count / max(moments.count - 1, 1)))
            state.leave((memory.tensors[mean], memory.tensors[variance]))
    return tuple(mean for mean, _ in watch.moments)


def channel_rows(call: NormCall) -> Tensor:
    """What a batch norm gets, as :class:`Moments` are taken of: [samples, 1, channels, places]."""
    x: Tensor = call.x.movedim(call.channels, 1)
    return x.reshape(*x.shape[:2], -1).unsqueeze(1)


def require_finite(name: str, *statistics: Tensor) -> None:
    """Raise an InputError unless what follows from a batch norm's inputs are numbers; ``name``: of its mean."""
    if not all(bool(one.isfinite().all()) for one in statistics):
        raise InputError(
            f"calibration: what the batches give to the batch norm of {name} is not finite",
            where=name,
            found="activations that are infinite or NaN",
            needed="batches for which all activations are numbers",
            do="look for NaN in the calibration data, and for overflow in half precision",
        )


def _set(statistic: Tensor, value: Tensor) -> None:
    statistic.copy_(value.view_as(statistic))
