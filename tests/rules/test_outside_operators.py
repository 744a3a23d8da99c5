"""Operators of other libraries: one registration, and every stage knows them.

Each norm here has a twin that calls torch's own batch normalization, and what every stage makes of the two must agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphprune
from graphprune.errors import InputError, RuleError
from graphprune.graph.rule_check import check_rule
from graphprune.pruning.plan import Plan
from graphprune.reconstruction.synthetic_inputs import synthesize
from graphprune.rules import (
    RULES,
    Call,
    LabeledTensor,
    Norm,
    contract,
    elementwise,
    elementwise_macs,
    linear_macs,
    linear_rows,
    per_channel,
    placed,
    positive,
    reduced,
    rule,
    sample,
    t,
)
from graphprune.rules.contraction import linear
from graphprune.rules.registry import PENDING, matmul_views, norm_of, rule_of
from tests.networks import randomize

SPACE = 6


@torch.library.custom_op("outside::scaled_norm", mutates_args=())
def scaled_norm(
    x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, training: bool = False
) -> Tensor:
    """Batch normalization whose arguments have another order than torch's, and defaults that calls leave out."""
    wide = (1, -1, *[1] * (x.ndim - 2))
    if training:
        variance, mean = torch.var_mean(x, [d for d in range(x.ndim) if d != 1], correction=0)
    scale = weight * torch.rsqrt(variance + eps)
    return (x - mean.view(wide)) * scale.view(wide) + bias.view(wide)


@scaled_norm.register_fake
def _(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.empty_like(x)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, _, variance, weight, _, eps, _ = inputs
    ctx.save_for_backward(weight * torch.rsqrt(variance + eps))


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """In evaluation mode, of the input alone."""
    (scale,) = ctx.saved_tensors
    return grad * scale.view(1, -1, *[1] * (grad.ndim - 2)), None, None, None, None, None, None


scaled_norm.register_autograd(_backward, setup_context=_save)


@torch.library.custom_op("outside::frozen_norm", mutates_args=())
def frozen_norm(x: Tensor, mean: Tensor, variance: Tensor, *, eps: float = 1e-5) -> Tensor:
    """Normalization of the last dimension with the statistics that it is given, whatever the mode."""
    return (x - mean) * torch.rsqrt(variance + eps)


@frozen_norm.register_fake
def _(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("outside::dense", mutates_args=())
def dense(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight.T


@dense.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


SCALED, FROZEN, DENSE = (getattr(torch.ops.outside, name).default for name in ("scaled_norm", "frozen_norm", "dense"))


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    """The whole of what graphprune is told."""

    @rule(
        "outside::scaled_norm",
        samples=[sample(t(2, 4, 3, labeled=[1]), t(4), positive(4), t(4), t(4))],
        norm=Norm(mean=1, variance=2, weight=3, bias=4, eps=5, training=6),
        macs=elementwise_macs(0),
    )
    def _scaled(call: Call, x: LabeledTensor, *vectors: Any) -> LabeledTensor:
        return per_channel(call, x, 1, *vectors[:4])

    @rule(
        "outside::frozen_norm",
        samples=[sample(t(2, 3, 4), t(4), positive(4))],
        norm=Norm(mean=1, variance=2, eps=3, channels=-1),
    )
    def _frozen(call: Call, x: LabeledTensor, *vectors: LabeledTensor, **_: Any) -> LabeledTensor:
        return per_channel(call, x, x.ndim - 1, *vectors)

    rule("outside::dense", samples=[sample(t(2, 3, 4), t(5, 4))], macs=linear_macs, matmul=[linear_rows(0, 1)])(linear)
    yield
    for op in (SCALED, FROZEN, DENSE):
        RULES.pop(op, None)
        PENDING.pop(op.name(), None)


class Norm2d(nn.Module):
    """Batch normalization, by torch or by the operator of this file."""

    def __init__(self, channels: int, outside: bool) -> None:
        super().__init__()
        self.outside = outside
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.outside:
            return scaled_norm(x, self.running_mean, self.running_var, self.weight, self.bias)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


class Net(nn.Module):
    """A residual block whose last step is a norm, and a classifier."""

    def __init__(self, outside: bool) -> None:
        super().__init__()
        self.enter, self.norm0 = nn.Conv2d(3, 8, 1), Norm2d(8, outside)
        self.inner, self.norm1 = nn.Conv2d(8, 12, 3, padding=1, bias=False), Norm2d(12, outside)
        self.outer, self.norm2 = nn.Conv2d(12, 8, 1, bias=False), Norm2d(8, outside)
        self.leave = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm0(self.enter(x)).relu()
        x = x + self.norm2(self.outer(self.norm1(self.inner(x)).relu()))
        return self.leave(x.tanh().mean((2, 3)))


def made(outside: bool) -> Net:
    return randomize(Net(outside)).double().eval()  # type: ignore[return-value]


def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(12, 3, SPACE, SPACE, generator=generator, dtype=torch.float64) for _ in range(2)]


def assert_twins(one: nn.Module, other: nn.Module) -> None:
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-9, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")


def changed(model: nn.Module, before: nn.Module) -> set[str]:
    """The names of tensors that differ."""
    old = before.state_dict()
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, old[name])}


