"""YOLO end to end: what is left of Ultralytics' networks when half of the channels of every group go.

Each network is built from its YAML (nothing is downloaded), trained on drawn shapes, pruned, repaired with the training
images, and trained on, all by Ultralytics' own trainers. Four scores on pictures that training has not seen, of the
network dense, pruned, repaired, and trained on: mAP50 of boxes, masks or keypoints, top-1 accuracy of classes. Random
weights trained on 64 pictures show that the way is whole, not what COCO would lose.

*Time* is slim / dense, one thread, batch 1, in turns. *Opened* compares what ``best.pt`` gives in a process without
graphprune with what it gives here. *ONNX* is the largest difference of onnxruntime's output, relative to the largest.
What was measured is noted in ``results/yolo``, and is not repeated while its note is there.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.table import Table
from torch import Tensor, nn

import graphprune
from benchmarks.common import RESULTS, interleaved, quiet_one_thread, row, table, wide_console, write_json
from benchmarks.notes import Notes
from benchmarks.shapes import draw_dataset

os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("YOLO_VERBOSE", "false")
os.environ.setdefault("YOLO_CONFIG_DIR", str(Path(tempfile.gettempdir()) / "graphprune-benchmarks"))

NETWORKS = {
    "yolov8n": "detect",
    "yolo11n": "detect",
    "yolov8n-seg": "segment",
    "yolov8n-pose": "pose",
    "yolov8n-cls": "classify",
}
SCORES = {
    "detect": "metrics/mAP50(B)",
    "segment": "metrics/mAP50(M)",
    "pose": "metrics/mAP50(P)",
    "classify": "metrics/accuracy_top1",
}
OPENED = """
import sys
sys.modules["graphprune"] = None
import torch
from ultralytics import YOLO
file, image, out = sys.argv[1:]
with torch.no_grad():
    found = YOLO(file).model(torch.load(image))
    while isinstance(found, tuple):
        found = found[0]
    torch.save(found, out)
