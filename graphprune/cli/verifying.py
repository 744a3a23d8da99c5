"""``graphprune verify SPEC DIR``: is a slim model the masked original?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from torch import nn

import graphprune
from graphprune.cli.bundles import BundleFolder, check_bundle, traced_inputs
from graphprune.cli.found_model import built
from graphprune.cli.json_data import check_data_of
from graphprune.cli.model_options import ModelOptions
from graphprune.cli.option_values import read_positive
from graphprune.cli.output import Output
from graphprune.errors import PlanError
from graphprune.pruning.plan import plans_of

Tolerance = Annotated[
    float,
    typer.Option(
        "--tolerance",
        metavar="X",
        parser=read_positive,
        help="the largest relative difference that passes, but for what rounding alone makes",
    ),
]


def verify_command(out: Output, given: ModelOptions, bundle: BundleFolder, tolerance: Tolerance = 1e-10) -> int:
    """Compare a slim model with the original from which the same channels are masked, in float64.

    It says whether the slim model is what the plan makes of this original.
    A model that was repaired or trained afterwards differs, as it should: the exit code is 1.

    Examples:
        graphprune verify torchvision:resnet50 slim --pretrained
        graphprune verify net.py:make slim --weights dense.pt --json
    """
    check_bundle(bundle, given.spec)
    model = built(out, given.spec, given)
    slim = graphprune.load(bundle, model=model).eval()
    with out.stage("comparing the slim model with the masked original"):
        plan, inputs = only_plan(slim, bundle), traced_inputs(slim, given.input)
        check = graphprune.verify(model, slim, plan, inputs, tolerance=tolerance)
    out.result(lambda: [check], lambda: {"spec": given.spec, "bundle": str(bundle), **check_data_of(check)})
    return 0 if check.passed else 1


def only_plan(slim: nn.Module, bundle: Path) -> graphprune.Plan:
    """The plan that a slim model was made by; there must be one."""
    plans = plans_of(slim)
    if len(plans) != 1:
        raise PlanError(
            f"DIR: {bundle} went through {len(plans)} plans, one after the other",
            where=str(bundle),
            found=f"{len(plans)} plans",
            needed="one plan, which leads from SPEC to the slim model",
            do="call graphprune.verify or graphprune.repair from Python, with the model before the last plan",
        )
    (plan,) = plans
    return plan
