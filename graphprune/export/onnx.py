"""Write a slim model to an ONNX file, for ONNX Runtime and what else reads this format."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.errors import InputError, MissingPackageError, VerificationError
from graphprune.export.dynamic_axes import BATCH_AXIS, DynamicDims, DynamicExample, with_dynamic_axes
from graphprune.pruning.comparison import difference
from graphprune.tracing.inputs import MethodCall, calls_of, describe
from graphprune.tracing.places import raised_at
from graphprune.tracing.run_state import evaluating_unchanged
from graphprune.tracing.tracer import call_failure
from graphprune.utils.checks import check_callable, check_count, check_flag, check_type
from graphprune.utils.files import check_file_path, check_own_file, make_folder, temporary_folder, writing
from graphprune.utils.global_state import leaves_torch_alone
from graphprune.utils.model_tensors import require_values
from graphprune.utils.modules import named_tensors
from graphprune.utils.tables import Printed

Axes = tuple[int | str, ...]
"""A shape: sizes, and names of open ones."""


_LARGE = 1_800_000_000  # bytes; a protobuf file cannot hold 2 GB


_WRITTEN_BY = "Written by graphprune.export_onnx"
"""The description in a file, which stands before the graph."""


_BATCHES = (1, 3)


_TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-3, torch.float16: 5e-2}
"""By the type of the parameters, how far outputs may be from the model's, relative to the largest value."""


@dataclass(frozen=True, repr=False)
class OnnxFile(Printed):
    """An ONNX file that was written.

    Attributes:
        path: the file.
        data: the file with the weights beside it; None: they are in the file.
        inputs, outputs: shapes by name; open axes have names.
        difference: the largest difference of ONNX Runtime's outputs from the model's, for the batch of the example
            and for batches of 1 and 3 where the batch size is open and the model takes them, relative to the largest
            value; None: not compared.
        size: bytes of both files.
        notes: what was not compared, and why.
    """

    path: Path
    data: Path | None
    inputs: Mapping[str, Axes]
    outputs: Mapping[str, Axes]
    difference: float | None
    size: int
    notes: tuple[str, ...]

    def _summary(self) -> str:
        return f"OnnxFile: {next(self._parts())}"

    def _parts(self) -> Iterator[str]:
        compared = "" if self.difference is None else f", outputs differ by {self.difference:.1g} in ONNX Runtime"
        yield f"{self.path}: {self.size / 1e6:.1f} MB{compared}"
        yield from (f"{what}: {_shapes(shapes)}" for what, shapes in (("in", self.inputs), ("out", self.outputs)))
        if self.data:
            yield f"weights: {self.data}"
        yield from (f"note: {note}" for note in self.notes)


def _shapes(shapes: Mapping[str, Axes]) -> str:
    return ", ".join(f"{name}[{', '.join(map(str, axes))}]" for name, axes in shapes.items())


@leaves_torch_alone
def export_onnx(
    slim: nn.Module,
    path: str | os.PathLike[str],
    example_inputs: Any,
    *,
    dynamic: DynamicDims | None = None,
    outputs: Callable[[Any], Any] | None = None,
    external_data: bool | None = None,
    opset: int | None = None,
    check: bool = True,
) -> OnnxFile:
    """Write a model in evaluation mode as an ONNX file, by ``torch.onnx.export(dynamo=True)``.

    Inputs have the names of the arguments, outputs those of the result where it is a dict. What is no tensor among the
    arguments is a constant of the file; what is no tensor in the result (a cache) is left out. The file is run in ONNX
    Runtime, where that is installed, and compared with the model before it takes the place of an older one.

    Args:
        slim: any model that ``torch.export`` can export.
        path: the file. One that this function wrote before is replaced, whole or not at all, another is not; its
            folder is created where missing.
        example_inputs: a tensor, a tuple of arguments, a dict of keyword arguments, or a
            :class:`graphprune.MethodCall`.
        dynamic: the dimensions whose sizes stay open: ``(0,)`` of all inputs, or by name, as in
            ``{"input_ids": (0, 1)}``; ``()`` none. None: the batch (dimension 0 of all inputs that have the batch size
            of the first), and the length of token ids and masks (integers of shape [batch, tokens]).
        outputs: picks from the result what the file returns; None: all tensors.
        external_data: weights stand in a second file, ``NAME.xxxxxxxx.data``, as those above 2 GB must; None: where
            they must.
        opset: version of the operators; None: what torch takes.
        check: compare with ONNX Runtime.

    Raises:
        InputError: the model cannot be exported with these dimensions open; the message says what torch found. Or there
            is a file that this function did not write.
        VerificationError: ONNX Runtime computes something else from the file.
        ImportError: the packages ``onnx`` and ``onnxscript`` are missing.
    """
    check_type("slim", slim, nn.Module, "an nn.Module")
    check_flag("check", check)
    if external_data is not None:
        check_flag("external_data", external_data)
    if outputs is not None:
        check_callable("outputs", outputs, "a function that picks tensors from the output", takes="output")
    if opset is not None:
        check_count("opset", opset, 1, "a version of ONNX's operators")
    require_values("slim", named_tensors(slim), "write")
    file = check_file_path("path", path, "model.onnx")
    check_own_file("path", file, _WRITTEN_BY, "ONNX file")
    _check_packages()
    call = _single_call(example_inputs)
    example = with_dynamic_axes(_input_tensors(slim, call), dynamic)
    program = _TensorProgram(slim, call, outputs)
    with evaluating_unchanged(slim), torch.no_grad():
        model = _converted(program, example, opset)
        return _write(file, model, program, example, _is_external(model, external_data), check)


