"""Whose memory a tensor looks at: the parameter or buffer, and which of its entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphprune.modules import named_tensors


@dataclass(frozen=True)
class View:
    """A tensor that is a view of the parameter or buffer ``name``.

    Attributes:
        size, stride: as a tensor has them.
        offset: where its first entry lies, counted in entries from the first one of the parameter.
    """

    name: str
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0

    @property
    def span(self) -> int:
        """One more than the last place that the view looks at."""
        return self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True)) + 1

    def places(self) -> Tensor:
        """Where each entry lies, counted from the first one of the parameter. LongTensor of the view's size."""
        return torch.arange(self.span).as_strided(self.size, self.stride, self.offset)


def address(tensor: Tensor) -> int:
    """Where a tensor's storage begins; the same for all views of it. 0 if it has none."""
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0


def flat(tensor: Tensor) -> Tensor:
    """The memory that a parameter's entries lie in, as one dimension that can be written to."""
    whole = View("", tuple(tensor.shape), tensor.stride())
    return tensor.detach().as_strided((whole.span,), (1,), tensor.storage_offset())


class Memory:
    """Finds the parameter or buffer of a model that a tensor is a view of."""

    def __init__(self, model: nn.Module) -> None:
        self.tensors = {name: t for name, t in named_tensors(model) if t.numel()}
        self._at: dict[int, list[tuple[View, Tensor]]] = {}
        for name, tensor in self.tensors.items():
            if place := address(tensor):
                view = View(name, tuple(tensor.shape), tensor.stride())
                self._at.setdefault(place, []).append((view, tensor))

    def find(self, tensor: Tensor) -> View | None:
        """The parameter or buffer that a tensor is a view of, and which part of it."""
        for whole, owner in self._at.get(address(tensor), ()):
            offset = int(tensor.storage_offset() - owner.storage_offset())
            view = View(whole.name, tuple(tensor.shape), tensor.stride(), offset)
            if tensor.dtype == owner.dtype and tensor.numel() and offset >= 0 and view.span <= whole.span:
                return view
        return None

    def owner(self, tensor: Tensor) -> str | None:
        """The name of a parameter or buffer in whose memory a tensor lies, however it looks at it."""
        found = self.find(tensor)
        if found is not None:
            return found.name
        return next((whole.name for whole, _ in self._at.get(address(tensor), ())), None)

    def whole(self, name: str) -> View:
        """The view that is all of a parameter."""
        tensor = self.tensors[name]
        return View(name, tuple(tensor.shape), tensor.stride())


def numbers(slim: View, dense: View, kept: Sequence[tuple[int, Tensor]]) -> Tensor:
    """For every place in the memory of a slim parameter, the place of the same entry in that of the dense one.

    Args:
        slim, dense: the whole parameters.
        kept: pairs of a dimension and the entries of it that the slim parameter has.
    """
    entries = dense.places()
    for dim, index in kept:
        entries = entries.index_select(dim, index)
    found = torch.full((slim.span,), -1)
    found[slim.places().flatten()] = entries.flatten()
    return found
