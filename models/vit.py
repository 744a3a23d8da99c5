"""Vision transformer with a fused query/key/value projection.

Dosovitskiy et al.: "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale" (2020),
https://arxiv.org/abs/2010.11929. Layer normalization comes before each block, as in the paper.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Expected = tuple[str, int, tuple[str, ...]]  # role, units, members: see models/__init__.py


class Attention(nn.Module):
    """Self-attention over n tokens, [b, n, dim] -> [b, n, dim]."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.head_dim = dim // heads
        self.scale = self.head_dim**-0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # three times [b, heads, n, head_dim]
        y = F.scaled_dot_product_attention(q, k, v, scale=self.scale)  # [b, heads, n, head_dim]
        y = y.transpose(1, 2).reshape(b, n, -1)  # [b, n, heads * head_dim]
        return self.proj(y)


class Block(nn.Module):
    """Attention and a two-layer perceptron, each with its own LayerNorm and residual addition."""

    def __init__(self, dim: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, mlp_dim)
        self.fc2 = nn.Linear(mlp_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))  # [b, n, dim] -> [b, n, mlp_dim] -> [b, n, dim]


class ViT(nn.Module):
    """Patches and a class token with learned positions, `depth` blocks, a linear classifier on the token."""

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        dim: int,
        depth: int,
        heads: int,
        mlp_dim: int,
        num_classes: int,
        in_channels: int,
    ) -> None:
        super().__init__()
        patches = (image_size // patch_size) ** 2
        self.patch_embed = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, patches + 1, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads, mlp_dim) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.pos_embed, std=0.02)
        self.apply(init_weights)

    def forward(self, images: Tensor) -> Tensor:
        """Images [b, in_channels, image_size, image_size] -> logits [b, num_classes]."""
        x = self.patch_embed(images)  # [b, dim, rows, columns]
        x = x.flatten(2).transpose(1, 2)  # [b, patches, dim]
        token = self.cls_token.expand(x.shape[0], -1, -1)  # [b, 1, dim]
        x = torch.cat((token, x), dim=1) + self.pos_embed  # [b, 1 + patches, dim]
        x = self.norm(self.blocks(x))
        return self.head(x[:, 0])


def init_weights(module: nn.Module) -> None:
    """A normal distribution of width 0.02, cut off, for linear weights; biases start at zero."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def vit(
    image_size: int = 32,
    patch_size: int = 4,
    dim: int = 64,
    depth: int = 4,
    heads: int = 4,
    mlp_dim: int = 128,
    num_classes: int = 10,
    in_channels: int = 3,
) -> ViT:
    """A small ViT, 0.14 M parameters by default.

    >>> vit()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])

    Raises:
        ValueError: `image_size` is not a multiple of `patch_size`, or `dim` is not one of `heads`.
    """
    if image_size % patch_size or dim % heads:
        raise ValueError(
            f"vit(image_size={image_size}, patch_size={patch_size}, dim={dim}, heads={heads}): "
            "patch_size must divide image_size, and heads must divide dim"
        )
    return ViT(image_size, patch_size, dim, depth, heads, mlp_dim, num_classes, in_channels)


def _linear(name: str) -> tuple[str, str]:
    """Axes of a linear layer's outputs (a LayerNorm's channels, likewise)."""
    return f"{name}.weight[0]", f"{name}.bias[0]"


def _stream(block: str) -> tuple[str, ...]:
    """Where the residual stream occurs in a block."""
    return (
        *(*_linear(f"{block}.norm1"), f"{block}.attn.qkv.weight[1]", *_linear(f"{block}.attn.proj")),
        *(*_linear(f"{block}.norm2"), f"{block}.fc1.weight[1]", *_linear(f"{block}.fc2")),
    )


def _heads(block: str, heads: int) -> Expected:
    return "heads", heads, (*_linear(f"{block}.attn.qkv"), f"{block}.attn.proj.weight[1]")


def _mlp(block: str, width: int) -> Expected:
    return "mlp", width, (*_linear(f"{block}.fc1"), f"{block}.fc2.weight[1]")


# For vit(). The class token and the positions are added to the residual stream, so they have its channels.
EXPECTED_GROUPS: tuple[Expected, ...] = (
    (
        "width",
        64,
        (
            *(*_linear("patch_embed"), "cls_token[2]", "pos_embed[2]"),
            *(axis for block in range(4) for axis in _stream(f"blocks.{block}")),
            *(*_linear("norm"), "head.weight[1]"),
        ),
    ),
    *(_heads(f"blocks.{block}", 4) for block in range(4)),
    *(_mlp(f"blocks.{block}", 128) for block in range(4)),
)
