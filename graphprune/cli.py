"""The command line: ``graphprune inspect SPEC`` and ``graphprune prune SPEC --ratio 0.5 -o DIR``.

Exit codes: 0, it worked; 1, it failed, or the slim model differs from the masked original; 2, wrong usage;
130, interrupted. Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

import graphprune
from graphprune.errors import GraphpruneError
from graphprune.groups import Frozen
from graphprune.inputs import Inputs, example_inputs_for
from graphprune.request import ALLOCATIONS
from graphprune.specs import FORMS, load_spec, load_weights

_PLACE = re.compile(r",? (at [^ ]+:\d+(: .*)?|at an unknown line|\([^()]+:\d+\))$", re.DOTALL)
"""The end of a reason: a line of somebody's code."""

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


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
    parser.add_argument("spec", metavar="SPEC", help=FORMS)
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
        _print_json(_graph_data(options.spec, model, graph))
        return OK
    shown = None if options.all else 40
    console = Console()
    for table in (_size_table(model, graph), _group_table(graph, shown), _frozen_table(graph)):
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
        _print_json(_prune_data(options, model, graph, plan, check))
        return
    console = Console()
    console.print(_before_after_table(model, plan, graph.cost(), graph.cost(plan)))
    if graph.frozen:
        console.print(_frozen_table(graph))
    console.print(Text("not verified" if check is None else str(check)))
    if check is None or check.passed:
        console.print(Text(f"saved in {options.output}"))
    else:
        print("graphprune: error: the slim model differs from the masked original; not saved", file=sys.stderr)


# ---------------------------------------------------------------- tables


def human(number: float, unit: str = "") -> str:
    """A number in four significant places.

    >>> human(25557032), human(4089184256), human(312.0, "B")
    ('25.56 M', '4.089 G', '312 B')
    """
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.4g} {prefix}{unit}"
    return f"{number:.4g} {unit}".rstrip()


def _table(title: str, *columns: str, left: int = 1) -> Table:
    """A table whose first ``left`` columns are text and the others numbers."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", overflow="fold")
    return table


def _row(table: Table, *cells: object) -> None:
    # As Text, because rich would read the brackets of a shape or an index as markup.
    table.add_row(*(Text(str(cell)) for cell in cells))


def _size_table(model: nn.Module, graph: Any) -> Table:
    cost = graph.cost()
    table = _table(type(model).__name__, "parameters", "MACs", "bytes", "groups", "frozen axes", left=0)
    sizes = (human(cost.params), human(cost.macs), human(cost.bytes, "B"))
    _row(table, *sizes, len(graph.groups), len(graph.frozen))
    return table


def _group_table(graph: Any, shown: int | None) -> Table:
    groups = graph.groups[:shown]
    hidden = len(graph.groups) - len(groups)
    table = _table("What goes together", "group", "kind", "units", "axes", "couplings", left=2)
    if hidden:
        table.caption = f"and {hidden} more (--all)"
    for group in groups:
        _row(table, group.name, group.kind, group.units, len(group.axes), len(group.couplings))
    return table


def _frozen_table(graph: Any) -> Table:
    table = _table("What cannot be pruned", "why", "axes", "for example", left=1)
    table.columns[-1].justify = "left"
    for why, items in frozen_by_reason(graph.frozen).items():
        where = items[0].reason.removeprefix(why).lstrip(", ").replace("at an unknown line", "")
        _row(table, why, len(items), f"{items[0].axis} {where}".rstrip())
    return table


def _before_after_table(model: nn.Module, plan: Any, before: Any, after: Any) -> Table:
    asked = ", ".join(f"{name} {value}" for name, value in plan.asked.items() if name not in ("importance", "seed"))
    title = f"{type(model).__name__}, {asked}"
    table = _table(title, "", "before", "after", "removed")
    for label, name, unit in (("parameters", "params", ""), ("MACs", "macs", ""), ("bytes", "bytes", "B")):
        old, new = getattr(before, name), getattr(after, name)
        _row(table, label, human(old, unit), human(new, unit), f"{1 - new / max(old, 1):.1%}")
    return table


def frozen_by_reason(frozen: Iterable[Frozen]) -> dict[str, list[Frozen]]:
    """Frozen axes by what froze them, whatever the place, the most frequent first."""
    found: dict[str, list[Frozen]] = {}
    for item in frozen:
        found.setdefault(_PLACE.sub("", item.reason), []).append(item)
    return dict(sorted(found.items(), key=lambda pair: -len(pair[1])))


# ---------------------------------------------------------------- JSON


def _print_json(data: dict[str, Any]) -> None:
    print(json.dumps(data, indent=2))


def _cost_data(cost: Any) -> dict[str, int]:
    return {"parameters": int(cost.params), "macs": int(cost.macs), "bytes": int(cost.bytes)}


def _frozen_data(graph: Any) -> list[dict[str, Any]]:
    return [{"axis": item.axis, "count": item.count, "size": item.size, "reason": item.reason} for item in graph.frozen]


def _graph_data(spec: str, model: nn.Module, graph: Any) -> dict[str, Any]:
    return {
        "spec": spec,
        "class": type(model).__qualname__,
        "cost": _cost_data(graph.cost()),
        "groups": [_group_data(group) for group in graph.groups],
        "frozen": _frozen_data(graph),
    }


def _group_data(group: Any) -> dict[str, Any]:
    return {
        "name": group.name,
        "kind": group.kind,
        "units": group.units,
        "axes": list(group.axes),
        "couplings": [str(coupling) for coupling in group.couplings],
    }


def _prune_data(options: argparse.Namespace, model: nn.Module, graph: Any, plan: Any, check: Any) -> dict[str, Any]:
    saved = check is None or check.passed
    return {
        "spec": options.spec,
        "class": type(model).__qualname__,
        "asked": dict(plan.asked),
        "before": _cost_data(graph.cost()),
        "after": _cost_data(graph.cost(plan)),
        "frozen": _frozen_data(graph),
        "verified": None if check is None else _check_data(check),
        "saved": str(options.output) if saved else None,
    }


def _check_data(check: Any) -> dict[str, Any]:
    return {
        "passed": bool(check.passed),
        "relative": float(check.relative),
        "absolute": float(check.absolute),
        "inexact": [str(item) for item in check.inexact],
    }
