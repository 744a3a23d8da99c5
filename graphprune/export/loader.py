"""Write a slim network as a Python file and its weights, for where graphprune is not installed.

The file builds the original class without storage and gives it its slim sizes and weights. It needs torch, safetensors
and the library of that class.
"""

from __future__ import annotations

import importlib.util
import os
import zlib
from collections.abc import Callable, Iterator
from keyword import iskeyword
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.errors import ExportError, InputError
from graphprune.export.builders import built_with_storage, find_builder
from graphprune.export.loader_text import Builder, loader_text
from graphprune.export.lost_changes import lost_changes
from graphprune.export.own_modules import check_own_module
from graphprune.export.shards import check_types, write_tensors
from graphprune.export.slim_record import SlimRecord, slim_record
from graphprune.tracing.inputs import MethodCall, calls_of
from graphprune.tracing.run_state import runs_forgotten
from graphprune.tracing.tracer import call_failure
from graphprune.utils.checks import check_callable, found_value, shown, with_article
from graphprune.utils.compiled import uncompiled
from graphprune.utils.equality import same_values
from graphprune.utils.evaluation import evaluating
from graphprune.utils.files import check_path, make_folder, temporary_folder, writing
from graphprune.utils.global_state import leaves_torch_alone
from graphprune.utils.held import reachable
from graphprune.utils.model_checks import check_model
from graphprune.utils.random_state import random_numbers_of
from graphprune.utils.tree import dense_outputs

WEIGHTS_FILE = "{name}.safetensors"


@leaves_torch_alone
def export_loader(
    slim: nn.Module,
    directory: str | os.PathLike[str],
    *,
    factory: Callable[[], nn.Module] | None = None,
    example_inputs: Any = None,
    name: str = "slim_model",
) -> Path:
    """Write ``slim_model.py``, whose ``load()`` makes the slim network without graphprune, and its weights.

    What is written is loaded and compared before it takes its place: all sizes, tensors, modes and flags, and with
    ``example_inputs`` the outputs, bit by bit. Without, it must have no hooks, methods that were set and values of
    numpy that its class does not make.

    Args:
        slim: a network made smaller by graphprune, trained further or not, compiled or not; its classes must be
            importable.
        directory: created where missing. Files of an earlier call are replaced, others are not.
        factory: what makes the architecture: a class or function without arguments, or a ``functools.partial`` with
            plain ones, importable from a module. Its sizes need not be those before pruning, as long as it has the
            same modules. None: found, for models of timm, torchvision, with a ``config``, and of classes whose
            arguments are their attributes.
        example_inputs: as for :func:`graphprune.trace`.
        name: the name of the Python file and of the file of weights.

    Returns:
        The path of the Python file.

    Raises:
        ExportError: no architecture was found, or what is rebuilt from it is not the slim network; nothing is written.
        InputError: there is a Python file or one of weights of this name that graphprune did not write.
        SaveError: a tensor is of a type that safetensors does not have.
    """
    check_model(slim)
    slim = uncompiled(slim)
    folder = check_path("directory", directory)
    if not (isinstance(name, str) and name.isidentifier()) or iskeyword(name):
        raise InputError(
            f"name: must be the name of a Python module, but is {shown(name)}",
            found=found_value(name),
            needed="a name that Python can import",
            do="pass name='slim_model'",
        )
    if factory is not None:
        check_callable("factory", factory, "a function that makes the whole architecture", takes="")
    check_own_module(folder, f"{name}.py", WEIGHTS_FILE.format(name=name))
    created = not folder.exists()
    make_folder("directory", folder)
    with writing("directory", folder):
        try:
            with temporary_folder(folder, name) as temporary:
                _write_proven(slim, temporary, name, factory, example_inputs)
                for path in (temporary / WEIGHTS_FILE.format(name=name), temporary / f"{name}.py"):
                    os.replace(path, folder / path.name)
        finally:
            if created and not any(folder.iterdir()):
                folder.rmdir()
    return folder / f"{name}.py"


def _write_proven(
    slim: nn.Module, folder: Path, name: str, factory: Callable[[], nn.Module] | None, example_inputs: Any
) -> None:
    """Write both files such that what they make is the slim network.

    A class that keeps values where nothing can replace them, in functions, is built with storage.
    """
    builder, dense = find_builder(slim, factory)
    try:
        _write(slim, folder, name, builder, dense)
        _prove(slim, dense, folder / f"{name}.py", example_inputs)
    except ExportError as failure:
        if not builder.on_meta:
            raise
        builder, dense = built_with_storage(builder)
        try:
            _write(slim, folder, name, builder, dense)
            _prove(slim, dense, folder / f"{name}.py", example_inputs)
        except ExportError:
            raise failure from None


def _write(slim: nn.Module, folder: Path, name: str, builder: Builder, dense: nn.Module) -> None:
    record = slim_record(slim, dense)
    weights = WEIGHTS_FILE.format(name=name)
    text = loader_text(builder, record, _title(slim), weights, _memory_format(slim))
    stamp = f"{zlib.crc32(text.encode()):08x}"
    (folder / f"{name}.py").write_text(text.replace("STAMP", stamp), encoding="utf-8")
    tensors = dict(_tensors(slim, record))
    check_types(tensors)
    write_tensors(folder / weights, tensors, {"sizes": stamp})


def _title(slim: nn.Module) -> str:
    count = sum(p.numel() for p in slim.parameters())
    return f"A pruned {type(slim).__name__} of {count:,} parameters, written by graphprune."


