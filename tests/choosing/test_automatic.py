"""``importance="auto"``: the criterion whose repaired slim model is nearest to the dense one is kept."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune import api
from graphprune.calibration.output_error import DenseOutputs, OutputError
from graphprune.calibration.statistics import Statistics
from graphprune.choosing import automatic
from graphprune.choosing.automatic import CANDIDATES
from graphprune.choosing.held_back import HeldBack
from graphprune.errors import InputError, PlanError


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4)).eval()
    with torch.no_grad():  # large weights that inputs hardly reach: what they look like and what they do differ
        model[0].weight[:8] *= 3.0
        model[0].bias[:8] = -6.0
    return model


def batches() -> list[Tensor]:
    return list(torch.randn(8, 32, 8, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("certain", [0.0, math.inf])
def test_the_nearest_of_all_criteria_is_kept_or_the_preferred_one(
    certain: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(automatic, "CERTAIN", certain)
    model, samples = network(), batches()
    plan = graphprune.trace(model, samples[0]).plan(0.5, importance="auto", calibration=samples)
    tried = plan.requested["tried"]
    assert tuple(tried) == tuple(CANDIDATES)
    assert all(isinstance(error, float) and 0 < error < 1 for error in tried.values())
    best = min(tried, key=tried.__getitem__) if certain == 0 else "surgeon"
    fields = CANDIDATES[best]
    assert {name: plan.requested[name] for name in fields} == fields
    by_name = graphprune.trace(model, samples[0]).plan(0.5, calibration=samples, **fields)
    assert plan.removed == by_name.removed
    assert len(set(tried.values())) > 1
    assert "Tried, by the relative error" in str(plan)
    assert ("surgeon is taken, since these samples do not tell" in str(plan)) == (tried[best] > min(tried.values()))


def test_a_plan_whose_file_does_not_say_the_criterion_is_shown() -> None:
    samples = batches()
    plan = graphprune.trace(network(), samples[0]).plan(0.5)
    shown = str(replace(plan, requested={"ratio": 0.5, "tried": {"l2": 0.25, "obs": "it failed"}}))
    assert "0.25" in shown and "it failed" in shown and "is taken" not in shown


def chosen(**errors: list[float]) -> str:
    """The choice between candidates with these errors of samples."""
    found = {name: torch.tensor(numbers, dtype=torch.float64) for name, numbers in errors.items()}
    return automatic._chosen({name: OutputError(float(one.sum()), {0: one}) for name, one in found.items()})


def test_where_samples_do_not_tell_them_apart_one_criterion_is_preferred() -> None:
    assert chosen(wanda=[1.0, 1.0, 1.0, 1.2], surgeon=[0.5, 1.5, 0.8, 1.5]) == "surgeon"
    assert chosen(wanda=[0.5, 1.5, 0.8, 1.5], surgeon=[1.0, 1.0, 1.0, 1.2]) == "surgeon"
    assert chosen(wanda=[1.0, 1.0, 1.0, 1.2], schur=[0.5, 1.5, 0.8, 1.3]) == "schur"


def test_another_is_chosen_that_is_nearer_by_more_than_noise() -> None:
    assert chosen(wanda=[1.0, 1.1, 0.9, 1.0], surgeon=[1.5, 1.4, 1.6, 1.5]) == "wanda"
    assert chosen(wanda=[1.0], surgeon=[1.1]) == "wanda"  # of one sample no noise is known
    assert chosen(wanda=[math.inf], surgeon=[math.nan]) == "wanda"


def test_errors_are_those_of_samples_that_repair_has_not_seen() -> None:
    model, samples = network(), batches()
    graph = graphprune.trace(model, samples[0])
    tried = graph.plan(0.5, importance="auto", calibration=samples).requested["tried"]
    plan = graph.plan(0.5, importance="wanda", calibration=samples)
    slim = plan.apply(model)
    graphprune.repair(slim, model, plan, [s for i, s in enumerate(samples) if i not in (3, 7)])
    judging = torch.cat([samples[3], samples[7]])
    with torch.no_grad():
        found, wanted = slim(judging).double(), model(judging).double()
    by_hand = (found - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()
    assert tried["wanda"] == pytest.approx(float(by_hand), rel=1e-6)


def test_nothing_else_is_changed_and_the_same_comes_again() -> None:
    model, samples = network(), batches()
    before, numbers = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    plans = [graphprune.trace(model, samples[0]).plan(0.5, importance="auto", calibration=samples) for _ in range(2)]
    assert plans[0].removed == plans[1].removed
    assert plans[0].requested == plans[1].requested
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_is_pruned_and_repaired() -> None:
    model, samples = network(), batches()
    slim = graphprune.prune_model(model, 0.5, samples[0], importance="auto", calibration=samples)
    plain = graphprune.prune_model(model, 0.5, samples[0])
    with torch.no_grad():
        x = torch.randn(256, 8)
        errors = [float((pruned(x) - model(x)).square().sum()) for pruned in (slim, plain)]
    assert errors[0] < errors[1]


def test_what_it_needs_is_said() -> None:
    model, samples = network(), batches()
    with pytest.raises(InputError, match="compares slim models on data"):
        graphprune.trace(model, samples[0]).plan(0.5, importance="auto")
    with torch.device("meta"):
        hollow = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 4)).eval()
    graph = graphprune.trace(hollow, torch.empty(2, 8, device="meta"))
    with pytest.raises(PlanError, match="on the meta device"):
        graph.plan(0.5, importance="auto", calibration=samples)
    with pytest.raises(InputError, match="which only a plan of a whole model can do"):
        graphprune.trace(model, samples[0]).sensitivity(lambda _: 0.0, importance="auto", calibration=samples)


class Counted(nn.Module):
    """It says only how many outputs are positive."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = network()

    def forward(self, x: Tensor) -> Tensor:
        return (self.layers(x) > 0).sum(1)


