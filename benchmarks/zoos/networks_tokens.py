"""Odd networks on sequences, sets, points, coordinates and graphs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class EinsumAttention(nn.Module):
    """Attention of which every product is an einsum, the projections to heads included."""

    def __init__(self, width: int = 32, heads: int = 4, head_dim: int = 8) -> None:
        super().__init__()
        self.scale = head_dim**-0.5
        self.q, self.k, self.v = (nn.Parameter(torch.randn(heads, width, head_dim) * 0.2) for _ in range(3))
        self.out = nn.Parameter(torch.randn(heads, head_dim, width) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("bnd,hde->bnhe", x, w) for w in (self.q, self.k, self.v))
        q, k, v = (torch.einsum("bnhe->bhne", t) for t in (q, k, v))
        scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * self.scale
        mixed = torch.einsum("...qk,...kd->...qd", scores.softmax(-1), v)
        return torch.einsum("bhne,hed->bnd", mixed, self.out)


class Einsums(nn.Module):
    """Pointwise convolution, attention, a bilinear form, an outer product, a trace-like sum: all by einsum."""

    def __init__(self, width: int = 32, classes: int = 6) -> None:
        super().__init__()
        self.pointwise = nn.Parameter(torch.randn(width, 3) * 0.3)
        self.attention = EinsumAttention(width)
        self.left, self.right = nn.Linear(width, 16), nn.Linear(width, 24)
        self.bilinear = nn.Parameter(torch.randn(classes, 16, 24) * 0.2)
        self.outer = nn.Linear(16 * 24, classes)
        self.per_class = nn.Parameter(torch.randn(classes, width))

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.einsum("bchw,oc->bohw", x, self.pointwise)
        tokens = torch.einsum("bchw->bhwc", maps).flatten(1, 2)
        tokens = F.gelu(tokens + self.attention(tokens))
        left, right = self.left(tokens), self.right(tokens)
        form = torch.einsum("bni,kij,bnj->bk", left, self.bilinear, right)
        gram = torch.einsum("bij,bjk->bik", left.transpose(1, 2), right)
        masks = torch.einsum("kc,bnc->bkn", self.per_class, tokens)
        pooled = torch.einsum("bkn,...n->bk...", masks, tokens.mean(-1)[0])
        return form + self.outer(gram.flatten(1)) + pooled


class Mixer(nn.Module):
    """MLPs over channels and, transposed, over positions."""

    def __init__(self, width: int = 32, tokens: int = 16, layers: int = 2) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, stride=4)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers))
        self.over_tokens = nn.ModuleList(self._mlp(tokens, 24) for _ in range(layers))
        self.over_channels = nn.ModuleList(self._mlp(width, 64) for _ in range(layers))
        self.head = nn.Linear(width, 10)

    @staticmethod
    def _mlp(width: int, hidden: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        for i, (tokens, channels) in enumerate(zip(self.over_tokens, self.over_channels, strict=True)):
            x = x + tokens(self.norms[2 * i](x).transpose(1, 2)).transpose(1, 2)
            x = x + channels(self.norms[2 * i + 1](x))
        return self.head(x.mean(1))


class WaveNet(nn.Module):
    """Dilated causal convolutions with gates; residual and skip paths from one projection."""

    def __init__(self, residual: int = 24, skip: int = 32, layers: int = 3) -> None:
        super().__init__()
        self.residual, self.skip = residual, skip
        self.enter = nn.Conv1d(4, residual, 1)
        self.dilated = nn.ModuleList(nn.Conv1d(residual, 2 * residual, 2, dilation=2**i) for i in range(layers))
        self.mix = nn.ModuleList(nn.Conv1d(residual, residual + skip, 1) for _ in range(layers))
        self.leave = nn.Sequential(nn.ReLU(), nn.Conv1d(skip, 32, 1), nn.ReLU(), nn.Conv1d(32, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        x, skips = self.enter(x), []
        for i, (dilated, mix) in enumerate(zip(self.dilated, self.mix, strict=True)):
            values, gates = dilated(F.pad(x, (2**i, 0))).chunk(2, dim=1)
            new, skip = torch.split(mix(values.tanh() * gates.sigmoid()), [self.residual, self.skip], dim=1)
            x = x + new
            skips.append(skip)
        return self.leave(torch.stack(skips).sum(0))


class Tcn(nn.Module):
    """Weight-normalized causal convolutions that chop off what looks ahead."""

    def __init__(self, widths: tuple[int, ...] = (24, 32)) -> None:
        super().__init__()
        self.convs, self.shortcuts = nn.ModuleList(), nn.ModuleList()
        for i, (a, b) in enumerate(zip((4, *widths), widths, strict=False)):
            layer = nn.Conv1d(a, b, 3, padding=2 * 2**i, dilation=2**i)
            self.convs.append(nn.utils.parametrizations.weight_norm(layer))
            self.shortcuts.append(nn.Conv1d(a, b, 1))
        self.head = nn.Linear(widths[-1], 5)

    def forward(self, x: Tensor) -> Tensor:
        for i, (conv, shortcut) in enumerate(zip(self.convs, self.shortcuts, strict=True)):
            out = conv(x)[:, :, : -2 * 2**i].contiguous()
            x = F.relu(F.dropout(F.relu(out), 0.1, self.training) + shortcut(x))
        return self.head(x[:, :, -1])


class SoftExperts(nn.Module):
    """Every expert answers; a softmax weighs the answers."""

    def __init__(self, width: int = 24, experts: int = 4) -> None:
        super().__init__()
        self.enter = nn.Linear(12, width)
        self.router = nn.Linear(width, experts)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 48), nn.GELU(), nn.Linear(48, width)) for _ in range(experts)
        )
        self.leave = nn.Linear(width, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        weights = self.router(x).softmax(-1)
        answers = torch.stack([expert(x) for expert in self.experts], dim=-1)
        return self.leave(x + (answers * weights.unsqueeze(-2)).sum(-1))


class FusedExperts(nn.Module):
    """The same with the experts' weights in one tensor, run by bmm."""

    def __init__(self, width: int = 24, hidden: int = 40, experts: int = 4) -> None:
        super().__init__()
        self.enter = nn.Linear(12, width)
        self.router = nn.Linear(width, experts)
        self.up = nn.Parameter(torch.randn(experts, width, hidden) * 0.2)
        self.down = nn.Parameter(torch.randn(experts, hidden, width) * 0.2)
        self.leave = nn.Linear(width, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        weights = self.router(x).softmax(-1)
        copies = x.expand(self.up.shape[0], *x.shape)
        answers = torch.bmm(F.gelu(torch.bmm(copies, self.up)), self.down)
        return self.leave(x + (answers * weights.t().unsqueeze(-1)).sum(0))


class Perceiver(nn.Module):
    """Learned latents (a raw parameter) look at the input, then at each other."""

    def __init__(self, latents: int = 6, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.latents = nn.Parameter(torch.randn(latents, width))
        self.q, self.kv = nn.Linear(width, width), nn.Linear(12, 2 * width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.leave = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        b = x.shape[0]
        z = self.latents.unsqueeze(0).expand(b, -1, -1)
        q = self.q(z).view(b, -1, self.heads, self.q.out_features // self.heads).transpose(1, 2)
        k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.kv(x).chunk(2, -1))
        read = F.scaled_dot_product_attention(q, k, v, scale=0.3).transpose(1, 2).flatten(2)
        z = z + self.out(read)
        z = z + self.mlp(self.norm(z))
        z = z + self.attention(z, z, z, need_weights=False)[0]
        return self.leave(z.mean(1))


class LinearAttention(nn.Module):
    """Attention without softmax: keys and values are summed up once."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.enter = nn.Linear(12, width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.leave = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        context = torch.einsum("bhnd,bhne->bhde", k, v)
        scale = 1 / (torch.einsum("bhnd,bhd->bhn", q, k.sum(dim=2)) + 1e-6)
        mixed = torch.einsum("bhnd,bhde,bhn->bhne", q, context, scale)
        return self.leave(x + self.out(mixed.transpose(1, 2).reshape(b, n, -1)))


class ConformerConv(nn.Module):
    """Pointwise, GLU, depthwise, normalization, swish, pointwise."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.enter = nn.Linear(12, width)
        self.norm = nn.LayerNorm(width)
        self.first = nn.Conv1d(width, 2 * width, 1)
        self.depthwise = nn.Conv1d(width, width, 5, padding=2, groups=width)
        self.batch_norm = nn.BatchNorm1d(width)
        self.second = nn.Conv1d(width, width, 1)
        self.leave = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        y = F.glu(self.first(self.norm(x).transpose(1, 2)), dim=1)
        y = self.second(F.silu(self.batch_norm(self.depthwise(y))))
        return self.leave(x + y.transpose(1, 2))


class Kan(nn.Module):
    """A layer of learned functions: Fourier series, or cubic splines by the recursion of Cox and de Boor."""

    def __init__(self, inputs: int, outputs: int, basis: str, size: int = 5) -> None:
        super().__init__()
        self.basis, self.size = basis, size
        self.coefficients = nn.Parameter(torch.randn(outputs, inputs, 2 * size if basis == "fourier" else size) * 0.2)
        self.base = nn.Parameter(torch.randn(outputs, inputs) * 0.2)
        grid = torch.linspace(-2, 2, size + 4).expand(inputs, -1).contiguous()
        self.register_buffer("grid", grid)
        self.register_buffer("frequencies", torch.arange(1, size + 1).float())

    def forward(self, x: Tensor) -> Tensor:
        values = self._fourier(x) if self.basis == "fourier" else self._splines(x)
        return F.linear(F.silu(x), self.base) + torch.einsum("big,oig->bo", values, self.coefficients)

    def _fourier(self, x: Tensor) -> Tensor:
        angles = x.unsqueeze(-1) * self.frequencies
        return torch.cat((angles.cos(), angles.sin()), -1)

    def _splines(self, x: Tensor) -> Tensor:
        x, grid = x.unsqueeze(-1), self.grid
        bases = ((x >= grid[:, :-1]) & (x < grid[:, 1:])).to(x.dtype)
        for k in range(1, 4):
            left = (x - grid[:, : -(k + 1)]) / (grid[:, k:-1] - grid[:, : -(k + 1)]) * bases[:, :, :-1]
            right = (grid[:, k + 1 :] - x) / (grid[:, k + 1 :] - grid[:, 1:(-k)]) * bases[:, :, 1:]
            bases = left + right
        return bases


class Memory(nn.Module):
    """A Hopfield layer: what is looked up among learned keys is a mixture of learned values."""

    def __init__(self, width: int = 24, entries: int = 16) -> None:
        super().__init__()
        self.enter = nn.Linear(12, width)
        self.keys, self.values = nn.Parameter(torch.randn(entries, width)), nn.Parameter(torch.randn(entries, width))
        self.beta = 0.4
        self.leave = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for _ in range(2):
            x = x + torch.softmax(self.beta * x @ self.keys.T, dim=-1) @ self.values
        return self.leave(x)


class HyperNetwork(nn.Module):
    """One network makes the weights of another, sample by sample."""

    def __init__(self, condition: int = 8, inputs: int = 12, hidden: int = 24, outputs: int = 6) -> None:
        super().__init__()
        self.hidden, self.outputs = hidden, outputs
        self.enter = nn.Linear(inputs, 20)
        self.code = nn.Sequential(nn.Linear(condition, 32), nn.ReLU())
        self.weight1, self.bias1 = nn.Linear(32, hidden * 20), nn.Linear(32, hidden)
        self.weight2 = nn.Linear(32, outputs * hidden)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        code, x = self.code(condition), self.enter(x)
        first = self.weight1(code).view(-1, self.hidden, x.shape[-1])
        x = F.relu(torch.bmm(first, x.unsqueeze(-1)).squeeze(-1) + self.bias1(code))
        second = self.weight2(code).view(-1, self.outputs, self.hidden)
        return torch.bmm(second, x.unsqueeze(-1)).squeeze(-1)


class Nerf(nn.Module):
    """Coordinates in sines and cosines, an MLP that reads them again half way, density and color."""

    def __init__(self, width: int = 48, frequencies: int = 4) -> None:
        super().__init__()
        encoded = 3 + 6 * frequencies
        self.register_buffer("bands", 2.0 ** torch.arange(frequencies))
        self.layers = nn.ModuleList([nn.Linear(encoded, width), nn.Linear(width, width)])
        self.layers.extend([nn.Linear(width + encoded, width), nn.Linear(width, width)])
        self.skips = (1,)
        self.density, self.feature = nn.Linear(width, 1), nn.Linear(width, width)
        self.view, self.color = nn.Linear(width + encoded, 24), nn.Linear(24, 3)

    def encode(self, x: Tensor) -> Tensor:
        angles = (x[..., None] * self.bands).flatten(-2)
        return torch.cat((x, angles.sin(), angles.cos()), -1)

    def forward(self, points: Tensor, directions: Tensor) -> Tensor:
        code = self.encode(points)
        h = code
        for i, layer in enumerate(self.layers):
            h = F.relu(layer(h))
            if i in self.skips:
                h = torch.cat([code, h], -1)
        views = torch.cat([self.feature(h), self.encode(directions)], -1)
        return torch.cat([self.color(F.relu(self.view(views))).sigmoid(), self.density(h)], -1)


class TransformNet(nn.Module):
    """A matrix for every cloud of points, near the identity."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k
        self.convs = nn.Sequential(nn.Conv1d(k, 24, 1), nn.BatchNorm1d(24), nn.ReLU(), nn.Conv1d(24, 32, 1))
        self.dense = nn.Sequential(nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, k * k))

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.max(self.convs(x), 2, keepdim=True)[0].view(x.shape[0], -1)
        eye = torch.eye(self.k, dtype=x.dtype, device=x.device).flatten()
        return (self.dense(pooled) + eye).view(-1, self.k, self.k)


class PointNet(nn.Module):
    """The maximum over points, with a learned transform of the coordinates and of the features."""

    def __init__(self, features: int = 16) -> None:
        super().__init__()
        self.stn, self.fstn = TransformNet(3), TransformNet(features)
        self.conv1, self.conv2 = nn.Conv1d(3, features, 1), nn.Conv1d(features, 48, 1)
        self.norm1, self.norm2 = nn.BatchNorm1d(features), nn.BatchNorm1d(48)
        self.head = nn.Sequential(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 7))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.bmm(x.transpose(2, 1), self.stn(x)).transpose(2, 1)
        x = F.relu(self.norm1(self.conv1(x)))
        x = torch.bmm(x.transpose(2, 1), self.fstn(x)).transpose(2, 1)
        x = self.norm2(self.conv2(x))
        return self.head(torch.max(x, 2)[0])


class Gcn(nn.Module):
    """Graph convolutions: messages are summed with index_add or with scatter_add."""

    def __init__(self, way: str, width: int = 32) -> None:
        super().__init__()
        self.way = way
        self.layers = nn.ModuleList([nn.Linear(12, width), nn.Linear(width, 24), nn.Linear(24, 5)])

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges.unbind(1)
        degree = x.new_ones(x.shape[0]).index_add(0, target, x.new_ones(target.shape[0]))
        weight = degree[source].rsqrt() * degree[target].rsqrt()
        for i, layer in enumerate(self.layers):
            h = layer(x)
            x = self._sum(h, h[source] * weight[:, None], target) + h / degree[:, None]
            x = F.relu(x) if i < len(self.layers) - 1 else x
        return x

    def _sum(self, h: Tensor, messages: Tensor, target: Tensor) -> Tensor:
        if self.way == "index_add":
            return torch.zeros_like(h).index_add_(0, target, messages)
        if self.way == "zeros":
            return torch.zeros(h.shape[0], h.shape[1], device=h.device).index_add_(0, target, messages)
        return torch.zeros_like(h).scatter_add_(0, target[:, None].expand_as(messages), messages)


class Gat(nn.Module):
    """Attention over a node's neighbors, a softmax by target for each head."""

    def __init__(self, width: int = 8, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.enter = nn.Linear(12, heads * width, bias=False)
        self.from_source = nn.Parameter(torch.randn(1, heads, width))
        self.from_target = nn.Parameter(torch.randn(1, heads, width))
        self.bias = nn.Parameter(torch.zeros(heads * width))
        self.leave = nn.Linear(heads * width, 5)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges.unbind(1)
        h = self.enter(x).view(-1, self.heads, self.width)
        scores = (h * self.from_source).sum(-1)[source] + (h * self.from_target).sum(-1)[target]
        weights = self._softmax(F.leaky_relu(scores, 0.2), target, x.shape[0])
        messages = h[source] * weights.unsqueeze(-1)
        out = torch.zeros_like(h).scatter_add(0, target.view(-1, 1, 1).expand_as(messages), messages)
        return self.leave(F.elu(out.flatten(1) + self.bias))

    def _softmax(self, scores: Tensor, target: Tensor, nodes: int) -> Tensor:
        index = target.unsqueeze(-1).expand_as(scores)
        peak = scores.new_zeros(nodes, self.heads).scatter_reduce(0, index, scores, "amax", include_self=False)
        scores = (scores - peak.gather(0, index)).exp()
        total = scores.new_zeros(nodes, self.heads).index_add_(0, target, scores)
        return scores / (total[target] + 1e-16)


class Gin(nn.Module):
    """Sums of neighbors by ``out[target] += message`` and a pooled graph, by index_put and scatter mean."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.epsilon = nn.Parameter(torch.zeros(1))
        self.enter = nn.Linear(12, width)
        self.first = nn.Sequential(nn.Linear(width, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, width))
        self.second = nn.Sequential(nn.Linear(width, 40), nn.ReLU(), nn.Linear(40, 24))
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges.unbind(1)
        x = self.enter(x)
        for block in (self.first, self.second):
            total = torch.zeros_like(x).index_put((target,), x[source], accumulate=True)
            x = block((1 + self.epsilon) * x + total)
        graph = (torch.arange(x.shape[0]) >= x.shape[0] // 2).long()
        pooled = x.new_zeros(2, x.shape[1]).scatter_reduce_(
            0, graph[:, None].expand_as(x), x, reduce="mean", include_self=False
        )
        return self.head(pooled)


class EdgeConv(nn.Module):
    """DGCNN: differences to the nearest neighbors (found by topk), maximum over them."""

    def __init__(self, width: int = 24, neighbors: int = 4) -> None:
        super().__init__()
        self.neighbors = neighbors
        self.first = nn.Sequential(nn.Conv2d(6, width, 1), nn.BatchNorm2d(width), nn.LeakyReLU(0.2))
        self.second = nn.Sequential(nn.Conv2d(2 * width, 32, 1), nn.BatchNorm2d(32), nn.LeakyReLU(0.2))
        self.head = nn.Linear(32, 5)

    def edges(self, x: Tensor, near: Tensor) -> Tensor:
        """[b, c, n] and the neighbors' numbers [b, n, k] give [b, 2c, n, k]."""
        b, c, n = x.shape
        index = near.reshape(b, 1, -1).expand(-1, c, -1)
        there = x.gather(2, index).view(b, c, n, self.neighbors)
        here = x.unsqueeze(-1).expand_as(there)
        return torch.cat((there - here, here), 1)

    def forward(self, x: Tensor) -> Tensor:
        near = torch.cdist(x.transpose(1, 2), x.transpose(1, 2)).topk(self.neighbors, largest=False)[1]
        x = self.first(self.edges(x, near)).max(-1)[0]
        x = self.second(self.edges(x, near)).max(-1)[0]
        return self.head(F.adaptive_max_pool1d(x, 1).squeeze(-1))


class TokenDrop(nn.Module):
    """Tokens are picked, written back and merged by their numbers: gather, scatter, masked_scatter, index_copy."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.enter, self.mask_token = nn.Linear(12, width), nn.Parameter(torch.randn(1, 1, width))
        self.encoder, self.decoder = nn.Linear(width, width), nn.Linear(width, 40)
        self.leave = nn.Linear(40, 5)
        self.register_buffer("order", torch.tensor([3, 0, 5, 2, 1, 4, 7, 6]))
        self.register_buffer("picked", torch.tensor([True, False, True, True, False, False, True, True]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        b, n, c = x.shape
        index = self.order[:5].view(1, -1, 1).expand(b, -1, c)
        seen = self.encoder(torch.gather(x, 1, index))
        hidden = self.mask_token.expand(b, n, -1)
        x = hidden.scatter(1, index, seen)
        x = x.clone()
        x[:, self.picked] = x[:, self.picked] * 2
        x = x.index_copy(1, self.order[5:7], seen[:, :2])
        x = x.masked_scatter(self.picked.view(1, n, 1).expand(b, -1, c), x)
        x = torch.where(self.picked[None, :, None], x, x.index_select(1, self.order))
        return self.leave(F.relu(self.decoder(x)))


class ImageTokens(nn.Module):
    """Embeddings of image tokens are replaced by what another network says, if there are as many."""

    def __init__(self, width: int = 32, image_token: int = 7) -> None:
        super().__init__()
        self.image_token = image_token
        self.embed = nn.Embedding(10, width)
        self.vision = nn.Sequential(nn.Linear(12, 40), nn.GELU(), nn.Linear(40, width))
        self.body = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))
        self.leave = nn.Linear(width, 5)

    def forward(self, ids: Tensor, patches: Tensor) -> Tensor:
        x, features = self.embed(ids), self.vision(patches)
        mask = (ids == self.image_token).unsqueeze(-1).expand_as(x).to(x.device)
        if x[mask].numel() != features.numel():
            raise ValueError("as many image tokens as patches are needed")
        x = x.masked_scatter(mask, features)
        return self.leave(x + self.body(x))


class SlotAttention(nn.Module):
    """Slots compete for inputs: a softmax over slots, a weighted mean over inputs."""

    def __init__(self, slots: int = 4, width: int = 24) -> None:
        super().__init__()
        self.slots, self.scale = slots, math.sqrt(1 / width)
        self.mean, self.spread = nn.Parameter(torch.randn(1, 1, width)), nn.Parameter(torch.rand(1, 1, width))
        self.register_buffer("noise", torch.randn(slots, 1))
        self.enter = nn.Linear(12, width)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.mlp = nn.Sequential(nn.Linear(width, 40), nn.ReLU(), nn.Linear(40, width))
        self.leave = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        slots = self.mean.expand(x.shape[0], self.slots, -1) + self.spread * self.noise
        k, v = self.k(x), self.v(x)
        for _ in range(2):
            weights = (k @ self.q(slots).transpose(1, 2) * self.scale).softmax(-1) + 1e-8
            weights = weights / weights.sum(1, keepdim=True)
            slots = slots + self.mlp(weights.transpose(1, 2) @ v)
        return self.leave(slots)
