"""How the loss rises with the fraction that is removed of each group."""

from __future__ import annotations

from typing import Any

from graphprune.errors import InputError
from graphprune.planning.sensitivity import Sensitivity
from graphprune.plots.figures import COLORS, GRAY, INK, MARKERS, new_figure, shortened, styled
from graphprune.utils.checks import check_type

MOST_COLORED = len(COLORS)


def plot_sensitivity(sensitivity: Sensitivity) -> Any:
    """A curve for each group: the loss over the fraction of its units that is removed.

    The groups whose loss rises most have colors and names, the others are gray.

    Returns:
        A ``matplotlib.figure.Figure``.

    Raises:
        InputError: no group was measured.
        ImportError: matplotlib is not installed.
    """
    check_type("sensitivity", sensitivity, Sensitivity, "a graphprune.Sensitivity, as graph.sensitivity returns")
    if not sensitivity.losses:
        raise InputError(
            "sensitivity: no group was measured, so there is nothing to draw",
            found="a Sensitivity without groups",
            needed="one measured group at least",
            do="pass graph.sensitivity(evaluate) of a model that can be pruned",
        )
    figure = new_figure(8, 5)
    axes = styled(figure.add_subplot())
    axes.set_title("Sensitivity: one group pruned alone", loc="left", fontsize="medium", color=INK)
    axes.set_xlabel("units of the group removed (%)", color=INK)
    axes.set_ylabel("loss", color=INK)
    ranked = sorted(sensitivity.losses, key=lambda name: -max(loss for _, loss in sensitivity.losses[name]))
    for number, name in reversed(list(enumerate(ranked))):
        gone, losses = zip((0.0, sensitivity.dense), *sensitivity.losses[name], strict=True)
        axes.plot([100 * part for part in gone], losses, **_look(number, name, len(ranked)))
    axes.axhline(sensitivity.dense, color=INK, linewidth=0.8, linestyle=":", label="whole model")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right upper", frameon=False, fontsize="small")
    return figure


def _look(number: int, name: str, count: int) -> dict[str, Any]:
    """How the curve of a group is drawn, given its place among the groups by the rise of the loss."""
    if number < MOST_COLORED:
        marker = MARKERS[number % len(MARKERS)]
        return {"color": COLORS[number], "marker": marker, "markersize": 4, "label": shortened(name)}
    rest = f"{count - MOST_COLORED} others" if number == count - 1 else None
    return {"color": GRAY, "linewidth": 0.8, "label": rest}
