"""Budgets, overrides, roles and allocations: what is asked is met, and the plan says why."""

import inspect
import math
import textwrap
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import graphprune
from graphprune.errors import InputError, PlanError
from graphprune.graph import budget_kinds
from graphprune.graph.budget_kinds import BUDGET_KINDS, BudgetKind, Counted
from graphprune.graph.cost import CostModel
from graphprune.planning import allocate
from graphprune.planning.objectives import Budget, parse_budgets
from graphprune.planning.search import Problem, search
from graphprune.pruning.plan import Plan
from models import gpt, hardnet, mobilenet_v2, resnet_cifar, vit

IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
IDS = torch.arange(12)[None]
MODELS: dict[str, tuple[Any, torch.Tensor]] = {
    "resnet": (resnet_cifar.resnet20, IMAGE),
    "mobilenet": (lambda: mobilenet_v2.mobilenet_v2(num_classes=10, small_input=True), IMAGE),
    "vit": (vit.vit, IMAGE),
    "gpt": (gpt.gpt, IDS),
    "hardnet": (hardnet.hardnet, IMAGE),
}


@pytest.fixture(scope="module", params=MODELS, ids=list(MODELS))
def graph(request: pytest.FixtureRequest) -> graphprune.ChannelGraph:
    torch.manual_seed(0)
    build, inputs = MODELS[request.param]
    return graphprune.trace(build().eval(), inputs)


@pytest.fixture(scope="module")
def resnet() -> graphprune.ChannelGraph:
    torch.manual_seed(0)
    return graphprune.trace(resnet_cifar.resnet20().eval(), IMAGE)


# ---------------------------------------------------------------- cost


def test_the_cost_of_a_plan_is_that_of_the_slim_model(graph: graphprune.ChannelGraph) -> None:
    plan = graph.plan(0.4)
    slim = plan.apply(graph.model)
    inputs = IDS if isinstance(graph.model, gpt.GPT) else IMAGE
    assert graph.cost(plan) == graphprune.trace(slim, inputs).cost()
    assert graph.cost(plan).params == sum(p.numel() for p in slim.parameters())
    tensors = [*slim.parameters(), *slim.buffers()]
    assert graph.cost(plan).bytes == sum(t.numel() * t.element_size() for t in tensors)


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4)).eval()


def normalized(norm: Any) -> nn.Module:
    model = layers()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        for number in (0, 2):
            norm(model[number])
    return model


def sparse() -> nn.Module:
    model = layers()
    graphprune.sparsify(model, 0.5)
    return model


SHIFT = torch.ones(1)


