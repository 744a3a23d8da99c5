"""Blocks of images that are known from papers, as their authors wrote them."""

from __future__ import annotations

from tests.random_networks.writer import Layer, Value, block, divisors


@block("image")
def blur_pool(layer: Layer, x: Value) -> Value:
    """A fixed filter for every channel, repeated for as many as there are."""
    kernel = layer.buffer(
        "kernel", "torch.tensor([1.0, 2.0, 1.0]).outer(torch.tensor([1.0, 2.0, 1.0]))[None, None] / 16"
    )
    ways = [
        f"x = F.conv2d(x, {kernel}.repeat(x.shape[1], 1, 1, 1), padding=1, groups=x.shape[1])",
        f"x = F.conv2d(F.pad(x, [1] * 4, mode='reflect'), {kernel}.expand(x.size(1), -1, -1, -1), groups=x.size(1))",
        f"b, c, h, w = x.shape; x = F.conv2d(x.reshape(b * c, 1, h, w), {kernel}, padding=1).view(b, c, h, w)",
        f"x = torch.cat([F.conv2d(c, {kernel}, padding=1) for c in x.split(1, dim=1)], dim=1)",
    ]
    layer.line(layer.pick(*ways))
    return x


@block("image")
def fixed_blur(layer: Layer, x: Value) -> Value:
    """A fixed filter with a buffer entry for every channel."""
    kernel = layer.buffer("kernel", f"torch.ones({x.channels}, 1, 3, 3) / 9")
    layer.line(
        f"x = F.conv2d(x, {kernel}, padding=1, groups={layer.pick('x.shape[1]', f'{kernel}.shape[0]', 'x.size(1)')})"
    )
    return x


@block("image")
def hierarchical(layer: Layer, x: Value) -> Value:
    """Parts of the channels, each convolved with the result of the one before (Res2Net)."""
    parts, width = layer.rng.choice([2, 3]), layer.rng.choice([2, 3])
    enter = layer.module("enter", f"nn.Conv2d({x.channels}, {parts * width}, 1)")
    convs = layer.module(
        "convs", f"nn.ModuleList(nn.Conv2d({width}, {width}, 3, padding=1) for _ in range({parts - 1}))"
    )
    leave = layer.module("leave", f"nn.Conv2d({parts * width}, {x.channels}, 1)")
    split = layer.pick(f"torch.split(y, {layer.attribute('width', width)}, 1)", f"y.chunk({layer.constant(parts)}, 1)")
    layer.line(f"y = F.relu({enter}(x))", f"parts = {split}", "outs, last = [parts[0]], None")
    layer.line(
        f"for i, conv in enumerate({convs}):", "    last = parts[i + 1] if last is None else last + parts[i + 1]"
    )
    layer.line("    last = F.relu(conv(last))", "    outs.append(last)", f"x = x + {leave}(torch.cat(outs, 1))")
    return x


@block("image")
def cross_stage(layer: Layer, x: Value) -> Value:
    """Two halves, of which one goes through more layers (CSP, ELAN)."""
    half = layer.rng.choice([3, 4])
    a, b = (layer.module("cv", f"nn.Conv2d({x.channels}, {half}, 1, bias=False)") for _ in range(2))
    if layer.chance(0.5):
        inner = layer.module("m", f"nn.Sequential(*(nn.Conv2d({half}, {half}, 3, padding=1) for _ in range(2)))")
        out = layer.module("cv", f"nn.Conv2d({2 * half}, {x.channels}, 1)")
        layer.line(f"x = {out}(torch.cat(({inner}({a}(x)), {b}(x)), 1))")
        return x
    both = layer.module("cv", f"nn.Conv2d({x.channels}, {2 * half}, 1)")
    inner = layer.module("m", f"nn.ModuleList(nn.Conv2d({half}, {half}, 3, padding=1) for _ in range(2))")
    out = layer.module("cv", f"nn.Conv2d({4 * half}, {x.channels}, 1)")
    split = layer.pick("list({}(x).chunk(2, 1))", f"list({{}}(x).split(({half}, {half}), 1))").format(both)
    layer.line(f"y = {split}", f"y.extend(m(y[-1]) for m in {inner})", f"x = {out}(torch.cat(y, 1))")
    return x


