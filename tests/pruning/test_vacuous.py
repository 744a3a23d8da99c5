"""A comparison that shows nothing does not pass: zeros are made to show what they hide, constants are named."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.errors import InputError, PlanError, VerificationError

X = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


class Branches(nn.Module):
    """A residual branch and a head whose last layers are zero, as they are initialized; or a live head."""

    def __init__(self, zero_head: bool) -> None:
        super().__init__()
        self.stem, self.inner, self.outer = nn.Linear(8, 16), nn.Linear(16, 24), nn.Linear(24, 16)
        self.head = nn.Linear(16, 5)
        self.scale = nn.Parameter(torch.zeros(16))
        if zero_head:
            nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head(x + self.scale * self.outer(self.inner(x).relu()))


@pytest.mark.parametrize("zero_head", [True, False])
@pytest.mark.parametrize("wrecked", [None, "stem", "inner", "outer"])
def test_zeros_hide_nothing(zero_head: bool, wrecked: str | None) -> None:
    torch.manual_seed(0)
    model = Branches(zero_head).eval()
    plan = graphprune.trace(model, X).plan(0.5)
    slim = plan.apply(model)
    if wrecked is not None:
        with torch.no_grad():
            slim.get_parameter(f"{wrecked}.weight").normal_()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check = graphprune.verify(model, slim, plan, X)
    assert check.passed == (wrecked is None)
    assert check.perturbed == (("scale", "head.weight") if zero_head else ("scale",))
    assert "All-zero parameters got random values in copies of both: scale" in str(check)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not slim.get_parameter("scale").any()


class Constant(nn.Module):
    """Puts out zeros, ones, one number, or its bias whatever it computes."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.first, self.last = kind, nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        if self.kind == "zeros":
            return self.last(h).abs().neg().relu()
        if self.kind == "ones":
            return self.last(h).sum(1, keepdim=True).softmax(1)
        return self.last((h - 1000.0).relu())


@pytest.mark.parametrize("kind", ["zeros", "ones", "bias"])
def test_constant_outputs_do_not_pass(kind: str) -> None:
    model = Constant(kind).eval()
    plan = graphprune.trace(model, X).plan(0.5)
    check = graphprune.verify(model, plan.apply(model), plan, X)
    assert not check.passed
    assert check.relative == 0
    assert str(check).startswith("Nothing was verified: the outputs stay the same whatever the weights are")
    with pytest.raises(VerificationError, match="Nothing was verified"):
        graphprune.prune_model(model, 0.5, X, verify=True)


