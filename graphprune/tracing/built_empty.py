"""What a class builds from a configuration: parameters without memory, and buffers with their values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from graphprune.errors import LoadError
from graphprune.tracing.configured import uninitialized
from graphprune.utils.global_state import changing_globals
from graphprune.utils.modules import parameter_as, tables
from graphprune.utils.random_state import random_numbers_kept


def build_empty(kind: Any, config: Any, dtype: torch.dtype, most: int | None = None) -> nn.Module:
    """What a class builds, in evaluation mode: parameters are on ``meta``, buffers on the CPU have their values.

    Raises:
        LoadError: there are more than ``most`` parameters.
    """
    made = count()

    def to_meta(_module: nn.Module, _name: str, parameter: Any) -> nn.Parameter | None:
        if most is not None and next(made) > most:
            raise LoadError(
                f"source: the configuration asks {kind.__name__} for more than {most} parameters",
                found=f"more than {most} parameters",
                needed="as many as there are tensors in the files",
                do="get config.json again",
            )
        return _to_meta(parameter)

    with changing_globals(), random_numbers_kept(), uninitialized(), _default_dtype(dtype), torch.no_grad():
        handle = register_module_parameter_registration_hook(to_meta)  # type: ignore[arg-type]
        try:
            with torch.device("cpu"):
                model: Any = kind(config)
            if hasattr(model, "tie_weights"):
                model.tie_weights()
        finally:
            handle.remove()
    for name, parameter in tables(model).parameters.items():
        if _is_kept_in_float32(model, name, dtype):
            parameter.data = parameter.data.float()
    found: nn.Module = model.eval()
    return found


def _to_meta(parameter: Any) -> nn.Parameter | None:
    """A parameter without memory in the place of one that is given to a module."""
    if parameter is None or parameter.is_meta:
        return None
    return parameter_as(parameter, parameter.detach().to("meta"))


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _is_kept_in_float32(model: Any, name: str, dtype: torch.dtype) -> bool:
    """Does Transformers load a parameter in float32, whatever the type of the model is?"""
    if dtype not in (torch.float16, torch.bfloat16):
        return False
    patterns = [*(getattr(model, "_keep_in_fp32_modules_strict", None) or ())]
    patterns += (getattr(model, "_keep_in_fp32_modules", None) or ()) if dtype == torch.float16 else ()
    return any(re.search(rf"(^|\.){'.*'.join(map(re.escape, one.split('*')))}(\.|$)", name) for one in patterns)
