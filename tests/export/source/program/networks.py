"""Networks. Each is called with the example that stands in EXAMPLES, images [2, 3, 16, 16] if there is none."""

# ruff: noqa: B905, B008, UP031

import argparse
import functools
import math
import operator
import types
from abc import ABC, abstractmethod
from collections import OrderedDict
from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Conv2d, init
from torch.nn.functional import gelu as smooth

from . import helpers, settings
from .helpers import Attention as Gate
from .helpers import Swish, scale, shifted
from .settings import MEAN, SCALES, Config, Mode, Pair

SLOPE = 0.2
_TABLE = [1, 2, 3]
_ACTIVATIONS = {"relu": F.relu, "swish": Swish()}


class Base(nn.Module):
    """A convolution, pooling and a classifier."""

    def __init__(self, width=8):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.fc = nn.Linear(width, 5)

    def features(self, x):
        return F.relu(self.conv(x))

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))


class Derived(Base):
    """Calls methods of its base class, with super and without."""

    def __init__(self):
        super().__init__(width=6)
        self.more = nn.Conv2d(6, 6, 1)

    def features(self, x):
        return self.more(super().features(x))


class DerivedTwice(Derived):
    def forward(self, x):
        return super().forward(x) * 2


class BaseAndDerived(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = Base(), Derived()

    def forward(self, x):
        return self.one(x) + self.two(x)


class GlobalConstants(Base):
    def forward(self, x):
        x = x - MEAN
        for factor in SCALES:
            x = x * factor
        return super().forward(x) * SLOPE * sum(_TABLE)


class HelperFunctions(Base):
    def features(self, x):
        return scale(shifted(self.conv(x))) + helpers.scale(x).mean() + settings.EPSILON


class AliasedImports(Base):
    def forward(self, x: Tensor | None = None) -> "Tensor | None":
        y = smooth(self.conv(x)) if isinstance(self.conv, Conv2d) else x
        return self.fc(functools.reduce(operator.add, [y, y]).mean(dim=(2, 3)) * math.pi)


class ListOfLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1) for i in range(5)])
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(5))

    def forward(self, x):
        for i, (layer, norm) in enumerate(zip(self.layers, self.norms)):
            x = F.leaky_relu(norm(layer(x)), SLOPE) + (x if i else 0)
        return x.amax((2, 3))


class DictOfLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleDict({"one": nn.Conv2d(3, 4, 1), "three": nn.Conv2d(3, 4, 3, padding=1)})
        self.order = ["three", "one"]
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(torch.cat([self.branches[name](x) for name in self.order], 1).mean((2, 3)))


class NamesOfLayers(nn.Module):
    """Layers under names that the program puts together."""

    def __init__(self):
        super().__init__()
        for i in range(3):
            setattr(self, f"conv{i}", nn.Conv2d(3, 3, 1))
            setattr(self, f"gain{i}", 1.0 + i)

    def forward(self, x):
        for i in range(3):
            x = getattr(self, f"conv{i}")(x) * getattr(self, "gain%d" % i)
        return x


class Properties(Base):
    def __init__(self):
        super().__init__()
        self._temperature = 2.0

    @property
    def temperature(self):
        return self._temperature * self.factor()

    @temperature.setter
    def temperature(self, value):
        self._temperature = value

    @staticmethod
    def factor():
        return 0.5

    @classmethod
    def offset(cls):
        return cls.shift

    @functools.cached_property
    def heavy(self):
        return math.e

    shift = 3.0

    def forward(self, x):
        return super().forward(x) / self.temperature + self.offset() * self.heavy


class WithConfig(nn.Module):
    def __init__(self, config: Config = Config()):
        super().__init__()
        self.config = config
        self.qkv = nn.Linear(16, 3 * config.width)
        self.out = nn.Linear(config.width, 4)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        y = F.leaky_relu(q * k, self.config.inner.slope)
        y = y + v if self.config.mode is Mode.ADD else y * v
        return self.out(y) / self.config.head_width


class WithEnum(Base):
    def __init__(self, mode=Mode.MULTIPLY):
        super().__init__()
        self.mode = mode

    def forward(self, x):
        y = super().forward(x)
        return y + 1 if self.mode == Mode.ADD else y * 3


class WithNamespace(Base):
    def __init__(self):
        super().__init__()
        self.args = argparse.Namespace(slope=0.3, unused=object(), deep=types.SimpleNamespace(gain=2))

    def forward(self, x):
        return F.leaky_relu(super().forward(x), self.args.slope) * self.args.deep.gain


