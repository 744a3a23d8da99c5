"""``--html FILE``: a page for a browser beside what is printed."""

from __future__ import annotations

import argparse
import sys

import graphprune
from graphprune.errors import InputError
from graphprune.pruning.plan import Plan
from graphprune.pruning.verification import Verification
from graphprune.report.writing import check_report_path


def check_page(options: argparse.Namespace) -> None:
    """Usage is wrong if the page cannot be written where it is wanted."""
    if options.html is None:
        return
    try:
        check_report_path("--html", options.html)
    except InputError as error:
        options.usage_error(str(error))


def write_page(
    options: argparse.Namespace,
    graph: graphprune.ChannelGraph,
    plan: Plan | None = None,
    check: Verification | None = None,
) -> None:
    """Write the page if one is wanted, and say where it is."""
    if options.html is not None:
        graphprune.write_report(options.html, graph, plan, verification=check)
        print(f"page written to {options.html}", file=sys.stderr)
