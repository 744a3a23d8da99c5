"""Write the page: one HTML file that needs no network."""

from __future__ import annotations

import base64
import hashlib
import html
import os
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from string import Template

from graphprune.api import ChannelGraph
from graphprune.errors import InputError
from graphprune.planning.sensitivity import Sensitivity
from graphprune.pruning.plan import Plan
from graphprune.pruning.verification import Verification
from graphprune.reconstruction.records import Repair
from graphprune.report.measured import Latencies, measured_results
from graphprune.report.page_data import page_data
from graphprune.utils.checks import check_type
from graphprune.utils.collector import gc_paused
from graphprune.utils.files import check_path, replace_file
from graphprune.utils.global_state import leaves_torch_alone

_GENERATOR = '<meta name="generator" content="graphprune'
"""What the beginning of every page holds."""
_OTHERS = frozenset((".pdf", ".png", ".jpg", ".jpeg", ".svg", ".json", ".md", ".txt", ".csv"))
"""Endings of what programs do not open as a page."""


@leaves_torch_alone
def write_report(
    path: str | os.PathLike[str],
    graph: ChannelGraph,
    plan: Plan | None = None,
    *,
    repair: Repair | None = None,
    sensitivity: Sensitivity | None = None,
    latency: Latencies | None = None,
    verification: Verification | None = None,
) -> Path:
    """Write an HTML page that shows a model, what can be removed from it, and what a plan did.

    The page is one file that opens without a network. It shows the modules in the order in which they run, colored by
    group; what goes together and why; what is frozen and why; and, for every ratio up to 90 %, the costs that
    ``graph.cost(graph.plan(ratio))`` gives. No weight is read.

    Args:
        path: the file. One that this function wrote before is replaced, another is not.
        graph: what :func:`graphprune.trace` returned.
        plan: a plan of this graph, which is shown before and after.
        repair: what :func:`graphprune.repair` returned.
        sensitivity: what :meth:`ChannelGraph.sensitivity` returned.
        latency: what :func:`graphprune.measure` returned, or by what was timed, its seconds
            (``{"dense": 0.0123, "slim": 0.0071}``) or such a measurement.
        verification: what :func:`graphprune.verify` returned.

    Returns:
        The path of the file.

    Raises:
        InputError: the folder is not there, the file is not a report, or something is of a wrong type.
        PlanError: the plan is for another model.
    """
    file = check_report_path("path", path)
    check_type("graph", graph, ChannelGraph, "what graphprune.trace returned")
    if plan is not None:
        check_type("plan", plan, Plan, "a graphprune.Plan")
    measured = measured_results(sensitivity, repair, verification, latency)
    with gc_paused():
        data = page_data(graph, plan, measured)
    text = _page(data.title, data.to_json())
    replace_file(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return file


def check_report_path(name: str, value: object) -> Path:
    """The file that a report is written to.

    Raises:
        InputError: ``value`` is no path or that of another kind of file, its folder does not exist, or there is
            something else in its place.
    """
    path = check_path(name, value)
    if not path.parent.is_dir():
        raise InputError(
            f"{name}: the folder {path.parent} does not exist",
            where=str(path.parent),
            found="no such folder",
            needed="a folder to write the report to",
            do="create it, or give a path in another",
        )
    if path.exists() and not _is_report(path):
        raise InputError(
            f"{name}: {path} exists and is no report that graphprune wrote",
            where=str(path),
            found="a folder" if path.is_dir() else "a file of something else",
            needed="a path at which there is nothing, or an older report",
            do="give another path",
        )
    if path.suffix.lower() in _OTHERS:
        raise InputError(
            f"{name}: a report is a page of HTML, and {path.name} would be opened as something else",
            where=str(path),
            found=f"a name that ends in {path.suffix}",
            needed="a name that ends in .html",
            do=f"give {str(path.with_suffix('.html'))!r}; a browser prints it to PDF",
        )
    return path


def _is_report(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return _GENERATOR.encode() in file.read(1024)


def _page(title: str, data: str) -> str:
    """The HTML of a page."""
    style, script = _part("page.css"), _part("page.js")
    return Template(_part("page.html")).substitute(
        generator=f'{_GENERATOR} {_version()}">',
        policy=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; "
        "form-action 'none'",
        title=html.escape(title),
        version=_version(),
        style=style,
        script=script,
        data=data,
    )


def _part(name: str) -> str:
    return files("graphprune.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What a content security policy calls an inline style or script by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _version() -> str:
    found: str = import_module("graphprune").__version__
    return found
