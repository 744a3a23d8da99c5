"""A slim Llama-like model as a folder of the architecture ``DeciLMForCausalLM``, whose layers have sizes of their own.

Servers have code for it: ``vllm serve DIRECTORY --trust-remote-code``. ``config.json`` has ``block_configs``, one for
each layer, and weights have Llama's names. The fields are those of vLLM's ``nemotron_nas.py``, SGLang's and
TensorRT-LLM's ``modeling_nemotron_nas.py`` (read in November 2026):

- ``attention.n_heads_in_group``: query heads that share a key/value head; ``num_attention_heads`` holds for all layers;
- ``ffn.intermediate_size``, or ``ffn.ffn_mult`` from which the inner width is worked out as the multiple of 256 that is
  next to ``2 / 3 * ffn_mult * hidden_size``;
- ``no_op``: the attention or the feed-forward network is left out;
- ``qkv_bias`` beside ``attention_bias``: only the projections before attention have biases.

The folder also loads in Transformers with ``trust_remote_code=True``.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.errors import ExportError, InputError
from graphprune.export.huggingface.generated_module import imported_module
from graphprune.export.huggingface.processing_files import Processing, write_processing
from graphprune.export.huggingface.reading_back import same_outputs
from graphprune.export.huggingface.weight_files import MAX_SHARD_SIZE
from graphprune.planning.serving import SERVERS
from graphprune.utils.byte_sizes import read_size
from graphprune.utils.checks import check_count, check_known, shown, with_article
from graphprune.utils.compiled import uncompiled
from graphprune.utils.equality import same_values
from graphprune.utils.files import check_path
from graphprune.utils.folders import replace_folder
from graphprune.utils.global_state import leaves_torch_alone

MODULE = "modeling_decilm"
"""The name of the Python file without its ending."""

_SOURCE = '''\
"""Llama whose layers have sizes of their own, which `block_configs` in config.json lists."""

from copy import copy
from types import SimpleNamespace

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer


class DeciLMConfig(LlamaConfig):
    model_type = "nemotron-nas"

    def __init__(self, block_configs=(), num_attention_heads=1, **fields):
        super().__init__(num_attention_heads=1, **fields)  # the heads need not divide the width
        self.num_attention_heads = num_attention_heads
        self.block_configs = [
            SimpleNamespace(**{part: SimpleNamespace(**sizes) for part, sizes in block.items()})
            for block in block_configs
        ]

    @property
    def per_layer_config(self):
        """A Llama's configuration for each layer."""
        return [self._layer_config(block) for block in self.block_configs]

    def _layer_config(self, block):
        layer = copy(self)
        layer.num_key_value_heads = self.num_attention_heads // (block.attention.n_heads_in_group or 1)
        layer.intermediate_size = inner_width(block.ffn, self.hidden_size) or 1
        layer.attention_bias = getattr(self, "qkv_bias", self.attention_bias)
        return layer

    def to_dict(self):
        blocks = [{part: vars(sizes) for part, sizes in vars(block).items()} for block in self.block_configs]
        return super().to_dict() | {"block_configs": blocks}

    def validate(self):
        """The heads need not divide the width."""


