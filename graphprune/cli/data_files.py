"""Data in files: images, arrays, and lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec import Struct
from torch import Tensor

from graphprune.errors import InputError, MissingPackageError
from graphprune.tracing.inputs import describe
from graphprune.utils.text_lines import lines_of
from graphprune.utils.tree import tensors_of
from graphprune.utils.typed_json import convert_data, read_json

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
ARRAYS = (".npy", ".pt", ".pth", ".safetensors")
LINES = 'a text ("...", or {"text": "..."}) or an object of arguments ({"input_ids": [1, 2]}) in each line'
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Means and standard deviations of ImageNet's channels."""


@dataclass(frozen=True)
class DataFolder:
    """A folder of images or arrays.

    Attributes:
        option: which option names it.
        samples: how many files are read at most, evenly spread over the sorted names.
        batch_size: how many images, or arrays of single samples, make a batch.
        home: the folder of the model, which may say how images are normalized.
    """

    option: str
    path: Path
    samples: int
    batch_size: int
    home: Path | None = None

    def batches(self, model: Any, examples: Sequence[Any]) -> tuple[list[Any], str]:
        """The batches, and what was found, in words."""
        images, arrays = self._files(IMAGES), self._files(ARRAYS)
        if images and arrays:
            raise InputError(
                f"{self.option}: {self.path} holds {len(images)} images and {len(arrays)} arrays",
                where=str(self.path),
                found=f"{images[0].name} and {arrays[0].name}",
                needed="files of one kind",
                do="give a folder of images, or one of arrays",
            )
        return self._images(images, model, examples) if images else self._arrays(arrays, examples)

    def _files(self, suffixes: Sequence[str]) -> list[Path]:
        return sorted(path for path in self.path.rglob("*") if path.suffix.lower() in suffixes)

    def _images(self, files: list[Path], model: Any, examples: Sequence[Any]) -> tuple[list[Any], str]:
        chosen = spread(files, self.samples)
        name, example = _image_example(self.option, examples)
        channels, height, width = example.shape[1:]
        mean, std, whose = normalization(model, channels, self.home)
        images = [(read_image(self.option, one, channels, height, width) - mean) / std for one in chosen]
        batches = [batch.to(example.dtype) for batch in stacked(images, self.batch_size)]
        said = f"{len(chosen)} of {len(files)} images in {self.path}, made {channels}x{height}x{width}, {whose}"
        return [{name: batch} for batch in batches] if name else list(batches), f"{said}, {len(batches)} batches"

    def _arrays(self, files: list[Path], examples: Sequence[Any]) -> tuple[list[Any], str]:
        chosen = spread(files, self.samples)
        found = [read_array(self.option, path) for path in chosen]
        tensors = [tensor for call in examples for tensor in call.tensors]
        single = all(isinstance(one, Tensor) for one in found) and found[0].ndim == tensors[0].ndim - 1
        if single:
            self._check_shapes(dict(zip(chosen, found, strict=True)))
        batches = stacked(found, self.batch_size) if single else found
        said = f"{len(chosen)} of {len(files)} arrays in {self.path}, {'samples' if single else 'batches'}"
        return list(batches), f"{said}, {len(batches)} batches of {describe(batches[0])}"

    def _check_shapes(self, samples: dict[Path, Tensor]) -> None:
        """Raise an InputError if samples have different shapes, so that they make no batch."""
        first, *others = samples
        other = next((path for path in others if samples[path].shape != samples[first].shape), None)
        if other is not None:
            raise InputError(
                f"{self.option}: {other} has another shape than {first}",
                where=str(other),
                found=f"shape {tuple(samples[other].shape)} and shape {tuple(samples[first].shape)}",
                needed="samples of one shape, or batches",
                do="give them the same shape, or save each with its batch dimension, as a batch of its own",
            )