def _check_packages() -> None:
    """Raise a MissingPackageError unless the packages with which torch writes such files are there."""
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript")):
        raise MissingPackageError(
            "export_onnx needs the packages onnx and onnxscript",
            found="one of them is missing",
            needed="onnx 1.17 and onnxscript 0.5, or later",
            do="pip install 'graphprune[onnx]'",
        )


def _single_call(example_inputs: Any) -> MethodCall:
    calls = calls_of(example_inputs)
    if len(calls) != 1:
        raise InputError(
            f"example_inputs: holds {len(calls)} examples, and a file is of one",
            found=f"{len(calls)} examples",
            needed="one example",
            do="call export_onnx for each",
        )
    if not calls[0].tensors:
        raise InputError(
            "example_inputs: holds no tensor, so that the file would have no input",
            found=describe((*calls[0].args, *calls[0].kwargs.values())) or "no argument",
            needed="one tensor at least",
            do="pass the tensors that forward takes",
        )
    return calls[0]


def _input_tensors(model: nn.Module, call: MethodCall) -> dict[str, Tensor]:
    """The tensors of a call, by the names of the arguments that hold them.

    Raises:
        InputError: some are in objects that cannot be made anew with other tensors.
    """
    parameters = inspect.signature(getattr(model, call.method)).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    names += [f"input_{i}" for i in range(len(names), len(call.args))]
    arguments = (*zip(names, call.args, strict=False), *call.kwargs.items())
    found = [entry for name, value in arguments for entry in _placed_tensors(value, name)]
    replaced: list[Tensor] = []

    def replace(tensor: Tensor) -> Tensor:
        replaced.append(tensor)
        return tensor

    call.mapped(replace)
    if [id(x) for _, x in found] != [id(x) for x in replaced] or len(dict(found)) != len(found):
        raise InputError(
            f"example_inputs: cannot tell the inputs of the file from {describe(call.args)} {describe(call.kwargs)}",
            found=f"{describe(call.args)} {describe(call.kwargs)}",
            needed="tensors, or tuples, lists and dicts of them",
            do="pass the tensors themselves",
        )
    return dict(found)


