"""Bundles on the clock: kills while one is written, round trips, and what it takes.

    python -m benchmarks.bundle --kills 50 --speed --round-trips layers networks transformers

Kills: a process that saves again and again is killed at a random moment, and what it left must be a model that it
saved, whole. Mutated files are the subject of ``benchmarks.fuzz``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import graphprune
from benchmarks.trial import call
from benchmarks.zoos import SAMPLE, zoo
from graphprune.tracing.example_inputs.guess import example_inputs_for
from graphprune.utils.tree import tensors_of


class Net(nn.Module):
    """A small network with a norm, a buffer and a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
        self.body, self.head = nn.Linear(16, 32), nn.Linear(32, 4)
        self.register_buffer("scale", torch.ones(4), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.norm(self.conv(x)).relu().mean((2, 3))).relu()) * self.scale


IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def slim_net(seed: int = 0, ratio: float = 0.5) -> nn.Module:
    torch.manual_seed(seed)
    return graphprune.prune_model(Net().eval(), ratio, IMAGE)


# ---------------------------------------------------------------- kills


def kills(folder: Path, count: int, seed: int = 0) -> int:
    """Kill a process that saves, ``count`` times; the number of times that what it left was not whole."""
    chance, wrong = random.Random(seed), 0
    models = [slim_net(number) for number in range(2)]
    graphprune.save(models[0], folder)
    expected = [model(IMAGE) for model in models]
    for number in range(count):
        child = multiprocessing.get_context("fork").Process(target=_save_on_and_on, args=(folder, models))
        child.start()
        time.sleep(chance.random() * 0.2)
        child.kill()
        child.join()
        try:
            out = graphprune.load(folder, Net()).eval()(IMAGE)
        except graphprune.LoadError as error:
            print(f"kill {number}: {error}")
            wrong += 1
            continue
        if not any(torch.equal(out, one) for one in expected):
            print(f"kill {number}: another model")
            wrong += 1
    graphprune.save(models[0], folder)
    if len(list(folder.iterdir())) != 1:
        print("the next save left something behind")
        wrong += 1
    return wrong


def _save_on_and_on(folder: Path, models: list[nn.Module]) -> None:
    while True:
        for model in models:
            graphprune.save(model, folder)


# ---------------------------------------------------------------- round trips


def round_trips(folder: Path, names: list[str]) -> int:
    """Save and load models of the zoos (``layers``, or ``layers:lstm,gru``); how many did not come back exactly."""
    wrong = 0
    for argument in names:
        zoo_name, _, own = argument.partition(":")
        for name in own.split(",") if own else SAMPLE[zoo_name]:
            torch.manual_seed(0)
            model, inputs = zoo(zoo_name)[name]()[:2]
            inputs = example_inputs_for(model) if inputs is None else inputs
            slim = graphprune.prune_model(model.eval(), 0.5, inputs)
            said, equal = _round_trip(folder / "model", model, slim, inputs)
            shutil.rmtree(folder / "model", ignore_errors=True)
            print(f"{zoo_name:<12} {name:<28} {'equal' if equal else 'DIFFERENT':<10} {said}", flush=True)
            wrong += not equal
    return wrong


def _round_trip(folder: Path, dense: nn.Module, slim: nn.Module, inputs: Any) -> tuple[str, bool]:
    """What builds the dense model, and whether the loaded model's outputs are those of the slim one, bit for bit."""
    try:
        graphprune.save(slim, folder)
        (version,) = folder.iterdir()
        built = json.loads((version / "bundle.json").read_text())["architecture"]
        loaded = graphprune.load(folder, None if built else dense, trust_factory=True)
    except graphprune.GraphpruneError as error:
        return f"{type(error).__name__}: {error}", False
    outputs = []
    for model in (slim, loaded):
        torch.manual_seed(1)
        with torch.no_grad():
            outputs.append(list(tensors_of(call(model, inputs))))
    equal = all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(*outputs, strict=True))
    return f"{built['source']} {built['name']}" if built else "model=", equal


# ---------------------------------------------------------------- speed


def speed(folder: Path) -> None:
    """Seconds and memory to save and load a slim ResNet-50, and an MLP of 500 MB."""
    import torchvision

    torch.manual_seed(0)
    resnet = graphprune.prune_model(torchvision.models.resnet50().eval(), 0.3, torch.randn(1, 3, 224, 224))
    wide = graphprune.prune_model(dense_mlp(), 0.3, torch.randn(1, 5600))
    make = importlib.import_module("benchmarks.bundle").dense_mlp  # not that of the program itself, which has no name
    for name, model, factory in (("resnet50", resnet, None), ("mlp", wide, make)):
        size = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
        began = time.perf_counter()
        graphprune.save(model, folder / name, factory=factory)
        saved = time.perf_counter() - began
        code = [sys.executable, "-m", "benchmarks.bundle", "--load-one", str(folder / name)]
        loaded = subprocess.run(code, capture_output=True, text=True, check=True).stdout.strip()
        print(f"{name}: {size / 1e6:.0f} MB, saved in {saved:.2f} s; {loaded}", flush=True)


def dense_mlp() -> nn.Module:
    """An MLP of 1 GB, which pruning makes half as large."""
    return nn.Sequential(*(layer for _ in range(8) for layer in (nn.Linear(5600, 5600), nn.ReLU())))


def _load_one(folder: Path) -> None:
    import torchvision  # noqa: F401  # its import is no part of loading

    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, anonymous = _memory("VmHWM"), _memory("RssAnon")
    began = time.perf_counter()
    model = graphprune.load(folder, trust_factory=True)
    seconds = time.perf_counter() - began
    peak, unmapped = _memory("VmHWM") - before, _memory("RssAnon") - anonymous
    print(
        f"loaded in {seconds:.2f} s, {time.process_time():.2f} s of computing since the start; the peak of resident "
        f"memory rose by {peak:.0f} MB, memory that no file backs by {unmapped:.0f} MB"
    )
    assert model is not None


def _memory(kind: str) -> float:
    """MB of memory of the process, as Linux counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(kind))


def main() -> int:
    """Run what is asked for; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0, metavar="N")
    parser.add_argument(
        "--round-trips", nargs="+", default=[], metavar="ZOO[:NAMES]", help="such as layers timm:resnet18"
    )
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    parser.add_argument("--load-one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load_one:
        _load_one(options.load_one)
        return 0
    folder = options.folder or Path(tempfile.mkdtemp())
    wrong = 0
    if options.kills:
        failed = kills(folder / "kills", options.kills)
        print(f"{options.kills} kills, {failed} of them left something else than a whole bundle", flush=True)
        wrong += failed
    if options.round_trips:
        wrong += round_trips(folder, options.round_trips)
    if options.speed:
        speed(folder)
    return min(wrong, 1)


if __name__ == "__main__":
    raise SystemExit(main())
