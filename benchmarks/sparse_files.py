"""How small are sparse files? Sizes against the entropy bound, at 50, 90 and 98 % of zeros, in float32 and bfloat16.

The bound is the bytes of the entries that are not zero, plus the entropy of their places; entries of tensors without
zeros count whole. *bitmap* is what the same entries with one bit a place would take.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from rich.table import Table
from torch import nn

import graphprune
from benchmarks.common import llama, quiet_one_thread, row, table, wide_console, write_json

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-18": torchvision.models.resnet18,
    "MobileNetV2": torchvision.models.mobilenet_v2,
    "ViT-S/16": partial(torchvision.models.VisionTransformer, 224, 16, 12, 6, 384, 1536),
    "Llama, 4 layers": partial(llama, 4),
    "LSTM, 2 layers": partial(nn.LSTM, 256, 512, 2),
}
AMOUNTS = (0.5, 0.9, 0.98)
TYPES = (torch.float32, torch.bfloat16)


def main() -> int:
    """Print the table, write ``results/sparse_files.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="only the networks whose name contains this")
    options = parser.parse_args()
    quiet_one_thread()
    console = wide_console()
    results = []
    for name, factory in NETWORKS.items():
        if options.only in name:
            with console.status(name):
                results += [measured(name, factory, amount, dtype) for amount in AMOUNTS for dtype in TYPES]
    console.print(_table(results))
    worst = max(result["of_bound"] for result in results)
    console.print(f"{len(results)} files, all read back bit for bit; the largest is {worst:.3f} of its bound")
    if not options.only:
        write_json("sparse_files.json", {"torch": torch.__version__, "results": results})
    return 0


def measured(name: str, factory: Callable[[], nn.Module], amount: float, dtype: torch.dtype) -> dict[str, Any]:
    """The size of a network's file, which is read back and compared."""
    torch.manual_seed(0)
    model = factory().to(dtype)
    graphprune.sparsify(model, amount, scope="global")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.sparse"
        start = time.perf_counter()
        found = graphprune.save_sparse(model, path)
        wrote = time.perf_counter()
        state = graphprune.load_sparse(path)
        read = time.perf_counter()
    _compare(state, graphprune.make_permanent(model).state_dict())
    return {
        "network": name,
        "dtype": str(dtype).removeprefix("torch."),
        "zeros": amount,
        "dense": found.dense,
        "bitmap": _bitmap(state),
        "bytes": found.bytes,
        "bound": found.bound,
        "of_bound": found.bytes / found.bound,
        "write_s": wrote - start,
        "read_s": read - wrote,
    }


def _compare(state: dict[str, torch.Tensor], needed: dict[str, torch.Tensor]) -> None:
    same = state.keys() == needed.keys() and all(
        torch.equal(t.reshape(-1).view(torch.uint8), needed[n].contiguous().reshape(-1).view(torch.uint8))
        for n, t in state.items()
    )
    if not same:
        raise AssertionError("what was read is not what was written")


def _bitmap(state: dict[str, torch.Tensor]) -> int:
    """Bytes with one bit a place, or all entries where that is less."""
    known = {id(tensor): tensor for tensor in state.values()}.values()
    return sum(min(t.nbytes, int(t.count_nonzero()) * t.itemsize + t.numel() // 8) for t in known)


def _table(results: list[dict[str, Any]]) -> Table:
    columns = ["zeros", "dense MB", "bitmap MB", "file MB", "of dense", "of the bound", "write s", "read s"]
    made = table("Sparse files", "network", "type", *columns, left=2)
    for r in results:
        sizes = [f"{r[key] / 1e6:.2f}" for key in ("dense", "bitmap", "bytes")]
        shares = [f"{r['bytes'] / r['dense']:.1%}", f"{r['of_bound']:.3f}"]
        times = [f"{r[key]:.1f}" for key in ("write_s", "read_s")]
        row(made, r["network"], r["dtype"], f"{r['zeros']:.0%}", *sizes, *shares, *times)
    return made


if __name__ == "__main__":
    sys.exit(main())
