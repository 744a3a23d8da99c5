"""What overrides freeze of a model's depth: parts that ``depth=`` does not leave out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from graphprune.graph.groups import Group
from graphprune.planning.limits import Limit
from graphprune.utils.modules import within


@dataclass(frozen=True)
class FrozenParts:
    """What must stay as it is.

    A residual stream that is frozen has channels in every block. It holds the blocks whose modules an override names,
    and no others.

    Attributes:
        modules: those that overrides name, of which the outputs are frozen.
        groups: of each frozen group, the parameters that have its channels.
    """

    modules: tuple[str, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()

    @staticmethod
    def of(groups: Sequence[Group], limits: Sequence[Limit]) -> FrozenParts:
        """What the limits of groups freeze."""
        held = [group for group, limit in zip(groups, limits, strict=True) if limit.frozen]
        return FrozenParts(
            tuple(module for limit in limits for module in limit.frozen_modules),
            tuple(tuple(axis.parameter for axis in group.axes) for group in held),
        )

    def are_in(self, paths: Collection[str]) -> bool:
        """Would leaving out these modules take some of them?"""
        paths = list(paths)
        if any(module in paths or within(module, paths) for module in self.modules):
            return True
        return any(all(within(parameter, paths) for parameter in group) for group in self.groups)


NOTHING_FROZEN = FrozenParts()
"""The parts of a model of which no override freezes anything."""
