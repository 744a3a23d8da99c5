"""``graphprune repair SPEC DIR --calibration DATA -o DIR``: let what is left make up for what was removed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

import graphprune
from graphprune.cli.bundles import BundleFolder, check_bundle, traced_inputs
from graphprune.cli.calibration_options import CalibrationOptions
from graphprune.cli.found_model import built
from graphprune.cli.json_data import repair_data
from graphprune.cli.model_options import ModelOptions
from graphprune.cli.option_groups import flag, usage_error
from graphprune.cli.option_values import read_positive
from graphprune.cli.output import Output
from graphprune.cli.output_paths import Force, OutputFolder, check_folder
from graphprune.cli.verifying import only_plan
from graphprune.tracing.inputs import calls_of

Ridge = Annotated[
    Any,
    typer.Option(
        "--ridge",
        metavar="X",
        parser=read_positive,
        help="penalty on changes of weights, as a fraction of the inputs' mean square; without, by the amount of data",
    ),
]


def repair_command(
    out: Output,
    given: ModelOptions,
    bundle: BundleFolder,
    data: CalibrationOptions,
    output: OutputFolder,
    force: Force = False,
    ridge: Ridge = None,
    keep_statistics: Annotated[
        bool, flag("--keep-statistics", help="do not re-estimate the statistics of batch norms")
    ] = False,
) -> int:
    """Let what is left of a slim model make up for what was removed: in closed form, without labels.

    SPEC is the original with its weights, DIR the slim model that graphprune prune made of it.

    Examples:
        graphprune repair torchvision:resnet50 slim --pretrained --calibration images -o repaired
        graphprune repair hf:checkpoint slim --calibration texts.jsonl --samples 64 -o repaired
        graphprune repair net.py:make slim --weights dense.pt --calibration data.py:batches -o repaired
    """
    if data.calibration is None:
        raise usage_error("--calibration: is missing; repair needs data: give a folder, a .jsonl or module:function")
    check_bundle(bundle, given.spec)
    check_folder(output, given.spec, given.weights, force)
    model = built(out, given.spec, given)
    slim = graphprune.load(bundle, model=model).eval()
    plan = only_plan(slim, bundle)
    batches, found = data.reader().read(model, given.spec, calls_of(traced_inputs(slim, given.input)))
    out.note(f"calibration: {found}")
    repaired = graphprune.repair(slim, model, plan, batches, ridge=ridge, reestimate=not keep_statistics)
    graphprune.save(slim, output, beside_others=force)
    out.result(lambda: _parts(repaired, output), lambda: repair_data(given.spec, repaired, output), output)
    return 0


def _parts(repaired: graphprune.Repair, output: Path) -> Iterator[Any]:
    yield repaired
    yield f"saved in {output}"