class Keeping(nn.Module):
    """A layer that keeps its last result, and reads a tensor that is no buffer, and one of its file."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.scale = layers(), torch.rand(16)
        self(torch.randn(8, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = self.layers(x * self.scale + SHIFT)
        return self.last  # type: ignore[no-any-return]


WORKED_OUT: dict[str, tuple[Any, int]] = {
    "weight_norm": (lambda: normalized(nn.utils.weight_norm), 0),
    "spectral_norm": (lambda: normalized(nn.utils.spectral_norm), 0),
    "masks": (sparse, 0),
    "results": (Keeping, 16 * 4),
}


@pytest.mark.parametrize("kind", WORKED_OUT)
def test_tensors_that_each_call_works_out_have_no_bytes(kind: str) -> None:
    torch.manual_seed(0)
    make, read = WORKED_OUT[kind]
    model, x = make(), torch.randn(8, 16)
    graph = graphprune.trace(model, x)
    plan = graph.plan(bytes=0.5)
    slim = plan.apply(model)
    held = [sum(t.nbytes for t in (*m.parameters(), *m.buffers())) + read for m in (model, slim)]
    assert [graph.cost().bytes, graph.cost(plan).bytes, graphprune.trace(slim, x).cost().bytes] == [*held, held[1]]
    assert 0.45 * held[0] < held[1] <= 0.5 * held[0]


def test_prices_are_what_one_unit_saves(resnet: graphprune.ChannelGraph) -> None:
    model: CostModel = resnet.costs
    alive = resnet.alive(resnet.plan(0.3).removed)
    prices = model.prices(alive, model.kinds)
    for group in resnet.units.groups[::3]:
        unit = next(a for a in group.unit_ids.tolist() if alive[a])
        fewer = alive.copy()
        fewer[unit] = False
        before, after = (np.array(list(model.at(one).counts.values())) for one in (alive, fewer))
        saved = before - after
        assert np.allclose(prices[1:, unit], saved[1:], rtol=1e-9), "entries: exact, a unit is in no product twice"
        assert prices[0, unit] == pytest.approx(saved[0], rel=0.1)


# ---------------------------------------------------------------- budgets


@pytest.mark.parametrize("kind", ["macs", "params", "bytes"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_budgets_are_met_and_used_up(graph: graphprune.ChannelGraph, kind: str, share: float) -> None:
    plan = graph.plan(**{kind: share})
    spent = getattr(graph.cost(plan), kind) / getattr(graph.cost(), kind)
    assert share * 0.985 <= spent <= share


def coarse() -> graphprune.ChannelGraph:
    """A model whose grouped convolution loses a third of its channels at once."""
    torch.manual_seed(0)
    first, pointwise = nn.Conv2d(3, 8, 3, padding=1), [nn.Conv2d(8, 12, 1), nn.Conv2d(12, 8, 1)]
    grouped = nn.Conv2d(12, 12, 3, groups=3, padding=1)
    layers = [first, nn.ReLU(), pointwise[0], nn.ReLU(), grouped, nn.ReLU(), pointwise[1], nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)]
    return graphprune.trace(nn.Sequential(*layers, *head).eval(), torch.randn(1, 3, 8, 8))


def test_a_larger_budget_hardly_loses_more_where_steps_are_coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of the grouped convolution was kept for all but one channel of the other layers."""
    lost = []

    def noted(problem: Problem, *args: Any) -> Any:
        passed = search(problem, *args)
        lost.append(problem.state.lost(passed))
        return passed

    monkeypatch.setattr(allocate, "search", noted)
    graph = coarse()
    for share in np.arange(0.25, 0.96, 0.05):
        assert graph.cost(graph.plan(macs=float(share))).macs <= share * graph.cost().macs
    assert all(after <= 1.1 * before for before, after in pairwise(lost))


@pytest.mark.parametrize("share", [0.4, 0.5, 0.6, 0.7, 0.8])
def test_uniform_stays_uniform_where_steps_are_coarse(share: float) -> None:
    """One fraction lies within a step of what goes of each group: 5/8, 0/3 and 5/8 went."""
    plan = coarse().plan(macs=share, allocation="uniform")
    gone = [(1 - choice.kept / choice.units, 1 / choice.units) for choice in plan.choices if choice.units in (3, 8)]
    assert max(share - step for share, step in gone) <= min(share + step for share, step in gone)


def test_all_budgets_are_met_at_once(graph: graphprune.ChannelGraph) -> None:
    plan = graph.plan(macs=0.6, params=0.5, bytes=0.55)
    dense, slim = graph.cost(), graph.cost(plan)
    spent = {"macs": slim.macs / dense.macs / 0.6, "params": slim.params / dense.params / 0.5}
    assert max(*spent.values(), slim.bytes / dense.bytes / 0.55) <= 1
    assert max(spent.values()) > 0.97


def test_a_budgeted_plan_is_exact(graph: graphprune.ChannelGraph) -> None:
    inputs = IDS if isinstance(graph.model, gpt.GPT) else IMAGE
    plan = graph.plan(macs=0.4)
    check = graphprune.verify(graph.model, plan.apply(graph.model), plan, inputs)
    assert check.passed, str(check)


def test_absolute_budgets(resnet: graphprune.ChannelGraph) -> None:
    assert 19.5e6 < resnet.cost(resnet.plan(macs="20M")).macs <= 20e6
    assert 98_000 < resnet.cost(resnet.plan(params=100_000)).params <= 100_000
    assert 490_000 < resnet.cost(resnet.plan(bytes="0.5MB")).bytes <= 500_000


