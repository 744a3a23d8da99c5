"""Files of every format that was ever written, which every later version reads.

python -m tests.golden.formats --write   # when a format has a new version: adds its folder, and leaves the others
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import graphprune
from graphprune.export.manifest import BUNDLE_FORMAT
from graphprune.measurement.records import MEASUREMENT_FORMAT
from graphprune.pruning.plan_json import PLAN_FORMAT
from graphprune.sparsity.sparse_files import FORMAT as SPARSE_FORMAT
from graphprune.training.checkpoint import CHECKPOINT_FORMAT
from tests.golden.plans import numbers

FOLDER = Path(__file__).with_name("formats")

VERSIONS = {
    "bundle": BUNDLE_FORMAT,
    "plan": PLAN_FORMAT,
    "checkpoint": CHECKPOINT_FORMAT,
    "sparse": int(SPARSE_FORMAT["version"]),
    "measurement": MEASUREMENT_FORMAT,
}
"""The versions that are written now."""


class Net(nn.Module):
    """A convolution, a norm and a classifier. [n, 3, 8, 8] -> [n, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


IMAGES = numbers(2, 3, 8, 8, seed=1)


def net() -> nn.Module:
    """Always the same weights."""
    model = Net().eval()
    with torch.no_grad():
        for seed, tensor in enumerate(model.parameters()):
            tensor.copy_(numbers(*tensor.shape, seed=seed + 2))
    return model


def slim_net() -> nn.Module:
    return graphprune.prune_model(net(), 0.5, IMAGES)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), foreach=False)


def write_checkpoint(folder: Path) -> None:
    slim = slim_net()
    optimizer = adam(slim)
    slim(IMAGES).square().mean().backward()
    optimizer.step()
    graphprune.save_checkpoint(folder, slim, {"step": 1}, optimizer=optimizer)


def read_checkpoint(folder: Path) -> Any:
    model = net()
    state = graphprune.load_checkpoint(folder, model, optimizer=adam(model))
    return [state, model.eval()(IMAGES).tolist()]


def write_sparse(folder: Path) -> None:
    model = net()
    graphprune.sparsify(model, 0.9)
    graphprune.save_sparse(model, folder / "sparse.safetensors")


def read_plan(folder: Path) -> Any:
    plan = graphprune.Plan.from_json((folder / "plan.json").read_text())
    return plan.apply(net())(IMAGES).tolist()


def read_measurement(folder: Path) -> Any:
    found = graphprune.Measurement.from_json((folder / "measurement.json").read_text())
    return [found.model, found.parameters, found.macs]


WRITERS: dict[str, Callable[[Path], object]] = {
    "bundle": lambda folder: graphprune.save(slim_net(), folder),
    "plan": lambda folder: (folder / "plan.json").write_text(graphprune.trace(net(), IMAGES).plan(0.5).to_json()),
    "checkpoint": write_checkpoint,
    "sparse": write_sparse,
    "measurement": lambda folder: (folder / "measurement.json").write_text(graphprune.measure(net(), IMAGES).to_json()),
}
READERS: dict[str, Callable[[Path], Any]] = {
    "bundle": lambda folder: graphprune.load(folder, net()).eval()(IMAGES).tolist(),
    "plan": read_plan,
    "checkpoint": read_checkpoint,
    "sparse": lambda folder: graphprune.load_sparse(folder / "sparse.safetensors", net()).eval()(IMAGES).tolist(),
    "measurement": read_measurement,
}
"""What a folder says, as JSON data."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", required=True)
    parser.parse_args()
    for kind, version in VERSIONS.items():
        folder = FOLDER / f"{kind}-{version}"
        if not folder.exists():
            (folder / "files").mkdir(parents=True)
            WRITERS[kind](folder / "files")
            (folder / "says.json").write_text(json.dumps(READERS[kind](folder / "files")) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
