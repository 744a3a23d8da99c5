"""Random numbers that a forward pass draws are no part of what repair fits."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphprune
from graphprune.reconstruction.shared_draws import _MEANS, AveragedDraws
from graphprune.utils.random_state import RandomStream, random_state

aten = torch.ops.aten


def same(h: Tensor) -> Tensor:
    return h


def rows(h: Tensor) -> Tensor:
    return torch.zeros(len(h), 1, dtype=h.dtype)


def numpy_noise(h: Tensor) -> Tensor:
    return h + torch.from_numpy(np.random.randn(len(h), 1)).to(h)


def seeded(h: Tensor) -> Tensor:
    torch.manual_seed(3)
    return h + torch.randn_like(rows(h))


def in_a_branch(h: Tensor) -> Tensor:
    return h.tanh() if random.random() < 0.5 else h.sin()


def dropped(h: Tensor) -> Tensor:
    return F.dropout(h, 0.3)


Noise = Callable[[Tensor], Tensor]

NOISE: dict[str, tuple[Noise, Noise]] = {
    "added": (lambda h: h + torch.randn_like(rows(h)), lambda h: h + torch.randn_like(h)),
    "rows": (lambda h: h * torch.bernoulli(rows(h) + 0.7), lambda h: h * torch.rand_like(h)),
    "gumbel": (same, lambda h: F.gumbel_softmax(h, dim=0)),
    "code": (same, lambda h: torch.distributions.Normal(h, 0.5).sample()),
    "class": (same, lambda h: F.one_hot(h.softmax(-1).multinomial(1)[:, 0], 3).to(h)),
    "numpy": (numpy_noise, numpy_noise),
    "python": (lambda h: h * random.uniform(0.5, 1.5), same),
    "seeded": (seeded, seeded),
    "branch": (in_a_branch, in_a_branch),
    "dropout": (dropped, same),
    "channels": (lambda h: F.dropout1d(h.unsqueeze(-1), 0.3).squeeze(-1), dropped),
    "normal": (lambda h: h * (1 + 0.3 * torch.randn_like(h)), same),
}
"""What is done to channels of which some go, and to results."""


class Noisy(nn.Module):
    """Every other unit of ``hidden`` is without effect."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.hidden, self.leave = nn.Linear(4, 6), nn.Linear(6, 10), nn.Linear(10, 3)
        self.last = nn.Linear(3, 3)
        self.first, self.second = NOISE[name]
        with torch.no_grad():
            for tensor in (self.hidden.weight, self.hidden.bias, self.leave.weight.T):
                tensor[::2] = 0
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.leave(self.first(self.hidden(self.enter(x)).sin())).sin()))


def repaired(model: nn.Module, samples: Tensor) -> tuple[nn.Module, graphprune.Repair]:
    plan = graphprune.trace(model, samples[:2]).plan(0.0, overrides={"hidden": graphprune.Override(ratio=0.5)})
    slim = plan.apply(model)
    return slim, graphprune.repair(slim, model, plan, samples.split(16))


@pytest.mark.parametrize("name", NOISE)
def test_what_loses_nothing_is_not_changed(name: str) -> None:
    model, samples = Noisy(name), torch.randn(64, 4, dtype=torch.float64)
    slim, record = repaired(model, samples)
    assert slim.hidden.out_features == 5
    assert all(one.before < 1e-12 for one in record.repaired)
    for left, whole in ((slim.leave.weight, model.leave.weight[:, 1::2]), (slim.last.weight, model.last.weight)):
        torch.testing.assert_close(left, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["added", "class", "numpy", "python", "dropout"])
