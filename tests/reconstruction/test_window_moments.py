"""Moments of overlapping windows: those of the unfolded input, for all geometries of convolutions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphprune.reconstruction import window_moments as module
from graphprune.reconstruction.linear_calls import LinearCall, ParameterMemory, linear_call
from graphprune.reconstruction.regression import BatchMoments
from graphprune.reconstruction.window_moments import window_moments

aten = torch.ops.aten
CASES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((3, 4, 9, 8), (6, 4, 3, 3), {"padding": [1, 1]}),
    ((3, 4, 9, 8), (6, 4, 3, 3), {}),
    ((3, 4, 13, 6), (6, 4, 7, 2), {"stride": [2, 1], "padding": [3, 1]}),
    ((3, 4, 6, 13), (6, 4, 2, 7), {"stride": [2, 3], "dilation": [2, 1]}),
    ((3, 6, 12, 5), (9, 2, 5, 3), {"groups": 3, "padding": [2, 0]}),
    ((3, 6, 12), (6, 1, 5), {"groups": 6, "stride": [2]}),
    ((2, 3, 40), (5, 3, 16), {"padding": [4], "stride": [4]}),
    ((2, 3, 5, 6, 9), (4, 3, 2, 3, 4), {"padding": [1, 0, 2]}),
]


def called(shape: tuple[int, ...], kernel: tuple[int, ...], options: dict[str, Any], dtype: torch.dtype) -> LinearCall:
    layer = nn.Module()
    layer.register_parameter("weight", nn.Parameter(torch.randn(kernel, dtype=dtype)))
    dims = len(kernel) - 2
    given = {"stride": [1] * dims, "padding": [0] * dims, "dilation": [1] * dims, "groups": 1, **options}
    args = (torch.randn(shape, dtype=dtype) + 1, layer.weight, None, given["stride"], given["padding"])
    args += (given["dilation"], False, [0] * dims, given["groups"])
    memory = ParameterMemory(layer)
    found = linear_call(aten.convolution.default, args, {}, memory, memory.parameters)
    assert found is not None
    return found


def unfolded(call: LinearCall, residual: Tensor) -> BatchMoments:
    ((_, x),) = call.inputs()
    return BatchMoments.of(x, residual)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_moments_are_those_of_the_unfolded_input(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH", 100.0)
    call = called(*case, torch.float64)
    residual = torch.randn_like(call.result(call.again()).contiguous()) + 0.5
    found, wanted = window_moments(call, residual), unfolded(call, residual)
    assert found is not None and found.count == wanted.count
    for name in ("x", "r", "xx", "rx", "rr"):
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name), rtol=1e-10, atol=1e-10, msg=name)


def test_single_precision_is_as_good_as_unfolded() -> None:
    call = called((4, 3, 600), (8, 3, 64), {}, torch.float32)
    residual = torch.randn_like(call.result(call.again()).contiguous())
    found, wanted = window_moments(call, residual), unfolded(call, residual)
    assert found is not None
    ((_, x),) = call.inputs()
    exact = BatchMoments.of(x.double(), residual.double())
    error, usual = ((one.xx - exact.xx).norm() / exact.xx.norm() for one in (found, wanted))
    assert error < 4 * usual + 1e-7


def test_short_kernels_are_unfolded() -> None:
    """Along few outputs every pair of taps is at an edge."""
    call = called((2, 3, 4, 4), (4, 3, 3, 3), {"padding": [1, 1]}, torch.float32)
    assert window_moments(call, call.result(call.again())) is None
    pointwise = called((2, 3, 4, 4), (4, 3, 1, 1), {}, torch.float32)
    assert window_moments(pointwise, pointwise.result(pointwise.again())) is None


def test_spare_memory_is_written_to() -> None:
    call = called((2, 3, 40), (5, 3, 16), {}, torch.float32)
    residual = torch.randn_like(call.result(call.again()).contiguous())
    spare = torch.full((1, 48, 48), torch.nan, dtype=torch.float64)
    found, wanted = window_moments(call, residual, spare), window_moments(call, residual)
    assert found is not None and wanted is not None and found.xx.data_ptr() == spare.data_ptr()
    assert torch.equal(found.xx, wanted.xx)
