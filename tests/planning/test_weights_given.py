"""Weights that are given beside a model on meta: the plan is that of the model that has them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import graphprune
from graphprune.errors import InputError, LoadError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 12)
        self.up, self.norm, self.down = nn.Linear(12, 16), nn.LayerNorm(12), nn.Linear(16, 12)
        self.head = nn.Linear(12, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(self.norm(x + self.down(self.up(x).relu())))


X = torch.arange(6).view(1, 6)


def on_meta(model: nn.Module) -> nn.Module:
    made = copy.deepcopy(model).to("meta")
    made.head.weight = made.embed.weight  # type: ignore[union-attr]
    return made


def folder_of(model: nn.Module, tmp_path: Path) -> Path:
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "embed.weight"}
    save_file(state, tmp_path / "model.safetensors")
    return tmp_path


FORMS: dict[str, Callable[[Path], Any]] = {
    "folder": lambda folder: folder,
    "text": str,
    "opened file": lambda folder: safe_open(folder / "model.safetensors", "pt"),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_plan_is_that_of_the_loaded_model(form: str, tmp_path: Path) -> None:
    dense = Net()
    weights = FORMS[form](folder_of(dense, tmp_path))
    plan = graphprune.trace(on_meta(dense), X).plan(0.5, weights=weights)
    assert plan.removed == graphprune.trace(dense, X).plan(0.5).removed


@pytest.mark.parametrize("importance", ["l1", "lamp", "fpgm", "bn_scale", "random"])
def test_criteria_read_weights_from_a_mapping(importance: str) -> None:
    dense = Net()
    with torch.no_grad():
        dense.norm.weight.uniform_()
    asked: Any = {"ratio": 0.5, "importance": importance}
    plan = graphprune.trace(on_meta(dense), X).plan(weights=dense.state_dict(), **asked)
    assert plan.removed == graphprune.trace(dense, X).plan(**asked).removed


@pytest.mark.parametrize("importance", ["wanda", "schur"])
def test_criteria_that_read_data_run_a_model_with_the_weights(importance: str) -> None:
    dense = Net()
    asked: Any = {"ratio": 0.5, "importance": importance, "calibration": [X, X.flip(1)]}
    plan = graphprune.trace(on_meta(dense), X).plan(weights=dense.state_dict(), **asked)
    assert plan.removed == graphprune.trace(dense, X).plan(**asked).removed


class Masked(Net):
    """The weights that make channels are masked by a buffer."""

    def __init__(self, persistent: bool = True) -> None:
        super().__init__()
        self.register_buffer("mask", torch.rand(16, 12) > torch.linspace(0, 1, 16)[:, None], persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        h = nn.functional.linear(x, self.up.weight * self.mask, self.up.bias)
        return self.head(self.norm(x + self.down(h.relu())))


@pytest.mark.parametrize("form", FORMS)
def test_masks_among_the_weights_are_those_of_the_loaded_model(form: str, tmp_path: Path) -> None:
    dense = Masked()
    weights = FORMS[form](folder_of(dense, tmp_path))
    traced = graphprune.trace(on_meta(dense), X)
    plan = traced.plan(mlp=0.5, weights=weights)
    assert plan.removed == graphprune.trace(dense, X).plan(mlp=0.5).removed
    without = traced.plan(mlp=0.5, weights={**dense.state_dict(), "mask": torch.ones_like(dense.mask)})
    assert plan.removed != without.removed


def test_masks_that_nothing_has_are_left_out() -> None:
    dense = Masked(persistent=False)
    plan = graphprune.trace(on_meta(dense), X).plan(mlp=0.5, weights=dense.state_dict())
    dense.mask.fill_(True)
    assert plan.removed == graphprune.trace(dense, X).plan(mlp=0.5).removed


def test_tensors_are_read_one_after_the_other() -> None:
    dense = Net()
    read: list[str] = []

    class Noted(Mapping[str, Tensor]):
        def __getitem__(self, name: str) -> Tensor:
            read.append(name)
            return dense.state_dict()[name]

        def __iter__(self) -> Any:
            return iter(dense.state_dict())

        def __len__(self) -> int:
            return len(dense.state_dict())

        def __contains__(self, name: object) -> bool:
            return name in dense.state_dict()

    graphprune.trace(on_meta(dense), X).plan(0.5, weights=Noted())
    assert sorted(read) == sorted(name for name, _ in dense.named_parameters())


def test_a_slim_model_on_meta_is_made_of_one() -> None:
    dense = Net()
    slim = graphprune.prune_model(on_meta(dense), 0.5, X, weights=dense.state_dict())
    expected = graphprune.prune_model(dense, 0.5, X)
    assert {n: t.shape for n, t in slim.state_dict().items()} == {n: t.shape for n, t in expected.state_dict().items()}
    assert all(parameter.is_meta for parameter in slim.parameters())


def state(**changed: Tensor) -> dict[str, Tensor]:
    return {**Net().state_dict(), **changed}


def test_wrong_weights_are_refused(tmp_path: Path) -> None:
    graph = graphprune.trace(on_meta(Net()), X)
    lacking = {name: tensor for name, tensor in state().items() if name != "up.weight"}
    with pytest.raises(InputError, match=r"weights: has no 'up.weight', a parameter of the model .* on the meta"):
        graph.plan(0.5, weights=lacking)
    with pytest.raises(InputError, match=r"weights: 'up.weight' has shape \[3, 3\], and \[16, 12\] in the model"):
        graph.plan(0.5, weights=state(**{"up.weight": torch.zeros(3, 3)}))
    with pytest.raises(InputError, match=r"weights: .*nowhere is no folder"):
        graph.plan(0.5, weights=tmp_path / "nowhere")
    with pytest.raises(LoadError, match=r"has neither model.safetensors nor"):
        graph.plan(0.5, weights=tmp_path)
    wrong: Any = 3
    with pytest.raises(InputError, match="weights: must be a folder or tensors by name, but is 3"):
        graph.plan(0.5, weights=wrong)
    with pytest.raises(InputError, match="weights: given with a model that has weights already"):
        graphprune.trace(Net(), X).plan(0.5, weights=state())


def test_buffers_that_no_checkpoint_has_are_made_as_the_class_makes_them(tmp_path: Path) -> None:
    """The frequencies of rotary embeddings: ``persistent=False``."""
    config = transformers.LlamaConfig(
        vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, rope_theta=50.0
    )
    torch.manual_seed(0)
    dense = transformers.LlamaForCausalLM(config).eval()
    dense.save_pretrained(tmp_path)
    inputs = {"input_ids": torch.arange(6)[None]}
    asked: dict[str, Any] = {"ratio": 0.5, "importance": "wanda", "calibration": [inputs]}
    with torch.device("meta"):
        meta = transformers.LlamaForCausalLM(config).eval()
    plan = graphprune.trace(meta, inputs).plan(weights=tmp_path, **asked)
    assert plan.removed == graphprune.trace(dense, inputs).plan(**asked).removed
    assert meta.model.rotary_emb.inv_freq.is_meta


class Shifted(Net):
    """Its table is in no state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(12), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.table
        return self.head(self.norm(x + self.down(self.up(x).relu())))


