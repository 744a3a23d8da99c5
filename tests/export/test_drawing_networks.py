"""Networks that draw random numbers in evaluation mode: outputs are compared with the same draws of every generator."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import graphprune
from graphprune.export.huggingface.reading_back import same_outputs
from graphprune.pruning.float64 import in_float64
from graphprune.tracing.inputs import calls_of
from graphprune.utils.random_state import random_state

X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


class Drawing(nn.Module):
    """Noise of all three generators; what it looks at lets no two programs be compared by their calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu() + random.random() + float(np.random.rand())
        if bool(h.sum() > 1e6):
            h = h.clamp(max=1e6)
        return self.last(h) + torch.rand(3)


def drawn() -> str:
    state = random_state()
    return repr((state["torch"].tolist(), state["numpy"][1].tolist(), state["numpy"][2], state["python"]))


def test_the_outputs_of_a_folder_are_compared_with_the_same_draws() -> None:
    model, before = Drawing().eval(), drawn()
    assert same_outputs(model, copy.deepcopy(model), calls_of(X))
    assert drawn() == before


def test_an_exported_loader_is_compared_with_the_same_draws(tmp_path: Path) -> None:
    model = Drawing().eval()
    slim = graphprune.prune_model(model, 0.5, X)
    before = drawn()
    graphprune.export_loader(slim, tmp_path, example_inputs=X)
    assert drawn() == before and list(tmp_path.iterdir())


def test_computing_in_float64_leaves_all_generators() -> None:
    before = drawn()
    with in_float64():
        Drawing()(X.double())
    assert drawn() == before
