"""Make neural networks physically smaller: trace, group, plan, rewrite, verify."""

from graphprune import errors
from graphprune.cost import Cost
from graphprune.graph import ChannelGraph, trace
from graphprune.groups import Frozen, Group
from graphprune.limits import Override
from graphprune.plan import Plan
from graphprune.prove import prove
from graphprune.prune import prune_model
from graphprune.rules import rule
from graphprune.sensitivity import Sensitivity
from graphprune.storage import load, save
from graphprune.verify import Check, verify

__version__ = "0.1.0"
__all__ = [
    "ChannelGraph",
    "Check",
    "Cost",
    "Frozen",
    "Group",
    "Override",
    "Plan",
    "Sensitivity",
    "errors",
    "load",
    "prove",
    "prune_model",
    "rule",
    "save",
    "trace",
    "verify",
]
