"""Latency budgets, on a clock of our own: kernels run, are looked up and interpolated, and the result is aimed at."""

import json
import re
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import BloomConfig, BloomForCausalLM

import graphprune
from graphprune.errors import DamagedTableWarning, InputError, NothingRemovedWarning, PlanError
from graphprune.planning import kernel_table, latency, latency_search
from graphprune.planning.kernel_table import KernelTable
from graphprune.planning.latency import LatencyModel
from graphprune.tracing.inputs import MethodCall
from models import gpt, hardnet, mobilenet_v2, resnet_cifar, vit

IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
IDS = torch.arange(12)[None]
CPU = torch.device("cpu")


class Counted(KernelTable):
    """Each kernel is run once and takes a nanosecond for every entry of its tensors."""

    def seconds(self, name: str, call: Callable[[], Callable[[], Any]]) -> float:
        if name not in self.times:
            call()()
            shapes = re.findall(r"\[([\d, ]+)\]", name.partition("] [")[0] + "]")
            self.times[name] = 1e-9 * sum(prod(map(int, shape.split(", "))) for shape in shapes)
        return self.times[name]


def table(tmp_path: Path) -> Counted:
    return Counted(CPU, tmp_path / "kernels.json")


def model_of(graph: graphprune.ChannelGraph, kernels: KernelTable) -> LatencyModel:
    return LatencyModel(graph.labeling, graph.units, graph.nodes_without(()), kernels)


