"""The oracle: it agrees with the model when nothing is removed, and goes red when something is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import graphprune
from graphprune.api import ChannelGraph
from graphprune.pruning.masked import run_masked_graph
from graphprune.pruning.plan import Plan
from graphprune.pruning.verification import compare_slim
from graphprune.pruning.wide_run import run_slim
from graphprune.tracing.inputs import MethodCall
from graphprune.utils.tree import tensors_of
from models import gpt, hardnet, mobilenet_v2, resnet_cifar, vit

IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
NETWORKS = {
    "resnet": (resnet_cifar.resnet20, IMAGE),
    "mobilenet": (lambda: mobilenet_v2.mobilenet_v2(10, small_input=True), IMAGE),
    "vit": (vit.vit, IMAGE),
    "gpt": (gpt.gpt, torch.arange(24).view(2, 12)),
    "hardnet": (hardnet.hardnet, IMAGE),
}


def pruned(name: str) -> tuple[nn.Module, Tensor, ChannelGraph, Plan, nn.Module]:
    build, inputs = NETWORKS[name]
    torch.manual_seed(0)
    model = build().eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point() and b.ndim == 1)):
            if tensor.ndim == 1:
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    graph = graphprune.trace(model, inputs)
    plan = graph.plan(0.5, importance="random")
    return model, inputs, graph, plan, plan.apply(model)


@pytest.mark.parametrize("name", NETWORKS)
def test_slim_equals_masked(name: str) -> None:
    model, inputs, _, plan, slim = pruned(name)
    check = graphprune.verify(model, slim, plan, inputs)
    assert check.passed
    assert check.relative <= 1e-10
    assert "equal to the masked original" in str(check)
    assert bool(check.inexact) == (name in ("vit", "gpt"))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_interpreter_is_the_model(name: str) -> None:
    model, inputs, graph, _, _ = pruned(name)
    masked = run_masked_graph(graph, None, [inputs])
    (expected,) = tensors_of(run_slim(model, [MethodCall("forward", inputs)]))
    assert masked.inexact == ()
    torch.testing.assert_close(masked.outputs[0], expected, rtol=1e-12, atol=1e-12)


def test_verifications_of_one_analysis_leave_it_as_it_was() -> None:
    model, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval(), torch.randn(2, 8)
    graph = graphprune.trace(model, x)
    plan, shown, program = graph.plan(0.5), repr(graph.trace), graph.trace.evaluation
    for _ in range(2):
        assert compare_slim(graph, plan.apply(model), plan).passed
    assert graph.trace.evaluation is program and repr(graph.trace) == shown
    assert {graph.trace.original(node) for node in program.nodes} <= {*graph.trace.graph.nodes, *program.nodes}
    with pytest.raises(KeyError):
        graph.trace.node_index(torch.fx.Graph().placeholder("of_another_graph"))


@pytest.mark.parametrize("name", NETWORKS)
def test_one_wrong_weight_is_seen(name: str) -> None:
    model, inputs, _, plan, slim = pruned(name)
    parameters = [p for p in slim.parameters() if p.ndim > 1]
    with torch.no_grad():
        parameters[-1].view(-1)[0] += 0.5
    check = graphprune.verify(model, slim, plan, inputs)
    assert not check.passed
    assert "DIFFERENT" in str(check)


@pytest.mark.parametrize("name", ["resnet", "hardnet", "vit"])
def test_another_choice_is_seen(name: str) -> None:
    model, inputs, graph, _, slim = pruned(name)
    other = graph.plan(0.5, importance="random", seed=1)
    assert not graphprune.verify(model, slim, other, inputs).passed


def test_the_order_of_a_gathered_parameter_matters() -> None:
    model, inputs, _, plan, _ = pruned("hardnet")
    unordered = {n: {d: np.sort(i) for d, i in dims.items()} for n, dims in plan.kept.items()}
    changed = [n for n in plan.kept if any((plan.kept[n][d] != i).any() for d, i in unordered[n].items())]
    assert changed, "hardnet has a channel shuffle whose consumers are gathered in another order"
    slim = replace(plan, kept=unordered).apply(model)
    assert not graphprune.verify(model, slim, plan, inputs).passed


class Gate(nn.Module):
    """A removed channel would still open its gate half way if only its producer were zeroed."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.sigmoid(self.norm(self.first(x))))


def test_zeroing_only_the_producer_would_be_wrong() -> None:
    torch.manual_seed(0)
    model = Gate().eval()
    plan = graphprune.trace(model, IMAGE).plan(0.5)
    slim = plan.apply(model)
    assert graphprune.verify(model, slim, plan, IMAGE).passed
    with torch.no_grad():
        model.first.weight *= plan.mask("first.weight")
        model.first.bias *= plan.mask("first.bias")
        assert (model(IMAGE) - slim(IMAGE)).abs().max() > 1e-2


def test_a_slim_model_of_another_shape_is_refused() -> None:
    model, inputs, _, plan, _ = pruned("resnet")
    with pytest.raises(graphprune.errors.PlanError, match="slim: its outputs have shapes"):
        graphprune.verify(model, resnet_cifar.resnet20(num_classes=7), plan, inputs)


