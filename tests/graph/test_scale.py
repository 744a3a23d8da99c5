"""Large language models are analyzed and planned in runs of labels, hardly any of which is looked at by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import graphprune
from graphprune.graph.solve import Classes, Items, Solution

HIDDEN, INNER, HEADS, KV_HEADS, VOCABULARY = 512, 2048, 8, 2, 8192


def _llama(layers: int) -> nn.Module:
    """A Llama on ``meta``, whose labels are many compared with its operations.

    Its attention is written out, so that all versions of torch and Transformers call the same operations.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        vocab_size=VOCABULARY,
        use_cache=False,
        attn_implementation="eager",
    )
    with torch.device("meta"):
        model: nn.Module = LlamaForCausalLM(config)
    return model.eval()


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of arrays of labels or classes that are looked at one by one from now on."""
    sizes: list[int] = []

    def counting(kind: type, name: str) -> None:
        old = getattr(kind, name)

        def call(self: Any, ids: np.ndarray, *rest: Any) -> Any:
            sizes.append(ids.size)
            return old(self, ids, *rest)

        monkeypatch.setattr(kind, name, call)

    for kind, name in ((Classes, "__getitem__"), (Items, "item_of"), (Solution, "expand")):
        counting(kind, name)
    return sizes


@pytest.fixture(scope="module")
def looked_at() -> dict[int, dict[str, int]]:
    """By number of layers: lookups of every step, and how many labels there are."""
    with pytest.MonkeyPatch.context() as patch:
        sizes = _counted(patch)
        return {layers: _steps(_llama(layers), sizes) for layers in (2, 6, 10)}


def _steps(model: nn.Module, sizes: list[int]) -> dict[str, int]:
    steps: dict[str, Callable[[Any], Any]] = {
        "trace": lambda model: graphprune.trace(model, torch.zeros(1, 8, dtype=torch.long)),
        "ratio": lambda graph: graph.plan(0.5, importance="random"),
        "budget": lambda graph: graph.plan(params=0.5, importance="random"),
    }
    given: Any = model
    found = {}
    for name, step in steps.items():
        sizes.clear()
        made = step(given)
        found[name] = sum(sizes)
        given = made if name == "trace" else given
    return {**found, "labels": given.labeling.labels.count}


def test_work_grows_with_the_number_of_layers_and_not_faster(looked_at: dict[int, dict[str, int]]) -> None:
    two, six, ten = looked_at.values()
    for step in two:
        assert ten[step] - six[step] <= 1.1 * (six[step] - two[step]), step


@pytest.mark.parametrize(("step", "share"), [("trace", 0.3), ("ratio", 2.3), ("budget", 1.5)])
def test_few_labels_are_looked_at_one_by_one(looked_at: dict[int, dict[str, int]], step: str, share: float) -> None:
    six, ten = looked_at[6], looked_at[10]
    assert ten[step] - six[step] <= share * (ten["labels"] - six["labels"])
