"""The arguments by which a module of torch is built: found from its attributes, and proved by building it on meta."""

from __future__ import annotations

import inspect
import itertools
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.utils.operators import FunctionMode

_OF_EVERY_MODULE = frozenset(vars(nn.Module())) | {
    "_flat_weights",  # the list that recurrent layers keep of their weights
    "_flat_weight_refs",
    "_is_full_backward_hook",
    "_graphprune_plans",
}

_PASSED_ON = {nn.RNN: inspect.Parameter("nonlinearity", inspect.Parameter.KEYWORD_ONLY, default="tanh")}
"""What a constructor takes out of its keyword arguments before it passes them on."""

_FILL = ("uniform_", "normal_", "fill_", "zero_")
"""Methods that give a tensor its first values."""

_NOT_GIVEN = ("device", "dtype")

_MOST_UNKNOWN = 4
"""So many parameters that are no attributes are tried with both truth values."""


def is_torch_class(kind: type) -> bool:
    """Is this a class of torch's own?"""
    return kind.__module__.partition(".")[0] == "torch"


def torch_base(kind: type) -> type[nn.Module]:
    """The nearest class of torch that a module's class is or inherits from."""
    return next(k for k in kind.__mro__ if is_torch_class(k) and issubclass(k, nn.Module))


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """The plain attributes of a module, without those that every module has."""
    return {name: value for name, value in vars(module).items() if name not in _OF_EVERY_MODULE}


def constructor_parameters(kind: type) -> dict[str, inspect.Parameter]:
    """What a class takes; where it passes everything on (``nn.LSTM``), what its base takes."""
    for base in kind.__mro__:
        if "__init__" not in vars(base) or not issubclass(base, nn.Module):
            continue
        found = [*inspect.signature(vars(base)["__init__"]).parameters.values()][1:]
        variadic = any(p.kind is p.VAR_POSITIONAL for p in found)
        if variadic:
            continue
        skipped = _NOT_GIVEN if base is kind else (*_NOT_GIVEN, "mode")
        named = [p for p in found if p.kind is not p.VAR_KEYWORD and not p.name.startswith("_")]
        named += [_PASSED_ON[kind]] if kind in _PASSED_ON else []
        return {p.name: p for p in named if p.name not in skipped}
    return {}


def constructor_arguments(module: nn.Module, kind: type[nn.Module]) -> dict[str, Any] | None:
    """The arguments with which ``kind`` builds what ``module`` is, only those that it needs; None if there are none.

    Args:
        module: an instance of ``kind`` or of a class derived from it, which may have more than ``kind`` builds.
    """
    parameters = constructor_parameters(kind)
    for values in _candidates(module, parameters):
        lean = {n: v for n, v in values.items() if not _equal(v, parameters[n].default)}
        for chosen in (lean, values):
            if _builds(kind, chosen, module):
                return _simplified(module, kind, parameters, chosen)
    return None


def _candidates(module: nn.Module, parameters: Mapping[str, inspect.Parameter]) -> Iterator[dict[str, Any]]:
    values, unknown = {}, []
    for name, parameter in parameters.items():
        if name in vars(module):
            values[name] = vars(module)[name]
        elif name in module._parameters:
            values[name] = module._parameters[name] is not None
        elif isinstance(parameter.default, bool):
            unknown.append(name)
        elif parameter.default is parameter.empty:
            return
    unknown = unknown[:_MOST_UNKNOWN]
    choices = [(parameters[name].default, not parameters[name].default) for name in unknown]
    for chosen in itertools.product(*choices):
        yield {**values, **dict(zip(unknown, chosen, strict=True))}


def _simplified(
    module: nn.Module, kind: type[nn.Module], parameters: Mapping[str, inspect.Parameter], values: dict[str, Any]
) -> dict[str, Any]:
    """Leave out what is the default, and write (3, 3) as 3, where the same module is built."""
    for name, parameter in parameters.items():
        if name not in values:
            continue
        shorter = {k: v for k, v in values.items() if k != name}
        if parameter.default is not parameter.empty and _builds(kind, shorter, module):
            values = shorter
            continue
        value = values[name]
        if isinstance(value, tuple) and len(set(map(repr, value))) == 1:
            scalar = {**values, name: value[0]}
            values = scalar if _builds(kind, scalar, module) else values
        elif isinstance(value, float) and value.is_integer() and parameter.annotation in ("int", int):
            values = {**values, name: int(value)}
    return values


def _builds(kind: type[nn.Module], values: dict[str, Any], module: nn.Module) -> bool:
    try:
        built = built_with(kind, values)
    except Exception:  # whatever a constructor says to arguments that are not its own
        return False
    return is_like(built, module, exactly=type(module) is kind)


def built_with(kind: type[nn.Module], values: dict[str, Any]) -> nn.Module:
    """A module whose tensors are shapes."""
    with warnings.catch_warnings(), torch.device("meta"), _NothingInitialized():
        warnings.simplefilter("ignore")
        return kind(**values)


class _NothingInitialized(FunctionMode):
    """Skips the functions of ``nn.init``, whose first use on meta takes torch seconds."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__module__", "") == "torch.nn.init" or getattr(function, "__name__", "") in _FILL:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def is_like(built: nn.Module, module: nn.Module, exactly: bool) -> bool:
    """Has ``module`` what ``built`` has: tensors of the same shapes, equal attributes, equal submodules?

    ``exactly``: and no more tensors and submodules than that.
    """
    tables = ((built._parameters, module._parameters), (built._buffers, module._buffers))
    if not all(_same_shapes(a, b, exactly) for a, b in tables):
        return False
    if not built._non_persistent_buffers_set <= module._non_persistent_buffers_set:
        return False
    if not _same_keys(built._modules, module._modules, exactly):
        return False
    for name, child in built._modules.items():
        other = module._modules[name]
        if type(child) is not type(other) or (child is not None and not is_like(child, other, True)):  # type: ignore[arg-type]
            return False
    attributes = plain_attributes(module)
    return all(name in attributes and _equal(v, attributes[name]) for name, v in plain_attributes(built).items())


def _same_keys(built: Mapping[str, Any], found: Mapping[str, Any], exactly: bool) -> bool:
    return built.keys() == found.keys() if exactly else built.keys() <= found.keys()


def _same_shapes(built: Mapping[str, Tensor | None], found: Mapping[str, Tensor | None], exactly: bool) -> bool:
    return _same_keys(built, found, exactly) and all(_shape(t) == _shape(found[name]) for name, t in built.items())


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape
    return a is b or (type(a) is type(b) and bool(a == b))
