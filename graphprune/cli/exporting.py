"""``graphprune export DIR --to onnx -o FILE``: a slim model for where graphprune is not installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from torch import nn

import graphprune
from graphprune.cli.bundles import BundleFolder, BundleOptions, check_bundle, traced_inputs
from graphprune.cli.calibration_options import check_tokenizer
from graphprune.cli.model_options import GivenInput
from graphprune.cli.option_groups import OptionGroup, usage_error
from graphprune.cli.output import Output, bars_for_people
from graphprune.cli.output_paths import check_new_file, check_own, check_writable
from graphprune.planning.serving import SERVERS
from graphprune.utils.checks import did_you_mean


@dataclass(kw_only=True)
class ExportOptions(OptionGroup):
    """What some kinds of files take."""

    input: GivenInput = None
    tokenizer: Annotated[
        Path | None,
        typer.Option("--tokenizer", metavar="DIR", help="the folder of the model's tokenizer (hf, deci, gguf)"),
    ] = None
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", metavar="TYPE", help="of weights in a GGUF file: f32, f16, bf16 or q8_0; without, f16"),
    ] = None
    serve: Annotated[
        str | None,
        typer.Option(
            "--serve", metavar="NAME", help=f"what runs a deci folder: {', '.join(sorted(SERVERS))}; without, vllm"
        ),
    ] = None


_Writer = Callable[[nn.Module, Path, ExportOptions], object]


@dataclass(frozen=True)
class FileKind:
    """A kind of file or folder.

    Attributes:
        help: what it is, in a sentence.
        write: writes it.
        takes: the options that it reads; others that are given are an error.
        file: is it one file, and no folder?
        files: what it writes into a folder that may hold other files; empty: the folder is all its own.
    """

    help: str
    write: _Writer
    takes: tuple[str, ...] = ()
    file: bool = False
    files: tuple[str, ...] = ()


def _source(slim: nn.Module, output: Path, options: ExportOptions) -> None:
    graphprune.export_source(slim, output, traced_inputs(slim, options.input))


def _loader(slim: nn.Module, output: Path, options: ExportOptions) -> None:
    graphprune.export_loader(slim, output, example_inputs=traced_inputs(slim, options.input))


def _huggingface(slim: nn.Module, output: Path, options: ExportOptions) -> None:
    inputs = traced_inputs(slim, options.input) if options.input is not None else None
    with bars_for_people():
        graphprune.save_pretrained(slim, output, processing=options.tokenizer, example_inputs=inputs)


def _onnx(slim: nn.Module, output: Path, options: ExportOptions) -> None:
    graphprune.export_onnx(slim, output, traced_inputs(slim, options.input))


def _deci(slim: nn.Module, output: Path, options: ExportOptions) -> None:
    with bars_for_people():
        graphprune.export_deci(slim, output, serve=options.serve or "vllm", processing=options.tokenizer)


def _gguf(slim: nn.Module, output: Path, options: ExportOptions) -> None:
    graphprune.export_gguf(slim, output, str(options.tokenizer), dtype=options.dtype or "f16")


FILE_KINDS = {
    "source": FileKind(
        "a Python file that needs torch alone, and safetensors",
        _source,
        ("input",),
        files=("model.py", "model.safetensors"),
    ),
    "loader": FileKind(
        "a Python file that needs the original library, and safetensors",
        _loader,
        ("input",),
        files=("slim_model.py", "slim_model.safetensors"),
    ),
    "hf": FileKind("a folder that stock Transformers loads", _huggingface, ("input", "tokenizer")),
    "deci": FileKind("a folder that vLLM, SGLang or TensorRT-LLM runs", _deci, ("tokenizer", "serve")),
    "gguf": FileKind("a file that stock llama.cpp runs", _gguf, ("tokenizer", "dtype"), file=True),
    "onnx": FileKind("an ONNX file, with the batch size open", _onnx, ("input",), file=True),
}
_NAMED = {"dtype": ("f32", "f16", "bf16", "q8_0"), "serve": tuple(sorted(SERVERS))}
"""Options that take one of these names."""

_To = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="KIND",
        help="; ".join(f"{name}: {target.help}" for name, target in FILE_KINDS.items()),
        autocompletion=lambda: list(FILE_KINDS),
        show_default=False,
    ),
]


def export_command(
    out: Output,
    bundle: BundleFolder,
    to: _To,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="PATH", help="where to write it", show_default=False)
    ],
    options: ExportOptions,
    bundles: BundleOptions,
) -> int:
    """Write a slim model for where graphprune is not installed.

    Examples:
        graphprune export slim --to source -o slim_source
        graphprune export slim --to onnx -o slim.onnx
        graphprune export slim_llama --to gguf --tokenizer llama -o slim.gguf
    """
    target = _target(to, options)
    check_tokenizer(options.tokenizer)
    _check_paths(bundle, output, target)
    target.write(bundles.load(bundle), output, options)
    out.result(lambda: [f"written to {output}"], lambda: {"kind": to, "written": str(output)}, output)
    return 0


def _target(to: str, options: ExportOptions) -> FileKind:
    """The kind that is asked for; usage is wrong if it does not take an option, or needs one."""
    if to not in FILE_KINDS:
        near = did_you_mean(to, FILE_KINDS)
        raise usage_error(f"--to: {to!r} is no kind of file; needed is one of {', '.join(FILE_KINDS)}{near}")
    target = FILE_KINDS[to]
    for name, value in vars(options).items():
        if value is not None and name not in target.takes:
            others = [kind for kind, one in FILE_KINDS.items() if name in one.takes]
            raise usage_error(f"--{name}: is not for --to {to}; it is for --to {' or '.join(others)}")
        if value is not None and value not in _NAMED.get(name, (value,)):
            raise usage_error(f"--{name}: {value!r} is none; needed is one of {', '.join(_NAMED[name])}")
    if to == "gguf" and options.tokenizer is None:
        raise usage_error("--tokenizer: a GGUF file holds the tokenizer; give the folder with its files")
    return target


def _check_paths(bundle: Path, output: Path, target: FileKind) -> None:
    """Usage is wrong if there is no bundle, or if it would be overwritten, or a file would."""
    check_bundle(bundle)
    if output.resolve() == bundle.resolve():
        raise usage_error(f"-o {output}: is the bundle itself; give another path")
    if target.file:
        check_new_file("-o", output)
    elif not target.files or output.is_file():
        check_own("-o", output)
    for name in target.files:
        check_writable("-o", output / name)
        if (output / name).exists():
            raise usage_error(f"-o {output}: {output / name} exists; give another folder, or delete it first")
