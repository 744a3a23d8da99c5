"""Blocks of tokens [b, t, c]."""

from __future__ import annotations

from tests.random_networks.writer import Layer, Value, block, divisors


def norm(layer: Layer, x: Value, expression: str = "x") -> str:
    """A normalization of the channels of tokens."""
    c = x.channels
    way = layer.pick("layer", "layer", "rms", "hand", "hand_layer", "batch", "none", "functional")
    if way == "layer":
        return f"{layer.module('norm', f'nn.LayerNorm({c})')}({expression})"
    if way == "rms":
        return f"{layer.module('norm', f'nn.RMSNorm({c}, eps=1e-6)')}({expression})"
    if way == "batch":
        return f"{layer.module('norm', f'nn.BatchNorm1d({c})')}({expression}.transpose(1, 2)).transpose(1, 2)"
    if way == "none":
        return expression
    layer.facts.mixes = True
    gain = layer.parameter("gain", c)
    if way == "functional":
        return (
            f"F.layer_norm({expression}, {layer.pick(f'({c},)', f'{expression}.shape[-1:]', f'{gain}.shape')}, {gain})"
        )
    if way == "hand":
        ways = ["{x} * torch.rsqrt({x}.pow(2).mean(-1, keepdim=True) + 1e-6) * {g}"]
        ways += [
            "F.normalize({x}, dim=-1) * {x}.shape[-1] ** 0.5 * {g}",
            "{x} / ({x}.norm(dim=-1, keepdim=True) + 1e-3) * {g}",
        ]
        return layer.pick(*ways).format(x=expression, g=gain)
    name = layer.fresh("normalized")
    layer.line(f"mu = {expression}.mean(-1, keepdim=True)", f"var = ({expression} - mu).pow(2).mean(-1, keepdim=True)")
    layer.line(f"{name} = ({expression} - mu) / torch.sqrt(var + 1e-5) * {gain}")
    return name


def linear(layer: Layer, inputs: int, outputs: int, expression: str) -> str:
    """A product with a weight, in one of its spellings."""
    way = layer.rng.randrange(8)
    if way == 0:
        return f"F.linear({expression}, {layer.parameter('w', outputs, inputs)}, {layer.parameter('b', outputs)})"
    if way == 1:
        return f"{expression} @ {layer.parameter('w', inputs, outputs)}"
    if way == 2:
        return f"torch.einsum('btc,cd->btd', {expression}, {layer.parameter('w', inputs, outputs)})"
    if way == 3:
        name = layer.module("conv", f"nn.Conv1d({inputs}, {outputs}, 1)")
        return f"{name}({expression}.transpose(1, 2)).transpose(1, 2)"
    name = layer.module("fc", f"nn.Linear({inputs}, {outputs}, bias={layer.chance(0.7)})")
    return f"{name}({expression})"


@block("tokens")
def mlp(layer: Layer, x: Value) -> Value:
    hidden = layer.width()
    layer.line(f"y = {norm(layer, x)}", f"y = {linear(layer, x.channels, hidden, 'y')}", f"y = {layer.activation('y')}")
    if layer.chance(0.2):
        layer.line(f"y = {layer.module('drop', 'nn.Dropout(0.1)')}(y)")
    layer.line(
        f"y = {linear(layer, hidden, x.channels, 'y')}", layer.pick("x = x + y", "x = y.add(x)", "x = x + 0.5 * y")
    )
    return x


@block("tokens")
def glu(layer: Layer, x: Value) -> Value:
    hidden = layer.rng.choice([4, 6, 7])
    layer.line(f"y = {norm(layer, x)}")
    if layer.chance(0.3):
        layer.line(f"v = {linear(layer, x.channels, hidden, 'y')}", f"g = {linear(layer, x.channels, hidden, 'y')}")
    else:
        ways = [
            "v, g = y.chunk(2, dim=-1)",
            f"v, g = y.split({layer.constant(hidden)}, -1)",
            "v, g = y[..., : y.shape[-1] // 2], y[..., y.shape[-1] // 2 :]",
            "v, g = y[..., ::2], y[..., 1::2]",
            "v, g = y.unflatten(-1, (2, -1)).unbind(-2)",
            "v, g = y.reshape(*y.shape[:-1], -1, 2).unbind(-1)",
        ]
        layer.line(f"y = {linear(layer, x.channels, 2 * hidden, 'y')}", layer.pick(*ways))
    layer.line(f"y = v * {layer.pick('F.silu(g)', 'torch.sigmoid(g)', 'F.gelu(g)')}")
    layer.line(f"x = x + {linear(layer, hidden, x.channels, 'y')}")
    return x


