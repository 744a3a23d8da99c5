"""Inputs made from what batch normalizations remember."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.errors import InputError
from graphprune.reconstruction.synthetic_inputs import synthesize


class Net(nn.Module):
    """A network that takes an image, the number of a class and a table."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)
        )
        self.kind = nn.Embedding(3, 4)

    def forward(self, image: Tensor, kind: Tensor | None = None, table: Tensor | None = None) -> Tensor:
        y = self.body(image).mean((2, 3))
        y = y if kind is None else y + self.kind(kind)
        return y if table is None else y + table


def trained(seed: int = 1) -> Net:
    """A network whose norms remember inputs of mean 2 and deviation 3."""
    model = Net().train()
    with torch.no_grad():
        for _ in range(100):
            model(2 + 3 * torch.randn(32, 2, 8, 8))
    return model.eval()


def seen(model: Net, x: Tensor) -> list[Tensor]:
    """By how many deviations the means of what goes into norms are off."""
    found: list[Tensor] = []
    hooks = [
        norm.register_forward_hook(
            lambda m, args, _: found.append((args[0].mean((0, 2, 3)) - m.running_mean) / m.running_var.sqrt())
        )
        for norm in (model.body[1], model.body[4])
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return found


def test_statistics_match_what_is_remembered() -> None:
    model, example = trained(), torch.randn(1, 2, 8, 8)
    made = torch.cat(synthesize(model, example, 24, batch_size=16))
    noise = torch.randn(24, 2, 8, 8)
    assert made.shape == noise.shape
    for before, after in zip(seen(model, noise), seen(model, made), strict=True):
        assert after.abs().mean() < 0.2 * before.abs().mean()


def test_the_seed_decides() -> None:
    model, example = trained(), torch.randn(1, 2, 8, 8)
    first, again, other = (synthesize(model, example, 4, steps=3, seed=seed)[0] for seed in (1, 1, 2**64 + 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_batches_have_the_form_of_the_example() -> None:
    model, image = trained(), torch.randn(2, 2, 8, 8)
    kind, table = torch.tensor([0, 2]), torch.randn(4)
    batches = synthesize(model, {"image": image, "kind": kind, "table": table}, 7, steps=2, batch_size=5)
    assert [b["image"].shape[0] for b in batches] == [5, 2]
    assert batches[0]["kind"].tolist() == [0, 2, 0, 2, 0]
    assert torch.equal(batches[0]["table"], table)
    assert isinstance(synthesize(model, (image, kind), 2, steps=1)[0], tuple)
    assert not any(t.requires_grad for batch in batches for t in batch.values())
    graphprune.trace(model, image).plan(0.5, importance="wanda", calibration=[b["image"] for b in batches])


def test_the_model_is_lent() -> None:
    model = trained().train()
    model.kind.weight.requires_grad_(False)
    model.body[0].weight.grad = torch.ones(6, 2, 3, 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        synthesize(model, torch.randn(1, 2, 8, 8), 4, steps=2)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())
    assert all(m.training for m in model.modules())
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["kind.weight"]
    assert torch.equal(model.body[0].weight.grad, torch.ones(6, 2, 3, 3)) and model.kind.weight.grad is None


class OwnNorm(nn.Module):
    """Statistics kept by the user's own class."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((3,), 5.0))
        self.register_buffer("variance", torch.full((3,), 4.0))

    def forward(self, x: Tensor) -> Tensor:
        return torch.batch_norm(x, None, None, self.mean, self.variance, False, 0.1, 1e-5, False)


@pytest.mark.parametrize("norm", [OwnNorm, lambda: nn.BatchNorm1d(3)])
def test_norms_are_found_by_what_they_call(norm: Callable[[], nn.Module]) -> None:
    model = norm().eval()
    for name, buffer in model.named_buffers():
        if buffer.ndim:
            buffer.fill_(5.0 if "mean" in name else 4.0)
    made = synthesize(model, torch.randn(8, 3), 32, steps=200)[0]
    torch.testing.assert_close(made.mean(0), torch.full((3,), 5.0), atol=0.2, rtol=0)
    torch.testing.assert_close(made.std(0), torch.full((3,), 2.0), atol=0.2, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": nn.Linear(3, 3), "example_inputs": torch.randn(1, 3)}, "model: Linear has no batch normalization"),
        ({"model": nn.Embedding(3, 3), "example_inputs": torch.zeros(1, 3).long()}, "no floating-point tensor"),
        ({"example_inputs": torch.randn(1, 5, 8, 8)}, r"Net.forward failed on f32\[4, 5, 8, 8\]"),
        ({"samples": 0}, "samples: must be a whole number, at least 1, but is 0"),
        ({"steps": 0}, "steps: must be a whole number, at least 1, but is 0"),
        ({"lr": -1.0}, "lr: must be a positive number, but is -1.0"),
        ({"lr": 1e30}, "diverged"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    given = {"model": Net().eval(), "example_inputs": torch.randn(1, 2, 8, 8), "samples": 4, "steps": 2} | arguments
    with pytest.raises(InputError, match=message):
        synthesize(**given)


def test_inputs_are_found_from_the_model() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    assert synthesize(model, samples=2, steps=1)[0][0].shape == (2, 3)
