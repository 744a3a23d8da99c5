"""A loss without labels: a model's outputs against answers that are drawn from these outputs.

The squared gradients of such a loss have an expectation that depends on the outputs alone: the Fisher information where
outputs are probabilities, and the squared change of all outputs elsewhere. A model's exact output as its own target
would say nothing: the gradient is zero there.

Source: Kunstner, Hennig and Balles, "Limitations of the Empirical Fisher Approximation for Natural Gradient Descent",
NeurIPS 2019 (labels drawn from the predictions); Martens and Grosse, "Optimizing Neural Networks with
Kronecker-factored Approximate Curvature", ICML 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphprune.calibration.output_error import compared_outputs

Answer = tuple[str, Tensor]
"""What an answer is, ``"class"``, ``"yes or no"`` or ``"signs"``, and the answer, of the shape of the output."""

_ROUNDING = 1e-3
"""How far sums of probabilities are from 1, at most."""


def draw_answers(output: Any, generator: torch.Generator) -> list[Answer]:
    """For each tensor of an output an answer of its shape, drawn at random.

    Probabilities of classes (not negative, with the sum 1 along the last dimension or the second one) give a class, as
    ones and zeros. Other values that are all in [0, 1] are probabilities by themselves and each give a one or a zero.
    All other outputs, scores of classes among them, give signs, 1 or -1, for a random projection.

    Numbers are drawn in the order of the entries, so that samples get the same answers however they are batched.
    """
    return [_drawn(tensor.detach(), generator) for tensor in compared_outputs(output)]


def _drawn(tensor: Tensor, generator: torch.Generator) -> Answer:
    classes = _class_dim(tensor)
    if classes is not None:
        rows = tensor.movedim(classes, -1).double()
        below = rows.cumsum(-1) < _uniform(rows[..., :1], generator)
        chosen = below.sum(-1, keepdim=True).clamp(max=rows.shape[-1] - 1)
        return "class", torch.zeros_like(rows).scatter_(-1, chosen, 1.0).movedim(-1, classes).to(tensor.dtype)
    draws = _uniform(tensor, generator)
    if bool(((tensor >= 0) & (tensor <= 1)).all()):
        return "yes or no", (draws < tensor).to(tensor.dtype)
    return "signs", (2.0 * (draws < 0.5) - 1.0).to(tensor.dtype)


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers in [0, 1), of the shape of a tensor and on its device."""
    return torch.rand(like.shape, generator=generator, dtype=torch.float64, device="cpu").to(like.device)


def _class_dim(tensor: Tensor) -> int | None:
    """The dimension along which a tensor has probabilities of classes; None: there is none."""
    if tensor.ndim < 2 or not bool((tensor >= 0).all()):
        return None
    for dim in (tensor.ndim - 1, 1):
        if tensor.shape[dim] > 1 and bool(((tensor.double().sum(dim) - 1).abs() < _ROUNDING).all()):
            return dim
    return None


def answer_loss(output: Any, answers: Sequence[Answer]) -> Tensor:
    """The loss of an output with answers that :func:`draw_answers` drew for it, a scalar.

    It is the sum over entries of the negative logarithm of the answer's probability, or of outputs times signs.
    """
    losses = [_loss(*pair) for pair in zip(compared_outputs(output), answers, strict=True)]
    return torch.stack([loss.to(torch.promote_types(loss.dtype, torch.float32)) for loss in losses]).sum()


def _loss(tensor: Tensor, answer: Answer) -> Tensor:
    kind, values = answer
    if kind == "signs":
        return (tensor * values).sum()
    chosen = -(values * tensor.clamp(min=torch.finfo(tensor.dtype).tiny).log()).sum()
    if kind == "class":
        return chosen
    return chosen - ((1 - values) * (1 - tensor).clamp(min=torch.finfo(tensor.dtype).eps).log()).sum()
