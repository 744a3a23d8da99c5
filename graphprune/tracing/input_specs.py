"""Example inputs as JSON data: the structure, and dtype and shape of each tensor, without values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from graphprune.errors import InputError
from graphprune.tracing.inputs import MethodCall
from graphprune.utils.float_types import is_float_type

_LONGEST_TEXT = 200


def input_specs(calls: Iterable[MethodCall]) -> tuple[dict[str, Any], ...]:
    """What each call is given.

    A tensor is ``{"dtype": "float32", "shape": [1, 3, 8]}``, a tuple ``{"tuple": [...]}``, a dict ``{"dict": {...}}``;
    lists, numbers, strings, truth values and None are themselves, and of anything else ``{"class": name}`` is known.

    >>> import torch
    >>> input_specs([MethodCall("forward", torch.zeros(1, 8), scale=2)])[0]["args"]
    [{'dtype': 'float32', 'shape': [1, 8]}]
    """
    return tuple(
        {"method": c.method, "args": [_spec(a) for a in c.args], "kwargs": {k: _spec(v) for k, v in c.kwargs.items()}}
        for c in calls
    )


def _spec(value: Any, levels: int = 4) -> Any:
    if isinstance(value, Tensor):
        return {"dtype": str(value.dtype).removeprefix("torch."), "shape": [int(n) for n in value.shape]}
    if value is None or type(value) in (bool, int) or (type(value) is float and math.isfinite(value)):
        return value
    if type(value) is str and len(value) <= _LONGEST_TEXT:
        return value
    if levels and isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _spec(item, levels - 1) for key, item in value.items()}}
    if levels and type(value) is list:
        return [_spec(item, levels - 1) for item in value]
    if levels and type(value) is tuple:
        return {"tuple": [_spec(item, levels - 1) for item in value]}
    return {"class": f"{type(value).__module__}.{type(value).__qualname__}"}


def inputs_of_spec(spec: Mapping[str, Any]) -> MethodCall:
    """A call of the kind that was described: noise for floating-point tensors, zeros for integers.

    Raises:
        InputError: it takes something that is no data.

    >>> inputs_of_spec({"method": "forward", "args": [{"dtype": "int64", "shape": [1, 2]}], "kwargs": {}}).args
    (tensor([[0, 0]]),)
    """
    generator = torch.Generator().manual_seed(0)
    args = [_value(argument, generator) for argument in spec["args"]]
    kwargs = {name: _value(argument, generator) for name, argument in spec["kwargs"].items()}
    return MethodCall(spec["method"], *args, **kwargs)


def _value(spec: Any, generator: torch.Generator) -> Any:
    if isinstance(spec, list):
        return [_value(item, generator) for item in spec]
    if not isinstance(spec, Mapping):
        return spec
    if "dtype" in spec:
        dtype = getattr(torch, spec["dtype"])
        if is_float_type(dtype):
            return torch.randn(spec["shape"], generator=generator, device="cpu").to(dtype)
        return torch.zeros(spec["shape"], dtype=dtype, device="cpu")
    if "tuple" in spec:
        return tuple(_value(item, generator) for item in spec["tuple"])
    if "dict" in spec:
        return {name: _value(item, generator) for name, item in spec["dict"].items()}
    raise InputError(
        f"example_inputs: the model was traced with a {spec['class']}, which is no data",
        found=f"a {spec['class']} among the inputs that were recorded",
        needed="tensors, numbers, strings, and tuples, lists and dicts of them",
        do="pass example_inputs= yourself",
    )
