"""When two tensors have the same values."""

from __future__ import annotations

import torch
from torch import Tensor

from graphprune.utils.float_types import is_float_type


def same_values(one: Tensor, other: Tensor) -> bool:
    """Have tensors of one device and type the same shape and entries? NaN is the same as NaN."""
    if torch.strided not in (one.layout, other.layout):
        return one.shape == other.shape and all(map(same_values, _stored_parts(one), _stored_parts(other)))
    if torch.equal(one, other):
        return True
    has_nan = is_float_type(one.dtype)
    return has_nan and one.shape == other.shape and bool(same_entries(one, other).all())


def _stored_parts(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """The places of the entries that a sparse tensor stores, in order, and these."""
    stored = tensor.detach().to_sparse_coo().coalesce()
    return stored.indices(), stored.values()


def same_entries(one: Tensor, other: Tensor) -> Tensor:
    """Which entries of tensors of one shape are the same? NaN is the same as NaN."""
    if one.is_complex():
        return same_entries(one.real, other.real) & same_entries(one.imag, other.imag)
    return (one == other) | (one.isnan() & other.isnan())
