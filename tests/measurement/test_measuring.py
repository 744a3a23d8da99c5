"""What a model is and takes."""

from __future__ import annotations

import json
import math
import random
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import graphprune
from graphprune.errors import InputError, LoadError, TraceError
from graphprune.measurement import energy
from graphprune.measurement.stored_bytes import file_bytes
from models import resnet_cifar

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
QUICK: Any = {"repeats": 2, "warmup": 0}


class Small(nn.Module):
    """Two convolutions of 3·9·8 + 8 and 8·9·4 + 4 entries, and a head that is applied twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 4, 3, padding=1)
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.head(self.second(self.first(x).relu()).mean((2, 3))))


def sizes(model: nn.Module, inputs: Any = IMAGE) -> graphprune.Measurement:
    return graphprune.measure(model, inputs, timed=False)


def test_sizes_of_a_small_network(tmp_path: Path) -> None:
    model = Small()
    found = sizes(model)
    assert found.parameters == found.nonzero == 224 + 292 + 20
    assert found.sparsity == 0
    assert [(one.name, one.kind, one.parameters, one.width) for one in found.layers] == [
        ("first", "Conv2d", 224, 8),
        ("second", "Conv2d", 292, 4),
        ("head", "Linear", 20, 4),
    ]
    assert [one.macs for one in found.layers] == [2 * 64 * 216, 2 * 64 * 288, 2 * 2 * 16]
    assert found.macs == graphprune.trace(model, IMAGE).cost().macs == sum(one.macs or 0 for one in found.layers)
    assert found.memory_bytes == 4 * found.parameters
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    assert found.disk_bytes == (tmp_path / "model.safetensors").stat().st_size
    assert found.inputs == "f32[2, 3, 8, 8]" and found.device == "cpu" and found.model == "Small"
    assert found.latencies == () and found.seconds is None and found.missing == {}


def test_the_peak_is_of_what_lives_at_once() -> None:
    """The first convolution's result and its ReLU, of 2·8·64 floats each, live at once; chains free what they read."""
    floats = 2 * 8 * 64 * 4
    assert sizes(Small()).peak_bytes == 2 * floats
    chain = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(10)))
    assert sizes(chain).peak_bytes == 2 * IMAGE.nbytes
    assert sizes(nn.Sequential(nn.Flatten(), nn.Identity())).peak_bytes == 0  # views of the input


def test_masks_of_prune_count_and_buffers_are_no_parameters() -> None:
    model = Small()
    prune.ln_structured(model.first, "weight", 0.5, n=1, dim=0)
    prune.global_unstructured([(model.second, "weight")], prune.L1Unstructured, amount=100)
    found = sizes(model)
    first, second, head = found.layers
    assert found.parameters == 536
    assert (first.nonzero, second.nonzero, head.nonzero) == (224 - 108, 292 - 100, 20)
    assert first.sparsity == pytest.approx(108 / 224)
    assert found.sparsity == pytest.approx(208 / 536)
    assert found.memory_bytes == 4 * (536 + 2 * (216 + 288))  # the mask, and the product, of two weights
    assert graphprune.sparsity_of(model).zeros == 208


def test_zeros_that_a_parametrization_makes_count() -> None:
    class Sparse(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight * (torch.arange(weight.shape[0]) % 2)[:, None]

    model = nn.Sequential(nn.Linear(4, 6), parametrizations.weight_norm(nn.Linear(6, 2)))
    nn.utils.parametrize.register_parametrization(model[0], "weight", Sparse())
    first, second = sizes(model, torch.randn(1, 4)).layers
    assert (first.kind, first.parameters, first.nonzero) == ("Linear", 30, 18)
    assert (second.kind, second.parameters, second.nonzero, second.width) == ("Linear", 16, 16, 2)


def test_tied_weights_count_once(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10, bias=False))
    model[1].weight = model[0].weight
    found = sizes(model, torch.tensor([[1, 2]]))
    assert found.parameters == 40 and found.memory_bytes == 160
    assert [(one.name, one.parameters, one.width) for one in found.layers] == [("0", 40, 4), ("1", 0, 10)]
    save_file({"0.weight": model[0].weight.detach()}, tmp_path / "tied")
    assert found.disk_bytes == (tmp_path / "tied").stat().st_size


