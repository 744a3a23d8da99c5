"""What was measured of a model, as a page shows it: sensitivity, repair, latency, verification."""

from __future__ import annotations

import math
from collections.abc import Mapping

from msgspec import Struct

from graphprune.errors import InputError
from graphprune.measurement.records import Comparison, Measurement
from graphprune.planning.sensitivity import Sensitivity
from graphprune.pruning.verification import Verification
from graphprune.reconstruction.records import Repair
from graphprune.utils.checks import check_type, found_value, is_number, shown

Latencies = Mapping[str, float | Measurement] | Comparison | Measurement
"""By what was timed, seconds or what was measured of it; or what :func:`graphprune.measure` returned."""


MeasuredNumber = float | str
"""A number; NaN and infinities, which JSON does not have, as ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``."""


class MeasuredLosses(Struct, frozen=True):
    """The loss with one group pruned alone: by group, pairs of the fraction that is gone and the loss."""

    dense: MeasuredNumber
    ratios: list[float]
    groups: dict[str, list[tuple[float, MeasuredNumber]]]


class RepairedWeight(Struct, frozen=True, array_like=True):
    """The relative error of a consumer's output before and after its weight was fitted."""

    name: str
    before: MeasuredNumber
    after: MeasuredNumber
    summed: bool


class PageRepair(Struct, frozen=True):
    """What was repaired, and what was left alone and why."""

    repaired: list[RepairedWeight]
    left_alone: list[tuple[str, str]]
    norms: int


class PageVerification(Struct, frozen=True):
    """Was the slim model compared with the masked original, and what came of it, in sentences?"""

    passed: bool
    text: str


class MeasuredResults(Struct, frozen=True):
    """What was measured; None: it was not.

    Attributes:
        sensitivity, repair, verification: see there.
        latency: pairs of what was timed and its seconds.
    """

    sensitivity: MeasuredLosses | None = None
    repair: PageRepair | None = None
    verification: PageVerification | None = None
    latency: list[tuple[str, float]] | None = None


def measured_results(
    sensitivity: Sensitivity | None,
    repair: Repair | None,
    verification: Verification | None,
    latency: Latencies | None,
) -> MeasuredResults:
    """All that was given, as data.

    Raises:
        InputError: something is of a wrong type.
    """
    for name, value, kind in (
        ("sensitivity", sensitivity, Sensitivity),
        ("repair", repair, Repair),
        ("verification", verification, Verification),
    ):
        if value is not None:
            check_type(name, value, kind, f"a graphprune.{kind.__name__}")
    return MeasuredResults(
        None if sensitivity is None else _losses(sensitivity),
        None if repair is None else _repair(repair),
        None if verification is None else PageVerification(verification.passed, str(verification)),
        None if latency is None else _seconds(latency),
    )


def _losses(given: Sensitivity) -> MeasuredLosses:
    groups = {name: [(gone, _number(loss)) for gone, loss in points] for name, points in given.losses.items()}
    return MeasuredLosses(_number(given.dense), list(given.ratios), groups)


def _number(value: float) -> MeasuredNumber:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _repair(given: Repair) -> PageRepair:
    return PageRepair(
        [RepairedWeight(one.name, _number(one.before), _number(one.after), one.summed) for one in given.repaired],
        [(one.name, one.why) for one in given.left_alone],
        len(given.norms),
    )


def _seconds(given: Latencies) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in _timed(given).items():
        if isinstance(name, str) and isinstance(value, Measurement):
            found += [(f"{name}{one.label.removeprefix('latency')}", one.seconds) for one in value.latencies]
        elif isinstance(name, str) and is_number(value) and 0 <= value < float("inf"):
            found.append((name, float(value)))
        else:
            raise InputError(
                f"latency: {shown(name)} maps to {shown(value)}",
                where=f"latency[{shown(name)}]",
                found=found_value(value),
                needed="seconds, or what graphprune.measure returned",
                do="map what was timed to its seconds: latency={'dense': 0.0123, 'slim': 0.0071}",
            )
    return found


def _timed(given: Latencies) -> Mapping[str, float | Measurement]:
    if isinstance(given, Measurement):
        return {given.model: given}
    if isinstance(given, Comparison):
        return given.measurements
    what = "seconds by what was timed, {'dense': 0.0123, 'slim': 0.0071}, or what graphprune.measure returned"
    check_type("latency", given, Mapping, what)
    return given
