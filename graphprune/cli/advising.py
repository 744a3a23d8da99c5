"""``graphprune advise SPEC --target macs=0.5``: what to do with a model, and why."""

from __future__ import annotations

from typing import Annotated

import typer

import graphprune
from graphprune.advice.targets import RUNTIMES, parse_target
from graphprune.cli.device_option import check_device
from graphprune.cli.found_model import built
from graphprune.cli.model_options import Meta
from graphprune.cli.option_groups import usage_error
from graphprune.cli.option_values import read_budget, read_positive
from graphprune.cli.output import Output
from graphprune.cli.prunable import PrunableOptions
from graphprune.errors import InputError

_RUNTIMES = ", ".join(RUNTIMES)


def advise_command(
    out: Output,
    given: PrunableOptions,
    meta: Meta = False,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="TEXT",
            help=f"budgets (macs=0.5, latency=5ms), what runs the model ({_RUNTIMES}), or both, separated by commas",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="NAME", help="where it is to run, such as cuda; without, as the target says"),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", parser=read_positive, metavar="N", help="how long measurements may take")
    ] = 60.0,
) -> int:
    """Say how to prune a model, and why, from what is measured on it.

    Examples:
        graphprune advise torchvision:resnet50 --pretrained --target macs=0.5
        graphprune advise hf:llama --meta --target vllm
        graphprune advise net.py:make --target latency=5ms --seconds 20
    """
    given.check_meta(meta)
    _check_target(target)
    if device is not None:
        check_device(device)
    model = built(out, given.spec, given, meta)
    advice = graphprune.advise(model, given.inputs(model), target=target, device=device, seconds=seconds)
    out.result(lambda: [advice], advice.to_json)
    return 0


def _check_target(target: str | None) -> None:
    """Usage is wrong if a target is none, or a budget of it is neither a fraction nor an amount."""
    try:
        parse_target(target)
    except InputError as error:
        raise usage_error(f"--target: {error.what.removeprefix('target: ')}") from error
    for part in (target or "").split(","):
        kind, equal, amount = (text.strip() for text in part.partition("="))
        try:
            read_budget(amount if equal else "0.5")
        except typer.BadParameter as error:
            raise usage_error(f"--target: {kind}: {error.message}") from error