class EpsilonByType(nn.Module):
    """A normalization whose epsilon depends on the type that it is given: in float64 it is another one."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        eps = 1e-5 if h.dtype == torch.float32 else 1e-1
        return self.leave(h * (h.square().sum(0, keepdim=True) + eps).rsqrt())


def test_a_program_that_chooses_by_the_type_is_compared_in_the_type_of_the_comparison() -> None:
    net, x = EpsilonByType().eval(), torch.randn(3, 6)
    plan = graphprune.trace(net, x).plan(0.5)
    slim = plan.apply(net)
    assert graphprune.verify(net, slim, plan, x).passed
    slim.leave.weight.data[0, 0] += 1e-3
    assert not graphprune.verify(net, slim, plan, x).passed


class Amplifier(nn.Module):
    """The sine of large numbers: it changes in its sixth digit when its argument does in its fifteenth."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.enter, self.leave, self.factor = nn.Linear(64, 32), nn.Linear(32, 3), factor

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.factor * self.leave(self.enter(x).relu()))


@pytest.mark.parametrize(("factor", "passes"), [(1e8, True), (1e30, False)])
def test_a_difference_that_rounding_makes_is_none_unless_it_hides_everything(factor: float, passes: bool) -> None:
    torch.manual_seed(0)
    net, x = Amplifier(factor).eval(), torch.randn(3, 64)
    plan = graphprune.trace(net, x).plan(0.5)
    slim = plan.apply(net)
    check = graphprune.verify(net, slim, plan, x)
    assert check.relative > check.tolerance
    assert check.passed is passes
    assert ("Rounding alone moves the outputs" in str(check)) is passes
    slim.leave.weight.data[0, 0] += 1e-3
    assert not graphprune.verify(net, slim, plan, x).passed


@pytest.mark.parametrize(
    ("places", "said"), [(("a norm",), "in 1 place: a norm."), (("a norm", "a sum"), "in 2 places: a norm, ...")]
)
def test_as_many_places_are_told_as_there_are(places: tuple[str, ...], said: str) -> None:
    check = graphprune.Verification(relative=0.0, absolute=0.0, outputs=1, tolerance=1e-10, inexact=places)
    assert said in str(check)


@pytest.mark.parametrize("reads", [True, False])
def test_the_norms_of_weights_over_channels_are_named(reads: bool) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)]
    normed = weight_norm(layers[2 if reads else 0])
    model, x = nn.Sequential(*layers).eval(), torch.randn(5, 6)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    check = graphprune.verify(model, slim, plan, x)
    assert check.passed
    assert [("weight normalization" in place) for place in check.inexact] == [True] * reads
    if reads:
        torch.testing.assert_close(slim[2].weight.norm(dim=1), normed.weight.norm(dim=1))


class Program(nn.Module):
    """A narrow and a wide layer, and a program of the test's after them."""

    def __init__(self, then: Callable[[Program, Tensor], Any]) -> None:
        super().__init__()
        self.enter, self.leave, self.then = nn.Linear(8, 32), nn.Linear(32, 4), then
        self.register_buffer("table", torch.randn(8, 3, 5).permute(1, 2, 0))

    def forward(self, x: Tensor) -> Any:
        return self.then(self, x)


def legacy_sum(model: Program, x: Tensor) -> Any:
    y = model.leave(model.enter(x).relu())
    loss = torch.FloatTensor([0.0]).to(x.device)
    loss += y.square().mean()
    return y, loss


def without_autocast(model: Program, x: Tensor) -> Tensor:
    y = nn.functional.normalize(model.enter(x), dim=-1) * model.enter.weight.shape[0] ** 0.5
    with torch.autocast(y.device.type, enabled=False):
        return model.leave(y * 2)  # type: ignore[no-any-return]


def permuted_table(model: Program, x: Tensor) -> Tensor:
    return x.sum() + model.leave(model.enter(model.table).relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize("then", [legacy_sum, without_autocast, permuted_table])
def test_programs_that_could_not_be_compared(then: Callable[[Program, Tensor], Any]) -> None:
    """Types, devices and layouts that the copy of a model had and the model had not."""
    model, x = Program(then).eval(), torch.randn(2, 8)
    plan = graphprune.trace(model, x).plan(0.5)
    assert plan.entries[1] < 0.7 * plan.entries[0]
    assert graphprune.verify(model, plan.apply(model), plan, x).passed


def test_parametrized_recurrent_layers_are_run_in_their_own_types() -> None:
    """``copy.deepcopy`` refuses their class, which torch makes for each of them."""

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.leave = weight_norm(nn.LSTM(5, 16, batch_first=True), "weight_hh_l0"), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.leave(self.layer(x)[0])
            return found

    model, x = Recurrent().eval(), torch.randn(2, 4, 5)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert graphprune.verify(model, slim, plan, x).passed
    slim(x)
