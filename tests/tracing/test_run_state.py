"""What a model keeps of its runs on data is what it was before, in the user's model and in the slim one."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import graphprune
from graphprune.tracing.run_state import evaluating_unchanged
from graphprune.utils.random_state import random_state


class Tally:
    """An object of the user's."""

    def __init__(self) -> None:
        self.calls = 0
        self.seen: dict[str, list[int]] = {"sizes": []}


class Remembers(nn.Module):
    """Writes to all that a module may hold, in evaluation too."""

    usage: Tensor
    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm, self.leave = nn.Linear(3, 16), nn.BatchNorm1d(16), nn.Linear(16, 4)
        self.register_buffer("usage", torch.zeros(16))
        self.register_buffer("sums", torch.zeros(2))
        self.calls, self.tally, self.loose = 0, Tally(), SimpleNamespace(calls=0)
        self.sizes: list[int] = []
        self.tables: dict[int, Tensor] = {}
        self.kinds: Counter[str] = Counter()
        self.metric = torch.zeros(())
        self.array = np.zeros(2)
        self.torchs, self.pythons, self.numpys = torch.Generator(), random.Random(0), np.random.default_rng(0)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.tally.calls += 1
        self.loose.calls += 1
        self.sizes.append(len(x))
        self.tally.seen["sizes"].append(len(x))
        self.kinds["rows"] += len(x)
        if len(x) not in self.tables:
            self.tables[len(x)] = torch.zeros(len(x), 1)
        y = self.norm(self.enter(x)).relu()
        self.latest = y
        if not hasattr(self, "bought"):
            self.register_buffer("bought", torch.ones(4))
            self.more = nn.Linear(4, 4)
        self.usage.data.mul_(0.9).add_(y.detach().mean(0))
        self.sums += x.detach().sum()
        self.metric += y.detach().mean()
        self.array += 1
        self.pythons.random()
        self.numpys.random()
        noise = torch.randn(len(x), 1, generator=self.torchs) * 0
        return self.leave(y + noise) * self.bought + self.tables[len(x)]


def kept_by(model: Remembers) -> Any:
    held = {name: value for name, value in vars(model).items() if not name.startswith("_") and name != "training"}
    parts = (held, vars(model.tally), vars(model.loose), list(model._buffers), list(model._modules))
    generators = model.torchs.get_state().sum(), model.pythons.getstate(), model.numpys.bit_generator.state
    return repr((parts, model.usage, model.sums, [m.tolist() for m in model.tables.values()], generators))


X, Y = torch.randn(8, 3), torch.arange(8) % 4
PAIRS = [(X, Y), (X[:5], Y[:5])]


def planned(model: nn.Module, **options: Any) -> graphprune.Plan:
    return graphprune.trace(model, X).plan(0.5, **options)


def repaired(model: nn.Module) -> None:
    plan = planned(model)
    graphprune.repair(plan.apply(model), model, plan, [X])


def taught(model: nn.Module) -> None:
    slim = planned(model).apply(model)
    graphprune.finetune(slim, PAIRS, epochs=1, lr=0.01, teacher=model, progress=False)


def timed(model: nn.Module) -> None:
    with pytest.warns(graphprune.errors.NothingRemovedWarning, match="the model is within the budget"):
        graphprune.trace(model, X).plan(latency="10s")


@pytest.mark.parametrize(
    "use",
    [
        repaired,
        taught,
        lambda m: graphprune.prune_model(m, 0.5, X, calibration=[X]),
        lambda m: planned(m, importance="taylor", calibration=PAIRS, loss_fn=F.cross_entropy),
        lambda m: planned(m, importance="wanda", calibration=[X]),
        lambda m: graphprune.synthesize(m, X, 8, steps=2),
        lambda m: graphprune.measure(m, X, repeats=1),
        timed,
        lambda m: graphprune.advise(m, X, data=PAIRS, loss_fn=F.cross_entropy, target={"macs": 0.5}, seconds=1),
    ],
    ids=["repair", "teacher", "prune_model", "taylor", "wanda", "synthesize", "measure", "latency", "advise"],
)
@pytest.mark.parametrize("ran", [False, True])
def test_nothing_is_left_in_the_users_model(use: Callable[[Remembers], Any], ran: bool) -> None:
    model = Remembers().eval()
    if ran:
        model(X)
    before = kept_by(model)
    use(model)
    assert kept_by(model) == before


def test_nothing_is_left_in_the_slim_model_but_what_was_fitted() -> None:
    model = Remembers().eval()
    plan = planned(model)
    slim = plan.apply(model)
    assert isinstance(slim, Remembers)
    means, before = slim.norm.running_mean, kept_by(slim)
    first = None if means is None else means.clone()
    assert graphprune.repair(slim, model, plan, [X]).repaired
    assert graphprune.reestimate_batch_norm(slim, [X])
    assert kept_by(slim) == before
    assert means is not None and first is not None and not torch.equal(means, first)


