"""torchvision, with random weights. Inputs are as small as the architecture permits."""

from __future__ import annotations

from functools import partial

from benchmarks.zoos.common import SMALL_IMAGE, Builder, Example, image

_SIZE = {"vit": 224, "swin": 224, "maxvit": 224, "inception": 299}


def models() -> dict[str, Builder]:
    """Every classification model of torchvision."""
    import torchvision

    return {name: partial(_build, name) for name in torchvision.models.list_models(module=torchvision.models)}


def _build(name: str) -> Example:
    import torchvision

    # Their own initialisation takes a minute and warns that it will change; torch's default serves as well.
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    size = next((s for prefix, s in _SIZE.items() if name.startswith(prefix)), SMALL_IMAGE)
    return torchvision.models.get_model(name, weights=None, **extra), image(size)
