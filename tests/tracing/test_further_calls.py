"""What a call leaves in the model and a later one reads: the channels of both go together."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.tracing.running import run_recorded
from tests.test_work import code_of, work


class Keeping(nn.Module):
    """Three layers, and something that is kept between calls."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.passed, self.out = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.start()

    def start(self) -> None:
        self.kept: Any = None


class Replaced(Keeping):
    """A buffer that is replaced."""

    def start(self) -> None:
        self.register_buffer("kept", torch.zeros(1, 16))

    def forward(self, x: Tensor) -> Tensor:
        self.kept = torch.tanh(self.inner(x) + self.passed(self.kept)).detach()
        return self.out(self.kept)


class OtherMemory(Replaced):
    """A buffer that is given other memory."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x) + self.passed(self.kept)
        self.kept.data = y.mean(0, keepdim=True).tanh()
        return self.out(y)


class FromNothing(Keeping):
    """A state that the first call makes."""

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = x.new_zeros(x.shape[0], self.passed.in_features)
        self.kept = torch.tanh(self.inner(x) + self.passed(self.kept)).detach()
        return self.out(self.kept)


class LastFrame(Keeping):
    """Features of another layer, which meet those of the next call."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x).relu()
        met = y if self.kept is None else y * self.kept
        self.kept = self.passed(y).detach()
        return self.out(met)


class LooksAtValues(Keeping):
    """The next call looks at the values of what it finds."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x).relu()
        if self.kept is not None and self.kept.abs().sum() > 1e-6:
            y = y * self.kept
        self.kept = self.passed(self.inner(x)).detach()
        return self.out(y)


class HandedOn(Keeping):
    """Read by the call after the next."""

    def start(self) -> None:
        self.kept, self.before = None, None

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        met = y if self.before is None else y * self.before
        self.before, self.kept = self.kept, self.passed(y).detach()
        return self.out(met)


class InObject(Keeping):
    """The same in an object."""

    def start(self) -> None:
        self.kept = SimpleNamespace(last=None)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x).relu()
        met = y if self.kept.last is None else y * self.kept.last
        self.kept.last = self.passed(y).detach()
        return self.out(met)


class InDict(Keeping):
    """The same in a dictionary."""

    def start(self) -> None:
        self.kept = {}

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        met = y * self.kept.get("last", torch.zeros_like(y)).sigmoid()
        self.kept["last"] = self.passed(y).detach()
        return self.out(met)


class InQueue(Keeping):
    """The same in a queue."""

    def start(self) -> None:
        self.kept = deque(maxlen=2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        met = y + sum(self.kept) if self.kept else y
        self.kept.append(self.passed(y).detach())
        return self.out(met)


class OnlyTraining(Keeping):
    """Kept and read in training mode alone."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        if self.training:
            y = y if self.kept is None else y * self.kept
            self.kept = self.passed(self.inner(x)).mean(0, keepdim=True).detach()
        return self.out(y)


KINDS = [Replaced, OtherMemory, FromNothing, LastFrame, LooksAtValues, HandedOn, InObject, InDict, InQueue]


def pruned(kind: Callable[[], nn.Module], training: bool = False) -> tuple[list[str], float]:
    """The groups that are pruned, and how far the slim model is from the masked one over four calls."""
    torch.manual_seed(0)
    model, inputs = kind().eval(), torch.randn(4, 3, 8)
    plan = graphprune.trace(model, inputs[0]).plan(0.5)
    masked, slim = copy.deepcopy(model).double(), plan.apply(model).double()
    with torch.no_grad():
        for name, tensor in (*masked.named_parameters(), *masked.named_buffers()):
            tensor.mul_(plan.mask(name))
        pairs = [(masked.train(training)(x), slim.train(training)(x)) for x in inputs.double()]
    return [choice.group for choice in plan.choices], max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_the_slim_model_is_right_call_after_call(kind: Callable[[], nn.Module]) -> None:
    groups, difference = pruned(kind)
    assert groups == ["inner"]
    assert difference < 1e-12


def test_what_training_keeps_for_itself_is_followed_there() -> None:
    groups, difference = pruned(OnlyTraining, training=True)
    assert groups == ["inner"]
    assert difference < 1e-12


def test_constants_that_the_model_began_with_hold_what_is_put_in_their_place() -> None:
    class Held(Keeping):
        def start(self) -> None:
            self.kept, self.other = {"last": torch.zeros(1, 16)}, nn.Linear(8, 16)

        def forward(self, x: Tensor) -> Tensor:
            met = self.inner(x) * self.kept["last"].sigmoid()
            self.kept["last"] = self.other(x).mean(0, keepdim=True).detach()
            return self.out(met)

    with pytest.raises(graphprune.PlanError, match="nothing that can be pruned"):
        graphprune.prune_model(Held().eval(), 0.5, torch.randn(3, 8))


