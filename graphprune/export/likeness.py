"""Are two models alike in what a bundle does not write down: the objects, functions and tables that modules hold?"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from graphprune.export.structure import function_name, is_setting, own_attributes
from graphprune.utils.modules import named_modules

_NOTES = frozenset(
    (
        "pretrained_cfg",
        "pretrained_model_args",
        "_model_args",
        "default_cfg",
        "name_or_path",
        "transformers_version",
        "model_type",
        "architectures",
        "dtype",
        "torch_dtype",
    )
)
"""What libraries note of where a model and its weights are from, and of their type. It changes nothing that it does."""

_DEEPEST = 12


def first_difference(made: nn.Module, model: nn.Module) -> str | None:
    """The path of an attribute in which a model differs from one that was made to be it; None: they are alike.

    Plain attributes are not looked at, and private attributes of objects neither.
    """
    own = dict(named_modules(made))
    for path, module in named_modules(model):
        attributes = dict(own_attributes(own[path])) if path in own else {}
        for name, value in own_attributes(module):
            if name in _NOTES or is_setting(value):
                continue
            if name in attributes and not _alike(attributes[name], value, _DEEPEST):
                return f"{path}.{name}" if path else name
    return None


def _alike(a: Any, b: Any, levels: int) -> bool:
    if a is b or not levels:
        return True
    if isinstance(a, nn.Module) or isinstance(b, nn.Module):
        return isinstance(a, nn.Module) and isinstance(b, nn.Module)
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):  # JSON has no tuples
        return len(a) == len(b) and all(_alike(x, y, levels - 1) for x, y in zip(a, b, strict=True))
    if type(a).__qualname__ != type(b).__qualname__:
        return a is None or b is None  # what is worked out later
    if isinstance(a, Mapping):
        keys = a.keys() - _NOTES
        return keys == b.keys() - _NOTES and all(_alike(a[k], b[k], levels - 1) for k in keys)
    if isinstance(a, functools.partial):
        return _alike((a.func, a.args, a.keywords), (b.func, b.args, b.keywords), levels - 1)
    if is_setting(a):
        return bool(a == b) or a != a
    if function_name(a) is not None:
        return function_name(a) == function_name(b)
    return _alike(_public(a), _public(b), levels - 1)


def _public(value: Any) -> dict[str, Any]:
    return {name: item for name, item in getattr(value, "__dict__", {}).items() if not name.startswith("_")}