class Settings:
    def __init__(self):
        self.slope = 0.25
        self.names = ["a", "b"]

    def to_dict(self):
        return vars(self)


class WithObject(Base):
    def __init__(self):
        super().__init__()
        self.settings = Settings()

    def forward(self, x):
        return F.leaky_relu(super().forward(x), self.settings.slope) * len(self.settings.names)


class NormLayer(nn.Module):
    """A norm layer given as a partial function, an activation as a class and as a function."""

    def __init__(self, norm=partial(nn.GroupNorm, 2, eps=1e-4), activation=nn.GELU, function=F.silu):
        super().__init__()
        self.conv, self.norm, self.activation = nn.Conv2d(3, 8, 3), norm(8), activation()
        self.function = function
        self.pool = partial(F.avg_pool2d, kernel_size=2)
        self.last = Swish

    def forward(self, x):
        return self.last()(self.pool(self.function(self.activation(self.norm(self.conv(x))))))


class LambdaAttribute(Base):
    def __init__(self):
        super().__init__()
        self.act = lambda x: torch.clamp(x, min=-0.1) * 2

    def features(self, x):
        return self.act(self.conv(x))


class OuterClass(nn.Module):
    class Block(nn.Module):
        def __init__(self, a, b):
            super().__init__()
            self.fc = nn.Linear(a, b)

        def forward(self, x):
            return self.fc(x).relu()

    def __init__(self):
        super().__init__()
        self.one, self.two = self.Block(3, 8), self.Block(8, 4)

    def forward(self, x):
        return self.two(self.one(x.mean((2, 3))))


class LocalClass(nn.Module):
    """Its layer's class is made within a function, with variables of that function."""

    def __init__(self):
        super().__init__()
        self.layer = _make_layer(0.7)

    def forward(self, x):
        return self.layer(x)


def _make_layer(slope):
    class Leaky(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return F.leaky_relu(self.conv(x), slope)

    return Leaky()


class SameNames(nn.Module):
    """Two classes with one name."""

    def __init__(self):
        super().__init__()
        self.gate, self.attention = Gate(16), Attention(16)

    def forward(self, x):
        return self.gate(x) + self.attention(x)


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        return F.scaled_dot_product_attention(x, x, self.proj(x))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.block = nn.Linear(8, 8)
        self.again = self.block
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.again(self.block(self.embed(x))))


class SharedLayers(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.Linear(16, 16)
        self.layers = nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), layer)

    def forward(self, x):
        return self.layers(x)


class Buffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 16)
        self.register_buffer("mask", torch.tril(torch.ones(16, 16)), persistent=False)
        self.register_buffer("steps", torch.tensor(3))
        self.register_buffer("none", None)
        self.table = torch.linspace(0, 1, 32)[:16]
        self.small = torch.tensor([1.0, 2.0])
        self.gain = nn.Parameter(torch.full((16,), 0.5))
        self.register_parameter("absent", None)

    def forward(self, x):
        y = self.fc(x) @ self.mask * self.steps + self.table
        return y * self.gain + self.small.sum() + (0 if self.absent is None and self.none is None else 1)


