"""Bundles: written whole or not at all, loaded without the dense model where a library knows it, exactly as saved."""

import copy
import dataclasses
import errno
import importlib
import json
import os
import re
import shutil
import stat
import warnings
from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Callable, Mapping
from functools import cache, cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, weight_norm
from transformers import (
    BertConfig,
    BertModel,
    DetrConfig,
    DetrForObjectDetection,
    LlamaConfig,
    LlamaForCausalLM,
    ResNetConfig,
)

import graphprune
from graphprune.errors import InputError, LoadError, PlanError, SaveError
from graphprune.export import bundle, shards
from graphprune.pruning.plan import plans_of
from graphprune.utils import files, folders
from models import gpt, resnet_cifar
from tests.damage import sum_of

IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
IDS = torch.arange(12)[None]


@cache
def slim_resnet(rounds: int = 1) -> nn.Module:
    """One for all tests, which leave it as it is."""
    model = resnet_cifar.resnet20().eval()
    for _ in range(rounds):
        model = graphprune.prune_model(model, 0.5, IMAGE)
    return model


def version_of(folder: Path) -> Path:
    """The one version in a bundle's folder."""
    (version,) = folder.iterdir()
    return version


def state(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}


def assert_same(loaded: nn.Module, slim: nn.Module) -> None:
    """Names, entries, types, what is trained, memory formats and modes are equal."""
    a, b = state(loaded), state(slim)
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        other = b[name]
        assert torch.equal(tensor, other), name
        assert (tensor.dtype, tensor.requires_grad, type(tensor)) == (other.dtype, other.requires_grad, type(other))
        assert tensor.stride() == other.stride(), name
    modes = [[(name, m.training) for name, m in model.named_modules()] for model in (loaded, slim)]
    assert modes[0] == modes[1]
    assert loaded.state_dict().keys() == slim.state_dict().keys()


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("rounds", [1, 2])
def test_round_trip(tmp_path: Path, rounds: int) -> None:
    slim = slim_resnet(rounds)
    folder = tmp_path / "new" / "folder"
    graphprune.save(slim, folder)
    loaded = graphprune.load(folder, model=resnet_cifar.resnet20())
    assert torch.equal(loaded(IMAGE), slim(IMAGE))
    assert_same(loaded, slim)
    assert [p.to_json() for p in plans_of(loaded)] == [p.to_json() for p in plans_of(slim)]
    plans = {f"plan-{i}.json" for i in range(rounds)}
    assert {p.name for p in version_of(folder).iterdir()} == {"bundle.json", "checksums.json", shards.SINGLE, *plans}


def test_what_was_compiled_since_is_saved_as_the_model_within(tmp_path: Path) -> None:
    slim = slim_resnet()
    compiled = torch.compile(slim, backend="eager")
    compiled(IMAGE)
    graphprune.save(compiled, tmp_path)
    assert_same(graphprune.load(tmp_path, model=resnet_cifar.resnet20()), slim)


def test_what_was_pruned_compiled_is_loaded_into_what_is_compiled(tmp_path: Path) -> None:
    def compiled() -> nn.Module:
        found: nn.Module = torch.compile(resnet_cifar.resnet20().eval(), backend="eager")  # type: ignore[assignment]
        return found

    slim = graphprune.prune_model(compiled(), 0.5, IMAGE)
    graphprune.save(slim, tmp_path)
    assert_same(graphprune.load(tmp_path, model=compiled()), slim)


@pytest.mark.parametrize("compiled", [True, False], ids=["there", "here"])
def test_where_one_part_is_compiled_the_message_says_which(tmp_path: Path, compiled: bool) -> None:
    def network(compiled: bool) -> nn.Sequential:
        model = nn.Sequential(nn.Sequential(nn.Linear(8, 16), nn.ReLU()), nn.Linear(16, 4)).eval()
        if compiled:
            model[0] = torch.compile(model[0], backend="eager")
        return model

    x = torch.ones(1, 8)
    plan = graphprune.trace(network(compiled), x).plan(0.5)
    graphprune.save(plan.apply(network(compiled)), tmp_path)
    message = "'0' was compiled " + ("there and is not here" if compiled else "here and was not there")
    with pytest.raises(PlanError, match=message):
        plan.apply(network(not compiled))
    with pytest.raises(LoadError, match=message):
        graphprune.load(tmp_path, model=network(not compiled))
    graphprune.load(tmp_path, model=network(compiled))


def masked(method: Callable[[nn.Module], object], permanent: bool) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    method(model[0])
    return graphprune.make_permanent(model) if permanent else model


def by_size(layer: nn.Module) -> None:
    prune.l1_unstructured(layer, "weight", 0.5)


def twice(layer: nn.Module) -> None:
    prune.random_unstructured(layer, "weight", 0.1)
    prune.random_unstructured(layer, "weight", 0.1)


@pytest.mark.parametrize("other", [partial(prune.identity, name="weight"), twice], ids=["identity", "twice"])
def test_a_mask_is_loaded_into_any_mask(tmp_path: Path, other: Any) -> None:
    slim = graphprune.prune_model(masked(by_size, permanent=False), 0.5, torch.ones(1, 8))
    graphprune.save(slim, tmp_path)
    assert_same(graphprune.load(tmp_path, model=masked(other, permanent=False)), slim)
    with pytest.raises(LoadError, match="weight_mask"):
        graphprune.load(tmp_path, model=masked(other, permanent=True))


def test_what_was_masked_for_good_before_pruning_is_loaded_into_a_plain_model(tmp_path: Path) -> None:
    slim = graphprune.prune_model(masked(by_size, permanent=True), 0.5, torch.ones(1, 8))
    graphprune.save(slim, tmp_path)
    assert_same(graphprune.load(tmp_path, model=masked(lambda layer: None, permanent=False)), slim)


def llama() -> tuple[nn.Module, Any]:
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.generation_config.max_new_tokens = 7
    return model, {"input_ids": IDS}


def detr() -> tuple[nn.Module, Any]:
    """Its configuration keeps arguments that it neither needs nor writes."""
    parts = dict.fromkeys(("encoder_layers", "decoder_layers"), 1) | dict.fromkeys(
        ("encoder_attention_heads", "decoder_attention_heads"), 4
    )
    sizes = dict(d_model=32, encoder_ffn_dim=48, decoder_ffn_dim=48, num_queries=5, backbone=None, **parts)
    trunk = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_features=["stage2"])
    config = DetrConfig(use_timm_backbone=False, use_pretrained_backbone=False, backbone_config=trunk, **sizes)
    return DetrForObjectDetection(config), {"pixel_values": IMAGE}


