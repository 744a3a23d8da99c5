"""How Chinese characters of several readings are read, by the published bidirectional LSTM of g2pM.

Park and Lee, "g2pM: A Neural Grapheme-to-Phoneme Conversion Package for Mandarin Chinese Based on a New Open Benchmark
Dataset", 2020; weights of the package ``g2pM``, readings of the phrases of the package ``pypinyin``.
"""

from __future__ import annotations

import json
import pickle
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.tasks.packages import file
from benchmarks.tasks.pretrained import Pretrained, drawn, split_of
from benchmarks.tasks.task import Pair, call

BEGIN, END, UNKNOWN = "시", "끝", "<UNK>"
"""What the network's training data called the ends of a sentence and a character that is not known."""
TONES = {"\u0304": "1", "\u0301": "2", "\u030c": "3", "\u0300": "4"}
NEUTRAL = "5"
IGNORED = -100
"""Where nothing is asked: F.cross_entropy's own number for it."""

Phrase = tuple[str, tuple[str, ...]]
"""Characters and the readings of each."""


class Reader(nn.Module):
    """Characters to how each is read; the layers are called as in the published weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5398, 64)
        self.lstm = nn.LSTM(64, 32, batch_first=True, bidirectional=True)
        self.logit_layer = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 876))

    def forward(self, characters: Tensor) -> Tensor:
        """[b, t] -> [b, t, 876]."""
        scores: Tensor = self.logit_layer(self.lstm(self.embedding(characters))[0])
        return scores


@cache
def published(name: str) -> Any:
    """What a pickle of the package holds: dictionaries of numbers, readings and NumPy's arrays."""
    return pickle.loads(file(f"g2pM/{name}.pkl").read_bytes())


def numbered(reading: str) -> str:
    """A syllable with its tone as a digit behind it, as the network's classes have it: ``"lǜ"`` is ``"lu:4"``."""
    letters = unicodedata.normalize("NFD", reading)
    tone = next((TONES[mark] for mark in letters if mark in TONES), NEUTRAL)
    plain = "".join(mark for mark in letters if mark not in TONES)
    return unicodedata.normalize("NFC", plain).replace("ü", "u:") + tone


@cache
def phrases(split: str) -> tuple[Phrase, ...]:
    """Phrases in which a character has several readings, by their characters."""
    known = json.loads(file("pypinyin/phrases_dict.json").read_text(encoding="utf-8"))
    found = ((text, tuple(numbered(said[0]) for said in readings)) for text, readings in sorted(known.items()))
    return tuple(phrase for phrase in found if split_of(phrase[0]) == split and any(asked(*phrase)))


def asked(text: str, readings: Sequence[str]) -> list[bool]:
    """Of which characters a reading is to be chosen, and the network knows the right one."""
    if len(text) != len(readings):
        return [False] * len(text)
    choices = [published("digest_cedict").get(character, ()) for character in text]
    return [len(of) > 1 and r in of and r in published("class2idx") for of, r in zip(choices, readings, strict=True)]


def batches(chosen: Sequence[Phrase]) -> Iterator[Pair]:
    """Phrases of one length together: characters [b, t] and the readings asked for [b, t]."""
    numbers, classes = published("char2idx"), published("class2idx")
    groups: dict[int, list[tuple[list[int], list[int]]]] = {}
    for text, readings in chosen:
        letters = [numbers.get(c, numbers[UNKNOWN]) for c in text]
        wanted = [classes[r] if a else IGNORED for r, a in zip(readings, asked(text, readings), strict=True)]
        row = ([numbers[BEGIN], *letters, numbers[END]], [IGNORED, *wanted, IGNORED])
        groups.setdefault(len(text), []).append(row)
    for length in sorted(groups):
        yield tuple(torch.tensor(part) for part in zip(*groups[length], strict=True))


class Readings(Pretrained):
    """Choose how characters are read; the metric is the share of those with several readings that are right."""

    name = "readings-g2pm"
    metric: ClassVar[str] = "readings right"
    share = 0.7
    package = ("g2pM/np_ckpt.pkl", "pypinyin/phrases_dict.json")

    def fresh(self) -> nn.Module:
        model = Reader()
        model.load_state_dict({name: torch.from_numpy(weight) for name, weight in published("np_ckpt").items()})
        return model

    @property
    def example_inputs(self) -> Tensor:
        return self.calibration(1, 0)[0]

    def calibration(self, samples: int, seed: int) -> list[Tensor]:
        return [characters for characters, _ in batches(drawn(phrases("training"), samples, seed))]

    def answers(self, dense: nn.Module, samples: int, seed: int) -> list[Pair]:
        """What is asked of no character is ignored: the network was not trained to say anything of it."""
        found = []
        with torch.no_grad():
            for characters, wanted in batches(drawn(phrases("training"), samples, seed)):
                said = call(dense, characters).argmax(-1)
                found.append((characters, said.masked_fill(wanted == IGNORED, IGNORED)))
        return found

    @staticmethod
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output.flatten(0, 1), target.flatten(), ignore_index=IGNORED)

    def judge(self, model: nn.Module, split: str) -> float:
        right = count = 0
        with torch.no_grad():
            for characters, wanted in self._asked[split]:
                said, there = model.eval()(characters).argmax(-1), wanted != IGNORED
                right += int((said == wanted)[there].sum())
                count += int(there.sum())
        return right / count

    @cached_property
    def _asked(self) -> dict[str, list[Pair]]:
        most = 24 if self.quick else 2000
        return {split: list(batches(drawn(phrases(split), most, 0))) for split in ("validation", "test")}
