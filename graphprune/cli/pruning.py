"""``graphprune prune SPEC --ratio 0.5 -o DIR``: a smaller model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from torch import nn

import graphprune
from graphprune.cli.json_data import prune_data
from graphprune.cli.model_options import ModelOptions
from graphprune.cli.models import has_random_weights
from graphprune.cli.option_groups import flag
from graphprune.cli.output import Output
from graphprune.cli.output_paths import Force, OutputFolder, check_folder
from graphprune.cli.page import Html, check_page, write_page
from graphprune.cli.plan_options import PlanOptions
from graphprune.cli.tables import before_after_table, reason_table
from graphprune.tracing.example_inputs.guess import example_inputs_for

TRAINED = "to prune a trained one give --weights PATH, --pretrained (torchvision, timm) or a checkpoint (hf:DIRECTORY)"


def prune_command(
    out: Output,
    given: ModelOptions,
    asked: PlanOptions,
    output: OutputFolder,
    force: Force = False,
    no_verify: Annotated[bool, flag("--no-verify", help="do not compare with the masked original")] = False,
    html: Html = None,
) -> int:
    """Write a smaller model of the same class, and check that it equals the masked original.

    Examples:
        graphprune prune torchvision:resnet50 --pretrained --ratio 0.3 -o slim
        graphprune prune hf:checkpoint --params 0.7 --serve vllm -o slim
        graphprune prune net.py:make --weights dense.pt --macs 0.5 --multiple 8 -o slim --html report.html
    """
    asked.check()
    check_folder(output, given.spec, given.weights, force)
    check_page("--html", html)
    _warn_of_random_weights(out, given)
    model = given.model()
    inputs = given.inputs()
    graph = graphprune.trace(model, inputs)
    plan = graph.plan(**asked.arguments())
    slim = plan.apply(model)
    check = None
    if not no_verify:
        inputs = example_inputs_for(model) if inputs is None else inputs
        check = graphprune.verify(model, slim, plan, inputs)
    saved = output if check is None or check.passed else None
    if saved is not None:
        graphprune.save(slim, saved, beside_others=force)
    write_page(out, html, graph, plan, check)
    out.result(
        lambda: _parts(model, graph, plan, check, saved),
        lambda: prune_data(given.spec, model, graph, plan, check, saved),
        saved,
    )
    return 0 if saved is not None else _not_saved(out, check)


def _warn_of_random_weights(out: Output, given: ModelOptions) -> None:
    """Say that nothing learned is in what is about to be pruned."""
    if given.weights is None and not given.pretrained and has_random_weights(given.spec):
        out.warn(f"{given.spec} has RANDOM weights, and so will the slim model; {TRAINED}")


def _parts(model: nn.Module, graph: Any, plan: Any, check: Any, saved: Path | None) -> Iterator[Any]:
    yield before_after_table(model, plan, graph.cost(), graph.cost(plan))
    if graph.frozen:
        yield reason_table(graph)
    yield "not verified" if check is None else check
    if saved is not None:
        yield f"saved in {saved}"


def _not_saved(out: Output, check: Any) -> int:
    wrong = "nothing was verified" if check.vacuous else "the slim model differs from the masked original"
    out.fail(f"{wrong}; not saved")
    return 1
