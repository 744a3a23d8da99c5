"""Prune MobileNetV2 to 30 % of its MACs, the depthwise layers more gently than the rest.

A depthwise filter has nine weights and no other filter that could stand in for it, so tutorials spare these layers.
Here they lose at most 35 % of their channels, and the layers between the blocks make up for it.

Run from the repository root: python examples/recipes/mobilenetv2_depthwise.py [--full] (needs torchvision and
scikit-learn).
"""

import digits
from torch import nn
from torchvision.models import mobilenet_v2

import graphprune

full = digits.begin()
train, test = digits.load(size=10)
image = test.tensors[0][:1]
settings = {"weight_decay": 1e-4, "progress": False}

# 1. A network to begin with: torchvision's, 0.35 times as wide, with fewer strides for small images.
#    In a hurry it has the first three of its seven stages.
stages = [
    (1, 16, 1, 1),
    (6, 24, 2, 1 if full else 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
]
if not full:
    stages = stages[:3]
dense = mobilenet_v2(num_classes=10, width_mult=0.35, dropout=0.0, inverted_residual_setting=stages)
dense.features[0][0] = nn.Conv2d(1, dense.features[0][0].out_channels, 3, padding=1, bias=False)
graphprune.finetune(
    dense, digits.batches(train), epochs=10 if full else 3, lr=0.05, warmup=40 if full else 10, **settings
)
table = digits.Table(test)
table.add("dense", dense)

# 2. The channels of a depthwise layer are those of the 1x1 convolution before it: they are one group, and so is what
#    residual sums share. An override holds for the groups for which a question is answered with yes.
graph = graphprune.trace(dense, image)


def depthwise(group: graphprune.Group) -> bool:
    """Does a convolution of one channel per filter take part in the group?"""
    return any(getattr(dense.get_submodule(axis.module), "groups", 1) > 1 for axis in group.axes)


gentler = {depthwise: graphprune.Override(max_ratio=0.35)}

# 3. To the same MACs with and without.
for name, overrides in {"all alike": {}, "depthwise gentler": gentler}.items():
    plan = graph.plan(macs=0.3, allocation="uniform", overrides=overrides)
    slim = plan.apply(dense)
    kept = {choice.group: choice.kept for choice in plan.choices}
    left = [sum(kept[g.name] for g in graph.groups if depthwise(g) is spared) for spared in (True, False)]
    print(f"{name}: {left[0]} channels of depthwise layers are left, and {left[1]} others")
    table.add(f"{name}, pruned", slim)
    graphprune.finetune(slim, digits.batches(train), epochs=6 if full else 1, lr=0.03, **settings)
    tuned = table.add(f"{name}, trained again", slim)
    assert tuned.macs <= 0.3 * table.rows["dense"].macs
    assert tuned.scores["accuracy"] > 0.3

print(f"\n{table}")