class Divided(Counted):
    """Its outputs are no numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) / 0 * 0


class Widths(nn.Module):
    """It gives what is inside, of which slim models have less."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 24), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        inside = self.first(x).relu()
        return {"inside": inside, "answer": self.second(inside) > 0}


def test_answers_that_are_no_floating_point_numbers_are_compared_too() -> None:
    plan = graphprune.trace(Counted(), batches()[0]).plan(0.5, importance="auto", calibration=batches())
    errors = [error for error in plan.requested["tried"].values() if isinstance(error, float)]
    assert errors and all(0 < error < math.inf for error in errors)


@pytest.mark.parametrize("outputs", [lambda found: found["answer"], lambda found: found["inside"].mean(-1)])
def test_what_outputs_gives_is_compared(outputs: Callable[[Any], Any]) -> None:
    graph = graphprune.trace(Widths(), batches()[0], outputs=outputs)
    plan = graph.plan(0.5, importance="auto", calibration=batches())
    assert plan.shape("first.weight") == (12, 8)
    assert any(isinstance(error, float) for error in plan.requested["tried"].values())


def test_where_no_outputs_can_be_compared_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="the model's output has no finite number") as caught:
        graphprune.prune_model(Divided(), 0.5, batches()[0], calibration=batches())
    assert "name a criterion" in caught.value.do
    monkeypatch.setattr(DenseOutputs, "error", lambda *_: OutputError(math.inf, {}))
    with pytest.raises(InputError, match="could compare the outputs of no slim model") as caught:
        graphprune.prune_model(network(), 0.5, batches()[0], calibration=batches())
    assert all((caught.value.found, caught.value.needed, caught.value.do))


def test_a_normalization_that_is_given_holds_for_all() -> None:
    graph = graphprune.trace(network(), batches()[0])
    plan = graph.plan(0.5, importance="auto", normalize="max", calibration=batches())
    assert tuple(plan.requested["tried"]) == ("wanda", "schur", "obs", "surgeon", "taylor")


