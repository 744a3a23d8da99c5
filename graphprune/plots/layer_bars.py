"""Widths, sparsity and time of every layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from graphprune.errors import InputError
from graphprune.measurement.records import Comparison, MeasuredLayer, Measurement
from graphprune.plots.figures import MOST_NAMED, LayerAxis
from graphprune.pruning.plan import Plan
from graphprune.utils.checks import check_count, check_type

WIDE_RANGE = 50
"""Widths that differ by this factor are drawn on a logarithmic scale."""


NEGLIGIBLE = 0.005
"""The part of the time below which a module is not named."""


def plot_widths(data: Plan | Measurement | Comparison) -> Any:
    """Numbers of channels, before and after.

    Args:
        data: a plan: of each group, the units that there are and those that stay; of one that merges heads, the
            entries of each parameter. A measurement or comparison: what each layer with a weight matrix puts out.

    Returns:
        A ``matplotlib.figure.Figure``.

    Raises:
        InputError: there is nothing to draw.
        ImportError: matplotlib is not installed.
    """
    check_type("data", data, Plan | Measurement | Comparison, "a graphprune.Plan, Measurement or Comparison")
    series: Series
    if isinstance(data, Plan):
        title, quantity = "Units of each group, before and after", "units (channels, heads, ...)"
        series = _of_plan(data)
    else:
        title, quantity = _title("Width", data), "channels that a layer puts out"
        series = _by_layer(data, lambda layer: layer.width)
    axis = _drawn(series, title, quantity, missing=0.0)
    sizes = [value for values in series.values() for value in values.values() if value > 0]
    if max(sizes) >= WIDE_RANGE * min(sizes):
        axis.logarithmic()
    return axis.figure


def plot_sparsity(data: Measurement | Comparison) -> Any:
    """The fraction of zeros in each layer with a weight matrix, and of the model as a dashed line.

    Returns:
        A ``matplotlib.figure.Figure``.

    Raises:
        InputError: there is nothing to draw; a model on ``meta`` has no values.
        ImportError: matplotlib is not installed.
    """
    check_type("data", data, Measurement | Comparison, "a graphprune.Measurement or Comparison")
    series = _by_layer(data, lambda layer: None if layer.width is None else _percent(layer.sparsity))
    axis = _drawn(series, _title("Sparsity", data), "zeros among the parameters (%)", missing=math.nan)
    (axis.axes.set_xlim if axis.below else axis.axes.set_ylim)(0, 100)
    last = list(_measurements(data).values())[-1]
    if last.sparsity is not None:
        axis.line(100 * last.sparsity, f"whole model: {last.sparsity:.1%}")
    return axis.figure


def plot_latency(data: Measurement | Comparison, depth: int | None = None) -> Any:
    """Where the time of one evaluation goes: what each module takes itself, without its submodules.

    Args:
        data: timed measurements.
        depth: put together all modules within the same one of this depth (1: ``layer1``; 2: ``layer1.0``); None: the
            largest depth at which no more are left than can be named one by one, 40. Modules with less than half a
            percent of the time are put together as others.

    Returns:
        A ``matplotlib.figure.Figure``.

    Raises:
        InputError: nothing was timed.
        ImportError: matplotlib is not installed.
    """
    check_type("data", data, Measurement | Comparison, "a graphprune.Measurement or Comparison")
    if depth is not None:
        check_count("depth", depth, 1, "a number of names")
    series = _by_layer(data, lambda layer: None if layer.seconds is None else 1e3 * layer.seconds)
    joined = _joined(series, _depth_to_name(series) if depth is None else depth)
    do = "measure a model with values, not one on meta, and with timed=True"
    return _drawn(_without_small(joined), _title("Time", data), "time (ms)", missing=0.0, do=do).figure


Series = Mapping[str, Mapping[str, float]]
"""By the name of a model, by the name of a layer, a number."""


def _of_plan(plan: Plan) -> Series:
    """The units of each group, and the entries of parameters that are merged, before and after.

    Raises:
        InputError: there are none.
    """
    merged = [(name, dim) for name, dims in plan.merged.items() for dim in dims]
    if not plan.choices and not merged:
        raise InputError(
            "data: the plan chooses among no groups, and so changes no width",
            found=f"a plan that leaves out {len(plan.skipped) + len(plan.zeroed)} blocks or modules",
            needed="a plan with groups of channels or heads",
            do="print(plan) says what it does",
        )
    before = {f"{name}[{dim}]": float(plan.shapes[name][dim]) for name, dim in merged}
    after = {f"{name}[{dim}]": float(len(plan.kept[name][dim])) for name, dim in merged}
    return {
        "before": before | {choice.group: float(choice.units) for choice in plan.choices},
        "after": after | {choice.group: float(choice.units - len(choice.removed)) for choice in plan.choices},
    }


def _measurements(data: Measurement | Comparison) -> Mapping[str, Measurement]:
    return {data.model: data} if isinstance(data, Measurement) else data.measurements


def _title(what: str, data: Measurement | Comparison) -> str:
    first = next(iter(_measurements(data).values()))
    return f"{what} of the layers of {first.model}"


def _by_layer(data: Measurement | Comparison, value: Callable[[MeasuredLayer], float | None]) -> Series:
    """The layers of which something is known."""
    return {
        name: {layer.name or "(model)": float(known) for layer in one.layers if (known := value(layer)) is not None}
        for name, one in _measurements(data).items()
    }


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def _joined(series: Series, depth: int) -> Series:
    """The sums over all layers within the same module of this depth."""
    found: dict[str, dict[str, float]] = {}
    for name, values in series.items():
        sums = found.setdefault(name, {})
        for layer, value in values.items():
            module = ".".join(layer.split(".")[:depth])
            sums[module] = sums.get(module, 0.0) + value
    return found


def _without_small(series: Series) -> Series:
    """Layers with a negligible part in all models put together."""
    layers = dict.fromkeys(layer for values in series.values() for layer in values)
    least = {name: NEGLIGIBLE * sum(values.values()) for name, values in series.items()}
    small = [layer for layer in layers if all(v.get(layer, 0.0) < least[name] for name, v in series.items())]
    if len(small) < 2:
        return series
    return {
        name: {layer: value for layer, value in values.items() if layer not in small}
        | {f"{len(small)} others": sum(values.get(layer, 0.0) for layer in small)}
        for name, values in series.items()
    }


def _depth_to_name(series: Series) -> int:
    """The largest depth at which each module can be named."""
    layers = {layer for values in series.values() for layer in values}
    deepest = max((layer.count(".") + 1 for layer in layers), default=1)
    counts = {depth: len({".".join(layer.split(".")[:depth]) for layer in layers}) for depth in range(1, deepest + 1)}
    return max((depth for depth, count in counts.items() if count <= MOST_NAMED), default=1)


def _drawn(
    series: Series,
    title: str,
    quantity: str,
    missing: float,
    do: str = "measure a model with values, not one on meta",
) -> LayerAxis:
    """The layers of all models: those of the first, then what only others have; ``missing`` where one has no such.

    Raises:
        InputError: there is no layer; the message says ``do``.
    """
    names = list(dict.fromkeys(name for values in series.values() for name in values))
    if not names:
        raise InputError(
            f"data: nothing is known of what is to be drawn, {quantity}",
            found="no layer with a value",
            needed=quantity,
            do=do,
        )
    axis = LayerAxis(names, title, quantity)
    axis.series([(name, [values.get(layer, missing) for layer in names]) for name, values in series.items()])
    return axis