def spread(files: list[Path], most: int) -> list[Path]:
    """So many of the files, evenly spread."""
    return files if len(files) <= most else [files[number * len(files) // most] for number in range(most)]


def stacked(samples: list[Tensor], size: int) -> list[Tensor]:
    """Samples as batches."""
    return [torch.stack(samples[start : start + size]) for start in range(0, len(samples), size)]


def _image_example(option: str, examples: Sequence[Any]) -> tuple[str, Tensor]:
    """The input of a call that is an image [N, C, H, W], and its name if it is given by name."""
    for call in examples:
        named = [("", one) for one in tensors_of(call.args)] + list(call.kwargs.items())
        for name, one in named:
            if isinstance(one, Tensor) and one.ndim == 4 and one.shape[1] in (1, 3) and one.is_floating_point():
                return name, one
    shown = "; ".join(f"{describe(call.args)} {describe(call.kwargs)}".strip() for call in examples)
    raise InputError(
        f"{option}: is a folder of images, and the model reads none",
        found=shown,
        needed="an input [N, C, H, W] of floating-point numbers, of 1 or 3 channels",
        do="give a folder of arrays, or module:function",
    )


class _Preprocessing(Struct, frozen=True):
    """What a folder of Transformers says of images, as far as it is read here: a number for each channel."""

    image_mean: tuple[float, ...] | None = None
    image_std: tuple[float, ...] | None = None


def normalization(model: Any, channels: int, home: Path | None = None) -> tuple[Tensor, Tensor, str]:
    """What images are normalized by [C, 1, 1], and whose numbers these are, in words."""
    known = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    mean, std, whose = known.get("mean"), known.get("std"), "normalized by the default_cfg of the model"
    file = None if home is None else home / "preprocessor_config.json"
    if file is not None and file.is_file():
        what, do = f"data: {file}", "get the file again, or delete it"
        written = convert_data(read_json(file, what, do), _Preprocessing, what, do)
        mean, std, whose = written.image_mean, written.image_std, f"normalized as {file} says"
    if mean is None or std is None or len(mean) not in (1, channels):
        (mean, std), whose = IMAGENET, "normalized by the means of ImageNet, as the model says nothing"
    if len(mean) != channels:
        mean, std = (sum(mean) / len(mean),) * channels, (sum(std) / len(std),) * channels
    return torch.tensor(mean, device="cpu").view(-1, 1, 1), torch.tensor(std, device="cpu").view(-1, 1, 1), whose


def read_image(option: str, path: Path, channels: int, height: int, width: int) -> Tensor:
    """An image with values from 0 to 1 [C, H, W]: resized until it covers the size, and its center cut out."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingPackageError(
            f"{option}: images need the package pillow",
            found=str(error),
            needed="pillow",
            do="install it with: pip install pillow",
        ) from error
    try:
        with Image.open(path) as opened:
            fitted = ImageOps.fit(opened.convert("L" if channels == 1 else "RGB"), (width, height))
    except Exception as error:  # of any kind: decoders raise what they like, also for images that are too large
        raise _unreadable(option, str(path), "an image", error, "leave it out, or put an image in its place") from error
    return torch.from_numpy(np.array(fitted, dtype=np.float32) / 255).reshape(height, width, channels).permute(2, 0, 1)


def read_array(option: str, path: Path) -> Any:
    """A tensor, or a dict of tensors by the names of arguments; no pickled code is run."""
    try:
        if path.suffix == ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False))
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: Any = dict(load_file(path))
            return next(iter(found.values())) if len(found) == 1 else found
        found = torch.load(path, map_location="cpu", weights_only=True)
        return tuple(found) if isinstance(found, list) else found
    except Exception as error:
        advice = "leave it out, or write it again with torch.save or save_file of safetensors"
        raise _unreadable(option, str(path), "a tensor, or tensors by name", error, advice) from error


def _unreadable(option: str, where: str, needed: str, error: Exception, advice: str) -> InputError:
    return InputError(
        f"{option}: {where} is not {needed}",
        where=where,
        found=f"{type(error).__name__}: {error}",
        needed=needed,
        do=advice,
    )


# ---------------------------------------------------------------- lines of JSON


def read_records(
    option: str, path: Path, most: int, tokenizer: Path | None, length: int, labels: bool = False
) -> tuple[list[Any], str]:
    """Batches of one record each, and what was found, in words.

    A line is a text, or has one under ``"text"``, of which a tokenizer makes ``input_ids``; or it is an object of
    numbers and lists by the names of arguments.

    Args:
        labels: texts get their tokens as ``labels``, too.
    """
    try:
        every = lines_of(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(option, str(path), "a text file in UTF-8", error, f"write {LINES}") from error
    lines = [(number, line) for number, line in enumerate(every, start=1) if line.strip()]
    records = [_record(option, path, number, line) for number, line in lines[:most]]
    if not records:
        raise InputError(
            f"{option}: {path} has no lines",
            where=str(path),
            found="an empty file",
            needed=LINES,
            do="give a file with data",
        )
    texts = [one if isinstance(one, str) else one.get("text") for one in records]
    if all(isinstance(text, str) for text in texts):
        batches = _tokens([str(text) for text in texts], option, tokenizer, length, labels)
        count = sum(batch["input_ids"].numel() for batch in batches)
        return (
            batches,
            f"{len(records)} of {len(lines)} texts in {path}, {count} tokens, by the tokenizer of {tokenizer}",
        )
    batches = [_arguments(option, path, number, one) for (number, _), one in zip(lines, records, strict=False)]
    return batches, f"{len(records)} of {len(lines)} records in {path}, {describe(batches[0])}"


def _record(option: str, path: Path, number: int, line: str) -> Any:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _unreadable(option, f"line {number} of {path}", "JSON", error, f"write {LINES}") from error
    if not isinstance(found, str | dict):
        raise InputError(
            f"{option}: line {number} of {path} is a {type(found).__name__}",
            where=f"line {number} of {path}",
            found=line[:80],
            needed=LINES,
            do="write a text in quotes, or an object",
        )
    return found


def _tokens(
    texts: list[str], option: str, tokenizer: Path | None, length: int, labels: bool
) -> list[dict[str, Tensor]]:
    """Each text as a batch of its own, so that no tokens stand in for what is not there."""
    if tokenizer is None:
        raise InputError(
            f"{option}: texts need a tokenizer",
            found=f"{len(texts)} texts, and no folder of a tokenizer",
            needed="the tokenizer of the model",
            do="give --tokenizer DIR, a folder with its files, or records with input_ids",
        )
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingPackageError(
            f"{option}: texts need the tokenizers of Transformers",
            found=str(error),
            needed="transformers",
            do="install it with: pip install 'graphprune[transformers]'",
        ) from error
    try:
        make = AutoTokenizer.from_pretrained(str(tokenizer), trust_remote_code=False)
    except Exception as error:  # of any kind: it depends on the files that are there
        advice = "give --tokenizer DIR, a folder that tokenizer.save_pretrained(...) wrote"
        raise _unreadable(option, str(tokenizer), "the folder of a tokenizer", error, advice) from error
    found = [make(text, truncation=True, max_length=length, return_tensors="pt")["input_ids"] for text in texts]
    batches = [{"input_ids": ids} for ids in found if ids.numel()]
    return [{**batch, "labels": batch["input_ids"]} for batch in batches] if labels else batches


def _arguments(option: str, path: Path, number: int, record: Any) -> dict[str, Tensor]:
    """A record as keyword arguments, each with a batch dimension of 1."""
    if isinstance(record, str):
        raise InputError(
            f"{option}: line {number} of {path} is a text, and others are records",
            where=f"line {number} of {path}",
            found=record[:80],
            needed="lines of one kind",
            do="give a file of texts, or one of records",
        )
    try:
        return {name: torch.tensor(value, device="cpu")[None] for name, value in record.items()}
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: too deep, too large, a dict
        needed = "an object of numbers and lists of numbers"
        raise _unreadable(option, f"line {number} of {path}", needed, error, f"write {LINES}") from error
