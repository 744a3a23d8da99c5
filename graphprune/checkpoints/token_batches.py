"""Calibration texts of a file as batches of token ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from graphprune.errors import InputError
from graphprune.utils.text_lines import lines_of

LONGEST_TEXT = 512
"""Tokens of a text that are used; what follows is left out."""


def token_batches(path: Path, source: Path) -> list[dict[str, Tensor]]:
    """A batch for each text of a file, by the tokenizer of a checkpoint.

    Args:
        path: of a file with a JSON object with ``"text"``, or a JSON string, in each line.
        source: the folder of the checkpoint.

    Raises:
        InputError: the file cannot be read, a line is no text, or the folder has no tokenizer.
    """
    texts = _texts(path)
    tokenizer = _tokenizer(source)
    batches = [tokenizer(one, truncation=True, max_length=LONGEST_TEXT, return_tensors="pt") for one in texts]
    found = [{"input_ids": batch["input_ids"]} for batch in batches if batch["input_ids"].numel()]
    if not found:
        raise InputError(
            f"calibration: {path} has no text with a token",
            where=str(path),
            found="no token",
            needed="texts like those the model is for",
            do="give a file with a text in each line",
        )
    return found


def _texts(path: Path) -> list[str]:
    try:
        lines = lines_of(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"calibration: {path} cannot be read ({error})",
            where=str(path),
            found=str(error),
            needed="a file of text in UTF-8",
            do="give a file with a text in each line",
        ) from error
    return [_text(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _text(path: Path, number: int, line: str) -> str:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"calibration: line {number} of {path} is no JSON ({error})",
            where=f"{path}:{number}",
            found=str(error),
            needed="JSON in each line",
            do=_FORM,
        ) from error
    text = data.get("text") if isinstance(data, dict) else data
    if not isinstance(text, str):
        raise InputError(
            f"calibration: line {number} of {path} has no text",
            where=f"{path}:{number}",
            found="JSON without a text",
            needed="a text in each line",
            do=_FORM,
        )
    return text


_FORM = 'give {"text": "..."} or "..." in each line'


def _tokenizer(source: Path) -> Any:
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of any kind: a file is missing, a library is not installed
        raise InputError(
            f"calibration: {source} has no tokenizer that can be loaded ({error})",
            where=str(source),
            found=f"{type(error).__name__}: {error}",
            needed="a tokenizer in the folder, to make token ids of text",
            do="pass batches of token ids, such as [torch.tensor([[1, 5, 9]])]",
        ) from error