class Parameters(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList([torch.ones(16), torch.zeros(16)])
        self.named = nn.ParameterDict({"a": torch.ones(1), "b": torch.ones(16)})
        init.normal_(self.weights[0])

    def forward(self, x):
        return x * self.weights[0] + self.weights[1] + self.named["a"] * self.named["b"]


class Training(nn.Module):
    """Another output in training; its own train method."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 8)
        self.bn = nn.BatchNorm1d(8)
        self.aux = nn.Linear(8, 2)
        self.drop = nn.Dropout(0.3)

    def train(self, mode=True):
        super().train(mode)
        self.bn.eval()
        return self

    def forward(self, x):
        y = self.drop(self.bn(self.fc(x)))
        if self.training:
            return Pair(y, self.aux(y))
        return y


class AbstractBlock(nn.Module, ABC):
    @abstractmethod
    def act(self, x): ...

    def forward(self, x):
        return self.act(self.fc(x))


class ConcreteBlock(AbstractBlock):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 8)

    def act(self, x):
        return torch.tanh(x)


class Mixin:
    """No module itself."""

    factor = 4

    def boost(self, x):
        return x * self.factor


class WithMixin(Mixin, Base):
    def forward(self, x):
        return self.boost(super().forward(x))


class Tree(nn.Module):
    """Contains modules of its own class."""

    def __init__(self, depth=2):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.left = Tree(depth - 1) if depth else None
        self.right = Tree(depth - 1) if depth > 1 else None

    def forward(self, x):
        x = self.conv(x).relu()
        if self.left is not None:
            x = x + self.left(x)
        return x if self.right is None else x * self.right(x)


class Optional(nn.Module):
    """Blocks with and without some layers, of which the attribute is then missing."""

    class Block(nn.Module):
        def __init__(self, width, use_norm, stride=1):
            super().__init__()
            self.use_norm = use_norm
            self.conv = nn.Conv2d(width, width, 3, stride, 1)
            if use_norm:
                self.norm = nn.BatchNorm2d(width)
                self.scale = nn.Parameter(torch.ones(width, 1, 1))

        def forward(self, x):
            x = self.conv(x)
            return self.norm(x) * self.scale if self.use_norm else x

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.blocks = nn.Sequential(*[self.Block(8, i % 2 == 0, 1 + i // 2) for i in range(4)])

    def forward(self, x):
        return self.blocks(self.stem(x))


class EqualParts(nn.Module):
    """Blocks whose two halves are built alike, and yet are two."""

    class Block(nn.Module):
        def __init__(self, depth):
            super().__init__()
            self.one = nn.Sequential(*[nn.Linear(16, 16) for _ in range(depth)])
            self.two = nn.Sequential(*[nn.Linear(16, 16) for _ in range(depth)])

        def forward(self, x):
            return self.one(x) + self.two(x).tanh()

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(self.Block(1), self.Block(2), self.Block(1))

    def forward(self, x):
        return self.blocks(x)


class Variants(nn.Module):
    """Blocks with and without an expansion."""

    class Block(nn.Sequential):
        def __init__(self, width, expands):
            layers = [nn.Conv2d(width, 2 * width, 1), nn.ReLU()] if expands else []
            super().__init__(*layers, nn.Conv2d(width * (1 + expands), width, 1), nn.BatchNorm2d(width))

        def forward(self, x):
            return x + super().forward(x)

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.blocks = nn.Sequential(*[self.Block(8, i > 1) for i in range(5)])

    def forward(self, x):
        return self.blocks(self.stem(x))


class GivenAttributes(nn.Module):
    """Layers of torch that were given attributes, which are read."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Identity(), nn.Conv2d(8, 4, 1))
        self.layers.gain = 2.0
        for i, layer in enumerate(self.layers):
            layer.source = i

    def forward(self, x):
        for layer in self.layers:
            x = layer(x) + layer.source
        return x * self.layers.gain


class SequentialSubclass(nn.Sequential):
    def __init__(self, a, b, gain=1.0):
        super().__init__(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(inplace=True))
        self.gain = gain

    def forward(self, x):
        return super().forward(x) * self.gain


class UsesSequentialSubclass(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            OrderedDict(
                [
                    ("first", SequentialSubclass(3, 8)),
                    ("second", SequentialSubclass(8, 8, 2.0)),
                    ("third-1", nn.ReLU6()),
                ]
            )
        )

    def forward(self, x):
        return self.body(x)


class LayerSubclass(nn.Linear):
    """A layer of torch with another forward."""

    def forward(self, x):
        return F.linear(x, self.weight / self.weight.norm(), self.bias)


class UsesLayerSubclass(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = LayerSubclass(16, 8), LayerSubclass(8, 8, bias=False)

    def forward(self, x):
        return self.two(self.one(x))


class Decorated(Base):
    @torch.no_grad()
    def statistics(self, x):
        return x.std()

    @torch.jit.ignore
    def features(self, x):
        return super().features(x) / (1 + self.statistics(x))


class FunctionOfAutograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class StraightThrough(Base):
    def features(self, x):
        return FunctionOfAutograd.apply(self.conv(x))


class BoundMethod(Base):
    def __init__(self, kind="strong"):
        super().__init__()
        self.run = self._strong if kind == "strong" else self._weak

    def _strong(self, x):
        return self.features(x) * 2

    def _weak(self, x):
        return self.features(x)

    def forward(self, x):
        return self.run(x).mean((2, 3))


class ListOfReferences(nn.Module):
    """A plain list with layers that are also attributes."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.order = [self.two, self.one]

    def forward(self, x):
        for layer in self.order:
            x = layer(x)
        return x


class Dispatch(Base):
    """Looks things up in a global dictionary of functions."""

    def __init__(self):
        super().__init__()
        self.act = "relu"

    def features(self, x):
        return _ACTIVATIONS[self.act](self.conv(x))


class IsInstance(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 4, 1), Swish(), nn.MaxPool2d(2)])

    def forward(self, x):
        for layer in self.layers:
            if isinstance(layer, Gate):
                continue
            x = layer(x) if not isinstance(layer, Swish) else layer(x) + 1
        return x


class Strings(Base):
    def forward(self, x):
        assert x.dim() == 4, f"four dimensions, not {x.dim()}: {x.shape!r}"
        text = """
    kept as it is
"""
        return super().forward(x) * len(text)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(16, 8, num_layers=2, batch_first=True, dropout=0.2)
        self.cell = nn.LSTMCell(8, 4)

    def forward(self, x):
        y, _ = self.gru(x)
        h, _ = self.cell(y[:, -1])
        return h


class Attentive(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, dropout=0.1, batch_first=True, add_bias_kv=True)
        self.norm = nn.LayerNorm(16, bias=False)

    def forward(self, x):
        return self.norm(x + self.attention(x, x, x, need_weights=False)[0])


class Upsampling(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 8, 4, stride=2, padding=1, padding_mode="reflect", dilation=1)
        self.up = nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.resize = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.shuffle, self.act = nn.PixelShuffle(2), nn.PReLU(4)

    def forward(self, x):
        return self.shuffle(self.resize(self.act(self.up(self.down(x)))))


class Frozen(Base):
    def __init__(self):
        super().__init__()
        self.conv.requires_grad_(False)
        self.fc.bias.requires_grad = False


class HalfPrecision(Base):
    def __init__(self):
        super().__init__()
        self.to(torch.bfloat16)

    def forward(self, x):
        return super().forward(x.to(torch.bfloat16))


class MixedPrecision(Base):
    def __init__(self):
        super().__init__()
        self.fc.to(torch.float64)
        self.offset = nn.Parameter(torch.ones(5, dtype=torch.float64))

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)).double()) + self.offset


class WhileAndGlobals(Base):
    def forward(self, x):
        count = 0
        while count < len(settings.NAMES):
            x = x + settings.NAMES["second"]
            count += 1
        return super().forward(x)


class Generator(nn.Module):
    """Other public methods beside forward."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 20)

    def forward(self, tokens):
        return self.head(self.embed(tokens).cumsum(1))

    @torch.no_grad()
    def generate(self, tokens, steps=3):
        for _ in range(steps):
            tokens = torch.cat((tokens, self(tokens)[:, -1:].argmax(-1)), 1)
        return tokens


def _is_traced_elsewhere(x):
    if not hasattr(x, "elsewhere"):
        return False
    try:
        import no_such_library

        return isinstance(x, no_such_library.Tracer)
    except Exception:
        return False


def _fast(x):
    try:
        from no_such_library.kernels import fast as kernel
    except (ImportError, OSError):
        return F.silu(x)
    else:
        return kernel(x)


class GuardedImports(Base):
    """Libraries that need not be there."""

    def forward(self, x):
        if _is_traced_elsewhere(x):
            return x
        try:
            import os.path

            import no_such_library as other

            y = other.relu(self.conv(x), os.path)
        except ModuleNotFoundError:
            y = self.features(x)
        return self.fc(_fast(y).mean((2, 3)))


_VECTORS = torch.linspace(-1, 1, 160).view(2, 5, 16)
_TOKENS = torch.arange(10).view(2, 5)

EXAMPLES = {
    **dict.fromkeys(
        "WithConfig SameNames SharedLayers Buffers Parameters ConcreteBlock UsesLayerSubclass".split(),
        _VECTORS,
    ),
    **dict.fromkeys("Recurrent Attentive EqualParts".split(), _VECTORS),
    **dict.fromkeys("Tied Generator".split(), _TOKENS),
    "Training": _VECTORS[:, 0],
}

NETWORKS = (
    "Base Derived DerivedTwice BaseAndDerived GlobalConstants HelperFunctions AliasedImports ListOfLayers "
    "DictOfLayers NamesOfLayers Properties WithConfig WithEnum WithNamespace WithObject NormLayer LambdaAttribute "
    "OuterClass LocalClass SameNames Tied SharedLayers Buffers Parameters Training ConcreteBlock WithMixin Tree "
    "Optional EqualParts GivenAttributes Variants UsesSequentialSubclass UsesLayerSubclass Decorated "
    "StraightThrough BoundMethod ListOfReferences Dispatch IsInstance Strings Recurrent Attentive Upsampling "
    "Frozen HalfPrecision MixedPrecision WhileAndGlobals Generator GuardedImports"
).split()
