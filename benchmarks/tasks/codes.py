"""Distorted letters and digits read by ddddocr's published network: convolutions, a bidirectional LSTM, and classes.

Weights of the package ``ddddocr``, of a network as in Shi, Bai and Yao, "An End-to-End Trainable Neural Network for
Image-based Sequence Recognition", TPAMI 2017. Pictures are drawn here.
"""

from __future__ import annotations

import ast
import string
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.tasks.converted import converted
from benchmarks.tasks.lines import distance, fonts
from benchmarks.tasks.packages import file
from benchmarks.tasks.pretrained import Pretrained, drawn, split_of
from benchmarks.tasks.task import each_output

MODEL = "ddddocr/common.onnx"
LAST = "208"
"""What the convolutions give is called so in the file."""
LSTM_NAMES = ("498", "499", "497")
"""Weights of inputs and of states, and biases: [directions, ...], their gates in ONNX's order."""
CLASSES = ("135", "136")
HEIGHT, WIDTH = 64, 160
LETTERS = sorted((set(string.ascii_letters) | set(string.digits)) - set("0OoIl1"))
COUNT = 6000


class Reader(nn.Module):
    """Pictures to classes along their width."""

    def __init__(self, convolutions: nn.Module) -> None:
        super().__init__()
        self.convolutions = convolutions
        self.lstm = nn.LSTM(512, 512, bidirectional=True)
        self.fc = nn.Linear(1024, 8210)

    def forward(self, pictures: Tensor) -> Tensor:
        """[b, 1, 64, w] -> [w / 8, b, 8210]."""
        columns = self.convolutions(pictures).permute(3, 0, 1, 2).flatten(2)
        scores: Tensor = self.fc(self.lstm(columns)[0])
        return scores


def reader() -> Reader:
    """With the published weights."""
    import onnx

    path = file(MODEL)
    with TemporaryDirectory() as folder:
        part = Path(folder) / "convolutions.onnx"
        onnx.utils.extract_model(str(path), str(part), ["input1"], [LAST])
        model = Reader(converted(part))
    known = {w.name: torch.tensor(onnx.numpy_helper.to_array(w)) for w in onnx.load(str(path)).graph.initializer}
    weights, states, biases = (_gates(known[name]) for name in LSTM_NAMES)
    for direction, suffix in enumerate(("", "_reverse")):
        own, other = biases[direction].chunk(2)
        made = {"weight_ih": weights[direction], "weight_hh": states[direction], "bias_ih": own, "bias_hh": other}
        for name, value in made.items():
            getattr(model.lstm, f"{name}_l0{suffix}").data.copy_(value)
    model.fc.weight.data.copy_(known[CLASSES[0]])
    model.fc.bias.data.copy_(known[CLASSES[1]])
    return model.eval()


def _gates(weight: Tensor) -> Tensor:
    """Input, output, forget and cell gates in torch's order, which has the output gate last; biases are two sets."""
    sets = weight.shape[1] // 2048
    gates = weight.reshape(len(weight), sets, 4, 512, *weight.shape[2:])
    return gates[:, :, [0, 2, 3, 1]].reshape(weight.shape)


@cache
def characters() -> tuple[str, ...]:
    """What the classes mean, the first being no character."""
    text = file("ddddocr/charsets.py").read_text(encoding="utf-8")
    assigned = {node.targets[0].id: node.value for node in ast.parse(text).body if isinstance(node, ast.Assign)}  # type: ignore[attr-defined]
    return tuple(ast.literal_eval(assigned["CHARSET_BETA"]))


@cache
def codes(split: str) -> tuple[str, ...]:
    """Four to six random letters and digits; none that look like others."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(len(LETTERS), (COUNT, 6), generator=generator).tolist()
    lengths = torch.randint(4, 7, (COUNT,), generator=generator).tolist()
    found = ("".join(LETTERS[n] for n in row[:length]) for row, length in zip(numbers, lengths, strict=True))
    return tuple(code for code in dict.fromkeys(found) if split_of(code) == split)


def picture(code: str, generator: torch.Generator) -> Tensor:
    """Characters that are shifted, turned and crossed out, black 0 to white 1: [1, 64, 160]."""
    from PIL import Image, ImageDraw, ImageFont

    def any_of(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    page = Image.new("L", (WIDTH, HEIGHT), int(any_of(200, 255)))
    font = ImageFont.truetype(str(fonts()[int(any_of(0, len(fonts())))]), int(any_of(30, 38)))
    step, ink = (WIDTH - 16) / len(code), int(any_of(0, 110))
    for place, character in enumerate(code):
        mask = Image.new("L", (48, 56), 0)
        ImageDraw.Draw(mask).text((10, 4), character, fill=255, font=font)
        mask = mask.rotate(any_of(-20, 20), Image.Resampling.BILINEAR)
        page.paste(ink, (int(place * step + any_of(-2, 2)), int(any_of(0, 10))), mask)
    lines = ImageDraw.Draw(page)
    for _ in range(3):
        ends = [(any_of(0, WIDTH), any_of(0, HEIGHT)) for _ in range(2)]
        lines.line(ends, fill=int(any_of(60, 160)), width=1)
    return torch.from_numpy(np.asarray(page, dtype=np.float32) / 255)[None]


def pictures(chosen: Sequence[str], seed: int) -> Tensor:
    """[n, 1, 64, 160]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([picture(code, generator) for code in chosen])


class Codes(Pretrained):
    """Read codes; the metric is the share of their characters that need no correction, of whatever case."""

    name = "codes-ddddocr"
    metric: ClassVar[str] = "characters right"
    share = 0.7
    package = (MODEL, "onnx2torch/converter.py")

    def fresh(self) -> nn.Module:
        return reader()

    @property
    def example_inputs(self) -> Tensor:
        return self.calibration(1, 0)[0]

    def calibration(self, samples: int, seed: int) -> list[Tensor]:
        return list(pictures(drawn(codes("training"), samples, seed), seed).split(32))

    @staticmethod
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output.flatten(0, 1), target.flatten())

    def judge(self, model: nn.Module, split: str) -> float:
        chosen, images = self._asked[split]
        classes = each_output(model, images.split(32), lambda m, x: m(x).argmax(-1).T)
        rows = [torch.unique_consecutive(row).tolist() for row in classes]
        found = ["".join(characters()[c] for c in row).lower() for row in rows]
        pairs = zip(found, chosen, strict=True)
        wrong = [min(distance(read, code.lower()), len(code)) for read, code in pairs]
        return 1 - sum(wrong) / sum(map(len, chosen))

    @cached_property
    def _asked(self) -> dict[str, tuple[list[str], Tensor]]:
        chosen = {split: drawn(codes(split), 8 if self.quick else 256, 0) for split in ("validation", "test")}
        return {split: (some, pictures(some, 0)) for split, some in chosen.items()}
