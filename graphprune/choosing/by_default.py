"""The criterion that is taken where none is named and the slim model is repaired."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from graphprune.importance.criteria import AUTO
from graphprune.planning.allocations import SEARCHED
from graphprune.planning.options import PruningOptions
from graphprune.utils.dispatched import resident


def with_default_criterion(model: nn.Module, asked: PruningOptions) -> PruningOptions:
    """The options with ``importance="auto"``, unless one plan of this kind is too dear for several to be tried.

    That is so for measured latencies, searched allocations, weights in files, and models that Accelerate dispatched.

    Args:
        model: what is pruned.
        asked: what is asked, without a criterion.
    """
    once = asked.latency is not None or asked.allocation_name == SEARCHED or asked.weights is not None
    return asked if once or resident(model) is not model else replace(asked, importance=AUTO)