def test_bytes_of_files_are_those_of_safetensors(tmp_path: Path) -> None:
    types = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn)
    state = {f"layer.{i}.ä": torch.zeros(7 + i, 100).to(kind) for i, kind in enumerate((*types, *types))}
    save_file(state, tmp_path / "all")
    assert file_bytes(state) == (tmp_path / "all").stat().st_size
    network = resnet_cifar.resnet20().state_dict()
    save_file(network, tmp_path / "network")
    assert file_bytes(network) == (tmp_path / "network").stat().st_size
    with pytest.raises(ValueError, match=r"safetensors have no tensors of torch\.complex128"):
        file_bytes({"q": torch.zeros(3, dtype=torch.complex128)})


def test_latencies_of_batch_sizes_and_layers() -> None:
    found = graphprune.measure(Small(), IMAGE, batch_sizes=(1, 2, 5), threads=1, **QUICK)
    assert [(one.mode, one.batch) for one in found.latencies] == [("eager", 2), ("eager", 1), ("eager", 5)]
    assert found.seconds == found.latencies[0].seconds
    for one in found.latencies:
        assert 0 < one.low <= one.seconds <= one.high
        assert one.calls >= 2 and one.spread == one.high - one.low
    named = {one.name: one.seconds for one in found.layers}
    assert named.keys() == {"", "first", "second", "head"}
    assert all(seconds is not None and seconds > 0 for seconds in named.values())


def test_batches_are_what_the_model_is_given() -> None:
    seen = set()

    class Two(nn.Module):
        def forward(self, x: Tensor, table: Tensor, *, mask: Tensor) -> Tensor:
            seen.add((tuple(x.shape), tuple(table.shape), tuple(mask.shape)))
            return x @ table * mask

    call = graphprune.MethodCall("forward", torch.ones(3, 4), torch.ones(4, 4), mask=torch.ones(3, 1))
    graphprune.measure(Two(), call, batch_sizes=[7], **QUICK)
    assert seen == {((3, 4), (4, 4), (3, 1)), ((7, 4), (4, 4), (7, 1))}
    seen.clear()
    call = graphprune.MethodCall("forward", torch.ones(3, 4), torch.ones(4, 4), mask=torch.ones(3, 4))
    graphprune.measure(Two(), call, batch_sizes=[2], batch_dim=1, **QUICK)
    assert ((3, 4), (4, 4), (3, 4)) in seen


def test_a_batch_size_that_does_not_run_has_a_reason() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(2, -1)

    found = graphprune.measure(Fixed(), torch.ones(2, 3), batch_sizes=(1, 4, 3), **QUICK)
    assert [one.batch for one in found.latencies] == [2, 4]
    assert "invalid for input of size 3" in found.missing["latency, batch 1"]
    assert found.missing.keys() == {"latency, batch 1", "latency, batch 3", "energy"}


def test_where_the_batch_is_must_be_said_of_recurrent_networks() -> None:
    model, inputs = nn.LSTM(4, 4), torch.randn(5, 2, 4)
    with pytest.raises(InputError, match="batch_dim: the model is a LSTM with batch_first=False"):
        graphprune.measure(model, inputs, batch_sizes=[1], **QUICK)
    found = graphprune.measure(model, inputs, batch_sizes=[1], batch_dim=1, **QUICK)
    assert [one.batch for one in found.latencies] == [2, 1]
    assert found.layers[0].width == 4
    assert graphprune.measure(model, inputs, **QUICK).latencies[0].batch is None  # 5 would be a guess


