"""Libraries for graphs, tables and densities."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoos.third_party.later import Later, Table, found_in_library, later, noise

# ---------------------------------------------------------------- torch-geometric


def _edges(graphs: int = 1) -> Tensor:
    """For each graph a ring of ten nodes with chords, in both directions. [2, 40 * graphs]."""
    first = torch.arange(10)
    pairs = torch.cat([torch.stack([first, (first + step) % 10]) for step in (1, 3)], 1)
    ring = torch.cat([pairs, pairs.flip(0)], 1)
    return torch.cat([ring + 10 * graph for graph in range(graphs)], 1)


def _graph(graphs: int = 1) -> tuple[Tensor, Tensor]:
    """Features of the nodes, and the edges."""
    return noise(10 * graphs, 12), _edges(graphs)


def _graph_of_nodes(graphs: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Also which graph a node is of."""
    return (*_graph(graphs), torch.arange(graphs).repeat_interleave(10))


def _molecule(graphs: int = 1) -> tuple[Tensor, ...]:
    """Also features of the edges."""
    nodes, edges, graph = _graph_of_nodes(graphs)
    return nodes, edges, noise(40 * graphs, 4), graph


class Layers(nn.Module):
    """Two graph layers of a kind."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__()
        kind = found_in_library(f"torch_geometric.nn:{name}")
        heads = options.get("heads", 1)
        self.first, self.second = kind(12, 32, **options), kind(32 * heads, 32, **options)
        self.last = nn.Linear(32 * heads, 5)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.last(self.second(self.first(x, edges).relu(), edges).relu())


class PlainLayers(nn.Module):
    """A graph layer around a network of one's own."""

    def __init__(self, name: str, width: int = 12) -> None:
        super().__init__()
        inner = nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 24))
        self.layer = found_in_library(f"torch_geometric.nn:{name}")(inner)
        self.last = nn.Linear(24, 5)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.last(self.layer(x, edges).relu())


def _whole(name: str, **options: Any) -> Later:
    sizes: dict[str, Any] = {"in_channels": 12, "hidden_channels": 32, "num_layers": 2, "out_channels": 5}
    return later(f"torch_geometric.nn:{name}", **sizes, **options)


_LAYERS: dict[str, dict[str, Any]] = {
    "GCNConv": {},
    "SAGEConv": {},
    "GraphConv": {},
    "GATConv": {"heads": 2},
    "GATv2Conv": {"heads": 2},
    "TransformerConv": {"heads": 2},
    "TAGConv": {"K": 2},
    "ChebConv": {"K": 2},
    "ARMAConv": {},
    "SGConv": {},
    "LEConv": {},
    "ClusterGCNConv": {},
    "ResGatedGraphConv": {},
    "FeaStConv": {"heads": 1},
    "SuperGATConv": {"heads": 2},
    "MFConv": {},
    "GENConv": {},
    "FiLMConv": {},
    "EGConv": {"num_heads": 4},
}

_GEOMETRIC: Table = {
    **{name: (partial(Layers, name, **options), _graph, _graph) for name, options in _LAYERS.items()},
    "GINConv": (partial(PlainLayers, "GINConv"), _graph, _graph),
    "EdgeConv": (partial(PlainLayers, "EdgeConv", 24), _graph, _graph),
    "GCN": (_whole("GCN", norm="BatchNorm"), _graph, _graph),
    "GraphSAGE": (_whole("GraphSAGE", jk="cat"), _graph, _graph),
    "GAT": (_whole("GAT", heads=4, v2=True), _graph, _graph),
    "GIN": (_whole("GIN"), _graph, _graph),
    "PMLP": (_whole("PMLP"), _graph, _graph),
    "MLP": (_whole("MLP"), partial(noise, 10, 12)),
    "SGFormer": (
        later("torch_geometric.nn.models:SGFormer", 12, 32, 5),
        _graph_of_nodes,
        _graph_of_nodes,
    ),
    "AttentiveFP": (
        later(
            "torch_geometric.nn:AttentiveFP",
            in_channels=12,
            hidden_channels=32,
            out_channels=5,
            edge_dim=4,
            num_layers=2,
            num_timesteps=2,
        ),
        _molecule,
        _molecule,
    ),
}

# ---------------------------------------------------------------- tables


def _ctr(name: str, **options: Any) -> nn.Module:
    """A click-through network of deepctr: ten categories in each of four columns, and two numbers."""
    sparse, dense = (found_in_library(f"deepctr_torch.inputs:{kind}Feat") for kind in ("Sparse", "Dense"))
    columns = [sparse(f"c{i}", 10, 8) for i in range(4)] + [dense(f"d{i}", 1) for i in range(2)]
    return found_in_library(f"deepctr_torch.models:{name}")(columns, columns, **options)


def _record() -> Tensor:
    return torch.cat([torch.tensor([[1.0, 2.0, 3.0, 4.0]]), noise(1, 2)], 1)


_DEEPCTR: Table = {
    name: (partial(_ctr, name, **options), _record)
    for name, options in {
        "DeepFM": {"dnn_hidden_units": (48, 32)},
        "WDL": {"dnn_hidden_units": (48, 32)},
        "DCN": {"dnn_hidden_units": (48, 32)},
        "NFM": {"dnn_hidden_units": (48, 32)},
        "AutoInt": {"dnn_hidden_units": (48, 32), "att_layer_num": 1},
        "FiBiNET": {"dnn_hidden_units": (48, 32)},
    }.items()
}