@block("image")
def padded_shortcut(layer: Layer, x: Value) -> Value:
    """More channels than before: the shortcut is padded with zeros."""
    more = layer.rng.choice([2, 4])
    conv = layer.module("conv", f"nn.Conv2d({x.channels}, {x.channels + more}, 3, padding=1)")
    ways = [
        f"F.pad(x, (0, 0, 0, 0, {more // 2}, {more // 2}))",
        f"F.pad(x, (0, 0, 0, 0, 0, {more}), 'constant', 0)",
        f"torch.cat([x, x.new_zeros(x.size(0), {more}, x.size(2), x.size(3))], 1)",
        f"torch.cat([x, torch.zeros(x.size(0), {layer.constant(more)}, *x.shape[2:], dtype=x.dtype)], 1)",
        "torch.cat([x, torch.zeros_like(y[:, x.shape[1] :])], 1)",
    ]
    layer.line(f"y = {conv}(x)", f"x = F.relu(y + {layer.pick(*ways)})")
    return x.with_channels(x.channels + more)


@block("image")
def predicted_kernels(layer: Layer, x: Value) -> Value:
    """Kernels that the input predicts, applied by a grouped convolution."""
    c = x.channels
    layer.facts.contracts = True
    way = layer.rng.randrange(3)
    if way == 0:
        fc = layer.module("fc", f"nn.Linear({c}, {c} * 9)")
        layer.line("b, c, h, w = x.shape", f"k = {fc}(x.mean((2, 3))).view(b * c, 1, 3, 3)")
        layer.line("x = F.conv2d(x.reshape(1, b * c, h, w), k, padding=1, groups=b * c).view(b, c, h, w)")
    elif way == 1:
        style, weight = layer.module("style", f"nn.Linear({c}, {c})"), layer.parameter("weight", 6, c, 3, 3)
        layer.facts.mixes = True
        layer.line(
            "b, c, h, w = x.shape", f"s = {style}(x.mean((2, 3))).view(b, 1, c, 1, 1) + 1", f"k = {weight}[None] * s"
        )
        layer.line("d = torch.rsqrt(k.pow(2).sum([2, 3, 4], keepdim=True) + 1e-8)", "k = (k * d).reshape(-1, c, 3, 3)")
        layer.line("x = F.conv2d(x.reshape(1, b * c, h, w), k, padding=1, groups=b).reshape(b, -1, h, w)")
        return x.with_channels(6)
    else:
        route = layer.module("route", f"nn.Linear({c}, 3)")
        weight = layer.parameter("experts", 3, 6, c, 1, 1)
        layer.facts.mixes = True
        layer.line("b, c, h, w = x.shape", f"r = torch.sigmoid({route}(x.mean((2, 3))))")
        layer.line(f"k = torch.einsum('bk,koihw->boihw', r, {weight}).reshape(-1, c, 1, 1)")
        layer.line("x = F.conv2d(x.reshape(1, -1, h, w), k, groups=b).view(b, -1, h, w)")
        return x.with_channels(6)
    return x


@block("image")
def bilinear_pooling(layer: Layer, x: Value) -> Value:
    """Products of all pairs of channels."""
    layer.facts.contracts = True
    small = layer.module("small", f"nn.Conv2d({x.channels}, 3, 1)")
    layer.line(f"f = {small}(x).flatten(2)")
    ways = [
        "g = f @ f.transpose(1, 2) / f.shape[-1]",
        "g = torch.bmm(f, f.mT)",
        "g = torch.einsum('bin,bjn->bij', f, f)",
    ]
    layer.line(layer.pick(*ways), layer.pick("g = g.flatten(1)", "g = g.view(g.size(0), -1)", "g = g.reshape(-1, 9)"))
    layer.line(f"x = {layer.module('fc', 'nn.Linear(9, 8)')}(g)")
    return Value("vector", 8)