def heads_view(layer: Layer, variable: str, heads: str, width: int, dim: int) -> str:
    """[b, t, c] -> [b, heads, t, width]."""
    ways = [
        f"{variable}.view(b, t, {heads}, -1).transpose(1, 2)",
        f"{variable}.reshape(b, t, {heads}, {layer.size(variable, 2, dim, 3)} // {heads}).permute(0, 2, 1, 3)",
        f"{variable}.unflatten(-1, ({heads}, -1)).transpose(1, 2)",
        f"torch.stack({variable}.chunk({heads}, dim=-1), dim=1)",
        f"torch.einsum('bthd->bhtd', {variable}.view(b, t, {heads}, {layer.constant(width)}))",
        f"{variable}.view(b, -1, {heads}, {layer.constant(width)}).transpose(2, 1)",
    ]
    return layer.rng.choice(ways)


@block("tokens")
def attention(layer: Layer, x: Value) -> Value:
    """Attention by hand, with heads found in many ways."""
    heads = layer.rng.choice([1, 2, 3, 4])
    width = layer.rng.choice([2, 4])
    dim = heads * width
    layer.facts.contracts = True
    n = layer.constant(heads)
    layer.line(f"y = {norm(layer, x)}", layer.pick("b, t, _ = y.shape", "b, t = y.shape[:2]", "b, t, c = y.size()"))
    if layer.chance(0.4):
        qkv = layer.module("qkv", f"nn.Linear({x.channels}, {3 * dim}, bias={layer.chance(0.5)})")
        ways = [
            f"q, k, v = {qkv}(y).reshape(b, t, 3, {n}, -1).permute(2, 0, 3, 1, 4)",
            f"q, k, v = {qkv}(y).view(b, t, 3, {n}, {layer.constant(width)}).permute(2, 0, 3, 1, 4).unbind(0)",
            f"q, k, v = {qkv}(y).view(b, t, {n}, 3 * {layer.constant(width)}).transpose(1, 2).chunk(3, dim=-1)",
            f"q, k, v = (s.view(b, t, {n}, -1).transpose(1, 2) for s in {qkv}(y).chunk(3, dim=-1))",
            f"q, k, v = torch.einsum('btkhd->kbhtd', {qkv}(y).view(b, t, 3, {n}, -1))",
        ]
        layer.line(layer.pick(*ways))
    else:
        for name in "qkv":
            layer.line(f"{name} = {linear(layer, x.channels, dim, 'y')}")
        for name in "qkv":
            layer.line(f"{name} = {heads_view(layer, name, n, width, dim)}")
    _extras(layer, heads, width)
    _weights(layer, width)
    ways = [
        "y.transpose(1, 2).reshape(b, t, -1)",
        f"y.transpose(1, 2).contiguous().view(b, t, {n} * y.shape[-1])",
        "y.permute(0, 2, 1, 3).flatten(2)",
        "torch.cat(y.unbind(1), dim=-1)",
        f"y.transpose(1, 2).reshape(b, t, {layer.constant(dim)})",
    ]
    layer.line(f"y = {layer.pick(*ways)}", f"x = x + {linear(layer, dim, x.channels, 'y')}")
    return x


