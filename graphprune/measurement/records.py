"""What is measured of a model, as data, and several models side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from graphprune.errors import InputError, LoadError
from graphprune.measurement.quantities import Quantity, QuantityTable
from graphprune.utils.checks import check_known, check_type, shown
from graphprune.utils.tables import Printed, Table, human
from graphprune.utils.typed_json import Count, Positive, convert_data, parse_json

MEASUREMENT_FORMAT = 1
"""The version of the JSON data."""


NonNegative = Annotated[float, Meta(ge=0)]


@dataclass(frozen=True)
class MeasuredLayer:
    """One module: what it holds and computes itself, without its submodules.

    Attributes:
        name: its path; empty: the model itself.
        kind: its class.
        parameters: entries of its own parameters; tied ones count where they are first.
        nonzero: those of them that are not zero, masks of ``torch.nn.utils.prune`` applied; None: it has no values.
        width: how many channels it puts out; None: it has no weight that tells.
        macs: its own multiply-adds for the example inputs; None: the model could not be traced.
        seconds: its own time, the median over several calls of the model; None: not timed.
    """

    name: str
    kind: str
    parameters: Count
    nonzero: Count | None = None
    width: Count | None = None
    macs: Count | None = None
    seconds: NonNegative | None = None

    @property
    def sparsity(self) -> float | None:
        """The fraction of its parameters that are zero; None: it has none, or no values."""
        return _sparsity(self.parameters, self.nonzero)


@dataclass(frozen=True)
class Latency:
    """How long one call of a model takes.

    Attributes:
        mode: ``"eager"`` or ``"compiled"``.
        batch: the batch size; None: not told by the inputs.
        seconds: the median.
        low, high: the quartiles; half of the calls took a time between them.
        calls: how many were timed.
    """

    mode: str
    batch: Positive | None
    seconds: NonNegative
    low: NonNegative
    high: NonNegative
    calls: Positive

    @property
    def spread(self) -> float:
        """The interquartile range, in seconds."""
        return self.high - self.low

    @property
    def label(self) -> str:
        """What was timed, in words."""
        return latency_label(self.mode, self.batch)


def latency_label(mode: str, batch: int | None) -> str:
    """What is timed, in words.

    >>> latency_label("compiled", 8)
    'latency, batch 8, compiled'
    """
    return ", ".join(["latency", *([f"batch {batch}"] if batch else []), *([mode] if mode != "eager" else [])])


@dataclass(frozen=True, repr=False)
class Measurement(Printed):
    """What a model is and takes. Made by :func:`graphprune.measure`; prints as a table.

    Attributes:
        model: its class.
        inputs: types and shapes of the example inputs.
        device: where it was.
        threads: those of torch on the CPU.
        parameters: entries of parameters, tied ones once.
        nonzero: those of them that are not zero, masks of ``torch.nn.utils.prune`` applied.
        layers: the modules, in the order of the model.
        macs: multiply-adds of one evaluation of the example inputs (1 MAC = one multiply-add). Zeros count like other
            weights, as they do for a dense kernel.
        memory_bytes: of parameters, buffers and other tensors of modules, in memory.
        disk_bytes: of a safetensors file with the state dict.
        peak_bytes: of the tensors that are alive at once during one evaluation of the example inputs, without those of
            the model and the inputs themselves.
        latencies: by mode and batch size; the first is of the example inputs.
        joules: energy of one evaluation of the example inputs, of all that the counter counts.
        scores: what ``evaluate`` returned.
        missing: what is None or left out above, and why.
    """

    model: str
    inputs: str
    device: str
    threads: Positive
    parameters: Count
    nonzero: Count | None
    layers: tuple[MeasuredLayer, ...]
    memory_bytes: Count
    disk_bytes: Count | None = None
    macs: Count | None = None
    peak_bytes: Count | None = None
    latencies: tuple[Latency, ...] = ()
    joules: NonNegative | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def sparsity(self) -> float | None:
        """The fraction of parameters that are zero; None: there are none, or no values."""
        return _sparsity(self.parameters, self.nonzero)

    @property
    def seconds(self) -> float | None:
        """The median latency of the example inputs, eagerly; None: not timed."""
        return self.latencies[0].seconds if self.latencies else None

    def compare(self, after: Measurement) -> Comparison:
        """This and another measurement side by side, with ratios. Latencies are comparable if nothing else ran."""
        check_type("after", after, Measurement, "a graphprune.Measurement")
        return Comparison({"before": self, "after": after})

    def quantities(self) -> list[Quantity]:
        """Everything that is known, in the order of the table."""
        sizes = (
            ("MACs", self.macs, ""),
            ("in memory", self.memory_bytes, "B"),
            ("on disk", self.disk_bytes, "B"),
            ("peak of activations", self.peak_bytes, "B"),
        )
        found = [*_counted("parameters", self.parameters), *_counted("non-zero", self.nonzero)]
        if self.sparsity is not None:
            found.append(Quantity("sparsity", self.sparsity, f"{self.sparsity:.2%}", "+.2%"))
        for one in sizes:
            found += _counted(*one)
        found += [Quantity(one.label, one.seconds, _timed(one)) for one in self.latencies]
        found += [Quantity("energy", self.joules, f"{self.joules:.3g} J")] if self.joules is not None else []
        return found + [Quantity(name, score, f"{score:.4g}", "+.4g") for name, score in self.scores.items()]

    def layer_table(self) -> Table:
        """A row for each layer that has parameters or multiply-adds."""
        layers = [layer for layer in self.layers if layer.parameters or layer.macs]
        rows = tuple((layer.name or "(model)", layer.kind, *_layer_cells(layer)) for layer in layers)
        return Table(f"{self.model}: layers", ("layer", "class", *LAYER_COLUMNS), rows, LAYER_COLUMNS, many=len(rows))

    def to_markdown(self) -> str:
        """The table for a document."""
        return self._table().markdown()

    def to_json(self) -> str:
        """The measurement as JSON. Scores that are no finite number are null."""
        return json.dumps({"format": MEASUREMENT_FORMAT, **_to_data(self)}, indent=1)

    @staticmethod
    def from_json(text: str) -> Measurement:
        """The inverse of :meth:`to_json`; scores that are null are not a number.

        Raises:
            LoadError: the text is no measurement of a format that this version reads, or is damaged.
        """
        return _from_data(_own_data(text, "Measurement"), "Measurement")

    def _table(self) -> QuantityTable:
        threads = f", {self.threads} thread{'s' if self.threads > 1 else ''}" if self.device == "cpu" else ""
        title = f"{self.model} on {self.inputs} ({self.device}{threads})"
        return QuantityTable(title, {"measured": self.quantities()}, _notes(self))

    def _summary(self) -> str:
        told = ", ".join(f"{one.label} {one.text}" for one in self.quantities() if one.label in SUMMARY)
        return f"Measurement of {self.model}: {told}"

    def _parts(self) -> Iterator[str | Table]:
        yield self._table().table()
        yield from _notes(self)


@dataclass(frozen=True, repr=False)
class Comparison(Printed):
    """Several models side by side; the table has what the others take in parts of the first.

    Attributes:
        measurements: by the name of each model.
    """

    measurements: Mapping[str, Measurement]

    def __post_init__(self) -> None:
        check_type("measurements", self.measurements, Mapping, "measurements by the names of models")
        if not self.measurements:
            raise InputError(
                "measurements: must be of one model at least, but is empty",
                found=shown(self.measurements),
                needed="measurements by the names of models, one at least",
                do="pass {'dense': graphprune.measure(model, example_inputs)}",
            )

    def __getitem__(self, name: str) -> Measurement:
        """The measurement of a model.

        Raises:
            InputError: there is no model of this name.
        """
        return self.measurements[check_known("name", name, self.measurements)]

    def to_markdown(self) -> str:
        """The table for a document."""
        return self._table().markdown()

    def to_json(self) -> str:
        """The measurements as JSON."""
        of_models = {name: _to_data(one) for name, one in self.measurements.items()}
        return json.dumps({"format": MEASUREMENT_FORMAT, "measurements": of_models})

    @staticmethod
    def from_json(text: str) -> Comparison:
        """The inverse of :meth:`to_json`.

        Raises:
            LoadError: the text is no comparison of a format that this version reads, or is damaged.
        """
        data = _own_data(text, "Comparison")
        of_models = convert_data(data.get("measurements"), dict[str, dict[str, Any]], "text", _advice("Comparison"))
        if not of_models:
            raise LoadError(
                "text: holds no measurements",
                where="text: measurements",
                found="{}",
                needed="measurements of one model at least",
                do=_advice("Comparison"),
            )
        return Comparison({name: _from_data(one, "Comparison") for name, one in of_models.items()})

    def _table(self) -> QuantityTable:
        first = next(iter(self.measurements.values()))
        columns = {name: one.quantities() for name, one in self.measurements.items()}
        return QuantityTable(f"{first.model} on {first.inputs} ({first.device})", columns, self._notes())

    def _notes(self) -> list[str]:
        """What is missing of some models, with their names; of all for the same reason, without."""
        notes = {name: _notes(one) for name, one in self.measurements.items()}
        common = [note for note in next(iter(notes.values())) if all(note in own for own in notes.values())]
        return [*common, *(f"{name}: {note}" for name, own in notes.items() for note in own if note not in common)]

    def _summary(self) -> str:
        return f"Comparison of {', '.join(self.measurements)}"

    def _parts(self) -> Iterator[str | Table]:
        yield self._table().table()
        yield from self._notes()


SUMMARY = ("parameters", "MACs", "in memory")
LAYER_COLUMNS = ("parameters", "sparsity", "width", "MACs", "time")


def _layer_cells(layer: MeasuredLayer) -> tuple[str, ...]:
    return (
        human(layer.parameters),
        "" if layer.sparsity is None else f"{layer.sparsity:.1%}",
        "" if layer.width is None else str(layer.width),
        "" if not layer.macs else human(layer.macs),
        "" if layer.seconds is None else _duration(layer.seconds),
    )


def _sparsity(parameters: int, nonzero: int | None) -> float | None:
    return 1 - nonzero / parameters if nonzero is not None and parameters else None


def _counted(label: str, count: int | None, unit: str = "") -> list[Quantity]:
    return [] if count is None else [Quantity(label, count, human(count, unit))]


def _timed(latency: Latency) -> str:
    return f"{_duration(latency.seconds)} (IQR {_duration(latency.low)} to {_duration(latency.high)})"


def _duration(seconds: float) -> str:
    """Seconds in a unit that people read.

    >>> _duration(0.0123), _duration(2.5), _duration(4e-6)
    ('12.3 ms', '2.5 s', '4 µs')
    """
    for factor, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def _notes(measurement: Measurement) -> list[str]:
    return [f"{what}: {why}" for what, why in measurement.missing.items()]


def _advice(kind: str) -> str:
    return f"pass what {kind}.to_json() returned"


def _own_data(text: str, kind: str) -> dict[str, Any]:
    data = parse_json(text, "text", _advice(kind))
    if not isinstance(data, dict) or data.get("format") != MEASUREMENT_FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise LoadError(
            f"text: measurement format {found!r}; this version reads format {MEASUREMENT_FORMAT}",
            where="text: format",
            found=f"format {found!r}",
            needed=f"format {MEASUREMENT_FORMAT}",
            do=_advice(kind),
        )
    return {name: value for name, value in data.items() if name != "format"}


def _to_data(measurement: Measurement) -> dict[str, Any]:
    finite = {name: score if math.isfinite(score) else None for name, score in measurement.scores.items()}
    return {**msgspec.to_builtins(replace(measurement, scores={})), "scores": finite}


def _from_data(data: dict[str, Any], kind: str) -> Measurement:
    scores = convert_data(data.get("scores"), dict[str, float | None], "text: scores", _advice(kind))
    known = {name: math.nan if score is None else score for name, score in scores.items()}
    found = convert_data({**data, "scores": {}}, Measurement, "text", _advice(kind))
    return replace(found, scores=known)
