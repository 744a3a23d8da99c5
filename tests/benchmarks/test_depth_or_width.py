"""The script that compares layers with width."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import depth_or_width
from models import vit


class Small:
    """A task with a network that was not trained."""

    name = "small"
    example_inputs = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    def dense(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return vit.vit(image_size=16, patch_size=8, num_classes=4, dim=16, depth=2, heads=2, mlp_dim=32).eval()

    def calibration(self, samples: int, seed: int) -> list[Tensor]:
        return [torch.randn(samples, 3, 16, 16, generator=torch.Generator().manual_seed(seed))]

    def evaluate(self, model: nn.Module) -> float:
        return float(model(self.example_inputs).detach().square().mean())


def test_rows_are_ever_smaller_and_know_what_went(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(depth_or_width.NETWORKS, "small", 0.05)
    monkeypatch.setattr(depth_or_width._Trial, "_criterion", {"importance": "l2"})
    for name, value in {"SAMPLES": 16, "HELD_BACK": 8, "REPEATS": 2}.items():
        monkeypatch.setattr(depth_or_width, name, value)
    task: Any = Small()
    rows = depth_or_width._measured(task, 2)["rows"]
    assert 1 > rows[0]["left"] > rows[1]["left"]
    assert [each["gone"]["depth"] for each in rows] == [1, 2]
    for each in rows:
        assert each["gone"]["width"] == 0
        assert each["increase"].keys() == each["time"].keys() == set(depth_or_width.WAYS)
