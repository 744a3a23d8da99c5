"""Copies of views that repeat entries, laid out so that a program treats them as it treats the views.

``reshape`` copies where dimensions cannot become one in memory, and else makes a view. A plain copy of ``expand`` would
let it make a view, so that the program did something else than its trace.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def copy_like_view(view: Tensor) -> Tensor:
    """A copy that can be written to, in which the same dimensions can become one as in a view that repeats entries.

    >>> copy_like_view(torch.zeros(2, 1, 3).expand(2, 4, 3)).stride()
    (3, 19, 1)
    """
    steps = [(size, stride) for size, stride in zip(view.shape, view.stride(), strict=True) if size > 1 and stride]
    if not _is_apart(steps):
        return view.clone()
    strides, step = list(view.stride()), 1 + 2 * sum(size * stride for size, stride in steps)
    for dim in reversed(range(view.ndim)):
        if view.shape[dim] > 1 and not strides[dim]:
            strides[dim], step = step, step * view.shape[dim]
    return torch.empty_strided(view.shape, strides, dtype=view.dtype, device=view.device).copy_(view)


def _is_apart(steps: Iterable[tuple[int, int]]) -> bool:
    """Do entries along dimensions of these sizes and strides lie at places of their own?"""
    reach = 0
    for size, stride in sorted(steps, key=lambda step: step[1]):
        if stride <= reach:
            return False
        reach += stride * (size - 1)
    return True
