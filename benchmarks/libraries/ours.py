"""graphprune: a budget of MACs, a criterion, and repair."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

import graphprune
from benchmarks.libraries.case import Case, Method

LIBRARY = "graphprune"
UNLABELLED = ("l2", "wanda", "schur", "bn_scale", "auto")
ALLOCATIONS = ("uniform", "isomorphic")
LABELLED = ("taylor", "fisher")


def methods() -> list[Method]:
    """Some of its criteria, and its own choice, ranked by what channels cost.

    The first also ranks within layers, and among isomorphic ones.
    """
    makers = {name: partial(_unlabelled, importance=name) for name in UNLABELLED}
    first = UNLABELLED[0]
    makers |= {f"{first} {how}": partial(_unlabelled, importance=first, allocation=how) for how in ALLOCATIONS}
    makers |= {name: partial(_labelled, importance=name) for name in LABELLED}
    return [Method(LIBRARY, name, maker) for name, maker in makers.items()]


def _unlabelled(case: Case, **options: Any) -> nn.Module:
    return graphprune.prune_model(
        case.dense, example_inputs=case.example, macs=case.share, calibration=case.unlabelled, **options
    )


def _labelled(case: Case, **options: Any) -> nn.Module:
    return graphprune.prune_model(
        case.dense,
        example_inputs=case.example,
        macs=case.share,
        calibration=case.labelled,
        loss_fn=case.task.loss,
        **options,
    )
