"""Advise: look at a model, measure what there is time for, and say what to do."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from graphprune.advice.advice import Advice
from graphprune.advice.facts import ModelFacts
from graphprune.advice.judging import Judge, make_judge
from graphprune.advice.model_facts import read_facts
from graphprune.advice.questions import questions_for
from graphprune.advice.snippet import snippet
from graphprune.advice.targets import AdviceTarget, parse_target
from graphprune.advice.time_limit import TimeLimit
from graphprune.advice.timing import measure_times
from graphprune.advice.topics import UTMOST, recommend
from graphprune.advice.trials import Trials, measure_influence, measure_rises, quiet
from graphprune.api import ChannelGraph, trace
from graphprune.calibration.statistics import LossFunction
from graphprune.errors import InputError, PlanError
from graphprune.graph.candidates import candidates
from graphprune.planning.objectives import parse_budgets
from graphprune.planning.sensitivity_probe import Evaluate
from graphprune.tracing.running import Outputs
from graphprune.utils.checks import check_callable, check_flag, check_positive
from graphprune.utils.devices import device_named
from graphprune.utils.evaluation import preserve_modes
from graphprune.utils.global_state import leaves_torch_alone
from graphprune.utils.model_checks import check_model
from graphprune.utils.random_state import random_numbers_kept


@leaves_torch_alone
def advise(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    data: Iterable[Any] | None = None,
    loss_fn: LossFunction | None = None,
    evaluate: Evaluate | None = None,
    target: Any = None,
    device: str | torch.device | None = None,
    can_train: bool | None = None,
    seconds: float = 60.0,
    outputs: Outputs | None = None,
) -> Advice:
    """What to do with a model, and why, from facts that are measured on it.

    Nothing is changed: neither the model, its modes and gradients, nor the caller's random generators.

    Args:
        model: any ``nn.Module``; on ``meta`` only sizes are looked at.
        example_inputs: as for :func:`graphprune.trace`; None: found from the model.
        data: calibration batches: tensors, tuples or dicts; with ``loss_fn`` pairs (inputs, target). Some 256 samples
            are read.
        loss_fn: ``(output, target) -> loss``.
        evaluate: ``(model) -> loss``, a number that is higher for a worse model, by which plans are compared. It gets
            models in evaluation mode. None: by the loss on held-out data, or without labels by the outputs' error.
        target: budgets (``{"macs": 0.5}``, ``"latency=5ms"``), what runs the slim model (``"vllm"``, ``"cuda"``,
            ``"size on disk"``, ...), or both (``"llama.cpp, bytes=0.5"``); None: half of the MACs is assumed.
        device: where it is to run; times are measured there if this machine has it. None: where the model is.
        can_train: may it be trained after it is pruned? None: if there are labels.
        seconds: how long measurements may take; one that has begun is finished, so it may take somewhat longer.
        outputs: as for :func:`graphprune.trace`.

    Raises:
        InputError: an argument is not what it must be; the model, ``evaluate`` or ``loss_fn`` failed on the data.
        TraceError: the model failed in ``forward``.
    """
    check_model(model)
    wanted = parse_target(target)
    if evaluate is not None:
        check_callable("evaluate", evaluate, "a function (model) -> loss", takes="model")
    if loss_fn is not None:
        check_callable("loss_fn", loss_fn, "a function (output, target) -> loss", takes="output, target")
        if data is None:
            raise InputError(
                "loss_fn: given without data, the pairs (inputs, target) that it is for",
                found="loss_fn= and no data=",
                needed="data=, an iterable of pairs (inputs, target)",
                do="pass data=loader too, or leave out loss_fn=",
            )
    if can_train is not None:
        check_flag("can_train", can_train)
    check_positive("seconds", seconds, "a number of seconds")
    where = _device(device, wanted)
    with random_numbers_kept(), preserve_modes(model), _shown(seconds):
        graph = trace(model, example_inputs, outputs=outputs)
        judge = make_judge(model, None if _on_meta(model) else data, loss_fn, evaluate)
        facts = read_facts(graph)
        facts = replace(facts, data=judge.facts, can_train=judge.facts.labeled if can_train is None else can_train)
        if facts.groups:
            facts = _measured(graph, facts, wanted, judge, where, TimeLimit(seconds))
    return _advice(facts, wanted, data, loss_fn)


def _advice(facts: ModelFacts, target: AdviceTarget, data: Any, loss_fn: LossFunction | None) -> Advice:
    """What follows from the facts."""
    found = recommend(facts, target)
    arguments: dict[str, Any] = {}
    for one in found if facts.prunes else ():
        arguments |= one.arguments
    if arguments and data is not None and not facts.on_meta:
        arguments["calibration"] = data
        if loss_fn is not None:
            arguments["loss_fn"] = loss_fn
    code = snippet(facts, target, {r.topic: r for r in found}, arguments)
    return Advice(facts, target, found, arguments, code)


def _on_meta(model: nn.Module) -> bool:
    return any(t.is_meta for t in (*model.parameters(), *model.buffers()))


def _device(device: str | torch.device | None, target: AdviceTarget) -> torch.device | None:
    """The device that is named, by itself or as what runs the model.

    Raises:
        InputError: there is no such device.
    """
    if device is None:
        return torch.device(target.runtime.name) if target.runtime is not None and target.runtime.here else None
    return device_named(device)


@contextmanager
def _shown(seconds: float) -> Iterator[None]:
    """A line on a terminal as long as measurements run."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console  # importing rich takes longer than tracing a model

    with Console(stderr=True).status(f"measuring for up to {seconds:g} s or so"):
        yield


