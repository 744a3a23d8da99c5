"""``graphprune bench DENSE SLIM``: how long two models take, in turns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

import graphprune
from graphprune.cli.bundles import BundleOptions, is_bundle
from graphprune.cli.found_model import built
from graphprune.cli.measuring import Batch, Compiled, Threads, check_names, inputs_of, repeats_option
from graphprune.cli.model_options import WeightOptions
from graphprune.cli.output import Output
from graphprune.cli.spec_forms import SPEC_FORMS, complete_spec
from graphprune.utils.tables import Table

Models = Annotated[
    list[str],
    typer.Argument(
        metavar="SPEC_OR_DIR",
        help=f"the dense model and the slim ones: {SPEC_FORMS}; or the DIR of a slim model",
        autocompletion=complete_spec,
        show_default=False,
    ),
]


_REPEATS = 30


def bench_command(
    out: Output,
    models: Models,
    given: WeightOptions,
    bundles: BundleOptions,
    batch: Batch = None,
    compiled: Compiled = False,
    threads: Threads = None,
    repeats: Annotated[Any, repeats_option(_REPEATS)] = None,
) -> int:
    """Time models in turns, A B A B, in one process, so that a slower while of the machine meets all alike.

    The first is what the others are compared with; the table has medians, quartiles and how many times faster.

    Examples:
        graphprune bench torchvision:resnet50 slim --threads 1
        graphprune bench torchvision:resnet50 slim --batch 1,8 --compiled --json
    """
    check_names(models, given, least=2)
    bundles.check_used(models)
    loaded = {name: bundles.load(name) if is_bundle(name) else built(out, name, given) for name in models}
    inputs = inputs_of(loaded, given)
    with out.stage("timing"):
        found = graphprune.measure(
            loaded, inputs, batch_sizes=batch or (), compiled=compiled, threads=threads, repeats=repeats or _REPEATS
        )
    out.result(lambda: _parts(found), lambda: {"models": _data(found)})
    return 0


def _parts(found: graphprune.Comparison) -> Iterator[Any]:
    first, *_ = found.measurements.values()
    rows = []
    for label, latencies in _by_label(found).items():
        dense = next(iter(latencies.values()))
        for name, one in latencies.items():
            times = f"{one.seconds * 1e3:.3g} ms", f"{one.low * 1e3:.3g} to {one.high * 1e3:.3g} ms"
            rows.append((label, name, *times, f"{dense.seconds / one.seconds:.2f}x", str(one.calls)))
    columns = ("", "model", "median", "quartiles", "faster", "calls")
    where = f"{first.model} on {first.inputs} ({first.device}, {_threads(first.threads)}), in turns"
    yield Table(where, columns, tuple(rows), numbers=columns[2:])
    for name, measured in found.measurements.items():
        yield from (f"{name}: {what}: {why}" for what, why in measured.missing.items() if what.startswith("latency"))


def _by_label(found: graphprune.Comparison) -> Mapping[str, dict[str, graphprune.Latency]]:
    """The latencies by what was timed, and by model."""
    labels: dict[str, dict[str, graphprune.Latency]] = {}
    for name, one in found.measurements.items():
        for latency in one.latencies:
            labels.setdefault(latency.label, {})[name] = latency
    return labels


def _data(found: graphprune.Comparison) -> dict[str, Any]:
    return {
        name: [
            {"what": one.label, "mode": one.mode, "batch": one.batch, "seconds": one.seconds}
            | {"low": one.low, "high": one.high, "calls": one.calls}
            for one in measured.latencies
        ]
        for name, measured in found.measurements.items()
    }


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"
