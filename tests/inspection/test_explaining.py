"""``explain`` and ``why_frozen`` say in sentences what goes with a channel, why, what it saves, and why others stay."""

from __future__ import annotations

import linecache
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune import ChannelGraph
from graphprune.errors import InputError
from graphprune.inspection.explaining import _FREE
from graphprune.inspection.remedies import _REMEDIES, remedy
from graphprune.inspection.wording import layer_of, listed
from models import vit
from tests.utils.test_tables import WellFormed

PACKAGE = Path(graphprune.__file__).parent
IMAGE = torch.zeros(1, 3, 8, 8)


class Net(nn.Module):
    """A residual sum, a depthwise convolution, a concatenation, a literal, a flag that is read, and an unused layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.inner = nn.Conv2d(8, 6, 1)
        self.depth = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.outer = nn.Conv2d(6, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.side = nn.Conv2d(8, 5, 1)
        self.both = nn.Conv2d(13, 4, 1)
        self.fixed = nn.Linear(4, 12)
        self.head = nn.Linear(6, 2)
        self.spare = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.norm(self.outer(self.depth(self.inner(x))))
        x = torch.cat([x, self.side(x)], 1)
        y = self.fixed(self.both(x).mean((2, 3)))
        return self.head(y.view(-1, 2, 6))


@pytest.fixture(scope="module")
def graph() -> ChannelGraph:
    return graphprune.trace(Net(), IMAGE)


def test_a_residual_sum(graph: ChannelGraph) -> None:
    text = str(graph.explain("outer"))
    assert text.startswith("outer (Conv2d) takes part in group stem.\nGroup stem: 8 channels that residual sums share")
    removed = r"an entry of stem, outer and norm and an entry of the inputs of inner, side and both"
    assert f"Removing one channel removes {removed}." in text
    where = r"at .*test_explaining.py:\d+"
    for clause in (r"adds stem and outer", r"passes them to inner", r"normalizes outer and norm"):
        assert re.search(rf"- `x = x \+ self.norm\(self.outer.*` {where} {clause}[;.]\n", text), clause
    assert "outer (Conv2d) reads group inner: 6 channels that no residual sum shares (mlp)." in text


def test_what_a_channel_saves_is_what_a_plan_saves(graph: ChannelGraph) -> None:
    """The figures are those of a plan that removes one channel."""
    for name in ("stem", "inner", "side"):
        group = graph.group(name)
        plan = graph.plan_from_kept({name: range(1, group.units)})
        less, whole = graph.cost(plan), graph.cost()
        saved = re.search(r"One channel less saves ([\d.]+) (k )?MACs .*?([\d,]+) parameters", str(graph.explain(name)))
        assert saved
        macs = float(saved[1]) * (1000 if saved[2] else 1)
        assert macs == pytest.approx(whole.macs - less.macs, rel=1e-3)
        assert int(saved[3].replace(",", "")) == whole.params - less.params


def test_a_depthwise_convolution(graph: ChannelGraph) -> None:
    text = str(graph.explain("depth"))
    assert "Removing one channel removes an entry of inner and depth and an entry of the inputs of outer." in text


def test_a_concatenation(graph: ChannelGraph) -> None:
    text = str(graph.explain("side"))
    assert "Removing one channel removes an entry of side and an entry of the inputs of both." in text
    text = str(graph.explain("both"))
    assert "both (Conv2d) reads group stem: " in text and "both (Conv2d) reads group side: " in text


def test_attention() -> None:
    graph = graphprune.trace(vit.vit(), torch.zeros(1, 3, 32, 32))
    text = str(graph.explain("blocks.0.attn.qkv"))
    assert re.search(r"Group blocks.0.attn.qkv:heads: \d+ attention heads \(heads\)\.", text)
    assert re.search(
        r"Removing one head removes \d+ entries of blocks.0.attn.qkv and \d+ entries of the inputs of", text
    )
    assert "divides blocks.0.attn.qkv into heads" in text
    assert "heads and groups keep their width unless head_width is given" in text
    assert len(graph.explain("blocks.0.attn.qkv").groups) >= 3


def test_steps_that_go_together() -> None:
    class Chunks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 12), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            first, second = self.up(x).chunk(2, -1)
            return self.down(first * second)

    text = str(graphprune.trace(Chunks(), torch.zeros(2, 4)).explain("up"))
    assert "Removing one channel removes 2 entries of up and an entry of the inputs of down." in text


def test_a_container_is_a_table() -> None:
    net = nn.Sequential(*(nn.Linear(4 + i, 5 + i) for i in range(8)))
    explanation = graphprune.trace(net, torch.zeros(1, 4)).explain(net)
    assert str(explanation).startswith("Sequential takes part in 7 groups; explain one of them, or a layer:\n  group  ")
    assert len(explanation.groups) == 7 and repr(explanation) == "<Explanation of Sequential: 7 groups, 3 frozen axes>"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("head", r"All 2 entries of head.weight\[0\] and head.bias\[0\] stay: output of the model. The caller gets"),
        ("stem.weight[1]", r"All 3 entries of stem.weight\[1\] stay: meets a dimension without channels .*self.stem"),
        (
            "fixed",
            r"All 12 entries of fixed.weight\[0\] and fixed.bias\[0\] stay: the size 6 is a literal.*; read it from",
        ),
        ("spare", r"entries of spare.weight and spare.bias stay: not used in the traced run. Give example inputs"),
    ],
)
def test_why_frozen(graph: ChannelGraph, name: str, reason: str) -> None:
    explanation = graph.why_frozen(name)
    assert re.search(reason, str(explanation)), str(explanation)
    assert explanation.frozen and str(PACKAGE.parent) not in str(explanation)
    assert re.search(reason, str(graph.explain(name)))


def test_what_is_not_frozen_is_said(graph: ChannelGraph) -> None:
    explanation = graph.why_frozen("inner")
    nothing = "Nothing of inner (Conv2d) is frozen: it takes part in group stem and group inner."
    assert str(explanation).splitlines() == [nothing, _FREE]
    assert explanation.frozen == ()


def test_names_modules_and_groups(graph: ChannelGraph) -> None:
    module, group = graph.model.get_submodule("inner"), graph.group("inner")
    assert str(graph.explain(module)) == str(graph.explain("inner"))
    assert str(graph.explain(group)) in str(graph.explain("inner"))
    assert graph.explain("inner.weight[0]").groups == graph.explain("inner.bias").groups == (group,)
    assert [g.name for g in graph.explain("inner.weight").groups] == ["stem", "inner"]
    assert str(graphprune.trace(nn.ReLU(), torch.zeros(1, 2)).explain("")).startswith("ReLU has no channels")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("iner", "name: 'iner' is no module, parameter, axis or group of the traced Net; did you mean inner"),
        ("inner.weight[7]", r"'inner.weight\[7\]' is no module.*did you mean inner.weight\[0\]|inner.weight\[1\]"),
        ("zzzz", "name: 'zzzz' is no module, parameter, axis or group of the traced Net\n"),
        (nn.Linear(1, 1), r"name: this Linear is no module of the traced Net[\s\S]*pass one of graph.model.modules"),
        (7, "name: must be a name, a module or a group, but is 7"),
    ],
)
def test_unknown_names(graph: ChannelGraph, what: str, message: str) -> None:
    for ask in (graph.explain, graph.why_frozen):
        with pytest.raises(InputError, match=message):
            ask(what)


def test_a_group_of_another_graph(graph: ChannelGraph) -> None:
    other = graphprune.trace(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)), torch.zeros(1, 2))
    with pytest.raises(InputError, match=r"name: group .0. is of another graph[\s\S]*pass one of graph\.groups"):
        graph.explain(other.groups[0])


def test_html_is_escaped() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(2, 3), nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            f = lambda t: t if 1 < 2 > 0 else self.first(t)  # noqa: E731
            return self.last(self.first(f(x)) if "<lambda>" else x)

    explanation = graphprune.trace(Odd(), torch.zeros(1, 2)).explain("first")
    assert "<lambda>" in str(explanation)
    html = WellFormed(explanation._repr_html_())
    assert "lambda" not in html.seen
    assert "".join(html.texts["p"]) == str(explanation).replace("\n", "")


@pytest.mark.parametrize("part", _REMEDIES)
def test_what_is_to_be_done_belongs_to_a_reason_that_there_is(part: str) -> None:
    sources = "".join(f.read_text() for room in ("rules", "graph", "tracing") for f in (PACKAGE / room).rglob("*.py"))
    assert part in sources and remedy(f"op: {part}, at a.py:1") == _REMEDIES[part]


def test_other_reasons_speak_for_themselves() -> None:
    assert remedy("the size 8 is a literal (in y.view(8)); write -1 for it") == ""


class TakenApart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.leave(torch.stack(self.enter(x).unbind(1), 1))
        return found


def test_channels_that_are_taken_apart_are_not_picked() -> None:
    """All of them are used, in their order."""
    reasons = str(graphprune.trace(TakenApart(), torch.randn(2, 5)).frozen)
    assert "unbind: each of the channels becomes a tensor of its own" in reasons


def test_layers_and_lists() -> None:
    assert (
        layer_of("weight[0]") == "weight" and layer_of("a.b.weight[0]") == "a.b" and layer_of("a.gamma[0]") == "a.gamma"
    )
    assert listed([f"l.{i}" for i in range(9)]) == "l.0-8"
    assert listed("abcdefghijklmn") == "a, b, c, d, e, f, g, h, i, j, k, l and 2 more"


class Regrouped(nn.Module):
    """Heads and their width are told apart, then cut in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave, self.heads = nn.Linear(5, 12), nn.Linear(12, 3), 4

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x).view(x.shape[0], self.heads, -1).softmax(-1)
        y = y * y.sum(1, keepdim=True)
        result: Tensor = self.leave(y.flatten(1)) * y.reshape(8, 9).tanh().sum()
        return result


