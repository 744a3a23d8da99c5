"""Plans: masks, JSON, application, and what the slim module keeps of the original."""

import contextlib
import copy
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import graphprune
from graphprune.errors import LoadError, PlanError, UnreachedWarning
from graphprune.pruning.plan import Plan, plans_of
from graphprune.pruning.runs import Runs
from models import gpt, resnet_cifar
from tests.damage import damaged

IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return resnet_cifar.resnet20().eval()


def plan_of(model: nn.Module, ratio: float = 0.5) -> Plan:
    return graphprune.trace(model, IMAGE).plan(ratio)


def test_masks_have_the_original_shape_and_select_the_slim_entries(model: nn.Module) -> None:
    plan = plan_of(model)
    slim = plan.apply(model).state_dict()
    for name, tensor in model.state_dict().items():
        mask = plan.mask(name)
        assert mask.shape == tensor.shape
        assert torch.equal(tensor[mask].reshape(slim[name].shape), slim[name])
    assert sum(not plan.mask(n).all() for n in plan.shapes) > 50


def test_json_round_trip(model: nn.Module) -> None:
    plan = plan_of(model)
    again = Plan.from_json(plan.to_json())
    assert again.choices == plan.choices
    assert again.sizes == plan.sizes
    assert again.shapes == plan.shapes
    assert again.to_json() == plan.to_json()
    assert torch.equal(again.apply(model)(IMAGE), plan.apply(model)(IMAGE))


@pytest.mark.parametrize("text", ["", "[]", '{"format": 99}', "[" * 100_000, "1" * 5000])
def test_json_that_is_no_plan(text: str) -> None:
    with pytest.raises(LoadError, match="text: "):
        Plan.from_json(text)


def small_plan(**changed: Any) -> str:
    """The JSON of a plan that removes half of eight channels."""
    choice = {"group": "0", "units": 8, "removed": "4-7", "role": "mlp", "macs": 0.5, "params": 0.5, "why": "ratio 0.5"}
    data = {
        "format": 3,
        "requested": {"ratio": 0.5},
        "choices": [choice],
        "sizes": {"0.out_features": 4},
        "skipped": [],
        "shapes": {"0.weight": [8, 4], "0.bias": [8]},
        "kept": {"0.weight": {"0": "0-3"}, "0.bias": {"0": "2-3 0-1"}},
        "unread": {"width": 4},
        "stale": ["depth"],
        "costs": {"params": [72, 36]},
        "inputs": [{"method": "forward", "args": [{"dtype": "float32", "shape": [1, 4]}], "kwargs": {}}],
        "zeroed": {},
    }
    return json.dumps(data | changed)


