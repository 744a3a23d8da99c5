"""What channels that are zero in the weights still pass on, as constants, and folding it into what reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphprune.calibration.moments import Moments
from graphprune.calibration.statistics import Statistics
from graphprune.graph.analysis import Analysis
from graphprune.pruning.comparison import difference
from graphprune.pruning.float64 import wide_module, widened_tensor
from graphprune.pruning.plan import Plan
from graphprune.pruning.verification import run_slim
from graphprune.reconstruction.layerwise import reconstruct
from graphprune.tracing.inputs import MethodCall
from graphprune.tracing.running import Outputs
from graphprune.utils.arrays import Mask
from graphprune.utils.deepcopy import copy_module
from graphprune.utils.modules import all_tensors, named_tensors

EXACT = 1e-10
"""The largest relative difference of outputs in float64."""
BIASES_ONLY = 1e12
"""A ridge penalty under which weights stay as they are, and only biases and running means change."""
SAMPLES = 4
"""How many random variants of the example inputs show what is constant."""


@dataclass(frozen=True, eq=False)
class ConstantFolding:
    """A model some of whose channels are zero in the weights, in float64, and what its slim versions give.

    Attributes:
        graph: the analyzed model.
        outputs: picks from a result what is compared.
    """

    graph: Analysis
    outputs: Outputs | None

    @cached_property
    def dense(self) -> nn.Module:
        """The model in float64."""
        return wide_module(self.graph.model)

    @cached_property
    def calls(self) -> list[MethodCall]:
        """Random variants of the example inputs, and the inputs themselves."""
        examples = [call.mapped(widened_tensor) for call in self.graph.examples]
        return [call.mapped(_Variant(seed)) for seed in range(SAMPLES) for call in examples] + examples

    @cached_property
    def batches(self) -> list[Any]:
        """The inputs of the calls of ``forward``, as calibration batches."""
        return [call.kwargs or call.args for call in self.calls if call.method == "forward"]

    @cached_property
    def passing(self) -> Mask:
        """The units that pass on something else than zero. [classes]"""
        return self._units(self.dense, lambda inputs: inputs.square > 0)

    @cached_property
    def varying(self) -> Mask:
        """The units that pass on something else than a constant. [classes]"""
        return self._units(self.dense, lambda inputs: inputs.variance > EXACT * inputs.square)

    @cached_property
    def sounding(self) -> Mask:
        """The units that pass on something else than zero for some values of the weights that are not zero. [classes]

        A unit that a ReLU happens to cut off on all samples is one of them; one that is multiplied by zeros is not.
        """
        found = self.passing
        for seed, sign in product(range(SAMPLES), (1, -1)):
            found = found | self._units(_scaled_at_random(self.dense, seed, sign), lambda inputs: inputs.square > 0)
        return found

    def _units(self, model: nn.Module, told: Callable[[Moments], Tensor]) -> Mask:
        found = np.zeros(len(self.graph.solution.reason), bool)
        for consumer in Statistics(model, self.graph.units, self.batches).consumers():
            here = (told(consumer.inputs) & (consumer.absolute > 0)).flatten()[consumer.place]
            found[consumer.unit[here.numpy()]] = True
        return found

    @cached_property
    def _expected(self) -> list[Tensor]:
        return run_slim(self.dense, self.calls, outputs=self.outputs)

    def folded(self, plan: Plan) -> dict[str, Tensor] | None:
        """The biases and running means that make up exactly for what a plan removes; None: none do.

        Returns:
            By name, the tensors of the slim model that change, in float64.
        """
        slim = plan.apply(self.dense)
        before = {name: tensor.clone() for name, tensor in named_tensors(slim)}
        if self._difference(slim) <= EXACT:
            return {}
        reconstruct(slim, self.dense, plan, self.batches, ridge=BIASES_ONLY)
        if not self._difference(slim) <= EXACT:
            return None
        return {name: t for name, t in named_tensors(slim) if not torch.equal(t, before[name])}

    def _difference(self, slim: nn.Module) -> float:
        return difference(self._expected, run_slim(slim, self.calls, outputs=self.outputs)).relative


def _scaled_at_random(model: nn.Module, seed: int, sign: int) -> nn.Module:
    """A copy of a model whose parameters have other signs and magnitudes, and zeros where they had."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {id(t): t for t in all_tensors(model)}
    for _, parameter in model.named_parameters():
        factor = 0.5 + torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
        signs = sign * (torch.randint(2, parameter.shape, generator=generator) * 2 - 1)
        scaled = (parameter.detach() * factor * signs).to(parameter.dtype)
        tensors[id(parameter)] = nn.Parameter(scaled, requires_grad=False)
    return copy_module(model, tensors)


class _Variant:
    """Other values of the same kind: normal noise of the same mean and deviation, or the same integers shuffled."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, tensor: Tensor) -> Tensor:
        if tensor.is_floating_point() and tensor.numel() > 1:
            noise = torch.randn(tensor.shape, generator=self._generator, dtype=tensor.dtype)
            return tensor.mean() + tensor.std() * noise
        if tensor.dtype == torch.bool or not tensor.numel():
            return tensor
        return tensor.flatten()[torch.randperm(tensor.numel(), generator=self._generator)].view_as(tensor)