def _placed_tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested tuples, lists, mappings and dataclasses, by their places (``hidden_states_0``)."""
    if isinstance(value, Tensor):
        yield name or "output", value
        return
    if isinstance(value, Mapping):
        parts = [(f"{name}_{key}" if name else str(key), part) for key, part in value.items()]
    elif isinstance(value, tuple | list):
        parts = [(f"{name or 'output'}_{i}", part) for i, part in enumerate(value)]
    elif is_dataclass(value) and not isinstance(value, type):
        parts = [(f"{name}_{f.name}" if name else f.name, getattr(value, f.name)) for f in fields(value)]
    else:
        return
    for place, part in parts:
        yield from _placed_tensors(part, place)


class _TensorProgram(nn.Module):
    """A model as a function of tensors, to a tuple of tensors."""

    def __init__(self, model: nn.Module, call: MethodCall, outputs: Callable[[Any], Any] | None) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self.call = call
        self.outputs = outputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.named(*tensors).values())

    def named(self, *tensors: Tensor) -> dict[str, Tensor]:
        """Outputs by name."""
        given = iter(tensors)
        result = self.call.mapped(lambda _: next(given)).run(self.model)
        return dict(_placed_tensors(result if self.outputs is None else self.outputs(result)))


def _converted(program: _TensorProgram, example: DynamicExample, opset: int | None) -> Any:
    """The ``onnx_ir.Model`` of a program."""
    tensors, names = tuple(t.detach().clone() for t in example.tensors.values()), _output_names(program, example)
    shapes = tuple(dict.fromkeys(example.axes.get(name, {}), torch.export.Dim.DYNAMIC) for name in example.tensors)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about its own inner ways
            exported = torch.export.export(program, tensors, dynamic_shapes={"tensors": shapes}, strict=False)
            converted = torch.onnx.export(
                exported,
                dynamo=True,
                input_names=list(example.tensors),
                output_names=names,
                opset_version=opset,
                verbose=False,
            )
    except Exception as error:
        raise _cannot_export(program, example, error) from error
    assert converted is not None
    _check_opset(converted.model, opset)
    _name_axes(converted, example)
    converted.model.doc_string = _WRITTEN_BY
    return converted.model


def _cannot_export(program: _TensorProgram, example: DynamicExample, error: Exception) -> InputError:
    """What a user is told where torch cannot follow a forward: it reads values, or asks for sizes that are open."""
    kind = type(program.model).__name__
    where, found = raised_at(error) or kind, _first_lines(error)
    if "data-dependent" in str(error):
        return InputError(
            f"slim: torch cannot export this {kind} to ONNX: what it does next depends on the values of a tensor",
            where=where,
            found=found,
            needed="a forward that does the same whatever the values of its inputs",
            do="replace the branch or loop by torch.where or a mask, or keep it outside of the model",
        )
    opened = ", ".join(f"{name}: {tuple(axes)}" for name, axes in example.axes.items()) or "none"
    return InputError(
        f"slim: torch cannot export this {kind} to ONNX with these dimensions open: {opened}",
        where=where,
        found=found,
        needed="a forward that torch.export can follow with these dimensions open",
        do="if a size has to stay as it is in the example, leave its dimension out of dynamic=",
    )


def _output_names(program: _TensorProgram, example: DynamicExample) -> list[str]:
    """The names of the outputs, none of which is that of an input.

    Raises:
        InputError: the model fails on the example, or has no output.
    """
    try:
        names = list(program.named(*example.tensors.values()))
    except Exception as error:
        raise call_failure(program.model, program.call, error) from error
    if not names:
        raise InputError(
            "slim: returns no tensor (or outputs= picks none), so that the file would have no output",
            where=f"the output of {type(program.model).__name__}",
            found="no tensor",
            needed="one tensor at least",
            do="pass outputs=, a function that picks tensors from the output",
        )
    return [f"{name}_out" if name in example.tensors else name for name in names]


def _check_opset(model: Any, asked: int | None) -> None:
    """Raise an InputError if torch could not write the operators of a version, which it only warns of."""
    found = model.opset_imports.get("")
    if asked is not None and found != asked:
        raise InputError(
            f"opset: torch wrote version {found} of the operators, and not {asked}",
            found=f"opset {found}",
            needed=f"opset {asked}",
            do=f"pass opset={found}, or leave it out",
        )


def _first_lines(error: Exception) -> str:
    cause = error.__cause__ or error
    return " ".join(str(cause).strip().split("\n")[:4])[:600]


def _name_axes(converted: Any, example: DynamicExample) -> None:
    """Call open axes by their names instead of by torch's symbols."""
    names = {
        str(value.shape[dim].value): name
        for value in converted.model.graph.inputs
        for dim, name in example.axes.get(value.name, {}).items()
        if not isinstance(value.shape[dim], int)
    }
    converted.rename_axes(names)


def _is_external(model: Any, wanted: bool | None) -> bool:
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    return size > _LARGE if wanted is None else wanted


