"""How far two lists of output tensors are apart: floats by value, integers and truth values exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from graphprune.errors import PlanError
from graphprune.tracing.meta import is_float


@dataclass(frozen=True)
class Difference:
    """The largest relative and absolute difference over ``compared`` outputs that are not empty."""

    relative: float
    absolute: float
    compared: int


def difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> Difference:
    """Compare outputs of the masked original with those of the slim model.

    A difference is relative to the largest finite magnitude of its output; an integer that differs, or another place
    of infinities and NaN, is infinitely far.

    Raises:
        PlanError: they differ in number, shape or kind.
    """
    if [_kind(t) for t in expected] != [_kind(t) for t in found]:
        shapes, needed = (", ".join(map(_kind, tensors)) or "none" for tensors in (found, expected))
        raise PlanError(
            f"slim: its outputs have shapes {shapes}, the original's are {needed}",
            where="the outputs of the slim model",
            found=shapes,
            needed=needed,
            do="pass the module that plan.apply(model) returned",
        )
    pairs = [_apart(a.detach(), b.detach()) for a, b in zip(expected, found, strict=True) if a.numel()]
    return Difference(max((p[0] for p in pairs), default=0.0), max((p[1] for p in pairs), default=0.0), len(pairs))


def _kind(tensor: Tensor) -> str:
    kind = "" if is_float(tensor) else "bool" if tensor.dtype == torch.bool else "integer"
    return f"{kind}{list(tensor.shape)}"


def _apart(expected: Tensor, found: Tensor) -> tuple[float, float]:
    """The relative and the absolute difference of two tensors of one shape."""
    if not is_float(expected):
        return (0.0, 0.0) if torch.equal(expected, found.to(expected.dtype)) else (inf, inf)
    rounding = _rounding(expected.dtype, found.dtype)
    wide = torch.complex128 if expected.is_complex() else torch.float64
    expected, found = expected.to(wide), found.to(wide)
    finite = expected.isfinite()
    if not torch.equal(finite, found.isfinite()):
        return inf, inf
    if not torch.allclose(expected[~finite], found[~finite], equal_nan=True):
        return inf, inf
    if not finite.any():
        return 0.0, 0.0
    largest = max(float(expected[finite].abs().max()), 1e-300)
    absolute = max(float((expected - found)[finite].abs().max()) - rounding * largest, 0.0)
    return absolute / largest, absolute


def _rounding(*types: torch.dtype) -> float:
    """The relative rounding of the narrowest type: a tensor that has its own (``torch.FloatTensor``) is no float64."""
    widths = [torch.finfo(kind).eps for kind in types]
    return max(widths) if max(widths) > torch.finfo(torch.float64).eps else 0.0
