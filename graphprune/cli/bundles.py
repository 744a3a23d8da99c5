"""Folders that ``graphprune prune`` wrote, as what a command is given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

import graphprune
from graphprune.cli.given_inputs import given_inputs
from graphprune.cli.models import load_spec
from graphprune.cli.option_groups import OptionGroup, flag, usage_error
from graphprune.cli.spec_forms import MODEL_PANEL, SPEC_FORMS, check_spec, complete_spec
from graphprune.cli.user_files import FILE_MODULE
from graphprune.errors import InputError
from graphprune.export.architecture import IMPORT
from graphprune.export.bundle import bundle_versions
from graphprune.export.manifest import MANIFEST, read_manifest
from graphprune.pruning.plan import plans_of
from graphprune.tracing.input_specs import inputs_of_spec

Dense = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="SPEC",
        help=f"the dense architecture, if the folder of a slim model needs it: {SPEC_FORMS}",
        autocompletion=complete_spec,
        rich_help_panel=MODEL_PANEL,
    ),
]
Trust = Annotated[
    bool,
    flag("--trust-factory", help="let the folder of a slim model import what makes its model", panel=MODEL_PANEL),
]


BundleFolder = Annotated[
    Path, typer.Argument(metavar="DIR", help="what graphprune prune (or graphprune.save) wrote", show_default=False)
]


@dataclass
class BundleOptions(OptionGroup):
    """What loading the folder of a slim model may need."""

    model: Dense = None
    trust_factory: Trust = False

    def check_used(self, names: Iterable[str]) -> None:
        """Usage is wrong if an option for folders of slim models is given, and none of these is one."""
        name = "--model" if self.model is not None else "--trust-factory" if self.trust_factory else ""
        if name and not any(map(is_bundle, names)):
            raise usage_error(f"{name}: is for the folder of a slim model, and there is none; leave it out")

    def _check(self, folder: Path) -> None:
        """Usage is wrong if the folder needs another option."""
        if self.model is not None:
            check_spec(self.model, "--model")
            return
        version = bundle_versions(folder).latest()
        architecture = None if version is None else read_manifest(version / MANIFEST).architecture
        if version is None:
            return
        if architecture is None or FILE_MODULE in architecture.name:
            raise usage_error(
                f"--model: {folder} does not say how its model is built; give --model SPEC, the dense model"
            )
        if architecture.source == IMPORT and not self.trust_factory:
            raise usage_error(
                f"--trust-factory: {folder} imports {architecture.name} to build its model, which can run any code; "
                "give --trust-factory if you trust it, or --model SPEC, the dense model"
            )

    def load(self, folder: Path | str) -> nn.Module:
        """The slim model in a folder."""
        self._check(Path(folder))
        dense = None if self.model is None else load_spec(self.model, device="meta")
        return graphprune.load(folder, model=dense, trust_factory=self.trust_factory).eval()


def check_bundle(folder: Path, spec: str = "") -> None:
    """Usage is wrong if a folder is none of a slim model; perhaps it stands where SPEC does."""
    if not is_bundle(folder) and spec and is_bundle(spec):
        raise usage_error(f"DIR: {folder} is no folder of a slim model, and SPEC is: write {folder} before {spec}")
    if not folder.is_dir():
        raise usage_error(f"DIR: {folder} is no folder; give one that graphprune prune wrote")
    if not is_bundle(folder):
        raise usage_error(f"DIR: {folder} holds no slim model; give a folder that graphprune prune wrote")


def is_bundle(name: str | Path) -> bool:
    """Is it the folder of a slim model?"""
    return Path(name).is_dir() and bundle_versions(Path(name)).latest() is not None


def traced_inputs(slim: nn.Module, given: Any) -> Any:
    """The inputs that ``--input`` asks for, or such as the dense model was traced with."""
    if given is not None:
        return given_inputs(slim, given)
    specs = plans_of(slim)[0].inputs
    forward = next((spec for spec in specs if spec["method"] == "forward"), None)
    if forward is None:
        raise InputError(
            "--input: the bundle does not say what the model was traced with",
            found="a plan without inputs",
            needed="the shape of the input, or a function that returns all inputs",
            do="give the shape of its input, such as --input 1,3,224,224, or --input module:function",
        )
    call = inputs_of_spec(forward)
    if call.args and call.kwargs:
        raise InputError(
            "--input: the model was traced with positional and keyword arguments",
            found=str(call),
            needed="positional or keyword arguments alone",
            do="export it from Python, with graphprune.load and graphprune.export_onnx",
        )
    return call.kwargs or call.args
