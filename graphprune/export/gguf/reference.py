"""What llama.cpp computes from the tensors of a file, in torch: so that a file is compared with the model it is of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphprune.errors import InputError
from graphprune.export.gguf.decoder import LAYER, OTHER_WAYS, Decoder, Layer
from graphprune.export.gguf.layout import Layout
from graphprune.tracing.run_state import evaluating_unchanged
from graphprune.utils.modules import named_modules

_TOKENS = 16


_TOLERANCE = 1e-4  # of f32 in some ten layers


def check_layout(model: nn.Module, decoder: Decoder, layout: Layout, stored: Layout) -> float:
    """The largest difference between the logits of the model and of the file, relative to the largest logit.

    Args:
        layout: with the tensors of the model.
        stored: with these as the file has them, rounded to other types.

    Raises:
        InputError: those of ``layout`` differ by more than rounding: the model computes something that the file cannot
            say.
    """
    ids = torch.randint(len(decoder.embedding), (_TOKENS,), generator=torch.Generator().manual_seed(0), device="cpu")
    with torch.no_grad(), evaluating_unchanged(model), _in_float32(model):
        expected = model(input_ids=ids[None].to(decoder.embedding.device)).logits[0].float().cpu()
        exact, found = (_apart(file_logits(decoder, one, ids), expected) for one in (layout, stored))
    if not exact <= _TOLERANCE:
        raise InputError(
            f"slim: cannot be a GGUF file: llama.cpp's {layout.architecture} would compute other logits from its "
            "tensors",
            where=type(model).__name__,
            found=f"logits with a relative difference of {exact:.2g}",
            needed="rotary attention, RMS norms and gated MLPs, and nothing else",
            do=OTHER_WAYS,
        )
    return found


def _apart(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@contextmanager
def _in_float32(model: nn.Module) -> Iterator[None]:
    """Let every module compute with f32 parameters, which it has only while it runs: there is no copy of the model."""
    kept: dict[nn.Module, dict[str, nn.Parameter | None]] = {}

    def widen(module: nn.Module, inputs: object) -> None:
        kept[module] = dict(module._parameters)
        for name, parameter in kept[module].items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter.detach().float(), requires_grad=False)

    def restore(module: nn.Module, inputs: object, output: object) -> None:
        module._parameters.update(kept.pop(module, {}))

    with ExitStack() as hooks:
        for _, module in named_modules(model):
            if module._parameters:
                hooks.enter_context(module.register_forward_pre_hook(widen))
                hooks.enter_context(module.register_forward_hook(restore, always_call=True))
        yield


def file_logits(decoder: Decoder, layout: Layout, ids: Tensor) -> Tensor:
    """Logits f[tokens, vocabulary] of i[tokens], with the tensors of a layout, layer by layer."""
    x = F.embedding(ids, layout.entries["token_embd.weight"].values())
    for number, layer in enumerate(decoder.layers):
        x = _layer_output(decoder, layout, number, layer, x)
    head = layout.entries.get("output.weight", layout.entries["token_embd.weight"])
    return F.linear(_norm(decoder, layout, "output_norm", x), head.values())


def _layer_output(decoder: Decoder, layout: Layout, number: int, layer: Layer, x: Tensor) -> Tensor:
    def tensor(role: str) -> Tensor | None:
        entry = layout.entries.get(LAYER.format(layer=number, role=role))
        return entry.values() if entry else None

    def linear(role: str, x: Tensor) -> Tensor:
        weight = tensor(f"{role}.weight")
        assert weight is not None
        return F.linear(x, weight, tensor(f"{role}.bias"))

    def norm(role: str, x: Tensor) -> Tensor:
        return _norm(decoder, layout, LAYER.format(layer=number, role=role), x)

    if layer.heads:
        y = norm("attn_norm", x)
        fused = tensor("attn_qkv.weight")
        if fused is None:
            parts = [linear(f"attn_{part}", y) for part in "qkv"]
        else:
            rows = [count * decoder.head_dim for count in (layer.heads, layer.kv_heads, layer.kv_heads)]
            parts = list(F.linear(y, fused).split(rows, dim=-1))
        q, k, v = (part.unflatten(-1, (-1, decoder.head_dim)).transpose(0, 1) for part in parts)
        if decoder.normalizes_queries:
            q, k = norm("attn_q_norm", q), norm("attn_k_norm", k)
        q, k = (_rotated(decoder, layout, part) for part in (q, k))
        y = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, enable_gqa=True)[0]
        x = x + linear("attn_output", y.transpose(0, 1).flatten(-2))
    y = norm("ffn_norm", x)
    return x + linear("ffn_down", F.silu(linear("ffn_gate", y)) * linear("ffn_up", y))


def _norm(decoder: Decoder, layout: Layout, name: str, x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], layout.entries[f"{name}.weight"].values(), decoder.eps)


def _rotated(decoder: Decoder, layout: Layout, x: Tensor) -> Tensor:
    """f[heads, tokens, head_dim] with rotary positions."""
    exponents = torch.arange(0, decoder.head_dim, 2, device="cpu") / decoder.head_dim
    factors = layout.entries.get("rope_freqs.weight")
    angles = decoder.theta**-exponents / (factors.values() if factors else 1)
    turns = torch.polar(
        torch.ones((), device="cpu"), torch.outer(torch.arange(x.shape[1], device="cpu").float(), angles)
    )
    pairs = x.unflatten(-1, (-1, 2)) if layout.interleaved else x.unflatten(-1, (2, -1)).transpose(-1, -2)
    turned = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * turns)
    return (turned if layout.interleaved else turned.transpose(-1, -2)).flatten(-2)
