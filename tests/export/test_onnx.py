"""ONNX files: ONNX Runtime computes what the slim model does, for every batch and length."""

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import graphprune
from graphprune import MethodCall, export_onnx
from graphprune.errors import InputError, VerificationError
from graphprune.export import onnx as exporting
from models import vit

IMAGE = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 16, 1))
        self.head = nn.Linear(16, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        x = x + self.block(x)
        found: Tensor = self.head(x.mean((2, 3)))
        return found


class Linear(nn.Module):
    """As little as can be exported."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.linear(x)
        return found


def tokens(batch: int, length: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(100, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[-1, -2:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def llama() -> nn.Module:
    config = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        vocab_size=100,
    )
    return LlamaForCausalLM(config).eval()


def images(batch: int, length: int) -> Tensor:
    return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(batch))


def small_vit() -> nn.Module:
    return vit.vit(image_size=16, patch_size=4, dim=32, depth=1, heads=4, mlp_dim=48).eval()


def run(path: Path, inputs: Any) -> list[Tensor]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    given = inputs if isinstance(inputs, dict) else {names[0]: inputs}
    return [torch.from_numpy(x) for x in session.run(None, {name: given[name].numpy() for name in names})]


def pruned(model: nn.Module, example: Any) -> nn.Module:
    return graphprune.trace(model, example).plan(macs=0.6).apply(model)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int, int], Any], dict[str, tuple[str | int, ...]]]] = {
    "convolutional": (lambda: Convolutional().eval(), images, {"output": ("batch", 10)}),
    "ViT": (small_vit, images, {"output": ("batch", 10)}),
    "Llama": (llama, tokens, {"logits": ("batch", "sequence", 100)}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_runtime_computes_the_same(name: str, tmp_path: Path) -> None:
    make, inputs, outputs = NETWORKS[name]
    model = make()
    slim = graphprune.trace(model, inputs(2, 7)).plan(macs=0.6, seed=1).apply(model)
    file = export_onnx(slim, tmp_path / "slim.onnx", inputs(1, 7))
    for output, axes in file.outputs.items():
        assert axes[0] == "batch"
        assert len(axes) == len(outputs[output])
    assert file.outputs.keys() == outputs.keys()
    assert file.difference is not None
    for batch, length in ((1, 7), (5, 11)):
        example = inputs(batch, length)
        with torch.no_grad():
            result = slim(**example) if isinstance(example, dict) else slim(example)
        expected = [result[output] for output in file.outputs] if isinstance(result, dict) else [result]
        for found, wanted in zip(run(file.path, example), expected, strict=True):
            difference = float((found - wanted).abs().max())
            print(f"{name}, batch {batch}: largest difference {difference:.1e}; {file}")
            assert difference < 1e-5
    assert [path.name for path in tmp_path.iterdir()] == ["slim.onnx"]


class Several(nn.Module):
    """Other inputs and outputs than one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, scale: float, pair: tuple[Tensor, Tensor], cache: bool = False) -> dict[str, Any]:
        y = self.linear(x) * scale + pair[0]
        return {"x": y, "all": [y, pair[1] + 1], "cache": object() if cache else None}


def test_names_of_inputs_and_outputs(tmp_path: Path) -> None:
    example = (torch.ones(2, 4), 3.0, (torch.ones(2, 4), torch.ones(7)))
    file = export_onnx(Several(), tmp_path / "a.onnx", MethodCall("forward", *example, cache=True))
    assert dict(file.inputs) == {"x": ("batch", 4), "pair_0": ("batch", 4), "pair_1": (7,)}
    assert dict(file.outputs) == {"x_out": ("batch", 4), "all_0": ("batch", 4), "all_1": (7,)}
    file = export_onnx(
        Several(),
        tmp_path / "a.onnx",
        MethodCall("forward", torch.ones(1, 4), 2.0, pair=example[2]),
        dynamic={"pair_1": (0,)},
        outputs=lambda result: result["all"],
        check=False,
    )
    assert dict(file.inputs) == {"x": (1, 4), "pair_0": (2, 4), "pair_1": ("pair_1_0",)}
    assert "out: output_0[2, 4], output_1[pair_1_0]" in str(file)
    assert file.difference is None
    assert "note: not compared with the model, as check=False" in str(file)


def test_what_onnx_runtime_has_no_kernels_for_is_not_compared(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).double()
    file = export_onnx(model, tmp_path / "a.onnx", torch.randn(1, 3, 8, 8).double())
    assert file.difference is None and (tmp_path / "a.onnx").is_file()
    assert "not compared with the model, as ONNX Runtime cannot run it on the CPU: Could not find an imp" in str(file)


def test_weights_beside_the_file(tmp_path: Path) -> None:
    for name in ("a.onnx.0123abcd.data", "a.onnx.mine.data"):
        (tmp_path / name).write_text("old")
    file = export_onnx(nn.Linear(100, 100), tmp_path / "a.onnx", torch.randn(2, 100), external_data=True)
    assert file.data is not None
    assert {path.name for path in tmp_path.iterdir()} == {"a.onnx", file.data.name, "a.onnx.mine.data"}
    assert file.data.stat().st_size >= 4 * 100 * 100 > file.path.stat().st_size
    assert f"weights: {file.data}" in str(file)
    onnx.checker.check_model(str(file.path))


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(2, 6) + 1


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.mean() > 0 else x


