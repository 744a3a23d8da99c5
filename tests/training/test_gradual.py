"""Schedules by hand, and models that are pruned by them amid training."""

import contextlib
import copy
import doctest
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

import graphprune
from graphprune.errors import InputError, LoadError, NothingRemovedWarning, PlanError, UnreachedWarning
from graphprune.planning import latency_search
from graphprune.pruning.plan import plans_of
from graphprune.training import gradual, schedules
from graphprune.training.gradual import GradualPruner
from graphprune.training.schedules import (
    Gradual,
    Iterative,
    OneShot,
    after,
    of_present,
    per_round,
    remaining_at,
)
from models import resnet_cifar, vit
from tests.damage import damaged
from tests.networks import randomize
from tests.planning.test_latency import Counted, taken

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def net(width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 40, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(40 * 16, 20), nn.ReLU(), nn.Linear(20, 5)
    )  # fmt: skip


# ---------------------------------------------------------------- numbers


def test_compounding() -> None:
    assert per_round(0.75, 2) == 0.5
    assert per_round(0.784, 3) == pytest.approx(0.4)
    assert after(0.4, 3) == pytest.approx(0.784)
    assert after(0.4, 0) == 0.0
    assert all(after(per_round(0.9, n), n) == pytest.approx(0.9) for n in range(1, 30))


def test_examples_in_the_documentation() -> None:
    found = doctest.testmod(schedules)
    assert found.attempted == 3 and not found.failed


def test_of_present() -> None:
    assert of_present(0.75, done=0.5) == 0.5
    assert of_present(0.6, done=0.6) == 0.0
    assert of_present(0.3, done=0.0) == pytest.approx(0.3)
    left = 1.0
    for total, done in ((0.2, 0.0), (0.5, 0.2), (0.9, 0.5)):
        left *= 1 - of_present(total, done)
    assert left == pytest.approx(0.1)


def test_totals_by_hand() -> None:
    assert [OneShot(2).ratio_at(step, 0.5) for step in range(4)] == [0, 0, 0.5, 0.5]
    rounds = [Iterative(3).ratio_at(step, 0.784) for step in range(5)]
    assert rounds == pytest.approx([0, 0.4, 0.64, 0.784, 0.784])
    late = [Iterative(2, begin=10, frequency=5).ratio_at(step, 0.75) for step in (0, 10, 14, 15, 19, 20, 99)]
    assert late == pytest.approx([0, 0, 0, 0.5, 0.5, 0.75, 0.75])
    cubic = [Gradual(10, 20).ratio_at(step, 0.8) for step in (0, 10, 12, 15, 20, 21)]
    assert cubic == pytest.approx([0, 0, 0.8 * (1 - 0.8**3), 0.8 * 0.875, 0.8, 0.8])


def test_gradual_moves_at_its_frequency_and_at_the_end() -> None:
    totals = [Gradual(0, 10, 4).ratio_at(step, 0.5) for step in range(12)]
    assert [step for step in range(1, 12) if totals[step] != totals[step - 1]] == [4, 8, 10]
    assert totals[4] == pytest.approx(0.5 * (1 - 0.6**3))
    assert totals[-1] == 0.5


