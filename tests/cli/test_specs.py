"""Building models from their names."""

import json
import re
import sys

import pytest
import torch

from graphprune.cli import main
from graphprune.cli.models import load_spec
from graphprune.cli.program import OK, WRONG_USAGE
from graphprune.errors import GraphpruneError, SpecError

NETWORK = """
from dataclasses import dataclass

from torch import nn

from sibling import WIDTH

ready = nn.Linear(WIDTH, 2)


@dataclass
class Options:
    width: int = WIDTH


class Net(nn.Module):
    def __init__(self, width: int = Options().width):
        super().__init__()
        self.linear = nn.Linear(width, 2)

    def forward(self, x):
        return self.linear(x)


def make():
    return Net(5)


def needs_an_argument(width):
    return Net(width)


def not_a_model():
    return 3
"""


@pytest.fixture
def network(tmp_path):
    (tmp_path / "sibling.py").write_text("WIDTH = 4\n")
    path = tmp_path / "network.py"
    path.write_text(NETWORK)
    yield path
    for name in ("sibling", "graphprune_spec_network"):
        sys.modules.pop(name, None)


def test_factory_of_a_file(network):
    model = load_spec(f"{network}:make")
    assert type(model).__name__ == "Net" and model.linear.in_features == 5


def test_class_and_instance_of_a_file(network):
    assert load_spec(f"{network}:Net").linear.in_features == 4
    assert load_spec(f"{network}:ready").in_features == 4


@pytest.fixture
def path_kept():
    before = list(sys.path)
    yield before
    sys.path[:] = before


def test_a_file_puts_nothing_before_what_is_installed(network, path_kept):
    load_spec(f"{network}:make")
    assert sys.path == [*path_kept, str(network.parent)]


def test_a_command_leaves_the_import_path_as_it_was(network, path_kept):
    assert main(["measure", f"{network}:make", "--untimed"]) == OK
    assert sys.path == path_kept


def test_what_a_function_imports_is_found_beside_its_file(network, path_kept):
    (network.parent / "sibling_of_late.py").write_text("WIDTH = 7\n")
    network.write_text(
        "from torch import nn\ndef make():\n    import sibling_of_late as s\n    return nn.Linear(s.WIDTH, 2)\n"
    )
    assert load_spec(f"{network}:make").in_features == 7


def test_a_file_of_a_package_has_relative_imports(tmp_path, path_kept, capsys):
    (tmp_path / "parcel" / "inner").mkdir(parents=True)
    for folder in (tmp_path / "parcel", tmp_path / "parcel" / "inner"):
        (folder / "__init__.py").touch()
    (tmp_path / "parcel" / "widths.py").write_text("WIDTH = 6\n")
    text = "from torch import nn\nfrom ..widths import WIDTH\nclass Net(nn.Sequential):\n    def __init__(self):\n"
    text += "        super().__init__(nn.Linear(4, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2))\n"
    (tmp_path / "parcel" / "inner" / "net.py").write_text(text)
    spec, slim = f"{tmp_path}/parcel/inner/net.py:Net", str(tmp_path / "slim")
    assert main(["prune", spec, "--ratio", "0.5", "-o", slim]) == OK
    assert main(["measure", slim, "--untimed"]) == WRONG_USAGE
    assert "give --model SPEC, the dense" in capsys.readouterr().err
    assert main(["measure", slim, "--untimed", "--model", spec]) == OK


def test_relative_imports_without_a_package(tmp_path):
    (tmp_path / "net.py").write_text("from .widths import WIDTH\n")
    with pytest.raises(SpecError, match=r"do: +put an empty __init__.py into"):
        load_spec(f"{tmp_path}/net.py:make")


def test_a_name_that_is_nearly_right(network):
    with pytest.raises(SpecError, match=r"has no 'mkae'; did you mean make\?; it defines Options, Net, make"):
        load_spec(f"{network}:mkae")
    with pytest.raises(SpecError, match=r"'WIDTH' of network.py makes no model"):
        load_spec(f"{network}:WIDTH")


def test_meta_device_takes_no_memory(network):
    assert load_spec(f"{network}:make", device="meta").linear.weight.device.type == "meta"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing", "network.py has no 'missing'; it defines Options, Net, make"),
        ("not_a_model", "gave an int; needed is a torch.nn.Module"),
        ("needs_an_argument", "failed with TypeError"),
    ],
)
def test_errors_of_a_file(network, name, said):
    with pytest.raises(SpecError, match=re.escape(said)):
        load_spec(f"{network}:{name}")


def test_missing_file():
    with pytest.raises(SpecError, match=r"the file 'nowhere\.py' does not exist"):
        load_spec("nowhere.py:make")