def nested(levels: int) -> Any:
    return [nested(levels - 1)] if levels else 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": "3"}, "plan format '3'; this version reads format 3"),
        (
            {"kept": {"0.weight": {"0": "0-999999999"}}},
            "dimension 0 of '0.weight': found index 999999999, needed are",
        ),
        ({"kept": {"0.weight": {"0": "3-0"}}}, "the run '3-0' ends before it begins"),
        ({"kept": {"0.weight": {"0": "0-3 3"}}}, "found index 3 twice, needed is each index at most once"),
        ({"kept": {"0.weight": {"0": ""}}}, "nothing is left of dimension 0 of '0.weight'"),
        ({"kept": {"0.weight": {"0": "-1"}}}, "found '-1', needed is an index such as '40' or a run such as '0-31'"),
        ({"kept": {"0.weight": {"0": [0, 1]}}}, "found a list, needed are runs of indices such as '0-31 40'"),
        ({"kept": {"0.weight": {"2": "0"}}}, "'0.weight' has the shape [8, 4], so there is no dimension 2"),
        ({"kept": {"0.weight": {"-1": "0"}}}, "so there is no dimension -1"),
        ({"kept": {"0.weight": {"first": "0"}}}, "Expected `int`, got `str`"),
        ({"kept": {"1.weight": {"0": "0"}}}, "'1.weight' is not among the 2 names in shapes"),
        ({"shapes": {"0.weight": [8, -4]}}, "Expected `int` >= 0"),
        ({"shapes": {"0.weight": [1 << 40, 1 << 40]}}, "needed are at most 281474976710656 entries"),
        (
            {"shapes": {"x": [1 << 40]}, "kept": {"x": {"0": "0-999999999"}}},
            "kept: there are 1000000000 indices in all, needed are at most 67108864",
        ),
        ({"sizes": {"0..out": 4}}, "'0..out' is no path of a module or attribute"),
        ({"sizes": {"__class__.x": 4}}, "'__class__.x' is no path"),
        ({"unread": {"__class__.x": 4}}, "'__class__.x' is no path"),
        ({"sizes": ["0.out_features"]}, "Expected `object`, got `array` - at `$.sizes`"),
        ({"sizes": {"0.out_features": 4.5}}, "Expected `int`, got `float`"),
        ({"sizes": {"0.out_features": -4}}, "Expected `int` >= 0"),
        ({"skipped": ["1", "1"]}, "skipped: '1' is there twice"),
        ({"skipped": [""]}, "'' is no path"),
        ({"skipped": ["1"], "zeroed": {"2": 0}}, "zeroed: '2' is not among the 1 modules in skipped"),
        ({"skipped": ["1"], "zeroed": {"1": 1 << 40}}, "Expected `int` <= 64"),
        ({"skipped": ["1"], "results": {"2": 2}}, "results: '2' is not among the whole blocks in skipped"),
        ({"skipped": ["1"], "results": {"1": 1 << 40}}, "Expected `int` <= 64"),
        ({"choices": [{"group": "0", "units": 8, "removed": "4-7"}]}, "Object missing required field `role`"),
        ({"requested": {"ratio": float("nan")}}, "requested: found the number nan, needed is a finite one"),
        ({"requested": {"ratio": nested(99)}}, "requested: is nested deeper than 16 levels"),
        ({"inputs": [{"args": nested(99)}]}, "inputs: is nested deeper than 16 levels"),
        ({"costs": {"macs": [1]}}, "Expected `array` of length 2"),
        ({"more": 1}, "Object contains unknown field `more`"),
    ],
)
def test_json_that_contradicts_itself(changed: dict[str, Any], message: str) -> None:
    assert Plan.from_json(small_plan()).to_json() == json.dumps(json.loads(small_plan()), indent=1)
    with pytest.raises(LoadError, match=rf"text: .*{re.escape(message)}"):
        Plan.from_json(small_plan(**changed))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"training": 0}, "'training' is a bool"),
        ({"0._version": 7}, "'0._version' is no attribute or entry of the model's own"),
        ({"0._modules": 7}, "'0._modules' is a dict"),
        ({"0.forward.size": 7}, "has no '0.forward.size'"),
        ({"0.out_features": 1 << 40}, "'0.out_features' is 8, and the plan makes 1099511627776 of it"),
    ],
)
@pytest.mark.parametrize("table", ["sizes", "unread"])
def test_what_is_no_size_of_the_model_is_not_set(sizes: dict[str, int], message: str, table: str) -> None:
    model = (
        nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 8)) if "_version" in message else nn.Sequential(nn.Linear(8, 8))
    )
    shapes = {name: tuple(t.shape) for name, t in (*model.named_parameters(), *model.named_buffers())}
    plan = Plan({}, shapes, **{"sizes": {}, table: sizes}, choices=(), requested={})
    if table == "sizes" or "no attribute" in message or "makes" in message:
        with pytest.raises(PlanError, match=re.escape(message)):
            plan.apply(model)
    else:  # what a model lacks of these it need not have
        assert plan.apply(model).training


def expanded(runs: str) -> list[int]:
    bounds = [[int(b) for b in run.split("-")] for run in runs.split()]
    return [i for b in bounds for i in range(b[0], b[-1] + 1)]


def test_damaged_json() -> None:
    """Whatever happens to a plan's JSON, it is refused, or the plan is what it says, and applies or does not fit."""
    model = gpt.gpt(tied=True).eval()
    text = graphprune.trace(model, torch.arange(12)[None]).plan(0.5, depth=0.5).to_json()
    refused = 0
    for seed in range(200):
        damage = damaged(text, seed)
        try:
            plan = Plan.from_json(damage)
        except LoadError:
            refused += 1
            continue
        data = json.loads(damage)
        found = {n: {str(d): i.tolist() for d, i in dims.items()} for n, dims in plan.kept.items()}
        assert found == {n: {d: expanded(runs) for d, runs in dims.items()} for n, dims in data["kept"].items()}
        assert [list(c.removed) for c in plan.choices] == [expanded(c["removed"]) for c in data["choices"]]
        assert (plan.requested, plan.sizes, list(plan.skipped)) == (data["requested"], data["sizes"], data["skipped"])
        assert Plan.from_json(plan.to_json()).to_json() == plan.to_json()
        with contextlib.suppress(PlanError):
            plan.apply(model)
    assert 100 < refused < 200


