"""A criterion registered from outside the package, by one decorator."""

from __future__ import annotations

import re
from collections.abc import Iterator

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


def test_a_decorator_without_a_name() -> None:
    with pytest.raises(InputError, match=r'name: must be a string that is not empty, as in @criterion\("mine"\)'):
        graphprune.criterion(rising)  # type: ignore[arg-type]


def test_a_record_prints_its_line_of_help() -> None:
    assert str(Criterion("plain", rising)) == "plain"
    told = Criterion("told", rising, data=True, weights=False, help="rises")
    assert str(told) == "told: rises (needs calibration batches, reads no weights)"
    assert all(c.help for c in CRITERIA.values())
