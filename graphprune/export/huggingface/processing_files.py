"""Files of tokenizers and processors beside a model."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from graphprune.errors import InputError
from graphprune.utils.checks import found_value, shown
from graphprune.utils.files import check_path

Processing = Any
"""A tokenizer or processor (what has ``save_pretrained``), a folder with their files, or None."""

_OF_MODELS = ("config.json", "generation_config.json", "README.md")

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx", ".index.json", ".py")


def write_processing(processing: Processing, folder: Path) -> None:
    """Let tokenizers and processors write their files, or copy those of a folder."""
    if processing is None:
        return
    if hasattr(processing, "save_pretrained"):
        processing.save_pretrained(folder)
        return
    if not isinstance(processing, str | os.PathLike):
        raise InputError(
            f"processing: must be a tokenizer, a processor or a folder, but is {shown(processing)}",
            found=found_value(processing),
            needed="a tokenizer, a processor or a folder",
            do="pass AutoTokenizer.from_pretrained(...), or its folder",
        )
    source = check_path("processing", processing)
    if not source.is_dir():
        raise InputError(
            f"processing: {source} is no folder",
            where=str(source),
            found="a file" if source.exists() else "nothing at this path",
            needed="a tokenizer, a processor or a folder with their files",
            do="pass AutoTokenizer.from_pretrained(...), or its folder",
        )
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.startswith(".") and _belongs(path.name):
            shutil.copyfile(path, folder / path.name)


def _belongs(name: str) -> bool:
    return name not in _OF_MODELS and not name.endswith(_WEIGHTS)
