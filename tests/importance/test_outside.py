"""A criterion registered from outside the package, by one decorator."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.cli import main
from graphprune.errors import InputError, PlanError
from graphprune.importance import CRITERIA, Context, Criterion
from graphprune.importance.criteria import find_criterion


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    """Criteria registered in a test are removed after it."""
    before = dict(CRITERIA)
    yield
    CRITERIA.clear()
    CRITERIA.update(before)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).eval()


def rising(group: graphprune.Group, context: Context) -> Tensor:
    """Later units matter more; all units of the second layer matter more than those of the first."""
    return torch.arange(group.units) + 1.0 + (100 if group.name == "2" else 0)


def removed(plan: graphprune.Plan) -> dict[str, list[int]]:
    return {choice.group: sorted(choice.removed) for choice in plan.choices}


def test_it_is_used_by_its_name() -> None:
    assert graphprune.criterion("rising")(rising) is rising
    model = network()
    graph = graphprune.trace(model, torch.randn(2, 3))
    assert removed(graph.plan(0.5, importance="rising")) == {"0": [0, 1, 2, 3], "2": [0, 1, 2, 3]}
    slim = graphprune.prune_model(model, 0.5, torch.randn(2, 3), importance="rising")
    torch.testing.assert_close(slim[0].weight, model[0].weight[4:])
    torch.testing.assert_close(slim[4].weight, model[4].weight[:, 4:])


def test_its_name_is_unknown_before() -> None:
    graph = graphprune.trace(network(), torch.randn(2, 3))
    with pytest.raises(InputError, match=r"importance: 'rising' is not known; use one of 'l1', 'l2'"):
        graph.plan(0.5, importance="rising")


def test_a_misspelled_name() -> None:
    graphprune.criterion("rising")(rising)
    graph = graphprune.trace(network(), torch.randn(2, 3))
    with pytest.raises(InputError) as caught:
        graph.plan(0.5, importance="risign")
    message = caught.value.what
    assert message.startswith("importance: 'risign' is not known; use one of 'l1', 'l2', ")
    assert re.findall(r"'(\w+)'", message.split("use one of")[1]) == [*CRITERIA] and "rising" in CRITERIA
    assert message.endswith("; did you mean rising?")
    with pytest.raises(InputError, match=r"importance: 7 is not known; use one of 'l1'"):
        graph.plan(0.5, importance=7)  # type: ignore[arg-type]


@pytest.mark.parametrize("comparable", [True, False])
def test_comparable_scores_are_not_normalized(comparable: bool) -> None:
    """One ranking of both groups: the plan is that of ``normalize="none"`` or that of ``normalize="mean"``."""
    graphprune.criterion("rising", comparable=comparable)(rising)
    graph = graphprune.trace(network(), torch.randn(2, 3))
    lost = {
        normalize: {name: len(units) for name, units in removed(plan).items()}
        for normalize in (None, "none", "mean")
        for plan in [graph.plan(0.4, importance="rising", allocation="global", normalize=normalize)]
    }
    assert lost[None] == lost["none" if comparable else "mean"]
    assert lost["none"] != lost["mean"]


def test_without_weights_it_works_on_meta() -> None:
    graphprune.criterion("weightless", weights=False)(rising)
    with torch.device("meta"):
        graph = graphprune.trace(network(), torch.randn(2, 3))
    assert removed(graph.plan(0.5, importance="weightless"))["0"] == [0, 1, 2, 3]


def test_with_weights_it_does_not_work_on_meta() -> None:
    graphprune.criterion("weighted")(rising)
    with torch.device("meta"):
        graph = graphprune.trace(network(), torch.randn(2, 3))
    with pytest.raises(PlanError, match=r"importance: it reads weights, but 0.weight is on the meta device"):
        graph.plan(0.5, importance="weighted")


def test_it_reads_data() -> None:
    @graphprune.criterion("activity", data=True)
    def activity(group: graphprune.Group, context: Context) -> Tensor:
        scores = context.over_consumers(group, lambda c: (c.unit, c.inputs.square.flatten().numpy()[c.place]))
        assert scores is not None
        return torch.from_numpy(scores)

    model, batch = network(), torch.randn(16, 3)
    graph = graphprune.trace(model, batch)
    least = model[:2](batch).square().mean(0).argsort()[:4].tolist()
    assert removed(graph.plan(0.5, importance="activity", calibration=[batch]))["0"] == sorted(least)
    with pytest.raises(InputError, match=r"importance: 'activity' reads data[\s\S]*pass calibration="):
        graph.plan(0.5, importance="activity")


def test_a_function_has_the_record_that_it_is_registered_with() -> None:
    assert find_criterion(rising) == Criterion("rising", rising, data=False, comparable=False, weights=True)
    graphprune.criterion("mine", data=True, comparable=True, weights=False, help="rises")(rising)
    assert find_criterion(rising) == find_criterion("mine") == Criterion("mine", rising, True, True, False, "rises")


def test_the_command_line_offers_it(capsys: pytest.CaptureFixture[str]) -> None:
    graphprune.criterion("rising")(rising)
    assert main(["prune", "--help"]) == 0
    assert "rising" in capsys.readouterr().out


def test_two_criteria_of_one_name() -> None:
    known = CRITERIA["l2"]
    with pytest.raises(InputError, match=r"name: 'l2' is a criterion already: graphprune.importance.magnitude.l2"):
        graphprune.criterion("l2")(rising)
    assert CRITERIA["l2"] is known


def ranked_by(sign: int) -> Callable[[graphprune.Group, Context], Tensor]:
    """What the cell of a notebook defines, each time that it is run."""

    def ranks(group: graphprune.Group, context: Context) -> Tensor:
        return sign * torch.arange(float(group.units))

    ranks.__qualname__ = "ranks"
    return ranks


def test_a_criterion_that_is_defined_again_takes_the_place_of_the_earlier_one() -> None:
    graph = graphprune.trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(2, 3))
    for sign, gone in ((1, (0, 1)), (-1, (2, 3))):
        graphprune.criterion("ranks")(ranked_by(sign))
        assert graph.plan(0.5, importance="ranks").choices[0].removed == gone
    with pytest.raises(InputError, match="'ranks' is a criterion already"):
        graphprune.criterion("ranks")(rising)
    graphprune.criterion("lambdas")(lambda group, context: torch.arange(float(group.units)))
    with pytest.raises(InputError, match="'lambdas' is a criterion already"):  # they have no names to be told by
        graphprune.criterion("lambdas")(lambda group, context: -torch.arange(float(group.units)))


def test_a_decorator_without_a_name() -> None:
    with pytest.raises(InputError, match=r'name: must be a string that is not empty, as in @criterion\("mine"\)'):
        graphprune.criterion(rising)  # type: ignore[arg-type]


def test_a_record_prints_its_line_of_help() -> None:
    assert str(Criterion("plain", rising)) == "plain"
    told = Criterion("told", rising, data=True, weights=False, help="rises")
    assert str(told) == "told: rises (needs calibration batches, reads no weights)"
    assert all(c.help for c in CRITERIA.values())


WRONG_SCORES = {
    "complex": lambda scores: scores.to(torch.complex64),
    "sparse": lambda scores: scores.to_sparse(),
    "meta": lambda scores: scores.to("meta"),
}


@pytest.mark.parametrize("changed", WRONG_SCORES.values(), ids=WRONG_SCORES)
def test_scores_that_cannot_be_ranked_are_refused(changed: Callable[[Tensor], Tensor]) -> None:
    graph = graphprune.trace(network(), torch.randn(2, 3))
    with pytest.raises(PlanError, match=r"cannot be ranked for group '0'[\s\S]*scores.to_dense\(\)"):
        graph.plan(0.5, importance=lambda group, context: changed(torch.arange(group.units).float()))


@pytest.mark.parametrize("scores", [torch.ones(8), torch.ones(3, 8), 1.0, np.ones((8, 3))], ids=type)
def test_scores_of_entries_have_the_shape_of_their_parameter(scores: Any) -> None:
    graph = graphprune.trace(network(), torch.randn(2, 3))

    def of_entries(name: str, parameter: Tensor) -> Any:
        return scores

    with pytest.raises(InputError, match=r"entry_scores: for 0.weight of shape \[8, 3\][\s\S]*do not sum the scores"):
        graph.plan(0.5, importance=lambda group, context: torch.from_numpy(context.saliency(group, of_entries)))


def test_rows_are_those_of_parameters_in_the_group() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)).eval()
    graph = graphprune.trace(model, torch.randn(2, 3, 4, 4))
    for axis in ("1.running_mean[0]", "2.weight[0]", "weight"):
        with pytest.raises(InputError, match=rf"axis: {re.escape(axis)} is no axis[\s\S]*one of 0.weight\[0\], "):
            graph.plan(0.5, importance=lambda group, context, axis=axis: context.rows(group, axis).sum(1))
    plan = graph.plan(0.5, importance=lambda group, context: context.rows(group, "0.weight[0]").norm(dim=1))
    assert removed(plan)["0"] == sorted(model[0].weight.flatten(1).norm(dim=1).argsort()[:4].tolist())


NO_PAIRS = {
    "scores alone": lambda consumer: np.ones(8),
    "nothing": lambda consumer: None,
    "not by place": lambda consumer: (consumer.unit, np.ones(len(consumer.unit) + 1)),
    "by block": lambda consumer: (consumer.unit, np.ones((1, len(consumer.unit)))),
}


@pytest.mark.parametrize("scores_of", NO_PAIRS.values(), ids=NO_PAIRS)
def test_scores_from_consumers_come_with_their_units(scores_of: Callable[[Any], Any]) -> None:
    graph = graphprune.trace(network(), torch.randn(2, 3))
    with pytest.raises(InputError, match=r"scores_of: for the consumer \S+ it returned[\s\S]*scores\[consumer.place\]"):
        graph.plan(
            0.5,
            importance=lambda group, context: torch.from_numpy(context.over_consumers(group, scores_of)),
            calibration=[torch.randn(4, 3)],
        )


def test_a_class_is_no_criterion_and_auto_no_name() -> None:
    class Rising:
        def __call__(self, group: graphprune.Group, context: Context) -> Tensor:
            return rising(group, context)

    with pytest.raises(InputError, match=r"Rising\(\) is called as Rising\(group, context\)"):
        graphprune.criterion("rising")(Rising)  # type: ignore[type-var]
    with pytest.raises(InputError, match="stands for the best of several"):
        graphprune.criterion("auto")(rising)
    assert graphprune.criterion("rising")(Rising()) is CRITERIA["rising"].score
