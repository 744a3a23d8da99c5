"""Write a slim model as Python source and weights, for where there is torch and nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from graphprune.errors import ExportError
from graphprune.export.own_modules import check_own_module
from graphprune.export.source.layout import SOURCE_WEIGHTS, file_text, laid_out
from graphprune.export.source.program import Program
from graphprune.export.source.proof import check_file
from graphprune.export.source.state import state_tensors, unsaved_tensors
from graphprune.tracing.example_inputs.guess import example_inputs_for
from graphprune.tracing.inputs import calls_of
from graphprune.utils.compiled import uncompiled
from graphprune.utils.evaluation import eagerly
from graphprune.utils.files import check_no_file, check_path, make_folder, temporary_folder, writing, writing_tensors
from graphprune.utils.global_state import leaves_torch_alone
from graphprune.utils.model_checks import check_model
from graphprune.utils.random_state import random_numbers_kept

SOURCE = "model.py"


@leaves_torch_alone
def export_source(slim: nn.Module, directory: str | os.PathLike[str], example_inputs: Any = None) -> Path:
    """Write ``model.py``, which defines the network and imports torch alone, and ``model.safetensors``.

    The file has the classes of the model with the author's methods, and constructors that build the sizes that are
    left. ``from model import load`` and ``load()`` give the network with its weights. Before the files are put in
    place the network is built from them, and its outputs are compared with those of ``slim``, bit for bit, in
    evaluation and in training mode.

    Args:
        slim: a model of modules of torch and of classes whose source is there.
        directory: created where missing. Files of an earlier call are replaced, others are not.
        example_inputs: what to compare on, as for :func:`graphprune.trace`; found by guessing if left out.

    Returns:
        The path of ``model.py``.

    Raises:
        ExportError: the model holds what cannot be written with torch alone; the message says what and where. Nothing
            is written.
        InputError: the model does not run on the example inputs, or none can be guessed; or there is a ``model.py`` or
            ``model.safetensors`` that graphprune did not write.
    """
    check_model(slim, "slim")
    folder = check_path("directory", directory)
    check_no_file("directory", folder)
    check_own_module(folder, SOURCE, SOURCE_WEIGHTS)
    slim = uncompiled(slim)
    _check_weights(slim)
    with eagerly(), random_numbers_kept():
        calls = calls_of(example_inputs_for(slim) if example_inputs is None else example_inputs)
        program = Program(slim, {call.method for call in calls})
        text = laid_out(file_text(program))
        tensors = _saved_tensors(program)
        make_folder("directory", folder.parent)
        with writing("directory", folder), temporary_folder(folder.parent, folder.name) as temporary:
            (temporary / SOURCE).write_text(text, encoding="utf-8")
            with writing_tensors(folder / SOURCE_WEIGHTS):
                save_file(tensors, temporary / SOURCE_WEIGHTS, metadata={"format": "pt"})
            check_file(temporary / SOURCE, slim, calls)
            folder.mkdir(exist_ok=True)
            for file in (SOURCE_WEIGHTS, SOURCE):
                os.replace(temporary / file, folder / file)
    return folder / SOURCE


def _check_weights(slim: nn.Module) -> None:
    for name, tensor in (*slim.named_parameters(), *slim.named_buffers()):
        if tensor.device.type == "meta":
            raise ExportError(
                f"slim: {name} is on the meta device and has no values",
                where=name,
                found="a tensor on meta, without values",
                needed="a model with weights",
                do="apply the plan to the real model",
            )


def _saved_tensors(program: Program) -> dict[str, Tensor]:
    """What the safetensors file holds: every tensor once."""
    found: dict[str, Tensor] = {}
    for name, tensor in {**state_tensors(program.model), **unsaved_tensors(program)}.items():
        if program.paths[id(tensor)] == name:
            found[name] = tensor.detach().cpu().clone().contiguous()
    return found
