"""``graphprune advise SPEC --target macs=0.5``: what to do with a model, and why."""

from __future__ import annotations

import argparse

from torch import nn

import graphprune
from graphprune.advice.targets import RUNTIMES
from graphprune.tracing.inputs import Inputs


def advise_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that no other command has."""
    names = ", ".join(RUNTIMES)
    parser.add_argument(
        "--target",
        metavar="TEXT",
        help=f"budgets (macs=0.5, latency=5ms), what runs the model ({names}), or both, separated by commas",
    )
    parser.add_argument("--device", help="where it is to run: cpu, cuda, ... (default: as the target says, or cpu)")
    parser.add_argument(
        "--seconds", type=float, default=60.0, metavar="N", help="how long measurements may take (default: 60)"
    )
    parser.add_argument("--meta", action="store_true", help="build it without memory, for a model of any size")


def advise_on(options: argparse.Namespace, model: nn.Module, inputs: Inputs | None) -> int:
    """Print the advice; the exit code."""
    advice = graphprune.advise(model, inputs, target=options.target, device=options.device, seconds=options.seconds)
    print(advice.to_json() if options.json else advice)
    return 0
