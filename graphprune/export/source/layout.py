"""The text of the file: what it says of itself, imports, definitions, and the function that loads the weights."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from graphprune.export.source.expressions import LINE_LENGTH, render
from graphprune.export.source.names import is_importable
from graphprune.export.source.program import Program
from graphprune.export.source.state import state_tensors, unsaved_tensors

SOURCE_WEIGHTS = "model.safetensors"

_FEW = 3
"""So many tensors are named one a line, more in a loop."""


def file_text(program: Program) -> str:
    """The whole file, with one final line end."""
    definitions = program.definitions()
    loader = _loader(program)
    imports = "\n".join(program.names.imports())
    head = f'"""{_about(program)}"""\n\nfrom __future__ import annotations\n\n{imports}'
    return _joined([head, *definitions, loader]) + "\n"


def _joined(parts: Sequence[str]) -> str:
    """Two empty lines around functions and classes, one around groups of constants."""
    text = parts[0]
    for before, part in pairwise(parts):
        constants = not _is_block(part) and (not _is_block(before) and before is not parts[0])
        text += ("\n" if constants else "\n\n\n" if _is_block(part) or _is_block(before) else "\n\n") + part
    return text


def _is_block(text: str) -> bool:
    return text.startswith(("def ", "class ", "@", "async def "))


def _about(program: Program) -> str:
    model = program.model
    parameters = sum(p.numel() for p in model.parameters())
    lines = [
        f"{type(model).__name__} with {parameters:,} parameters, as it was pruned.",
        "",
        f"Needs torch and safetensors; written with torch {torch.__version__.partition('+')[0]}. "
        f"load() builds the network with the weights in {SOURCE_WEIGHTS}.",
    ]
    sources = [s for s in program.classes.collector.sources if s not in ("__main__",) and not is_importable(s)]
    if sources:
        lines += ["", *_wrapped(f"The methods are those of {', '.join(sources)}; the constructors were written anew.")]
    return "\n".join(lines) + "\n"


def _wrapped(text: str) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if len(line) + 1 + len(word) > LINE_LENGTH:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return [*lines, line]


# ---------------------------------------------------------------- loading


def _loader(program: Program) -> str:
    root = program.classes.by_kind[type(program.model)].name
    conversions = _conversions(program)
    lines = [
        f'def load(path: str | Path = Path(__file__).with_name("{SOURCE_WEIGHTS}"), device: str = "cpu") -> {root}:',
        '    """The network with its weights, in evaluation mode."""',
        f"    model = {render(program.root_expression(), 4, 8, len(conversions))}{conversions}",
        *([] if program.is_unique else (f"    {line}" for line in program.endings("model"))),
        "    state = load_file(path)",
        *_sharing(program),
        *_unsaved(program),
        "    model.load_state_dict(state)",
        "    return model.to(device).eval()",
    ]
    text = "\n".join(lines)
    return text.replace(
        "    state = load_file(path)\n    model.load_state_dict(state)", "    model.load_state_dict(load_file(path))"
    )


def _conversions(program: Program) -> str:
    text = ""
    if program.dtype not in (None, torch.float32):
        text += f".to({program.names.code(str(program.dtype))})"
    if _is_channels_last(program.model):
        text += f".to(memory_format={program.names.code('torch.channels_last')})"
    return text


def _is_channels_last(model: nn.Module) -> bool:
    maps = [p for p in model.parameters() if p.dim() == 4 and not p.is_contiguous()]
    return bool(maps) and all(p.is_contiguous(memory_format=torch.channels_last) for p in maps)


def _sharing(program: Program) -> list[str]:
    """Names under which the file does not hold what it holds under another one."""
    first = {name: program.paths[id(t)] for name, t in state_tensors(program.model).items()}
    pairs = {name: kept for name, kept in first.items() if name != kept}
    if len(pairs) <= _FEW:
        return [f'    state["{name}"] = state["{kept}"]' for name, kept in pairs.items()]
    entries = [f'        "{name}": "{kept}",' for name, kept in pairs.items()]
    return [
        "    shared = {",
        *entries,
        "    }",
        "    state.update({name: state[kept] for name, kept in shared.items()})",
    ]


def _unsaved(program: Program) -> list[str]:
    """Tensors that are no part of the state of the modules: buffers that are not saved, plain attributes."""
    names = list(unsaved_tensors(program))
    buffers = {name for name, _ in program.model.named_buffers()}
    lines = []
    for chosen, reading in (
        ([n for n in names if n in buffers], "model.get_buffer(name)"),
        (
            [n for n in names if n not in buffers],
            'getattr(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2])',
        ),
    ):
        if len(chosen) == 1:
            place = f'model.get_buffer("{chosen[0]}")' if chosen[0] in buffers else f"model.{chosen[0]}"
            lines.append(f'    {place}.copy_(state.pop("{chosen[0]}"))')
        elif chosen:
            flat = f"    for name in ({', '.join(map(_string, chosen))}):"
            split = ["    for name in (", *(f"        {_string(n)}," for n in chosen), "    ):"]
            lines += [flat] if len(flat) <= LINE_LENGTH else split
            lines.append(f"        {reading}.copy_(state.pop(name))")
    return lines


def _string(text: str) -> str:
    return f'"{text}"'


# ---------------------------------------------------------------- formatting


def laid_out(text: str) -> str:
    """The text as ``ruff format`` lays it out, where ruff is there; else as it is, with the author's line breaks."""
    beside = Path(sys.executable).with_name("ruff")
    ruff = str(beside) if beside.exists() else shutil.which("ruff")
    if ruff is None:
        return text
    command = [ruff, "format", "--isolated", "--line-length", str(LINE_LENGTH), "--stdin-filename", "model.py", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else text