def test_buffers_that_no_checkpoint_has_and_nothing_makes() -> None:
    dense = Shifted()
    asked: dict[str, Any] = {"ratio": 0.5, "importance": "wanda", "calibration": [X], "weights": dense.state_dict()}
    meta = on_meta(dense)
    with pytest.raises(InputError, match=r"no 'table', a buffer that no state dict has[\s\S]*with its values before"):
        graphprune.trace(meta, X).plan(**asked)
    meta.table = dense.table
    del asked["weights"]
    expected = graphprune.trace(dense, X).plan(**asked).removed
    assert graphprune.trace(meta, X).plan(weights=dense.state_dict(), **asked).removed == expected


class Classifier(transformers.LlamaForCausalLM):
    """Its constructor asks for more than a configuration."""

    def __init__(self, config: transformers.LlamaConfig, classes: int) -> None:
        super().__init__(config)
        self.classes = nn.Linear(99, classes)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.classes(super().forward(input_ids=input_ids).logits)  # type: ignore[no-any-return]


def test_a_class_that_no_configuration_alone_makes() -> None:
    config = transformers.LlamaConfig(
        vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    given, ids = Classifier(config, 3).state_dict(), torch.arange(6)[None]
    with torch.device("meta"):
        meta = Classifier(config, 3).eval()
    with pytest.raises(InputError, match=r"no 'model.rotary_emb.inv_freq'[\s\S]*with its values before"):
        graphprune.trace(meta, ids).plan(0.5, weights=given, importance="wanda", calibration=[ids])
