"""Tensors that a model gained after a plan was made, beside channels that are gone: what uses them may not fit."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from math import isqrt

from torch import nn
from torch.nn.modules.conv import _ConvNd

from graphprune.errors import UnreachedWarning
from graphprune.pruning.fits import ShapesByName
from graphprune.pruning.rewrite import Kept
from graphprune.utils.callers import frames_of_this_package
from graphprune.utils.modules import Tables, within

NAMED = 4
"""How many parameters a warning names."""


def warn_of_added_tensors(own: Tables, shapes: ShapesByName, kept: Kept, skipped: Sequence[str]) -> None:
    """Warn of parameters and saved buffers that a plan does not know and that have the size of what it removes.

    Args:
        own: the tensors of the model to which it is applied.
        shapes: of those that the plan knows.
        kept: the entries that survive of those that it cuts.
        skipped: the paths of what is left out whole.
    """
    added = [name for name, _ in own.unique() if name not in shapes]  # without calls of Python's: none, as a rule
    shrunk = shrunk_sizes(shapes, kept) if added else set()
    found = [name for name in added if not within(name, skipped) and _may_not_fit(own, name, shrunk)]
    if found:
        warnings.warn(
            f"{listed_names(found)}: the plan was made before the model had this, and it has the size of channels of "
            "which some are removed, so it may not fit them any more. Trace the model as it is now and make the plan "
            "again, or add this to the slim model instead; if the slim model runs with it, ignore this warning",
            UnreachedWarning,
            stacklevel=frames_of_this_package(),
        )


def _may_not_fit(own: Tables, name: str, shrunk: set[int]) -> bool:
    """Has a parameter or saved buffer such a size? The others ``forward`` makes anew."""
    tensor = own.parameters.get(name, own.buffers.get(name))
    if tensor is None or not tensor.is_floating_point():
        return False
    path, _, attribute = name.rpartition(".")
    module = dict(own.modules)[path]
    return attribute not in module._non_persistent_buffers_set and fits_channels(tensor.shape, type(module), shrunk)


def listed_names(names: Sequence[str]) -> str:
    """The first names, and how many others there are."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def shrunk_sizes(shapes: ShapesByName, kept: Kept) -> set[int]:
    """The sizes of dimensions of which something is gone."""
    sizes = [(shapes[name][dim], len(index)) for name, dims in kept.items() for dim, index in dims.items()]
    return {size for size, left in sizes if left < size}


def fits_channels(shape: Sequence[int], kind: type[nn.Module], shrunk: Iterable[int]) -> bool:
    """Is a size of a tensor one of these numbers of channels, or that times a square, as of a flattened map?

    One without entries, a placeholder, does not count.

    Args:
        shape: of the tensor.
        kind: the class of the module that it is of: the sizes of kernels do not count.
        shrunk: numbers of channels.
    """
    sizes = shape[: 2 if issubclass(kind, _ConvNd) else None] if 0 not in shape else ()
    return any(size % n == 0 and isqrt(size // n) ** 2 == size // n for n in shrunk if n > 1 for size in sizes)
