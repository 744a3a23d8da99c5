"""Torch-Pruning, called as its documentation and its examples for transformers call it.

Fang, Ma, Song, Mi and Wang, "DepGraph: Towards Any Structural Pruning", CVPR 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.libraries.case import Case, Method
from models import gpt, vit

LIBRARY = "Torch-Pruning"
SCOPES: dict[str, dict[str, bool]] = {
    "local": {},
    "global": {"global_pruning": True},
    "isomorphic": {"global_pruning": True, "isomorphic": True},
}


def methods() -> list[Method]:
    """Its criteria for groups, ranked within layers, over all layers, and among isomorphic ones."""
    found = [(f"{criterion} {scope}", criterion, scope) for criterion in ("magnitude", "taylor") for scope in SCOPES]
    found += [(f"hessian {scope}", "hessian", scope) for scope in ("global", "isomorphic")]
    found += [("lamp global", "lamp", "global"), ("bn scale global", "bn scale", "global")]
    found += [("fpgm local", "fpgm", "local")]
    return [Method(LIBRARY, name, partial(_prune, criterion=c, scope=scope)) for name, c, scope in found]


def _prune(case: Case, criterion: str, scope: str) -> nn.Module:
    """With heads, if that works: its global ranking may leave a layer without any. Then heads are kept."""
    try:
        return case.largest(lambda ratio: _at(ratio, case, criterion, scope, ratio), f"{criterion} {scope}")
    except RuntimeError:
        if not _heads(case.dense):
            raise
        return case.largest(lambda ratio: _at(ratio, case, criterion, scope, 0.0), f"{criterion} {scope}, all heads")


def _at(ratio: float, case: Case, criterion: str, scope: str, head_ratio: float) -> nn.Module:
    import torch_pruning as tp

    model = case.copy_with(_gradients(case, criterion))
    heads = _heads(model)
    with mock.patch.object(gpt, "rotate", _rotate_by_slices):
        pruner = tp.pruner.BasePruner(
            model,
            case.example,
            importance=_importance(criterion),
            pruning_ratio=ratio,
            ignored_layers=_outputs(model),
            num_heads=heads,
            prune_num_heads=bool(heads),
            prune_head_dims=not heads,
            head_pruning_ratio=head_ratio if heads else 0.0,
            **SCOPES[scope],
        )
    pruner.step()
    _adjust(model, pruner.num_heads)
    model.zero_grad()
    return model


def _importance(criterion: str) -> Any:
    from torch_pruning import importance

    known: dict[str, Callable[[], Any]] = {
        "magnitude": partial(importance.GroupMagnitudeImportance, p=2),
        "taylor": importance.GroupTaylorImportance,
        "hessian": importance.GroupHessianImportance,
        "lamp": importance.LAMPImportance,
        "bn scale": importance.BNScaleImportance,
        "fpgm": importance.FPGMImportance,
    }
    return known[criterion]()


def _gradients(case: Case, criterion: str) -> Any:
    """What the criterion expects in ``.grad``.

    The Hessian's own accumulation compares names with parameters, and so keeps only the last sample: here all count.
    """
    return {"taylor": lambda: case.gradients, "hessian": lambda: case.squared_gradients}.get(criterion, lambda: None)()


def _rotate_by_slices(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The GPT's ``rotate`` with slices instead of a chunk, on which the library's tracing would end."""
    half = x.shape[-1] // 2
    x1, x2 = x[..., :half], x[..., half:]
    return x * cos + torch.cat((-x2, x1), dim=-1) * sin


def _outputs(model: nn.Module) -> list[nn.Module]:
    return [[module for module in model.modules() if isinstance(module, nn.Linear)][-1]]


def _heads(model: nn.Module) -> dict[nn.Module, int]:
    """Which layers make heads: the library has to be told."""
    found: dict[nn.Module, int] = {}
    for module in model.modules():
        if isinstance(module, vit.Attention):
            found[module.qkv] = module.num_heads
        if isinstance(module, gpt.Attention):
            found[module.q_proj] = module.num_heads
            found |= dict.fromkeys((module.k_proj, module.v_proj), module.num_kv_heads)
    return found


def _adjust(model: nn.Module, heads: dict[nn.Module, int]) -> None:
    """The library changes layers; numbers that modules of one's own keep are one's own to change."""
    for module in model.modules():
        if isinstance(module, vit.Attention):
            module.num_heads = heads[module.qkv]
            module.head_dim = module.qkv.out_features // (3 * module.num_heads)
        if isinstance(module, gpt.Attention):
            module.num_heads, module.num_kv_heads = heads[module.q_proj], heads[module.k_proj]
            module.groups = module.num_heads // module.num_kv_heads
            module.head_dim = module.q_proj.out_features // module.num_heads
