"""Calibration data: what is accepted, what is gathered, and that the model is given back as it was."""

from __future__ import annotations

import gc
import io
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphprune
from graphprune.calibration.moments import Moments
from graphprune.calibration.statistics import Statistics
from graphprune.errors import InputError


class Net(nn.Module):
    """Everything that a forward pass could change: normalization statistics, modes, flags, gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(3, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.5)
        self.leave = nn.Linear(8, 2)

    def forward(self, x: Tensor, scale: float | Tensor = 1.0) -> Tensor:
        if x.shape[-1] != 3:
            raise RuntimeError("three features are needed")
        return self.leave(self.drop(self.norm(self.enter(x * scale)).relu()))


class WithLoss(Net):
    """Computes its own loss, as models of Transformers do."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        scores = super().forward(x)
        loss = F.cross_entropy(scores, labels) if labels is not None else None
        return {"loss": loss, "logits": scores} if labels is not None else {"logits": scores}


def test_a_batch_without_samples_is_named() -> None:
    x = torch.randn(4, 3)
    with pytest.raises(InputError, match=r"calibration: batch 1 holds no samples[\s\S]*f32\[0, 3\]"):
        graphprune.prune_model(Net(), 0.5, x, importance="wanda", calibration=[x, x[:0]])


@pytest.mark.parametrize("importance", ["wanda", "taylor", "auto"])
def test_a_batch_without_values_is_named(importance: str) -> None:
    x, classes, graph = torch.randn(4, 3), torch.zeros(4, dtype=torch.long), graphprune.trace(Net(), torch.randn(2, 3))
    for inputs, target in ((x.to("meta"), classes), (x, classes.to("meta"))):
        pairs = [(x, classes), (inputs, target)]
        with pytest.raises(InputError, match="calibration: batch 1 is on meta and has no values"):
            graph.plan(0.5, importance=importance, calibration=pairs, loss_fn=F.cross_entropy)


def test_a_batch_without_values_is_named_after_pruning() -> None:
    model, x = Net(), torch.randn(4, 3)
    plan = graphprune.trace(model, x).plan(0.5)
    for call in (
        partial(graphprune.repair, plan.apply(model), model, plan),
        partial(graphprune.reestimate_batch_norm, model),
    ):
        with pytest.raises(InputError, match="calibration: batch 0 is on meta and has no values"):
            call([x.to("meta")])


@pytest.mark.filterwarnings("ignore:Sparse CS. tensor support")  # torch warns of the first
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_a_layer_that_takes_no_sparse_batch_asks_for_a_dense_one(layout: torch.layout) -> None:
    x = torch.randn(4, 3)
    with pytest.raises(InputError, match=r"failed on batch 0[\s\S]*do: *make the sparse tensors .* dense"):
        graphprune.prune_model(Net(), 0.5, x, importance="auto", calibration=[x.to_sparse(layout=layout)])


def statistics(calibration: Any, loss_fn: Any = None, model: nn.Module | None = None) -> Statistics:
    model = Net() if model is None else model
    return Statistics(model, graphprune.trace(model, torch.randn(2, 3)).units, calibration, loss_fn)


def batches(count: int = 3) -> list[Tensor]:
    return [torch.randn(4 + n, 3) for n in range(count)]


def pairs(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    return [(x, torch.arange(len(x)) % 2) for x in batches(count)]


def gathered(kept: Statistics) -> list[float]:
    """Means of the inputs of the last layer."""
    return kept.consumers()[-1].inputs.mean.flatten().tolist()


# ---------------------------------------------------------------- the model is lent


def state_of(model: nn.Module) -> list[Any]:
    """Modes, flags, values, and gradients by identity."""
    found: list[Any] = [m.training for m in model.modules()]
    found += [(p.requires_grad, id(p.grad)) for p in model.parameters()]
    found += [t.detach().clone().tolist() for t in (*model.parameters(), *model.buffers())]
    return [*found, torch.backends.mha.get_fastpath_enabled(), torch.is_grad_enabled()]


def unusual() -> Net:
    """A model in the middle of somebody's work."""
    model = Net().train()
    model.norm.eval()
    model.enter.weight.requires_grad_(False)
    model.leave.weight.grad = torch.full_like(model.leave.weight, 7.0)
    model.enter.bias.grad = torch.full_like(model.enter.bias, 5.0)
    return model


def nothing(_: Any) -> None:
    return None


def visit_and_fail(_: Any) -> None:
    raise KeyError("a visitor that fails")


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (lambda s: s.consumers(), None),
        (lambda s: s.consumers(products=True), None),
        (lambda s: s.each_backward(nothing), None),
        (lambda s: s.each_backward(visit_and_fail), KeyError),
    ],
)
def test_the_model_is_given_back_as_it_was(ask: Callable[[Statistics], Any], error: type[Exception] | None) -> None:
    model = unusual()
    kept = statistics(pairs(), F.cross_entropy, model)
    before, gradient = state_of(model), model.leave.weight.grad
    if error is None:
        ask(kept)
    else:
        with pytest.raises(error):
            ask(kept)
    assert state_of(model) == before
    assert model.leave.weight.grad is gradient and (gradient == 7).all()