def test_a_budget_out_of_reach_says_what_is_possible(resnet: graphprune.ChannelGraph) -> None:
    with pytest.raises(
        PlanError, match=r"macs: macs=0.001 is out of reach; .* still costs [\d,]+, 0\.0\d+ of what"
    ) as e:
        resnet.plan(macs=0.001)
    least = float(str(e.value).split("still costs ")[1].split(", ")[0].replace(",", ""))
    assert resnet.cost(resnet.plan(macs=int(least) + 1)).macs <= least + 1


@pytest.mark.parametrize("kind", ["macs", "params", "bytes"])
@pytest.mark.parametrize("max_ratio", [0.3, 0.5, 0.6, 0.7])
def test_the_budgets_that_are_advised_are_within_reach(kind: str, max_ratio: float) -> None:
    """They were rounded to the nearest, so that half of them were not."""
    net = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 9), nn.ReLU(), nn.Linear(9, 3))
    graph = graphprune.trace(net, torch.randn(1, 6))
    with pytest.raises(PlanError) as raised:
        graph.plan(**{kind: 0.001}, max_ratio=max_ratio)
    amount, fraction = raised.value.needed.split(f" or more, {kind}=")
    for advised in (int(amount.replace(",", "")), float(fraction)):
        assert graph.plan(**{kind: advised}, max_ratio=max_ratio).kept


def test_a_time_that_is_advised_is_rounded_up() -> None:
    assert Budget("latency", 1.0, "").shown_as_limit(0.0012311) == "1.24 ms"
    assert Budget("macs", 1.0, "").shown_as_limit(1234.0) == "1,234"


@pytest.mark.parametrize("given", [{"max_ratio": 1.0}, {"overrides": {"*": graphprune.Override(frozen=True)}}])
def test_a_larger_max_ratio_is_advised_only_where_it_helps(given: dict[str, Any]) -> None:
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    with pytest.raises(PlanError, match="free what is frozen") as raised:
        graphprune.trace(net, torch.randn(1, 8)).plan(macs=0.001, **given)
    assert "max_ratio" not in str(raised.value.do)


@pytest.fixture
def counted_as_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = BudgetKind("nothing", "nothing", {"": 1.0}, "10", lambda counted: [])
    monkeypatch.setitem(BUDGET_KINDS, "nothing", kind)


@pytest.mark.usefixtures("counted_as_nothing")
def test_budgets_on_what_a_model_has_none_of() -> None:
    """There is no fraction of it, and any amount is met; numpy warned of 0 / 0."""
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    graph = graphprune.trace(net, torch.randn(1, 8))
    with pytest.raises(InputError, match="is a fraction of what the model costs now, which is 0 nothing"):
        graph.plan(budgets={"nothing": 0.5})
    with pytest.warns(graphprune.NothingRemovedWarning) as caught:
        plans = [graph.plan(budgets={"nothing": 5}), graph.plan(params=10**200)]
    assert not any(choice.removed for plan in plans for choice in plan.choices)
    assert {one.category for one in caught} == {graphprune.NothingRemovedWarning}


