"""The tensors and numbers of a GGUF file: which architecture of llama.cpp holds a decoder, and how it wants it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from graphprune.errors import InputError
from graphprune.export.gguf.decoder import LAYER, OTHER_WAYS, Decoder, Layer


@dataclass(frozen=True)
class Entry:
    """A tensor of the file: its shape as torch has it, and what makes its values (f32, on the CPU)."""

    shape: tuple[int, ...]
    values: Callable[[], Tensor]


@dataclass(frozen=True)
class Layout:
    """What the file will hold.

    Attributes:
        architecture: ``deci``, ``qwen3`` or ``openelm``, as llama.cpp calls them.
        interleaved: rotary positions turn neighboring channels, not those half a head apart.
        entries: tensors by name, in the order of the file.
    """

    architecture: str
    interleaved: bool
    entries: Mapping[str, Entry]


def lay_out(decoder: Decoder) -> Layout:
    """The tensors of the file, and the architecture that reads them.

    ``deci`` has its own sizes in every layer. It knows no norms of queries and keys: with those ``openelm`` has its own
    sizes in every layer where the head is the embedding, and ``qwen3`` one size for all.

    Raises:
        InputError: llama.cpp has no architecture for this decoder.
    """
    architecture = _architecture(decoder)
    factors = rope_factors(decoder)
    entries = {"token_embd.weight": _entry(decoder.embedding), "output_norm.weight": _entry(decoder.norm)}
    if decoder.head is not None:
        entries["output.weight"] = _entry(decoder.head)
    if factors is not None:
        entries["rope_freqs.weight"] = _entry(factors)
    for number, layer in enumerate(decoder.layers):
        for role, entry in _layer_entries(decoder, layer, architecture):
            entries[LAYER.format(layer=number, role=role)] = entry
    return Layout(architecture, architecture == "deci", entries)


def rope_factors(decoder: Decoder) -> Tensor | None:
    """f[head_dim / 2]: what llama.cpp divides the frequencies by that it computes from ``theta``; None: by nothing.

    They are how a file holds scaled frequencies (of Llama 3.1), and those of the channels that are left in a head.
    """
    exponents = torch.arange(0, decoder.head_dim, 2, dtype=torch.float64, device="cpu") / decoder.head_dim
    factors = (decoder.theta**-exponents / decoder.frequencies.double()).float()
    return None if torch.allclose(factors, torch.ones((), device="cpu"), atol=1e-5) else factors


def _architecture(decoder: Decoder) -> str:
    if not decoder.normalizes_queries:
        return "deci"
    refusals = {
        "biases": any(name.endswith(".bias") for layer in decoder.layers for name in layer.tensors),
        "layers without attention or MLP": any(not (layer.heads and layer.mlp) for layer in decoder.layers),
        "other rotary positions than those of the base: scaled ones, those left in narrower heads, or rounded ones "
        "(by model.half(): load with dtype= instead)": rope_factors(decoder) is not None,
    }
    for what, found in refusals.items():
        if found:
            raise _refusal(f"no architecture of llama.cpp has {what}")
    if len({(layer.heads, layer.kv_heads, layer.mlp) for layer in decoder.layers}) == 1:
        return "qwen3"
    if decoder.head is None:
        return "openelm"
    raise _refusal(
        "no architecture of llama.cpp has layers of different sizes where the head is not the embedding "
        "(plan with layers='equal')"
    )


def _refusal(what: str) -> InputError:
    return InputError(
        f"slim: cannot be a GGUF file: its queries and keys are normalized, and with that {what}",
        where="slim",
        found=f"queries and keys that are normalized; {what}",
        needed="an architecture of llama.cpp that has these parts together",
        do=OTHER_WAYS,
    )


def _layer_entries(decoder: Decoder, layer: Layer, architecture: str) -> Iterator[tuple[str, Entry]]:
    entries = {role: _entry(tensor) for role, tensor in layer.tensors.items()}
    scaled = "attn_q_norm" if decoder.normalizes_queries else "attn_q"
    factor = decoder.scale * math.sqrt(decoder.head_dim)  # llama.cpp scales scores by 1 / sqrt(head_dim)
    for role, entry in entries.items():
        if role.startswith(f"{scaled}.") and not math.isclose(factor, 1, rel_tol=1e-6):
            entries[role] = Entry(entry.shape, partial(_scaled, entry, factor))
    if architecture == "deci":
        entries.update(
            {
                role: Entry(entry.shape, partial(_interleaved, entry, decoder.head_dim))
                for role, entry in entries.items()
                if role.startswith(("attn_q.", "attn_k."))
            }
        )
    elif architecture == "openelm":
        parts = [entries.pop(f"attn_{part}.weight") for part in "qkv"]
        rows = sum(part.shape[0] for part in parts)
        entries["attn_qkv.weight"] = Entry((rows, parts[0].shape[1]), partial(_joined, parts))
    yield from entries.items()
    if not layer.mlp:
        yield from _idle_mlp(len(decoder.norm))


def _idle_mlp(width: int) -> Iterator[tuple[str, Entry]]:
    """An MLP of one unit that adds nothing: llama.cpp leaves out the attention, too, of a layer without MLP."""
    shapes = {"ffn_norm": (width,), "ffn_gate": (1, width), "ffn_up": (1, width), "ffn_down": (width, 1)}
    for role, shape in shapes.items():
        yield f"{role}.weight", Entry(shape, partial(torch.zeros, shape))


def _entry(tensor: Tensor) -> Entry:
    return Entry(tuple(tensor.shape), partial(_on_cpu, tensor))


def _on_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32)


def _scaled(entry: Entry, factor: float) -> Tensor:
    return entry.values() * factor


def _interleaved(entry: Entry, head_dim: int) -> Tensor:
    """Rows of the two halves of each head in turn: f[heads * head_dim, ...]."""
    x = entry.values()
    return x.view(-1, 2, head_dim // 2, *x.shape[1:]).transpose(1, 2).reshape(x.shape)


def _joined(parts: list[Entry]) -> Tensor:
    return torch.cat([part.values() for part in parts])
