"""Make neural networks physically smaller: trace, group, plan, rewrite, verify."""

from graphprune import errors
from graphprune.cost import Cost
from graphprune.graph import ChannelGraph, trace
from graphprune.groups import Frozen, Group
from graphprune.plan import Plan
from graphprune.prune import prune_model
from graphprune.rules import rule

__version__ = "0.1.0"
__all__ = ["ChannelGraph", "Cost", "Frozen", "Group", "Plan", "errors", "prune_model", "rule", "trace"]
