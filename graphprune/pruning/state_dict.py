"""Cut a dense model's state dict as a plan cuts the model: averaged weights, checkpoints, adapters."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.nn.modules.module import _EXTRA_STATE_KEY_SUFFIX

from graphprune.errors import InputError
from graphprune.pruning.rewrite import Kept, Merged, slim_tensor
from graphprune.utils.checks import check_type, did_you_mean, shown
from graphprune.utils.modules import within

Renaming = Callable[[str], str]


def cut_state_dict(
    state: Mapping[str, Any],
    kept: Kept,
    shapes: Mapping[str, tuple[int, ...]],
    skipped: tuple[str, ...],
    prefix: str,
    rename: Renaming,
    merged: Merged,
    tied: Mapping[str, str],
) -> OrderedDict[str, Any]:
    """The entries of a state dict under their own names, cut; those of blocks that are left out are not there.

    Entries without the prefix are not the model's, and are handed on as they are; so is what modules add to their
    tensors (``get_extra_state``), of which the plan knows nothing.

    Args:
        state: tensors by name. Tied ones may be one tensor under names that are not in ``tied``.
        kept: by the name of a tensor, what survives of it.
        shapes: of all tensors of the model, before.
        skipped: blocks that are left out.
        prefix: what the names of the model's entries begin with.
        rename: the name in the model for the rest of such a name.
        merged: by the name of a tensor, what is merged into the entries that survive.
        tied: the other names of tensors in ``shapes``, with the first one of each.

    Raises:
        InputError: an entry is no tensor, is called like nothing in the model, or has another shape, or none has the
            prefix.
    """
    names = _names_in_model(state, prefix, rename)
    firsts = {entry: tied.get(own, own) for entry, own in names.items()}
    known = {_identity(state[entry]): first for entry, first in firsts.items() if first in shapes}
    found: OrderedDict[str, Any] = OrderedDict()
    for entry, tensor in state.items():
        if entry not in names:
            found[entry] = tensor
            continue
        if within(names[entry], skipped):
            continue
        first = firsts[entry]
        name = first if first in shapes else known.get(_identity(tensor), first)
        if name not in shapes and name.rpartition(".")[2] == _EXTRA_STATE_KEY_SUFFIX:
            found[entry] = tensor
            continue
        _check_entry(entry, tensor, name, shapes)
        found[entry] = slim_tensor(tensor, kept.get(name, {}), merged.get(name))
    if hasattr(state, "_metadata"):  # versions of modules, by which load_state_dict knows old formats
        found._metadata = state._metadata  # type: ignore[attr-defined]
    return found


def _names_in_model(state: Mapping[str, Any], prefix: str, rename: Renaming) -> dict[str, str]:
    """By the names in a state dict that have the prefix, those in the model."""
    check_type("state", state, Mapping, "a dictionary of tensors by name")
    for entry in state:
        check_type("state", entry, str, "a dictionary with names that are strings")
    names = {entry: rename(entry.removeprefix(prefix)) for entry in state if entry.startswith(prefix)}
    for own in names.values():
        check_type("rename", own, str, "a function (name) -> name, which returns a string")
    if state and not names:
        raise InputError(
            f"prefix: no name in state begins with {prefix!r}",
            found=f"{len(state)} names, such as {next(iter(state))!r}",
            needed="what the names of the model's entries begin with",
            do="leave out prefix= if the names are those in the model, or pass what stands before them",
        )
    return names


def _identity(tensor: Any) -> tuple[Any, ...]:
    """What tied tensors have in common. ``state_dict`` makes a new object of each."""
    if not isinstance(tensor, Tensor) or not tensor.numel() or tensor.is_meta:
        return ("object", id(tensor))
    return (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())


def _check_entry(entry: str, tensor: Any, name: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise an InputError unless the plan knows a tensor of this name and shape."""
    if name not in shapes:
        also = "" if name == entry else f" ({name!r} in the model)"
        raise InputError(
            f"state: the plan knows nothing called {entry!r}{also}{did_you_mean(name, shapes)}",
            where=entry,
            found=f"the name {entry!r}",
            needed=f"one of the {len(shapes)} names in plan.shapes",
            do="give prefix= or rename= for names that differ, and leave out what is no part of the model",
        )
    if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shapes[name]:
        found = list(tensor.shape) if isinstance(tensor, Tensor) else shown(tensor)
        raise InputError(
            f"state: {entry!r} is {found}, and the plan was made for {list(shapes[name])}",
            where=entry,
            found=f"shape {found}" if isinstance(tensor, Tensor) else str(found),
            needed=f"shape {list(shapes[name])}",
            do="pass the state dict of the model before pruning, once",
        )
