"""Check that an argument is a model whose own modules can be seen, or that saved tensors fit, and say what to do."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from graphprune.errors import InputError, LoadError
from graphprune.utils.checks import found_value, with_article
from graphprune.utils.modules import Modules, check_once, named_modules

_HOLDS_A_MODEL = {
    ("torch.nn.parallel", "DistributedDataParallel"),
    ("torch.nn.parallel", "DataParallel"),
    ("torch.distributed", "FullyShardedDataParallel"),
}
"""Wrappers that keep the model in their attribute ``module``: where they are defined, and their names."""
_AVERAGES = ("torch.optim.swa_utils", "AveragedModel")
"""What holds averages of a model in its attribute ``module``; within a model it is a module like others."""


def check_same_tensors(
    what: str, own: Mapping[str, Tensor], saved: Mapping[str, Tensor], source: str, advice: str
) -> None:
    """Raise a LoadError unless saved tensors have the names, shapes and types of those they are loaded into.

    Args:
        what: what holds the tensors ``own``, for the message: ``"model: this ResNet"``.
        source: what holds those that were saved: ``"file"``.
        advice: what to do.
    """
    odd = sorted(own.keys() ^ saved.keys())
    if odd:
        where = "has" if odd[0] in own else "lacks"
        raise LoadError(
            f"{what} {where} {odd[0]!r}, unlike the {source} ({len(odd)} such names)",
            where=odd[0],
            found=f"{len(own)} parameters and buffers in {what.partition(': ')[2]}, {len(saved)} in the {source}",
            needed="the same names on both sides",
            do=advice,
        )
    for name, tensor in own.items():
        found, needed = (tuple(tensor.shape), tensor.dtype), (tuple(saved[name].shape), saved[name].dtype)
        if found != needed:
            raise LoadError(
                f"{what} has {name} of {found}, but the {source} has {needed}",
                where=name,
                found=f"shape and type {found}",
                needed=f"shape and type {needed}, as the {source} has",
                do=advice,
            )


def check_model(model: Any, name: str = "model") -> Modules:
    """Raise an InputError unless ``model`` is a module that is neither wrapped nor sharded, to the last submodule.

    Args:
        model: what a caller passed.
        name: the argument, for the message.

    Returns:
        Its modules by path.
    """
    if isinstance(model, type):
        raise InputError(
            f"{name}: must be a torch.nn.Module, but is the class {model.__name__}",
            found=f"the class {model.__module__}.{model.__qualname__}",
            needed="a module, with its weights",
            do=f"pass an instance: {model.__name__}(...)",
        )
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{name}: must be a torch.nn.Module, but is {_found(model)}",
            found=found_value(model),
            needed="a torch.nn.Module",
            do=_module_instead(model),
        )
    if "_modules" not in vars(model):
        raise _without_tables(model, name)
    modules = named_modules(model)
    check_once(model, "modules", lambda: _check_modules(modules, name))
    return modules


def _check_modules(modules: Modules, name: str) -> None:
    """Raise an InputError if a module has no shapes yet, or is a wrapper, or sharded."""
    for path, module in modules:
        lazy, wrapper = _lazy_tensor(module), _defined_as(type(module))  # type: ignore[arg-type]  # hash by identity
        if lazy is None and (not wrapper or (path and _AVERAGES in wrapper)):
            continue
        where = f"{name}.{path}" if path else name
        if lazy is not None:
            raise InputError(
                f"{where}: is {with_article(type(module).__name__)} whose {lazy} has no shape yet",
                where=where,
                found=f"{lazy}, an uninitialized parameter",
                needed="parameters with shapes",
                do="run the model once on an input before it is pruned, model(example)",
            )
        if wrapper & {*_HOLDS_A_MODEL, _AVERAGES}:
            raise _around_a_model(where, path, wrapper)
        if ("torch.distributed", "FSDPModule") in wrapper:
            raise InputError(
                f"{where}: is sharded by fully_shard, and its parameters are spread over processes",
                where=where,
                found=f"{with_article(type(module).__name__)} of torch.distributed",
                needed="parameters that are whole in this process",
                do="prune the model before fully_shard, then shard the slim one",
            )
    _check_whole(modules, name)


def _around_a_model(where: str, path: str, wrapper: frozenset[tuple[str, str]]) -> InputError:
    """What a user is told of a wrapper around a model."""
    _, kind = min(wrapper & {*_HOLDS_A_MODEL, _AVERAGES})
    return InputError(
        f"{where}: is {with_article(kind)} around a model, not the model itself",
        where=where,
        found=f"{with_article(kind)}, which holds the model in its attribute module",
        needed="the model that is averaged, or its averages"
        if _AVERAGES in wrapper
        else "the model itself, since the wrapper keeps lists of its parameters",
        do=_instead(where, kind, path),
    )


def _without_tables(model: nn.Module, name: str) -> InputError:
    """What a user is told of a module without the tables of torch.nn.Module."""
    kind = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        return InputError(
            f"{name}: is {with_article(kind)}, a model that torch.jit.trace compiled",
            found=f"{with_article(kind)}, of which Python sees no modules",
            needed="a model whose forward is Python",
            do="prune the model that was traced, then trace the slim one",
        )
    return InputError(
        f"{name}: is {with_article(kind)} that is no module yet",
        found=f"{with_article(kind)} without the tables of torch.nn.Module",
        needed="a module whose __init__ called that of torch.nn.Module",
        do=f"call super().__init__() in {kind}.__init__, before anything else",
    )


def _check_whole(modules: Modules, name: str) -> None:
    """Raise an InputError if a parameter is spread over processes (a DTensor, of tensor parallelism)."""
    sharded = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    if sharded is None:
        return
    for path, module in modules:
        for own, tensor in module._parameters.items():
            if isinstance(tensor, sharded):
                raise InputError(
                    f"{name}.{path}{path and '.'}{own}: is a DTensor, of which every process has a part (tensor "
                    "parallelism)",
                    where=f"{path}{path and '.'}{own}",
                    found="a DTensor",
                    needed="parameters that are whole in this process",
                    do="prune the model before parallelize_module, or load it without tp_plan=, and spread the slim "
                    "one",
                )


def _lazy_tensor(module: nn.Module) -> str | None:
    """The name of a tensor of a lazy module that has not seen an input yet."""
    for named in (module._parameters, module._buffers):
        for name, tensor in named.items():
            if tensor is not None and is_lazy(tensor):
                return name
    return None


def _found(value: Any) -> str:
    kind = type(value).__name__
    if isinstance(value, dict):
        return f"{with_article(kind)}, such as a state dict"
    if value is None:
        return "None"
    return f"the str {value[:60]!r}" if isinstance(value, str) else with_article(kind)


def _module_instead(value: Any) -> str:
    """What to do with something that is no module."""
    if isinstance(value, dict):
        return "build the model, then model.load_state_dict(...), and pass the model"
    if isinstance(value, str):
        return "load the model first, as with torchvision.models.resnet50(), and pass it"
    if type(value).__module__.startswith("torch.export"):
        return "pass the model that was exported, then export the slim one"
    return "pass the model, an instance of a class of torch.nn.Module"


@lru_cache(maxsize=1024)
def _defined_as(kind: type[nn.Module]) -> frozenset[tuple[str, str]]:
    """A class and its bases by the packages that define them, of which torch names wrappers differently."""
    packages = ("torch.nn.parallel", "torch.optim.swa_utils", "torch.distributed")
    return frozenset(
        (package, base.__name__)
        for base in kind.__mro__
        for package in packages
        if base.__module__ == package or base.__module__.startswith(f"{package}.")
    )


def _instead(where: str, kind: str, path: str) -> str:
    if kind == "FullyShardedDataParallel":
        return "prune the model before it is sharded, then shard the slim one"
    again = "" if kind == "AveragedModel" else f", and wrap the slim model in {kind} again"
    return f"put {where}.module in its place{again}" if path else f"pass {where}.module{again}"