def slim_pair(outside: bool, **options: Any) -> tuple[Net, Plan, Net]:
    model = made(outside)
    plan = graphprune.trace(model, batches()[0][:1]).plan(**options or {"ratio": 0.5})
    return model, plan, plan.apply(model)


def test_the_rules_are_proved() -> None:
    assert norm_of(SCALED) and matmul_views(DENSE)  # looked up by name
    assert all(check_rule(op) > 0 for op in (SCALED, FROZEN, DENSE))


def test_multiply_adds_are_counted() -> None:
    x = batches()[0][:2]
    mine, theirs = (graphprune.trace(made(outside), x).cost() for outside in (True, False))
    assert mine.macs - theirs.macs == 2 * SPACE**2 * (8 + 12 + 8)
    _, plan, slim = slim_pair(True)
    assert graphprune.trace(made(True), x).cost(plan) == graphprune.trace(slim, x).cost()


def test_importance_reads_its_factors() -> None:
    model, plan, _ = slim_pair(True, ratio=0.5, importance="bn_scale")
    largest = model.norm1.weight.abs().argsort()[6:].sort().values
    assert plan.kept["norm1.weight"][0].tolist() == largest.tolist()
    assert (
        plan.kept["enter.weight"][0].tolist()
        == slim_pair(False, ratio=0.5, importance="bn_scale")[1].kept["enter.weight"][0].tolist()
    )


def test_statistics_are_estimated_anew() -> None:
    mine, theirs = made(True), made(False)
    names = graphprune.reestimate_batch_norm(mine, batches())
    assert names == ("norm0.running_mean", "norm1.running_mean", "norm2.running_mean")
    assert graphprune.reestimate_batch_norm(theirs, batches()) == names
    assert_twins(mine, theirs)
    assert len(changed(mine, made(True))) == 6
    with torch.no_grad():
        first = [mine.enter(x) for x in batches()]
        second = [mine.inner(F.batch_norm(x, None, None, *mine.norm0.parameters(), True).relu()) for x in first]
    for norm, seen in ((mine.norm0, first), (mine.norm1, second)):
        rows = torch.cat(seen).transpose(0, 1).flatten(1)
        torch.testing.assert_close(norm.running_mean, rows.mean(1))
        torch.testing.assert_close(norm.running_var, rows.var(1))


def test_reconstruction_knows_its_mean_and_its_scale() -> None:
    (mine, plan, slim), (theirs, _, twin) = slim_pair(True), slim_pair(False)
    record = graphprune.reconstruct(slim, mine, plan, batches())
    graphprune.reconstruct(twin, theirs, plan, batches())
    assert_twins(slim, twin)
    found = {one.name: (one.intercept, one.summed) for one in record.repaired}
    assert found["inner.weight"] == ("norm1.running_mean", False)
    assert found["outer.weight"] == ("norm2.running_mean", True)  # through its scale into the residual sum


