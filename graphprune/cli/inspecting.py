"""``graphprune inspect SPEC``: what can be pruned, and why the rest cannot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

from graphprune.cli.found_model import traced
from graphprune.cli.json_data import graph_data
from graphprune.cli.model_options import Meta
from graphprune.cli.option_groups import flag, usage_error
from graphprune.cli.output import OUTPUT_PANEL, Output
from graphprune.cli.output_paths import check_apart, check_new_file, check_own
from graphprune.cli.page import Html, check_page, write_page
from graphprune.cli.prunable import PrunableOptions
from graphprune.cli.tables import reason_table, size_table
from graphprune.graph.listing import group_table
from graphprune.inspection.coupling_files import COUPLING_SUFFIXES
from graphprune.utils.tables import Table

_SUFFIXES = ", ".join(COUPLING_SUFFIXES)


def inspect_command(
    out: Output,
    given: PrunableOptions,
    meta: Meta = False,
    all: Annotated[bool, flag("--all", help="show every group, equal layers too")] = False,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="FILE",
            help=f"write what goes together as a file: {_SUFFIXES}",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None,
    explorer: Annotated[
        Path | None,
        typer.Option(
            "--explorer",
            metavar="DIR",
            help="write a new folder for Google's Model Explorer",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None,
    html: Html = None,
) -> int:
    """Show what can be pruned, what goes together, and why the rest cannot be pruned.

    Examples:
        graphprune inspect torchvision:resnet50
        graphprune inspect hf:llama --meta --json
        graphprune inspect net.py:make --input 1,3,32,32 --html report.html
    """
    given.check_meta(meta)
    _check_outputs(to, explorer, html)
    model, graph = traced(out, given.spec, given, meta)
    if to is not None:
        graph.export(to)
        out.note(f"couplings written to {to}")
    if explorer is not None:
        graph.to_model_explorer(explorer)
        out.note(f"folder for Model Explorer written to {explorer}")
    write_page(out, html, graph)
    out.result(lambda: _tables(model, graph, all), lambda: graph_data(given.spec, model, graph), to, explorer, html)
    return 0


def _check_outputs(to: Path | None, explorer: Path | None, html: Path | None) -> None:
    """Usage is wrong if something cannot be written where it is to go."""
    check_page("--html", html)
    if to is not None:
        _check_couplings(to)
    if explorer is not None:
        check_own("--explorer", explorer)
    check_apart({"--to": to, "--explorer": explorer, "--html": html})


def _check_couplings(path: Path) -> None:
    if path.suffix.lower() not in COUPLING_SUFFIXES:
        raise usage_error(f"--to: {path} must end with one of {_SUFFIXES}")
    check_new_file("--to", path)


def _tables(model: nn.Module, graph: Any, all: bool) -> Iterator[Table]:
    groups = group_table(graph)
    yield size_table(model, graph)
    yield replace(groups, many=len(groups.rows)) if all else groups
    yield reason_table(graph)
