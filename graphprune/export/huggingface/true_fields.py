"""Fields of a configuration that say the sizes a slim model has, as far as Transformers has words for them.

Libraries read the width (``hidden_size``), caches and exporters the heads of every layer. A field that holds for all
layers gets the slim number; where layers differ, ``config.json`` has theirs as ``layer_sizes``. Of models that take
more than text, these are fields of the configuration of their text, which has no ``layer_sizes``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from graphprune.errors import ExportError
from graphprune.tracing.inputs import MethodCall
from graphprune.tracing.places import raised_at
from graphprune.tracing.run_state import evaluating_unchanged
from graphprune.tracing.running import replay_on_shapes

LayerSizes = dict[str, int]

LAYER_SIZES = "layer_sizes"
"""The field of ``config.json`` with the sizes of every layer."""


@dataclass(frozen=True)
class TrueFields:
    """Fields as ``config.json`` has them, by their place (``"hidden_size"``, ``"text_config.hidden_size"``).

    Attributes:
        fields: those with the sizes of the slim model.
        dense: what the class needs instead to build the dense one, of those that differ.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    dense: dict[str, Any] = field(default_factory=dict)

    def without_exchange(self) -> TrueFields:
        """Only those that are the same in the dense model."""
        return TrueFields({name: value for name, value in self.fields.items() if name not in self.dense})

    def note(self, owner: _Owner, name: str, value: int | None) -> None:
        """Give a field another value, under the name that its configuration has for it."""
        own = owner.config.attribute_map.get(name, name)
        before = getattr(owner.config, own, None)
        if before != value and not _is_computed(owner.config, own):
            self.fields[owner.prefix + own] = value
            self.dense[owner.prefix + own] = before


@dataclass(frozen=True)
class _Owner:
    """A configuration with sizes of the layers, and how places of its fields begin in that of the model."""

    config: Any
    prefix: str


def _text_owner(config: Any) -> _Owner | None:
    """What describes the text of a model: its configuration, or one within; None: it is none of these."""
    if not hasattr(config, "get_text_config"):
        return _Owner(config, "")
    text = config.get_text_config(decoder=True)
    prefix = _prefix_of(config, text)
    return None if prefix is None else _Owner(text, prefix)


def _prefix_of(config: Any, inner: Any) -> str | None:
    """How places of the fields of ``inner`` begin in a configuration; None: it is not within."""
    if config is inner:
        return ""
    for name, value in vars(config).items():
        below = _prefix_of(value, inner) if hasattr(value, "to_dict") and hasattr(value, "__dict__") else None
        if below is not None:
            return f"{name}.{below}"
    return None


def _is_computed(config: Any, name: str) -> bool:
    """Does a configuration work a field out from others?"""
    return isinstance(getattr(type(config), name, None), property)


def true_fields(slim: Any, dense: Any) -> TrueFields:
    """The fields of a slim model, beside the ``dense`` one before pruning."""
    found = TrueFields()
    decoder = getattr(type(slim), "can_generate", bool)() and not slim.config.is_encoder_decoder
    owner = _text_owner(dense.config) if decoder else _Owner(dense.config, "")
    if owner is None:
        return found
    widths = [_embedding_width(model) for model in (slim, dense)]
    if widths[1] is not None and getattr(owner.config, "hidden_size", None) == widths[1] != widths[0]:
        found.note(owner, "hidden_size", widths[0])
    if decoder and slim.main_input_name == "input_ids":
        _note_layers(found, _layers(slim), owner)
    return found


def _embedding_width(model: Any) -> int | None:
    """The width of token embeddings; None: the model has none, or several."""
    try:
        embeddings = model.get_input_embeddings()
    except NotImplementedError:
        return None
    return embeddings.weight.shape[1] if isinstance(embeddings, nn.Embedding) else None


def _note_layers(found: TrueFields, layers: dict[int, LayerSizes], owner: _Owner) -> None:
    """Note the sizes of layers that keep keys and values: once if all have the same, else of each."""
    config = owner.config
    if not layers:
        return
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if not _is_computed(config, "head_dim"):
        found.fields[f"{owner.prefix}head_dim"] = width
    varying = []
    for name in dict.fromkeys(name for sizes in layers.values() for name in sizes):
        if (name != "head_dim" and not hasattr(config, name)) or _is_computed(config, name):
            continue
        values = {sizes.get(name) for sizes in layers.values()}
        if len(values) > 1:
            varying.append(name)
        elif name != "head_dim" or values != {width}:
            found.note(owner, name, values.pop())
    if varying and not owner.prefix:
        found.fields[LAYER_SIZES] = _each_layer(layers, varying, config)


def _each_layer(layers: dict[int, LayerSizes], names: list[str], config: Any) -> list[LayerSizes]:
    """Sizes of every layer, by the names that the configuration has for them."""
    return [
        {config.attribute_map.get(n, n): layers[i][n] for n in names if n in layers[i]} if i in layers else {}
        for i in range(max(layers) + 1)
    ]


def _layers(slim: Any) -> dict[int, LayerSizes]:
    """By the number of each layer that keeps keys and values, its sizes."""
    paths = {m.layer_idx: path for path, m in slim.named_modules() if type(getattr(m, "layer_idx", None)) is int}
    found: dict[int, LayerSizes] = {}
    for index, layer in enumerate(getattr(_filled_cache(slim), "layers", ())):
        keys = getattr(layer, "keys", None)
        if keys is not None and keys.dim() == 4:
            found[index] = _sizes_of(slim, paths.get(index), keys.shape[1]) | {"head_dim": keys.shape[3]}
    return found


def _sizes_of(slim: nn.Module, path: str | None, heads: int) -> LayerSizes:
    """The sizes of the layer that has its attention at a path."""
    if path is None:
        return {"num_attention_heads": heads, "num_key_value_heads": heads}
    repeats = getattr(slim.get_submodule(path), "num_key_value_groups", 1)
    inner = {getattr(m, _INNER) for m in slim.get_submodule(path.rpartition(".")[0]).modules() if hasattr(m, _INNER)}
    sizes = {"num_attention_heads": heads * repeats, "num_key_value_heads": heads}
    return sizes | ({_INNER: inner.pop()} if len(inner) == 1 else {})


_INNER = "intermediate_size"


def _filled_cache(slim: Any) -> Any:
    """The cache after two tokens, which Transformers calls ``cache`` or, formerly, ``past_key_values``.

    Its shapes alone matter: the weights need not be read, unless the model looks at values.
    """
    tokens = torch.zeros(1, 2, dtype=torch.long, device="cpu")
    call = MethodCall("forward", input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=True)
    found: list[Any] = []
    try:
        replay_on_shapes(slim, [call], partial(_noted, found))
    except Exception:  # whatever is raised where there are no values: with values it is the user's own
        found.append(_run(slim, call))
    return found[-1].get("cache", found[-1].get("past_key_values"))


def _noted(found: list[Any], output: Any) -> Any:
    found.append(output)
    return output


def _run(slim: nn.Module, call: MethodCall) -> Any:
    device = next(slim.parameters()).device
    with evaluating_unchanged(slim):
        try:
            return call.mapped(lambda tensor: tensor.to(device), objects=True).run(slim)
        except Exception as error:
            raise ExportError(
                "slim: the model itself fails with an attention mask and a cache",
                where=raised_at(error) or type(slim).__name__,
                found=f"{type(error).__name__}: {error}",
                needed="a model that runs with attention_mask= and use_cache=True",
                do="plan with these among the example inputs, or remove kv_groups instead of heads",
            ) from error
