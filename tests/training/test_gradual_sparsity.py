"""Gradual masking: the cubic of Zhu and Gupta, in every loop, and exactly the zeros that were there."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune import Gradual, GradualPruner, GradualSparsifier, OneShot, sparsify, sparsity_of
from graphprune.errors import InputError, LoadError
from graphprune.training.gradual_sparsity import Masking
from graphprune.training.schedules import Iterative
from tests.training_net import accuracy, equal, loader, net, weights

SCHEDULE = Gradual(begin=2, end=12, frequency=2)


def train(model: nn.Module, steps: int, sparsifier: GradualSparsifier, optimizer: torch.optim.Optimizer) -> list[float]:
    """The share of masked weights after each step."""
    found = []
    while len(found) < steps:
        for x, y in loader(shuffle=False):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            sparsifier.step()
            found.append(sparsity_of(model).masked)
            if len(found) == steps:
                break
    return found


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("initial", [0.0, 0.3])
def test_the_share_is_the_cubic(scope: str, initial: float) -> None:
    model = net()
    if initial:
        sparsify(model, initial, scope=scope)
    sparsifier = GradualSparsifier(model, SCHEDULE, 0.9, scope=scope)
    found = train(model, 14, sparsifier, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.01))
    for step, share in enumerate(found, 1):
        done = min(max(step - 2, 0) // 2 * 2 / 10, 1)
        assert share == pytest.approx(0.9 + (initial - 0.9) * (1 - done) ** 3, abs=0.011)
    assert [each.step for each in sparsifier.history][:4] == [4, 6, 8, 10]
    zeros = sparsifier.history[-1].zeros
    assert f": {zeros} of 144 weights masked ({zeros / 144:.1%})" in str(sparsifier)


def test_zeros_stay_and_only_the_smallest_are_added() -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.5)
    sparsifier = GradualSparsifier(model, SCHEDULE, 0.8, scope="global")
    before = {name: mask.clone() for name, mask in model.named_buffers() if name.endswith("_mask")}
    for _ in range(14):
        values = [m.weight.detach().abs()[m.weight_mask > 0] for m in (model.enter, model.leave)]
        train(model, 1, sparsifier, optimizer)
        for name, mask in model.named_buffers():
            if name.endswith("_mask"):
                assert (mask <= before[name]).all()
                before[name] = mask.clone()
        assert all(len(v) > 0 for v in values)
    assert sparsity_of(model).masked == pytest.approx(0.8, abs=0.004)


def test_counts_and_other_amounts_for_layers() -> None:
    model = net()
    sparsifier = GradualSparsifier(model, OneShot(1), 50, overrides={"leave": 0.25})
    assert sparsifier.step() == 50 + 12
    found = sparsity_of(model)
    assert (found["enter.weight"].zeros, found["leave.weight"].zeros) == (50, 12)
    assert sparsifier.step() == 0


def test_iterative_schedules_compound() -> None:
    model = net()
    sparsifier = GradualSparsifier(model, Iterative(rounds=3), 0.875)
    found = train(model, 3, sparsifier, torch.optim.SGD(model.parameters(), 0.1))
    assert found == pytest.approx([0.5, 0.75, 0.875], abs=0.01)


def test_random_masks_follow_from_the_seed() -> None:
    found: list[list[Tensor]] = []
    for seed in (1, 1, 2):
        model = net()
        before = torch.get_rng_state()
        GradualSparsifier(model, OneShot(1), 0.5, method="random", seed=seed).step()
        assert torch.equal(torch.get_rng_state(), before)
        found.append(weights(model))
    assert equal(found[0], found[1]) and not equal(found[0], found[2])


def test_finetune_masks_and_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    given: Any = {"steps": 14, "lr": 0.05, "optimizer": "adamw", "weight_decay": 0.1, "progress": False}

    def started() -> tuple[nn.Module, GradualSparsifier]:
        model = net()
        return model, GradualSparsifier(model, SCHEDULE, 0.7, scope="global")

    whole, sparsifier = started()
    graphprune.finetune(whole, loader(), **given, on_step=sparsifier.on_step)
    assert sparsity_of(whole).masked == pytest.approx(0.7, abs=0.004)

    class Killed(Exception):
        """As a process would be."""

    def interrupted(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        sparsifier.on_step(step, model, optimizer)
        if step == 9:
            raise Killed

    saved: Any = {"checkpoint": tmp_path, "every": 7}
    model, sparsifier = started()
    with pytest.raises(Killed):
        graphprune.finetune(model, loader(), **given, **saved, on_step=interrupted)
    model, sparsifier = started()
    graphprune.finetune(model, loader(), **given, **saved, on_step=sparsifier.on_step)
    assert equal(weights(model), weights(whole))
    assert accuracy(model.eval()) > 0.3


def test_state_goes_on_in_a_loop_of_ones_own() -> None:
    def started() -> tuple[nn.Module, GradualSparsifier, torch.optim.Optimizer]:
        model = net()
        sparsify(model, 0.2)
        sparsifier = GradualSparsifier(model, SCHEDULE, 0.9)
        return model, sparsifier, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)

    torch.manual_seed(0)
    whole, sparsifier, optimizer = started()
    train(whole.eval(), 6, sparsifier, optimizer)
    states = copy.deepcopy([whole.state_dict(), optimizer.state_dict()])
    data = json.loads(json.dumps(sparsifier.state()))
    model, other, its_optimizer = started()
    other.restore(data)
    model.load_state_dict(states[0])
    its_optimizer.load_state_dict(states[1])
    assert other.history == sparsifier.history
    train(whole, 8, sparsifier, optimizer)
    train(model.eval(), 8, other, its_optimizer)
    assert other.history == sparsifier.history
    assert equal(weights(model), weights(whole))


def test_channels_and_weights_in_one_training() -> None:
    """Physical pruning amid the same loop: masks are cut with the weights, and the schedule goes on with the rest."""
    model: Any = net()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    sparsifier = GradualSparsifier(model, Gradual(0, 10, 1), 0.8)
    pruner = GradualPruner(model, torch.zeros(2, 6), OneShot(5), ratio=0.5, optimizer=optimizer)
    for _ in range(10):
        train(model, 1, sparsifier, optimizer)
        pruner.step()
    assert model.enter.weight.shape == model.enter.weight_mask.shape == (8, 6)
    assert sparsity_of(model)["enter.weight"].zeros == round(0.8 * 48)


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "all": ({"amount": 1.0}, "amount: 1.0 leaves none of the 96 weights of enter.weight"),
    "all in number": ({"amount": 144, "scope": "global"}, "amount: 144 leaves none of the 144 weights of all layers"),
    "pattern": ({"amount": "2:4"}, "amount: must be a fraction between"),
    "threshold": ({"method": "threshold"}, "method: 'threshold' masks no given number"),
    "schedule": ({"schedule": 0.5}, "schedule: must be a schedule such as graphprune.Gradual"),
    "scope": ({"scope": "all"}, "scope: 'all' is not known"),
    "override": ({"overrides": {"enter": 2}, "amount": 1000}, "amount: 1000 leaves none of the 48"),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named_and_change_nothing(mistake: tuple[dict[str, Any], str]) -> None:
    model = net()
    with pytest.raises(InputError, match=mistake[1]):
        GradualSparsifier(model, **{"schedule": SCHEDULE, "amount": 0.5, **mistake[0]})
    assert not list(model.enter.buffers())


def test_what_cannot_go_on_is_said() -> None:
    model = net()
    sparsify(model, 0.5)
    with pytest.raises(InputError, match=r"amount: 0\.25 is less than what is masked of enter.* already, 48 of 96"):
        GradualSparsifier(model, SCHEDULE, 0.25)
    sparsifier = GradualSparsifier(model, SCHEDULE, 0.75)
    sparsifier.at(5)
    with pytest.raises(InputError, match="step: is 4, but 5 were counted already"):
        sparsifier.at(4)
    with pytest.raises(LoadError, match="state: is of 1 rankings, but there are 2"):
        sparsifier.restore(GradualSparsifier(net(), SCHEDULE, 0.5, scope="global").state())
    with pytest.raises(LoadError, match="state"):
        sparsifier.restore({"steps": -1})
    assert sparsifier.steps == 5
    assert str(Masking(5, 1, 4)) == "after step 5: 1 of 4 weights masked (25.0%)"
