"""Masks of ``nn.MultiheadAttention.out_proj``, whose forward, and with it torch's hook, is never run.

The attention reads ``out_proj.weight`` itself. Without the hook, that would stay what it was when the mask was put,
whatever training or a state dict changes.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils import prune

from graphprune.utils.modules import named_modules


class ProjectionMasks:
    """Applies the masks of an attention's output projection before each call of the attention."""

    def __call__(self, module: nn.MultiheadAttention, inputs: Any) -> None:
        """A hook as ``register_forward_pre_hook`` takes it."""
        for hook in module.out_proj._forward_pre_hooks.values():
            if isinstance(hook, prune.BasePruningMethod):
                hook(module.out_proj, inputs)


def hook_attention(model: nn.Module) -> None:
    """Make every attention whose output projection is masked apply these masks."""
    for _, module in named_modules(model):
        if isinstance(module, nn.MultiheadAttention) and prune.is_pruned(module.out_proj):
            release_attention(module)
            module.register_forward_pre_hook(ProjectionMasks())


def release_attention(module: nn.Module) -> None:
    """Take back what :func:`hook_attention` put on a module, if it did."""
    hooks = module._forward_pre_hooks
    for key in [key for key, hook in hooks.items() if isinstance(hook, ProjectionMasks)]:
        del hooks[key]
