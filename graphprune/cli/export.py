"""``graphprune export DIR --to onnx -o FILE``: a slim model for where graphprune is not installed."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import graphprune
from graphprune.cli.models import load_spec
from graphprune.errors import InputError
from graphprune.pruning.plan import plans_of
from graphprune.tracing.input_specs import inputs_of_spec
from graphprune.tracing.inputs import Inputs

Writer = Callable[[nn.Module, argparse.Namespace], None]


@dataclass(frozen=True)
class Target:
    """A kind of file or folder.

    Attributes:
        help: what it is, in a sentence.
        write: writes it to ``options.output``.
        takes: the options that it reads; others that are given are an error.
    """

    help: str
    write: Writer
    takes: tuple[str, ...] = ()


def example_inputs(slim: nn.Module, options: argparse.Namespace) -> Inputs:
    """Example inputs of the shape that was given, or like those that the dense model was traced with."""
    if options.input is not None:
        return (torch.randn(options.input, generator=torch.Generator().manual_seed(0)),)
    specs = plans_of(slim)[0].inputs
    forward = next((spec for spec in specs if spec["method"] == "forward"), None)
    if forward is None:
        raise InputError("--input: the bundle does not say what the model was traced with; give the shape of its input")
    call = inputs_of_spec(forward)
    if call.args and call.kwargs:
        raise InputError("--input: the model was traced with positional and keyword arguments; export it from Python")
    return call.kwargs or call.args


def _source(slim: nn.Module, options: argparse.Namespace) -> None:
    graphprune.export_source(slim, options.output, example_inputs(slim, options))


def _loader(slim: nn.Module, options: argparse.Namespace) -> None:
    graphprune.export_loader(slim, options.output, example_inputs=example_inputs(slim, options))


def _huggingface(slim: nn.Module, options: argparse.Namespace) -> None:
    graphprune.save_pretrained(slim, options.output, processing=options.tokenizer)


def _onnx(slim: nn.Module, options: argparse.Namespace) -> None:
    graphprune.export_onnx(slim.eval(), options.output, example_inputs(slim, options))


def _deci(slim: nn.Module, options: argparse.Namespace) -> None:
    server = options.serve or "vllm"
    graphprune.export_deci(slim, options.output, serve=server, processing=options.tokenizer)


def _gguf(slim: nn.Module, options: argparse.Namespace) -> None:
    if options.tokenizer is None:
        raise InputError("--tokenizer: a GGUF file holds the tokenizer; give the folder with its files")
    graphprune.export_gguf(slim, options.output, options.tokenizer, dtype=options.dtype or "f16")


TARGETS = {
    "source": Target("a Python file that needs torch alone, and safetensors", _source, ("input",)),
    "loader": Target("a Python file that needs the original library, and safetensors", _loader, ("input",)),
    "hf": Target("a folder that stock Transformers loads", _huggingface, ("tokenizer",)),
    "deci": Target("a folder that vLLM, SGLang or TensorRT-LLM runs", _deci, ("tokenizer", "serve")),
    "gguf": Target("a file that stock llama.cpp runs", _gguf, ("tokenizer", "dtype")),
    "onnx": Target("an ONNX file, with the batch size open", _onnx, ("input",)),
}


FILES = ("gguf", "onnx")
"""What is one file and no folder."""


def export_bundle(options: argparse.Namespace) -> int:
    """Load a bundle and write it as something else."""
    target = TARGETS[options.to]
    for name in ("input", "tokenizer", "serve", "dtype"):
        if getattr(options, name) is not None and name not in target.takes:
            options.usage_error(f"--{name}: is not for --to {options.to}")
    _check_output(options)
    model = None if options.model is None else load_spec(options.model, device="meta")
    slim = graphprune.load(options.bundle, model=model, trust_factory=options.trust_factory)
    target.write(slim, options)
    print(f"written to {options.output}")
    return 0


def _check_output(options: argparse.Namespace) -> None:
    """Usage is wrong if the bundle would be overwritten, or a file would."""
    output: Path = options.output
    if output.resolve() == options.bundle.resolve():
        options.usage_error(f"-o {output}: is the bundle itself; give another path")
    if options.to in FILES and output.exists():
        options.usage_error(f"-o {output}: exists; give another path, or delete it first")
