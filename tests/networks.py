"""Small networks in which channels depend on each other in every way that occurs in practice.

Each block takes [b, c, h, w] (or [b, t, c]) and the network's input. Sizes in ``forward`` come from attributes and
shapes, as they do in published code. ``randomize`` gives every tensor values that would reveal a wrong channel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights, biases and normalization statistics, so that no channel is like another."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, x in (*model.named_parameters(), *model.named_buffers()):
            if x.is_floating_point():
                fan = max(x[0].numel(), 1) if x.ndim > 1 else 1
                x.copy_(torch.randn(x.shape, generator=generator) / fan**0.5)
                if name.endswith("running_var"):
                    x.abs_().add_(0.5)
    return model


class ConvNorm(nn.Module):
    """3x3 convolution, normalization ("batch", "group" or ""), ReLU."""

    def __init__(self, inputs: int, outputs: int, norm: str = "batch", groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups, bias=not norm)
        self.norm = {
            "batch": lambda: nn.BatchNorm2d(outputs),
            "group": lambda: nn.GroupNorm(2, outputs),
            "": nn.Identity,
        }[norm]()

    def forward(self, x: Tensor, image: Tensor | None = None) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class Residual(nn.Module):
    def __init__(self, channels: int, hidden: int, project: bool) -> None:
        super().__init__()
        self.enter = ConvNorm(channels, hidden)
        self.leave = nn.Conv2d(hidden, channels, 1)
        self.shortcut = nn.Conv2d(channels, channels, 1) if project else nn.Identity()

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.leave(self.enter(x)))


class Concat(nn.Module):
    """New channels beside the old ones, and beside the network's input on request."""

    def __init__(self, channels: int, growth: int, with_image: bool) -> None:
        super().__init__()
        self.with_image = with_image
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, growth, 1)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        new = self.conv(F.relu(self.norm(x)))
        return torch.cat([x, new, image] if self.with_image else [new, x], dim=1)


class Gate(nn.Module):
    """One convolution computes values and their gates; they are told apart by ``split`` or ``chunk``."""

    def __init__(self, channels: int, width: int, chunk: bool) -> None:
        super().__init__()
        self.width = width
        self.chunk = chunk
        self.fused = nn.Conv2d(channels, 2 * width, 1)
        self.project = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        fused = self.fused(x)
        value, gate = fused.chunk(2, dim=1) if self.chunk else fused.split(self.width, dim=1)
        return x + self.project(value * gate.sigmoid())


class Shuffle(nn.Module):
    """Half of the channels is transformed; then both halves are interleaved."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.parts = 2
        self.branch = ConvNorm(channels // 2, channels // 2)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        kept, changed = x.chunk(self.parts, dim=1)
        x = torch.cat((kept, self.branch(changed)), dim=1)
        b, c, h, w = x.shape
        return x.view(b, self.parts, c // self.parts, h, w).transpose(1, 2).reshape(b, c, h, w)


class Grouped(nn.Module):
    """A grouped convolution between two pointwise ones."""

    def __init__(self, channels: int, groups: int, width: int, multiplier: int) -> None:
        super().__init__()
        inside = groups * width
        self.enter = nn.Conv2d(channels, inside, 1)
        self.grouped = ConvNorm(inside, inside * multiplier, groups=groups)
        self.leave = nn.Conv2d(inside * multiplier, channels, 1)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        return self.leave(self.grouped(self.enter(x)))


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.excite = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        scale = x.mean(dim=(2, 3), keepdim=True)
        return x * self.excite(F.relu(self.squeeze(scale))).sigmoid()


class Twice(nn.Module):
    """One module that is called two times."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shared = ConvNorm(channels, channels)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        return self.shared(self.shared(x))


class Branches(nn.Module):
    def __init__(self, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(ConvNorm(channels, width) for width in widths)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class FusedAttention(nn.Module):
    """One projection for queries, keys and values."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.head_dim = dim // heads
        self.scale = self.head_dim**-0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        qkv = self.qkv(x).reshape(b, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        y = (q * self.scale @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        return self.out(y.transpose(1, 2).reshape(b, t, self.num_heads * self.head_dim))


class GroupedQueryAttention(nn.Module):
    """Every key/value head serves ``repeats`` query heads; with one it is common attention."""

    def __init__(self, dim: int, kv_heads: int, repeats: int, head_dim: int) -> None:
        super().__init__()
        self.kv_heads = kv_heads
        self.repeats = repeats
        self.heads = kv_heads * repeats
        self.head_dim = head_dim
        self.q = nn.Linear(dim, self.heads * head_dim, bias=False)
        self.k = nn.Linear(dim, kv_heads * head_dim, bias=False)
        self.v = nn.Linear(dim, kv_heads * head_dim)
        self.out = nn.Linear(self.heads * head_dim, dim)

    def repeated(self, x: Tensor) -> Tensor:
        """[b, kv_heads, t, d] -> [b, heads, t, d]."""
        b, heads, t, d = x.shape
        x = x[:, :, None].expand(b, heads, self.repeats, t, d)
        return x.reshape(b, heads * self.repeats, t, d)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.q(x).view(b, t, self.heads, self.head_dim).transpose(1, 2)
        k = self.k(x).view(b, t, self.kv_heads, self.head_dim).transpose(1, 2)
        v = self.v(x).view(b, t, self.kv_heads, self.head_dim).transpose(1, 2)
        scale = self.head_dim**-0.5
        y = F.scaled_dot_product_attention(q, self.repeated(k), self.repeated(v), is_causal=True, scale=scale)
        return self.out(y.transpose(1, 2).reshape(b, t, -1))


class TorchAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class TransformerBlock(nn.Module):
    def __init__(self, dim: int, attention: nn.Module, hidden: int, gated: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = attention
        self.hidden = hidden
        self.gated = gated
        self.up = nn.Linear(dim, 2 * hidden if gated else hidden)
        self.down = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y = self.up(self.norm2(x))
        if self.gated:
            value, gate = y.chunk(2, dim=-1)
            y = value * F.silu(gate)
        return x + self.down(F.gelu(y))


class ImageNetwork(nn.Module):
    """Blocks of images, then classes: from the mean, from all pixels, or from tokens."""

    def __init__(self, stem: int, blocks: Sequence[nn.Module], tail: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, stem, 3, padding=1)
        self.blocks = nn.ModuleList(blocks)
        self.tail = tail

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        for block in self.blocks:
            x = block(x, image)
        return self.tail(x)


class PooledTail(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, hidden), nn.Linear(hidden, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1).flatten(1))))


class FlatTail(nn.Module):
    def __init__(self, channels: int, hidden: int, pixels: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels * pixels, hidden), nn.Linear(hidden, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x.view(x.size(0), -1))))


class TokenTail(nn.Module):
    """Pixels are tokens, before them a class token."""

    def __init__(self, channels: int, pixels: int, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, channels))
        self.positions = nn.Parameter(torch.zeros(1, pixels + 1, channels))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


class TextNetwork(nn.Module):
    """Token ids to scores of tokens; ``tied`` shares the embedding with the head."""

    def __init__(self, dim: int, blocks: Sequence[nn.Module], tied: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, dim)
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 11, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(ids))))
