"""Models whose tensors are not arrays of numbers: which are refused and what to do, and unusual types that are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import graphprune
from graphprune.errors import GraphpruneError, InputError, TraceError
from graphprune.training.losses import LossFunction
from tests.training_net import examples, net

X, Y = examples()


def with_weight(change: Callable[[Tensor], Tensor]) -> nn.Module:
    model = net()
    model.enter.weight = nn.Parameter(change(model.enter.weight.detach()))
    return model


def nested(as_buffer: bool) -> nn.Module:
    model = net()
    value = torch.nested.nested_tensor([torch.ones(2, 6), torch.ones(3, 6)])
    model.register_buffer("table", value) if as_buffer else model.register_parameter("table", nn.Parameter(value))
    return model


def of_torchao() -> nn.Module:
    quantization = pytest.importorskip("torchao.quantization")
    model = net().eval()
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    return model


def fake() -> nn.Module:
    with FakeTensorMode():
        return net()


def exported() -> nn.Module:
    return torch.export.export(net().eval(), (X,)).module()


REFUSED: dict[str, tuple[Callable[[], nn.Module], type[GraphpruneError], str]] = {
    "sparse": (lambda: with_weight(Tensor.to_sparse), InputError, r"enter\.weight: is sparse[\s\S]*to_dense"),
    "compressed": (lambda: with_weight(Tensor.to_sparse_csr), InputError, r"enter\.weight: is sparse[\s\S]*to_dense"),
    "nested": (lambda: nested(False), InputError, r"model\.table: is a nested tensor[\s\S]*dense tensor for each"),
    "nested buffer": (lambda: nested(True), InputError, r"model\.table: is a nested tensor"),
    "torchao": (of_torchao, InputError, r"enter\.weight: is quantized[\s\S]*quantize the slim one"),
    "fake": (fake, InputError, r"enter\.weight: is a FakeTensor[\s\S]*torch\.device\('meta'\)"),
    "exported": (exported, InputError, r"torch\.export made[\s\S]*export the slim one"),
    "traced": (
        lambda: torch.jit.trace(net().eval(), X),
        InputError,
        r"jit\.trace compiled[\s\S]*trace the slim",
    ),
    "frozen": (
        lambda: torch.jit.freeze(torch.jit.script(net().eval())),
        TraceError,
        r"cannot be copied[\s\S]*as its class builds it",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_cut_is_refused(name: str) -> None:
    make, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message) as caught:
        graphprune.prune_model(make(), 0.5, X)
    error = caught.value
    assert error.where and error.found and error.needed and error.do


class Narrow(nn.Module):
    """A layer with weights of one byte."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        value = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(value.to(torch.float8_e4m3fn), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, None])
def test_types_stay_as_they_are(dtype: torch.dtype | None) -> None:
    """None: weights of one byte."""
    model = nn.Sequential(Narrow(6, 16), nn.ReLU(), Narrow(16, 3)) if dtype is None else net().to(dtype)
    x = X if dtype is None else X.to(dtype)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert graphprune.verify(model, slim, plan, x).passed
    assert {p.dtype for p in slim.parameters()} == {dtype or torch.float8_e4m3fn}


def gradients_of(model: nn.Module) -> nn.Module:
    loss: LossFunction = F.cross_entropy
    return graphprune.prune_model(model, 0.5, X, importance="taylor", loss_fn=loss, calibration=[(X, Y)])


def test_gradients_that_cannot_be() -> None:
    with torch.inference_mode():
        fixed = net()
    with pytest.raises(InputError, match=r"made in torch\.inference_mode\(\)[\s\S]*copy\.deepcopy"):
        gradients_of(fixed)
    kept = net()
    weight = kept.enter.weight
    del kept.enter.weight
    kept.enter.weight = weight * weight  # keeps what its gradient needs, once
    with pytest.raises(InputError, match="gradients of batch 0 cannot be computed"):
        gradients_of(kept)


def test_training_without_labels() -> None:
    with pytest.raises(InputError, match=r"training needs a loss[\s\S]*pairs \(inputs, target\)[\s\S]*teacher="):
        graphprune.finetune(net(), [{"x": X}], steps=1, lr=0.1, progress=False)
