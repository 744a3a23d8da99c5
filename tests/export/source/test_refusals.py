"""What cannot be written with torch alone is refused: what, where, and what to do. Nothing is written."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import graphprune
from graphprune.errors import ExportError, InputError


class Layer(nn.Module):
    """One linear layer, and something that is done to its output."""

    def __init__(self, act: Any = None) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) if self.act is None else self.act(self.fc(x))


class UsesNumpy(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * float(np.sqrt(2.0))


class ImportsLater(Layer):
    def forward(self, x: Tensor) -> Tensor:
        from torchvision.ops import sigmoid_focal_loss

        return self.fc(x) * (sigmoid_focal_loss is not None)


class ImportsUnderTheWrongGuard(Layer):
    def forward(self, x: Tensor) -> Tensor:
        try:
            from torchvision.ops import sigmoid_focal_loss
        except ValueError:
            return self.fc(x)
        return self.fc(x) * (sigmoid_focal_loss is not None)


class ImportsWhereOthersAreCaught(Layer):
    def forward(self, x: Tensor) -> Tensor:
        try:
            pass
        except ImportError:
            from torchvision.ops import sigmoid_focal_loss

            return sigmoid_focal_loss(x, x)
        return self.fc(x)


class CallsAnOperator(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.torchvision.nms(x, x[:, 0], 0.5) if x.shape[0] > 9 else self.fc(x)


counter = 0


class CountsCalls(Layer):
    def forward(self, x: Tensor) -> Tensor:
        global counter
        counter += 1
        return self.fc(x)


class Doubler:
    """An object with behavior."""

    def __call__(self, x: Tensor) -> Tensor:
        return 2 * x


def hooked() -> nn.Module:
    model = Layer()
    model.fc.register_forward_hook(lambda module, inputs, output: output * 2)
    return model


def parametrized() -> nn.Module:
    model = Layer()
    parametrizations.weight_norm(model.fc)
    return model


def with_forward() -> nn.Module:
    model = Layer()
    model.forward = functools.partial(Layer.forward, model)  # type: ignore[method-assign]
    return model


def typed_at_a_prompt() -> nn.Module:
    names: dict[str, Any] = {"Layer": Layer}
    exec("class Typed(Layer):\n    def forward(self, x):\n        return self.fc(x) + 1\n", names)
    return names["Typed"]()  # type: ignore[no-any-return]


def with_closure(factor: int = 3) -> nn.Module:
    return Layer(lambda x: x * factor)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "hook": (hooked, r"the Linear 'fc' has the hook hooked.<locals>.<lambda> \(forward_hooks\).*remove it"),
    "parametrization": (parametrized, r"the ParametrizedLinear 'fc' has parametrized weights.*remove_parametrizations"),
    "closure": (with_closure, r"the Layer.act is a lambda .* holds its variables factor.*make it a method"),
    "object": (lambda: Layer(Doubler()), r"the Layer.act is a .*Doubler"),
    "numpy": (UsesNumpy, r"UsesNumpy.forward uses numpy\.\S*sqrt"),
    "wrong guard": (
        ImportsUnderTheWrongGuard,
        r"ImportsUnderTheWrongGuard.forward has 'from torchvision.ops import sigmoid_focal_loss' in line \d+",
    ),
    "handler": (
        ImportsWhereOthersAreCaught,
        r"ImportsWhereOthersAreCaught.forward has 'from torchvision.ops import sigmoid_focal_loss' in line \d+",
    ),
    "import": (ImportsLater, r"ImportsLater.forward has 'from torchvision.ops import sigmoid_focal_loss' in line \d+"),
    "operator": (CallsAnOperator, r"CallsAnOperator.forward calls torch.ops.torchvision.nms"),
    "global": (CountsCalls, r"CountsCalls.forward assigns the global name counter.*make it an attribute"),
    "forward": (with_forward, r"the Layer has a forward that was put on the instance.*make it a method"),
    "source": (
        typed_at_a_prompt,
        r"the source of Typed.forward is not there \(<string>, line 2\).*define it in a file",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(name: str, tmp_path: Path) -> None:
    build, message = REFUSED[name]
    with pytest.raises(ExportError, match=f"(?s)slim: {message}.*graphprune.export_loader .*graphprune.save"):
        graphprune.export_source(build(), tmp_path / "out", torch.randn(2, 6))
    assert list(tmp_path.iterdir()) == []


def test_a_model_on_meta(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = Layer()
    with pytest.raises(ExportError, match=r"slim: fc.weight is on the meta device"):
        graphprune.export_source(model, tmp_path / "out", torch.randn(2, 6))


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"slim: must be a torch\.nn\.Module"):
        graphprune.export_source("model", tmp_path)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"directory: must be a path"):
        graphprune.export_source(Layer(), 3)  # type: ignore[arg-type]
    with pytest.raises(ExportError, match=r"example_inputs: the slim model fails on"):
        graphprune.export_source(Layer(), tmp_path / "out", torch.randn(2, 5))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_computes_something_else_is_not_put_in_place(tmp_path: Path) -> None:
    graphprune.export_source(Reads(), tmp_path, torch.randn(2, 6))
    before = (tmp_path / "model.py").read_text()
    _LOG.append("something")
    with pytest.raises(ExportError, match=r"the file that was written for it computes something else in evaluation"):
        graphprune.export_source(Reads(), tmp_path, torch.randn(2, 6))
    assert (tmp_path / "model.py").read_text() == before
    assert len(list(tmp_path.iterdir())) == 2


_LOG: list[str] = []


class Reads(Layer):
    """Has an attribute that its source makes anew, of what has another value by then."""

    calls = len(_LOG)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + self.calls + len(_LOG) * 0


def test_what_was_set_on_a_class_afterwards_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Changed, "gain", 3)
    monkeypatch.setattr(Changed, "forward", replacement)
    text = graphprune.export_source(Changed(), tmp_path, torch.randn(2, 6)).read_text()
    assert "    gain = 3\n" in text
    assert "    def forward(self: Any, x: Tensor) -> Tensor:\n        return F.relu(self.fc(x)) * self.gain\n" in text


class Changed(Layer):
    gain = 2

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


def replacement(self: Any, x: Tensor) -> Tensor:
    return F.relu(self.fc(x)) * self.gain


def test_functions_of_torch_as_attributes_of_a_class(tmp_path: Path) -> None:
    text = graphprune.export_source(WithFunction(), tmp_path, torch.randn(2, 6)).read_text()
    assert "    shape = staticmethod(F.gelu)\n    again = Layer.forward\n" in text


class WithFunction(Layer):
    shape = staticmethod(F.gelu)
    again = Layer.forward

    def forward(self, x: Tensor) -> Tensor:
        return self.shape(self.again(x))