class Several(nn.Module):
    """Logits, a padding mask and the class."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits = self.last(self.first(x).relu())
        return {"logits": logits, "mask": x > 0, "class": logits.argmax(-1), "hidden": self.first(x)}


def logits_and_more(result: dict[str, Tensor]) -> list[Tensor]:
    return [result["logits"], result["mask"], result["class"]]


def only_class(result: dict[str, Tensor]) -> Tensor:
    return result["class"]


@pytest.mark.parametrize("outputs", [lambda y: y.mean(1), lambda y: y[:, 0], lambda y: y.view(y.shape[0], -1).amax(1)])
def test_what_outputs_computes_is_followed(outputs: Any) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8)).eval(), torch.randn(64, 8)
    slim = graphprune.prune_model(model, 0.5, x, outputs=outputs, verify=True)
    assert slim(x).shape[1] < 8 and outputs(slim(x)).shape == outputs(model(x)).shape


HEAD, MATRIX, RECURRENT = nn.Linear(4, 3), torch.randn(4, 3), nn.LSTM(4, 3)
LABELS, WEIGHTS = torch.tensor([0, 1]), torch.ones(4)
COMPUTE: dict[str, Callable[[Tensor], Any]] = {
    "a layer": HEAD,
    "a matrix": lambda y: y @ MATRIX,
    "a loss": lambda y: nn.functional.cross_entropy(y, LABELS, weight=WEIGHTS),
    "dropout": lambda y: torch.dropout(y, 0.5, True),
    "noise": lambda y: y + torch.randn_like(y),
    "a number": lambda y: y * y.sum().item(),
    "a choice": lambda y: y if y.sum() > 0 else -y,
    "numpy": lambda y: torch.from_numpy(y.detach().numpy()),
}


class Plain(nn.Module):
    def __init__(self, reads_values: bool = False) -> None:
        super().__init__()
        self.first, self.last, self.reads_values = nn.Linear(8, 32), nn.Linear(32, 4), reads_values

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.first(x).relu())
        return -y if self.reads_values and y.sum() > 0 else y


@pytest.mark.parametrize("reads_values", [False, True])
@pytest.mark.parametrize("name", COMPUTE)
def test_what_outputs_computes_with_its_own_tensors_is_compared(name: str, reads_values: bool) -> None:
    torch.manual_seed(0)
    model, x, outputs = Plain(reads_values).eval(), torch.randn(2, 8), COMPUTE[name]
    plan = graphprune.trace(model, x, outputs=outputs).plan(0.5)
    slim = plan.apply(model)
    state, weight = torch.get_rng_state(), HEAD.weight.clone()
    assert graphprune.verify(model, slim, plan, x, outputs=outputs).passed
    assert slim.get_parameter("first.weight").shape[0] == 16
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(HEAD.weight, weight)
    with torch.no_grad():
        slim.get_parameter("last.weight")[0] += 1
    assert not graphprune.verify(model, slim, plan, x, outputs=outputs).passed


def test_outputs_that_fail_in_float64_say_so() -> None:
    torch.manual_seed(0)
    model, x = Plain().eval(), torch.randn(2, 8)
    plan = graphprune.trace(model, x, outputs=HEAD).plan(0.5)
    message = r"outputs: the function failed on what the model returned in float64, a Tensor: [\s\S]*in the forward"
    with pytest.raises(InputError, match=message):
        graphprune.verify(model, plan.apply(model), plan, x, outputs=lambda y: RECURRENT(y)[0])
    with pytest.raises(InputError, match=message):
        graphprune.trace(model, x, outputs=lambda y: RECURRENT(y)[0]).plan(0.5)


@pytest.mark.parametrize("outputs", [logits_and_more, only_class])
def test_outputs_are_picked_and_integers_compared(outputs: Any) -> None:
    torch.manual_seed(0)
    model, x = Several().eval(), torch.randn(64, 8)
    plan = graphprune.trace(model, x, outputs=outputs).plan(0.5)
    slim = plan.apply(model)
    assert graphprune.verify(model, slim, plan, x, outputs=outputs).passed
    with torch.no_grad():
        slim.get_parameter("last.bias").copy_(torch.tensor([9.0, 0.0, 0.0, 0.0]))
    check = graphprune.verify(model, slim, plan, x, outputs=outputs)
    assert not check.passed
    assert check.relative == float("inf")
    with pytest.raises(
        PlanError, match=r"group 'first', which was not found in this Several[\s\S]*no group: all[\s\S]*and outputs= if"
    ):
        graphprune.verify(model, slim, plan, x)


def test_a_group_that_keeps_all_need_not_be_found_with_other_outputs() -> None:
    torch.manual_seed(0)
    model, x = Several().eval(), torch.randn(64, 8)
    plan = graphprune.trace(model, x, outputs=only_class).plan(0.0)
    assert "first" in plan.removed
    assert graphprune.verify(model, plan.apply(model), plan, x).passed
    assert graphprune.trace(model, x).cost(plan) == graphprune.trace(model, x).cost()


class Slopes(nn.Module):
    """Attention with a bias for each of 4 heads, of the last length. [n, steps, 8] -> [n, steps, 4]"""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.value, self.leave = nn.Linear(8, 32), nn.Linear(8, 32), nn.Linear(32, 4)
        self.register_buffer("slopes", 2.0 ** -torch.arange(1.0, 5.0)[:, None, None])
        self.bias: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        steps = x.shape[1]
        if self.bias is None or self.bias.shape[-1] != steps:
            self.bias = self.get_buffer("slopes") * torch.arange(steps)
        query, value = (
            layer(x).view(*x.shape[:2], self.slopes.shape[0], -1).transpose(1, 2) for layer in (self.query, self.value)
        )
        out: Tensor = self.leave(((query @ query.mT + self.bias).softmax(-1) @ value).transpose(1, 2).flatten(2))
        return out


def test_a_model_that_has_run_since_is_compared_by_the_entries_that_are_gone() -> None:
    """Its kept bias has 4 heads, and they are no group any more."""
    torch.manual_seed(0)
    model, x = Slopes().eval(), torch.randn(1, 5, 8)
    plan = graphprune.trace(model, x).plan(0.5)
    assert any(choice.role == "heads" and choice.removed for choice in plan.choices)
    slim = plan.apply(model)
    model(x)
    assert graphprune.verify(model, slim, plan, x).passed
    with torch.no_grad():
        slim.get_parameter("query.weight")[0, 0] += 1
    assert not graphprune.verify(model, slim, plan, x).passed


def test_infinities_at_the_same_places_are_equal() -> None:
    class Masked(Constant):
        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x)).masked_fill(torch.eye(3, 4, dtype=torch.bool), float("-inf"))

    model = Masked("").eval()
    plan = graphprune.trace(model, X).plan(0.5)
    slim = plan.apply(model)
    assert graphprune.verify(model, slim, plan, X).passed
    with torch.no_grad():
        slim.get_parameter("last.bias")[0] = float("nan")
    assert not graphprune.verify(model, slim, plan, X).passed


@pytest.mark.parametrize("inplace", [False, True])
def test_prune_model_verifies(inplace: bool) -> None:
    model = Several().eval()
    slim = graphprune.prune_model(model, 0.5, X, outputs=logits_and_more, verify=True, inplace=inplace)
    assert slim.get_parameter("first.weight").shape == (8, 8)
    assert (slim is model) == inplace


def test_weights_on_meta_cannot_be_verified() -> None:
    model = Several().to("meta")
    with pytest.raises(graphprune.InputError, match=r"model: first.weight is on meta[\s\S]*load the weights first"):
        graphprune.prune_model(model, 0.5, X, outputs=only_class, verify=True, importance="random")


def test_biases_that_are_zero_do_not_put_channels_out_of_sight() -> None:
    """Copies get noise there; where it is negative, a ReLU may give zeros in both models whatever comes before it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)).eval().double()
    x = 0.1 * torch.randn(2, 8, dtype=torch.float64)
    plan = graphprune.trace(model, x).plan(0.25)
    for channel in range(12):
        slim = plan.apply(model)
        before = slim(x)
        with torch.no_grad():
            slim.get_parameter("0.weight")[channel] *= -3
        assert not graphprune.verify(model, slim, plan, x).passed or torch.allclose(slim(x), before, atol=1e-9)


def test_outputs_that_are_no_numbers() -> None:
    class Never(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.leave(self.enter(x).relu()) + (x[:, :1] - x[:, :1]) / 0
            return y

    model, x = Never().eval(), torch.randn(2, 4)
    plan = graphprune.trace(model, x).plan(0.5)
    check = graphprune.verify(model, plan.apply(model), plan, x)
    assert not check.passed
    assert str(check).startswith("Nothing was verified: the outputs are not a number (NaN)")
    assert "equal" not in str(check)
