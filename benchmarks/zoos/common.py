"""What the zoos share: what a member is, and the images that they look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Example = tuple[nn.Module, Any] | tuple[nn.Module, Any, Callable[[int], Any]]
"""A model and its example inputs (``None``: let graphprune guess).

A third entry makes a training batch of a size, where that is more than the example repeated (a detector's targets).
"""

Builder = Callable[[], Example]

SMALL_IMAGE = 64


def image(size: int, batch: int = 1, channels: int = 3) -> Tensor:
    """A square image of noise, the same every time. [batch, channels, size, size]."""
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(0))


class NotInstalled(Exception):
    """A model of a library that is not there: it is listed as skipped."""
