"""Measure a model, or several side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias, TypeVar, overload

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict, Unpack

from graphprune.errors import InputError
from graphprune.graph.cost import macs_by_module
from graphprune.measurement.activation_memory import peak_activation_bytes
from graphprune.measurement.batch_resizing import batch_dim_of
from graphprune.measurement.energy import CounterMissing, energy_counter, joules_of
from graphprune.measurement.latencies import TimingOptions, in_one_line, latencies, run_calls
from graphprune.measurement.layer_sizes import layer_sizes, with_costs
from graphprune.measurement.layer_times import layer_seconds
from graphprune.measurement.records import Comparison, Latency, Measurement
from graphprune.measurement.state import inputs_kept, unchanged
from graphprune.measurement.stored_bytes import file_bytes, memory_bytes
from graphprune.tracing.example_inputs.guess import example_inputs_for, first_that_runs
from graphprune.tracing.inputs import MethodCall, calls_of, describe
from graphprune.tracing.tracer import call_failure, trace_model
from graphprune.utils.checks import (
    check_callable,
    check_count,
    check_flag,
    check_type,
    found_value,
    is_number,
    shown,
    with_article,
)
from graphprune.utils.evaluation import eagerly, evaluating
from graphprune.utils.global_state import leaves_torch_alone
from graphprune.utils.model_checks import check_model
from graphprune.utils.modules import all_tensors
from graphprune.utils.switches import evaluation_mode
from graphprune.utils.tree import map_tensors, tensors_of

Evaluation: TypeAlias = "Callable[[nn.Module], float | Mapping[str, float]]"

T = TypeVar("T")


class MeasureArguments(TypedDict, total=False):
    """The keyword arguments of :func:`measure`."""

    evaluate: Evaluation | None
    timed: bool
    batch_sizes: Iterable[int]
    batch_dim: int | None
    compiled: bool
    threads: int | None
    repeats: int
    warmup: int


@overload
def measure(model: nn.Module, example_inputs: Any = None, **options: Unpack[MeasureArguments]) -> Measurement: ...
@overload
def measure(
    model: Mapping[str, nn.Module], example_inputs: Any = None, **options: Unpack[MeasureArguments]
) -> Comparison: ...
@leaves_torch_alone
def measure(
    model: nn.Module | Mapping[str, nn.Module],
    example_inputs: Any = None,
    *,
    evaluate: Evaluation | None = None,
    timed: bool = True,
    batch_sizes: Iterable[int] = (),
    batch_dim: int | None = None,
    compiled: bool = False,
    threads: int | None = None,
    repeats: int = 10,
    warmup: int = 3,
) -> Measurement | Comparison:
    """Measure what a model is and takes: parameters, zeros, multiply-adds, bytes, time, energy, scores.

    The model runs in evaluation mode, without gradients. Its modes, attributes and buffers, random numbers and the
    settings of torch are as they were afterwards, also after a failure. Several models are timed in turns, so that a
    machine that is slower for a while is slower for all of them.

    Args:
        model: any ``nn.Module``; or several by name (``{"dense": model, "slim": slim}``), the first of which is what
            the others are compared with.
        example_inputs: as for :func:`graphprune.trace`; None: found from the (first) model.
        evaluate: ``(model) -> score``, a number or a dict of numbers by name. It is given the model in evaluation mode.
        timed: measure latency, the time of each layer and energy.
        batch_sizes: time these too: the example inputs are repeated and cut.
        batch_dim: which dimension of the inputs is the batch; None: the first, unless a recurrent layer or an attention
            has ``batch_first=False``.
        compiled: time the model compiled by ``torch.compile``, too. That may take minutes.
        threads: the threads that torch uses on the CPU; None: as many as it uses now.
        repeats: how many times each is timed, at least.
        warmup: how many times each is called before that.

    Returns:
        A :class:`graphprune.Measurement`, or of several models a :class:`graphprune.Comparison`. They print as tables.
        What cannot be measured is None there, and ``missing`` says why.

    Raises:
        InputError: an argument is not what it must be, inputs cannot be guessed, or ``evaluate`` returned no number.
        TraceError: the model failed in ``forward``. What ``evaluate`` raises is passed on.
    """
    models = _models(model)
    options = _timing_options(batch_sizes, batch_dim, compiled, repeats, warmup)
    check_flag("timed", timed)
    if not timed:
        _check_untimed(options)
    if evaluate is not None:
        check_callable("evaluate", evaluate, "a function (model) -> score", takes="model")
    if threads is not None:
        check_count("threads", threads, 1, "a number of threads")
    options = replace(options, batch_dim=batch_dim_of(models, options.batch_dim, resizing=bool(options.batch_sizes)))
    with unchanged(*models.values(), threads=threads):
        inputs = _guessed_inputs(next(iter(models.values()))) if example_inputs is None else example_inputs
        calls = calls_of(inputs)
        with inputs_kept(calls):
            found = _measured(models, calls, options if timed else None, evaluate)
    return Comparison(found) if isinstance(model, Mapping) else found[_ALONE]


_ALONE = "model"

ON_META = "the model is on meta, without values"


def _models(given: Any) -> dict[str, nn.Module]:
    if not isinstance(given, Mapping):
        check_model(given)
        return {_ALONE: given}
    if not given:
        raise InputError(
            "model: is an empty dict",
            found="{}, a dict",
            needed="a model, or several by name",
            do="pass {'dense': model, 'slim': slim}",
        )
    for name, model in given.items():
        check_type("model", name, str, "a dict of models by names that are strings")
        check_model(model, f"model[{name!r}]")
    return dict(given)


def _timing_options(sizes: Any, dim: int | None, compiled: bool, repeats: int, warmup: int) -> TimingOptions:
    check_flag("compiled", compiled)
    check_type(
        "batch_sizes", sizes.tolist() if isinstance(sizes, Tensor) else sizes, Iterable, "numbers, such as (1, 8)"
    )
    return TimingOptions(
        tuple(check_count("batch_sizes", size, 1, "a batch size") for size in sizes),
        None if dim is None else check_count("batch_dim", dim, 0, "a dimension"),
        bool(compiled),
        check_count("repeats", repeats, 1, "a number of calls"),
        check_count("warmup", warmup, 0, "a number of calls"),
    )


def _check_untimed(options: TimingOptions) -> None:
    """Raise an InputError if something is to be timed, too."""
    for name, given in (("batch_sizes", options.batch_sizes), ("compiled", options.compiled)):
        if given:
            raise InputError(
                f"{name}: given together with timed=False, with which nothing is timed",
                found=f"{name}={given!r} and timed=False",
                needed="one of them",
                do=f"leave out timed=, or {name}=",
            )


def _guessed_inputs(model: nn.Module) -> Any:
    """Inputs that the model takes, where it is; on ``meta``, ones with which it can be traced."""
    device = _device(model)
    if device.type == "cpu":
        return example_inputs_for(model)
    inputs, _ = first_that_runs(model, lambda guess: trace_model(model, calls_of(guess)))
    return inputs if device.type == "meta" else map_tensors(lambda tensor: tensor.to(device), inputs)


def _device(model: nn.Module) -> torch.device:
    """Where the first tensor of the model is."""
    return next((tensor.device for tensor in all_tensors(model)), torch.device("cpu"))


def _measured(
    models: Mapping[str, nn.Module],
    calls: Sequence[MethodCall],
    timing: TimingOptions | None,
    evaluate: Evaluation | None,
) -> dict[str, Measurement]:
    with ExitStack() as stack:
        for model in models.values():
            _enter_evaluation(stack, model)
        return _measured_in_evaluation(models, calls, timing, evaluate)


def _measured_in_evaluation(
    models: Mapping[str, nn.Module],
    calls: Sequence[MethodCall],
    timing: TimingOptions | None,
    evaluate: Evaluation | None,
) -> dict[str, Measurement]:
    subjects = {name: _Subject(model, calls) for name, model in models.items()}
    for subject in subjects.values():
        subject.run_once()
    running = {name: subject.model for name, subject in subjects.items() if subject.runs}
    if timing is not None and running:
        found, missing = latencies(running, calls, timing)
        for name in running:
            subjects[name].timed(found[name], missing[name], timing.repeats)
    for name in models.keys() - running.keys():
        subjects[name].missing |= dict.fromkeys(["latency"] if timing is not None else [], ON_META)
    return {name: subject.measurement(timing is not None, evaluate) for name, subject in subjects.items()}


def _enter_evaluation(stack: ExitStack, model: nn.Module) -> None:
    try:
        stack.enter_context(evaluation_mode(model))
    except NotImplementedError as error:
        raise InputError(
            f"model: this {type(model).__name__} cannot be put in evaluation mode ({error})",
            found=f"{with_article(type(model).__name__)}, as those of torch.export",
            needed="a module with train() and eval()",
            do="measure the model that it was made from",
        ) from error


class _Subject:
    """One model that is measured, and what is known of it."""

    def __init__(self, model: nn.Module, calls: Sequence[MethodCall]) -> None:
        self.model = model
        self.calls = calls
        self.missing: dict[str, str] = {}
        self.latencies: list[Latency] = []
        self.seconds: dict[str, float] = {}
        self.runs = not any(tensor.is_meta for tensor in all_tensors(model))
        self.device = _device(model)
        self.run = partial(run_calls, model, calls)
        self.sizes = layer_sizes(model)  # before a run, which may leave something in the model
        state = self._known("on disk", model.state_dict) or {}
        packed = [tensor for value in state.values() if not isinstance(value, Tensor) for tensor in tensors_of(value)]
        self.memory = memory_bytes([*all_tensors(model), *packed])
        self.disk = None if "on disk" in self.missing else self._known("on disk", lambda: file_bytes(state))
        if packed:
            self.missing["parameters"] = "packed weights of quantized modules are not parameters, and do not count"

    def run_once(self) -> None:
        """See that the model runs.

        Raises:
            TraceError: it does not.
        """
        if not self.runs:
            return
        for call in self.calls:
            try:
                with eagerly(), torch.no_grad():
                    call.run_afresh(self.model)
            except Exception as error:
                raise call_failure(self.model, call, error) from error

    def timed(self, found: list[Latency], missing: Mapping[str, str], repeats: int) -> None:
        """Take over latencies, and time the layers."""
        self.latencies = found
        self.missing |= missing
        self.seconds = layer_seconds(self.model, self.run, repeats)

    def measurement(self, timed: bool, evaluate: Evaluation | None) -> Measurement:
        """Everything that can be measured."""
        macs = self._known("MACs", lambda: macs_by_module(trace_model(self.model, self.calls)))
        layers = with_costs(self.sizes, macs, self.seconds)
        return Measurement(
            model=type(self.model).__name__,
            inputs="; ".join(map(_shown_inputs, self.calls)),
            device=str(self.device),
            threads=torch.get_num_threads(),
            parameters=sum(layer.parameters for layer in layers),
            nonzero=self._on_values("non-zero", lambda: sum(layer.nonzero or 0 for layer in layers)),
            layers=layers,
            memory_bytes=self.memory,
            disk_bytes=self.disk,
            macs=None if macs is None else sum(macs.values()),
            peak_bytes=self._on_values("peak of activations", self._peak),
            latencies=tuple(self.latencies),
            joules=self._on_values("energy", self._joules) if timed else None,
            scores={} if evaluate is None else scores_of(self.model, evaluate),
            missing=self.missing,
        )

    def _known(self, what: str, find: Callable[[], T]) -> T | None:
        """What is found; None: it cannot be, and why is noted."""
        try:
            return find()
        except Exception as error:
            self.missing[what] = str(error) if isinstance(error, CounterMissing) else in_one_line(error)
            return None

    def _on_values(self, what: str, find: Callable[[], T]) -> T | None:
        """The same of a model that has values."""
        if self.runs:
            return self._known(what, find)
        self.missing[what] = ON_META
        return None

    def _peak(self) -> int:
        return peak_activation_bytes(self.model, self.run, [t for call in self.calls for t in call.tensors])

    def _joules(self) -> float:
        with eagerly(), torch.no_grad():
            return joules_of(self.run, energy_counter(self.device))


def _shown_inputs(call: MethodCall) -> str:
    return ", ".join(filter(None, (describe(call.args), describe(call.kwargs)))) or "nothing"


def scores_of(model: nn.Module, evaluate: Evaluation) -> dict[str, float]:
    """What ``evaluate`` says of a model, by name; a single number is called ``score``.

    Raises:
        InputError: it returned something else than numbers. What it raises is passed on.
    """
    with evaluating(model):
        result = evaluate(model)
    named = result if isinstance(result, Mapping) else {"score": result}
    found = {}
    for name, value in named.items():
        number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        if not isinstance(name, str) or not is_number(number):
            raise InputError(
                f"evaluate: must return a number, or numbers by name, but returned {shown(result)}",
                found=found_value(result),
                needed="a number, or a dict of numbers by name",
                do="return {'accuracy': 0.93} from evaluate(model)",
            )
        found[name] = float(number)
    return found
