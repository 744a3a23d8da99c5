"""Samples of batches: scores do not depend on how samples are batched, and where samples lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphprune
from graphprune.calibration.samples import SampleAxes, spread_numbers
from graphprune.calibration.statistics import Statistics
from graphprune.errors import InputError
from graphprune.importance.block_influence import influence
from graphprune.importance.context import Context
from graphprune.importance.criteria import CRITERIA
from tests.networks import randomize

COUNT = 9
BATCHINGS = ([COUNT], [1] * COUNT, [4, 4, 1])
DATA = [name for name, one in CRITERIA.items() if one.data and name != "reap"]  # which wants experts


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 5, 2)
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv2(self.norm(self.conv1(x)).relu()).relu().mean((2, 3)))


class OnGraph(nn.Module):
    """Nodes that are given what their neighbours have, by a sparse matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor, neighbours: Tensor) -> Tensor:
        return self.last(torch.sparse.mm(neighbours, self.first(x)).relu())


@pytest.mark.filterwarnings("ignore:Sparse CS. tensor support")  # torch warns of the first
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_sparse_batches_are_cut_into_samples_too(layout: torch.layout) -> None:
    dense = torch.randn(6, 4).relu()
    x, y = dense.to_sparse(layout=layout), torch.randn(6)
    axes = SampleAxes.of((x, y), 0)
    assert axes is not None
    part, target = axes.samples((x, y), 2, 3)
    assert part.layout == layout
    assert torch.equal(part.to_dense(), dense[2:5])
    assert torch.equal(target, y[2:5])


@pytest.mark.filterwarnings("ignore:Sparse CS. tensor support")  # torch warns of the first
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_models_with_sparse_matrices_are_calibrated(layout: torch.layout) -> None:
    torch.manual_seed(0)
    batch = torch.randn(4, 5), torch.eye(4).to_sparse(layout=layout)
    slim = graphprune.prune_model(OnGraph(), 0.5, batch, importance="auto", calibration=[batch])
    assert slim.first.out_features == 8


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.down(self.up(self.norm2(x)).relu())


class Transformer(nn.Module):
    """A classifier of each token."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.enter = nn.Linear(2, 8)
        self.blocks = nn.Sequential(Block(batch_first), Block(batch_first))
        self.leave = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.blocks(self.enter(x)))


class Recurrent(nn.Module):
    """A classifier of sequences, given with their first states."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.time = 1 if batch_first else 0
        self.cells = nn.LSTM(2, 6, num_layers=2, batch_first=batch_first)
        self.leave = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.cells(x)[0].select(self.time, -1))


def token_loss(reduction: str) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda output, target: F.cross_entropy(output.flatten(0, 1), target.flatten(), reduction=reduction)


def class_loss(reduction: str) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda output, target: F.cross_entropy(output, target, reduction=reduction)


def images() -> tuple[Tensor, Tensor]:
    return torch.randn(COUNT, 2, 5, 5), torch.arange(COUNT) % 3


def texts() -> tuple[Tensor, Tensor]:
    return torch.randn(COUNT, 7, 2), torch.randint(3, (COUNT, 7))


def sequences() -> tuple[Tensor, Tensor]:
    return torch.randn(COUNT, 7, 2), torch.arange(COUNT) % 3


