"""What a decoder-only language model is: its layers and their sizes, read from the tensors of the module."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.errors import InputError

OTHER_WAYS = (
    "take another way for this model: graphprune.export_onnx(...) for ONNX Runtime, or, if it is one of "
    "Transformers, graphprune.save_pretrained(...)"
)


LAYER = "blk.{layer}.{role}"


TENSOR_ROLES = (
    *(f"{role}.weight" for role in ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate")),
    *("ffn_up.weight", "ffn_down.weight", "attn_q_norm.weight", "attn_k_norm.weight"),
    *(f"{role}.bias" for role in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")),
)
"""The tensors that a layer may have, by their names in GGUF."""


@dataclass(frozen=True)
class Layer:
    """One layer that computes something.

    Attributes:
        tensors: by their names in GGUF, without the number of the layer.
        heads: query heads; 0 where the layer has no attention.
        kv_heads: key/value heads.
        mlp: units of the MLP; 0 where the layer has none.
    """

    tensors: Mapping[str, Tensor]
    heads: int
    kv_heads: int
    mlp: int


@dataclass(frozen=True)
class Decoder:
    """A decoder-only language model with rotary positions, RMS norms and gated MLPs.

    Attributes:
        layers: those that compute something, in their order.
        embedding, norm, head: the tensors outside of the layers; ``head`` is None where it is the embedding.
        head_dim: channels of a head, the same for queries, keys and values in all layers.
        frequencies: f[head_dim / 2], of the rotary positions, in radians a token.
        scale: attention scores are multiplied by this (1 / sqrt(head_dim) in most models).
        theta: base of the frequencies in the configuration.
        eps: added to the mean square in norms.
        context: tokens that the file is good for.
        notes: in what the file is less than the model.
    """

    layers: tuple[Layer, ...]
    embedding: Tensor
    norm: Tensor
    head: Tensor | None
    head_dim: int
    frequencies: Tensor
    scale: float
    theta: float
    eps: float
    context: int
    notes: tuple[str, ...]

    @property
    def normalizes_queries(self) -> bool:
        """Are queries and keys normalized head by head?"""
        return any("attn_q_norm.weight" in layer.tensors for layer in self.layers)


def read_decoder(model: nn.Module) -> Decoder:
    """What the model is.

    Raises:
        InputError: it is no decoder of this kind; the message says what is in the way, and which other way to take.
    """
    config = _config(model)
    outside, by_layer = _gguf_tensors(model)
    head_dim = _head_dim(model)
    rotary = _rotary(model, head_dim)
    layers = tuple(_layer(tensors, head_dim, f"layer {i}") for i, tensors in enumerate(by_layer) if tensors)
    if not layers:
        raise _refusal("it has no layers that llama.cpp knows")
    embedding, head = outside["token_embd.weight"], outside["output.weight"]
    return Decoder(
        layers=layers,
        embedding=embedding,
        norm=outside["output_norm.weight"],
        head=None if head.data_ptr() == embedding.data_ptr() and head.shape == embedding.shape else head,
        head_dim=head_dim,
        frequencies=rotary.inv_freq.detach().float().cpu(),
        scale=_score_scale(model) * float(getattr(rotary, "attention_scaling", 1.0)) ** 2,
        theta=_theta(config),
        eps=float(config.rms_norm_eps),
        context=_context(config),
        notes=_notes(config),
    )


def _refusal(what: str) -> InputError:
    return InputError(
        f"slim: cannot be a GGUF file: {what}",
        where="slim",
        found=what,
        needed="a decoder of Transformers with rotary attention, RMS norms and gated MLPs",
        do=OTHER_WAYS,
    )


def _config(model: nn.Module) -> Any:
    config = getattr(model, "config", None)
    missing = [name for name in ("rms_norm_eps", "max_position_embeddings") if not hasattr(config, name)]
    if missing:
        raise _refusal(f"{type(model).__name__} has no config.{missing[0]}, as decoders of Transformers have")
    activation = getattr(config, "hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise _refusal(f"its activation is {activation!r}, and llama.cpp computes silu in these layers")
    return config


def _gguf_tensors(model: nn.Module) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """The tensors outside of the layers, and of each layer, by their names in GGUF."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    state = model.state_dict()
    adapters = [name for name in state if "lora_" in name or "base_layer" in name]
    if adapters:
        raise _refusal(f"it has adapters ({adapters[0]}): merge them first, with peft's merge_and_unload()")
    count = 1 + max((int(number) for name in state for number in re.findall(r"\.(\d+)\.", name)), default=-1)
    names = get_tensor_name_map(MODEL_ARCH.QWEN3, count)  # the architecture with all that is known here
    outside: dict[str, Tensor] = {}
    layers: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for name, tensor in state.items():
        found = names.get_name(name, (".weight", ".bias"))
        place = re.fullmatch(r"blk\.(\d+)\.(.+)", found or "")
        if place and place[2] in TENSOR_ROLES:
            layers[int(place[1])][place[2]] = tensor
        elif found in ("token_embd.weight", "output_norm.weight", "output.weight"):
            outside[found] = tensor
        else:
            raise _refusal(f"its tensor {name} {tuple(tensor.shape)} has no place there{_hint(name)}")
    _check_floats(outside, ("token_embd.weight", "output_norm.weight", "output.weight"), "the model")
    return outside, layers


