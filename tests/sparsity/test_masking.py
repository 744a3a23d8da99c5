"""Masks of single weights: what torch's own functions would mask, whatever training does."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import graphprune
from graphprune import make_permanent, sparsify, sparsity_of
from graphprune.errors import InputError
from graphprune.sparsity.amounts import MaskAmount
from graphprune.utils.prune_masks import apply_masks

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
WEIGHTS = ("0.weight", "3.weight", "5.weight")


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 10))
    return nn.Sequential(*layers)


def places(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """The weights of a ``net``, as torch's functions take them."""
    return [(model.get_submodule(name.partition(".")[0]), "weight") for name in WEIGHTS]


def masks(model: nn.Module) -> dict[str, Tensor]:
    return {name: mask.clone() for name, mask in model.named_buffers() if name.endswith("_mask")}


def assert_same(a: nn.Module, b: nn.Module) -> None:
    found, needed = masks(a), masks(b)
    assert found.keys() == needed.keys() and found
    assert all(torch.equal(found[name], needed[name]) for name in needed)


# ---------------------------------------------------------------- equal to torch


@pytest.mark.parametrize("amounts", [(0.5,), (0.3, 0.3, 0.3), (50,), (50, 20, 0.25), (0, 0.9)])
def test_local_masks_are_torchs(amounts: tuple[float, ...]) -> None:
    ours, theirs = net(), net()
    for amount in amounts:
        sparsify(ours, amount)
        for module, name in places(theirs):
            prune.l1_unstructured(module, name, amount)
    assert_same(ours, theirs)
    assert torch.equal(ours(X), theirs(X))


@pytest.mark.parametrize("amounts", [(0.5,), (0.9, 0.8), (1000, 0.5, 7)])
@pytest.mark.parametrize("method", ["l1", "random"])
def test_global_masks_are_torchs(amounts: tuple[float, ...], method: str) -> None:
    ours, theirs = net(), net()
    torch.manual_seed(1)
    for amount in amounts:
        sparsify(ours, amount, method=method, scope="global")
    torch.manual_seed(1)
    kind = prune.L1Unstructured if method == "l1" else prune.RandomUnstructured
    for amount in amounts:
        prune.global_unstructured(places(theirs), kind, amount=amount)
    assert_same(ours, theirs)


