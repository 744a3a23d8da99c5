"""Networks as source: pruned, written by ``export_source``, and built again where there is torch and nothing else.

Each file is imported by a fresh process that can import torch and safetensors alone. Its outputs in evaluation at
several batch and image sizes are compared bit for bit with those of the slim model, and so are the outputs and
gradients of a step in training, under the same seed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

import graphprune
from benchmarks import written_network
from benchmarks.common import enliven, quiet_one_thread, row, table, wide_console, write_json
from benchmarks.written_network import results

RATIO = 0.4
SAMPLE = ("resnet18", "models.gpt", "transformer")

_IMAGE = 64


# ---------------------------------------------------------------- networks


def _torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision import models

        return getattr(models, name)(**options)

    return build


def _vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    sizes = {"image_size": 32, "patch_size": 8, "num_layers": 3, "num_heads": 4, "hidden_dim": 64, "mlp_dim": 128}
    return VisionTransformer(**sizes, dropout=0.1)


def _swin() -> nn.Module:
    from torchvision.models import SwinTransformer

    return SwinTransformer([4, 4], 32, [2, 2], [2, 4], [4, 4], stochastic_depth_prob=0.1)


def _maxvit() -> nn.Module:
    from torchvision.models import MaxVit

    return MaxVit((64, 64), 16, 4, [16, 32], [1, 1], 8, 0.1)


def _own(module: str, function: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from importlib import import_module

        return getattr(import_module(f"models.{module}"), function)()

    return build


class Transformer(nn.Module):
    """Torch's encoder and decoder over one sequence of tokens, which share their embedding with the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(32, 4, 64, batch_first=True), 1)
        self.head = nn.Linear(32, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)  # [batch, time, width]
        return self.head(self.decoder(x, self.encoder(x)))