def test_the_example_of_a_budget_kind_counts_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counted parameters and views as well."""
    monkeypatch.setattr(budget_kinds, "BUDGET_KINDS", kinds := dict(BUDGET_KINDS))
    lines = inspect.getdoc(graphprune.budget_kind).split("::\n\n")[1].split("\n\nRaises:")[0]  # type: ignore[union-attr]
    exec(textwrap.dedent(lines), {"graphprune": graphprune})
    net = nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Unflatten(1, (5, 10)), nn.Flatten(), nn.Linear(50, 10))
    nodes = graphprune.trace(net, torch.randn(1, 100)).nodes_without(())
    products = kinds["activations"].products(Counted(nodes, []))
    assert sum(math.prod(node.meta["shape"][dim] for node, dim in factors) for _, factors in products) == 50 + 50 + 10


@pytest.mark.parametrize(
    "given",
    [{"mlp": 0.25}, {"overrides": {"*": graphprune.Override(ratio=0.25)}}, {"max_ratio": 0.01}],
    ids=["a role", "overrides", "floors"],
)
def test_a_budget_that_no_group_is_left_for_is_out_of_reach(given: dict[str, Any]) -> None:
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    graph = graphprune.trace(net, torch.randn(1, 8))
    with pytest.raises(PlanError, match=r"params=0.3 is out of reach; .* [01]\.\d+ of what"):
        graph.plan(params=0.3, **given)


def test_a_ratio_over_all_groups_that_is_out_of_reach_says_which_is_not() -> None:
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    graph = graphprune.trace(net, torch.randn(1, 8))
    with pytest.raises(PlanError, match=r"ratio=0.4 is out of reach; .* 52 of 64 units are left") as raised:
        graph.plan(0.4, allocation="global", max_ratio=0.2)
    assert raised.value.needed == "ratio=0.187 or less"
    assert graph.plan(0.187, allocation="global", max_ratio=0.2).kept


def test_multiples_that_hold_groups_are_said() -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    graph = graphprune.trace(net, torch.randn(2, 8))
    why = {choice.group: choice.why for choice in graph.plan(0.5, multiple=32).choices}
    assert why == {"0": "ratio 0.5; what is left is a multiple of 32, or everything", "2": "ratio 0.5"}
    with pytest.raises(PlanError, match="raise max_ratio") as raised:
        graph.plan(macs=0.1, multiple=32)
    assert "(now 0.9), or let multiples of less than 32 units be left" in raised.value.do


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"macs": -1}, "macs: must be a fraction"),
        ({"macs": "2 apples"}, "macs: must be a fraction"),
        ({"macs": "."}, "macs: must be a fraction"),
        ({"params": ".M"}, "params: must be a fraction"),
        ({"latency": ".ms"}, "latency: must be a fraction"),
        ({"macs": "1e999M"}, "macs: must be a fraction"),
        ({"macs": "1e300T"}, "macs: must be a fraction"),
        ({"bytes": "9" * 400 + "MB"}, "bytes: must be a fraction"),
        ({"macs": float("inf")}, "macs: must be a fraction"),
        ({"macs": 10**400}, "macs: must be a fraction"),
        ({"bytes": "0MB"}, "bytes: must be a fraction"),
        ({"params": True}, "params: must be a fraction"),
        ({"ratio": 0.5, "macs": 0.5}, "ratio: given together with macs"),
        ({"ratio": 0.5, "allocation": "best"}, "allocation: 'best' is not known; use one of 'uniform'"),
        (
            {"ratio": 0.5, "importnace": "l1"},
            "importnace: is no argument of a plan, which are .*; did you mean importance",
        ),
        ({"params": float("inf")}, "params: must be a fraction"),
        ({"params": "1e999"}, "params: must be a fraction"),
        ({"params": 10**400}, "params: must be a fraction"),
        ({"heads": 1.5}, "heads: must be a fraction of attention heads to remove"),
        ({"depth": 1.0}, "depth: must be a fraction of residual blocks to leave out"),
        ({"heads": 0.5, "head_width": 0.5}, "head_width: given together with heads"),
        ({"ratio": 0.5, "overrides": {"nothing*": graphprune.Override()}}, r"overrides: 'nothing\*' matches no group"),
        ({"ratio": 0.5, "overrides": {"conv1": 0.3}}, "overrides: 'conv1' maps to a float"),
    ],
)
def test_what_cannot_be_asked(resnet: graphprune.ChannelGraph, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resnet.plan(**asked)


@pytest.mark.parametrize(
    ("kind", "text", "limit"),
    [("macs", "2G", 2e9), ("macs", "350 k", 3.5e5), ("bytes", "1.5MiB", 1.5 * 2**20), ("latency", "5ms", 5e-3)],
)
def test_units_of_budgets(kind: str, text: str, limit: float) -> None:
    (budget,) = parse_budgets({kind: text}, lambda _: 0.0)
    assert budget.limit == pytest.approx(limit)


def test_latency_wants_a_unit() -> None:
    with pytest.raises(InputError, match="latency: 5 has no unit; write 5s, 5ms"):
        parse_budgets({"latency": 5}, lambda _: 1.0)


# ---------------------------------------------------------------- allocation


def kept(plan: Plan) -> dict[str, int]:
    return {c.group: c.kept for c in plan.choices}


def test_uniform_takes_the_same_fraction_everywhere(resnet: graphprune.ChannelGraph) -> None:
    plan = resnet.plan(macs=0.5, allocation="uniform")
    shares = [c.kept / c.units for c in plan.choices]
    assert max(shares) - min(shares) < 0.07


def test_a_global_plan_keeps_what_matters(resnet: graphprune.ChannelGraph) -> None:
    """The units of one group are worth a hundredth of the others': it loses nearly all it may, they keep more."""

    def unequal(group: graphprune.Group, context: Any) -> torch.Tensor:
        scores = torch.arange(1.0, group.units + 1, dtype=torch.float64) ** 2
        return scores / scores.mean() * (0.01 if group.name == "layer2.0.conv1" else 1.0)

    best = kept(resnet.plan(macs=0.5, importance=unequal, normalize="none"))
    even = kept(resnet.plan(macs=0.5, importance=unequal, normalize="none", allocation="uniform"))
    assert best["layer2.0.conv1"] < even["layer2.0.conv1"] / 2
    assert sum(best.values()) - best["layer2.0.conv1"] > sum(even.values()) - even["layer2.0.conv1"]