_FT: dict[str, Any] = {
    "n_blocks": 2,
    "d_block": 32,
    "attention_n_heads": 4,
    "attention_dropout": 0.0,
    "ffn_d_hidden_multiplier": 2.0,
    "ffn_dropout": 0.0,
    "residual_dropout": 0.0,
    "d_out": 3,
}

_TABLES: Table = {
    "pytorch_tabnet.tabnet": (
        later("pytorch_tabnet.tab_network:TabNet", 12, 5, group_attention_matrix=torch.eye(12)),
        partial(noise, 4, 12),
    ),
    "rtdl_revisiting_models.mlp": (
        later("rtdl_revisiting_models:MLP", d_in=12, d_out=3, n_blocks=2, d_block=32, dropout=0.1),
        partial(noise, 2, 12),
    ),
    "rtdl_revisiting_models.resnet": (
        later(
            "rtdl_revisiting_models:ResNet",
            d_in=12,
            d_out=3,
            n_blocks=2,
            d_block=32,
            d_hidden=48,
            d_hidden_multiplier=None,
            dropout1=0.0,
            dropout2=0.0,
        ),
        partial(noise, 2, 12),
    ),
    "rtdl_revisiting_models.ft_transformer": (
        later("rtdl_revisiting_models:FTTransformer", n_cont_features=6, cat_cardinalities=[4, 5], **_FT),
        lambda: (noise(1, 6), torch.tensor([[1, 2]])),
    ),
    "kan.kan": (
        later("kan:KAN", width=[4, 8, 3], grid=3, auto_save=False, symbolic_enabled=False, save_act=False),
        partial(noise, 4, 4),
    ),
}

# ---------------------------------------------------------------- densities


class Density(nn.Module):
    """The logarithm of a flow's density."""

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor) -> Tensor:
        return self.flow().log_prob(x) if not hasattr(self.flow, "log_prob") else self.flow.log_prob(x)


def _density(path: str, **options: Any) -> Later:
    return Later("benchmarks.zoos.third_party.science:Density", (later(path, **options),))


_ZUKO: dict[str, Any] = {"features": 6, "transforms": 2, "hidden_features": (32, 32)}
_NFLOWS: dict[str, Any] = {"features": 6, "hidden_features": 32, "num_layers": 2, "num_blocks_per_layer": 1}


def _normflow() -> nn.Module:
    library = "normflows"
    flows = [found_in_library(f"{library}.flows:{kind}") for kind in ("AffineCouplingBlock", "Permute")]
    parts = []
    for _ in range(2):
        network = found_in_library(f"{library}.nets:MLP")([3, 32, 32, 6], init_zeros=False)
        parts += [flows[0](network), flows[1](6, mode="swap")]
    base = found_in_library(f"{library}.distributions:DiagGaussian")(6)
    return Density(found_in_library(f"{library}:NormalizingFlow")(base, parts))


class Invertible(nn.Module):
    """A coupling network of FrEIA, forwards."""

    def __init__(self, block: str) -> None:
        super().__init__()
        flow = found_in_library("FrEIA.framework:SequenceINN")(6)
        for _ in range(2):
            flow.append(found_in_library(f"FrEIA.modules:{block}"), subnet_constructor=_subnet)
        self.flow = flow

    def forward(self, x: Tensor) -> Any:
        return self.flow(x)


def _subnet(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, outputs))


_VECTORS = partial(noise, 4, 6)
_FLOWS: Table = {
    "zuko.maf": (_density("zuko.flows:MAF", **_ZUKO), _VECTORS),
    "zuko.nsf": (_density("zuko.flows:NSF", **_ZUKO), _VECTORS),
    "zuko.realnvp": (_density("zuko.flows:RealNVP", **_ZUKO), _VECTORS),
    "zuko.nice": (_density("zuko.flows:NICE", **_ZUKO), _VECTORS),
    "nflows.realnvp": (_density("nflows.flows:SimpleRealNVP", **_NFLOWS), _VECTORS),
    "nflows.maf": (_density("nflows.flows:MaskedAutoregressiveFlow", **_NFLOWS), _VECTORS),
    "normflows.coupling": (_normflow, _VECTORS),
    "FrEIA.glow": (partial(Invertible, "GLOWCouplingBlock"), _VECTORS),
    "FrEIA.all_in_one": (partial(Invertible, "AllInOneBlock"), _VECTORS),
    "FrEIA.nice": (partial(Invertible, "NICECouplingBlock"), _VECTORS),
}

# ---------------------------------------------------------------- others

_OTHERS: Table = {
    "egnn_pytorch.layer": (
        later("egnn_pytorch:EGNN", dim=32, m_dim=16),
        lambda: (noise(1, 10, 32), noise(1, 10, 3)),
    ),
    "egnn_pytorch.network": (
        later("egnn_pytorch:EGNN_Network", num_tokens=21, num_positions=16, dim=32, depth=2, num_nearest_neighbors=3),
        lambda: (torch.arange(10)[None], noise(1, 10, 3)),
    ),
}

TABLE: Table = {
    **{f"torch_geometric.{name}": entry for name, entry in _GEOMETRIC.items()},
    **{f"deepctr_torch.{name}": entry for name, entry in _DEEPCTR.items()},
    **_TABLES,
    **_FLOWS,
    **_OTHERS,
}
