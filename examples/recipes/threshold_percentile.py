"""Mask single weights by a threshold or a percentile of their magnitude, and see what the network can do without.

A threshold is the same number for every layer, so layers with small weights lose more. A percentile takes the same
fraction of every layer, whatever its weights are.

Run from the repository root: python examples/recipes/threshold_percentile.py [--full] (needs scikit-learn).
"""

import copy

import digits
from torch import nn

import graphprune

full = digits.begin()
train, test = digits.load()

# 1. A network to begin with.
dense = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
graphprune.finetune(dense, digits.batches(train), epochs=30 if full else 8, lr=0.05, weight_decay=1e-4, progress=False)
table = digits.Table(test)
table.add("dense", dense)

# 2. Thresholds and percentiles without training: how far can one go?
tried = [("threshold", amount) for amount in (0.02, 0.05, 0.1)] + [("percentile", amount) for amount in (50, 80, 90)]
for method, amount in tried:
    masked = copy.deepcopy(dense)
    graphprune.sparsify(masked, amount, method=method)
    table.add(f"{method} {amount}", masked)

# 3. The first layer reads pixels and the last decides; amounts of their own spare them. Then training under the masks.
masked = copy.deepcopy(dense)
found = graphprune.sparsify(masked, 95, method="percentile", overrides={"1": 80, "5": 50})
table.add("percentile 95, 80 and 50", masked)
graphprune.finetune(masked, digits.batches(train), epochs=15 if full else 3, lr=0.05, progress=False)
graphprune.make_permanent(masked)
last = table.add("95, 80 and 50, trained again", masked)

print(table, found, sep="\n\n")
assert graphprune.sparsity_of(masked).zeros == found.zeros  # training woke none of them
assert last.scores["accuracy"] > 0.7
