"""Small networks that :mod:`benchmarks.contexts` prunes, and what is done with each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphprune
from models import gpt, vit
from tests.networks import randomize


class Perceptron(nn.Module):
    """Normalization, dropout and a residual sum. [n, 6] -> [n, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm, self.drop = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.2)
        self.inner, self.leave = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.enter(x)).relu()
        return self.leave(self.drop(h + self.inner(h)))


class Residual(nn.Module):
    """Convolutions with batch and group norms, a shortcut and a mean over places. [n, 3, h, w] -> [n, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.wide, self.groups, self.narrow = nn.Conv2d(8, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = x + self.narrow(F.relu(self.groups(self.wide(x))))
        return self.head(x.mean((2, 3)))


class Encoder(nn.Module):
    """Torch's own encoder layers, which have a fused path. [n, t, 16] -> [n, 4]."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.layers, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean(1))


class Recurrent(nn.Module):
    """An LSTM over an embedding. Token ids [n, t] -> [n, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.cells, self.head = nn.Embedding(20, 8), nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.cells(self.table(ids))[0][:, -1])


class Generator(nn.Module):
    """The repository's GPT with shared key/value heads; the last token's scores. Ids [n, t] -> [n, vocabulary]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = gpt.gpt(vocab_size=20, dim=32, depth=2, heads=4, kv_heads=2, mlp_dim=48)

    def forward(self, ids: Tensor) -> Tensor:
        return self.body(ids)[:, -1]


class Complex(nn.Module):
    """A layer of complex weights between real ones. [n, 6] -> [n, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 16), nn.Linear(12, 4)
        self.turn = nn.Parameter(torch.randn(12, 16, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x).relu()
        return self.leave((h.to(self.turn.dtype) @ self.turn.mT).abs())


@dataclass(frozen=True)
class Network:
    """A network and inputs for it.

    Attributes:
        build: makes it, with weights of torch's choice.
        shape: of the inputs.
        ids: are they token ids below 20, rather than numbers?
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    ids: bool = False

    def model(self) -> nn.Module:
        """In evaluation mode, with weights that are always the same and gradients that are kept."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = randomize(self.build()).eval()
        first = next(model.parameters())
        first.grad = torch.ones_like(first)
        return model

    def inputs(self, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        if self.ids:
            return torch.randint(20, self.shape, generator=generator)
        return torch.randn(self.shape, generator=generator)


NETWORKS = {
    "perceptron": Network(Perceptron, (8, 6)),
    "residual": Network(Residual, (4, 3, 8, 8)),
    "encoder": Network(Encoder, (4, 5, 16)),
    "vit": Network(
        lambda: vit.vit(image_size=8, patch_size=4, num_classes=4, dim=32, depth=1, heads=4, mlp_dim=48), (4, 3, 8, 8)
    ),
    "lstm": Network(Recurrent, (4, 6), ids=True),
    "gpt": Network(Generator, (4, 6), ids=True),
}
COMPLEX = Network(Complex, (8, 6))


Plans = dict[str, dict[int, list[int]]]
"""What a plan keeps, by tensor and dimension."""


@dataclass
class Done:
    """What came of a model in one step.

    Attributes:
        tensors: of the slim model, by name.
        plan: what was kept, where the step made a plan.
        passed: did ``verify`` pass, or was what was loaded equal to what was saved?
    """

    tensors: dict[str, Tensor]
    plan: Plans | None = None
    passed: bool = True


def prune(model: nn.Module, x: Tensor, folder: Path) -> Done:
    """Trace, plan by weights, apply and verify."""
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    return Done(tensors_of(slim), kept(plan), graphprune.verify(model, slim, plan, x).passed)


def save_and_load(model: nn.Module, x: Tensor, folder: Path) -> Done:
    slim = graphprune.prune_model(model, 0.5, x)
    graphprune.save(slim, folder)
    before, after = tensors_of(slim), tensors_of(graphprune.load(folder, model))
    return Done(
        after, passed=before.keys() == after.keys() and all(torch.equal(t, after[n]) for n, t in before.items())
    )


def repair(model: nn.Module, x: Tensor, folder: Path) -> Done:
    """Plan by activations, apply and repair."""
    plan = graphprune.trace(model, x).plan(0.5, importance="wanda", calibration=[x])
    slim = plan.apply(model)
    graphprune.repair(slim, model, plan, [x])
    return Done(tensors_of(slim), kept(plan))


def learn(model: nn.Module, x: Tensor, folder: Path) -> Done:
    """Plan by gradients, apply and repair in one call, with batches that are made in inference mode where it is on."""
    target = torch.arange(x.shape[0], device=x.device) % 4
    batch = x.clone() if torch.is_inference_mode_enabled() else x
    given: dict[str, Any] = {"calibration": [(batch, target)], "loss_fn": loss}
    return Done(tensors_of(graphprune.prune_model(model, 0.5, x, importance="taylor", **given)))


STEPS: dict[str, Callable[[nn.Module, Tensor, Path], Done]] = {
    "prune and verify": prune,
    "save and load": save_and_load,
    "plan by activations and repair": repair,
    "plan by gradients and repair": learn,
}


def loss(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output.float(), target)


def kept(plan: graphprune.Plan) -> dict[str, dict[int, list[int]]]:
    """What stays, by the names that tensors have where nothing is compiled."""
    return {plain(n): {d: [int(i) for i in index] for d, index in dims.items()} for n, dims in plan.kept.items()}


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return {plain(n): t.detach() for n, t in (*model.named_parameters(), *model.named_buffers())}


def plain(name: str) -> str:
    return name.replace("_orig_mod.", "")
