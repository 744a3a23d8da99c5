"""Names of nodes are those that torch gives."""

from __future__ import annotations

import torch
from torch import fx, nn

import graphprune
from graphprune.tracing.node_names import NodeNames

WANTED = (
    "conv_weight conv_weight conv_weight_1 conv_weight_3 conv_weight add add add_1 add_2 add 0_weight a.b list torch "
    "blocks_0_weight blocks_1 blocks blocks_1 input_0 _ __name__ fx_pytree fx_pytree weight_01 weight_1 weight"
).split()


def test_names_are_those_of_torch() -> None:
    graph, own = fx.Graph(), NodeNames()
    theirs = [graph._graph_namespace.create_name(name, None) for name in WANTED]
    assert [own.create_name(name, None) for name in WANTED] == theirs
    assert len(set(theirs)) == len(theirs)


def test_objects_keep_their_names() -> None:
    own, node = NodeNames(), object()
    assert own.create_name("conv_weight", node) == own.create_name("other", node) == "conv_weight"
    assert own.create_name("conv_weight", None) == "conv_weight_1"


def test_nodes_of_a_trace_have_them() -> None:
    graph = graphprune.trace(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3)), torch.randn(2, 3))
    names = [node.name for node in graph.trace.graph.nodes]
    assert names[:5] == ["input_0", "_0_weight", "t", "_0_bias", "addmm"]
    assert names[5:] == ["_1_weight", "t_1", "_1_bias", "addmm_1", "output"]
