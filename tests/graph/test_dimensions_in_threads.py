"""One table of dimensions for several threads that plan for the same model."""

import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torchvision.models import regnet_y_400mf

import graphprune
from graphprune.graph.dimensions import Dimensions
from graphprune.rules.labels import LabeledTensor


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty")
def test_dimensions_are_counted_while_others_are_added() -> None:
    graph = graphprune.trace(regnet_y_400mf().eval(), torch.randn(1, 3, 32, 32))
    labeled = [n for n in graph.labeling.nodes if isinstance(graph.labeling.values[n], LabeledTensor)]
    alive, errors = np.ones(graph.solution.count, bool), []
    for _ in range(30):
        table, done = Dimensions(graph.size_model()), threading.Event()

        def count(table: Dimensions = table, done: threading.Event = done) -> None:
            try:
                while not done.is_set():
                    table.counts(alive)
            except Exception as error:
                errors.append(error)

        counting = threading.Thread(target=count)
        counting.start()
        numbers = {(n, d): table.number(n, d) for n in labeled for d in range(len(n.meta["shape"]))}
        done.set()
        counting.join()
        assert not errors
        counts = table.counts(alive)
        assert all(counts[number] == node.meta["shape"][dim] for (node, dim), number in numbers.items())
