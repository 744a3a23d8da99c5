"""A seed makes a program: the source of a network, example inputs, and what is asked of the plan."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from tests.random_networks import algebra, images, published_images, published_tokens, tokens, vectors  # noqa: F401  (registered)
from tests.random_networks.writer import BLOCKS, Facts, Layer, Value

IMPORTS = """\
import functools
import math
import types

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
"""


@dataclass(frozen=True)
class Program:
    """A network as a source.

    Attributes:
        source: defines ``Network`` and ``example(batch)``, a tuple or dict of inputs.
        options: the arguments of ``graph.plan``.
        facts: what the checks must know.
        blocks: the names of its blocks.
    """

    seed: int
    source: str
    options: dict[str, Any]
    facts: Facts
    blocks: tuple[str, ...]


@dataclass
class _Writer:
    """The source while it is written; ``value`` is the tensor ``x`` of the network's ``forward``."""

    rng: random.Random
    facts: Facts = field(default_factory=Facts)
    smooth: bool = True
    classes: list[str] = field(default_factory=list)
    init: list[str] = field(default_factory=list)
    forward: list[str] = field(default_factory=list)
    blocks: list[str] = field(default_factory=list)
    kept: dict[str, Value] = field(default_factory=dict)
    value: Value = field(default_factory=lambda: Value("image", 3))

    # ------------------------------------------------------------ inputs

    def start(self) -> tuple[str, str]:
        """Write what makes the inputs a tensor ``x``; the arguments of ``forward``, and the example inputs."""
        kind = self.rng.choice(["image"] * 5 + ["ids"] * 4 + ["tokens", "vector", "series", "volume"])
        example = getattr(self, f"_start_{kind}")()
        if self.rng.random() < 0.2:
            return self._second(example)
        return "x", example

    def _start_image(self) -> str:
        width, size = self.rng.choice([4, 6, 8]), self.rng.choice([4, 4, 8])
        self.init.append(f"self.stem = nn.Conv2d(3, {width}, 3, padding=1)")
        self.forward.append("x = self.stem(x)")
        self.value = Value("image", width, size)
        return f"torch.randn(batch, 3, {size}, {size}, generator=g)"

    def _start_volume(self) -> str:
        self.init.append("self.stem = nn.Conv3d(2, 4, 1)")
        self.forward.append("x = self.stem(x)")
        self.value = Value("volume", 4, 3)
        return "torch.randn(batch, 2, 3, 3, 3, generator=g)"

    def _start_series(self) -> str:
        self.init.append("self.stem = nn.Conv1d(2, 6, 3, padding=1)")
        self.forward.append("x = F.relu(self.stem(x))")
        self.value = Value("series", 6, 8)
        return "torch.randn(batch, 2, 8, generator=g)"

    def _start_ids(self) -> str:
        width, length = self.rng.choice([6, 8, 12]), self.rng.choice([4, 5, 6])
        self.init.append(f"self.embed = nn.Embedding(11, {width})")
        self.forward.append(
            self.rng.choice(
                [
                    "x = self.embed(x)",
                    "x = self.embed(x)",
                    "x = self.embed.weight[x]",
                    "x = F.embedding(x, self.embed.weight)",
                ]
            )
        )
        if self.rng.random() < 0.4:
            self.init.append(f"self.positions = nn.Embedding(16, {width})")
            self.forward.append("x = x + self.positions(torch.arange(x.shape[1]))")
        self.value = Value("tokens", width, length)
        return f"torch.randint(11, (batch, {length}), generator=g)"

    def _start_tokens(self) -> str:
        self.init.append("self.enter = nn.Linear(5, 8)")
        self.forward.append("x = self.enter(x)")
        self.value = Value("tokens", 8, 4)
        return "torch.randn(batch, 4, 5, generator=g)"

    def _start_vector(self) -> str:
        self.init.append("self.enter = nn.Linear(7, 8)")
        self.forward.append("x = torch.tanh(self.enter(x))")
        self.value = Value("vector", 8)
        return "torch.randn(batch, 7, generator=g)"

    def _second(self, example: str) -> tuple[str, str]:
        """Another input: a condition, or a second one of the same kind through the same layers."""
        at = {
            "image": "[:, :, None, None]",
            "tokens": "[:, None]",
            "vector": "",
            "series": "[..., None]",
            "volume": "[:, :, None, None, None]",
        }
        if self.rng.random() < 0.6:
            self.init.append(f"self.condition = nn.Linear(3, {self.value.channels})")
            self.forward.append("if c is not None:")
            self.forward.append(f"    x = x {self.rng.choice('+*')} self.condition(c){at[self.value.kind]}")
            arguments = self.rng.choice(["x, c", "x, c=None"])
            return arguments, f"{example}, torch.randn(batch, 3, generator=g)"
        first = [line.replace("x", "z") if "torch" not in line else "" for line in self.forward]
        if "" in first or any("shape" in line for line in first):
            return "x", example
        first = [
            line.replace("x = ", "z = ").replace("(x)", "(z)").replace("[x]", "[z]").replace("(x,", "(z,")
            for line in self.forward
        ]
        self.forward += [
            *first,
            self.rng.choice(["x = x + z", "x = (x - z).abs()", "x = x * z", "x = torch.maximum(x, z)"]),
        ]
        return "x, z", f"{example}, {example}"

    # ------------------------------------------------------------ blocks

    def add(self, name: str) -> None:
        """Write a block, and its call."""
        before, number = self.value, len(self.blocks)
        layer = Layer(f"Block{number}", self.rng, self.facts, smooth=self.smooth)
        self.value = BLOCKS[before.kind][name](layer, before)
        self.blocks.append(name)
        self.classes.append(layer.source())
        self.init.append(f"self.b{number} = Block{number}()")
        again = self.value == before and self.rng.random() < 0.12
        self.forward += [f"x = self.b{number}(x)"] * (1 + again)
        self._skip(number)

    def _skip(self, number: int) -> None:
        """Keep a tensor for later, or join one that was kept."""
        for name, value in list(self.kept.items()):
            if (value.kind, value.length) != (self.value.kind, self.value.length) or self.rng.random() < 0.4:
                continue
            del self.kept[name]
            if value == self.value and self.rng.random() < 0.7:
                self.forward.append(f"x = x + {name}")
                continue
            dim = 2 if value.kind == "tokens" else 1
            self.forward.append(f"x = torch.cat([x, {name}], dim={dim})")
            self.value = self.value.with_channels(self.value.channels + value.channels)
        if self.rng.random() < 0.25 and len(self.kept) < 2:
            self.kept[f"skip{number}"] = self.value
            self.forward.append(f"skip{number} = x")

    # ------------------------------------------------------------ outputs

    def finish(self) -> None:
        """Write the last layer, and what is returned."""
        value = self.value
        c = value.channels
        if value.kind == "vector":
            self.init.append(f"self.head = nn.Linear({c}, 5)")
            self.forward.append("x = self.head(x)")
        elif value.kind == "tokens":
            tied = any("nn.Embedding(11," in line for line in self.init) and self.init[0].endswith(f", {c})")
            self.init.append(f"self.head = nn.Linear({c}, 11, bias=False)")
            if tied and self.rng.random() < 0.5:
                self.init.append("self.head.weight = self.embed.weight")
            self.forward.append("x = self.head(x)")
        elif self.rng.random() < 0.8:
            dims = {"image": 2, "series": 1, "volume": 3}[value.kind]
            self.init.append(f"self.head = nn.Conv{dims}d({c}, 4, 1)")
            self.forward.append("x = self.head(x)")
        self._result()

    def _result(self) -> None:
        results = ["x"] * 6 + ["(x, x.mean())", "{'out': x}", "[x, x * 2]", "(x, {'again': x.softmax(-1)})", "x, None"]
        if self.kept and self.rng.random() < 0.3:
            name = next(iter(self.kept))
            self.forward.append(f"return x, {name}")
        else:
            self.forward.append(f"return {self.rng.choice(results)}")

    def source(self, arguments: str, example: str) -> str:
        """The whole program."""
        lines = [
            IMPORTS,
            *self.classes,
            "",
            "class Network(nn.Module):",
            "    def __init__(self):",
            "        super().__init__()",
        ]
        lines += [f"        {line}" for line in self.init]
        lines += ["", f"    def forward(self, {arguments}):", *(f"        {line}" for line in self.forward), ""]
        lines += ["", "def example(batch):", "    g = torch.Generator().manual_seed(1)", f"    return ({example},)", ""]
        return "\n".join(lines)


