"""How the weights of a model of Transformers come into a folder, and how the folder is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

MAX_SHARD_SIZE = "5GB"


class WeightFiles(Protocol):
    """How a model is written into a folder, and how it is loaded to be compared."""

    def write(self, model: Any, folder: Path) -> None:
        """Write what ``save_pretrained`` of Transformers does: the configuration and the weights."""

    def read(self, kind: Any, folder: Path, dtype: Any) -> Any:
        """The model of a class that the folder makes."""


@dataclass(frozen=True)
class TransformersFiles:
    """As Transformers does it, with the whole model in memory.

    Attributes:
        max_shard_size: bytes of a file of weights at most, or ``"5GB"``.
    """

    max_shard_size: int | str = MAX_SHARD_SIZE

    def write(self, model: Any, folder: Path) -> None:
        model.save_pretrained(folder, max_shard_size=self.max_shard_size)

    def read(self, kind: Any, folder: Path, dtype: Any) -> Any:
        return kind.from_pretrained(folder, dtype=dtype)
