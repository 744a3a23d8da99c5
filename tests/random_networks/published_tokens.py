"""Blocks of tokens and vectors that are known from papers, as their authors wrote them."""

from __future__ import annotations

from tests.random_networks.writer import Layer, Value, block


@block("tokens")
def self_attention_with_methods(layer: Layer, x: Value) -> Value:
    """Shapes that are sums of tuples (BERT)."""
    heads, width = layer.rng.choice([2, 3]), layer.rng.choice([2, 4])
    dim = heads * width
    layer.facts.contracts = True
    n, w, total = layer.attribute("heads", heads), layer.attribute("width", width), layer.attribute("all", dim)
    q, k, v = (layer.module(s, f"nn.Linear({x.channels}, {dim})") for s in ("query", "key", "value"))
    out = layer.module("dense", f"nn.Linear({dim}, {x.channels})")
    norm = layer.module("norm", f"nn.LayerNorm({x.channels})")
    layer.line(f"split = lambda z: z.view(z.size()[:-1] + ({n}, {layer.pick(w, '-1')})).permute(0, 2, 1, 3)")
    layer.line(
        f"qs, ks, vs = split({q}(x)), split({k}(x)), split({v}(x))", f"a = qs @ ks.transpose(-1, -2) / math.sqrt({w})"
    )
    layer.line("a = F.dropout(a.softmax(-1), 0.1, self.training)", "y = (a @ vs).permute(0, 2, 1, 3).contiguous()")
    layer.line(f"y = y.view(y.size()[:-2] + ({layer.pick(total, '-1')},))", f"x = {norm}({out}(y) + x)")
    return x


@block("tokens")
def biased_attention(layer: Layer, x: Value) -> Value:
    """Scores with a bias for each head: buckets of distances, slopes, or talking heads."""
    heads, width = layer.rng.choice([2, 4]), 2
    dim = heads * width
    layer.facts.contracts = True
    n = layer.constant(heads)
    qkv, out = (
        layer.module("qkv", f"nn.Linear({x.channels}, {3 * dim}, bias=False)"),
        layer.module("out", f"nn.Linear({dim}, {x.channels})"),
    )
    layer.line("b, t, _ = x.shape", f"q, k, v = (z.view(b, t, {n}, -1).transpose(1, 2) for z in {qkv}(x).chunk(3, -1))")
    layer.line("s = q @ k.transpose(-2, -1)")
    way = layer.pick(
        "buckets", "slopes", "slopes_made", "talking", "talking_conv", "gate", "temperature", "sigmoid", "sink"
    )
    if way == "buckets":
        table = layer.module("table", f"nn.Embedding(7, {heads})")
        layer.line(
            "d = (torch.arange(t)[None] - torch.arange(t)[:, None]).clamp(-3, 3) + 3",
            f"s = s + {table}(d).permute(2, 0, 1)",
        )
    elif way == "slopes":
        slopes = layer.buffer("slopes", f"torch.tensor([2.0 ** -(i + 1) for i in range({heads})]).view({heads}, 1, 1)")
        layer.line(f"s = s - {slopes} * (torch.arange(t)[None] - torch.arange(t)[:, None]).abs()")
    elif way == "slopes_made":
        layer.line(
            f"m = 2.0 ** -torch.arange(1, {layer.pick(n, 's.shape[1]')} + 1, dtype=x.dtype)",
            "s = s - m[:, None, None] * torch.arange(t)",
        )
    elif way == "talking":
        layer.facts.mixes = True
        layer.line(f"s = torch.einsum('bhij,hg->bgij', s, {layer.parameter('talk', heads, heads)})")
    elif way == "talking_conv":
        layer.facts.mixes = True
        layer.line(f"s = {layer.module('talk', f'nn.Conv2d({heads}, {heads}, 1)')}(s)")
    elif way == "gate":
        gate = layer.module("gate", f"nn.Linear({x.channels}, {heads})")
        layer.line(f"v = v * torch.sigmoid({gate}(x)).transpose(1, 2).unsqueeze(-1)")
    elif way == "temperature":
        layer.line(f"s = s * {layer.parameter('temperature', heads, 1, 1)}.clamp(max=2.0).exp()")
    elif way == "sigmoid":
        layer.line("s = torch.log(torch.sigmoid(s) + 1e-4)")
    else:
        sink = layer.parameter("sink", heads)
        layer.line(
            f"s = torch.cat([s, {sink}.view(1, -1, 1, 1).expand(b, -1, t, 1)], -1)",
            "v = torch.cat([v, torch.zeros_like(v[:, :, :1])], 2)",
        )
    layer.line("y = (s.softmax(-1) @ v).transpose(1, 2).flatten(2)", f"x = x + {out}(y)")
    return x


