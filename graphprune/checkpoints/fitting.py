"""Repair of a slim model whose weights are a file, beside a dense model whose weights are files.

Both are mapped into memory (:mod:`graphprune.checkpoints.residence`): of the dense model only what its passes have just
used is there, and what is fitted goes to the file of the slim one. The passes of all batches wait at each weight until
it is fitted (:mod:`graphprune.reconstruction.lockstep`), so every weight is needed for a short time once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from graphprune.checkpoints.journal import Journal
from graphprune.checkpoints.progress import ShowProgress, Stage
from graphprune.checkpoints.residence import MappedFiles
from graphprune.checkpoints.slices import Slices, map_parameters, parameters_by_address
from graphprune.checkpoints.streamed_files import write_file
from graphprune.export.shards import write_tensors
from graphprune.planning.weights_given import with_weights
from graphprune.reconstruction.passes import Rollback
from graphprune.reconstruction.pipeline import repair_within
from graphprune.utils.files import temporary_folder
from graphprune.utils.folders import file_sum
from graphprune.utils.tensor_files import stored_tensors

_FITTED = "fitted.safetensors"


def fit_slices(
    slices: Slices,
    dense: nn.Module,
    calibration: Iterable[Any],
    journal: Journal,
    mapped: MappedFiles,
    limit: int | None,
    show: ShowProgress | None,
) -> None:
    """Give a slim model of placeholders its weights, repaired, in a file of the work folder.

    Args:
        slices: what the placeholders stand for; their model is given parameters that are mapped from the file.
        dense: on ``meta``.
        calibration: batches of inputs.
        journal: keeps the file in mind when all is fitted.
        mapped: maps files.
        limit: bytes that repair holds at most beside the weights; None: as much as it needs.
        show: is told how far it is.
    """
    path, parameters = journal.path(_FITTED), parameters_by_address(slices.slim)
    stored = {f"{number}": parameter for number, parameter in enumerate(parameters.values())}
    fitted = journal.finished(path, _FITTED)
    if not fitted:
        size = sum(parameter.nbytes for parameter in stored.values())
        write_file(path, stored, slices.values, journal, Stage("slices", size, show))
    places = stored_tensors(path)
    with journal.writing(path):
        weights = [mapped.map(places[name], shared=True) for name in stored]
    map_parameters(slices.slim, dict(zip(parameters, weights, strict=True)))
    if not fitted:
        rollback = Rollback(copy=_FileCopies(journal, mapped, Stage("repair", size, show)))
        whole = with_weights(dense, slices.tensors)
        repair_within(rollback, slices.slim, whole, slices.plan, calibration, limit=limit)
        journal.note(path, _FITTED, file_sum(path))


class _FileCopies:
    """Copies of tensors in files that have no names, so that they take no memory and go with the process."""

    def __init__(self, journal: Journal, mapped: MappedFiles, stage: Stage) -> None:
        self._journal = journal
        self._mapped = mapped
        self._stage = stage

    def __call__(self, tensor: Tensor) -> Tensor:
        work = self._journal.folder.parent
        with self._journal.writing(work, tensor.nbytes), temporary_folder(work) as folder:
            path = folder / "copy.safetensors"
            write_tensors(path, {"copy": tensor})
            copied = self._mapped.map(stored_tensors(path)["copy"])
        self._stage.advance(tensor.nbytes)
        return copied
