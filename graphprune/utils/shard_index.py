"""The index of a checkpoint in several files: in which of them each tensor is."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from graphprune.errors import LoadError
from graphprune.utils.typed_json import convert_data, read_json

INDEX = "model.safetensors.index.json"

_LONGEST = 1 << 27


class _Index(Struct, frozen=True):
    """What of an index file is read; the rest of it are notes."""

    weight_map: dict[str, str]


def read_index(path: Path, what: str, advice: str) -> dict[str, str]:
    """The file of each tensor, by the tensor's name: plain names of files beside the index, which may be missing.

    Args:
        path: of a file as Transformers writes it, ``model.safetensors.index.json``.
        what: names the argument, and the file, at the beginning of a message.
        advice: what to do, at its end.

    Raises:
        LoadError: the file cannot be read, is no index, or leads out of its folder.
    """
    places = convert_data(read_json(path, what, advice, _LONGEST), _Index, what, advice).weight_map
    for name in sorted(set(places.values())):
        if Path(name).name != name or name in ("", "..") or "\0" in name:
            raise LoadError(
                f"{what}: names the file {name[:80]!r}, which is not beside it",
                where=str(path),
                found=repr(name[:80]),
                needed="names of files in the folder of the index",
                do=advice,
            )
    return places