def _tensors(slim: nn.Module, record: SlimRecord) -> Iterator[tuple[str, Tensor]]:
    """All tensors, tied ones once."""
    named = {**dict(slim.named_parameters()), **dict(slim.named_buffers()), **record.unsaved}
    for name, tensor in named.items():
        if name in record.tied:
            continue
        if type(tensor.detach()) is not Tensor or tensor.layout != torch.strided or tensor.device.type == "meta":
            raise ExportError(
                f"slim: {name} is {with_article(type(tensor).__name__)} ({tensor.layout}, on {tensor.device}), which "
                "safetensors "
                "cannot hold",
                where=name,
                found=f"{with_article(type(tensor).__name__)} of {tensor.layout} on {tensor.device}",
                needed="plain tensors with values",
                do="make it a plain tensor first, or use torch.save",
            )
        yield name, tensor


def _memory_format(slim: nn.Module) -> str:
    """The format that torch calls ``channels_last``, if a convolution has it; empty: the usual one."""
    formats = {4: "channels_last", 5: "channels_last_3d"}
    for parameter in slim.parameters():
        kind = formats.get(parameter.dim())
        if kind and not parameter.is_contiguous() and parameter.is_contiguous(memory_format=getattr(torch, kind)):
            return kind
    return ""


# ---------------------------------------------------------------- what was written is the model


def _prove(slim: nn.Module, dense: nn.Module, path: Path, example_inputs: Any) -> None:
    """Raise an ExportError unless the file makes a network that has everything of the slim one."""
    loaded = _loaded(path, str(next((p.device for p in slim.parameters()), "cpu")))
    wanted, found = (slim_record(model, dense) for model in (slim, loaded))
    for part, value in wanted.to_data().items():
        if found.to_data()[part] != value:
            raise ExportError(
                f"slim: the rebuilt network has other {part} than the slim one",
                where=part,
                found=str(found.to_data()[part])[:200],
                needed=str(value)[:200],
                do=_ADVICE,
            )
    expected, others = (dict(_states(model, record)) for model, record in ((slim, wanted), (loaded, found)))
    for name in expected.keys() | others.keys():
        if name not in expected or name not in others or not _same(expected[name], others[name]):
            raise ExportError(
                f"slim: the rebuilt network differs in {name}",
                where=name,
                found="another tensor, or none",
                needed="the tensor of the slim network",
                do=_ADVICE,
            )
    _check_reached(loaded)
    if example_inputs is None:
        _check_changes(slim, loaded)
        return
    for call in calls_of(example_inputs):
        _compare_outputs(slim, loaded, call)


_ADVICE = "give a function that makes the whole architecture as factory=, or use graphprune.save"


def _loaded(path: Path, device: str) -> nn.Module:
    spec = importlib.util.spec_from_file_location(f"_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loaded: nn.Module = module.load(device)
    return loaded


def _states(model: nn.Module, record: SlimRecord) -> Iterator[tuple[str, Tensor]]:
    """All tensors by name."""
    yield from record.unsaved.items()
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _same(one: Tensor, other: Tensor) -> bool:
    alike = one.dtype == other.dtype and one.requires_grad == other.requires_grad and type(one) is type(other)
    return alike and not other.is_meta and one.shape == other.shape and torch.equal(_bytes(one), _bytes(other))


def _bytes(tensor: Tensor) -> Tensor:
    """By bytes NaN is equal to itself."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _check_reached(loaded: nn.Module) -> None:
    """Raise an ExportError where functions or objects of the network hold tensors that were not loaded."""
    known = {id(p) for p in loaded.parameters()}
    for value in reachable([loaded]):
        stray = isinstance(value, nn.Parameter) and id(value) not in known
        if isinstance(value, Tensor) and (stray or value.is_meta):
            raise ExportError(
                f"slim: a function or object of the network holds a tensor {list(value.shape)} of its own, which the "
                "file cannot give it",
                where=type(loaded).__name__,
                found=f"a tensor {list(value.shape)} that is no parameter or buffer",
                needed="tensors that are parameters or buffers of modules",
                do=_ADVICE,
            )


def _check_changes(slim: nn.Module, loaded: nn.Module) -> None:
    """Raise an ExportError where the slim network has what may change its outputs, which are not compared."""
    lost = list(lost_changes(slim, loaded))
    if lost:
        raise ExportError(
            f"slim: the rebuilt network does not have {', '.join(lost[:4])}",
            where=lost[0].partition(" (")[0],
            found=f"{len(lost)} of what no file of the class gives back",
            needed="what the class makes, with parameters, buffers and plain settings",
            do="put it into the class or a buffer, or pass example_inputs= if outputs do not depend on it",
        )


def _compare_outputs(slim: nn.Module, loaded: nn.Module, call: MethodCall) -> None:
    results = []
    for model in (slim, loaded):
        with evaluating(model), runs_forgotten(model), random_numbers_of(0), torch.no_grad():
            try:
                results.append([t.detach() for t in dense_outputs(call.run_afresh(model))])
            except Exception as error:
                raise call_failure(model, call, error) from error
    if not all(map(same_values, *results)) or len(results[0]) != len(results[1]):
        raise ExportError(
            "example_inputs: the rebuilt network gives other outputs than the slim one",
            where="the outputs for example_inputs",
            found=f"{len(results[1])} tensors, of which some differ",
            needed=f"the {len(results[0])} tensors of the slim network, bit for bit",
            do=_ADVICE,
        )