class Drawing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class Silent(nn.Module):
    def forward(self, x: Tensor) -> int:
        return x.ndim


X = torch.ones(2, 6)


@pytest.mark.parametrize(
    ("make", "example", "options", "error", "message"),
    [
        (Fixed, X, {}, InputError, r"cannot export this Fixed to ONNX [\s\S]*x: \(0,\)[\s\S]*leave its dimension out"),
        (
            Branching,
            X,
            {},
            InputError,
            r"depends on the values of a tensor\n  where: .*x.mean\(\) > 0[\s\S]*torch.where",
        ),
        (Drawing, X, {}, VerificationError, r"something else from the file than Drawing[\s\S]*pass check=False"),
        (Silent, X, {}, InputError, "slim: returns no tensor"),
        (Linear, [X, X], {}, InputError, "holds 2 examples"),
        (Linear, {"x": 3}, {}, InputError, "holds no tensor"),
        (
            Linear,
            (MappingProxyType({"x": X}),),
            {},
            InputError,
            r"cannot tell the inputs of the file from .*f32\[2, 6\]",
        ),
        (Linear, X, {"dynamic": {"y": (0,)}}, InputError, "dynamic: there is no input 'y'; the inputs are 'x'"),
        (Linear, X, {"dynamic": {"x": (2,)}}, InputError, r"dynamic: \(2,\) holds a dimension"),
        (Linear, X, {"dynamic": (9,)}, InputError, r"dynamic: \(9,\) holds a dimension that no input has"),
        (Linear, X, {"dynamic": (0, 2)}, InputError, r"dynamic: \(0, 2\) holds a dimension that no input has"),
        (Linear, X, {"dynamic": (-1,)}, InputError, "dynamic: must be a dimension, at least 0, but is -1"),
        (Linear, X, {"dynamic": "x"}, InputError, "dynamic: must be dimensions"),
        (Linear, torch.ones(2, 1), {"dynamic": (0, 1)}, InputError, "dimension 1 of x is to be dynamic but has size 1"),
        (lambda: 3, X, {}, InputError, "slim: must be an nn.Module"),
    ],
)
def test_what_cannot_be_exported(
    make: Callable[[], Any], example: Any, options: Any, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        export_onnx(make(), tmp_path / "a.onnx", example, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, path = torch.randn(2, 4), tmp_path / "a.onnx"
    export_onnx(Linear(), path, x)
    old = path.read_bytes()

    def wrong(*_: Any) -> float:
        raise VerificationError("differs")

    monkeypatch.setattr(exporting, "_difference", wrong)
    with pytest.raises(VerificationError, match="differs"):
        export_onnx(Linear(), path, x, external_data=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.onnx"]
    assert path.read_bytes() == old
    with pytest.raises(InputError, match=r"path: .* is a folder[\s\S]*pass the file to write"):
        export_onnx(Linear(), tmp_path, x)


def test_only_files_of_its_own_are_replaced(tmp_path: Path) -> None:
    model, x, path = Linear(), torch.randn(2, 4), tmp_path / "a.onnx"
    path.touch()
    for _ in range(2):
        export_onnx(model, path, x)
    torch.save(model.state_dict(), path)
    with pytest.raises(InputError, match=r"path: .* exists and is no ONNX file that graphprune wrote"):
        export_onnx(model, path, x)
    assert torch.load(path).keys() == model.state_dict().keys()


class Nodes(nn.Module):
    """Sums what edges bring to each node."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = self.enter(x)
        found: Tensor = self.leave(torch.zeros_like(h).index_add_(0, edges[1], h[edges[0]]).relu())
        return found


def test_sizes_that_the_model_does_not_take_are_not_compared(tmp_path: Path) -> None:
    inputs = torch.randn(20, 8), torch.randint(10, 20, (2, 30))
    slim = graphprune.prune_model(Nodes().eval(), 0.5, inputs)
    file = export_onnx(slim, tmp_path / "nodes.onnx", inputs, dynamic={"x": (0,), "edges": (1,)})
    assert file.difference is not None and file.difference < 1e-4
    assert file.notes == ("batches of 1 and 3 were not compared, as the model fails with them",)


def test_a_failed_export_leaves_the_inputs_as_they_were(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(8, 32), nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.leave(self.enter(x)) + torch.ones(int(x.shape[0]) if x.shape[0] == 2 else 7, 3)
            return found

    x = torch.randn(2, 8)
    slim = graphprune.prune_model(Fixed().eval(), 0.5, x)
    with pytest.raises(InputError, match="cannot export"):
        export_onnx(slim, tmp_path / "fixed.onnx", x, dynamic={"x": (0,)})
    assert not vars(x)