def test_what_stays_because_all_its_parts_do_is_listed() -> None:
    graph = graphprune.trace(Regrouped(), torch.randn(6, 5))
    reasons = {str(frozen.axis): frozen.reason for frozen in graph.frozen}
    assert reasons["enter.weight[0]"].startswith("reshaped across several dimensions with channels, at ")
    assert reasons["leave.weight[1]"].startswith("reshaped across several dimensions with channels, at ")


class Slopes(nn.Module):
    """Attention with a bias for each head, whose slopes are made in ``forward`` from their number."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        distances = torch.arange(n) - torch.ones(b, n, dtype=torch.long).cumsum(-1)
        bias = 0.5 ** torch.arange(1, self.heads + 1)[:, None] * distances[:, None]
        return self.out(((q @ k.mT / 2 + bias[:, :, None]).softmax(-1) @ v).transpose(1, 2).reshape(b, n, -1))


def test_why_heads_stay_is_told() -> None:
    graph = graphprune.trace(Slopes(), torch.randn(2, 5, 16))
    constant = r"a constant that the program makes \(arange, .*test_explaining.py:(\d+)\); made once and registered"
    for text in (str(graph.explain("qkv")), str(graph.why_frozen("qkv"))):
        lines = re.findall(rf"The heads around the channels of qkv:head_width.* stay: meets .*{constant}", text)
        assert len(lines) == 2 and {linecache.getline(__file__, int(line)).strip()[:4] for line in lines} == {"bias"}
    assert "lost its channels to a constant" in text
    with pytest.raises(InputError, match=r"heads: 0\.5 is asked of heads") as raised:
        graph.plan(heads=0.5)
    assert "graph.explain(layer) says why its channels stay" in raised.value.do


class Counted(nn.Module):
    """Linear 5 -> 16 -> 8 -> 3, and something done with the number of the 16 features."""

    def __init__(self, used: Callable[[nn.Linear, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(5, 16), nn.Linear(16, 8), nn.Linear(8, 3)
        self.used = used

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(self.used(self.first, self.first(x))).relu())


@pytest.mark.parametrize(
    ("used", "size"),
    [
        (lambda _, y: y * math.exp(-y.shape[1]), "(0 - addmm.shape[1])"),
        (lambda _, y: y * (y.shape[1] // 3), "(addmm.shape[1] // 3)"),
        (lambda _, y: y * sum(y.shape), "((0 + addmm.shape[0]) + addmm.shape[1])"),
        (lambda layer, y: y * layer.bias.numel(), "first_bias.shape[0]"),
    ],
)
def test_what_stays_because_its_size_is_a_number_is_listed(used: Callable[..., Tensor], size: str) -> None:
    graph = graphprune.trace(Counted(used), torch.randn(4, 5))
    reason = next(one.reason for one in graph.frozen if one.axis == "first.weight[0]")
    assert reason.startswith("the size ")
    assert size in reason
    assert "is used as a number, at " in reason
    assert f"All 16 entries of first.weight[0] and first.bias[0] stay: {reason[:20]}" in str(graph.why_frozen("first"))
    assert {choice.group: bool(choice.removed) for choice in graph.plan(0.5).choices} == {"first": False, "inner": True}


def test_what_only_a_plan_says_is_pointed_to() -> None:
    graph = graphprune.trace(Counted(lambda _, y: y * 2 if y.shape[1] >= 16 else y), torch.randn(4, 5))
    assert not any(one.axis == "first.weight[0]" for one in graph.frozen)
    assert _FREE in str(graph.why_frozen("first"))


class Scaled(nn.Module):
    """Two layers of whose widths the code uses two differences: neither alone holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(5, 16), nn.Linear(5, 8), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, z = self.first(x), self.second(x)
        apart = math.exp(-abs(y.shape[1] - 3 * z.shape[1])) + math.exp(-abs(y.shape[1] - 2 * z.shape[1]))
        return self.last(torch.cat([y, z], 1) * apart)


