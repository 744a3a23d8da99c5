"""Decoder-only language model with grouped-query attention, as in Llama 3.

- rotary positions (RoPE): Su et al. (2021), https://arxiv.org/abs/2104.09864
- grouped-query attention (GQA): Ainslie et al. (2023), https://arxiv.org/abs/2305.13245
- SwiGLU: Shazeer (2020), https://arxiv.org/abs/2002.05202
- RMSNorm: Zhang and Sennrich (2019), https://arxiv.org/abs/1910.07467
- the whole: Touvron et al., "LLaMA" (2023), https://arxiv.org/abs/2302.13971
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Expected = tuple[str, int, tuple[str, ...]]  # role, units, members: see models/__init__.py


class RMSNorm(nn.Module):
    """Divide by the root of the mean square over the last dimension, then multiply by a weight."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


class Attention(nn.Module):
    """Causal self-attention, `groups` query heads to a key/value head: [b, t, dim] -> [b, t, dim]."""

    def __init__(self, dim: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.num_kv_heads = kv_heads
        self.groups = heads // kv_heads
        self.head_dim = dim // heads
        self.scale = self.head_dim**-0.5
        self.q_proj = nn.Linear(dim, heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(dim, kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(dim, kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(heads * self.head_dim, dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.q_proj(x).view(b, t, self.num_heads, -1).transpose(1, 2)  # [b, heads, t, head_dim]
        k = self.k_proj(x).view(b, t, self.num_kv_heads, -1).transpose(1, 2)  # [b, kv_heads, t, head_dim]
        v = self.v_proj(x).view(b, t, self.num_kv_heads, -1).transpose(1, 2)  # [b, kv_heads, t, head_dim]
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k, v = repeat_heads(k, self.groups), repeat_heads(v, self.groups)  # [b, heads, t, head_dim]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)  # like q
        return self.o_proj(y.transpose(1, 2).reshape(b, t, -1))


class SwiGLU(nn.Module):
    """Perceptron whose hidden units are gated, [b, t, dim] -> [b, t, mlp_dim] -> [b, t, dim]."""

    def __init__(self, dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, mlp_dim, bias=False)
        self.up = nn.Linear(dim, mlp_dim, bias=False)
        self.down = nn.Linear(mlp_dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """Attention and perceptron, each behind its own RMSNorm and added to the residual stream."""

    def __init__(self, dim: int, heads: int, kv_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.norm1 = RMSNorm(dim)
        self.attn = Attention(dim, heads, kv_heads)
        self.norm2 = RMSNorm(dim)
        self.mlp = SwiGLU(dim, mlp_dim)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """Token embedding, `depth` blocks that share the rotary frequencies, a linear head over the tokens."""

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        depth: int,
        heads: int,
        kv_heads: int,
        mlp_dim: int,
        context: int,
        tied: bool,
    ) -> None:
        super().__init__()
        self.context = context
        self.embed = nn.Embedding(vocab_size, dim)
        self.blocks = nn.ModuleList(Block(dim, heads, kv_heads, mlp_dim) for _ in range(depth))
        self.norm = RMSNorm(dim)
        self.lm_head = nn.Linear(dim, vocab_size, bias=False)
        self.register_buffer("inv_freq", rope_frequencies(dim // heads))
        self.apply(init_weights)
        if tied:
            self.lm_head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids [b, t] -> logits [b, t, vocab_size].

        Raises:
            ValueError: t is more than `context`.
        """
        if ids.shape[1] > self.context:
            raise ValueError(f"ids has {ids.shape[1]} tokens in a row, the model's context is {self.context}")
        cos, sin = self.rope(ids)
        x = self.embed(ids)  # [b, t, dim]
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.lm_head(self.norm(x))

    def rope(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of position times frequency, each [t, head_dim]; both halves are alike."""
        positions = torch.arange(ids.shape[1], device=ids.device).to(self.inv_freq)
        angles = positions[:, None] * self.inv_freq  # [t, head_dim / 2]
        angles = torch.cat((angles, angles), dim=-1)  # [t, head_dim]
        return angles.cos(), angles.sin()


def rope_frequencies(head_dim: int, base: float = 10000.0) -> Tensor:
    """Radians per position for each pair of channels, [head_dim / 2], from 1 down to nearly 1 / base."""
    return base ** (-torch.arange(0, head_dim, 2) / head_dim)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each channel of the first half of a head together with its partner in the second half."""
    x1, x2 = x.chunk(2, dim=-1)  # [b, heads, t, head_dim / 2] each
    return x * cos + torch.cat((-x2, x1), dim=-1) * sin


def repeat_heads(x: Tensor, groups: int) -> Tensor:
    """Each key/value head `groups` times in a row, [b, kv_heads, t, d] -> [b, kv_heads * groups, t, d]."""
    b, kv_heads, t, d = x.shape
    x = x.unsqueeze(2).expand(b, kv_heads, groups, t, d)
    return x.reshape(b, kv_heads * groups, t, d)


def init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)


def gpt(
    vocab_size: int = 256,
    dim: int = 64,
    depth: int = 4,
    heads: int = 8,
    kv_heads: int = 2,
    mlp_dim: int = 172,
    context: int = 128,
    tied: bool = False,
) -> GPT:
    """A small Llama-like decoder, 0.21 M parameters by default; `tied` uses the embedding as the head, too.

    >>> gpt()(torch.zeros(2, 5, dtype=torch.long)).shape
    torch.Size([2, 5, 256])

    Raises:
        ValueError: `heads` does not divide `dim` into even widths, or `kv_heads` does not divide `heads`.
    """
    if dim % (2 * heads) or heads % kv_heads:
        raise ValueError(
            f"gpt(dim={dim}, heads={heads}, kv_heads={kv_heads}): dim must be a multiple of 2 * heads "
            "(rotary positions turn pairs of channels), and heads a multiple of kv_heads"
        )
    return GPT(vocab_size, dim, depth, heads, kv_heads, mlp_dim, context, tied)


def _stream(block: str) -> tuple[str, ...]:
    """Where the residual stream occurs in a block."""
    return (
        *(f"{block}.norm1.weight[0]", f"{block}.norm2.weight[0]"),
        *(f"{block}.attn.{name}.weight[1]" for name in ("q_proj", "k_proj", "v_proj")),
        *(f"{block}.mlp.{name}.weight[1]" for name in ("gate", "up")),
        *(f"{block}.attn.o_proj.weight[0]", f"{block}.mlp.down.weight[0]"),
    )


def _kv_groups(block: str, kv_heads: int) -> Expected:
    """A key/value head goes with all the query heads that use it."""
    written = (f"{block}.attn.{name}.weight[0]" for name in ("q_proj", "k_proj", "v_proj"))
    return "kv_groups", kv_heads, (*written, f"{block}.attn.o_proj.weight[1]")


def _query_heads(block: str, count: int) -> Expected:
    """One query head of every key/value head."""
    return "heads", count, (f"{block}.attn.q_proj.weight[0]", f"{block}.attn.o_proj.weight[1]")


def _mlp(block: str, width: int) -> Expected:
    name = f"{block}.mlp"
    return "mlp", width, (f"{name}.gate.weight[0]", f"{name}.up.weight[0]", f"{name}.down.weight[1]")


# For gpt().
EXPECTED_GROUPS: tuple[Expected, ...] = (
    (
        "width",
        64,
        (
            "embed.weight[1]",
            *(axis for block in range(4) for axis in _stream(f"blocks.{block}")),
            *("norm.weight[0]", "lm_head.weight[1]"),
        ),
    ),
    *(_kv_groups(f"blocks.{block}", 2) for block in range(4)),
    *(_query_heads(f"blocks.{block}", 4) for block in range(4)),
    *(_mlp(f"blocks.{block}", 172) for block in range(4)),
)