def test_what_no_call_reads_holds_nothing_and_is_not_recorded() -> None:
    class Saved(Keeping):
        def forward(self, x: Tensor) -> Tensor:
            self.kept = self.passed(self.inner(x)).relu()
            return self.out(self.kept)

    trace = graphprune.trace(Saved().eval(), torch.randn(3, 8)).trace
    assert len(trace.inputs) == 1
    assert pruned(Saved)[0] == ["inner", "passed"]


def test_a_second_call_that_fails_leaves_the_first_one() -> None:
    class Once(Keeping):
        def forward(self, x: Tensor) -> Tensor:
            assert self.kept is None, "it is full"
            self.kept = self.passed(self.inner(x)).relu()
            return self.out(self.kept)

    graph = graphprune.trace(Once().eval(), torch.randn(3, 8))
    assert graph.trace.note == "a second call could not be traced: AssertionError: it is full"
    assert [choice.group for choice in graph.plan(0.5).choices] == ["inner", "passed"]


def test_models_that_keep_nothing_run_once() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 4)).eval()
    done = work(lambda: graphprune.trace(model, torch.randn(3, 8)))
    assert done[code_of(run_recorded)] == 1


class Cached(nn.Module):
    """Attention over all positions so far."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 16) for _ in range(3))
        self.out = nn.Linear(16, 4)
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.k(x), self.v(x)
        if self.keys is not None and self.values is not None:
            k, v = torch.cat([self.keys, k], 1), torch.cat([self.values, v], 1)
        self.keys, self.values = k.detach(), v.detach()
        return self.out((self.q(x) @ k.mT / 4).softmax(-1) @ v)


def test_positions_that_a_cache_holds_are_no_channels() -> None:
    """Half of what a model remembered was removed."""
    model, x = Cached().eval(), torch.randn(1, 3, 8)
    model(torch.randn(1, 6, 8))
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert [choice.group for choice in plan.choices] == ["k", "v"]
    assert slim.keys.shape == slim.values.shape == (1, 6, 8)
    assert graphprune.verify(model, slim, plan, x).passed


class Logged(Keeping):
    """Reads the loss of the last call, in training alone or always."""

    def __init__(self, only_training: bool) -> None:
        super().__init__()
        self.only_training, self.log = only_training, 0.0

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x).relu()
        if self.training or not self.only_training:
            y = self.passed(y)
            if self.kept is not None:
                self.log = self.kept.item()
            self.kept = y.pow(2).mean().detach()
        return self.out(y)


@pytest.mark.parametrize("only_training", [False, True])
def test_losses_that_the_next_call_reads_have_no_channels(only_training: bool) -> None:
    """Training was forgotten, and models on meta were refused."""
    with torch.device("meta"):
        on_meta = Logged(only_training).eval()
    assert graphprune.trace(on_meta, torch.randn(3, 8)).trace.on_meta
    slim = graphprune.prune_model(Logged(only_training).eval(), 0.5, torch.randn(3, 8))
    assert slim.passed.weight.shape == (8, 8)
    slim.train()(torch.randn(3, 8))


class Formatted(Keeping):
    """Makes text of what it reads."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        if self.kept is not None:
            self.text = f"{self.kept.norm():.3f}"
            y = y * self.kept
        self.kept = self.passed(self.inner(x)).detach()
        return self.out(y)


class Compared(Keeping):
    """Does nothing where nothing changed since the last call."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x).relu()
        if self.kept is None or (y - self.kept[0]).abs().mean() > 1e-3:
            self.kept = y.detach(), self.out(self.passed(y).relu())
        return self.kept[1]  # type: ignore[no-any-return]


def test_what_a_call_makes_text_of_is_followed_with_values() -> None:
    groups, difference = pruned(Formatted)
    assert groups == ["inner"]
    assert difference < 1e-12


def test_what_decides_that_nothing_changed_may_go() -> None:
    graph = graphprune.trace(Compared().eval(), torch.randn(3, 8))
    assert [choice.group for choice in graph.plan(0.5).choices] == ["inner", "passed"]


class InLists(Keeping):
    """A state in a list of lists, beside long lists of numbers."""

    def start(self) -> None:
        self.log = {
            name: [float(1000 * row + at) for at in range(900)] for row, name in enumerate(("loss", "lr", "top"))
        }
        self.kept = [[None]]

    def forward(self, x: Tensor) -> Tensor:
        y, before = self.inner(x), self.kept[0][0]
        self.kept[0][0] = self.passed(y).detach()
        return self.out(y if before is None else y + before)


def test_a_state_is_found_however_many_numbers_a_model_holds() -> None:
    plan = graphprune.trace(InLists().eval(), torch.randn(3, 8)).plan(0.5)
    assert torch.equal(plan.mask("inner.bias"), plan.mask("passed.bias"))
