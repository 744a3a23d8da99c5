"""What only training does is traced too: auxiliary heads, additional outputs, buffers of moving averages."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune
from graphprune.tracing.training_reads import reads_training
from graphprune.utils.modules import named_modules

pytestmark = pytest.mark.filterwarnings("ignore::graphprune.UnreachedWarning")
"""Of what a kind of network does not use."""

X = torch.randn(1, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Linear 8 -> 16 -> 4, an auxiliary head 16 -> 4, a moving average and a mask of the 16 features."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.head = nn.Linear(16, 4)
        self.aux = nn.Linear(16, 4)
        self.register_buffer("ema", torch.zeros(16))
        self.register_buffer("masks", torch.ones(16))

    def forward(self, x: Tensor) -> Any:
        return self.top(self.body(x).relu())

    def top(self, h: Tensor) -> Any:
        raise NotImplementedError


class Stacked(Net):
    def top(self, h: Tensor) -> Any:
        aux, y = self.aux(h), self.head(h)
        return torch.stack([y, aux]) if self.training else y


class Added(Net):
    def top(self, h: Tensor) -> Any:
        aux, y = self.aux(h), self.head(h)
        return y + aux if self.training else y


def _wrapped(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def call(*args: Any) -> Any:
        return forward(*args)

    return call


class Decorated(Net):
    @_wrapped
    def top(self, h: Tensor) -> Any:
        return (self.head(h), self.aux(h)) if self.training else self.head(h)


class InPlace(Net):
    def top(self, h: Tensor) -> Any:
        if self.training:
            self.ema.mul_(0.9).add_(h.detach().mean(0), alpha=0.1)
        return self.head(h)


class Rebound(Net):
    def top(self, h: Tensor) -> Any:
        if self.training:
            self.ema = self.ema * 0.9 + h.detach().mean(0) * 0.1
        return self.head(h)


class ThroughData(Net):
    def top(self, h: Tensor) -> Any:
        if self.training:
            self.ema.data.copy_(self.ema * 0.9 + h.detach().mean(0) * 0.1)
        return self.head(h)


class GivenData(Net):
    def top(self, h: Tensor) -> Any:
        if self.training:
            self.ema.data = self.ema.data * 0.9 + h.detach().mean(0) * 0.1
        return self.head(h)


class NewParameter(Net):
    """A head that training moves towards another one, as codebooks are by their averages."""

    def top(self, h: Tensor) -> Any:
        if self.training:
            self.aux.weight = nn.Parameter(self.aux.weight * 0.9 + self.head.weight.data * 0.1)
        return self.head(h) + self.aux(h)


class Started(Net):
    """An average that the first step of training begins, as a flag of one of several types says."""

    def __init__(self, flag: Tensor, is_new: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.register_buffer("initialized", flag)
        self.is_new = is_new

    def top(self, h: Tensor) -> Any:
        if self.training:
            if self.is_new(self.initialized):
                self.ema.copy_(h.detach().mean(0))
                self.initialized.fill_(1)
            else:
                self.ema.lerp_(h.detach().mean(0), 0.1)
        return self.head(h)


class Masked(Net):
    def top(self, h: Tensor) -> Any:
        return self.head(h * self.masks if self.training else h)


class WithGradients(Net):
    def top(self, h: Tensor) -> Any:
        return self.head(h) + self.aux(h) if torch.is_grad_enabled() else self.head(h)


class Permuted(Net):
    """The same tensors in both modes, in another order."""

    def top(self, h: Tensor) -> Any:
        return self.head(h.flip(1)) if self.training else self.head(h)


class Targets(Net):
    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        y = self.head(self.body(x).relu())
        assert not self.training or target is not None, "training needs targets"
        return y


class Dropped(Net):
    def __init__(self) -> None:
        super().__init__()
        del self.aux
        self.norm = nn.BatchNorm1d(16)

    def top(self, h: Tensor) -> Any:
        keep = torch.rand(len(h), 1).add(0.9).floor() if self.training else 1.0
        return self.head(F.dropout(self.norm(h) * keep, 0.1, self.training))


@pytest.mark.parametrize(
    ("kind", "tensor", "shape"),
    [
        (Stacked, "aux.weight", (4, 8)),
        (Added, "aux.weight", (4, 8)),
        (Decorated, "aux.weight", (4, 8)),
        (InPlace, "ema", (8,)),
        (Rebound, "ema", (8,)),
        (ThroughData, "ema", (8,)),
        (GivenData, "ema", (8,)),
        (NewParameter, "aux.weight", (4, 8)),
        (Masked, "masks", (8,)),
        (WithGradients, "aux.weight", (4, 8)),
    ],
)
def test_what_only_training_reaches_follows(kind: type[Net], tensor: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = kind()
    graph = graphprune.trace(model, X)
    plan = graph.plan(0.5)
    slim = plan.apply(model)
    assert slim.state_dict()[tensor].shape == shape
    assert graphprune.verify(model, slim, plan, X).passed
    dense, trained = model.train()(X.expand(2, 8)), slim.train()(X.expand(2, 8))
    assert [t.shape for t in dense] == [t.shape for t in trained]


@pytest.mark.parametrize("is_new", [operator.not_, lambda flag: flag.item() == 0, lambda flag: (flag == 0).all()])
@pytest.mark.parametrize(
    "flag", [torch.tensor(0), torch.tensor(False), torch.zeros(1), torch.ones((), dtype=torch.half)]
)
def test_training_reads_flags_of_every_type(flag: Tensor, is_new: Callable[[Tensor], Any]) -> None:
    torch.manual_seed(0)
    model = Started(flag.clone(), is_new)
    slim = graphprune.prune_model(model, 0.5, X)
    assert slim.ema.shape == (8,)
    assert torch.equal(model.initialized, flag)
    assert torch.equal(slim.initialized, flag)
    assert [slim.train()(X).shape for _ in range(2)] == [(1, 4), (1, 4)]
    assert slim.initialized == 1


def test_training_reads_several_flags_in_one_buffer() -> None:
    model = Started(torch.zeros(16), lambda flags: not flags[3:5].any())
    assert graphprune.trace(model, X).trace.trained


class InContainer(Net):
    """A moving average in a list or a dictionary, which the first run in training changes."""

    def __init__(self, averages: Any, key: Any) -> None:
        super().__init__()
        self.averages, self.key = averages, key

    def top(self, h: Tensor) -> Any:
        if self.training:
            self.averages[self.key] = self.averages[self.key] * 0.9 + h.detach().mean(0) * 0.1
        return self.head(h)


@pytest.mark.parametrize(("averages", "key"), [([torch.zeros(16)], 0), ({"h": torch.zeros(16)}, "h")])
def test_what_training_keeps_in_a_container_is_a_constant(averages: Any, key: Any) -> None:
    graph = graphprune.trace(InContainer(averages, key), X)
    why = next(one.reason for one in graph.frozen if one.axis == "body.weight[0]")
    assert why.startswith(
        "meets a constant tensor that is neither a parameter nor a buffer; registered as a buffer, it"
    )


def test_an_order_that_only_training_has_is_kept() -> None:
    """Features i and 15 - i are multiplied with the same column of the head's weight, each in one mode."""
    torch.manual_seed(0)
    model = Permuted()
    slim = graphprune.prune_model(model, 0.5, X)
    kept = [i for i in range(16) if (slim.body.weight[:, None] == model.body.weight[i]).all(-1).any()]
    assert len(kept) < 16
    assert sorted(15 - i for i in kept) == kept
    masked = model.body(X).relu() * torch.tensor([float(i in kept) for i in range(16)])
    torch.testing.assert_close(slim.train()(X), model.head(masked.flip(1)))