@pytest.mark.parametrize("importance", ["wanda", "flap", "schur", "taylor", "fisher", "kfac", "obs", "surgeon"])
def test_criteria_with_data_reach_the_plan(resnet: graphprune.ChannelGraph, importance: str) -> None:
    batches = [(torch.randn(4, 3, 32, 32), torch.arange(4)) for _ in range(2)]
    loss = nn.CrossEntropyLoss()
    plan = resnet.plan(macs=0.6, importance=importance, calibration=batches, loss_fn=loss)
    assert plan.choices != resnet.plan(macs=0.6).choices
    assert graphprune.verify(resnet.model, plan.apply(resnet.model), plan, IMAGE).passed
    with pytest.raises(InputError, match="calibration"):
        resnet.plan(0.5, importance=importance)


def test_a_global_ratio_counts_all_units_together(graph: graphprune.ChannelGraph) -> None:
    plan = graph.plan(0.5, allocation="global")
    assert {c.kept / c.units for c in plan.choices} != {0.5}
    removable = [c for c in plan.choices if c.removed]
    assert removable


def test_isomorphic_groups_share_one_ranking(resnet: graphprune.ChannelGraph) -> None:
    def by_layer(group: graphprune.Group, context: Any) -> torch.Tensor:
        weight = 5.0 if group.name == "layer1.0.conv1" else 1.0
        return weight * torch.linspace(0.5, 1, group.units, dtype=torch.float64)

    plan = kept(resnet.plan(macs=0.5, importance=by_layer, normalize="none", allocation="isomorphic"))
    assert plan["layer1.0.conv1"] > plan["layer1.1.conv1"]


def test_the_same_plan_on_any_number_of_threads(graph: graphprune.ChannelGraph) -> None:
    threads = torch.get_num_threads()
    plans = []
    try:
        for number in (1, 2, 1):
            torch.set_num_threads(number)
            plans.append(graph.plan(macs=0.5, importance="l2").to_json())
    finally:
        torch.set_num_threads(threads)
    assert plans[0] == plans[1] == plans[2]


# ---------------------------------------------------------------- overrides and roles


def test_overrides_by_name_class_and_question(resnet: graphprune.ChannelGraph) -> None:
    overrides = {
        "layer1.*": graphprune.Override(ratio=0.25),
        nn.Linear: graphprune.Override(frozen=True),
        (lambda group: group.name == "layer3.0.conv1"): graphprune.Override(min_units=50),
    }
    with pytest.raises(InputError, match="Linear matches no group"):
        resnet.plan(0.5, overrides=overrides)
    del overrides[nn.Linear]
    plan = kept(resnet.plan(0.5, overrides=overrides))
    assert plan["layer1.0.conv1"] == 12
    assert plan["layer2.0.conv1"] == 16
    assert plan["layer3.0.conv1"] == 50


