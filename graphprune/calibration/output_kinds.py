"""What the numbers of a model's output are: probabilities or scores of classes, other probabilities, or values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from graphprune.calibration.communicator import ALONE, Communicator

CLASSES, SCORES, YES_OR_NO, VALUES = "probabilities of classes", "scores of classes", "yes or no", "values"

SUM_ROUNDING = 1e-3
"""How far sums of probabilities are from 1, at most."""
DECISIVE = 0.7
"""Scores of classes, made probabilities, have on average less than this share of the entropy of their mean."""
EVENER = 0.05
"""Means are clearly evener if their entropy, as a share of the greatest one, is more by this."""
COPIED = 2**22
"""So many entries of a tensor at most are looked at together."""


@dataclass(frozen=True)
class OutputKind:
    """What one tensor of an output has.

    Attributes:
        name: one of :data:`CLASSES` (not negative, with the sum 1), :data:`SCORES` (whose softmax are such),
            :data:`YES_OR_NO` (in [0, 1], each a probability by itself), :data:`VALUES` (all else).
        dim: the dimension of the classes, or of channels.
    """

    name: str = VALUES
    dim: int = -1

    @property
    def of_classes(self) -> bool:
        """Are there classes that exclude each other?"""
        return self.name in (CLASSES, SCORES)

    def rows(self, tensor: Tensor) -> Tensor:
        """The entries in float64: [rows, classes or channels]; without dimensions, or with one, [entries, 1]."""
        if tensor.ndim < 2:
            return tensor.double().reshape(-1, 1)
        return _rows(tensor, self.dim)

    def log_probabilities(self, tensor: Tensor) -> Tensor:
        """The logarithms of the probabilities of classes, in float64: [rows, classes]."""
        rows = self.rows(tensor)
        return rows.log_softmax(-1) if self.name == SCORES else rows.clamp_min(torch.finfo(torch.float64).tiny).log()


def pieces(tensor: Tensor) -> Sequence[Tensor]:
    """A tensor in parts of its first dimension, small enough for copies in float64."""
    if tensor.numel() <= COPIED or not tensor.ndim:
        return (tensor,)
    parts: Sequence[Tensor] = tensor.split(max(COPIED * len(tensor) // tensor.numel(), 1))
    return parts


def _rows(tensor: Tensor, dim: int) -> Tensor:
    return tensor.double().movedim(dim, -1).reshape(-1, tensor.shape[dim])


def kinds_of(batches: Iterable[Sequence[Tensor]], communicator: Communicator = ALONE) -> tuple[OutputKind, ...]:
    """What each tensor of a model's output is, by all of its outputs: it does not depend on how samples are batched.

    Numbers that are not negative and have the sum 1 along the last dimension or the second one are probabilities of
    classes, and others in [0, 1] probabilities by themselves. Nothing tells scores of classes from values for certain.
    They are taken for scores if their softmax says much: if on average its entropy is less than
    :data:`DECISIVE` of that of the mean probabilities, as with networks that were trained to tell classes apart.
    Classes are then the last dimension of tensors with two or three, and the second one of images; or the other one,
    if this is not decisive, or clearly evener on average, as positions are where classes are not.

    Args:
        batches: by batch and place in the output, tensors of the dense model.
        communicator: the processes that share the batches.
    """
    own: list[_Evidence] = []
    with torch.no_grad():
        for tensors in batches:
            own += [_Evidence() for _ in range(len(own), len(tensors))]
            for evidence, tensor in zip(own, tensors, strict=False):
                for piece in pieces(tensor):
                    evidence.add(piece)
    shares = communicator.gather(own)
    places = max(map(len, shares))
    return tuple(_kind([share[place] for share in shares if place < len(share)]) for place in range(places))


@dataclass
class _Softmax:
    """Sums over rows of the softmax along a dimension; rows that are masked altogether have none.

    Attributes:
        entropy: of each row's probabilities, in nats.
        total: the probabilities. [classes]
        count: the number of rows.
    """

    entropy: float
    total: Tensor
    count: int

    @staticmethod
    def of(rows: Tensor) -> _Softmax:
        probabilities = rows.softmax(-1)
        probabilities = probabilities[~probabilities.isnan().any(-1)]
        return _Softmax(float(torch.special.entr(probabilities).sum()), probabilities.sum(0).cpu(), len(probabilities))

    def plus(self, other: _Softmax) -> _Softmax:
        return _Softmax(self.entropy + other.entropy, self.total + other.total, self.count + other.count)

    @property
    def decisive(self) -> bool:
        """Do rows say much that their mean does not say?"""
        return self.count > 0 and self.entropy / self.count < DECISIVE * self._entropy_of_mean

    @property
    def evenness(self) -> float:
        """The entropy of the mean as a share of the greatest one."""
        return self._entropy_of_mean / math.log(len(self.total))

    @property
    def _entropy_of_mean(self) -> float:
        return float(torch.special.entr(self.total / self.count).sum())


@dataclass
class _Evidence:
    """What was seen of one tensor of an output in all batches of a process.

    Attributes:
        floating: does it have floating-point numbers?
        unit: are all of them in [0, 1]?
        classes: dimensions along which all were not negative and had the sum 1.
        softmax: by dimension, of all batches; a dimension that had several sizes has none.
        images: does it have four dimensions or more?
    """

    floating: bool = True
    unit: bool = True
    classes: set[int] = field(default_factory=lambda: {-1, 1})
    softmax: dict[int, _Softmax | None] = field(default_factory=dict)
    images: bool = False

    def add(self, tensor: Tensor) -> None:
        """Note a batch."""
        self.floating &= tensor.is_floating_point()
        self.unit &= bool(((tensor >= 0) & (tensor <= 1)).all())
        self.images |= tensor.ndim >= 4
        dims = [d for d in (-1, 1) if tensor.ndim >= 2 and tensor.shape[d] > 1]
        self.classes &= {d for d in dims if self.unit and _sums_to_one(_rows(tensor, d))}
        for dim in (-1, 1):
            self._add_softmax(dim, _Softmax.of(_rows(tensor, dim)) if dim in dims and self.floating else None)

    def _add_softmax(self, dim: int, new: _Softmax | None) -> None:
        self.softmax[dim] = _joined(self.softmax[dim], new) if dim in self.softmax else new

    def plus(self, other: _Evidence) -> _Evidence:
        """What two processes have seen."""
        both = _Evidence(
            self.floating and other.floating,
            self.unit and other.unit,
            self.classes & other.classes,
            dict(self.softmax),
            self.images or other.images,
        )
        for dim in (-1, 1):
            both._add_softmax(dim, other.softmax.get(dim))
        return both


def _joined(first: _Softmax | None, second: _Softmax | None) -> _Softmax | None:
    """Both, if they are of as many classes."""
    if first is None or second is None or first.total.shape != second.total.shape:
        return None
    return first.plus(second)


def _sums_to_one(rows: Tensor) -> bool:
    return bool(((rows.sum(-1) - 1).abs() < SUM_ROUNDING).all())


def _kind(seen: Sequence[_Evidence]) -> OutputKind:
    """What the evidence of all processes says."""
    evidence = seen[0]
    for other in seen[1:]:
        evidence = evidence.plus(other)
    if not evidence.floating:
        return OutputKind()
    if evidence.classes:
        return OutputKind(CLASSES, -1 if -1 in evidence.classes else 1)
    if evidence.unit:
        return OutputKind(YES_OR_NO)
    return _scores(evidence)


def _scores(evidence: _Evidence) -> OutputKind:
    """Scores of classes along the likelier dimension, if there is one."""
    usual, other = (1, -1) if evidence.images else (-1, 1)
    known = ((dim, evidence.softmax.get(dim)) for dim in (usual, other))
    evenness = {dim: softmax.evenness for dim, softmax in known if softmax is not None and softmax.decisive}
    if not evenness:
        return OutputKind()
    evenness[usual] = evenness.get(usual, math.inf) - EVENER
    return OutputKind(SCORES, min(evenness, key=evenness.__getitem__))
