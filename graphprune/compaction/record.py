"""What was found of zero channels: which went, which stay, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import nn

from graphprune.rules.labels import ParameterAxis
from graphprune.utils.tables import Printed, Table


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


@dataclass(frozen=True, eq=False, repr=False)
class ZeroChannels(Printed):
    """What :func:`graphprune.zero_channels` found; it prints as a table.

    Attributes:
        slim: the smaller module; a plain copy where nothing could go.
        groups: the groups that have zero channels.
        slices: zero rows and columns that make no zero channel.
        params: the numbers of parameters before and after.
    """

    slim: nn.Module
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

    def _summary(self) -> str:
        return f"ZeroChannels: {next(self._parts())}"

    def _parts(self) -> Iterator[str | Table]:
        before, after = self.params
        yield f"{self.zero} zero channels, {self.removed} removed; {before:,} -> {after:,} parameters"
        if self.groups:
            columns = ("group", "role", "units", "left", "zero channels that stay")
            yield Table("groups:", columns, tuple(map(_group_row, self.groups)), numbers=columns[2:4])
        if self.slices:
            rows = tuple((one.axis, f"{one.count} of {one.size}", one.why) for one in self.slices)
            yield Table("zero rows and columns that are no zero channels:", ("axis", "entries", "why"), rows)


def _group_row(one: ZeroGroup) -> tuple[str, ...]:
    stay = "; ".join(f"{count}: {why}" for why, count in one.kept)
    return one.group, one.role, str(one.units), str(one.units - one.removed), stay


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
