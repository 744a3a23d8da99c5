"""``graphprune report SPEC -o FILE``: a page about a model and a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import graphprune
from graphprune.cli.calibration_options import CalibrationOptions
from graphprune.cli.found_model import traced
from graphprune.cli.model_options import Meta, ModelOptions
from graphprune.cli.option_groups import flag, usage_error
from graphprune.cli.output import Output
from graphprune.cli.page import check_page
from graphprune.cli.plan_options import PlanOptions
from graphprune.cli.planned import PlanFile, check_request, requested_plan


def report_command(
    out: Output,
    given: ModelOptions,
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
    if wanted:
        check_request(given, asked, data, plan, meta)
    elif timed or verified:
        raise usage_error(f"--{'timed' if timed else 'verify'}: is about a plan; give --plan FILE, or --ratio 0.5")
    if meta and (timed or verified):
        raise usage_error(f"--{'timed' if timed else 'verify'}: given together with --meta, where there are no values")
    check_page("-o", output)
    shown: dict[str, Any] = {}
    if wanted:
        planned = requested_plan(out, given, asked, data, plan, meta)
        graph = planned.graph
        shown["plan"] = planned.plan
        slim = planned.plan.apply(planned.model) if timed or verified else planned.model
        if verified:
            with out.stage("comparing the slim model with the masked original"):
                shown["verification"] = graphprune.verify(planned.model, slim, planned.plan, planned.inputs())
        if timed:
            with out.stage("timing"):
                found = graphprune.measure({"dense": planned.model, "slim": slim}, planned.inputs())
                shown["latency"] = dict(found.measurements)
    else:
        _, graph = traced(out, given.spec, given, meta)
    graphprune.write_report(output, graph, **shown)
    out.result(lambda: [f"page written to {output}"], lambda: {"spec": given.spec, "written": str(output)}, output)
    return 0
