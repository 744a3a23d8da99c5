"""Images of shapes with boxes, masks, corners and classes, drawn here in the folder layout that Ultralytics reads.

A picture has one to three shapes (a rectangle, an ellipse, a triangle) of bright colors on dim noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("rectangle", "ellipse", "triangle")
TASKS = ("detect", "segment", "pose", "obb", "classify")
KEYPOINTS = 3


@dataclass(frozen=True)
class Shape:
    """A shape in pixels: its class, its outline [n, 2], and the corners of its box."""

    kind: int
    outline: np.ndarray
    box: tuple[float, float, float, float]

    @staticmethod
    def draw(picture: ImageDraw.ImageDraw, kind: int, box: tuple[float, float, float, float], color: str) -> Shape:
        """Fill a shape that touches all sides of ``box`` (left, top, right, bottom)."""
        left, top, right, bottom = box
        angles = np.linspace(0, 2 * np.pi, 17)[:-1]
        outlines = (
            [(left, top), (right, top), (right, bottom), (left, bottom)],
            [
                ((left + right + (right - left) * np.cos(a)) / 2, (top + bottom + (bottom - top) * np.sin(a)) / 2)
                for a in angles
            ],
            [((left + right) / 2, top), (right, bottom), (left, bottom)],
        )
        picture.polygon([(float(x), float(y)) for x, y in outlines[kind]], fill=color)
        return Shape(kind, np.array(outlines[kind]), box)

    def label(self, task: str, size: int) -> str:
        """A line of a label file; all numbers are fractions of the image's side."""
        left, top, right, bottom = (value / size for value in self.box)
        around = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        numbers = {
            "detect": around,
            "segment": (self.outline / size).ravel().tolist(),
            "pose": [*around, left, top, 2, right, bottom, 2, around[0], around[1], 2],
            "obb": [left, top, right, top, right, bottom, left, bottom],
        }
        return " ".join([str(self.kind), *(f"{value:.5g}" for value in numbers[task])])


def _picture(size: int, rng: np.random.Generator, kinds: Sequence[int]) -> tuple[Image.Image, list[Shape]]:
    """One image, with a shape in each of some quarters, so that none hides another."""
    image = Image.fromarray(rng.integers(0, 90, (size, size, 3), dtype=np.uint8))
    picture = ImageDraw.Draw(image)
    shapes = []
    for kind, quarter in zip(kinds, rng.permutation(4), strict=False):
        half = size / 2
        width, height = rng.uniform(half * 0.5, half * 0.95, 2)
        left = half * (quarter % 2) + rng.uniform(0, half - width)
        top = half * (quarter // 2) + rng.uniform(0, half - height)
        hue = "rgb({}, {}, {})".format(*rng.integers(130, 256, 3))
        shapes.append(Shape.draw(picture, kind, (left, top, left + width, top + height), hue))
    return image, shapes


def draw_dataset(folder: Path, task: str = "detect", train: int = 32, val: int = 16, size: int = 64) -> Path:
    """Draw a data set, always the same.

    Returns:
        What ``data=`` of Ultralytics is given: a YAML file, or the folder of pictures by class.
    """
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            if task == "classify":
                kind = number % len(CLASSES)
                path = folder / split / CLASSES[kind] / f"{number}.png"
                image, _ = _picture(size, rng, [kind])
            else:
                path = folder / "images" / split / f"{number}.png"
                image, shapes = _picture(size, rng, rng.integers(0, 3, rng.integers(1, 4)).tolist())
                labels = folder / "labels" / split / f"{number}.txt"
                labels.parent.mkdir(parents=True, exist_ok=True)
                labels.write_text("".join(shape.label(task, size) + "\n" for shape in shapes))
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    return folder if task == "classify" else _description(folder, task)


def _description(folder: Path, task: str) -> Path:
    lines = [f"path: {folder.resolve()}", "train: images/train", "val: images/val", "names:"]
    lines += [f"  {number}: {name}" for number, name in enumerate(CLASSES)]
    if task == "pose":
        lines.append(f"kpt_shape: [{KEYPOINTS}, 3]")
    path = folder / "data.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path
