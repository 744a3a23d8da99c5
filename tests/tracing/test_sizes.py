"""What a program does with sizes: given to functions, compared, made numbers of."""

from __future__ import annotations

import copy
import linecache
import math
import statistics
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.rules import RULES, Call, reshape, rule, sample, t
from graphprune.rules.labels import LabeledTensor
from graphprune.tracing.model_copy import TORCH_NN_SIZES
from graphprune.tracing.module_sizes import module_sizes
from graphprune.tracing.size_tracking.whole_numbers import only_called


class Parts(nn.Module):
    """Three parts of 96 channels, which go together. [n, 5] -> [n, 3]"""

    def __init__(self, cut: Callable[[Parts, Tensor], Iterable[Tensor]]) -> None:
        super().__init__()
        self.enter, self.after, self.leave = nn.Linear(5, 96), nn.Linear(32, 32), nn.Linear(32, 3)
        self.width = 32
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.cut(self, self.enter(x))
        return self.leave(self.after(a * b.tanh() + c).relu())


def slim(model: nn.Module, inputs: Tensor) -> nn.Module:
    """At half its width, verified."""
    plan = graphprune.trace(model.eval(), inputs).plan(0.5)
    found = plan.apply(model)
    check = graphprune.verify(model, found, plan, inputs)
    assert check.passed, check
    return found


