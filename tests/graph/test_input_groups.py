"""Grouped convolutions whose groups are those of the model's input: these stay, and hidden channels of each go."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import graphprune

SENSORS = 5
NETWORKS = {
    "two": ([nn.Conv1d(10, 40, 3, groups=5), nn.ReLU(), nn.Conv1d(40, 15, 1, groups=5)], [(8, 4)]),
    "no bias": ([nn.Conv1d(10, 40, 3, groups=5, bias=False), nn.ReLU(), nn.Conv1d(40, 15, 1, groups=5)], [(8, 4)]),
    "three": (
        [
            *(nn.Conv1d(5, 20, 3, groups=5), nn.BatchNorm1d(20), nn.ReLU()),
            *(nn.Conv1d(20, 40, 3, groups=5), nn.ReLU(), nn.Conv1d(40, 15, 1, groups=5)),
        ],
        [(4, 2), (8, 4)],
    ),
    "joined": (
        [nn.Conv1d(10, 40, 3, groups=5), nn.ReLU(), nn.Conv1d(40, 20, 1, groups=5), nn.Conv1d(20, 3, 1)],
        [(8, 4), (20, 10)],
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_hidden_channels_of_every_group_go(name: str) -> None:
    layers, wanted = NETWORKS[name]
    model = nn.Sequential(*layers).eval()
    x = torch.randn(2, model[0].in_channels, 9)
    plan = graphprune.trace(model, x).plan(0.5)
    assert [(choice.units, choice.kept) for choice in plan.choices] == wanted
    slim = plan.apply(model)
    assert all(layer.groups in (1, SENSORS) for layer in slim if isinstance(layer, nn.Conv1d))
    assert graphprune.verify(model, slim, plan, x).passed
