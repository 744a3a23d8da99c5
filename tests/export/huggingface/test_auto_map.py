"""Folders that stock Transformers loads with ``trust_remote_code=True``: the same model, whatever its sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import graphprune
from benchmarks.export_auto_map import round_trips
from benchmarks.families import family, inputs_for
from benchmarks.folder_reading import passed
from graphprune.errors import ExportError, InputError
from graphprune.export.huggingface.auto_map import write_auto_map
from graphprune.export.huggingface.weight_files import TransformersFiles
from graphprune.tracing.configured import config_of
from tests.branches import plan_without


@pytest.fixture(autouse=True)
def modules_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code of folders is copied below the folder of the test."""
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))


def slim_family(name: str, **options: Any) -> nn.Module:
    dense = family(name)
    return graphprune.trace(dense).plan(**options).apply(dense)


def load(folder: Path, **options: Any) -> Any:
    auto = next(name for name in read_config(folder)["auto_map"] if name != "AutoConfig")
    return getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True, **options)


def read_config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def assert_equal(slim: nn.Module, loaded: nn.Module, name: str) -> None:
    with torch.no_grad():
        one, other = slim(**inputs_for(name)).logits, loaded(**inputs_for(name)).logits
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_a_process_without_graphprune_loads_the_same_models() -> None:
    """Logits, tokens with every cache, a copy saved again; benchmarks.export_auto_map has all families."""
    found = round_trips(["gpt2"], ("params",))
    assert all(map(passed, found)), found


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_buffers_of_a_model_that_was_cast_keep_their_values(kind: torch.dtype, tmp_path: Path) -> None:
    """The class makes frequencies of rotations in float32 whatever the type of the model."""
    dense = family("llama").to(kind)
    slim: Any = graphprune.trace(dense).plan(macs=0.5).apply(dense)
    write_auto_map(slim, tmp_path / "slim")
    loaded = load(tmp_path / "slim", dtype=kind)
    written, read = (model.model.rotary_emb.inv_freq for model in (slim, loaded))
    assert written.dtype == kind
    assert torch.equal(read.double(), written.double())
    assert_equal(slim, loaded, "llama")


def test_the_configuration_has_the_numbers_of_each_layer(tmp_path: Path) -> None:
    slim: Any = slim_family("gpt2", macs=0.5, importance="random", seed=3)
    write_auto_map(slim, tmp_path / "slim")
    config = read_config(tmp_path / "slim")
    heads = [block.attn.num_heads for block in slim.transformer.h]
    assert len(set(heads)) > 1
    assert [layer["n_head"] for layer in config["layer_sizes"]] == heads
    assert config["n_embd"] == slim.transformer.wte.weight.shape[1]
    assert config["slim_sizes"]["transformer.wte"]["weight"] == list(slim.transformer.wte.weight.shape)
    loaded = load(tmp_path / "slim")
    assert transformers.configuration_utils.get_head_shapes(loaded.config) == (heads, 8)


def test_narrower_heads_keep_their_frequencies_in_every_precision(tmp_path: Path) -> None:
    slim: Any = slim_family("llama", head_width=0.5)
    write_auto_map(slim, tmp_path / "slim")
    assert_equal(slim, load(tmp_path / "slim"), "llama")
    if int(transformers.__version__.split(".")[0]) < 5:
        pytest.skip("this version of Transformers casts buffers that a file holds")
    loaded = load(tmp_path / "slim", dtype=torch.bfloat16)
    frequencies = loaded.model.rotary_emb.inv_freq
    assert frequencies.dtype == torch.float32
    assert torch.equal(frequencies, slim.model.rotary_emb.inv_freq)