def test_budgets_go_from_one_to_the_target() -> None:
    assert [remaining_at(Iterative(2), step, 0.25) for step in range(3)] == pytest.approx([1, 0.5, 0.25])
    assert remaining_at(Gradual(0, 10), 5, 0.2) == pytest.approx(1 - 0.8 * 0.875)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: per_round(1.0, 2), "final: must be a fraction, 0 <= final < 1, but is 1.0"),
        (lambda: per_round(0.5, 0), "rounds: must be a whole number, at least 1"),
        (lambda: after(-0.1, 2), "gamma: must be a fraction"),
        (lambda: of_present(0.3, 0.5), "total: 0.3 is less than the 0.5 that is gone"),
        (lambda: remaining_at(OneShot(), 1, 0.0), "target: must be a fraction"),
        (lambda: Gradual(5, 5), "end: must be a step after begin=5"),
        (lambda: Gradual(0, 5, 0), "frequency: must be a whole number"),
        (lambda: Iterative(1.5), "rounds: must be a whole number"),
        (lambda: OneShot(-1), "step: must be a whole number"),
        (lambda: OneShot().ratio_at(1, 1.5), "final: must be a fraction"),
    ],
)
def test_wrong_numbers(wrong: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        wrong()


# ---------------------------------------------------------------- models


def train(model: nn.Module, optimizer: torch.optim.Optimizer, pruner: GradualPruner, count: int) -> list[int]:
    """Train, and say after which steps something was pruned."""
    found = []
    for _ in range(count):
        optimizer.zero_grad()
        F.cross_entropy(model(IMAGES), torch.arange(4)).backward()
        optimizer.step()
        if pruner.step() is not None:
            found.append(pruner.steps)
    return found


def units(model: nn.Module) -> dict[str, int]:
    return {g.name: g.units for g in graphprune.trace(model, IMAGES).groups}


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0.5},
        {"ratio": 0.5, "multiple": 2, "protect_ends": True},
        {"ratio": 0.25, "overrides": {"3": graphprune.Override(ratio=0.75), "6": graphprune.Override(frozen=True)}},
        {"mlp": 0.6},
    ],
)
def test_the_last_model_has_the_sizes_of_a_plan_in_one_go(options: dict[str, Any]) -> None:
    model = net()
    wanted = units(graphprune.trace(model, IMAGES).plan(**options).apply(model))
    optimizer = torch.optim.AdamW(model.parameters())
    pruner = GradualPruner(model, IMAGES, Gradual(0, 12), optimizer=optimizer, **options)
    kinds, before = (type(model), id(model)), units(model)
    pruned = train(model, optimizer, pruner, 14)
    assert units(model) == wanted != before
    assert len(pruned) > 3 and pruned[-1] <= 12
    assert (type(pruner.model), id(pruner.model)) == kinds
    assert [cut.step for cut in pruner.history] == pruned
    assert len(str(pruner).splitlines()) == 2 + len(pruned) and repr(pruner) == f"<{str(pruner).splitlines()[0]}>"


def test_groups_of_few_units_lose_their_share() -> None:
    """A fraction of what is there, step by step, would round to nothing each time."""
    model = net(width=4)
    pruner = GradualPruner(model, IMAGES, Iterative(10), ratio=0.5)
    assert all(per_round(0.5, 10) * n < 1 for n in (4, 8))
    for _ in range(10):
        pruner.step()
    assert units(model)["0"] == 2


def test_the_model_is_analyzed_when_something_is_due_only(monkeypatch: pytest.MonkeyPatch) -> None:
    pruner, traced = GradualPruner(net(width=4), IMAGES, Iterative(10, frequency=5), ratio=0.05), []
    monkeypatch.setattr(gradual, "trace", lambda *args, **kwargs: traced.append(0) or graphprune.trace(*args, **kwargs))
    for _ in range(60):
        pruner.step()
    assert len(traced) == 10 > len(pruner.history)


@pytest.mark.parametrize(
    "options", [{"macs": 0.4}, {"params": 0.5, "macs": 0.9}, {"ratio": 0.5, "allocation": "global"}]
)
def test_searched_allocations(options: dict[str, Any]) -> None:
    model = net(16)
    dense, count = graphprune.trace(model, IMAGES).cost(), sum(units(model).values())
    pruner = GradualPruner(model, IMAGES, Iterative(3), **options)
    for step in range(1, 4):
        pruner.step()
        cost = graphprune.trace(model, IMAGES).cost()
        for kind in {"macs", "params"} & options.keys():
            most = getattr(dense, kind) * options[kind] ** (step / 3)
            assert getattr(cost, kind) <= most
            assert getattr(cost, kind) > 0.8 * most or kind == "macs"
    if "ratio" in options:
        assert sum(units(model).values()) == pytest.approx(0.5 * count, abs=3)


class AtOnce:
    """A schedule of a user's own, which says from the beginning what is gone in the end."""

    def ratio_at(self, step: int, final: float) -> float:
        return final


@pytest.mark.parametrize("schedule", [OneShot(), AtOnce()])
@pytest.mark.parametrize("options", [{"ratio": 0.5}, {"macs": 0.5}, {"ratio": 0.5, "allocation": "global"}])
def test_a_schedule_that_begins_with_something_prunes_once(schedule: Any, options: dict[str, Any]) -> None:
    model = net()
    pruner = GradualPruner(model, IMAGES, schedule, **options)
    assert [pruner.step() is not None for _ in range(3)] == [True, False, False]
    dense = graphprune.trace(net(), IMAGES)
    assert pruner.history[0].macs == dense.cost(dense.plan(**options)).macs


def test_a_pruning_before_the_first_step() -> None:
    pruner = GradualPruner(net(), IMAGES, OneShot(), ratio=0.5)
    assert pruner.at(0) is not None
    again = GradualPruner(net(), IMAGES, OneShot(), ratio=0.5)
    again.restore(pruner.state())
    assert again.step() is None
    assert units(again.model) == units(pruner.model)


