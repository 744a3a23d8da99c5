"""What a process without graphprune finds in folders of slim models, against the models in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.read_folders import TOKENS

READER = Path(__file__).parent / "read_folders.py"
LOGITS = ("logits", "logits_per_image", "logits_per_text")


def expected(slim: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs of a model, and its logits and greedy tokens."""
    more = {"decoder_input_ids": torch.ones(2, 3, dtype=torch.long)} if slim.config.is_encoder_decoder else {}
    with torch.no_grad():
        outputs = slim(**inputs, **more)
    names = [name for name in LOGITS if name in outputs]
    tokens = slim.generate(**inputs, **TOKENS) if slim.can_generate() else None
    return {"inputs": inputs, "more": more, "outputs": {n: outputs[n] for n in names}, "tokens": tokens}


def read_back(cases: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """What is found of each case, beside what is ``about`` it."""
    path = folder / "cases.pt"
    torch.save(list(cases), path)
    run = subprocess.run([sys.executable, READER, path], capture_output=True, text=True, cwd=folder, check=False)
    if run.returncode:
        raise RuntimeError(run.stderr)
    read = json.loads(run.stdout.splitlines()[-1])
    return [case["about"] | one for case, one in zip(cases, read, strict=True)]


def passed(found: Mapping[str, Any]) -> bool:
    """Is everything equal?"""
    tokens = [found[key] for key in ("dynamic", "static", "chunks") if key in found]
    return bool(found["difference"] == found["again"] == 0 and all(tokens) and found["half"])