def test_plans_that_say_the_same_are_equal(model: nn.Module) -> None:
    graph = graphprune.trace(model, IMAGE)
    plan = graph.plan(0.5)
    reordered = replace(plan, shapes=dict(reversed(plan.shapes.items())))
    for same in (graph.plan(0.5), Plan.from_json(plan.to_json()), copy.deepcopy(plan), reordered):
        assert same is not plan and same == plan and hash(same) == hash(plan)
    assert len({plan, graph.plan(0.5), graph.plan(0.25)}) == 2
    changed: list[dict[str, Any]] = [
        {"sizes": {"width": 3}},
        {"kept": {name: dims for name, dims in plan.kept.items() if name != "fc.weight"}},
        {"costs": {}},
        {"stale": ("width",)},
        {"requested": {}},
    ]
    for change in changed:
        assert replace(plan, **change) != plan
    assert plan != plan.to_json() and plan in [plan.to_json(), plan]


def test_numbers_of_other_libraries_become_numbers(model: nn.Module) -> None:
    requested = {"ratio": np.float32(0.5), "macs": Fraction(1, 2), "seed": np.int64(3), "params": np.float64(0.25)}
    text = replace(plan_of(model), requested=requested).to_json()
    assert Plan.from_json(text).requested == {"ratio": 0.5, "macs": 0.5, "seed": 3, "params": 0.25}


def test_a_plan_is_data_and_needs_only_the_rooms_below() -> None:
    """Without the package's own imports, what ``graphprune.pruning.plan`` loads is neither graph nor calibration."""
    code = """
import sys, types
package = types.ModuleType("graphprune")
package.__path__ = [sys.argv[1]]
sys.modules["graphprune"] = package
import graphprune.pruning.plan, graphprune.pruning.plan_json
print(*{name.split(".")[1] for name in sys.modules if name.startswith("graphprune.")})
"""
    folder = str(Path(graphprune.__file__).parent)
    found = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    assert set(found.stdout.split()) == {"errors", "pruning", "tracing", "utils"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sizes": {"0.nothing": 4}}, "has no '0.nothing' for the plan to change"),
        ({"sizes": {"0.weight": 4}}, "'0.weight' is a Parameter, and the plan changes an integer"),
        ({"sizes": {"0.out_features[1]": 4}}, r"has no '0.out_features\[1\]' for the plan to change"),
        ({"skipped": ["7"]}, "has no '7' for the plan to leave out"),
        ({"shapes": {"0.weight": [8, 5], "0.bias": [8]}}, r"has shape \[8, 4\], the plan was made for \[8, 5\]"),
    ],
)
def test_a_plan_for_something_else_changes_nothing(changed: dict[str, Any], message: str) -> None:
    model = nn.Sequential(nn.Linear(4, 8))
    with pytest.raises(PlanError, match=message):
        Plan.from_json(small_plan(**changed)).apply(model, inplace=True)
    assert model[0].weight.shape == (8, 4) and model[0].out_features == 8 and not plans_of(model)


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm.*is deprecated")
@pytest.mark.parametrize(
    ("change", "cut", "origin"),
    [
        (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), "0.weight", "0.weight_orig"),
        (lambda layer: prune.l1_unstructured(layer, "bias", 0.5), "0.bias", "0.bias_orig"),
        (nn.utils.weight_norm, "0.weight", "0.weight_g"),
        (nn.utils.spectral_norm, "0.weight", "0.weight_orig"),
    ],
)
def test_a_weight_that_was_planned_as_a_parameter_must_not_be_worked_out_from_another(
    change: Callable[[nn.Module], object], cut: str, origin: str
) -> None:
    model, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4), nn.Linear(4, 2)).eval(), torch.randn(2, 8)
    plan = graphprune.trace(model, x).plan(0.5, overrides={"2": graphprune.Override(frozen=True)})
    for layer in (model[3], model[0]):
        change(layer)  # the last one loses nothing, so that it may
    with pytest.raises(PlanError, match=f"the plan names '{cut}', which this Sequential works out from '{origin}'"):
        plan.apply(model)
    slim = graphprune.trace(model, x).plan(0.5, overrides={"2": graphprune.Override(frozen=True)}).apply(model)
    assert slim[0].weight.shape == (8, 8) and slim(x).shape == (2, 2)


