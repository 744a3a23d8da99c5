"""Repair: make up for removed channels in what is left, with calibration data or without."""

from graphprune.repair.norms import reestimate_batch_norm
from graphprune.repair.reconstruct import reconstruct
from graphprune.repair.record import LeftAlone, Repair, Repaired
from graphprune.repair.whole import repair

__all__ = ["LeftAlone", "Repair", "Repaired", "reconstruct", "reestimate_batch_norm", "repair"]
