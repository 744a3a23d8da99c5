"""Two processes that share calibration batches: the plans and weights of one process, and errors that end both."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import graphprune
from graphprune.api import apply_and_repair
from graphprune.calibration.statistics import Statistics
from graphprune.errors import InputError
from graphprune.importance.criteria import CRITERIA
from tests.calibration.test_samples import Conv, Recurrent, Transformer, class_loss, token_loss
from tests.networks import randomize
from tests.processes import run_in_processes, serve

CRITERIA_WITH_DATA = sorted(name for name, one in CRITERIA.items() if one.data and name != "reap")  # wants experts
SAMPLES, UNEVEN = 18, [4, 4, 4, 4, 2]
"""Five batches: three for the one process and two for the other, one of which is smaller."""


class Experts(nn.Module):
    """Each batch goes through one of two experts, so that each process meets only one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(3, 8)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.leave = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x).relu()
        return self.leave(self.experts[int(x[0, 0] > 0)](y).relu())


NETWORKS = {"conv": Conv, "transformer": Transformer, "recurrent": Recurrent, "experts": Experts}


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return randomize(
        {"conv": Conv, "transformer": Transformer, "recurrent": Recurrent, "experts": Experts}[name]()
    ).eval()


def pairs(name: str) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    shape = {"conv": (2, 5, 5), "experts": (3,)}.get(name, (7, 2))
    x = torch.randn(SAMPLES, *shape, generator=generator)
    y = torch.randint(3, (SAMPLES, 7) if name == "transformer" else (SAMPLES,), generator=generator)
    batches = list(zip(x.split(UNEVEN), y.split(UNEVEN), strict=True))
    if name == "experts":
        for number, (inputs, _) in enumerate(batches):
            inputs[0, 0] = float(number % 2) - 0.5
    return batches


def loss_of(name: str) -> Any:
    return token_loss("mean") if name == "transformer" else class_loss("mean")


PLANS = {
    f"{name} {criterion}": (name, criterion)
    for name in ("conv", "transformer", "recurrent")
    for criterion in CRITERIA_WITH_DATA
}
REPAIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "conv": ("conv", {"ratio": 0.5, "importance": "schur"}),
    "transformer": ("transformer", {"mlp": 0.5, "head_width": 0.5}),
    "blocks": ("transformer", {"mlp": 0.5, "depth": 0.5}),
    "recurrent": ("recurrent", {"ratio": 0.5, "importance": "taylor"}),
    "experts": ("experts", {"ratio": 0.5, "importance": "wanda"}),
}
WITHOUT_LABELS = ("taylor", "fisher", "kfac", "surgeon")
Share = Callable[[Any], Any]


@cache
def graph_of(name: str) -> graphprune.ChannelGraph:
    return graphprune.trace(network(name), [x for x, _ in pairs(name)[: 2 if name == "experts" else 1]])


def planned(name: str, criterion: str, share: Share) -> str:
    given = {"importance": criterion, "calibration": share(pairs(name)), "loss_fn": loss_of(name)}
    return graph_of(name).plan(0.5, **given).to_json()


def planned_without_labels(criterion: str, share: Share) -> str:
    """By a loss with answers that are drawn."""
    batches = share([x for x, _ in pairs("conv")])
    return graph_of("conv").plan(0.5, importance=criterion, calibration=batches).to_json()


def drawn_scores(share: Share, name: str = "conv") -> dict[str, Tensor]:
    """Sums of squared gradients of the loss with drawn answers."""
    graph = graph_of(name)
    statistics = Statistics(graph.model, graph.units, share([x for x, _ in pairs(name)]))
    sums = {path: torch.zeros_like(tensor, dtype=torch.float64) for path, tensor in graph.model.named_parameters()}

    def add(gradients: Any) -> None:
        for path, gradient in gradients.items():
            sums[path] += gradient.double().square()

    statistics.each_backward(add)
    statistics.sum(*sums.values())
    return sums


def repaired(name: str, options: dict[str, Any], share: Share) -> dict[str, Tensor]:
    graph, batches = graph_of(name), share(pairs(name))
    plan = graph.plan(**options, calibration=batches, loss_fn=loss_of(name))
    return apply_and_repair(graph.model, plan, batches, loss_of(name)).state_dict()


def everything(share: Share) -> dict[str, Any]:
    found: dict[str, Any] = {f"plan {key}": planned(*case, share) for key, case in PLANS.items()}
    found |= {f"without labels {one}": planned_without_labels(one, share) for one in WITHOUT_LABELS}
    found |= {f"drawn {name}": drawn_scores(share, name) for name in ("conv", "transformer", "recurrent")}
    return found | {f"repaired {key}": repaired(*case, share) for key, case in REPAIRS.items()}


# ---------------------------------------------------------------- what runs in each of two processes


def mine(batches: list[Any], rank: int, first: int) -> list[Any]:
    """Of all batches, ``first`` for process 0 and the rest for process 1."""
    return batches[:first] if rank == 0 else batches[first:]


def loader(sampler: bool) -> DataLoader[Any]:
    x = torch.cat([x for x, _ in pairs("conv")])
    data = TensorDataset(x)
    return DataLoader(data, batch_size=3, sampler=DistributedSampler(data, shuffle=False) if sampler else None)