def bert() -> tuple[nn.Module, Any]:
    return BertModel(
        BertConfig(vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4)
    ), {"input_ids": IDS}


def vision(name: str) -> tuple[nn.Module, Any]:
    return torchvision.models.get_model(name, weights=None), IMAGE


def new_head() -> tuple[nn.Module, Any]:
    model, _ = vision("shufflenet_v2_x0_5")
    model.fc = nn.Linear(model.fc.in_features, 7)
    return model, IMAGE


def timm_vit() -> tuple[nn.Module, Any]:
    return timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=5, depth=2), IMAGE


@pytest.mark.parametrize(
    ("make", "source", "name"),
    [
        (partial(vision, "squeezenet1_1"), "torchvision", "squeezenet1_1"),
        (new_head, "torchvision", "shufflenet_v2_x0_5"),
        (timm_vit, "timm", "vit_tiny_patch16_224.augreg_in21k_ft_in1k"),
        (llama, "transformers", "LlamaForCausalLM"),
        (bert, "transformers", "BertModel"),
        (detr, "transformers", "DetrForObjectDetection"),
    ],
    ids=["squeezenet", "new head", "timm", "llama", "bert", "detr"],
)
def test_models_of_libraries_need_nothing_but_the_folder(tmp_path: Path, make: Any, source: str, name: str) -> None:
    torch.manual_seed(0)
    model, inputs = make()
    slim = graphprune.prune_model(model.eval(), 0.5, inputs)
    graphprune.save(slim, tmp_path)
    found = json.loads((version_of(tmp_path) / "bundle.json").read_text())
    assert (found["architecture"]["source"], found["architecture"]["name"]) == (source, name)
    random = torch.get_rng_state()
    loaded = graphprune.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), random)
    assert_same(loaded, slim)
    call = inputs if isinstance(inputs, dict) else {"x": inputs}
    out = [m(**call) if isinstance(inputs, dict) else m(inputs) for m in (loaded, slim)]
    a, b = (next(iter(o.values())) if isinstance(o, dict) else o for o in out)
    assert torch.equal(a, b)
    if source == "transformers":
        assert loaded.config.to_dict() == slim.config.to_dict()
        assert getattr(loaded, "generation_config", None) == getattr(slim, "generation_config", None)
    graphprune.save(loaded, tmp_path)  # what was loaded is saved again
    assert_same(graphprune.load(tmp_path), slim)


def as_a_trainer_leaves_it(config: Any) -> None:
    config.use_cache, config.architectures, config.dtype = False, ["LlamaForCausalLM"], torch.float32


@pytest.mark.parametrize(
    "change",
    [
        as_a_trainer_leaves_it,
        lambda config: setattr(config, "pad_token_id", 7),
        lambda config: setattr(config, "attention_dropout", 0.1),
        lambda config: setattr(config, "id2label", {0: "no", 1: "yes"}),
        lambda config: setattr(config, "ours", {"seen": (1, float("inf")), (5, 6): 2.0}),
        lambda config: setattr(config, "output_hidden_states", True),
    ],
    ids=["trainer", "pad", "dropout", "labels", "own", "property"],
)
def test_a_configuration_is_loaded_as_it_was_saved(tmp_path: Path, change: Callable[[Any], None]) -> None:
    """A change of it made the bundle one that is loaded with ``model=`` only, and then it was lost."""
    torch.manual_seed(0)
    model, inputs = llama()
    slim: Any = graphprune.prune_model(model.eval(), 0.5, inputs)
    before, dense = set(vars(model.config)), model.config.to_dict()
    change(slim.config)
    slim.generation_config.max_new_tokens = 9
    slim.generation_config.sequence_bias, slim.generation_config.forced_decoder_ids = {(5,): 50.0}, [(1, 2)]
    graphprune.save(slim, tmp_path)
    for given in ((), (model,)):
        loaded: Any = graphprune.load(tmp_path, *given)
        assert vars(loaded.config) == vars(slim.config)
        assert loaded.generation_config.to_dict() == slim.generation_config.to_dict()
        assert loaded.model.layers[0].self_attn.config is loaded.config
    assert (set(vars(model.config)), model.config.to_dict()) == (before, dense)


def test_new_words_after_pruning_are_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = llama()
    slim: Any = graphprune.prune_model(model.eval(), 0.5, inputs)
    slim.resize_token_embeddings(60, mean_resizing=False)
    graphprune.save(slim, tmp_path)
    for loaded in (graphprune.load(tmp_path), graphprune.load(tmp_path, model)):
        assert_same(loaded, slim)
        assert loaded.config.vocab_size == 60


@dataclasses.dataclass
class Inner:
    scale: float = 2.0


@dataclasses.dataclass
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    names: tuple[str, ...] = ("a",)
    private: Any = None


class Configured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.settings = Outer()
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 2)
        self.first.settings = self.settings.inner

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu()) * self.settings.inner.scale  # type: ignore[no-any-return]


def test_settings_of_users_are_loaded_as_they_were_saved(tmp_path: Path) -> None:
    model = Configured()
    slim: Any = graphprune.prune_model(model, 0.5, torch.ones(1, 4))
    slim.settings.inner.scale, slim.settings.names = 3.0, ("b", "c")
    graphprune.save(slim, tmp_path)
    for given in ((), (model,)):
        loaded: Any = graphprune.load(tmp_path, *given, trust_factory=True)
        assert loaded.settings == slim.settings
        assert loaded.first.settings is loaded.settings.inner
        assert torch.equal(loaded(torch.ones(1, 4)), slim(torch.ones(1, 4)))
    assert model.settings == Outer()


@pytest.mark.parametrize("levels", [3, 11, 12, 30])
def test_settings_that_lie_deep_are_left_out(tmp_path: Path, levels: int) -> None:
    def make() -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
        chain: Any = SimpleNamespace(value=1, nested=[[[[1]]]])
        for _ in range(levels):
            chain = SimpleNamespace(value=1, inner=chain)
        model[0].chain = chain
        return model

    slim: Any = graphprune.prune_model(make(), 0.5, torch.ones(1, 4))
    slim[0].chain.value = 2
    graphprune.save(slim, tmp_path)
    loaded: Any = graphprune.load(tmp_path, make())
    assert loaded[0].chain == slim[0].chain


def of_timm(name: str, classes: int, **given: Any) -> Callable[[], nn.Module]:
    return partial(timm.create_model, name, num_classes=classes, **given)


