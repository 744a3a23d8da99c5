"""Sparse files: small, read back bit for bit, and refused where they are damaged."""

from __future__ import annotations

import hashlib
import json
import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.testing._internal.two_tensor import TwoTensor

import graphprune
from graphprune import load_sparse, make_permanent, save_sparse, sparsify
from graphprune.errors import GraphpruneError, InputError, LoadError, SaveError
from graphprune.pruning.plan import plans_of
from graphprune.sparsity.gap_coding import decoded, encoded, entropy_bits
from graphprune.sparsity.sparse_files import FORMAT
from graphprune.sparsity.sparse_tensors import ENTRY_TYPES
from tests.damage import damaged


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = (nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 100))
    return nn.Sequential(*layers).eval()


X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def bits(tensor: Tensor) -> Tensor:
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8) if flat.numel() else flat


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Names in order, types, shapes, and every bit."""
    same = list(a) == list(b) and all(a[n].dtype == b[n].dtype and a[n].shape == b[n].shape for n in a)
    return same and all(torch.equal(bits(a[n]), bits(b[n])) for n in a)


# ---------------------------------------------------------------- the code


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 1000, 4097])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 1.0])
def test_places_are_decoded(size: int, share: float) -> None:
    places = np.flatnonzero(np.random.default_rng(0).random(size) < share)
    shift, unary, remainders = encoded(places, size)
    assert np.array_equal(decoded(len(places), size, shift, unary, remainders), places)


def test_the_code_is_near_the_entropy() -> None:
    size = 200_000
    for share in (0.5, 0.1, 0.02, 0.001):
        places = np.flatnonzero(np.random.default_rng(0).random(size) < share)
        _, unary, remainders = encoded(places, size)
        needed = entropy_bits(len(places), size) / 8
        assert needed * 0.98 < len(unary) + len(remainders) < needed * 1.04 + 16


def test_random_codes_are_refused_or_within_bounds() -> None:
    chance = np.random.default_rng(0)
    for _ in range(300):
        count, size, shift = (int(chance.integers(0, most)) for most in (30, 400, 14))
        unary, remainders = (chance.integers(0, 256, chance.integers(0, 12), np.uint8) for _ in range(2))
        try:
            places = decoded(count, size, shift, unary, remainders)
        except ValueError:
            continue
        assert len(places) == count and (np.diff(places) > 0).all() and (places < size).all() and (places >= 0).all()


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("amount", [0.5, 0.9, 0.98])
def test_files_are_near_the_bound_and_read_back(amount: float, dtype: torch.dtype, tmp_path: Path) -> None:
    model = net().to(dtype)
    sparsify(model, amount, scope="global")
    found = save_sparse(model, tmp_path / "model.sparse")
    needed = make_permanent(model).state_dict()
    assert equal(load_sparse(tmp_path / "model.sparse"), dict(needed))
    assert found.bytes == found.path.stat().st_size
    assert found.bound <= found.bytes < 1.10 * found.bound + 700  # a net so small, of which the header is much
    assert found.bytes < found.dense * (1.05 - amount) + 2500
    other = load_sparse(tmp_path / "model.sparse", net(1).to(dtype))
    assert torch.equal(other(X.to(dtype)), model(X.to(dtype)))


def test_every_type_is_read_back(tmp_path: Path) -> None:
    chance = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 256, (6, 16 * 9), generator=chance, dtype=torch.uint8)
    raw.view(6, 9, 16)[:, ::2] = 0
    raw.view(6, 9, 16)[:, 2, 15] = 128  # the sign of a zero, in most types
    state = {name: raw.view(dtype) if dtype != torch.bool else raw > 0 for name, dtype in ENTRY_TYPES.items()}
    state |= {"scalar": torch.tensor(0.0), "empty": torch.empty(0, 3), "count": torch.tensor(7)}
    state |= {"turned": torch.eye(9)[:, ::2].t(), "zeros": torch.zeros(100, 100), "ones": torch.ones(3, 3)}
    state |= {"odd": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45] + [0.0] * 60)}
    save_sparse(state, tmp_path / "all")
    assert equal(load_sparse(tmp_path / "all"), state)


def test_signs_of_zeros_are_kept_and_counted(tmp_path: Path) -> None:
    model = net()
    for place in (0, 4):
        prune.l1_unstructured(model[place], "weight", 0.9)
        prune.remove(model[place], "weight")
    found = save_sparse(model, tmp_path / "signed")
    assert equal(load_sparse(tmp_path / "signed"), dict(model.state_dict()))
    assert found.signed_zeros > 10_000
    assert str(found).endswith("zeros have signs")
    sparsify(model, 0.0, method="threshold")
    smaller = save_sparse(make_permanent(model), tmp_path / "unsigned")
    assert smaller.signed_zeros == 0 and smaller.bytes < 0.85 * found.bytes
    assert " of the entropy bound" in str(smaller)


def test_masks_are_put_again_by_a_threshold(tmp_path: Path) -> None:
    model = net()
    needed = sparsify(model, 0.9)
    save_sparse(model, tmp_path / "sparse")
    other = load_sparse(tmp_path / "sparse", net(1))
    assert sparsify(other, 0.0, method="threshold") == needed


def test_tied_tensors_are_written_once(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a": nn.Embedding(1000, 8), "b": nn.Linear(8, 1000, bias=False)})
    model["b"].weight = model["a"].weight
    dense = save_sparse(model, tmp_path / "dense")
    assert 32_000 < dense.bytes < 33_000 and dense.dense == 32_000
    sparsify(model, 0.5, layers="b")
    found = save_sparse(model, tmp_path / "tied")
    assert 17_000 < found.bytes < 18_000
    state = load_sparse(tmp_path / "tied")
    assert state["a.weight"] is state["b.weight"]
    assert equal(state, dict(make_permanent(model).state_dict()))


def test_channels_and_weights_in_one_file(tmp_path: Path) -> None:
    """The dense model becomes as small as the one that was saved; one that is as small already stays so."""
    slim: Any = graphprune.prune_model(net(), 0.5, X)
    sparsify(slim, 0.9)
    save_sparse(slim, tmp_path / "slim")
    with pytest.raises(SaveError, match=r"turn masks into zeros by graphprune\.make_permanent\(slim\)"):
        graphprune.save(slim, tmp_path / "bundle")
    make_permanent(slim)
    for other in (net(1), plans_of(slim)[0].apply(net(2))):
        loaded: Any = load_sparse(tmp_path / "slim", other)
        assert loaded is other and torch.equal(loaded(X), slim(X))
        assert loaded[0].weight.shape == slim[0].weight.shape == (8, 3, 3, 3)
    graphprune.save(slim, tmp_path / "bundle")
    again = graphprune.load(tmp_path / "bundle", net(3))
    assert equal(dict(again.state_dict()), load_sparse(tmp_path / "slim"))


# ---------------------------------------------------------------- damage


def test_random_damage_is_refused_or_harmless(tmp_path: Path) -> None:
    model = net()
    sparsify(model, 0.95)
    path = tmp_path / "sparse"
    save_sparse(model, path)
    data, needed = path.read_bytes(), load_sparse(path)
    chance = random.Random(0)
    refused = 0
    for number in range(300):
        changed = bytearray(data)
        for _ in range(chance.choice([1, 1, 3])):
            changed[chance.randrange(len(data) if number % 2 else 300)] = chance.randrange(256)
        if number % 10 == 0:
            changed = changed[: chance.randrange(len(data))]
        path.write_bytes(changed)
        try:
            assert equal(load_sparse(path), needed)
        except LoadError:
            refused += 1
    assert refused > 270


def rewritten(path: Path, index: bytes, data: np.ndarray[Any, Any] | None = None) -> None:
    """The file with another index, and the right checksum."""
    parts = load_file(path)
    parts = {"index": np.frombuffer(index, np.uint8), "data": parts["data"] if data is None else data}
    digest = hashlib.sha256(parts["index"].tobytes() + parts["data"].tobytes()).hexdigest()
    save_file(parts, path, metadata=FORMAT | {"sha256": digest})


def test_a_damaged_index_with_the_right_checksum(tmp_path: Path) -> None:
    """Nothing but errors of this library, and a state dict of the sizes that are said."""
    model = graphprune.prune_model(net(), 0.5, X)
    sparsify(model, 0.95)
    path = tmp_path / "sparse"
    save_sparse(model, path)
    original = path.read_bytes()
    text = zlib.decompress(load_file(path)["index"].tobytes()).decode()
    refused = 0
    for seed in range(150):
        path.write_bytes(original)
        rewritten(path, zlib.compress(damaged(text, seed).encode()))
        try:
            load_sparse(path, net())
        except LoadError:
            refused += 1
    assert refused > 100


def test_sizes_are_checked_before_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    save_sparse({"a": torch.zeros(1000)}, path)
    records: list[dict[str, Any]] = [
        {"t": "float32", "s": [1 << 50], "n": 0, "k": 12, "u": 1},
        {"t": "float32", "s": [1 << 62, 1 << 62], "n": 0, "k": 12, "u": 1},
        {"t": "float32", "s": [1 << 62]},
        {"t": "float32", "s": [3], "n": 1 << 60, "k": 0, "u": 1},
        {"t": "quint8", "s": [1000]},
        {"t": "int32", "s": [1000], "n": 0, "k": 12, "u": 1, "signed": True},
    ]
    for record in records:
        rewritten(path, zlib.compress(json.dumps({"tensors": {"a": record}, "plans": []}).encode()))
        with pytest.raises(LoadError):
            load_sparse(path)
    rewritten(path, zlib.compress(b" " * (1 << 27), 1))
    with pytest.raises(LoadError, match="its index cannot be read"):
        load_sparse(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(LoadError, match="is no sparse file of graphprune"):
        load_sparse(path)
    path.write_bytes(b"")
    with pytest.raises(LoadError, match="is no sparse file of graphprune"):
        load_sparse(path)
    save_file({"a": np.zeros(3)}, path)
    with pytest.raises(LoadError, match="or of another version than 1"):
        load_sparse(path)
    with pytest.raises(InputError, match="path: must be a path"):
        load_sparse(3)  # type: ignore[call-overload]


# ---------------------------------------------------------------- mistakes


def test_what_cannot_be_written_is_said_and_nothing_is(tmp_path: Path) -> None:
    path = tmp_path / "file"
    mistakes: list[tuple[Any, type[GraphpruneError], str]] = [
        ({"a": 3}, SaveError, "source: 'a' is 3, and only tensors can be written"),
        (net().to("meta"), SaveError, r"0\.weight is on meta"),
        ({"a": torch.eye(3).to_sparse()}, SaveError, "make it an ordinary one"),
        ({"a": TwoTensor(torch.eye(3), torch.eye(3))}, SaveError, "pass a state dict with the plain tensors"),
        (3, InputError, "source: must be a torch.nn.Module or a state dict"),
        (nn.Linear, InputError, "source: must be a torch.nn.Module or a state dict"),
    ]
    for source, kind, message in mistakes:
        with pytest.raises(kind, match=message):
            save_sparse(source, path)
    assert not list(tmp_path.iterdir())


def test_folders_are_made_and_not_replaced(tmp_path: Path) -> None:
    assert save_sparse({"a": torch.eye(3)}, tmp_path / "new/folder/file").path.is_file()
    with pytest.raises(InputError, match=r"is a folder[\s\S]*pass the file to write"):
        save_sparse({"a": torch.eye(3)}, tmp_path / "new")


def test_models_that_do_not_fit_are_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "file"
    slim = graphprune.prune_model(net(), 0.5, X)
    save_sparse(slim, path)
    masked = net()
    sparsify(masked, 0.5)
    mistakes: list[tuple[nn.Module, type[GraphpruneError], str]] = [
        (masked, InputError, r"has masks \(0\.weight_orig\)"),
        (net().to("meta"), InputError, "model: is on meta"),
        (nn.Linear(3, 3), LoadError, "is not of this Linear"),
        (net().double(), LoadError, r"has 0\.weight of \(\(8, 3, 3, 3\), torch.float64\), but the file has"),
        (graphprune.prune_model(net(), 0.25, X), LoadError, "model: was pruned 1 times, but not as"),
    ]
    for model, kind, message in mistakes:
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(kind, match=message):
            load_sparse(path, model)
        assert before.keys() == model.state_dict().keys()
        assert model.state_dict()[next(iter(before))].is_meta or equal(before, dict(model.state_dict()))