def test_the_model_runs_on_each_batch_once_for_moments_of_all_criteria(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    observed, each = Statistics._observed, Statistics.each_backward
    monkeypatch.setattr(Statistics, "_observed", lambda *args: passes.append(args[1:]) or observed(*args))
    monkeypatch.setattr(Statistics, "each_backward", lambda *args: passes.append("gradients") or each(*args))
    graphprune.trace(network(), batches()[0]).plan(0.5, importance="auto", calibration=batches())
    assert passes == [(True,), "gradients"]


def test_of_many_samples_some_are_taken() -> None:
    held = HeldBack.of(nn.Identity(), [torch.full((100, 2), float(i)) for i in range(40)], False)
    taken = [int(batch[0, 0]) for batch in held.everything]
    assert len(taken) == 3
    assert taken[0] < 10 < taken[1] < 20 < taken[2]
    assert held.in_part and len(list(held.given)) == 40
    held = HeldBack.of(nn.Identity(), [torch.randn(1000, 2)], False)
    assert [len(batch) for part in (held.repairing, held.judging) for batch in part] == [192, 64]


def test_the_best_criterion_plans_with_every_sample() -> None:
    graph = graphprune.trace(network(), batches()[0])
    taken = {
        int(batch[0, 0])
        for batch in HeldBack.of(nn.Identity(), [torch.full((32, 8), float(i)) for i in range(40)], False).everything
    }
    seen, other = batches()[0], batches()[1] * torch.tensor([0.0] * 4 + [1.0] * 4)
    many = [seen if i in taken else other for i in range(40)]
    plan = graph.plan(macs=0.5, importance="auto", calibration=many)
    fields = {name: plan.requested[name] for name in ("importance", "normalize") if name in plan.requested}
    assert plan.removed == graph.plan(macs=0.5, calibration=many, **fields).removed
    assert plan.removed != graph.plan(macs=0.5, calibration=[seen] * len(taken), **fields).removed
    assert plan.requested["tried"].keys() == CANDIDATES.keys()


@pytest.mark.parametrize(("count", "judging"), [(1, 0), (2, 1), (4, 1), (8, 2)])
def test_the_last_of_every_four_batches_judges(count: int, judging: int) -> None:
    held = HeldBack.of(nn.Identity(), [torch.full((3, 2), float(i)) for i in range(count)], False)
    assert len(list(held.judging)) == max(judging, 1)
    shared = {float(b[0, 0]) for b in held.judging} & {float(b[0, 0]) for b in held.repairing}
    assert (not shared) == (count > 1)


def test_a_single_batch_is_parted_by_samples() -> None:
    held = HeldBack.of(nn.Identity(), [torch.arange(8.0).view(8, 1)], False)
    assert [b.flatten().tolist() for b in held.judging] == [[6.0, 7.0]]
    assert [b.flatten().tolist() for b in held.repairing] == [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]]