def test_a_layer_that_a_plan_leaves_whole_may_have_got_a_mask() -> None:
    model, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4), nn.Linear(4, 2)).eval(), torch.randn(2, 8)
    plan = graphprune.trace(model, x).plan(0.5, overrides={"2": graphprune.Override(frozen=True)})
    prune.l1_unstructured(model[3], "weight", 0.5)
    assert plan.apply(model)(x).shape == (2, 2)


def test_runs() -> None:
    index = np.array([3, 4, 5, 1, 9, 7])
    assert str(Runs.of(index)) == "3-5 1 9 7"
    assert np.array_equal(Runs.parse("3-5 1 9 7").indices(), index)
    assert len(Runs.parse("").indices()) == 0 and str(Runs.of(index[:0])) == ""


def test_the_same_seed_gives_the_same_plan(model: nn.Module) -> None:
    graph = graphprune.trace(model, IMAGE)
    plans = [graph.plan(0.5, importance="random", seed=s).to_json() for s in (0, 0, 1)]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]


def test_ratio_zero_changes_nothing(model: nn.Module) -> None:
    slim = plan_of(model, 0.0).apply(model)
    assert torch.equal(slim(IMAGE), model(IMAGE))
    assert slim is not model


def test_the_original_is_untouched_and_independent(model: nn.Module) -> None:
    before = copy.deepcopy(model.state_dict())
    slim = plan_of(model).apply(model)
    assert type(slim) is type(model)
    assert slim.state_dict().keys() == model.state_dict().keys()
    slim.register_forward_hook(lambda *_: None)
    for parameter in slim.parameters():
        parameter.data.zero_()
    assert not model._forward_hooks
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_in_place() -> None:
    model = resnet_cifar.resnet20().eval()
    plan = plan_of(model)
    expected = plan.apply(model)(IMAGE)
    assert plan.apply(model, inplace=True) is model
    assert torch.equal(model(IMAGE), expected)


def test_types_and_flags_are_kept() -> None:
    model = resnet_cifar.resnet20().to(torch.bfloat16)
    model.conv1.weight.requires_grad_(False) if hasattr(model, "conv1") else None
    slim = graphprune.prune_model(model, 0.5, IMAGE.to(torch.bfloat16))
    for (name, old), (_, new) in zip(model.named_parameters(), slim.named_parameters(), strict=True):
        assert (new.dtype, new.requires_grad, new.device) == (old.dtype, old.requires_grad, old.device), name


def test_pruning_twice() -> None:
    model = resnet_cifar.resnet20().eval()
    once = graphprune.prune_model(model, 0.5, IMAGE)
    twice = graphprune.prune_model(once, 0.5, IMAGE)
    counts = [sum(p.numel() for p in m.parameters()) for m in (model, once, twice)]
    assert counts[0] > 3 * counts[1] > 9 * counts[2]
    assert len(plans_of(copy.deepcopy(twice))) == 2


_WITHOUT_GRAPHPRUNE = """
import sys, torch
sys.modules["graphprune"] = None
model = torch.load(sys.argv[1], weights_only=False)
assert "graphprune" not in {type(m).__module__.partition(".")[0] for m in model.modules()}
torch.save(model(torch.load(sys.argv[2])), sys.argv[3])
"""


@pytest.mark.parametrize("asked", [{"ratio": 0.5}, {"ratio": 0.3, "depth": 0.4}])
def test_a_pickle_opens_without_graphprune(tmp_path: Path, asked: dict[str, Any]) -> None:
    once = graphprune.prune_model(resnet_cifar.resnet20().eval(), 0.25, IMAGE)
    slim = graphprune.prune_model(once, example_inputs=IMAGE, **asked)
    model_file, inputs, outputs = (tmp_path / name for name in ("slim.pt", "in.pt", "out.pt"))
    torch.save(slim, model_file)
    torch.save(IMAGE, inputs)
    code = [sys.executable, "-c", _WITHOUT_GRAPHPRUNE, *map(str, (model_file, inputs, outputs))]
    subprocess.run(code, check=True, cwd=Path(__file__).parents[2])
    assert torch.equal(torch.load(outputs), slim(IMAGE))
    again = torch.load(model_file, weights_only=False)
    assert [plan.to_json() for plan in plans_of(again)] == [plan.to_json() for plan in plans_of(slim)]
    assert plans_of(again)[0] is plans_of(copy.deepcopy(again))[0]


def test_damaged_plans_in_a_pickle() -> None:
    model = nn.Linear(2, 2)
    for text, message in (
        ("[]", "Expected `object`"),
        ('{"plans": [{}], "config": null, "kinds": {}}', "format None"),
        ("[", "not"),
    ):
        object.__setattr__(model, "_graphprune_plans", text)
        with pytest.raises(LoadError, match=f"model: the plans of this Linear: .*{message}"):
            plans_of(model)


