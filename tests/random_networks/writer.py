"""How the source of a random network is put together: values, modules, and sizes in the many ways people write them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

Kind = Literal["image", "tokens", "vector", "series", "volume"]
CHANNEL: dict[Kind, int] = {"image": 1, "tokens": 2, "vector": 1, "series": 1, "volume": 1}
"""The channel dimension of each kind of tensor: [b, c, h, w], [b, t, c], [b, c], [b, c, t], [b, c, d, h, w]."""


@dataclass(frozen=True)
class Value:
    """A tensor of the program.

    Attributes:
        kind: what its dimensions are.
        channels: how many channels it has.
        length: its extent in every other dimension but the batch.
    """

    kind: Kind
    channels: int
    length: int = 1

    def with_channels(self, channels: int) -> Value:
        return replace(self, channels=channels)


@dataclass
class Facts:
    """What the checks must know of a program.

    Attributes:
        mixes: channels are combined by a statistic other than a sum of products with weights.
        contracts: activations are multiplied and summed over channels: exact where removed channels are 0.
        offsets: somewhere a channel that is 0 does not stay 0.
        rounds: numbers are rounded to float32, whatever the type of the model.
    """

    mixes: bool = False
    contracts: bool = False
    offsets: bool = False
    rounds: bool = False


@dataclass
class Layer:
    """A class that is being written: ``forward`` gets a tensor ``x`` and returns ``x``.

    Attributes:
        init: the lines of ``__init__``.
        forward: the lines of ``forward``.
        helpers: lines at module level that it needs.
        rng: decides everything.
        facts: what is known of the whole program.
    """

    name: str
    rng: random.Random
    facts: Facts
    init: list[str] = field(default_factory=list)
    forward: list[str] = field(default_factory=list)
    helpers: list[str] = field(default_factory=list)
    smooth: bool = True

    def __post_init__(self) -> None:
        self._used = 0

    # ------------------------------------------------------------ choices

    def pick(self, *options: str) -> str:
        return self.rng.choice(options)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def width(self) -> int:
        """A number of channels."""
        return self.rng.choice([4, 6, 8, 8, 10, 12])

    def fresh(self, stem: str) -> str:
        """A name that is not used yet."""
        self._used += 1
        return f"{stem}{self._used}"

    # ------------------------------------------------------------ lines

    def line(self, *lines: str) -> None:
        """Add statements to ``forward``; a line may hold several."""
        self.forward += [line for several in lines for line in several.replace("; ", "\n").split("\n")]

    def module(self, stem: str, expression: str) -> str:
        """Add a submodule; the expression that reaches it."""
        name = self.fresh(stem)
        self.init.append(f"self.{name} = {expression}")
        return f"self.{name}"

    def attribute(self, stem: str, expression: object) -> str:
        return self.module(stem, str(expression))

    def parameter(self, stem: str, *shape: int) -> str:
        sizes = ", ".join(map(str, shape))
        return self.module(stem, f"nn.Parameter(torch.randn({sizes}))")

    def buffer(self, stem: str, expression: str) -> str:
        name = self.fresh(stem)
        self.init.append(f"self.register_buffer({name!r}, {expression})")
        return f"self.{name}"

    # ------------------------------------------------------------ sizes

    def size(self, variable: str, dim: int, value: int, rank: int) -> str:
        """An expression for a size of a tensor that is ``value``."""
        ways = [
            f"{variable}.shape[{dim}]",
            f"{variable}.size({dim})",
            f"{variable}.shape[{dim - rank}]",
            f"{variable}.size()[{dim}]",
        ]
        rare: list[Callable[[], str]] = [
            lambda: self.attribute("dim", value),
            lambda: self.config(value),
            lambda: f"int({variable}.shape[{dim}])",
            lambda: str(value),
            lambda: f"{variable}.shape[{dim}] * 2 // 2",
            lambda: f"list({variable}.shape)[{dim}]",
        ]
        return self.rng.choice(rare)() if self.chance(0.35) else self.pick(*ways)

    def config(self, value: int) -> str:
        """A size that is kept in a dict, a namespace or a tuple."""
        name = self.fresh("cfg")
        way = self.rng.randrange(3)
        if way == 0:
            self.init.append(f"self.{name} = {{'dim': {value}}}")
            return f"self.{name}['dim']"
        if way == 1:
            self.init.append(f"self.{name} = types.SimpleNamespace(dim={value})")
            return f"self.{name}.dim"
        self.init.append(f"self.{name} = ({value}, 1)")
        return f"self.{name}[0]"

    def constant(self, value: int) -> str:
        """A number that the user chose (heads, parts): an attribute, a config, or a literal."""
        return (
            self.attribute("n", value) if self.chance(0.6) else self.config(value) if self.chance(0.5) else str(value)
        )

    # ------------------------------------------------------------ activations

    def activation(self, expression: str) -> str:
        """An activation of an expression."""
        keeps_zero = [
            "F.relu({})",
            "torch.relu({})",
            "F.gelu({})",
            "torch.tanh({})",
            "F.silu({})",
            "F.leaky_relu({}, 0.1)",
            "{}.relu()",
            "{}.clamp(min=0)",
            "F.hardswish({})",
            "F.elu({})",
            "F.relu6({})",
        ]
        moves_zero = ["torch.sigmoid({})", "F.softplus({})", "torch.cos({})", "({} + 1.0)", "F.hardsigmoid({})"]
        if not self.smooth and self.chance(0.3):
            self.facts.offsets = True
            return self.pick(*moves_zero).format(expression)
        if self.chance(0.3):
            kind = self.pick("nn.ReLU()", "nn.GELU()", "nn.SiLU()", "nn.Hardswish()", "nn.LeakyReLU(0.2)", "nn.Mish()")
            return f"{self.module('act', kind)}({expression})"
        return self.pick(*keeps_zero).format(expression)

    def gate(self, expression: str) -> str:
        """Something that scales: it is multiplied with a value."""
        return self.pick("torch.sigmoid({})", "{}.sigmoid()", "F.hardsigmoid({})", "torch.tanh({})").format(expression)

    def source(self) -> str:
        """The class."""
        init = ["super().__init__()", *self.init]
        forward = [*self.forward, "return x"]
        if any("x.view(" in line for line in forward):
            forward.insert(0, "x = x.contiguous()")
        lines = [*self.helpers, "", f"class {self.name}(nn.Module):", "    def __init__(self):"]
        lines += [f"        {line}" for line in init]
        lines += ["", "    def forward(self, x):"]
        return "\n".join([*lines, *(f"        {line}" for line in forward), ""])


Block = Callable[[Layer, Value], Value]
"""Writes a layer that reads ``x``; what it returns."""
BLOCKS: dict[Kind, dict[str, Block]] = {kind: {} for kind in CHANNEL}


def block(*kinds: Kind) -> Callable[[Block], Block]:
    """Register a block by the kinds of tensors that it reads."""

    def register(function: Block) -> Block:
        for kind in kinds:
            BLOCKS[kind][function.__name__] = function
        return function

    return register


def divisors(number: int, most: int = 6) -> Sequence[int]:
    return [d for d in range(1, most + 1) if number % d == 0]
