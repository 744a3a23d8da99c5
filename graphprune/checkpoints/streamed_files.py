"""The weights of a model as safetensors files, tensor by tensor."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphprune.checkpoints.journal import Journal
from graphprune.checkpoints.progress import ShowProgress, Stage
from graphprune.checkpoints.residence import MappedFiles
from graphprune.checkpoints.slices import Slices, map_parameters, storage_address
from graphprune.errors import ExportError, SaveError
from graphprune.export.shards import TENSOR_ALIGNMENT, check_types, write_entries
from graphprune.tracing.built_empty import build_empty
from graphprune.utils.direct_file import DirectFile
from graphprune.utils.files import to_disk
from graphprune.utils.folders import FileSum
from graphprune.utils.shard_index import INDEX
from graphprune.utils.tensor_files import SINGLE, TensorFiles, header_text

Parts = Callable[[Tensor], Iterable[Tensor]]
"""Gives the values of a tensor, in parts that follow each other."""


class StreamedFiles:
    """How a slim model that is larger than memory is written and read; see :class:`WeightFiles`.

    When its weights are written, the model has them, mapped.

    Args:
        slices: the model, with what its placeholders stand for.
        journal: is told of files that are whole, and knows those of an earlier run.
        mapped: maps files.
        most: bytes of a file at most.
        show: is told how far the files are.
    """

    def __init__(
        self,
        slices: Slices,
        journal: Journal,
        mapped: MappedFiles,
        most: int,
        show: ShowProgress | None,
    ) -> None:
        self._slices = slices
        self._journal = journal
        self._mapped = mapped
        self._most = most
        self._show = show
        self._read: dict[str, Tensor] = {}

    def write(self, model: Any, folder: Path) -> None:
        """Let Transformers write the configuration, and write the weights as it divides them into files.

        Raises:
            SaveError: the disk is full. What is finished stays for another run.
        """
        from huggingface_hub import split_torch_state_dict_into_shards

        model.save_pretrained(folder, state_dict={})
        state = _saved_state(model)
        check_types(state)
        pattern = SINGLE.replace(".", "{suffix}.")
        shapes = {name: torch.empty(t.shape, dtype=t.dtype, device="meta") for name, t in state.items()}
        split = split_torch_state_dict_into_shards(shapes, filename_pattern=pattern, max_shard_size=self._most)
        files = {folder / name: {n: state[n] for n in names} for name, names in split.filename_to_tensors.items()}
        for path in folder.glob("*.safetensors"):
            if path not in files:
                path.unlink()
        write_shard_files(files, self._slices.values, self._journal, Stage("weights", _size(state), self._show))
        if split.is_sharded:
            index = {
                "metadata": {"total_parameters": model.num_parameters(), **split.metadata},
                "weight_map": split.tensor_to_filename,
            }
            (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
        stored = TensorFiles(folder).stored
        self._read = {name: self._mapped.map(stored[name]) for name in state}
        map_parameters(self._slices.slim, {storage_address(tensor): self._read[name] for name, tensor in state.items()})

    def read(self, kind: Any, folder: Path, dtype: Any) -> Any:
        """The model that a class makes of the folder that was written, with its parameters mapped."""
        model: Any = build_empty(kind, kind.config_class.from_pretrained(folder), dtype)
        model.load_state_dict(self._read, strict=False, assign=True)
        model.tie_weights()
        missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
        if missing:
            raise ExportError(
                f"slim: {missing[0]} is not in the folder that was written ({len(missing)} such names)",
                where=missing[0],
                found=f"{len(missing)} parameters without values",
                needed="all parameters of the model",
                do="report this with the model: graphprune wrote the folder itself",
            )
        return model


def _saved_state(model: Any) -> dict[str, Tensor]:
    """The tensors that Transformers saves, by name, each once."""
    left_out = getattr(model, "_keys_to_ignore_on_save", None) or ()
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict().items():
        if name not in left_out:
            found.setdefault(storage_address(tensor), (name, tensor))
    return dict(found.values())


def _size(state: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in state.values())


def write_shard_files(
    files: Mapping[Path, Mapping[str, Tensor]],
    values: Callable[[Tensor], Iterable[Tensor]],
    journal: Journal,
    stage: Stage,
) -> None:
    """Write tensors into files, but for those that are finished.

    Args:
        files: by path, the tensors of each, of which values need not be there.
        values: gives the values of one, in parts.

    Raises:
        SaveError: the disk is full, or nothing may be written there.
    """
    contents = {path: _content(tensors) for path, tensors in files.items()}
    left = {path: tensors for path, tensors in files.items() if not journal.finished(path, contents[path])}
    for path in files.keys() - left.keys():
        stage.advance(_size(files[path]))
    _check_space(left, journal)
    for path, tensors in left.items():
        journal.note(path, contents[path], write_file(path, tensors, values, journal, stage))


def _content(tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(header_text(tensors, list(tensors), {}, TENSOR_ALIGNMENT)).hexdigest()


def _check_space(files: Mapping[Path, Mapping[str, Tensor]], journal: Journal) -> None:
    """Raise a SaveError if the disk has no room for files."""
    needed = sum(map(_size, files.values()))
    there = sum(path.stat().st_size for path in files if path.is_file())
    free = shutil.disk_usage(journal.folder.parent).free + there
    if needed > free:
        raise SaveError(
            f"target: {needed:,} bytes are to be written to {journal.folder.parent}, and {free:,} are free",
            where=str(journal.folder.parent),
            found=f"{free:,} bytes that are free",
            needed=f"{needed:,} bytes",
            do="free some space, and call again; the same call goes on from the last file that is whole",
        )


def write_file(path: Path, tensors: Mapping[str, Tensor], values: Parts, journal: Journal, stage: Stage) -> FileSum:
    """Write a file, and wait until it is on disk.

    Raises:
        SaveError: the disk is full, or nothing may be written there. What there is of the file is deleted.
    """

    def read(name: str) -> Iterator[Tensor]:
        yield from values(tensors[name])
        stage.advance(tensors[name].nbytes)

    with journal.writing(path, _size(tensors)):
        try:
            with _HashedFile(path) as file:
                write_entries(file.write, tensors, read)
                found = file.finish()
            to_disk(path)
        except OSError:
            path.unlink(missing_ok=True)
            raise
    return found


class _HashedFile:
    """A file that one thread writes, and another works out the checksum of, while the next parts of it are made."""

    def __init__(self, path: Path) -> None:
        self._file = DirectFile(path)
        self._hash = hashlib.sha256()
        self._size = 0
        self._writer, self._hasher = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._pending: deque[Future[None]] = deque()

    def write(self, part: bytes | memoryview) -> None:
        self._wait(_WAITING)
        part = memoryview(part).cast("B")
        self._size += part.nbytes
        self._pending.append(self._writer.submit(self._file.write, part))
        self._pending.append(self._hasher.submit(self._hash.update, part))

    def _wait(self, most: int = 0) -> None:
        """Wait until no more than this many jobs are left."""
        while len(self._pending) > most:
            self._pending.popleft().result()

    def finish(self) -> FileSum:
        """Wait until all of it is written; what it is then."""
        self._wait()
        self._file.finish()
        return FileSum(self._size, self._hash.hexdigest())

    def __enter__(self) -> _HashedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.shutdown(cancel_futures=True)
        self._hasher.shutdown(cancel_futures=True)
        self._file.close()


_WAITING = 6
"""Jobs that wait at most, two for each part of a file: the parts are held in memory as long."""