def test_a_running_mean_that_was_fitted_stays() -> None:
    enter, norm = nn.Linear(3, 16), nn.BatchNorm1d(16)
    model = nn.Sequential(enter, norm, nn.ReLU(), nn.Linear(16, 4)).eval()
    graphprune.reestimate_batch_norm(model, [X])
    assert norm.running_mean is not None
    assert torch.allclose(norm.running_mean, enter(X).mean(0), atol=1e-6)


def test_example_inputs_are_what_they_were() -> None:
    class Scaling(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mul_(2))

    model, x = Scaling(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 4)).eval(), X.clone()
    graphprune.measure(model, x, repeats=1)
    graphprune.advise(model, x, seconds=1)
    with pytest.warns(graphprune.errors.NothingRemovedWarning, match="the model is within the budget"):
        graphprune.trace(model, x).plan(latency="10s")
    assert torch.equal(x, X)


def drawn() -> Any:
    state = random_state()
    return state["torch"].tolist(), state["numpy"][1].tolist(), state["numpy"][2], state["python"]


@pytest.mark.parametrize(
    "use",
    [
        repaired,
        lambda m: planned(m, importance="taylor", calibration=PAIRS, loss_fn=F.cross_entropy),
        lambda m: planned(m, importance="wanda", calibration=DataLoader(X, 4, shuffle=True)),
        lambda m: graphprune.synthesize(m, X, 8, steps=2),
        lambda m: graphprune.reestimate_batch_norm(m, [X]),
        lambda m: graphprune.trace(m, X),
        timed,
    ],
    ids=["repair", "taylor", "wanda", "synthesize", "batch norm", "trace", "latency"],
)
@pytest.mark.filterwarnings("ignore::graphprune.errors.BatchedSamplesWarning")
def test_random_numbers_go_on_as_before(use: Callable[[nn.Module], Any]) -> None:
    class Drawing(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return y + torch.rand(1).to(y) + random.random() + np.random.rand()

    model = Drawing(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    before = drawn()
    use(model)
    assert drawn() == before


def test_nothing_is_left_after_a_batch_that_fails() -> None:
    model = Remembers().eval()
    before = kept_by(model)
    with pytest.raises(graphprune.errors.InputError):
        planned(model, importance="wanda", calibration=[X, torch.randn(2, 5)])
    assert kept_by(model) == before


class Shares(nn.Module):
    """Lets its tensors have the memory of a parameter when it runs."""

    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(3, 16), nn.Linear(16, 4)
        self.register_buffer("sums", torch.zeros(16))
        self.shift = torch.zeros(16)

    def forward(self, x: Tensor) -> Tensor:
        self.sums.data = self.shift.data = self.enter.bias.data
        y: Tensor = self.leave(self.enter(x) + self.sums + self.shift)
        return y


def test_tensors_that_were_given_the_memory_of_others_leave_these_alone() -> None:
    model = Shares().eval()
    before, memory = model.enter.bias.detach().clone(), (model.sums.data_ptr(), model.shift.data_ptr())
    with evaluating_unchanged(model):
        model(torch.randn(2, 3))
    assert torch.equal(model.enter.bias, before)
    assert (model.sums.data_ptr(), model.shift.data_ptr()) == memory and not model.sums.any()


def test_an_outside_tensor_gets_its_memory_back() -> None:
    outside = torch.zeros(16)

    class Outside(Shares):
        def forward(self, x: Tensor) -> Tensor:
            outside.add_(1)
            outside.data = self.enter.bias.data
            return self.leave(self.enter(x))

    model, x, memory = Outside().eval(), torch.randn(2, 3), outside.data_ptr()
    before = model.enter.bias.detach().clone()
    graphprune.trace(model, x)
    assert outside.data_ptr() == memory and not outside.any() and torch.equal(model.enter.bias, before)


class Logs(nn.Module):
    """Counts its calls in an object that is found after thousands of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(3, 16), nn.Linear(16, 4)
        self.a_log = {str(name): [[float(300 * name + at)] for at in range(300)] for name in range(9)}
        self.z_tally = [[Tally()]]

    def forward(self, x: Tensor) -> Tensor:
        self.z_tally[0][0].calls += 1
        return self.leave(self.enter(x).relu())  # type: ignore[no-any-return]


def test_calls_are_forgotten_however_many_numbers_a_model_holds() -> None:
    model = Logs().eval()
    graphprune.trace(model, torch.randn(8, 3)).plan(0.5, importance="wanda", calibration=[torch.randn(8, 3)])
    assert model.z_tally[0][0].calls == 0
