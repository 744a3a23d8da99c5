"""Kinds of networks in which zero channels go, or stay for a reason, as users of tutorials make them."""

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import graphprune
from graphprune.pruning.comparison import difference
from graphprune.pruning.wide_run import run_slim
from graphprune.tracing.inputs import MethodCall


def randomized(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(noise.abs() + 0.5 if "var" in name else 0.4 * noise)
    return model.double().eval()


def zero(tensor: Tensor, *entries: int, dim: int = 0) -> None:
    tensor.detach().transpose(0, dim)[list(entries)] = 0


def apart(model: nn.Module, slim: nn.Module, x: Tensor) -> float:
    """The relative difference for other inputs, and another batch size, than those that were traced."""
    generator = torch.Generator().manual_seed(2)
    floats = x.is_floating_point()
    shape = (3, *x.shape[1:])
    other = torch.randn(shape, generator=generator) if floats else torch.randint(9, shape, generator=generator)
    return difference(*(run_slim(net, [MethodCall("forward", other)]) for net in (model, slim))).relative


IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
ROWS = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).double()
TOKENS = torch.zeros(1, 4, dtype=torch.long)
KINDS: dict[str, tuple[Callable[[], nn.Module], Tensor, int]] = {}
"""By name, what makes a network with zero channels, an input, and how many channels go."""


def kind(x: Tensor, removed: int) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    def registered(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        KINDS[make.__name__] = make, x, removed
        return make

    return registered


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))


@kind(ROWS, 3)
def a_row_that_only_zero_channels_make() -> nn.Module:
    model = randomized(mlp())
    zero(model[0].weight, 1, 2)
    zero(model[2].weight.T, *range(3, 8), 0)
    with torch.no_grad():
        model[2].weight[1:] += 0.3
    return model


@kind(ROWS, 3)
def a_column_that_only_an_unread_row_reads() -> nn.Module:
    model = randomized(mlp())
    zero(model[4].weight, 0, dim=1)
    with torch.no_grad():
        model[2].weight[1:, [3, 4]] = 0
    return model


@kind(IMAGE, 3)
def one_carries_for_all_without_a_bias() -> nn.Module:
    model = randomized(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 4, 3, bias=False)))
    zero(model[0].weight, 0, 3, 4, 5)
    return model


@kind(IMAGE, 3)
def one_carries_for_all_at_padded_borders() -> nn.Module:
    model = randomized(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 4, 3, padding=1)))
    zero(model[0].weight, 0, 3, 4, 5)
    return model


@kind(IMAGE, 4)
def circular_padding_keeps_constants() -> nn.Module:
    second = nn.Conv2d(8, 4, 3, padding=1, padding_mode="circular")
    model = randomized(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sigmoid(), second))
    zero(model[0].weight, 0, 3, 4, 5)
    return model


@kind(IMAGE, 3)
def transposed_kernel() -> nn.Module:
    layers = nn.Conv2d(3, 8, 3), nn.Sigmoid(), nn.ConvTranspose2d(8, 6, 2, stride=2), nn.GELU(), nn.Conv2d(6, 4, 1)
    model = randomized(nn.Sequential(*layers))
    zero(model[0].weight, 0, 3)
    zero(model[2].weight, 1, 2, dim=1)
    return model


@kind(IMAGE, 3)
def depthwise_kernel_that_is_zero_or_unread() -> nn.Module:
    between = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU()
    model = randomized(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), *between, nn.Conv2d(8, 4, 1)))
    zero(model[3].weight, 4, 5)
    zero(model[6].weight, 7, dim=1)
    return model


@kind(IMAGE, 0)
def depthwise_kernel_of_constants_at_padded_borders() -> nn.Module:
    between = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU()
    model = randomized(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sigmoid(), *between, nn.Conv2d(8, 4, 1)))
    zero(model[0].weight, 0, 1)
    return model


@kind(IMAGE, 2)
def equally_many_of_every_group() -> nn.Module:
    model = randomized(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2), nn.ReLU(), nn.Conv2d(8, 4, 1)))
    zero(model[1].weight, 0, 1, 5)
    return model


@kind(IMAGE, 1)
def whole_group_of_a_kernel() -> nn.Module:
    layers = nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1, groups=2), nn.ReLU(), nn.Conv2d(8, 4, 1)
    model = randomized(nn.Sequential(*layers))
    zero(model[2].weight, 0, 1, 2, 3)
    return model


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.c((y + self.b(y.relu())).relu())


@kind(IMAGE, 2)
def residual_sum() -> nn.Module:
    model = randomized(Residual())
    zero(model.a.weight, 0, 1, 2)
    zero(model.b.weight, 0, 1, 5)
    return model


class Concatenation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(16, 4, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.cat([self.a(x).sigmoid(), self.b(x).relu() + 1], 1)).mean((2, 3))


@kind(IMAGE, 3)
def concatenation() -> nn.Module:
    model = randomized(Concatenation())
    zero(model.a.weight, 0, 1, 2)
    zero(model.b.weight, 4, 5)
    return model


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 8), nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x.unsqueeze(1).expand(-1, 3, -1))
        return self.leave(self.attention(x, x, x, need_weights=False)[0]).mean(1)


@kind(ROWS, 1)
def head_without_values() -> nn.Module:
    model = randomized(Attention())
    zero(model.attention.in_proj_weight, 16, 17)
    return model


@kind(ROWS, 1)
def head_that_nothing_reads() -> nn.Module:
    model = randomized(Attention())
    zero(model.attention.out_proj.weight, 2, 3, dim=1)
    return model


