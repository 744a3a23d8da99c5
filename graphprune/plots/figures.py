"""Figures without the global state of pyplot, in colors that color-blind people can tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphprune.errors import MissingPackageError

COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
"""Source: Okabe and Ito, "Color Universal Design", 2008."""


GRAY, INK = "#BDBDBD", "#333333"


MARKERS = "osD^vP"


MOST_NAMED = 40
"""Layers that are drawn one below the other, each with its name; more stand side by side."""


LONGEST_NAME = 34


def new_figure(width: float, height: float) -> Any:
    """An empty ``matplotlib.figure.Figure`` of this size in inches, which lays out its parts itself.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError(
            "pictures need matplotlib",
            found="no package matplotlib",
            needed="matplotlib 3.8 or later",
            do="pip install 'graphprune[plot]'",
        ) from error
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def styled(axes: Any) -> Any:
    """Axes without a box, with light lines behind what is drawn."""
    axes.set_axisbelow(True)
    axes.grid(color="#E5E5E5", linewidth=0.8)
    axes.tick_params(colors=INK, labelsize="small", length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRAY)
    return axes


def shortened(name: str, longest: int = LONGEST_NAME) -> str:
    """The end of a name, by which layers differ, as :func:`plain_label` text.

    >>> shortened("encoder.layers.encoder_layer_11.self_attention.out_proj", 30)
    '...yer_11.self_attention.out_proj'
    """
    return plain_label(name if len(name) <= longest + 3 else f"...{name[-longest:]}")


def plain_label(name: str) -> str:
    """A name that matplotlib shows as it is: a dollar begins no formula, and an underscore leaves nothing out."""
    escaped = name.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


class LayerAxis:
    """Layers along one side of a picture, in the order of the model, and a quantity of each along the other.

    Args:
        names: of the layers. Up to ``MOST_NAMED`` stand below one another; more side by side, some of them named.
        title: of the picture.
        quantity: what is drawn, with its unit.
    """

    def __init__(self, names: Sequence[str], title: str, quantity: str) -> None:
        self.names = names
        self.below = len(names) <= MOST_NAMED
        self.figure = new_figure(8, 1.6 + 0.24 * len(names)) if self.below else new_figure(12, 5)
        self.axes = styled(self.figure.add_subplot())
        self.axes.set_title(plain_label(title), loc="left", fontsize="medium", color=INK)
        self._name_layers()
        (self.axes.set_xlabel if self.below else self.axes.set_ylabel)(quantity, color=INK)

    def _name_layers(self) -> None:
        if self.below:
            self.axes.set_yticks(range(len(self.names)), [shortened(name) for name in self.names])
            self.axes.set_ylim(len(self.names) - 0.4, -0.6)
            self.axes.grid(visible=False, axis="y")
            return
        every = -(-len(self.names) // MOST_NAMED)
        ticks = range(0, len(self.names), every)
        self.axes.set_xticks(ticks, [shortened(self.names[i]) for i in ticks], rotation=90, fontsize="x-small")
        self.axes.set_xlim(-1, len(self.names))
        self.axes.grid(visible=False, axis="x")

    def series(self, values: Sequence[tuple[str, Sequence[float]]]) -> None:
        """One number for each layer, of several models: of one or two as bars, of more the first as bars.

        Args:
            values: by the name of a model; the first is what the others are compared with.
        """
        (first, dense), *others = values
        drawn = [self._bars(dense, first, GRAY if others else COLORS[0], 0.8)]
        if len(others) == 1:
            drawn.append(self._bars(others[0][1], others[0][0], COLORS[0], 0.5))
        else:
            drawn += [self._points(own, name, number) for number, (name, own) in enumerate(others)]
        if others:
            self.figure.legend(handles=drawn, loc="outside upper right", ncols=3, frameon=False, fontsize="small")

    def _bars(self, values: Sequence[float], name: str, color: str, thickness: float) -> Any:
        draw = self.axes.barh if self.below else self.axes.bar
        return draw(range(len(values)), values, thickness, color=color, label=plain_label(name))

    def _points(self, values: Sequence[float], name: str, number: int) -> Any:
        places = range(len(values))
        x, y = (values, places) if self.below else (places, values)
        look = {"marker": MARKERS[number % len(MARKERS)], "color": COLORS[number % len(COLORS)]}
        (drawn,) = self.axes.plot(x, y, linestyle="none", markersize=4, label=plain_label(name), **look)
        return drawn

    def logarithmic(self) -> None:
        """Draw the quantity on a logarithmic scale, which is marked at powers of two."""
        (self.axes.set_xscale if self.below else self.axes.set_yscale)("log", base=2)
        side = self.axes.xaxis if self.below else self.axes.yaxis
        side.set_major_formatter("{x:g}")
        side.set_label_text(f"{side.get_label_text()}, logarithmic")

    def line(self, value: float, text: str) -> None:
        """A number for all layers together."""
        draw = self.axes.axvline if self.below else self.axes.axhline
        draw(value, color=COLORS[3], linestyle="--", linewidth=1.2)
        at = {"xy": (value, 0), "xycoords": ("data", "axes fraction")}
        if not self.below:
            at = {"xy": (1, value), "xycoords": ("axes fraction", "data")}
        self.axes.annotate(text, **at, xytext=(4, 4), textcoords="offset points", color=COLORS[3], fontsize="small")
