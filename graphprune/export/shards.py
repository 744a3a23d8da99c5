"""Tensors as safetensors files of bounded size, with the index file that Transformers and others read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from graphprune.errors import LoadError, SaveError
from graphprune.utils.folders import ADVICE
from graphprune.utils.shard_index import INDEX, read_index
from graphprune.utils.tensor_files import SINGLE, TENSOR_TYPES, header_text

_SHARD = "model-{number:05d}-of-{count:05d}.safetensors"


def write_shards(folder: Path, tensors: Mapping[str, Tensor], most: int) -> None:
    """Write tensors into as many files as are needed for at most ``most`` bytes each; a larger one has its own."""
    shards = list(_split(tensors, most))
    if len(shards) == 1:
        write_tensors(folder / SINGLE, shards[0])
        return
    names = {}
    for number, shard in enumerate(shards, 1):
        name = _SHARD.format(number=number, count=len(shards))
        write_tensors(folder / name, shard)
        names.update(dict.fromkeys(shard, name))
    size = sum(tensor.nbytes for tensor in tensors.values())
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": names}, indent=1))


def _split(tensors: Mapping[str, Tensor], most: int) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        if shard and size + tensor.nbytes > most:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard


TENSOR_ALIGNMENT = 64
"""Where torch begins tensors. Products of matrices that begin elsewhere may differ in their last bit."""


def check_types(tensors: Mapping[str, Tensor]) -> None:
    """Raise a SaveError if there is a tensor of a type that safetensors has not."""
    for name, tensor in tensors.items():
        if tensor.dtype not in TENSOR_TYPES:
            raise SaveError(
                f"slim: {name} is of {tensor.dtype}, which safetensors does not have",
                where=name,
                found=str(tensor.dtype),
                needed="a data type of safetensors",
                do="use torch.save(slim)",
            )


def write_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file; see :func:`write_entries`."""
    with path.open("wb") as file:
        write_entries(file.write, tensors, lambda name: (tensors[name],), notes)


def write_entries(
    write: Callable[[bytes | memoryview], object],
    tensors: Mapping[str, Tensor],
    values: Callable[[str], Iterable[Tensor]],
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file, tensor by tensor: first those after which the next one is aligned, too.

    Args:
        write: is given the parts of the file, in order.
        tensors: strided ones of types that the format has, on any device, ``meta`` too.
        values: the entries of a tensor, given its name, in parts that follow each other; none of them is kept.
        notes: strings by name, for the file's metadata.
    """
    order = sorted(tensors, key=lambda name: tensors[name].nbytes % TENSOR_ALIGNMENT > 0)
    write(header_text(tensors, order, notes or {}, TENSOR_ALIGNMENT))
    for name in order:
        for part in values(name):
            entries = part.detach().cpu().contiguous().reshape(-1)
            if entries.numel():
                write(entries.view(torch.uint8).numpy().data)


def _aligned(tensor: Tensor) -> Tensor:
    return tensor if tensor.device.type != "cpu" or tensor.data_ptr() % TENSOR_ALIGNMENT == 0 else tensor.clone()


class ShardReader:
    """Tensors in the safetensors files among ``files``, which were checked. On the CPU they are mapped, not read.

    Raises:
        LoadError: the files are damaged, or contradict each other.
    """

    def __init__(self, folder: Path, files: Mapping[str, Path], device: torch.device) -> None:
        self._what = f"directory: {folder} does not hold the weights of its model"
        self._places = self._shards(files)
        self._device = str(device)

    def _shards(self, files: Mapping[str, Path]) -> dict[Path, list[str] | None]:
        """By file the tensors that are in it; None: all that there are."""
        if INDEX not in files:
            if SINGLE not in files:
                raise LoadError(
                    f"{self._what}: there is neither {SINGLE} nor {INDEX}",
                    where=self._what.removeprefix("directory: ").partition(" ")[0],
                    found=f"the files {', '.join(sorted(files)[:6])}",
                    needed=f"{SINGLE} or {INDEX}",
                    do=ADVICE,
                )
            return {files[SINGLE]: None}
        what = f"directory: {files[INDEX]}"
        found: dict[Path, list[str] | None] = {}
        for name, file in read_index(files[INDEX], what, ADVICE).items():
            if file not in files or not file.endswith(".safetensors"):
                raise LoadError(
                    f"{what}: names the file {file[:80]!r}, which is not one of the bundle's",
                    where=str(files[INDEX]),
                    found=repr(file[:80]),
                    needed="names of the bundle's own files",
                    do=ADVICE,
                )
            names = found.setdefault(files[file], [])
            assert names is not None
            names.append(name)
        return found

    def read(self, needed: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> dict[str, Tensor]:
        """All tensors, if they are those ``needed``, by name of this shape and type."""
        found: dict[str, Tensor] = {}
        for path, names in self._places.items():
            try:
                with safe_open(path, "pt", device=self._device) as file:
                    present = file.keys()
                    if names is not None and set(names) != set(present):
                        raise LoadError(
                            f"{self._what}: {path.name} has other tensors than {INDEX} says",
                            where=str(path),
                            found=f"{len(list(present))} tensors",
                            needed=f"the {len(names)} that {INDEX} names",
                            do=ADVICE,
                        )
                    for name in present:
                        self._check(name, tuple(file.get_slice(name).get_shape()), needed)
                        found[name] = _aligned(file.get_tensor(name))
            except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, MemoryError) as error:
                if isinstance(error, LoadError):
                    raise
                raise LoadError(
                    f"{self._what}: {path.name}: {error}",
                    where=str(path),
                    found=f"{type(error).__name__}: {error}",
                    needed="a whole file of safetensors",
                    do=ADVICE,
                ) from error
        self._check_all(found, needed)
        return found

    def _check(
        self, name: str, shape: tuple[int, ...], needed: Mapping[str, tuple[tuple[int, ...], torch.dtype]]
    ) -> None:
        if name not in needed:
            raise LoadError(
                f"{self._what}: there is a tensor {name[:80]!r}, which the model does not have",
                where=name[:80],
                found="a tensor that no module has",
                needed=f"the {len(needed)} tensors of the model",
                do=ADVICE,
            )
        if shape != needed[name][0]:
            raise LoadError(
                f"{self._what}: {name} has shape {list(shape)}, not {list(needed[name][0])}",
                where=name,
                found=f"shape {list(shape)}",
                needed=f"shape {list(needed[name][0])}",
                do=ADVICE,
            )

    def _check_all(
        self, found: Mapping[str, Tensor], needed: Mapping[str, tuple[tuple[int, ...], torch.dtype]]
    ) -> None:
        missing = sorted(needed.keys() - found.keys())
        if missing:
            raise LoadError(
                f"{self._what}: {missing[0]!r} is missing ({len(missing)} such names)",
                where=missing[0],
                found=f"{len(found)} tensors",
                needed=f"{len(needed)}",
                do=ADVICE,
            )
        for name, tensor in found.items():
            if tensor.dtype != needed[name][1]:
                raise LoadError(
                    f"{self._what}: {name} is of {tensor.dtype}, not {needed[name][1]}",
                    where=name,
                    found=str(tensor.dtype),
                    needed=str(needed[name][1]),
                    do=ADVICE,
                )
