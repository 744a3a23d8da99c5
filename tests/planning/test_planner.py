"""Attempts at a plan: each knows what broke in the one before, and nothing of earlier plans."""

from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.errors import PlanError
from graphprune.planning import planner
from graphprune.planning.options import PruningOptions
from graphprune.planning.planner import plan_once
from graphprune.planning.setup import PlanSetup
from graphprune.planning.validate import Violations


@pytest.fixture
def setup() -> PlanSetup:
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    return PlanSetup.of(graphprune.trace(net, torch.randn(2, 6)), PruningOptions(macs=0.5))


@pytest.mark.parametrize("disorder", [False, True])
def test_what_breaks_in_one_plan_is_not_held_in_the_next(
    setup: PlanSetup, disorder: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = plan_once(setup).to_json()
    check, attempts, units = planner.validate, list[tuple[int, int]](), setup.graph.groups[0].unit_ids

    def broken_at_first(graph: Any, constraints: Any, alive: Any) -> Any:
        selection, violations = check(graph, constraints, alive)
        return selection, Violations(((units[:3], "broken here"),), disorder) if len(attempts) == 1 else violations

    def noted(*arguments: Any) -> Any:
        attempts.append((len(arguments[3]), len(arguments[2].frozen)))
        return planner_allocator(*arguments)

    planner_allocator = planner.Allocator
    monkeypatch.setattr(planner, "validate", broken_at_first)
    monkeypatch.setattr(planner, "Allocator", noted)
    other = plan_once(setup)
    assert attempts == [(0, 0), (1, 0) if disorder else (0, 3)]
    if not disorder:
        assert not {0, 1, 2} & set(other.choices[0].removed)
    monkeypatch.setattr(planner, "validate", check)
    attempts.clear()
    assert plan_once(setup).to_json() == plain
    assert attempts == [(0, 0)]


class NamedByWidth(nn.Module):
    """A layer is looked up by the width of what attention gives, which has queries, keys and values in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 12)
        self.attend = nn.TransformerEncoderLayer(12, 1, 9, batch_first=True)
        self.by_width = nn.ModuleDict({"w12": nn.Linear(12, 12)})
        self.leave = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.attend(self.enter(x))
        return self.leave(self.by_width[f"w{x.shape[-1]}"](x))


def test_only_what_a_name_in_the_program_needs_is_held() -> None:
    torch.manual_seed(0)
    model, x = NamedByWidth().eval(), torch.randn(2, 4, 5)
    plan = graphprune.trace(model, x).plan(0.5)
    lost = {choice.group: len(choice.removed) for choice in plan.choices if choice.removed}
    assert lost == {"attend.linear1": 4, "by_width.w12": 6}
    held = {choice.group: choice.why for choice in plan.choices if not choice.removed}
    assert "KeyError: 'w6'" in held["enter"]
    assert graphprune.verify(model, plan.apply(model), plan, x).passed


class FixedAttention(nn.Module):
    """Attention that reads its width from the model's input."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.queries, self.values, self.leave = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        batch, count, width = x.shape
        q, v = (layer(x).view(batch, count, self.heads, -1).transpose(1, 2) for layer in (self.queries, self.values))
        y = (q @ q.mT).softmax(-1) @ v
        result: Tensor = self.leave(y.transpose(1, 2).reshape(batch, count, width))
        return result


@pytest.mark.filterwarnings("ignore::graphprune.errors.NothingRemovedWarning")
def test_heads_that_a_size_of_the_input_holds_say_so() -> None:
    plan = graphprune.trace(FixedAttention().eval(), torch.randn(2, 6, 16)).plan(0.5)
    (heads,) = (choice for choice in plan.choices if choice.role == "heads")
    assert heads.kept == 4
    assert heads.why.startswith("the code has one size for them and for channels that stay, at ")


@pytest.mark.filterwarnings("ignore::graphprune.errors.NothingRemovedWarning")
def test_a_width_that_goes_in_step_with_heads_says_what_to_ask_for_too() -> None:
    model = nn.Sequential(nn.Linear(5, 16), FixedAttention(), nn.Linear(16, 3)).eval()
    graph = graphprune.trace(model, torch.randn(2, 6, 5))
    (width,) = (choice for choice in graph.plan(mlp=0.5).choices if choice.group == "0")
    assert (width.role, width.kept) == ("mlp", 16)
    assert " (give heads= too: they go in step), at " in width.why
    assert {choice.kept for choice in graph.plan(mlp=0.5, heads=0.5).choices if choice.group == "0"} == {8}


class AllChosen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.leave(self.enter(x).topk(8, 1).values)
        return result


@pytest.mark.filterwarnings("ignore::graphprune.errors.NothingRemovedWarning")
def test_a_group_that_is_needed_whole_is_at_its_floor() -> None:
    (choice,) = graphprune.trace(AllChosen().eval(), torch.randn(2, 5)).plan(0.5).choices
    assert (choice.kept, choice.why) == (8, "ratio 0.5; at its floor: 8 of them are chosen by value")


class BothDirections(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.leave = nn.GRU(5, 8, bidirectional=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)[0]
        result: Tensor = self.leave(y.view(*y.shape[:2], 2, -1).sum(2))
        return result


def test_an_only_unit_says_that_it_must_stay() -> None:
    plan = graphprune.trace(BothDirections().eval(), torch.randn(4, 2, 5)).plan(0.5)
    assert {choice.why for choice in plan.choices if choice.units == 1} == {"one must stay"}


def test_a_graph_of_what_was_pruned_in_place_is_out_of_date() -> None:
    model = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 4))
    graph = graphprune.trace(model, torch.randn(2, 3))
    plan = graph.plan(0.5)
    plan.apply(model, inplace=True)
    for again in (lambda: graph.plan(0.5), lambda: graph.plan_from_kept({"0": [0, 1]})):
        with pytest.raises(
            graphprune.errors.PlanError, match=r"has the shape \[8, 3\], and had \[16, 3\][\s\S]*trace the model again"
        ):
            again()
    assert graphprune.trace(model, torch.randn(2, 3)).plan(0.5).apply(model)


