"""Odd networks, continued: codebooks, flows, states carried by hand, windows, adapters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.zoos.networks_vision import Head, conv


class VectorQuantiser(nn.Module):
    """VQ-VAE: the nearest code replaces a vector; the gradient goes straight through."""

    def __init__(self, width: int = 24, codes: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Sequential(conv(3, 32, stride=2), nn.Conv2d(32, width, 1))
        self.codebook = nn.Embedding(codes, width)
        self.decoder = nn.Sequential(conv(width, 32), nn.ConvTranspose2d(32, 3, 2, 2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x).permute(0, 2, 3, 1)
        flat = z.reshape(-1, z.shape[-1])
        codes = self.codebook.weight
        distances = flat.pow(2).sum(1, keepdim=True) - 2 * flat @ codes.t() + codes.pow(2).sum(1)
        chosen = F.embedding(distances.argmin(1), codes).view(z.shape)
        loss = F.mse_loss(chosen.detach(), z) + F.mse_loss(chosen, z.detach())
        z = z + (chosen - z).detach()
        return self.decoder(z.permute(0, 3, 1, 2)), loss


class CouplingFlow(nn.Module):
    """RealNVP: half of the variables scale and shift the other half; the halves change places."""

    def __init__(self, variables: int = 12, hidden: int = 32, layers: int = 3) -> None:
        super().__init__()
        half = variables // 2
        self.nets = nn.ModuleList(
            nn.Sequential(
                nn.Linear(half, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 12)
            )
            for _ in range(layers)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_determinant = x.new_zeros(x.shape[0])
        for net in self.nets:
            a, b = x.chunk(2, dim=1)
            scale, shift = net(a).chunk(2, dim=1)
            scale = torch.tanh(scale)
            x = torch.cat((b * scale.exp() + shift, a), dim=1)
            log_determinant = log_determinant + scale.sum(dim=1)
        return x, log_determinant


class ConvLstm(nn.Module):
    """A recurrent cell of convolutions, with a state that starts from ``torch.zeros``."""

    def __init__(self, width: int = 24, steps: int = 3) -> None:
        super().__init__()
        self.width, self.steps = width, steps
        self.enter = conv(3, 16)
        self.gates = nn.Conv2d(16 + width, 4 * width, 3, padding=1)
        self.head = Head(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        hidden = torch.zeros(x.shape[0], self.width, *x.shape[2:], device=x.device)
        cell = torch.zeros(x.size(0), self.width, x.size(2), x.size(3), device=x.device, dtype=x.dtype)
        for _ in range(self.steps):
            i, f, o, g = torch.split(self.gates(torch.cat([x, hidden], dim=1)), self.width, dim=1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
        return self.head(hidden)


class Neighborhood(nn.Module):
    """Every position attends to those around it: windows by ``Tensor.unfold``."""

    def __init__(self, width: int = 32, heads: int = 4, window: int = 3) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.enter = conv(3, width)
        self.q, self.kv = nn.Conv2d(width, width, 1), nn.Conv2d(width, 2 * width, 1)
        self.bias = nn.Parameter(torch.randn(heads, window**2) * 0.1)
        self.out = nn.Conv2d(width, width, 1)
        self.head = Head(width)

    def windows(self, x: Tensor) -> Tensor:
        pad = self.window // 2
        x = F.pad(x, (pad, pad, pad, pad)).unfold(2, self.window, 1).unfold(3, self.window, 1)
        b, _, h, w = x.shape[:4]
        return x.reshape(b, self.heads, -1, h, w, self.window**2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        b, _, h, w = x.shape
        k, v = (self.windows(t) for t in self.kv(x).chunk(2, dim=1))
        q = self.q(x).view(b, self.heads, -1, h, w, 1)
        scores = (q * k).sum(2) * 0.35 + self.bias.view(1, self.heads, 1, 1, -1)
        mixed = (scores.softmax(-1).unsqueeze(2) * v).sum(-1)
        return self.head(x + self.out(mixed.reshape(b, -1, h, w)))


class Focus(nn.Module):
    """Every second pixel of every second row, four times, become channels."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = conv(3, 12)
        self.after = conv(48, 32)
        self.head = Head(32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        parts = [x[..., i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.head(self.after(torch.cat(parts, 1)))


class LowRank(nn.Module):
    """A frozen layer with a low-rank adapter beside it (LoRA)."""

    def __init__(self, inputs: int, outputs: int, rank: int = 4) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.a, self.b = nn.Parameter(torch.randn(rank, inputs) * 0.2), nn.Parameter(torch.randn(outputs, rank) * 0.2)
        self.scaling = 2.0

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + (x @ self.a.T @ self.b.T) * self.scaling


class Adapted(nn.Module):
    """Adapters, and learned prompts in front of the tokens."""

    def __init__(self, width: int = 32, prompts: int = 3) -> None:
        super().__init__()
        self.enter = nn.Linear(12, width)
        self.prompts = nn.Parameter(torch.randn(1, prompts, width))
        self.up, self.down = LowRank(width, 48), LowRank(48, width)
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        x = torch.cat([self.prompts.expand(x.shape[0], -1, -1), x], dim=1)
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.leave(x[:, self.prompts.shape[1] :])


class GumbelChoice(nn.Module):
    """A hard choice among branches with a soft gradient, channel by channel."""

    def __init__(self, width: int = 24, branches: int = 3) -> None:
        super().__init__()
        self.enter = nn.Linear(12, width)
        self.branches = nn.ModuleList(nn.Linear(width, width) for _ in range(branches))
        self.logits = nn.Parameter(torch.randn(branches, width))
        self.leave = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        soft = self.logits.softmax(0)
        hard = torch.zeros_like(soft).scatter_(0, soft.max(0, keepdim=True)[1], 1.0)
        weights = hard - soft.detach() + soft
        answers = torch.stack([branch(x) for branch in self.branches], dim=0)
        return self.leave(F.relu((answers * weights[:, None]).sum(0)))


class SetPooling(nn.Module):
    """A set is read by learned seeds; sums over members that a mask lets in."""

    def __init__(self, width: int = 32, seeds: int = 2) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Linear(12, width), nn.ReLU())
        self.seeds = nn.Parameter(torch.randn(seeds, width))
        self.key, self.value = nn.Linear(width, 16), nn.Linear(width, 24)
        self.query = nn.Linear(width, 16)
        self.leave = nn.Linear(24 * seeds + width, 5)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        x = self.enter(x)
        scores = torch.einsum("sd,bnd->bsn", self.query(self.seeds), self.key(x))
        scores = scores.masked_fill(~present[:, None], float("-inf")).softmax(-1)
        read = torch.einsum("bsn,bnd->bsd", scores, self.value(x)).flatten(1)
        mean = (x * present[..., None]).sum(1) / present.sum(1, keepdim=True).clamp(min=1)
        return self.leave(torch.cat([read, mean], -1))


class BilinearPooling(nn.Module):
    """Products of all pairs of channels, a signed root, and a unit length."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.left, self.right = conv(3, width), conv(3, width + 4)
        self.head = nn.Linear(width * (width + 4), 6)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.left(x).flatten(2), self.right(x).flatten(2)
        pairs = torch.bmm(a, b.transpose(1, 2)).flatten(1) / a.shape[-1]
        pairs = pairs.sign() * (pairs.abs() + 1e-6).sqrt()
        return self.head(F.normalize(pairs))
