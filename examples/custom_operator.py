"""Teach graphprune an operator of your own: a rule, a proof of it, and a network that is pruned through it.

Run from the repository root: python examples/custom_operator.py
"""

import torch
from torch import Tensor, nn

import graphprune
from graphprune.rules import Call, LabeledTensor, per_channel, rule, sample, t


@torch.library.custom_op("example::scaled_swish", mutates_args=())
def scaled_swish(x: Tensor, scale: Tensor) -> Tensor:
    """x * sigmoid(scale * x), with one scale a channel. [b, c, h, w], [c] -> [b, c, h, w]; a kernel in C++ or CUDA."""
    return x * torch.sigmoid(scale[:, None, None] * x)


@scaled_swish.register_fake
def shape_only(x: Tensor, scale: Tensor) -> Tensor:
    return torch.empty_like(x)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 8, 3, padding=1)
        self.scale = nn.Parameter(torch.rand(32) + 0.5)

    def forward(self, image: Tensor) -> Tensor:
        return self.leave(scaled_swish(self.enter(image), self.scale))


torch.manual_seed(0)
model, images = Network().eval(), torch.randn(2, 3, 16, 16)

print("Without a rule, what goes into the operator cannot be pruned:")
print(f"  {graphprune.trace(model, images).frozen[0]}")


@rule(torch.ops.example.scaled_swish.default, samples=[sample(t(2, 6, 3, 3, labeled=[1]), t(6))])
def scaled_swish_rule(call: Call, x: LabeledTensor, scale: LabeledTensor) -> LabeledTensor:
    """The channels of ``x`` and the entries of ``scale`` are the same."""
    return per_channel(call, x, 1, scale)


choices = graphprune.check_rule(torch.ops.example.scaled_swish.default)
print(f"With a rule, which held for {choices} random choices of channels:")
plan = graphprune.trace(model, images).plan(0.5)
slim = plan.apply(model)
print(plan)
check = graphprune.verify(model, slim, plan, images)
print(check)
assert check.passed
