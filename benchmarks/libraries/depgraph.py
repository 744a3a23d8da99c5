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
MOST_HEADS = (1.0, 0.5, 0.0)
"""How many may be pruned."""


def methods() -> list[Method]:
    """Its criteria for groups, ranked within layers, over all layers, and among isomorphic ones."""
    criteria = ("magnitude", "taylor", "hessian")
    found = [(f"{criterion} {scope}", criterion, scope) for criterion in criteria for scope in SCOPES]
    found += [("lamp global", "lamp", "global"), ("bn scale global", "bn scale", "global")]
    found += [("fpgm local", "fpgm", "local")]
    return [Method(LIBRARY, name, partial(_prune, criterion=c, scope=scope)) for name, c, scope in found]


def _prune(case: Case, criterion: str, scope: str) -> nn.Module:
    """All heads may go, at most half of them, or none: whatever works and has the least loss on the samples.

    It may leave a layer without heads, or with queries that its keys cannot be shared among; and steps of whole heads
    may be too coarse for the budget.
    """
    found: list[nn.Module] = []
    failure = None
    for most in MOST_HEADS if _heads(case.dense) else (1.0,):
        at = partial(_at, case=case, criterion=criterion, scope=scope, most_heads=most)
        try:
            found.append(case.largest(at, f"{criterion} {scope}, {most:.0%} of the heads"))
        except RuntimeError as error:
            failure = failure or error
    if failure is not None and not found:
        raise failure
    return min(found, key=case.loss)


def _at(ratio: float, case: Case, criterion: str, scope: str, most_heads: float) -> nn.Module:
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
            head_pruning_ratio=min(ratio, most_heads) if heads else 0.0,
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
