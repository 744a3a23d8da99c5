"""One record of options, from which functions, callbacks and the command line take their arguments."""

import ast
import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from fractions import Fraction
from itertools import pairwise
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from torch import nn

import graphprune
from graphprune.cli import main
from graphprune.errors import InputError
from graphprune.graph.budget_kinds import BUDGET_KINDS, Counted, Product
from graphprune.integrations.lightning import PruningCallback as LightningCallback
from graphprune.integrations.transformers import PruningCallback as TransformersCallback
from graphprune.planning.keyword_arguments import PlanArguments
from graphprune.planning.options import OPTION_NAMES, PruningOptions

TAKERS: list[Callable[..., Any]] = [
    graphprune.prune_model,
    graphprune.ChannelGraph.plan,
    graphprune.ChannelGraph.sensitivity,
    graphprune.prune_iteratively,
    graphprune.GradualPruner,
    LightningCallback,
    TransformersCallback,
]


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


@pytest.fixture
def graph() -> graphprune.ChannelGraph:
    return graphprune.trace(net(), torch.randn(2, 6))


def test_types_for_checkers_are_those_of_the_record() -> None:
    record = get_type_hints(PruningOptions)
    assert get_type_hints(PlanArguments) == {name: record[name] for name in OPTION_NAMES}


def test_help_for_editors_is_that_of_the_record() -> None:
    (record,) = ast.parse(inspect.getsource(PlanArguments)).body
    assert isinstance(record, ast.ClassDef)
    pairs = [(a, b) for a, b in pairwise(record.body) if isinstance(a, ast.AnnAssign) and isinstance(b, ast.Expr)]
    spelled = {ast.unparse(a.target): " ".join(str(ast.literal_eval(b.value)).split()) for a, b in pairs}
    known = {one.name: one.metadata["help"] for one in fields(PruningOptions) if one.name != "ratio"}
    assert spelled == {name: f"{text[0].upper()}{text[1:]}." for name, text in known.items()}


@pytest.mark.parametrize("function", TAKERS, ids=lambda f: f.__qualname__)
def test_signature_and_help_show_every_option(function: Callable[..., Any]) -> None:
    shown = inspect.signature(function).parameters
    documented = (function.__init__ if inspect.isclass(function) else function).__doc__ or ""
    for one in fields(PruningOptions):
        assert one.name in shown or one.name == "ratio"
        if one.name != "ratio":
            assert f"    {one.name}: {one.metadata['help'][:30]}" in documented
    assert shown["importance"].default == "l2"