def inner_width(ffn, width):
    """The inner width of a layer: as it is, or worked out and made a multiple of 256."""
    if not hasattr(ffn, "ffn_mult"):
        return ffn.intermediate_size
    return -(-int(2 * (ffn.ffn_mult or 0) * width / 3) // 256) * 256


class Skip(nn.Module):
    """In the place of a layer that is left out."""

    def forward(self, hidden_states, **kwargs):
        return hidden_states


class NoAttention(nn.Module):
    """In the place of an attention that is left out of its layer."""

    def forward(self, hidden_states, **kwargs):
        return torch.zeros_like(hidden_states), None


class NoFeedForward(nn.Module):
    """In the place of a feed-forward network that is left out of its layer."""

    def forward(self, hidden_states):
        return torch.zeros_like(hidden_states)


class DeciLMForCausalLM(LlamaForCausalLM):
    config_class = DeciLMConfig

    def __init__(self, config):
        super().__init__(config)
        for index, layer in enumerate(config.per_layer_config):
            self.model.layers[index] = self._layer(config.block_configs[index], LlamaDecoderLayer(layer, index))
        self.post_init()

    def _layer(self, block, layer):
        if block.attention.no_op and block.ffn.no_op:
            return Skip()
        if block.attention.no_op:
            layer.input_layernorm, layer.self_attn = nn.Identity(), NoAttention()
        elif not self.config.attention_bias:
            layer.self_attn.o_proj.bias = None
        if block.ffn.no_op:
            layer.post_attention_layernorm, layer.mlp = nn.Identity(), NoFeedForward()
        return layer
'''


@leaves_torch_alone
def export_deci(
    slim: nn.Module,
    directory: str | os.PathLike[str],
    *,
    serve: str = "vllm",
    tensor_parallel: int = 1,
    processing: Processing = None,
    max_shard_size: int | str = MAX_SHARD_SIZE,
) -> None:
    """Write a folder that vLLM, SGLang or TensorRT-LLM run although layers differ. Plan with ``serve=`` for it.

    The folder is loaded in Transformers before it takes its place, to see that weights and outputs are the same.

    Args:
        slim: a pruned model with Llama's layers (Llama, Mistral, Qwen2, ...), compiled or not.
        directory: created where missing; if it exists, it must be empty or hold what graphprune wrote.
        serve: ``"vllm"``, ``"sglang"`` or ``"tensorrt_llm"``.
        tensor_parallel: the number of devices that share every layer.
        processing: the tokenizer that belongs to the model, or a folder with its files.
        max_shard_size: bytes of a file of weights at most, or ``"5GB"``.

    Raises:
        ExportError: the format cannot say what the model is; the message says why.
        InputError: an argument is not known, or the directory holds something else.
    """
    check_known("serve", serve, SERVERS)
    check_count("tensor_parallel", tensor_parallel, 1, "a whole number of devices")
    folder, most = check_path("directory", directory), read_size("max_shard_size", max_shard_size)
    slim = uncompiled(slim)
    sizes = _Sizes.of(slim)
    sizes.check(serve, tensor_parallel)

    def write(temporary: Path) -> None:
        _write_model(slim, temporary, sizes.fields(slim, serve), most)
        write_processing(processing, temporary)

    replace_folder(folder, write)


_ELSE = "for Transformers, write it with graphprune.save_pretrained"


# ---------------------------------------------------------------- sizes


@dataclass(frozen=True)
class _Layer:
    """Numbers of query heads and of key/value heads, and the inner width; 0 where attention or MLP is left out."""

    heads: int
    kv_heads: int
    inner: int


@dataclass(frozen=True)
class _Sizes:
    """The sizes of a Llama.

    Attributes:
        width: of the residual stream.
        head_dim: the width of all heads.
        layers: of each layer.
        biases: which projections have biases: ``"qkv"``, ``"o"``, ``"mlp"``.
    """

    width: int
    head_dim: int
    layers: tuple[_Layer, ...]
    biases: frozenset[str]

    @staticmethod
    def of(slim: nn.Module) -> _Sizes:
        """The sizes of a model, by the names of its weights.

        Raises:
            ExportError: it has not those of Llama.
        """
        if not hasattr(slim, "config") or not hasattr(slim, "save_pretrained"):
            raise InputError(
                f"slim: must be a language model of Transformers, but is {shown(slim)}",
                found=f"{with_article(type(slim).__name__)}",
                needed="a language model of Transformers",
                do="pass the model itself, as AutoModelForCausalLM made it",
            )
        weights = {name: tuple(tensor.shape) for name, tensor in slim.state_dict().items()}
        widths = {width for m in slim.modules() if isinstance(width := getattr(m, "head_dim", None), int)}
        number = getattr(slim.config, "num_hidden_layers", 0)
        if "model.embed_tokens.weight" not in weights or len(widths) != 1:
            raise ExportError(
                f"slim: {type(slim).__name__} has not the layers of a Llama",
                where=type(slim).__name__,
                found=f"head widths {sorted(widths)} and weights such as {next(iter(weights), 'none')}",
                needed="model.embed_tokens, and layers with one head width",
                do=_ELSE,
            )
        head_dim = widths.pop()
        layers = tuple(_layer(weights, f"model.layers.{i}.", head_dim) for i in range(number))
        biased = {"qkv": "self_attn.q_proj.bias", "o": "self_attn.o_proj.bias", "mlp": "mlp.up_proj.bias"}
        biases = frozenset(part for part, ending in biased.items() if any(name.endswith(ending) for name in weights))
        return _Sizes(weights["model.embed_tokens.weight"][1], head_dim, layers, biases)

    @property
    def heads(self) -> int:
        """The number of query heads of the layers that have some."""
        return max(layer.heads for layer in self.layers)

    def check(self, serve: str, tensor_parallel: int) -> None:
        """Raise an ExportError if a server's format cannot say these sizes."""
        for problem in self._problems(serve, tensor_parallel):
            raise ExportError(
                f"slim: {problem}",
                where=f"serve={serve!r}",
                found=problem,
                needed=f"sizes that {serve} can say",
                do=f"plan with serve={serve!r}; or else {_ELSE}",
            )

    def _problems(self, serve: str, devices: int) -> Iterator[str]:
        server, there = SERVERS[serve], [layer for layer in self.layers if layer.heads]
        if len({layer.heads for layer in there}) != 1:
            yield f"its layers have {_listed(layer.heads for layer in there)} query heads, and {serve} takes one number"
        for number in {layer.kv_heads for layer in there}:
            if self.heads % number:
                yield f"{number} key/value heads do not divide {self.heads} query heads"
            if self.heads % devices or (number % devices and devices % number):
                yield f"{self.heads} query heads and {number} key/value heads are not shared by {devices} devices"
        if server.equal_kv_heads and len({layer.kv_heads for layer in there}) != 1:
            numbers = _listed(layer.kv_heads for layer in there)
            yield f"its layers have {numbers} key/value heads, and {serve} takes one number"
        for inner in {layer.inner for layer in self.layers if layer.inner}:
            if inner % server.inner_multiple or inner % devices:
                yield f"the inner width {inner} is no multiple of {max(server.inner_multiple, devices)}"

    def fields(self, slim: Any, serve: str) -> dict[str, Any]:
        """The contents of ``config.json``."""
        from transformers import LlamaConfig

        known = {*signature(LlamaConfig).parameters, "dtype", "transformers_version"}
        fields = {name: value for name, value in slim.config.to_dict().items() if name in known}
        own = {
            "architectures": ["DeciLMForCausalLM"],
            "model_type": "nemotron-nas",
            "auto_map": {
                "AutoConfig": f"{MODULE}.DeciLMConfig",
                "AutoModelForCausalLM": f"{MODULE}.DeciLMForCausalLM",
            },
            "hidden_size": self.width,
            "head_dim": self.head_dim,
            "num_attention_heads": self.heads,
            "num_key_value_heads": max(layer.kv_heads for layer in self.layers),
            "intermediate_size": max(layer.inner for layer in self.layers),
            "attention_bias": "o" in self.biases,
            "mlp_bias": "mlp" in self.biases,
            "block_configs": [self._block(layer, serve) for layer in self.layers],
        }
        return fields | own | ({"qkv_bias": True} if self.biases & {"qkv", "o"} == {"qkv"} else {})

    def _block(self, layer: _Layer, serve: str) -> dict[str, dict[str, Any]]:
        inner: dict[str, Any] = {"intermediate_size": layer.inner}
        if SERVERS[serve].inner_multiple > 1:
            inner = {"ffn_mult": round(3 * layer.inner / (2 * self.width), 6)}
        grouped = layer.heads // layer.kv_heads if layer.heads else None
        attention = (_OP if layer.heads else _NO_OP) | {"n_heads_in_group": grouped}
        return {"attention": attention, "ffn": (_OP if layer.inner else _NO_OP) | inner}


_OP: dict[str, Any] = {"no_op": False, "replace_with_linear": False}

_NO_OP = _OP | {"no_op": True}


def _layer(weights: Mapping[str, tuple[int, ...]], prefix: str, head_dim: int) -> _Layer:
    """The sizes of one layer, by the shapes of its weights."""
    names = ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj")
    parts = ("self_attn", "mlp")
    there = {part for part in parts if any(name.startswith(f"{prefix}{part}.") for name in weights)}
    missing = [n for n in names if n.partition(".")[0] in there and f"{prefix}{n}.weight" not in weights]
    if missing:
        raise ExportError(
            f"slim: it has no {prefix}{missing[0]}, which the layers of a Llama have",
            where=prefix.rstrip("."),
            found=f"a layer without {missing[0]}",
            needed=", ".join(names),
            do=_ELSE,
        )
    queries, keys, inner = (weights.get(f"{prefix}{name}.weight", (0,))[0] for name in names)
    return _Layer(queries // head_dim, keys // head_dim, inner)


def _listed(numbers: Any) -> str:
    return ", ".join(map(str, dict.fromkeys(numbers)))


# ---------------------------------------------------------------- writing


def _write_model(slim: Any, folder: Path, fields: dict[str, Any], most: int) -> None:
    """Write the model, and load it.

    Raises:
        ExportError: other weights or outputs come out.
    """
    window = getattr(slim.config, "sliding_window", None)
    if window and getattr(slim.config, "use_sliding_window", True):
        raise ExportError(
            f"slim: its attention sees the last {window} tokens only, and the format has no word for it",
            where="config.sliding_window",
            found=f"sliding_window={window}",
            needed="attention to all tokens",
            do=_ELSE,
        )
    path = folder / f"{MODULE}.py"
    path.write_text(_SOURCE)
    with imported_module(MODULE, path) as generated:
        with torch.device("meta"):
            model = generated.DeciLMForCausalLM(generated.DeciLMConfig.from_dict(fields))
        _give_weights(model, slim.state_dict())
        model.generation_config = copy.deepcopy(slim.generation_config)
        model.save_pretrained(folder, max_shard_size=most)
        loaded = type(model).from_pretrained(folder, dtype=slim.dtype)
    state = loaded.state_dict()
    if any(not same_values(tensor.cpu(), state[name]) for name, tensor in slim.state_dict().items()):
        raise ExportError(
            "slim: its weights differ when the folder is loaded",
            where=str(folder),
            found="other weights",
            needed="the weights of the slim model",
            do=_ELSE,
        )
    if not same_outputs(slim, loaded):
        raise ExportError(
            f"slim: a Llama with the weights of this {type(slim).__name__} has other outputs",
            where=type(slim).__name__,
            found="other outputs",
            needed="layers that compute what those of a Llama do",
            do=_ELSE,
        )


def _give_weights(model: Any, state: dict[str, Tensor]) -> None:
    """Give a model without storage its weights, which are shared."""
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise ExportError(
            "slim: its weights are not those of a Llama with layers of these sizes",
            where=type(model).__name__,
            found=str(error),
            needed="the weights of a Llama",
            do=_ELSE,
        ) from error
    model.tie_weights()
