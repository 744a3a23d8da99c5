"""The script that prunes in every context, and what it notices."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import contexts
from benchmarks.common import read_json
from benchmarks.context_kinds import AROUND, MADE_OF, Context, within
from benchmarks.context_networks import NETWORKS, STEPS, Done
from graphprune.errors import InputError

CASES = [
    ("inference_mode", "perceptron", "plan by gradients and repair"),
    ("default dtype bfloat16", "gpt", "prune and verify"),
    ("torch.device('meta')", "residual", "plan by activations and repair"),
    ("TorchDispatchMode that looks at sizes", "lstm", "plan by activations and repair"),
    ("global module hooks", "perceptron", "plan by gradients and repair"),
    ("two threads that prune", "perceptron", "plan by activations and repair"),
    ("a thread that makes tensors beside", "gpt", "prune and verify"),
    ("a thread that infers with the same model", "residual", "plan by gradients and repair"),
    ("float64", "lstm", "plan by activations and repair"),
    ("channels_last", "residual", "save and load"),
    ("compiled part", "vit", "prune and verify"),
    ("scripted part", "encoder", "prune and verify"),
    ("partly in training mode", "residual", "plan by gradients and repair"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "network", "step"), CASES)
def test_a_context_makes_no_difference(name: str, network: str, step: str) -> None:
    context = (AROUND | MADE_OF)[name]
    assert contexts.examine(NETWORKS[network], context, step) == ("same", "")


def test_what_cannot_be_pruned_is_refused() -> None:
    state, said = contexts.examine(NETWORKS["perceptron"], MADE_OF["sparse"], "prune and verify")
    assert state == "refused"
    assert "to_dense" in said


def test_all_that_was_measured_is_right() -> None:
    found = read_json("contexts.json")
    assert [one["context"] for one in found["contexts"]] == [*AROUND, *MADE_OF]
    assert found["steps"] == list(STEPS)
    assert sum(one["wrong"] for one in found["contexts"]) == 0


def _leaves_gradients_off(model: nn.Module, x: Tensor, folder: Path) -> Done:
    torch.set_grad_enabled(False)
    return Done({})


def _draws(model: nn.Module, x: Tensor, folder: Path) -> Done:
    np.random.rand()
    return Done({})


def _changes(model: nn.Module, x: Tensor, folder: Path) -> Done:
    next(model.parameters()).data.add_(1)
    return Done({})


def _says_nothing(model: nn.Module, x: Tensor, folder: Path) -> Done:
    raise InputError("model: no")


@contextmanager
def _nothing() -> Any:
    with torch.enable_grad():
        yield


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (_leaves_gradients_off, "gradients"),
        (_draws, "numpy's random numbers"),
        (_changes, "changed the model"),
        (_says_nothing, "no advice"),
    ],
)
def test_what_is_left_changed_is_noticed(
    monkeypatch: pytest.MonkeyPatch, step: Callable[[nn.Module, Tensor, Path], Done], said: str
) -> None:
    contexts.expected(NETWORKS["perceptron"], Context.like, "prune and verify")
    monkeypatch.setitem(STEPS, "prune and verify", step)
    state, text = contexts.examine(NETWORKS["perceptron"], within(_nothing), "prune and verify")
    assert state == "wrong"
    assert said in text


def test_other_weights_are_noticed() -> None:
    right = contexts.expected(NETWORKS["perceptron"], Context.like, "prune and verify")
    other = Done({name: tensor + 1e-3 for name, tensor in right.tensors.items()}, right.plan)
    with pytest.raises(contexts.Wrong, match="other weights"):
        contexts.compare("prune and verify", other, right, Context())
    with pytest.raises(contexts.Wrong, match="another plan"):
        contexts.compare("prune and verify", Done(right.tensors, {}), right, Context())