class Tagger(nn.Module):
    """A recurrent network over tokens, with a table of positions that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 24)
        self.register_buffer("positions", torch.linspace(0, 1, 64).view(1, 64, 1), persistent=False)
        self.lstm = nn.LSTM(24, 32, 2, batch_first=True, bidirectional=True, dropout=0.1)
        self.head = nn.Linear(64, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.positions[:, : tokens.shape[1]]
        return self.head(self.lstm(x)[0])


def _images(*sizes: int) -> list[tuple[int, ...]]:
    """Shapes for batches of 1 and 5 of the first size, and of 2 of the others."""
    return [(1, 3, sizes[0], sizes[0]), (5, 3, sizes[0], sizes[0]), *((2, 3, s, s) for s in sizes[1:])]


_TOKENS: list[tuple[int, ...]] = [(1, 12), (5, 12), (2, 7)]

_PLAIN = (
    "resnet18 resnet50 resnext50_32x4d mobilenet_v2 mobilenet_v3_small efficientnet_b0 densenet121 vgg11_bn alexnet "
    "squeezenet1_1 shufflenet_v2_x1_0 mnasnet1_0 regnet_y_400mf convnext_tiny"
).split()

Case = tuple[Callable[[], nn.Module], list[tuple[int, ...]]]

CASES: dict[str, Case] = {
    **{name: (_torchvision(name), _images(_IMAGE, 96)) for name in _PLAIN},
    "googlenet": (_torchvision("googlenet", init_weights=False), _images(96, 128)),
    "inception_v3": (_torchvision("inception_v3", init_weights=False), _images(299)),
    "vit": (_vit, _images(32)),
    "swin": (_swin, _images(_IMAGE, 96)),
    "maxvit": (_maxvit, _images(_IMAGE)),
    "models.gpt": (_own("gpt", "gpt"), _TOKENS),
    "models.hardnet": (_own("hardnet", "hardnet"), _images(32, 48)),
    "models.mobilenet_v2": (_own("mobilenet_v2", "mobilenet_v2"), _images(32, 48)),
    "models.resnet_cifar": (_own("resnet_cifar", "resnet20"), _images(32, 48)),
    "models.vit": (_own("vit", "vit"), _images(32)),
    "transformer": (Transformer, _TOKENS),
    "lstm": (Tagger, _TOKENS),
}


# ---------------------------------------------------------------- one network


def round_trip(name: str, folder: Path) -> dict[str, Any]:
    """Prune a network, write it, build it again in a fresh process, and compare."""
    build, shapes = CASES[name]
    torch.manual_seed(0)
    model = build().eval()
    enliven(model)
    inputs = [_input(shape) for shape in shapes]
    slim = graphprune.prune_model(model, RATIO, inputs[1])
    start = time.perf_counter()
    path = graphprune.export_source(slim, folder, inputs[1])
    seconds = time.perf_counter() - start
    expected = results(slim, inputs)
    torch.save(inputs, folder / written_network.INPUTS)
    found = _in_a_fresh_process(folder)
    return {
        "lines": len(path.read_text().splitlines()),
        "bytes": path.stat().st_size,
        "weights": (folder / "model.safetensors").stat().st_size,
        "seconds": seconds,
        "eval": [equal(a, b) for a, b in zip(expected["eval"], found["eval"], strict=True)],
        "train": equal(expected["train"], found["train"]),
        "gradients": equal(expected["gradients"], found["gradients"]),
        "formatted": _is_formatted(path),
    }


def _input(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape) if len(shape) == 4 else torch.randint(0, 50, shape)


def equal(expected: Sequence[Tensor], found: Sequence[Tensor]) -> bool:
    """Bit for bit."""
    return len(expected) == len(found) and all(map(torch.equal, expected, found))


def _in_a_fresh_process(folder: Path) -> dict[str, Any]:
    command = [sys.executable, str(Path(written_network.__file__)), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=_environment())
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1])
    return torch.load(folder / written_network.FOUND)


def _environment() -> dict[str, str]:
    """Without the folders that this repository was put on Python's path with."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _is_formatted(path: Path) -> bool:
    command = [sys.executable, "-m", "ruff", "format", "--isolated", "--check", "--line-length", "120", str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


# ---------------------------------------------------------------- reporting


def main() -> int:
    """Print the table, write ``results/export_source.json``; 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *CASES], metavar="NAME", help=f"of {', '.join(CASES)}")
    parser.add_argument("--sample", action="store_true", help=f"only {', '.join(SAMPLE)}")
    parser.add_argument("--keep", type=Path, help="a folder in which the files stay")
    options = parser.parse_args()
    quiet_one_thread()
    names = options.names or (SAMPLE if options.sample else tuple(CASES))
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            found[name] = _attempt(name, (options.keep or Path(temporary)) / name)
            print(name, found[name].get("error", ""), file=sys.stderr)
    wide_console().print(_table(found))
    if names == tuple(CASES):
        write_json("export_source.json", {"torch": torch.__version__, "ratio": RATIO, "networks": found})
    return 0 if all(map(is_equal, found.values())) else 1


def _attempt(name: str, folder: Path) -> dict[str, Any]:
    try:
        return round_trip(name, folder)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def is_equal(result: dict[str, Any]) -> bool:
    """Was everything equal?"""
    return "error" not in result and all((*result["eval"], result["train"], result["gradients"], result["formatted"]))


def _table(found: dict[str, dict[str, Any]]) -> Table:
    columns = ("lines", "source, kB", "weights, MB", "seconds", "eval", "training", "gradients", "formatted")
    made = table("Networks as source, built again with torch alone", "network", *columns)
    for name, result in found.items():
        style = "" if is_equal(result) else "red"
        if "error" in result:
            row(made, name, *[""] * (len(columns) - 1), result["error"], style=style)
            continue
        verdicts = ("equal" if v else "DIFFERENT" for v in (all(result["eval"]), result["train"], result["gradients"]))
        sizes = f"{result['bytes'] / 1e3:.1f}", f"{result['weights'] / 1e6:.2f}", f"{result['seconds']:.1f}"
        row(made, name, result["lines"], *sizes, *verdicts, "yes" if result["formatted"] else "NO", style=style)
    return made


if __name__ == "__main__":
    sys.exit(main())
