"""Types of numbers that round."""

from __future__ import annotations

import torch


def is_float_type(dtype: torch.dtype) -> bool:
    """Is it a type of floating-point numbers, real or complex?"""
    return dtype.is_floating_point or dtype.is_complex
