"""What a forward fills on its first call disturbs neither a plan made before nor its verification."""

from functools import cached_property

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune
from graphprune.errors import PlanError

X = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0))


class Biased(nn.Module):
    """Attention with a bias by head and distance (ALiBi), made on the first call and kept."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = 4, 4
        self.qkv, self.out, self.last = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 3)
        self.slopes = nn.Parameter(torch.rand(4))
        self.register_buffer("bias", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length = x.shape[:2]
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, self.width).permute(2, 0, 3, 1, 4)
        if self.bias is None:
            distance = torch.arange(length)[None, :] - torch.arange(length)[:, None]
            self.bias = self.slopes.detach()[:, None, None] * distance.abs()
        attention = (q @ k.transpose(-1, -2) - self.bias).softmax(-1)
        return self.last(self.out((attention @ v).transpose(1, 2).reshape(batch, length, -1)))


@pytest.mark.parametrize("runs", ["none", "after", "both", "slim"])
def test_a_plan_outlives_the_first_call(runs: str) -> None:
    torch.manual_seed(0)
    model = Biased().eval()
    plan = graphprune.trace(model, X).plan(heads=0.5)
    assert plan.sizes["heads"] == 2
    if runs in ("after", "both"):
        model(X)
    slim = plan.apply(model)
    if runs in ("both", "slim"):
        assert slim(X).shape == (2, 6, 3)
    assert graphprune.verify(model, slim, plan, X).passed
    assert (model.bias is not None) == (runs in ("after", "both"))
    assert (slim.bias is not None) == (runs in ("both", "slim"))


def test_a_wrong_slim_model_is_still_seen() -> None:
    model = Biased().eval()
    plan = graphprune.trace(model, X).plan(heads=0.5)
    slim = plan.apply(model)
    slim(X)
    model(X)
    with torch.no_grad():
        slim.get_parameter("slopes").add_(1)
    assert not graphprune.verify(model, slim, plan, X).passed


class Added(nn.Module):
    """Adds a table of positions to channels. [n, t, 12] -> [n, t, 5]"""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.hidden, self.leave = nn.Linear(12, 32), nn.Linear(32, 24), nn.Linear(24, 5)
        self.prepare()

    def prepare(self) -> None:
        self.register_buffer("table", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        found: Tensor = self.leave(self.hidden(y + self.positions(y)[: y.shape[1]]).relu())
        return found

    def positions(self, y: Tensor) -> Tensor:
        if self.table is None or self.table.shape[0] < y.shape[1]:
            self.table = torch.ones(y.shape[1], y.shape[2])
        return self.table


class Saved(Added):
    """Its table is part of the state dict."""

    def prepare(self) -> None:
        self.register_buffer("table", None)


class Registered(Added):
    """Before its first call it has no table."""

    def prepare(self) -> None:
        pass

    def positions(self, y: Tensor) -> Tensor:
        if not hasattr(self, "table") or self.table.shape[0] < y.shape[1]:
            self.register_buffer("table", torch.ones(y.shape[1], y.shape[2]), persistent=False)
        return self.table


class Within(Added):
    """Its table is in a module of its own."""

    def prepare(self) -> None:
        self.inner = nn.Identity()

    def positions(self, y: Tensor) -> Tensor:
        if not hasattr(self.inner, "table") or self.inner.table.shape[0] < y.shape[1]:
            self.inner.register_buffer("table", torch.ones(y.shape[1], y.shape[2]), persistent=False)
        return self.inner.table  # type: ignore[return-value]


class Grown(Added):
    """Its table is short at first."""

    def prepare(self) -> None:
        self.register_buffer("table", torch.ones(4, 32), persistent=False)


def after_calls(kind: type[nn.Module], lengths: tuple[int, ...]) -> nn.Module:
    torch.manual_seed(0)
    model = kind().eval()
    for length in lengths:
        model(torch.zeros(2, length, 12))
    return model


BEFORE_AND_AFTER = [(kind, planned) for kind in (Added, Registered, Within, Grown) for planned in ((), (6,))]


@pytest.mark.parametrize(("kind", "planned"), [*BEFORE_AND_AFTER, (Saved, (6,))])
def test_a_plan_fits_instances_that_ran_otherwise(kind: type[nn.Module], planned: tuple[int, ...]) -> None:
    x, longer = torch.randn(2, 6, 12), torch.randn(2, 9, 12)
    model = after_calls(kind, planned)
    plan = graphprune.trace(model, x).plan(0.5)
    wanted = plan.apply(model)(longer)
    for lengths in ((), (6,), (6, 9)):
        other = after_calls(kind, lengths)
        slim = plan.apply(other)
        assert slim(x[:, :3]).shape == (2, 3, 5)
        torch.testing.assert_close(slim(longer), wanted, rtol=1e-5, atol=1e-6)
        assert graphprune.verify(other, slim, plan, x).passed
        assert graphprune.repair(slim, other, plan, [x]).repaired


def test_a_plan_says_which_tensor_is_missing_that_no_forward_makes() -> None:
    model = after_calls(Added, ())
    model.register_buffer("offset", torch.ones(1))
    plan = graphprune.trace(model, torch.randn(2, 6, 12)).plan(0.5)
    with pytest.raises(PlanError, match="names 'offset', which this Added does not have"):
        plan.apply(after_calls(Added, ()))


class Scaled(nn.Module):
    """Works its last weight out once, and keeps it in an attribute. [n, 8] -> [n, 4]"""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 32), nn.Linear(32, 4, bias=False)
        self.weight: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is None:
            self.weight = self.leave.weight.detach().tanh()
        return self.enter(x).relu() @ self.weight.T


class Folded(Scaled):
    """Keeps a product of its weights, which has no pruned size."""

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "product"):
            self.product = (self.leave.weight @ self.enter.weight).detach()
        return x @ self.product.T + self.leave(self.enter(x))


class Property(Scaled):
    """Keeps it in a property."""

    @cached_property
    def scaled(self) -> Tensor:
        return self.leave.weight.detach().tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.enter(x).relu() @ self.scaled.T


class Normalized(Scaled):
    """Keeps what a function gives that is named almost as one that draws random numbers."""

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is None:
            self.weight = F.normalize(self.leave.weight.detach(), dim=0)
        return self.enter(x).relu() @ self.weight.T


class NormalizedProperty(Property):
    """Keeps it in a property."""

    @cached_property
    def scaled(self) -> Tensor:
        return F.normalize(self.leave.weight.detach(), dim=0)


class Drawn(Property):
    """Keeps random numbers, which a method of its own draws."""

    def drawn(self) -> Tensor:
        return torch.empty_like(self.leave.weight.detach()).normal_()

    @cached_property
    def scaled(self) -> Tensor:
        return self.drawn()


class NoLongerDrawn(Drawn):
    """Has another property in the place of that one."""

    @cached_property
    def scaled(self) -> Tensor:
        return self.leave.weight.detach().tanh()


class StillDrawn(Drawn):
    """Goes on to that one."""

    @cached_property
    def scaled(self) -> Tensor:
        return super().scaled.abs()


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("kind", [Scaled, Folded, Property, Normalized, NormalizedProperty, NoLongerDrawn])
def test_what_forward_keeps_in_attributes_since_the_plan_is_made_anew(kind: type[nn.Module], inplace: bool) -> None:
    torch.manual_seed(0)
    x, model, other = torch.randn(3, 8), kind().eval(), kind().eval()
    other.load_state_dict(model.state_dict())
    plan = graphprune.trace(model, x).plan(0.5)
    wanted = plan.apply(model)(x)
    other(x)
    slim = plan.apply(other, inplace=inplace)
    torch.testing.assert_close(slim(x), wanted)
    assert inplace or graphprune.verify(other, slim, plan, x).passed


class Prompted(Scaled):
    """Keeps what it is given, and a number of its first input."""

    def forward(self, x: Tensor, prompt: Tensor | None = None) -> Tensor:
        if prompt is not None:
            self.prompt = prompt
        self.note(x, x.shape[1])
        return self.leave(self.enter(x).relu() / self.deviation)

    def note(self, x: Tensor, size: int) -> None:
        if not hasattr(self, "deviation"):
            self.deviation, self.table = x.std(), torch.arange(size)
            self.drawn = torch.randn(size)


def test_what_forward_is_given_stays() -> None:
    model, x = Prompted().eval(), torch.randn(3, 8)
    plan = graphprune.trace(model, x).plan(0.5)
    model(x, torch.ones(2))
    slim = plan.apply(model)
    for name in ("prompt", "deviation", "drawn"):
        assert torch.equal(getattr(slim, name), getattr(model, name))
    assert torch.equal(slim(2 * x), plan.apply(model)(2 * x))


@pytest.mark.parametrize("kind", [Drawn, StillDrawn])
def test_random_numbers_of_a_property_stay(kind: type[Property]) -> None:
    model, x = kind().eval(), torch.randn(3, 8)
    plan = graphprune.trace(model, x).plan(0.5)
    model(x)
    assert torch.equal(plan.apply(model).scaled, model.scaled)  # type: ignore[arg-type]


def test_a_tensor_that_no_forward_makes_stays() -> None:
    model, x = Scaled().eval(), torch.randn(3, 8)
    plan = graphprune.trace(model, x).plan(0.5)
    model.seen = torch.ones(3)  # type: ignore[assignment]
    assert torch.equal(plan.apply(model).seen, torch.ones(3))  # type: ignore[arg-type]
