"""Repair: make up for removed channels in what is left, with calibration data or without."""

from graphprune.repair.attention import compensate_heads
from graphprune.repair.fold import Folding, fold
from graphprune.repair.norms import reestimate_batch_norm
from graphprune.repair.reconstruct import reconstruct
from graphprune.repair.record import Compensation, LeftAlone, Repair, Repaired
from graphprune.repair.synthesis import synthesise
from graphprune.repair.whole import repair

__all__ = [
    "Compensation",
    "Folding",
    "LeftAlone",
    "Repair",
    "Repaired",
    "compensate_heads",
    "fold",
    "reconstruct",
    "reestimate_batch_norm",
    "repair",
    "synthesise",
]
