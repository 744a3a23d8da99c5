"""The commands ``graphprune inspect``, ``explain``, ``prune``, ``export``, ``measure``, ``compact`` and ``advise``.

Exit codes: 0, it worked; 1, it failed, or the slim model differs from the masked original; 2, wrong usage;
130, interrupted. Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.text import Text
from torch import nn

import graphprune
from graphprune.cli.advising import advise_on_model
from graphprune.cli.arguments import make_parser, plan_arguments
from graphprune.cli.compacting import compact_model
from graphprune.cli.explaining import print_explanation, write_files
from graphprune.cli.export import export_bundle
from graphprune.cli.given_model import given_inputs, given_model
from graphprune.cli.json_output import graph_data, print_json, prune_data
from graphprune.cli.measuring import measure_models
from graphprune.cli.models import has_random_weights
from graphprune.cli.output import check_output
from graphprune.cli.page import check_page, write_page
from graphprune.cli.tables import before_after_table, reason_table, size_table, terminal_table
from graphprune.errors import GraphpruneError, InputError
from graphprune.graph.listing import group_table
from graphprune.planning.options import PruningOptions
from graphprune.tracing.example_inputs.guess import example_inputs_for

OK, FAILED, INTERRUPTED = 0, 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments; those of the process by default.

    Returns:
        The exit code. Wrong usage exits with ``SystemExit(2)``, as argparse does.
    """
    options = make_parser(COMMANDS).parse_args(argv)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if options.debug:
            raise
        _complain(error)
        return FAILED


def _complain(error: Exception) -> None:
    if isinstance(error, (GraphpruneError, OSError)):
        message = str(error)
    else:
        message = f"{type(error).__name__}: {error} (unexpected: run with --debug for the traceback)"
    print(f"graphprune: error: {message}", file=sys.stderr)


# ---------------------------------------------------------------- commands


def _inspect(options: argparse.Namespace) -> int:
    check_page(options)
    model = given_model(options)
    graph = graphprune.trace(model, given_inputs(options))
    write_files(graph, options)
    write_page(options, graph)
    if options.json:
        print_json(graph_data(options.spec, model, graph))
        return OK
    groups = group_table(graph)
    console = Console()
    for table in (size_table(model, graph), replace(groups, many=len(groups.rows)) if options.all else groups):
        console.print(terminal_table(table))
    console.print(terminal_table(reason_table(graph)))
    return OK


def _explain(options: argparse.Namespace) -> int:
    print_explanation(graphprune.trace(given_model(options), given_inputs(options)), options)
    return OK


def _prune(options: argparse.Namespace) -> int:
    given = plan_arguments(options)
    ratio = given.pop("ratio", None)
    try:
        PruningOptions.of(ratio, given)
        check_output(options.output, options.spec, options.weights, options.force)
    except InputError as error:
        options.usage_error(str(error))
    check_page(options)
    _warn_of_random_weights(options)
    model = given_model(options)
    inputs = given_inputs(options)
    graph = graphprune.trace(model, inputs)
    plan = graph.plan(ratio, **given)
    slim = plan.apply(model)
    check = None
    if not options.no_verify:
        inputs = example_inputs_for(model) if inputs is None else inputs
        check = graphprune.verify(model, slim, plan, inputs)
    passed = check is None or check.passed
    if passed:
        graphprune.save(slim, options.output, beside_others=options.force)
    write_page(options, graph, plan, check)
    _report(options, model, graph, plan, check)
    return OK if passed else FAILED


def _warn_of_random_weights(options: argparse.Namespace) -> None:
    """Say that nothing learned is in what is about to be pruned."""
    if options.weights is not None or options.pretrained or not has_random_weights(options.spec):
        return
    said = f"{options.spec} has RANDOM weights, and so will the slim model; {_TRAINED}"
    Console(stderr=True).print(Text("graphprune: warning: ", "bold yellow"), Text(said), sep="", soft_wrap=True)


_TRAINED = "to prune a trained one give --weights PATH, --pretrained (torchvision, timm) or a checkpoint (hf:DIRECTORY)"


def _report(options: argparse.Namespace, model: nn.Module, graph: Any, plan: Any, check: Any) -> None:
    if options.json:
        print_json(prune_data(options, model, graph, plan, check))
        return
    console = Console()
    console.print(terminal_table(before_after_table(model, plan, graph.cost(), graph.cost(plan))))
    if graph.frozen:
        console.print(terminal_table(reason_table(graph)))
    console.print(Text("not verified" if check is None else str(check)))
    if check is None or check.passed:
        console.print(Text(f"saved in {options.output}"))
    else:
        wrong = "nothing was verified" if check.vacuous else "the slim model differs from the masked original"
        print(f"graphprune: error: {wrong}; not saved", file=sys.stderr)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "inspect": _inspect,
    "explain": _explain,
    "prune": _prune,
    "export": export_bundle,
    "measure": measure_models,
    "compact": compact_model,
    "advise": advise_on_model,
}