SMALL_VIT = {"img_size": 32, "depth": 2}


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (of_timm("resnet10t", 10), lambda slim: slim.reset_classifier(3)),
        (of_timm("resnet10t", 10), lambda slim: slim.reset_classifier(0)),
        (of_timm("resnet10t", 10), lambda slim: setattr(slim, "fc", nn.Linear(slim.fc.in_features, 3))),
        (of_timm("vit_tiny_patch16_224", 10, **SMALL_VIT), lambda slim: slim.reset_classifier(3)),
        (of_timm("vit_tiny_patch16_224", 0, **SMALL_VIT), lambda slim: slim.reset_classifier(3)),
        (lambda: vision("resnet18")[0], lambda slim: setattr(slim, "fc", nn.Linear(slim.fc.in_features, 3))),
    ],
)
def test_other_classes_after_pruning_need_nothing_but_the_folder(tmp_path: Path, make: Any, change: Any) -> None:
    slim = graphprune.prune_model(make().eval(), 0.5, IMAGE)
    change(slim)
    slim.eval()
    graphprune.save(slim, tmp_path)
    loaded = graphprune.load(tmp_path)
    assert_same(loaded, slim)
    assert getattr(loaded, "num_classes", None) == getattr(slim, "num_classes", None)
    assert torch.equal(loaded(IMAGE), slim(IMAGE))


def test_what_a_bundle_says(tmp_path: Path) -> None:
    slim = slim_resnet(2)
    graphprune.save(slim, tmp_path)
    found = json.loads((version_of(tmp_path) / "bundle.json").read_text())
    dense = resnet_cifar.resnet20()
    count = [sum(p.numel() for p in model.parameters()) for model in (dense, slim)]
    assert found["costs"]["params"] == count
    assert found["costs"]["macs"] == [
        graphprune.trace(dense, IMAGE).cost().macs,
        graphprune.trace(slim, IMAGE).cost().macs,
    ]
    tensor = {"dtype": "float32", "shape": [1, 3, 32, 32]}
    assert found["inputs"] == [{"method": "forward", "args": [tensor], "kwargs": {}}]
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["graphprune"] == graphprune.__version__


def test_a_factory_needs_consent(tmp_path: Path) -> None:
    slim = graphprune.prune_model(resnet_cifar.resnet20(num_classes=3), 0.5, IMAGE)
    with pytest.raises(SaveError, match=r"factory: models.resnet_cifar:resnet20 does not make the dense model.*"):
        graphprune.save(slim, tmp_path, factory=resnet_cifar.resnet20)
    graphprune.save(slim, tmp_path, factory=resnet_cifar.resnet20, arguments={"num_classes": 3})
    with pytest.raises(LoadError, match=r"may run any code[\s\S]*.*trust_factory=True"):
        graphprune.load(tmp_path)
    assert_same(graphprune.load(tmp_path, trust_factory=True), slim)
    assert_same(graphprune.load(tmp_path, resnet_cifar.resnet20(num_classes=3)), slim)


@pytest.mark.parametrize(
    ("factory", "arguments"),
    [
        (partial(resnet_cifar.resnet20, num_classes=3), None),
        (partial(resnet_cifar.resnet20, 3), {"in_channels": 3}),
        (partial(resnet_cifar.resnet20, num_classes=7, in_channels=3), {"num_classes": 3}),
        (partial(partial(resnet_cifar.ResNet, 3), num_classes=3), None),
    ],
)
def test_a_factory_may_be_a_partial(tmp_path: Path, factory: Any, arguments: dict[str, Any] | None) -> None:
    slim = graphprune.prune_model(resnet_cifar.resnet20(num_classes=3), 0.5, IMAGE)
    graphprune.save(slim, tmp_path, factory=factory, arguments=arguments)
    assert_same(graphprune.load(tmp_path, trust_factory=True), slim)