"""


@dataclass(frozen=True)
class Setting:
    """How long each network is trained, on what, and where files go."""

    pictures: int
    size: int
    epochs: int
    repeats: int
    folder: Path

    def arguments(self, data: Path, **more: Any) -> dict[str, Any]:
        """Those of ``train`` and ``val``."""
        common = {"data": str(data), "imgsz": self.size, "batch": 8, "workers": 0, "device": "cpu", "amp": False}
        quiet = {"plots": False, "verbose": False, "project": str(self.folder), "exist_ok": True}
        return {**common, **quiet, **more}


def main() -> int:
    """Print the table, write ``results/yolo.json``."""
    options = _options()
    quiet_one_thread()
    console = wide_console()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(options.pictures, options.size, options.epochs, options.repeats, Path(folder))
        common = {"pictures": setting.pictures, "size": setting.size, "epochs": setting.epochs}
        for name in options.only or NETWORKS:
            notes = Notes(RESULTS / "yolo" / f"{name}.jsonl")
            results.append(notes.once({"network": name, **common}, partial(_measure, name, setting)))
    console.print(_table(results))
    if not options.only:
        write_json("yolo.json", {"torch": torch.__version__, "threads": 1, **common, "results": results})
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=NETWORKS, help="only these networks")
    parser.add_argument("--pictures", type=int, default=64, help="that a network is trained on; half as many to test")
    parser.add_argument("--size", type=int, default=96, help="side of the pictures in pixels, a multiple of 32")
    parser.add_argument("--epochs", type=int, default=12, help="of training the dense network, and again the slim one")
    parser.add_argument("--repeats", type=int, default=15, help="turns in which dense and slim are timed")
    return parser.parse_args()


def _measure(name: str, setting: Setting) -> dict[str, Any]:
    """The figures of a network; pairs are of the dense and of the slim one."""
    from ultralytics import YOLO

    from graphprune.integrations.ultralytics import prune_yolo

    started, task = time.perf_counter(), NETWORKS[name]
    data = draw_dataset(setting.folder / task, task, setting.pictures, setting.pictures // 2, setting.size)
    dense = YOLO(f"{name}.yaml")
    train = setting.arguments(data, **_training(setting.epochs))
    dense.train(name=f"{name}-dense", **train)
    plain = prune_yolo(dense, 0.5, imgsz=setting.size, verify=True)
    slim = prune_yolo(dense, 0.5, imgsz=setting.size, calibration=_images(data).split(16))
    scores = [_score(yolo, data, setting) for yolo in (dense, plain, slim)]
    slim.train(name=f"{name}-slim", **train)
    scores.append(_score(slim, data, setting))
    return {
        "task": task,
        "params": [_parameters(model) for model in (dense.model, slim.model)],
        "macs": [_macs(model, setting) for model in (dense.model, slim.model)],
        "scores": scores,
        "time": _time_ratio(dense.model, slim.model, setting),
        "opened": _opened(setting.folder / f"{name}-slim/weights/best.pt", setting),
        "onnx": _onnx_difference(slim, setting),
        "seconds": time.perf_counter() - started,
    }


def _training(epochs: int) -> dict[str, Any]:
    """A step for every batch, mild augmentation, and no more validation than the last."""
    steps = {"epochs": epochs, "nbs": 8, "optimizer": "AdamW", "lr0": 0.002, "warmup_epochs": 1}
    pictures = {"mosaic": 0.0, "scale": 0.2, "erasing": 0.0, "auto_augment": None}
    return {**steps, **pictures, "val": False, "save": False}


def _images(data: Path) -> Tensor:
    """The training pictures. f32[n, 3, size, size] in [0, 1]"""
    files = sorted((data if data.is_dir() else data.parent).rglob("train/**/*.png"))
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def _score(yolo: Any, data: Path, setting: Setting) -> float:
    found = yolo.val(**setting.arguments(data, name="val"))
    return float(found.results_dict[SCORES[yolo.task]])


def _first(result: Any) -> Tensor:
    """What a network predicts, without the raw results and masks beside it."""
    return _first(result[0]) if isinstance(result, tuple) else result


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _macs(model: nn.Module, setting: Setting) -> int:
    return graphprune.trace(model, torch.zeros(1, 3, setting.size, setting.size)).cost().macs


@torch.no_grad()
def _time_ratio(dense: nn.Module, slim: nn.Module, setting: Setting) -> float:
    image = torch.rand(1, 3, setting.size, setting.size)

    def several(model: nn.Module) -> Callable[[], None]:
        def run() -> None:
            for _ in range(5):
                model(image)

        model.eval()
        return run

    before, after = interleaved([several(dense), several(slim)], setting.repeats)
    return after / before


@torch.no_grad()
def _opened(file: Path, setting: Setting) -> str:
    """What a process without graphprune makes of a file."""
    from ultralytics import YOLO

    image, out = (setting.folder / name for name in ("image.pt", "out.pt"))
    torch.save(torch.rand(1, 3, setting.size, setting.size), image)
    command = [sys.executable, "-c", OPENED, str(file), str(image), str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=setting.folder, capture_output=True, text=True, env=environment)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    there, here = torch.load(out), _first(YOLO(file).model(torch.load(image)))
    return "equal" if torch.equal(there, here) else f"{(there - here).abs().max():.1e}"


@torch.no_grad()
def _onnx_difference(yolo: Any, setting: Setting) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(yolo.export(format="onnx", imgsz=setting.size, device="cpu"))
    image = torch.rand(1, 3, setting.size, setting.size)
    found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: image.numpy()})[0])
    wanted = _first(yolo.model.eval()(image))
    return float((found - wanted).abs().max() / wanted.abs().max())


def _table(results: list[dict[str, Any]]) -> Table:
    columns = ("task", "parameters", "MACs", "dense", "pruned", "repaired", "trained", "time", "opened", "ONNX")
    made = table("Half of the channels of Ultralytics' networks", "network", *columns, left=2)
    for result in results:
        (p, q), (m, n) = result["params"], result["macs"]
        row(
            made,
            result["network"],
            result["task"],
            f"{p / 1e6:.2f} -> {q / 1e6:.2f} M",
            f"{m / 1e6:.0f} -> {n / 1e6:.0f} M",
            *(f"{value:.3f}" for value in result["scores"]),
            f"{result['time']:.2f}",
            result["opened"],
            f"{result['onnx']:.0e}",
        )
    return made


if __name__ == "__main__":
    sys.exit(main())
