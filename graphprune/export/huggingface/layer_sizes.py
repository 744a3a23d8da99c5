"""The sizes of each layer of a decoder in the words of Transformers, whose caches and exporters read them.

Where layers differ, ``config.json`` has them as ``per_layer_config``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from graphprune.errors import ExportError
from graphprune.utils.contexts import preserve_modes

Sizes = dict[str, int]


def layer_sizes(slim: Any, dense_config: Any) -> dict[str, Any]:
    """Fields of the configuration that say how many heads the layers have, and how wide they are.

    The numbers of key/value heads are read off a cache that the model fills. Empty for models that fill none.
    """
    decoder = getattr(type(slim), "can_generate", bool)() and not slim.config.is_encoder_decoder
    if not decoder or slim.main_input_name != "input_ids":
        return {}
    width = getattr(slim.config, "head_dim", None) or dense_config.hidden_size // dense_config.num_attention_heads
    layers = _layers(slim)
    names = {name for sizes in layers.values() for name in sizes}
    known = {name: getattr(slim.config, name, None) for name in names} | {"head_dim": width}
    varying = {name for sizes in layers.values() for name, value in sizes.items() if value != known[name]}
    if not varying:
        return {"head_dim": width}
    table = {str(i): {n: v for n, v in sizes.items() if n in varying} for i, sizes in layers.items()}
    return {"head_dim": width, "per_layer_config": table, "allow_global_per_layer_attribute_access": True}


def _layers(slim: Any) -> dict[int, Sizes]:
    """By the number of each layer that keeps keys and values, its sizes, as far as the configuration has them."""
    paths = {m.layer_idx: path for path, m in slim.named_modules() if type(getattr(m, "layer_idx", None)) is int}
    found: dict[int, Sizes] = {}
    for index, layer in enumerate(_filled_cache(slim).layers):
        keys = getattr(layer, "keys", None)
        if keys is not None and keys.dim() == 4:
            sizes = _sizes_of(slim, paths.get(index), keys.shape[1]) | {"head_dim": keys.shape[3]}
            found[index] = {n: v for n, v in sizes.items() if n == "head_dim" or hasattr(slim.config, n)}
    return found


def _sizes_of(slim: nn.Module, path: str | None, heads: int) -> Sizes:
    """The sizes of the layer that has its attention at a path."""
    if path is None:
        return {"num_attention_heads": heads, "num_key_value_heads": heads}
    repeats = getattr(slim.get_submodule(path), "num_key_value_groups", 1)
    inner = {getattr(m, _INNER) for m in slim.get_submodule(path.rpartition(".")[0]).modules() if hasattr(m, _INNER)}
    sizes = {"num_attention_heads": heads * repeats, "num_key_value_heads": heads}
    return sizes | ({_INNER: inner.pop()} if len(inner) == 1 else {})


_INNER = "intermediate_size"


def _filled_cache(slim: Any) -> Any:
    """The cache after two tokens, which Transformers calls ``cache`` or, formerly, ``past_key_values``."""
    tokens = torch.zeros(1, 2, dtype=torch.long, device=next(slim.parameters()).device)
    with preserve_modes(slim), torch.no_grad():
        slim.eval()
        try:
            output = slim(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=True)
        except Exception as error:
            raise ExportError(
                f"slim: the model itself fails with an attention mask and a cache ({type(error).__name__}: {error}); "
                "plan with these among the example inputs, or remove kv_groups instead of heads"
            ) from error
    return output["cache"] if "cache" in output else output["past_key_values"]