def test_nested_configurations(tmp_path: Path) -> None:
    slim: Any = slim_family("clip", macs=0.5)
    write_auto_map(slim, tmp_path / "slim")
    loaded = load(tmp_path / "slim")
    assert read_config(tmp_path / "slim")["dense_sizes"]["text_config"]
    with torch.no_grad():
        one, other = (model(**inputs_for("clip")).logits_per_image for model in (slim, loaded))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def llava() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A model of images and text, whose configuration has the sizes of each within."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    vision = {"model_type": "clip_vision_model", "image_size": 16, "patch_size": 8, **sizes, "num_hidden_layers": 2}
    text = {"model_type": "llama", "vocab_size": 64, "num_key_value_heads": 2, **sizes}
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_id=60)
    ids = torch.cat([torch.full((2, 4), 60), torch.arange(8).reshape(2, 4)], 1)
    torch.manual_seed(0)
    images = torch.randn(2, 3, 16, 16)
    return transformers.LlavaForConditionalGeneration(config).eval(), {"input_ids": ids, "pixel_values": images}


def test_the_configuration_within_has_the_numbers_of_the_text(tmp_path: Path) -> None:
    dense, inputs = llava()
    slim: Any = graphprune.trace(dense, inputs).plan(kv_groups=0.5, mlp=0.5).apply(dense)
    write_auto_map(slim, tmp_path / "slim")
    config = read_config(tmp_path / "slim")
    text, before = config["text_config"], config["dense_sizes"]["text_config"]
    names = ("num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size")
    assert [text[name] for name in names] == [2, 1, 8, 24]
    assert before == {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
    assert "head_dim" not in config
    loaded = load(tmp_path / "slim")
    assert loaded.config.text_config.num_key_value_heads == 1
    with torch.no_grad():
        torch.testing.assert_close(slim(**inputs).logits, loaded(**inputs).logits, rtol=0, atol=1e-6)
        words = [
            model.generate(**inputs, max_new_tokens=3, do_sample=False, pad_token_id=0) for model in (slim, loaded)
        ]
    assert torch.equal(*words)


def test_blocks_left_out_stay_out(tmp_path: Path) -> None:
    slim: Any = slim_family("llama", depth=0.4, mlp=0.3)
    write_auto_map(slim, tmp_path / "slim")
    loaded = load(tmp_path / "slim")
    assert read_config(tmp_path / "slim")["skipped_blocks"]
    assert_equal(slim, loaded, "llama")
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in slim.parameters())


def test_blocks_left_out_that_return_tuples(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"image_size": 16, "patch_size": 2, "embed_dim": 16, "window_size": 4}
    config = transformers.SwinConfig(depths=[2, 2], num_heads=[2, 2], num_labels=5, **sizes)
    model, x = transformers.SwinForImageClassification(config).eval(), torch.randn(1, 3, 16, 16)
    plan = graphprune.trace(model, x).plan(depth=0.25, mlp=0.3)
    slim: Any = plan.apply(model)
    write_auto_map(slim, tmp_path / "slim")
    assert read_config(tmp_path / "slim")["skipped_blocks"] == plan.results == dict.fromkeys(plan.skipped, 2)
    with torch.no_grad():  # some processors add up otherwise where weights lie elsewhere in memory
        torch.testing.assert_close(load(tmp_path / "slim")(x).logits, slim(x).logits)


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_branches_left_out_stay_out(name: str, tmp_path: Path) -> None:
    """Attention of one layer and MLP of another; a copy of the loaded model is written again."""
    dense = family(name)
    graph = graphprune.trace(dense)
    first, second = graph.branches[1].path, graph.branches[2].path
    slim: Any = plan_without(graph, first, second, params=0.7).apply(dense)
    graphprune.save_pretrained(slim, tmp_path / "slim")
    assert {first, second} <= read_config(tmp_path / "slim")["zeroed_modules"].keys()
    loaded = load(tmp_path / "slim")
    assert_equal(slim, loaded, name)
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in slim.parameters())
    loaded.save_pretrained(tmp_path / "again")
    assert_equal(slim, load(tmp_path / "again"), name)
    twice = graphprune.trace(loaded, inputs_for(name)).plan(mlp=0.3).apply(loaded)
    write_auto_map(twice, tmp_path / "twice")
    assert_equal(twice, load(tmp_path / "twice"), name)