def test_blocks() -> None:
    model, image = vit.vit(), torch.randn(1, 3, 32, 32)
    pruner = GradualPruner(model, image, Iterative(2), depth=0.5, ratio=0.0)
    skipped = [pruner.step().skipped for _ in range(2)]
    assert [len(paths) for paths in skipped] == [1, 1]
    assert len(graphprune.trace(model, image).blocks) == 2


@pytest.mark.parametrize("allocation", [None, "searched"])
def test_depth_without_a_block_is_refused_at_once(allocation: str | None) -> None:
    more = {} if allocation is None else {"allocation": allocation, "macs": 0.5, "calibration": [IMAGES]}
    with pytest.raises(PlanError, match="depth: the model has no residual block that can be left out"):
        GradualPruner(net(), IMAGES, OneShot(1), depth=0.5, **more)


@pytest.mark.parametrize("asked", [{"ratio": 0.001}, {"depth": 0.2}, {"params": 1e6}, {"params": 1e6, "depth": 0.2}])
def test_what_comes_to_nothing_in_the_end_is_warned_of_as_by_a_plan(asked: dict[str, Any]) -> None:
    model, image = vit.vit(depth=2), torch.randn(1, 3, 32, 32)
    with pytest.warns(NothingRemovedWarning) as of_a_plan:
        graphprune.trace(model, image).plan(**asked)
    with pytest.warns(NothingRemovedWarning) as found:
        GradualPruner(model, image, OneShot(1), **asked)
    assert [str(one.message) for one in found] == [str(one.message) for one in of_a_plan]


def test_nothing_is_warned_of_where_blocks_go_and_no_channels(recwarn: pytest.WarningsRecorder) -> None:
    GradualPruner(vit.vit(depth=2), torch.randn(1, 3, 32, 32), OneShot(1), depth=0.5, ratio=0.001)
    assert not recwarn.list


def test_a_part_that_no_example_runs_is_warned_of() -> None:
    model = net()
    model.spare = nn.Parameter(torch.randn(20, 40))
    with pytest.warns(UnreachedWarning, match="spare: no example runs"):
        GradualPruner(model, IMAGES, OneShot(1), ratio=0.5)


