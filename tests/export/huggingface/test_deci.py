"""Folders of the architecture DeciLM: what servers read in them, by the meaning of the fields in their sources."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

import graphprune
from benchmarks.common import enliven
from graphprune.errors import ExportError
from tests.branches import plan_without

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
TOKENS = torch.arange(14).view(2, 7) + 3


def llama(**fields: Any) -> Any:
    model = LlamaForCausalLM(LlamaConfig(**(SIZES | fields))).eval()
    enliven(model)
    return model


def pruned(model: nn.Module, **options: Any) -> Any:
    return graphprune.trace(model).plan(**options).apply(model)


class Server:
    """A reader in plain torch that takes fields of config.json as vLLM's ``nemotron_nas.py`` does."""

    def __init__(self, folder: Path) -> None:
        self.config = json.loads((folder / "config.json").read_text())
        self.weights = load_file(folder / "model.safetensors")
        self.head_dim = self.config["head_dim"]

    def logits(self, tokens: Tensor) -> Tensor:
        x = self.weights["model.embed_tokens.weight"][tokens]
        for index, block in enumerate(self.config["block_configs"]):
            prefix = f"model.layers.{index}."
            if not block["attention"]["no_op"]:
                x = x + self.attention(self.norm(x, prefix + "input_layernorm"), prefix + "self_attn.", block)
            if not block["ffn"]["no_op"]:
                x = x + self.ffn(self.norm(x, prefix + "post_attention_layernorm"), prefix + "mlp.", block)
        head = "model.embed_tokens" if self.config["tie_word_embeddings"] else "lm_head"
        return self.norm(x, "model.norm") @ self.weights[head + ".weight"].T

    def norm(self, x: Tensor, name: str) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weights[name + ".weight"], self.config["rms_norm_eps"])

    def linear(self, x: Tensor, name: str, rows: int, bias: bool) -> Tensor:
        weight = self.weights[name + ".weight"]
        assert weight.shape == (rows, x.shape[-1])
        return F.linear(x, weight, self.weights[name + ".bias"] if bias else None)

    def attention(self, x: Tensor, prefix: str, block: dict[str, Any]) -> Tensor:
        heads = self.config["num_attention_heads"]
        kv_heads = heads // block["attention"]["n_heads_in_group"]
        bias = self.config.get("qkv_bias", self.config["attention_bias"])
        counts = {"q_proj": heads, "k_proj": kv_heads, "v_proj": kv_heads}
        q, k, v = (
            self.linear(x, prefix + name, count * self.head_dim, bias).unflatten(-1, (count, -1)).transpose(1, 2)
            for name, count in counts.items()
        )
        q, k = self.rotated(q), self.rotated(k)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2).flatten(2)
        return self.linear(y, prefix + "o_proj", x.shape[-1], self.config["attention_bias"])

    def rotated(self, x: Tensor) -> Tensor:
        """Neox style: the halves of a head are the two parts of a rotation."""
        theta = self.config["rope_parameters"]["rope_theta"]
        frequencies = theta ** -(torch.arange(0, self.head_dim, 2) / self.head_dim)
        angles = torch.arange(x.shape[2])[:, None] * frequencies
        one, other = x.chunk(2, -1)
        return torch.cat((one * angles.cos() - other * angles.sin(), other * angles.cos() + one * angles.sin()), -1)

    def ffn(self, x: Tensor, prefix: str, block: dict[str, Any]) -> Tensor:
        if "ffn_mult" in block["ffn"]:
            inner = int(2 * block["ffn"]["ffn_mult"] * self.config["hidden_size"] / 3)
            inner = inner if inner % 256 == 0 else inner + 256 - inner % 256
        else:
            inner = block["ffn"]["intermediate_size"]
        bias = self.config["mlp_bias"]
        gate, up = (self.linear(x, prefix + name, inner, bias) for name in ("gate_proj", "up_proj"))
        return self.linear(F.silu(gate) * up, prefix + "down_proj", x.shape[-1], bias)


def assert_served(slim: Any, folder: Path) -> dict[str, Any]:
    """The reader works out the same logits; returns the configuration."""
    server = Server(folder)
    with torch.no_grad():
        torch.testing.assert_close(server.logits(TOKENS), slim(input_ids=TOKENS).logits, rtol=1e-4, atol=1e-5)
    return dict(server.config)


def test_inner_widths_differ_and_heads_are_equal(tmp_path: Path) -> None:
    slim = pruned(llama(), macs=0.6, serve="vllm", importance="random", seed=4)
    graphprune.export_deci(slim, tmp_path / "slim")
    config = assert_served(slim, tmp_path / "slim")
    widths = [block["ffn"]["intermediate_size"] for block in config["block_configs"]]
    assert widths == [layer.mlp.up_proj.out_features for layer in slim.model.layers]
    assert len(set(widths)) > 1 and not any(width % 32 for width in widths)
    assert config["architectures"] == ["DeciLMForCausalLM"] and config["model_type"] == "nemotron-nas"


