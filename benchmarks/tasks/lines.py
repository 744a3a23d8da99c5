"""Printed lines read by PaddleOCR's recognizer with its published weights.

Li et al., "PP-OCRv3: More Attempts for the Improvement of Ultra Lightweight OCR System", 2022, of whose recognizer
PP-OCRv4's is a successor (LCNet and two blocks of attention); weights of the package ``rapidocr-onnxruntime``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.tasks.converted import converted
from benchmarks.tasks.packages import file
from benchmarks.tasks.pretrained import Pretrained, drawn, split_of
from benchmarks.tasks.sentences import load
from benchmarks.tasks.task import each_output

MODEL = "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"
HEIGHT, WIDTH = 48, 320
LENGTHS = range(12, 25)
"""Characters of a line."""
FONTS = ("DejaVuSans", "DejaVuSansMono", "DejaVuSerif", "STIXGeneral")
STYLES = ("", "-Bold", "-Oblique", "-Italic", "Bol", "Italic")
"""What names of fonts end with; the fonts are those that Matplotlib brings."""


@cache
def characters() -> tuple[str, ...]:
    """What the classes of the network mean, the first being no character."""
    import onnx

    (found,) = (p.value for p in onnx.load(str(file(MODEL))).metadata_props if p.key == "character")
    return ("", *found.split("\n"), " ")


@cache
def fonts() -> tuple[Path, ...]:
    """The upright, bold and slanted fonts of four families."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    found = (folder / f"{family}{style}.ttf" for family in FONTS for style in STYLES)
    return tuple(path for path in found if path.exists())


@cache
def texts(split: str) -> tuple[str, ...]:
    """Words in a row out of docstrings of Python's standard library, of ASCII alone."""
    found = dict.fromkeys(line for sentence in (*load(True), *load(False)) for line in _lines(sentence))
    return tuple(line for line in found if split_of(line) == split)


def _lines(sentence: str) -> list[str]:
    """The sentence in pieces of whole words."""
    found, line = [], ""
    for word in sentence.split():
        longer = f"{line} {word}".strip()
        if len(longer) >= LENGTHS.stop:
            found.append(line)
            longer = word
        line = longer
    return [line for line in (*found, line) if len(line) in LENGTHS and line.isascii()]


def picture(text: str, font: Path, ink: int, paper: int) -> Tensor:
    """A line as the network takes it, black 0 to white 255 becoming -1 to 1: [3, 48, 320]."""
    from PIL import Image, ImageDraw, ImageFont

    written = ImageFont.truetype(str(font), 32)
    left, top, right, bottom = written.getbbox(text)
    page = Image.new("L", (int(right - left) + 16, int(bottom - top) + 12), paper)
    ImageDraw.Draw(page).text((8 - left, 6 - top), text, fill=ink, font=written)
    width = min(WIDTH, round(page.width * HEIGHT / page.height))
    pixels = np.asarray(page.resize((width, HEIGHT), Image.Resampling.BILINEAR), dtype=np.float32) / 127.5 - 1
    return F.pad(torch.from_numpy(pixels), (0, WIDTH - width)).expand(3, -1, -1)


def pictures(lines: Sequence[str], seed: int) -> Tensor:
    """Lines in random fonts, inks and papers: [n, 3, 48, 320]."""
    generator = torch.Generator().manual_seed(seed)
    which, dark, light = torch.rand(3, len(lines), generator=generator).tolist()
    shades = [(int(90 * d), int(255 - 90 * x)) for d, x in zip(dark, light, strict=True)]
    chosen = [fonts()[int(w * len(fonts()))] for w in which]
    return torch.stack([picture(*a, *b) for a, b in zip(zip(lines, chosen, strict=True), shades, strict=True)])


def read(model: nn.Module, images: Tensor) -> list[str]:
    """What the network reads: the likeliest classes, each run of equals once, without those that are none."""
    classes = each_output(model, images.split(16), lambda m, x: m(x).argmax(-1))
    return ["".join(characters()[c] for c in torch.unique_consecutive(row).tolist()) for row in classes]


def distance(found: str, wanted: str) -> int:
    """Levenshtein's: how many characters must be put in, taken out or changed."""
    row = list(range(len(wanted) + 1))
    for i, a in enumerate(found, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(wanted, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


class Lines(Pretrained):
    """Read rendered lines; the metric is the share of their characters that need no correction."""

    name = "lines-ppocr"
    metric: ClassVar[str] = "characters right"
    share = 0.7
    package = (MODEL, "onnx2torch/converter.py")

    def fresh(self) -> nn.Module:
        return converted(file(MODEL))

    @property
    def example_inputs(self) -> Tensor:
        return self.calibration(1, 0)[0]

    def calibration(self, samples: int, seed: int) -> list[Tensor]:
        return list(pictures(drawn(texts("training"), samples, seed), seed).split(16))

    @staticmethod
    def loss(output: Tensor, target: Tensor) -> Tensor:
        """The cross-entropy of each place; the output [b, t, classes] is of probabilities."""
        return F.nll_loss(output.flatten(0, 1).clamp_min(1e-9).log(), target.flatten())

    def judge(self, model: nn.Module, split: str) -> float:
        lines, images = self._asked[split]
        wrong = [min(distance(found, line), len(line)) for found, line in zip(read(model, images), lines, strict=True)]
        return 1 - sum(wrong) / sum(map(len, lines))

    @cached_property
    def _asked(self) -> dict[str, tuple[list[str], Tensor]]:
        chosen = {split: drawn(texts(split), 4 if self.quick else 96, 0) for split in ("validation", "test")}
        return {split: (lines, pictures(lines, 0)) for split, lines in chosen.items()}
