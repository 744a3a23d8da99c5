"""A training that goes on knows the model that it began with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphprune import finetune
from graphprune.errors import LoadError
from graphprune.training.weight_sketch import other_weight, sketch_of


def made(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def batches() -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(6, 4), torch.randint(3, (6,))) for _ in range(4)]


GIVEN: dict[str, Any] = {"loss_fn": nn.functional.cross_entropy, "steps": 4, "lr": 0.1}


def test_another_model_is_refused_each_time_and_unchanged(tmp_path: Path) -> None:
    finetune(made(), batches(), **GIVEN, checkpoint=tmp_path)
    other = made(2)
    before = [p.detach().clone() for p in other.parameters()]
    for _ in range(2):
        with pytest.raises(LoadError, match=r"began with another model: 0\.weight"):
            finetune(other, batches(), **GIVEN, checkpoint=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))


def test_the_same_model_built_anew_goes_on(tmp_path: Path) -> None:
    done = made()
    finetune(done, batches(), **GIVEN, checkpoint=tmp_path)
    again = made()
    with torch.no_grad():
        for parameter in again.parameters():
            parameter *= 1 + 1e-6  # as a repair on another machine may leave it
    finetune(again, batches(), **GIVEN, checkpoint=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(done.parameters(), again.parameters(), strict=True))


def test_a_model_that_was_interrupted_goes_on_in_the_same_process(tmp_path: Path) -> None:
    model = made()

    def stop(step: int, *_: object) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(model, batches(), **GIVEN, checkpoint=tmp_path, every=2, on_step=stop)
    assert len(finetune(model, batches(), **GIVEN, checkpoint=tmp_path, every=2).loss) == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_entries_that_are_not_finite_do_not_tell(value: float) -> None:
    model = made()
    with torch.no_grad():
        model[0].weight[0, 0] = value
    assert other_weight(sketch_of(model), model) is None
    assert other_weight(sketch_of(model), made(2)) == "0.weight"


def test_other_names_shapes_and_kinds() -> None:
    model = made()
    assert other_weight(sketch_of(model), nn.Sequential(nn.Linear(4, 8))) == "2.bias"
    assert other_weight(sketch_of(nn.Linear(4, 8)), nn.Linear(8, 4)) == "weight"
    assert other_weight(sketch_of(model.to("meta")), made().to("meta")) is None
    assert sketch_of(nn.LazyLinear(3)) == []
    sparse = nn.Module()
    sparse.weight = nn.Parameter(torch.eye(3).to_sparse())
    assert sketch_of(sparse)[0].total == 3
    phases = nn.Module()
    phases.weight = nn.Parameter(torch.full((2,), 1j))
    assert sketch_of(phases)[0].norm == pytest.approx(2**0.5)