def test_training_that_needs_targets_is_left_out() -> None:
    graph = graphprune.trace(Targets(), X)
    assert graph.trace.note == "training mode could not be traced: AssertionError: training needs targets"
    assert not graph.trace.trained


def test_dropout_and_batch_norm_make_no_second_trace() -> None:
    assert reads_training(named_modules(Dropped()))
    assert not graphprune.trace(Dropped(), X).trace.trained


class Then(Net):
    """A function of the features that only training calls."""

    def __init__(self, then: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        del self.aux
        self.then = then

    def top(self, h: Tensor) -> Any:
        return self.head(self.then(h) if self.training else h)


NOISE: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda h: F.dropout(h, 0.1),
    "alpha dropout": lambda h: F.alpha_dropout(h, 0.1, True),
    "depth of each sample": lambda h: h * h.new_empty(len(h), 1).bernoulli_(0.9).div_(0.9),
    "depth of a batch": lambda h: h * torch.empty(1).bernoulli_(0.9),
    "Gaussian noise": lambda h: h + 0.1 * torch.randn_like(h),
    "a generator": lambda h: h + torch.randn(h.shape, generator=torch.Generator()),
    "whole numbers": lambda h: h + torch.randint(0, 2, h.shape),
    "random classes": lambda h: h + F.one_hot(torch.randint(0, h.shape[1], (len(h),)), h.shape[1]),
    "an old constructor": lambda h: h + torch.FloatTensor(h.size()).uniform_(),
}

