"""Paths of submodules as code: ``layers.0.conv`` is ``.layers[0].conv``."""

from __future__ import annotations

import keyword

from torch import Tensor, nn


def inner_path(owner: str, path: str) -> str | None:
    """How code of the module at ``owner`` reaches what stands at ``path``; None if it is no part of it."""
    if owner == path:
        return ""
    prefix = f"{owner}." if owner else ""
    return _steps(path[len(prefix) :]) if path.startswith(prefix) else None


def _steps(path: str) -> str:
    return "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in path.split("."))


def access(model: nn.Module, path: str) -> str:
    """How code reaches a submodule of ``model``: attributes, indexes, keys."""
    text, module = "", model
    for part in filter(None, path.split(".")):
        if isinstance(module, nn.Sequential | nn.ModuleList) and part.isdigit():
            text += f"[{list(module._modules).index(part)}]"
        elif part.isidentifier() and not keyword.iskeyword(part):
            text += f".{part}"
        else:
            text += f'.get_submodule("{part}")'
        module = module._modules[part]  # type: ignore[assignment]
    return text


def all_paths(model: nn.Module) -> tuple[dict[int, str], list[tuple[str, str]]]:
    """By identity the first path of every module and tensor, and pairs of paths at which the same one stands again."""
    first: dict[int, str] = {}
    again: list[tuple[str, str]] = []
    _walk(model, "", first, again)
    return first, again


def _walk(module: nn.Module, path: str, first: dict[int, str], again: list[tuple[str, str]]) -> None:
    if id(module) in first:
        again.append((first[id(module)], path))
        return
    first[id(module)] = path
    prefix = f"{path}." if path else ""
    plain = {k: v for k, v in vars(module).items() if isinstance(v, Tensor)}
    for name, tensor in (*module._parameters.items(), *module._buffers.items(), *plain.items()):
        if tensor is None:
            continue
        if id(tensor) in first:
            again.append((first[id(tensor)], prefix + name))
        else:
            first[id(tensor)] = prefix + name
    for name, child in module._modules.items():
        if child is not None:
            _walk(child, prefix + name, first, again)