def _extras(layer: Layer, heads: int, width: int) -> None:
    """What is done to queries and keys before they meet."""
    way = layer.pick("", "", "", "qk_norm", "rotary", "head_gain", "width_gain", "rotary_pairs", "l2", "head_norm")
    layer.facts.mixes |= way in ("qk_norm", "l2", "head_norm")
    if way == "qk_norm":
        layer.line(
            f"q = {layer.module('qn', f'nn.LayerNorm({width})')}(q)",
            f"k = {layer.module('kn', f'nn.RMSNorm({width})')}(k)",
        )
    elif way == "head_norm":
        layer.line(f"q = {layer.module('qn', f'nn.LayerNorm([{heads}, {width}])')}(q.transpose(1, 2)).transpose(1, 2)")
    elif way == "l2":
        layer.line("q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)")
    elif way == "head_gain":
        layer.line(f"q = q * {layer.parameter('hg', heads, 1, 1)}")
    elif way == "width_gain":
        layer.line(f"k = k * {layer.parameter('wg', width)}")
    elif way == "rotary":
        layer.line(
            f"angle = torch.arange(t, dtype=x.dtype)[:, None] * {layer.buffer('freq', f'torch.rand({width // 2})')}"
        )
        layer.line("cos, sin = torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin()")
        layer.line("rot = lambda z: torch.cat([-z[..., z.shape[-1] // 2 :], z[..., : z.shape[-1] // 2]], dim=-1)")
        layer.line("q, k = q * cos + rot(q) * sin, k * cos + rot(k) * sin")
    elif way == "rotary_pairs":
        layer.line(
            f"angle = torch.arange(t, dtype=x.dtype)[:, None] * {layer.buffer('freq', f'torch.rand({width // 2})')}"
        )
        layer.line("q1, q2 = q[..., ::2], q[..., 1::2]")
        layer.line(
            "c, s = angle.cos(), angle.sin(); q = torch.stack([q1 * c - q2 * s, q1 * s + q2 * c], -1).flatten(-2)"
        )


def _weights(layer: Layer, width: int) -> None:
    """Scores, masks and the weighted sum."""
    way = layer.rng.randrange(6)
    if way == 0:
        causal = layer.chance(0.4)
        layer.line(f"y = F.scaled_dot_product_attention(q, k, v, is_causal={causal})")
        return
    if way == 1:
        layer.facts.offsets = True
        layer.line("q, k = F.elu(q) + 1, F.elu(k) + 1", "kv = torch.einsum('bhtd,bhte->bhde', k, v)")
        layer.line("y = torch.einsum('bhtd,bhde->bhte', q, kv) / (q @ k.sum(2).unsqueeze(-1) + 1e-3)")
        layer.facts.mixes = True
        return
    scale = layer.pick(
        "q.shape[-1] ** -0.5",
        "1 / math.sqrt(q.size(-1))",
        layer.attribute("scale", f"{width} ** -0.5"),
        "(1.0 / np.sqrt(k.shape[-1]))",
    )
    scores = layer.pick("q @ k.transpose(-2, -1)", "torch.matmul(q, k.mT)", "torch.einsum('bhid,bhjd->bhij', q, k)")
    layer.line(f"a = ({scores}) * {scale}")
    if layer.chance(0.3):
        layer.line("mask = torch.ones(t, t, dtype=torch.bool).tril()", "a = a.masked_fill(~mask, float('-inf'))")
    elif layer.chance(0.2):
        layer.line("a = a + torch.full((t, t), -1e4, dtype=a.dtype).triu(1)")
    layer.line(layer.pick("a = a.softmax(-1)", "a = F.softmax(a, dim=-1)", "a = torch.softmax(a, -1)"))
    layer.line(layer.pick("y = a @ v", "y = torch.einsum('bhij,bhjd->bhid', a, v)"))


@block("tokens")
def torch_attention(layer: Layer, x: Value) -> Value:
    heads = layer.rng.choice(divisors(x.channels, 4))
    way = layer.rng.randrange(4)
    layer.facts.contracts = True
    if way == 0:
        name = layer.module("attn", f"nn.MultiheadAttention({x.channels}, {heads}, batch_first=True)")
        layer.line(f"y, _ = {name}(x, x, x, need_weights={layer.chance(0.5)})", "x = x + y")
    elif way == 1:
        name = layer.module("attn", f"nn.MultiheadAttention({x.channels}, {heads}, bias={layer.chance(0.5)})")
        layer.line("z = x.transpose(0, 1)", f"x = x + {name}(z, z, z)[0].transpose(0, 1)")
    elif way == 2:
        name = layer.module(
            "enc",
            f"nn.TransformerEncoderLayer({x.channels}, {heads}, 9, batch_first=True, norm_first={layer.chance(0.5)})",
        )
        layer.line(f"x = {name}(x)")
    else:
        name = layer.module("attn", f"nn.MultiheadAttention({x.channels}, {heads}, kdim=5, vdim=5, batch_first=True)")
        small = linear(layer, x.channels, 5, "x")
        layer.line(f"z = {small}", f"x = x + {name}(x, z, z, need_weights=False)[0]")
    return x