def resnet_of(*classes: int) -> nn.Module:
    return resnet_cifar.resnet20(*classes)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"factory": partial(resnet_of, 10)}, "factory: argument 1 of the functools.partial has no name"),
        ({"factory": partial(lambda: nn.Linear(2, 2))}, "'.*<lambda>' cannot be imported by its name"),
        ({"factory": partial(resnet_cifar.resnet20, num_classes=IMAGE)}, "arguments: must be JSON data"),
        ({"factory": lambda: nn.Linear(2, 2)}, "cannot be imported by its name"),
        ({"factory": 3}, "factory: must be a function or class"),
        ({"factory": resnet_cifar.resnet20, "arguments": {"num_classes": IMAGE}}, "arguments: must be JSON data"),
        ({"arguments": {}}, "arguments: are those of a factory"),
        ({"max_shard_size": "much"}, "max_shard_size: must be a number of bytes"),
        ({"max_shard_size": 0}, "max_shard_size: must be a number of bytes"),
    ],
)
def test_arguments_of_save(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        graphprune.save(slim_resnet(), tmp_path / "new", **given)
    assert not (tmp_path / "new").exists()


class NoArguments(nn.Module):
    """Draws random numbers and looks at values when it is built, which ``meta`` cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = [float(x) for x in torch.linspace(0, 1, 3)]
        self.body, self.head = nn.Linear(4, 16), nn.Linear(16, 2)
        self.register_buffer("scale", torch.full((16,), 2.0), persistent=False)
        self.table = torch.arange(16.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu() * self.scale) + self.table[0]


class Scaled(nn.Module):
    """Divides by the deviation of its first input. [n, 12] -> [n, 5]"""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(12, 32), nn.Linear(32, 5)
        self.scale: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        if self.scale is None:
            self.scale = y.detach().std()
        found: Tensor = self.leave((y / self.scale).relu())
        return found


@pytest.mark.parametrize("given", [{"trust_factory": True}, {"model": Scaled()}], ids=["factory", "model"])
def test_what_the_first_call_left_in_an_attribute_is_loaded(tmp_path: Path, given: dict[str, Any]) -> None:
    model, x = Scaled().eval(), torch.randn(8, 12)
    model(x)
    slim = graphprune.prune_model(model, 0.5, example_inputs=x)
    graphprune.save(slim, tmp_path / "slim")
    loaded = graphprune.load(tmp_path / "slim", **given)
    assert torch.equal(loaded(3 * x), slim(3 * x)) and torch.equal(loaded.scale, model.scale)


class Fraction(nn.Module):
    """Works its scale out of its width when it is asked for first. [n, 12] -> [n, 5]"""

    def __init__(self) -> None:
        super().__init__()
        self.channels = 32
        self.enter, self.leave = nn.Linear(12, 32), nn.Linear(32, 5)

    @cached_property
    def scale(self) -> float:
        return float(self.channels**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.leave(self.enter(x).relu() * self.scale)
        return found


class Count(Fraction):
    """Notes its width in the first call."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        if not hasattr(self, "width"):
            self.width = y.shape[1]
        found: Tensor = self.leave(y.view(-1, self.width).relu())
        return found


@pytest.mark.parametrize("given", [{"trust_factory": True}, {"model": Fraction()}], ids=["factory", "model"])
def test_a_fraction_that_the_first_call_worked_out_is_loaded(tmp_path: Path, given: dict[str, Any]) -> None:
    model, x = Fraction().eval(), torch.randn(8, 12)
    model(x)
    slim = graphprune.prune_model(model, 0.5, example_inputs=x)
    assert slim.channels == 16 and slim.scale == model.scale
    graphprune.save(slim, tmp_path / "slim")
    assert torch.equal(graphprune.load(tmp_path / "slim", **given)(x), slim(x))


def test_a_size_that_the_first_call_notes_needs_a_model_that_ran(tmp_path: Path) -> None:
    model, x = Count().eval(), torch.randn(8, 12)
    model(x)
    slim, fresh = graphprune.prune_model(model, 0.5, example_inputs=x), Count()
    graphprune.save(slim, tmp_path / "slim")
    with pytest.raises(LoadError, match=r"has no 'width'[\s\S]*run it once if its forward makes what is missing"):
        graphprune.load(tmp_path / "slim", model=fresh)
    fresh(x)
    assert torch.equal(graphprune.load(tmp_path / "slim", model=fresh)(x), slim(x))


def test_a_class_without_arguments_that_meta_cannot_build(tmp_path: Path) -> None:
    slim = graphprune.prune_model(NoArguments(), 0.5, torch.randn(1, 4))
    slim.scale.add_(1)
    graphprune.save(slim, tmp_path)
    loaded = graphprune.load(tmp_path, trust_factory=True)
    assert_same(loaded, slim)
    assert torch.equal(loaded.table, slim.table)
    assert loaded.rates == slim.rates


def test_a_dense_model_on_meta_is_enough(tmp_path: Path) -> None:
    slim = slim_resnet()
    graphprune.save(slim, tmp_path)
    with torch.device("meta"):
        dense = resnet_cifar.resnet20()
    loaded = graphprune.load(tmp_path, dense)
    assert torch.equal(loaded(IMAGE), slim(IMAGE))
    assert all(t.is_meta for t in state(dense).values())
    with pytest.raises(LoadError, match=r"does not say how its models.resnet_cifar.ResNet is built [\s\S]*model="):
        graphprune.load(tmp_path)
    for device, said in {"meta": "holds no values", "nowhere": "is none", "cuda:99": "is not there"}.items():
        with pytest.raises(InputError, match=f"device: .*{said}"):
            graphprune.load(tmp_path, dense, device=device)


@pytest.mark.parametrize("device", ["cpu:0", "cpu:3", torch.device("cpu", 0)])
def test_the_cpu_may_have_a_number(device: str | torch.device, tmp_path: Path) -> None:
    slim = slim_resnet()
    graphprune.save(slim, tmp_path)
    loaded = graphprune.load(tmp_path, resnet_cifar.resnet20(), device=device)
    assert torch.equal(loaded(IMAGE), slim(IMAGE))
    assert {t.device for t in state(loaded).values()} == {torch.device("cpu")}


def test_a_class_that_others_cannot_import_is_named_as_such(tmp_path: Path) -> None:
    class Local(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(4, 8), nn.Linear(8, 2))

    graphprune.save(graphprune.prune_model(Local(), 0.5, torch.randn(2, 4)), tmp_path / "slim")
    with pytest.raises(LoadError, match="Local is not at the top of a module that other programs can import"):
        graphprune.load(tmp_path / "slim")


def test_tied_weights_flags_types_and_formats(tmp_path: Path) -> None:
    slim = graphprune.prune_model(gpt.gpt(tied=True), 0.5, IDS)
    next(slim.parameters()).requires_grad_(False)
    slim.train()
    next(slim.children()).eval()
    graphprune.save(slim, tmp_path / "gpt")
    loaded = graphprune.load(tmp_path / "gpt", model=gpt.gpt(tied=True).eval())
    assert_same(loaded, slim)
    assert len(list(loaded.parameters())) == len(list(slim.parameters()))
    image = copy.deepcopy(slim_resnet()).to(memory_format=torch.channels_last).double()
    graphprune.save(image, tmp_path / "image")
    assert_same(graphprune.load(tmp_path / "image", resnet_cifar.resnet20()), image)


def test_parameters_with_the_same_memory(tmp_path: Path) -> None:
    make = lambda: nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4), nn.Linear(4, 4))  # noqa: E731
    slim = graphprune.prune_model(make(), 0.5, torch.ones(1, 4))
    slim[2].weight = nn.Parameter(slim[2].weight.data)
    slim[2].bias = nn.Parameter(slim[1].bias.data, requires_grad=False)
    graphprune.save(slim, tmp_path)
    loaded = graphprune.load(tmp_path, make())
    assert_same(loaded, slim)
    assert loaded[2].bias is not loaded[1].bias
    assert loaded[2].bias.data_ptr() == loaded[1].bias.data_ptr()


class Scales(NamedTuple):
    """What a module may keep tensors in."""

    first: Tensor


