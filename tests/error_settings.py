"""What the programs of :mod:`tests.error_situations` have at hand, and running one of them."""

from __future__ import annotations

import copy
import linecache
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import graphprune
from graphprune.errors import GraphpruneError

FILE = "train.py"
"""The name of every program, in messages."""


class Net(nn.Module):
    """A convolution, its normalization and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.norm = nn.BatchNorm2d(16)
        self.hidden = nn.Linear(16, 8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.hidden(self.norm(self.conv(x)).relu().mean((2, 3))).relu())


@dataclass(frozen=True)
class Situation:
    """A mistake, and what its error must say.

    Attributes:
        task: what the user was doing.
        title: what went wrong, for the heading.
        code: the program, whose last line fails.
        error: the class of the error.
        found, do: are in these parts of the message.
        where: is in that part, beside the line of the program.
        missing: packages that are not installed.
        line: the line that the message names, counted from the last one, which is 0.
    """

    task: str
    title: str
    code: str
    error: type[GraphpruneError]
    found: str
    do: str
    where: str = ""
    missing: tuple[str, ...] = ()
    line: int = 0

    @property
    def number(self) -> int:
        """The line of the program that the message names."""
        return self.code.count("\n") + 1 - self.line


@cache
def setting() -> Mapping[str, Any]:
    """The names that every program has. Nothing of it may change."""
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(2, 3, 8, 8)
    graph = graphprune.trace(model, x)
    plan = graph.plan(0.5)
    llm = nn.Sequential(nn.Embedding(32, 8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 32))
    return {
        "copy": copy,
        "nn": nn,
        "torch": torch,
        "threading": threading,
        "graphprune": graphprune,
        "Override": graphprune.Override,
        "Net": Net,
        "model": model,
        "x": x,
        "target": torch.zeros(2, dtype=torch.long),
        "graph": graph,
        "plan": plan,
        "slim": plan.apply(model),
        "tokens": llm,
        "wrapped": _in_one_process(nn.parallel.DistributedDataParallel, Net()),
    }


def _in_one_process(wrap: Callable[[nn.Module], nn.Module], model: nn.Module) -> nn.Module:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        return wrap(model)
    finally:
        dist.destroy_process_group()


def write_files(folder: Path) -> None:
    """The files that the programs read: a bundle, a plan, weights, a checkpoint, and things of other people."""
    names = setting()
    slim, plan = names["slim"], names["plan"]
    graphprune.save(slim, folder / "slim")
    graphprune.save(slim, folder / "damaged")
    weights = next((folder / "damaged").rglob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    (folder / "plan.json").write_text(plan.to_json())
    graphprune.save_sparse(slim, folder / "slim.sparse")
    (folder / "notes").mkdir()
    (folder / "notes" / "thesis.txt").write_text("years of work")
    (folder / "project").mkdir()
    (folder / "project" / "model.py").write_text("import torch")
    (folder / "weights.pt").write_bytes(b"something else")
    graphprune.save_checkpoint(folder / "checkpoint", copy.deepcopy(names["model"]), {"epoch": 3})


@contextmanager
def _named(code: str) -> Iterator[None]:
    """The lines of a program, where messages look for them."""
    linecache.cache[FILE] = (len(code), None, [f"{line}\n" for line in code.split("\n")], FILE)
    try:
        yield
    finally:
        del linecache.cache[FILE]


def run(situation: Situation, hide: Callable[[tuple[str, ...]], Any]) -> GraphpruneError:
    """The error of a situation; ``hide`` makes packages look as if they were not installed.

    Raises:
        AssertionError: there was none.
    """
    code = situation.code
    names = {**setting(), "__name__": "train"}
    with _named(code), hide(situation.missing), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        try:
            exec(compile(code, FILE, "exec"), names)
        except GraphpruneError as error:
            error.shown = plain(str(error))  # type: ignore[attr-defined]  # while the lines of the program are known
            error.placed = error.where  # type: ignore[attr-defined]
            return error
    raise AssertionError(f"no error: {situation.title}")


def plain(text: str) -> str:
    """A message as if the network stood in a file of its own, without folders of this machine."""
    root = str(Path(graphprune.__file__).parents[1])
    text = re.sub(r"\b[0-9a-f]{64}\b", "0123abcd...", text)
    return re.sub(r"tests/error_settings\.py:\d+", "net.py:9", text.replace(f"{root}/", "")).replace(__name__, "net")
