"""Prune a YOLO, train the slim network with Ultralytics' own trainer, and open it as any other model of Ultralytics.

Run it with: python examples/prune_yolo.py [--full] (needs ultralytics). Nothing is downloaded: the network is a small
one, described below, and the pictures are drawn. As it is, a training is one epoch, ten seconds in all on one core;
with --full forty, after which rectangles are found.
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

os.environ |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.gettempdir())

from ultralytics import YOLO

from graphprune.integrations.ultralytics import prune_yolo

NETWORK = """
nc: 1
backbone: [[-1, 1, Conv, [16, 3, 2]], [-1, 1, Conv, [32, 3, 2]], [-1, 1, C2f, [32, True]], [-1, 1, Conv, [64, 3, 2]],
  [-1, 1, C2f, [64, True]]]
head: [[[2, 4], 1, Detect, [nc]]]
"""


def draw(images: Path, labels: Path, count: int) -> None:
    """A bright rectangle on noise, and a text file for each: class, center x and y, width, height."""
    rng = np.random.default_rng(count)
    for number in range(count):
        pixels = rng.integers(0, 90, (64, 64, 3), dtype=np.uint8)
        (x, y), (w, h) = rng.integers(0, 32, 2), rng.integers(16, 32, 2)
        pixels[y : y + h, x : x + w] = rng.integers(130, 256, 3)
        Image.fromarray(pixels).save(images / f"{number}.png")
        (labels / f"{number}.txt").write_text(f"0 {(x + w / 2) / 64} {(y + h / 2) / 64} {w / 64} {h / 64}\n")


with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    for split, count in {"train": 32, "val": 16}.items():
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        draw(folder / "images" / split, folder / "labels" / split, count)
    (folder / "tiny.yaml").write_text(NETWORK)
    (folder / "data.yaml").write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames: [rectangle]\n")
    common = {"data": str(folder / "data.yaml"), "imgsz": 64, "device": "cpu", "plots": False, "project": name}
    training = {"epochs": 40 if "--full" in sys.argv[1:] else 1, "batch": 8, "mosaic": 0.0, **common}
    yolo = YOLO(folder / "tiny.yaml")
    yolo.train(name="dense", **training)
    prune_yolo(yolo, 0.5).train(name="slim", **training)
    slim = YOLO(folder / "slim/weights/best.pt")  # Ultralytics alone, from here on: it also exports
    for label, model in (("dense", yolo), ("slim", slim)):
        score = model.val(**common).box.map50
        print(f"{label}: {sum(p.numel() for p in model.parameters()):,} parameters, mAP50 {score:.3f}")
    print("boxes in a picture:", len(slim.predict(folder / "images/val/0.png", imgsz=64, device="cpu")[0].boxes))