def test_a_loaded_model_can_be_pruned_and_written_again(tmp_path: Path) -> None:
    write_auto_map(slim_family("bert", params=0.6), tmp_path / "once")
    loaded = load(tmp_path / "once")
    twice = graphprune.trace(loaded, inputs_for("bert")).plan(0.3).apply(loaded)
    write_auto_map(twice, tmp_path / "twice")
    assert_equal(twice, load(tmp_path / "twice"), "bert")


@pytest.mark.filterwarnings("ignore::graphprune.UnreachedWarning")
@pytest.mark.parametrize("options", [{"ratio": 0.3}, {"head_width": 0.4}, {"depth": 0.5}, {"mlp": 0.4}], ids=str)
def test_a_model_of_narrower_heads_can_be_pruned_and_written_again(options: dict[str, float], tmp_path: Path) -> None:
    """The frequencies of positions are saved with it, which the class makes itself; the loaded model is unchanged."""
    dense = family("llama")
    write_auto_map(graphprune.trace(dense).plan(head_width=0.4).apply(dense), tmp_path / "once")
    loaded = load(tmp_path / "once")
    saved = loaded.state_dict().keys()
    assert "model.rotary_emb.inv_freq" in saved
    twice = graphprune.trace(loaded, inputs_for("llama")).plan(**options).apply(loaded)
    graphprune.save_pretrained(twice, tmp_path / "twice")
    assert_equal(twice, load(tmp_path / "twice"), "llama")
    assert loaded.state_dict().keys() == saved
    assert "model.rotary_emb.inv_freq" in twice.state_dict()


