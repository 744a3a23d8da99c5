"""Write a slim language model to a GGUF file, for llama.cpp and what is built on it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphprune.errors import InputError, MissingPackageError
from graphprune.export.gguf.decoder import Decoder, read_decoder
from graphprune.export.gguf.layout import Entry, Layout, lay_out
from graphprune.export.gguf.reference import check_layout
from graphprune.export.gguf.vocabulary import Vocabulary, read_vocabulary
from graphprune.utils.checks import check_known, check_type
from graphprune.utils.compiled import uncompiled
from graphprune.utils.files import check_file_path, check_own_file, make_folder, replace_file
from graphprune.utils.global_state import leaves_torch_alone
from graphprune.utils.tables import Printed

DTYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
"""What matrices are stored as, and what GGUF calls such a file."""


_BLOCK = 32  # values that Q8_0 stores together


_LARGEST_F16 = 65504.0


@dataclass(frozen=True, repr=False)
class GgufFile(Printed):
    """A GGUF file that was written.

    Attributes:
        path: the file.
        architecture: what llama.cpp calls it: ``deci``, ``qwen3`` or ``openelm``.
        dtype: what matrices are stored as.
        unquantized: matrices that are f16 all the same, because their rows are no multiple of 32.
        heads, kv_heads, mlp: sizes of each layer; layers that compute nothing are not in the file.
        context: tokens that the file says it is good for.
        difference: of the logits that llama.cpp's computation gives, in float32 with the tensors as the file has them
            (rounded to ``dtype``), from the model's own; the largest, relative to the largest logit.
        size: bytes.
        notes: in what the file is less than the model, in sentences.
    """

    path: Path
    architecture: str
    dtype: str
    unquantized: tuple[str, ...]
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    mlp: tuple[int, ...]
    context: int
    difference: float
    size: int
    notes: tuple[str, ...]

    def _summary(self) -> str:
        return f"GgufFile: {next(self._parts())}"

    def _parts(self) -> Iterator[str]:
        yield (
            f"{self.path}: {self.size / 1e6:.1f} MB, {self.architecture}, {self.dtype}, context {self.context}, "
            f"logits differ by {self.difference:.1g}"
        )
        yield from (f"{name} of each layer: {sizes}" for name, sizes in self._sizes().items())
        yield from (f"note: {note}" for note in self.notes)

    def _sizes(self) -> dict[str, str]:
        sizes = {"heads": self.heads, "key/value heads": self.kv_heads, "MLP units": self.mlp}
        return {name: " ".join(map(str, numbers)) for name, numbers in sizes.items()}


_WRITTEN_BY = "Written by graphprune.export_gguf"


@leaves_torch_alone
def export_gguf(
    slim: nn.Module,
    path: str | os.PathLike[str],
    tokenizer: Any,
    *,
    dtype: str = "f16",
    name: str | None = None,
    pretokenizer: str | None = None,
) -> GgufFile:
    """Write a decoder-only language model of Transformers as a GGUF file that stock llama.cpp runs.

    Its layers may all have other sizes, as sizes are read from the tensors. Before anything is written, the tensors are
    run as llama.cpp would, and compared with the model: as they are, which must give the model's logits, and as the
    file has them, for :attr:`GgufFile.difference`, how far rounding to ``dtype`` takes the logits from the model's.

    Args:
        slim: a model with rotary attention, RMS norms and gated SiLU MLPs, as Llama, Mistral, Qwen2 and Qwen3 have,
            compiled or not.
        path: the file. One that this function wrote before is replaced, whole or not at all, another is not; its
            folder is created where missing.
        tokenizer: a fast tokenizer of Transformers, or a folder that holds one.
        dtype: of the matrices: ``"f16"``, ``"bf16"``, ``"q8_0"`` or ``"f32"``. Vectors are always f32. Q8_0 stores 32
            values of a row together: matrices with other rows stay f16, and the result names them.
        name: of the model, as servers show it; None: the name of its class.
        pretokenizer: llama.cpp's name for how text is split before merging; None: found from the tokenizer.

    Raises:
        InputError: GGUF cannot hold this model or its tokenizer; the message says what is in the way, and which other
            way there is. Or there is a file that this function did not write.
        ImportError: the package ``gguf`` is missing.
    """
    check_type("slim", slim, nn.Module, "an nn.Module")
    slim = uncompiled(slim)
    file, kind = check_file_path("path", path, "model.gguf"), check_known("dtype", dtype, DTYPES)
    check_own_file("path", file, _WRITTEN_BY, "GGUF file")
    _check_package()
    decoder = read_decoder(slim)
    layout = lay_out(decoder)
    vocabulary = read_vocabulary(tokenizer, len(decoder.embedding), pretokenizer)
    types = {entry_name: _storage(entry, kind) for entry_name, entry in layout.entries.items()}
    difference = check_layout(slim, decoder, layout, _as_stored(layout, types))
    title = name or type(slim).__name__
    make_folder("path", file.parent)
    replace_file(file, lambda temporary: _write(temporary, title, decoder, layout, vocabulary, types, kind))
    unquantized = tuple(n for n, stored in types.items() if kind == "q8_0" and stored == "F16")
    return GgufFile(
        path=file,
        architecture=layout.architecture,
        dtype=kind,
        unquantized=unquantized,
        heads=tuple(layer.heads for layer in decoder.layers),
        kv_heads=tuple(layer.kv_heads for layer in decoder.layers),
        mlp=tuple(layer.mlp for layer in decoder.layers),
        context=decoder.context,
        difference=difference,
        size=file.stat().st_size,
        notes=(*decoder.notes, *vocabulary.notes, *_unquantized_note(unquantized)),
    )


def _check_package() -> None:
    """Raise a MissingPackageError if the package that writes such files is not there."""
    if importlib.util.find_spec("gguf") is None:
        raise MissingPackageError(
            "export_gguf needs the gguf package",
            found="no package gguf",
            needed="gguf 0.17 or later",
            do="pip install 'graphprune[gguf]'",
        )


def _unquantized_note(names: Sequence[str]) -> Iterator[str]:
    if names:
        yield (
            f"{len(names)} matrices ({names[0]}, ...) are f16, as their rows are no multiple of {_BLOCK}; "
            f"plan with multiple={_BLOCK} to avoid this"
        )


def _storage(entry: Entry, dtype: str) -> str:
    """What a tensor is stored as, by GGUF's name for it."""
    if len(entry.shape) < 2 or dtype == "f32":
        return "F32"
    if dtype == "q8_0" and entry.shape[-1] % _BLOCK:
        return "F16"
    return dtype.upper()


