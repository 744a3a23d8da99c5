"""Look at what depends on what in a network, make a plan, apply it, and check the result.

Run from the repository root: python examples/inspect_groups.py
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # `models` belongs to the repository, not to the package

import graphprune
from models.hardnet import hardnet

torch.manual_seed(0)
model = hardnet().eval()
images = torch.randn(2, 3, 32, 32)

graph = graphprune.trace(model, images)
print(graph)  # all groups, and what is frozen
print(graph.group("gated.fused.conv.weight[0]"))  # one of them: what goes together with these channels
print(graph.frozen[-1])  # an axis that keeps its size, and why

plan = graph.plan(0.5)
print(plan)  # which channels survive
slim = plan.apply(model)  # a smaller network of the same class; `model` stays as it is
print(graphprune.verify(model, slim, plan, images))  # slim against the original with masked channels
