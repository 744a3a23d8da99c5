"""``graphprune measure SPEC_OR_DIR ...``: what models are and take, side by side if there are several."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from torch import nn

import graphprune
from graphprune.cli.export import example_inputs
from graphprune.cli.given_model import given_inputs, given_model
from graphprune.cli.models import load_spec
from graphprune.export.bundle import bundle_versions


def measure_models(options: argparse.Namespace) -> int:
    """Print what each model takes, as tables, JSON or Markdown."""
    _check(options)
    models = {name: _model(name, options) for name in options.specs}
    timing: dict[str, Any] = {
        "batch_sizes": options.batch,
        "compiled": options.compiled,
        "threads": options.threads,
        "repeats": options.repeats,
        "timed": not options.untimed,
    }
    several = len(models) > 1
    found = graphprune.measure(models if several else models[options.specs[0]], _inputs(models, options), **timing)
    if options.json:
        print(found.to_json())
    elif options.markdown:
        print(found.to_markdown(), end="")
    else:
        _print_tables(found, options.layers)
    return 0


def _check(options: argparse.Namespace) -> None:
    """Usage is wrong if a name stands for two models, or weights do."""
    if len(set(options.specs)) < len(options.specs):
        options.usage_error("SPEC: the same model is named twice")
    if options.weights is not None and (len(options.specs) > 1 or _is_bundle(options.specs[0])):
        options.usage_error("--weights: is for one SPEC; a folder of graphprune prune has its own weights")


def _is_bundle(name: str) -> bool:
    return Path(name).is_dir() and bundle_versions(Path(name)).latest() is not None


def _model(name: str, options: argparse.Namespace) -> nn.Module:
    if not _is_bundle(name):
        return given_model(argparse.Namespace(**{**vars(options), "spec": name}))
    dense = None if options.model is None else load_spec(options.model, device="meta")
    return graphprune.load(name, model=dense, trust_factory=options.trust_factory).eval()


def _inputs(models: dict[str, nn.Module], options: argparse.Namespace) -> Any:
    """Of the shape that was given; else those that a bundle was traced with; else found from the first model."""
    bundle = next((model for name, model in models.items() if _is_bundle(name)), None)
    return given_inputs(options) if options.input is not None or bundle is None else example_inputs(bundle, options)


def _print_tables(found: graphprune.Measurement | graphprune.Comparison, layers: bool) -> None:
    print(found)
    if layers:
        for one in [found] if isinstance(found, graphprune.Measurement) else found.measurements.values():
            print(f"\n{one.layer_table()}")
