"""Types of files, told by Magika with its published weights.

Fratantonio et al., "Magika: AI-Powered Content-Type Detection", ICSE 2025; weights of the package ``magika``. What is
asked depends on the machine's files; numbers are compared within one.
"""

from __future__ import annotations

import json
import os
import sysconfig
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.tasks.converted import converted
from benchmarks.tasks.packages import file
from benchmarks.tasks.pretrained import Pretrained, drawn, split_of
from benchmarks.tasks.task import each_output

FOLDER = "magika/models/standard_v3_3"
ENDS, BLOCK, NOTHING = 1024, 4096, 256
"""Bytes at the beginning and the end that are looked at, how many are stripped of blanks, what stands for none."""
EACH = 60
"""Files of a type at most, so that common ones do not decide alone."""
LOOKED_AT = 400
"""Of a type: among so many files, by name, these are drawn."""
TYPES = {
    **{
        name: name
        for name in "asm bib c cmake cpp crt css csv deb diff gif html java jinja json lua m4 npy npz".split()
    },
    **{name: name for name in "one onnx ico ini jar pdf perl php png po postscript proto rst scss".split()},
    **{name: name for name in "sql svg tcl toml tsv ttf typescript vhdl wasm wav webp woff woff2 xml yaml zip".split()},
    "py": "python",
    "pyi": "python",
    "pyc": "pythonbytecode",
    "h": "c",
    "hpp": "cpp",
    "cc": "cpp",
    "cuh": "cpp",
    "pl": "perl",
    "pm": "perl",
    "js": "javascript",
    "md": "markdown",
    "sh": "shell",
    "gz": "gzip",
    "so": "elf",
    "yml": "yaml",
    "class": "javabytecode",
    "bat": "batch",
    "ipynb": "ipynb",
    "pkl": "pickle",
    "jpg": "jpeg",
    "rb": "ruby",
    "f90": "fortran",
    "exe": "pebin",
    "ts": "typescript",
    "htm": "html",
    "bz2": "bzip",
    "xz": "xz",
}
"""What the files with an extension are."""


@cache
def labels() -> tuple[str, ...]:
    """What the classes of the network mean."""
    found = json.loads(file(f"{FOLDER}/config.min.json").read_text())
    return tuple(found["target_labels_space"])


@cache
def files() -> dict[str, tuple[Path, ...]]:
    """The files that are asked for, by type: those of the system and of the installed packages."""
    found: dict[str, list[Path]] = {}
    for path in _paths():
        kind = TYPES.get(path.suffix[1:])
        if kind in labels() and len(found.setdefault(kind, [])) < LOOKED_AT and path.stat().st_size >= 64:
            found[kind].append(path)
    return {kind: tuple(drawn(paths, EACH, 0)) for kind, paths in sorted(found.items())}


def _paths() -> Iterator[Path]:
    """Files in order of their names, links left out."""
    roots = (Path(sysconfig.get_paths()["purelib"]), Path("/usr/share"), Path("/usr/lib"), Path("/usr/include"))
    for root in roots:
        for folder, inner, names in os.walk(root):
            inner.sort()
            paths = (Path(folder) / name for name in sorted(names))
            yield from (path for path in paths if not path.is_symlink())


def features(content: bytes) -> list[int]:
    """The first and the last bytes without blanks around them, filled up to 1024 each."""
    first, last = content[:BLOCK].lstrip()[:ENDS], content[-BLOCK:].rstrip()[-ENDS:]
    return [*first, *[NOTHING] * (ENDS - len(first)), *[NOTHING] * (ENDS - len(last)), *last]


class Files(Pretrained):
    """Tell the type of files; the metric is how many are what their extension says."""

    name = "files-magika"
    metric: ClassVar[str] = "types right"
    package = (f"{FOLDER}/model.onnx", "onnx2torch/converter.py")

    def fresh(self) -> nn.Module:
        return converted(file(f"{FOLDER}/model.onnx"))

    @property
    def example_inputs(self) -> Tensor:
        return self.calibration(1, 0)[0]

    def calibration(self, samples: int, seed: int) -> list[Tensor]:
        chosen = drawn(self._split("training"), samples, seed)
        return list(_read([path for path, _ in chosen]).split(32))

    @staticmethod
    def loss(output: Tensor, target: Tensor) -> Tensor:
        """The cross-entropy; the output [b, types] is of probabilities."""
        return F.nll_loss(output.clamp_min(1e-9).log(), target)

    def judge(self, model: nn.Module, split: str) -> float:
        inputs, wanted = self._asked[split]
        return (each_output(model, inputs.split(32), lambda m, x: m(x).argmax(-1)) == wanted).float().mean().item()

    @cached_property
    def _asked(self) -> dict[str, tuple[Tensor, Tensor]]:
        found = {}
        for split in ("validation", "test"):
            chosen = drawn(self._split(split), 24 if self.quick else 480, 0)
            wanted = torch.tensor([labels().index(kind) for _, kind in chosen])
            found[split] = _read([path for path, _ in chosen]), wanted
        return found

    @staticmethod
    def _split(split: str) -> list[tuple[Path, str]]:
        return [(path, kind) for kind, paths in files().items() for path in paths if split_of(str(path)) == split]


def _read(paths: list[Path]) -> Tensor:
    """[n, 2048] of int32."""
    return torch.tensor([features(path.read_bytes()) for path in paths], dtype=torch.int32)