WIDTHS: dict[str, Callable[[Tensor], Tensor]] = {
    "a factor": lambda h: h * (h.shape[1] / 4),
    "a root": lambda h: h / math.sqrt(h.shape[1]),
    "a tensor": lambda h: h * torch.tensor(h.shape[1] / 4),
    "a full tensor": lambda h: h * torch.full((), h.shape[1] / 4),
    "random numbers": lambda h: h + torch.randn(16),
    "channels that are dropped": lambda h: h * torch.bernoulli(torch.full((1, 16), 0.8)),
    "dropout of ones": lambda h: h * F.dropout(torch.ones(16), 0.1),
    "a distribution": lambda h: h + torch.distributions.Normal(0.0, 1.0).sample(torch.Size([16])),
    "a choice": lambda h: torch.where(torch.rand(16) > 0.5, h, 0.0),
    "in place": lambda h: h.mul_(torch.ones(16)),
}


@pytest.mark.parametrize("name", NOISE)
def test_noise_in_the_shape_of_data_makes_no_second_trace(name: str) -> None:
    model = Then(NOISE[name])
    assert reads_training(named_modules(model))
    trace = graphprune.trace(model, X).trace
    assert (trace.trained, trace.note) == ((), "")


def test_noise_of_numpy_in_the_shape_of_data_makes_no_second_trace() -> None:
    model = Then(lambda h: h + torch.from_numpy(np.random.randn(*h.shape)).to(h))
    assert not graphprune.trace(model, X.repeat(2, 1)).trace.trained