@block("tokens")
def shared_heads(layer: Layer, x: Value) -> Value:
    """Query heads that share keys and values."""
    kv, repeats, width = layer.rng.choice([1, 2]), layer.rng.choice([2, 3]), 4
    layer.facts.contracts = True
    heads = kv * repeats
    q = layer.module("q", f"nn.Linear({x.channels}, {heads * width})")
    k, v = (layer.module(s, f"nn.Linear({x.channels}, {kv * width})") for s in "kv")
    out = layer.module("o", f"nn.Linear({heads * width}, {x.channels})")
    nh, nk = layer.constant(heads), layer.constant(kv)
    layer.line("b, t, _ = x.shape", f"qs = {q}(x).view(b, t, {nh}, -1).transpose(1, 2)")
    layer.line(f"ks, vs = {k}(x).view(b, t, {nk}, -1).transpose(1, 2), {v}(x).view(b, t, {nk}, -1).transpose(1, 2)")
    repeat = layer.pick(
        f"repeat_interleave({nh} // {nk}, dim=1)",
        "unsqueeze(2).expand(-1, -1, R, -1, -1).flatten(1, 2)",
        "unsqueeze(2).expand(b, ks.shape[1], R, t, -1).reshape(b, -1, t, ks.shape[-1])",
    ).replace("R", layer.constant(repeats))
    vs = repeat.replace("ks.", "vs.")
    layer.line(f"ks, vs = ks.{repeat}, vs.{vs}", "y = F.scaled_dot_product_attention(qs, ks, vs)")
    layer.line(f"x = x + {out}(y.transpose(1, 2).reshape(b, t, {layer.pick('-1', 'y.shape[1] * y.shape[-1]')}))")
    return x


@block("tokens")
def head_grid(layer: Layer, x: Value) -> Value:
    """A grid of heads and channels, with an operation along or within the heads."""
    heads, width = layer.rng.choice([2, 3, 4]), layer.rng.choice([2, 3])
    dim = heads * width
    n = layer.constant(heads)
    layer.line(f"y = {linear(layer, x.channels, dim, 'x')}", f"g = y.view(*y.shape[:2], {n}, -1)")
    ways = {
        "sum": "y = g.sum(2)",
        "mean": "y = g.mean(dim=2)",
        "max": "y = g.amax(-2)",
        "softmax_sum": "y = (g.softmax(dim=2) * g).sum(2)",
        "cumsum": "y = g.cumsum(2).flatten(2)",
        "cumprod": "y = torch.cumprod(g, dim=-2).flatten(-2)",
        "norm": "y = F.normalize(g, dim=-2).flatten(2)",
        "inner": f"y = (g * {layer.parameter('probe', heads, width)}).sum(-1)",
        "cell": f"y = (g * {layer.parameter('probe', width)}).sum(-1)",
        "mix": f"y = torch.einsum('bthd,hk->btkd', g, {layer.parameter('mix', heads, heads)}).flatten(2)",
        "each": f"y = torch.einsum('bthd,hde->bthe', g, {layer.parameter('each', heads, width, width)}).flatten(2)",
        "pick": "y = g[:, :, 0]",
        "last": "y = g.select(2, -1)",
        "diff": "y = (g[:, :, 1:] - g[:, :, :-1]).flatten(2)",
        "sort": "y = g.sort(dim=2).values.flatten(2)",
        "outer": "y = torch.einsum('bthd,bthe->btde', g, g).flatten(2)",
        "gram": "y = torch.einsum('bthd,btkd->bthk', g, g).flatten(2)",
        "transpose": "y = g.transpose(2, 3).flatten(2)",
        "roll": "y = g.roll(1, 2).flatten(2)",
        "logsumexp": "y = g.logsumexp(2)",
        "std": "y = g.std(dim=2)",
        "layer_norm": f"y = F.layer_norm(g, ({width},)).flatten(2)",
        "layer": "y = F.layer_norm(g, g.shape[-2:]).flatten(2)",
        "prod": "y = g.prod(2)",
    }
    way = layer.pick(*ways)
    shapes = dict.fromkeys(ways, dim) | dict.fromkeys(
        ("sum", "mean", "max", "softmax_sum", "logsumexp", "std", "prod", "pick", "last"), width
    )
    shapes |= {"inner": heads, "cell": heads, "diff": (heads - 1) * width, "outer": width**2, "gram": heads**2}
    layer.facts.mixes |= way not in (
        "sum",
        "inner",
        "cell",
        "mix",
        "each",
        "pick",
        "last",
        "transpose",
        "roll",
        "diff",
        "outer",
        "gram",
    )
    layer.facts.contracts = True
    for name in ("probe", "mix", "each"):
        layer.init = [s for s in layer.init if not s.startswith(f"self.{name}") or s.split(" ")[0] in ways[way]]
    layer.line(ways[way], f"x = x + {linear(layer, shapes[way], x.channels, 'y')}")
    return x


