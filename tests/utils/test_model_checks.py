"""What is no model, or a wrapper around one, is named, with what to pass instead."""

import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import graphprune
from graphprune.errors import InputError, PlanError, TraceError
from graphprune.utils.model_checks import check_model

X = torch.randn(2, 4)


class Net(nn.Module):
    """Two layers, and something that a program does with what is between them."""

    def __init__(self, look: Callable[[Tensor], Any] | None = None) -> None:
        super().__init__()
        self.first, self.last, self.look = nn.Linear(4, 16), nn.Linear(16, 3), look

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).relu()
        if self.look is not None:
            self.look(hidden.detach())
        out: Tensor = self.last(hidden)
        return out


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Net, r"model: must be a torch.nn.Module, but is the class Net[\s\S]*pass an instance: Net\(\.\.\.\)"),
        (Net().state_dict(), r"but is an OrderedDict, such as a state dict[\s\S]*build the model"),
        ("model.pt", r"but is the str 'model.pt'[\s\S]*load the model first"),
        (3, r"but is an int"),
        (
            AveragedModel(Net()),
            r"model: is an AveragedModel around a model, not the model itself[\s\S]*"
            r"needed: the model that is averaged, or its averages\n[\s\S]*pass model.module$",
        ),
        (
            nn.DataParallel(Net()),
            r"model: is a DataParallel .*[\s\S]*pass model.module, and wrap the slim model in DataPar",
        ),
        (nn.Sequential(nn.DataParallel(Net())), r"model.0: is a DataParallel .*[\s\S]*put model.0.module in its place"),
    ],
)
def test_what_is_no_model(model: Any, message: str) -> None:
    for call in (graphprune.trace, lambda m, x: graphprune.prune_model(m, 0.5, x)):
        with pytest.raises(InputError, match=message):
            call(model, X)


@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        (
            "torch.nn.parallel.distributed",
            "DistributedDataParallel",
            r"pass model.module, and wrap the slim model in Dis",
        ),
        ("torch.distributed.fsdp.fully_sharded_data_parallel", "FullyShardedDataParallel", r"before it is sharded"),
        ("torch.distributed.fsdp._fully_shard._fully_shard", "FSDPModule", r"prune the model before fully_shard"),
    ],
)
def test_sharded_and_distributed(module: str, name: str, message: str) -> None:
    """Classes that would need a process group, by where they are defined."""
    kind = type(name, (Net,), {"__module__": module})
    with pytest.raises(InputError, match=message):
        check_model(type("Mine", (kind,), {})())
    check_model(type(name, (Net,), {"__module__": "mine.parallel"})())


def test_averages_within_a_model_are_modules_like_others() -> None:
    model = nn.Sequential(Net())
    model[0].ema = AveragedModel(Net())
    with pytest.warns(graphprune.UnreachedWarning, match=r"0\.ema\.module\.first\.weight"):
        slim = graphprune.prune_model(model, 0.5, X)
    assert slim[0].first.out_features == 8 and slim[0].ema.module.first.out_features == 16
    taught = nn.Sequential(AveragedModel(Net()))
    assert graphprune.prune_model(taught, 0.5, X)[0].module.first.out_features == 8


@pytest.mark.parametrize("inputs", [(1, 3, 8, 8), [1, 3, 8, 8], torch.Size((1, 3, 8, 8))])
def test_a_shape_as_example(inputs: Any) -> None:
    with pytest.raises(
        TraceError, match=r"=\(1, 3, 8, 8\) are 4 integers .* 4 arguments[\s\S]*torch.randn\(1, 3, 8, 8\)"
    ):
        graphprune.prune_model(Net(), 0.5, inputs)


def test_integers_that_are_arguments() -> None:
    class Grid(Net):
        def forward(self, rows: int, columns: int) -> Tensor:  # type: ignore[override]
            return super().forward(torch.ones(rows * columns, 4))

    assert graphprune.prune_model(Grid(), 0.5, (2, 3)).get_parameter("first.weight").shape == (8, 4)


def test_arrays_as_example() -> None:
    with pytest.raises(TraceError, match=r"instead of numpy arrays[\s\S]*torch.from_numpy\(array\)"):
        graphprune.prune_model(Net(), 0.5, (X.numpy(),))


def test_the_line_of_the_program_is_shown() -> None:
    with pytest.raises(
        TraceError, match=r"mat1 and mat2[\s\S]*\n  where:  .*test_model_checks.py:\d+: hidden = self.first\(x\)"
    ):
        graphprune.prune_model(Net(), 0.5, torch.randn(2, 5))


LOOKS: dict[str, Callable[[Tensor], Any]] = {
    "pickle": pickle.dumps,
    "nested": lambda t: pickle.dumps({"features": t.cpu()}),
    "save": lambda t: torch.save(t, io.BytesIO()),
    "bytes": lambda t: bytes(t.untyped_storage()),
    "numpy": lambda t: hash(t.numpy().tobytes()),
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_program_that_saves_what_it_computes(look: str) -> None:
    """What is done with what it saves is not seen."""
    with pytest.raises(PlanError, match=r"first\.weight\[0\]: its entries are read as numbers"):
        graphprune.prune_model(Net(LOOKS[look]).eval(), 0.5, X)


def test_a_program_that_compares_places_in_memory() -> None:
    slim = graphprune.prune_model(Net(lambda t: t.data_ptr()).eval(), 0.5, X, verify=True)
    assert slim.get_parameter("first.weight").shape == (8, 4)