def test_repair_is_that_of_a_batch_norm() -> None:
    (mine, plan, slim), (theirs, _, twin) = slim_pair(True), slim_pair(False)
    raw = plan.apply(mine)
    assert (
        graphprune.repair(slim, mine, plan, batches()).norms == graphprune.repair(twin, theirs, plan, batches()).norms
    )
    assert_twins(slim, twin)
    assert {"norm2.running_mean", "outer.weight"} <= changed(slim, raw)
    torch.testing.assert_close(slim.get_buffer("norm0.running_mean"), raw.get_buffer("norm0.running_mean"))


def test_folding_reads_and_corrects_its_statistics() -> None:
    (mine, plan, slim), (theirs, _, twin) = slim_pair(True), slim_pair(False)
    folding = graphprune.fold(slim, mine, plan)
    graphprune.fold(twin, theirs, plan)
    assert folding.variances == ("norm1.running_var", "norm2.running_var")
    assert_twins(slim, twin)


def test_inputs_are_synthesized_from_what_it_remembers() -> None:
    mine, theirs = (synthesize(made(outside), batches()[0], 4, steps=3)[0] for outside in (True, False))
    torch.testing.assert_close(mine, theirs)


def test_the_model_is_pruned_and_verified() -> None:
    model, x = made(True), batches()[0]
    plan = graphprune.trace(model, x).plan(0.5)
    check = graphprune.verify(model, plan.apply(model), plan, x)
    assert check.passed, check
    slim = graphprune.prune_model(model, 0.5, x, calibration=batches())
    assert slim.norm1.running_mean.shape == (6,)
    plain = graphprune.prune_model(model, 0.5, x, calibration=batches(), repair=False)
    with torch.no_grad():
        lost = [float((m(x) - model(x)).square().sum()) for m in (slim, plain)]
    assert lost[0] < 0.5 * lost[1]


