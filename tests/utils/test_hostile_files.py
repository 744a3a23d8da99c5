"""Files of others that are read: absurd sizes, depths, names and kinds are errors that say what to do, at once."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import graphprune
from graphprune.checkpoints.source import SourceCheckpoint
from graphprune.checkpoints.token_batches import token_batches
from graphprune.cli.data_files import normalization, read_array, read_image, read_records
from graphprune.errors import GraphpruneError, LoadError
from graphprune.utils.shard_index import INDEX
from graphprune.utils.tensor_files import SINGLE, TensorFiles

DEEP = '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"
LONG_NUMBER = '{"a": ' + "1" * 10_000 + "}"


def lines(path: Path) -> Any:
    return read_records("--data", path, 4, None, 8)


def texts(path: Path) -> Any:
    return token_batches(path, path.parent)


def image(path: Path) -> Any:
    return read_image("--data", path, 3, 4, 4)


def array(path: Path) -> Any:
    return read_array("--data", path)


def means(path: Path) -> Any:
    path.rename(path.with_name("preprocessor_config.json"))
    return normalization(nn.Identity(), 3, path.parent)


def npy(shape: str) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def bitmap(width: int, height: int) -> bytes:
    """The head of a picture without pixels."""
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


READ: list[tuple[Callable[[Path], Any], bytes]] = [
    *((read, data.encode()) for read in (lines, texts, means) for data in (DEEP, LONG_NUMBER, "[1,", "\0")),
    *((read, b'{"a": "\xff"}') for read in (lines, texts, means)),
    (lines, b'{"x": {"a": 1}}'),
    (lines, b'{"x": [1, [2]]}'),
    (lines, b'{"x": 1000000000000000000000000000000}'),
    (lines, b'{"x": ' + b"[" * 200 + b"]" * 200 + b"}"),
    (means, b'{"image_mean": "text", "image_std": [1]}'),
    (means, b'{"image_mean": [[1]], "image_std": null}'),
    (means, b"[1]"),
    (image, bitmap(100_000, 100_000)),
    (image, b"\x89PNG\r\n\x1a\n" + b"\0" * 40),
    (array, npy("(1000000000000,)")),
    *([(array, npy("(-5,)"))] if np.__version__ >= "2" else []),  # of which numpy 1 reads nothing
    (array, npy("(__import__('os').getpid(),)")),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("read", "data"), READ, ids=lambda one: getattr(one, "__name__", None))
def test_data_that_is_none_is_an_error(tmp_path: Path, read: Callable[[Path], Any], data: bytes) -> None:
    suffix = {image: ".bmp", array: ".npy"}.get(read, ".jsonl")
    path = tmp_path / f"data{suffix}"
    path.write_bytes(data)
    with pytest.raises(GraphpruneError) as caught:
        read(path)
    assert caught.value.do


def weights(folder: Path, header: dict[str, Any], entries: int = 8) -> None:
    text = json.dumps(header).encode()
    (folder / SINGLE).write_bytes(struct.pack("<Q", len(text)) + text + bytes(entries))


@pytest.mark.parametrize(
    "place",
    [
        {"dtype": "F32", "shape": [0, 1 << 62], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [1 << 31, 1 << 31], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 1 << 62]},
        {"dtype": "F64", "shape": [1] * 1000, "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
    ],
)
def test_shapes_that_no_tensor_has(tmp_path: Path, place: dict[str, Any]) -> None:
    weights(tmp_path, {"a": place})
    with pytest.raises(LoadError, match="shape"):
        TensorFiles(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "part.safetensors")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "part.safetensors"}}))
    with pytest.raises(LoadError, match="is no file"):
        TensorFiles(tmp_path)


def test_links_to_weights_are_followed_and_those_in_a_bundle_are_not(tmp_path: Path) -> None:
    """A cache of downloads consists of links; a bundle is made of plain files."""
    for name in ("real", "cache"):
        (tmp_path / name).mkdir()
    save_file({"a": torch.ones(2)}, tmp_path / "real" / "blob")
    (tmp_path / "cache" / SINGLE).symlink_to(tmp_path / "real" / "blob")
    assert TensorFiles(tmp_path / "cache")["a"].tolist() == [1, 1]
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    graphprune.save(graphprune.prune_model(model, 0.5, torch.zeros(1, 4)), tmp_path / "bundle")
    (shard,) = (tmp_path / "bundle").rglob("*.safetensors")
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LoadError, match="no plain file"):
        graphprune.load(tmp_path / "bundle", model)


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_hidden_layers", 10**7), ("intermediate_size", 10**15), ("num_attention_heads", 0), ("vocab_size", "x")],
)
def test_a_configuration_asks_for_what_is_in_the_files(tmp_path: Path, field: str, value: Any) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "vocab_size": 20}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_attention_heads": 2, **sizes}
    (tmp_path / "config.json").write_text(json.dumps(config | {field: value}))
    save_file({"model.norm.weight": torch.ones(16)}, tmp_path / SINGLE)
    with pytest.raises(GraphpruneError) as caught:
        SourceCheckpoint.of(tmp_path).build()
    assert caught.value.do


def test_numbers_of_images_are_read(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5], "image_std": [0.25], "more": {}}')
    mean, std, whose = normalization(nn.Identity(), 3, tmp_path)
    assert np.allclose(mean.flatten(), 0.5)
    assert np.allclose(std.flatten(), 0.25)
    assert "preprocessor_config.json says" in whose
