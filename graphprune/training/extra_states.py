"""What modules hand to ``state_dict`` beside parameters and buffers: ``get_extra_state``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from graphprune.errors import LoadError


def extra_states(model: nn.Module) -> dict[str, Any]:
    """The extra state of each module whose class has one, by the module's path."""
    return {path: module.get_extra_state() for path, module in _with_extra_state(model).items()}


def check_extra_states(model: nn.Module, saved: Mapping[str, Any], version: Path) -> None:
    """Raise a LoadError unless the modules with an extra state are those of a checkpoint."""
    own = _with_extra_state(model)
    if own.keys() == saved.keys():
        return
    where = next(iter(own.keys() ^ saved.keys())) or "the model"
    raise LoadError(
        f"model: {where} has an extra state (get_extra_state) {'here' if own.keys() - saved.keys() else 'there'} alone",
        where=str(version),
        found=f"modules with an extra state: {_paths(own)}",
        needed=f"those of the checkpoint: {_paths(saved)}",
        do="pass a model of the classes that were saved, or another directory",
    )


def set_extra_states(model: nn.Module, saved: Mapping[str, Any]) -> None:
    """Give each module the extra state that it had."""
    for path, module in _with_extra_state(model).items():
        module.set_extra_state(saved[path])


def _with_extra_state(model: nn.Module) -> dict[str, nn.Module]:
    none = nn.Module.get_extra_state
    return {path: module for path, module in model.named_modules() if type(module).get_extra_state is not none}


def _paths(found: Mapping[str, Any]) -> str:
    return ", ".join(path or "the model" for path in found) or "none"
