"""Run a model as if it drew no random numbers, to see whether samples depend on each other."""

from __future__ import annotations

from typing import Any

from graphprune.utils.operators import Args, DispatchMode, Kwargs, is_random
from graphprune.utils.tree import tensors_of

DRAWN = 0.5
"""What floating-point numbers are instead; integers are 0."""


class ConstantDraws(DispatchMode):
    """Replaces what torch's operations draw by a constant, which is the same however samples are batched.

    What a model makes of it means nothing but for such a comparison.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Args = (), kwargs: Kwargs | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if is_random(func):
            for tensor in tensors_of(out):
                tensor.fill_(DRAWN if tensor.is_floating_point() else 0)
        return out