def test_random_masks_are_torchs_and_a_seed_disturbs_nothing() -> None:
    ours, theirs = net(), net()
    torch.manual_seed(1)
    sparsify(ours, 0.4, method="random")
    torch.manual_seed(1)
    for module, name in places(theirs):
        prune.random_unstructured(module, name, 0.4)
    assert_same(ours, theirs)
    a, b = net(), net()
    before = torch.get_rng_state()
    sparsify(a, 0.4, method="random", seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    sparsify(b, 0.4, method="random", seed=3)
    assert_same(a, b)


def test_calls_compound_on_what_torch_masked_before() -> None:
    model = net()
    for module, name in places(model):
        prune.random_unstructured(module, name, 0.5)
    before = masks(model)
    for _ in range(3):
        sparsify(model, 0.5)
    assert sparsity_of(model).masked == pytest.approx(1 - 0.5**4, abs=2e-3)
    assert all((before[name] >= mask).all() for name, mask in masks(model).items())


def test_98_percent_twice_over_all_layers() -> None:
    model = net()
    sparsify(model, 0.98, scope="global")
    assert sparsify(model, 0.98, scope="global").masked == pytest.approx(1 - 0.02**2, abs=5e-4)


def test_torchs_functions_go_on_where_ours_were() -> None:
    ours, theirs = net(), net()
    sparsify(ours, 0.5)
    for module, name in places(theirs):
        prune.l1_unstructured(module, name, 0.5)
    for module, name in (*places(ours), *places(theirs)):
        prune.l1_unstructured(module, name, 0.5)
    assert_same(ours, theirs)


def test_scores_are_torchs_too() -> None:
    scores = torch.randn(8, 3, 3, 3)
    ours, theirs = net(), net()
    sparsify(ours, 0.5, layers="0", importance={"0.weight": scores})
    prune.l1_unstructured(theirs[0], "weight", 0.5, importance_scores=scores)
    assert_same(ours, theirs)


# ---------------------------------------------------------------- what torch lacks


def test_a_threshold_masks_up_to_a_magnitude() -> None:
    model = net()
    weight = model[5].weight.detach().clone()
    sparsify(model, 0.05, method="threshold")
    assert torch.equal(model[5].weight_mask, (weight.abs() > 0.05).float())
    assert sparsify(model, 0.0, method="threshold").masked == sparsity_of(model).masked


@pytest.mark.parametrize("percentile", [0, 12.5, 50, 90, 100])
def test_a_percentile_is_numpys(percentile: float) -> None:
    model = net()
    sizes = model[5].weight.detach().abs().clone()
    sparsify(model, percentile, method="percentile", layers="5")
    assert torch.equal(model[5].weight_mask, (sizes >= np.percentile(sizes.numpy(), percentile)).float())


@pytest.mark.parametrize(("kept", "group"), [(2, 4), (1, 4), (4, 8)])
def test_patterns_keep_the_largest_along_the_inputs(kept: int, group: int) -> None:
    layers = {"linear": nn.Linear(16, 6), "conv": nn.Conv2d(8, 4, 3), "wide": nn.ConvTranspose2d(8, 4, 3)}
    model = nn.ModuleDict({**layers, "rnn": nn.LSTM(8, 8)})
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    sparsify(model, f"{kept}:{group}")
    for name, mask in masks(model).items():
        dim = 0 if name.startswith("wide") else 1
        groups = mask.movedim(dim, -1).unflatten(-1, (-1, group))
        assert torch.equal(groups.sum(-1), torch.full(groups.shape[:-1], float(kept)))
        values = before[name.removesuffix("_mask")].abs().movedim(dim, -1).unflatten(-1, (-1, group))
        least = torch.where(groups > 0, values, torch.inf).amin(-1)
        assert (least >= torch.where(groups > 0, 0.0, values).amax(-1)).all()


def test_a_pattern_counts_what_is_masked_already() -> None:
    model = nn.Linear(8, 8)
    sparsify(model, 0.4)
    before = model.get_buffer("weight_mask").clone()
    sparsify(model, "2:4")
    after = model.get_buffer("weight_mask")
    assert (after.view(8, 2, 4).sum(-1) == before.view(8, 2, 4).sum(-1).clamp(max=2)).all()
    sparsify(model, "2:4", method="random", seed=0)
    assert torch.equal(model.get_buffer("weight_mask"), after)


def test_a_method_of_the_users() -> None:
    class Smallest(prune.L1Unstructured):
        """One that counts."""

    ours, theirs = net(), net()
    sparsify(ours, 0.5, method=Smallest)
    sparsify(theirs, 0.5)
    assert_same(ours, theirs)


# ---------------------------------------------------------------- which layers

CHOICES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "all": ({}, {"0.weight", "3.weight", "5.weight"}),
    "path": ({"layers": "0"}, {"0.weight"}),
    "class": ({"layers": nn.Conv2d}, {"0.weight", "3.weight"}),
    "module and skip": ({"layers": [nn.Conv2d, "5"], "skip": "3"}, {"0.weight", "5.weight"}),
    "bias": ({"layers": ["5.bias", "3.weight"]}, {"5.bias", "3.weight"}),
    "biases": ({"layers": "*.bias"}, {"0.bias", "1.bias", "3.bias", "5.bias"}),
    "override": ({"layers": "0", "overrides": {"5.bias": 1, nn.Linear: 3}}, {"0.weight", "5.bias", "5.weight"}),
}


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_layers_are_chosen_by_names_and_classes(choice: tuple[dict[str, Any], set[str]]) -> None:
    model = net()
    sparsify(model, 0.5, **choice[0])
    assert {name.removesuffix("_mask") for name in masks(model)} == choice[1]