def _as_stored(layout: Layout, types: dict[str, str]) -> Layout:
    """A layout with the values that tensors have after they are written and read."""
    import gguf

    kinds = {name: gguf.GGMLQuantizationType[kind] for name, kind in types.items()}
    entries = {
        name: Entry(entry.shape, partial(_read_back, name, entry, kinds[name]))
        for name, entry in layout.entries.items()
    }
    return replace(layout, entries=entries)


def _read_back(name: str, entry: Entry, kind: Any) -> Tensor:
    """What a tensor of the file holds, in f32."""
    import gguf

    return torch.from_numpy(gguf.dequantize(_stored(name, entry, kind), kind))


def _write(
    path: Path,
    name: str,
    decoder: Decoder,
    layout: Layout,
    vocabulary: Vocabulary,
    types: dict[str, str],
    dtype: str,
) -> None:
    """Write the file, one tensor at a time, so that there is never a second copy of the model in memory."""
    import gguf

    writer = gguf.GGUFWriter(path, layout.architecture)
    try:
        writer.add_description(_WRITTEN_BY)
        writer.add_name(name)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        writer.add_file_type(gguf.LlamaFileType[DTYPES[dtype]])
        _add_sizes(writer, decoder)
        _add_vocabulary(writer, vocabulary)
        stored = {entry: gguf.GGMLQuantizationType[kind] for entry, kind in types.items()}
        for entry, kind in stored.items():
            shape = gguf.quant_shape_to_byte_shape(layout.entries[entry].shape, kind)
            writer.add_tensor_info(entry, shape, np.dtype(np.uint8), int(np.prod(shape)), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for entry, kind in stored.items():
            writer.write_tensor_data(_stored(entry, layout.entries[entry], kind))
    finally:
        writer.close()


def _stored(name: str, entry: Entry, kind: Any) -> np.ndarray[Any, Any]:
    """The bytes of a tensor."""
    import gguf

    values = entry.values().contiguous().numpy()
    if kind.name in ("F16", "Q8_0") and np.abs(values).max(initial=0) > _LARGEST_F16:
        raise InputError(
            f"dtype: {name} has values above {_LARGEST_F16:.0f}, the largest of f16",
            where=name,
            found=f"values up to {np.abs(values).max(initial=0):.3g}",
            needed=f"at most {_LARGEST_F16:.0f}",
            do="use dtype='bf16' or dtype='f32'",
        )
    return np.ascontiguousarray(gguf.quantize(values, kind)).view(np.uint8)


def _add_sizes(writer: Any, decoder: Decoder) -> None:
    writer.add_block_count(len(decoder.layers))
    writer.add_context_length(decoder.context)
    writer.add_embedding_length(len(decoder.norm))
    writer.add_vocab_size(len(decoder.embedding))
    writer.add_head_count([layer.heads for layer in decoder.layers])
    writer.add_head_count_kv([layer.kv_heads for layer in decoder.layers])
    writer.add_feed_forward_length([max(layer.mlp, 1) for layer in decoder.layers])
    writer.add_key_length(decoder.head_dim)
    writer.add_value_length(decoder.head_dim)
    writer.add_rope_dimension_count(decoder.head_dim)
    writer.add_rope_freq_base(decoder.theta)
    writer.add_layer_norm_rms_eps(decoder.eps)


def _add_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    from gguf import TokenType

    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pretokenizer or "default")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types([TokenType[kind.upper()] for kind in vocabulary.kinds])
    _add_filled(writer.add_token_scores, vocabulary.scores)
    _add_filled(writer.add_token_merges, vocabulary.merges)
    for name, index in vocabulary.special.items():
        getattr(writer, f"add_{name}_token_id")(index)
    writer.add_add_bos_token(vocabulary.adds_bos)
    writer.add_add_eos_token(vocabulary.adds_eos)
    writer.add_add_space_prefix(vocabulary.space_first)
    if vocabulary.chat_template:
        writer.add_chat_template(vocabulary.chat_template)


def _add_filled(add: Any, values: Iterable[Any]) -> None:
    """Add an array, where there is one: GGUF has no empty arrays."""
    if values:
        add(values)