def _hint(name: str) -> str:
    return " (mixtures of experts are not supported)" if "expert" in name or name.endswith("mlp.gate.weight") else ""


def _check_floats(tensors: Mapping[str, Tensor], needed: Iterable[str], where: str) -> None:
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise _refusal(f"{where} has no {missing[0]}")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.is_meta:
            kind = "on the meta device" if tensor.is_meta else str(tensor.dtype)
            raise _refusal(f"{name} of {where} is {kind}, not floating-point values in memory")


def _head_dim(model: nn.Module) -> int:
    """Channels of a head: the attribute of the attention modules, which follows when a model is pruned."""
    found = _attention_numbers(model, "head_dim")
    if len(found) != 1:
        raise _refusal(
            f"heads have {_listed(found)} channels, and llama.cpp wants one number for all layers "
            "(plan with heads= instead of head_width=)"
        )
    return int(found.pop())


def _attention_numbers(model: nn.Module, name: str) -> set[float]:
    """The values that an attribute of attention modules has."""
    modules: list[Any] = [module for module in model.modules() if hasattr(module, "q_proj")]
    return {getattr(module, name) for module in modules if hasattr(module, name)}


def _listed(numbers: Iterable[float]) -> str:
    return ", ".join(map(str, sorted(numbers))) or "no number of"


def _rotary(model: nn.Module, head_dim: int) -> Any:
    """The module with the frequencies of the rotary positions."""
    modules: list[Any] = list(model.modules())
    found = [module for module in modules if isinstance(getattr(module, "inv_freq", None), Tensor)]
    if not found or any(not torch.equal(module.inv_freq, found[0].inv_freq) for module in found):
        raise _refusal(f"it has {len(found)} modules with frequencies of rotary positions, and one set is needed")
    rotary = found[0]
    kind = getattr(rotary, "rope_type", "default")
    if kind in ("dynamic", "longrope"):
        raise _refusal(f"its rotary positions are {kind!r}, which change with the length of the text")
    if 2 * len(rotary.inv_freq) != head_dim:
        raise _refusal(
            f"rotary positions turn {2 * len(rotary.inv_freq)} of the {head_dim} channels of a head, not all"
        )
    return rotary


def _score_scale(model: nn.Module) -> float:
    found = _attention_numbers(model, "scaling")
    if len(found) != 1:
        raise _refusal(f"attention scores are scaled by {_listed(found)}, and one number is needed for all layers")
    return float(found.pop())


def _theta(config: Any) -> float:
    """The base of the frequencies: Transformers 5 keeps it in ``rope_parameters``."""
    parameters = getattr(config, "rope_parameters", None) or {}
    return float(parameters.get("rope_theta", getattr(config, "rope_theta", 10000.0)))


def _context(config: Any) -> int:
    """Tokens that the file is good for: those in a sliding window attend to each other as they would without it."""
    window = getattr(config, "sliding_window", None)
    return int(min(config.max_position_embeddings, window or config.max_position_embeddings))


def _notes(config: Any) -> tuple[str, ...]:
    if _context(config) == config.max_position_embeddings:
        return ()
    return (f"the context ends with the sliding window of {_context(config)} tokens, which llama.cpp has none of here",)


def _layer(tensors: Mapping[str, Tensor], head_dim: int, where: str) -> Layer:
    attention = {name: x for name, x in tensors.items() if name.startswith("attn_")}
    mlp = {name: x for name, x in tensors.items() if name.startswith("ffn_")}
    heads, kv_heads = _heads(attention, head_dim, where)
    units = _units(mlp, where)
    kept = {**(attention if heads else {}), **(mlp if units else {})}
    return Layer(kept, heads, kv_heads, units)


def _heads(tensors: Mapping[str, Tensor], head_dim: int, where: str) -> tuple[int, int]:
    """Query and key/value heads of a layer."""
    queries = tensors.get("attn_q.weight")
    if queries is None or len(queries) == 0:
        if "attn_output.bias" in tensors:
            raise _refusal(f"{where} has no heads but a bias after them")
        return 0, 0
    names = ("attn_q", "attn_k", "attn_v", "attn_output")
    _check_floats(tensors, ("attn_norm.weight", *(f"{name}.weight" for name in names)), where)
    rows = {name: len(tensors[f"{name}.weight"]) for name in names[:3]}
    odd = [name for name, count in rows.items() if count % head_dim]
    heads, kv_heads = rows["attn_q"] // head_dim, rows["attn_k"] // head_dim
    if odd or rows["attn_v"] != rows["attn_k"] or heads % max(kv_heads, 1):
        raise _refusal(
            f"{where} has {rows['attn_q']} query, {rows['attn_k']} key and {rows['attn_v']} value channels, which are "
            f"not whole heads of {head_dim} that share keys evenly (plan with heads= instead of head_width=)"
        )
    return heads, kv_heads


def _units(tensors: Mapping[str, Tensor], where: str) -> int:
    """Units of the MLP of a layer."""
    gates = tensors.get("ffn_gate.weight")
    if gates is None or len(gates) == 0:
        if "ffn_down.bias" in tensors or len(tensors.get("ffn_up.weight", ())):
            raise _refusal(f"{where} has an MLP without gate, and llama.cpp computes gated ones in these layers")
        return 0
    _check_floats(tensors, ("ffn_norm.weight", "ffn_up.weight", "ffn_down.weight"), where)
    return len(gates)
