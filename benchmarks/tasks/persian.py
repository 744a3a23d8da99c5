"""Persian letters to phonemes, by the published LSTMs of g2p_fa: two layers that read, and two that write.

Weights of the package ``g2p_fa``, words of the package ``hazm``. Vowels are not written in Persian, so that there is no
right answer in the words; the network is asked for those of the dense one.
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.tasks.packages import file
from benchmarks.tasks.pretrained import Pretrained, drawn, split_of

LETTERS = "ءآئابتثجحخدذرزسشصضطظعغفقلمنهوُِپچژکگی"
MARKS = 3
"""Numbers of letters and phonemes begin with nothing, a word's beginning and its end."""
START, END = 1, 2
PLACES = 30
"""To so many places a word is filled up, as the network was trained."""
LONGEST = 24
"""Phonemes of a word."""
LENGTHS = range(3, 11)
COMMON = 1000
"""Words are as frequent as this, of some hundred million."""

Words = tuple[Tensor, Tensor]
"""Words: letters [t, b] and the phonemes before each that is asked for [s, b]."""


class Half(nn.Module):
    """Symbols embedded and read by two layers."""

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, 40)
        self.rnn = nn.LSTM(40, 256, 2)


class Decoder(Half):
    """Its outputs are scores of symbols."""

    def __init__(self, symbols: int) -> None:
        super().__init__(symbols)
        self.fc_out = nn.Linear(256, symbols)


class Speller(nn.Module):
    """The second network begins with the first one's states; layers are called as in the published weights."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Half(41)
        self.decoder = Decoder(33)

    def forward(self, letters: Tensor, phonemes: Tensor) -> Tensor:
        """[t, b] and [s, b] -> [s, b, 33]: what follows each phoneme."""
        states = self.encoder.rnn(self.encoder.embedding(letters))[1]
        outputs = self.decoder.rnn(self.decoder.embedding(phonemes), states)[0]
        scores: Tensor = self.decoder.fc_out(outputs)
        return scores

    def spell(self, letters: Tensor) -> Tensor:
        """[t, b] -> [24, b]: the likeliest phoneme after each; what follows the end means nothing."""
        states = self.encoder.rnn(self.encoder.embedding(letters))[1]
        phoneme, found = torch.full((1, letters.shape[1]), START), []
        for _ in range(LONGEST):
            outputs, states = self.decoder.rnn(self.decoder.embedding(phoneme), states)
            phoneme = self.decoder.fc_out(outputs).argmax(-1)
            found.append(phoneme)
        return torch.cat(found)


@cache
def words(split: str) -> tuple[str, ...]:
    """Frequent words of letters that the network knows, in order of the alphabet."""
    lines = file("hazm/data/words.dat").read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines)
    common = (row[0] for row in rows if len(row) == 3 and row[1].isdigit() and int(row[1]) >= COMMON)
    known = set(LETTERS)
    return tuple(sorted(w for w in common if len(w) in LENGTHS and set(w) <= known and split_of(w) == split))


def numbers(chosen: list[str]) -> Tensor:
    """Words as the encoder takes them: [30, b]."""
    rows = [[START, *(LETTERS.index(letter) + MARKS for letter in word), END] for word in chosen]
    return torch.tensor([row + [0] * (PLACES - len(row)) for row in rows]).T


def spelled(model: nn.Module, letters: Tensor) -> list[list[int]]:
    """The phonemes of each word, up to its end."""
    assert isinstance(model, Speller)
    with torch.no_grad():
        found = model.spell(letters).T.tolist()
    return [word[: word.index(END)] if END in word else word for word in found]


class Persian(Pretrained):
    """Pronounce words as the dense network does; the metric is how many have all phonemes the same."""

    name = "phonemes-g2p-fa"
    metric: ClassVar[str] = "same words"
    share = 0.7
    package = ("g2p_fa/data/weights", "hazm/data/words.dat")

    def fresh(self) -> nn.Module:
        model = Speller()
        model.load_state_dict(torch.load(file("g2p_fa/data/weights"), map_location="cpu", weights_only=True))
        return model

    @property
    def example_inputs(self) -> Words:
        return self.calibration(2, 0)[0]

    def calibration(self, samples: int, seed: int) -> list[Words]:
        """Words with as many phonemes together; the phonemes are those of the dense network."""
        chosen = drawn(words("training"), samples, seed)
        groups: dict[int, list[tuple[str, list[int]]]] = {}
        for word, phonemes in zip(chosen, spelled(self._dense, numbers(chosen)), strict=True):
            groups.setdefault(len(phonemes), []).append((word, phonemes))
        return [
            (numbers([word for word, _ in group]), torch.tensor([[START, *phonemes] for _, phonemes in group]).T)
            for _, group in sorted(groups.items())
        ]

    @staticmethod
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output.flatten(0, 1), target.flatten())

    def judge(self, model: nn.Module, split: str) -> float:
        chosen, wanted = self._wanted[split]
        found = spelled(model, numbers(chosen))
        return sum(a == b for a, b in zip(found, wanted, strict=True)) / len(chosen)

    @cached_property
    def _wanted(self) -> dict[str, tuple[list[str], list[list[int]]]]:
        """All words of a split: of a few hundred the standard error would be more than what tells criteria apart."""
        chosen = {split: list(words(split)) for split in ("validation", "test")}
        some = {split: drawn(found, 24, 0) if self.quick else found for split, found in chosen.items()}
        return {split: (found, spelled(self._dense, numbers(found))) for split, found in some.items()}

    @cached_property
    def _dense(self) -> nn.Module:
        return self.fresh().eval()
