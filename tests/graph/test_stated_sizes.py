"""Widths that a model states beside exchangeable parts stay; the rest of it is pruned."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune


class Adapted(nn.Module):
    """A linear layer with branches of low rank, by name."""

    def __init__(self, base: nn.Linear, **ranks: int) -> None:
        super().__init__()
        self.base = base
        self.rank = ranks
        self.down = nn.ModuleDict({n: nn.Linear(base.in_features, r, bias=False) for n, r in ranks.items()})
        self.up = nn.ModuleDict({n: nn.Linear(r, base.out_features, bias=False) for n, r in ranks.items()})

    def forward(self, x: Tensor) -> Tensor:
        result = self.base(x)
        for name, down in self.down.items():
            result = result + self.up[name](down(x))
        return result


class Reading(Adapted):
    """The same; forward reads the numbers, so that they follow."""

    def forward(self, x: Tensor) -> Tensor:
        result = self.base(x)
        for name, down in self.down.items():
            result = result + self.up[name](down(x).view(-1, self.rank[name]))
        return result


def net(kind: type[Adapted] = Adapted) -> nn.Module:
    return nn.Sequential(kind(nn.Linear(8, 32), a=6, b=4), nn.ReLU(), nn.Linear(32, 5)).eval()


def test_stated_ranks_stay() -> None:
    model = net()
    graph = graphprune.trace(model, torch.randn(3, 8))
    slim = graph.plan(0.5).apply(model)
    assert slim[0].base.weight.shape == (16, 8)
    assert [layer.weight.shape for layer in slim[0].up.values()] == [(16, 6), (16, 4)]
    assert slim[0].rank == {"a": 6, "b": 4}
    reasons = {frozen.axis: frozen.reason for frozen in graph.frozen}
    assert reasons["0.down.a.weight[0]"].startswith("stated by 0.rank['a'], which forward does not read")


def test_ranks_that_forward_reads_follow() -> None:
    slim = graphprune.prune_model(net(Reading), 0.5, torch.randn(3, 8))
    assert slim[0].rank == {"a": 3, "b": 2}
    assert slim[0].down["a"].weight.shape == (3, 8)


def test_equal_numbers_elsewhere_mean_nothing() -> None:
    """The width of the whole model is not within the parts."""
    model = net()
    model[0].rank = {"a": 32, "b": 99}
    slim = graphprune.prune_model(model, 0.5, torch.randn(3, 8))
    assert slim[0].base.weight.shape == (16, 8)
    assert slim[0].down["b"].weight.shape == (2, 8)


# ---------------------------------------------------------------- adapters of peft


def llama() -> Any:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(vocab_size=60, intermediate_size=64, **sizes)
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).eval()


def adapted(**options: Any) -> Any:
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(llama(), peft.LoraConfig(r=4, init_lora_weights=False, **options)).eval()


quietly = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
IDS = torch.arange(3, 15)[None]


@quietly
@pytest.mark.parametrize("options", [{"target_modules": ["q_proj", "down_proj"]}, {"target_modules": "all-linear"}])
def test_the_base_of_an_adapted_model_is_pruned(options: dict[str, Any], tmp_path: Any) -> None:
    """The rank stays, so that merging, saving and loading an adapter agree with its configuration."""
    peft = pytest.importorskip("peft")
    slim = graphprune.prune_model(adapted(**options), 0.5, {"input_ids": IDS})
    layer = slim.base_model.model.model.layers[0].self_attn.q_proj
    assert (layer.r["default"], layer.scaling["default"], slim.peft_config["default"].r) == (4, 2.0, 4)
    assert layer.lora_A["default"].weight.shape == (4, 16)
    assert (layer.in_features, layer.out_features) == (layer.base_layer.in_features, layer.base_layer.out_features)
    expected = slim(IDS).logits
    slim.save_pretrained(tmp_path)
    base = slim.unload()
    again = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    assert torch.equal(again(IDS).logits, expected)
    torch.testing.assert_close(again.merge_and_unload()(IDS).logits, expected)


@quietly
def test_all_adapters_that_are_active_follow() -> None:
    peft = pytest.importorskip("peft")
    model = adapted(target_modules=["q_proj", "down_proj"])
    model.add_adapter("other", peft.LoraConfig(r=2, init_lora_weights=False, target_modules=["v_proj", "down_proj"]))
    with pytest.warns(graphprune.UnreachedWarning, match=r"v_proj\.lora_B\.other\.weight"):
        graphprune.trace(model, {"input_ids": IDS}).plan(0.5)
    model.base_model.set_adapter(["default", "other"])
    plan = graphprune.trace(model, {"input_ids": IDS}).plan(0.5)
    slim = plan.apply(model)
    for name in ("default", "other"):
        for one in (model, slim):
            one.base_model.set_adapter(name)
        assert graphprune.verify(model, slim, plan, {"input_ids": IDS}).passed


@quietly
def test_an_adapter_of_the_dense_model_is_cut() -> None:
    peft = pytest.importorskip("peft")
    model = adapted(target_modules=["q_proj"])
    plan = graphprune.trace(model, {"input_ids": IDS}).plan(0.5)
    slim = plan.apply(model)
    state = peft.get_peft_model_state_dict(model)
    cut = plan.apply_to_state_dict(state, rename=lambda name: name.replace(".weight", ".default.weight"))
    found = peft.get_peft_model_state_dict(slim)
    assert cut.keys() == found.keys()
    assert all(torch.equal(cut[name], value) for name, value in found.items())