def test_a_module_of_the_model_is_a_choice() -> None:
    model = nn.ModuleDict({"a": net(), "b": net()})
    sparsify(model, 0.5, layers=model["a"], skip=model["a"][5])
    assert set(masks(model)) == {"a.0.weight_mask", "a.3.weight_mask"}


def test_overrides_are_apart_from_the_common_ranking() -> None:
    model = net()
    found = sparsify(model, 0.9, scope="global", overrides={"0": 0.2, "5": 100})
    assert (found["0.weight"].zeros, found["5.weight"].zeros) == (43, 100)
    assert found["3.weight"].sparsity == pytest.approx(0.9, abs=1e-3)


def test_embeddings_are_masked_only_by_name() -> None:
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10))
    assert not sparsify(model, 0.5)["0.weight"].masked
    assert sparsify(model, 0.5, layers=nn.Embedding)["0.weight"].zeros == 20


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.leave = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
        self.leave.weight = self.table.weight
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.inner(self.table(x)))


def test_tied_layers_share_a_mask() -> None:
    model = Tied()
    assert not sparsify(model, 0.5)["table.weight"].masked
    sparsify(model, 0.5, layers="leave")
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    for _ in range(3):
        model(torch.arange(4)).sum().backward()
        optimizer.step()
    model(torch.arange(4))
    assert torch.equal(model.table.weight, model.leave.weight)
    assert int((model.leave.weight == 0).sum()) == 20
    make_permanent(model)
    assert model.table.weight is model.leave.weight


def test_a_mask_on_one_of_tied_layers_stays_its_own() -> None:
    """As torch's functions put it: the other layer goes on with the whole weight."""
    model = Tied()
    prune.l1_unstructured(model.table, "weight", 0.5)
    x = torch.arange(10)
    with torch.no_grad():
        needed = model(x)
        assert torch.equal(make_permanent(model)(x), needed)
    assert int((model.table.weight == 0).sum()) == 20 and not (model.leave.weight == 0).any()


# ---------------------------------------------------------------- training

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.5),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, weight_decay=0.1),
}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 4) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()


def zeros(model: nn.Module) -> dict[str, Tensor]:
    """Where the weights that are used are zero."""
    permanent = make_permanent(copy.deepcopy(model))
    return {name: p.detach() == 0 for name, p in permanent.named_parameters() if name in WEIGHTS}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_keeps_exactly_the_zeros(make: Callable[[Any], torch.optim.Optimizer], tmp_path: Path) -> None:
    """Masked amid training, with the momentum that weights have by then; and from a saved state dict on."""
    model = net()
    optimizer = make(model.parameters())
    train(model, optimizer)
    sparsify(model, 0.7, scope="global")
    needed = zeros(model)
    train(model, optimizer)
    torch.save([model.state_dict(), optimizer.state_dict()], tmp_path / "state.pt")
    other = net(1)
    sparsify(other, 0.0)
    fresh = make(other.parameters())
    for one, state in zip((other, fresh), torch.load(tmp_path / "state.pt"), strict=True):
        one.load_state_dict(state)
    for trained, its_optimizer in ((model, optimizer), (other, fresh)):
        train(trained, its_optimizer)
        with torch.no_grad():
            trained(X)  # what a call leaves can be copied
        found = zeros(trained)
        assert all(torch.equal(found[name], needed[name]) for name in WEIGHTS)
        assert all((trained.get_submodule(n.partition(".")[0]).weight != 0).equal(~needed[n]) for n in WEIGHTS)


def test_masks_of_inference_mode_can_be_trained() -> None:
    model = net()
    with torch.inference_mode():
        sparsify(model, 0.5, scope="global")
        model(X)
    train(model, torch.optim.SGD(model.parameters(), 0.1))
    assert sparsity_of(model).masked == 0.5