def test_several_models_side_by_side() -> None:
    dense = resnet_cifar.resnet20().eval()
    image = torch.randn(1, 3, 32, 32)
    slim = graphprune.prune_model(dense, 0.5, image)
    found = graphprune.measure({"dense": dense, "slim": slim}, image, **QUICK)
    assert list(found.measurements) == ["dense", "slim"]
    assert found["slim"].parameters == sum(p.numel() for p in slim.parameters())
    again = graphprune.Comparison.from_json(found.to_json())
    assert again == found
    lines = found.to_markdown().splitlines()
    ratio = found["slim"].parameters / found["dense"].parameters
    assert lines[2] == "|  | dense | slim | slim / dense |"
    assert lines[4].startswith("| parameters | 272.5 k |") and lines[4].endswith(f"| {ratio:.3g}x |")
    head = str(found["dense"].compare(found["slim"])).splitlines()[1]
    assert head.split() == "before after after / before".split()
    noted = replace(
        found, measurements={n: replace(m, missing={"a": "b", n: "c"}) for n, m in found.measurements.items()}
    )
    assert noted.to_markdown().endswith("\n\n- a: b\n- dense: dense: c\n- slim: slim: c\n")
    with pytest.raises(InputError, match=r"after: must be a graphprune\.Measurement, but is 3"):
        found["dense"].compare(3)  # type: ignore[arg-type]


def test_what_is_printed() -> None:
    model = Small()
    prune.l1_unstructured(model.head, "weight", 0.5)
    found = replace(sizes(model), scores={"accuracy": 0.91}, joules=0.25, missing={"latency": "nobody asked"})
    text = str(found)
    assert text.startswith("Small on f32[2, 3, 8, 8] (cpu, ")
    for label, value in (("parameters", "536"), ("sparsity", "1.49%"), ("energy", "0.25 J"), ("accuracy", "0.91")):
        assert any(line.split() == [label, *value.split()] for line in text.splitlines()), label
    assert text.endswith("latency: nobody asked")
    assert found.to_markdown().endswith("| accuracy | 0.91 |\n\n- latency: nobody asked\n")
    assert "[2, 3" in found.to_markdown()


def test_json_is_read_as_it_was_written() -> None:
    found = replace(sizes(Small()), scores={"loss": math.inf, "accuracy": 0.5})
    data = json.loads(found.to_json(), parse_constant=pytest.fail)
    assert data["scores"] == {"loss": None, "accuracy": 0.5}
    again = graphprune.Measurement.from_json(found.to_json())
    assert math.isnan(again.scores["loss"])
    assert replace(again, scores={}) == replace(found, scores={})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "text: measurement format 2; this version reads format 1"),
        ({"parameters": -1}, r"text: Expected `int` >= 0 - at `\$.parameters`"),
        ({"layers": [{"name": 3}]}, r"\$.layers"),
        ({"scores": {"accuracy": "high"}}, "text: scores: "),
        ({"more": 1}, "unknown field `more`"),
    ],
)
def test_damaged_json(change: dict[str, Any], message: str) -> None:
    data = json.loads(sizes(Small()).to_json()) | change
    with pytest.raises(LoadError, match=f"(?s){message}.*pass what Measurement.to_json"):
        graphprune.Measurement.from_json(json.dumps(data))


def test_scores() -> None:
    model = Small()
    assert graphprune.measure(model, IMAGE, timed=False, evaluate=lambda _: torch.tensor(0.5)).scores == {"score": 0.5}
    named = graphprune.measure(model, IMAGE, timed=False, evaluate=lambda _: {"a": np.float32(1), "b": 2}).scores
    assert named == {"a": 1.0, "b": 2.0}
    for wrong in ("high", None, [1], {1: 2.0}, {"a": None}):
        with pytest.raises(InputError, match="evaluate: must return a number, or numbers by name, but returned"):
            graphprune.measure(model, IMAGE, timed=False, evaluate=lambda _, wrong=wrong: wrong)


# ---------------------------------------------------------------- what stays as it was