@pytest.mark.parametrize("ask", [lambda s: s.consumers(), lambda s: s.each_backward(nothing)])
def test_it_is_given_back_after_a_batch_that_fails(ask: Callable[[Statistics], Any]) -> None:
    model = unusual()
    kept = statistics([*pairs(), (torch.randn(2, 4), torch.zeros(2))], F.cross_entropy, model)
    before = state_of(model)
    with pytest.raises(
        InputError, match=r"calibration: Net.forward failed on batch 3: RuntimeError: three[\s\S]*f32\[2, 4\]"
    ):
        ask(kept)
    assert state_of(model) == before


def test_hooks_of_gradients_do_not_run() -> None:
    """One may step an optimizer as soon as a parameter has its gradient."""
    model = Net().eval()
    optimizers = {p: torch.optim.SGD([p], lr=1.0) for p in model.parameters()}
    seen: list[Tensor] = []
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: optimizers[p].step())
    handle = model.enter.weight.register_hook(seen.append)
    before = [p.detach().clone() for p in model.parameters()]
    statistics(pairs(), F.cross_entropy, model).each_backward(nothing)
    assert all(map(torch.equal, model.parameters(), before)) and not seen
    model(torch.randn(2, 3)).sum().backward()
    assert not any(map(torch.equal, model.parameters(), before)) and len(seen) == 1
    handle.remove()
    model(torch.randn(2, 3)).sum().backward()
    assert len(seen) == 1


def test_what_is_not_the_models_own_keeps_its_gradient() -> None:
    """The parameters of a loss, and batches that are to have gradients."""

    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))
            self.seen = nn.Parameter(torch.ones(2))
            self.seen.grad = torch.full((2,), 3.0)

        def forward(self, output: Tensor, target: Tensor) -> Tensor:
            return F.cross_entropy(output * self.weight * self.seen, target)

    loss, given = Weighted(), [(x.requires_grad_(), y) for x, y in pairs()]
    gradient = loss.seen.grad
    found: list[set[str]] = []
    statistics(given, loss).each_backward(lambda gradients: found.append(set(gradients)))
    assert loss.weight.grad is None and all(x.grad is None for x, _ in given)
    assert loss.seen.grad is gradient and gradient is not None and (gradient == 3).all()
    assert found and "enter.weight" in found[0]


def test_it_runs_in_evaluation_mode_and_learns_nothing_from_its_own_gradients() -> None:
    """Dropout is off, and ``.grad`` of before is not added to."""
    model = unusual()
    seen: list[dict[str, Tensor]] = []
    kept = statistics(pairs(), F.cross_entropy, model)
    assert kept.each_backward(lambda g: seen.append({n: v.clone() for n, v in g.items()})) == 15
    model.eval()
    samples = [pair for x, target in kept._calibration for pair in zip(x.split(1), target.split(1), strict=True)]
    for (x, target), gradients in zip(samples, seen, strict=True):
        parameters = {n: p.detach().requires_grad_() for n, p in model.named_parameters()}
        loss = F.cross_entropy(torch.func.functional_call(model, parameters, x), target)
        expected = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
        assert gradients.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(gradients[name], expected[name])


# ---------------------------------------------------------------- batches


def test_batches_may_be_tensors_tuples_or_dicts() -> None:
    model, data = Net(), batches()
    expected = gathered(statistics(data, model=model))
    assert gathered(statistics([(x,) for x in data], model=model)) == expected
    assert gathered(statistics([[x, 1.0] for x in data], model=model)) == expected
    assert gathered(statistics([{"x": x} for x in data], model=model)) == expected
    assert gathered(statistics(((x, None) for x in data), lambda output, target: None, model=model)) == expected
    assert gathered(statistics([({"x": x}, None) for x in data], lambda output, target: None, model=model)) == expected
    assert gathered(statistics([x * 2 for x in data], model=model)) != expected


