"""What was found of zero channels: which went, which stay, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from graphprune.rules.labels import ParameterAxis


@dataclass(frozen=True)
class ZeroGroup:
    """The zero channels of a group.

    Attributes:
        group, role: the name of the group, and what it is in its network.
        units: how many channels it has.
        removed: how many of them went.
        kept: why zero channels of it stay, and how many.
    """

    group: str
    role: str
    units: int
    removed: int
    kept: tuple[tuple[str, int], ...]

    @property
    def zero(self) -> int:
        """How many channels are zero."""
        return self.removed + sum(count for _, count in self.kept)


@dataclass(frozen=True)
class ZeroSlices:
    """Rows or columns of a parameter that are zero and belong to no zero channel.

    Attributes:
        axis: the parameter and dimension, ``"conv1.weight[0]"``.
        count, size: how many entries of the axis are zero, of how many.
        why: why they are no zero channel.
    """

    axis: ParameterAxis
    count: int
    size: int
    why: str


@dataclass(frozen=True, eq=False)
class ZeroChannels:
    """What :func:`graphprune.zero_channels` found; it prints as a table.

    Attributes:
        slim: the smaller module; a plain copy where nothing could go.
        groups: the groups that have zero channels.
        slices: zero rows and columns that make no zero channel.
        params: the numbers of parameters before and after.
    """

    slim: nn.Module = field(repr=False)
    groups: tuple[ZeroGroup, ...]
    slices: tuple[ZeroSlices, ...]
    params: tuple[int, int]

    @property
    def zero(self) -> int:
        """How many channels are zero."""
        return sum(group.zero for group in self.groups)

    @property
    def removed(self) -> int:
        """How many channels went."""
        return sum(group.removed for group in self.groups)

    def __str__(self) -> str:
        before, after = self.params
        head = f"{self.zero} zero channels, {self.removed} removed; {before:,} -> {after:,} parameters"
        return "\n".join([head, *self._group_lines(), *self._slice_lines()])

    def _group_lines(self) -> Iterator[str]:
        width = max((len(group.group) for group in self.groups), default=0)
        for one in self.groups:
            yield f"  {one.group:<{width}}  {one.units:>5} -> {one.units - one.removed:>5}  {one.role}".rstrip()
            yield from (f"    {count} stay: {why}" for why, count in one.kept)

    def _slice_lines(self) -> Iterator[str]:
        if self.slices:
            yield "zero rows and columns that are no zero channels:"
        for one in self.slices:
            yield f"  {one.axis}  {one.count} of {one.size}: {one.why}"


def in_sequence(found: Sequence[ZeroChannels]) -> ZeroChannels:
    """One record of several searches, each on what the one before left: groups have the units of the first."""
    groups: dict[str, ZeroGroup] = {}
    for one in found:
        for group in one.groups:
            first = groups.get(group.group, replace(group, removed=0))
            groups[group.group] = replace(first, removed=first.removed + group.removed, kept=group.kept)
        stay = {group.group for group in one.groups}
        groups = {name: group if name in stay else replace(group, kept=()) for name, group in groups.items()}
    return replace(found[-1], groups=tuple(group for group in groups.values() if group.zero))