@pytest.mark.parametrize(
    ("build", "inputs"),
    [
        (resnet_cifar.resnet20, IMAGE),
        (lambda: mobilenet_v2.mobilenet_v2(num_classes=10, small_input=True), IMAGE),
        (vit.vit, IMAGE),
        (gpt.gpt, IDS),
        (hardnet.hardnet, IMAGE),
    ],
    ids=["resnet", "mobilenet", "vit", "gpt", "hardnet"],
)
def test_kernels_run_at_all_sizes(build: Callable[[], nn.Module], inputs: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    graph = graphprune.trace(build().eval(), inputs)
    model = model_of(graph, table(tmp_path))
    assert len(model.kernels) > 20
    times = [model.seconds(graph.alive(graph.plan(ratio).removed)) for ratio in (0.0, 0.3, 0.6)]
    assert times[0] > times[1] > times[2] > 0
    prices = model.prices(graph.alive({}))
    assert (prices >= 0).all() and prices.any()


def test_operands_whose_sizes_are_not_known_to_go_together(tmp_path: Path) -> None:
    """As where half of each group alone is timed, and the biases of Bloom have a row for each head."""
    torch.manual_seed(0)
    model = BloomForCausalLM(BloomConfig(vocab_size=128, hidden_size=256, n_layer=1, n_head=4)).eval()
    graph = graphprune.trace(model, torch.randint(128, (1, 12)))
    latency = model_of(graph, table(tmp_path))
    gone = np.concatenate([group.unit_ids[group.units // 2 :] for group in graph.groups])
    assert 0 < latency.seconds(graph.solution.alive(gone)) < latency.seconds(graph.alive({}))


def test_between_the_grid_times_are_interpolated(tmp_path: Path) -> None:
    """Entries are linear in each size, so that interpolation is exact."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
    graph = graphprune.trace(net.eval(), torch.randn(8, 64))
    model = model_of(graph, table(tmp_path))
    for ratio in (0.0, 0.11, 0.5, 0.73):
        plan = graph.plan(ratio)
        hidden = plan.shape("0.weight")[0]
        expected = 8 * 64 + 64 * hidden + hidden + 8 * hidden + 8 * hidden + hidden * 64 + 64
        assert model.seconds(graph.alive(plan.removed)) == pytest.approx(expected * 1e-9, rel=1e-6)
    assert len(model.table.times) < 40


def test_tables_are_kept_and_merged(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "kernels.json"
    kernels = KernelTable(CPU, path)
    took = kernels.seconds("a sum", lambda: lambda: torch.ones(100).sum())
    assert took > 0
    kernels.save()
    other = KernelTable(CPU, path)
    assert other.seconds("a sum", lambda: pytest.fail("measured again")) == took
    path.write_text(json.dumps({"of another process": 1.0}))
    kernels.seconds("a product", lambda: lambda: torch.ones(10).prod())
    kernels.save()
    assert json.loads(path.read_text()).keys() == {"a sum", "a product", "of another process"}


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "[" * 100_000, '{"mm": "fast"}', '{"mm": -1}', '{"mm": NaN}', '{"mm": Infinity}', "\udcff"]
)
def test_a_damaged_table_is_measured_again_and_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kernels.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    said = r"(?s)the table of kernels .*kernels.json.*its kernels are measured again"
    with pytest.warns(DamagedTableWarning, match=said):
        kernels = KernelTable(CPU, path)
    took = kernels.seconds("a sum", lambda: lambda: torch.ones(100).sum())
    with pytest.warns(DamagedTableWarning):
        kernels.save()
    assert json.loads(path.read_text()) == {"a sum": took}
    assert KernelTable(CPU, path).times == {"a sum": took}


def test_a_table_that_cannot_be_written_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    kernels = KernelTable(CPU, tmp_path / "file/kernels.json")
    kernels.seconds("a sum", lambda: lambda: torch.ones(100).sum())
    with pytest.warns(DamagedTableWarning, match=r"kernels.json cannot be written \(.*set XDG_CACHE_HOME"):
        kernels.save()


def test_measuring_draws_nothing_from_the_global_generators(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, 4))
    graph = graphprune.trace(net.train(), torch.randn(2, 8))
    model = model_of(graph, KernelTable(CPU, tmp_path / "kernels.json"))
    before = torch.get_rng_state()
    assert model.seconds(graph.alive({})) > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_the_table_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = KernelTable(CPU).path
    assert path is not None and path.parent == tmp_path / "graphprune"
    assert torch.__version__ in path.name and "threads" in path.name


def test_under_a_latency_budget_channels_come_in_lanes(clock: None) -> None:
    torch.manual_seed(0)
    model = vit.vit().eval()
    graph = graphprune.trace(model, IMAGE)
    kept = {
        c.units - len(c.removed) for c in graph.plan(latency=0.85).choices if c.role in ("mlp", "width") and c.removed
    }
    assert kept and all(n % 16 == 0 or n < 16 for n in kept)
    own = {c.units - len(c.removed) for c in graph.plan(latency=0.85, multiple=1).choices if c.role in ("mlp", "width")}
    assert any(n % 16 for n in own)
    overrides = {"*": graphprune.Override(multiple=1)}
    one_by_one = graph.plan(latency=0.85, overrides=overrides)
    assert any(c.kept > 16 and c.kept % 16 for c in one_by_one.choices if c.role in ("mlp", "width"))


# ---------------------------------------------------------------- plans


def taken(model: nn.Module) -> float:
    return 1e-3 + 3e-9 * sum(p.numel() for p in model.parameters())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A model takes a millisecond, and three nanoseconds a parameter; the table of kernels knows nothing of that."""
    monkeypatch.setattr(kernel_table, "median_seconds", lambda run, *_: pytest.fail("a real clock was used"))
    monkeypatch.setattr(latency_search, "KernelTable", lambda device: Counted(device, tmp_path / "kernels.json"))
    monkeypatch.setattr(latency_search.Stopwatch, "seconds", lambda _, *models: [*map(taken, models)])


@pytest.mark.parametrize("asked", [0.8, "1.3ms"])
def test_a_latency_is_met(clock: None, asked: float | str) -> None:
    torch.manual_seed(0)
    model = resnet_cifar.resnet20().eval()
    graph = graphprune.trace(model, IMAGE)
    plan = graph.plan(latency=asked, params=0.9)
    slim = plan.apply(model)
    took = taken(slim)
    budget = 1.3e-3 if asked == "1.3ms" else 0.8 * taken(model)
    assert 0.95 * budget <= took <= budget
    assert plan.requested["measured latency"] == f"{took * 1e3:.2f} ms"
    assert graph.cost(plan).params <= 0.9 * graph.cost().params
    assert graphprune.verify(model, slim, plan, IMAGE).passed


def test_what_cannot_be_reached(clock: None) -> None:
    graph = graphprune.trace(resnet_cifar.resnet20().eval(), IMAGE)
    with pytest.raises(
        PlanError,
        match=r"latency: latency='0.9ms' is 0.90 ms and was not reached; the fastest of \d attempts took 1.0\d ms",
    ):
        graph.plan(latency="0.9ms")
    with torch.device("meta"):
        abstract = graphprune.trace(resnet_cifar.resnet20().eval(), IMAGE)
    with pytest.raises(PlanError, match="latency: the model is on the meta device"):
        abstract.plan(latency=0.5)


@pytest.mark.parametrize("asked", [{"latency": "1s"}, {"latency": 1.0}, {"budgets": {"latency": "1s"}}])
def test_a_latency_that_is_met_already_asks_for_nothing(clock: None, asked: dict[str, Any]) -> None:
    model = resnet_cifar.resnet20().eval()
    graph = graphprune.trace(model, IMAGE)
    if asked == {"latency": 1.0}:
        plan = graph.plan(**asked)
    else:
        with pytest.warns(
            NothingRemovedWarning, match="latency=1s: nothing is removed; the model is within the budget"
        ):
            plan = graph.plan(**asked)
    assert not plan.kept and plan.requested["measured latency"] == f"{taken(model) * 1e3:.2f} ms"
    for others in ({"macs": 0.5}, {"mlp": 0.5, "macs": "1T"}, {"depth": 0.5, "macs": "1T"}):
        one, other = graph.plan(**asked, **others), graph.plan(**others)
        assert one.skipped == other.skipped and [c.removed for c in one.choices] == [c.removed for c in other.choices]
    assert graph.plan(**asked, depth=0.5).skipped == graph.plan(depth=0.5).skipped


@pytest.mark.parametrize("asked", [{"mlp": 0.45}, {"macs": 0.55}])
def test_a_latency_that_is_met_leaves_what_servers_ask(clock: None, asked: dict[str, float]) -> None:
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    graph = graphprune.trace(model, {"input_ids": torch.arange(8)[None]})
    one, other = (graph.plan(serve="vllm", **asked, **more) for more in ({"latency": "10s"}, {}))
    assert [c.removed for c in one.choices] == [c.removed for c in other.choices]


def test_a_latency_that_the_model_without_blocks_meets_asks_for_nothing(clock: None) -> None:
    model = resnet_cifar.resnet20().eval()
    graph = graphprune.trace(model, IMAGE)
    other = graph.plan(depth=0.5)
    meets = (taken(other.apply(model)) + taken(model)) / 2 / taken(model)
    one = graph.plan(depth=0.5, latency=meets)
    assert one.skipped == other.skipped and not any(choice.removed for choice in one.choices)


def test_a_latency_that_only_the_slim_model_misses_is_searched_for(
    clock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = iter([3.0])

    def seconds(_: object, *models: nn.Module) -> list[float]:
        return [taken(model) * (next(noise, 1.0) if n else 1.0) for n, model in enumerate(models)]

    monkeypatch.setattr(latency_search.Stopwatch, "seconds", seconds)
    model = resnet_cifar.resnet20().eval()
    plan = graphprune.trace(model, IMAGE).plan(latency="2ms", params=0.8)
    assert taken(plan.apply(model)) <= 2e-3


def test_a_latency_among_the_budgets_is_measured(clock: None) -> None:
    model = resnet_cifar.resnet20().eval()
    graph = graphprune.trace(model, IMAGE)
    assert taken(graph.plan(budgets={"latency": "1.3ms"}).apply(model)) <= 1.3e-3
    with pytest.raises(InputError, match="allocation: 'searched' counts what candidates cost"):
        graph.plan(budgets={"latency": "1.3ms"}, allocation="searched", calibration=[IMAGE])


def test_noise_does_not_lead_below_what_is_reachable(clock: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first attempt seems to take far longer than it does: the line then points below every choice."""
    noise = iter([1.0, 1.6])

    def seconds(_: object, *models: nn.Module) -> list[float]:
        return [*map(taken, models[:-1]), taken(models[-1]) * (next(noise, 1.0))]

    monkeypatch.setattr(latency_search.Stopwatch, "seconds", seconds)
    torch.manual_seed(0)
    model = resnet_cifar.resnet20().eval()
    plan = graphprune.trace(model, IMAGE).plan(latency="1.4ms", max_ratio=0.4)
    assert taken(plan.apply(model)) <= 1.4e-3


def test_the_model_is_timed_as_it_is_run() -> None:
    """A real clock: only that it ran, in evaluation mode, by the runner, and that modes are restored."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout())
    model[0].eval()
    seen: list[tuple[bool, torch.Size]] = []

    def runner(module: nn.Module) -> Callable[..., Any]:
        def run(x: Tensor) -> Tensor:
            seen.append((module.training or torch.is_grad_enabled(), x.shape))
            return module(x)

        return run

    assert latency_search.Stopwatch((MethodCall("forward", torch.ones(2, 4)),), runner).seconds(model)[0] > 0
    assert set(seen) == {(False, torch.Size([2, 4]))}
    assert [m.training for m in model.modules()] == [True, False, True]


def test_grids_have_the_ends(tmp_path: Path) -> None:
    graph = graphprune.trace(nn.Sequential(nn.Linear(8, 200), nn.Linear(200, 8)).eval(), torch.randn(2, 8))
    model = model_of(graph, table(tmp_path))
    (dim,) = {d for kernel in model.kernels for d in kernel.dims}
    grid = model._grid(dim)
    assert grid[0] == latency.ALIGNMENT // 2 and grid[-1] == 200
    assert all(n % latency.ALIGNMENT == 0 for n in grid[1:-1])
    assert np.diff(grid).min() > 0