def failure(rank: int, failing: int, error: BaseException, ask: Callable[[Any], Any]) -> tuple[str, str, float]:
    """What each process raises when one of them fails on its second batch, and after how many seconds."""

    def batches() -> Iterator[Any]:
        for number, pair in enumerate(pairs("conv")):
            if rank == failing and number == 2 + failing:
                raise error
            yield pair[0]

    class Failing:
        def __iter__(self) -> Iterator[Any]:
            return batches()

    begun = time.monotonic()
    try:
        ask(graphprune.across_processes(Failing()))
    except BaseException as raised:
        return type(raised).__name__, str(raised), time.monotonic() - begun
    return "", "", time.monotonic() - begun


def ask_plan(calibration: Any) -> None:
    graph_of("conv").plan(0.5, importance="wanda", calibration=calibration)


def ask_repair(calibration: Any) -> None:
    model = graph_of("conv").model
    plan = graph_of("conv").plan(0.5)
    slim = plan.apply(model)
    before = {name: tensor.clone() for name, tensor in slim.state_dict().items()}
    try:
        graphprune.repair(slim, model, plan, calibration)
    finally:
        assert all(torch.equal(tensor, before[name]) for name, tensor in slim.state_dict().items())


def raised(ask: Callable[[], Any]) -> str:
    with pytest.raises(Exception) as info:
        ask()
    return f"{type(info.value).__name__}: {info.value}"


def mistakes(rank: int) -> dict[str, str]:
    other = network("conv")
    with torch.no_grad():
        other.fc.bias[0] += rank
    averaged = network("conv")
    next(averaged.buffers()).add_(rank)
    graph, shared = graphprune.trace(other, pairs("conv")[0][0]), graphprune.across_processes
    alike = graphprune.trace(averaged, pairs("conv")[0][0])
    x = [x for x, _ in pairs("conv")]
    wanda = {"importance": "wanda"}
    found = {
        "weights": raised(lambda: graph.plan(0.5, calibration=shared(x), **wanda)),
        "averages": raised(lambda: alike.plan(0.5, calibration=shared(x), **wanda)),
        "counts": raised(lambda: ask_plan(shared(x[rank:]))),
        "data": raised(lambda: ask_plan(shared([torch.full_like(x[0], rank)]))),
        "none": raised(lambda: ask_plan(shared([]))),
        "latency": raised(lambda: graph.plan(latency=0.5, calibration=shared(x), **wanda)),
    }
    with pytest.warns(graphprune.UnsharedBatchesWarning, match="pass graphprune.across_processes"):
        graphprune.reestimate_batch_norm(network("conv"), loader(sampler=True))
    return found


def part(rank: int) -> dict[str, Any]:
    found = everything(graphprune.across_processes)
    for first in (3, 5):
        found[f"dealt {first}"] = repaired(
            *REPAIRS["conv"], lambda batches, n=first: graphprune.across_processes(mine(batches, rank, n), dealt=True)
        )
        found[f"drawn by those dealt {first}"] = drawn_scores(
            lambda batches, n=first: graphprune.across_processes(mine(batches, rank, n), dealt=True)
        )
    found["drawn of a generator"] = drawn_scores(lambda batches: graphprune.across_processes(iter(batches[:1])))
    for sampler in (False, True):
        model = network("conv")
        graphprune.reestimate_batch_norm(model, graphprune.across_processes(loader(sampler)))
        found[f"norms {sampler}"] = model.state_dict()
    found["mistakes"] = mistakes(rank)
    found["failures"] = {
        "plan": failure(rank, 1, ValueError("a broken file"), ask_plan),
        "repair": failure(rank, 0, OSError("a lost disk"), ask_repair),
        "interrupted": failure(rank, 1, KeyboardInterrupt(), ask_repair),
    }
    found["after"] = planned("conv", "wanda", graphprune.across_processes)
    if rank == 0:
        begun = time.monotonic()
        found["alone"] = raised(lambda: ask_plan(graphprune.across_processes([pairs("conv")[0][0]], timeout=1)))
        found["waited"] = time.monotonic() - begun
    else:
        time.sleep(2)
    return found


def die(rank: int, folder: Path) -> None:
    """Process 1 dies while process 0 waits for it."""
    calibration = graphprune.across_processes([x for x, _ in pairs("conv")])
    if rank == 1:
        os._exit(1)
    (folder / "died.txt").write_text(raised(lambda: ask_plan(calibration)))


# ---------------------------------------------------------------- against one process


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    return run_in_processes("tests.reconstruction.test_shared_repair", folder)


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return everything(lambda batches: batches)


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