CUTS: list[tuple[int, Callable[[Any, Tensor], Iterable[Tensor]]]] = [
    (48, lambda m, y: y.tensor_split(dim=-1, sections=3)),
    (96, lambda m, y: y.tensor_split([32, 64], -1)),
    (96, lambda m, y: torch.tensor_split(y, torch.tensor([32, 64]), dim=-1)),
    (48, lambda m, y: y.tensor_split((m.width, 2 * m.width), dim=1)),
    (48, lambda m, y: torch.hsplit(y, 3)),
    (96, lambda m, y: torch.hsplit(y, [32, 64])),
    (48, lambda m, y: (part.t() for part in torch.vsplit(y.t(), 3))),
    (96, lambda m, y: (part.t() for part in y.t().vsplit((32, 64)))),
    (48, lambda m, y: [p.flatten(1) for p in torch.dsplit(y[:, None], 3)]),
    (96, lambda m, y: torch.unsafe_split(y, 32, -1)),
    (48, lambda m, y: y.unsafe_split(m.width, -1)),
    (48, lambda m, y: y.unsafe_chunk(3, -1)),
    (96, lambda m, y: y.view_as(torch.zeros(len(y), 3, 32)).unbind(1)),
    (96, lambda m, y: y.view_as(torch.zeros(len(y), 3, m.width)).unbind(1)),
    (96, lambda m, y: y.reshape_as(other=torch.zeros(len(y), 3, 32)).unbind(1)),
    (48, lambda m, y: y.view(len(y), 3, m.after.in_features).unbind(1)),
    (96, lambda m, y: y.split([np.int64(32)] * 3, 1)),
    (96, lambda m, y: y.split(torch.tensor(32), 1)),
    (48, lambda m, y: y.chunk(np.int64(3), dim=1)),
    (48, lambda m, y: y.chunk(torch.tensor(3), 1)),
    (96, lambda m, y: y.view(np.int64(-1), np.int64(3), np.int64(32)).unbind(1)),
    (48, lambda m, y: y.unflatten(1, (torch.tensor(3), -1)).unbind(1)),
    (48, lambda m, y: y.view(-1, 3, np.prod(y.shape[1:]) // 3).unbind(1)),
    (48, lambda m, y: y.view(-1, 3, divmod(y.shape[1], 3)[0]).unbind(1)),
    (48, lambda m, y: y.view(-1, 3, round(abs(m.width))).unbind(1)),
    (48, lambda m, y: y.split((m.width << 1 >> 2) << 1, 1)),
    (48, lambda m, y: y.split((m.width + 3) & ~3, 1)),
    (48, lambda m, y: y.split(-4 & m.width, 1)),
    (48, lambda m, y: y.split(m.width, 1) if 1 & m.width == 0 else y.unbind(2)),
]


@pytest.mark.parametrize(("left", "cut"), CUTS)
def test_parts_are_as_long_as_the_program_says(left: int, cut: Callable[[Any, Tensor], Iterable[Tensor]]) -> None:
    """Channels go where their number follows, and stay where it is written down or not known to follow."""
    assert slim(Parts(cut), torch.randn(4, 5)).enter.out_features == left


class Wide(nn.Module):
    """Something is done with the 32 channels in the middle. [n, 5] -> [n, 3]"""

    def __init__(self, then: Callable[[Wide, Tensor], Any]) -> None:
        super().__init__()
        self.enter, self.after, self.leave = nn.Linear(5, 32), nn.Linear(32, 32), nn.Linear(32, 3)
        self.width = 32
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x).view(-1, self.width)
        return self.leave(self.after(y * self.then(self, y)).relu())


NUMBERS: list[Callable[[Any, Tensor], Any]] = [
    lambda m, y: 1 / np.sqrt(y.shape[1]),
    lambda m, y: 1 / float(np.log(m.width)),
    lambda m, y: 1 / np.prod(y.shape[1:]),
    lambda m, y: 1 / np.prod(y.shape[1:]).item(),
    lambda m, y: 1 / math.log2(y.size(1)),
    lambda m, y: 1 / math.log(m.width, 10),
    lambda m, y: m.width**-0.5,
    lambda m, y: 2 ** (1 / m.width),
    lambda m, y: 1 / int(y.shape[1]),
    lambda m, y: 1 / round(y.shape[1], -1),
    lambda m, y: 1 / math.ceil(y.shape[1]),
    lambda m, y: 1 / (1 + (y.shape[1] & 24)),
    lambda m, y: 1 / (y.shape[1] >> 1),
    lambda m, y: 1 / y.shape[1].bit_length(),
    lambda m, y: 1 / (1 + y.shape[1] % 7),
    lambda m, y: 1 / len(y[0]),
    lambda m, y: 1 / torch.tensor([y.shape[1], 1])[0],
    lambda m, y: 1 / torch.tensor(y.shape)[1],
    lambda m, y: 1 / y.new_tensor(y.shape[1]),
    lambda m, y: 1 / y.new_full((1,), y.shape[1]),
    lambda m, y: 1 / torch.full((1,), fill_value=m.width),
    lambda m, y: torch.ones(1).fill_(m.width),
    lambda m, y: torch.ones(1).clamp(min=m.width),
    lambda m, y: 1 / m.after.in_features,
    lambda m, y: 1 / m.enter.out_features,
    lambda m, y: m.after.weight.shape[1] / 8,
    lambda m, y: y.select(index=31, dim=1)[:, None],
    lambda m, y: torch.select(y, 1, -2)[:, None],
    lambda m, y: y.mean(1, keepdim=True).expand_as(torch.zeros(len(y), 32)),
    lambda m, y: torch.broadcast_tensors(y.mean(1, keepdim=True), torch.zeros(len(y), 32))[0],
    lambda m, y: torch.meshgrid(y[0], y[0], indexing="ij")[0].sum(),
    lambda m, y: y.sum_to_size(len(y), 32),
    lambda m, y: nn.functional.one_hot(torch.tensor(3), 32),
    lambda m, y: 1 / type(y.shape[1])(y.shape[1]),
    lambda m, y: 1 / statistics.mean(y.shape),
    lambda m, y: min(y.shape),
    lambda m, y: 1 + y.shape[0] // m.width,
    lambda m, y: sorted(y.shape)[0],
    lambda m, y: 2.0 if m.width > y.shape[0] else 1.0,
    lambda m, y: math.ceil(y.shape[0] / m.width),
    lambda m, y: m.width / 4,
    lambda m, y: y.shape[1] / y.shape[0],
    lambda m, y: m.width * 0.5,
    lambda m, y: math.sqrt(m.width / 2),
    lambda m, y: 1 / np.sqrt(m.width / 2),
    lambda m, y: 1 / int(m.width / 2),
    lambda m, y: 1 / float(m.width / 2),
    lambda m, y: 1 / (1 + m.width / 2),
    lambda m, y: 2.0 if m.width / 2 > y.shape[0] else 1.0,
    lambda m, y: 1 / round(m.width / 2, 1),
    lambda m, y: y.new_full((1,), m.width / 2),
    lambda m, y: torch.ones(1).fill_(m.width * 0.25),
    lambda m, y: 1 / torch.tensor([m.width / 2]),
    lambda m, y: torch.arange(m.width / 4).mean(),
    lambda m, y: 1 / type(m.width / 2)(m.width / 2),
]


@pytest.mark.parametrize("then", NUMBERS)
def test_what_a_number_is_made_of_stays(then: Callable[[Any, Tensor], Any]) -> None:
    """All that is not exact: how many there are, or the channel that is picked."""
    found = slim(Wide(then), torch.randn(4, 5))
    assert found.enter.out_features > 16 and found.after.out_features == 16


FREE: list[Callable[[Any, Tensor], Any]] = [
    lambda m, y: y.mean(1, keepdim=True).expand_as(y),
    lambda m, y: torch.broadcast_tensors(y.mean(1, keepdim=True), y)[0],
    lambda m, y: 1.0 if y.shape[1] % 8 == 0 else 0.5,
    lambda m, y: 1.0 if y.shape[1] else 0.5,
    lambda m, y: 1.0 if m.width > 3 and m.width > m.leave.out_features else 0.5,
    lambda m, y: nn.functional.affine_grid(torch.ones(len(y), 2, 3), y[..., None, None].shape, False).mean(),
    lambda m, y: y.sum(1, keepdim=True)[: min(y.shape[0], 100)],
    lambda m, y: 1 / len(y),
    lambda m, y: y.sum_to_size(len(y), m.width),
    lambda m, y: y.repeat(1, np.int64(2)).view(len(y), 2, -1).sum(1),
    lambda m, y: y.repeat(1, torch.tensor(2)).view(len(y), 2, -1).sum(1),
    lambda m, y: y.tile((1, np.int64(2))).view(len(y), 2, -1).sum(1),
    lambda m, y: nn.functional.group_norm(y, np.int64(1)),
    lambda m, y: y.view(*map(int, y.shape)),
    lambda m, y: y.view(-1, int(m.width)),
    lambda m, y: _gated(y, int(m.width / 2)),
    lambda m, y: _gated(y, int(y.shape[1] * 0.5)),
    lambda m, y: _gated(y, math.floor(y.shape[1] / np.int64(2))),
    lambda m, y: _gated(y, math.ceil(m.width / 2)),
    lambda m, y: _gated(y, round(m.width / 2)),
    lambda m, y: _gated(y, copy.deepcopy(m.width / 2).__trunc__()),
]


def _gated(y: Tensor, half: int) -> Tensor:
    assert isinstance(half, int)
    return (y[:, :half] * y[:, half:]).sum(1, keepdim=True)


@pytest.mark.parametrize("then", FREE)
def test_what_goes_on_as_it_did_does_not_hold_channels(then: Callable[[Any, Tensor], Any]) -> None:
    assert slim(Wide(then), torch.randn(4, 5)).enter.out_features == 16
    assert "int" not in globals()


@pytest.mark.parametrize(
    ("text", "only"),
    [
        ("def f(x: int, y: list[int]) -> int:\n    z: int = int(x)\n    return isinstance(z, (int, float))", True),
        ("lambda x: list(map(int, x.shape))", True),
        ("def f(x):\n    x = 1", False),
        ("lambda x: print(x)", False),
        ("lambda x: int(x) + np.zeros(3, dtype=int)", False),
        ("lambda x: int(x) if type(x) is int else x.astype(int)", False),
        ("lambda x: int(x) if x.dtype == int else x", False),
        ("lambda x: int.from_bytes(int(x))", False),
        ("int(", False),
        ("lambda: int(map(), isinstance())", True),
        ("int(x)", False),
        ("f = lambda x: int(x)\ntable = np.zeros(3, dtype=int)", True),
        ("f = lambda x: int(x)\ndef main(parser): parser.add_argument('--epochs', type=int)", True),
    ],
)
def test_which_files_only_call_the_name(text: str, only: bool, tmp_path: Path) -> None:
    """In the others functions may give it to numpy or compare it, which wants the type itself."""
    module = ModuleType("a_file")
    module.__file__ = str(tmp_path / "a_file.py")
    Path(module.__file__).write_text(text)
    assert only_called(module) is only


CELL = """
from dataclasses import dataclass

@dataclass
class Configuration:
    width: int = 3

class Cell:
    size = 3

    @property
    def half(self):
        return int(self.size / 2)

def whole(x):
    return {}
"""


@pytest.mark.parametrize(("text", "only"), [("int(x)", True), ("x.astype(int)", False)])
def test_which_notebooks_only_call_the_name(text: str, only: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is defined in them is known, whatever else they say."""
    notebook = ModuleType("a_notebook")
    monkeypatch.setitem(sys.modules, "a_notebook", notebook)
    code = CELL.format(text)
    linecache.cache[text] = (len(code), None, code.splitlines(keepends=True), text)
    exec(compile(code, text, "exec"), vars(notebook))
    assert only_called(notebook) is only
    linecache.cache.pop(text)
    assert not only_called(notebook)


HELPER = """
def halves(x):
    return deeper(x)

def deeper(x):
    half = int(x.shape[1] / 2)
    return (x[:, :half] * x[:, half:]).sum(1, keepdim=True)
"""


@pytest.mark.parametrize(
    ("how", "call"), [("import sizes_helper", "sizes_helper.halves"), ("from sizes_helper import halves", "halves")]
)
def test_integers_in_the_files_of_helpers(how: str, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``forward`` reaches through its file, which is as it was afterwards."""
    (tmp_path / "sizes_helper.py").write_text(HELPER)
    (tmp_path / "sizes_user.py").write_text(f"{how}\ndef then(model, y):\n    return {call}(y)\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("sizes_helper", "sizes_user"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    then = import_module("sizes_user").then
    helped = type("Helped", (Wide,), {"then": then})
    assert slim(helped(then), torch.randn(4, 5)).enter.out_features == 16
    assert "int" not in vars(sys.modules["sizes_helper"])


ASKED = """
def halves(model, y):
    half = int(model.width / 2)
    kinds = {int: True, float: False}
    if not (%s):
        raise TypeError(type(half))
    return (y[:, :half] * y[:, half:]).sum(1, keepdim=True)
"""


@pytest.mark.parametrize(
    "question",
    [
        "type(model.width) is int",
        "type(half) == int and type(y.shape[1]) in (int, float)",
        "type(model.width) is type(4) and type(model.width / 2) is float",
        "model.width.__class__ is int and isinstance(type(half), type) and issubclass(type(half), int)",
        "type(model.width).__name__ == 'int' and type(half)(3) == 3 and (model.width / 2).__class__ is float",
        "kinds[type(model.width)]",
        "type(model.width) is int and type('Kind', (dict,), {'size': 3}).size == 3",
    ],
)
def test_sizes_have_the_type_of_integers(question: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another way than the model's was traced, and the slim model did what nobody had checked."""
    (tmp_path / "asking.py").write_text(ASKED % question)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "asking", raising=False)
    then = import_module("asking").halves
    asking = type("Asking", (Wide,), {"then": then})
    found = slim(asking(then), torch.randn(4, 5))
    assert found.enter.out_features in (16, 32)
    assert not {"int", "type"} & vars(sys.modules["asking"]).keys()


@pytest.mark.parametrize("use", ["type(nn.ReLU) is type", "type('', (), {}).__module__", "typing.cast(type[int], 3)"])
def test_other_uses_of_the_name_type_mean_what_they_mean(
    use: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meaning.py").write_text(
        f"import typing\nfrom torch import nn\ndef then(model, y):\n    assert {use} and type(y) is not int\n"
        "    return y.sum(1, keepdim=True)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "meaning", raising=False)
    then = import_module("meaning").then
    assert slim(type("Meaning", (Wide,), {"then": then})(then), torch.randn(4, 5)).enter.out_features == 16


def zeroed(index: Any) -> Callable[[Any, Tensor], Tensor]:
    def then(model: nn.Module, y: Tensor) -> Tensor:
        y = y.clone()
        y[index] = 0
        return y

    return then


@pytest.mark.parametrize("index", [[0, 2], [True, False, True, True], range(2), ((0, 1, 2),), np.array([1, 3]), []])
def test_rows_by_their_numbers(index: Any) -> None:
    """Lists are known by their values, read or written to."""
    assert slim(Wide(lambda m, y: y[index].sum(0)), torch.randn(4, 5)).enter.out_features == 16
    assert slim(Wide(zeroed(index)), torch.randn(4, 5)).enter.out_features == 16


@pytest.mark.parametrize("index", [(slice(None), [0, 5]), (..., range(2)), (0, [1])])
def test_channels_by_their_numbers_stay(index: Any) -> None:
    assert slim(Wide(zeroed(index)), torch.randn(4, 5)).enter.out_features > 16


@pytest.mark.parametrize("then", [lambda m, y: 1.0 if y.shape[1] % 32 == 0 else 0.5, lambda m, y: 1 + m.width % 3 // 2])
def test_a_program_that_would_go_another_way(then: Callable[[Any, Tensor], Any]) -> None:
    assert slim(Wide(then), torch.randn(4, 5)).enter.out_features == 32


def test_an_assertion_about_a_remainder_holds_in_the_slim_model() -> None:
    """36 channels of 72 are no multiple of 24."""

    def then(model: Wide, y: Tensor) -> float:
        assert y.shape[1] % 24 == 0
        return 1.0

    model = Wide(then)
    model.width, model.enter, model.after = 72, nn.Linear(5, 72), nn.Linear(72, 32)
    assert slim(model, torch.randn(4, 5)).enter.out_features % 24 == 0


LAYERS = (
    nn.Linear(2, 3),
    nn.Bilinear(2, 3, 4),
    nn.Conv2d(2, 4, 1, groups=2),
    nn.ConvTranspose2d(2, 4, 1, groups=2),
    nn.Embedding(5, 2),
    nn.BatchNorm1d(3),
    nn.GroupNorm(2, 4),
    nn.LayerNorm(3),
    nn.PReLU(3),
    nn.LSTM(2, 3, proj_size=1),
    nn.GRUCell(2, 3),
)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_what_layers_say_of_their_sizes(layer: nn.Module) -> None:
    """It follows from their weights, and programs that read it read sizes, but for rows of a table and kernels."""
    found = module_sizes(layer)
    assert found and found == {name: getattr(layer, name) for name in found}
    assert found.keys() <= TORCH_NN_SIZES | {"num_embeddings", "kernel_size"}


def test_an_operator_of_ones_own_says_what_its_sizes_are() -> None:
    """``resize`` of its rule does: a size that it is given is no number."""

    @torch.library.custom_op("test_sizes::rows", mutates_args=())
    def rows(x: Tensor, width: int) -> Tensor:
        return x.reshape(-1, width).clone()

    @rows.register_fake
    def _(x: Tensor, width: int) -> Tensor:
        return x.new_empty(x.numel() // width, width)

    operator = torch.ops.test_sizes.rows

    @rule(
        operator.default,
        samples=[sample(t(3, 8, labeled=[1]), 8)],
        resize=lambda slim, args: (args[0], slim.outs[0][1]),
    )
    def _rows(call: Call, x: LabeledTensor, width: int) -> LabeledTensor:
        return reshape(call.labels, x, call.out)

    try:
        assert slim(Wide(lambda m, y: operator(y, m.width)), torch.randn(4, 5)).enter.out_features == 16
    finally:
        del RULES[operator.default]


class OfNumpy(nn.Module):
    """Layers and attributes whose sizes were worked out in numpy. [n, 3, h, w] -> [n, 5]"""

    def __init__(self) -> None:
        super().__init__()
        self.widths = tuple(np.array([8, 16]) * 2)
        first, second = self.widths
        self.enter, self.depth = nn.Conv2d(3, first, 1), nn.Conv2d(first, first, 3, padding=1, groups=first)
        self.inner, self.norm = nn.Conv2d(first, second, 1), nn.GroupNorm(np.int64(4), second)
        self.leave, self.heads = nn.Linear(second, 5), np.int64(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.inner(self.depth(self.enter(x)))).relu().mean((2, 3))
        y = y.view(len(y), self.heads, self.widths[1] // self.heads).tanh().reshape(-1, self.widths[1])
        result: Tensor = self.leave(y)
        return result


def test_sizes_of_numpy_follow_and_stay_numpys() -> None:
    found: Any = slim(OfNumpy(), torch.randn(2, 3, 5, 5))
    assert (found.enter.out_channels, found.depth.groups, found.inner.out_channels) == (8, 8, 16)
    assert (found.norm.num_groups, found.heads, found.widths) == (2, 2, (8, 16))
    assert type(found.heads) is type(found.widths[1]) is np.int64


class AskedNumpy(nn.Module):
    """A size of numpy's is asked what Python's have not. [n, 5] -> [n, 3]"""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave, self.width = nn.Linear(5, 16), nn.Linear(16, 3), np.int64(16)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.leave(self.enter(x).view(-1, self.width) / self.width.astype(np.float64))
        return result


def test_a_size_of_numpy_that_is_asked_for_its_type_is_a_number() -> None:
    graph = graphprune.trace(AskedNumpy().eval(), torch.randn(4, 5))
    assert not graph.groups or graph.groups[0].units == 16
    assert any("the size width is used as a number" in frozen.reason for frozen in graph.frozen)


class Padded(nn.Module):
    """Its length is padded to the next multiple of a period, which it is none of."""

    def __init__(self, period: Any = 5) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(3, 12), nn.Linear(12, 3)
        self.length, self.period = 16, period

    def padding(self) -> int:
        return (self.length // self.period + 1) * self.period

    def forward(self, x: Tensor) -> Tensor:
        x, whole = self.enter(x), self.padding()
        x = torch.cat([x, x.new_zeros(len(x), whole - x.shape[1], x.shape[2])], 1)
        y: Tensor = self.leave(x.reshape(len(x), whole // self.period, self.period, -1))
        return y


class Checked(Padded):
    def padding(self) -> int:
        return self.length if self.length % self.period == 0 else super().padding()


class Added(Padded):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.length * self.period


@pytest.mark.parametrize("kind", [Padded, Checked, Added])
def test_a_number_of_which_a_division_leaves_something_over_stays(kind: type[Padded]) -> None:
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(2, 16, 3)
    slim = graphprune.prune_model(model, 0.5, x, verify=True)
    assert (slim.length, slim.period, slim.enter.out_features) == (16, 5, 6)


class Halved(nn.Module):
    """An odd width, of which half is a size too."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 33
        self.enter, self.inner, self.leave = nn.Linear(3, 16), nn.Linear(16, 33), nn.Linear(33, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).view(len(x), -1, self.width // 2)
        y: Tensor = self.leave(self.inner(x).relu().view(len(x), -1, self.width))
        return y


def test_what_a_division_leaves_over_is_left_over_in_the_slim_model() -> None:
    torch.manual_seed(0)
    slim = graphprune.prune_model(Halved().eval(), 0.5, torch.randn(2, 7, 3), verify=True)
    assert slim.width // 2 == slim.enter.out_features == 8
    assert slim.width == slim.inner.out_features


class Quotient(nn.Module):
    """The width of a head is a true quotient of two sizes that change alike."""

    def __init__(self, scale: Callable[[int, int], float]) -> None:
        super().__init__()
        self.heads, self.width, self.scale = 4, 32, scale
        self.qkv, self.leave = nn.Linear(16, 96), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).split(self.width, -1)
        shape = (*x.shape[:2], self.heads, self.width // self.heads)
        q, k, v = (part.view(shape).transpose(1, 2) for part in parts)
        scores = (q @ k.mT * self.scale(self.width, self.heads)).softmax(-1)
        y: Tensor = self.leave((scores @ v).transpose(1, 2).reshape(*x.shape[:2], self.width))
        return y


@pytest.mark.parametrize(
    "scale",
    [lambda w, h: (w // h) ** -0.5, lambda w, h: (w / h) ** -0.5, lambda w, h: 1 / math.sqrt(w / h)],
    ids=["whole", "true", "sqrt"],
)
def test_heads_go_where_a_scale_is_a_quotient_of_sizes(scale: Callable[[int, int], float]) -> None:
    torch.manual_seed(0)
    slim = graphprune.prune_model(Quotient(scale).eval(), 0.5, torch.randn(2, 6, 16), verify=True)
    assert (slim.heads, slim.width) == (2, 16)
