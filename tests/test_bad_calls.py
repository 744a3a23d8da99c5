"""Wrong arguments of the public functions: an error of this library names what was found, and nothing is changed."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

import graphprune
from graphprune import Override, Plan, PruningOptions
from graphprune.errors import GraphpruneError, InputError

X = torch.randn(2, 3, 8, 8)
BATCHES = [(X, torch.zeros(2, dtype=torch.long))]
FULL: Any = {"epochs": 1, "lr": 0.1, "progress": False}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.a(x)).relu().mean((2, 3)))


class Stream(IterableDataset[Any]):
    """Has no length, and a loader of it has one that raises."""

    def __iter__(self) -> Iterator[Any]:
        return iter([(X[0], 0), (X[1], 1)])


class Unfinished(nn.Module):
    def __init__(self) -> None:
        self.width = 3


NET = Net().eval()
GRAPH = graphprune.trace(NET, X)
PLAN = GRAPH.plan(0.5)
SLIM = PLAN.apply(NET)
ANY: Any = 3
CLASS: Any = Net
NOTHING: Any = None

CALLS: dict[str, tuple[Callable[[], object], str]] = {
    "allocation": (lambda: GRAPH.plan(0.5, allocation=ANY), "allocation: 3 is not known; use one of 'uniform'"),
    "overrides": (lambda: GRAPH.plan(0.5, overrides=ANY), "overrides: must be a dict, but is 3"),
    "key": (lambda: GRAPH.plan(0.5, overrides={3: Override()}), "overrides: 3 is no key"),
    "key a tensor": (
        lambda: GRAPH.plan(0.5, overrides={NET.a.weight: Override()}),
        "overrides: a Parameter of shape (16, 3, 3, 3) is no key",
    ),
    "frozen": (lambda: Override(frozen="no"), "frozen: must be True or False, but is 'no'"),  # type: ignore[arg-type]
    "budgets": (lambda: GRAPH.plan(budgets=ANY), "budgets: must be a dict"),
    "budget kind": (lambda: GRAPH.plan(budgets={"flops": 0.5}), "budgets: 'flops' is no kind of budget"),
    "loss": (lambda: GRAPH.plan(0.5, loss_fn=ANY), "loss_fn: must be a function, but is 3"),
    "run_with": (lambda: GRAPH.plan(0.5, run_with=ANY), "run_with: must be a function"),
    "protect_ends": (lambda: GRAPH.plan(0.5, protect_ends="yes"), "protect_ends: must be True or False"),  # type: ignore[arg-type]
    "seed": (lambda: GRAPH.plan(0.5, seed=1.5), "seed: must be a whole number, but is 1.5"),  # type: ignore[arg-type]
    "criterion": (lambda: GRAPH.plan(0.5, importance=lambda: 0), "which it does not take"),  # type: ignore[arg-type,misc]
    "scores": (lambda: GRAPH.plan(0.5, importance=lambda g, c: NOTHING), "returned a NoneType for group 'a'"),
    "tensor for a ratio": (lambda: GRAPH.plan(X), "but is a Tensor of shape (2, 3, 8, 8)"),  # type: ignore[arg-type]
    "evaluate": (lambda: GRAPH.sensitivity(ANY), "evaluate: must be a function (model) -> loss"),
    "ratios": (lambda: GRAPH.sensitivity(lambda m: 0.0, ANY), "ratios: must be a tuple of fractions"),
    "no loss": (lambda: GRAPH.sensitivity(lambda m: NOTHING), "must return a loss, one number, but returned None"),
    "cost": (lambda: GRAPH.cost(ANY), "plan: must be a graphprune.Plan"),
    "outputs": (lambda: graphprune.trace(NET, X, outputs=ANY), "outputs: must be a function that picks"),
    "unfinished": (
        lambda: graphprune.trace(Unfinished.__new__(Unfinished), X),
        "call super().__init__() in ",
    ),
    "lazy": (
        lambda: graphprune.trace(nn.Sequential(nn.LazyLinear(3)), X),
        "LazyLinear whose weight has no",
    ),
    "inplace": (lambda: graphprune.prune_model(NET, 0.5, X, inplace="a"), "inplace: must be True or"),  # type: ignore[arg-type]
    "apply": (lambda: PLAN.apply(CLASS), "is the class Net; pass an instance: Net(...)"),
    "verify": (lambda: graphprune.verify(NET, SLIM, NOTHING, X), "plan: must be the graphprune.Plan that"),
    "repair": (lambda: graphprune.repair(CLASS, NET, PLAN, [X]), "slim: must be a torch.nn.Module"),
    "reconstruct": (lambda: graphprune.reconstruct(SLIM, NOTHING, PLAN, [X]), "dense: must be a torch.nn.Module"),
    "heads": (lambda: graphprune.compensate_heads(SLIM, NET, NOTHING, [X]), "plan: must be the graphprune.Plan"),
    "fold": (lambda: graphprune.fold(SLIM, CLASS, PLAN), "dense: must be a torch.nn.Module"),
    "statistics": (lambda: graphprune.reestimate_batch_norm(CLASS, [X]), "is the class Net"),
    "synthesize": (lambda: graphprune.synthesize(CLASS), "is the class Net"),
    "save": (lambda: graphprune.save(SLIM, ANY), "directory: must be a path"),
    "load": (lambda: graphprune.load(NOTHING, NET), "directory: must be a path"),
    "text": (lambda: Plan.from_json(NOTHING), "text: is a NoneType, not a string"),
    "objective": (lambda: graphprune.finetune(Net(), BATCHES, loss_fn=ANY, **FULL), "loss_fn: must be a function"),
    "checkpoint": (lambda: graphprune.finetune(Net(), BATCHES, checkpoint=ANY, **FULL), "checkpoint: must be a path"),
    "checkpoint a file": (
        lambda: graphprune.finetune(Net(), BATCHES, checkpoint=__file__, **FULL),
        "checkpoint: nothing can be written into",
    ),
    "rounds in a file": (
        lambda: graphprune.prune_iteratively(Net(), X, rounds=1, ratio=0.5, tune=lambda m: None, checkpoint=__file__),
        "checkpoint: nothing can be written into",
    ),
    "budget of sensitivity": (
        lambda: GRAPH.sensitivity(lambda m: 0.0, macs=0.5),
        "macs: is a budget, and sensitivity takes ratios= of each group alone",
    ),
    "group of sensitivity": (
        lambda: GRAPH.sensitivity(lambda m: 0.0, (0.5,)).rise("c", 0.5),
        "group: 'c' is not known; use one of 'a'",
    ),
    "another order": (
        lambda: graphprune.prune_model(NET, X, 0.5),  # type: ignore[arg-type]
        "ratio: is a Tensor of shape (2, 3, 8, 8); example inputs come third",
    ),
    "another order, by names": (
        lambda: graphprune.prune_model(NET, {"x": X}, 0.5),  # type: ignore[arg-type]
        "call prune_model(model, 0.5, example_inputs)",
    ),
    "optimizer": (lambda: graphprune.prune_in_place(Net(), PLAN, "sgd"), "found:  'sgd', a str"),  # type: ignore[arg-type]
    "norms": (
        lambda: graphprune.reestimate_batch_norm(NET, [X], leave=["norm"]),
        "pass leave=['norm.running_mean'], or another of these",
    ),
    "norms by a weight": (
        lambda: graphprune.reestimate_batch_norm(NET, [X], leave=["norm.weight"]),
        "leave: 'norm.weight' is not known; use one of 'norm.running_mean'",
    ),
    "untimed": (
        lambda: graphprune.plot_latency(graphprune.measure(NET, X, timed=False)),
        "not one on meta, and with timed=True",
    ),
    "picture by another plan": (
        lambda: graphprune.plot_weights(nn.Linear(3, 3), plan=PLAN),
        "plan: is of another model, as it knows no 'weight'",
    ),
    "nothing to train": (
        lambda: graphprune.finetune(nn.ReLU(), BATCHES, **FULL),
        "model: has no parameters, so that there is nothing to train",
    ),
    "empty batch": (
        lambda: graphprune.finetune(Net(), [(X[:0], BATCHES[0][1][:0])], **FULL),
        "batches: a batch holds no samples",
    ),
    "batch on meta": (
        lambda: graphprune.finetune(Net(), [(X, BATCHES[0][1].to("meta"))], **FULL),
        "batches: a batch is on meta and has no values",
    ),
    "masks of everything": (
        lambda: GRAPH.plan_from_masks({"a.weight": torch.zeros(16, 3, 3, 3)}),
        "masks: a cannot lose 1 unit: all of its units would go, and one has to stay",
    ),
    "below zero": (lambda: graphprune.measure(NET, X, warmup=-1), "do:     pass warmup=0 or more"),
    "NaN among the weights": (
        lambda: graphprune.prune_model(nn.Sequential(*with_nan()), 0.5, torch.randn(2, 4)),
        "do:     look for NaN and for values too large to be squared in the weights of '0'",
    ),
}


def with_nan() -> tuple[nn.Module, ...]:
    first, last = nn.Linear(4, 8), nn.Linear(8, 3)
    nn.init.constant_(first.bias, torch.nan)
    nn.init.constant_(first.weight, torch.nan)
    return first, nn.ReLU(), last


def test_another_criterion_is_advised_where_it_may_help() -> None:
    network = nn.Sequential(*with_nan())
    graph = graphprune.trace(network, torch.randn(2, 4))
    for importance, helps in (("l2", False), ("taylor", True)):
        with pytest.raises(GraphpruneError) as caught:
            graph.plan(0.5, importance=importance, calibration=[torch.randn(2, 4)])
        assert ("importance='l2'" in caught.value.do) is helps


@pytest.mark.parametrize("name", CALLS)
def test_the_message_says_what_was_found(name: str) -> None:
    call, expected = CALLS[name]
    before = {key: value.clone() for key, value in NET.state_dict().items()}
    with pytest.raises(GraphpruneError) as caught:
        call()
    assert expected in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in NET.state_dict().items())


@pytest.mark.parametrize("half", [0.5, np.float32(0.5), np.float64(0.5), Fraction(1, 2)])
def test_any_real_number_is_a_budget(half: Any) -> None:
    plan = GRAPH.plan(macs=half)
    assert plan.entries[1] < plan.entries[0]
    assert Plan.from_json(plan.to_json()).requested["macs"] == 0.5


def test_numbers_of_numpy_go_into_json() -> None:
    options = PruningOptions(0.5, seed=np.int64(3))  # type: ignore[arg-type]
    assert type(options.seed) is int


def test_quantized_layers_are_named() -> None:
    kind = type("Linear", (nn.Identity,), {"__module__": "torch.ao.nn.quantized.dynamic.modules.linear"})
    packed = nn.Sequential(kind(), nn.ReLU())
    with pytest.raises(GraphpruneError, match=r"its layers are quantized [\s\S]*prune the model, then quantize"):
        graphprune.prune_model(packed, 0.5, torch.randn(2, 8))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning", "ignore:.*deprecated")
def test_layers_that_are_quantized_among_others_are_named() -> None:
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4)
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(*layers), {nn.Linear})
    with pytest.raises(
        GraphpruneError, match=r"layers of Sequential are quantized[\s\S]*prune the model, then quantize"
    ):
        graphprune.prune_model(model, 0.5, torch.randn(1, 3, 8, 8))


class Prompted(nn.Module):
    """A prompt of no rows, as prompt tuning has it when it is turned off."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 3)
        self.prompt = nn.Parameter(torch.zeros(0, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.cat([self.prompt, self.a(x)]))


@pytest.mark.parametrize("importance", ["l1", "l2", "lamp", "fpgm", "wanda", "flap", "schur"])
def test_a_parameter_without_entries(importance: str) -> None:
    x = torch.randn(2, 4)
    slim = graphprune.prune_model(Prompted(), 0.5, x, importance=importance, calibration=[x], verify=True)
    assert slim.prompt.shape == (0, 8)
    assert slim(x).shape == (2, 3)


def test_a_path_may_be_of_any_kind(tmp_path: Path) -> None:
    for directory in (tmp_path / "a", str(tmp_path / "b")):
        graphprune.save(SLIM, directory)
        assert graphprune.load(directory, Net())(X).shape == (2, 4)


def test_a_wrong_budget_names_the_kinds() -> None:
    with pytest.raises(InputError, match="did you mean macs"):
        GRAPH.plan(budgets={"mac": 0.5})


# ---------------------------------------------------------------- wrong calls of all kinds

FAST: Any = {"epochs": 1, "lr": 0.1, "progress": False}
META: Any = copy.deepcopy(NET).to("meta")
SMALL: Any = torch.randn(2, 1, 8, 8)
"""Images of one channel, of which the network takes three."""
NAN = torch.full((2, 3, 8, 8), torch.nan)


class Silent(Net):
    """Its outputs are zero whatever the weights are."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 0


def fresh() -> Net:
    return PLAN.apply(NET)  # type: ignore[return-value]


def gradual(**options: Any) -> Any:
    return graphprune.GradualPruner(Net(), X, graphprune.Gradual(0, 4), ratio=0.5, **options)


def gradual_by(total: Any) -> Any:
    schedule: Any = SimpleNamespace(ratio_at=lambda step, final: total)
    return graphprune.GradualPruner(Net(), X, schedule, ratio=0.5)


WRONG: dict[str, Callable[[], object]] = {
    "one silent output": lambda: graphprune.prune_model(Silent(), 0.5, X, verify=True),
    "a module list": lambda: graphprune.prune_model(nn.ModuleList([nn.Linear(3, 4)]), 0.5, torch.randn(1, 3)),
    "an empty network": lambda: graphprune.prune_model(nn.Sequential(), 0.5, X),
    "outputs that fail": lambda: graphprune.trace(NET, X, outputs=lambda out: out.logits),
    "outputs without tensors": lambda: graphprune.trace(NET, X, outputs=lambda out: None),
    "inputs on meta": lambda: graphprune.prune_model(NET, 0.5, X.to("meta"), verify=True),
    "a list of ratios": lambda: GRAPH.plan([0.5]),  # type: ignore[arg-type]
    "a complex ratio": lambda: GRAPH.plan(1j),  # type: ignore[arg-type]
    "arguments in another order": lambda: graphprune.prune_model(NET, X, 0.5),  # type: ignore[arg-type]
    "a multiple below zero": lambda: GRAPH.plan(0.5, multiple=-8),
    "a loss of NaN": lambda: GRAPH.sensitivity(lambda model: float("nan"), (0.5,)),
    "a group by number": lambda: GRAPH.group(ANY),
    "no dict of numbers": lambda: GRAPH.plan_from_kept(ANY),
    "letters as numbers": lambda: GRAPH.plan_from_kept({"a": "abc"}),
    "numbers below zero": lambda: GRAPH.plan_from_kept({"a": [-1]}),
    "no dict of masks": lambda: GRAPH.plan_from_masks(ANY),
    "a list as a mask": lambda: GRAPH.plan_from_masks({"a.weight": ANY}),
    "a shape of nothing": lambda: PLAN.shape("c.weight"),
    "names by a number": lambda: PLAN.apply_to_state_dict(NET.state_dict(), rename=ANY),
    "entries by number": lambda: PLAN.apply_to_state_dict({3: X}),  # type: ignore[dict-item]
    "shapes of a class": lambda: PLAN.shapes_only(CLASS),
    "check of a class": lambda: PLAN.check(CLASS),
    "a tolerance in words": lambda: graphprune.verify(NET, SLIM, PLAN, X, tolerance=NOTHING),
    "a tolerance below zero": lambda: graphprune.verify(NET, SLIM, PLAN, X, tolerance=-1),
    "a slim model that fails": lambda: graphprune.verify(NET, nn.Linear(3, 3), PLAN, X),
    "a ridge in words": lambda: graphprune.repair(fresh(), NET, PLAN, [X], ridge="a"),  # type: ignore[arg-type]
    "a ridge of NaN": lambda: graphprune.repair(fresh(), NET, PLAN, [X], ridge=float("nan")),
    "NaN among the data": lambda: graphprune.repair(fresh(), NET, PLAN, [NAN]),
    "a flag in words": lambda: graphprune.repair(fresh(), NET, PLAN, [X], reestimate="no"),  # type: ignore[arg-type]
    "no targets": lambda: graphprune.reconstruct(fresh(), NET, PLAN, [X], targets=ANY),
    "targets of nothing": lambda: graphprune.reconstruct(fresh(), NET, PLAN, [X], targets={"c": X}),
    "no samples": lambda: graphprune.synthesize(NET, X, 0),
    "a seed in words": lambda: graphprune.synthesize(NET, X, 2, seed="a"),  # type: ignore[arg-type]
    "no model in place": lambda: graphprune.prune_in_place(NOTHING, PLAN),
    "no plan in place": lambda: graphprune.prune_in_place(Net(), NOTHING),
    "the optimizer of another": lambda: graphprune.prune_in_place(
        Net(), PLAN, torch.optim.SGD(Net().parameters(), lr=0.1)
    ),
    "averages alone": lambda: graphprune.prune_in_place(Net(), PLAN, averages=NET),  # type: ignore[arg-type]
    "a method by number": lambda: graphprune.MethodCall(ANY, X),
    "couplings below a file": lambda: GRAPH.export(f"{__file__}/couplings.dot"),
    "training with wrong images": lambda: graphprune.finetune(Net(), [(SMALL, BATCHES[0][1])], **FAST),
    "classes out of range": lambda: graphprune.finetune(Net(), [(X, BATCHES[0][1] + 9)], **FAST),
    "decay in words": lambda: graphprune.finetune(Net(), BATCHES, weight_decay="a", **FAST),
    "clip below zero": lambda: graphprune.finetune(Net(), BATCHES, clip=-1, **FAST),
    "no function of steps": lambda: graphprune.finetune(Net(), BATCHES, on_step=ANY, **FAST),
    "no rate": lambda: graphprune.finetune(Net(), BATCHES, schedule=lambda done: NOTHING, **FAST),
    "a teacher for other inputs": lambda: graphprune.finetune(Net(), BATCHES, teacher=nn.Linear(3, 3), **FAST),
    "training on meta": lambda: graphprune.finetune(copy.deepcopy(META), BATCHES, **FAST),
    "features by number": lambda: graphprune.Distillation(features=ANY),
    "rates of nothing": lambda: graphprune.Rewind(NOTHING),
    "a schedule's class": lambda: graphprune.GradualPruner(Net(), X, graphprune.Gradual, ratio=0.5),  # type: ignore[arg-type]
    "averages by number": lambda: gradual(averages=3),
    "steps in words": lambda: gradual().at("a"),
    "a misspelled argument of training": lambda: graphprune.prune_iteratively(
        Net(), X, rounds=1, ratio=0.5, tune={"batches": BATCHES, "epocs": 1}
    ),
    "a drop in words": lambda: graphprune.prune_iteratively(
        Net(),
        X,
        rounds=1,
        ratio=0.5,
        tune=print,
        evaluate=lambda m: 0.5,
        max_drop="a",  # type: ignore[arg-type]
    ),
    "a penalty without a plan": lambda: graphprune.GrowingRegularization(Net(), ANY),
    "a penalty without a graph": lambda: graphprune.GroupLasso(ANY, 1e-4),
    "a state by number": lambda: graphprune.save_checkpoint("new", Net(), ANY),
    "a checkpoint of nothing": lambda: graphprune.save_checkpoint("new", ANY),
    "saving below a file": lambda: graphprune.save(SLIM, f"{__file__}/new"),
    "arguments as a list": lambda: graphprune.save(SLIM, "new", factory=Net, arguments=[1]),  # type: ignore[arg-type]
    "ONNX of wrong images": lambda: graphprune.export_onnx(SLIM, "new.onnx", SMALL),
    "ONNX of outputs by number": lambda: graphprune.export_onnx(SLIM, "new.onnx", X, outputs=ANY),
    "ONNX without weights": lambda: graphprune.export_onnx(META, "new.onnx", X),
    "a loader by number": lambda: graphprune.export_loader(SLIM, "new", factory=ANY),
    "a criterion that is none": lambda: graphprune.criterion("nothing of that name")(ANY),
    "waiting in words": lambda: graphprune.across_processes([X], timeout="a"),  # type: ignore[arg-type]
    "a mask of several names": lambda: PLAN.mask(["a.weight"]),  # type: ignore[arg-type]
    "the shape of nothing": lambda: PLAN.shape({}),  # type: ignore[arg-type]
    "a group by a list": lambda: GRAPH.group(["a"]),  # type: ignore[arg-type]
    "a group by a tensor": lambda: GRAPH.group(X),  # type: ignore[arg-type]
    "lists of several lengths": lambda: GRAPH.plan_from_kept({"a": [[1], [1, 2]]}),  # type: ignore[list-item]
    "numbers on meta": lambda: GRAPH.plan_from_kept({"a": torch.ones(3, device="meta")}),
    "couplings without a name": lambda: GRAPH.export(""),
    "a folder with a zero": lambda: graphprune.save(SLIM, "a\0b"),
    "ratios by a tensor of none": lambda: GRAPH.sensitivity(lambda m: 0.0, torch.tensor(0.5)),  # type: ignore[arg-type]
    "ratios that are used up": lambda: GRAPH.sensitivity(lambda m: 0.0, iter(())),  # type: ignore[arg-type]
    "an array as a criterion": lambda: GRAPH.plan(0.5, importance=np.ones(3)),  # type: ignore[arg-type]
    "a network as a criterion": lambda: GRAPH.plan(0.5, importance=NET),
    "a loss of one argument": lambda: GRAPH.plan(
        0.5,
        importance="taylor",
        calibration=BATCHES,
        loss_fn=lambda out: out.sum(),  # type: ignore[misc]
    ),
    "an evaluation of nothing": lambda: GRAPH.sensitivity(lambda: 0.0),  # type: ignore[misc]
    "a name of nothing": lambda: PLAN.apply_to_state_dict(NET.state_dict(), rename=lambda: "a"),  # type: ignore[misc]
    "outputs of two": lambda: graphprune.trace(NET, X, outputs=lambda a, b: a),  # type: ignore[misc]
    "a slim model as the dense one": lambda: graphprune.verify(SLIM, SLIM, PLAN, X),
    "targets by a tensor": lambda: graphprune.reconstruct(fresh(), NET, PLAN, [X], targets=X),  # type: ignore[arg-type]
    "norms by a module's name": lambda: graphprune.reestimate_batch_norm(fresh(), [X], leave=["norm"]),
    "norms by nothing": lambda: graphprune.reestimate_batch_norm(fresh(), [X], leave=NOTHING),
    "half a step": lambda: graphprune.synthesize(NET, X, 2, steps=0.5),  # type: ignore[arg-type]
    "synthetic inputs like none": lambda: graphprune.synthesize(NET, X[:0], 2),
    "synthetic inputs like meta": lambda: graphprune.synthesize(NET, X.to("meta"), 2),
    "masks by a tensor": lambda: graphprune.compact(NET, X, masks=X),  # type: ignore[arg-type]
    "layers by a tensor": lambda: graphprune.sparsify(Net(), 0.5, layers=torch.tensor(1)),  # type: ignore[arg-type]
    "a checkpoint nowhere": lambda: graphprune.save_checkpoint(NOTHING, Net()),
    "averages of nothing": lambda: graphprune.save_checkpoint("new", Net(), averages=NOTHING),
    "averages that are none": lambda: graphprune.load_checkpoint("new", Net(), averages=["a"]),  # type: ignore[list-item]
    "a state on meta": lambda: graphprune.save_checkpoint("new", Net(), {"a": X.to("meta")}),
    "a state by a tensor": lambda: graphprune.save_checkpoint("new", Net(), X),  # type: ignore[arg-type]
    "a loss without a target": lambda: graphprune.finetune(
        Net(), [X], loss_fn=torch.nn.functional.cross_entropy, **FAST
    ),
    "an optimizer of nothing": lambda: graphprune.finetune(Net(), BATCHES, optimizer=lambda: 0, **FAST),  # type: ignore[misc]
    "a step of nothing": lambda: graphprune.finetune(Net(), BATCHES, on_step=lambda: None, **FAST),  # type: ignore[misc]
    "a curve of nothing": lambda: graphprune.finetune(Net(), BATCHES, schedule=lambda: 1.0, **FAST),  # type: ignore[misc]
    "a quality of nothing": lambda: graphprune.finetune(Net(), BATCHES, evaluate=lambda: 1.0, **FAST),  # type: ignore[misc]
    "tuning of nothing": lambda: graphprune.prune_iteratively(Net(), X, rounds=1, ratio=0.5, tune=lambda: None),  # type: ignore[misc]
    "a schedule that says nothing": lambda: gradual_by(NOTHING).step(),
    "a schedule without end": lambda: gradual_by(float("inf")).step(),
    "a step in words": lambda: graphprune.Iterative(2).ratio_at("a", 0.5),  # type: ignore[arg-type]
    "groups by number": lambda: graphprune.GroupLasso(GRAPH, 0.1, groups=3),  # type: ignore[arg-type]
    "a graph in a pickle": lambda: pickle.dumps(GRAPH),
    "names by numbers": lambda: PLAN.apply_to_state_dict(NET.state_dict(), rename=lambda name: [name]),  # type: ignore[arg-type,return-value]
    "measurements by a tensor": lambda: graphprune.Comparison(X),  # type: ignore[arg-type]
    "a picture of a number": lambda: graphprune.plot_weights(NET, 3),  # type: ignore[arg-type]
    "series by number": lambda: graphprune.plot_accuracy(graphprune.measure(NET, X, timed=False), ANY),
    "options by number": lambda: GRAPH.plan_of(ANY),
    "a loss's class": lambda: GRAPH.plan(
        0.5,
        importance="taylor",
        calibration=BATCHES,
        loss_fn=nn.CrossEntropyLoss,  # type: ignore[arg-type]
    ),
    "a loss's class in training": lambda: graphprune.finetune(
        Net(),
        BATCHES,
        loss_fn=nn.CrossEntropyLoss,
        **FAST,  # type: ignore[arg-type]
    ),
    "a stream by epochs": lambda: graphprune.finetune(Net(), DataLoader(Stream(), 2), epochs=1, lr=0.1),
    "classes in no dimension": lambda: graphprune.finetune(
        Net(), BATCHES, teacher=copy.deepcopy(NET), distill=graphprune.Distillation(dim=9), **FAST
    ),
    "rates below zero": lambda: graphprune.Rewind([0.1, -0.1]),
    "rates that are no numbers": lambda: graphprune.Rewind([float("nan")]),
    "a curve below zero": lambda: graphprune.finetune(Net(), BATCHES, schedule=lambda done: -1.0, **FAST),
    "a quality in words": lambda: graphprune.finetune(Net(), BATCHES, evaluate=lambda m: "0.5", **FAST),  # type: ignore[arg-type,return-value]
    "a quality of NaN": lambda: graphprune.prune_iteratively(
        Net(), X, rounds=1, ratio=0.5, tune=print, evaluate=lambda m: float("nan"), max_drop=0.1
    ),
    "tuning of a copy": lambda: graphprune.prune_iteratively(Net(), X, rounds=1, ratio=0.5, tune=copy.deepcopy),
    "shapes of another model": lambda: PLAN.shapes_only(nn.Linear(3, 3)),
    "an optimizer of another model": lambda: graphprune.save_checkpoint(
        "new", SLIM, optimizer=torch.optim.SGD(NET.parameters(), 0.1)
    ),
    "a loader that cannot be imported": lambda: graphprune.export_loader(SLIM, "new", factory=Net, name="class"),
    "a long name": lambda: graphprune.save(SLIM, "a" * 300),
    "a long name to read": lambda: graphprune.load("a" * 300),
    "a long name of a file": lambda: graphprune.save_sparse(SLIM, "a" * 260),
    "a comparison of nothing": lambda: graphprune.measure({"dense": NET}, X, timed=False)["slim"],  # type: ignore[index]
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.filterwarnings("ignore")
def test_a_wrong_call_is_explained(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = {key: value.clone() for key, value in (*NET.state_dict().items(), *SLIM.state_dict().items())}
    with pytest.raises(GraphpruneError) as caught:
        WRONG[name]()
    error = caught.value
    assert error.what and error.where and error.found and error.needed and error.do
    after = dict((*NET.state_dict().items(), *SLIM.state_dict().items()))
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert list(tmp_path.iterdir()) == [] and not NET.training


def test_couplings_do_not_take_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "couplings.json").mkdir()
    with pytest.raises(GraphpruneError, match=r"couplings\.json is a folder"):
        GRAPH.export(tmp_path / "couplings.json")


def test_a_stream_is_trained_on_by_steps() -> None:
    history = graphprune.finetune(Net(), DataLoader(Stream(), 2), steps=2, lr=0.1, progress=False)
    assert len(history.loss) == 2


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_of_a_graph(copied: Callable[[Any], Any]) -> None:
    assert copied(GRAPH).plan(0.5).to_json() == GRAPH.plan(0.5).to_json()


def test_what_functions_of_the_user_raise_is_passed_on() -> None:
    def fails(*_: Any) -> Any:
        raise ZeroDivisionError("on purpose")

    for call in (
        lambda: GRAPH.plan(0.5, importance=fails),
        lambda: GRAPH.plan(0.5, importance="taylor", calibration=BATCHES, loss_fn=fails),
        lambda: GRAPH.sensitivity(fails, (0.5,)),
        lambda: graphprune.finetune(Net(), BATCHES, loss_fn=fails, **FAST),
    ):
        with pytest.raises(ZeroDivisionError, match="on purpose"):
            call()