@block("tokens")
def recurrent(layer: Layer, x: Value) -> Value:
    hidden = layer.width()
    kind = layer.pick("LSTM", "GRU", "RNN")
    way = layer.pick("batch", "time", "both", "stacked", "last")
    if way == "time":
        name = layer.module("rnn", f"nn.{kind}({x.channels}, {hidden})")
        layer.line(f"y, _ = {name}(x.transpose(0, 1))", "x = y.transpose(0, 1)")
        return x.with_channels(hidden)
    extra = {"both": ", bidirectional=True", "stacked": ", num_layers=2"}.get(way, "")
    name = layer.module("rnn", f"nn.{kind}({x.channels}, {hidden}, batch_first=True{extra})")
    if way == "last":
        layer.line(
            f"y, h = {name}(x)",
            "h = h[0] if isinstance(h, tuple) else h",
            f"y = {layer.module('fc', f'nn.Linear({hidden}, {x.channels})')}(h[-1])",
        )
        layer.line("x = x + y.unsqueeze(1)")
        return x
    layer.line(f"x, _ = {name}(x)")
    return x.with_channels(hidden * (1 + (way == "both")))


@block("tokens")
def cell_loop(layer: Layer, x: Value) -> Value:
    hidden = layer.rng.choice([4, 6])
    kind = layer.pick("GRUCell", "LSTMCell", "hand")
    start = layer.pick(
        f"x.new_zeros(x.size(0), {layer.constant(hidden)})",
        f"torch.zeros(x.shape[0], {layer.constant(hidden)}, dtype=x.dtype)",
    )
    if kind == "hand":
        fx, fh = (
            layer.module("fx", f"nn.Linear({x.channels}, {hidden})"),
            layer.module("fh", f"nn.Linear({hidden}, {hidden})"),
        )
        layer.line(
            f"h = {start}",
            "outs = []",
            "for step in x.unbind(1):",
            f"    h = torch.tanh({fx}(step) + {fh}(h))",
            "    outs.append(h)",
        )
    elif kind == "GRUCell":
        name = layer.module("cell", f"nn.GRUCell({x.channels}, {hidden})")
        layer.line(
            f"h = {start}",
            "outs = []",
            "for i in range(x.size(1)):",
            f"    h = {name}(x[:, i], h)",
            "    outs.append(h)",
        )
    else:
        name = layer.module("cell", f"nn.LSTMCell({x.channels}, {hidden})")
        layer.line(
            f"h = c = {start}",
            "outs = []",
            "for i in range(x.shape[1]):",
            f"    h, c = {name}(x[:, i], (h, c))",
            "    outs.append(h)",
        )
    layer.line("x = torch.stack(outs, dim=1)")
    return x.with_channels(hidden)