class Loader:
    """As many batches as one likes, and no word of how many."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Tensor]:
        yield from (torch.ones(1, 3) for _ in range(self.count))


@pytest.mark.parametrize(
    ("batches", "warned"), [(Loader(1001), True), (Loader(1000), False), (list(Loader(1001)), False)]
)
def test_batches_that_may_have_no_end(batches: Any, warned: bool) -> None:
    graph = graphprune.trace(Net(), torch.ones(2, 3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        graph.plan(0.5, importance="wanda", calibration=batches)
    assert [one.category for one in caught] == [graphprune.EndlessBatchesWarning] * warned
    assert all(one.filename == __file__ for one in caught)


def test_a_data_loader() -> None:
    x = torch.randn(10, 3)
    data = torch.utils.data.TensorDataset(x, torch.arange(10) % 2)
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    model = Net()
    found = gathered(statistics(loader, F.cross_entropy, model))
    assert found == pytest.approx(gathered(statistics([x], model=model)), abs=1e-6)


def test_a_model_with_its_own_loss() -> None:
    model = WithLoss()
    own: list[Tensor] = []
    other: list[Tensor] = []
    data = pairs()
    statistics([{"x": x, "labels": y} for x, y in data], model=model).each_backward(
        lambda g: own.append(g["enter.weight"].clone())
    )
    statistics(data, lambda output, target: F.cross_entropy(output["logits"], target), model).each_backward(
        lambda g: other.append(g["enter.weight"].clone())
    )
    torch.testing.assert_close(own, other)


def test_parameters_that_the_loss_does_not_depend_on_have_no_gradient() -> None:
    model = nn.ModuleDict({"used": nn.Linear(3, 4), "spare": nn.Linear(3, 4)})
    model.forward = lambda x: model["used"](x)  # type: ignore[method-assign]
    seen: list[set[str]] = []
    units = graphprune.trace(Net(), torch.randn(2, 3)).units
    kept = Statistics(model, units, pairs(1), lambda output, target: output.sum())
    kept.each_backward(lambda g: seen.append(set(g)))
    assert seen == 4 * [{"used.weight", "used.bias"}]


class Learner(nn.Module):
    """All its tensors are parameters, also the running statistics, which are handed to a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Parameter(torch.randn(24, 3)), nn.Parameter(torch.randn(5, 24))
        self.gain = nn.Parameter(torch.ones(24), requires_grad=False)
        self.mean = nn.Parameter(torch.zeros(24), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(24), requires_grad=True)

    def forward(self, x: Tensor) -> Tensor:
        h = F.batch_norm(F.linear(x, self.first), self.mean, self.scale.square(), self.gain)
        return F.linear(h.relu(), self.last)


def test_running_statistics_that_are_parameters_have_no_gradient() -> None:
    model, x, seen = Learner().eval(), torch.randn(4, 3), set[str]()
    before = state_of(model)
    kept = Statistics(model, graphprune.trace(model, x).units, [(x, x)], lambda output, target: output.sum())
    assert kept.each_backward(lambda gradients: seen.update(gradients)) == 4
    assert seen == {"first", "last", "gain"} and state_of(model) == before
    slim: Any = graphprune.prune_model(model, 0.5, x, calibration=[x], importance="taylor")
    assert slim.first.shape == (12, 3)


# ---------------------------------------------------------------- moments


def test_moments_do_not_depend_on_how_data_are_batched() -> None:
    x = 1e3 + torch.randn(40, 2, 3, 5) * torch.tensor([0.1, 1.0, 10.0])[:, None]
    one, many = Moments(True), Moments(True)
    one.add(x)
    for part in x.split([7, 0, 1, 32]):
        many.add(part)
    flat = x.double().permute(1, 0, 3, 2).flatten(1, 2)
    assert one.count == many.count == 200
    for found in (one, many):
        torch.testing.assert_close(found.mean, flat.mean(1), rtol=1e-6, atol=0)
        torch.testing.assert_close(found.variance, flat.var(1, correction=0), rtol=1e-3, atol=0)
        torch.testing.assert_close(found.square, flat.square().mean(1), rtol=1e-6, atol=0)
        torch.testing.assert_close(found.second, flat.mT @ flat / 200, rtol=1e-6, atol=0)
        centered = flat - flat.mean(1, keepdim=True)
        torch.testing.assert_close(found.covariance, centered.mT @ centered / 200, rtol=1e-3, atol=1e-2)


def test_half_precision_is_summed_in_more() -> None:
    x = torch.full((5000, 1, 1, 1), 3.0, dtype=torch.bfloat16)
    moments = Moments(True)
    moments.add(x)
    assert (moments.mean.item(), moments.second.item(), moments.mean.dtype) == (3.0, 9.0, torch.float64)


def test_one_pass_for_everything_asked_of_the_same_kind() -> None:
    passes = []

    class Counted:
        def __iter__(self) -> Iterator[Tensor]:
            passes.append(1)
            return iter(batches())

    kept = statistics(Counted())
    assert not passes
    assert kept.consumers(products=True) is kept.consumers() is kept.consumers(products=True)
    assert len(passes) == 1