@kind(ROWS, 0)
def head_without_queries() -> nn.Module:
    model = randomized(Attention())
    zero(model.attention.in_proj_weight, 0, 1)
    zero(model.attention.in_proj_bias, 0, 1)
    return model


@kind(ROWS, 0)
def layer_norm_counts_them() -> nn.Module:
    model = randomized(nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3)))
    zero(model[0].weight, 0, 1)
    zero(model[0].bias, 0, 1)
    return model


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(5, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.unsqueeze(1).expand(-1, 3, -1))[0])


@kind(ROWS, 2)
def lstm_units() -> nn.Module:
    model = randomized(Recurrent())
    for tensor in (model.lstm.weight_ih_l0, model.lstm.weight_hh_l0, model.lstm.bias_ih_l0, model.lstm.bias_hh_l0):
        zero(tensor.view(4, 6, -1), 1, 4, dim=1)
    return model


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.b, self.v = (nn.Parameter(torch.ones(s)) for s in ((8, 3, 3, 3), (8,), (4, 8, 1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, self.w, self.b).sigmoid(), self.v)


@kind(IMAGE, 3)
def functions_with_masked_parameters() -> nn.Module:
    model = randomized(Functional())
    prune.ln_structured(model, "w", 0.5, n=1, dim=0)
    return model


@kind(ROWS, 2)
def weight_norm_of_length_zero() -> nn.Module:
    model = randomized(mlp())
    parametrizations.weight_norm(model[0])
    zero(model[0].parametrizations.weight.original0, 1, 2)
    return model


@kind(ROWS, 0)
def spectral_norm_reads_them() -> nn.Module:
    model = randomized(mlp())
    parametrizations.spectral_norm(model[2])
    zero(model[0].weight, 1, 2)
    return model.eval()


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(8, 5))
        self.mask[[0, 5]] = 0

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


@kind(ROWS, 2)
def parametrization_that_masks() -> nn.Module:
    model = randomized(mlp())
    parametrize.register_parametrization(model[0], "weight", Masked())
    return model


@kind(TOKENS, 4)
def tokens_that_are_all_one() -> nn.Module:
    model = randomized(nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)))
    zero(model[1].weight, 0, 1, 2, 3)
    return model


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.block = nn.Embedding(11, 8), nn.Linear(8, 8)
        self.leave = nn.Linear(8, 11, bias=False)
        self.leave.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.block(self.words(x)).relu())


@kind(TOKENS, 2)
def tied_weights_of_which_one_is_masked() -> nn.Module:
    model = randomized(Tied())
    prune.ln_structured(model.leave, "weight", 0.25, n=2, dim=1)
    return model


class ReadWhole(nn.Module):
    """A kernel that is as wide as the channels which it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.read, self.leave = nn.Linear(5, 12), nn.Conv2d(1, 8, (3, 12)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        steps = self.enter(x.unsqueeze(1).expand(-1, 7, -1)).relu().unsqueeze(1)
        return self.leave(self.read(steps).relu().amax((2, 3)))


@kind(ROWS, 4)
def channels_that_a_kernel_would_read_whole() -> nn.Module:
    model = randomized(ReadWhole())
    for tensor in (model.enter.weight, model.enter.bias):
        zero(tensor, 0, 1, 2, 3)
    return model


@kind(ROWS, 4)
def channels_that_a_whole_kernel_reads_as_nothing() -> nn.Module:
    model = randomized(ReadWhole())
    zero(model.read.weight, 0, 1, 2, 3, dim=3)
    return model


@pytest.mark.parametrize("name", KINDS)
def test_what_goes_and_what_stays(name: str) -> None:
    make, x, removed = KINDS[name]
    with torch.no_grad():
        model = make()
        model(x)
        before = copy.deepcopy(model.state_dict())
    found = graphprune.zero_channels(model, x)
    assert found.removed == removed, found
    assert apart(model, found.slim, x) < 1e-10
    assert not [key for key in found.slim.state_dict() if key.endswith(("_mask", "_orig"))]
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_masks_that_all_owners_of_a_weight_share_leave_it_tied() -> None:
    with torch.no_grad():
        model = randomized(Tied())
        for owner in (model.words, model.leave):
            mask = torch.ones(11, 8)
            mask[:, [2, 5]] = 0
            prune.custom_from_mask(owner, "weight", mask)
    slim = graphprune.compact(model, TOKENS)
    assert slim.leave.weight is slim.words.weight
    assert slim.words.embedding_dim == 6
    assert apart(model, slim, TOKENS) < 1e-10


def test_inputs_of_zeros_hide_nothing() -> None:
    model = randomized(mlp())
    zero(model[0].weight, 1, 2)
    slim = graphprune.compact(model, torch.zeros(1, 5).double())
    assert slim[0].out_features == 6
    assert apart(model, slim, ROWS) < 1e-10


def test_types_and_modes_stay() -> None:
    model = randomized(mlp()).bfloat16().train()
    zero(model[0].weight, 1, 2)
    slim = graphprune.compact(model, ROWS.bfloat16())
    assert slim.training
    assert {p.dtype for p in slim.parameters()} == {torch.bfloat16}
    assert slim[0].out_features == 6


def test_a_model_of_which_nothing_can_be_pruned() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", graphprune.NothingRemovedWarning)
        assert graphprune.compact(nn.Linear(5, 3), ROWS.float()).out_features == 3