@block("tokens")
def time_conv(layer: Layer, x: Value) -> Value:
    """Convolutions over positions; a causal one pads on the left."""
    c = x.channels
    depthwise = layer.chance(0.5)
    outputs = c if depthwise else layer.width()
    padding = 2 if layer.chance(0.5) else 0
    name = layer.module("conv", f"nn.Conv1d({c}, {outputs}, 3, padding={padding}, groups={c if depthwise else 1})")
    layer.line(
        "y = x.transpose(1, 2)", f"y = {name}(y)[..., : x.shape[1]]" if padding else f"y = {name}(F.pad(y, (2, 0)))"
    )
    layer.line("y = y.transpose(1, 2)", f"x = {layer.activation('y')}")
    return x.with_channels(outputs)


@block("tokens")
def mixer(layer: Layer, x: Value) -> Value:
    """An MLP over positions."""
    up, down = layer.module("up", f"nn.Linear({x.length}, 5)"), layer.module("down", f"nn.Linear(5, {x.length})")
    layer.line(f"y = {norm(layer, x)}", f"y = {down}({layer.activation(f'{up}(y.mT)')}).mT", "x = x + y")
    return x


@block("tokens")
def experts(layer: Layer, x: Value) -> Value:
    c, count, hidden = x.channels, layer.rng.choice([2, 3]), 5
    router = layer.module("router", f"nn.Linear({c}, {count})")
    if layer.chance(0.5):
        expert = f"nn.Sequential(nn.Linear({c}, {hidden}), nn.SiLU(), nn.Linear({hidden}, {c}))"
        layer.init.append(f"self.experts = nn.ModuleList({expert} for _ in range({count}))")
        layer.line(
            f"p = {router}(x).softmax(-1)", "x = x + sum(p[..., i : i + 1] * e(x) for i, e in enumerate(self.experts))"
        )
        return x
    w1, w2 = layer.parameter("w", count, c, hidden), layer.parameter("w", count, hidden, c)
    layer.line(f"p = F.softmax({router}(x), dim=-1)", f"h = F.relu(torch.einsum('btc,ech->bteh', x, {w1}))")
    layer.line(f"y = torch.einsum('bteh,ehc->btec', h, {w2})", "x = x + (y * p.unsqueeze(-1)).sum(2)")
    layer.facts.mixes = True
    return x


@block("tokens")
def adapter(layer: Layer, x: Value) -> Value:
    """A low-rank change of a linear layer."""
    outputs = layer.width()
    name = layer.module("base", f"nn.Linear({x.channels}, {outputs})")
    a, b = layer.parameter("a", 2, x.channels), layer.parameter("b", outputs, 2)
    scale = layer.attribute("alpha", "16 / 2")
    if layer.chance(0.5):
        layer.line(f"x = {name}(x) + F.linear(F.linear(x, {a}), {b}) * {scale}")
    else:
        layer.line(f"x = F.linear(x, {name}.weight + {b} @ {a} * {scale}, {name}.bias)")
    return x.with_channels(outputs)


@block("tokens")
def scan(layer: Layer, x: Value) -> Value:
    """A decaying sum over positions."""
    decay = layer.parameter("decay", x.channels)
    layer.line(
        f"d = torch.exp(-F.softplus({decay}))",
        "y = torch.cumsum(x * d, dim=1)",
        f"x = x + {linear(layer, x.channels, x.channels, 'y')}",
    )
    return x


@block("tokens")
def class_token(layer: Layer, x: Value) -> Value:
    c, t = x.channels, x.length
    token, positions = layer.parameter("token", 1, 1, c), layer.parameter("positions", 1, t + 1, c)
    expand = layer.pick("expand(x.shape[0], -1, -1)", "repeat(x.size(0), 1, 1)", "expand(len(x), 1, x.shape[-1])")
    layer.line(
        f"x = torch.cat([{token}.{expand}, x], dim=1)", f"x = x + {positions}{layer.pick('', '[:, : x.shape[1]]')}"
    )
    return Value("tokens", c, t + 1)


@block("tokens")
def sinusoids(layer: Layer, x: Value) -> Value:
    """Positions from a table made in ``forward``."""
    layer.facts.offsets = True
    if x.channels % 2:
        return mlp(layer, x)
    layer.line("pos = torch.arange(x.shape[1], dtype=x.dtype).unsqueeze(1)")
    layer.line("freq = torch.exp(torch.arange(0, x.shape[-1], 2, dtype=x.dtype) * (-math.log(100.0) / x.shape[-1]))")
    layer.line(
        layer.pick(
            "x = x + torch.cat([(pos * freq).sin(), (pos * freq).cos()], -1)",
            "table = torch.zeros(x.shape[1], x.shape[2], dtype=x.dtype); table[:, 0::2] = torch.sin(pos * freq); "
            "table[:, 1::2] = torch.cos(pos * freq); x = x + table",
        )
    )
    return x


