"""``graphprune plan SPEC --ratio 0.5``: what would be removed, printed and written to a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from graphprune.cli.calibration_options import CalibrationOptions
from graphprune.cli.json_data import plan_data
from graphprune.cli.model_options import Meta
from graphprune.cli.output import Output
from graphprune.cli.output_paths import check_new_file, write_text
from graphprune.cli.plan_options import PlanOptions
from graphprune.cli.planned import Planned, check_request, requested_plan, warn_of_unread
from graphprune.cli.prunable import PrunableOptions
from graphprune.cli.tables import before_after_table


def plan_command(
    out: Output,
    given: PrunableOptions,
    asked: PlanOptions,
    data: CalibrationOptions,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="write the plan as JSON, for prune --plan")
    ] = None,
    meta: Meta = False,
) -> int:
    """Show what would be removed, and write it to a file for graphprune prune --plan; nothing is pruned.

    With --meta nothing is loaded: the weights of a folder of safetensors are read tensor by tensor.

    Examples:
        graphprune plan torchvision:resnet50 --pretrained --macs 0.5 -o plan.json
        graphprune plan hf:checkpoint --meta --weights checkpoint --ratio 0.3 -o plan.json
        graphprune plan net.py:make --ratio 0.5 --overrides 'stem*:frozen' --json
    """
    check_request(given, asked, data, None, meta)
    if output is not None:
        check_new_file("-o", output)
    warn_of_unread(out, asked, data)
    planned = requested_plan(out, given, asked, data, meta=meta)
    if output is not None:
        write_text(output, planned.plan.to_json())
    out.result(lambda: _parts(planned, output), lambda: plan_data(given.spec, planned, output), output)
    return 0


def _parts(planned: Planned, output: Path | None) -> Iterator[Any]:
    graph, plan = planned.graph, planned.plan
    yield before_after_table(planned.model, plan, graph.cost(), graph.cost(plan))
    yield plan
    if output is not None:
        yield f"plan written to {output}"
