"""What a forward fills on its first call disturbs neither a plan made before nor its verification."""

import pytest
import torch
from torch import Tensor, nn

import graphprune

X = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0))


class Biased(nn.Module):
    """Attention with a bias by head and distance (ALiBi), made on the first call and kept."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = 4, 4
        self.qkv, self.out, self.last = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 3)
        self.slopes = nn.Parameter(torch.rand(4))
        self.register_buffer("bias", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length = x.shape[:2]
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, self.width).permute(2, 0, 3, 1, 4)
        if self.bias is None:
            distance = torch.arange(length)[None, :] - torch.arange(length)[:, None]
            self.bias = self.slopes.detach()[:, None, None] * distance.abs()
        attention = (q @ k.transpose(-1, -2) - self.bias).softmax(-1)
        return self.last(self.out((attention @ v).transpose(1, 2).reshape(batch, length, -1)))


@pytest.mark.parametrize("runs", ["none", "after", "both", "slim"])
def test_a_plan_outlives_the_first_call(runs: str) -> None:
    torch.manual_seed(0)
    model = Biased().eval()
    plan = graphprune.trace(model, X).plan(heads=0.5)
    assert plan.sizes["heads"] == 2
    if runs in ("after", "both"):
        model(X)
    slim = plan.apply(model)
    if runs in ("both", "slim"):
        assert slim(X).shape == (2, 6, 3)
    assert graphprune.verify(model, slim, plan, X).passed
    assert (model.bias is not None) == (runs in ("after", "both"))
    assert (slim.bias is not None) == (runs in ("both", "slim"))


def test_a_wrong_slim_model_is_still_seen() -> None:
    model = Biased().eval()
    plan = graphprune.trace(model, X).plan(heads=0.5)
    slim = plan.apply(model)
    slim(X)
    model(X)
    with torch.no_grad():
        slim.get_parameter("slopes").add_(1)
    assert not graphprune.verify(model, slim, plan, X).passed
