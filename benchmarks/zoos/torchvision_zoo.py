"""torchvision, with random weights. Inputs are as small as the architecture permits."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoos.common import SMALL_IMAGE, Builder, Example, image

_SIZE = {"vit": 224, "swin": 224, "maxvit": 224, "inception": 299}
_CLIP = {"mvit": (16, 224), "swin3d": (8, 64), "s3d": (16, 224)}
"""Frames and width of a clip, where more than the usual [4, 64, 64] is needed."""

_RCNN = {
    "min_size": 128,
    "max_size": 128,
    "rpn_pre_nms_top_n_test": 60,
    "rpn_post_nms_top_n_test": 12,
    "rpn_score_thresh": 0.0,
    "box_score_thresh": 0.0,
    "box_detections_per_img": 8,
}
_ONE_STAGE = {"score_thresh": 0.0, "topk_candidates": 60, "detections_per_img": 20}
_RESIZED = {"min_size": 128, "max_size": 128}
_DETECTORS: dict[str, dict[str, Any]] = {
    "fasterrcnn": _RCNN,
    "maskrcnn": _RCNN,
    "keypointrcnn": _RCNN,
    "retinanet": _ONE_STAGE | _RESIZED,
    "fcos": _ONE_STAGE | _RESIZED,
    "ssd": {"num_classes": 4, "score_thresh": 0.0, "topk_candidates": 10_000, "detections_per_img": 40_000},
}
"""Thresholds under which boxes of random weights survive, so that there is something to compare."""


def models() -> dict[str, Builder]:
    """Every model of torchvision that is not quantized."""
    import torchvision

    zoo = torchvision.models
    builders: dict[str, Builder] = {name: partial(_classifier, name) for name in zoo.list_models(module=zoo)}
    builders |= {name: partial(_dense, name) for name in zoo.list_models(module=zoo.segmentation)}
    builders |= {name: partial(_video, name) for name in zoo.list_models(module=zoo.video)}
    builders |= {name: partial(_flow, name) for name in zoo.list_models(module=zoo.optical_flow)}
    return builders | {name: partial(_detector, name) for name in zoo.list_models(module=zoo.detection)}


def _model(name: str, **options: Any) -> Any:
    import torchvision

    return torchvision.models.get_model(name, weights=None, **options)


def _start(table: dict[str, Any], name: str, default: Any) -> Any:
    """The entry whose key the name starts with."""
    return next((value for prefix, value in table.items() if name.startswith(prefix)), default)


def _classifier(name: str) -> Example:
    # Their own initialization takes a minute and warns that it will change; torch's default serves as well.
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return _model(name, **extra), image(_start(_SIZE, name, SMALL_IMAGE))


def _dense(name: str) -> Example:
    return _model(name, weights_backbone=None), image(SMALL_IMAGE)


def _video(name: str) -> Example:
    frames, size = _start(_CLIP, name, (4, SMALL_IMAGE))
    clip = torch.randn(1, 3, frames, size, size, generator=torch.Generator().manual_seed(0))
    return _model(name), clip


def _flow(name: str) -> Example:
    first = image(128)
    return _model(name), {"image1": first, "image2": first.roll(2, -1), "num_flow_updates": 2}


# ---------------------------------------------------------------- detectors


def _detector(name: str) -> Example:
    """Their inputs are lists of images without a batch dimension; in training they want to know what is seen."""
    model = _model(name, weights_backbone=None, **_start(_DETECTORS, name, {}))
    _settle(model, _with_targets(2))
    return model, (_photos(1),), _with_targets


def _settle(model: nn.Module, batch: Any) -> None:
    """Take norm statistics from a batch: what reaches the scores of a random network is too faint to choose by."""
    momenta = {m: m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    for norm in momenta:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(*batch)
    for norm, momentum in momenta.items():
        norm.momentum = momentum


def _photos(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, 128, 128, generator=generator) for _ in range(count)]


def _with_targets(count: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """A training batch: photos, and in each two things with their boxes, masks and keypoints."""
    mask = torch.zeros(2, 128, 128, dtype=torch.uint8)
    mask[:, 30:60, 20:90] = 1
    keypoints = torch.tensor([[[25.0, 40.0, 1.0]]]).expand(2, 17, 3)
    boxes = torch.tensor([[20.0, 30.0, 90.0, 100.0], [10.0, 20.0, 60.0, 70.0]])
    target = {"boxes": boxes, "labels": torch.tensor([1, 1]), "masks": mask, "keypoints": keypoints}
    return _photos(count), [target] * count
