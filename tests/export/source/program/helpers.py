"""Functions and layers that other files import."""

import functools
import math

import torch
import torch.nn.functional as functional
from torch import nn

from . import settings as constants
from .settings import EPSILON, NAMES


def scale(x):
    """Uses a constant of this file's imports and another function."""
    return x * _factor(len(NAMES)) + EPSILON


def _factor(n: int) -> float:
    # a comment that stays
    return math.sqrt(n) + constants._SECRET


def wrapped(function):
    """A decorator."""

    @functools.wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs) * 1.5

    return inner


@wrapped
def shifted(x, by=EPSILON):
    """Decorated, with a default that is a constant."""
    return functional.relu(x + by)


class Swish(nn.Module):
    """Without parameters."""

    def forward(self, x):
        return x * torch.sigmoid(x)


class Attention(nn.Module):
    """The same name as a class of another file."""

    def __init__(self, width):
        super().__init__()
        self.gate = nn.Linear(width, width)

    def forward(self, x):
        return x * self.gate(x).sigmoid()