def test_finetune_keeps_exactly_the_zeros(tmp_path: Path) -> None:
    batches = [(X, torch.tensor([0, 1, 2, 3]))] * 3
    model = net()
    sparsify(model, 0.7)
    needed = zeros(model)
    for epochs in (1, 2):
        given: Any = {"epochs": epochs, "lr": 0.1, "optimizer": "adamw", "weight_decay": 0.5, "progress": False}
        graphprune.finetune(model, batches, **given)
        found = zeros(model)
        assert all(torch.equal(found[name], needed[name]) for name in WEIGHTS)
    graphprune.save_checkpoint(tmp_path, model)
    other = net(1)
    sparsify(other, 0.0)
    graphprune.load_checkpoint(tmp_path, other)
    assert torch.equal(other.eval()(X), model.eval()(X))


def test_attention_applies_the_masks_of_its_projection() -> None:
    """Its forward reads ``out_proj.weight`` without calling ``out_proj``."""
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    sparsify(model, 0.5)
    x = torch.randn(2, 3, 8)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    other = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    sparsify(other, 0.0)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        needed = model.eval()(x)
        assert torch.equal(other.eval()(x), needed)
        assert torch.equal(make_permanent(copy.deepcopy(model))(x), needed)
    assert sparsity_of(model)["self_attn.out_proj.weight"].zeros == 32
    assert not make_permanent(model).self_attn._forward_pre_hooks  # type: ignore[union-attr,operator]


@pytest.mark.parametrize("ratio", [0.5, 0.25])
def test_structured_pruning_cuts_masks_with_the_weights(ratio: float) -> None:
    model = net().eval()
    sparsify(model, 0.5, scope="global")
    graph = graphprune.trace(model, X)
    plan = graph.plan(ratio)
    slim: Any = plan.apply(model)
    assert graphprune.verify(model, slim, plan, X).passed
    assert slim[0].weight_mask.shape == slim[0].weight_orig.shape == (round(8 * (1 - ratio)), 3, 3, 3)
    before = zeros(slim)
    train(slim.train(), torch.optim.SGD(slim.parameters(), 0.1, momentum=0.9, weight_decay=0.1))
    apply_masks(slim)
    assert all(torch.equal(found, before[name]) for name, found in zeros(slim).items())


# ---------------------------------------------------------------- the end, and mistakes


def test_permanent_zeros_are_plain_parameters_without_signs() -> None:
    model = net()
    before = [name for name, _ in model.named_parameters()]
    sparsify(model, 0.5)
    assert [name.removesuffix("_orig") for name, _ in model.named_parameters()] == before
    with torch.no_grad():
        needed = model.eval()(X)
    parameter = model[0].weight_orig
    assert make_permanent(model) is model
    assert [name for name, _ in model.named_parameters()] == before
    assert model[0].weight is parameter
    assert torch.equal(model(X), needed)
    assert not torch.signbit(model[0].weight[model[0].weight == 0]).any()
    assert not prune.is_pruned(make_permanent(model))


def test_the_table_of_zeros() -> None:
    found = sparsify(net(), 0.5)
    assert str(found).splitlines() == [
        "                zeros     of  sparsity",
        "0.weight          108    216     50.0%",
        "3.weight          288    576     50.0%",
        "5.weight          640  1,280     50.0%",
        "all parameters  1,044  2,114     49.4%",
    ]
    assert (found.zeros, found.size, found.overall) == (1044, 2114, 1044 / 2114)
    with pytest.raises(InputError, match="there is no parameter 'weight'"):
        found["weight"]


