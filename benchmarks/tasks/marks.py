"""The vowel marks of Arabic, by the published network of arabic-diacritizer, judged by the marks that texts have.

Weights and texts of the package ``arabic-diacritizer`` (2026): a bidirectional LSTM of three layers, and Bahdanau,
Cho and Bengio's attention ("Neural Machine Translation by Jointly Learning to Align and Translate", ICLR 2015).
"""

from __future__ import annotations

import gzip
import json
import unicodedata
from collections.abc import Sequence
from functools import cache, cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.tasks.packages import file
from benchmarks.tasks.pretrained import Pretrained, drawn, split_of
from benchmarks.tasks.task import each_output

FATHA, DAMMA, KASRA, SUKUN, SHADDA, FATHATAN, DAMMATAN, KASRATAN = "\u064e\u064f\u0650\u0652\u0651\u064b\u064c\u064d"
VOWELS = (FATHA, DAMMA, KASRA, FATHATAN, DAMMATAN, KASRATAN)
LABELS = ("", FATHA, DAMMA, KASRA, SUKUN, SHADDA, *VOWELS[3:], *(SHADDA + vowel for vowel in VOWELS))
"""The marks of one letter, by the network's classes."""
LETTERS = "ءآأؤإئابةتثجحخدذرزسشصضطظعغـفقكلمنهوي"
CHARACTERS = LETTERS + " .,،؛:؟!()-\"'\n"
SPECIAL = 4
"""Numbers of characters begin after so many that are none."""
LENGTH = 48
"""Characters of a text, the first ones of a sentence."""

Marked = tuple[str, tuple[str, ...]]
"""Characters without marks, and the marks of each."""


class Attention(nn.Module):
    """Each place gets the mean of all, weighted by how well they go with it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.W = nn.Linear(width, width, bias=False)
        self.U = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[b, t, width] -> [b, t, width]."""
        scores = self.v(torch.tanh(self.W(x).unsqueeze(2) + self.U(x).unsqueeze(1))).squeeze(-1)
        return torch.bmm(scores.softmax(-1), x)


class Marker(nn.Module):
    """Characters to the marks of each; the layers are called as in the published weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SPECIAL + len(CHARACTERS), 128, padding_idx=0)
        self.lstm = nn.LSTM(128, 256, num_layers=3, batch_first=True, bidirectional=True)
        self.attention = Attention(512)
        self.classifier = nn.Linear(512, len(LABELS))

    def forward(self, characters: Tensor) -> Tensor:
        """[b, t] -> [b, t, 15]."""
        scores: Tensor = self.classifier(self.attention(self.lstm(self.embedding(characters))[0]))
        return scores


def parted(text: str) -> Marked:
    """A text without its marks, and the marks of each character; a doubled letter is marked so first."""
    letters, marks = "", []
    for character in unicodedata.normalize("NFKC", text):
        if character not in LABELS[1:9]:
            letters += character
            marks.append("")
        elif marks:
            marks[-1] = SHADDA + marks[-1] if character == SHADDA else marks[-1] + character
    return letters, tuple(marks)


@cache
def texts(split: str) -> tuple[Marked, ...]:
    """The beginnings of sentences in which the network knows all characters, and most letters have marks."""
    known = json.loads(gzip.decompress(file("diacritize/assets/word_cache.json.gz").read_bytes()))["sentences"]
    marked = {next(iter(spellings.values())) for spellings in known.values()}
    pairs = ((letters[:LENGTH], marks[:LENGTH]) for letters, marks in map(parted, sorted(marked)))
    whole = {letters: marks for letters, marks in pairs if len(letters) == LENGTH and _usable(letters, marks)}
    return tuple(pair for pair in whole.items() if split_of(pair[0]) == split)


def _usable(letters: str, marks: Sequence[str]) -> bool:
    return set(letters) <= set(CHARACTERS) and set(marks) <= set(LABELS) and marks.count("") < LENGTH / 2


def numbers(chosen: Sequence[Marked]) -> tuple[Tensor, Tensor, Tensor]:
    """Characters, their marks, and which are letters: [b, 48] each."""
    characters = [[CHARACTERS.index(c) + SPECIAL for c in letters] for letters, _ in chosen]
    labels = [[LABELS.index(mark) for mark in marks] for _, marks in chosen]
    there = [[c in LETTERS for c in letters] for letters, _ in chosen]
    return torch.tensor(characters), torch.tensor(labels), torch.tensor(there)


class Marks(Pretrained):
    """Mark letters; the metric is the share of letters that get the right marks."""

    name = "marks-arabic"
    metric: ClassVar[str] = "marks right"
    share = 0.7
    package = ("diacritize/assets/bilstm_best.pt", "diacritize/assets/word_cache.json.gz")

    def fresh(self) -> nn.Module:
        model = Marker()
        weights = file("diacritize/assets/bilstm_best.pt")
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        return model

    @property
    def example_inputs(self) -> Tensor:
        return self.calibration(1, 0)[0]

    def calibration(self, samples: int, seed: int) -> list[Tensor]:
        return list(numbers(drawn(texts("training"), samples, seed))[0].split(16))

    @staticmethod
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output.flatten(0, 1), target.flatten())

    def judge(self, model: nn.Module, split: str) -> float:
        characters, wanted, there = self._asked[split]
        found = each_output(model, characters.split(16), lambda m, x: m(x).argmax(-1))
        return (found == wanted)[there].float().mean().item()

    @cached_property
    def _asked(self) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        most = 8 if self.quick else 128
        return {split: numbers(drawn(texts(split), most, 0)) for split in ("validation", "test")}