def test_the_slim_model_trains() -> None:
    slim = graphprune.prune_model(resnet_cifar.resnet20(), 0.5, IMAGE).train()
    optimizer = torch.optim.SGD(slim.parameters(), 0.1)
    losses = []
    images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 10
    for _ in range(5):
        loss = nn.functional.cross_entropy(slim(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_tied_weights_stay_tied() -> None:
    model = gpt.gpt(tied=True).eval()
    slim = graphprune.prune_model(model, 0.5, torch.arange(12)[None])
    shared = [n for n, p in slim.named_parameters(remove_duplicate=False) if p.shape == (256, 32)]
    assert len(shared) == 2
    assert len({id(p) for p in slim.parameters()}) == len(list(slim.named_parameters(remove_duplicate=False))) - 1


class WithAuxiliaryHead(nn.Module):
    """Only training runs ``extra``."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 4)
        self.extra = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features = self.body(x).relu().mean((2, 3))
        return (self.head(features), self.extra(features)) if self.training else self.head(features)


def test_what_only_training_runs_is_pruned_too() -> None:
    slim = graphprune.prune_model(WithAuxiliaryHead(), 0.5, IMAGE)
    assert slim.extra.weight.shape == (4, 4)
    main, extra = slim.train()(IMAGE)
    assert main.shape == extra.shape == (1, 4)


def test_a_plan_and_a_graph_are_shown_in_a_line() -> None:
    model, inputs = resnet_cifar.resnet20(), IMAGE
    graph = graphprune.trace(model, inputs)
    plan = graph.plan(0.5)
    assert repr(graph) == f"<ChannelGraph of ResNet: {len(graph.groups)} groups (9 mlp, 3 width)>"
    for shown in (repr(plan), repr(plan.choices[0])):
        assert len(shown) < 200
        assert "\n" not in shown


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda data: data["choices"][0].update(removed="0-3"),
            "group '0' is said to keep 28 of 32 units, and kept names 16 entries of dim",
        ),
        (
            lambda data: data["kept"]["0.bias"].update({"0": "0-3"}),
            "group '0' is said to keep 16 of 32 units, and kept names 4 entries of",
        ),
        (
            lambda data: data["kept"].pop("0.weight"),
            "group '0' is said to keep 16 of 32 units, and kept names 32 entries of dimension 0 of '0",
        ),
        (
            lambda data: data["choices"].clear(),
            "there is none that removes units, and kept lacks 16 of 32 entries of dimension 0 of '0",
        ),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(change: Callable[[Any], object], said: str) -> None:
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    data = json.loads(graphprune.trace(model, torch.randn(4, 8)).plan(0.5).to_json())
    change(data)
    with pytest.raises(LoadError, match=f"choices: {said}"):
        graphprune.Plan.from_json(json.dumps(data))


class Unbiased(nn.Linear):
    """It has a bias and does not read it."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


def test_a_plan_of_a_layer_that_does_not_read_its_bias_is_read_again() -> None:
    model, x = nn.Sequential(Unbiased(8, 32), nn.ReLU(), nn.Linear(32, 4)), torch.randn(4, 8)
    with pytest.warns(UnreachedWarning, match=r"^0\.bias: no example runs"):
        plan = graphprune.trace(model, x).plan(0.5)
    slim: Any = plan.apply(model)
    assert (len(slim[0].weight), len(slim[0].bias)) == (16, 32)
    assert graphprune.Plan.from_json(plan.to_json()) == plan
    file = io.BytesIO()
    torch.save(slim, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), slim(x))


class Normed(nn.Module):
    """A residual stream that a norm reads in groups: whole ones go, and its channels with them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 32, 3, padding=1), nn.GroupNorm(8, 32)
        self.conv, self.head = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        found: Tensor = self.head(x + self.conv(self.norm(x).relu()))
        return found


@pytest.mark.parametrize("asked", [{"ratio": 0.5}, {"macs": 0.5}, {"width": 0.5}, {"ratio": 0.5, "width": 0.25}])
def test_plans_of_groups_within_a_stream_are_read_back(asked: dict[str, float]) -> None:
    plan = graphprune.trace(Normed().eval(), torch.randn(1, 3, 8, 8)).plan(**asked)
    assert graphprune.Plan.from_json(plan.to_json()).kept.keys() == plan.kept.keys()
