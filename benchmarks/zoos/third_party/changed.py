"""timm's models after its own functions changed them: branches merged, other classifiers."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from benchmarks.zoos.common import SMALL_IMAGE, image
from benchmarks.zoos.third_party.later import Table, found_in_library

_PHOTO = partial(image, SMALL_IMAGE)


def _created(name: str, **options: Any) -> nn.Module:
    return found_in_library("timm:create_model")(name, pretrained=False, num_classes=10, **options)


def _merged(name: str, **options: Any) -> nn.Module:
    """Its training branches in one convolution each."""
    return found_in_library("timm.utils:reparameterize_model")(_created(name, **options).eval())


def _reset(name: str, classes: int, pool: str | None, **options: Any) -> nn.Module:
    """With a classifier for another number of classes, or none."""
    model: Any = _created(name, **options)
    model.reset_classifier(classes, pool) if pool is not None else model.reset_classifier(classes)
    return model


_TOKENS: dict[str, Any] = {"img_size": 64}
_MERGED: dict[str, dict[str, Any]] = {
    "repvgg_a0": {},
    "mobileone_s0": {},
    "fastvit_t8": {},
    "repvit_m0_9": {},
    "repghostnet_050": {},
    "ghostnetv3_050": {},
    "efficientvit_b0": {},
}
_RESET: dict[str, tuple[int, str | None, dict[str, Any]]] = {
    "resnet18": (7, None, {}),
    "resnet26d": (0, None, {}),
    "mobilenetv3_small_050": (7, None, {}),
    "efficientnet_b0": (0, "avg", {}),
    "convnext_atto": (7, None, {}),
    "densenet121": (7, "max", {}),
    "regnety_002": (0, "avg", {}),
    "vit_tiny_patch16_224": (7, "avg", _TOKENS),
    "deit_tiny_distilled_patch16_224": (7, None, _TOKENS),
    "eva02_tiny_patch14_224": (7, None, {"img_size": 56}),
    "mixer_s32_224": (7, None, {"img_size": 64}),
    "edgenext_xx_small": (7, None, {}),
}

TABLE: Table = {
    **{f"timm.{name}-merged": (partial(_merged, name, **options), _PHOTO) for name, options in _MERGED.items()},
    **{
        f"timm.{name}-reset": (
            partial(_reset, name, classes, pool, **options),
            partial(image, options.get("img_size", SMALL_IMAGE)),
        )
        for name, (classes, pool, options) in _RESET.items()
    },
}
