"""Modes of torch within which tensors are not what they seem, so that nothing can be read from a model."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from graphprune.errors import InputError

_REPLACED = {
    "FakeTensorMode": "leave FakeTensorMode first; a model without memory for its weights is made under "
    "torch.device('meta') and can be planned with weights= or importance='random'",
    "ProxyTorchDispatchMode": "prune the model first, then trace the slim one with make_fx",
    "FunctionalTensorMode": "prune the model first, then functionalize the slim one",
}
"""Modes of torch's compiler that put tensors of their own in the place of real ones, and what to do instead."""


def check_torch_modes() -> None:
    """Raise an InputError where torch itself is tracing or transforming what runs now."""
    found = _transformation()
    if found is not None:
        what, do = found
        raise InputError(
            f"graphprune: was called within {what}, where tensors are not what they seem",
            found=what,
            needed="to be called where operations compute what they return",
            do=do,
        )


def _transformation() -> tuple[str, str] | None:
    """What torch makes of operations now, if not their results, and what to do instead."""
    interpreter = torch._C._functorch.peek_interpreter_stack()
    if interpreter is not None:
        name = interpreter.key().name.lower()
        return f"torch.func.{name}", f"prune the model first, and use torch.func.{name} on the slim one"
    if torch.jit.is_tracing():
        return "torch.jit.trace", "prune the model first, then trace the slim one"
    for mode in _get_current_dispatch_mode_stack():
        if type(mode).__module__.startswith("torch.") and type(mode).__name__ in _REPLACED:
            return type(mode).__name__, _REPLACED[type(mode).__name__]
    return None