def test_help_of_the_command_line_has_every_option_it_can_take(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for one in fields(PruningOptions):
        assert f"--{one.name.replace('_', '-')} " in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mac": 0.5}, "mac: is no argument of a plan, which are .*; did you mean macs"),
        ({"protect_end": True}, "did you mean protect_ends"),
        ({"ratio": 0.5, "allocation": "isomorfic"}, "did you mean isomorphic"),
        ({"ratio": 0.5, "reduce": "men"}, "did you mean mean"),
        ({"macs": "2 apples"}, "macs: must be a fraction"),
        ({"ratio": 0.5, "max_ratio": 1.5}, "max_ratio: must be a fraction"),
        ({"ratio": 0.5, "multiple": 0}, "multiple: must be a whole number"),
    ],
)
def test_what_is_misspelled_or_out_of_range_is_answered(
    graph: graphprune.ChannelGraph, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        graph.plan(**arguments)


@pytest.mark.parametrize("ratio", [Fraction(1, 2), np.float32(0.5), np.float64(0.5), 0.5])
def test_any_real_number_is_a_ratio(graph: graphprune.ChannelGraph, ratio: Any) -> None:
    plan = graph.plan(ratio)
    assert graphprune.Plan.from_json(plan.to_json()).shape("0.weight") == (6, 6)


def test_the_record_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        PruningOptions(0.5).seed = 1  # type: ignore[misc]


# ---------------------------------------------------------------- a budget kind from outside


@pytest.fixture
def activations() -> Any:
    """A budget on the entries of all activations, registered as a user would, for one test."""

    @graphprune.budget_kind("activations", units={"": 1.0, "k": 1e3}, example="20k", help="entries of all activations")
    def count(counted: Counted) -> list[Product]:
        made = [node for node in counted.nodes if node.op == "call_function"]
        return [(1, [(node, d) for d in range(len(node.meta["shape"]))]) for node in made if "shape" in node.meta]

    yield
    del BUDGET_KINDS["activations"]


def test_a_budget_kind_is_known_everywhere(activations: None, capsys: pytest.CaptureFixture[str]) -> None:
    graph = graphprune.trace(net(), torch.randn(2, 6))
    dense = graph.cost()["activations"]
    assert dense > 0
    plan = graph.plan(activations=0.7)
    assert 0.5 * dense < graph.cost(plan)["activations"] <= 0.7 * dense
    assert plan.to_json().count("activations") >= 1
    assert graph.cost(graph.plan(activations=f"{dense / 1e3 * 0.8}k"))["activations"] <= 0.8 * dense
    slim = graphprune.prune_model(net(), activations=0.7, example_inputs=torch.randn(2, 6))
    assert graphprune.trace(slim, torch.randn(2, 6)).cost()["activations"] <= 0.7 * dense
    assert main(["prune", "--help"]) == 0
    assert re.search(r"--activations +AMOUNT", capsys.readouterr().out)


def test_a_budget_kind_that_is_not_registered_is_no_argument(graph: graphprune.ChannelGraph) -> None:
    with pytest.raises(InputError, match="activations: is no argument"):
        graph.plan(activations=0.5)


def test_a_budget_kind_follows_schedules(activations: None) -> None:
    model = net()
    pruner = graphprune.GradualPruner(model, torch.randn(2, 6), graphprune.OneShot(1), activations=0.6)
    dense = graphprune.trace(model, torch.randn(2, 6)).cost()["activations"]
    assert pruner.step() is not None
    assert graphprune.trace(model, torch.randn(2, 6)).cost()["activations"] <= 0.6 * dense


def test_a_budget_kind_that_is_registered_later_is_counted(request: pytest.FixtureRequest) -> None:
    graph = graphprune.trace(net(), torch.randn(2, 6))
    graph.plan(macs=0.7)
    request.getfixturevalue("activations")
    dense = graph.cost()["activations"]
    assert graph.cost(graph.plan(activations=0.7))["activations"] <= 0.7 * dense


@pytest.mark.parametrize(
    ("count", "found"),
    [
        (lambda counted: 3, "TypeError: 'int' object is not iterable"),
        (lambda counted: [n.meta["size"] for n in counted.nodes], "KeyError: 'size'"),
        (lambda counted: [3], "but 3"),
        (lambda counted: [(1.5, [(counted.nodes[-1], 0)])], "but (1.5, "),
        (lambda counted: [(1, [(counted.nodes[-1], 7)])], "but (1, "),
    ],
)
def test_what_counts_a_budget_kind_is_named_where_it_fails(count: Any, found: str) -> None:
    graphprune.budget_kind("wrong", units={"": 1.0}, example="20", help="wrong")(count)
    try:
        graph = graphprune.trace(net(), torch.randn(2, 6))
        for asked in (lambda: graph.plan(wrong=0.5), lambda: graph.cost()["wrong"]):
            with pytest.raises(InputError, match=r"wrong: the function that counts this budget kind") as error:
                asked()
        plan = graph.plan(macs=0.5)
        assert "wrong" not in plan.costs and graph.cost(plan).macs <= graph.cost().macs / 2
        assert "wrong not counted (wrong: the function that counts" in str(graph)
    finally:
        del BUDGET_KINDS["wrong"]
    assert found in str(error.value)


@pytest.mark.parametrize(
    "arguments", [{"units": 3}, {"units": {"k": "a"}}, {"units": {3: 1.0}}, {"example": 20}, {"help": None}]
)
def test_a_budget_kind_of_wrong_arguments_is_not_registered(arguments: dict[str, Any]) -> None:
    given: dict[str, Any] = {"units": {"": 1.0}, "example": "20", "help": "wrong", **arguments}
    with pytest.raises(InputError, match=next(iter(arguments))):
        graphprune.budget_kind("wrong", **given)(lambda counted: [])
    assert "wrong" not in BUDGET_KINDS


def counted_as(times: int) -> Any:
    """What the cell of a notebook defines, each time that it is run."""

    def entries(counted: Any) -> list[Any]:
        return [(times, [(counted.nodes[-1], 0)])]

    entries.__qualname__ = "entries"
    return entries


def test_a_budget_kind_that_is_defined_again_takes_the_place_of_the_earlier_one() -> None:
    register = graphprune.budget_kind("entries", units={"": 1.0}, example="20", help="entries")
    try:
        register(counted_as(1))
        graph = graphprune.trace(net(), torch.randn(2, 6))
        before = graph.cost()["entries"]
        register(counted_as(3))
        assert graph.cost()["entries"] == 3 * before
        with pytest.raises(InputError, match="'entries' is taken"):
            register(lambda counted: [])
    finally:
        del BUDGET_KINDS["entries"]


def test_a_name_is_taken_once() -> None:
    with pytest.raises(InputError, match="'macs' is taken"):
        graphprune.budget_kind("macs", units={"": 1.0}, example="2", help="again")(lambda counted: [])
