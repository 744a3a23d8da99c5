"""Remove the channels of torchvision's ResNet-18 that have the smallest L1 or L2 norm, and train what is left again.

Residual sums tie layers together: a channel of a stage goes from every convolution and batch norm that writes it or
reads it, or not at all. The graph knows; the recipe is the one of a sequential network.

Run from the repository root: python examples/recipes/resnet18_l1_l2.py [--full] (needs torchvision and scikit-learn).
"""

import digits

import graphprune

full = digits.begin()
train, test = digits.load(size=10)
image = test.tensors[0][:1]
settings = {"weight_decay": 5e-4, "progress": False}

# 1. A network to begin with: for small images, torchvision's ResNet-18 has a first convolution of 3x3 and no pooling.
#    In a hurry it is an eighth as wide, which is a plan as well.
dense = digits.resnet18() if full else graphprune.prune_model(digits.resnet18(), 0.875, image)
graphprune.finetune(dense, digits.batches(train), epochs=3 if full else 2, lr=0.05, **settings)
table = digits.Table(test)
table.add("dense", dense)

# 2. Twelve groups: eight of channels inside a block, and four of channels that residual sums share.
graph = graphprune.trace(dense, image)
for group in graph.groups:
    print(f"{group.name:<16}{group.role:<8}{group.units:>5} channels in {len(group.axes):>2} axes")

# 3. Half the channels of every group go: three quarters of the parameters and MACs.
for criterion in ("l2", "l1"):
    slim = graph.plan(0.5, importance=criterion).apply(dense)
    table.add(f"{criterion}, pruned", slim)
    graphprune.finetune(slim, digits.batches(train), epochs=2 if full else 1, lr=0.02, **settings)
    tuned = table.add(f"{criterion}, trained again", slim)
    assert tuned.parameters < 0.27 * table.rows["dense"].parameters
    assert tuned.scores["accuracy"] > 0.5

print(f"\n{table}")