class Holding(nn.Module):
    """Scales its results by a tensor that it keeps somewhere. [n, 4] -> [n, 3]"""

    def __init__(self, keep: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.scales = keep(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        (scale,) = self.scales.values() if isinstance(self.scales, Mapping) else self.scales
        return self.c(self.b(self.a(x)).relu()) * scale


@pytest.mark.parametrize(
    "keep",
    [
        Scales,
        lambda scale: [scale],
        lambda scale: OrderedDict(first=scale),
        lambda scale: UserDict(first=scale),
        lambda scale: defaultdict(list, first=scale),
    ],
)
def test_tensors_come_back_in_whatever_holds_them(tmp_path: Path, keep: Callable[[Tensor], Any]) -> None:
    slim, x = graphprune.prune_model(Holding(keep), 0.5, torch.ones(2, 4)).eval(), torch.randn(5, 4)
    graphprune.save(slim, tmp_path)
    loaded = graphprune.load(tmp_path, Holding(keep)).eval()
    assert torch.equal(loaded(x), slim(x)) and type(loaded.scales) is type(slim.scales)


class Beside(nn.Module):
    """Values that no bundle holds, and some that it does."""

    def __init__(self, keep: Callable[[nn.Module], Any] | None = None) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 8), nn.Linear(8, 3)
        self.beside = None if keep is None else keep(self.leave)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.leave(self.enter(x).relu())
        return found


@pytest.mark.parametrize(
    ("keep", "named"),
    [
        (lambda leave: np.ones(3), r"beside \(a numpy array\)"),
        (lambda leave: {"scale": [np.ones(3)]}, r"beside \(a numpy array\)"),
        (lambda leave: np.random.PCG64(0), r"beside \(a generator of random numbers\)"),
        (lambda leave: {"noise": torch.Generator()}, r"beside \(a generator of random numbers\)"),
        (lambda leave: [nn.Linear(2, 2)], r"beside \(a tensor in a list of modules\)"),
        (lambda leave: [leave], None),
        (lambda leave: [torch.ones(3)], None),
        (lambda leave: np.array(["a", "b"]), None),
    ],
)
def test_values_that_a_bundle_does_not_hold_are_named(
    tmp_path: Path, keep: Callable[[nn.Module], Any], named: str | None
) -> None:
    slim = graphprune.prune_model(Beside(keep), 0.5, torch.randn(2, 4))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        graphprune.save(slim, tmp_path)
    said = [str(one.message) for one in caught if one.category is graphprune.UnsavedValuesWarning]
    assert len(said) == (named is not None) and all(re.search(named or "", one) for one in said)


class Tempered(nn.Module):
    """Settings that may be changed after pruning."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 8), nn.Linear(8, 3)
        self.temperature: Any = 1.0
        self.options: dict[str, Any] = {"scale": 1.0}
        self.spread: Any = [[1.0]]

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.leave(self.enter(x).relu())
        return found * self.options["scale"] * self.spread[0][0] / float(self.temperature)


@pytest.mark.parametrize("value", [2.0, np.float64(2), np.float32(2), np.int64(2), torch.tensor(2.0)])
@pytest.mark.parametrize("model", [None, Tempered()])
def test_numbers_of_any_kind_are_in_a_bundle(tmp_path: Path, value: Any, model: nn.Module | None) -> None:
    slim, x = graphprune.prune_model(Tempered().eval(), 0.5, torch.ones(2, 4)), torch.randn(5, 4)
    slim.temperature = value
    with warnings.catch_warnings():
        warnings.simplefilter("error", graphprune.UnsavedValuesWarning)
        graphprune.save(slim, tmp_path)
    loaded = graphprune.load(tmp_path, model, trust_factory=True)
    assert torch.equal(loaded(x), slim(x))


@pytest.mark.parametrize(
    ("name", "value", "said"), [("options", {"scale": 3.0}, "a dict"), ("spread", [[2.0]], "a list")]
)
def test_changed_settings_that_a_bundle_does_not_hold_are_named(
    tmp_path: Path, name: str, value: Any, said: str
) -> None:
    slim = graphprune.prune_model(Tempered().eval(), 0.5, torch.ones(2, 4))
    setattr(slim, name, value)
    with pytest.warns(graphprune.UnsavedValuesWarning, match=rf"but not {name} \({said}\)"):
        graphprune.save(slim, tmp_path)


def test_a_forward_that_was_set_is_not_in_a_bundle_which_says_so(tmp_path: Path) -> None:
    slim = graphprune.prune_model(nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4)), 0.5, torch.ones(1, 8))
    slim[1].forward = lambda x: x.tanh()
    with pytest.warns(graphprune.UnsavedValuesWarning, match=r"but not 1\.forward \(a function that was set\)"):
        graphprune.save(slim, tmp_path)


def test_weights_are_mapped_and_trained_without_changing_the_files(tmp_path: Path) -> None:
    slim = graphprune.prune_model(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), 0.5, torch.ones(1, 64))
    graphprune.save(slim, tmp_path)
    make = partial(nn.Sequential, nn.Linear(64, 64), nn.Linear(64, 64))
    loaded = graphprune.load(tmp_path, make())
    loaded[0].weight.data.zero_()
    assert_same(graphprune.load(tmp_path, make()), slim)


def test_shards(tmp_path: Path) -> None:
    slim = slim_resnet()
    graphprune.save(slim, tmp_path, max_shard_size="64KB")
    version = version_of(tmp_path)
    parts = sorted(path for path in version.glob("model-*.safetensors"))
    assert len(parts) > 2
    assert all(path.stat().st_size < 80_000 for path in parts)
    assert_same(graphprune.load(tmp_path, resnet_cifar.resnet20()), slim)
    index = json.loads((version / shards.INDEX).read_text())
    assert set(index["weight_map"].values()) == {path.name for path in parts}


class InAList(nn.Module):
    """Blocks in a list of Python, whose parameters are the model's by a list of these."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = [nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 3)]
        self.weights = nn.ParameterList(p for block in self.blocks for p in block.parameters())

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.filterwarnings("ignore::graphprune.errors.UnsavedValuesWarning")
def test_blocks_in_a_list_have_the_weights_that_the_model_names(tmp_path: Path) -> None:
    model, x = InAList().eval(), torch.randn(2, 20)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    graphprune.save(slim, tmp_path)
    loaded, now = graphprune.load(tmp_path, InAList().eval()), InAList().eval()
    now.load_state_dict(model.state_dict())
    graphprune.prune_in_place(now, plan)
    for one in (loaded, now):
        assert one.blocks[0].weight is one.weights[0]
        assert torch.equal(one(x), slim(x))


# ---------------------------------------------------------------- changed after pruning


class Net(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 32, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU()
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.act(self.norm(self.conv(x))).mean((2, 3))))