@pytest.mark.parametrize("key", PLANS)
def test_equal_plans(key: str, found: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    assert found[0][f"plan {key}"] == found[1][f"plan {key}"] == alone[f"plan {key}"]


@pytest.mark.parametrize("criterion", WITHOUT_LABELS)
def test_equal_plans_without_labels(criterion: str, found: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    assert len({one[f"without labels {criterion}"] for one in (*found, alone)}) == 1


@pytest.mark.parametrize("name", ["conv", "transformer", "recurrent"])
def test_answers_are_those_that_one_process_draws(
    name: str, found: list[dict[str, Any]], alone: dict[str, Any]
) -> None:
    assert difference(found[0][f"drawn {name}"], found[1][f"drawn {name}"]) == 0
    assert difference(found[0][f"drawn {name}"], alone[f"drawn {name}"]) < 1e-5


@pytest.mark.parametrize(("first", "order"), [(3, [0, 3, 1, 4, 2]), (5, [0, 1, 2, 3, 4])])
def test_batches_of_their_own_have_answers_by_turns(first: int, order: list[int], found: list[dict[str, Any]]) -> None:
    expected = drawn_scores(lambda batches: [batches[number] for number in order])
    for one in found:
        assert difference(one[f"drawn by those dealt {first}"], expected) < 1e-5


def test_a_process_may_have_no_batch_of_a_generator(found: list[dict[str, Any]]) -> None:
    expected = drawn_scores(lambda batches: batches[:1])
    for one in found:
        assert difference(one["drawn of a generator"], expected) < 1e-5


@pytest.mark.parametrize("key", REPAIRS)
def test_equal_weights(key: str, found: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    assert difference(found[0][f"repaired {key}"], found[1][f"repaired {key}"]) == 0
    assert difference(found[0][f"repaired {key}"], alone[f"repaired {key}"]) < 1e-5


@pytest.mark.parametrize("first", [3, 5])
def test_batches_of_their_own(first: int, found: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    """Also where one process has none."""
    assert difference(found[0][f"dealt {first}"], found[1][f"dealt {first}"]) == 0
    assert difference(found[0][f"dealt {first}"], alone["repaired conv"]) < 1e-5


def test_loaders_with_and_without_a_distributed_sampler(found: list[dict[str, Any]]) -> None:
    model, x = network("conv"), torch.cat([x for x, _ in pairs("conv")])
    graphprune.reestimate_batch_norm(model, [(one,) for one in x.split(3)])
    assert difference(found[0]["norms False"], model.state_dict()) < 1e-5
    graphprune.reestimate_batch_norm(model, [(one,) for half in (x[::2], x[1::2]) for one in half.split(3)])
    assert difference(found[0]["norms True"], model.state_dict()) < 1e-5
    assert difference(found[0]["norms True"], found[1]["norms True"]) == 0


@pytest.mark.parametrize(
    ("what", "failing", "kind", "text"),
    [
        ("plan", 1, "ValueError", "a broken file"),
        ("repair", 0, "OSError", "a lost disk"),
        ("interrupted", 1, "KeyboardInterrupt", ""),
    ],
)
def test_an_error_in_one_process_ends_all(
    what: str, failing: int, kind: str, text: str, found: list[dict[str, Any]], alone: dict[str, Any]
) -> None:
    name, message, seconds = found[failing]["failures"][what]
    assert (name, message) == (kind, text) and seconds < 5
    name, message, seconds = found[1 - failing]["failures"][what]
    assert name == "ProcessError" and seconds < 5
    assert message.splitlines()[0] == f"process {failing} of 2 failed, so all ended: {kind}{text and ': '}{text}"
    assert found[0]["after"] == found[1]["after"] == alone["plan conv wanda"]


def test_mistakes(found: list[dict[str, Any]]) -> None:
    expected = {
        "weights": "InputError: model: fc.bias is not the same in process 0 and process 1",
        "counts": "InputError: calibration: processes 0 and 1 have 5 and 4 batches, and are to share the same ones",
        "data": "InputError: calibration: processes 0 and 1 have different batches, and are to share the same ones",
        "none": "InputError: calibration: there are no batches in any process",
        "latency": "InputError: latency: is measured in one process, and processes share the calibration batches",
    }
    for rank in range(2):
        for key, text in expected.items():
            assert found[rank]["mistakes"][key].startswith(text)
        assert "all of them buffers" in found[rank]["mistakes"]["averages"]
        assert "torch.distributed.broadcast(buffer, 0)" in found[rank]["mistakes"]["averages"]


def test_a_process_that_does_not_take_part(found: list[dict[str, Any]]) -> None:
    assert found[0]["alone"].startswith("ProcessError: process 0 of 2 has no answer from another one within 1 s")
    assert 0.9 < found[0]["waited"] < 10


def test_a_process_that_dies_ends_the_others(found: list[dict[str, Any]], folder: Path) -> None:
    assert (folder / "died.txt").read_text().startswith("ProcessError: process 0 of 2 has no answer from another one")


# ---------------------------------------------------------------- one process


def test_in_one_process_nothing_changes(alone: dict[str, Any]) -> None:
    one = repaired(*REPAIRS["conv"], graphprune.across_processes)
    assert difference(one, alone["repaired conv"]) == 0


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"calibration": 3}, "calibration: is an int, not an iterable of batches"),
        ({"calibration": [], "timeout": 0}, "timeout: is 0, not a number of seconds above 0"),
    ],
)
def test_arguments(given: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        graphprune.across_processes(**given)


if __name__ == "__main__":
    serve(part, die)
