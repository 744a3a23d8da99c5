"""Which attention is torch's own, so that a module that computes the same can stand in its place."""

from __future__ import annotations

from torch import nn

from graphprune.tracing.size_places import is_integer
from graphprune.utils.compiled import uncompiled

_OF_CLASSES = frozenset(
    {
        *vars(type("_Bare", (), {})),
        *vars(type("_Annotated", (), {"__annotations__": {}, "__slots__": ()})),
        "__annotate__",
        "__annotate_func__",
        "__annotations_cache__",
        "__firstlineno__",
        "__init__",
        "__orig_bases__",
        "__parameters__",
        "__static_attributes__",
    }
)
"""What Python puts in the namespace of a class, and how its instances are built."""


def is_torchs_attention(module: nn.MultiheadAttention) -> bool:
    """Is it as torch makes it?

    It is not if a subclass adds anything, ``forward`` is wrapped, a weight is worked out before each call, or the
    number of heads is no plain integer: that would be lost with another module in its place, and is read as the code
    that it is.
    """
    if "forward" in vars(module):
        return False
    own_class = all(_adds_nothing(kind) for kind in _below(type(module)))
    return own_class and is_integer(module.num_heads) and _has_its_weights(module)


def _below(kind: type) -> tuple[type, ...]:
    """The classes of a module before torch's own."""
    return kind.__mro__[: kind.__mro__.index(nn.MultiheadAttention)]


def _adds_nothing(kind: type) -> bool:
    return vars(kind).keys() <= _OF_CLASSES


def _has_its_weights(module: nn.MultiheadAttention) -> bool:
    """Are the weights what the module holds, rather than what a hook or parametrization makes of that?"""
    names = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias")
    return all(name in module._parameters for name in names) and "weight" in uncompiled(module.out_proj)._parameters