CALLS: SimpleQueue[None] = SimpleQueue()


class Exhausted(nn.Module):
    """Its second call fails. [n, 4] -> [n, 2]"""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        CALLS.put(None)
        if CALLS.qsize() > 1:
            raise MemoryError("out of memory")
        found: Tensor = self.leave(self.enter(x).relu())
        return found


def test_an_error_of_the_slim_model_is_the_cause_of_what_is_raised() -> None:
    graph = graphprune.trace(Exhausted(), torch.randn(3, 4))
    with pytest.raises(PlanError, match="the slim model fails: MemoryError") as caught:
        graph.plan(0.5)
    assert isinstance(caught.value.__cause__, MemoryError)


@pytest.mark.parametrize("key", ["weight[1]", "weight", "weight*"])
def test_groups_that_are_named_after_a_parameter_have_overrides_by_their_names(key: str) -> None:
    class Factored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.leave = nn.Parameter(torch.randn(8, 12)), nn.Linear(12, 4)

        def forward(self, x: torch.Tensor) -> Any:
            return self.leave((x @ self.weight).relu())

    graph = graphprune.trace(Factored(), torch.randn(2, 8))
    with pytest.warns(graphprune.NothingRemovedWarning):
        assert not graph.plan(0.5, overrides={key: graphprune.Override(frozen=True)}).kept