def _write(
    path: Path, model: Any, program: _TensorProgram, example: DynamicExample, external: bool, check: bool
) -> OnnxFile:
    """Write beside the file, compare, and only then move into place."""
    import onnx_ir

    make_folder("path", path.parent)
    data = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.data") if external else None
    with writing("path", path), temporary_folder(path.parent, path.name) as folder:
        onnx_ir.save(model, folder / path.name, external_data=data.name if data else None)
        apart, note = _comparison(folder / path.name, program, example, check)
        size = sum(file.stat().st_size for file in folder.iterdir())
        if data:
            os.replace(folder / data.name, data)
        os.replace(folder / path.name, path)
    for old in path.parent.iterdir():
        if re.fullmatch(re.escape(path.name) + r"\.[0-9a-f]{8}\.data", old.name) and old != data:
            old.unlink()
    inputs, outputs = (
        {value.name: _axes(value) for value in values} for values in (model.graph.inputs, model.graph.outputs)
    )
    return OnnxFile(path, data, inputs, outputs, apart, size, (note,) if note else ())


def _axes(value: Any) -> Axes:
    return tuple(dim if isinstance(dim, int) else str(dim.value) for dim in value.shape)


def _comparison(path: Path, program: _TensorProgram, example: DynamicExample, check: bool) -> tuple[float | None, str]:
    """How far ONNX Runtime's outputs are from the model's at most, where it runs; what was not compared, and why."""
    if note := _why_not_compared(program, check):
        return None, note
    from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

    taken, refused = _batches(program, example)
    try:
        return _difference(path, program, [example, *taken]), refused
    except NoKernel as error:
        return None, f"not compared with the model, as ONNX Runtime cannot run it on the CPU: {_last_words(error)}"


def _last_words(error: Exception) -> str:
    """What an error of ONNX Runtime says, without its number and code."""
    return " ".join(str(error).rpartition(" : ")[2].split())


def _why_not_compared(program: _TensorProgram, check: bool) -> str:
    """Why the file is not run; empty: it is."""
    if not check:
        return "not compared with the model, as check=False"
    if importlib.util.find_spec("onnxruntime") is None:
        return "not compared with the model, as onnxruntime is not installed"
    if _dtype(program) not in _TOLERANCES:
        return f"not compared with the model, as ONNX Runtime has no {_dtype(program)} on the CPU"
    return ""


def _dtype(program: nn.Module) -> torch.dtype:
    """The narrowest floating-point type of the parameters."""
    kinds = {p.dtype for p in program.parameters() if p.is_floating_point()} or {torch.float32}
    return min(kinds, key=lambda kind: (kind.itemsize, kind in _TOLERANCES))


def _batches(program: _TensorProgram, example: DynamicExample) -> tuple[list[DynamicExample], str]:
    """The example in other batch sizes where that is open, and what is said of those that the model does not take."""
    others = {size: example.of_batch(size) for size in _BATCHES if example.has_batch}
    taken = {size: other for size, other in others.items() if _takes(program, other.tensors)}
    refused = " and ".join(str(size) for size in others if size not in taken)
    note = f"batches of {refused} were not compared, as the model fails with them" if refused else ""
    return list(taken.values()), note


def _difference(path: Path, program: _TensorProgram, examples: Sequence[DynamicExample]) -> float:
    """How far ONNX Runtime's outputs are from the model's at most.

    Raises:
        VerificationError: too far.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    apart = max(_apart(session, program, given.tensors) for given in examples)
    if not apart <= _TOLERANCES[_dtype(program)]:
        raise VerificationError(
            f"slim: ONNX Runtime computes something else from the file than {type(program.model).__name__}",
            where=str(path),
            found=f"outputs that differ by {apart:.2g}, relative to the largest value",
            needed=f"at most {_TOLERANCES[_dtype(program)]:.2g}",
            do="if the model draws random numbers, or computes with the "
            f"{BATCH_AXIS} size as a number, pass check=False or leave that dimension out of dynamic=",
        )
    return apart


def _takes(program: _TensorProgram, tensors: Mapping[str, Tensor]) -> bool:
    """Does a model run with these? Numbers of nodes in an input may be beyond what is left of another."""
    try:
        program(*tensors.values())
    except (IndexError, RuntimeError):
        return False
    return True


def _apart(session: Any, program: _TensorProgram, tensors: Mapping[str, Tensor]) -> float:
    expected = [x.detach().cpu() for x in program(*tensors.values())]
    wanted = {value.name for value in session.get_inputs()}
    found = session.run(None, {name: x.detach().cpu().numpy() for name, x in tensors.items() if name in wanted})
    return difference(expected, [torch.from_numpy(x) for x in found]).relative