class Head(nn.Module):
    """A module that torch does not know."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def another_head(slim: Any) -> None:
    slim.head = nn.Sequential(nn.Linear(slim.head.in_features, 9), nn.GELU(), nn.Linear(9, 7))


def fused(slim: Any) -> None:
    slim.conv = torch.nn.utils.fuse_conv_bn_eval(slim.conv, slim.norm)
    slim.norm = nn.Identity()


def other_settings(slim: Any) -> None:
    slim.drop.p, slim.norm.eps, slim.head.bias = 0.3, 1e-3, None


def normalized(slim: Any) -> None:
    weight_norm(slim.head)


def parametrized(slim: Any) -> None:
    parametrizations.weight_norm(slim.head)


def of_another_class(slim: Any) -> None:
    slim.act = Head()


@pytest.mark.parametrize("change", [another_head, fused, other_settings])
def test_what_was_changed_with_modules_of_torch_is_loaded(tmp_path: Path, change: Any) -> None:
    slim = graphprune.prune_model(Net().eval(), 0.5, IMAGE)
    change(slim)
    slim.eval()
    graphprune.save(slim, tmp_path)
    for loaded in (graphprune.load(tmp_path, Net()), graphprune.load(tmp_path, trust_factory=True)):
        assert_same(loaded, slim)
        assert str(loaded) == str(slim)
        assert torch.equal(loaded(IMAGE), slim(IMAGE))


@pytest.mark.parametrize("change", [another_head, fused])
def test_what_was_changed_between_prunings_is_loaded_into_the_model_before(tmp_path: Path, change: Any) -> None:
    slim = graphprune.prune_model(Net().eval(), 0.5, IMAGE)
    change(slim)
    slim.eval()
    graphprune.save(slim, tmp_path / "once")
    again = graphprune.prune_model(slim, 0.25, IMAGE)
    graphprune.save(again, tmp_path / "twice")
    planned = plans_of(slim)[0].apply(Net().eval())
    change(planned)
    without_plans = copy.deepcopy(slim)
    vars(without_plans).pop("_graphprune_plans")
    for model in (graphprune.load(tmp_path / "once", Net()), planned, slim, without_plans.to("meta"), again):
        loaded = graphprune.load(tmp_path / "twice", model)
        assert_same(loaded, again)
        assert torch.equal(loaded(IMAGE), again(IMAGE))
        assert plans_of(loaded) == plans_of(again)


class Remembering(nn.Module):
    """Registers a hook when it first runs, which keeps what a layer gave, and the shape of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.kept, self.hooked = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 6)), None, False
        self.seen: Any = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.hooked:
            self.body[1].register_forward_hook(self.keep)
            self.hooked, self.seen = True, x.shape
        self.body(x)
        assert self.kept is not None
        return self.kept * 1

    def keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.kept = output


def test_hooks_that_no_bundle_holds_are_named(tmp_path: Path) -> None:
    """The flag that one is there was loaded, so that the loaded model returned what it once had kept."""
    x = torch.randn(2, 8)
    slim = graphprune.prune_model(nn.Sequential(Remembering(), nn.Linear(32, 3)).eval(), 0.5, x)
    with torch.no_grad():
        slim(x)
    graphprune.save(slim, tmp_path)
    with pytest.warns(graphprune.UnsavedValuesWarning, match=r"when it was saved, 0\.body\.1 had hooks that"):
        loaded: Any = graphprune.load(tmp_path, nn.Sequential(Remembering(), nn.Linear(32, 3)))
    assert loaded[0].seen == x.shape
    loaded[0].body[1].register_forward_hook(loaded[0].keep)
    assert torch.equal(loaded(x + 1), slim(x + 1))


def test_layers_of_other_sizes_between_prunings_are_loaded(tmp_path: Path) -> None:
    """A head for other classes: nothing loaded what was saved then, if the model before the last pruning was gone."""
    slim = graphprune.prune_model(Net().eval(), 0.5, IMAGE)
    slim.head = nn.Linear(16, 7)
    again = graphprune.prune_model(slim, 0.25, IMAGE).eval()
    graphprune.save(again, tmp_path)
    planned = plans_of(slim)[0].apply(Net())
    for loaded in (
        *(graphprune.load(tmp_path, m) for m in (Net(), planned)),
        graphprune.load(tmp_path, trust_factory=True),
    ):
        assert_same(loaded, again)
        assert str(loaded) == str(again)
        assert torch.equal(loaded.eval()(IMAGE), again(IMAGE))


def test_a_change_between_prunings_is_named(tmp_path: Path) -> None:
    slim = graphprune.prune_model(Net().eval(), 0.5, IMAGE)
    slim.head = nn.Sequential(nn.Linear(16, 7))
    again = graphprune.prune_model(slim, 0.25, IMAGE)
    graphprune.save(again, tmp_path)
    changed = r"changed between pruning 1 and pruning 2, .*'head.0.bias'"
    for model in (Net(), plans_of(slim)[0].apply(Net())):
        with pytest.raises(LoadError, match=rf"{changed}[\s\S]*before its last pruning[\s\S]*change made again"):
            graphprune.load(tmp_path, model)
    with pytest.raises(LoadError, match=rf"how its .*Net is built .*{changed}[\s\S]*before its last pruning"):
        graphprune.load(tmp_path, trust_factory=True)


def before_the_last() -> nn.Module:
    model = Net(7)
    model.conv, model.norm, model.head = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.Linear(16, 7)
    return model


def test_a_factory_may_make_the_model_before_its_last_pruning(tmp_path: Path) -> None:
    slim = graphprune.prune_model(Net().eval(), 0.5, IMAGE)
    slim.head = nn.Linear(16, 7)
    again = graphprune.prune_model(slim, 0.25, IMAGE)
    graphprune.save(again, tmp_path, factory=before_the_last)
    assert_same(graphprune.load(tmp_path, trust_factory=True), again)
    slim.head = nn.Sequential(nn.Linear(16, 7))
    with pytest.raises(SaveError, match="changed between pruning 1 and pruning 2"):
        graphprune.save(graphprune.prune_model(slim, 0.25, IMAGE), tmp_path, factory=Net)


def test_a_module_of_another_kind_between_prunings_needs_the_model_before_the_last(tmp_path: Path) -> None:
    slim = graphprune.prune_model(Net().eval(), 0.5, IMAGE)
    of_another_class(slim)
    again = graphprune.prune_model(slim, 0.25, IMAGE)
    graphprune.save(again, tmp_path)
    assert_same(graphprune.load(tmp_path, slim), again)
    with pytest.raises(LoadError, match=r"act was a .*Head and is a .*ReLU[\s\S]*before its last pruning"):
        graphprune.load(tmp_path, Net())


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("change", [normalized, parametrized, of_another_class])
def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path, change: Any) -> None:
    slim = graphprune.prune_model(Net().eval(), 0.5, IMAGE)
    change(slim)
    with pytest.raises(SaveError, match=r"slim: (head|act) is [\s\S]*torch.save\(slim\)"):
        graphprune.save(slim, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_is_no_ordinary_tensor_or_module_is_not_saved(tmp_path: Path) -> None:
    make = partial(graphprune.prune_model, nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4)), 0.5, torch.ones(1, 4))
    sparse, complex_, meta = make(), make(), make().to("meta")
    sparse.register_buffer("more", torch.eye(3).to_sparse())
    complex_.register_buffer("more", torch.ones(2, dtype=torch.complex128))
    for slim, message in (
        (sparse, "slim: more is a torch.sparse_coo"),
        (complex_, "slim: more is of torch.complex128, which safetensors does not have"),
        (meta, "slim: 0.weight is on meta"),
    ):
        with pytest.raises(SaveError, match=message):
            graphprune.save(slim, tmp_path / "new")
    assert not (tmp_path / "new").exists()


