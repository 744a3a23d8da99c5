"""What users are told of zero channels."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import graphprune
from graphprune.errors import InputError

ROWS = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 3))
    with torch.no_grad():
        model[0].weight[:3] = 0
        model[2].weight[:2], model[2].bias[:2] = 0, 0
        model[4].weight[0] = 0
    return model.eval()


def test_the_record_prints_what_went_and_why_others_stay() -> None:
    found = graphprune.zero_channels(network(), ROWS)
    assert str(found).splitlines() == [
        "5 zero channels, 3 removed; 135 -> 99 parameters",
        "  0      8 ->     5  mlp",
        "  2      6 ->     6  mlp",
        "    2 stay: native_layer_norm takes its statistics over channels",
        "zero rows and columns that are no zero channels:",
        "  4.weight[0]  1 of 3: frozen: output of the model",
    ]
    assert (found.zero, found.removed) == (5, 3)
    assert found.slim[0].out_features == 5


def test_zeros_of_a_residual_sum_name_what_is_not_zero() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.block, self.leave = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.enter(x)
            return self.leave(x + self.block(x).relu())

    model = Residual()
    prune.ln_structured(model.block, "weight", 0.25, n=2, dim=0)
    found = graphprune.zero_channels(model, ROWS)
    assert found.zero == 0
    assert [(str(one.axis), one.count, one.why) for one in found.slices] == [
        ("block.weight[0]", 2, "enter.weight[0] has the same channels, and is not zero there")
    ]
    with pytest.warns(graphprune.NothingRemovedWarning, match=r"block.weight\[0\]: 2 of 8 are zero; enter.weight"):
        graphprune.compact(model, ROWS)


def test_a_threshold_is_absolute_or_a_fraction_of_the_largest_weight() -> None:
    model = network()
    with torch.no_grad():
        model[0].weight[3] = 1e-3
        model[0].weight[4] = 10.0
    assert graphprune.zero_channels(model, ROWS, threshold=1e-2).slim[0].out_features == 4
    assert graphprune.zero_channels(model, ROWS, threshold=1e-5).slim[0].out_features == 5
    relative = graphprune.zero_channels(model, ROWS, threshold=1e-3, relative=True)
    assert relative.slim[0].out_features == 4
    with pytest.raises(InputError, match="relative"):
        graphprune.compact(model, ROWS, relative=1)


def test_masks_must_be_tensors() -> None:
    with pytest.raises(InputError, match=r"masks: the mask of 0.weight"):
        graphprune.compact(network(), ROWS, masks={"0.weight": [1, 0]})


def test_a_head_goes_whole() -> None:
    torch.manual_seed(0)

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.leave = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.leave(self.attention(x, x, x, need_weights=False)[0])

    model = Attention().eval()
    with torch.no_grad():
        model.attention.out_proj.weight[:, :4] = 0
    found = graphprune.zero_channels(model, torch.randn(2, 3, 8))
    assert [(group.role, group.units, group.removed) for group in found.groups] == [("heads", 2, 1)]