# ---------------------------------------------------------------- measuring


def _measured(
    graph: ChannelGraph,
    facts: ModelFacts,
    target: AdviceTarget,
    judge: Judge,
    device: torch.device | None,
    limit: TimeLimit,
) -> ModelFacts:
    """The facts with what is measured: times, then whether the target can be reached, then what data show."""
    facts = _with_times(graph, facts, target, device, limit)
    facts = _with_reach(graph, facts, target)
    if judge.facts.judged and not facts.on_meta and facts.prunes:
        facts = _with_data(graph, facts, target, judge, limit)
    return facts


_UNTIMED = 10.0
"""Seconds that times are measured for at most if the target is no time."""


def _with_times(
    graph: ChannelGraph, facts: ModelFacts, target: AdviceTarget, device: torch.device | None, limit: TimeLimit
) -> ModelFacts:
    """The facts with times on the device."""
    where = torch.device(facts.device) if device is None else device
    if facts.on_meta:
        return _missing(facts, "times: the model is on meta")
    if not _available(where):
        return _missing(facts, f"times on {where}: this machine has none")
    if not graph.trace.on_meta:
        return _missing(facts, "times of kernels: the model looks at the values of floats")
    part = limit.part(0.5) if target.timed else TimeLimit(min(0.25 * limit.left, _UNTIMED))
    times = measure_times(graph, facts.groups, candidates(graph)[0], where, part)
    return _missing(replace(facts, timing=times.timing, groups=times.groups), *times.missing)


def _missing(facts: ModelFacts, *what: str) -> ModelFacts:
    return replace(facts, unmeasured=(*facts.unmeasured, *what))


