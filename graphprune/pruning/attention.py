"""``nn.MultiheadAttention`` with heads removed, which the torch class cannot express."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PrunedMultiheadAttention(nn.Module):
    """Multi-head attention whose heads need not add up to the width of the tensors it attends to.

    Called like ``nn.MultiheadAttention``, with the same ``state_dict`` keys. Everything is taken over from a ``source``
    that has been sliced already, hooks and attributes too: ``in_proj_weight``
    [2 * heads * head_dim + heads * value_dim, width] (or three separate projections), ``out_proj.weight``
    [width, heads * value_dim].

    Args:
        source: the sliced module.
        num_heads: heads that are left.
        scale: the factor on the scores, ``1 / sqrt(d)`` of the dense head width.
    """

    dropout: float
    batch_first: bool
    add_zero_attn: bool
    out_proj: nn.Linear
    in_proj_weight: Tensor | None
    q_proj_weight: Tensor
    k_proj_weight: Tensor
    v_proj_weight: Tensor
    in_proj_bias: Tensor | None
    bias_k: Tensor | None
    bias_v: Tensor | None

    def __init__(self, source: nn.MultiheadAttention, num_heads: int, scale: float) -> None:
        super().__init__()
        vars(self).update(vars(source))  # hooks, buffers and whatever else its owner has put there
        self.num_heads = num_heads
        self.scale = scale
        self.embed_dim, inner = source.out_proj.weight.shape
        self._qkv_same_embed_dim = False  # or torch's encoder layers would call their fused kernels in inference
        self.value_dim = inner // num_heads
        self.head_dim = self._query_rows(inner) // num_heads

    def _query_rows(self, inner: int) -> int:
        if self.in_proj_weight is not None:
            return (self.in_proj_weight.shape[0] - inner) // 2
        return self.q_proj_weight.shape[0]

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, head_dim={self.head_dim}"

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """See ``nn.MultiheadAttention.forward``; batched inputs are [batch, time, width] if ``batch_first``.

        Raises:
            ValueError: nested tensors are given with a mask.
        """
        if query.is_nested:
            if attn_mask is not None or key_padding_mask is not None:
                raise ValueError("nested tensors say what is padding by their lengths; call this without masks")
            return self._on_nested(query, key, value, need_weights, average_attn_weights)
        batched = query.dim() == 3
        if not batched:
            query, key, value = (x.unsqueeze(1) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = self._heads(*self._project(query, key, value))
        bias = self._bias(q, k, attn_mask, key_padding_mask)
        if need_weights:
            out, weights = self._attend(q, k, v, bias)
        else:
            p = self.dropout if self.training else 0.0
            out, weights = F.scaled_dot_product_attention(q, k, v, bias, p, scale=self.scale), None
        out = self.out_proj(out.permute(2, 0, 1, 3).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        if not batched:
            return out.squeeze(1), None if weights is None else weights.squeeze(0)
        return (out.transpose(0, 1) if self.batch_first else out), weights

    def _on_nested(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool, average: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Sequences of several lengths, as torch's encoders give them in inference; weights are padded with zeros."""
        keys = torch.tensor([len(row) for row in key.unbind()], device=key.device)
        q, k, v = (x.to_padded_tensor(0.0) for x in (query, key, value))
        padding = torch.arange(k.shape[1], device=k.device) >= keys[:, None]
        out, weights = self.forward(q, k, v, padding, need_weights, average_attn_weights=average)
        rows = [row[: len(own)] for row, own in zip(out, query.unbind(), strict=True)]
        return torch.nested.as_nested_tensor(rows), weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[time, batch, width] to [time, batch, heads * width]: in the order in which torch multiplies rows."""
        rows = self.num_heads * self.head_dim
        sizes = [rows, rows, self.num_heads * self.value_dim]
        weights: tuple[Tensor, ...]
        if self.in_proj_weight is not None:
            weights = self.in_proj_weight.split(sizes)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases: tuple[Tensor | None, ...] = (
            (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.split(sizes)
        )
        q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(-1, k.shape[1], -1)])
            v = torch.cat([v, self.bias_v.expand(-1, v.shape[1], -1)])
        return q, k, v

    def _heads(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[time, batch, heads * width] to [batch, heads, time, width]."""
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).permute(1, 2, 0, 3) for x in (q, k, v))
        if self.add_zero_attn:
            k, v = (F.pad(x, (0, 0, 0, 1)) for x in (k, v))
        return q, k, v

    def _bias(self, q: Tensor, k: Tensor, mask: Tensor | None, padding: Tensor | None) -> Tensor | None:
        """All masks as one additive term that broadcasts to [batch, heads, queries, keys]."""
        if mask is None and padding is None:
            return None
        bias = q.new_zeros(())
        if mask is not None:
            mask = self._additive(mask, q)
            mask = mask.view(q.shape[0], -1, *mask.shape[1:]) if mask.dim() == 3 else mask
            bias = bias + F.pad(mask, (0, k.shape[2] - mask.shape[-1]))
        if padding is not None:
            padding = self._additive(padding, q)
            bias = bias + F.pad(padding, (0, k.shape[2] - padding.shape[-1]))[:, None, None]
        return bias

    @staticmethod
    def _additive(mask: Tensor, like: Tensor) -> Tensor:
        if mask.dtype != torch.bool:
            return mask.to(like.dtype)
        return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        scores = (q * self.scale) @ k.transpose(-2, -1)
        weights = (scores if bias is None else scores + bias).softmax(dim=-1)
        weights = F.dropout(weights, self.dropout, self.training)
        return weights @ v, weights