@block("tokens")
def widen_narrow(layer: Layer, x: Value) -> Value:
    """Tokens joined to fewer and wider ones (patch merging)."""
    if x.length % 2:
        return glu(layer, x)
    outputs = layer.width()
    ways = [
        "x = torch.cat([x[:, 0::2], x[:, 1::2]], -1)",
        "x = x.reshape(x.shape[0], -1, 2 * x.shape[-1])",
        f"x = x.contiguous().view(x.size(0), x.size(1) // 2, {layer.size('x', 2, x.channels, 3)} * 2)",
        "x = x.unflatten(1, (-1, 2)).flatten(2)",
    ]
    layer.line(layer.pick(*ways))
    layer.line(f"x = {layer.module('reduction', f'nn.Linear({2 * x.channels}, {outputs})')}(x)")
    return Value("tokens", outputs, x.length // 2)


@block("tokens")
def casts(layer: Layer, x: Value) -> Value:
    """Another number type, and back."""
    layer.facts.rounds = True
    name = layer.module("fc", f"nn.Linear({x.channels}, {x.channels})")
    layer.line(
        layer.pick(
            "y = x.float().softmax(1).to(x.dtype)",
            "y = x.float().tanh().type_as(x)",
            "y = x.double().pow(2).to(x.dtype)",
            "y = x.float().pow(2).mean(1, keepdim=True).to(x.dtype)",
        )
    )
    layer.line(f"x = {name}(x + y)")
    return x


@block("tokens")
def loops(layer: Layer, x: Value) -> Value:
    """Layers in containers, found by name or number."""
    c, count = x.channels, layer.rng.choice([2, 3])
    way = layer.rng.randrange(5)
    if way == 0:
        layer.init.append(f"self.layers = nn.ModuleDict({{f'l{{i}}': nn.Linear({c}, {c}) for i in range({count})}})")
        layer.line(f"for i in range({count}):", "    x = x + F.gelu(self.layers[f'l{i}'](x))")
    elif way == 1:
        for i in range(count):
            layer.init.append(f"self.fc_{i} = nn.Linear({c}, {c})")
        layer.line(f"for i in range({count}):", "    x = torch.tanh(getattr(self, f'fc_{i}')(x))")
    elif way == 2:
        inner = f"nn.Sequential(nn.Linear({c}, 6), nn.ReLU(), nn.Linear(6, {c}))"
        layer.init.append(f"self.layers = nn.Sequential(*[{inner} for _ in range({count})])")
        layer.line("for layer in self.layers:", "    x = layer(x) + x")
    elif way == 3:
        layer.init.append(f"self.ws = nn.ParameterList([nn.Parameter(torch.randn({c}, {c})) for _ in range({count})])")
        layer.line("for w in self.ws:", "    x = F.silu(x @ w)")
    else:
        weights = f"a=nn.Parameter(torch.randn({c}, 5)), b=nn.Parameter(torch.randn(5, {c}))"
        layer.init.append(f"self.ws = nn.ParameterDict(dict({weights}))")
        layer.line("x = x + F.relu(x @ self.ws['a']) @ self.ws['b']")
    return x


@block("tokens")
def state_of_its_own(layer: Layer, x: Value) -> Value:
    """Closures, hooks, caches and functions that hold parts of the model."""
    c = x.channels
    name = layer.module("fc", f"nn.Linear({c}, {c})")
    way = layer.pick(
        "lambda",
        "partial",
        "hook",
        "pre_hook",
        "cache",
        "dict_cache",
        "method",
        "buffer_cache",
        "stores",
        "function",
        "property",
    )
    if way == "lambda":
        layer.init.append(f"self.act = lambda y: F.relu({name}(y)) + y")
        layer.line("x = self.act(x)")
    elif way == "partial":
        layer.init.append("self.act = functools.partial(torch.add, alpha=0.5)")
        layer.line(f"x = self.act(x, {name}(x))")
    elif way == "hook":
        layer.init.append(
            f"{name}.register_forward_hook(lambda m, i, o: o * {name}.bias.abs().mean() if False else o.relu())"
        )
        layer.line(f"x = {name}(x)")
    elif way == "pre_hook":
        layer.init.append(f"{name}.register_forward_pre_hook(lambda m, i: (torch.tanh(i[0]),))")
        layer.line(f"x = {name}(x)")
    elif way == "cache":
        layer.init.append("self.table = None")
        layer.line("if self.table is None or self.table.shape[0] != x.shape[1]:")
        layer.line(
            "    self.table = torch.arange(x.shape[1], dtype=x.dtype).div(10)",
            f"x = {name}(x) * self.table[:, None].to(x.dtype)",
        )
    elif way == "dict_cache":
        layer.init.append("self.tables = {}")
        layer.line("key = (x.shape[1], x.shape[2])", "if key not in self.tables:")
        layer.line(
            "    self.tables[key] = torch.ones(key[0], 1, dtype=x.dtype)",
            f"x = {name}(x) * self.tables[key].to(x.dtype)",
        )
    elif way == "method":
        layer.init.append(f"self.apply_it = {name}.forward")
        layer.line("x = self.apply_it(x).relu()")
    elif way == "buffer_cache":
        buffer = layer.buffer("pos", f"torch.randn(1, 64, {c})")
        layer.line(f"x = {name}(x) + {buffer}[:, : x.size(1)]")
    elif way == "stores":
        layer.init.append("self.last = None")
        layer.line(f"x = {name}(x)", "self.last = x.detach()", "x = x + 1e-3 * self.last.sum(1, keepdim=True)")
    elif way == "function":
        layer.helpers += [
            f"def helper_{layer.name.lower()}(x, module):",
            "    return module(x) * (1.0 / x.shape[-2])",
            "",
        ]
        layer.line(f"x = helper_{layer.name.lower()}(x, {name})")
    else:
        layer.init.append(f"self.out_dim = {c}")
        layer.line(
            "assert x.shape[-1] == self.out_dim, 'wrong width'",
            f"x = {name}(x).view(x.shape[0], x.shape[1], self.out_dim)",
        )
    return x


@block("tokens")
def checks_sizes(layer: Layer, x: Value) -> Value:
    """Branches on sizes, and tables of layers by size."""
    c = x.channels
    way = layer.rng.randrange(4)
    if way == 0:
        a, b = layer.module("wide", f"nn.Linear({c}, {c})"), layer.module("slim", f"nn.Linear({c}, {c})")
        layer.line(f"x = {a}(x) if x.shape[-1] > {layer.rng.choice([2, 5, 7])} else {b}(x)")
    elif way == 1:
        layer.init.append(f"self.by_width = nn.ModuleDict({{'w{c}': nn.Linear({c}, {c})}})")
        layer.line("x = self.by_width[f'w{x.shape[-1]}'](x)")
    elif way == 2:
        name = layer.module("fc", f"nn.Linear({c}, {c})")
        layer.line(f"if x.size(-1) != {name}.in_features:", "    raise ValueError('bad width')", f"x = {name}(x)")
    else:
        name = layer.module("fc", f"nn.Linear({c}, {c})")
        layer.line(f"x = {name}(x) * (2.0 if x.shape[2] % 2 == 0 else 3.0)")
    return x


@block("tokens")
def to_series(layer: Layer, x: Value) -> Value:
    layer.line(
        layer.pick(
            "x = x.transpose(1, 2)", "x = x.permute(0, 2, 1).contiguous()", "x = x.mT", "x = torch.swapaxes(x, 1, 2)"
        )
    )
    return Value("series", x.channels, x.length)


@block("tokens")
def pooled(layer: Layer, x: Value) -> Value:
    layer.line(
        f"x = {norm(layer, x)}",
        layer.pick(
            "x = x.mean(1)", "x = x[:, 0]", "x = x[:, -1]", "x = x.max(dim=1).values", "x = x.sum(dim=1) / x.shape[1]"
        ),
    )
    return Value("vector", x.channels)
