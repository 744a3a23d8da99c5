"""Mask 98 % of ResNet-18's weights, the smallest of all layers together, in rounds with training in between.

Iterative magnitude pruning with one global ranking: each round masks the same fraction of the weights that are left,
and training lets the others make up for them. Sources: Han et al., "Learning both Weights and Connections for Efficient
Neural Networks", 2015; Renda et al., "Comparing Rewinding and Fine-tuning in Neural Network Pruning", 2020.

Run from the repository root: python examples/recipes/resnet18_global_l1.py [--full] (needs torchvision and
scikit-learn).
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import digits
import torch

import graphprune

full = digits.begin()
train, test = digits.load(size=10)
settings = {"lr": 0.05, "weight_decay": 5e-4, "progress": False}

# 1. A network to begin with. Images are 10 pixels wide, so that the last maps have 2x2 and every weight of a 3x3 filter
#    meets something; at 8 pixels, eight ninths of the last stage would only ever see the padding, and go for free.
#    In a hurry the network is an eighth as wide, and loses less.
dense = digits.resnet18() if full else graphprune.prune_model(digits.resnet18(), 0.875, test.tensors[0][:1])
sparsity, rounds = (0.98, 3) if full else (0.8, 2)
graphprune.finetune(dense, digits.batches(train), epochs=3 if full else 2, **settings)
table = digits.Table(test)
before = table.add("dense", dense)

# 2. Rounds. The masks are those of torch.nn.utils.prune; masked weights stay zero whatever the optimizer does.
model = dense
for number in range(1, rounds + 1):
    zeros = graphprune.sparsify(model, 1 - (1 - sparsity) ** (1 / rounds), scope="global")
    print(f"round {number}: {zeros.masked:.1%} masked, accuracy {digits.accuracy(model, test):.1%} before training")
    graphprune.finetune(model, digits.batches(train), epochs=2 if full else 1, seed=number, **settings)
    after = table.add(f"round {number}, trained again", model)

# 3. The zeros are made permanent: the same numbers without masks. Nothing is faster for them, and the network takes as
#    much memory; what becomes small is the file.
graphprune.make_permanent(model)
last = table.add("masks made permanent", model)
with TemporaryDirectory() as folder:
    file = graphprune.save_sparse(model, Path(folder) / "model.safetensors")
    same = graphprune.load_sparse(file.path)

print(f"\n{table}\n\nas a sparse file: {file.bytes:,} bytes instead of {file.dense:,}")
assert all(torch.equal(tensor, same[name]) for name, tensor in model.state_dict().items())
assert graphprune.sparsity_of(model).zeros == zeros.zeros  # training woke none of them
assert last.scores["accuracy"] >= before.scores["accuracy"] - (0.01 if full else 0.3)