def test_a_class_matches_what_its_modules_hold(resnet: graphprune.ChannelGraph) -> None:
    """As one of them does; ``BasicBlock`` puts out no channels itself."""
    block, quarter = resnet.model.layer1[0], graphprune.Override(ratio=0.25)
    every, one = (kept(resnet.plan(0.5, overrides={key: quarter})) for key in (type(block), block))
    assert (every["layer1.0.conv1"], every["layer2.0.conv1"]) == (12, 24)
    assert (one["layer1.0.conv1"], one["layer2.0.conv1"]) == (12, 16)


def test_a_budget_that_equal_layers_cannot_reach_says_so() -> None:
    layers = [nn.Linear(8, 8) for _ in range(3)]
    model = nn.Sequential(nn.Linear(4, 8), *layers, nn.Linear(8, 2))
    with pytest.raises(
        PlanError, match=r"or leave out layers='equal', with which layers go together, or raise max_ratio"
    ):
        graphprune.trace(model, torch.randn(1, 4)).plan(params=0.001, layers="equal")


def test_frozen_groups_stay_under_a_budget(resnet: graphprune.ChannelGraph) -> None:
    plan = resnet.plan(macs=0.5, overrides={nn.Conv2d: graphprune.Override(max_ratio=0.8)}, max_ratio=0.8)
    assert all(c.kept >= 0.2 * c.units for c in plan.choices)
    held = resnet.plan(macs=0.7, overrides={"layer1.*": graphprune.Override(frozen=True)})
    assert all(n == 16 for g, n in kept(held).items() if g.startswith("layer1"))


@pytest.mark.parametrize("asked", [{"ratio": 0.4}, {"macs": 0.5}])
def test_multiples(resnet: graphprune.ChannelGraph, asked: dict[str, float]) -> None:
    plan = resnet.plan(**asked, multiple=8)  # type: ignore[arg-type]
    assert all(c.kept % 8 == 0 for c in plan.choices)
    assert any(c.removed for c in plan.choices)


def test_protect_ends(resnet: graphprune.ChannelGraph) -> None:
    names = [g.name for g in resnet.groups]
    plain, gentle = (kept(resnet.plan(0.5, protect_ends=g)) for g in (False, True))
    assert gentle[names[0]] > plain[names[0]]
    assert sum(gentle[n] != plain[n] for n in names) == 2


def test_protect_ends_under_a_budget(resnet: graphprune.ChannelGraph) -> None:
    """Also where the even order is the one that is taken."""
    first = resnet.groups[0].name
    plain, gentle = (kept(resnet.plan(macs=0.4, importance="random", protect_ends=g)) for g in (False, True))
    assert gentle[first] > plain[first]


def test_ratios_by_role() -> None:
    torch.manual_seed(0)
    graph = graphprune.trace(gpt.gpt().eval(), IDS)
    assert {c.role for c in graph.plan(0.5).choices} >= {"kv_groups", "mlp", "width", "heads", "head_width"}
    only_mlp = graph.plan(mlp=0.5)
    assert all((c.kept < c.units) == (c.role == "mlp") for c in only_mlp.choices)
    queries = graph.plan(heads=0.5, kv_groups=0.0)
    assert all(not c.removed for c in queries.choices if c.role == "kv_groups")
    assert any(c.removed for c in queries.choices if c.role == "heads")
    narrow = graph.plan(0.5, head_width=0.25)
    assert all(c.kept == round(0.75 * c.units) for c in narrow.choices if c.role == "head_width" and c.removed)
    for plan in (only_mlp, queries, narrow):
        assert graphprune.verify(graph.model, plan.apply(graph.model), plan, IDS).passed


def test_a_plan_says_why(graph: graphprune.ChannelGraph) -> None:
    plan = graph.plan(macs=0.5)
    assert all(c.why for c in plan.choices)
    assert "macs" in str(plan)
    assert all(0 <= c.params <= 1 and 0 <= c.macs <= 1 for c in plan.choices)
    assert all(c.group in str(plan) for c in plan.choices)


# ---------------------------------------------------------------- sensitivity


