"""Advice on real, small models: it is true, it runs, and it changes nothing."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.utils.prune
from torch import Tensor, nn
from torch.nn import functional as F

import graphprune
from graphprune.advice import advising
from graphprune.errors import InputError
from models.gpt import gpt
from models.resnet_cifar import resnet20

SMALL: dict[str, Any] = {"seconds": 0.2}


class Perceptron(nn.Module):
    """Two hidden layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 64)
        self.second = nn.Linear(64, 64)
        self.last = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.first(x))))
        y: Tensor = self.last(x)
        return y


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of kernels go to another table, and take no long where they are not asked for."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(advising, "_UNTIMED", 0.2)


@pytest.fixture
def model() -> nn.Module:
    return Perceptron().eval()


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(1, 16)


@pytest.fixture
def data() -> list[Tensor]:
    return [torch.randn(32, 16) for _ in range(4)]


def run(advice: graphprune.Advice, **given: Any) -> dict[str, Any]:
    """Execute the program of an advice; its variables."""
    exec(compile(advice.code, "advice", "exec"), given)
    return given


def test_advice_prints_and_is_data(model: nn.Module, inputs: Tensor) -> None:
    advice = graphprune.advise(model, inputs, **SMALL)
    text = str(advice)
    for recommendation in advice.recommendations:
        assert f"{recommendation.topic}: {recommendation.choice}" in text
    assert "first" in text
    found = json.loads(advice.to_json())
    assert found["facts"]["params"] == sum(p.numel() for p in model.parameters())
    assert found["arguments"]["macs"] == 0.5
    assert advice["criterion"].arguments == {"importance": "l2"}
    assert repr(advice).startswith("<Advice for Perceptron")
    with pytest.raises(InputError, match="topic"):
        advice["colour"]


def test_the_arguments_make_a_plan_within_the_target(model: nn.Module, inputs: Tensor, data: list[Tensor]) -> None:
    advice = graphprune.advise(model, inputs, data=data, target={"params": 0.4}, seconds=600)
    assert advice.options is not None
    graph = graphprune.trace(model, inputs)
    plan = graph.plan(**advice.arguments)
    assert graph.cost(plan).params <= 0.4 * graph.cost().params


def test_trials_on_data_decide(model: nn.Module, inputs: Tensor, data: list[Tensor]) -> None:
    advice = graphprune.advise(model, inputs, data=data, seconds=600)
    assert {t.topic for t in advice.facts.trials} == {"criterion", "allocation", "ends"}
    assert all(t.loss is not None for t in advice.facts.trials)
    assert all(g.rise is not None and g.rise > 0 for g in advice.facts.groups)
    assert "tried here" in advice["criterion"].reason


def test_the_program_runs(model: nn.Module, inputs: Tensor, data: list[Tensor]) -> None:
    for given in ({}, {"data": data}):
        advice = graphprune.advise(model, inputs, **given, **SMALL)
        slim = run(advice, model=model, example_inputs=inputs, **given)["slim"]
        assert sum(p.numel() for p in slim.parameters()) < sum(p.numel() for p in model.parameters())


def test_the_program_trains_where_it_can(model: nn.Module, inputs: Tensor) -> None:
    pairs = [(torch.randn(16, 16), torch.randint(4, (16,))) for _ in range(3)]
    given: dict[str, Any] = {"data": pairs, "loss_fn": F.cross_entropy}
    for target, choice in (("macs=0.5", "one-shot"), ("macs=0.05", "4 rounds")):
        advice = graphprune.advise(model, inputs, **given, target=target, **SMALL)
        assert advice["schedule"].choice == choice
        found = run(advice, model=model, example_inputs=inputs, **given)
        assert isinstance(found["slim"], Perceptron)


def test_the_program_synthesizes_inputs_from_batch_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 3)).eval()
    image = torch.randn(1, 3, 8, 8)
    advice = graphprune.advise(model, image, **SMALL)
    assert advice["recovery"].choice == "repair with synthesized inputs"
    monkeypatch.setattr(graphprune, "synthesize", lambda *_: [torch.randn(8, 3, 8, 8)])
    assert run(advice, model=model, example_inputs=image)["slim"][0].out_channels < 16


def test_blocks_are_tried(inputs: Tensor) -> None:
    model, tokens = gpt(vocab_size=32, dim=16, depth=2, heads=2, kv_heads=1, mlp_dim=32, context=8), [[1, 2, 3, 4]]
    data = [torch.randint(32, (8, 8)) for _ in range(2)]
    advice = graphprune.advise(model, torch.tensor(tokens), data=data, seconds=600)
    assert {t.topic for t in advice.facts.trials} == {"criterion", "allocation", "ends", "depth or width"}
    assert all(block.influence is not None for block in advice.facts.blocks)
    assert next(t.choice for t in advice.facts.trials) == "wanda"
    graphprune.trace(model, torch.tensor(tokens)).plan(**advice.arguments)


def test_times_are_measured_where_there_is_time(model: nn.Module, inputs: Tensor) -> None:
    facts = graphprune.advise(model, inputs, target="cpu", seconds=600).facts
    assert all(g.time is not None and g.saved is not None for g in facts.groups)
    timing = facts.timing
    assert timing is not None
    assert timing.seconds > 0
    assert timing.half is not None
    assert set(timing.rounding) >= {1, 8, 16}
    assert max(timing.rounding.values()) == 1