@block("tokens")
def latent_queries(layer: Layer, x: Value) -> Value:
    """Learned queries that read the tokens (Perceiver, DETR, pooling by attention)."""
    c, count = x.channels, layer.rng.choice([2, 3])
    layer.facts.mixes = True
    queries = layer.parameter("queries", count, c)
    k, v = layer.module("k", f"nn.Linear({c}, {c})"), layer.module("v", f"nn.Linear({c}, {c})")
    expand = layer.pick(
        "{}.expand(x.size(0), -1, -1)", "{}.unsqueeze(0).repeat(x.shape[0], 1, 1)", "{}[None].expand(len(x), *{}.shape)"
    )
    layer.line(f"q = {expand.replace('{}', queries)}")
    if layer.chance(0.3):
        layer.line(f"x = F.scaled_dot_product_attention(q, {k}(x), {v}(x))")
    else:
        layer.line(f"a = torch.einsum('bqc,btc->bqt', q, {k}(x)) * {layer.pick('q.shape[-1] ** -0.5', '0.2')}")
        layer.line(f"x = a.softmax(-1) @ {v}(x)")
    return Value("tokens", c, count)


@block("tokens")
def modulation(layer: Layer, x: Value) -> Value:
    """Scale, shift and gate from a condition (DiT)."""
    c = x.channels
    ada = layer.module("ada", f"nn.Sequential(nn.SiLU(), nn.Linear({c}, {3 * c}))")
    norm = layer.module("norm", f"nn.LayerNorm({c}, elementwise_affine=False, eps=1e-6)")
    fc = layer.module("mlp", f"nn.Sequential(nn.Linear({c}, 7), nn.GELU(), nn.Linear(7, {c}))")
    layer.facts.mixes = True
    ways = [
        "{}(s).chunk(3, dim=1)",
        "{}(s).view(s.size(0), 3, -1).unbind(1)",
        "torch.split({}(s), x.shape[-1], dim=-1)",
    ]
    layer.line("s = x.mean(1)", f"shift, scale, gate = {layer.pick(*ways).format(ada)}")
    layer.line(f"y = {norm}(x) * (1 + scale.unsqueeze(1)) + shift[:, None]", f"x = x + gate.unsqueeze(1) * {fc}(y)")
    return x


