"""The operations that torchvision adds to torch for detectors: regions of images, and boxes."""

from __future__ import annotations

from typing import Any

import torch

from graphprune.rules.convolution import beside, channels
from graphprune.rules.labels import LabeledTensor
from graphprune.rules.registry import Call, rule
from graphprune.rules.samples import sample, t

_REGIONS = torch.tensor([[0, 1.0, 1.0, 4.0, 5.0], [1, 0.0, 2.0, 3.0, 3.0]], dtype=torch.float64, device="cpu")


@rule("torchvision::roi_align", samples=[sample(t(2, 4, 6, 6, labeled=[1]), _REGIONS, 0.5, 3, 2, 2, True)])
def roi_align(call: Call, x: LabeledTensor, regions: LabeledTensor, *_: Any) -> LabeledTensor:
    """Every region is cut out of all channels of its image. [images, c, h, w] -> [regions, c, height, width]."""
    return _cut_out(call, x, regions)


@rule("torchvision::roi_pool", samples=[sample(t(2, 4, 6, 6, labeled=[1]), _REGIONS, 0.5, 3, 2)])
def roi_pool(call: Call, x: LabeledTensor, regions: LabeledTensor, *_: Any) -> tuple[LabeledTensor, LabeledTensor]:
    """Also the place of each maximum in its channel."""
    out = _cut_out(call, x, regions)
    return out, out


def _cut_out(call: Call, x: LabeledTensor, regions: LabeledTensor) -> LabeledTensor:
    call.freeze(regions, "coordinates of boxes")
    call.freeze([LabeledTensor(x.shape, tuple(x.touching([0])))], "images are looked up by number")
    vector = channels(call, x, 1, "places are looked up by number")
    return LabeledTensor(call.out, beside(vector, 1, len(call.out)))


@rule("torchvision::nms", samples=[sample(t(3, 4), t(3), 0.5)])
def non_maximum_suppression(call: Call, boxes: LabeledTensor, scores: LabeledTensor, threshold: float) -> LabeledTensor:
    call.freeze((boxes, scores), "boxes are chosen by their values")
    return LabeledTensor(call.out)
