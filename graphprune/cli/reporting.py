"""``graphprune report SPEC -o FILE``: a page about a model and a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import graphprune
from graphprune.cli.calibration_options import CalibrationOptions
from graphprune.cli.found_model import traced
from graphprune.cli.model_options import Meta
from graphprune.cli.option_groups import flag, usage_error
from graphprune.cli.output import Output
from graphprune.cli.page import check_page
from graphprune.cli.plan_options import PlanOptions
from graphprune.cli.planned import PlanFile, Planned, check_request, requested_plan, warn_of_unread
from graphprune.cli.prunable import PrunableOptions


def report_command(
    out: Output,
    given: PrunableOptions,
    asked: PlanOptions,
    data: CalibrationOptions,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="the page, such as report.html", show_default=False)
    ],
    plan: PlanFile = None,
    timed: Annotated[
        bool, flag("--timed", help="measure the dense and the slim model, and show their latency")
    ] = False,
    verified: Annotated[bool, flag("--verify", help="compare with the masked original, and show it")] = False,
    meta: Meta = False,
) -> int:
    """Write a page for a browser about a model, and about a plan if there is one; nothing is saved but the page.

    Examples:
        graphprune report torchvision:resnet50 -o report.html
        graphprune report torchvision:resnet50 --pretrained --macs 0.5 --verify --timed -o report.html
        graphprune report torchvision:resnet50 --plan plan.json -o report.html
    """
    wanted = plan is not None or bool(asked.given)
    if data.calibration is not None and not asked.given:
        raise usage_error("--calibration: is for criteria of a plan, and none is asked for; leave it out")
    given.check_meta(meta, planned=bool(asked.given))
    if wanted:
        check_request(given, asked, data, plan, meta)
    if timed or verified:
        _check_measurable("--timed" if timed else "--verify", wanted, meta)
    check_page("-o", output)
    if wanted:
        warn_of_unread(out, asked, data)
        planned = requested_plan(out, given, asked, data, plan, meta)
        graphprune.write_report(output, planned.graph, planned.plan, **_measured(out, planned, timed, verified))
    else:
        _, graph = traced(out, given.spec, given, meta)
        graphprune.write_report(output, graph)
    out.result(lambda: [f"page written to {output}"], lambda: {"spec": given.spec, "written": str(output)}, output)
    return 0


def _check_measurable(option: str, wanted: bool, meta: bool) -> None:
    """A slim model can only be run where there is a plan, and weights."""
    if not wanted:
        raise usage_error(f"{option}: is about a plan; give --plan FILE, or --ratio 0.5")
    if meta:
        raise usage_error(f"{option}: given together with --meta, where there are no values")


def _measured(out: Output, planned: Planned, timed: bool, verified: bool) -> dict[str, Any]:
    """What a page shows of the slim model, as arguments of :func:`graphprune.write_report`."""
    found: dict[str, Any] = {}
    slim = planned.plan.apply(planned.model) if timed or verified else planned.model
    if verified:
        with out.stage("comparing the slim model with the masked original"):
            found["verification"] = graphprune.verify(planned.model, slim, planned.plan, planned.inputs())
    if timed:
        with out.stage("timing"):
            both = graphprune.measure({"dense": planned.model, "slim": slim}, planned.inputs())
            found["latency"] = dict(both.measurements)
    return found
