"""SPEC and the options that go with it: which model, which weights, which inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from graphprune.cli.option_groups import OptionGroup, flag, usage_error
from graphprune.cli.option_values import read_input
from graphprune.cli.spec_forms import MODEL_PANEL, PUBLISHED, SPEC_FORMS, check_spec, complete_spec

Spec = Annotated[str, typer.Argument(metavar="SPEC", help=SPEC_FORMS, autocompletion=complete_spec, show_default=False)]
WeightsPath = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="PATH",
        help="a state dict, or a checkpoint that holds one: .safetensors, .pt, .pth, an index of shards, a folder",
        rich_help_panel=MODEL_PANEL,
    ),
]
Pretrained = Annotated[
    bool,
    flag("--pretrained", help="with the weights that torchvision or timm publish", panel=MODEL_PANEL),
]
GivenInput = Annotated[
    Any,
    typer.Option(
        "--input",
        metavar="SHAPE|module:function",
        parser=read_input,
        help="shape of the input, such as 1,3,224,224, or a function that returns all inputs; without, they are found "
        "from the model",
        rich_help_panel=MODEL_PANEL,
    ),
]
Meta = Annotated[
    bool,
    flag("--meta", help="build it without memory, for a model of any size", panel=MODEL_PANEL),
]


@dataclass(kw_only=True)
class WeightOptions(OptionGroup):
    """The weights and the input of a model."""

    weights: WeightsPath = None
    pretrained: Pretrained = False
    input: GivenInput = None

    def __post_init__(self) -> None:
        if self.weights is not None and self.pretrained:
            raise usage_error("--weights: given together with --pretrained; give one of them")
        if self.weights is not None and not self.weights.exists():
            raise usage_error(f"--weights: {self.weights} does not exist; give a file of weights, or a folder with one")

    def check_meta(self, meta: bool, planned: bool = False) -> None:
        """Usage is wrong if there are weights for a model that is built without memory.

        Args:
            planned: a plan is made, for which a criterion reads a folder of weights tensor by tensor.
        """
        if not meta:
            return
        if self.pretrained:
            raise usage_error("--pretrained: given together with --meta, which loads no weights; leave out one of them")
        if self.weights is not None and not planned:
            raise usage_error("--weights: given together with --meta, which loads no weights; leave out one of them")
        if self.weights is not None and not self.weights.is_dir():
            raise usage_error(f"--weights: {self.weights} is a file; with --meta give a folder of safetensors")

    def model_of(self, spec: str, note: Callable[[str], object], meta: bool = False) -> Any:
        """The model that a SPEC names with the weights that are asked for, in evaluation mode.

        Args:
            note: is told of weights that the model has under other names.
        """
        check_spec(spec)
        if self.pretrained and spec.partition(":")[0] not in PUBLISHED:
            raise usage_error(
                f"--pretrained: {spec!r} names no model with published weights; give --weights PATH, or a checkpoint "
                "as hf:DIRECTORY or hf:OWNER/NAME"
            )
        from graphprune.cli.models import load_spec
        from graphprune.cli.weights import load_weights

        model = load_spec(spec, device="meta" if meta else None, pretrained=self.pretrained)
        if self.weights is not None and not meta:
            left_out = load_weights(model, self.weights)
            if left_out:
                note(f"{self.weights}: {left_out} was left out of the names of its tensors")
        return model.eval()

    def inputs(self, model: Any) -> Any:
        """The inputs that are asked for; None: they are found from the model."""
        if self.input is None:
            return None
        from graphprune.cli.given_inputs import given_inputs

        return given_inputs(model, self.input)


@dataclass(kw_only=True)
class ModelOptions(WeightOptions):
    """A model that is named, with its weights and its inputs."""

    spec: Spec
