"""The command line: ``graphprune inspect SPEC`` and ``graphprune prune SPEC --ratio 0.5 -o DIR``.

Exit codes: 0, it worked; 1, it failed, or the slim model differs from the masked original; 2, wrong usage;
130, interrupted. Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text
from torch import nn

import graphprune
from graphprune.cli.json_output import graph_data, print_json, prune_data
from graphprune.cli.models import SPEC_FORMS, load_spec, load_weights
from graphprune.cli.tables import before_after_table, frozen_table, group_table, size_table
from graphprune.errors import GraphpruneError
from graphprune.planning.options import ALLOCATIONS
from graphprune.tracing.example_inputs.guess import example_inputs_for
from graphprune.tracing.inputs import Inputs

OK, FAILED, INTERRUPTED = 0, 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments; those of the process by default.

    Returns:
        The exit code. Wrong usage exits with ``SystemExit(2)``, as argparse does.
    """
    options = _parser().parse_args(argv)
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


# ---------------------------------------------------------------- arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="graphprune",
        description="Structured pruning of PyTorch models.",
        epilog="exit codes: 0 it worked; 1 it failed or the verification did; 2 wrong usage",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _inspect_arguments(commands)
    _prune_arguments(commands)
    return parser


def _inspect_arguments(commands: Any) -> None:
    parser = commands.add_parser("inspect", help="show what can be pruned, and why the rest cannot")
    _common_arguments(parser)
    parser.add_argument("--all", action="store_true", help="show every group, not only the first 40")
    parser.add_argument("--meta", action="store_true", help="build it without memory, for a model of any size")
    parser.set_defaults(run=_inspect)


def _prune_arguments(commands: Any) -> None:
    parser = commands.add_parser("prune", help="write a smaller model")
    _common_arguments(parser)
    parser.add_argument("--ratio", type=_ratio, help="fraction of the channels to remove")
    for kind, example in (("macs", "2G"), ("params", "5M"), ("bytes", "20MB"), ("latency", "5ms")):
        parser.add_argument(
            f"--{kind}", type=_ask, metavar="BUDGET", help=f"at most: a fraction (0.5), or an amount ({example})"
        )
    parser.add_argument("--allocation", choices=ALLOCATIONS, help="how the groups share it (see ChannelGraph.plan)")
    parser.add_argument("--multiple", type=int, help="keep multiples of this many channels")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="where to save it")
    parser.add_argument("--importance", default="l2", help="how channels are scored (default: l2)")
    parser.add_argument("--seed", type=int, default=0, help="seed of what is random (default: 0)")
    parser.add_argument("--no-verify", action="store_true", help="do not compare with the masked original")
    parser.set_defaults(run=_prune, meta=False)


def _common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", metavar="SPEC", help=SPEC_FORMS)
    parser.add_argument("--weights", type=Path, metavar="FILE", help="a state dict: .safetensors, .pt or .pth")
    parser.add_argument("--input", type=_shape, metavar="SHAPE", help="shape of the input, such as 1,3,224,224")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _ratio(text: str) -> float:
    ratio = float(text)
    if not 0 <= ratio < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a fraction in [0, 1)")
    return ratio


def _ask(text: str) -> float | str:
    """A fraction if it looks like one, else an amount with its unit."""
    try:
        value = float(text)
    except ValueError:
        return text
    return value if value <= 1 else text


def _shape(text: str) -> tuple[int, ...]:
    shape = tuple(int(size) for size in text.split(","))
    if min(shape) < 1:
        raise argparse.ArgumentTypeError(f"{text} has a size below 1")
    return shape


# ---------------------------------------------------------------- commands


def _inspect(options: argparse.Namespace) -> int:
    model = _model(options)
    graph = graphprune.trace(model, _example_inputs(options))
    if options.json:
        print_json(graph_data(options.spec, model, graph))
        return OK
    shown = None if options.all else 40
    console = Console()
    for table in (size_table(model, graph), group_table(graph, shown), frozen_table(graph)):
        console.print(table)
    return OK


def _prune(options: argparse.Namespace) -> int:
    if options.output.exists() and not options.output.is_dir():
        raise FileExistsError(f"{options.output} exists and is not a directory")
    model = _model(options)
    inputs = _example_inputs(options)
    graph = graphprune.trace(model, inputs)
    plan = graph.plan(options.ratio, **_plan_options(options))
    slim = plan.apply(model)
    check = None
    if not options.no_verify:
        inputs = example_inputs_for(model) if inputs is None else inputs
        check = graphprune.verify(model, slim, plan, inputs)
    passed = check is None or check.passed
    if passed:
        graphprune.save(slim, options.output)
    _report(options, model, graph, plan, check)
    return OK if passed else FAILED


def _plan_options(options: argparse.Namespace) -> dict[str, Any]:
    names = ("macs", "params", "bytes", "latency", "importance", "allocation", "multiple", "seed")
    return {name: getattr(options, name) for name in names}


def _model(options: argparse.Namespace) -> nn.Module:
    model = load_spec(options.spec, device="meta" if options.meta else None)
    if options.weights is not None:
        load_weights(model, options.weights)
    return model.eval()


def _example_inputs(options: argparse.Namespace) -> Inputs | None:
    if options.input is None:
        return None
    return (torch.randn(options.input, generator=torch.Generator().manual_seed(0)),)


def _report(options: argparse.Namespace, model: nn.Module, graph: Any, plan: Any, check: Any) -> None:
    if options.json:
        print_json(prune_data(options, model, graph, plan, check))
        return
    console = Console()
    console.print(before_after_table(model, plan, graph.cost(), graph.cost(plan)))
    if graph.frozen:
        console.print(frozen_table(graph))
    console.print(Text("not verified" if check is None else str(check)))
    if check is None or check.passed:
        console.print(Text(f"saved in {options.output}"))
    else:
        print("graphprune: error: the slim model differs from the masked original; not saved", file=sys.stderr)
