"""Prune during training: much at first and less and less, until everything is gone that is to go.

The cubic of Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", 2017,
for whole channels and for single weights. One-shot pruning with as many steps of training stands beside it.

Run from the repository root: python examples/recipes/gradual_cubic.py [--full] (needs scikit-learn).
"""

import digits
import torch
from torch import nn
from torch.nn import functional as F

import graphprune

full = digits.begin()
train, test = digits.load()
image = test.tensors[0][:1]
epochs, tuning = (12, 6) if full else (2, 1)
settings = {"lr": 0.05, "weight_decay": 5e-4, "progress": False}
table = digits.Table(test)


def fresh() -> nn.Module:
    """An untrained network; always the same weights."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.Conv2d(64, 128, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(128), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)),
    )


# 1. In one shot: train, remove, train again.
dense = fresh()
graphprune.finetune(dense, digits.batches(train), epochs=epochs, **settings)
table.add("dense", dense)
slim = graphprune.prune_model(dense, 0.75, image)
graphprune.finetune(slim, digits.batches(train), epochs=tuning, **settings)
table.add("channels, one shot", slim)
graphprune.sparsify(dense, 0.95, scope="global")
graphprune.finetune(dense, digits.batches(train), epochs=tuning, **settings)
table.add("weights, one shot", dense)

# 2. Channels, in a loop of one's own. The model and the optimizer stay the same objects; momentum is cut along.
total = (epochs + tuning) * len(digits.batches(train))
cubic = graphprune.Gradual(begin=total // 6, end=total * 2 // 3, frequency=total // 20)
model = fresh()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
pruner = graphprune.GradualPruner(model, image, cubic, ratio=0.75, optimizer=optimizer)
for _ in range(epochs + tuning):
    for images, labels in digits.batches(train):
        optimizer.zero_grad()
        F.cross_entropy(model.train()(images), labels).backward()
        optimizer.step()
        rates.step()
        pruner.step()
gradual = table.add("channels, gradually", model)
print(pruner, end="\n\n")

# 3. Single weights, within `finetune`: the masks grow after each step that the schedule names.
model = fresh()
sparsifier = graphprune.GradualSparsifier(model, cubic, 0.95, scope="global")
graphprune.finetune(model, digits.batches(train), epochs=epochs + tuning, on_step=sparsifier.on_step, **settings)
graphprune.make_permanent(model)
sparse = table.add("weights, gradually", model)

print(table)
assert gradual.parameters == table.rows["channels, one shot"].parameters
assert sparse.nonzero < 0.06 * sparse.parameters
assert min(gradual.scores["accuracy"], sparse.scores["accuracy"]) > 0.5
