"""Folding: replace removed channels by linear combinations of similar kept channels, without data.

The parameters that produce the channels of a group determine their second moments, up to assumptions on the inputs.
Each removed channel is approximated by the best linear combination of kept ones, and the columns that read it are added
to theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from graphprune.errors import InputError
from graphprune.graph.analysis import analyze
from graphprune.graph.groups import Group
from graphprune.pruning.plan import Choice, Plan
from graphprune.pruning.rewrite import slim_tensor
from graphprune.reconstruction.layerwise import check_pair
from graphprune.reconstruction.records import LeftAlone, left_alone_table
from graphprune.reconstruction.similarity import ChannelSimilarity, ReadingWeight, SimilarityModel, entries_of, precise
from graphprune.utils.arrays import Ids
from graphprune.utils.checks import check_positive
from graphprune.utils.global_state import leaves_torch_alone
from graphprune.utils.modules import named_tensors
from graphprune.utils.tables import Printed, Table


@dataclass(frozen=True)
class Folded:
    """One group whose removed channels were folded.

    Attributes:
        group: its name.
        removed: how many channels were folded.
        explained: the fraction of their second moment, computed from parameters, that the kept channels reproduce.
        parameters: the weights that were changed.
    """

    group: str
    removed: int
    explained: float
    parameters: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Folding(Printed):
    """What :func:`fold` did.

    Attributes:
        folded: the groups that were folded.
        variances: running variances of batch normalizations that were corrected.
        left_alone: groups that were not folded, and why.
    """

    folded: tuple[Folded, ...]
    variances: tuple[str, ...]
    left_alone: tuple[LeftAlone, ...]

    def _summary(self) -> str:
        return f"Folding: {len(self.folded)} groups, {len(self.variances)} running variances corrected"

    def _parts(self) -> Iterator[str | Table]:
        yield self._summary()
        if self.folded:
            columns = ("group", "channels", "explained", "changed")
            rows = ((f.group, str(f.removed), f"{f.explained:.1%}", ", ".join(f.parameters)) for f in self.folded)
            yield Table("folded:", columns, tuple(rows), numbers=columns[1:3])
        yield from left_alone_table(self.left_alone)


@leaves_torch_alone
def fold(
    slim: nn.Module, dense: nn.Module, plan: Plan, example_inputs: object = None, *, ridge: float = 1e-2
) -> Folding:
    """Fold removed channels into kept ones of their group, in place on ``slim``, without data.

    The layers that produce a group's channels are assumed to have white inputs, so that the channels have the second
    moments ``K = A Aᵀ`` of their weights A, batch normalization included (see
    :mod:`graphprune.reconstruction.similarity`). A removed channel j is replaced by ``sum over kept i of B[j, i] *
    channel i`` with ``B = K[R, P] (K[P, P] + λI)^-1``, R being the removed and P the kept channels: the columns that
    read channel j, times B, are added to those that read the kept channels. This approximates pre-activations;
    nonlinearities are assumed to preserve linear combinations, which is exact for equal channels. Folding changes
    variances: the running variance of a batch normalization that follows is multiplied by the ratio of the predicted
    variances after and before.

    Sources: Srinivas and Babu, "Data-free Parameter Pruning for Deep Neural Networks", BMVC 2015 (equal channels); Kim,
    Kim, Park and Jeon, "Neuron Merging: Compensating for Pruned Neurons", NeurIPS 2020 (similar channels, batch
    normalization included), here with all kept channels instead of one, which gives better results; Jordan, Sedghi,
    Saukh, Entezari and Neyshabur, "REPAIR: REnormalizing Permuted Activations for Interpolation Repair", ICLR 2023
    (variances).

    Args:
        slim: what ``plan.apply(dense)`` returned.
        dense: the model that the plan was made for; unchanged.
        plan: what was removed.
        example_inputs: as for :func:`graphprune.trace`; None: found from the model.
        ridge: λ as a fraction of the mean of K's diagonal; 0 < ridge.

    Returns:
        What was folded, and which groups were not: those that are read by an operation without a weight of its own,
        such as attention or a normalization over channels.

    Raises:
        InputError: ``slim`` is not what the plan makes of ``dense``, there are no weights (``meta``), or ``ridge`` is
            not above 0.
        PlanError: the plan was not made for ``dense``.
    """
    ridge = check_positive("ridge", ridge, "a number above 0")
    slim, dense = _checked(slim, dense, plan)
    graph = analyze(dense, example_inputs)
    graph.alive(plan.removed)
    groups = {group.name: group for group in graph.groups}
    folder = _Folder(SimilarityModel(graph), plan, dict(named_tensors(slim)), ridge)
    with torch.no_grad():
        for choice in plan.choices:
            if choice.removed:
                folder.fold(groups[choice.group], choice)
        folder.write()
    return Folding(tuple(folder.folded), tuple(folder.variances), tuple(folder.left))


def _checked(slim: nn.Module, dense: nn.Module, plan: Plan) -> tuple[nn.Module, nn.Module]:
    """Both models as :func:`check_pair` returns them, of which the dense one has weights."""
    slim, dense = check_pair(slim, dense, plan)
    if any(t.is_meta for _, t in named_tensors(dense)):
        raise InputError(
            "dense: is on the meta device, and weights are read",
            found="parameters on meta, without values",
            needed="a model with weights",
            do="pass the model with its weights",
        )
    return slim, dense


class _Folder:
    """Computes new tensors group by group; :meth:`write` copies all of them into the slim model."""

    def __init__(self, similarity: SimilarityModel, plan: Plan, slim: Mapping[str, Tensor], ridge: float) -> None:
        self.similarity = similarity
        self.plan = plan
        self.slim = slim
        self.ridge = ridge
        self.folded: list[Folded] = []
        self.left: list[LeftAlone] = []
        self.variances: list[str] = []
        self._new: dict[str, Tensor] = {}

    def write(self) -> None:
        for name, tensor in self._new.items():
            self.slim[name].copy_(tensor)

    def fold(self, group: Group, choice: Choice) -> None:
        found = self.similarity.of_group(group)
        if isinstance(found, str):
            self.left.append(LeftAlone(group.name, found))
            return
        removed = np.array(choice.removed, np.int64)
        kept = np.setdiff1d(np.arange(group.units), removed)
        weights, explained = self._combinations(found.second, kept, removed)
        readers = [reader for reader in found.readers if reader.weight in self.slim]
        for reader in readers:
            self._add_columns(group, reader, kept, removed, weights)
            self._correct_variance(group, reader, kept, found)
        self.folded.append(Folded(group.name, len(removed), explained, tuple(r.weight for r in readers)))

    def _combinations(self, second: Tensor, kept: Ids, removed: Ids) -> tuple[Tensor, float]:
        """B [removed, kept], and the fraction of the removed channels' second moments that it reproduces."""
        mine, cross = second[kept][:, kept], second[kept][:, removed]
        penalty = self.ridge * second.diagonal().mean().clamp(min=torch.finfo(second.dtype).tiny)
        combined = torch.linalg.solve(mine + penalty * torch.eye(len(kept), dtype=second.dtype, device="cpu"), cross).mT
        lost = second.diagonal()[removed].sum()
        missing = lost - 2 * (combined * cross.mT).sum() + ((combined @ mine) * combined).sum()
        return combined, float(1 - missing / lost) if lost > 0 else 1.0

    def _add_columns(self, group: Group, reader: ReadingWeight, kept: Ids, removed: Ids, weights: Tensor) -> None:
        entries, columns = entries_of(self.similarity.units, group, reader.axis), self._dense_columns(reader)
        gone = columns[entries[removed]].flatten(1)
        new = self._columns(self._current(reader.weight), reader).clone()
        place = torch.from_numpy(self._places(reader)[entries[kept]])
        new[place.flatten()] += (weights.mT.to(gone.dtype) @ gone).reshape(place.numel(), -1)
        shape = self.slim[reader.weight].movedim(reader.dim, 0).shape
        self._new[reader.weight] = new.reshape(shape).movedim(0, reader.dim)

    def _places(self, reader: ReadingWeight) -> Ids:
        """The index in the slim weight of each dense index of the axis; -1 if removed."""
        order = self.plan.kept[reader.weight][reader.dim]
        place = np.full(self.plan.shapes[reader.weight][reader.dim], -1, np.int64)
        place[order] = np.arange(len(order))
        return place

    def _current(self, name: str) -> Tensor:
        return self._new[name] if name in self._new else precise(self.slim[name])

    def _dense_columns(self, reader: ReadingWeight) -> Tensor:
        """The dense weight's columns, with the kept outputs only. [dense entries, outputs]"""
        others = {d: index for d, index in self.plan.kept[reader.weight].items() if d != reader.dim}
        return self._columns(slim_tensor(precise(self.similarity.tensors[reader.weight]), others), reader)

    @staticmethod
    def _columns(tensor: Tensor, reader: ReadingWeight) -> Tensor:
        return tensor.movedim(reader.dim, 0).reshape(tensor.shape[reader.dim], -1)

    # ------------------------------------------------------------ variances

    def _correct_variance(self, group: Group, reader: ReadingWeight, kept: Ids, found: ChannelSimilarity) -> None:
        entries = entries_of(self.similarity.units, group, reader.axis)
        whole = entries.size == self.plan.shapes[reader.weight][reader.dim]
        if reader.variance not in self.slim or not whole:
            return
        place = self._places(reader)[entries[kept]]
        after = self._variances(self._columns(self._current(reader.weight), reader)[place], reader, found, kept)
        before = self._variances(self._dense_columns(reader)[entries], reader, found, np.arange(group.units))
        ratio = torch.where(before > 0, after / before, 1.0)
        self._new[reader.variance] = self._current(reader.variance) * ratio
        self.variances.append(reader.variance)

    def _variances(self, columns: Tensor, reader: ReadingWeight, found: ChannelSimilarity, units: Ids) -> Tensor:
        """Output variances up to a common factor, for ``columns`` [units, entries, outputs * kernel positions]."""
        shape = self.plan.shape(reader.weight)
        rest = [n for d, n in enumerate(shape) if d != reader.dim]
        outputs = columns.reshape(len(units), -1, rest[0], int(np.prod(rest[1:])))
        mixed = found.covariance[units][:, units].to(outputs.dtype) @ outputs.flatten(1)
        return (outputs * mixed.view_as(outputs)).sum((0, 1, 3))