def time_first(x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    return [part.transpose(0, 1) for part in x.split(list(sizes))]


CASES: dict[str, tuple[Any, Any, Any, bool, bool]] = {
    "conv": (Conv, images, class_loss, False, False),
    "transformer": (Transformer, texts, token_loss, False, False),
    "time first transformer": (lambda: Transformer(False), texts, token_loss, True, True),
    "recurrent": (Recurrent, sequences, class_loss, False, False),
    "time first recurrent": (lambda: Recurrent(False), sequences, class_loss, True, False),
}
"""Network, data, loss by reduction; whether inputs and targets have time first."""


def case(name: str, sizes: Sequence[int]) -> tuple[nn.Module, list[tuple[Tensor, Tensor]], Any]:
    make, data, loss, inputs_turned, targets_turned = CASES[name]
    torch.manual_seed(0)
    model = randomize(make()).double().eval()
    x, y = data()
    x = x.double()
    xs, ys = (
        time_first(t, sizes) if turned else list(t.split(list(sizes)))
        for t, turned in ((x, inputs_turned), (y, targets_turned))
    )
    return model, list(zip(xs, ys, strict=True)), loss


def scores(name: str, sizes: Sequence[int], criterion: str, reduction: str) -> np.ndarray[Any, Any]:
    model, batches, loss = case(name, sizes)
    graph = graphprune.trace(model, batches[0][0])
    statistics = Statistics(model, graph.units, batches, loss(reduction))
    context = Context(model, dict(model.named_parameters()), graph.units, 0, statistics)
    return np.concatenate([CRITERIA[criterion].score(group, context).numpy() for group in graph.groups])


@pytest.mark.parametrize("criterion", DATA)
@pytest.mark.parametrize("name", CASES)
def test_scores_do_not_depend_on_how_samples_are_batched(name: str, criterion: str) -> None:
    first = scores(name, BATCHINGS[0], criterion, "mean")
    assert first.max() > 0
    for sizes in BATCHINGS[1:]:
        np.testing.assert_allclose(scores(name, sizes, criterion, "mean"), first, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("criterion", "power"), [("taylor", 2), ("fisher", 2), ("kfac", 1), ("surgeon", 2)])
@pytest.mark.parametrize(("name", "targets"), [("conv", 1), ("transformer", 7)])
def test_summed_losses_scale_scores_by_a_power_of_a_samples_targets(
    name: str, targets: int, criterion: str, power: int
) -> None:
    mean = scores(name, [4, 4, 1], criterion, "mean")
    for sizes in BATCHINGS:
        np.testing.assert_allclose(scores(name, sizes, criterion, "sum"), targets**power * mean, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", ["transformer", "time first transformer"])
def test_the_influence_of_blocks_does_not_depend_on_it_either(name: str) -> None:
    found = []
    for sizes in BATCHINGS:
        model, batches, loss = case(name, sizes)
        graph = graphprune.trace(model, batches[0][0])
        found.append(influence(model, graph.blocks, Statistics(model, graph.units, batches, loss("mean"))))
    assert len(found[0]) >= 2
    np.testing.assert_allclose(found[1:], [found[0]] * 2, rtol=1e-6)


def test_plans_in_float32_are_equal_too() -> None:
    torch.manual_seed(0)
    model = randomize(Conv()).eval()
    x, y = images()
    plans = []
    for sizes in BATCHINGS:
        batches = list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))
        graph = graphprune.trace(model, x)
        plans.append(graph.plan(0.5, importance="fisher", calibration=batches, loss_fn=F.cross_entropy).to_json())
    assert plans[1:] == [plans[0]] * 2


# ---------------------------------------------------------------- where samples lie


def count_of(model: nn.Module, batches: Any, loss_fn: Any = None) -> int:
    units = graphprune.trace(Conv(), torch.randn(1, 2, 5, 5)).units
    return Statistics(model, units, batches, loss_fn).each_backward(lambda gradients: None)


def test_tensors_without_samples_are_the_same_for_all() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: Tensor, scale: Tensor, factor: float) -> Any:  # type: ignore[override]
            return {"loss": (super().forward(x) * scale).square().mean() * factor}

    assert (
        count_of(Scaled(3, 2), [(torch.randn(5, 3), torch.ones(1, 2), 2.0), (torch.randn(4, 3), torch.ones(2), 2.0)])
        == 9
    )


def contrastive(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output @ output.T, torch.arange(len(output)))


