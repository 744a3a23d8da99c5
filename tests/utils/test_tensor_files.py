"""Tensors in safetensors files are mapped as they are; damaged files are refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from graphprune.errors import LoadError
from graphprune.utils import tensor_files
from graphprune.utils.shard_index import INDEX
from graphprune.utils.tensor_files import SINGLE, TensorFiles, stored_tensors


def some_tensors() -> dict[str, Tensor]:
    return {
        "weight": torch.randn(5, 7).bfloat16(),
        "bias": torch.randn(5),
        "count": torch.tensor(3),
        "mask": torch.tensor([True, False, True]),
        "none": torch.empty(0, 4),
    }


def test_tensors_are_those_that_were_saved(tmp_path: Path) -> None:
    saved = some_tensors()
    save_file(saved, tmp_path / SINGLE)
    found = TensorFiles(tmp_path)
    assert found.keys() == saved.keys()
    for name, tensor in saved.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_what_is_written_to_shared_ones_is_in_the_file(tmp_path: Path) -> None:
    save_file(some_tensors(), tmp_path / SINGLE)
    stored = stored_tensors(tmp_path / SINGLE)["bias"]
    stored.map()[:] = 1.0
    assert not (stored.map() == 1).any()
    stored.map(shared=True)[:] = 2.0
    assert (stored.map() == 2).all()


def test_tensors_that_begin_anywhere_are_read(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    header += b" " * (1 - len(header) % 2)  # the entries begin at an odd place
    entries = torch.tensor([1.5, -2.0]).numpy().tobytes()
    (tmp_path / SINGLE).write_bytes(struct.pack("<Q", len(header)) + header + entries)
    assert TensorFiles(tmp_path)["a"].tolist() == [1.5, -2.0]


def whole_file(tmp_path: Path) -> bytes:
    save_file({"a": torch.ones(4)}, tmp_path / "whole")
    return (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "is no whole safetensors file"),
        (lambda data: data[:20], "is no whole safetensors file"),
        (lambda data: data[:-1], "'a' of shape .4. does not have 16 bytes"),
        (lambda data: data[:8] + b"[" + data[9:], "not JSON"),
        (lambda data: data.replace(b'"F32"', b'"F33"'), "'a' is of type 'F33', which is not known"),
        (lambda data: data.replace(b"[4]", b"[5]"), "'a' of shape .5. does not have 20 bytes"),
        (lambda data: data.replace(b"[4]", b'"4'), "not JSON"),
    ],
)
def test_damaged_files_are_refused(damage: object, message: str, tmp_path: Path) -> None:
    assert callable(damage)
    (tmp_path / SINGLE).write_bytes(damage(whole_file(tmp_path)))
    with pytest.raises(LoadError, match=message):
        TensorFiles(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../outside.safetensors", "names the file '../outside.safetensors', which is not beside it"),
        ("/etc/passwd", "names the file '/etc/passwd'"),
        ("weights.bin", "names the file 'weights.bin'"),
        ("..", "names the file '..', which is not beside it"),
        ("missing.safetensors", "cannot be read"),
        (SINGLE, "has no 'b'"),
    ],
)
def test_an_index_names_files_of_its_folder(name: str, message: str, tmp_path: Path) -> None:
    save_file({"a": torch.ones(4)}, tmp_path / SINGLE)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": SINGLE, "b": name}}))
    with pytest.raises(LoadError, match=message):
        TensorFiles(tmp_path)


def test_the_header_of_each_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        save_file({name: torch.ones(4)}, tmp_path / f"{name}.safetensors")
    index = {name: f"{name}.safetensors" for name in ("a", "b")}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": index}))
    read: list[str] = []

    def noted(path: Path) -> dict[str, tensor_files.StoredTensor]:
        read.append(path.name)
        return stored_tensors(path)

    monkeypatch.setattr(tensor_files, "stored_tensors", noted)
    assert list(TensorFiles(tmp_path)) == ["a", "b"] and read == sorted(index.values())


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=rf"weights: .* has neither {SINGLE} nor {INDEX}"):
        TensorFiles(tmp_path)
