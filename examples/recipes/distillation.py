"""Let the dense network teach the pruned one.

The pruned network has 5 % of the dense one's MACs. It is trained again with labels, with labels and the teacher's
probabilities (Hinton et al., "Distilling the Knowledge in a Neural Network", 2015), and with the teacher alone, which
needs no labels: where few images have one, that is what counts.

Run from the repository root: python examples/recipes/distillation.py [--full] (needs scikit-learn).
"""

import digits
from torch import nn
from torch.utils.data import TensorDataset

import graphprune

full = digits.begin()
train, test = digits.load()
image = test.tensors[0][:1]

# 1. A network to begin with, and what is left of it.
dense = nn.Sequential(
    *(nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
    *(nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
    *(nn.Conv2d(64, 128, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(128), nn.ReLU()),
    *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)),
)
graphprune.finetune(dense, digits.batches(train), epochs=12 if full else 3, lr=0.1, weight_decay=5e-4, progress=False)
table = digits.Table(test)
table.add("dense", dense)
plan = graphprune.trace(dense, image).plan(macs=0.05)
table.add("pruned", plan.apply(dense))

# 2. With labels for all images, or for one in ten.
few = TensorDataset(*(tensor[:128] for tensor in train.tensors))
blend = graphprune.Distillation(temperature=4, alpha=0.7)
alone = graphprune.Distillation(temperature=4, alpha=1.0)
ways = {
    "labels": (train, {}),
    "labels and teacher": (train, {"teacher": dense, "distill": blend}),
    "128 labels": (few, {}),
    "128 labels and teacher": (few, {"teacher": dense, "distill": blend}),
    "teacher, no labels": (train, {"teacher": dense, "distill": alone}),
}

# 3. The same number of steps for each.
steps = 200 if full else 40
for name, (data, how) in ways.items():
    slim = plan.apply(dense)
    graphprune.finetune(slim, digits.batches(data), steps=steps, lr=0.05, weight_decay=5e-4, progress=False, **how)
    tuned = table.add(name, slim)
    assert tuned.macs <= 0.05 * table.rows["dense"].macs
    assert tuned.scores["accuracy"] > 0.3

print(table)