class OwnLoading(nn.Sequential):
    """Its state dict has an entry that is no tensor, and is loaded in a way of its own."""

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return {**super().state_dict(*args, **kwargs), "note": {"n": 1}}

    def load_state_dict(self, state: Any, strict: bool = True) -> Any:  # type: ignore[override]
        raise AssertionError("not called")


def test_state_dicts_are_not_asked(tmp_path: Path) -> None:
    slim = graphprune.prune_model(OwnLoading(nn.Linear(4, 8), nn.Linear(8, 4)), 0.5, torch.ones(1, 4))
    graphprune.save(slim, tmp_path)
    assert_same(graphprune.load(tmp_path, OwnLoading(nn.Linear(4, 8), nn.Linear(8, 4))), slim)


class WithFunction(nn.Module):
    def __init__(self, act: Any = F.relu) -> None:
        super().__init__()
        self.act = act
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.act(self.a(x)))


def test_another_function_or_class_is_another_model(tmp_path: Path) -> None:
    slim = graphprune.prune_model(WithFunction(F.gelu), 0.5, torch.ones(1, 4))
    graphprune.save(slim, tmp_path)
    assert_same(graphprune.load(tmp_path, WithFunction(F.gelu)), slim)
    with pytest.raises(LoadError, match=r"model: is not what was saved .* the model\.act was gelu and is relu"):
        graphprune.load(tmp_path, WithFunction())


# ---------------------------------------------------------------- writing


def test_saving_again_leaves_nothing_behind(tmp_path: Path) -> None:
    graphprune.save(slim_resnet(2), tmp_path, max_shard_size=100_000)
    (tmp_path / ".writing-1234").mkdir()
    (tmp_path / ".writing-1234" / "model.safetensors").write_text("half")
    slim = slim_resnet(1)
    graphprune.save(slim, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["version-00000001"]
    assert_same(graphprune.load(tmp_path, model=resnet_cifar.resnet20()), slim)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_permissions_are_those_of_new_files(tmp_path: Path) -> None:
    slim = slim_resnet()
    old = os.umask(0o027)
    try:
        graphprune.save(slim, tmp_path / "bundle")
        files.replace_file(tmp_path / "one", partial(Path.write_text, data=""))
    finally:
        os.umask(old)
    for path in (tmp_path / "bundle").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o750 if path.is_dir() else 0o640), path
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o640


def test_what_is_not_a_bundle_is_not_touched(tmp_path: Path) -> None:
    slim = slim_resnet()
    (tmp_path / "notes.txt").write_text("mine")
    file = tmp_path / "file"
    file.write_text("mine")
    checkpoints = tmp_path / "checkpoints"
    graphprune.save_checkpoint(checkpoints, slim)
    for folder, name in ((tmp_path, "checkpoints"), (file, "is a file"), (checkpoints, "version-00000000")):
        with pytest.raises(InputError, match=f"directory: .*{name}"):
            graphprune.save(slim, folder)
    assert (tmp_path / "notes.txt").read_text() == file.read_text() == "mine"
    graphprune.save(slim, tmp_path / "bundle")
    with pytest.raises(InputError, match=r"directory: .*version-00000000 is not of a checkpoint"):
        graphprune.save_checkpoint(tmp_path / "bundle", slim)


def test_a_model_that_was_not_pruned(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="slim: this ResNet carries no plan"):
        graphprune.save(resnet_cifar.resnet20(), tmp_path)