def test_the_state_of_the_generators_changes_nothing_and_is_not_changed(name: str) -> None:
    model, samples = Noisy(name), torch.randn(64, 4, dtype=torch.float64)
    nn.init.normal_(model.leave.weight)
    found = []
    for seed in range(2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        before = random_state()
        found.append(repaired(model, samples)[0].state_dict())
        after = random_state()
        assert torch.equal(before["torch"], after["torch"])
        assert before["python"] == after["python"]
        assert all(map(np.array_equal, before["numpy"], after["numpy"]))
    for one, other in zip(found[0].values(), found[1].values(), strict=True):
        assert torch.equal(one, other)


def test_narrower_heads_and_batch_norms_do_not_depend_on_the_state_of_the_generators() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(6, 8) for _ in range(3))
            self.norm, self.leave = nn.BatchNorm1d(8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (f(x).unflatten(-1, (2, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
            mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=0.2).transpose(1, 2).flatten(2)
            return self.leave(self.norm(mixed.mT).mT)

    torch.manual_seed(0)
    model, samples = Attention().double().eval(), torch.randn(32, 5, 6, dtype=torch.float64)
    plan = graphprune.trace(model, samples[:2]).plan(0.5)
    found = []
    for seed in range(2):
        torch.manual_seed(seed)
        slim = plan.apply(model)
        graphprune.repair(slim, model, plan, samples.split(8))
        found.append(copy.deepcopy(slim.state_dict()))
    for one, other in zip(found[0].values(), found[1].values(), strict=True):
        assert torch.equal(one, other)


MEANT: dict[Any, Callable[[Tensor, Tensor], Any]] = {
    aten.randn.default: lambda x, p: ([3, 4],),
    aten.randn.generator: lambda x, p: ([3, 4],),
    aten.randn_like.default: lambda x, p: (x,),
    aten.normal.float_float: lambda x, p: (2.0, 0.5, [3, 4]),
    aten.normal.float_Tensor: lambda x, p: (2.0, p),
    aten.normal.Tensor_float: lambda x, p: (x, 0.5),
    aten.normal.Tensor_Tensor: lambda x, p: (x, p),
    aten.normal_.default: lambda x, p: (x.clone(), 2.0, 0.5),
    aten.bernoulli.default: lambda x, p: (p,),
    aten.bernoulli.p: lambda x, p: (x, 0.3),
    aten.bernoulli_.float: lambda x, p: (x.clone(), 0.3),
    aten.bernoulli_.Tensor: lambda x, p: (x.clone(), p),
    aten.native_dropout.default: lambda x, p: (x, 0.3, True),
}


@pytest.mark.parametrize("op", _MEANS, ids=lambda op: op.name())
def test_a_mean_is_that_of_many_draws(op: Any) -> None:
    torch.manual_seed(0)
    x, p = torch.randn(3, 4, dtype=torch.float64), torch.rand(3, 4, dtype=torch.float64)
    kwargs = {"generator": None} if op is aten.randn.generator else {}
    drawn = torch.stack([_first(op(*MEANT[op](x, p), **kwargs)) for _ in range(4000)]).double()
    state = torch.get_rng_state()
    mean = _first(AveragedDraws(frozenset({0})).call(op, MEANT[op](x, p), kwargs))
    assert torch.equal(state, torch.get_rng_state())
    assert bool(((drawn.mean(0) - mean).abs() < 6 * drawn.std(0) / 4000**0.5 + 1e-9).all())


def _first(out: Any) -> Tensor:
    found: Tensor = out if isinstance(out, Tensor) else out[0]
    return found


def test_only_the_draws_that_are_named_are_averaged() -> None:
    torch.manual_seed(0)
    draws = AveragedDraws(frozenset({1}))
    found = [draws.call(aten.randn.default, ([8],), {}) for _ in range(3)]
    torch.manual_seed(0)
    wanted = [torch.randn(8), torch.zeros(8), torch.randn(8)]
    assert all(map(torch.equal, found, wanted))


def test_an_operation_of_the_users_own_may_return_nothing() -> None:
    tags = (torch.Tag.nondeterministic_seeded,)

    @torch.library.custom_op("tests_shared_draws::jitter", mutates_args=("x",), tags=tags)
    def jitter(x: Tensor) -> None:
        x.add_(torch.randn_like(x))

    @jitter.register_fake
    def _(x: Tensor) -> None:
        return None

    def jittered(h: Tensor) -> Tensor:
        h = h.clone()
        jitter(h)
        return h

    torch.manual_seed(0)
    model, samples = Noisy("dropout"), torch.randn(64, 4, dtype=torch.float64)
    model.second = jittered
    assert all(one.before < 1e-12 for one in repaired(model, samples)[1].repaired)


def test_a_stream_goes_on_where_it_stopped() -> None:
    torch.manual_seed(0)
    stream, other = RandomStream(1), RandomStream(1)
    assert not stream.moved
    with stream.going_on():
        parts = [torch.randn(3)]
    torch.randn(5)
    with stream.going_on():
        parts.append(torch.randn(3))
    with other.going_on():
        assert torch.equal(torch.cat(parts), torch.randn(6))
    assert stream.moved