@pytest.mark.parametrize("ask", [lambda s: s.consumers(True), lambda s: s.each_backward(nothing)])
def test_batches_are_not_kept(ask: Callable[[Statistics], Any]) -> None:
    """When a batch is asked for, at most the one before is still there."""
    made: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def data() -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(6):
            gc.collect()
            alive.append(sum(r() is not None for r in made))
            x = torch.randn(4, 3)
            made.append(weakref.ref(x))
            yield x, torch.zeros(4, dtype=torch.long)
            del x

    kept = statistics(data(), F.cross_entropy)
    ask(kept)
    gc.collect()
    assert max(alive) <= 1
    assert all(r() is None for r in made)


def test_what_the_observer_notes_does_not_grow_with_the_number_of_batches() -> None:
    from graphprune.calibration.observer import Observer

    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)))
    graph = graphprune.trace(model, torch.randn(2, 3))
    observer = Observer(dict(model.named_parameters()), graph.units, False, False)
    sizes = []
    for n in range(4):
        with torch.no_grad(), observer.batch(0):
            model(torch.randn(n + 1, 3))
        facts = observer._labels.facts
        sizes.append((observer._labels.count, len(facts.unions), len(observer._results), len(observer.consumers)))
        assert not observer._known
    assert sizes[0] == sizes[-1]


def test_a_weight_that_is_overwritten_is_no_longer_followed() -> None:
    class Overwritten(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.weight = nn.Linear(3, 4), nn.Parameter(torch.randn(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            x = self.enter(x)
            copy = self.weight.clone()
            copy.mul_(x.mean())
            return x @ copy

    model = Overwritten().eval()
    kept = statistics(batches(), model=model)
    assert [c.axes for c in kept.consumers()] == [("enter.weight[1]",)]


def test_a_weight_that_meets_no_rows_is_not_a_consumer() -> None:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.enter(x).relu()
            return self.one(x[:2]), self.two(x[2:])

    model = Routed().eval()
    assert len(statistics([torch.randn(4, 3)], model=model).consumers()) == 3
    only = statistics([torch.randn(2, 3)], model=model).consumers()
    assert [c.axes for c in only] == [("enter.weight[1]",), ("one.weight[1]",)]


# ---------------------------------------------------------------- the progress bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[bool, str] = {}
    for kind in (Terminal, io.StringIO):
        stream = kind()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            patch.setenv("TERM", "xterm")
            gathered(statistics(batches()))
        shown[stream.isatty()] = stream.getvalue()
    assert "calibration" in shown[True]
    assert shown[False] == ""


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("calibration", "text"),
    [
        (torch.randn(4, 3), r"calibration: is a Tensor[\s\S]*needed: an iterable of batches"),
        ({"x": torch.randn(4, 3)}, r"calibration: is a dict[\s\S]*needed: an iterable of batches"),
        (3, r"calibration: is an int[\s\S]*needed: an iterable of batches"),
    ],
)
def test_what_is_no_iterable_of_batches(calibration: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        statistics(calibration)


@pytest.mark.parametrize(
    ("calibration", "loss_fn", "text"),
    [
        ([], None, r"calibration: there are no batches[\s\S]*needed: an iterable of batches"),
        ([7], None, r"calibration: batch 0 is an int[\s\S]*needed: an iterable of batches"),
        (
            batches(),
            F.cross_entropy,
            r"with loss_fn= a batch is a pair \(inputs, target\), but batch 0 is a Tensor[\s\S]*f32",
        ),
        (
            [(torch.randn(2, 3), torch.zeros(5, 5))],
            None,
            r"Net.forward failed on batch 0[\s\S]*for pairs [\s\S]*pass loss_fn=",
        ),
    ],
)
def test_batches_that_do_not_fit(calibration: Any, loss_fn: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        statistics(calibration, loss_fn).consumers()


@pytest.mark.parametrize(
    ("calibration", "loss_fn", "model", "text"),
    [
        (
            pairs(),
            lambda o, t: o,
            Net,
            r"loss_fn: must give one number that depends on the weights, but gave f32\[4, 2\]",
        ),
        (pairs(), lambda o, t: torch.ones(1), Net, r"must give one number .* but gave f32\[1\], requires_grad False"),
        (pairs(), lambda o, t: 3.0, Net, r"must give one number that depends on the weights, but gave 3.0"),
    ],
)
def test_losses_that_do_not_fit(calibration: Any, loss_fn: Any, model: type[nn.Module], text: str) -> None:
    with pytest.raises(InputError, match=text):
        statistics(calibration, loss_fn, model()).each_backward(nothing)


def test_an_iterator_is_read_once() -> None:
    kept = statistics(iter(pairs()), F.cross_entropy)
    kept.consumers()
    with pytest.raises(InputError, match=r"calibration: is an iterator, which can be read only once, and was"):
        kept.each_backward(nothing)