def test_a_compiled_model_is_written_as_it_was_before(tmp_path: Path) -> None:
    slim = pruned(llama(), macs=0.6, serve="vllm", importance="random", seed=4)
    graphprune.export_deci(torch.compile(slim), tmp_path / "slim")
    assert_served(slim, tmp_path / "slim")


def test_key_value_heads_may_differ(tmp_path: Path) -> None:
    model = llama()
    other = copy.deepcopy(model.config)
    other.num_key_value_heads = 2
    model.model.layers[1] = LlamaDecoderLayer(other, 1).eval()
    graphprune.export_deci(model, tmp_path / "slim")
    config = assert_served(model, tmp_path / "slim")
    assert [block["attention"]["n_heads_in_group"] for block in config["block_configs"]] == [2, 4, 2]
    with pytest.raises(ExportError, match="key/value heads, and sglang takes one number"):
        graphprune.export_deci(model, tmp_path / "other", serve="sglang")


def test_a_written_folder_has_no_bytecode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    graphprune.export_deci(pruned(llama(), params=0.5, serve="vllm"), tmp_path / "slim")
    assert all(path.is_file() for path in (tmp_path / "slim").iterdir())


def test_biases_of_qwen(tmp_path: Path) -> None:
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES)).eval()
    enliven(model)
    slim = pruned(model, params=0.5, serve="vllm")
    graphprune.export_deci(slim, tmp_path / "slim")
    config = assert_served(slim, tmp_path / "slim")
    assert config["qkv_bias"] and not config["attention_bias"]


def test_layers_left_out_and_tied_embeddings(tmp_path: Path) -> None:
    slim = pruned(llama(tie_word_embeddings=True), depth=0.4, mlp=0.25, serve="vllm")
    graphprune.export_deci(slim, tmp_path / "slim")
    config = assert_served(slim, tmp_path / "slim")
    assert sum(block["attention"]["no_op"] for block in config["block_configs"]) == 1


@pytest.mark.parametrize("serve", ["vllm", "tensorrt_llm"])
def test_attention_and_mlp_left_out_alone(serve: str, tmp_path: Path) -> None:
    dense = llama(num_hidden_layers=4, intermediate_size=768, tie_word_embeddings=True)
    graph = graphprune.trace(dense)
    paths = ("model.layers.1.self_attn", "model.layers.2.mlp", "model.layers.3.self_attn", "model.layers.3.mlp")
    slim = plan_without(graph, *paths, params=0.6, serve=serve).apply(dense)
    graphprune.export_deci(slim, tmp_path / "slim", serve=serve)
    config = assert_served(slim, tmp_path / "slim")
    parts = [(not block["attention"]["no_op"], not block["ffn"]["no_op"]) for block in config["block_configs"]]
    assert parts == [(True, True), (False, True), (True, False), (False, False)]
    assert not any("layers.3." in name for name in load_file(tmp_path / "slim" / "model.safetensors"))


def test_widths_of_servers_that_work_them_out(tmp_path: Path) -> None:
    slim = pruned(llama(intermediate_size=768), params=0.6, serve="tensorrt_llm", importance="random")
    graphprune.export_deci(slim, tmp_path / "slim", serve="tensorrt_llm")
    config = assert_served(slim, tmp_path / "slim")
    assert all("intermediate_size" not in block["ffn"] for block in config["block_configs"])


def test_transformers_loads_the_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    slim = pruned(llama(), params=0.5, serve="vllm")
    graphprune.export_deci(slim, tmp_path / "slim")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "slim", trust_remote_code=True)
    loaded.save_pretrained(tmp_path / "again")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again", trust_remote_code=True)
    for options in ({}, {"cache_implementation": "static"}):
        tokens = [m.generate(TOKENS, max_new_tokens=5, do_sample=False, **options) for m in (slim, loaded, again)]
        assert torch.equal(tokens[0], tokens[1]) and torch.equal(tokens[0], tokens[2])


def test_what_the_format_cannot_say_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="is no multiple of 256"):
        graphprune.export_deci(pruned(llama(), mlp=0.5), tmp_path / "slim", serve="sglang")
    with pytest.raises(ExportError, match="are not shared by 4 devices"):
        graphprune.export_deci(pruned(llama(), kv_groups=0.25), tmp_path / "slim", tensor_parallel=4)
    model = llama()
    other = LlamaConfig(**(SIZES | {"num_attention_heads": 4, "head_dim": 16}))
    model.model.layers[1] = LlamaDecoderLayer(other, 1).eval()
    with pytest.raises(ExportError, match="8, 4 query heads, and vllm takes one number"):
        graphprune.export_deci(model, tmp_path / "slim")
    with pytest.raises(ExportError, match="not the layers of a Llama"):
        graphprune.export_deci(
            transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=1, n_embd=8, n_head=2)), tmp_path / "x"
        )
    window = transformers.MistralConfig(**(SIZES | {"sliding_window": 4}))
    with pytest.raises(ExportError, match="the last 4 tokens only"):
        graphprune.export_deci(transformers.MistralForCausalLM(window), tmp_path / "slim")
    assert not list(tmp_path.iterdir())
