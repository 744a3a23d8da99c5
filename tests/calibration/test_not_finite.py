"""Calibration data with NaN are named, and nothing is changed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune
from graphprune.errors import InputError, PlanError

CRITERIA = ["wanda", "schur", "obs", "taylor", "fisher", "kfac", "surgeon", "auto"]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def batches(value: float) -> list[Tensor]:
    torch.manual_seed(1)
    found = [torch.randn(8, 6) for _ in range(3)]
    found[1][2, 3] = value
    return found


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_criteria_refuse_them(criterion: str, value: float) -> None:
    graph = graphprune.trace(net(), torch.randn(2, 6))
    with pytest.raises((InputError, PlanError), match=r"batch 1|nan|not finite"):
        graph.plan(0.5, importance=criterion, calibration=batches(value))


@pytest.mark.parametrize("memory", [None, "100MB"])
def test_repair_names_the_batch_and_changes_nothing(memory: str | None) -> None:
    model = net()
    plan = graphprune.trace(model, torch.randn(2, 6)).plan(0.5)
    slim = plan.apply(model)
    before = {name: t.clone() for name, t in slim.state_dict().items()}
    with pytest.raises(InputError, match=r"0\.weight makes are not finite with batch 1"):
        graphprune.repair(slim, model, plan, batches(float("nan")), memory=memory)
    assert all(torch.equal(t, before[name]) for name, t in slim.state_dict().items())


class Masked(nn.Module):
    """Scores of attention are minus infinity where a mask says so; no row is masked altogether."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = (q @ k.transpose(1, 2)).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
        out: Tensor = self.out(F.softmax(scores, -1) @ v)
        return out


@pytest.mark.parametrize("criterion", ["wanda", "kfac", "auto"])
def test_masks_of_attention_are_no_such_data(criterion: str) -> None:
    torch.manual_seed(0)
    x = [torch.randn(4, 5, 8) for _ in range(4)]
    graphprune.prune_model(Masked().eval(), 0.5, x[0], importance=criterion, calibration=x)
