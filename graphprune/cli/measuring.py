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
from graphprune.cli.option_values import at_least, read_shape
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
    typer.Option("--threads", metavar="N", parser=at_least(1), help="of torch on the CPU", rich_help_panel=TIMING),
]


def repeats_option(default: int) -> Any:
    """The option that says how often a model is called while it is timed."""
    text = f"timed calls, at least; without, {default}"
    return typer.Option("--repeats", metavar="N", parser=at_least(1), help=text, rich_help_panel=TIMING)


_REPEATS = 10
_Repeats = Annotated[Any, repeats_option(_REPEATS)]
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
    repeats: _Repeats = None,
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
    timing = {"batch": batch, "compiled": compiled or None, "threads": threads, "repeats": repeats}
    for name in (name for name, on in (("untimed", untimed), ("meta", meta)) if on):
        _check_untimed(timing, name)
    check_names(specs, given)
    bundles.check_used(specs)
    given.check_meta(meta)
    if meta and any(map(is_bundle, specs)):
        raise usage_error("--meta: is for a SPEC; the folder of a slim model is loaded with its weights")
    models = {name: bundles.load(name) if is_bundle(name) else built(out, name, given, meta) for name in specs}
    with out.stage("measuring"):
        found = graphprune.measure(
            models if len(models) > 1 else models[specs[0]],
            inputs_of(models, given),
            batch_sizes=batch or (),
            compiled=compiled,
            threads=threads,
            repeats=repeats or _REPEATS,
            timed=not untimed,
        )
    out.result(lambda: [found.to_markdown().rstrip("\n")] if markdown else _parts(found, layers), found.to_json)
    return 0


def _check_forms(forms: list[str]) -> None:
    if len(forms) > 1:
        raise usage_error(f"--{forms[0]}: given together with --{forms[1]}; give one of them")


def _check_untimed(options: dict[str, Any], by: str) -> None:
    """Usage is wrong if an option of timing is given together with ``by``, with which nothing is timed."""
    name = next((name for name, value in options.items() if value is not None), None)
    if name is not None:
        raise usage_error(f"--{name}: given together with --{by}, with which nothing is timed; leave out one of them")


def check_names(names: list[str], given: WeightOptions, least: int = 1) -> None:
    """Usage is wrong if there are too few models, a name stands for two, or weights do."""
    if len(names) < least:
        raise usage_error(f"SPEC_OR_DIR: there is {len(names)}; give the dense model, and slim ones to compare with it")
    if len(set(names)) < len(names):
        raise usage_error("SPEC: the same model is named twice")
    if given.weights is not None and sum(not is_bundle(name) for name in names) != 1:
        raise usage_error("--weights: is for one SPEC; a folder of graphprune prune has its own weights")
    if given.pretrained and all(map(is_bundle, names)):
        raise usage_error("--pretrained: is for a SPEC; a folder of graphprune prune has its own weights")
    for name in names:
        if not is_bundle(name):
            check_spec(name)


def inputs_of(models: dict[str, nn.Module], given: WeightOptions) -> Any:
    """Of the shape that was given; else those that a bundle was traced with; else found from the first model."""
    if given.input is not None:
        return given.inputs(next(iter(models.values())))
    bundle = next((model for name, model in models.items() if is_bundle(name)), None)
    return None if bundle is None else traced_inputs(bundle, None)


def _parts(found: _Found, layers: bool) -> Iterator[Any]:
    yield found
    if layers:
        for one in [found] if isinstance(found, graphprune.Measurement) else found.measurements.values():
            yield f"\n{one.layer_table()}"
