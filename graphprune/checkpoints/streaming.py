"""Prune a checkpoint of Transformers from folder to folder, tensor by tensor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from typing_extensions import Unpack

from graphprune.api import trace
from graphprune.calibration.batches import Batches, InputsOnly
from graphprune.checkpoints.fitting import fit_slices
from graphprune.checkpoints.journal import Journal
from graphprune.checkpoints.progress import ShowProgress, Stage
from graphprune.checkpoints.request import request_of
from graphprune.checkpoints.residence import MappedFiles
from graphprune.checkpoints.slices import Slices
from graphprune.checkpoints.source import SourceCheckpoint, SourceTensors
from graphprune.checkpoints.streamed_files import StreamedFiles
from graphprune.checkpoints.token_batches import token_batches
from graphprune.errors import InputError
from graphprune.export.huggingface.stock_folder import write_pretrained
from graphprune.export.huggingface.weight_files import MAX_SHARD_SIZE
from graphprune.planning.keyword_arguments import PlanArguments, takes_options
from graphprune.planning.options import OPTION_NAMES, PruningOptions
from graphprune.pruning.plan import Plan
from graphprune.reconstruction.memory_bound import MemorySpec, check_repaired, parse_memory
from graphprune.utils.byte_sizes import read_size
from graphprune.utils.checks import check_callable, check_flag
from graphprune.utils.files import check_path
from graphprune.utils.global_state import leaves_torch_alone
from graphprune.utils.tensor_files import StoredTensor

MAPPED = "1GB"
"""How much of mapped files stays in memory where nothing else is asked."""


@leaves_torch_alone
@takes_options
def prune_checkpoint(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    ratio: float | None = None,
    *,
    example_inputs: Any = None,
    repair: bool = True,
    max_shard_size: int | str = MAX_SHARD_SIZE,
    remote_code: bool = True,
    resume: bool = True,
    memory: MemorySpec | None = None,
    mapped: int | str = MAPPED,
    progress: ShowProgress | None = None,
    **options: Unpack[PlanArguments],
) -> Plan:
    """Prune a checkpoint of Transformers that need not fit into memory.

    The model is traced without weights. Scores are worked out, and slices written, tensor by tensor from the files of
    ``source``, which takes the memory of the largest tensor a few times. With ``calibration``, the slices are repaired
    in a file, weight after weight, in the order in which a forward pass uses them; that takes the memory of what passes
    on the batches keep at a time, and of the second moments of one weight's inputs.

    ``target`` is what :func:`graphprune.save_pretrained` writes of the same slim model. It appears when it is complete.
    Until then, finished parts are in a folder beside it, ``.<name of the target>.pruning``; after an interruption the
    same call continues from there.

    Args:
        source: a folder with ``config.json`` and safetensors files, as Transformers writes it.
        target: a new folder.
        ratio: as for :func:`graphprune.prune_model`.
        example_inputs: as for :func:`graphprune.prune_model`.
        repair: with ``calibration``, repair the slices; False: calibration is for criteria alone.
        max_shard_size: the largest size of a file of weights, in bytes or such as ``"5GB"``.
        remote_code: False: write nothing that needs ``trust_remote_code=True``.
        resume: continue what an earlier call left; False: start again.
        memory: a bound on what repair holds beside the weights, as for :func:`graphprune.repair`.
        mapped: on Linux, the most bytes of mapped files that stay in memory, such as ``"1GB"``.
        progress: a function that is called with a :class:`graphprune.Progress` after every tensor.
        options: the fields of :class:`graphprune.PruningOptions`, by name. ``calibration`` may be the path of a file
            with a text (a JSON string, or an object with ``"text"``) in each line, for the tokenizer in ``source``.

    Returns:
        The plan.

    Raises:
        InputError: an argument is not what is needed, the target exists, or an earlier call was asked something else.
        LoadError: files are missing or damaged, or have other tensors than the model of ``config.json``.
        ExportError: the folder cannot be written; the message says why.
        SaveError: the disk is full, or nothing may be written there. What is finished stays for another call.
        TraceError, PlanError: as for :func:`graphprune.prune_model`.
    """
    for name, flag in (("repair", repair), ("remote_code", remote_code), ("resume", resume)):
        check_flag(name, flag)
    if progress is not None:
        check_callable("progress", progress, "a function (progress)", takes="progress")
    most = read_size("max_shard_size", max_shard_size)
    limit = parse_memory(memory)
    check_repaired(memory, repair and options.get("calibration") is not None)
    folder, place = _folders(source, target)
    asked = _asked(ratio, options, folder)
    checkpoint = SourceCheckpoint.of(folder)
    others = {
        "example_inputs": example_inputs,
        "repair": repair,
        "memory": limit,
        "max_shard_size": max_shard_size,
        "remote_code": remote_code,
    }
    with (
        Journal(place, request_of(checkpoint, asked, others), resume) as journal,
        MappedFiles(read_size("mapped", mapped)) as files,
    ):
        dense, stored = checkpoint.build()
        plan = journal.plan(lambda: _plan(dense, stored, files, example_inputs, asked, progress))
        if journal.complete:
            journal.close()
            return plan
        slices = Slices(plan.apply(dense), plan, SourceTensors(stored, files.map))
        if asked.calibration is not None and repair:
            inputs = asked.calibration if asked.loss_fn is None else InputsOnly(asked.calibration)
            fit_slices(slices, dense, inputs, journal, files, limit, progress)
        written = StreamedFiles(slices, journal, files, most, progress)
        write_pretrained(
            slices.slim,
            place,
            folder,
            written,
            remote_code=remote_code,
            read_back=False,
            replace=journal.replace,
            example_inputs=example_inputs,
        )
        return plan


def _plan(
    dense: nn.Module,
    stored: Mapping[str, StoredTensor],
    files: MappedFiles,
    example_inputs: Any,
    asked: PruningOptions,
    show: ShowProgress | None,
) -> Plan:
    """The plan for a model on ``meta``, with scores of tensors in files."""
    stage = Stage("scores", sum(one.nbytes for one in stored.values()), show)

    def read(one: StoredTensor) -> Tensor:
        stage.advance(one.nbytes)
        return files.map(one)

    options: Any = {name: getattr(asked, name) for name in OPTION_NAMES}
    return trace(dense, example_inputs).plan(asked.ratio, **options | {"weights": SourceTensors(stored, read)})


def _folders(source: Any, target: Any) -> tuple[Path, Path]:
    """The folders that are given.

    Raises:
        InputError: one of them is no path, the source is no folder, or one is in the other.
    """
    folder, place = check_path("source", source), check_path("target", target)
    if not folder.is_dir():
        raise InputError(
            f"source: {folder} is no folder",
            where=str(folder),
            found="a file" if folder.exists() else "nothing at this path",
            needed="a folder that save_pretrained of Transformers wrote",
            do="pass such a folder",
        )
    inner, outer = place.resolve(), folder.resolve()
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise InputError(
            f"target: {place} is the source, or one is in the other",
            where=str(place),
            found=f"the source {folder} and the target {place}",
            needed="two folders, neither in the other",
            do="give a folder elsewhere",
        )
    return folder, place


def _asked(ratio: float | None, options: PlanArguments, source: Path) -> PruningOptions:
    """What is asked for.

    Raises:
        InputError: it cannot be, or weights are given.
    """
    asked = PruningOptions.of(ratio, _with_batches(options, source))
    if asked.weights is not None:
        raise InputError(
            "weights: are those in source",
            found="weights= and source",
            needed="source alone",
            do="leave weights= out",
        )
    return asked


def _with_batches(options: PlanArguments, source: Path) -> PlanArguments:
    """Options with calibration batches, of a file if that is given, that can be iterated several times."""
    calibration: Any = options.get("calibration")
    if calibration is None:
        return options
    if isinstance(calibration, str | os.PathLike):
        calibration = token_batches(check_path("calibration", calibration), source)
    Batches(calibration)
    return {**options, "calibration": calibration}