def test_another_device_is_not_measured(model: nn.Module, inputs: Tensor) -> None:
    advice = graphprune.advise(model, inputs, target="cuda", **SMALL)
    if not torch.cuda.is_available():
        assert advice.facts.timing is None
        assert any("cuda" in one for one in advice.facts.unmeasured)
        assert advice["rounding"].choice == "multiples of 16"


def test_nothing_is_changed() -> None:
    model, image = resnet20().train(), torch.randn(1, 3, 8, 8)
    data = [torch.randn(8, 3, 8, 8) for _ in range(2)]
    model.layer1.eval()
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    graphprune.advise(model, image, data=data, seconds=1)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert next(model.parameters()).grad is not None
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]


def test_the_loss_of_ones_own_is_that_of_evaluation_and_changes_nothing(inputs: Tensor, data: list[Tensor]) -> None:
    model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.Dropout(0.5), nn.Linear(32, 4)).train()
    before = copy.deepcopy(model.state_dict())

    @torch.no_grad()
    def evaluate(model: nn.Module) -> float:
        assert not any(module.training for module in model.modules())
        return float(model(data[0]).square().mean())

    graphprune.advise(model, inputs, data=data, evaluate=evaluate, target={"macs": 0.5}, seconds=1)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_a_model_on_meta_gets_sizes_only() -> None:
    with torch.device("meta"):
        model = Perceptron().eval()
    inputs = torch.randn(1, 16)
    advice = graphprune.advise(model, inputs, data=[inputs], **SMALL)
    assert advice.facts.on_meta
    assert graphprune.trace(model, inputs).plan(**advice.arguments).kept
    assert "slim" in run(advice, model=model, example_inputs=inputs)


def test_nothing_can_go() -> None:
    model, inputs = nn.Linear(4, 4), torch.randn(1, 4)
    advice = graphprune.advise(model, inputs, **SMALL)
    assert advice["structure"].choice == "nothing"
    assert advice.arguments == {}
    assert advice.options is None
    run(advice, model=model, example_inputs=inputs)


def test_zero_channels_are_seen(inputs: Tensor, model: nn.Module) -> None:
    torch.nn.utils.prune.ln_structured(model.first, "weight", 0.5, 2, 0)
    advice = graphprune.advise(model, inputs, **SMALL)
    assert advice.facts.zero_channels == pytest.approx(32 / 132)
    assert advice["structure"].choice.startswith("compact first")


def test_targets_that_are_met_or_absurd(model: nn.Module, inputs: Tensor) -> None:
    met = graphprune.advise(model, inputs, target="macs=100G", **SMALL)
    assert met["target"].choice == "met already"
    assert met.arguments == {}
    absurd = graphprune.advise(model, inputs, target={"macs": 1e-9}, **SMALL)
    assert absurd["target"].choice == "out of reach"
    assert "out of reach" in absurd["target"].reason
    graph = graphprune.trace(model, inputs)
    assert graph.cost(graph.plan(**absurd.arguments)).macs < 0.1 * graph.cost().macs


def test_a_target_out_of_reach_gets_the_nearest_that_can_be_reached(model: nn.Module, inputs: Tensor) -> None:
    graph = graphprune.trace(model, inputs)
    far = graphprune.advise(model, inputs, target={"macs": 1e-6, "params": 0.3, "bytes": "1G"}, **SMALL).arguments
    least = graph.plan(0.99, max_ratio=0.99)
    assert least.costs["macs"][1] <= far["macs"] * least.costs["macs"][0] <= 1.02 * least.costs["macs"][1]
    assert far["params"] == 0.3 and "bytes" not in far
    near = graphprune.advise(model, inputs, target={"macs": 0.01}, **SMALL).arguments
    assert (near["macs"], near["max_ratio"]) == (0.01, 0.99)
    graph.plan(**far)
    graph.plan(**near)


def test_a_quality_in_place_of_a_loss_is_doubted(model: nn.Module, inputs: Tensor, data: list[Tensor]) -> None:
    wanted = model(data[0]).detach()

    def quality(slim: nn.Module) -> float:
        with torch.no_grad():
            return -float((slim(data[0]) - wanted).square().mean())

    advice = graphprune.advise(model, inputs, evaluate=quality, seconds=600)
    assert "is it a quality?" in str(advice)
    assert not graphprune.advise(model, inputs, evaluate=lambda slim: -quality(slim), seconds=600).facts.doubts


def test_wrong_arguments(model: nn.Module, inputs: Tensor, data: list[Tensor]) -> None:
    cases: list[tuple[str, dict[str, Any]]] = [
        ("loss_fn: given without data", {"loss_fn": F.cross_entropy}),
        ("evaluate: must be a function", {"evaluate": 3}),
        ("seconds: must be", {"seconds": 0}),
        ("device: .* is none", {"device": "gpu"}),
        ("can_train: must be", {"can_train": "yes"}),
        ("data: there are no batches", {"data": []}),
        ("pass loss_fn= too", {"data": [(data[0], torch.zeros(32))]}),
        ("evaluate: failed on a Perceptron: ZeroDivisionError", {"evaluate": lambda _: 1 / 0}),
        ("evaluate: must return a loss", {"evaluate": lambda _: "good"}),
        ("calibration: is a Tensor", {"data": data[0]}),
        ("loss_fn: failed on batch 0", {"data": [(data[0], torch.zeros(32))], "loss_fn": lambda *_: 1 / 0}),
    ]
    for message, given in cases:
        with pytest.raises(InputError, match=message):
            graphprune.advise(model, inputs, **{**SMALL, **given})
