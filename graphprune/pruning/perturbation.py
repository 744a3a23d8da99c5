"""Parameters that hide what comes before them: all zero, as last layers are initialized.

Whatever such a layer reads, it returns zeros. So two models are compared in copies, where the same noise is added to
the same entries of both. What differs before still differs afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from graphprune.pruning.plan import Plan
from graphprune.pruning.rewrite import slim_tensor
from graphprune.tracing.meta import is_float
from graphprune.utils.deepcopy import copy_module
from graphprune.utils.modules import all_tensors, copied_as, named_tensors, within

Noise = Mapping[str, Tensor]
"""By the name of a parameter, what is added to it."""

VECTOR_SCALE = 0.1
"""The standard deviation of noise on scales and biases; that of matrices keeps the variance of their inputs."""


def noise_on_zeros(model: nn.Module, slim: nn.Module, plan: Plan) -> Noise:
    """Noise for the all-zero parameters of the original that the slim model has too, in the dense shapes."""
    own = dict(named_tensors(slim))
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, tensor in named_tensors(model):
        there = name in own and name in plan.shapes and tuple(own[name].shape) == plan.shape(name)
        zero = isinstance(tensor, nn.Parameter) and is_float(tensor) and tensor.numel() and not tensor.any()
        if there and zero and not within(name, plan.skipped):
            found[name] = _noise(tensor, generator)
    return found


def _noise(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Noise for a tensor; that of biases is positive, since a negative one may keep a ReLU at zero for all inputs."""
    scale = float(np.prod(tensor.shape[1:])) ** -0.5 if tensor.ndim > 1 else VECTOR_SCALE
    wide = torch.complex128 if tensor.is_complex() else torch.float64
    noise = scale * torch.randn(tensor.shape, generator=generator, dtype=wide, device="cpu")
    return (noise.abs() if tensor.ndim == 1 else noise).to(tensor.dtype)


def slim_noise(noise: Noise, plan: Plan) -> Noise:
    """The entries of the noise that belong to what survives."""
    return {name: slim_tensor(tensor, plan.kept.get(name, {}), plan.merged.get(name)) for name, tensor in noise.items()}


def with_noise(model: nn.Module, noise: Noise) -> nn.Module:
    """A copy of a model with noise on some parameters; all other tensors are those of the model."""
    if not noise:
        return model
    tensors = {id(t): t for t in all_tensors(model)}
    for name, tensor in named_tensors(model):
        if name in noise:
            value = (_wide(tensor) + _wide(noise[name]).to(tensor.device)).to(tensor.dtype)
            tensors[id(tensor)] = copied_as(tensor, value)
    return copy_module(model, tensors)


def _wide(tensor: Tensor) -> Tensor:
    """A tensor that torch can compute with: types of one byte as float32."""
    value = tensor.detach()
    return value.float() if value.is_floating_point() and value.itemsize == 1 else value


def noise_on_all(model: nn.Module, names: Sequence[str], scale: float) -> Noise:
    """Noise on these parameters, in proportion to the values of each."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, tensor in named_tensors(model):
        if name in names and is_float(tensor) and tensor.numel():
            size = float(_wide(tensor).abs().square().mean().sqrt()) or 1.0
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64, device="cpu")
            found[name] = (scale * size * noise).to(tensor.dtype)
    return found
