"""SPEC or the folder of a slim model, of commands that look at a model or make it smaller, perhaps once more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from graphprune.cli.bundles import BundleOptions, is_bundle
from graphprune.cli.model_options import ModelOptions
from graphprune.cli.option_groups import usage_error
from graphprune.cli.spec_forms import SPEC_FORMS, complete_spec
from graphprune.pruning.plan import plans_of
from graphprune.tracing.input_specs import inputs_of_spec


@dataclass(kw_only=True)
class PrunableOptions(ModelOptions, BundleOptions):
    """A model that is named or lies in a folder, with its weights and its inputs."""

    spec: Annotated[
        str,
        typer.Argument(
            metavar="SPEC",
            help=f"{SPEC_FORMS}; or the DIR of a slim model",
            autocompletion=complete_spec,
            show_default=False,
        ),
    ]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_used([self.spec])
        if not is_bundle(self.spec):
            return
        name = "--weights" if self.weights is not None else "--pretrained" if self.pretrained else ""
        if name:
            raise usage_error(f"{name}: {self.spec} is a slim model with weights of its own; leave it out")

    def check_meta(self, meta: bool, planned: bool = False) -> None:
        if meta and is_bundle(self.spec):
            raise usage_error(f"--meta: {self.spec} is a slim model, which is loaded with its weights; leave it out")
        super().check_meta(meta, planned)

    def model_of(self, spec: str, note: Callable[[str], object], meta: bool = False) -> Any:
        return self.load(spec) if is_bundle(spec) else super().model_of(spec, note, meta)

    def inputs(self, model: Any) -> Any:
        """Those that are asked for, or such as a slim model was traced with."""
        if self.input is None and is_bundle(self.spec):
            return [inputs_of_spec(one) for one in plans_of(model)[-1].inputs]
        return super().inputs(model)
