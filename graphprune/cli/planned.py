"""A plan for a model: made as the options say, or read from a file that ``graphprune plan`` wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

import graphprune
from graphprune.calibration.batches import InputsOnly
from graphprune.choosing.by_default import with_default_criterion
from graphprune.cli.calibration_options import CalibrationOptions
from graphprune.cli.found_model import traced
from graphprune.cli.option_groups import usage_error
from graphprune.cli.output import Output
from graphprune.cli.plan_options import PlanOptions
from graphprune.cli.prunable import PrunableOptions
from graphprune.errors import LoadError
from graphprune.planning.options import PruningOptions
from graphprune.tracing.input_specs import inputs_of_spec

PlanFile = Annotated[
    Path | None,
    typer.Option("--plan", metavar="FILE", help="a plan that graphprune plan wrote, in place of the options of one"),
]


@dataclass(frozen=True)
class Planned:
    """A model and what is to be removed from it.

    Attributes:
        batches: of inputs alone, for repair; None: there is no data.
    """

    model: nn.Module
    graph: graphprune.ChannelGraph
    plan: graphprune.Plan
    batches: Any

    def inputs(self) -> list[Any]:
        """The example inputs of the trace."""
        return list(self.graph.examples)


def check_request(
    given: PrunableOptions, asked: PlanOptions, data: CalibrationOptions, file: Path | None, meta: bool = False
) -> None:
    """Usage is wrong if a plan is neither given nor asked for, or both, or cannot be asked for."""
    given.check_meta(meta, planned=True)
    if file is None:
        asked.check(calibration=data.calibration is not None)
        if meta and given.weights is None and asked.reads_weights():
            raise usage_error(
                "--meta: there are no weights that channels could be chosen by; give --weights DIR, a folder of "
                "safetensors, or --importance random"
            )
        return
    if asked.given:
        name = next(iter(asked.given)).replace("_", "-")
        raise usage_error(f"--plan: given together with --{name}; a plan says all of what is removed")
    if not file.is_file():
        raise usage_error(f"--plan: the file {file} does not exist; give what graphprune plan -o wrote")


def check_repair(left_out: bool, data: CalibrationOptions) -> None:
    """Usage is wrong if repair is left out where there is none."""
    if left_out and data.calibration is None:
        raise usage_error("--no-repair: is about --calibration, without which nothing is repaired; leave it out")


def warn_of_unread(out: Output, asked: PlanOptions, data: CalibrationOptions) -> None:
    """Say that data makes no difference, where nothing is repaired and no criterion reads it."""
    if data.calibration is not None and not asked.reads_data():
        name = asked.given.get("importance", "l2")
        out.warn(f"--calibration: makes no difference to this plan, as --importance {name} reads no data")


def requested_plan(
    out: Output,
    given: PrunableOptions,
    asked: PlanOptions,
    data: CalibrationOptions,
    file: Path | None = None,
    meta: bool = False,
    repair: bool | None = None,
) -> Planned:
    """Build and trace the model, read the data, and make the plan or read it.

    Args:
        repair: is the slim model repaired with the data? Several criteria are tried then, unless one is named. None:
            nothing is known of that.
    """
    read = None if file is None else read_plan(file)
    arguments = asked.arguments()
    if meta and given.weights is not None:
        arguments["weights"] = given.weights
    calls = () if read is None else tuple(map(inputs_of_spec, read.inputs))
    model, graph = traced(out, given.spec, given, meta, calls, pruned=True)
    batches = None
    if data.calibration is not None:
        batches, found = data.reader().read(model, given.spec, graph.examples)
        out.note(f"calibration: {found}")
        arguments["calibration"] = batches
    if read is not None:
        read.check(model)
        return Planned(model, graph, read, batches)
    with out.stage("planning"):
        plan = _plan(graph, arguments, repair)
    return Planned(model, graph, plan, InputsOnly(batches) if "loss_fn" in arguments and batches else batches)


def _plan(graph: graphprune.ChannelGraph, arguments: dict[str, Any], repair: bool | None) -> graphprune.Plan:
    """The plan by the criterion that is named; without a name, as ``prune_model`` chooses."""
    given = dict(arguments)
    options = PruningOptions.of(given.pop("ratio", None), given)
    if repair and "calibration" in given and "importance" not in given:
        options = with_default_criterion(graph.model, options)
    return graph.plan_of(options, repaired=repair is not False)


def read_plan(file: Path) -> graphprune.Plan:
    """The plan in a file."""
    try:
        return graphprune.Plan.from_json(file.read_text(encoding="utf-8"))
    except (LoadError, UnicodeDecodeError) as error:
        raise LoadError(
            f"--plan: {file} holds no plan",
            where=str(file),
            found=error.what if isinstance(error, LoadError) else str(error),
            needed="a plan as JSON",
            do="give what graphprune plan -o wrote",
        ) from error
