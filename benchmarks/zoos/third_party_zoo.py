"""Models of other libraries, as small as their options permit; what is not installed is listed as skipped.

``requirements.txt`` beside this file names the libraries, ``CONTRIBUTING.md`` says how they are installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import nn

from benchmarks.zoos.common import Builder, Example
from benchmarks.zoos.third_party import changed, diffusion, images, medical, science, sequences, sound

_TABLES = (images, sequences, medical, sound, science, diffusion, changed)


def models() -> dict[str, Builder]:
    """Every model of the tables, whether its library is there or not."""
    entries = {name: entry for table in _TABLES for name, entry in table.TABLE.items()}
    return {name: partial(_example, *entry) for name, entry in entries.items()}


def modules(names: Iterable[str]) -> list[str]:
    """What the models of these names import: their libraries, and parts of those that take long."""
    libraries = sorted({name.partition(".")[0] for name in names})
    return [_SLOW.get(library, library) for library in libraries]


_SLOW = {
    "diffusers": "diffusers.models.transformers.transformer_2d",
    "monai": "monai.networks.nets",
    "spandrel": "spandrel.architectures",
    "speechbrain": "speechbrain.nnet",
    "torch_geometric": "torch_geometric.nn",
    "torchaudio": "torchaudio.models",
    "ultralytics": "ultralytics.nn.tasks",
    "asteroid": "asteroid.models",
}


def _example(
    make: Callable[[], nn.Module], inputs: Callable[[], Any], batch: Callable[[int], Any] | None = None
) -> Example:
    return (make(), inputs()) if batch is None else (make(), inputs(), batch)
