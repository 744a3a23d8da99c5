"""Blocks of vectors [b, c], and what makes a series into tokens again."""

from __future__ import annotations

from tests.random_networks.writer import Layer, Value, block


@block("vector")
def dense(layer: Layer, x: Value) -> Value:
    outputs = layer.width()
    name = layer.module("fc", f"nn.Linear({x.channels}, {outputs})")
    way = layer.pick("", f"nn.BatchNorm1d({outputs})", f"nn.LayerNorm({outputs})", f"nn.GroupNorm(2, {outputs})")
    layer.line(f"x = {name}(x)")
    if way:
        layer.line(f"x = {layer.module('norm', way)}(x)")
    layer.line(f"x = {layer.activation('x')}")
    return x.with_channels(outputs)


@block("vector")
def sequential(layer: Layer, x: Value) -> Value:
    hidden, outputs = layer.width(), layer.width()
    act = layer.pick("nn.ReLU(inplace=True)", "nn.GELU()", "nn.PReLU()", f"nn.PReLU({hidden})", "nn.Tanh()")
    name = layer.module(
        "mlp", f"nn.Sequential(nn.Linear({x.channels}, {hidden}), {act}, nn.Linear({hidden}, {outputs}))"
    )
    layer.line(f"x = {name}(x)")
    return x.with_channels(outputs)


@block("vector")
def products(layer: Layer, x: Value) -> Value:
    """Two projections that are multiplied in some way."""
    a, b = layer.rng.choice([3, 4]), layer.rng.choice([3, 5])
    left, right = (
        layer.module("left", f"nn.Linear({x.channels}, {a})"),
        layer.module("right", f"nn.Linear({x.channels}, {b})"),
    )
    layer.line(f"p, q = {left}(x), {right}(x)")
    way = layer.pick("outer", "bilinear", "einsum", "kron")
    if way == "bilinear":
        layer.line(f"x = {layer.module('both', f'nn.Bilinear({a}, {b}, 6)')}(p, q)")
        return x.with_channels(6)
    layer.line(
        {
            "outer": "x = (p[:, :, None] * q[:, None, :]).flatten(1)",
            "einsum": "x = torch.einsum('bi,bj->bij', p, q).reshape(p.size(0), -1)",
            "kron": "x = torch.bmm(p.unsqueeze(2), q.unsqueeze(1)).view(p.shape[0], p.shape[1] * q.shape[1])",
        }[way]
    )
    layer.line(f"x = {layer.module('out', f'nn.Linear({a * b}, 6)')}(x)")
    return x.with_channels(6)


@block("vector")
def similarities(layer: Layer, x: Value) -> Value:
    """Distances to prototypes."""
    c, count = x.channels, 5
    prototypes = layer.parameter("prototypes", count, c)
    way = layer.pick("cosine", "cdist", "dot", "squares")
    layer.facts.mixes |= way == "cosine"
    layer.facts.offsets |= way in ("cdist", "squares")
    layer.facts.contracts = True
    layer.line(
        {
            "cosine": f"x = F.normalize(x, dim=-1) @ F.normalize({prototypes}, dim=-1).t()",
            "cdist": f"x = torch.cdist(x, {prototypes})",
            "dot": f"x = x @ {prototypes}.T",
            "squares": f"x = -((x[:, None] - {prototypes}[None]) ** 2).sum(-1)",
        }[way]
    )
    return x.with_channels(count)


@block("vector")
def modulated(layer: Layer, x: Value) -> Value:
    """A scale and a shift from another path (FiLM)."""
    c = x.channels
    name = layer.module("film", f"nn.Linear({c}, {2 * c})")
    layer.facts.offsets = True
    ways = [
        "g, s = {f}(x).chunk(2, -1)",
        "g, s = torch.split({f}(x), {c}, dim=-1)",
        "g, s = {f}(x).view(-1, 2, {c}).unbind(1)",
    ]
    layer.line(layer.pick(*ways).format(f=name, c=layer.size("x", 1, c, 2)), "x = x * (1 + g) + s")
    return x


@block("vector")
def gate_of_groups(layer: Layer, x: Value) -> Value:
    """Channels in groups, each with a weight of its own."""
    groups, width = layer.rng.choice([2, 3]), layer.rng.choice([3, 4])
    name, gate = (
        layer.module("fc", f"nn.Linear({x.channels}, {groups * width})"),
        layer.module("gate", f"nn.Linear({x.channels}, {groups})"),
    )
    n = layer.constant(groups)
    layer.line(f"y = {name}(x).view(x.size(0), {n}, -1)", f"p = {gate}(x).softmax(-1)")
    if layer.chance(0.5):
        layer.facts.mixes = True
        layer.line(
            layer.pick(
                "x = (y * p.unsqueeze(-1)).sum(1)",
                "x = torch.einsum('bgc,bg->bc', y, p)",
                "x = torch.bmm(p.unsqueeze(1), y).squeeze(1)",
            )
        )
        return x.with_channels(width)
    layer.facts.mixes = True
    layer.line("x = (y * p[..., None]).flatten(1)")
    return x.with_channels(groups * width)


@block("vector")
def constants(layer: Layer, x: Value) -> Value:
    """Constants of the shape of an activation."""
    name = layer.module("fc", f"nn.Linear({x.channels}, {x.channels})")
    ways = [
        "x = x + torch.ones_like(x)",
        "x = torch.cat([x, x.new_ones(x.size(0), 1)], 1)[:, : x.shape[1]]",
        "x = x * torch.full_like(x, 0.5)",
    ]
    ways += ["x = x / (torch.ones_like(x).sum(1, keepdim=True))", "x = x - torch.zeros(x.shape, dtype=x.dtype)"]
    way = layer.pick(*ways)
    layer.facts.mixes |= ".sum(1" in way
    layer.facts.offsets = True
    layer.line(f"x = {name}(x)", way)
    return x


@block("vector")
def to_image(layer: Layer, x: Value) -> Value:
    """A generator: a linear layer whose outputs are an image."""
    c, size = layer.rng.choice([4, 6]), 4
    name = layer.module("fc", f"nn.Linear({x.channels}, {c * size * size})")
    shape = layer.pick(f"x.size(0), {layer.constant(c)}, 4, 4", f"-1, {layer.constant(c)}, 4, 4", "x.size(0), -1, 4, 4")
    layer.line(f"x = {name}(x)", f"x = x.view({shape})")
    return Value("image", c, size)


@block("series")
def series_to_tokens(layer: Layer, x: Value) -> Value:
    layer.line(layer.pick("x = x.transpose(1, 2)", "x = x.permute(0, 2, 1)", "x = x.mT.contiguous()"))
    return Value("tokens", x.channels, x.length)
