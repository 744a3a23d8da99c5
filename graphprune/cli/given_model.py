"""The model and the inputs that the arguments of a command name."""

from __future__ import annotations

import argparse

import torch
from torch import nn

from graphprune.cli.models import load_spec
from graphprune.cli.weights import load_weights
from graphprune.tracing.inputs import Inputs


def given_model(options: argparse.Namespace) -> nn.Module:
    """The model of SPEC with the weights that are asked for, in evaluation mode."""
    model = load_spec(options.spec, device="meta" if options.meta else None, pretrained=options.pretrained)
    if options.weights is not None:
        load_weights(model, options.weights)
    return model.eval()


def given_inputs(options: argparse.Namespace) -> Inputs | None:
    """Noise of the shape that is asked for; None: inputs are found from the model."""
    if options.input is None:
        return None
    return (torch.randn(options.input, generator=torch.Generator().manual_seed(0)),)