MISTAKES: dict[str, tuple[MaskAmount, dict[str, Any], str]] = {
    "above one": (1.5, {}, "amount: must be a fraction between 0.0 and 1.0, or a whole number of weights, but is 1.5"),
    "negative": (-1, {}, "but is -1"),
    "true": (True, {}, "but is True"),
    "text": ("98 %", {}, r"or a pattern such as '2:4' \(2 of 4 are kept\), but is '98 %'"),
    "not less": ("4:2", {}, "but is '4:2'"),
    "too many": (800, {}, "amount: is 800 weights, but 0.weight has 216 that are not masked yet"),
    "too many in all": (2073, {"scope": "global"}, "these layers together has 2,072"),
    "indivisible": ("2:4", {}, r"asks for inputs in groups of 4, but 0.weight has 3[\s\S]*pass it as skip="),
    "pattern over all": ("2:4", {"scope": "global"}, "scope: a pattern such as '2:4' holds in every row"),
    "pattern by threshold": ("2:4", {"method": "threshold"}, "goes with method='l1' or 'random'"),
    "pattern of a bias": ("2:4", {"layers": "5.bias"}, "which inputs the Linear of 5.bias has is unknown"),
    "threshold": (-1, {"method": "threshold"}, "amount: must be a magnitude of 0 or more"),
    "percentile": (101, {"method": "percentile"}, "amount: must be a percentile between 0 and 100"),
    "method": (0.5, {"method": "l2"}, "method: 'l2' is not known"),
    "channels": (0.5, {"method": prune.LnStructured}, "graphprune.prune_model to remove whole channels"),
    "scope": (0.5, {"scope": "all"}, "scope: 'all' is not known"),
    "no match": (0.5, {"layers": "conv*"}, r"layers: 'conv\*' matches no parameter"),
    "skipped by a typo": (0.5, {"skip": "5.wieght"}, "did you mean 5.weight"),
    "nothing left": (0.5, {"skip": "*"}, "layers: no weight of this Sequential is left to mask"),
    "no key": (0.5, {"layers": 3}, "layers: 3 is no key"),
    "override": (0.5, {"overrides": {"0": 2.0}}, "overrides: must be a fraction between"),
    "no overrides": (0.5, {"overrides": 3}, "overrides: must be a dict of amounts by layers"),
    "shape": (0.5, {"importance": {"0.weight": X}}, "the scores of 0.weight have shape"),
    "nan": (0.5, {"importance": {"0.weight": torch.full((8, 3, 3, 3), torch.nan)}}, "scores of 0.weight are NaN"),
    "name": (0.5, {"importance": {"weight": X}}, "importance: 'weight' is none of the weights to mask"),
    "random scores": (0.5, {"method": "random", "importance": {"0.weight": X}}, "is ranked by method='l1'"),
    "seed": (0.5, {"seed": -1}, "seed: must be a whole number"),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named_and_change_nothing(mistake: tuple[MaskAmount, dict[str, Any], str]) -> None:
    model = net()
    amount, options, message = mistake
    with pytest.raises(InputError, match=message):
        sparsify(model, amount, **options)
    assert not prune.is_pruned(model)


def test_what_cannot_be_masked_is_said() -> None:
    with pytest.raises(InputError, match=r"0\.weight is on meta"):
        sparsify(net().to("meta"), 0.5)
    with pytest.raises(InputError, match=r"0.* is on meta, and has no values to count"):
        sparsity_of(net().to("meta"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        normed = nn.utils.weight_norm(nn.Linear(4, 4))
    with pytest.raises(InputError, match="WeightNorm makes it from other parameters"):
        sparsify(normed, 0.5)
    listed = nn.ModuleDict({"a": nn.ParameterList([torch.randn(3, 3)]), "b": nn.Linear(3, 3)})
    with pytest.raises(InputError, match=r"a\.0 cannot be masked: a ParameterList has no forward"):
        sparsify(listed, 0.5, layers="a.0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(net())
    assert sparsity_of(scripted).zeros == 8  # the shift of the batch normalization
    with pytest.raises(InputError, match="it is of TorchScript"):
        sparsify(scripted, 0.5)
    with pytest.raises(InputError, match="is the class Linear"):
        sparsify(nn.Linear, 0.5)  # type: ignore[arg-type]
