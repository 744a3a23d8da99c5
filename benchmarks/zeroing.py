"""Zero channels as people make them: by ``torch.nn.utils.prune``, by batch norms, by masks, by small numbers.

Everything else of a model is given values that no initialization leaves, so that constants matter.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

import graphprune
from graphprune.graph.parameter_uses import consumed_axes, scale_axes
from graphprune.rules.labels import ParameterAxis

SHARE = 0.3
"""The part of the channels of a layer that becomes zero."""
TINY, THRESHOLD = 1e-14, 1e-12
"""What a regularizer leaves of a channel, and the threshold under which it counts as zero."""


@dataclass
class Zeroed:
    """What was made zero in a model.

    Attributes:
        masks: given to ``compact`` with the model, in which they are not zero.
        slices: by parameter and dimension, the entries that are zero now.
        ways: how often each recipe was used.
    """

    masks: dict[str, Tensor] = field(default_factory=dict)
    slices: dict[tuple[str, int], set[int]] = field(default_factory=dict)
    ways: dict[str, int] = field(default_factory=dict)


def zero_channels_at_random(model: nn.Module, seed: int) -> Zeroed:
    """Zero a share of the channels of three in four layers and norms, each in a way drawn at random, in place."""
    made, draw = Zeroed(), random.Random(seed)
    seen: set[int] = set()
    for path, module in list(model.named_modules()):
        if "parametrizations" in path or parametrize.is_parametrized(module):
            continue  # a norm of zeros gives no weight
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in seen or draw.random() < 0.25:
                continue
            seen.add(id(parameter))
            ways = _SCALES if _is_scale(module, name) else _MATRICES if _is_matrix(module, parameter) else ()
            if ways:
                way = draw.choice(ways)
                way(made, path, module, name, draw)
                made.ways[way.__name__[1:]] = made.ways.get(way.__name__[1:], 0) + 1
    return made


def _is_scale(module: nn.Module, name: str) -> bool:
    norms = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
    return isinstance(module, norms) and name == "weight" and module.weight.ndim == 1


def _is_matrix(module: nn.Module, parameter: Tensor) -> bool:
    return parameter.ndim > 1 and min(parameter.shape[:2]) > 1 and parameter.is_floating_point()


# ---------------------------------------------------------------- one layer


def _ln_structured(made: Zeroed, path: str, module: nn.Module, name: str, draw: random.Random) -> None:
    """Filters of small norm, by torch's own function; the bias keeps its values, or is masked as well."""
    prune.ln_structured(module, name, SHARE, n=draw.choice((1, 2)), dim=0)
    rows = _note_mask(made, path, module, name, 0)
    bias = name.replace("weight", "bias")
    if rows and draw.random() < 0.5 and isinstance(getattr(module, bias, None), nn.Parameter):
        mask = torch.ones_like(getattr(module, bias))
        if len(mask) == getattr(module, name).shape[0]:
            mask[sorted(rows)] = 0
            prune.custom_from_mask(module, bias, mask)


def _random_structured(made: Zeroed, path: str, module: nn.Module, name: str, draw: random.Random) -> None:
    """Input channels at random, by torch's own function, made permanent."""
    prune.random_structured(module, name, SHARE, dim=1)
    _note_mask(made, path, module, name, 1)
    prune.remove(module, name)


def _random_rows_twice(made: Zeroed, path: str, module: nn.Module, name: str, draw: random.Random) -> None:
    """Two masks, one upon the other."""
    prune.random_structured(module, name, SHARE / 2, dim=0)
    prune.ln_structured(module, name, SHARE / 2, n=2, dim=0)
    _note_mask(made, path, module, name, 0)


def _custom_mask(made: Zeroed, path: str, module: nn.Module, name: str, draw: random.Random) -> None:
    """Whole filters by their L1 norm, as a mask of one's own beside scattered zeros."""
    weight = getattr(module, name).detach()
    mask = (torch.rand(weight.shape, generator=torch.Generator().manual_seed(draw.randrange(1000))) > 0.2).to(weight)
    mask[weight.abs().flatten(1).sum(1).argsort()[: _count(weight.shape[0])]] = 0
    prune.custom_from_mask(module, name, mask)
    _note_mask(made, path, module, name, 0)


def _mask_dictionary(made: Zeroed, path: str, module: nn.Module, name: str, draw: random.Random) -> None:
    """A mask that is kept beside the model."""
    weight, rows = getattr(module, name), _drawn(getattr(module, name).shape[0], draw)
    mask = torch.ones(weight.shape)
    mask[rows] = 0
    made.masks[f"{path}.{name}" if path else name] = mask
    _note(made, path, name, 0, rows)


def _group_lasso(made: Zeroed, path: str, module: nn.Module, name: str, draw: random.Random) -> None:
    """Filters that a regularizer drove to almost nothing."""
    weight = getattr(module, name)
    rows = _drawn(weight.shape[0], draw)
    with torch.no_grad():
        weight[rows] *= TINY / max(float(weight.abs().max()), TINY)
    _note(made, path, name, 0, rows)


def _zero_scale(made: Zeroed, path: str, module: nn.Module, name: str, draw: random.Random) -> None:
    """Scales of a normalization at zero; the shifts stay."""
    rows = _drawn(len(module.weight), draw)
    with torch.no_grad():
        module.weight[rows] = 0
    _note(made, path, name, 0, rows)


