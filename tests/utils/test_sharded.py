"""Models that torch.distributed wraps, shards or splits: what to pass instead is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import graphprune
from graphprune.errors import InputError

X = torch.randn(2, 3)


@pytest.fixture(autouse=True)
def _one_process(tmp_path: Path) -> Iterator[None]:
    """A group of one process, in which models are wrapped as in one of many."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))


def mesh() -> Any:
    return init_device_mesh("cpu", (1,))


WRAPPED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "ddp": (lambda: DistributedDataParallel(net()), r"model: is a DistributedDataParallel .*[\s\S]*pass model\.module"),
    "fsdp2": (
        lambda: fully_shard(net(), mesh=mesh()),
        r"model: is sharded by fully_shard, [\s\S]*prune the model before",
    ),
    "tensor parallel": (
        lambda: parallelize_module(net(), mesh(), {"0": ColwiseParallel()}),
        r"model\.0\.weight: is a DTensor, of which every process has a part [\s\S]*prune the model before",
    ),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_what_to_pass_instead(kind: str) -> None:
    wrap, text = WRAPPED[kind]
    plan = graphprune.trace(net(), X).plan(0.5)
    asks: list[Callable[[nn.Module], Any]] = [
        lambda model: graphprune.trace(model, X),
        lambda model: graphprune.prune_model(model, 0.5, X),
        plan.apply,
        lambda model: plan.apply(model, inplace=True),
        lambda model: graphprune.reestimate_batch_norm(model, [X]),
    ]
    for ask in asks:
        with pytest.raises(InputError, match=text):
            ask(wrap())


def test_the_module_of_ddp_is_pruned_and_wrapped_again() -> None:
    model = net()
    wrapped = DistributedDataParallel(model)
    data = graphprune.across_processes([X])
    slim = graphprune.prune_model(wrapped.module, 0.5, X, importance="wanda", calibration=data)
    DistributedDataParallel(slim)(X).sum().backward()
    assert slim[0].weight.grad.shape == (4, 3)


def test_a_slim_model_is_sharded() -> None:
    slim = graphprune.prune_model(net(), 0.5, X)
    fully_shard(slim, mesh=mesh())(X).sum().backward()
    assert slim[0].weight.shape == (4, 3)
