"""2:4 on sparse tensor cores: converted where a device has them, and refused with a reason elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import graphprune
from graphprune.errors import InputError
from graphprune.sparsity import semi_structured
from graphprune.sparsity.semi_structured import SemiStructured, has_pattern, to_semi_structured

TENSOR_CORES = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


@pytest.mark.skipif(not TENSOR_CORES, reason="needs a CUDA device of compute capability 8.0 or higher")
def test_layers_are_converted_on_the_device() -> None:
    model = net()
    graphprune.sparsify(model, "2:4")
    model = model.half().cuda().eval()
    x = torch.randn(128, 128).half().cuda()
    with torch.inference_mode():
        needed = model(x)
        found = to_semi_structured(model)
        assert found.converted == ("0",) and "2" in found.left
        assert torch.allclose(model(x), needed, atol=2e-2)


def test_a_cpu_is_refused_and_nothing_is_changed() -> None:
    model = net().bfloat16()
    graphprune.sparsify(model, "2:4")
    with pytest.raises(
        InputError, match=r"0\.weight is on cpu, which has no units for 2:4[\s\S]*needed: a CUDA device"
    ):
        to_semi_structured(model)
    assert "0.weight_mask" in model.state_dict()
    with pytest.raises(InputError, match="no linear layer has the pattern 2:4"):
        to_semi_structured(net())


def test_what_torch_does_not_take_stays_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a device: its checks and conversion are replaced."""

    def converted(weight: torch.Tensor) -> torch.Tensor:
        if weight.shape[0] % 32:
            raise RuntimeError("Error original_tensor.shape is not supported!")
        return weight.clone()

    monkeypatch.setattr(semi_structured, "_check_device", lambda path, weight: None)
    monkeypatch.setattr(semi_structured, "to_sparse_semi_structured", converted)
    model: Any = nn.ModuleDict({"a": net(), "b": nn.Linear(128, 128)})
    graphprune.sparsify(model, "2:4", layers="a")
    needed = model["a"][0].weight.detach().clone()
    found = to_semi_structured(model)
    assert found == SemiStructured(
        ("a.0",), {"b": "its weight does not have the pattern", "a.2": "Error original_tensor.shape is not supported!"}
    )
    assert str(found).splitlines()[:2] == ["a.0: 2:4", "b: dense, its weight does not have the pattern"]
    assert torch.equal(model["a"][0].weight, needed) and not model["a"][0].weight.requires_grad
    assert "a.2.weight_mask" in model.state_dict() and "a.0.weight_mask" not in model.state_dict()


def test_patterns_are_recognized() -> None:
    assert has_pattern(torch.tensor([[0.0, 1, 2, 0, 0, 0, 0, 3]]))
    assert not has_pattern(torch.tensor([[0.0, 1, 2, 3]]))
    assert not has_pattern(torch.zeros(4, 6))
    assert not has_pattern(torch.zeros(0, 4))
