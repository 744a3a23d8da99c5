"""Pruning in rounds: it ends where it was asked to, stops in time, and goes on after a kill at any moment."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import graphprune
from benchmarks.resume import attempt
from graphprune import Distillation, Override, prune_iteratively
from graphprune.errors import InputError, LoadError, NothingRemovedWarning, PlanError
from graphprune.pruning.plan import plans_of
from models.resnet_cifar import resnet20
from tests.training_net import Net, accuracy, equal, examples, loader, net, weights

EXAMPLE = torch.zeros(2, 6)
IMAGE = torch.zeros(1, 3, 8, 8)
TUNE: dict[str, Any] = {"batches": loader(), "epochs": 1, "lr": 0.05}


def nothing(model: nn.Module) -> None:
    """Training that leaves everything as it is."""


def kept(model: nn.Module, example: torch.Tensor = IMAGE) -> dict[str, int]:
    return {g.name: g.units for g in graphprune.trace(model, example).groups}


# ------------------------------------------------------------ where it ends


@pytest.mark.parametrize(
    "asked",
    [
        {"ratio": 0.5},
        {"ratio": 0.5, "protect_ends": True},
        {"width": 0.5},
        {"ratio": 0.25, "overrides": {"layer1.*": Override(ratio=0.75), "layer2.*": Override(frozen=True)}},
    ],
    ids=["ratio", "gentle", "role", "overrides"],
)
def test_many_rounds_remove_as_many_channels_as_one(asked: dict[str, Any]) -> None:
    """Rounds of 13 percent would never take a whole one of seven channels."""
    dense = resnet20().eval()
    found = prune_iteratively(dense, IMAGE, rounds=5, tune=nothing, **asked)
    assert kept(found.model) == kept(graphprune.prune_model(dense, example_inputs=IMAGE, **asked))
    sizes = [r.params for r in (found.dense, *found.rounds)]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 6


@pytest.mark.parametrize(("kind", "asked"), [("macs", 0.25), ("params", 60_000), ("macs", "1M")])
def test_budgets_are_of_the_dense_model(kind: str, asked: Any) -> None:
    dense = resnet20().eval()
    found = prune_iteratively(dense, IMAGE, rounds=3, tune=nothing, **{kind: asked})
    full = getattr(found.dense, kind)
    limit = {0.25: full / 4, 60_000: 60_000, "1M": 1e6}[asked]
    spent = [getattr(r, kind) for r in found.rounds]
    for number, value in enumerate(spent, 1):
        assert 0.97 < value / (full * (limit / full) ** (number / 3)) <= 1


def test_blocks_go_round_by_round() -> None:
    dense = resnet20().eval()
    whole = prune_iteratively(dense, IMAGE, rounds=3, tune=nothing, depth=0.6)
    once = graphprune.prune_model(dense, example_inputs=IMAGE, depth=0.6)
    blocks = [len(graphprune.trace(m, IMAGE).blocks) for m in (dense, whole.model, once)]
    assert blocks[1] == blocks[2] < blocks[0]


def test_what_comes_to_nothing_is_an_error_or_a_warning() -> None:
    with pytest.raises(PlanError, match="depth: the model has no residual block"):
        prune_iteratively(net(), EXAMPLE, rounds=2, tune=nothing, depth=0.5)
    with pytest.warns(NothingRemovedWarning, match="ratio=0.01: nothing is removed"):
        prune_iteratively(net(), EXAMPLE, rounds=2, tune=nothing, ratio=0.01)


def test_one_round_is_one_shot() -> None:
    dense = net().eval()
    found = prune_iteratively(dense, EXAMPLE, rounds=1, tune=nothing, ratio=0.5)
    assert equal(weights(found.model), weights(graphprune.prune_model(dense, 0.5, EXAMPLE)))
    assert type(found.model) is Net and found.model.enter.out_features == 8


def test_scores_are_those_of_the_trained_model() -> None:
    """What training makes small is what the next round removes."""

    def shrink(model: Any) -> None:
        with torch.no_grad():
            model.enter.weight[-2:] *= 1e-3
            model.enter.bias[-2:] *= 1e-3
            model.leave.weight[:, -2:] *= 1e-3

    seen: list[int] = []

    def tune(model: Any) -> None:
        seen.append(model.enter.out_features)
        shrink(model)

    found = prune_iteratively(net().eval(), EXAMPLE, rounds=2, tune=tune, ratio=0.3)
    small = (found.model.enter.weight.norm(dim=1) < 1e-2).sum()
    assert seen == [14, 12] and small == 2
    removed = plans_of(found.model)[-1].choices[0].removed
    assert removed == (12, 13)


# ------------------------------------------------------------ training and quality


def test_it_learns_again_and_says_so() -> None:
    dense = net()
    graphprune.finetune(dense, loader(), epochs=10, lr=0.1)
    before = weights(dense)
    tune = TUNE | {"epochs": 4, "distill": Distillation(features=("norm",))}
    found = prune_iteratively(dense, EXAMPLE, rounds=2, ratio=0.5, tune=tune, evaluate=accuracy, max_drop=0.5)
    assert equal(weights(dense), before) and dense.training
    assert found.rounds[-1].after == accuracy(found.model.eval()) > 0.7
    assert not found.stopped and found.dense.before == accuracy(dense.eval())
    assert [r.tuning.steps for r in found.rounds if r.tuning] == [32, 32]
    assert [r.removed for r in found.rounds] == [0.25, 0.5]
    lines = str(found).splitlines()
    assert lines[0].split() == ["round", "removed", "params", "MACs", "before", "after", "asked"]
    assert lines[1].split()[0] == "dense" and lines[3].split()[:3] == ["2", "50.0%", str(found.rounds[1].params)]


def test_it_stops_and_keeps_the_last_good_model(tmp_path: Path) -> None:
    """Quality by the number of channels that are left: 16, 12, 9; more than 5 below the dense model is too bad."""
    dense = net().eval()

    def width(model: Any) -> float:
        return float(model.enter.out_features)

    given: dict[str, Any] = {"rounds": 4, "ratio": 0.75, "evaluate": width, "checkpoint": tmp_path}
    found = prune_iteratively(dense, EXAMPLE, tune=nothing, max_drop=5, **given)
    assert found.stopped and [r.good for r in found.rounds] == [True, False]
    assert width(found.model) == found.rounds[0].after == 12 and found.rounds[1].after == 8
    assert "too bad: the round before is kept" in str(found)
    again = prune_iteratively(dense, EXAMPLE, tune=nothing, max_drop=5, **given)
    assert again.rounds == found.rounds and equal(weights(again.model), weights(found.model))


def test_repair_comes_before_training() -> None:
    dense = net().eval()
    graphprune.finetune(dense, loader(), epochs=6, lr=0.1)
    batches = list(examples()[0].split(16))
    given: dict[str, Any] = {"rounds": 2, "ratio": 0.5, "tune": nothing, "calibration": batches}
    plain = prune_iteratively(dense, EXAMPLE, **given, repair=False)
    repaired = prune_iteratively(dense, EXAMPLE, **given)
    x = examples()[0]
    errors = [(m.eval()(x) - dense.eval()(x)).square().mean() for m in (repaired.model, plain.model)]
    assert errors[0] < 0.8 * errors[1]


# ------------------------------------------------------------ going on


def test_a_checkpoint_of_another_run(tmp_path: Path) -> None:
    given: dict[str, Any] = {"rounds": 1, "tune": nothing, "checkpoint": tmp_path}
    prune_iteratively(net(), EXAMPLE, ratio=0.5, **given)
    with pytest.raises(LoadError, match=r"is of a run with .*'ratio': 0.5.*, but asked for is .*'ratio': 0.25"):
        prune_iteratively(net(), EXAMPLE, ratio=0.25, **given)
    with pytest.raises(LoadError, match="model: has other weights than the model with which the run in"):
        prune_iteratively(net(seed=1), EXAMPLE, ratio=0.5, **given)


def test_a_function_that_trains_begins_its_round_again(tmp_path: Path) -> None:
    calls = []

    def tune(model: nn.Module) -> None:
        calls.append(None)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape))
        if len(calls) in (3, 4):
            raise KeyboardInterrupt

    given: dict[str, Any] = {"rounds": 2, "ratio": 0.5, "tune": tune}
    expected = prune_iteratively(net(), EXAMPLE, **given)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            prune_iteratively(net(), EXAMPLE, **given, checkpoint=tmp_path)
        torch.manual_seed(99)
    found = prune_iteratively(net(), EXAMPLE, **given, checkpoint=tmp_path)
    assert equal(weights(found.model), weights(expected.model))
    assert [p.name for p in tmp_path.iterdir()] == ["good"]


def whole_run(folder: Path | None) -> nn.Module:
    """A run with everything that has a state."""
    torch.set_num_threads(1)
    tune = TUNE | {"epochs": 10, "optimizer": "adamw", "every": 3, "distill": Distillation(features=("norm",))}
    given: dict[str, Any] = {"tune": tune, "evaluate": accuracy, "calibration": [examples()[0]]}
    return prune_iteratively(net(), EXAMPLE, rounds=2, ratio=0.6, checkpoint=folder, **given).model


def work(folder: Path) -> None:
    """What a process does that may be killed."""
    model = whole_run(folder)
    save_file({str(i): t for i, t in enumerate(weights(model))}, folder / "weights.safetensors")


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """A process that is killed up to three times, at random, and started again: the same weights, bit for bit."""
    expected = weights(whole_run(None))
    chance = random.Random(0)
    done = [attempt(work, tmp_path, after) for after in (*(chance.uniform(0.05, 0.25) for _ in range(3)), None)]
    assert not done[0]  # on a quick machine the second or third attempt may get to the end
    assert done[-1]
    found = load_file(tmp_path / "weights.safetensors")
    assert equal([found[str(i)] for i in range(len(expected))], expected)


# ------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rounds": 0}, "rounds: must be a whole number, at least 1, but is 0"),
        ({"ratio": 1.5}, "ratio: must be a fraction"),
        ({"ratio": None}, "ratio: nothing is asked for"),
        ({"macs": 0.5}, "ratio: given together with macs"),
        ({"max_drop": 0.1}, r"max_drop: is 0.1, but nothing is measured[\s\S]*pass evaluate="),
        ({"tune": 3}, "tune: must be a function or a dict .* but is an int"),
        (
            {"tune": {"epochs": 3}},
            "tune: has no 'batches', the data that finetune trains on",
        ),
        ({"tune": {"batches": [], "checkpoint": "run"}}, "tune: has 'checkpoint', and prune_iteratively has its own"),
        ({"calibration": iter([EXAMPLE])}, r"calibration: can be read only once[\s\S]*pass a list"),
        ({"color": 1}, "color: is no argument of a plan"),
    ],
)
def test_mistakes(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        prune_iteratively(net(), EXAMPLE, **{"rounds": 2, "ratio": 0.5, "tune": nothing} | given)


def test_functions_that_hold_parts_of_the_model_hold_those_of_its_copy() -> None:
    """``copy.deepcopy`` shares functions: hooks would write into the user's model, and run its layers."""
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    first, last, seen = model[0], model[2], []
    model.seen = seen  # type: ignore[assignment]
    model.forward = lambda x: (seen.append(len(x)), last(first(x).relu()))[1]  # type: ignore[method-assign]
    x = torch.randn(8, 6)
    before = weights(model)

    def tune(slim: nn.Module) -> None:
        optimizer = torch.optim.SGD(slim.parameters(), lr=0.1)
        slim(x).square().sum().backward()
        optimizer.step()

    found = graphprune.prune_iteratively(model, x, rounds=2, ratio=0.5, calibration=[x], tune=tune)
    assert equal(weights(model), before) and not seen
    assert found.model(x).shape == (8, 3) and found.model[0].weight.shape == (8, 6)  # type: ignore[index, union-attr]


class Block(nn.Module):
    """A residual MLP whose first units are weak, of every block another number."""

    def __init__(self, weak: int) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(16, 32), nn.Linear(32, 16)
        with torch.no_grad():
            self.enter.weight[:weak] *= 0.01
            self.leave.weight[:, :weak] *= 0.01

    def forward(self, x: Tensor) -> Tensor:
        return x + self.leave(self.enter(x).relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize("asked", [{"macs": 0.6}, {"ratio": 0.4, "allocation": "global"}])
def test_layers_are_equal_after_every_round(asked: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), *(Block(20 - 6 * number) for number in range(3)), nn.Linear(16, 3))
    widths: list[set[int]] = []

    def tune(slim: nn.Module) -> None:
        widths.append({m.enter.out_features for m in slim.modules() if isinstance(m, Block)})

    graphprune.prune_iteratively(model, torch.randn(4, 8), rounds=2, tune=tune, layers="equal", **asked)
    assert [len(found) for found in widths] == [1, 1] and max(widths[1]) < max(widths[0]) < 32