_MATRICES: tuple[Callable[..., None], ...] = (
    _ln_structured,
    _random_structured,
    _random_rows_twice,
    _custom_mask,
    _mask_dictionary,
    _group_lasso,
)
_SCALES = (_zero_scale,)


def _count(size: int) -> int:
    return min(max(round(SHARE * size), 1), size - 1)


def _drawn(size: int, draw: random.Random) -> list[int]:
    return sorted(draw.sample(range(size), _count(size)))


def _note_mask(made: Zeroed, path: str, module: nn.Module, name: str, dim: int) -> list[int]:
    mask = getattr(module, f"{name}_mask")
    rows = (mask.transpose(0, dim).flatten(1) == 0).all(1).nonzero().flatten().tolist()
    _note(made, path, name, dim, rows)
    return rows


def _note(made: Zeroed, path: str, name: str, dim: int, rows: list[int]) -> None:
    made.slices.setdefault((f"{path}.{name}" if path else name, dim), set()).update(rows)


# ---------------------------------------------------------------- whole groups


def zero_units_at_random(made: Zeroed, graph: graphprune.ChannelGraph, seed: int) -> None:
    """Mask some units of two in five groups: in all weights that make them, or in all that read them."""
    draw, sides = random.Random(seed), Sides(graph)
    for group in graph.groups:
        if group.units < 3 or draw.random() > 0.4:
            continue
        units = group.unit_ids[draw.sample(range(group.units), max(group.units // 5, 1))]
        for axis in draw.choice((sides.making, sides.reading)):
            entries = sides.entries(axis, units)
            if len(entries):
                mask = made.masks.setdefault(axis.parameter, torch.ones(graph.trace.shapes[axis.parameter]))
                mask.transpose(0, axis.dim)[entries] = 0
                made.slices.setdefault((axis.parameter, axis.dim), set()).update(entries.tolist())
        made.ways["whole units"] = made.ways.get("whole units", 0) + 1


class Sides:
    """The axes of matrices that make channels, of those that read them, and of scales, and where units stand there."""

    def __init__(self, graph: graphprune.ChannelGraph) -> None:
        axes = [axis.parameter_axis for axis in graph.units.axes]
        read, shapes = consumed_axes(graph.labeling), graph.trace.shapes
        self.reading = [axis for axis in axes if axis in read]
        self.making = [axis for axis in axes if axis not in read and len(shapes[axis.parameter]) > 1]
        self.scaling = sorted(scale_axes(graph.labeling))
        self._number = {axis: number for number, axis in enumerate(axes)}
        self._where = graph.units.occurrences

    def entries(self, axis: ParameterAxis, units: np.ndarray) -> np.ndarray:
        """The entries of an axis that need one of these units."""
        here = (self._where.axis == self._number[axis]) & np.isin(self._where.unit, units)
        return np.unique(self._where.index[here])

    def pairs(self, axis: ParameterAxis) -> tuple[np.ndarray, np.ndarray]:
        """The units on an axis, and the entries that need them."""
        here = self._where.axis == self._number[axis]
        return self._where.unit[here], self._where.index[here]


# ---------------------------------------------------------------- what the zeros mean


def masked_copy_of(model: nn.Module, made: Zeroed) -> nn.Module:
    """What ``compact`` has to equal: the model with its hooks, and the dictionary's masks multiplied in."""
    masked = copy.deepcopy(model)
    for name, mask in made.masks.items():
        path, _, last = name.rpartition(".")
        module = masked.get_submodule(path)
        originals = [f"{last}_orig"] if hasattr(module, f"{last}_orig") else []
        with torch.no_grad():  # the product, too: attention reads the weight of its projection without calling hooks
            for each in (last, *originals):
                getattr(module, each).mul_(mask)
    return masked


def left_over(model: nn.Module) -> dict[str, Tensor]:
    """By plain names, the tensors of a model as its hooks mask them."""
    found = {}
    for path, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        masks = dict(module.named_buffers(recurse=False))
        for name, tensor in own.items():
            plain = name.removesuffix("_orig")
            mask = masks.get(f"{plain}_mask")
            found[f"{path}.{plain}" if path else plain] = tensor.detach() * (1 if mask is None else mask)
    return found


def _rows(tensor: Tensor, dim: int) -> Tensor:
    return tensor.transpose(0, dim).reshape(tensor.shape[dim], -1)


def zero_units(graph: graphprune.ChannelGraph, model: nn.Module) -> np.ndarray:
    """The units of which nothing is left in any weight that makes them, or reads them, or in any scale, sorted.

    Args:
        graph: of the model before anything was zeroed.
        model: the masked model.
    """
    left, sides = left_over(model), Sides(graph)
    found = np.zeros(0, np.int64)
    for side in (sides.making, sides.reading, sides.scaling):
        gone, alive = [found[:0]], [found[:0]]
        for axis in side:
            unit, entry = sides.pairs(axis)
            some = _rows(left[axis.parameter], axis.dim) if axis.parameter in left else None
            zero = np.zeros(len(entry), bool) if some is None else ~(some.abs() > THRESHOLD).any(1).numpy()[entry]
            gone.append(unit[zero])
            alive.append(unit[~zero])
        found = np.union1d(found, np.setdiff1d(np.concatenate(gone), np.concatenate(alive)))
    return found
