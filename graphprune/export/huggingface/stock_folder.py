"""A slim model as a checkpoint that Transformers loads as any other, where its configuration can say what it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from graphprune.errors import ExportError, InputError
from graphprune.export.huggingface.auto_map import Replace, write_auto_map
from graphprune.export.huggingface.fewer_layers import with_fewer_layers
from graphprune.export.huggingface.generated_module import is_generated
from graphprune.export.huggingface.processing_files import Processing, write_processing
from graphprune.export.huggingface.weight_files import MAX_SHARD_SIZE, TransformersFiles, WeightFiles
from graphprune.pruning.plan import plans_of
from graphprune.tracing.configured import (
    ATTRIBUTE,
    Refused,
    build_on_meta,
    changed_config,
    columns,
    config_of,
)
from graphprune.tracing.inputs import calls_of
from graphprune.utils.byte_sizes import read_size
from graphprune.utils.checks import check_flag, with_article
from graphprune.utils.compiled import uncompiled
from graphprune.utils.equality import same_values
from graphprune.utils.files import check_path
from graphprune.utils.folders import replace_folder
from graphprune.utils.global_state import leaves_torch_alone


@leaves_torch_alone
def save_pretrained(
    slim: nn.Module,
    directory: str | os.PathLike[str],
    *,
    processing: Processing = None,
    max_shard_size: int | str = MAX_SHARD_SIZE,
    remote_code: bool = True,
    read_back: bool = True,
    example_inputs: Any = None,
) -> None:
    """Write a folder that Transformers' ``from_pretrained`` loads, where graphprune is not installed.

    Where the configuration can describe the model, as after plans with ``layers="equal"``, this is an ordinary
    checkpoint. Otherwise the folder has a Python file, and loads with ``trust_remote_code=True`` (see
    :func:`graphprune.export.huggingface.auto_map.write_auto_map`).

    Args:
        slim: a model of Transformers that was pruned, trained further or not, compiled or not.
        directory: created where missing; if it exists, it must be empty or hold what graphprune wrote. It is replaced
            whole.
        processing: the tokenizer or processor that belongs to the model, or a folder with their files; None: those of
            the folder or the repository in the local cache that the model was loaded from, if it was.
        max_shard_size: bytes of a file of weights at most, or ``"5GB"``.
        remote_code: False: write nothing that needs ``trust_remote_code=True``.
        read_back: load a checkpoint before it takes its place, and compare all weights and buffers, which takes the
            memory of another model. The other kind of folder always is.
        example_inputs: what the outputs of that other kind are compared on, as for :func:`graphprune.trace`; found by
            guessing if left out.

    Raises:
        ExportError: the folder would load as another model, or would need ``trust_remote_code=True`` and must not; the
            message says why.
        InputError: the model is not one of Transformers, the directory holds something else, or ``example_inputs`` are
            none.
        TraceError: the model fails on ``example_inputs``, where they are needed.
    """
    for name, flag in (("remote_code", remote_code), ("read_back", read_back)):
        check_flag(name, flag)
    if example_inputs is not None:
        calls_of(example_inputs)  # one kind of folder needs none
    slim = uncompiled(slim)
    if config_of(slim) is None or not hasattr(slim, "save_pretrained"):
        raise InputError(
            f"slim: {with_article(type(slim).__name__)} is no model of Transformers, which its class builds from "
            "model.config",
            found=f"{with_article(type(slim).__name__)}",
            needed="a model of Transformers",
            do="pass that model itself, or write this one with graphprune.save",
        )
    folder, most = check_path("directory", directory), read_size("max_shard_size", max_shard_size)
    source = processing if processing is not None else _source(slim)
    files = TransformersFiles(most)
    write_pretrained(
        slim, folder, source, files, remote_code=remote_code, read_back=read_back, example_inputs=example_inputs
    )


def write_pretrained(
    slim: nn.Module,
    folder: Path,
    processing: Processing,
    files: WeightFiles,
    *,
    remote_code: bool,
    read_back: bool,
    replace: Replace = replace_folder,
    example_inputs: Any = None,
) -> None:
    """See :func:`save_pretrained`.

    Args:
        files: how weights are written, and how the folder is loaded.
        replace: lets a function fill a new folder, and puts that in the place of ``folder``.
    """
    try:
        _write_stock(slim, folder, processing, files, read_back, replace)
    except ExportError as error:
        if not remote_code:
            raise ExportError(
                error.what,
                where=error.place,
                found=error.found,
                needed=error.needed,
                do="plan with layers='equal', leave remote_code=False out, or use graphprune.save",
            ) from error
        write_auto_map(slim, folder, processing=processing, files=files, replace=replace, example_inputs=example_inputs)


def _write_stock(
    slim: nn.Module, folder: Path, processing: Processing, files: WeightFiles, read_back: bool, replace: Replace
) -> None:
    """Write a checkpoint as any other.

    Raises:
        ExportError: the configuration cannot say what the model is.
    """
    if is_generated(type(slim)):
        raise ExportError(
            f"slim: {type(slim).__name__} is no class of Transformers",
            where=type(slim).__name__,
            found="a class that an earlier export made",
            needed="a class of Transformers",
            do="leave remote_code=False out",
        )
    model = with_fewer_layers(slim)
    difference = stock_difference(model)
    if difference is not None:
        raise ExportError(
            f"slim: its configuration cannot say what this {type(model).__name__} is: {difference}",
            where=f"config of {type(model).__name__}",
            found=difference,
            needed="sizes that the class builds from its configuration",
            do="plan with layers='equal'",
        )

    def write(temporary: Path) -> None:
        _write_weights(model, temporary, files, read_back)
        write_processing(processing, temporary)

    replace(folder, write)


def stock_difference(slim: nn.Module) -> str | None:
    """What is different in the model that the class builds from the configuration; None: nothing."""
    try:
        built = build_on_meta(slim, changed_config(config_of(slim), {}))
    except Refused as error:
        return str(error)
    plans = plans_of(slim)
    attributes = {path for plan in plans for path in (*plan.sizes, *plan.unread)}
    mine, other = (columns(model, sorted(attributes)) for model in (slim, built))
    for column in (*mine, *other):
        both = mine.get(column), other.get(column)
        if both[0] != both[1] and (column[1] != ATTRIBUTE or None not in both):
            return _shown(column[0], column[1], both)
    return None


def _shown(name: str, dim: int, values: tuple[float | None, float | None]) -> str:
    what = name if dim == ATTRIBUTE else f"dimension {dim} of {name}"
    mine, built = ("missing" if value is None else f"{value:g}" for value in values)
    return f"{what} is {mine}, and {built} in what the class builds from it"


def _write_weights(slim: Any, folder: Path, files: WeightFiles, read_back: bool) -> None:
    """Write a model, and read it."""
    files.write(slim, folder)
    if not read_back:
        return
    differing = list(_differing(slim, files.read(type(slim), folder, slim.dtype)))
    if differing:
        raise ExportError(
            f"slim: {differing[0]} has other values when the checkpoint is loaded ({len(differing)} such tensors)",
            where=differing[0],
            found="other values in the model that was loaded",
            needed="the values of the slim model",
            do="save it with graphprune.save instead",
        )


def _differing(slim: nn.Module, loaded: nn.Module) -> Iterator[str]:
    """The names of parameters and buffers that are not the same."""
    mine, other = _tensors(slim), _tensors(loaded)
    for name in mine.keys() | other.keys():
        one, two = mine.get(name), other.get(name)
        if one is None or two is None or one.shape != two.shape or not same_values(one.to(two.device, two.dtype), two):
            yield name


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_buffers(remove_duplicate=False)), **model.state_dict()}


def _source(slim: Any) -> Path | None:
    """The local folder that a model was loaded from; None: it is not known, or not there any more."""
    name = getattr(slim.config, "_name_or_path", "")
    if not name:
        return None
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None
