"""Run a written file beside the slim model: it imports torch alone, and computes the same."""

from __future__ import annotations

import ast
import sys
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from graphprune.errors import ExportError
from graphprune.export.source.collecting import OTHER_EXPORTS
from graphprune.export.source.names import is_importable
from graphprune.export.source.state import state_tensors
from graphprune.pruning.rewrite import slim_tensor
from graphprune.tracing.inputs import MethodCall
from graphprune.tracing.places import raised_at
from graphprune.utils.deepcopy import copy_module
from graphprune.utils.equality import same_values
from graphprune.utils.modules import all_tensors
from graphprune.utils.random_state import random_numbers_of
from graphprune.utils.tree import dense_outputs

_SEED = 0


def check_imports(text: str) -> None:
    """Raise an ExportError if a file imports anything but torch, safetensors and Python."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or "."] if not node.level else ["."]
        else:
            continue
        wrong = [m for m in modules if not is_importable(m) and m.partition(".")[0] != "safetensors"]
        if wrong:
            raise ExportError(
                f"slim: its source imports {wrong[0]}, which is not torch",
                where=f"line {node.lineno} of the file that was written for it",
                found=f"import {wrong[0]}",
                needed="torch, safetensors and Python's own modules",
                do=OTHER_EXPORTS,
            )


@contextmanager
def imported(path: Path) -> Iterator[ModuleType]:
    """The file as a module of a name that nobody else has."""
    module = ModuleType(f"slim_source_{uuid.uuid4().hex}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    try:
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), vars(module))
        yield module
    finally:
        del sys.modules[module.__name__]


def check_file(path: Path, slim: nn.Module, calls: Sequence[MethodCall]) -> None:
    """Raise an ExportError unless the network of a file is the slim model: tensors, and outputs for ``calls``."""
    check_imports(path.read_text(encoding="utf-8"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with imported(path) as module:
                written = module.load()
                _check_tensors(slim, written)
                _check_outputs(slim, written, calls)
        except ExportError:
            raise
        except Exception as error:
            raise ExportError(
                f"slim: the file that was written for it fails: {_shown(error)}",
                where=raised_at(error) or str(path),
                found=_shown(error),
                needed="a file that makes the slim model",
                do=f"report this with the model; meanwhile {OTHER_EXPORTS}",
            ) from error


def _shown(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def _check_tensors(slim: nn.Module, written: nn.Module) -> None:
    expected, found = _tensors(slim), _tensors(written)
    saved = {name for name, tensor in written.state_dict().items() if isinstance(tensor, Tensor)}
    if saved != set(state_tensors(slim)):
        raise ExportError(
            "slim: the file that was written for it saves other tensors",
            where=type(slim).__name__,
            found=f"{len(saved)} tensors in its state dict",
            needed=f"{len(set(state_tensors(slim)))}, as the slim model saves",
            do=f"report this with the model; meanwhile {OTHER_EXPORTS}",
        )
    wrong = sorted(expected.keys() ^ found.keys())
    wrong += [name for name, tensor in expected.items() if name in found and not _same_tensor(tensor, found[name])]
    if wrong:
        raise ExportError(
            f"slim: {wrong[0]} is another one in the file that was written for it",
            where=wrong[0],
            found="another tensor, or none",
            needed="the tensor of the slim model",
            do=f"report this with the model; meanwhile {OTHER_EXPORTS}",
        )


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under all their names."""
    found = dict(model.named_parameters(remove_duplicate=False))
    return {**found, **dict(model.named_buffers(remove_duplicate=False))}


def _same_tensor(a: Tensor, b: Tensor) -> bool:
    return a.requires_grad == b.requires_grad and a.dtype == b.dtype and _equal(a.detach().cpu(), b.detach().cpu())


def _check_outputs(slim: nn.Module, written: nn.Module, calls: Sequence[MethodCall]) -> None:
    tensors = {id(t): slim_tensor(t, {}) for t in all_tensors(slim)}
    original = copy_module(slim, tensors)
    device = next((t.device for t in all_tensors(slim)), torch.device("cpu"))
    written.to(device)
    for train in (False, True):
        for call in calls:
            try:
                expected = _run(original.train(train), call)
            except Exception as error:
                if train:  # as batch norm does with one value per channel: there is nothing to compare
                    continue
                raise ExportError(
                    f"example_inputs: the slim model fails on {call} in evaluation mode",
                    where=raised_at(error),
                    found=f"{type(error).__name__}: {error}",
                    needed="inputs with which the slim model runs",
                    do="pass example_inputs= as the model was traced with",
                ) from error
            found = _run(written.train(train), call)
            if len(found) != len(expected) or not all(map(_close, expected, found)):
                mode = "training" if train else "evaluation"
                raise ExportError(
                    f"slim: the file that was written for it computes something else in {mode}",
                    where=f"the outputs in {mode}",
                    found="other outputs",
                    needed="those of the slim model",
                    do=OTHER_EXPORTS,
                )


def _run(model: nn.Module, call: MethodCall) -> list[Tensor]:
    with random_numbers_of(_SEED), torch.no_grad():
        return list(dense_outputs(call.mapped(Tensor.clone).run(model)))


def _close(a: Tensor, b: Tensor) -> bool:
    if a.device.type == "cpu" or not a.is_floating_point():
        return _equal(a, b)
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return same_values(a, b)
