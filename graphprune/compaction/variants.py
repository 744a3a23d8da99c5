"""Random variants of inputs and of weights, which show what is constant and what is zero whatever the values are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from graphprune.pruning.float64 import widened_tensor
from graphprune.pruning.wide_run import run_slim
from graphprune.tracing.inputs import MethodCall
from graphprune.utils.deepcopy import copy_module
from graphprune.utils.modules import all_tensors

SAMPLES = 4
"""How many random variants of the example inputs there are."""
SCALINGS = ((0, 1), (0, -1), (1, 1), (1, -1))
"""Seeds and signs of the random variants of the weights."""


def varied_calls(model: nn.Module, examples: Sequence[MethodCall]) -> list[MethodCall]:
    """Random variants of examples, in float64, and the examples themselves.

    Args:
        model: in float64; variants with which it fails are left out.
        examples: the calls that were traced.
    """
    wide = [call.mapped(widened_tensor, objects=True) for call in examples]
    for bold in (True, False):
        made = [call.mapped(_Variant(seed, bold)) for seed in range(SAMPLES) for call in wide]
        found = [call for call in made if _runs(model, call)]
        if found:
            return [*found, *wide]
    return wide


def _runs(model: nn.Module, call: MethodCall) -> bool:
    try:
        run_slim(model, [call])
    except Exception:  # whatever a program raises for inputs that it was not made for
        return False
    return True


def scaled_at_random(model: nn.Module) -> Iterator[nn.Module]:
    """Copies of a model whose parameters have other signs and magnitudes, and zeros where they had."""
    for seed, sign in SCALINGS:
        generator = torch.Generator().manual_seed(seed)
        tensors = {id(t): t for t in all_tensors(model)}
        for _, parameter in model.named_parameters():
            factor = 0.5 + torch.rand(parameter.shape, generator=generator, dtype=torch.float64, device="cpu")
            signs = sign * (torch.randint(2, parameter.shape, generator=generator, device="cpu") * 2 - 1)
            scaled = (parameter.detach() * factor * signs).to(parameter.dtype)
            tensors[id(parameter)] = nn.Parameter(scaled, requires_grad=False)
        yield copy_module(model, tensors)


class _Variant:
    """Other values of the same kind: normal noise of the same mean and deviation, or the same integers shuffled.

    Args:
        seed: of the random numbers.
        bold: where all values are one, others are drawn near it; a program may refuse them.
    """

    def __init__(self, seed: int, bold: bool) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._bold = bold

    def __call__(self, tensor: Tensor) -> Tensor:
        if tensor.dtype == torch.bool or not tensor.numel():
            return tensor
        same = bool((tensor == tensor.flatten()[0]).all())
        if tensor.is_floating_point():
            spread = tensor.std() if not same else float(self._bold)
            return tensor.mean() + spread * torch.randn(
                tensor.shape, generator=self._generator, dtype=tensor.dtype, device="cpu"
            )
        if tensor.is_complex():
            return tensor * torch.randn(tensor.shape, generator=self._generator, dtype=torch.float64, device="cpu")
        if same and self._bold:
            return tensor + torch.randint(4, tensor.shape, generator=self._generator, device="cpu")
        return tensor.flatten()[torch.randperm(tensor.numel(), generator=self._generator, device="cpu")].view_as(tensor)
