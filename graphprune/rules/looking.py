"""Operations that only look at tensors: what they return is no tensor, and decides at most what comes next.

A program that decides otherwise in the slim model is noticed, because it is another one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from graphprune.rules.alignment import align
from graphprune.rules.labels import LabeledTensor
from graphprune.rules.registry import Call, rule
from graphprune.rules.samples import sample, t

aten = torch.ops.aten


@rule(aten.allclose.default, samples=[sample(t(3, 4), t(3, 4)), sample(t(2, 3, 4), t(4))])
def compared(call: Call, x: LabeledTensor, y: LabeledTensor, *_: Any) -> LabeledTensor:
    """Entries are compared one by one: those of one place go together."""
    align(call.labels, (x, y), tuple(np.broadcast_shapes(x.shape, y.shape)))
    return LabeledTensor(call.out)


@rule(aten.is_same_size.default, aten._has_same_storage_numel.default, samples=[sample(t(3, 4), t(3, 4))])
def compared_in_size(call: Call, x: LabeledTensor, y: LabeledTensor) -> LabeledTensor:
    """What has the same shape keeps the same entries; of other shapes nothing is known."""
    return compared(call, x, y) if x.shape == y.shape else LabeledTensor(call.out)


@rule(aten.is_pinned.default, samples=[sample(t(3, 4))])
@rule(aten.is_set_to.default, samples=[sample(t(3, 4), t(3, 4))])
def looked_at(call: Call, *_: Any) -> LabeledTensor:
    """Where the entries lie, whatever they are."""
    return LabeledTensor(call.out)
