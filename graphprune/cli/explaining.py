"""``graphprune explain SPEC NAME``, and the files that ``graphprune inspect`` writes for other programs."""

from __future__ import annotations

import argparse
from pathlib import Path

from graphprune.api import ChannelGraph
from graphprune.cli.json_output import print_json
from graphprune.inspection.coupling_files import COUPLING_SUFFIXES


def add_explain_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``explain`` beside those that all commands share."""
    parser.add_argument("name", metavar="NAME", help='a module, parameter, axis ("fc.weight[0]") or group of it')
    parser.add_argument("--why-frozen", action="store_true", help="say only why channels stay, and what to do about it")


def add_file_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``inspect`` that write files."""
    suffixes = ", ".join(COUPLING_SUFFIXES)
    parser.add_argument(
        "--to", type=_coupling_file, metavar="FILE", help=f"write what goes together as a file: {suffixes}"
    )
    parser.add_argument("--explorer", type=Path, metavar="DIR", help="write a new folder for Google's Model Explorer")


def _coupling_file(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in COUPLING_SUFFIXES:
        raise argparse.ArgumentTypeError(f"{text} must end with one of {', '.join(COUPLING_SUFFIXES)}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path.parent} is no folder")
    return path


def write_files(graph: ChannelGraph, options: argparse.Namespace) -> None:
    """Write what the arguments of :func:`add_file_arguments` ask for."""
    if options.to is not None:
        graph.export(options.to)
    if options.explorer is not None:
        graph.to_model_explorer(options.explorer)


def print_explanation(graph: ChannelGraph, options: argparse.Namespace) -> None:
    """Print the answer as sentences, or as JSON."""
    explanation = (graph.why_frozen if options.why_frozen else graph.explain)(options.name)
    if not options.json:
        print(explanation)
        return
    frozen = [{"axis": f.axis, "count": f.count, "size": f.size, "reason": f.reason} for f in explanation.frozen]
    groups = [group.name for group in explanation.groups]
    print_json({"name": explanation.name, "groups": groups, "frozen": frozen, "text": str(explanation).splitlines()})