def test_a_failing_write_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slim = slim_resnet()
    graphprune.save(slim, tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def full_disk(folder: Path, *_: Any) -> None:
        (folder / shards.SINGLE).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(bundle, "write_shards", full_disk)
    with pytest.raises(OSError, match="no space left"):
        graphprune.save(slim, tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def _refused(number: int) -> Callable[..., None]:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize(("number", "do"), [(errno.ENOSPC, "free some space"), (errno.EACCES, "let this process")])
def test_what_the_system_refuses_is_told_of(
    number: int, do: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slim = slim_resnet()
    monkeypatch.setattr(bundle, "write_shards", _refused(number))
    monkeypatch.setattr(folders, "finish_folder", _refused(number))
    writers: dict[str, Callable[[Path], object]] = {
        "directory": lambda path: graphprune.save(slim, path),
        "path": lambda path: files.replace_file(path, _refused(number)),
    }
    for name, write in writers.items():
        with pytest.raises(SaveError, match=rf"{name}: .* could not be written: {os.strerror(number)}") as raised:
            write(tmp_path / name)
        assert raised.value.do.startswith(do)
        assert isinstance(raised.value, OSError) and raised.value.errno == number
    with pytest.raises(SaveError, match=r"directory: .* could not be written"):
        folders.replace_folder(tmp_path / "folder", lambda folder: None)
    assert not list(tmp_path.rglob("*.*"))


def test_the_reason_of_the_system_is_told_where_safetensors_writes() -> None:
    failure = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(OSError, match="No space left on device") as raised, files.writing_tensors(Path("one")):
        raise failure
    assert raised.value.errno == errno.ENOSPC


def test_kills(tmp_path: Path) -> None:
    """Killed at random moments: the bundle is the old one or the new one, whole."""
    assert importlib.import_module("benchmarks.bundle").kills(tmp_path, 5) == 0


@pytest.mark.filterwarnings("ignore:.*(weight_norm|torch.jit.script|is deprecated):FutureWarning")
def test_models_of_the_zoos(tmp_path: Path) -> None:
    """Weights made by hooks, TorchScript, a configuration with infinity, lists of tensors, lazily filled tables."""
    names = ["layers:weight_norm,spectral_norm,lstm", "networks:scripted_module", "transformers:mamba2"]
    assert importlib.import_module("benchmarks.bundle").round_trips(tmp_path, names) == 0


# ---------------------------------------------------------------- damage


def test_missing_files(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(LoadError, match=r"directory: .* holds no saved model"):
            graphprune.load(folder, model=resnet_cifar.resnet20())


def test_another_architecture(tmp_path: Path) -> None:
    graphprune.save(slim_resnet(), tmp_path)
    with pytest.raises(LoadError, match=r"model: .*version-00000000 is not of this Linear"):
        graphprune.load(tmp_path, model=nn.Linear(2, 2))


@pytest.mark.parametrize("name", ["bundle.json", "plan-0.json", "model.safetensors", "checksums.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "link", "empty"])
def test_damage_is_found(tmp_path: Path, name: str, damage: str) -> None:
    dense = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4))
    graphprune.save(graphprune.prune_model(dense, 0.5, torch.ones(1, 4)), tmp_path)
    file = version_of(tmp_path) / name
    data = file.read_bytes()
    file.unlink()
    if damage == "link":
        (tmp_path.parent / "elsewhere").write_bytes(data)
        file.symlink_to(tmp_path.parent / "elsewhere")
    elif damage != "gone":
        flipped = data[:-2] + bytes([data[-2] ^ 0x40]) + data[-1:]
        file.write_bytes({"cut": data[: len(data) // 2], "flip": flipped, "empty": b""}[damage])
    if (name, damage) == ("checksums.json", "link"):
        return
    with pytest.raises(LoadError, match="directory: "):
        graphprune.load(tmp_path, dense)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a model of torchvision, which tests change with checksums that are right."""
    folder = tmp_path_factory.mktemp("honest")
    graphprune.save(graphprune.prune_model(vision("squeezenet1_1")[0].eval(), 0.5, IMAGE), folder)
    return folder


def rewritten(folder: Path, honest: Path, name: str, change: Any) -> Path:
    """A copy in which the JSON of a file is another one."""
    shutil.copytree(honest, folder / "copy")
    version = version_of(folder / "copy")
    data = json.loads((version / name).read_text())
    change(data)
    text = json.dumps(data)
    (version / name).write_text(text)
    sums = json.loads((version / folders.CHECKSUMS).read_text()) | {name: sum_of(text.encode())}
    (version / folders.CHECKSUMS).write_text(json.dumps(sums))
    return folder / "copy"


ENDLESS = {"num_hidden_layers": 1 << 20, "hidden_size": 8, "num_attention_heads": 1, "vocab_size": 9}


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({"source": "import", "name": "os:system", "arguments": {"command": "touch hacked"}}, "may run any code"),
        ({"arguments": {"weights": "DEFAULT"}}, "may not be given"),
        ({"arguments": {"num_classes": 1 << 40}}, "may not be given"),
        ({"name": "resnet18"}, "is not of this ResNet"),
        ({"name": "no_such"}, "torchvision has no model 'no_such'"),
        ({"source": "somewhere"}, "'somewhere', which is not known"),
        ({"source": "timm", "name": "hf-hub:someone/model"}, "timm has no model 'hf-hub:someone/model'"),
        ({"source": "timm", "name": "resnet18", "arguments": {"checkpoint_path": "/tmp/x"}}, "may not be given"),
        ({"source": "transformers", "name": "AutoModel", "arguments": {"config": {}}}, "no model class 'AutoModel'"),
        ({"source": "transformers", "name": "LlamaModel"}, "configuration of the model is missing"),
        (
            {"source": "transformers", "name": "LlamaModel", "arguments": {"config": {"auto_map": {"a": "b"}}}},
            "has an entry 'auto_map'",
        ),
        (
            {"source": "transformers", "name": "LlamaModel", "arguments": {"config": {}, "attention": "a/kernel"}},
            "'a/kernel' is no way to compute attention",
        ),
        (
            {"source": "transformers", "name": "LlamaModel", "arguments": {"config": {"num_hidden_layers": 1 << 30}}},
            "'num_hidden_layers' of 1073741824",
        ),
        (
            {"source": "transformers", "name": "LlamaModel", "arguments": {"config": ENDLESS}},
            "has more than [0-9]+ modules",
        ),
        ({"arguments": {"num_classes": float("nan")}}, "a number that is none"),
    ],
)
def test_a_bundle_cannot_run_anything(tmp_path: Path, honest: Path, architecture: dict[str, Any], message: str) -> None:
    folder = rewritten(tmp_path, honest, "bundle.json", lambda data: data["architecture"].update(architecture))
    with pytest.raises(LoadError, match=message):
        graphprune.load(folder)
    assert not Path("hacked").exists()


def change_size(data: Any) -> None:
    data["sizes"]["training"] = 1


def many_indices(data: Any) -> None:
    data["shapes"]["features.0.weight"][0] = 1 << 30
    data["kept"]["features.0.weight"]["0"] = f"0-{(1 << 26) - 100_000}"


def endless_module(data: Any) -> None:
    data["structure"]["modules"][1]["children"] = {"again": ""}


def setting(name: str, value: Any) -> Callable[[Any], None]:
    return lambda data: data["structure"]["modules"][0].update(objects={"config": {name: value}})


def other_file(data: Any) -> None:
    data["../../../etc/passwd"] = data["plan-0.json"]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("plan-0.json", change_size, "'training' is a bool, and the plan changes an integer"),
        ("plan-0.json", many_indices, "indices, more than weights of [0-9]+ bytes can need"),
        ("bundle.json", endless_module, "a module holds itself"),
        ("bundle.json", lambda data: data["structure"]["tensors"].clear(), "holds '.*', which is not there"),
        ("bundle.json", setting("auto_map", {"keys": [], "values": []}), "'auto_map' is no name of a setting"),
        ("bundle.json", setting("inner", {"object": {"__class__": 1}}), "'__class__' is no name of a setting"),
        ("bundle.json", setting("sizes", {"keys": [[1]], "values": [1]}), "is no key"),
        ("bundle.json", setting("sizes", {"tuple": 1}), "is no setting"),
        ("bundle.json", setting("inner", {"object": 1}), "are no settings"),
        ("bundle.json", lambda data: data.update(plans=7), "does not hold the 7 plans"),
        ("bundle.json", lambda data: data.update(format=99), "bundle format '99'; this version reads format 1"),
        ("checksums.json", other_file, "is no name of a file in it"),
    ],
)
def test_hostile_files(tmp_path: Path, honest: Path, name: str, change: Any, message: str) -> None:
    folder = rewritten(tmp_path, honest, name, change)
    with pytest.raises(LoadError, match=message):
        graphprune.load(folder)
