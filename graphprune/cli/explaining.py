"""``graphprune explain SPEC NAME``: what goes with a part of a model, and why channels stay."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import graphprune
from graphprune.cli.found_model import traced
from graphprune.cli.model_options import Meta
from graphprune.cli.option_groups import flag
from graphprune.cli.output import Output
from graphprune.cli.prunable import PrunableOptions


def explain_command(
    out: Output,
    given: PrunableOptions,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help='a module, parameter, axis ("fc.weight\\[0]") or group of it')
    ],
    why_frozen: Annotated[
        bool, flag("--why-frozen", help="say only why channels stay, and what to do about it")
    ] = False,
    meta: Meta = False,
) -> int:
    """Say what goes with a layer, what one channel saves, and why channels stay.

    Examples:
        graphprune explain torchvision:resnet50 layer2.0.conv1
        graphprune explain torchvision:resnet50 fc --why-frozen
        graphprune explain hf:llama model.layers.0.mlp.up_proj --meta
    """
    given.check_meta(meta)
    _, graph = traced(out, given.spec, given, meta)
    explanation = (graph.why_frozen if why_frozen else graph.explain)(name)
    out.result(lambda: [explanation], lambda: _data(explanation))
    return 0


def _data(explanation: graphprune.Explanation) -> dict[str, Any]:
    frozen = [{"axis": f.axis, "count": f.count, "size": f.size, "reason": f.reason} for f in explanation.frozen]
    groups = [group.name for group in explanation.groups]
    return {"name": explanation.name, "groups": groups, "frozen": frozen, "text": str(explanation).splitlines()}
