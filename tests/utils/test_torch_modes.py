"""Where torch itself puts other tensors in the place of real ones, and where it only looks on."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import graphprune
from benchmarks.context_kinds import Functions, Watched
from graphprune.errors import InputError
from tests.training_net import equal, examples, net, weights

X, Y = examples()
MAKERS = frozenset("zeros ones empty full rand randn randint randperm arange linspace eye tensor as_tensor".split())


@contextmanager
def default_device_meta() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def default_type(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


ONLOOKERS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no gradients": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "device meta": lambda: torch.device("meta"),
    "default device meta": default_device_meta,
    "float64": lambda: default_type(torch.float64),
    "bfloat16": lambda: default_type(torch.bfloat16),
    "dispatch mode": Watched,
    "function mode": Functions,
    "operation counter": lambda: FlopCounterMode(display=False),
    "profiler": torch.autograd.profiler.profile,
    "anomalies": torch.autograd.detect_anomaly,
    "deterministic": deterministic,
    "saved tensors": lambda: torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t),
    "forward gradients": torch.autograd.forward_ad.dual_level,
}


def everything(model: nn.Module) -> list[Tensor]:
    """The weights after each way of pruning; the first is verified."""
    plan = graphprune.trace(model, X).plan(0.5)
    slim = plan.apply(model)
    assert graphprune.verify(model, slim, plan, X).passed
    labeled: dict[str, Any] = {"loss_fn": nn.functional.cross_entropy, "calibration": [(X, Y)]}
    by_gradients = graphprune.prune_model(model, 0.5, X, importance="taylor", **labeled)
    repaired = graphprune.prune_model(model, 0.5, X, importance="wanda", calibration=[X], repair=True)
    return [*weights(slim), *weights(by_gradients), *weights(repaired)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ONLOOKERS)
def test_the_same_slim_model_whoever_looks_on(name: str) -> None:
    model, expected = net(), everything(net())
    with ONLOOKERS[name]():
        found = everything(model)
    assert equal(found, expected)


def pruned(x: Tensor) -> Tensor:
    graphprune.prune_model(MODEL, 0.5, X)
    return x


MODEL = net()


@pytest.mark.filterwarnings("ignore:.torch.jit.trace. is deprecated")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: torch.func.vmap(pruned)(torch.ones(2)), r"torch\.func\.vmap[\s\S]*prune the model first"),
        (lambda: torch.func.grad(pruned)(torch.tensor(1.0)), r"torch\.func\.grad"),
        (lambda: torch.jit.trace(pruned, torch.ones(1)), r"torch\.jit\.trace"),
    ],
)
def test_transformations_are_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_fake_tensors_are_refused() -> None:
    with FakeTensorMode(), pytest.raises(InputError, match=r"FakeTensorMode[\s\S]*torch\.device\('meta'\)"):
        graphprune.trace(MODEL, X)


def test_every_tensor_that_is_made_says_where() -> None:
    """Else it would be made on the caller's default device."""
    unsaid = [
        f"{path}:{node.lineno}"
        for path in Path(graphprune.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value) == "torch"
        and node.func.attr in MAKERS
        and not any(keyword.arg in ("device", None) for keyword in node.keywords)
    ]
    assert not unsaid, "say device= there"


class Predicting(nn.Module):
    """Goes into inference mode by itself, and out of it for a part."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.middle, self.leave = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Linear(16, 5)

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x).relu()
        with torch.inference_mode(False), torch.no_grad():
            y = self.middle(y.clone())
        found: Tensor = self.leave(y.mean((2, 3)))
        return found


def test_a_model_that_goes_into_inference_mode_is_pruned_as_any_other() -> None:
    model, x, enter = Predicting().eval(), torch.randn(2, 3, 8, 8), torch.inference_mode.__enter__
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert slim.enter.out_channels == slim.middle.out_channels == 8
    assert graphprune.verify(model, slim, plan, x).passed
    assert torch.inference_mode.__enter__ is enter and slim(x).is_inference()
