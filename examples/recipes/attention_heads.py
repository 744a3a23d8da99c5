"""Remove whole attention heads of a vision transformer, by what the loss would miss of them.

A head is pruned with its queries, keys and values in the fused projection and its columns of the output projection.
Afterwards the attention has fewer heads of the same width, and `num_heads` says so. Source of the score: Molchanov et
al., "Importance Estimation for Neural Network Pruning", 2019 (first-order Taylor).

Run from the repository root: python examples/recipes/attention_heads.py [--full] (needs timm and scikit-learn).
"""

import digits
from timm.models import VisionTransformer
from torch.nn import functional as F

import graphprune

full = digits.begin()
train, test = digits.load()
settings = {"optimizer": "adamw", "weight_decay": 0.05, "clip": 1.0, "progress": False}

# 1. A network to begin with: sixteen patches of 2x2 pixels, four blocks (in a hurry one) of eight heads.
sizes = {"img_size": 8, "patch_size": 2, "in_chans": 1, "num_classes": 10}
dense = VisionTransformer(**sizes, embed_dim=64, depth=4 if full else 1, num_heads=8, mlp_ratio=2)
graphprune.finetune(
    dense, digits.batches(train), epochs=20 if full else 8, lr=2e-3, warmup=40 if full else 20, **settings
)
table = digits.Table(test)
table.add("dense", dense)

# 2. What can be removed are heads, hidden units of the perceptrons, the width of the residual stream, and the width
#    of heads. Here a fraction of the heads is asked for, and nothing else changes.
graph = graphprune.trace(dense, test.tensors[0][:1])
calibration = list(digits.batches(train))[:8]
score = {"importance": "taylor", "calibration": calibration, "loss_fn": F.cross_entropy}

for ratio in (0.25, 0.5, 0.75) if full else (0.5,):
    plan = graph.plan(heads=ratio, **score)
    slim = plan.apply(dense)
    left = [block.attn.num_heads for block in slim.blocks]
    table.add(f"{left} heads, pruned", slim)
    graphprune.finetune(slim, digits.batches(train), epochs=4 if full else 1, lr=1e-3, **settings)
    tuned = table.add(f"{left} heads, trained again", slim)
    assert left == [round(8 * (1 - ratio))] * len(left)
    assert tuned.scores["accuracy"] > 0.4

# 3. Ranked over all blocks together, to the MACs that half of the heads cost, some blocks lose more heads than others.
half = graph.cost(graph.plan(heads=0.5, importance="random")).macs
others = {lambda group: group.role != "heads": graphprune.Override(frozen=True)}
slim = graph.plan(macs=half, overrides=others, **score).apply(dense)
left = [block.attn.num_heads for block in slim.blocks]
table.add(f"together {left}, pruned", slim)
graphprune.finetune(slim, digits.batches(train), epochs=4 if full else 1, lr=1e-3, **settings)
table.add(f"together {left}, trained again", slim)

print(table)