@block("image")
def channel_attention(layer: Layer, x: Value) -> Value:
    """Channels attend to channels."""
    layer.facts.mixes = True
    gamma = layer.parameter("gamma", 1)
    layer.line("b, c, h, w = x.shape", "q = x.view(b, c, -1)" if layer.chance(0.5) else "q = x.flatten(2)")
    layer.line(
        "e = q @ q.transpose(1, 2)",
        layer.pick("a = e.softmax(-1)", "a = (e.max(-1, keepdim=True).values - e).softmax(-1)"),
    )
    layer.line(f"x = {gamma} * (a @ q).view(b, c, h, w) + x")
    return x


@block("image")
def kept_maxima(layer: Layer, x: Value) -> Value:
    """The largest of the channels, or their order."""
    layer.facts.mixes = True
    ways = [
        "x = x * (x >= x.amax(1, keepdim=True))",
        "x = x.topk(3, dim=1).values",
        "x = x.sort(dim=1).values",
        "x = x * F.softmax(x, dim=1)",
        "x = torch.cat([x, x.argmax(1, keepdim=True).to(x.dtype)], 1)",
        "x = x - x.logsumexp(1, keepdim=True)",
        "x = x / (x.abs().sum(1, keepdim=True) + 1)",
        "x = torch.cat([x, x.max(1, keepdim=True)[0], x.min(dim=1, keepdim=True).values], dim=1)",
        "x = F.normalize(x, dim=1)",
        "x = x.cumsum(1)",
        "x = F.local_response_norm(x, 3)",
        "x = x.median(1, keepdim=True).values + x",
        "x = x * x.norm(dim=1, keepdim=True)",
        "x = x / x.norm()",
        "x = x - x.mean()",
        "x = x / (x.std(dim=(1, 2, 3), keepdim=True) + 1)",
        "x = (x - x.mean((1, 2, 3), keepdim=True)) / (x.var((1, 2, 3), keepdim=True) + 1e-2).sqrt()",
    ]
    way = layer.pick(*ways)
    layer.line(f"x = {layer.module('conv', f'nn.Conv2d({x.channels}, {x.channels}, 1)')}(x)", way)
    return x.with_channels(3 if "topk" in way else x.channels + (1 if "argmax" in way else 2 if "[0]" in way else 0))


@block("image")
def layers_of_torch(layer: Layer, x: Value) -> Value:
    """A layer of torch.nn that is seldom seen."""
    c = x.channels
    even = c % 2 == 0
    ways = {
        "nn.Dropout2d(0.2)": c,
        "nn.PReLU()": c,
        f"nn.PReLU({c})": c,
        "nn.LPPool2d(2, 1)": c,
        "nn.Softmax2d()": c,
        f"nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d({c}, 6, 3))": 6,
        f"nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d({c}, 6, 3))": 6,
        f"nn.Conv2d({c}, 6, 3, padding='same', dilation=2)": 6,
        f"nn.Conv2d({c}, 6, (1, 3), padding=(0, 1), padding_mode='circular')": 6,
        f"nn.ConvTranspose2d({c}, 6, 3, padding=1)": 6,
        f"nn.Sequential(nn.Flatten(2), nn.Unflatten(2, ({x.length}, {x.length})))": c,
        f"nn.BatchNorm2d({c}, track_running_stats=False)": c,
        f"nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d({c}, 6, 2, stride=2))": 6,
        "nn.Hardtanh()": c,
        "nn.RReLU()": c,
        "nn.Threshold(0.1, 0.0)": c,
        "nn.AvgPool2d(3, 1, 1)": c,
        "nn.LocalResponseNorm(3)": c,
        f"nn.Unflatten(1, ({c}, 1)), nn.Flatten(1, 2)": c,
    }
    if even:
        ways |= {
            "nn.ChannelShuffle(2)": c,
            "nn.GLU(dim=1)": c // 2,
            f"nn.ConvTranspose2d({c}, 6, 3, padding=1, groups=2)": 6,
        }
        ways |= {f"nn.Unflatten(1, (2, {c // 2})), nn.Flatten(1, 2)": c}
    way = layer.pick(*ways)
    layer.facts.mixes |= any(name in way for name in ("Softmax2d", "LocalResponse"))
    layer.line(
        f"x = {layer.module('conv', f'nn.Conv2d({c}, {c}, 1)')}(x)",
        f"x = {layer.module('odd', f'nn.Sequential({way})')}(x)",
    )
    return x.with_channels(ways[way])