class Deviations(nn.Module):
    """A statistic over a few channels, beside others."""

    def __init__(self, width: int, statistic: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.few, self.many, self.leave = nn.Conv2d(3, width, 3), nn.Conv2d(3, 16, 3), nn.Conv2d(17, 3, 1)
        self.statistic = statistic

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.leave(torch.cat([self.statistic(self.few(x)), self.many(x)], 1))
        return y


@pytest.mark.parametrize(
    ("statistic", "least"),
    [
        (lambda x: x.std(1, keepdim=True), 2),
        (lambda x: x.var(1, keepdim=True), 2),
        (lambda x: torch.std_mean(x, 1, keepdim=True)[0], 2),
        (lambda x: x.var(1, keepdim=True, correction=3), 4),
        (lambda x: x.var(1, keepdim=True, correction=0), 1),
        (lambda x: x.std((1, 2, 3), keepdim=True).expand(-1, 1, 6, 6), 1),
    ],
    ids=["std", "var", "std_mean", "correction 3", "biased", "over space too"],
)
@pytest.mark.parametrize("width", [4, 12])
def test_unbiased_statistics_keep_what_they_need(statistic: Callable[[Tensor], Tensor], least: int, width: int) -> None:
    torch.manual_seed(0)
    model, x = Deviations(width, statistic).eval(), torch.randn(2, 3, 8, 8)
    slim = graphprune.prune_model(model, 0.9, x, verify=True)
    assert slim.few.out_channels == max(least, width - int(0.9 * width))
    assert slim(x).isfinite().all()


class GroupDeviations(nn.Module):
    """A statistic over the channels of each of four groups."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x).view(len(x), 4, -1)
        y: Tensor = self.leave((h / (h.std(-1, keepdim=True) + 1e-5)).flatten(1))
        return y


@pytest.mark.parametrize("ratio", [0.5, 0.8, 0.99])
def test_unbiased_statistics_over_groups_keep_what_each_needs(ratio: float) -> None:
    torch.manual_seed(0)
    model, x = GroupDeviations().eval(), torch.randn(3, 8)
    slim = graphprune.prune_model(model, ratio, x, verify=True)
    assert slim.enter.out_features == 8
    assert slim(x).isfinite().all()


class HeadDeviations(nn.Module):
    """Channels as heads, divided by a statistic over one of the two dimensions."""

    def __init__(self, shape: tuple[int, int], dim: int, unbiased: bool) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 24), nn.Linear(24, 4)
        self.shape, self.dim, self.unbiased = shape, dim, unbiased

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x).unflatten(-1, self.shape)
        y: Tensor = self.leave((h / h.std(self.dim, keepdim=True, unbiased=self.unbiased)).flatten(1))
        return y


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize(
    ("shape", "dim"),
    [((4, -1), 1), ((-1, 6), 2), ((-1, 6), 1), ((4, -1), 2)],
    ids=["over four heads", "over a width of six", "over heads", "over the width"],
)
def test_unbiased_statistics_let_heads_and_columns_go_whole(shape: tuple[int, int], dim: int, unbiased: bool) -> None:
    torch.manual_seed(0)
    model, x = HeadDeviations(shape, dim, unbiased).eval(), torch.randn(3, 8)
    slim = graphprune.prune_model(model, 0.5, x, verify=True)
    assert slim.enter.out_features == 12
    assert slim(x).isfinite().all()


class OneHead(nn.Module):
    """Queries as wide as the residual stream, by a size of it; they stay, since the width of a head is a number."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 32), nn.Linear(32, 5)
        self.q, self.k, self.v = (nn.Linear(32, 32) for _ in range(3))
        self.up, self.down, self.project = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 32)
        self.heads, self.width, self.head_width = 1, 32, 32

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        n, length, width = x.shape
        q = self.q(x).reshape(n, length, self.heads, width // self.heads).transpose(1, 2)
        k, v = (f(x).reshape(n, length, self.heads, self.head_width).transpose(1, 2) for f in (self.k, self.v))
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, self.width)
        x = x + self.project(y)
        found: Tensor = self.leave(x + self.down(self.up(x).relu()))
        return found


def test_what_a_size_ties_to_channels_that_stay_stays_too() -> None:
    """No choice was found: those that stay already were to be held, and not what they are tied to."""
    model, x = OneHead().eval(), torch.randn(2, 7, 6)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert (slim.enter.out_features, slim.q.out_features, slim.up.out_features) == (32, 32, 32)
    why = {choice.group: choice.why for choice in plan.choices}
    assert "sizes of the code divide what is left by 32" in why["enter"] and "is used as a number" in why["q"]
    assert graphprune.verify(model, slim, plan, x).passed


