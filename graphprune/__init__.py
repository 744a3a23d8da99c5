"""Make neural networks physically smaller: trace, group, plan, rewrite, verify."""

from graphprune import errors
from graphprune.carry import prune_in_place
from graphprune.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from graphprune.cost import Cost
from graphprune.graph import ChannelGraph, trace
from graphprune.groups import Frozen, Group
from graphprune.limits import Override
from graphprune.plan import Plan
from graphprune.prove import prove
from graphprune.prune import prune_model
from graphprune.repair import (
    Compensation,
    Folding,
    Repair,
    compensate_heads,
    fold,
    reconstruct,
    reestimate_batch_norm,
    repair,
    synthesise,
)
from graphprune.rules import rule
from graphprune.schedules.gradual import GradualPruner
from graphprune.schedules.iterate import prune_iteratively
from graphprune.schedules.iterated import Iterated
from graphprune.schedules.numbers import Gradual, Iterative, OneShot
from graphprune.sensitivity import Sensitivity
from graphprune.storage import load, save
from graphprune.training.distillation import Distillation
from graphprune.training.finetune import finetune
from graphprune.training.history import History
from graphprune.training.learning_rate import Rewind
from graphprune.training.sparsity import GroupLasso, GrowingRegularisation
from graphprune.verify import Check, verify

__version__ = "0.1.0"
__all__ = [
    "ChannelGraph",
    "Check",
    "Compensation",
    "Cost",
    "Distillation",
    "Folding",
    "Frozen",
    "Gradual",
    "GradualPruner",
    "Group",
    "GroupLasso",
    "GrowingRegularisation",
    "History",
    "Iterated",
    "Iterative",
    "OneShot",
    "Override",
    "Plan",
    "Repair",
    "Rewind",
    "Sensitivity",
    "compensate_heads",
    "errors",
    "finetune",
    "fold",
    "load",
    "load_checkpoint",
    "prove",
    "prune_in_place",
    "prune_iteratively",
    "prune_model",
    "reconstruct",
    "reestimate_batch_norm",
    "repair",
    "rule",
    "save",
    "save_checkpoint",
    "synthesise",
    "trace",
    "verify",
]
