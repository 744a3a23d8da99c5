"""Operations over space: channels pass through."""

from __future__ import annotations

from typing import Any

import torch

from graphprune.labels import Labelled
from graphprune.rules.registry import Call, rule, sample, t

aten = torch.ops.aten


def over_space(call: Call, x: Labelled, *_: Any, **__: Any) -> Any:
    """Batch and channel dimensions pass; a label in a spatial dimension is fixed."""
    space = x.ndim - 2 if x.ndim > 2 else x.ndim - 1
    dims = range(x.ndim - max(space, 1), x.ndim)
    call.freeze(Labelled(x.shape, tuple(x.touching(dims))), "acts over this dimension as space")
    labs = tuple(lab for lab in x.labs if not (lab.dims & set(dims)))
    outs = tuple(Labelled(shape, labs if len(shape) == x.ndim else ()) for shape in call.outs)
    return outs if len(outs) > 1 else outs[0]


IMAGE = t(2, 4, 6, 6)
WAVE = t(2, 4, 6)

rule(aten.max_pool2d_with_indices.default, samples=[sample(IMAGE, [2, 2], [2, 2])])(over_space)
rule(aten.max_pool3d_with_indices.default, samples=[sample(t(2, 4, 4, 4, 4, labelled=[1]), [2, 2, 2])])(over_space)
rule(aten.avg_pool1d.default, samples=[sample(WAVE, [2])])(over_space)
rule(aten.avg_pool2d.default, samples=[sample(IMAGE, [2, 2])])(over_space)
rule(aten.avg_pool3d.default, samples=[sample(t(2, 4, 4, 4, 4, labelled=[1]), [2, 2, 2])])(over_space)
rule(aten._adaptive_avg_pool2d.default, samples=[sample(IMAGE, [3, 3])])(over_space)
rule(aten._adaptive_avg_pool3d.default, samples=[sample(t(2, 4, 4, 4, 4, labelled=[1]), [2, 2, 2])])(over_space)
rule(aten.adaptive_max_pool2d.default, samples=[sample(IMAGE, [3, 3])])(over_space)
rule(aten.upsample_nearest1d.default, samples=[sample(WAVE, [12])])(over_space)
rule(aten.upsample_nearest2d.default, samples=[sample(IMAGE, [12, 12])])(over_space)
rule(aten._upsample_nearest_exact2d.default, samples=[sample(IMAGE, [12, 12])])(over_space)
rule(aten.upsample_bilinear2d.default, samples=[sample(IMAGE, [12, 12], False)])(over_space)
rule(aten._upsample_bilinear2d_aa.default, samples=[sample(IMAGE, [12, 12], False)])(over_space)
rule(aten.upsample_bicubic2d.default, samples=[sample(IMAGE, [12, 12], False)])(over_space)
rule(aten._upsample_bicubic2d_aa.default, samples=[sample(IMAGE, [12, 12], False)])(over_space)
rule(aten.reflection_pad1d.default, samples=[sample(WAVE, [1, 1])])(over_space)
rule(aten.reflection_pad2d.default, samples=[sample(IMAGE, [1, 1, 1, 1])])(over_space)
rule(aten.replication_pad2d.default, samples=[sample(IMAGE, [1, 1, 1, 1])])(over_space)