def test_sensitivity_is_measured_printed_and_used(resnet: graphprune.ChannelGraph, tmp_path: Path) -> None:
    """A loss that only the second layer of a stage has a say in: the budget is met by the others."""
    delicate = "layer2.1.conv1"

    def evaluate(model: nn.Module) -> float:
        seen.append(model)
        return 1.0 + 32 - model.get_submodule(delicate).weight.shape[0]  # type: ignore[operator]

    seen: list[nn.Module] = []
    table = resnet.sensitivity(evaluate, ratios=(0.5, 0.25))
    assert len(seen) == 1 + 2 * len(table.losses)
    assert table.losses[delicate] == ((0.25, 9.0), (0.5, 17.0))
    assert table.rise(delicate, 0.375) == pytest.approx(12.0)
    assert table.rise(delicate, 0.75) == pytest.approx(24.0)
    assert table.rise("layer1.0.conv1", 0.5) == 0
    assert "50%" in str(table) and delicate in str(table)
    plan = kept(resnet.plan(macs=0.5, allocation=table))
    assert plan[delicate] == 32
    assert sum(n < g.units for n, g in zip(plan.values(), resnet.groups, strict=True)) >= len(plan) - 3


def test_groups_without_a_measured_loss_come_last() -> None:
    """They went first, and those of another model were as good as free: no rise was known of them."""
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 5)).eval()
    graph = graphprune.trace(model, torch.randn(2, 6))
    curve = ((0.5, 0.6), (0.75, 0.9))
    with pytest.warns(graphprune.UnmeasuredGroupsWarning, match="no loss of '2', so that others are pruned first"):
        plan = kept(graph.plan(macs=0.6, allocation=graphprune.Sensitivity(0.5, (0.5, 0.75), {"0": curve})))
    assert plan["0"] < 10 and plan["2"] > 9
    other = graphprune.Sensitivity(0.5, (0.5, 0.75), {"conv": curve})
    with pytest.raises(InputError, match=r"nothing can be removed of the groups .*'conv'"):
        graph.plan(macs=0.6, allocation=other)


def test_groups_of_which_ratios_are_less_than_one_unit_are_said() -> None:
    """They were left out without a word; the last layer is frozen whatever the ratio, and is no news."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    graph = graphprune.trace(model, torch.randn(2, 6))
    with pytest.warns(graphprune.UnmeasuredGroupsWarning, match="1 of the groups .*\n  0 keeps all of its 8 units"):
        assert list(graph.sensitivity(lambda m: 0.0, ratios=(0.05, 0.1)).losses) == ["2"]
    with pytest.warns(graphprune.UnmeasuredGroupsWarning, match="2 of the groups"):
        none = graph.sensitivity(lambda m: 0.0, ratios=(0.05,))
    with pytest.raises(InputError, match="the Sensitivity measured no group") as raised:
        graph.plan(macs=0.5, allocation=none)
    assert "ratios= of one unit or more" in str(raised.value.do)


def test_sensitivity_is_that_of_evaluation_and_changes_nothing() -> None:
    """In training mode running statistics moved, dropout drew from the caller's generator, and that loss counted."""
    model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 2)).train()
    data, before = torch.randn(32, 4), {name: tensor.clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def evaluate(model: nn.Module) -> float:
        assert not any(module.training for module in model.modules())
        return float(model(data).square().mean() + torch.rand(()))

    drawn_from = torch.get_rng_state()
    graphprune.trace(model, data[:2]).sensitivity(evaluate, ratios=(0.5,))
    assert torch.equal(torch.get_rng_state(), drawn_from)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_ratios_of_sensitivity(resnet: graphprune.ChannelGraph) -> None:
    with pytest.raises(InputError, match="ratios: must be fractions between 0 and 1"):
        resnet.sensitivity(lambda model: 0.0, ratios=(1.5,))


def test_overrides_by_the_names_of_weights() -> None:
    """As the error says that a key matches: by names, layers or parameters."""
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 5)).eval()
    graph = graphprune.trace(model, torch.randn(2, 6))
    assert kept(graph.plan(0.5, overrides={"0.weight": graphprune.Override(ratio=0.25)})) == {"0": 12, "2": 6}
