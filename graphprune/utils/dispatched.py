"""Models that Accelerate spread over devices, CPU memory and disk: the same model with its weights where they lie.

``device_map=`` of Transformers and ``accelerate.dispatch_model`` put a hook around the ``forward`` of every module.
Where weights are offloaded, the module's own tensors are on ``meta``, and the hook sets the values before the call and
takes them away after it. So neither the values nor the tensors that are used can be found in the model.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphprune.errors import InputError
from graphprune.utils.deepcopy import copy_module
from graphprune.utils.modules import Modules, copied_as, named_modules, tables


def resident(model: nn.Module, inplace: bool = False, modules: Modules | None = None) -> nn.Module:
    """A model without the hooks that move its weights: a copy that shares their values.

    Offloaded weights are those in CPU memory, or the files on disk mapped to memory, so none is loaded before it is
    read. Where weights lie on several devices, every module with weights moves its inputs to them, and its result back.

    Args:
        inplace: the model itself is to be changed, which is possible if no weights are offloaded.
        modules: its modules by path; None: they are looked up.

    Returns:
        The model itself if Accelerate did not dispatch it, or has put other hooks beside those that move weights.

    Raises:
        InputError: with ``inplace``, weights are offloaded.
    """
    if "accelerate.hooks" not in sys.modules:
        return model
    modules = named_modules(model) if modules is None else modules
    hooks = {path: vars(module)["_hf_hook"] for path, module in modules if "_hf_hook" in vars(module)}
    if inplace and any(part.offload for hook in hooks.values() for part in _parts(hook) if _moves_weights(part)):
        raise InputError(
            "model: its weights are offloaded by Accelerate, whose hooks would set the old ones again",
            where=", ".join(list(hooks)[:3]),
            found="weights that Accelerate keeps elsewhere",
            needed="weights in memory, or inplace=False",
            do="leave out inplace=True, and the slim model has its weights in memory",
        )
    if inplace or not hooks or not all(map(_moves_weights, hooks.values())):
        return model
    memo: dict[int, Any] = {id(tensor): tensor for tensor in tables(model).everything().values()}
    memo.update(_offloaded(modules, hooks))
    memo.update((id(value), None) for _, module in modules for value in _added(module).values())
    copied = copy_module(model, memo)
    for (_, old), (_, new) in zip(modules, named_modules(copied), strict=True):
        _remove_hooks(old, new)
    if callable(tie := getattr(copied, "tie_weights", None)):
        tie()  # disk_offload has written tied weights to a file for each name
    _align(copied)
    return copied


def _moves_weights(hook: Any) -> bool:
    from accelerate.hooks import AlignDevicesHook, SequentialHook

    if isinstance(hook, SequentialHook):
        return all(map(_moves_weights, hook.hooks))
    return type(hook) is AlignDevicesHook


# ---------------------------------------------------------------- values of offloaded weights


def _offloaded(modules: Modules, hooks: Mapping[str, Any]) -> Iterator[tuple[int, Tensor]]:
    """The values of tensors on ``meta``, by their identity."""
    for path, module in modules:
        for hook in _parts(hooks[path]) if path in hooks else ():
            if hook.offload:
                for name, tensor in _own_tensors(module, hook.place_submodules):
                    if tensor.is_meta:
                        yield id(tensor), copied_as(tensor, _value(hook.weights_map, name).detach())


def _parts(hook: Any) -> Iterator[Any]:
    for part in getattr(hook, "hooks", (hook,)):
        yield from _parts(part) if hasattr(part, "hooks") else (part,)


def _own_tensors(module: nn.Module, recurse: bool) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=recurse, remove_duplicate=False)
    yield from module.named_buffers(recurse=recurse, remove_duplicate=False)


def _value(weights: Any, name: str) -> Tensor:
    """A weight in CPU memory, or mapped to it from its file."""
    from accelerate.utils import OffloadedWeightsLoader, PrefixedDataset

    while isinstance(weights, PrefixedDataset):
        weights, name = weights.dataset, weights.prefix + name
    if isinstance(weights, OffloadedWeightsLoader) and name not in weights.state_dict:
        entry = weights.index[name]
        if entry.get("safetensors_file") is not None:
            return _in_safetensors(entry, name)
        return _mapped(Path(weights.save_folder) / f"{name}.dat", entry)
    found: Tensor = weights[name]
    return found.cpu()


def _in_safetensors(entry: Mapping[str, Any], name: str) -> Tensor:
    from safetensors import safe_open

    with safe_open(entry["safetensors_file"], framework="pt", device="cpu") as file:
        tensor: Tensor = file.get_tensor(entry.get("weight_name", name))
    return tensor.to(getattr(torch, entry["dtype"])) if "dtype" in entry else tensor


def _mapped(path: Path, entry: Mapping[str, Any]) -> Tensor:
    """A tensor on a file of raw values; what is written to it stays in memory."""
    dtype: torch.dtype = getattr(torch, entry["dtype"])
    values = torch.from_numpy(np.memmap(path, dtype=np.uint8, mode="c"))
    return values.view(dtype).view(entry["shape"])


# ---------------------------------------------------------------- hooks


def _added(module: nn.Module) -> dict[str, Any]:
    """The attributes that Accelerate gave a module, except its own ``forward``."""
    from accelerate.hooks import _accelerate_added_attributes

    names = ("_hf_hook", "hf_device_map", *_accelerate_added_attributes)
    names = ("forward", *names) if "_old_forward" in vars(module) else names
    return {name: vars(module)[name] for name in names if name in vars(module)}


def _remove_hooks(old: nn.Module, new: nn.Module) -> None:
    for name in _added(old):
        vars(new).pop(name, None)
    forward = vars(new).pop("_old_forward", None)
    if forward is not None and getattr(forward, "__func__", None) is not type(new).forward:
        new.forward = forward


def _align(model: nn.Module) -> None:
    """Let every module with tensors of its own move its inputs to their device, if there are several."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    devices = {module: next((t.device for _, t in _own_tensors(module, False)), None) for module in model.modules()}
    if len({device for device in devices.values() if device is not None}) > 1:
        for module, device in devices.items():
            if device is not None:
                add_hook_to_module(module, AlignDevicesHook(device, io_same_device=True))
