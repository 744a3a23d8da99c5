"""Slim models as checkpoints that Transformers loads as any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import graphprune
from benchmarks.export_huggingface import round_trips
from benchmarks.families import family, inputs_for
from benchmarks.folder_reading import passed
from graphprune import ExportError, InputError, TraceError


@pytest.fixture(autouse=True)
def _quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def _slim(name: str, **asked: Any) -> nn.Module:
    dense = family(name)
    return graphprune.trace(dense).plan(**asked).apply(dense)


def _logits(model: nn.Module, name: str) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs_for(name)).logits


def test_transformers_alone_reads_uniform_models() -> None:
    found = round_trips(["llama"], ["macs 0.5"])
    assert len(found) == 1
    assert all(map(passed, found)), found


def test_half_of_every_layer_is_uniform_without_asking(tmp_path: Path) -> None:
    slim = _slim("bert", ratio=0.5)
    assert (slim.config.hidden_size, slim.config.num_attention_heads, slim.config.intermediate_size) == (32, 4, 48)
    slim.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert torch.equal(_logits(loaded, "bert"), _logits(slim, "bert"))


def test_a_compiled_model_is_written_as_the_one_within(tmp_path: Path) -> None:
    slim = _slim("bert", ratio=0.5)
    graphprune.save_pretrained(torch.compile(slim), tmp_path)
    loaded = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert torch.equal(_logits(loaded, "bert"), _logits(slim, "bert"))


def test_layers_that_differ_need_remote_code(tmp_path: Path) -> None:
    slim = _slim("llama", macs=0.5)
    with pytest.raises(ExportError, match=r"^slim: .* dimension \d of model.*[\s\S]*plan with layers='equal'"):
        graphprune.save_pretrained(slim, tmp_path / "slim", remote_code=False)
    assert not list(tmp_path.iterdir())
    graphprune.save_pretrained(slim, tmp_path / "slim")
    auto = transformers.AutoModelForCausalLM
    loaded = auto.from_pretrained(tmp_path / "slim", trust_remote_code=True)
    assert torch.equal(_logits(loaded, "llama"), _logits(slim, "llama"))
    graphprune.save_pretrained(loaded, tmp_path / "again")
    again = auto.from_pretrained(tmp_path / "again", trust_remote_code=True)
    assert torch.equal(_logits(again, "llama"), _logits(slim, "llama"))
    slim.save_pretrained(tmp_path / "plain")
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        auto.from_pretrained(tmp_path / "plain")


def test_outputs_are_compared_on_inputs_that_are_given_where_none_are_guessed(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.ClapConfig(
        text_config={"vocab_size": 60, "intermediate_size": 24, "projection_dim": 32, **sizes},
        audio_config={"spec_size": 64, "num_mel_bins": 16, "window_size": 4, "depths": [1], "num_attention_heads": [2]}
        | {"patch_embeds_hidden_size": 16, "hidden_size": 16, "projection_dim": 32, "enable_fusion": False},
        projection_dim=32,
    )
    torch.manual_seed(0)
    dense = transformers.ClapModel(config).eval()
    inputs = {"input_ids": torch.arange(2, 14).reshape(2, 6), "input_features": torch.randn(2, 1, 256, 16)}
    slim = graphprune.trace(dense, inputs).plan(0.5, importance="random").apply(dense)
    with pytest.raises(InputError, match="no guessed example inputs fit"):
        graphprune.save_pretrained(slim, tmp_path / "slim")
    graphprune.save_pretrained(slim, tmp_path / "slim", example_inputs=inputs)
    loaded = transformers.AutoModel.from_pretrained(tmp_path / "slim", trust_remote_code=True)
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits_per_audio, slim(**inputs).logits_per_audio)


@pytest.mark.parametrize("unfit", [torch.zeros(2, 3), {"ids": torch.ones(2, 3, dtype=torch.long)}])
def test_inputs_on_which_outputs_cannot_be_compared_are_refused_as_by_trace(unfit: Any, tmp_path: Path) -> None:
    slim = _slim("llama", macs=0.5)
    with pytest.raises(TraceError, match="failed on example_inputs of shape") as traced:
        graphprune.trace(slim, unfit)
    with pytest.raises(TraceError) as raised:
        graphprune.save_pretrained(slim, tmp_path / "slim", example_inputs=unfit)
    assert raised.value.what == traced.value.what
    assert not list(tmp_path.iterdir())


def test_inputs_that_are_none_are_refused_where_nothing_is_compared(tmp_path: Path) -> None:
    slim = _slim("llama", ratio=0.5, layers="equal")
    with pytest.raises(InputError, match="example_inputs: is an empty list"):
        graphprune.save_pretrained(slim, tmp_path / "slim", example_inputs=[])
    assert not list(tmp_path.iterdir())


def test_a_width_that_scales_embeddings_is_not_passed_off(tmp_path: Path) -> None:
    slim = _slim("gemma3", width=0.5)
    assert slim.model.embed_tokens.weight.shape[1] == 32
    assert slim.config.hidden_size == 64
    with pytest.raises(ExportError, match=r"dimension 1 of model\.embed_tokens\.weight is 32, and 64"):
        graphprune.save_pretrained(slim, tmp_path / "slim", remote_code=False)


def test_fewer_layers_are_numbered_anew(tmp_path: Path) -> None:
    slim = _slim("gemma3", depth=0.4, ratio=0.5, layers="equal")
    graphprune.save_pretrained(slim, tmp_path / "slim")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "slim")
    assert (loaded.config.num_hidden_layers, len(loaded.config.layer_types)) == (2, 2)
    assert torch.equal(_logits(loaded, "gemma3"), _logits(slim, "gemma3"))


def test_layers_that_return_tuples_are_numbered_anew(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.BloomConfig(vocab_size=96, hidden_size=32, n_layer=3, n_head=4)
    model, ids = transformers.BloomForCausalLM(config).eval(), torch.arange(3, 15)[None]
    slim: Any = graphprune.trace(model, ids).plan(depth=0.4).apply(model)
    graphprune.save_pretrained(slim, tmp_path / "slim", processing=None)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "slim")
    assert loaded.config.n_layer == 2
    with torch.no_grad():
        assert torch.equal(loaded.eval()(ids).logits, slim(ids).logits)


def test_the_layers_of_a_stage_are_counted_in_a_list(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[2, 2], num_stages=2, num_labels=5)
    model, x = transformers.ConvNextForImageClassification(config).eval(), torch.randn(1, 3, 32, 32)
    slim: Any = graphprune.trace(model, x).plan(depth=0.25).apply(model)
    graphprune.save_pretrained(slim, tmp_path / "slim", processing=None)
    loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "slim")
    assert sorted(loaded.config.depths) == [1, 2] and loaded.config.hidden_sizes == [8, 16]
    with torch.no_grad():  # some processors add up otherwise where weights lie elsewhere in memory
        torch.testing.assert_close(loaded.eval()(x).logits, slim(x).logits)


def test_a_part_of_a_layer_cannot_be_left_out(tmp_path: Path) -> None:
    slim = _slim("t5", depth=0.3, layers="equal")
    with pytest.raises(ExportError, match=r"was left out .* builds no such model from a configuration"):
        graphprune.save_pretrained(slim, tmp_path / "slim", remote_code=False)


def test_query_heads_of_shared_keys_and_untouched_configurations(tmp_path: Path) -> None:
    dense = family("llama")
    slim = graphprune.trace(dense, inputs_for("llama")).plan(heads=0.5, layers="equal").apply(dense)
    assert (slim.config.num_attention_heads, slim.config.num_key_value_heads) == (4, 4)
    assert {layer.self_attn.num_key_value_groups for layer in slim.model.layers} == {1}
    assert dense.config.num_attention_heads == 8
    assert slim.model.layers[0].self_attn.config is slim.config
    graphprune.save_pretrained(slim, tmp_path / "slim")


def test_files_of_tokenizers_come_along(tmp_path: Path) -> None:
    source = tmp_path / "dense"
    family("bert").save_pretrained(source)
    for name in ("tokenizer_config.json", "vocab.txt", "notes.bin"):
        (source / name).write_text("{}")
    dense = transformers.AutoModelForMaskedLM.from_pretrained(source)
    slim = graphprune.prune_model(dense, 0.5, inputs_for("bert"), layers="equal")
    graphprune.save_pretrained(slim, tmp_path / "slim")
    names = {path.name for path in (tmp_path / "slim").iterdir()}
    assert {"tokenizer_config.json", "vocab.txt", "config.json", "model.safetensors"} <= names
    assert "notes.bin" not in names
    assert json.loads((tmp_path / "slim" / "config.json").read_text())["hidden_size"] == 32
    with pytest.raises(InputError, match="holds what graphprune did not write"):
        graphprune.save_pretrained(slim, source)


def test_checkpoints_of_a_trainer_are_read(tmp_path: Path) -> None:
    slim = _slim("bert", params=0.6, layers="equal")
    data = [{"input_ids": row, "labels": row} for row in inputs_for("bert")["input_ids"]]
    options = {"max_steps": 2, "save_steps": 1, "report_to": [], "use_cpu": True, "disable_tqdm": True}
    arguments = transformers.TrainingArguments(str(tmp_path), **options)
    trainer = transformers.Trainer(slim, arguments, train_dataset=data)
    trainer.train()
    loaded = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "checkpoint-2")
    assert torch.equal(_logits(loaded, "bert"), _logits(slim.eval(), "bert"))
    again = transformers.Trainer(_slim("bert", params=0.6, layers="equal"), arguments, train_dataset=data)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert torch.equal(_logits(again.model.eval(), "bert"), _logits(slim, "bert"))


def test_other_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model of Transformers"):
        graphprune.save_pretrained(nn.Linear(2, 2), tmp_path / "slim")


def test_fields_that_have_the_value_of_a_size_by_chance_stay() -> None:
    for ratio in (0.3, 0.5):
        config = _slim("llama", ratio=ratio, layers="equal").config
        assert (config.hidden_size < 64, config.max_position_embeddings) == (True, 64)


@pytest.mark.parametrize("size", [-1, 0, 1.5, "5 parsecs", "x", ".GB", "9" * 400 + "GB", None])
def test_a_size_of_files_that_is_none(size: Any, tmp_path: Path) -> None:
    model = family("llama")
    for write in (graphprune.save_pretrained, graphprune.export_deci):
        with pytest.raises(InputError, match="max_shard_size: must be a number of bytes"):
            write(model, tmp_path / "slim", max_shard_size=size)  # type: ignore[operator]
    assert not list(tmp_path.iterdir())


def test_a_size_of_files_as_every_function_takes_it(tmp_path: Path) -> None:
    graphprune.save_pretrained(_slim("llama", ratio=0.5), tmp_path / "slim", max_shard_size="10 kb", processing=None)
    assert len(list((tmp_path / "slim").glob("*.safetensors"))) > 1
