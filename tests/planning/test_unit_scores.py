"""Scores of models that ``torch.nn.utils.prune`` has masked."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import graphprune


@pytest.mark.parametrize("importance", ["l1", "l2", "lamp"])
def test_filters_that_are_masked_go_first(importance: str) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3)).eval()
    prune.random_structured(model[0], "weight", 0.5, dim=0)
    masked = ~model[0].weight_mask.flatten(1).any(1)
    plan = graphprune.trace(model, torch.randn(1, 3, 8, 8)).plan(0.25, importance=importance)
    gone = torch.tensor(next(iter(plan.removed.values()))[1])
    assert len(gone) == 4
    assert bool(masked[gone].all())
    assert bool(masked.any())
    slim = plan.apply(model)
    assert slim[0].out_channels == slim[0].weight.shape[0] == 12
    assert graphprune.verify(model, slim, plan, torch.randn(1, 3, 8, 8)).passed