def test_latency(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a clock that counts parameters, and that nobody looks at amid training."""
    monkeypatch.setattr(latency_search, "KernelTable", lambda device: Counted(device, tmp_path / "kernels.json"))
    monkeypatch.setattr(latency_search.Stopwatch, "seconds", lambda _, *models: [*map(taken, models)])
    model, image = resnet_cifar.resnet20(), torch.randn(1, 3, 32, 32)
    dense = taken(model)
    pruner = GradualPruner(model, image, Iterative(2), latency=0.7)
    monkeypatch.setattr(latency_search.Stopwatch, "seconds", lambda *_: pytest.fail("measured amid training"))
    assert pruner.step() is not None
    assert 0.75 < taken(model) / dense < 0.9
    assert pruner.step() is not None
    assert 0.95 * 0.7 <= taken(model) / dense <= 0.7
    assert pruner.step() is None
    with pytest.raises(InputError, match="depth: given together with latency"):
        GradualPruner(vit.vit(), image, Iterative(2), latency=0.7, depth=0.25)


def test_resumed(tmp_path: Path) -> None:
    """A training that is left and taken up gives the weights of one that is not."""

    def started() -> tuple[nn.Module, torch.optim.Optimizer, AveragedModel, GradualPruner]:
        model = net()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        ema = AveragedModel(model)
        return (
            model,
            optimizer,
            ema,
            GradualPruner(model, IMAGES, Gradual(0, 8, 2), optimizer=optimizer, averages=[ema], ratio=0.5),
        )

    model, optimizer, _, pruner = started()
    train(model, optimizer, pruner, 5)
    saved = json.loads(json.dumps(pruner.state()))
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    momenta = torch.save(optimizer.state_dict(), tmp_path / "optimizer") or torch.load(tmp_path / "optimizer")
    train(model, optimizer, pruner, 5)

    for prepared in (False, True):  # by the pruner, or pruned already by a checkpoint
        again, other, ema, second = started()
        if prepared:
            for plan in plans_of(model)[:2]:
                graphprune.prune_in_place(again, plan, other, [ema])
        second.restore(saved)
        again.load_state_dict(weights)
        other.load_state_dict(copy.deepcopy(momenta))
        train(again, other, second, 5)
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
        assert second.history == pruner.history
        assert second.state() == pruner.state()


def test_errors() -> None:
    model = net()
    with pytest.raises(InputError, match="schedule: must be a schedule"):
        GradualPruner(model, IMAGES, 0.5, ratio=0.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="nothing is asked for"):
        GradualPruner(model, IMAGES, OneShot())
    with pytest.raises(InputError, match="calibration: can be read only once"):
        GradualPruner(model, IMAGES, OneShot(), ratio=0.5, calibration=iter([IMAGES]))
    with pytest.raises(PlanError, match="macs"):
        GradualPruner(model, IMAGES, OneShot(), macs=0.0001)
    pruner = GradualPruner(model, IMAGES, Iterative(2), ratio=0.5)
    pruner.step()
    with pytest.raises(InputError, match="step: is 0, but 1 were counted"):
        pruner.at(0)
    state = pruner.state()
    with pytest.raises(LoadError, match=r"state: Object missing required field `plans`[\s\S]*pass what"):
        pruner.restore({k: v for k, v in state.items() if k != "plans"})
    other = randomize(net(12))
    with pytest.raises(LoadError, match=r"the state is not of this Sequential: .*has shape"):
        GradualPruner(other, IMAGES, Iterative(2), ratio=0.5).restore(state)
    assert other[0].weight.shape == (12, 3, 3, 3)
    pruner.step()
    with pytest.raises(LoadError, match="was pruned 2 times, but not as the state's model was"):
        pruner.restore(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"importance": "auto", "calibration": [IMAGES]}, "importance: 'auto' compares repaired models"),
        ({"importance": "taylor"}, "importance: 'taylor' reads data"),
        ({"importance": "surgeon"}, "importance: 'surgeon' reads data"),
        ({"importance": "nope"}, "importance: 'nope' is not known"),
        ({"importance": "reap", "calibration": [IMAGES]}, "importance: 'reap' scores experts, and the model has none"),
        ({"allocation": "searched"}, "allocation: 'searched' judges candidates on data, and there are none"),
    ],
)
def test_what_no_plan_could_do_is_refused_before_training(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GradualPruner(net(), IMAGES, Gradual(100, 200, 50), macs=0.5, **options)


def test_calibration_is_not_read_before_training() -> None:
    class Unread(list[Any]):
        def __iter__(self) -> Any:
            raise AssertionError("was read")

    GradualPruner(net(), IMAGES, OneShot(), ratio=0.5, importance="taylor", calibration=Unread([IMAGES]))


def test_damaged_states() -> None:
    """A state goes on or is refused; then neither the model nor the pruner is another one."""
    model = randomize(net())
    pruner = GradualPruner(model, IMAGES, Gradual(0, 4, 2), ratio=0.5)
    for _ in range(4):
        pruner.step()
    text, refused = json.dumps(pruner.state()), 0
    again = randomize(net())
    other = GradualPruner(again, IMAGES, Gradual(0, 4, 2), ratio=0.5)
    fresh = other.state()
    for seed in range(100):
        damage = damaged(text, seed)
        with contextlib.suppress(json.JSONDecodeError):
            try:
                other.restore(json.loads(damage))
            except LoadError:
                refused += 1
                assert other.state() == fresh and again[0].weight.shape == net()[0].weight.shape
            else:
                again = randomize(net())
                other = GradualPruner(again, IMAGES, Gradual(0, 4, 2), ratio=0.5)
    assert 50 < refused < 100


@pytest.mark.parametrize(
    ("part", "changed", "message"),
    [
        ("groups", {"0": {"units": 8, "kept": 9, "least": 1, "multiple": 1}}, "kept is 9, but there are 8 units"),
        ("groups", {"0": {"units": 0, "kept": 0, "least": 0, "multiple": 1}}, "Expected `int` >= 1"),
        ("budgets", {"macs": 5.0}, r"budgets: macs is 5.0, but dense is {}"),
        ("skipped", 3, "skipped: is 3, but there are 0 blocks"),
        ("ratio", 1.5, "Expected `float` < 1.0"),
    ],
)
def test_targets_that_contradict_themselves(part: str, changed: Any, message: str) -> None:
    pruner = GradualPruner(net(), IMAGES, OneShot(), ratio=0.5)
    state = pruner.state()
    with pytest.raises(LoadError, match=rf"state: .*{message}[\s\S]*pass what GradualPruner.state"):
        pruner.restore(state | {"targets": state["targets"] | {part: changed}})
