"""State dicts as people save them."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from graphprune.cli.weights import load_weights
from graphprune.errors import LoadError, SpecError


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights(tmp_path, suffix):
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    path = tmp_path / f"weights{suffix}"
    save = save_file if suffix == ".safetensors" else torch.save
    save(source.state_dict(), path)
    load_weights(target, path)
    assert torch.equal(source.weight, target.weight)


def test_weights_of_another_model(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(nn.Linear(4, 2).state_dict(), path)
    with pytest.raises(SpecError, match="does not fit Linear"):
        load_weights(nn.Linear(3, 2), path)


def test_weights_that_are_a_pickled_model_are_refused(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(nn.Linear(3, 2), path)
    with pytest.raises(
        SpecError, match=r"holds objects \(torch.nn.modules.linear.Linear\) besides tensors, whose code"
    ):
        load_weights(nn.Linear(3, 2), path)


def test_missing_weights(tmp_path):
    with pytest.raises(SpecError, match="does not exist"):
        load_weights(nn.Linear(3, 2), tmp_path / "none.pt")


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": state, "optimizer": {"lr": 0.1}},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": {f"module._orig_mod.{name}": value for name, value in state.items()}},
        lambda state: {"state_dict": {f"model.{name}": value for name, value in state.items()}},
    ],
)
def test_weights_inside_checkpoints_and_behind_prefixes(tmp_path, wrapped):
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    torch.save(wrapped(source.state_dict()), tmp_path / "checkpoint.pt")
    load_weights(target, tmp_path / "checkpoint.pt")
    assert torch.equal(source.weight, target.weight)


class Backbone(nn.Module):
    """Of names that begin with what wrappers use, too."""

    def __init__(self):
        super().__init__()
        self.model, self.head = nn.Linear(3, 2), nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("renamed", "left_out"),
    [
        (lambda name: name, ""),
        (lambda name: f"backbone.{name}", "'backbone.'"),
        (lambda name: f"model.{name}", "'model.'"),
        (lambda name: f"module.model.{name}", "'module.model.'"),
        (lambda name: name.replace("model.", "model._orig_mod."), "'_orig_mod.'"),
        (lambda name: f"_fsdp_wrapped_module.{name}", "'_fsdp_wrapped_module.'"),
        (lambda name: f"net._orig_mod.{name}", "'_orig_mod.', 'net.'"),
        (lambda name: name.replace("head.", "head._checkpoint_wrapped_module."), "'_checkpoint_wrapped_module.'"),
    ],
)
def test_what_wrappers_put_into_names_is_left_out(tmp_path, renamed, left_out):
    source, target = Backbone(), Backbone()
    torch.save({renamed(name): value for name, value in source.state_dict().items()}, tmp_path / "weights.pt")
    assert load_weights(target, tmp_path / "weights.pt") == left_out
    assert torch.equal(source.model.weight, target.model.weight)
    assert torch.equal(source.head.bias, target.head.bias)


def test_averaged_weights(tmp_path):
    averaged, target = AveragedModel(Backbone()), Backbone()
    torch.save(averaged.state_dict(), tmp_path / "weights.pt")
    assert load_weights(target, tmp_path / "weights.pt") == "'module.'"
    assert torch.equal(averaged.module.head.weight, target.head.weight)


@pytest.mark.parametrize(
    ("prefixes", "found"),
    [(("student.", "teacher."), "it lacks head.bias, head.weight, model.bias"), (("model.", "loss."), "it lacks head")],
)
def test_weights_under_several_prefixes_are_refused(tmp_path, prefixes, found):
    state = Backbone().state_dict()
    torch.save({f"{p}{name}": value for p in prefixes for name, value in state.items()}, tmp_path / "weights.pt")
    with pytest.raises(SpecError, match=found):
        load_weights(Backbone(), tmp_path / "weights.pt")


def test_what_stands_beside_the_prefixed_names_of_a_model_is_told(tmp_path):
    state = {f"model.{name}": value for name, value in Backbone().state_dict().items()}
    torch.save({"state_dict": {**state, "loss.weight": torch.ones(2)}}, tmp_path / "weights.pt")
    with pytest.raises(SpecError, match=r"does not fit Backbone: it has loss.weight besides"):
        load_weights(Backbone(), tmp_path / "weights.pt")


@pytest.mark.parametrize("given", ["model.safetensors.index.json", ""])
def test_weights_in_shards(tmp_path, given):
    source, target = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    places = {}
    for number, layer in enumerate(source):
        file = f"model-0000{number + 1}-of-00002.safetensors"
        tensors = {f"{number}.{name}": value for name, value in layer.state_dict().items()}
        save_file(tensors, tmp_path / file)
        places |= dict.fromkeys(tensors, file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    load_weights(target, tmp_path / given)
    assert torch.equal(source[1].weight, target[1].weight)


@pytest.mark.parametrize(
    ("shard", "said"),
    [
        ("../secret.safetensors", "which is not beside it"),
        ("..", "which is not beside it"),
        ("nul\0.safetensors", "which is not beside it"),
        ("gone.bin", "does not exist"),
    ],
)
def test_shards_that_are_not_beside_the_index(tmp_path, shard, said):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"weight": shard}}))
    with pytest.raises((SpecError, LoadError), match=said):
        load_weights(nn.Linear(3, 2), tmp_path)


def test_a_folder_of_several_checkpoints(tmp_path):
    for name in ("first.pt", "second.pt"):
        torch.save(nn.Linear(3, 2).state_dict(), tmp_path / name)
    with pytest.raises(SpecError, match=r"several files of weights .first.pt, second.pt.[\s\S]*name one"):
        load_weights(nn.Linear(3, 2), tmp_path)


def test_a_folder_of_checkpoints_of_several_formats(tmp_path):
    layer = nn.Linear(3, 2)
    for name in ("first.pt", "first.bin"):
        torch.save(layer.state_dict(), tmp_path / name)
    save_file(layer.state_dict(), tmp_path / "first.safetensors")
    load_weights(nn.Linear(3, 2), tmp_path)
    (tmp_path / "first.safetensors").rename(tmp_path / "other.safetensors")
    with pytest.raises(SpecError, match=r"several files of weights .other.safetensors, first.bin, first.pt"):
        load_weights(nn.Linear(3, 2), tmp_path)
    save_file(layer.state_dict(), tmp_path / "model.safetensors")
    load_weights(nn.Linear(3, 2), tmp_path)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3, "lr": 0.1}])
def test_files_without_a_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(SpecError, match=r"holds a list|holds no state dict: it has 'epoch'"):
        load_weights(nn.Linear(3, 2), tmp_path / "weights.pt")


def test_names_of_another_model_are_told_in_a_line(tmp_path):
    torch.save(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)).state_dict(), tmp_path / "weights.pt")
    said = r"does not fit Linear: it lacks bias, weight, and it has 0.bias, 0.weight, 1.bias and 1 others besides"
    with pytest.raises(SpecError, match=said):
        load_weights(nn.Linear(3, 2), tmp_path / "weights.pt")


def test_shapes_of_another_model_are_told_in_a_line(tmp_path):
    torch.save(nn.Linear(4, 2).state_dict(), tmp_path / "weights.pt")
    said = r"does not fit Linear: it has weight \[2, 4\], needed is \[2, 3\]\n"
    with pytest.raises(SpecError, match=said):
        load_weights(nn.Linear(3, 2), tmp_path / "weights.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"junk" * 100, "(bytes that torch.save did not write|SafetensorError)"),
        (b"\x93NUMPY" * 100, "an array of numpy"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, suffix, content, found):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=rf"cannot be read as weights\n[\s\S]*found: +{found}"):
        load_weights(nn.Linear(3, 2), path)


def test_an_empty_state_dict(tmp_path):
    torch.save({}, tmp_path / "weights.pt")
    with pytest.raises(SpecError, match="holds no state dict: it has nothing"):
        load_weights(nn.Linear(3, 2), tmp_path / "weights.pt")
