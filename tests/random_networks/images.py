"""Blocks of images [b, c, h, w]; some of series [b, c, t] and volumes [b, c, d, h, w] too."""

from __future__ import annotations

from tests.random_networks.writer import Layer, Value, block, divisors

DIMS = {"series": 1, "image": 2, "volume": 3}
SAFE = ("image", "series", "volume")


def conv(layer: Layer, x: Value, outputs: int, kernel: int = 3, groups: int = 1, bias: bool | None = None) -> str:
    """A convolution that keeps the extent, as a module or with a weight of its own."""
    d = DIMS[x.kind]
    has_bias = layer.chance(0.7) if bias is None else bias
    if layer.chance(0.1) and x.kind == "image":
        weight = layer.parameter("weight", outputs, x.channels // groups, kernel, kernel)
        return (
            layer.module("conv", f"functools.partial(F.conv2d, padding={kernel // 2}, groups={groups})") + f"|{weight}"
        )
    extra = ", padding_mode='replicate'" if kernel > 1 and layer.chance(0.1) else ""
    options = f"{kernel}, padding={kernel // 2}, groups={groups}, bias={has_bias}{extra}"
    return layer.module("conv", f"nn.Conv{d}d({x.channels}, {outputs}, {options})")


def called(function: str, expression: str) -> str:
    """A call of what :func:`conv` made."""
    name, _, weight = function.partition("|")
    return f"{name}({expression}, {weight})" if weight else f"{name}({expression})"


def norm(layer: Layer, x: Value, expression: str = "x") -> str:
    """A normalization of ``x.channels`` channels."""
    c, d = x.channels, DIMS[x.kind]
    way = layer.pick("batch", "batch", "group", "one", "instance", "none", "layer", "functional")
    if way == "batch" and layer.chance(0.2):
        return f"{layer.module('norm', f'nn.BatchNorm{d}d({c}, affine=False)')}({expression})"
    if way == "batch":
        return f"{layer.module('norm', f'nn.BatchNorm{d}d({c})')}({expression})"
    if way == "instance":
        layer.facts.mixes |= x.length == 1
        affine = layer.chance(0.5)
        return f"{layer.module('norm', f'nn.InstanceNorm{d}d({c}, affine={affine})')}({expression})"
    if way == "group":
        groups = layer.rng.choice(divisors(c))
        affine = layer.chance(0.85)
        layer.facts.mixes |= not affine
        return f"{layer.module('norm', f'nn.GroupNorm({groups}, {c}, affine={affine})')}({expression})"
    if way == "one":
        return f"{layer.module('norm', f'nn.GroupNorm(1, {c})')}({expression})"
    if way == "layer" and x.kind == "image":
        name = layer.module("norm", f"nn.LayerNorm({c})")
        return f"{name}({expression}.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)"
    if way == "functional" and x.kind == "image":
        layer.facts.mixes = True
        gain = layer.parameter("gain", c, 1, 1)
        mean, var = (f"{expression}.{statistic}(1, keepdim=True)" for statistic in ("mean", "var"))
        return f"{gain} * ({expression} - {mean}) / ({var} + 1e-3).sqrt()"
    return expression


@block("image", "series", "volume")
def conv_norm(layer: Layer, x: Value) -> Value:
    outputs = layer.width()
    kernel = layer.rng.choice([1, 3])
    layer.line(f"x = {called(conv(layer, x, outputs, kernel), 'x')}")
    made = x.with_channels(outputs)
    layer.line(f"x = {norm(layer, made)}", f"x = {layer.activation('x')}")
    return made


@block("image", "series", "volume")
def residual(layer: Layer, x: Value) -> Value:
    hidden = x.with_channels(layer.width())
    layer.line(f"y = {called(conv(layer, x, hidden.channels), 'x')}", f"y = {norm(layer, hidden, 'y')}")
    layer.line(f"y = {layer.activation('y')}", f"y = {called(conv(layer, hidden, x.channels, 1), 'y')}")
    if layer.chance(0.3):
        layer.line(f"y = {norm(layer, x, 'y')}")
    if layer.chance(0.2):
        shape = ", ".join([str(x.channels), *["1"] * DIMS[x.kind]])
        layer.init.append(f"self.scale = nn.Parameter(torch.ones({shape}))")
        layer.line("y = self.scale * y")
    short = called(conv(layer, x, x.channels, 1), "x") if layer.chance(0.3) else "x"
    layer.line(
        layer.pick(
            f"x = {short} + y",
            f"x = torch.add({short}, y)",
            f"y += {short}; x = y",
            f"x = {short} - 0.5 * y",
            f"x = torch.stack([{short}, y]).sum(0)",
            f"x = torch.lerp({short}, y, 0.3)",
        )
    )
    if layer.chance(0.5):
        layer.line(f"x = {layer.activation('x')}")
    return x


@block("image", "series")
def concatenate(layer: Layer, x: Value) -> Value:
    growth = layer.rng.choice([3, 4, 5])
    new = called(conv(layer, x, growth), layer.activation("x"))
    order = layer.pick("[x, new]", "[new, x]", "(x, new, x)", "[x, -x, new]")
    layer.line(f"new = {new}", f"x = {layer.pick('torch.cat', 'torch.concat')}({order}, {layer.pick('1', 'dim=1')})")
    count = order.count("x")
    return x.with_channels(count * x.channels + growth)


@block("image")
def dense_block(layer: Layer, x: Value) -> Value:
    growth, count = layer.rng.choice([2, 3, 4]), layer.rng.choice([2, 3])
    inputs = [x.channels + i * growth for i in range(count)]
    body = f"nn.Conv2d(x_in, {growth}, 3, padding=1) for x_in in {inputs}"
    layer.init.append(f"self.layers = nn.ModuleList({body})")
    layer.line("features = [x]", "for layer in self.layers:")
    layer.line(f"    features.append({layer.pick('F.relu', 'torch.tanh', 'F.silu')}(layer(torch.cat(features, 1))))")
    layer.line("x = torch.cat(features, dim=1)")
    return x.with_channels(inputs[-1] + growth)


@block("image", "series", "volume")
def gated(layer: Layer, x: Value) -> Value:
    """Values and their gates from one convolution, told apart in some way."""
    width = layer.rng.choice([4, 5, 6])
    spatial = ", ".join(f"y.shape[{i + 2}]" for i in range(DIMS[x.kind]))
    layer.line(f"y = {called(conv(layer, x, 2 * width, 1), 'x')}")
    ways = [
        "v, g = y.chunk(2, dim=1)",
        f"v, g = y.split({layer.attribute('half', width)}, dim=1)",
        "v, g = torch.chunk(y, 2, 1)",
        f"v, g = torch.split(y, [{layer.constant(width)}, {layer.constant(width)}], dim=1)",
        "v, g = y[:, : y.shape[1] // 2], y[:, y.shape[1] // 2 :]",
        "v, g = y[:, ::2], y[:, 1::2]",
        f"v, g = y.view(y.shape[0], 2, -1, {spatial}).unbind(1)",
        "v, g = torch.tensor_split(y, 2, dim=1)",
        f"v, g = y.unflatten(1, (2, {layer.size('y', 1, 2 * width, DIMS[x.kind] + 2)} // 2)).unbind(1)",
        "v, g = y.narrow(1, 0, y.size(1) // 2), y.narrow(1, y.size(1) // 2, y.size(1) // 2)",
        f"v, g = y.reshape(y.shape[0], y.shape[1] // 2, 2, {spatial}).unbind(2)",
    ]
    layer.line(layer.pick(*ways), f"y = v * {layer.gate('g')}")
    layer.line(f"x = x + {called(conv(layer, x.with_channels(width), x.channels, 1), 'y')}")
    return x


@block("image")
def max_feature(layer: Layer, x: Value) -> Value:
    """Maxout of halves, and the channels in pairs."""
    layer.line(f"y = {called(conv(layer, x, 8, 1), 'x')}")
    layer.line(
        layer.pick(
            "x = torch.max(*y.chunk(2, 1))",
            "x = torch.maximum(y[:, :4], y[:, 4:])",
            "x = y.view(y.size(0), 2, y.size(1) // 2, y.size(2), y.size(3)).amax(1)",
            "x = y[:, 0::2] + y[:, 1::2]",
            "a, b = y.split(y.shape[1] // 2, 1); x = a * b",
        )
    )
    return x.with_channels(4)


@block("image")
def shuffle(layer: Layer, x: Value) -> Value:
    groups = layer.rng.choice(divisors(x.channels, 4))
    number = layer.constant(groups)
    layer.line("b, c, h, w = x.shape" if layer.chance(0.5) else "b, c, h, w = x.size()")
    per = layer.pick(f"c // {number}", "-1")
    back = layer.pick(
        "x.reshape(b, c, h, w)", "x.reshape(b, -1, h, w)", "x.contiguous().view(b, c, h, w)", "x.flatten(1, 2)"
    )
    layer.line(f"x = x.view(b, {number}, {per}, h, w).transpose(1, 2)", f"x = {back}")
    return x


@block("image")
def split_shuffle(layer: Layer, x: Value) -> Value:
    """Half of the channels is transformed, the other half passes."""
    if x.channels % 2:
        return conv_norm(layer, x)
    half = x.with_channels(x.channels // 2)
    layer.line(layer.pick("a, b = x.chunk(2, 1)", "a, b = x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]"))
    layer.line(f"b = {layer.activation(called(conv(layer, half, half.channels), 'b'))}")
    layer.line(
        layer.pick(
            "x = torch.cat([a, b], 1)", "x = torch.cat((b, a), dim=1)", "x = torch.stack([a, b], 2).flatten(1, 2)"
        )
    )
    return x


@block("image", "series")
def grouped(layer: Layer, x: Value) -> Value:
    """A grouped or depthwise convolution between pointwise ones."""
    groups, width = layer.rng.choice([2, 3, 4]), layer.rng.choice([1, 2, 3])
    inside = x.with_channels(groups * width)
    multiplier = layer.rng.choice([1, 1, 2])
    out = inside.with_channels(inside.channels * multiplier)
    layer.line(f"y = {called(conv(layer, x, inside.channels, 1), 'x')}", f"y = {layer.activation('y')}")
    number = inside.channels if layer.chance(0.4) else groups
    layer.line(f"y = {called(conv(layer, inside, out.channels, 3, number), 'y')}", f"y = {norm(layer, out, 'y')}")
    layer.line(f"y = {layer.activation('y')}", f"x = {called(conv(layer, out, x.channels, 1), 'y')} + x")
    return x


@block("image")
def squeeze_excite(layer: Layer, x: Value) -> Value:
    c, hidden = x.channels, layer.rng.choice([2, 3, 4])
    if layer.chance(0.5):
        layer.line(layer.pick("s = x.mean((2, 3), keepdim=True)", "s = F.adaptive_avg_pool2d(x, 1)"))
        squeeze, excite = (layer.module("fc", f"nn.Conv2d({i}, {o}, 1)") for i, o in ((c, hidden), (hidden, c)))
        layer.line(f"s = {excite}({layer.activation(f'{squeeze}(s)')})", f"x = x * {layer.gate('s')}")
        return x
    pooled = ["x.mean([2, 3])", "F.adaptive_avg_pool2d(x, 1).flatten(1)", "x.flatten(2).mean(-1)", "x.amax((2, 3))"]
    pooled.append(f"F.adaptive_max_pool2d(x, 1).view(x.size(0), {layer.size('x', 1, c, 4)})")
    layer.line(f"s = {layer.pick(*pooled)}")
    squeeze, excite = (layer.module("fc", f"nn.Linear({i}, {o})") for i, o in ((c, hidden), (hidden, c)))
    layer.line(f"s = {squeeze}(s)", f"s = {layer.activation('s')}", f"s = {excite}(s)", f"s = {layer.gate('s')}")
    layer.line(
        layer.pick(
            "x = x * s[:, :, None, None]",
            "x = x * s.view(s.size(0), -1, 1, 1)",
            "x = torch.einsum('bchw,bc->bchw', x, s)",
            "x = x.mul(s.unsqueeze(-1).unsqueeze(-1).expand_as(x))",
            f"x = x * s.reshape(x.shape[0], {layer.size('x', 1, c, 4)}, 1, 1)",
            f"x = x * s.reshape(-1, {layer.size('x', 1, c, 4)}, 1, 1)",
        )
    )
    return x


@block("image")
def channel_conv(layer: Layer, x: Value) -> Value:
    """A convolution along the channels (efficient channel attention)."""
    layer.facts.mixes = True
    name = layer.module("along", "nn.Conv1d(1, 1, 3, padding=1, bias=False)")
    layer.line("s = x.mean((2, 3))", f"s = {name}(s.unsqueeze(1)).squeeze(1)", "x = x * s.sigmoid()[:, :, None, None]")
    return x


@block("image")
def spatial_attention(layer: Layer, x: Value) -> Value:
    """Statistics over channels say where to look."""
    layer.facts.mixes = True
    name = layer.module("look", "nn.Conv2d(2, 1, 3, padding=1)")
    layer.line(
        "s = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)", f"x = x * {layer.gate(f'{name}(s)')}"
    )
    return x


@block("image")
def response_norm(layer: Layer, x: Value) -> Value:
    """Global response normalization (ConvNeXt V2)."""
    layer.facts.mixes = True
    gain, shift = layer.parameter("gain", 1, x.channels, 1, 1), layer.parameter("shift", 1, x.channels, 1, 1)
    layer.line("g = x.norm(p=2, dim=(2, 3), keepdim=True)", "n = g / (g.mean(dim=1, keepdim=True) + 1e-6)")
    layer.line(f"x = {gain} * (x * n) + {shift} + x")
    return x


@block("image")
def branches(layer: Layer, x: Value) -> Value:
    widths = [layer.rng.choice([2, 3, 4]) for _ in range(layer.rng.choice([2, 3]))]
    layer.init.append(f"self.branches = nn.ModuleList(nn.Conv2d({x.channels}, n, 1) for n in {widths})")
    layer.line(
        layer.pick(
            "x = torch.cat([branch(x) for branch in self.branches], 1)",
            "x = torch.cat([*(b(x) for b in reversed(self.branches))], dim=1)",
            "outs = []; for i, b in enumerate(self.branches):;     outs.append(b(x) * (i + 1)); x = torch.hstack(outs)",
            "parts = {f'b{i}': b(x) for i, b in enumerate(self.branches)}; x = torch.cat(list(parts.values()), 1)",
        )
    )
    return x.with_channels(sum(widths))


@block("image")
def selective(layer: Layer, x: Value) -> Value:
    """Branches weighted by attention over branches (selective kernels)."""
    c, count = x.channels, layer.rng.choice([2, 3])
    layer.init.append(f"self.paths = nn.ModuleList(nn.Conv2d({c}, {c}, 3, padding=1) for _ in range({count}))")
    reduce_, expand = layer.module("fc", f"nn.Linear({c}, 4)"), layer.module("fc", f"nn.Linear(4, {c * count})")
    layer.line("u = torch.stack([p(x) for p in self.paths], dim=1)", "s = u.sum(1).mean((2, 3))")
    n = layer.constant(count)
    layer.line(f"a = {expand}(F.relu({reduce_}(s))).view(x.size(0), {n}, {layer.pick('-1', layer.size('x', 1, c, 4))})")
    layer.line(f"a = a.softmax({layer.pick('1', 'dim=1')})", "x = (u * a[..., None, None]).sum(dim=1)")
    return x


@block("image")
def resample(layer: Layer, x: Value) -> Value:
    """Down and up again, in some way; both may change the channels."""
    c = x.channels
    down = layer.pick(
        "F.max_pool2d(x, 2)", "F.avg_pool2d(x, 2, 2)", "x[:, :, ::2, ::2]", "F.interpolate(x, scale_factor=0.5)"
    )
    up = layer.pick("nearest", "deconv", "shuffle", "bilinear", "repeat")
    layer.line(f"y = {down}")
    if up == "deconv":
        layer.line(f"y = {layer.module('up', f'nn.ConvTranspose2d({c}, {c}, 2, stride=2)')}(y)")
    elif up == "shuffle":
        wide = layer.module("up", f"nn.Conv2d({c}, {4 * c}, 1)")
        layer.line(f"y = F.pixel_shuffle({wide}(y), 2)")
    elif up == "repeat":
        layer.line("y = y.repeat_interleave(2, -1).repeat_interleave(2, -2)")
    elif up == "bilinear":
        layer.line("y = F.interpolate(y, size=x.shape[-2:], mode='bilinear', align_corners=False)")
    else:
        layer.line(
            layer.pick("y = F.interpolate(y, size=x.shape[2:])", "y = F.interpolate(y, scale_factor=2, mode='nearest')")
        )
    layer.line(layer.pick("x = x + y", "x = torch.cat([x, y], 1)[:, : x.size(1)]", "x = y"))
    return x


@block("image")
def space_to_depth(layer: Layer, x: Value) -> Value:
    layer.line("b, c, h, w = x.shape")
    layer.line(
        layer.pick(
            "y = F.pixel_unshuffle(x, 2)",
            "y = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(b, 4 * c, h // 2, w // 2)",
            "y = torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)",
            "y = F.unfold(x, 2, stride=2).view(b, c * 4, h // 2, w // 2)",
        )
    )
    name = layer.module("merge", f"nn.Conv2d({4 * x.channels}, {x.channels}, 1)")
    layer.line(f"x = F.interpolate({name}(y), size=(h, w))")
    return x


@block("image")
def functional_conv(layer: Layer, x: Value) -> Value:
    """Weights that are worked out in ``forward``."""
    c, outputs = x.channels, layer.width()
    weight = layer.parameter("weight", outputs, c, 3, 3)
    way = layer.pick("plain", "standard", "norm", "masked", "scaled")
    if way in ("standard", "norm"):
        layer.facts.mixes = True
    formula = {
        "plain": weight,
        "standard": f"{weight} - {weight}.mean(dim=(1, 2, 3), keepdim=True)",
        "norm": f"{weight} / {weight}.flatten(1).norm(dim=1)[:, None, None, None]",
        "masked": f"{weight} * {layer.buffer('mask', 'torch.ones(3, 3).tril()')}",
        "scaled": f"{weight} * {layer.parameter('gain', outputs, 1, 1, 1)}",
    }[way]
    layer.line(
        f"w = {formula}", f"x = F.conv2d(x, w, padding=1{layer.pick('', ', bias=' + layer.parameter('bias', outputs))})"
    )
    return x.with_channels(outputs)


@block("image")
def parametrized(layer: Layer, x: Value) -> Value:
    outputs = layer.width()
    wrapper = layer.pick("nn.utils.parametrizations.weight_norm", "nn.utils.spectral_norm", "nn.utils.weight_norm")
    layer.facts.mixes = True
    name = layer.module("conv", f"{wrapper}(nn.Conv2d({x.channels}, {outputs}, 1))")
    layer.line(f"x = {name}(x)")
    return x.with_channels(outputs)


@block("image")
def coordinates(layer: Layer, x: Value) -> Value:
    """Positions as further channels (CoordConv)."""
    layer.line(
        "b, c, h, w = x.shape", "ys = torch.linspace(-1, 1, h, dtype=x.dtype).view(1, 1, h, 1).expand(b, 1, h, w)"
    )
    layer.line("xs = torch.linspace(-1, 1, w, dtype=x.dtype).view(1, 1, 1, w).expand(b, -1, h, -1)")
    layer.line("x = torch.cat([x, ys, xs], 1)")
    return conv_norm(layer, x.with_channels(x.channels + 2))


@block("image")
def spectral(layer: Layer, x: Value) -> Value:
    weight = layer.parameter("filter", x.channels, x.length, x.length // 2 + 1)
    layer.line(
        "f = torch.fft.rfft2(x, norm='ortho')", f"x = torch.fft.irfft2(f * {weight}, s=x.shape[-2:], norm='ortho')"
    )
    return x


@block("image")
def ghost(layer: Layer, x: Value) -> Value:
    half = layer.rng.choice([2, 3, 4])
    name = layer.module("primary", f"nn.Conv2d({x.channels}, {half}, 1)")
    cheap = layer.module("cheap", f"nn.Conv2d({half}, {half}, 3, padding=1, groups={half})")
    outputs = 2 * half - layer.rng.choice([0, 0, 1])
    layer.line(f"a = {name}(x)", f"x = torch.cat([a, {cheap}(a)], dim=1)")
    if outputs != 2 * half:
        layer.line(f"x = x[:, :{layer.constant(outputs)}]")
    return x.with_channels(outputs)


@block("image")
def channel_groups(layer: Layer, x: Value) -> Value:
    """A view as groups of channels, and something within or across them."""
    groups = layer.rng.choice(divisors(x.channels, 4))
    n = layer.constant(groups)
    layer.line("b, c, h, w = x.shape", f"g = x.view(b, {n}, c // {n}, h, w)")
    way = layer.pick("norm", "gain", "softmax", "attend", "sum", "cumsum", "linear", "flip")
    if way in ("norm", "softmax", "cumsum", "flip"):
        layer.facts.mixes = True
    gain = layer.parameter("gain", 1, groups, 1, 1, 1)
    across = layer.module("across", f"nn.Linear({groups}, {groups})")
    layer.facts.offsets |= way in ("attend", "linear")
    layer.facts.mixes |= way == "linear"
    layer.line(
        {
            "norm": "g = F.normalize(g, dim=2)",
            "gain": f"g = g * {gain}",
            "softmax": f"g = g.softmax({layer.pick('1', '2')})",
            "attend": f"g = g * ({gain} * g.mean((3, 4), keepdim=True)).sigmoid()",
            "sum": "g = g + g.sum(1, keepdim=True)",
            "cumsum": f"g = g.cumsum({layer.pick('1', '2')})",
            "linear": f"g = {across}(g.movedim(1, -1)).movedim(-1, 1)",
            "flip": f"g = g.flip({layer.pick('1', '2')})",
        }[way],
        layer.pick("x = g.reshape(b, c, h, w)", "x = g.flatten(1, 2)", "x = g.reshape(x.shape)", "x = g.reshape_as(x)"),
    )
    return x


@block("image")
def in_place(layer: Layer, x: Value) -> Value:
    """Writes into a tensor, or parts of it."""
    layer.line(f"x = {called(conv(layer, x, x.channels), 'x')}")
    ways = [
        "x.relu_()",
        "x.mul_(0.5).add_(x.detach() * 0.1)",
        "y = torch.zeros_like(x); y[:, :, 1:] = x[:, :, :-1]; x = x + y",
        "y = x.clone(); y[:, : y.shape[1] // 2] *= 2.0; x = y",
        "x = x.clone(); x[:, 0] = x[:, 0] * 0.5",
        "y = torch.empty_like(x); y.copy_(x); x = y",
        "y = x.new_zeros(x.shape); y += x; x = y",
        "x = x.masked_fill(x < -1, 0.0)",
        "y = torch.zeros(x.shape, dtype=x.dtype); y[:, :, ::2] = x[:, :, ::2]; x = y",
        "x = torch.where(x > 0, x, x * 0.1)",
    ]
    layer.line(layer.pick(*ways))
    return x


@block("image")
def reorder(layer: Layer, x: Value) -> Value:
    """The channels in another order."""
    c = x.channels
    order = list(range(c))
    layer.rng.shuffle(order)
    ways = [
        "x = x.flip(1)",
        f"x = x[:, {layer.buffer('order', f'torch.tensor({order})')}]",
        "x = torch.roll(x, 1, dims=1)",
        f"x = x.index_select(1, {layer.buffer('order', f'torch.tensor({order})')})",
        f"x = x[:, {order}]",
        "x = torch.cat([x[:, 1:], x[:, :1]], 1)",
    ]
    layer.line(f"x = {called(conv(layer, x, c, 1), 'x')}", layer.pick(*ways))
    return x


@block("image")
def shared(layer: Layer, x: Value) -> Value:
    """One module in several places, or weights that two modules share."""
    c = x.channels
    name = layer.module("same", f"nn.Conv2d({c}, {c}, 3, padding=1)")
    way = layer.rng.randrange(4)
    if way == 0:
        layer.line(
            f"for _ in range({layer.rng.choice([2, 3])}):", f"    x = {layer.pick('torch.tanh', 'F.relu')}({name}(x))"
        )
    elif way == 1:
        other = layer.module("other", f"nn.Conv2d({c}, {c}, 3, padding=1)")
        layer.init.append(f"{other}.weight = {name}.weight")
        layer.line(f"x = {other}(F.relu({name}(x)))")
    elif way == 2:
        layer.line(f"x = {name}(x) + {name}(x.flip(-1))")
    else:
        layer.line(f"y = {name}(x)", f"x = F.conv_transpose2d(F.silu(y), {name}.weight, padding=1)")
    return x


@block("image")
def statistics(layer: Layer, x: Value) -> Value:
    """A size as a number that scales."""
    c = x.channels
    layer.line(f"x = {called(conv(layer, x, c), 'x')}")
    ways = [
        "x = x * (1.0 / math.sqrt(x.shape[1]))",
        "x = x / x.shape[1] ** 0.5",
        "x = x * float(x.size(1)) ** -0.5",
        "x = x * np.sqrt(1.0 / x.shape[1]).item()",
        "n = x.shape[1] * x.shape[2]; x = x * (2.0 / n)",
        "x = x / np.prod(x.shape[1:]).item()",
        "x = x * (x.numel() / x.size(0)) ** -0.25",
        "x = x + 1.0 / len(x[0])",
    ]
    way = layer.pick(*ways)
    layer.facts.offsets |= "+ 1.0" in way
    layer.line(way)
    return x


@block("image")
def token_mixer(layer: Layer, x: Value) -> Value:
    """Attention over pixels, within an image network."""
    heads = layer.rng.choice(divisors(x.channels, 4))
    layer.facts.contracts = True
    qkv = layer.module("qkv", f"nn.Conv2d({x.channels}, {3 * x.channels}, 1, bias={layer.chance(0.5)})")
    out = layer.module("proj", f"nn.Conv2d({x.channels}, {x.channels}, 1)")
    n = layer.constant(heads)
    layer.line("b, c, h, w = x.shape")
    layer.line(
        layer.pick(
            f"q, k, v = {qkv}(x).reshape(b, 3, {n}, c // {n}, h * w).unbind(1)",
            f"q, k, v = (t.reshape(b, {n}, -1, h * w) for t in {qkv}(x).chunk(3, dim=1))",
            f"q, k, v = {qkv}(x).view(b, {n}, c // {n} * 3, h * w).chunk(3, dim=2)",
        )
    )
    scale = layer.pick(f"(c // {n}) ** -0.5", "q.shape[2] ** -0.5", "1.0 / math.sqrt(q.size(2))", "0.3")
    if layer.chance(0.3):
        layer.facts.mixes |= True
        layer.line("a = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)).softmax(-1)", "y = a @ v")
    else:
        layer.line(f"a = ((q.transpose(-2, -1) @ k) * ({scale})).softmax(dim=-1)", "y = v @ a.transpose(-2, -1)")
    layer.line(layer.pick("y = y.reshape(b, c, h, w)", "y = y.reshape(b, -1, h, w)"), f"x = x + {out}(y)")
    return x


@block("image")
def to_tokens(layer: Layer, x: Value) -> Value:
    """Pixels as tokens."""
    dim = layer.rng.choice([8, 12])
    patch = layer.module("patch", f"nn.Conv2d({x.channels}, {dim}, 2, stride=2)")
    layer.line(f"x = {patch}(x)")
    size = layer.size("x", 1, dim, 4)
    layer.line(
        layer.pick(
            "x = x.flatten(2).transpose(1, 2)",
            f"x = x.view(x.size(0), {size}, -1).permute(0, 2, 1)",
            f"x = x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, {size})",
            "x = torch.einsum('bchw->bhwc', x).flatten(1, 2)",
        )
    )
    return Value("tokens", dim, (x.length // 2) ** 2)


@block("image", "volume", "series")
def to_vector(layer: Layer, x: Value) -> Value:
    """The end of an image network: one vector for each image."""
    c, dims = x.channels, DIMS[x.kind]
    last = ", ".join(str(-i - 1) for i in reversed(range(dims)))
    if layer.chance(0.5):
        layer.line(layer.pick(f"x = x.mean(({last},))", "x = x.flatten(2).mean(-1)", f"x = x.amax(dim=({last},))"))
        return Value("vector", c)
    pixels = x.length**dims
    ways = ["x = x.flatten(1)", "x = x.view(x.size(0), -1)", "x = x.reshape(x.shape[0], -1)", "x = torch.flatten(x, 1)"]
    ways += [
        f"x = x.view(-1, {layer.size('x', 1, c, dims + 2)} * {pixels})",
        "x = x.reshape(len(x), np.prod(x.shape[1:]))",
    ]
    layer.line(layer.pick(*ways))
    outputs = layer.width()
    layer.line(f"x = {layer.module('fc', f'nn.Linear({c * pixels}, {outputs})')}(x)")
    return Value("vector", outputs)
