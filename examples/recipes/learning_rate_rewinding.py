"""Train a pruned network again with the learning rates that the dense one had, instead of its last, small one.

The weights go on from where they are; only the schedule is taken back. Source: Renda, Frankle and Carbin, "Comparing
Rewinding and Fine-tuning in Neural Network Pruning", 2020.

Run from the repository root: python examples/recipes/learning_rate_rewinding.py [--full] (needs scikit-learn).
"""

import sys
from pathlib import Path

import digits

sys.path.insert(0, str(Path(__file__).parents[2]))  # `models` belongs to the repository, not to the package

import graphprune
from models.resnet_cifar import resnet20

full = digits.begin()
train, test = digits.load()
epochs, again = (8, 4) if full else (2, 1)

# 1. The dense network. Its history remembers the learning rate of every step.
dense = resnet20(in_channels=1)
settings = {"weight_decay": 5e-4, "progress": False}
history = graphprune.finetune(dense, digits.batches(train), epochs=epochs, lr=0.1, schedule="linear", **settings)
table = digits.Table(test)
table.add("dense", dense)

# 2. Half the channels go, and training goes on for half as many steps: with the small rate of the dense network's last
#    tenth throughout, or with the rates of its whole second half once more.
plan = graphprune.trace(dense, test.tensors[0][:1]).plan(0.5)
table.add("pruned", plan.apply(dense))
ways = {
    "fine-tuned": {"lr": history.lr[-len(history.lr) // 10], "schedule": "constant"},
    "rewound": {"schedule": graphprune.Rewind(history.lr)},
}
for name, rates in ways.items():
    slim = plan.apply(dense)
    tuning = graphprune.finetune(slim, digits.batches(train), epochs=again, **rates, **settings)
    print(f"{name}: learning rates {tuning.lr[0]:.4f} to {tuning.lr[-1]:.4f}")
    tuned = table.add(name, slim)
    assert tuned.scores["accuracy"] > 0.2

print(f"\n{table}")
assert tuning.lr == history.lr[-tuning.steps :]
