"""graphprune as it is by default: a budget of MACs, and samples without labels."""

from __future__ import annotations

from torch import nn

import graphprune
from benchmarks.libraries.case import Case, Method

LIBRARY = "graphprune"


def methods() -> list[Method]:
    """What ``prune_model`` does with samples: it chooses criterion and repair by itself."""
    return [Method(LIBRARY, "auto", _default)]


def _default(case: Case) -> nn.Module:
    return graphprune.prune_model(
        case.dense, example_inputs=case.example, macs=case.share, calibration=case.unlabeled, importance="auto"
    )
