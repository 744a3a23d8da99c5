"""What accuracy costs: pruned models beside the dense one, and beside those of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphprune.errors import InputError
from graphprune.measurement.records import Comparison, Measurement
from graphprune.plots.figures import COLORS, INK, MARKERS, new_figure, plain_label, styled
from graphprune.utils.checks import check_known, check_optional, check_type, found_value, is_number, shown

Point = Measurement | tuple[float, float]
"""A measurement, or what somebody else says of a model: its cost and its score."""


COSTS: Mapping[str, tuple[str, float]] = {
    "macs": ("MACs (millions)", 1e6),
    "parameters": ("parameters (millions)", 1e6),
    "nonzero": ("parameters that are not zero (millions)", 1e6),
    "disk_bytes": ("size on disk (MB)", 1e6),
    "peak_bytes": ("peak of activations (MB)", 1e6),
    "seconds": ("latency (ms)", 1e-3),
}
"""By the attribute of a measurement, what is drawn along the horizontal axis, and its unit."""


def plot_accuracy(
    dense: Measurement | Comparison,
    series: Mapping[str, Sequence[Point]] | None = None,
    *,
    score: str | None = None,
    against: str = "macs",
) -> Any:
    """Scores over what the models cost, with the dense model as a star and a dashed line.

    Args:
        dense: the measurement of the dense model; or a comparison, whose first model is the dense one and whose others
            are drawn under their names.
        series: by a name (a method, a rival), measurements of its models, or pairs of cost and score where nothing
            else is known. A line joins them.
        score: which of the scores that ``evaluate`` returned; None: the only one.
        against: an attribute of the measurements: ``"macs"``, ``"parameters"``, ``"seconds"``, ...

    Returns:
        A ``matplotlib.figure.Figure``.

    Raises:
        InputError: an argument is not what it must be, or a measurement has no such score or cost.
        ImportError: matplotlib is not installed.
    """
    check_type("dense", dense, Measurement | Comparison, "a graphprune.Measurement or Comparison")
    check_known("against", against, COSTS)
    check_optional("series", series, Mapping, "measurements by names, in a dict of lists")
    for points in (series or {}).values():
        check_type("series", points, Sequence, "measurements by names, in a dict of lists")
    given = {name: list(points) for name, points in (series or {}).items()}
    if isinstance(dense, Comparison):
        (_, first), *others = dense.measurements.items()
        given = {**{name: [one] for name, one in others}, **given}
    else:
        first = dense
    name = _score_name(first, score)
    label, unit = COSTS[against]
    figure = new_figure(7, 4.5)
    axes = styled(figure.add_subplot(xlabel=label, ylabel=plain_label(name)))
    axes.set_title(plain_label(f"{name} of {first.model}"), loc="left", fontsize="medium", color=INK)
    for number, (called, points) in enumerate(given.items()):
        _check_points(called, points)
        pairs = sorted(_pair(called, point, name, against, unit) for point in points)
        look = {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number % len(MARKERS)]}
        look["markerfacecolor"] = "none"  # so that points that others cover are seen
        axes.plot(*zip(*pairs, strict=True), label=plain_label(called), **look)
    cost, value = _pair("dense", first, name, against, unit)
    axes.axhline(value, color=INK, linewidth=0.8, linestyle="--")
    axes.plot([cost], [value], linestyle="none", marker="*", markersize=13, color=INK, label="dense")
    axes.set_xlim(left=0)
    figure.legend(loc="outside upper right", ncols=4, frameon=False, fontsize="small")
    return figure


def _check_points(called: str, points: Sequence[Point]) -> None:
    if not points:
        raise InputError(
            f"series: {called!r} has no points",
            where=f"series[{called!r}]",
            found="no points",
            needed="measurements, or pairs of cost and score",
            do="give one point at least, such as (0.5, 0.93)",
        )


def _score_name(measurement: Measurement, score: str | None) -> str:
    """The score that is meant."""
    if score is not None:
        return check_known("score", score, measurement.scores)
    if len(measurement.scores) != 1:
        found = ", ".join(map(repr, measurement.scores)) or "none; measure with evaluate="
        raise InputError(
            f"score: say which; the measurement of the dense model has {found}",
            found=str(found),
            needed="the name of one score",
            do="pass score='accuracy', or another of these names",
        )
    return next(iter(measurement.scores))


def _pair(called: str, point: Any, score: str, against: str, unit: float) -> tuple[float, float]:
    """Where a point is drawn."""
    if isinstance(point, tuple) and len(point) == 2 and all(map(is_number, point)):
        return float(point[0]) / unit, float(point[1])
    if not isinstance(point, Measurement):
        raise InputError(
            f"series: {called!r} holds {shown(point)}",
            where=f"series[{called!r}]",
            found=found_value(point),
            needed="measurements, or pairs of cost and score",
            do="pass pairs such as (0.5, 0.93), or what graphprune.measure returned",
        )
    known = getattr(point, against)
    if known is None or score not in point.scores:
        lacking = against if known is None else f"the score {score!r}"
        raise InputError(
            f"series: a measurement of {called!r} does not have {lacking}",
            where=f"series[{called!r}]",
            found=f"a measurement without {lacking}",
            needed=f"measurements with {lacking}",
            do="measure it again with that",
        )
    return known / unit, point.scores[score]