class Answers(nn.Module):
    """Answers that are no floating-point numbers."""

    def __init__(self, answer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(x)


@pytest.mark.parametrize("answer", [lambda x: x > 0, lambda x: x.argmax(-1), lambda x: torch.complex(x, -x)])
def test_a_single_batch_is_parted_by_samples_whatever_kind_of_numbers_comes_out(
    answer: Callable[[Tensor], Tensor],
) -> None:
    held = HeldBack.of(Answers(answer), [torch.randn(8, 3)], False)
    assert [len(batch) for part in (held.repairing, held.judging) for batch in part] == [6, 2]


def test_of_batches_of_uneven_sizes_a_fair_part_of_the_samples_judges() -> None:
    sizes = [61, 13, 51, 1, 1, 1]  # sentences of one length each: the fourth batch alone would judge
    held = HeldBack.of(nn.Softmax(-1), [torch.randn(size, 4 + i) for i, size in enumerate(sizes)], False)
    assert [len(batch) for batch in held.judging] == [15, 3, 12, 1]
    assert [len(batch) for batch in held.repairing] == [46, 10, 39, 1, 1]

    held = HeldBack.of(nn.GRU(3, 4), [torch.randn(4 + i, size, 3) for i, size in enumerate(sizes)], False)  # time first
    assert [batch.shape[1] for batch in held.judging] == [15, 3, 12, 1]


class Stated(nn.Module):
    """Sequences read from a state on, which has the samples in its second dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 16)
        self.recurrent = nn.GRU(16, 16, batch_first=True)
        self.last = nn.Linear(16, 4)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        outputs: Tensor = self.last(self.recurrent(self.inner(x), state)[0])
        return outputs


class Edges(nn.Module):
    """Rows that are added up along edges, which number them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(6, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = self.inner(x).relu()
        outputs: Tensor = self.last(torch.zeros_like(h).index_add(0, edges[1], h[edges[0]]))
        return outputs


@pytest.mark.parametrize(
    ("model", "batch"),
    [
        (Stated(), (torch.randn(32, 5, 6), torch.randn(1, 32, 16))),
        (Edges(), (torch.randn(20, 6), torch.randint(20, (2, 50)))),
    ],
    ids=["state", "edges"],
)
def test_a_single_batch_that_cannot_be_parted_repairs_and_judges(model: nn.Module, batch: tuple[Tensor, ...]) -> None:
    held = HeldBack.of(model.eval(), [batch], False)
    for part in (held.repairing, held.judging):
        ((first, second),) = part
        assert torch.equal(first, batch[0]) and torch.equal(second, batch[1])
    slim = graphprune.prune_model(model, 0.5, batch, calibration=[batch])
    assert slim.inner.out_features < 16


class PerSample(nn.Module):
    """As detectors: a tensor for each sample."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return list(x)


def test_outputs_whose_number_follows_the_samples_are_not_parted() -> None:
    held = HeldBack.of(PerSample(), [torch.randn(8, 3)], False)
    assert [batch.shape for part in (held.repairing, held.judging) for batch in part] == [(8, 3), (8, 3)]


def test_a_batch_with_time_first_is_parted_by_its_second_dimension() -> None:
    held = HeldBack.of(nn.GRU(6, 4), [torch.randn(10, 8, 6)], False)
    assert [batch.shape for part in (held.repairing, held.judging) for batch in part] == [(10, 6, 6), (10, 2, 6)]


def importances(monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[Any]:
    """The importance of each plan that ``prune_model`` asks for."""
    asked: list[Any] = []
    best = automatic.best_plan
    monkeypatch.setattr(api, "best_plan", lambda graph, given, *more: asked.append(given) or best(graph, given, *more))
    graphprune.prune_model(network(), example_inputs=batches()[0], **options)
    return [given.importance for given in asked]


@pytest.mark.parametrize(
    ("options", "importance"),
    [
        ({"calibration": batches()}, "auto"),
        ({"calibration": batches(), "importance": "l2"}, "l2"),
        ({"calibration": batches(), "repair": False}, "l2"),
        ({}, "l2"),
        ({"calibration": batches(), "allocation": "searched", "candidates": 3}, "l2"),
    ],
    ids=["samples", "named", "unrepaired", "without", "searched"],
)
def test_it_is_the_default_of_pruning_and_repair_in_one_call(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], importance: str
) -> None:
    assert importances(monkeypatch, macs=0.5, **options) == [importance]


def test_a_search_has_the_criterion_that_is_best_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, samples, searched = network(), batches(), []
    real = automatic.choose_plan

    def choose_plan(graph: Any, options: Any, *rest: Any) -> graphprune.Plan:
        searched.append(options.allocation == "searched")
        return real(graph, options, *rest)

    monkeypatch.setattr(automatic, "choose_plan", choose_plan)
    graph = graphprune.trace(model, samples[0])
    asked: dict[str, Any] = {"macs": 0.5, "importance": "auto", "calibration": samples}
    at_once = graph.plan(allocation="global", **asked)
    searched.clear()
    plan = graph.plan(allocation="searched", candidates=5, time_limit=60, **asked)
    assert sum(searched) == 1
    assert plan.requested["tried"] == at_once.requested["tried"]
    assert plan.requested["importance"] == at_once.requested["importance"]
    assert plan.requested["allocation"] == "searched"