class Careless(nn.Module):
    """Counts its calls, draws random numbers and can fail."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.linear = nn.Linear(4, 4)
        self.last: Tensor | None = None
        self.fails = False
        self.seen: list[Tensor] = []
        self.table: dict[str, Tensor] = {"x": torch.ones(1)}

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        random.random()
        self.last = x
        self.seen.append(x)
        self.table.update(y=x)
        self.register_buffer("late", x)
        self.extra = x
        self.calls += 1
        if self.fails:
            raise ZeroDivisionError("on purpose")
        return self.linear(x) + torch.rand(4) + np.random.rand()


@pytest.fixture
def careless() -> Iterator[Careless]:
    """A model in training mode with a module in evaluation mode, and a test that nothing has changed afterwards."""
    model = Careless()
    model.linear.eval()
    (model.linear.weight.sum()).backward()
    gradient = model.linear.weight.grad
    states = torch.get_rng_state(), random.getstate(), str(np.random.get_state()), torch.get_num_threads()
    yield model
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), str(np.random.get_state()), torch.get_num_threads()) == states[1:]
    assert model.training and not model.linear.training
    assert model.calls == 0 and model.last is None and "extra" not in vars(model)
    assert model.seen == [] and list(model.table) == ["x"] and "late" not in model.state_dict()
    assert model.linear.weight.grad is gradient and model.linear.weight.requires_grad
    assert not model._forward_hooks and not model.linear._forward_hooks
    assert not torch.nn.modules.module._global_forward_hooks and torch.is_grad_enabled()


def test_the_model_is_as_it_was(careless: Careless) -> None:
    def evaluate(model: nn.Module) -> float:
        model.train()
        model.linear(torch.ones(1, 4)).sum().backward()
        model.linear.weight.requires_grad_(False)
        return 1.0

    graphprune.measure(careless, torch.ones(1, 4), evaluate=evaluate, threads=1, batch_sizes=[2], **QUICK)


def test_the_model_is_as_it_was_after_a_failure(careless: Careless) -> None:
    careless.fails = True
    message = r"Careless.forward failed on example_inputs of shape \(1, 4\): ZeroDivision"
    with pytest.raises(TraceError, match=message):
        graphprune.measure(careless, torch.ones(1, 4))


def test_the_model_is_as_it_was_after_a_failed_evaluation(careless: Careless) -> None:
    def evaluate(model: nn.Module) -> float:
        model.train()
        raise KeyError("no data")

    with pytest.raises(KeyError, match="no data"):
        graphprune.measure(careless, torch.ones(1, 4), evaluate=evaluate, threads=1, **QUICK)


# ---------------------------------------------------------------- what cannot be measured


def test_a_model_on_meta_has_sizes_only() -> None:
    with torch.device("meta"):
        model = Small()
    found = graphprune.measure(model, IMAGE)
    assert (found.parameters, found.nonzero, found.memory_bytes, found.peak_bytes) == (536, None, 2144, None)
    assert found.macs == graphprune.measure(Small(), IMAGE, timed=False).macs
    unknown = ("latency", "non-zero", "peak of activations", "energy")
    assert found.missing == dict.fromkeys(unknown, "the model is on meta, without values")
    guessed = graphprune.measure(model)
    assert guessed.macs and guessed.inputs.startswith("f32[1, 3, ")


def test_a_model_that_cannot_be_traced_says_so() -> None:
    class Untraceable(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if type(x) is not Tensor or x.untyped_storage().data_ptr() != storage:
                raise RuntimeError("only my own input will do")
            return super().forward(x)

    inputs = torch.ones(1, 4)
    storage = inputs.untyped_storage().data_ptr()
    found = graphprune.measure(Untraceable(4, 4), inputs, **QUICK)
    assert found.macs is None and found.layers[0].macs is None and found.seconds
    assert found.missing["MACs"].startswith("TraceError: model: Untraceable.forward failed")


def test_what_runs_leave_in_the_model_does_not_count() -> None:
    found = graphprune.measure(Careless(), torch.ones(1, 4), **QUICK)
    assert found.memory_bytes == 4 * (20 + 1)  # with the buffer, without caches
    assert found.disk_bytes == file_bytes(Careless().state_dict())


def test_modules_that_runs_make_do_not_count() -> None:
    class Growing(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            self.extra = nn.Linear(4, 4)
            self.register_forward_hook(lambda *_: None)
            return super().forward(x)

    model = Growing(4, 4)
    assert graphprune.measure(model, torch.ones(1, 4), **QUICK).parameters == 20
    assert not hasattr(model, "extra") and not model._forward_hooks


def test_what_a_model_cannot_do_is_said() -> None:
    class Unsaved(nn.Linear):
        def state_dict(self, *_: Any, **__: Any) -> Any:
            raise ZeroDivisionError("no state")

    found = graphprune.measure(Unsaved(4, 4), torch.ones(1, 4), timed=False)
    assert found.disk_bytes is None and found.missing == {"on disk": "ZeroDivisionError: no state"}

    class Exported(nn.Linear):
        def train(self, mode: bool = True) -> Any:
            raise NotImplementedError("Calling train() is not supported yet.")

    with pytest.raises(InputError, match="model: this Exported cannot be put in evaluation mode"):
        graphprune.measure(Exported(4, 4), torch.ones(1, 4))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_types(kind: torch.dtype) -> None:
    found = graphprune.measure(nn.Linear(4, 4, dtype=kind), torch.ones(3, 4, dtype=kind), **QUICK)
    assert found.memory_bytes == 20 * kind.itemsize and found.peak_bytes == 12 * kind.itemsize
    assert (found.parameters, found.nonzero, found.macs) == (20, 20, 48)


def test_sparse_weights_count_as_they_are_stored() -> None:
    weight = torch.zeros(8, 8)
    weight[0, :3] = 1.0
    model = nn.Linear(8, 8, bias=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.weight = nn.Parameter(weight.to_sparse_csr())
        found = graphprune.measure(model, torch.ones(2, 8), timed=False)
    assert (found.parameters, found.nonzero) == (64, 3)
    parts = 3 * 4 + 3 * 8 + 9 * 8  # values, columns, and where rows begin
    assert parts <= found.memory_bytes < 64 * 4  # torch may keep more than a part needs


def test_quantized_weights_count_by_their_parts() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    model = nn.Sequential(nn.Linear(64, 32, bias=False))
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    found = graphprune.measure(model, torch.ones(1, 64), **QUICK)
    assert found.parameters == 2048 and found.nonzero is not None and found.nonzero > 1900
    assert 2048 + 4 * 32 <= found.memory_bytes < 2048 + 4 * 32 + 300
    assert found.disk_bytes is not None and found.disk_bytes > 2048
    assert found.macs is None and found.missing["MACs"].startswith("TraceError")


def test_inference_mode() -> None:
    with torch.inference_mode():
        model = Small()
        assert graphprune.measure(model, IMAGE, evaluate=lambda _: 1.0, **QUICK).peak_bytes
    assert graphprune.measure(model, IMAGE, evaluate=lambda _: 1.0, **QUICK).peak_bytes


def test_inputs_of_every_kind() -> None:
    class Dicts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor, y: Any = None) -> Any:
            return {"x": self.linear(x), "y": [x if y is None else self.linear(y)], "number": 3}

    x = torch.ones(2, 4)
    for inputs, calls in ((x, 1), ((x, x), 2), ({"x": x, "y": x}, 2), ([x, (x, x)], 3)):
        found = graphprune.measure(Dicts(), inputs, batch_sizes=[3], **QUICK)
        assert found.macs == calls * 2 * 16 and [one.batch for one in found.latencies] == [2, 3]
    assert graphprune.measure(nn.Identity(), torch.tensor(3.0), **QUICK).latencies[0].batch is None


def test_latency_of_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []

    def compiling(model: nn.Module, **_: Any) -> nn.Module:
        compiled.append(model)
        return model

    monkeypatch.setattr(torch, "compile", compiling)
    model = Small()
    found = graphprune.measure(model, IMAGE, compiled=True, batch_sizes=[1], **QUICK)
    eager = ["latency, batch 2", "latency, batch 1"]
    assert [one.label for one in found.latencies] == [*eager, *(f"{label}, compiled" for label in eager)]
    assert compiled == [model, model]


def test_compiled_code_that_does_not_compile_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(model: nn.Module, **_: Any) -> Any:
        def run(*args: Any) -> Any:
            raise RuntimeError("no C++ compiler\nmore")

        return run

    monkeypatch.setattr(torch, "compile", no_compiler)
    found = graphprune.measure(Small(), IMAGE, compiled=True, **QUICK)
    assert [one.mode for one in found.latencies] == ["eager"]
    assert found.missing["latency, batch 2, compiled"] == "RuntimeError: no C++ compiler more"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": nn.Linear}, "model: must be a torch.nn.Module, but is the class Linear"),
        ({"model": {}}, "model: is an empty dict"),
        ({"model": {"a": 3}}, r"model\['a'\]: must be a torch.nn.Module"),
        ({"model": {1: nn.ReLU()}}, "model: must be a dict of models by names that are strings, but is 1"),
        ({"evaluate": 3}, "evaluate: must be a function"),
        ({"batch_sizes": 3}, "batch_sizes: must be numbers"),
        ({"batch_sizes": [0]}, "batch_sizes: must be a batch size, at least 1, but is 0"),
        ({"batch_dim": -1}, "batch_dim: must be a dimension, at least 0"),
        ({"batch_dim": 7, "batch_sizes": [1]}, "batch_sizes: no input has a dimension 7"),
        ({"threads": 0}, "threads: must be a number of threads, at least 1"),
        ({"compiled": "yes"}, "compiled: must be True or False"),
        ({"timed": None}, "timed: must be True or False"),
        ({"repeats": 0}, "repeats: must be"),
        ({"warmup": -1}, "warmup: must be"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"model": nn.ReLU(), "example_inputs": torch.ones(1)} | arguments
    with pytest.raises(InputError, match=message):
        graphprune.measure(**given)


# ---------------------------------------------------------------- energy


class Zone:
    """A package of a processor, whose counter goes on by 300 µJ each time it is read."""

    def __init__(self, folder: Path, number: int, start: int) -> None:
        self.folder = folder / f"intel-rapl:{number}"
        self.folder.mkdir(parents=True)
        (self.folder / "name").write_text(f"package-{number}\n")
        (self.folder / "max_energy_range_uj").write_text("1000\n")
        (self.folder / "energy_uj").write_text(f"{start}\n")


def test_the_counter_of_processors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(energy, "LONG_ENOUGH", 0.0)
    zones = [Zone(tmp_path, 0, 100), Zone(tmp_path, 1, 900)]
    (tmp_path / "intel-rapl:0:0").mkdir()
    (tmp_path / "intel-rapl:0:0" / "name").write_text("core\n")
    counter = energy.ProcessorCounter.found(tmp_path)
    runs = []

    def run() -> None:
        runs.append(1)
        (zones[0].folder / "energy_uj").write_text("500\n")
        (zones[1].folder / "energy_uj").write_text("100\n")  # it has begun again

    assert energy.joules_of(run, counter) == pytest.approx((400 + 200) * 1e-6)
    assert runs == [1]


def test_no_counter(tmp_path: Path) -> None:
    with pytest.raises(energy.CounterMissing, match="has no counter of a processor package"):
        energy.ProcessorCounter.found(tmp_path)
    (Zone(tmp_path, 0, 1).folder / "energy_uj").unlink()
    with pytest.raises(energy.CounterMissing, match=r"cannot be read \(.*No such file.*\); let the administrator"):
        energy.ProcessorCounter.found(tmp_path)
    with pytest.raises(energy.CounterMissing, match="no counter is known for mps"):
        energy.energy_counter(torch.device("mps"))


def test_energy_is_measured_where_there_is_a_counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    zone = Zone(tmp_path, 0, 0)

    class Burning(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            counter = zone.folder / "energy_uj"
            counter.write_text(str(int(counter.read_text()) + 7))
            return super().forward(x)

    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    monkeypatch.setattr(energy, "LONG_ENOUGH", 0.0)
    found = graphprune.measure(Burning(4, 4), torch.ones(1, 4), **QUICK)
    assert found.joules == pytest.approx(7e-6)
    assert "energy" not in found.missing
