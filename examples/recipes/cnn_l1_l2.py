"""Remove the filters of a small CNN that have the smallest L1 or L2 norm, and train what is left again.

The first recipe of every tutorial: train, rank the filters of each layer by their norm, remove a fixed fraction of
them, fine-tune. Source of the method: Li et al., "Pruning Filters for Efficient ConvNets", 2017 (L1).

Run from the repository root: python examples/recipes/cnn_l1_l2.py [--full] (needs scikit-learn).
"""

import digits
from torch import nn

import graphprune

full = digits.begin()
train, test = digits.load()
epochs, tuning = (12, 6) if full else (2, 1)


def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    """A convolution, a batch norm and a ReLU: [b, inputs, s, s] -> [b, outputs, s / stride, s / stride]."""
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]


# 1. A network to begin with.
dense = nn.Sequential(
    *block(1, 32, 1),
    *block(32, 64, 2),
    *block(64, 128, 2),
    *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)),
)
graphprune.finetune(dense, digits.batches(train), epochs=epochs, lr=0.1, weight_decay=5e-4, progress=False)
table = digits.Table(test)
table.add("dense", dense)

# 2. What can be removed: the filters of the three convolutions. With a filter go its batch norm's entries, and what
#    the next layer read from it. The ten outputs of the classifier are frozen.
graph = graphprune.trace(dense, test.tensors[0][:1])
print(graph, end="\n\n")

# 3. Six filters in ten go, by three criteria; "random" shows what a criterion is worth.
for criterion in ("random", "l2", "l1"):
    plan = graph.plan(0.6, importance=criterion)
    slim = plan.apply(dense)  # a new nn.Sequential with smaller layers; `dense` is untouched
    table.add(f"{criterion}, pruned", slim)
    graphprune.finetune(slim, digits.batches(train), epochs=tuning, lr=0.05, weight_decay=5e-4, progress=False)
    tuned = table.add(f"{criterion}, trained again", slim)
    assert tuned.parameters < 0.2 * table.rows["dense"].parameters
    assert tuned.scores["accuracy"] > 0.5

print(table)