class Ranked(nn.Linear):
    """Compares the samples of a batch with each other."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(0)


@pytest.mark.parametrize(
    ("model", "loss_fn", "reason"),
    [
        (nn.Linear(3, 2), contrastive, "the loss is no sum or mean over samples"),
        (Ranked(3, 2), lambda output, _: output.square().mean(), "the output of one sample depends on others"),
    ],
)
def test_batches_whose_samples_depend_on_each_other_are_one_sample(model: nn.Module, loss_fn: Any, reason: str) -> None:
    batches = [(torch.randn(5, 3), torch.arange(5)), (torch.randn(4, 3), torch.arange(4))]
    with pytest.warns(graphprune.BatchedSamplesWarning, match=f"batch 0 cannot be told apart .*{reason}"):
        assert count_of(model, batches, loss_fn) == 2


def test_the_channel_of_gray_images_is_no_sample() -> None:
    class Centered(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            scores = super().forward(x).mean((2, 3))
            return scores - scores.mean(0)

    with pytest.warns(graphprune.BatchedSamplesWarning, match="split into 1 along dimension 1, .* the model fails"):
        assert count_of(Centered(1, 2, 3), [(torch.randn(5, 1, 6, 6), torch.arange(5) % 2)], F.cross_entropy) == 1


def test_one_sample_beside_time() -> None:
    def last(output: Any, target: Tensor) -> Tensor:
        return F.cross_entropy(output[0][-1], target)

    assert count_of(nn.GRU(3, 2), [(torch.randn(5, 1, 3), torch.tensor([1]))], last) == 1


def test_one_sample_of_a_model_that_goes_on_where_it_was() -> None:
    class Continued(nn.GRU):
        def __init__(self) -> None:
            super().__init__(3, 2, batch_first=True)
            self.state = torch.zeros(1, 1, 2)

        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            y, state = super().forward(x, self.state)
            self.state = state.detach()
            return y

    batches = [(torch.randn(1, 5, 3), torch.tensor([1])) for _ in range(3)]
    assert count_of(Continued(), batches, lambda output, target: F.cross_entropy(output[:, -1], target)) == 3


def test_a_sample_that_fails_alone() -> None:
    def at_least_two(output: Tensor, target: Tensor) -> Tensor:
        if len(output) < 2:
            raise RuntimeError("one is not enough")
        return output.square().mean()

    with pytest.warns(
        graphprune.BatchedSamplesWarning, match="one sample alone fails: RuntimeError: one is not enough"
    ):
        assert count_of(nn.Linear(3, 2), [(torch.randn(5, 3), torch.arange(5))], at_least_two) == 1


def test_a_mean_over_unequal_numbers_of_tokens() -> None:
    """The loss of a batch is a weighted mean of those of its samples."""
    target = torch.randint(3, (4, 6))
    target[0, 1:] = target[1, 4:] = -100
    assert count_of(nn.Linear(2, 3), [(torch.randn(4, 6, 2), target)], token_loss("mean")) == 4


def test_a_sample_without_anything_to_predict() -> None:
    target = torch.randint(3, (4, 6))
    target[2] = -100
    with pytest.raises(InputError, match=r"calibration: a sample of batch 0 \(.*\) has the loss nan by itself"):
        count_of(nn.Linear(2, 3), [(torch.randn(4, 6, 2), target)], token_loss("mean"))


def test_a_batch_without_tensors_is_one_sample() -> None:
    assert SampleAxes.of(((1, 2.0), {}, None), 0) is None
    assert SampleAxes.of(((torch.ones(()),), {}, None), 0) is None


@pytest.mark.parametrize(
    ("sizes", "asked", "expected"),
    [
        ([4] * 6, {"wanted": 100}, [0, 1, 2, 3, 4, 5]),
        ([4] * 6, {"wanted": 12}, [0, 2, 4]),
        ([4] * 6, {"wanted": 1}, [0]),
        ([4] * 6, {"wanted": 1, "least": 2}, [0, 3]),
        ([4] * 6, {"wanted": 100, "most": 2}, [0, 3]),
        ([8], {"wanted": 1, "least": 2}, [0]),
        ([0] * 4, {"wanted": 2}, [0, 2]),
        ([], {"wanted": 2}, []),
    ],
)
def test_batches_at_even_distances(sizes: list[int], asked: dict[str, int], expected: list[int]) -> None:
    """A batch without a tensor counts as one sample."""
    batches = [torch.zeros(size, 3) if size else {"text": "none"} for size in sizes]
    assert spread_numbers(batches, **asked) == expected
