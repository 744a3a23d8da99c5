"""Plans and repair on other devices give what they give on the CPU: on devices of this machine, and on a pretend one.

The pretend device (:mod:`tests.pretend_device`) is the CPU, where operations across devices fail: a stand-in on
machines without a GPU, in a process of its own.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphprune
from graphprune.utils import devices
from tests.calibration.test_samples import Conv, Recurrent, Transformer
from tests.networks import randomize

ROOT = Path(__file__).parents[2]
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
MPS = pytest.mark.skipif(not torch.backends.mps.is_available(), reason="needs a device of Apple")
Move = Callable[[nn.Module], nn.Module]


class Halves(Conv):
    """Its second half may lie on another device than its first."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv1(x)).relu().to(self.conv2.weight.device)
        return self.fc(self.conv2(x).relu().mean((2, 3)))


CASES: dict[str, tuple[type[nn.Module], tuple[int, ...], dict[str, Any]]] = {
    "conv": (Conv, (4, 2, 5, 5), {"ratio": 0.5}),
    "transformer": (Transformer, (4, 7, 2), {"mlp": 0.5, "head_width": 0.5}),
    "recurrent": (Recurrent, (4, 7, 2), {"ratio": 0.5}),
    "halves": (Halves, (4, 2, 5, 5), {"ratio": 0.5}),
}
CRITERIA = ("l2", "fpgm", "wanda", "schur", "taylor", "fisher", "kfac", "obs", "surgeon")


def loss(output: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(output, target.to(output.device))


def check(name: str, move: Move, criteria: tuple[str, ...] = CRITERIA, dtype: torch.dtype = torch.float64) -> None:
    """Plans are equal, the slim model is right, and repaired weights are those of the CPU."""
    make, shape, options = CASES[name]
    torch.manual_seed(0)
    model = randomize(make()).to(dtype).eval()
    moved = move(copy.deepcopy(model))
    x = [torch.randn(shape, dtype=dtype) for _ in range(2)]
    with torch.no_grad():
        pairs = [(one, torch.randn_like(model(one))) for one in x]
    place = next(moved.parameters()).device
    there = [tuple(t.to(place) for t in pair) for pair in pairs]
    graph, other = graphprune.trace(model, x[0]), graphprune.trace(moved, there[0][0])
    for criterion in criteria:
        given = {"importance": criterion, "loss_fn": loss}
        expected = graph.plan(0.5, calibration=pairs, **given)
        assert other.plan(0.5, calibration=there, **given).to_json() == expected.to_json(), criterion
    plan = graph.plan(**options)
    slim, slim_there = plan.apply(model), plan.apply(moved)
    assert graphprune.verify(moved, slim_there, plan, there[0][0]).passed
    graphprune.repair(slim, model, plan, x)
    graphprune.repair(slim_there, moved, plan, [one for one, _ in there])
    for (key, one), value in zip(slim.state_dict().items(), slim_there.state_dict().values(), strict=True):
        assert value.device == dict(moved.state_dict())[key].device
        torch.testing.assert_close(value.cpu(), one, rtol=1e-5, atol=1e-5, msg=key)


def second_half(place: Move) -> Move:
    """Moves the last two layers alone."""

    def move(model: nn.Module) -> nn.Module:
        place(model.conv2)  # type: ignore[arg-type]
        place(model.fc)  # type: ignore[arg-type]
        return model

    return move


# ---------------------------------------------------------------- devices that this machine has


@CUDA
@pytest.mark.parametrize("name", CASES)
def test_cuda(name: str) -> None:
    check(name, lambda model: model.cuda())


@CUDA
def test_cpu_and_cuda() -> None:
    check("halves", second_half(lambda part: part.cuda()))


@CUDA
def test_a_model_dispatched_to_cuda_and_the_cpu() -> None:
    accelerate = pytest.importorskip("accelerate")
    places: dict[str, Any] = {"conv1": 0, "norm": 0, "conv2": "cpu", "fc": "cpu"}
    torch.manual_seed(0)
    model = randomize(Conv()).eval()
    x = torch.randn(4, 2, 5, 5)
    given = {"importance": "wanda", "calibration": [x]}
    expected = graphprune.prune_model(copy.deepcopy(model), 0.5, x, **given)
    slim = graphprune.prune_model(accelerate.dispatch_model(model, places, main_device=0), 0.5, x, **given)
    assert slim.conv1.weight.is_cuda and not slim.conv2.weight.is_cuda
    torch.testing.assert_close(slim(x).cpu(), expected(x), rtol=1e-3, atol=1e-4)


@MPS
@pytest.mark.parametrize("name", ["conv", "transformer"])
def test_mps(name: str) -> None:
    check(name, lambda model: model.to("mps"), dtype=torch.float32)


# ---------------------------------------------------------------- a pretend device


def pretend() -> None:
    """What the process with the pretend device does: with float64, and without."""
    from tests import pretend_device

    pretend_device.begin()
    for name in ("conv", "transformer"):
        check(name, pretend_device.moved)
    check("halves", second_half(pretend_device.moved), ("l2", "wanda", "schur"))
    devices.WITHOUT_FLOAT64 = frozenset({pretend_device.DEVICE.type})  # type: ignore[misc]
    pretend_device.without_float64()
    check("transformer", pretend_device.moved, dtype=torch.float32)


def test_a_pretend_device() -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.reconstruction.test_devices"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_failure_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without float64 a copy is changed first."""
    monkeypatch.setattr(devices, "WITHOUT_FLOAT64", frozenset({"cpu"}))
    model = randomize(Conv()).eval()
    x = torch.randn(4, 2, 5, 5)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    before = copy.deepcopy(slim.state_dict())
    with pytest.raises(graphprune.InputError, match="forward failed on batch 1"):
        graphprune.repair(slim, model, plan, [x, x[0, 0]])
    assert all(torch.equal(tensor, before[name]) for name, tensor in slim.state_dict().items())
    graphprune.repair(slim, model, plan, [x])
    assert not torch.equal(slim.fc.weight, before["fc.weight"])


if __name__ == "__main__":
    pretend()
