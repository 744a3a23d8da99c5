"""Models whose classes switch to evaluation in a way of their own come back as they were."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import graphprune
from graphprune.utils.modules import named_modules
from graphprune.utils.switches import evaluation_mode, switches_by_flags

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))


class Adapted(nn.Linear):
    """An adapter that is merged into the weight where the layer is evaluated, as loralib's are."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.down, self.up = nn.Parameter(torch.randn(4, sizes[0])), nn.Parameter(torch.randn(sizes[1], 4))
        self.merged = False

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * (self.up @ self.down)
            self.merged = not mode
        return self

    def forward(self, input: Tensor) -> Tensor:
        y = super().forward(input)
        return y if self.merged else y + input @ self.down.T @ self.up.T


class Biased(nn.Module):
    """Makes what it needs where it is evaluated, as LeViT does."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(width))

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        if not mode:
            self.ready = self.bias.detach() * 2
        elif hasattr(self, "ready"):
            del self.ready
        return self

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.bias * 2 if self.training else self.ready)


def adapted() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Adapted(8, 32), nn.ReLU(), Adapted(32, 4)).train()


def test_adapters_that_are_merged_in_evaluation_stay_beside_the_weights() -> None:
    model = adapted()
    before, wanted = copy.deepcopy(model.state_dict()), model(X)
    plan = graphprune.trace(model, X).plan(0.5, importance="wanda", calibration=[X])
    slim = plan.apply(model)
    graphprune.repair(slim, model, plan, [X])
    assert graphprune.verify(model, plan.apply(model), plan, X).passed
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model(X), wanted) and model.training and not model[0].merged
    torch.testing.assert_close(slim.eval()(X), slim.train()(X))


def test_merged_adapters_are_to_be_taken_apart_before() -> None:
    """Nothing reads them where they are merged; what the warning says to do works."""
    model = adapted().eval()
    with pytest.warns(graphprune.UnreachedWarning, match=r"or call model.train\(\) first, as Adapted may use it in tr"):
        graphprune.prune_model(model, 0.5, X)
    slim = graphprune.prune_model(model.train(), 0.5, X, verify=True)
    torch.testing.assert_close(slim.eval()(X), slim.train()(X))


class InPlace(Adapted):
    """Merges without ``.data``."""

    def train(self, mode: bool = True) -> Any:
        nn.Linear.train(self, mode)
        if mode == self.merged:
            with torch.no_grad():
                self.weight += self.up @ self.down * (-1 if mode else 1)
            self.merged = not mode
        return self


class Anew(Adapted):
    """Merges into another parameter."""

    def train(self, mode: bool = True) -> Any:
        nn.Linear.train(self, mode)
        if mode == self.merged:
            merged = self.weight.detach() + self.up.detach() @ self.down.detach() * (-1 if mode else 1)
            self.weight, self.merged = nn.Parameter(merged), not mode
        return self


class Elsewhere(Adapted):
    """Gives the parameter other memory."""

    def train(self, mode: bool = True) -> Any:
        nn.Linear.train(self, mode)
        if mode == self.merged:
            self.weight.data = self.weight.data + self.up.data @ self.down.data * (-1 if mode else 1)
            self.merged = not mode
        return self


class ByNumpy(Adapted):
    """Merges past torch."""

    def train(self, mode: bool = True) -> Any:
        nn.Linear.train(self, mode)
        if mode == self.merged:
            entries = self.weight.detach().numpy()
            entries += (self.up.detach() @ self.down.detach() * (-1 if mode else 1)).numpy()
            self.merged = not mode
        return self


@pytest.mark.parametrize("kind", [Adapted, InPlace, Anew, Elsewhere, ByNumpy])
def test_models_come_back_as_they_were(kind: type[Adapted]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(kind(8, 32), nn.ReLU(), kind(32, 4)).train()
    weights, before = [model[0].weight, model[2].weight], copy.deepcopy(model.state_dict())
    graphprune.prune_model(model, 0.5, X, calibration=[X])
    graphprune.measure(model, X, evaluate=lambda m: float(m(X).detach().sum()))
    assert model[0].weight is weights[0] and model[2].weight is weights[1]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training and not model[0].merged


class Fused(nn.Module):
    """Works out one weight for evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.both = (nn.Linear(8, 8) for _ in range(3))

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        if not mode:
            self.both.weight.data.copy_(self.one.weight + self.other.weight)
            self.both.bias.data.copy_(self.one.bias + self.other.bias)
        return self

    def forward(self, x: Tensor) -> Any:
        return self.one(x) + self.other(x) if self.training else self.both(x)


def test_what_is_worked_out_for_evaluation_is_used_and_put_back() -> None:
    torch.manual_seed(0)
    model = Fused().train()
    before, wanted = copy.deepcopy(model.state_dict()), float(model(X).detach().sum())
    scores = graphprune.measure(model, X, evaluate=lambda m: float(m(X).detach().sum())).scores
    assert scores["score"] == pytest.approx(wanted, rel=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_is_made_for_evaluation_is_made() -> None:
    model = nn.Sequential(nn.Linear(8, 32), Biased(32), nn.ReLU(), nn.Linear(32, 16), nn.Linear(16, 4))
    for training, width in ((True, 32), (False, 16)):  # what is made while a copy is traced is a constant
        slim = graphprune.prune_model(model.train(training), 0.5, X, verify=True)
        assert slim[1].bias.shape == (width,)
        assert slim[3].out_features == 8
        assert slim.train().eval()(X).shape == (6, 4)


class Counted(nn.Linear):
    """Switches in a way of its own that has nothing to do with tensors, as models of Transformers do."""

    def train(self, mode: bool = True) -> Any:
        self.switched = getattr(self, "switched", 0) + 1
        return super().train(mode)


class Operations(TorchDispatchMode):
    """Which operations run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def test_weights_that_nothing_writes_to_are_neither_copied_nor_compared() -> None:
    model = nn.Sequential(Counted(8, 32), nn.ReLU(), Counted(32, 4)).train()
    with Operations() as operations:
        assert not switches_by_flags(named_modules(model))
        with evaluation_mode(model):
            assert not model[0].training
    assert set(operations.seen) <= {"aten.detach.default"}
    assert model[0].training and model[0].switched == 1  # by what made it


def test_modes_come_back_where_a_class_refuses_to_switch() -> None:
    class Refusing(nn.Linear):
        def train(self, mode: bool = True) -> Any:
            if not mode:
                raise RuntimeError("call freeze() before eval()")
            return super().train(mode)

    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU().eval(), Refusing(16, 4))
    modes = [module.training for module in model.modules()]
    with pytest.raises(graphprune.GraphpruneError, match=r"call freeze\(\) before eval\(\)"):
        graphprune.trace(model, X)
    assert [module.training for module in model.modules()] == modes
