"""From the masks of torch.nn.utils.prune to a network that is smaller.

PyTorch's pruning tutorial ends with filters that are zero: as large as before, as slow as before. What
`graphprune.compact` makes of them computes the same with less.

Run from the repository root: python examples/recipes/torch_masks.py [--full] (needs scikit-learn).
"""

import copy

import digits
import torch
from torch import nn
from torch.nn.utils import prune

import graphprune

full = digits.begin()
train, test = digits.load()
images = test.tensors[0]

# 1. A network to begin with.
dense = nn.Sequential(
    *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU()),
    *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()),
    *(nn.Conv2d(64, 64, 3, stride=2, padding=1), nn.ReLU()),
    *(nn.Flatten(), nn.Linear(64 * 4, 10)),
)
graphprune.finetune(dense, digits.batches(train), epochs=12 if full else 3, lr=0.05, progress=False)
table = digits.Table(test)
table.add("dense", dense)

# 2. As the tutorial does it: masks on the filters with the smallest L1 norm, and training under the masks. The number
#    of parameters is what it was, and files are larger: the masks are in them.
masked = copy.deepcopy(dense)
for layer in (masked[0], masked[2], masked[4]):
    prune.ln_structured(layer, "weight", amount=0.5, n=1, dim=0)
table.add("masked", masked)
graphprune.finetune(masked, digits.batches(train), epochs=6 if full else 1, lr=0.02, progress=False)
table.add("trained under masks", masked)

# 3. The filters go. A masked filter still passes its bias on, and the next layer pads that with zeros: no constant
#    could make up for it at the borders, so `compact` would keep the channel and say so. Without their biases, nothing
#    is left of the filters.
for layer in (masked[0], masked[2], masked[4]):
    gone = layer.weight.flatten(1).abs().sum(1) == 0
    with torch.no_grad():
        layer.bias[gone] = 0
table.add("without their biases", masked)
small = graphprune.compact(masked, images[:1])
last = table.add("compacted", small)

with torch.no_grad():
    error = (small.double()(images.double()) - masked.double()(images.double())).abs().max()
print(table, f"largest difference between the last two: {error:.1e}", sep="\n\n")
assert error < 1e-10
assert last.parameters < 0.5 * table.rows["dense"].parameters
assert last.scores["accuracy"] > 0.5