@block("image")
def pyramid(layer: Layer, x: Value) -> Value:
    """Laterals of several scales, joined from the top down (FPN), or pooled and joined (PSP)."""
    c, width = x.channels, layer.rng.choice([4, 6])
    if layer.chance(0.5):
        layer.init.append(f"self.laterals = nn.ModuleList(nn.Conv2d({c}, {width}, 1) for _ in range(2))")
        layer.line("levels = [x, F.max_pool2d(x, 2)]", "lat = [conv(f) for conv, f in zip(self.laterals, levels)]")
        layer.line("x = lat[0] + F.interpolate(lat[1], size=lat[0].shape[-2:], mode='nearest')")
        return x.with_channels(width)
    layer.init.append(f"self.pools = nn.ModuleList(nn.Conv2d({c}, 2, 1) for _ in range(2))")
    layer.line(
        "outs = [x]", "for bins, conv in zip((1, 2), self.pools):", "    y = conv(F.adaptive_avg_pool2d(x, bins))"
    )
    layer.line(
        "    outs.append(F.interpolate(y, x.shape[2:], mode='bilinear', align_corners=True))", "x = torch.cat(outs, 1)"
    )
    return x.with_channels(c + 4)


@block("image")
def windows(layer: Layer, x: Value) -> Value:
    """Attention within windows, with a table of relative positions (Swin)."""
    heads, width = layer.rng.choice([2, 3]), 2
    dim = heads * width
    layer.facts.contracts = True
    qkv, out = (
        layer.module("qkv", f"nn.Linear({x.channels}, {3 * dim})"),
        layer.module("out", f"nn.Linear({dim}, {x.channels})"),
    )
    table = layer.parameter("bias_table", 9, heads)
    index = layer.buffer("index", "torch.arange(16).remainder(9)")
    n = layer.constant(heads)
    layer.line("b, c, h, w = x.shape", "y = x.permute(0, 2, 3, 1)")
    if layer.chance(0.4):
        layer.line("y = torch.roll(y, (-1, -1), dims=(1, 2))")
    layer.line("y = y.reshape(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)")
    layer.line(
        f"q, k, v = {qkv}(y).reshape(y.shape[0], 4, 3, {n}, {layer.pick('-1', str(width))}).permute(2, 0, 3, 1, 4)"
    )
    layer.line(f"bias = {table}[{index}].view(4, 4, {layer.pick('-1', n)}).permute(2, 0, 1)")
    layer.line("a = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1) + bias.unsqueeze(0)).softmax(-1)")
    layer.line(f"y = {out}((a @ v).transpose(1, 2).reshape(len(y), 4, {layer.pick('q.shape[1] * q.shape[3]', '-1')}))")
    layer.line("y = y.view(b, h // 2, w // 2, 2, 2, -1).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, -1)")
    layer.line("x = x + y.permute(0, 3, 1, 2)")
    return x


@block("image")
def convolutional_memory(layer: Layer, x: Value) -> Value:
    """One step of a convolutional LSTM, repeated."""
    hidden = layer.rng.choice([3, 4])
    gates = layer.module("gates", f"nn.Conv2d({x.channels + hidden}, {4 * hidden}, 3, padding=1)")
    n = layer.constant(hidden)
    layer.line(
        "b, _, h, w = x.shape", f"hid = torch.zeros(b, {n}, h, w, dtype=x.dtype)", "cell = torch.zeros_like(hid)"
    )
    split = layer.pick("z.chunk(4, 1)", f"torch.split(z, {n}, dim=1)", "z.view(b, 4, -1, h, w).unbind(1)")
    layer.line("for _ in range(2):", f"    z = {gates}(torch.cat([x, hid], dim=1))", f"    i, f, o, g = {split}")
    layer.line(
        "    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()", "    hid = o.sigmoid() * cell.tanh()", "x = hid"
    )
    return x.with_channels(hidden)


