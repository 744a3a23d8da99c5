"""``graphprune compact SPEC --weights PATH -o DIR``: a smaller model without the channels that are zero already."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

import graphprune
from graphprune.cli.found_model import built
from graphprune.cli.json_data import zeros_data
from graphprune.cli.option_groups import flag, usage_error
from graphprune.cli.option_values import at_least, read_number
from graphprune.cli.output import Output
from graphprune.cli.output_paths import Force, OutputFolder, check_folder
from graphprune.cli.prunable import PrunableOptions
from graphprune.cli.weights import read_state_dict

_Masks = Annotated[
    Path | None, typer.Option("--masks", metavar="PATH", help="masks by the names of parameters, as --weights")
]
_Threshold = Annotated[
    float,
    typer.Option("--threshold", parser=at_least(0, read_number), metavar="X", help="weights up to X count as zero"),
]
_Relative = Annotated[bool, flag("--relative", help="X is a fraction of a parameter's largest weight")]


def compact_command(
    out: Output,
    given: PrunableOptions,
    output: OutputFolder,
    force: Force = False,
    masks: _Masks = None,
    threshold: _Threshold = 0.0,
    relative: _Relative = False,
) -> int:
    """Write a smaller model without the channels that are zero already.

    What went is printed, and what of it stays and why. Nothing is saved, and the exit code is 1, where nothing can go.

    Examples:
        graphprune compact torchvision:resnet18 --weights masked.pt -o slim
        graphprune compact net.py:make --weights dense.pt --masks masks.safetensors -o slim
        graphprune compact net.py:make --weights sparse.pt --threshold 1e-4 --relative -o slim
    """
    check_folder(output, given.spec, given.weights, force)
    if relative and not threshold:
        raise usage_error("--relative: is about --threshold, which is not given; give it, too, or leave this out")
    if masks is not None and not masks.exists():
        raise usage_error(f"--masks: {masks} does not exist; give a file of masks, or a folder with one")
    model = built(out, given.spec, given)
    read = None if masks is None else read_state_dict(masks)
    found = graphprune.zero_channels(model, given.inputs(model), masks=read, threshold=threshold, relative=relative)
    saved = output if found.removed else None
    if saved is not None:
        graphprune.save(found.slim, saved, beside_others=force)
    out.result(lambda: _parts(found, saved), lambda: zeros_data(given.spec, found, saved), saved)
    if saved is None:
        out.fail("no channel can go; not saved")
    return 0 if saved is not None else 1


def _parts(found: graphprune.ZeroChannels, saved: Path | None) -> Iterator[Any]:
    yield found
    if saved is not None:
        yield f"saved in {saved}"