def test_file_that_fails_to_import(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("raise RuntimeError('boom')\n")
    with pytest.raises(SpecError, match=r"importing broken\.py failed with RuntimeError: boom"):
        load_spec(f"{path}:make")
    assert "graphprune_spec_broken" not in sys.modules


@pytest.mark.parametrize("spec", ["resnet50", "", ":", "torchvision:", ":resnet50"])
def test_specification_without_a_source_or_name(spec):
    with pytest.raises(SpecError, match="is not a model specification; needed is torchvision:NAME"):
        load_spec(spec)


def test_unknown_source():
    with pytest.raises(SpecError, match="starts with 'keras', which is not a source of models"):
        load_spec("keras:resnet50")


def test_errors_are_of_the_library():
    assert issubclass(SpecError, GraphpruneError)


def test_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SpecError, match=re.escape("pip install 'graphprune[zoo]'")):
        load_spec("timm:resnet18")


def test_torchvision():
    pytest.importorskip("torchvision")
    assert type(load_spec("torchvision:squeezenet1_1")).__name__ == "SqueezeNet"


def test_torchvision_model_with_a_backbone_downloads_nothing():
    pytest.importorskip("torchvision")
    model = load_spec("torchvision:lraspp_mobilenet_v3_large", device="meta")
    assert type(model).__name__ == "LRASPP"


def test_torchvision_suggests_a_name():
    pytest.importorskip("torchvision")
    with pytest.raises(SpecError, match=r"'resnet5' is not a torchvision model; did you mean resnet50"):
        load_spec("torchvision:resnet5")


def test_timm():
    pytest.importorskip("timm")
    assert type(load_spec("timm:test_vit", device="meta")).__name__ == "VisionTransformer"
    with pytest.raises(SpecError, match="is not a timm model"):
        load_spec("timm:no_such_model")


@pytest.mark.parametrize(
    ("name", "class_name"),
    [
        ("gpt2", "GPT2LMHeadModel"),
        ("llama", "LlamaForCausalLM"),
        ("bert", "BertForMaskedLM"),
        ("t5", "T5ForConditionalGeneration"),
        ("vit", "ViTForImageClassification"),
        ("BertForSequenceClassification", "BertForSequenceClassification"),
    ],
)
def test_transformers_by_type_or_class(name, class_name):
    pytest.importorskip("transformers")
    assert type(load_spec(f"hf:{name}", device="meta")).__name__ == class_name


def test_transformers_unknown_name():
    pytest.importorskip("transformers")
    with pytest.raises(SpecError, match=r"'lama' is not a model type or class.*did you mean .*llama"):
        load_spec("hf:lama")


@pytest.mark.parametrize("name", ["./nofolder", "../no/folder", "no/such/folder", "/nofolder", "nofolder/"])
def test_a_folder_of_transformers_that_is_not_there(name: str) -> None:
    with pytest.raises(SpecError, match=f"the folder '{re.escape(name)}' does not exist"):
        load_spec(f"hf:{name}")


@pytest.fixture
def checkpoint(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=20
    )
    model = transformers.BertForSequenceClassification(config)
    model.save_pretrained(tmp_path)
    return tmp_path, model


def test_transformers_checkpoint_keeps_class_and_weights(checkpoint):
    path, model = checkpoint
    loaded = load_spec(f"hf:{path}")
    assert type(loaded) is type(model)
    assert torch.equal(loaded.classifier.weight, model.classifier.weight)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_transformers_checkpoint_on_meta_is_not_loaded(checkpoint, kind):
    path, model = checkpoint
    model.to(kind).save_pretrained(path)
    loaded = load_spec(f"hf:{path}", device="meta")
    assert type(loaded) is type(model)
    assert {p.device.type for p in loaded.parameters()} == {"meta"}
    assert {p.dtype for p in loaded.parameters()} == {kind}


def test_transformers_configuration_alone_gives_random_weights(checkpoint):
    path, model = checkpoint
    for file in path.glob("*.safetensors"):
        file.unlink()
    assert type(load_spec(f"hf:{path}")) is type(model)


def test_transformers_directory_that_is_no_checkpoint(tmp_path):
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(json.dumps({"no": "type"}))
    with pytest.raises(SpecError, match=r"building .* failed with"):
        load_spec(f"hf:{tmp_path}")


def test_code_of_a_checkpoint_is_not_run_and_not_asked_about(checkpoint, monkeypatch):
    path, _ = checkpoint
    config = json.loads((path / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModel": "mine.MyModel"}}
    (path / "config.json").write_text(json.dumps(config))
    (path / "mine.py").write_text("raise AssertionError('this is run')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody is asked"))
    with pytest.raises(SpecError, match=r"(?s)its classes are of Python files .* give FILE.py:FUNCTION"):
        load_spec(f"hf:{path}")