@block("tokens")
def shifted(layer: Layer, x: Value) -> Value:
    """A mix with the token before (RWKV), a part of the channels moved in time (TSM)."""
    c = x.channels
    if layer.chance(0.5):
        mu = layer.parameter("mu", c)
        fc, gate = layer.module("fc", f"nn.Linear({c}, {c})"), layer.module("gate", f"nn.Linear({c}, {c})")
        before = layer.pick(
            "F.pad(x, (0, 0, 1, -1))",
            "torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)",
            "F.pad(x[:, :-1], (0, 0, 1, 0))",
        )
        layer.line(
            f"prev = {before}", f"y = x * {mu} + prev * (1 - {mu})", f"x = x + torch.sigmoid({gate}(y)) * {fc}(y)"
        )
        return x
    fold = layer.constant(max(1, c // 4)) if layer.chance(0.5) else "x.shape[-1] // 4"
    layer.line(
        f"n = {fold}",
        "y = torch.zeros_like(x)",
        "y[:, :-1, :n] = x[:, 1:, :n]",
        "y[:, 1:, n : 2 * n] = x[:, :-1, n : 2 * n]",
    )
    layer.line("y[:, :, 2 * n :] = x[:, :, 2 * n :]", f"x = {layer.module('fc', f'nn.Linear({c}, {c})')}(y)")
    return x


@block("tokens")
def state_space(layer: Layer, x: Value) -> Value:
    """A selective state space, scanned in a loop (Mamba)."""
    inner, state = layer.rng.choice([4, 6]), 2
    layer.facts.mixes = True
    enter, out = (
        layer.module("enter", f"nn.Linear({x.channels}, {2 * inner})"),
        layer.module("out", f"nn.Linear({inner}, {x.channels})"),
    )
    proj, log = layer.module("proj", f"nn.Linear({inner}, {2 * state + 1})"), layer.parameter("a_log", inner, state)
    skip, dt = layer.parameter("d", inner), layer.module("dt", f"nn.Linear(1, {inner})")
    layer.line(
        f"u, z = {enter}(x).chunk(2, dim=-1)",
        "u = F.silu(u)",
        f"delta, B, C = torch.split({proj}(u), [1, {state}, {state}], dim=-1)",
    )
    layer.line(
        f"delta = F.softplus({dt}(delta))",
        f"A = -torch.exp({log})",
        "dA = torch.exp(delta.unsqueeze(-1) * A)",
        "dB = delta.unsqueeze(-1) * B.unsqueeze(2)",
    )
    zeros = layer.pick(
        "torch.zeros(x.size(0), u.shape[-1], A.shape[1], dtype=x.dtype)",
        "u.new_zeros(u.shape[0], u.shape[2], dA.shape[-1])",
    )
    layer.line(
        f"h = {zeros}", "ys = []", "for i in range(u.shape[1]):", "    h = dA[:, i] * h + dB[:, i] * u[:, i, :, None]"
    )
    layer.line(
        "    ys.append((h * C[:, i, None, :]).sum(-1))",
        f"y = torch.stack(ys, 1) + u * {skip}",
        f"x = x + {out}(y * F.silu(z))",
    )
    return x


@block("tokens")
def long_convolution(layer: Layer, x: Value) -> Value:
    """A convolution over all positions, by Fourier transforms."""
    c, t = x.channels, x.length
    kernel = layer.parameter("kernel", c, t)
    layer.line(
        "u = x.transpose(1, 2)",
        "n = 2 * u.shape[-1]",
        f"y = torch.fft.irfft(torch.fft.rfft(u, n=n) * torch.fft.rfft({kernel}, n=n), n=n)",
    )
    layer.line("y = y[..., : u.shape[-1]]", f"x = x + {layer.module('out', f'nn.Linear({c}, {c})')}(y.transpose(1, 2))")
    return x


@block("tokens")
def fourier_mixing(layer: Layer, x: Value) -> Value:
    """Fourier transforms over tokens, and over channels too (FNet)."""
    c = x.channels
    both = layer.chance(0.5)
    layer.facts.mixes |= both
    layer.line(
        "y = torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real" if both else "y = torch.fft.fft(x, dim=1).real"
    )
    layer.line(f"x = {layer.module('norm', f'nn.LayerNorm({c})')}(x + y)")
    return x


@block("tokens")
def spatial_gate(layer: Layer, x: Value) -> Value:
    """Half of the channels, mixed over positions, gates the other half (gMLP)."""
    inner, t = layer.rng.choice([3, 4]), x.length
    up, down = (
        layer.module("up", f"nn.Linear({x.channels}, {2 * inner})"),
        layer.module("down", f"nn.Linear({inner}, {x.channels})"),
    )
    norm, mix = layer.module("norm", f"nn.LayerNorm({inner})"), layer.module("mix", f"nn.Conv1d({t}, {t}, 1)")
    layer.line(f"u, v = F.gelu({up}(x)).chunk(2, -1)", f"v = {mix}({norm}(v))", f"x = x + {down}(u * v)")
    return x


@block("tokens")
def convolution_module(layer: Layer, x: Value) -> Value:
    """Pointwise, gated, depthwise, normalized (Conformer)."""
    c = x.channels
    first, depth = (
        layer.module("first", f"nn.Conv1d({c}, {2 * c}, 1)"),
        layer.module("depth", f"nn.Conv1d({c}, {c}, 3, padding=1, groups={c})"),
    )
    norm, last = layer.module("norm", f"nn.BatchNorm1d({c})"), layer.module("last", f"nn.Conv1d({c}, {c}, 1)")
    layer.line(
        f"y = F.glu({first}(x.transpose(1, 2)), dim=1)",
        f"y = {last}(F.silu({norm}({depth}(y))))",
        "x = x + y.transpose(1, 2)",
    )
    return x


@block("tokens")
def dilated(layer: Layer, x: Value) -> Value:
    """Gated dilated convolutions whose skips are summed (WaveNet)."""
    c, skip = x.channels, layer.rng.choice([4, 5])
    layer.init.append(f"self.gates = nn.ModuleList(nn.Conv1d({c}, {2 * c}, 2, dilation=2**i) for i in range(2))")
    layer.init.append(f"self.skips = nn.ModuleList(nn.Conv1d({c}, {skip}, 1) for _ in range(2))")
    layer.init.append(f"self.res = nn.ModuleList(nn.Conv1d({c}, {c}, 1) for _ in range(2))")
    layer.line(
        "y, total = x.transpose(1, 2), 0", "for i, (g, s, r) in enumerate(zip(self.gates, self.skips, self.res)):"
    )
    layer.line(
        "    a, b = g(F.pad(y, (2**i, 0))).chunk(2, 1)",
        "    z = a.tanh() * b.sigmoid()",
        "    total = total + s(z)",
        "    y = y + r(z)",
    )
    layer.line("x = F.relu(total).transpose(1, 2)")
    return x.with_channels(skip)


@block("tokens")
def chosen_experts(layer: Layer, x: Value) -> Value:
    """The best experts for each token."""
    c, count = x.channels, 4
    layer.facts.mixes = True
    router = layer.module("router", f"nn.Linear({c}, {count}, bias=False)")
    layer.init.append(f"self.experts = nn.ModuleList(nn.Linear({c}, {c}) for _ in range({count}))")
    layer.line(
        "flat = x.flatten(0, 1)",
        f"p, chosen = {router}(flat).softmax(-1).topk(2, dim=-1)",
        "p = p / p.sum(-1, keepdim=True)",
    )
    if layer.chance(0.5):
        layer.line(
            "out = torch.stack([e(flat) for e in self.experts], 1)",
            "y = torch.gather(out, 1, chosen.unsqueeze(-1).expand(-1, -1, out.shape[-1]))",
        )
        layer.line("x = x + (y * p.unsqueeze(-1)).sum(1).view_as(x)")
    else:
        layer.line("mask = F.one_hot(chosen, len(self.experts)).to(p.dtype)", "w = (mask * p.unsqueeze(-1)).sum(1)")
        layer.line("y = sum(w[:, i : i + 1] * e(flat) for i, e in enumerate(self.experts))", "x = x + y.view(x.shape)")
    return x


@block("tokens")
def quantized(layer: Layer, x: Value) -> Value:
    """The nearest of a codebook."""
    c = x.channels
    book = layer.parameter("codebook", 6, c)
    layer.facts.mixes = True
    layer.line(
        f"d = torch.cdist(x, {book}[None].expand(x.size(0), -1, -1))",
        f"q = F.embedding(d.argmin(-1), {book})",
        "x = x + (q - x).detach()",
    )
    return x


@block("tokens")
def graph_attention(layer: Layer, x: Value) -> Value:
    """Additive attention of every head over neighbors (GAT)."""
    heads, width = layer.rng.choice([2, 3]), layer.rng.choice([2, 3])
    fc = layer.module("fc", f"nn.Linear({x.channels}, {heads * width}, bias=False)")
    src, dst = layer.parameter("src", 1, 1, heads, width), layer.parameter("dst", 1, 1, heads, width)
    n = layer.constant(heads)
    layer.facts.contracts = True
    layer.line(
        "b, t, _ = x.shape", f"h = {fc}(x).view(b, t, {n}, -1)", f"s, d = (h * {src}).sum(-1), (h * {dst}).sum(-1)"
    )
    layer.line(
        "e = F.leaky_relu(s.unsqueeze(2) + d.unsqueeze(1), 0.2).softmax(2)", "y = torch.einsum('bijh,bjhd->bihd', e, h)"
    )
    if layer.chance(0.5):
        layer.line("x = F.elu(y.flatten(2))")
        return x.with_channels(heads * width)
    layer.facts.mixes = True
    layer.line("x = y.mean(2)")
    return x.with_channels(width)


@block("tokens")
def clusters(layer: Layer, x: Value) -> Value:
    """Residuals to learned centers, by soft assignment (NetVLAD)."""
    c, k = x.channels, 3
    assign, centers = layer.module("assign", f"nn.Linear({c}, {k})"), layer.parameter("centers", k, c)
    layer.facts.mixes = True
    layer.line(
        f"a = {assign}(x).softmax(-1)", f"v = torch.einsum('btk,btc->bkc', a, x) - a.sum(1).unsqueeze(-1) * {centers}"
    )
    layer.line(
        "v = F.normalize(v, dim=-1)",
        "x = F.normalize(v.flatten(1), dim=-1)" if layer.chance(0.5) else "x = v.reshape(v.size(0), -1)",
    )
    layer.line(f"x = {layer.module('fc', f'nn.Linear({k * c}, 8)')}(x)")
    return Value("vector", 8)


@block("tokens")
def slots(layer: Layer, x: Value) -> Value:
    """Slots that compete for tokens, refined by a recurrent cell."""
    c = x.channels
    start = layer.parameter("slots", 1, 2, c)
    k, v, q = (layer.module(s, f"nn.Linear({c}, {c}, bias=False)") for s in "kvq")
    cell = layer.module("gru", f"nn.GRUCell({c}, {c})")
    layer.facts.mixes = True
    layer.line(f"s, keys, values = {start}.expand(x.size(0), -1, -1), {k}(x), {v}(x)", "for _ in range(2):")
    layer.line(
        f"    a = ({q}(s) @ keys.mT * keys.shape[-1] ** -0.5).softmax(1)",
        "    a = a / a.sum(-1, keepdim=True)",
        "    u = a @ values",
    )
    layer.line(f"    u = u.reshape(-1, {layer.pick('u.shape[-1]', str(c), 'x.size(2)')})")
    layer.line(f"    s = {cell}(u, s.reshape(-1, s.size(-1))).view(x.size(0), 2, -1)", "x = s")
    return Value("tokens", c, 2)


@block("tokens")
def hyper(layer: Layer, x: Value) -> Value:
    """Weights that another network predicts."""
    c, out = x.channels, layer.rng.choice([3, 4])
    net = layer.module("net", f"nn.Linear({c}, {c * out})")
    back = layer.module("back", f"nn.Linear({out}, {c})")
    layer.facts.contracts = True
    layer.line(
        f"w = {net}(x.mean(1)).view(x.size(0), {layer.size('x', 2, c, 3)}, {layer.pick('-1', layer.constant(out))})",
        f"x = x + {back}(torch.relu(torch.bmm(x, w)))",
    )
    return x


@block("tokens")
def highway(layer: Layer, x: Value) -> Value:
    c = x.channels
    fc = layer.module("fc", f"nn.Linear({c}, {2 * c})")
    layer.facts.offsets = True
    layer.line(f"h, t = {fc}(x).chunk(2, -1)", "t = torch.sigmoid(t)", "x = t * F.relu(h) + (1 - t) * x")
    return x


@block("tokens")
def reversible(layer: Layer, x: Value) -> Value:
    """Two streams that change each other."""
    if x.channels % 2:
        return highway(layer, x)
    c = x.channels // 2
    f, g = layer.module("f", f"nn.Linear({c}, {c})"), layer.module("g", f"nn.Linear({c}, {c})")
    layer.line(
        "a, b = torch.chunk(x, 2, dim=2)",
        f"a = a + torch.tanh({f}(b))",
        f"b = b + F.relu({g}(a))",
        "x = torch.cat([a, b], dim=2)",
    )
    return x


@block("tokens")
def sampled(layer: Layer, x: Value) -> Value:
    """A mean and a variance, and noise (VAE)."""
    c, z = x.channels, layer.rng.choice([3, 4])
    stats, back = layer.module("stats", f"nn.Linear({c}, {2 * z})"), layer.module("back", f"nn.Linear({z}, {c})")
    layer.line(f"mu, logvar = {stats}(x).chunk(2, -1)")
    noise = layer.pick(
        "torch.randn_like(mu)", "torch.randn(mu.shape, dtype=mu.dtype)", "mu.new_empty(mu.size()).normal_()"
    )
    layer.facts.mixes = True
    layer.line(f"s = mu + {noise} * torch.exp(0.5 * logvar)", f"x = {back}(s)")
    return x


@block("tokens")
def padded_lengths(layer: Layer, x: Value) -> Value:
    """A mask from the values of tokens, and a masked mean."""
    c = x.channels
    layer.facts.mixes = True
    score = layer.module("score", f"nn.Linear({c}, 1)")
    layer.line(
        f"keep = ({score}(x) > 0).to(x.dtype)",
        "x = torch.cat([x, (x * keep).sum(1, keepdim=True) / (keep.sum(1, keepdim=True) + 1)], 1)",
    )
    return Value("tokens", c, x.length + 1)


@block("vector")
def interactions(layer: Layer, x: Value) -> Value:
    """Products of all pairs of features (DLRM, factorization machines)."""
    width = layer.rng.choice([3, 4])
    layer.init.append(f"self.fields = nn.ModuleList(nn.Linear({x.channels}, {width}) for _ in range(3))")
    layer.line("f = torch.stack([m(x) for m in self.fields], dim=1)")
    way = layer.rng.randrange(3)
    layer.facts.contracts = True
    if way == 0:
        layer.line(
            "z = torch.bmm(f, f.transpose(1, 2))",
            "i, j = torch.tril_indices(3, 3, offset=-1)",
            "x = torch.cat([f[:, 0], z[:, i, j]], dim=1)",
        )
        return x.with_channels(width + 3)
    if way == 1:
        layer.line("x = 0.5 * (f.sum(1) ** 2 - (f**2).sum(1))")
        return x.with_channels(width)
    layer.line("x = torch.cat([f[:, 0] * f[:, 1], f[:, 2], (f[:, 0] * f[:, 2]).sum(-1, keepdim=True)], -1)")
    return x.with_channels(2 * width + 1)


@block("vector")
def crossing(layer: Layer, x: Value) -> Value:
    """Cross layers: the input times a function of the state, plus the state."""
    c = x.channels
    layer.init.append(f"self.ws = nn.ParameterList([nn.Parameter(torch.randn({c}, 1)) for _ in range(2)])")
    layer.init.append(f"self.bs = nn.ParameterList([nn.Parameter(torch.zeros({c})) for _ in range(2)])")
    layer.line("x0 = x", "for w, b in zip(self.ws, self.bs):", "    x = x0 * (x @ w) + b + x")
    return x


@block("vector")
def sines(layer: Layer, x: Value) -> Value:
    """Sines of a linear layer, or of frequencies of the input."""
    layer.facts.offsets = True
    if layer.chance(0.5):
        layer.line(f"x = torch.sin(30.0 * {layer.module('fc', f'nn.Linear({x.channels}, 6)')}(x))")
        return x.with_channels(6)
    layer.line(
        "f = 2.0 ** torch.arange(2, dtype=x.dtype)",
        "y = (x[..., None] * f).flatten(-2)",
        "x = torch.cat([x, y.sin(), y.cos()], -1)",
    )
    return x.with_channels(5 * x.channels)


@block("vector")
def splines(layer: Layer, x: Value) -> Value:
    """A function of its own for every pair of channels (KAN)."""
    outputs = 5
    grid, weight = layer.buffer("grid", "torch.linspace(-1, 1, 4)"), layer.parameter("weight", outputs, x.channels, 4)
    layer.facts.contracts = layer.facts.offsets = True
    layer.line(
        f"basis = torch.exp(-((x.unsqueeze(-1) - {grid}) ** 2))", f"x = torch.einsum('bik,oik->bo', basis, {weight})"
    )
    return x.with_channels(outputs)


@block("vector")
def backcast(layer: Layer, x: Value) -> Value:
    """What a block explains is subtracted, and its forecasts are summed (N-BEATS)."""
    c, out = x.channels, 4
    layer.init.append(f"self.stacks = nn.ModuleList(nn.Linear({c}, {c + out}) for _ in range(2))")
    n = layer.size("x", 1, c, 2)
    layer.line(
        "total = 0",
        "for m in self.stacks:",
        f"    back, ahead = torch.split(F.relu(m(x)), [{n}, {layer.constant(out)}], dim=1)",
    )
    layer.line("    x = x - back", "    total = total + ahead", "x = torch.cat([x, total], 1)")
    return x.with_channels(c + out)


@block("vector")
def capsules(layer: Layer, x: Value) -> Value:
    """Vectors whose length says whether something is there."""
    fc = layer.module("fc", f"nn.Linear({x.channels}, 12)")
    weight = layer.parameter("route", 4, 2, 3, 3)
    layer.facts.mixes = True
    layer.line(
        f"u = {fc}(x).view(x.size(0), 4, 3)",
        "n = (u**2).sum(-1, keepdim=True)",
        "u = u * n / (1 + n) / (n + 1e-6).sqrt()",
    )
    layer.line(f"p = torch.einsum('bid,ijde->bije', u, {weight})", "x = p.sum(1).flatten(1)")
    return x.with_channels(6)


@block("vector")
def recurrent_vector(layer: Layer, x: Value) -> Value:
    """A vector as a sequence, or repeated as one."""
    hidden = layer.rng.choice([4, 5])
    if layer.chance(0.5):
        rnn = layer.module("rnn", f"nn.GRU({x.channels}, {hidden}, batch_first=True)")
        layer.line(
            f"y, _ = {rnn}(x.unsqueeze(1).{layer.pick('expand(-1, 3, -1)', 'repeat(1, 3, 1)')})", "x = y.flatten(1)"
        )
        return x.with_channels(3 * hidden)
    rnn = layer.module("rnn", f"nn.LSTM(1, {hidden}, batch_first=True)")
    layer.facts.mixes = True
    layer.line(f"_, (h, c) = {rnn}(x.unsqueeze(-1))", "x = torch.cat([h[-1], c[-1]], -1)")
    return x.with_channels(2 * hidden)
