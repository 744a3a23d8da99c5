"""Arguments of the command line; those of a plan follow from :class:`graphprune.planning.options.PruningOptions`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import Field
from pathlib import Path
from typing import Any

from graphprune.cli.advising import advise_arguments
from graphprune.cli.explaining import add_explain_arguments, add_file_arguments
from graphprune.cli.export import TARGETS
from graphprune.cli.models import SPEC_FORMS
from graphprune.graph.budget_kinds import BUDGET_KINDS
from graphprune.planning.options import OPTION_FIELDS, OPTION_NAMES
from graphprune.planning.serving import SERVERS

Command = Callable[[argparse.Namespace], int]


def make_parser(runs: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The parser of all commands, each of which is run by a function."""
    parser = argparse.ArgumentParser(
        prog="graphprune",
        description="Structured pruning of PyTorch models.",
        epilog="exit codes: 0 it worked; 1 it failed or the verification did; 2 wrong usage",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _inspect_arguments(commands, runs["inspect"])
    _explain_arguments(commands, runs["explain"])
    _prune_arguments(commands, runs["prune"])
    _export_arguments(commands, runs["export"])
    _measure_arguments(commands, runs["measure"])
    _compact_arguments(commands, runs["compact"])
    _advise_arguments(commands, runs["advise"])
    return parser


def plan_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """What was given of a plan's arguments, by name."""
    given = {name: getattr(options, name) for name in (*_plan_fields(), *_registered())}
    return {name: value for name, value in given.items() if value is not None}


def _inspect_arguments(commands: Any, run: Command) -> None:
    parser = commands.add_parser("inspect", help="show what can be pruned, and why the rest cannot")
    _common_arguments(parser)
    parser.add_argument("--all", action="store_true", help="show every group, equal layers too")
    parser.add_argument("--meta", action="store_true", help=_META)
    add_file_arguments(parser)
    _page_argument(parser)
    parser.set_defaults(run=run, usage_error=parser.error)


def _explain_arguments(commands: Any, run: Command) -> None:
    parser = commands.add_parser(
        "explain", help="say what goes with a layer, what one channel saves, and why channels stay"
    )
    _common_arguments(parser)
    add_explain_arguments(parser)
    parser.add_argument("--meta", action="store_true", help=_META)
    parser.set_defaults(run=run)


def _page_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page that shows all of it, for a browser")


_META = "build it without memory, for a model of any size"


def _prune_arguments(commands: Any, run: Command) -> None:
    parser = commands.add_parser("prune", help="write a smaller model")
    _common_arguments(parser)
    _output_arguments(parser)
    parser.add_argument("--no-verify", action="store_true", help="do not compare with the masked original")
    _page_argument(parser)
    plan = parser.add_argument_group("what is removed", "give a ratio, budgets, or ratios by role")
    for name, one in _plan_fields().items():
        plan.add_argument(_flag(name), default=None, **_KINDS[one.metadata["kind"]](one))
    for name in _registered():
        kind = BUDGET_KINDS[name]
        text = f"budget on {kind.help}: a fraction (0.5), or an amount ({kind.example})"
        plan.add_argument(_flag(name), default=None, type=_amount, metavar="AMOUNT", help=_escaped(text))
    parser.set_defaults(run=run, meta=False, usage_error=parser.error)


def _export_arguments(commands: Any, run: Command) -> None:
    parser = commands.add_parser(
        "export",
        help="write a slim model for where graphprune is not installed",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(["what --to takes:", *(f"  {name:<8}{target.help}" for name, target in TARGETS.items())]),
    )
    parser.add_argument("bundle", type=Path, metavar="DIR", help="what graphprune prune (or graphprune.save) wrote")
    parser.add_argument("--to", choices=list(TARGETS), required=True, help="the kind of file or folder")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="PATH", help="where to write it")
    parser.add_argument("--model", metavar="SPEC", help=f"the dense architecture, if the bundle needs it: {SPEC_FORMS}")
    parser.add_argument("--trust-factory", action="store_true", help="let the bundle import what makes its model")
    parser.add_argument("--input", type=_shape, metavar="SHAPE", help="shape of the input; without, as it was traced")
    parser.add_argument(
        "--tokenizer", type=Path, metavar="DIR", help="the folder of the model's tokenizer (hf, deci, gguf)"
    )
    parser.add_argument("--dtype", choices=["f32", "f16", "q8_0"], help="of weights in a GGUF file (default: f16)")
    parser.add_argument("--serve", choices=sorted(SERVERS), help="what runs a deci folder (default: vllm)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(run=run, usage_error=parser.error)


def _advise_arguments(commands: Any, run: Command) -> None:
    parser = commands.add_parser("advise", help="say how to prune a model, and why, from what is measured on it")
    _common_arguments(parser)
    advise_arguments(parser)
    parser.set_defaults(run=run)


def _measure_arguments(commands: Any, run: Command) -> None:
    parser = commands.add_parser("measure", help="show what models are and take: sizes, zeros, MACs, memory, time")
    parser.add_argument(
        "specs", nargs="+", metavar="SPEC", help=f"{SPEC_FORMS}; or the DIR of a slim model; several are compared"
    )
    _weights_arguments(parser)
    parser.add_argument("--meta", action="store_true", help="build it without memory: sizes and MACs only")
    parser.add_argument("--model", metavar="SPEC", help="the dense architecture, if a slim model's DIR needs it")
    parser.add_argument("--trust-factory", action="store_true", help="let a DIR import what makes its model")
    parser.add_argument("--batch", type=_shape, default=(), metavar="SIZES", help="time these batch sizes too: 1,8")
    parser.add_argument("--compiled", action="store_true", help="time it with torch.compile too")
    parser.add_argument("--threads", type=int, metavar="N", help="of torch on the CPU")
    parser.add_argument("--repeats", type=int, default=10, metavar="N", help="timed calls, at least (default: 10)")
    parser.add_argument("--untimed", action="store_true", help="measure sizes only")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--layers", action="store_true", help="show each layer, too")
    form.add_argument("--markdown", action="store_true", help="print a table of Markdown")
    form.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(run=run, usage_error=parser.error)


def _compact_arguments(commands: Any, run: Command) -> None:
    parser = commands.add_parser("compact", help="write a smaller model without the channels that are zero already")
    _common_arguments(parser)
    _output_arguments(parser)
    parser.add_argument("--masks", type=Path, metavar="PATH", help="masks by the names of parameters, as --weights")
    parser.add_argument("--threshold", type=float, default=0.0, metavar="X", help="weights up to X count as zero")
    parser.add_argument("--relative", action="store_true", help="X is a fraction of a parameter's largest weight")
    parser.set_defaults(run=run, meta=False, usage_error=parser.error)


def _output_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="where to save it")
    parser.add_argument("--force", action="store_true", help="write to DIR even if it holds other files, which stay")