class Product(nn.Module):
    """Half of a layer's outputs gates the other half; the size is a product of two attributes, of which none tells."""

    def __init__(self, width: int, expand: int, read: Callable[[Any, Tensor], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.width, self.expand, self.read = width, expand, read
        self.up, self.down = nn.Linear(10, 2 * expand * width), nn.Linear(expand * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.read(self, self.up(x))
        found: Tensor = self.down(a * b.sigmoid())
        return found


HALVES: dict[str, Callable[[Any, Tensor], tuple[Tensor, Tensor]]] = {
    "split": lambda m, x: x.split(m.expand * m.width, -1),
    "slices": lambda m, x: (x[..., : m.expand * m.width], x[..., m.width * m.expand :]),
    "view": lambda m, x: x.view(-1, 2, m.expand * m.width).unbind(1),
    "position": lambda m, x: (x[:, : m.expand * m.width], x.flip(1)[:, : m.width * m.expand].flip(1)),
}


@pytest.mark.parametrize(("width", "expand"), [(24, 4), (24, 1), (6, 12)])
@pytest.mark.parametrize("asked", [{"ratio": 0.5}, {"ratio": 0.3}, {"macs": 0.6}])
@pytest.mark.parametrize("how", HALVES)
def test_sizes_that_are_products_of_attributes(how: str, asked: dict[str, float], width: int, expand: int) -> None:
    """The smaller factor stays, and what is left is a multiple of it."""
    torch.manual_seed(0)
    model, x = Product(width, expand, HALVES[how]).eval(), torch.randn(2, 10)
    plan = graphprune.trace(model, x).plan(**asked)
    slim = plan.apply(model)
    (choice,) = plan.choices
    assert 0.3 * choice.units < choice.kept < 0.8 * choice.units
    assert slim.width * slim.expand == choice.kept and min(slim.width, slim.expand) == min(width, expand)
    assert graphprune.verify(model, slim, plan, x).passed


class Told(nn.Module):
    """The greater factor is the width of the input, or a number, so that the other one changes."""

    def __init__(self, number: bool) -> None:
        super().__init__()
        self.width, self.expand, self.number = 16, 4, number
        self.up, self.down = nn.Linear(16, 128), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.number else x.reshape(-1, self.width)
        a, b = self.up(x).split(self.expand * self.width, -1)
        found: Tensor = self.down(a * b.sigmoid())
        return found * self.width**-0.5 if self.number else found


@pytest.mark.parametrize("number", [False, True])
def test_a_factor_that_something_else_tells_stays(number: bool) -> None:
    torch.manual_seed(0)
    model, x = Told(number).eval(), torch.randn(3, 16)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert (slim.width, slim.expand, slim.down.in_features) == (16, 2, 32)
    assert graphprune.verify(model, slim, plan, x).passed


class Beside(nn.Module):
    """A position that is a product, behind which are channels of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.expand = 12, 2
        self.enter, self.left, self.right = nn.Linear(8, 29), nn.Linear(24, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).relu()
        size = self.width * self.expand
        found: Tensor = self.left(x[:, :size]) + self.right(x[:, size:])
        return found


def test_positions_that_are_products_of_attributes() -> None:
    torch.manual_seed(0)
    model, x = Beside().eval(), torch.randn(3, 8)
    graph = graphprune.trace(model, x)
    for ratio, kept in ((0.5, 12), (0.3, 18)):
        plan = graph.plan(ratio)
        slim = plan.apply(model)
        assert slim.left.in_features == kept == 2 * slim.width
        assert graphprune.verify(model, slim, plan, x).passed
    name = next(group.name for group in graph.groups if group.units == 24)
    with pytest.raises(PlanError, match="what is left is no multiple of 2"):
        graph.plan_from_kept({name: range(11)})
