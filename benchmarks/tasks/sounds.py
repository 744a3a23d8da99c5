"""Recordings of speech, read without a library of sound, at 16 kHz."""

from __future__ import annotations

import wave
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.tasks.packages import file
from benchmarks.tasks.pretrained import split_of

RATE = 16000
FOLDER = "sounds/usr/share/asterisk/sounds"


@cache
def recordings(split: str) -> tuple[Tensor, ...]:
    """Those of a split, each [n] within -1 and 1; which split a recording is of is decided by what is said in it."""
    found = sorted(path for path in file(FOLDER).rglob("*.wav") if "silence" not in path.parts)
    return tuple(read(path) for path in found if split_of(path.stem) == split)


def read(path: Path) -> Tensor:
    """A recording of one channel, 16 bits and 8 or 16 kHz, as [n] of float32 at 16 kHz.

    Raises:
        ValueError: it is another kind of file.
    """
    from scipy.signal import resample_poly

    with wave.open(str(path)) as sound:
        rate, kind = sound.getframerate(), (sound.getnchannels(), sound.getsampwidth())
        if kind != (1, 2) or RATE % rate:
            raise ValueError(f"{path}: {kind[0]} channels of {8 * kind[1]} bits at {rate} Hz; needed: 1 of 16 bits")
        samples = np.frombuffer(sound.readframes(sound.getnframes()), dtype="<i2").astype(np.float32) / 32768
    return torch.from_numpy(resample_poly(samples, RATE // rate, 1).astype(np.float32))


def speech(split: str, samples: int, generator: torch.Generator) -> Tensor:
    """So many samples of speech [samples]: recordings of a split end to end, in random order."""
    found = recordings(split)
    parts, length = [], 0
    while length < samples:
        parts.append(found[int(torch.randint(len(found), (), generator=generator))])
        length += len(parts[-1])
    return torch.cat(parts)[:samples]
