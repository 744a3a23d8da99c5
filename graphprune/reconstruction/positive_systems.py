"""Solutions of positive definite systems of equations."""

from __future__ import annotations

import torch
from torch import Tensor

_SINGLE, _FEW = 1024, 16
"""A system is factored in single precision if it has ``_SINGLE`` unknowns and ``_FEW`` times as many as right sides."""
_CLOSE, _REFINEMENTS = 1e-8, 6
"""A refined solution's residual is below ``_CLOSE`` times the right side; each of ``_REFINEMENTS`` steps gains
digits."""


def solve_positive(system: Tensor, right: Tensor) -> Tensor:
    """The solution of positive definite systems [blocks, n, n], with right sides [blocks, n, m].

    With many unknowns and few right sides, it is factored in single precision and refined in double precision.

    Source: Langou, Langou, Luszczek, Kurzak, Buttari and Dongarra, "Exploiting the Performance of 32 bit Floating Point
    Arithmetic in Obtaining 64 bit Accuracy", SC 2006.
    """
    if system.shape[1] >= max(_SINGLE, _FEW * right.shape[2]) and (refined := _refined(system, right)) is not None:
        return refined
    factor, failed = torch.linalg.cholesky_ex(system)
    if bool(failed.any()):  # by rounding: the ridge makes it positive
        return torch.linalg.solve(system, right)  # type: ignore[no-any-return]
    return torch.cholesky_solve(right, factor)


def _refined(system: Tensor, right: Tensor) -> Tensor | None:
    """The solution from a factor in single precision; None if it is not reached that way."""
    size = system.diagonal(dim1=1, dim2=2).mean(1).view(-1, 1, 1)
    factor, failed = torch.linalg.cholesky_ex(system.float() / size.float())
    if bool(failed.any()):
        return None
    found, left, goal = torch.zeros_like(right), right, _CLOSE * right.norm()
    for _ in range(_REFINEMENTS):
        scale = left.abs().amax((1, 2), keepdim=True).clamp(min=torch.finfo(left.dtype).tiny)
        found += torch.cholesky_solve((left / scale).float(), factor).double() * (scale / size)
        left = right - system @ found
        if left.norm() <= goal:
            return found
    return None
