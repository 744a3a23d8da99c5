"""``graphprune compact SPEC --weights PATH -o DIR``: a smaller model without the channels that are zero already."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.text import Text

import graphprune
from graphprune.cli.given_model import given_inputs, given_model
from graphprune.cli.json_output import print_json, zeros_data
from graphprune.cli.output import check_output
from graphprune.cli.weights import read_state_dict
from graphprune.errors import InputError


def compact_model(options: argparse.Namespace) -> int:
    """Remove the zero channels of a model, print what went and what stays, and save it unless nothing went."""
    try:
        check_output(options.output, options.spec, options.weights, options.force)
    except InputError as error:
        options.usage_error(str(error))
    model = given_model(options)
    masks = None if options.masks is None else read_state_dict(options.masks)
    found = graphprune.zero_channels(
        model, given_inputs(options), masks=masks, threshold=options.threshold, relative=options.relative
    )
    if found.removed:
        graphprune.save(found.slim, options.output, beside_others=options.force)
    _report(options, found)
    return 0 if found.removed else 1


def _report(options: argparse.Namespace, found: graphprune.ZeroChannels) -> None:
    if options.json:
        print_json(zeros_data(options, found))
        return
    console = Console()
    console.print(Text(str(found)), soft_wrap=True)
    if found.removed:
        console.print(Text(f"saved in {options.output}"))
    else:
        print("graphprune: error: no channel can go; not saved", file=sys.stderr)