def test_sizes_that_hold_together_are_named() -> None:
    graph = graphprune.trace(Scaled(), torch.randn(4, 5))
    text = str(graph.why_frozen("first"))
    assert re.search(r"tie the units of group first to others such that none can go: the size .* is used as", text)


class Tied(nn.Module):
    """A head with the table of its embedding, and a layer that is reached by two paths."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(20, 12), nn.Linear(12, 12)
        self.head = nn.Linear(12, 20, bias=False)
        self.head.weight, self.again = self.table.weight, self.layer

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.table(x)).relu())


@pytest.mark.parametrize(
    ("other", "first"),
    [
        ("head.weight", "table.weight"),
        ("head.weight[1]", "table.weight[1]"),
        ("again", "layer"),
        ("again.bias", "layer.bias"),
        ("again.weight[0]", "layer.weight[0]"),
    ],
)
def test_each_name_of_a_tensor_and_of_a_module_will_do(other: str, first: str) -> None:
    graph = graphprune.trace(Tied(), torch.randint(20, (2, 5)))
    assert str(graph.explain(other)) == str(graph.explain(first))
    assert str(graph.why_frozen(other)) == str(graph.why_frozen(first))
    assert graph.group("head.weight[1]") is graph.group("table.weight") is graph.group("again")


def test_why_there_is_no_group_of_a_tied_axis_is_said() -> None:
    graph = graphprune.trace(Tied(), torch.randint(20, (2, 5)))
    with pytest.raises(InputError, match=r"no group 'head'; it is frozen: table.weight\[0\]: embedding"):
        graph.group("head")
    with pytest.raises(InputError, match=r"no group 'again.nothing'; there are"):
        graph.group("again.nothing")
