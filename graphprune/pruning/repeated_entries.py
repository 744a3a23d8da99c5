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
    (3, 7, 1)
    """
    found = [(step, size, dim) for dim, (size, step) in enumerate(zip(view.shape, view.stride(), strict=True))]
    spread = sorted(one for one in found if one[0] and one[1] > 1)
    if not _is_apart(spread):
        return view.clone()
    strides, end, own_end = [1] * view.ndim, 1, 1
    for step, size, dim in spread:
        strides[dim] = own_end if step == end else own_end + 1  # a gap where there is one
        end, own_end = step * size, strides[dim] * size
    own_end += 1
    for step, size, dim in reversed(found):
        if size > 1 and not step:
            strides[dim], own_end = own_end, own_end * size
    return torch.empty_strided(view.shape, strides, dtype=view.dtype, device=view.device).copy_(view)


def _is_apart(spread: Iterable[tuple[int, int, int]]) -> bool:
    """Do entries along dimensions of these strides, the least first, and sizes lie at places of their own?"""
    reach = 0
    for step, size, _ in spread:
        if step <= reach:
            return False
        reach += step * (size - 1)
    return True
