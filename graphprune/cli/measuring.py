"""``graphprune measure SPEC_OR_DIR ...``: what models are and take, side by side if there are several."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer
from torch import nn

import graphprune
from graphprune.cli.bundles import BundleOptions, is_bundle, traced_inputs
from graphprune.cli.found_model import built
from graphprune.cli.model_options import Meta, WeightOptions
from graphprune.cli.option_groups import flag, usage_error
from graphprune.cli.option_values import read_shape, read_whole_number
from graphprune.cli.output import OUTPUT_PANEL, Output
from graphprune.cli.spec_forms import SPEC_FORMS, check_spec, complete_spec

TIMING = "Timing"
_Found = graphprune.Measurement | graphprune.Comparison
_Specs = Annotated[
    list[str],
    typer.Argument(
        metavar="SPEC",
        help=f"{SPEC_FORMS}; or the DIR of a slim model; several are compared",
        autocompletion=complete_spec,
        show_default=False,
    ),
]
Batch = Annotated[
    Any,
    typer.Option(
        "--batch", metavar="SIZES", parser=read_shape, help="time these batch sizes too: 1,8", rich_help_panel=TIMING
    ),
]
Compiled = Annotated[bool, flag("--compiled", help="time it with torch.compile too", panel=TIMING)]
Threads = Annotated[
    Any,
    typer.Option(
        "--threads", metavar="N", parser=read_whole_number, help="of torch on the CPU", rich_help_panel=TIMING
    ),
]
Repeats = Annotated[
    Any,
    typer.Option(
        "--repeats", metavar="N", parser=read_whole_number, help="timed calls, at least", rich_help_panel=TIMING
    ),
]
_Untimed = Annotated[bool, flag("--untimed", help="measure sizes only", panel=TIMING)]
_Layers = Annotated[bool, flag("--layers", help="show each layer, too", panel=OUTPUT_PANEL)]
_Markdown = Annotated[bool, flag("--markdown", help="print a table of Markdown", panel=OUTPUT_PANEL)]


def measure_command(
    out: Output,
    specs: _Specs,
    given: WeightOptions,
    bundles: BundleOptions,
    meta: Meta = False,
    batch: Batch = None,
    compiled: Compiled = False,
    threads: Threads = None,
    repeats: Repeats = 10,
    untimed: _Untimed = False,
    layers: _Layers = False,
    markdown: _Markdown = False,
) -> int:
    """Show what models are and take: parameters, zeros, MACs, memory and time; several side by side.

    Examples:
        graphprune measure torchvision:resnet50
        graphprune measure torchvision:resnet50 slim --batch 1,8
        graphprune measure hf:llama --meta --markdown
    """
    _check_forms([name for name, on in (("layers", layers), ("markdown", markdown), ("json", out.json)) if on])
    check_names(specs, given)
    models = {name: bundles.load(name) if is_bundle(name) else built(out, name, given, meta) for name in specs}
    with out.stage("measuring"):
        found = graphprune.measure(
            models if len(models) > 1 else models[specs[0]],
            _inputs(models, given),
            batch_sizes=batch or (),
            compiled=compiled,
            threads=threads,
            repeats=repeats,
            timed=not untimed,
        )
    out.result(lambda: [found.to_markdown().rstrip("\n")] if markdown else _parts(found, layers), found.to_json)
    return 0


def _check_forms(forms: list[str]) -> None:
    if len(forms) > 1:
        raise usage_error(f"--{forms[0]}: given together with --{forms[1]}; give one of them")


def check_names(names: list[str], given: WeightOptions, least: int = 1) -> None:
    """Usage is wrong if there are too few models, a name stands for two, or weights do."""
    if len(names) < least:
        raise usage_error(f"SPEC_OR_DIR: there is {len(names)}; give the dense model, and slim ones to compare with it")
    if len(set(names)) < len(names):
        raise usage_error("SPEC: the same model is named twice")
    if given.weights is not None and sum(not is_bundle(name) for name in names) != 1:
        raise usage_error("--weights: is for one SPEC; a folder of graphprune prune has its own weights")
    for name in names:
        if not is_bundle(name):
            check_spec(name)


def _inputs(models: dict[str, nn.Module], given: WeightOptions) -> Any:
    """Of the shape that was given; else those that a bundle was traced with; else found from the first model."""
    bundle = next((model for name, model in models.items() if is_bundle(name)), None)
    return given.inputs() if given.input is not None or bundle is None else traced_inputs(bundle, None)


def _parts(found: _Found, layers: bool) -> Iterator[Any]:
    yield found
    if layers:
        for one in [found] if isinstance(found, graphprune.Measurement) else found.measurements.values():
            yield f"\n{one.layer_table()}"