def _plan_fields() -> dict[str, Field[Any]]:
    """The fields of the options that can be given on a command line."""
    return {one.name: one for one in OPTION_FIELDS if one.metadata["kind"]}


def _registered() -> list[str]:
    """Kinds of budgets that were registered from outside."""
    return [name for name in BUDGET_KINDS if name not in OPTION_NAMES]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _typed(type: Callable[[str], Any], metavar: str) -> Callable[[Field[Any]], dict[str, Any]]:
    return lambda one: {"type": type, "metavar": metavar, "help": _escaped(_help(one))}


def _named(one: Field[Any]) -> dict[str, Any]:
    return {"choices": sorted(one.metadata["choices"]()), "help": _escaped(_help(one))}


def _help(one: Field[Any]) -> str:
    default = "" if one.default in (None, False) else f" (default: {one.default})"
    return f"{one.metadata['help']}{default}"


def _amount(text: str) -> float | str:
    """A fraction if it looks like one, else an amount with its unit."""
    try:
        value = float(text)
    except ValueError:
        return text
    return value if value <= 1 else text


_KINDS: dict[str, Callable[[Field[Any]], dict[str, Any]]] = {
    "fraction": _typed(float, "FRACTION"),
    "amount": _typed(_amount, "AMOUNT"),
    "count": _typed(int, "N"),
    "flag": lambda one: {"action": "store_true", "help": _escaped(_help(one))},
    "name": _named,
}
"""How a field of each kind is read."""


def _common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", metavar="SPEC", help=SPEC_FORMS)
    _weights_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _weights_arguments(parser: argparse.ArgumentParser) -> None:
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument(
        "--weights",
        type=Path,
        metavar="PATH",
        help="a state dict, or a checkpoint that holds one: .safetensors, .pt, .pth, an index of shards, a folder",
    )
    weights.add_argument("--pretrained", action="store_true", help="with the weights that torchvision or timm publish")
    parser.add_argument("--input", type=_shape, metavar="SHAPE", help="shape of the input, such as 1,3,224,224")


def _shape(text: str) -> tuple[int, ...]:
    shape = tuple(int(size) for size in text.split(","))
    if min(shape) < 1:
        raise argparse.ArgumentTypeError(f"{text} has a size below 1")
    return shape
