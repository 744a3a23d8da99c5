"""Names of a state dict without what wrappers put before or into them: DataParallel, torch.compile, training loops."""

from __future__ import annotations

from collections.abc import Set

from torch import Tensor

_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch.compile, FSDP and activation checkpointing put before the names of the module that they wrap."""

_BESIDE = frozenset(("n_averaged",))
"""What ``torch.optim.swa_utils.AveragedModel`` keeps beside its module."""


def unwrapped(state: dict[str, Tensor], own: Set[str]) -> tuple[dict[str, Tensor], str]:
    """A state dict under the names of the model, as far as wrappers account for the difference.

    Wrappers of torch go from anywhere within names that the model does not have. Then a prefix goes that stands before
    all names of the model; names without it stay as they are, and are too many.

    Args:
        state: tensors by name.
        own: the names that the model has.

    Returns:
        The state dict, and what was left out of its names; empty: nothing.
    """
    found = {_without_wrappers(name, own): value for name, value in state.items()}
    if len(found) < len(state):  # two names would be one
        return state, ""
    left_out = [wrapper for wrapper in _WRAPPERS if any(wrapper in name for name in state.keys() - found.keys())]
    prefix = _prefix(found.keys(), own)
    if prefix:
        kept = {name: value for name, value in found.items() if name not in _BESIDE}
        found = {name.removeprefix(prefix): value for name, value in kept.items()}
        left_out.append(prefix)
    return found, ", ".join(map(repr, left_out))


def _without_wrappers(name: str, own: Set[str]) -> str:
    for wrapper in _WRAPPERS if name not in own else ():
        name = "".join(name.split(wrapper))
    return name


def _prefix(names: Set[str], own: Set[str]) -> str:
    """The one prefix with which the names of the model are those of the state dict; empty: there is none, or several.

    If none has all names, it is the one that all of the state dict begin with, as long as the model's do not.
    """
    if not own or not names or not own - names:
        return ""
    last = max(own, key=len)
    fitting = {name.removesuffix(last) for name in names if name.endswith(f".{last}")}
    whole = [prefix for prefix in fitting if all(prefix + name in names for name in own)]
    if len(whole) == 1:
        return whole[0]
    return "" if whole or own & names else _common(names - _BESIDE, own)


def _common(names: Set[str], own: Set[str]) -> str:
    """The whole parts of names that all begin with, and no name of the model."""
    prefix, first = "", min(names, default="")
    while first:
        part = first.removeprefix(prefix).partition(".")[0]
        longer = f"{prefix}{part}."
        if not all(name.startswith(longer) for name in names) or any(name.startswith(longer) for name in own):
            break
        prefix = longer
    return prefix
