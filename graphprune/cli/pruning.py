"""``graphprune prune SPEC --ratio 0.5 -o DIR``: a smaller model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from torch import nn

import graphprune
from graphprune.cli.calibration_options import CalibrationOptions
from graphprune.cli.json_data import prune_data
from graphprune.cli.option_groups import OptionGroup, flag
from graphprune.cli.output import Output
from graphprune.cli.output_paths import Force, OutputFolder, check_apart, check_folder
from graphprune.cli.page import Html, check_page, write_page
from graphprune.cli.plan_options import PlanOptions
from graphprune.cli.planned import PlanFile, Planned, check_repair, check_request, requested_plan, warn_of_unread
from graphprune.cli.prunable import PrunableOptions
from graphprune.cli.tables import before_after_table, reason_table
from graphprune.pruning.plan import TRIED, tried_table


@dataclass(kw_only=True)
class PruneOptions(OptionGroup):
    """Where the slim model goes, and what is done besides pruning."""

    output: OutputFolder
    force: Force = False
    plan: PlanFile = None
    no_verify: Annotated[bool, flag("--no-verify", help="do not compare with the masked original")] = False
    no_repair: Annotated[
        bool, flag("--no-repair", help="with --calibration: do not let what is left make up for what is removed")
    ] = False
    html: Html = None


@dataclass(frozen=True)
class Pruned:
    """A slim model, and what was found about it."""

    planned: Planned
    slim: nn.Module
    check: graphprune.Verification | None
    repair: graphprune.Repair | None
    saved: Path | None


def prune_command(
    out: Output, given: PrunableOptions, asked: PlanOptions, data: CalibrationOptions, options: PruneOptions
) -> int:
    """Write a smaller model of the same class, and check that it equals the masked original.

    With --calibration it is repaired afterwards: what is left makes up for what was removed, without labels. Unless
    --importance names a criterion, several are tried, and the best plan is taken (--importance auto); --importance l2
    is faster.

    Examples:
        graphprune prune torchvision:resnet50 --pretrained --ratio 0.3 -o slim
        graphprune prune hf:checkpoint --params 0.7 --serve vllm --calibration texts.jsonl -o slim
        graphprune prune net.py:make --weights dense.pt --macs 0.5 --multiple 8 -o slim --html report.html
        graphprune prune torchvision:resnet50 --pretrained --plan plan.json -o slim
    """
    check_request(given, asked, data, options.plan)
    check_repair(options.no_repair, data)
    check_folder(options.output, given.spec, given.weights, options.force)
    check_page("--html", options.html)
    check_apart({"-o": options.output, "--html": options.html})
    if options.no_repair:
        warn_of_unread(out, asked, data)
    planned = requested_plan(out, given, asked, data, options.plan, repair=not options.no_repair)
    pruned = _prune(out, planned, options)
    shown = {"plan": pruned.planned.plan, "repair": pruned.repair, "verification": pruned.check}
    write_page(out, options.html, pruned.planned.graph, **shown)
    out.result(lambda: _parts(pruned), lambda: prune_data(given.spec, pruned), pruned.saved, options.html)
    return 0 if pruned.saved is not None else _not_saved(out, pruned.check)


def _prune(out: Output, planned: Planned, options: PruneOptions) -> Pruned:
    model, plan = planned.model, planned.plan
    slim = plan.apply(model)
    check = repair = None
    if not options.no_verify:
        with out.stage("comparing the slim model with the masked original"):
            check = graphprune.verify(model, slim, plan, planned.inputs())
    passed = check is None or check.passed
    if passed and planned.batches is not None and not options.no_repair:
        repair = graphprune.repair(slim, model, plan, planned.batches)
    if passed:
        with out.stage(f"writing {options.output}"):
            graphprune.save(slim, options.output, beside_others=options.force)
    return Pruned(planned, slim, check, repair, options.output if passed else None)


def _parts(pruned: Pruned) -> Iterator[Any]:
    graph, plan = pruned.planned.graph, pruned.planned.plan
    yield before_after_table(pruned.planned.model, plan, graph.cost(), graph.cost(plan))
    yield from (f"without {path}" for path in plan.skipped)
    if TRIED in plan.requested:
        yield tried_table(plan.requested[TRIED], plan.requested.get("importance"))
    if graph.frozen:
        yield reason_table(graph)
    yield "not verified" if pruned.check is None else pruned.check
    if pruned.repair is not None:
        yield repr(pruned.repair)
    if pruned.saved is not None:
        yield f"saved in {pruned.saved}"


def _not_saved(out: Output, check: Any) -> int:
    wrong = "nothing was verified" if check.vacuous else "the slim model differs from the masked original"
    out.fail(f"{wrong}; not saved")
    return 1
