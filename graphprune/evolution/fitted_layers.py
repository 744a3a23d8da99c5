"""Slim models assembled from fitted layers: what the weights of a consumer become for the inputs that it keeps.

A consumer is fitted to its dense outputs on the dense inputs, in closed form from second moments that are gathered
once. That is less than repair does, which fits every layer on the inputs that the slim model gives it; it takes no pass
over the data, and ranks candidates nearly as repair would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from graphprune.calibration.moments import ConsumerStatistics
from graphprune.pruning.plan import Plan
from graphprune.utils.arrays import Ids
from graphprune.utils.modules import named_tensors

LEAST_RIDGE = 1e-2
"""The least ridge penalty, as a fraction of the inputs' mean square; one channel for each row of data adds one."""
REMEMBERED = 2**28
"""So many bytes of fitted weights are remembered at most."""


@dataclass(frozen=True, eq=False)
class _Consumer:
    """A weight with one summed dimension, and the moments of its inputs.

    Attributes:
        weight: the dense weight, the summed dimension last. [outputs, ..., channels]
        dim: the number of that dimension in the parameter.
        moments: of the inputs, centered where a bias absorbs the means. [channels, channels]
        mean: of the inputs. [channels]
        ridge: the penalty.
        bias: the name of the bias; None: there is none.
    """

    weight: Tensor
    dim: int
    moments: Tensor
    mean: Tensor
    ridge: float
    bias: str | None

    def fitted(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """The weight on kept channels, the summed dimension last, and what is added to the bias. [outputs]"""
        gone = torch.ones(len(self.mean), dtype=torch.bool, device=self.mean.device)
        gone[kept] = False
        system = self.moments[kept][:, kept]
        diagonal = system.diagonal()
        diagonal += self.ridge * float(diagonal.mean().clamp(min=torch.finfo(torch.float64).tiny))
        factor, failed = torch.linalg.cholesky_ex(system)
        lost = self.weight[..., gone].double()
        if int(failed):
            return self.weight[..., kept].double(), (lost @ self.mean[gone]).reshape(len(lost), -1).sum(1)
        mixing = torch.cholesky_solve(self.moments[kept][:, gone], factor)  # [kept, gone]
        shift = lost @ (self.mean[gone] - mixing.mT @ self.mean[kept])
        return self.weight[..., kept].double() + lost @ mixing.mT, shift.reshape(len(shift), -1).sum(1)


class FittedLayers:
    """Puts fitted weights into slim models.

    Args:
        model: the dense model.
        consumers: its weights with the second moments of their inputs.
    """

    def __init__(self, model: nn.Module, consumers: Sequence[ConsumerStatistics]) -> None:
        self._dense: Mapping[str, Tensor] = {name: t.detach() for name, t in named_tensors(model)}
        found: dict[str, list[ConsumerStatistics]] = {}
        for one in consumers:
            for axis in one.axes:
                found.setdefault(axis.parameter, []).append(one)
        made = {name: self._consumer(name, ones[0]) for name, ones in found.items() if len(ones) == 1}
        self._consumers = {name: one for name, one in made.items() if one is not None}
        self._known: dict[tuple[str, bytes], tuple[Tensor, Tensor]] = {}
        self._bytes = 0

    def _consumer(self, name: str, given: ConsumerStatistics) -> _Consumer | None:
        """What a weight's fits need; None: its channels are not those of one dimension of one matrix."""
        dense, channels = self._dense.get(name), given.inputs.mean.shape
        axis = given.axes[0]
        if dense is None or len(given.axes) > 1 or dense.ndim < 2 or channels != (1, dense.shape[axis.dim]):
            return None
        weight, bias = dense.movedim(axis.dim, -1), f"{axis.module}.bias"
        owned = bias in self._dense and tuple(self._dense[bias].shape) == (weight.shape[0],)
        centered = given.intercept and owned and (axis.dim == 1 or dense.ndim == 2)
        moments = given.inputs.covariance if centered else given.inputs.second
        ridge = LEAST_RIDGE + channels[1] / given.inputs.count
        return _Consumer(weight, axis.dim, moments[0], given.inputs.mean[0], ridge, bias if centered else None)

    @torch.no_grad()
    def insert(self, slim: nn.Module, plan: Plan) -> None:
        """Put fitted weights in the place of those that a plan has sliced, or of others that were fitted for it."""
        tensors = dict(named_tensors(slim))
        for name, consumer in self._consumers.items():
            kept = plan.kept.get(name, {})
            if consumer.dim not in kept or name not in tensors:
                continue
            weight, shift = self._fit(name, consumer, kept[consumer.dim])
            rows = {dim: torch.from_numpy(np.ascontiguousarray(kept[dim])) for dim in kept if dim != consumer.dim}
            fitted = weight.movedim(-1, consumer.dim)
            for dim, index in rows.items():
                fitted = fitted.index_select(dim, index.to(fitted.device))
            tensors[name].copy_(fitted)
            if consumer.bias is not None and consumer.bias in tensors:
                own = plan.kept.get(consumer.bias, {}).get(0)
                bias = self._dense[consumer.bias] + shift
                chosen = bias if own is None else bias[torch.from_numpy(np.ascontiguousarray(own)).to(bias.device)]
                tensors[consumer.bias].copy_(chosen)

    def _fit(self, name: str, consumer: _Consumer, kept: Ids) -> tuple[Tensor, Tensor]:
        """The fit for these channels, from memory if it was made before."""
        key = name, np.ascontiguousarray(kept).tobytes()
        if key not in self._known:
            index = torch.from_numpy(np.ascontiguousarray(kept)).to(consumer.mean.device)
            weight, shift = (t.to(consumer.weight.dtype) for t in consumer.fitted(index))
            size = weight.numel() * weight.element_size()
            while self._known and self._bytes + size > REMEMBERED:
                old, _ = self._known.pop(next(iter(self._known)))
                self._bytes -= old.numel() * old.element_size()
            self._known[key] = weight, shift
            self._bytes += size
        return self._known[key]