@block("image")
def coupling(layer: Layer, x: Value) -> Value:
    """An affine coupling of a flow: one half scales and shifts the other."""
    if x.channels % 2:
        return padded_shortcut(layer, x)
    c = x.channels
    net = layer.module("net", f"nn.Sequential(nn.Conv2d({c // 2}, 5, 1), nn.ReLU(), nn.Conv2d(5, {c}, 1))")
    layer.facts.offsets = True
    layer.line("a, b = x.chunk(2, 1)", f"s, t = {net}(a).chunk(2, 1)", "b = b * torch.exp(torch.tanh(s)) + t")
    layer.line(layer.pick("x = torch.cat([a, b], 1)", "x = torch.cat([b, a], 1)"))
    return x


@block("image")
def mixed_kernels(layer: Layer, x: Value) -> Value:
    """Uneven parts of the channels with kernels of their own."""
    c = 8
    enter = layer.module("enter", f"nn.Conv2d({x.channels}, {c}, 1)")
    sizes = layer.rng.choice([[3, 5], [2, 2, 4], [4, 4]])
    convs = ", ".join(f"nn.Conv2d({s}, {s}, {2 * i + 1}, padding={i}, groups={s})" for i, s in enumerate(sizes))
    layer.init.append(f"self.convs = nn.ModuleList([{convs}])")
    sizes_of = layer.attribute("sizes", sizes)
    layer.line(
        f"parts = {enter}(x).split({sizes_of}, 1)", "x = torch.cat([conv(p) for conv, p in zip(self.convs, parts)], 1)"
    )
    return x.with_channels(c)


@block("image")
def grid_sampled(layer: Layer, x: Value) -> Value:
    """A warp that the input predicts."""
    theta = layer.module("theta", f"nn.Linear({x.channels}, 6)")
    layer.line(f"t = torch.tanh({theta}(x.mean((2, 3)))).view(-1, 2, 3)")
    layer.line(
        "grid = F.affine_grid(t, x.size(), align_corners=False)", "x = F.grid_sample(x, grid, align_corners=False)"
    )
    return x


@block("image")
def functional_norm(layer: Layer, x: Value) -> Value:
    """Normalizations with tensors of the module's own."""
    c = x.channels
    gain, shift = layer.parameter("gain", c), layer.parameter("shift", c)
    groups = layer.rng.choice(divisors(c, 3))
    mean, var = layer.buffer("mean", f"torch.zeros({c})"), layer.buffer("running_var", f"torch.ones({c})")
    layer.init[-1] = layer.init[-1].replace(f"'{var[5:]}'", "'running_var'")
    ways = [
        f"x = F.batch_norm(x, {mean}, self.running_var, {gain}, {shift})",
        f"s = {gain} / (self.running_var + 1e-5).sqrt(); x = (x - {mean}[:, None, None]) * s.view(1, -1, 1, 1)",
        f"x = F.group_norm(x, {layer.constant(groups)}, {gain}, {shift})",
        f"x = F.instance_norm(x, weight={gain}, bias={shift})",
        f"x = x * {gain}.reshape(1, {layer.size('x', 1, c, 4)}, 1, 1) + {shift}[None, :, None, None]",
        f"x = torch.addcmul({shift}.view(-1, 1, 1), x, {gain}.view(-1, 1, 1))",
    ]
    layer.facts.mixes = True
    layer.line(layer.pick(*ways))
    return x


@block("volume", "series")
def one_more(layer: Layer, x: Value) -> Value:
    """Convolutions of other ranks: separable ones, transposed ones."""
    c, outputs = x.channels, layer.rng.choice([4, 6])
    d = {"series": 1, "volume": 3}[x.kind]
    ways = [
        f"nn.Sequential(nn.Conv{d}d({c}, {c}, 3, padding=1, groups={c}), nn.Conv{d}d({c}, {outputs}, 1))",
        f"nn.ConvTranspose{d}d({c}, {outputs}, 3, padding=1)",
        f"nn.Sequential(nn.ReplicationPad{d}d(1), nn.Conv{d}d({c}, {outputs}, 3), nn.PReLU({outputs}))",
        f"nn.Sequential(nn.InstanceNorm{d}d({c}, affine=True), nn.Conv{d}d({c}, {outputs}, 1), nn.ReLU6())",
    ]
    layer.line(f"x = {layer.module('odd', layer.pick(*ways))}(x)")
    return x.with_channels(outputs)