class Counting(nn.BatchNorm1d):
    """A batch norm that counts its runs itself."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training)


def test_a_batch_norm_that_counts_makes_no_second_trace() -> None:
    model = nn.Sequential(nn.Linear(8, 16), Counting(16), nn.Linear(16, 4))
    assert reads_training(named_modules(model))
    trace = graphprune.trace(model, X.repeat(2, 1)).trace
    assert (trace.trained, trace.note) == ((), "")


@pytest.mark.parametrize("name", WIDTHS)
def test_widths_that_only_training_reads_stay(name: str) -> None:
    graph = graphprune.trace(Then(WIDTHS[name]), X)
    with pytest.warns(graphprune.NothingRemovedWarning):
        slim = graph.plan(0.5).apply(graph.model)
    assert slim.train()(X).shape == (1, 4)
    assert any(word in str(graph.why_frozen("body.weight[0]")) for word in ("is a literal", "used as a number"))


@pytest.mark.parametrize(
    "then",
    [
        lambda h: h + torch.randn(h.shape),
        lambda h: h + torch.normal(0.0, 0.1, size=h.shape),
        lambda h: h * 0.5,
        lambda h: h * h.new_empty(1, h.shape[1]).random_(2),
    ],
)
def test_widths_that_follow_in_training_go(then: Callable[[Tensor], Tensor]) -> None:
    slim = graphprune.prune_model(Then(then), 0.5, X)
    assert slim.body.out_features == 8
    assert slim.train()(X).shape == (1, 4)


@pytest.mark.parametrize(
    ("x", "there", "back"),
    [(X[0], (0,), (0,)), (X.repeat(2, 1), (1, 0), (1, 0)), (X.expand(2, 3, 8), (2, 0, 1), (1, 2, 0))],
)
def test_widths_in_the_first_dimension_stay(x: Tensor, there: tuple[int, ...], back: tuple[int, ...]) -> None:
    mask = torch.full((16, *(1,) * (x.ndim - 1)), 0.8)
    graph = graphprune.trace(
        Then(lambda h: (h.permute(there) * torch.full(mask.shape, 0.8).bernoulli_()).permute(back)), x
    )
    with pytest.warns(graphprune.NothingRemovedWarning):
        slim = graph.plan(0.5).apply(graph.model)
    assert slim.train()(x).shape == (*x.shape[:-1], 4)


class Branching(nn.Module):
    """Each method reads ``training`` in one way."""

    def dropout(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.1, training=self.training)

    def probability(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x, dropout_p=0.0 if not self.training else self.drop.p)

    def checkpointing(self, x: Tensor) -> Tensor:
        return self.recomputed(x) if self.gradient_checkpointing and self.training else x

    def head(self, x: Tensor) -> Tensor:
        return self.aux(x) if self.training else x

    def chosen(self, x: Tensor) -> Tensor:
        return (self.aux if self.training else self.main)(x)

    def added(self, x: Tensor) -> Tensor:
        aux = self.aux(x)
        return x + (aux if self.training else 0.0)

    def stored(self, x: Tensor) -> Tensor:
        training = self.training
        return F.dropout(x, 0.1, training)

    def got(self, x: Tensor) -> Tensor:
        return x if getattr(self, "training") else x + 1  # noqa: B009

    def both(self, x: Tensor) -> Tensor:
        return F.dropout(self.aux(x) if self.training else x, 0.1, self.training)


@pytest.mark.parametrize("method", ["dropout", "probability", "checkpointing"])
def test_dropout_is_no_question(method: str) -> None:
    assert not reads_training(named_modules(type("Net", (nn.Module,), {"forward": vars(Branching)[method]})()))


@pytest.mark.parametrize("method", ["head", "chosen", "added", "stored", "got", "both"])
def test_anything_else_may_be(method: str) -> None:
    assert reads_training(named_modules(type("Net", (nn.Module,), {"forward": vars(Branching)[method]})()))


def test_models_that_do_not_ask_are_not_run_in_training() -> None:
    assert not reads_training(named_modules(nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout())))


@pytest.mark.parametrize("kind", [InPlace, Rebound, ThroughData, Stacked])
def test_the_users_model_is_not_changed(kind: type[Net]) -> None:
    model = kind()
    before, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    graphprune.trace(model.eval(), X).plan(0.5)
    assert not any(m.training for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


class Sized(Net):
    """A size that only training has as a number, past all methods of sizes."""

    def top(self, h: Tensor) -> Any:
        if self.training:
            self.ema.view(int(f"{h.shape[1]}") // 16, 16).add_(h.detach().mean(0))
        return self.head(h)


def test_a_slim_model_that_cannot_train_is_not_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graphprune.trace(Sized(), X)
    with pytest.warns(graphprune.NothingRemovedWarning):
        slim = graph.plan(0.5).apply(graph.model)
    assert slim.train()(X).shape == (1, 4)
