"""``--html FILE``: a page for a browser beside what is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import graphprune
from graphprune.cli.option_groups import usage_error
from graphprune.cli.output import OUTPUT_PANEL, Output
from graphprune.errors import InputError
from graphprune.report.writing import check_report_path

Html = Annotated[
    Path | None,
    typer.Option(
        "--html", metavar="FILE", help="write a page that shows all of it, for a browser", rich_help_panel=OUTPUT_PANEL
    ),
]


def check_page(name: str, path: Path | None) -> None:
    """Usage is wrong if the page cannot be written where it is wanted."""
    if path is None:
        return
    try:
        check_report_path(name, path)
    except InputError as error:
        raise usage_error(f"{error.what}; {error.do}") from error


def write_page(out: Output, path: Path | None, graph: graphprune.ChannelGraph, **shown: Any) -> None:
    """Write the page if one is wanted, and say where it is.

    Args:
        shown: what it shows besides the graph, as for :func:`graphprune.write_report`.
    """
    if path is not None:
        graphprune.write_report(path, graph, **shown)
        out.note(f"page written to {path}")
