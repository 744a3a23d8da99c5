"""An oracle that shares nothing with the masked original: a float64 copy whose removed entries are set to zero.

It is right for networks in which a channel of zeros stays zero (ReLU, sums, products) and in which nothing takes
statistics over channels.
"""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.pruning.plan import Plan
from models import hardnet, mobilenet_v2, resnet_cifar

IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(1))


class Attention(nn.Module):
    """Two attention layers with residual sums and no norm."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.qkv = nn.ModuleList(nn.Linear(16, 48) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.last = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        for qkv, out in zip(self.qkv, self.out, strict=True):
            q, k, v = qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            x = x + out(((q @ k.transpose(-1, -2) / 2).softmax(-1) @ v).transpose(1, 2).flatten(2))
        logits: Tensor = self.last(x)
        return logits


class Gated(nn.Module):
    """A gated block of concatenated branches, and one that is added."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.gate = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 12, 3), nn.Conv2d(3, 20, 3)
        self.depthwise = nn.Conv2d(20, 20, 3, groups=20)
        self.last = nn.Conv2d(20, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.left(x), self.right(x)], 1) * self.gate(x).sigmoid()
        out: Tensor = self.last(self.depthwise(both).relu())
        return out


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "resnet": (resnet_cifar.resnet20, IMAGE),
    "mobilenet": (lambda: mobilenet_v2.mobilenet_v2(10, small_input=True), IMAGE),
    "hardnet": (hardnet.hardnet, IMAGE),
    "attention": (Attention, TOKENS),
    "gated": (Gated, IMAGE),
}


def masked_copy(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy in float64 with what the plan removes set to zero."""
    masked = copy.deepcopy(model).double()
    with torch.no_grad():
        for name, tensor in (*masked.named_parameters(), *masked.named_buffers()):
            if tensor.is_floating_point():
                tensor.mul_(plan.mask(name))
    return masked


def in_float64(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        out: Tensor = copy.deepcopy(model).double()(inputs.double())
    return out


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("ratio", [0.3, 0.5])
def test_three_ways_agree(name: str, ratio: float) -> None:
    torch.manual_seed(0)
    build, inputs = NETWORKS[name]
    model = build().eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
            if tensor.ndim == 1:
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    plan = graphprune.trace(model, inputs).plan(ratio, importance="random")
    slim = plan.apply(model)
    assert plan.entries[1] < plan.entries[0]
    check = graphprune.verify(model, slim, plan, inputs)
    expected, found = in_float64(masked_copy(model, plan), inputs), in_float64(slim, inputs)
    assert check.passed
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))
    with torch.no_grad():
        [p for p in slim.parameters() if p.ndim > 1][-1].view(-1)[0] += 0.5
    wrong = in_float64(slim, inputs)
    assert not graphprune.verify(model, slim, plan, inputs).passed
    assert (wrong - expected).abs().max() > 1e-8 * expected.abs().max()