def test_weights_in_shards_and_files_of_a_tokenizer(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("tokenizer.json", "config.json", "model.safetensors"):
        (source / name).write_text("{}")
    slim = slim_family("bert", params=0.5)
    write_auto_map(slim, tmp_path / "slim", processing=source, files=TransformersFiles("20KB"))
    names = {path.name for path in (tmp_path / "slim").iterdir()}
    assert "model.safetensors.index.json" in names and "tokenizer.json" in names
    assert (tmp_path / "slim" / "config.json").read_text() != "{}"
    assert_equal(slim, load(tmp_path / "slim"), "bert")


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    slim = slim_family("vit", params=0.5)
    folder = tmp_path / "slim"
    write_auto_map(slim, folder)
    write_auto_map(slim, folder)  # what graphprune wrote is replaced
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt is nothing that graphprune wrote"):
        write_auto_map(slim, folder)
    (folder / "notes.txt").unlink()
    (folder / "model.safetensors").write_bytes(b"trained further")
    with pytest.raises(InputError, match="was changed since graphprune wrote it"):
        write_auto_map(slim, folder)
    assert {path.name for path in tmp_path.iterdir()} == {"slim"}


def test_what_the_folder_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be a model of Transformers"):
        write_auto_map(nn.Linear(2, 2), tmp_path / "slim")
    slim: Any = slim_family("vit", params=0.5)
    slim.classifier = nn.Sequential(slim.classifier, nn.Linear(2, 2))
    with pytest.raises(ExportError, match="classifier"):
        write_auto_map(slim, tmp_path / "slim")
    assert not list(tmp_path.iterdir())


def test_lists_of_sizes_and_fields_that_are_worked_out(tmp_path: Path) -> None:
    """A list of widths in a configuration, and one that computes the width of heads from the width."""
    sizes = {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1]}
    image = transformers.ConvNextForImageClassification(transformers.ConvNextConfig(**sizes, image_size=32)).eval()
    slim: Any = graphprune.trace(image).plan(0.25).apply(image)
    write_auto_map(slim, tmp_path / "image")
    pixels = {"pixel_values": torch.randn(1, 3, 32, 32)}
    assert torch.equal(load(tmp_path / "image")(**pixels).logits, slim(**pixels).logits)
    fields = {"vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.FalconConfig(**fields, new_decoder_architecture=True, num_kv_heads=2)
    text = transformers.FalconForCausalLM(config).eval()
    other: Any = graphprune.trace(text).plan(width=0.25, mlp=0.25).apply(text)
    write_auto_map(other, tmp_path / "text")
    assert_equal(other, load(tmp_path / "text"), "llama")


def test_a_trainer_saves_and_resumes(tmp_path: Path) -> None:
    """Four steps at once, and two and two more from a checkpoint, make the same weights, in folders that load."""
    write_auto_map(slim_family("gpt2", params=0.5, importance="random"), tmp_path / "slim")
    tokens = inputs_for("gpt2")["input_ids"]
    data = [{"input_ids": tokens[i % 2], "labels": tokens[i % 2]} for i in range(8)]

    def trained(steps: int, folder: Path, resume: Path | None = None) -> Any:
        arguments = transformers.TrainingArguments(
            str(folder),
            max_steps=steps,
            save_steps=2,
            per_device_train_batch_size=2,
            lr_scheduler_type="constant",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = transformers.Trainer(load(tmp_path / "slim"), arguments, train_dataset=data)
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        trainer.save_model(str(folder / "saved"))
        return trainer.model

    whole = trained(4, tmp_path / "whole")
    trained(2, tmp_path / "part")
    resumed = trained(4, tmp_path / "rest", tmp_path / "part" / "checkpoint-2")
    saved = load(tmp_path / "rest" / "saved")
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(weight, resumed.state_dict()[name])
        assert torch.equal(resumed.state_dict()[name], saved.state_dict()[name])
    assert not torch.equal(whole.lm_head.weight, load(tmp_path / "slim").lm_head.weight)


def with_code(folder: Path) -> Any:
    """A model of a class from a Python file of its checkpoint."""
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=40
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    names = {"AutoConfig": "model.MyConfig", "AutoModelForCausalLM": "model.MyModel"}
    changed = {"model_type": "mine", "architectures": ["MyModel"], "auto_map": names}
    (folder / "config.json").write_text(json.dumps(read_config(folder) | changed))
    (folder / "model.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        'class MyConfig(LlamaConfig):\n    model_type = "mine"\n'
        "class MyModel(LlamaForCausalLM):\n    config_class = MyConfig\n"
    )
    return load(folder)


def test_a_class_that_came_with_a_checkpoint_is_saved_where_its_configuration_says_what_it_is(tmp_path: Path) -> None:
    model, tokens = with_code(tmp_path / "dense"), torch.arange(12).view(2, 6)
    slim = graphprune.prune_model(model, 0.5, tokens, layers="equal")
    graphprune.save_pretrained(slim, tmp_path / "slim")
    torch.testing.assert_close(load(tmp_path / "slim")(tokens).logits, slim(tokens).logits)


def test_the_configuration_may_be_of_a_class_that_was_imported_twice() -> None:
    """As Transformers imports a file of a checkpoint for ``AutoConfig``, and again for the model."""
    one, again = (type("MyConfig", (transformers.LlamaConfig,), {"__module__": f"{n}.sizes"}) for n in ("one", "again"))
    model = type("MyModel", (nn.Module,), {"config_class": again})()
    model.config = one()
    assert config_of(model) is model.config
    model.config = transformers.LlamaConfig()
    assert config_of(model) is None


def test_a_class_that_came_with_a_checkpoint_is_not_extended(tmp_path: Path) -> None:
    model, tokens = with_code(tmp_path / "dense"), torch.arange(12).view(2, 6)
    slim = graphprune.prune_model(model, None, tokens, params=0.6)
    with pytest.raises(ExportError, match=r"slim: MyModel is from model\.py of a checkpoint") as raised:
        graphprune.save_pretrained(slim, tmp_path / "slim")
    assert "layers='equal'" in raised.value.do
    assert not (tmp_path / "slim").exists()
