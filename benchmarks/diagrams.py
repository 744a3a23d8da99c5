"""The diagrams of docs/how_graphprune_works.md, drawn from what is traced there.

The networks, graphs and plans are those of the page: its blocks are run. Weights are drawn as rectangles, with a strip
beside rows and columns in the color of the group that they belong to. What a plan removes is gray. ``docs/images`` gets
the files.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from benchmarks.common import quiet_one_thread
from graphprune import ChannelGraph, Group
from graphprune.rules.labels import ParameterAxis

PAGE = Path(__file__).parents[1] / "docs" / "how_graphprune_works.md"
IMAGES = PAGE.parent / "images"
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""Those of Okabe and Ito, which color-blind people can tell apart."""

LIVING, GONE, INK = "#DCE9F5", "#B9B9B9", "#222222"
STYLE = {"svg.fonttype": "path", "svg.hashsalt": "graphprune", "font.family": "DejaVu Sans"}
"""Letters as outlines, so that files look alike everywhere, and the same names in every run."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the page and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=IMAGES, metavar="DIR", help="where the pictures go")
    parser.add_argument("--format", choices=("svg", "png"), default="svg", help="png: to look at them")
    options = parser.parse_args(arguments)
    quiet_one_thread()
    options.images.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        for name, figure in figures(names_of_the_page()):
            _write(figure, options.images / f"{name}.{options.format}")
    return 0


def names_of_the_page() -> dict[str, Any]:
    """What the blocks of the page define, each run after the one before."""
    found: dict[str, Any] = {"__name__": "page"}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(textwrap.dedent(block), str(PAGE), "exec"), found)
    return found


def figures(page: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    """Every picture by name."""
    residual, joined, grouped = page["residual"], page["joined"], page["grouped"]
    attention, gqa = page["graph"], page["gqa"]
    layer = "model.layers.0.self_attn."
    yield "pipeline", pipeline()
    yield "residual", weights(residual, [["enter"], ["one"], ["two"], ["leave"]], ["enter", "one"])
    yield "concatenation", weights(joined, [["left"], ["right"], ["join"]], ["left", "right"])
    yield "grouped", weights(grouped, [["enter"], ["grouped"], ["leave"]], ["enter:groups"])
    qkv = {"block.attention.qkv": ("q", "k", "v")}
    columns = [["block.attention.qkv"], ["block.attention.out"]]
    yield "attention", weights(attention, columns, ["block.attention.qkv:heads", "embed"], qkv)
    columns = [[f"{layer}{name}_proj" for name in names] for names in ("qkv", "o")]
    heads = {f"{layer}q_proj": tuple(f"query {n}" for n in range(8))}
    heads |= {f"{layer}{name[0]}_proj": (f"{name} 0", f"{name} 1") for name in ("key", "value")}
    yield "gqa", weights(gqa, columns, [f"{layer}q_proj:kv_groups", "model.embed_tokens.weight[1]"], heads)
    yield "masked", masked(residual, [["enter"], ["one"], ["two"], ["leave"]], ["enter", "one"])


def _write(figure: Figure, path: Path) -> None:
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, dpi=80, bbox_inches="tight", pad_inches=0.1, facecolor="white", metadata=metadata)


# ---------------------------------------------------------------- weights


@dataclass(frozen=True)
class Matrix:
    """A weight as it is drawn: rows [outputs] and columns [inputs], each with the number of its unit.

    Attributes:
        rows, columns: the group by its place among those drawn and the number of the unit, or None where no group that
            is drawn has the entry.
        lives: which entries stay. [rows, columns]
    """

    name: str
    rows: list[tuple[int, int] | None]
    columns: list[tuple[int, int] | None]
    lives: np.ndarray[Any, np.dtype[np.bool_]]
    parts: tuple[str, ...] = ()


Names = Sequence[Sequence[str]]
"""Layers by column, those of a column from top to bottom."""

Columns = list[list[Matrix]]


def weights(
    graph: ChannelGraph, layers: Names, groups: Sequence[str], parts: Mapping[str, tuple[str, ...]] | None = None
) -> Figure:
    """The weights of some layers, with strips for some groups, and what half of everything takes.

    Args:
        graph: of the network.
        layers: which.
        groups: their names, in the order of colors.
        parts: by layer, what stands beside equal parts of its rows.
    """
    found = matrices(graph, layers, groups, parts or {})
    figure, (axes,) = _canvas([found])
    _draw(axes, found)
    _legend(axes, [f"{name}: {graph.group(name).units} units" for name in groups])
    return figure


def masked(graph: ChannelGraph, layers: Names, groups: Sequence[str]) -> Figure:
    """Above the dense weights with zeros, below those that are left."""
    dense = matrices(graph, layers, groups, {})
    slim = [[_without_gaps(matrix) for matrix in column] for column in dense]
    figure, (above, below) = _canvas([dense, slim])
    _draw(above, dense, title="the dense model, what is gray set to zero")
    _draw(below, slim, title="the slim model: the same output")
    return figure


def matrices(
    graph: ChannelGraph, layers: Names, groups: Sequence[str], parts: Mapping[str, tuple[str, ...]]
) -> Columns:
    """Weights [outputs, inputs, ...] without the positions of their kernels, and what a plan of one half leaves."""
    plan, chosen = graph.plan(0.5), [graph.group(name) for name in groups]

    def matrix(layer: str) -> Matrix:
        name = f"{layer}.weight"
        mask = plan.mask(name)
        lives = mask.flatten(2).any(-1) if mask.ndim > 2 else mask
        rows, columns = (_units(graph, chosen, ParameterAxis(name, dim), lives.shape[dim]) for dim in (0, 1))
        return Matrix(layer, rows, columns, lives.numpy(), parts.get(layer, ()))

    return [[matrix(layer) for layer in column] for column in layers]


def _units(
    graph: ChannelGraph, groups: Sequence[Group], axis: ParameterAxis, size: int
) -> list[tuple[int, int] | None]:
    """For each entry of an axis the first of the groups that has it, and the number of its unit there."""
    found: list[tuple[int, int] | None] = [None] * size
    occurrences = graph.units.occurrences
    places = [number for number, one in enumerate(graph.units.axes) if one.parameter_axis == axis]
    here = np.isin(occurrences.axis, places)
    for number, group in reversed(list(enumerate(groups))):
        order = {int(unit): place for place, unit in enumerate(group.unit_ids)}
        for unit, index in zip(occurrences.unit[here], occurrences.index[here], strict=True):
            if int(unit) in order:
                found[int(index)] = (number, order[int(unit)])
    return found


def _without_gaps(matrix: Matrix) -> Matrix:
    rows, columns = matrix.lives.any(1), matrix.lives.any(0)
    return Matrix(
        matrix.name,
        [unit for unit, lives in zip(matrix.rows, rows, strict=True) if lives],
        [unit for unit, lives in zip(matrix.columns, columns, strict=True) if lives],
        matrix.lives[rows][:, columns],
    )


# ---------------------------------------------------------------- drawing

CELL, GAP, STRIP, NAME = 1.0, 7.0, 2.0, 4.0
"""An entry, what is between two weights, a strip, and a line of text, all in entries."""

WIDEST, LETTERS = 9.0, 60
"""Of a picture in inches; with so few entries side by side it is narrower, so that letters do not look small."""


def _size(columns: Columns) -> tuple[float, float]:
    """Width and height in entries."""
    width = sum(max(len(matrix.columns) for matrix in column) + STRIP + GAP for column in columns)
    height = max(sum(len(matrix.rows) + STRIP + NAME for matrix in column) for column in columns)
    return width + GAP, height


def _canvas(pictures: Sequence[Columns]) -> tuple[Figure, list[Axes]]:
    """Space for pictures one below the other."""
    sizes = [_size(columns) for columns in pictures]
    width, heights = max(w for w, _ in sizes), [h + NAME for _, h in sizes]
    scale = WIDEST / max(width, LETTERS)
    figure = Figure(figsize=(scale * width, scale * sum(heights)))
    axes = figure.subplots(len(pictures), 1, squeeze=False, height_ratios=heights)[:, 0]
    for one, height in zip(axes, heights, strict=True):
        one.set(xlim=(0, width), ylim=(height - NAME / 2, -NAME / 2), aspect="equal")
        one.axis("off")
    return figure, list(axes)


def _draw(axes: Axes, columns: Columns, title: str = "") -> None:
    left = GAP
    for column in columns:
        top = STRIP + NAME / 2
        for matrix in column:
            _matrix(axes, matrix, left, top)
            top += len(matrix.rows) + STRIP + NAME
        left += max(len(matrix.columns) for matrix in column) + STRIP + GAP
    if title:
        axes.set_title(title, loc="left", fontsize=9, color=INK)


def _matrix(axes: Axes, matrix: Matrix, left: float, top: float) -> None:
    """A weight with the strip of its rows at the left, that of its columns above, and its name over both."""
    rows, columns = matrix.lives.shape
    pixels = np.empty((rows, columns, 3))
    pixels[:] = mpl.colors.to_rgb(GONE)
    pixels[matrix.lives] = mpl.colors.to_rgb(LIVING)
    axes.imshow(pixels, extent=(left, left + columns, top + rows, top), aspect="equal", interpolation="nearest")
    axes.add_patch(Rectangle((left, top), columns, rows, fill=False, edgecolor=INK, linewidth=0.6))
    for number, (unit, lives) in enumerate(zip(matrix.rows, matrix.lives.any(1), strict=True)):
        _mark(axes, unit, bool(lives), (left - STRIP - 0.3, top + number), (STRIP, CELL))
    for number, (unit, lives) in enumerate(zip(matrix.columns, matrix.lives.any(0), strict=True)):
        _mark(axes, unit, bool(lives), (left + number, top - STRIP - 0.3), (CELL, STRIP))
    above = top - 0.5 - (STRIP if any(matrix.columns) else 0)
    name = f"{matrix.name.rpartition('.')[2]}.weight"
    axes.text(left + columns / 2, above, name, ha="center", va="bottom", fontsize=8, color=INK)
    for number, part in enumerate(matrix.parts):
        high = rows / len(matrix.parts)
        beside = (left - STRIP - 1.0, top + (number + 0.5) * high)
        axes.text(*beside, part, ha="right", va="center", fontsize=8, color=INK)
        axes.plot((left - STRIP, left + columns), (top + number * high,) * 2, color=INK, linewidth=0.8)


def _mark(
    axes: Axes, unit: tuple[int, int] | None, lives: bool, corner: tuple[float, float], size: tuple[float, float]
) -> None:
    """An entry of a strip: units of a group are light and dark in turn; those that go are gray and crossed out."""
    if unit is None:
        return
    group, number = unit
    color = COLORS[group] if lives else GONE
    axes.add_patch(Rectangle(corner, *size, facecolor=color, alpha=0.55 if number % 2 else 1.0, linewidth=0))
    if not lives:
        (x, y), (w, h) = corner, size
        axes.plot((x + 0.1 * w, x + 0.9 * w), (y + 0.9 * h, y + 0.1 * h), color=COLORS[group], linewidth=0.8)


def _legend(axes: Axes, names: Sequence[str]) -> None:
    handles = [Rectangle((0, 0), 1, 1, facecolor=COLORS[number]) for number in range(len(names))]
    handles.append(Rectangle((0, 0), 1, 1, facecolor=GONE))
    labels = [*names, "removed by plan(0.5)"]
    axes.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=3, frameon=False, fontsize=8)


# ---------------------------------------------------------------- the stations

STATIONS = (
    ("trace", "one run on shapes:\noperations, sizes, lines"),
    ("graph", "labels, groups,\nwhat is frozen and why"),
    ("plan", "scores and allocation:\nwhich entries stay"),
    ("check", "the slim program is\nthe same program"),
    ("apply", "smaller tensors,\nthe same class"),
    ("verify", "equal to the dense one\nwith zeros, in float64"),
    ("repair", "fitted to the dense\nmodel, without labels"),
    ("finetune", "trained again, the dense\nmodel as teacher"),
    ("export", "files for where it runs"),
)


def pipeline() -> Figure:
    """The stations on the way from a model to a file, in two rows."""
    columns, width, height = 5, 4.4, 1.5
    figure = Figure(figsize=(12, 3.3))
    axes = figure.subplots()
    axes.set(xlim=(-0.2, columns * (width + 0.6)), ylim=(4.2, -0.3))
    axes.axis("off")
    corners = [((n % columns) * (width + 0.6), (n // columns) * (height + 0.9)) for n in range(len(STATIONS))]
    for number, ((name, text), (x, y)) in enumerate(zip(STATIONS, corners, strict=True)):
        color = COLORS[0] if number < 4 else COLORS[2]
        box = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.05", facecolor=LIVING, edgecolor=color)
        axes.add_patch(box)
        axes.text(x + width / 2, y + 0.38, name, ha="center", va="center", fontsize=11, color=color, weight="bold")
        axes.text(x + width / 2, y + 1.0, text, ha="center", va="center", fontsize=8, color=INK)
    for (x, y), (to_x, to_y) in itertools.pairwise(corners):
        straight = y == to_y
        start = (x + width + 0.08, y + height / 2) if straight else (x + width / 2, y + height + 0.08)
        end = (to_x - 0.08, to_y + height / 2) if straight else (to_x + width / 2, to_y - 0.08)
        axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=INK, linewidth=1))
    return figure


if __name__ == "__main__":
    sys.exit(main())
