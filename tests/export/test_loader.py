"""Slim networks as a Python file and weights: made again in a process that has no graphprune."""

import functools
import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import graphprune
from graphprune.errors import ExportError, InputError
from graphprune.export.python_text import Expressions, literal_lines
from models import gpt, resnet_cifar
from tests.branches import IDS, bert, plan_without
from tests.export.loader_networks import Holding, Recurrent, Shared, attention

IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TOKENS = {"input_ids": torch.arange(3, 15)[None]}
resnet = functools.partial(resnet_cifar.resnet20)


def slim_resnet(**options: Any) -> nn.Module:
    return graphprune.prune_model(resnet_cifar.resnet20().eval(), 0.5, IMAGE, **options)


def llama() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config).eval()


CASES: dict[str, tuple[Any, Any, Any]] = {
    "resnet": (resnet_cifar.resnet20, IMAGE, resnet),
    "gpt": (functools.partial(gpt.gpt, tied=True), torch.arange(12)[None], functools.partial(gpt.gpt, tied=True)),
    "llama": (llama, TOKENS, None),
    "attention": (attention, torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(1)), attention),
    "recurrent": (Recurrent, torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(1)), None),
}

CHILD = """
import importlib.util, json, sys, torch
sys.modules["graphprune"] = None
torch.set_num_threads(1)
report = {}
for name, path in json.loads(sys.argv[1]).items():
    sys.path[:0] = json.loads(sys.argv[2])
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loaded = module.load()
    inputs, expected = torch.load(path.replace("slim_model.py", "case.pt"))
    found = loaded(**inputs) if isinstance(inputs, dict) else loaded(inputs)
    found = found if isinstance(found, torch.Tensor) else found[0]
    report[name] = torch.equal(found, expected)
print(json.dumps(report))
"""


def test_fresh_processes_without_graphprune(tmp_path: Path) -> None:
    """In one process: importing torch takes longer than all else."""
    paths = {}
    for name, (make, inputs, factory) in CASES.items():
        torch.manual_seed(0)
        ratios = {"heads": 0.5, "mlp": 0.5} if name == "attention" else {"ratio": 0.5}
        slim = graphprune.prune_model(make().eval(), example_inputs=inputs, **ratios)
        folder = tmp_path / name
        paths[name] = str(graphprune.export_loader(slim, folder, factory=factory, example_inputs=inputs))
        out = slim(**inputs) if isinstance(inputs, dict) else slim(inputs)
        torch.save((inputs, (out if isinstance(out, torch.Tensor) else out[0]).detach()), folder / "case.pt")
        assert "graphprune" not in (folder / "slim_model.py").read_text().partition("written by graphprune")[2]
    assert "PrunedMultiheadAttention" in Path(paths["attention"]).read_text()
    here = [str(Path(__file__).parents[2])]
    child = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(paths), json.dumps(here)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout.splitlines()[-1]) == dict.fromkeys(CASES, True)


def loaded(path: Path) -> nn.Module:
    scope: dict[str, Any] = {"__file__": str(path), "__name__": path.stem}
    exec(path.read_text(), scope)
    model: nn.Module = scope["load"]()
    return model


def test_modes_types_frozen_parameters_and_memory_format(tmp_path: Path) -> None:
    slim = slim_resnet().to(memory_format=torch.channels_last)
    slim.train()
    slim.bn1.eval()
    slim.conv1.requires_grad_(False)
    slim.fc.to(torch.bfloat16)
    found = loaded(graphprune.export_loader(slim, tmp_path, factory=resnet))
    assert [m.training for m in found.modules()] == [m.training for m in slim.modules()]
    assert [p.requires_grad for p in found.parameters()] == [p.requires_grad for p in slim.parameters()]
    assert [p.dtype for p in found.parameters()] == [p.dtype for p in slim.parameters()]
    assert [p.stride() for p in found.parameters()] == [p.stride() for p in slim.parameters()]


def test_a_compiled_model_is_written_as_it_was_before(tmp_path: Path) -> None:
    slim: Any = slim_resnet()
    found = loaded(graphprune.export_loader(torch.compile(slim), tmp_path, factory=resnet, example_inputs=IMAGE))
    assert torch.equal(found(IMAGE), slim(IMAGE))


def test_gradients_are_equal(tmp_path: Path) -> None:
    slim = slim_resnet()
    found = loaded(graphprune.export_loader(slim, tmp_path, factory=resnet))
    for model in (slim, found):
        model(IMAGE.expand(5, -1, -1, -1)).square().sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(slim.parameters(), found.parameters(), strict=True))


