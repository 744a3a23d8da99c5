"""State dicts as people save them: plain, inside a checkpoint, with prefixes of wrappers, in shards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.cli.user_files import in_a_line
from graphprune.cli.weight_names import unwrapped
from graphprune.errors import SpecError
from graphprune.utils.checks import found_value, with_article
from graphprune.utils.pickled_files import refused_object
from graphprune.utils.prune_masks import without_masks
from graphprune.utils.shard_index import read_index

INSIDE = ("state_dict", "model", "model_state_dict", "module", "net", "params", "weights")
"""Under which names checkpoints hold the state dict of a model."""

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json", "*.index.json")
NAMES = ("model.safetensors", "pytorch_model.bin")
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


def load_weights(model: nn.Module, path: str | Path) -> str:
    """Load a state dict into ``model``; runs no pickled code.

    Args:
        model: what the weights are for.
        path: a ``.safetensors`` or ``torch.save`` file, an index of shards (``*.index.json``), or a folder that holds
            one of these. The state dict may be inside a checkpoint (``{"model": ...}``, ``{"state_dict": ...}``), and
            its names may have what wrappers put before them (``module.``, ``model.``, ``_orig_mod.``). Masks of
            ``torch.nn.utils.prune`` (``weight_orig``, ``weight_mask``) are multiplied in, unless the model has them
            as well.

    Returns:
        What was left out of the names (``'_orig_mod.', 'model.'``); empty: nothing.

    Raises:
        SpecError: the file is missing, holds no state dict, or one of other names or shapes than the model's.
    """
    path, own = Path(path), model.state_dict()
    state, left_out = unwrapped(without_masks(read_state_dict(path), own.keys()), own.keys())
    try:
        model.load_state_dict(state)
    except Exception as error:
        raise _not_fitting(path, model, _difference(state, own) or in_a_line(error)) from error
    return left_out


def _not_fitting(path: Path, model: nn.Module, found: str) -> SpecError:
    kind = type(model).__name__
    return SpecError(
        f"{str(path)!r} does not fit {kind}: {found}",
        where=str(path),
        found=found,
        needed=f"the weights of this {kind}",
        do="give the weights of this very architecture, or another SPEC",
    )


def _difference(found: Mapping[str, Tensor], needed: Mapping[str, Tensor]) -> str:
    """Which names are missing, which are too many, and which tensors have another shape; empty: none."""
    missing, more = sorted(needed.keys() - found.keys()), sorted(found.keys() - needed.keys())
    others = [
        f"{name} {list(found[name].shape)}, needed is {list(value.shape)}"
        for name, value in needed.items()
        if name in found and found[name].shape != value.shape
    ]
    said = [f"it lacks {_some(missing)}"] * bool(missing) + [f"it has {_some(more)} besides"] * bool(more)
    return ", and ".join(said + [f"it has {_some(others, '; ')}"] * bool(others))


def _some(names: list[str], between: str = ", ") -> str:
    others = f" and {len(names) - 3} others" if len(names) > 3 else ""
    return f"{between.join(names[:3])}{others}"


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a file or folder, as for :func:`load_weights`, under their own names; runs no pickled code.

    Raises:
        SpecError: it is missing, or holds no state dict.
    """
    return _read(path)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise SpecError(
            f"the weights file {str(path)!r} does not exist",
            where=str(path),
            found="nothing at this path",
            needed="a file of weights, or a folder with one",
            do="give the path of a .safetensors, .bin, .pt or .pth file",
        )
    if path.is_dir():
        return _read(_in_folder(path))
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    return _read_file(path)


def _in_folder(folder: Path) -> Path:
    """The one file of weights, or index of shards, of a folder."""
    named = (sorted(folder.glob(pattern)) for pattern in (*INDEXES, *NAMES))
    every = [path for suffix in SUFFIXES for path in sorted(folder.glob(f"*{suffix}"))]
    for found in (*named, every):
        if found and len({path.stem for path in found}) == 1:  # one checkpoint, perhaps in several formats
            return found[0]
        if found:
            names = ", ".join(path.name for path in found[:4])
            raise SpecError(
                f"{str(folder)!r} holds several files of weights ({names})",
                where=str(folder),
                found=names,
                needed="one file, or an index of shards",
                do="name one of them",
            )
    raise SpecError(
        f"{str(folder)!r} holds no weights",
        where=str(folder),
        found="no file of weights",
        needed="a .safetensors, .bin, .pt or .pth file",
        do="give the folder or file in which the weights are",
    )


def _read_shards(index: Path) -> dict[str, Tensor]:
    """All shards that an index names, which stand beside it."""
    places = read_index(index, f"weights: {index}", "pass the *.index.json that a library wrote")
    state: dict[str, Tensor] = {}
    for name in dict.fromkeys(places.values()):
        if not (index.parent / name).is_file():
            raise SpecError(
                f"{str(index)!r} names the shard {name!r}, which does not exist",
                where=str(index.parent / name),
                found="no such file",
                needed="all shards that the index names",
                do="copy it there",
            )
        state.update(_read_file(index.parent / name))
    return state


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of any kind: a damaged pickle raises whatever its bytes lead to
        raise _unreadable(path, error) from error
    return _state_dict(found, path)


def _unreadable(path: Path, error: Exception) -> SpecError:
    refused = refused_object(error)
    if refused:
        return SpecError(
            f"{str(path)!r} holds objects ({refused}) besides tensors, whose code is not run",
            where=str(path),
            found=f"a pickled {refused}",
            needed="a state dict: tensors by name",
            do="load it in Python, if you trust where it is from, and save model.state_dict() with torch.save",
        )
    return SpecError(
        f"{str(path)!r} cannot be read as weights",
        where=str(path),
        found=_kind_of(path) or in_a_line(error),
        needed="a file that torch.save or safetensors wrote",
        do="give such a file, or copy it again if it is damaged",
    )


def _kind_of(path: Path) -> str:
    """What a file holds that is none of weights; empty: nothing that its first bytes tell."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        head = file.read(6)
    if not head:
        return "an empty file"
    if head == b"\x93NUMPY":
        return "an array of numpy"
    by_torch = path.suffix == ".safetensors" or head.startswith((b"PK", b"\x80"))
    return "" if by_torch else "bytes that torch.save did not write"


def _state_dict(found: Any, path: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint, which may be one itself."""
    if not isinstance(found, dict):
        raise SpecError(
            f"{str(path)!r} holds {with_article(type(found).__name__)}",
            where=str(path),
            found=found_value(found),
            needed="a state dict",
            do="save model.state_dict() with torch.save, and give that file",
        )
    if found and all(isinstance(value, Tensor) for value in found.values()):
        return found
    for name in INSIDE:
        if isinstance(found.get(name), dict):
            return _state_dict(found[name], path)
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        names = ", ".join(map(repr, list(found)[:6])) or "nothing"
        raise SpecError(
            f"{str(path)!r} holds no state dict: it has {names}",
            where=str(path),
            found=names,
            needed=f"tensors by name, or these under one of {', '.join(INSIDE)}",
            do="save model.state_dict() with torch.save, and give that file",
        )
    return found