def options_of(rng: random.Random) -> dict[str, Any]:
    """Arguments of a plan."""
    asked: dict[str, Any] = {"importance": rng.choice(["random", "random", "l2", "l1"]), "seed": rng.randrange(4)}
    way = rng.randrange(10)
    if way < 6:
        asked["ratio"] = rng.choice([0.25, 0.34, 0.5, 0.5, 0.7, 0.9])
        if rng.random() < 0.2:
            asked["allocation"] = rng.choice(["global", "isomorphic"])
    elif way < 8:
        asked[rng.choice(["macs", "params"])] = rng.choice([0.3, 0.5, 0.7, 0.9])
    elif way == 8:
        asked |= {"ratio": 0.5, "head_width": 0.5}
    else:
        asked |= {"ratio": 0.3, rng.choice(["heads", "mlp", "width"]): 0.5}
    if rng.random() < 0.15:
        asked["multiple"] = 2
    if rng.random() < 0.1:
        asked["protect_ends"] = True
    return asked


def program_of(seed: int, most: int = 5) -> Program:
    """The program of a seed, of at most so many blocks."""
    rng = random.Random(seed)
    writer = _Writer(rng, smooth=rng.random() < 0.6)
    arguments, example = writer.start()
    walks = rng.random() < 0.25
    for _ in range(rng.randint(1, most)):
        names = list(BLOCKS[writer.value.kind])
        writer.add(rng.choice([name for name in names if name.startswith("walk")] * walks or names))
    writer.finish()
    return Program(seed, writer.source(arguments, example), options_of(rng), writer.facts, tuple(writer.blocks))