def _available(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    return device.type == "cpu"


def _with_reach(graph: ChannelGraph, facts: ModelFacts, target: AdviceTarget) -> ModelFacts:
    """The facts with how much of the dense cost the target leaves, and whether that can be reached."""
    cost = graph.cost()
    dense: dict[str, float] = {kind: cost[kind] for kind in target.budgets if kind != "latency"}
    if facts.timing is not None:
        dense["latency"] = facts.timing.seconds
    known = {kind: spec for kind, spec in target.budgets.items() if kind in dense}
    shares = {b.kind: b.limit / max(dense[b.kind], 1e-12) for b in parse_budgets(known, dense.__getitem__)}
    if not shares:
        return _missing(facts, "whether the target can be reached: it is a time, and none was measured")
    share = min(shares.values())
    if share >= 1:
        return replace(facts, share=share, met=True)
    facts = replace(facts, share=share)
    counted = {kind: spec for kind, spec in target.budgets.items() if kind != "latency"} or {"macs": share}
    failure = _failure(graph, facts, counted)
    if failure:
        wanted = {kind: shares.get(kind, share) for kind in counted}
        floors = {kind: _least_share(graph, facts, kind, asked) for kind, asked in wanted.items() if asked < 1}
        reachable = {kind: least for kind, least in floors.items() if least is not None}
        if len(reachable) < len(floors):
            return replace(facts, refused=failure)
        return replace(facts, least=failure, reachable=reachable)
    if target.runtime is not None and target.runtime.arguments and facts.configured:
        return replace(facts, unserved=_failure(graph, facts, {**counted, **target.runtime.arguments}))
    return facts


def _failure(graph: ChannelGraph, facts: ModelFacts, arguments: Mapping[str, Any]) -> str:
    """Why there is no plan with these arguments; empty: there is one."""
    importance = "random" if facts.on_meta else "l2"
    with quiet():
        try:
            graph.plan(**arguments, importance=importance)
        except (PlanError, InputError) as error:
            return error.what
    return ""


def _least_share(graph: ChannelGraph, facts: ModelFacts, kind: str, wanted: float) -> float | None:
    """The fraction of a cost nearest to one that is wanted which a plan reaches; None: there is no plan at all."""
    low, high = wanted, 1.0
    if _reaches(graph, facts, kind, wanted):
        return round(wanted, 12)  # as it was asked for: 0.9, not 0.9000000000000001
    for _ in range(_HALVINGS):
        if high - low <= _NEAR * high:
            break
        middle = (low + high) / 2
        low, high = (low, middle) if _reaches(graph, facts, kind, middle) else (middle, high)
    return high if high < 1 else None


def _reaches(graph: ChannelGraph, facts: ModelFacts, kind: str, share: float) -> bool:
    return not _failure(graph, facts, {kind: share, "max_ratio": UTMOST})


_NEAR = 0.02
"""How much more, relative to it, than the least that can be reached may be called that."""
_HALVINGS = 20


def _with_data(
    graph: ChannelGraph, facts: ModelFacts, target: AdviceTarget, judge: Judge, limit: TimeLimit
) -> ModelFacts:
    """The facts with what data show: the dense loss, sensitivities, the influence of blocks, and trials of plans."""
    dense = judge.loss(graph.model)
    if not math.isfinite(dense):
        named = "data" if judge.evaluate is None else "evaluate"
        raise InputError(
            f"{named}: the dense model's loss is {dense}; it must be finite to compare with",
            found=f"a loss of {dense}",
            needed="a finite loss of the dense model",
            do="look for NaN in the weights and the data, and for a division by zero in the loss",
        )
    facts = replace(facts, data=replace(facts.data, dense=dense))
    groups, missing = measure_rises(graph, facts.groups, judge, dense, limit.part(0.25))
    facts = _missing(replace(facts, groups=groups), *missing)
    facts = replace(facts, doubts=_doubts(facts))
    if not judge.calibration:
        return _missing(facts, "which plan is best: there are no data to repair slim models with")
    if facts.blocks:
        facts = replace(facts, blocks=measure_influence(graph, facts.blocks, judge))
    if facts.least or facts.share is None:
        return facts
    trials = Trials(graph, judge, trial_arguments(facts, target), dense, limit)
    missing = trials.run(questions_for(facts))
    return _missing(replace(facts, trials=tuple(trials.done)), *missing)


def _doubts(facts: ModelFacts) -> tuple[str, ...]:
    """Whether the loss may be no loss: it falls where channels go."""
    rises = [g.rise for g in facts.groups if g.rise is not None]
    fallen = sum(rise < 0 for rise in rises)
    if fallen <= len(rises) / 2:
        return ()
    what = (
        "is it a quality? then return what falls with it, such as 1 - accuracy"
        if facts.data.judged == "evaluate"
        else "is the model trained?"
    )
    return (f"the loss falls for {fallen} of {len(rises)} groups when half of the group goes: {what}",)


def trial_arguments(facts: ModelFacts, target: AdviceTarget) -> dict[str, Any]:
    """What all plans that are tried are asked for; in place of a latency, the same part of the MACs."""
    counted = {kind: spec for kind, spec in target.budgets.items() if kind != "latency"}
    if "latency" in target.budgets:
        counted = {"macs": facts.share or 0.5, **counted}
    runtime = target.runtime if facts.configured and not facts.unserved else None
    return {**counted, **(runtime.arguments if runtime is not None else {})}