def test_without_positions_it_is_no_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: what the tests above see does come from ``norm=`` and ``macs=``."""
    known = rule_of(SCALED)
    assert known is not None
    monkeypatch.setitem(RULES, SCALED, replace(known, norm=None, macs=None))
    x, model = batches()[0], made(True)
    graph = graphprune.trace(model, x)
    assert graph.cost().macs == graphprune.trace(made(False), x).cost().macs
    with pytest.raises(InputError, match="reads the factors of normalizations"):
        graph.plan(0.5, importance="bn_scale")
    with pytest.raises(InputError, match="no batch normalization"):
        synthesize(model, x, 4, steps=1)
    assert graphprune.reestimate_batch_norm(model, batches()) == ()
    plan = graph.plan(0.5)
    record = graphprune.reconstruct(plan.apply(model), model, plan, batches())
    found = {one.name: (one.intercept, one.summed) for one in record.repaired}
    assert found["inner.weight"] == found["outer.weight"] == (None, False)
    assert graphprune.fold(plan.apply(model), model, plan).variances == ()


# ---------------------------------------------------------------- other signatures


class Rows(nn.Module):
    """Two norms of the last dimension, without a mode and without factors; or batch norms of the same rows."""

    def __init__(self, outside: bool) -> None:
        super().__init__()
        self.outside = outside
        self.enter, self.inner = nn.Linear(4, 6, bias=False), nn.Linear(6, 6, bias=False)
        for name in ("first", "second"):
            self.register_buffer(f"{name}_mean", torch.randn(6))
            self.register_buffer(f"{name}_variance", torch.rand(6) + 0.5)

    def norm(self, x: Tensor, name: str) -> Tensor:
        mean, variance = (getattr(self, f"{name}_{which}") for which in ("mean", "variance"))
        if self.outside:
            return frozen_norm(x, mean, variance, eps=1e-3)
        return F.batch_norm(x.flatten(0, 1), mean, variance, eps=1e-3).view_as(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.inner(self.norm(self.enter(x), "first").relu()), "second")


def test_a_norm_without_a_mode_and_with_channels_last() -> None:
    mine, theirs = (randomize(Rows(outside)).double().eval() for outside in (True, False))
    data = [torch.randn(5, 7, 4, dtype=torch.float64) * 3 for _ in range(2)]
    old = mine.second_mean.clone()
    for model in (mine, theirs):
        names = graphprune.reestimate_batch_norm(model, data)
        assert names == ("first_mean", "second_mean")
    assert_twins(mine, theirs)
    assert not torch.equal(mine.second_mean, old)


class Tokens(nn.Module):
    """A linear layer, and a norm of its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.inner, self.leave = nn.Linear(4, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 3)
        self.register_buffer("mean", torch.randn(8))
        self.register_buffer("variance", torch.rand(8) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(frozen_norm(self.inner(self.enter(x).relu()), self.mean, self.variance).relu())


@pytest.mark.parametrize("length", [7, 8])
def test_a_mean_along_the_outputs_takes_the_intercept(length: int) -> None:
    model = randomize(Tokens()).double().eval()
    model.variance.abs_().add_(0.5)
    data = [torch.randn(9, length, 4, dtype=torch.float64)]
    plan = graphprune.trace(model, data[0]).plan(0.25)
    slim = plan.apply(model)
    record = graphprune.reconstruct(slim, model, plan, data)
    (one,) = (one for one in record.repaired if one.name == "inner.weight")
    assert one.intercept == "mean"
    with torch.no_grad():
        found, wanted = (m.inner(m.enter(data[0]).relu()) for m in (slim, model))
        wanted = wanted[..., torch.from_numpy(plan.kept["mean"][0])]
        kept = model.mean[torch.from_numpy(plan.kept["mean"][0])]
        lost = ((found - slim.mean) - (wanted - kept)).square().sum() / wanted.square().sum()
    assert one.after == pytest.approx(float(lost) ** 0.5, rel=1e-6)


@pytest.mark.parametrize("square", [False, True])
def test_a_mean_along_another_dimension_takes_nothing(square: bool) -> None:
    """A batch norm of positions after a linear layer, even where there are as many positions as outputs."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.inner = nn.Linear(4, 8), nn.Linear(8, 6, bias=False)
            self.norm, self.leave = nn.BatchNorm1d(6 if square else 5), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(self.norm(self.inner(self.enter(x).relu())).relu())

    model = randomize(Positions()).double().eval()
    data = [torch.randn(9, 6 if square else 5, 4, dtype=torch.float64)]
    plan = graphprune.trace(model, data[0]).plan(0.5, overrides={"inner*": graphprune.Override(frozen=True)})
    record = graphprune.reconstruct(plan.apply(model), model, plan, data)
    assert all(one.intercept is None for one in record.repaired if one.name == "inner.weight")


class Dense(nn.Module):
    def __init__(self, outside: bool) -> None:
        super().__init__()
        self.outside = outside
        self.enter, self.weight, self.leave = nn.Linear(4, 8), nn.Parameter(torch.randn(10, 8)), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).relu()
        return self.leave((dense(x, self.weight) if self.outside else F.linear(x, self.weight)).relu())


def test_a_product_is_seen_as_one() -> None:
    mine, theirs = (randomize(Dense(outside)).double().eval() for outside in (True, False))
    data = [torch.randn(30, 4, dtype=torch.float64) for _ in range(2)]
    graphs = [graphprune.trace(model, data[0]) for model in (mine, theirs)]
    assert graphs[0].cost() == graphs[1].cost()
    plans = [graph.plan(0.5, importance="wanda", calibration=data) for graph in graphs]
    assert plans[0].kept["weight"][1].tolist() == plans[1].kept["weight"][1].tolist()
    slims = [plan.apply(model) for plan, model in zip(plans, (mine, theirs), strict=True)]
    for slim, model, plan in zip(slims, (mine, theirs), plans, strict=True):
        names = [one.name for one in graphprune.reconstruct(slim, model, plan, data).repaired]
        assert "weight" in names
    assert_twins(*slims)


@torch.library.custom_op("outside::with_sums", mutates_args=())
def with_sums(x: Tensor) -> tuple[Tensor, Tensor]:
    return x * 2, x.sum(1)


@with_sums.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(x.shape[0], *x.shape[2:])


@torch.library.custom_op("outside::product", mutates_args=())
def product(x: Tensor, w: Tensor) -> Tensor:
    return x @ w.T


@product.register_fake
def _(x: Tensor, w: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], w.shape[0])


@pytest.fixture
def rules_forgotten() -> Iterator[None]:
    known = dict(RULES)
    yield
    RULES.clear()
    RULES.update(known)


class Summed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, sums = torch.ops.outside.with_sums(self.enter(x))
        found: Tensor = torch.ops.outside.product(y, self.leave.weight) + sums[:, None]
        return found


@pytest.mark.usefixtures("rules_forgotten")
def test_the_rules_of_the_documentation_for_products_and_several_results() -> None:
    @rule(torch.ops.outside.with_sums.default, samples=[sample(t(3, 5, 2)), sample(t(2, 4))])
    def sums_rule(call: Call, x: LabeledTensor) -> tuple[LabeledTensor, ...]:
        return elementwise(call, x), reduced(call.result(1), x, [1], False)

    @rule(torch.ops.outside.product.default, samples=[sample(t(3, 5), t(4, 5))])
    def product_rule(call: Call, x: LabeledTensor, w: LabeledTensor) -> LabeledTensor:
        return contract(call.labels, placed(x, (0, 2), 3), placed(w, (1, 2), 3), [2])

    assert check_rule(torch.ops.outside.with_sums.default) > 0
    assert check_rule(torch.ops.outside.product.default) > 0
    model, x = Summed(), torch.randn(4, 5)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert slim.enter.out_features == 4
    assert graphprune.verify(model, slim, plan, x).passed


@pytest.mark.usefixtures("rules_forgotten")
@pytest.mark.parametrize("returned", [None, 3, (), LabeledTensor((4, 8))])
def test_a_rule_that_returns_something_else_is_named(returned: Any) -> None:
    rule(torch.ops.outside.with_sums.default, samples=[sample(t(4, 8))])(lambda call, x: returned)
    for run in (
        lambda: check_rule(torch.ops.outside.with_sums.default),
        lambda: graphprune.trace(Summed(), torch.randn(4, 5)).groups,
    ):
        with pytest.raises(RuleError, match=r"outside.with_sums.default: its rule returned[\s\S]*2 results"):
            run()


@pytest.mark.usefixtures("rules_forgotten")
def test_a_rule_of_other_shapes_is_no_proof() -> None:
    @rule(torch.ops.outside.with_sums.default, samples=[sample(t(4, 8))])
    def sums_rule(call: Call, x: LabeledTensor) -> tuple[LabeledTensor, ...]:
        return elementwise(call, x), elementwise(call, x)

    with pytest.raises(RuleError, match=r"says shapes \[4, 8\], \[4, 8\] of a call that gives \[4, 8\], \[4\]"):
        check_rule(torch.ops.outside.with_sums.default)


def test_all_results_of_an_elementwise_operation_follow() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.mantissa, self.exponent = nn.Linear(6, 16), nn.Linear(16, 4), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            mantissa, exponent = torch.frexp(self.enter(x))
            return self.mantissa(mantissa) + self.exponent(exponent.to(x.dtype))

    model, x = Parts().eval(), torch.randn(5, 6)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert slim.enter.out_features == 8
    assert graphprune.verify(model, slim, plan, x).passed


def test_samples_that_are_in_no_list_and_products_of_several_results() -> None:
    with pytest.raises(RuleError, match="samples: the rule of aten::frac has one that is in no list"):
        rule("aten::frac", samples=sample(t(2, 3)))
    with pytest.raises(RuleError, match=r"matmul: aten\.var_mean\.correction has 2 results"):
        rule(torch.ops.aten.var_mean.correction, samples=[sample(t(2, 3))], matmul=[linear_rows(0, 1)])
