"""``graphprune advise SPEC --target macs=0.5``: what to do with a model, and why."""

from __future__ import annotations

import argparse

import graphprune
from graphprune.advice.targets import RUNTIMES
from graphprune.cli.given_model import given_inputs, given_model


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


def advise_on_model(options: argparse.Namespace) -> int:
    """Print the advice for the model that is named; the exit code."""
    model, inputs = given_model(options), given_inputs(options)
    advice = graphprune.advise(model, inputs, target=options.target, device=options.device, seconds=options.seconds)
    print(advice.to_json() if options.json else advice)
    return 0