def test_skipped_blocks_and_heads_put_in_by_hand(tmp_path: Path) -> None:
    graph = graphprune.trace(resnet_cifar.resnet20().eval(), IMAGE)
    slim = graph.plan(depth=0.3, width=0.5).apply(graph.model)
    slim.fc = nn.Identity()
    found = loaded(graphprune.export_loader(slim, tmp_path, factory=resnet, example_inputs=IMAGE))
    assert torch.equal(found(IMAGE), slim(IMAGE))
    assert isinstance(found.fc, nn.Identity)


def test_blocks_left_out_that_return_tuples(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.MptConfig(vocab_size=99, d_model=32, n_layers=3, n_heads=4)
    graph = graphprune.trace(transformers.MptForCausalLM(config).eval(), IDS)
    slim = graph.plan(depth=0.4, mlp=0.3).apply(graph.model)
    file = graphprune.export_loader(slim, tmp_path, example_inputs=IDS)
    assert torch.equal(loaded(file)(IDS)[0], slim(IDS)[0])


def test_branches_left_out(tmp_path: Path) -> None:
    """Of the two of a layer, and one whose module gives a tuple."""
    graph = graphprune.trace(bert().eval(), IDS)
    slim = plan_without(graph, graph.branches[0].path, graph.branches[3].path, macs=0.6).apply(graph.model)
    file = graphprune.export_loader(slim, tmp_path, example_inputs=IDS)
    assert "class Zeros" in file.read_text() and "class Skip" not in file.read_text()
    assert torch.equal(loaded(file)(IDS)[0], slim(IDS)[0])


def test_what_cannot_be_rebuilt_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    def local() -> nn.Module:
        return resnet_cifar.resnet20()

    slim = slim_resnet()
    deeper = resnet_cifar.ResNet(2)
    with pytest.raises(ExportError, match=r"found no way to build its architecture \(ResNet takes arguments"):
        graphprune.export_loader(slim, tmp_path)
    with pytest.raises(ExportError, match="another process cannot import it"):
        graphprune.export_loader(slim, tmp_path, factory=local)
    with pytest.raises(ExportError, match=r"is nothing, and .* has .*BasicBlock"):
        graphprune.export_loader(deeper, tmp_path, factory=resnet)
    with pytest.raises(InputError, match="name: must be the name of a Python module"):
        graphprune.export_loader(slim, tmp_path, factory=resnet, name="a-b")
    slim.register_parameter("extra", nn.Parameter(torch.ones(1)))
    with pytest.raises(ExportError, match="the slim model has the parameter or buffer extra"):
        graphprune.export_loader(slim, tmp_path, factory=resnet)
    assert list(tmp_path.iterdir()) == []


def test_values_in_functions_need_storage(tmp_path: Path) -> None:
    """What a function holds is made by the constructor, and cannot be replaced: a weight there is refused."""
    example = torch.randn(2, 4)
    slim = graphprune.prune_model(Holding().eval(), 0.5, example)
    path = graphprune.export_loader(slim, tmp_path / "one", example_inputs=example)
    assert 'torch.device("meta")' not in path.read_text()
    assert torch.equal(loaded(path)(example), slim(example))
    slim = graphprune.prune_model(Holding(True).eval(), 0.5, example)
    with pytest.raises(ExportError, match="a function or object of the network holds a tensor"):
        graphprune.export_loader(slim, tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_weights_of_another_export_are_refused(tmp_path: Path) -> None:
    path = graphprune.export_loader(slim_resnet(), tmp_path / "one", factory=resnet)
    other = graphprune.prune_model(resnet_cifar.resnet20().eval(), 0.25, IMAGE)
    graphprune.export_loader(other, tmp_path / "two", factory=resnet)
    (tmp_path / "two" / "slim_model.safetensors").replace(path.with_suffix(".safetensors"))
    with pytest.raises(ValueError, match=r"belongs to another slim_model.py"):
        loaded(path)


def test_values_as_python() -> None:
    writer = Expressions()
    value = {"a": (1,), "b": [None, True, "x", 'q"'], "c": torch.float16, "d": float("inf")}
    assert eval(writer.of(value), {"torch": torch}) == value
    assert writer.of(functools.partial(nn.Linear, 3, bias=False)) == "partial(Linear, 3, bias=False)"
    assert list(writer.import_lines()) == [
        "from functools import partial",
        "from torch.nn.modules.linear import Linear",
    ]
    assert literal_lines({"a": list(range(60))}).count("\n") == 63
    with pytest.raises(ExportError, match="an argument is a Tensor"):
        writer.of(torch.ones(1))


def test_objects_that_other_models_share_stay_as_they_are(tmp_path: Path) -> None:
    model, x = Shared().eval(), torch.randn(2, 4)
    slim = graphprune.prune_model(model, 0.5, x)
    graphprune.export_loader(slim, tmp_path, factory=Shared, example_inputs=x)
    assert slim.sizes.width == 8
    assert model.sizes.width == Shared().sizes.width == 16


def test_a_file_that_was_imported_under_another_name_is_imported_by_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_net.py").write_text("from torch import nn\n\n\ndef make():\n    return nn.Linear(2, 2)\n")
    spec = importlib.util.spec_from_file_location("as_called_here", tmp_path / "my_net.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("as_called_here", "my_net"):
        monkeypatch.setitem(sys.modules, name, module)
    writer = Expressions()
    assert writer.imported(module.make) == "make"
    assert writer.imports == {"make": ("my_net", "make")}


def _hook(slim: Any) -> None:
    slim.last.register_forward_hook(lambda module, given, output: output * 2)


def _forward(slim: Any) -> None:
    slim.last.forward = lambda x: 2 * nn.functional.linear(x, slim.last.weight, slim.last.bias)


def _numpy(slim: Any) -> None:
    slim.limits["low"] = np.float64(2.0)


def _tensor(slim: Any) -> None:
    slim.limits["low"] = torch.tensor(2.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_hook, r"last \(a hook\)"),
        (_forward, r"last\.forward \(a function that was set\)"),
        (_numpy, r"limits\['low'\] \(a value of numpy\)"),
        (_tensor, r"limits\['low'\] \(a tensor in the place of a number\)"),
    ],
)
def test_changes_that_the_class_does_not_make_are_refused_without_inputs(
    change: Any, said: str, tmp_path: Path
) -> None:
    x = torch.randn(1, 5, 4)
    slim = graphprune.prune_model(Recurrent().eval(), 0.5, x)
    change(slim)
    with pytest.raises(ExportError, match=f"slim: the rebuilt network does not have {said}"):
        graphprune.export_loader(slim, tmp_path)
    assert not list(tmp_path.iterdir())


def test_hooks_that_change_nothing_are_taken_with_inputs(tmp_path: Path) -> None:
    x = torch.randn(1, 5, 4)
    slim: Any = graphprune.prune_model(Recurrent().eval(), 0.5, x)
    slim.last.register_forward_hook(lambda module, given, output: None)
    assert graphprune.export_loader(slim, tmp_path, example_inputs=x).exists()


NAMES = ("load", "build", "Path", "torch", "Tensor", "partial", "aligned", "WEIGHTS", "Skip")
SOURCE = """
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.second(self.first(x).relu())
"""


def test_factories_called_as_what_the_file_defines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    makers = "".join(f"\n\ndef {name}():\n    return Net()\n" for name in NAMES)
    (tmp_path / "makers_of_nets.py").write_text(SOURCE + makers)
    monkeypatch.syspath_prepend(str(tmp_path))
    makers_of_nets, x = importlib.import_module("makers_of_nets"), torch.randn(2, 4)
    for name in NAMES:
        make = getattr(makers_of_nets, name)
        slim = graphprune.prune_model(make().eval(), 0.5, x)
        path = graphprune.export_loader(slim, tmp_path / name, factory=make, example_inputs=x)
        assert f"from makers_of_nets import {name} as makers_of_nets_{name}\n" in path.read_text()
        spec = importlib.util.spec_from_file_location("written", path)
        assert spec is not None
        assert spec.loader is not None
        written = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(written)
        assert torch.equal(written.load()(x), slim(x))


def test_things_of_two_modules_that_are_called_alike() -> None:
    writer = Expressions({"load": "json"})
    first, second = writer.of(resnet_cifar.resnet20), writer.of(functools.partial)
    assert (first, second, writer.of(json.load)) == ("resnet20", "partial", "load")
    assert writer.of(torch.load) == "torch_serialization_load"
    assert "from torch.serialization import load as torch_serialization_load" in list(writer.import_lines())
    assert "from json import load" in list(writer.import_lines())
