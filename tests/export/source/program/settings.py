"""Constants and settings that other files import."""

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

EPSILON = 1e-6
SCALES = (0.5, 2.0)
NAMES = {"first": 0, "second": 1}
MEAN = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
_SECRET = 2 * 3


class Mode(enum.Enum):
    """How things are put together."""

    ADD = "add"
    MULTIPLY = "multiply"


@dataclass
class Inner:
    """Settings within settings."""

    slope: float = 0.1


@dataclass
class Config:
    """Settings of a network."""

    width: int = 16
    heads: int = 2
    mode: Mode = Mode.ADD
    inner: Inner = field(default_factory=Inner)

    @property
    def head_width(self) -> int:
        """Channels of a head."""
        return self.width // self.heads


class Pair(NamedTuple):
    """Two outputs."""

    first: torch.Tensor
    second: torch.Tensor
