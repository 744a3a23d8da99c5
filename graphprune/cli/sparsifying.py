"""``graphprune sparsify SPEC --amount 0.5 -o FILE``: single weights become zero, and the file small."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import graphprune
from graphprune.cli.found_model import built
from graphprune.cli.option_groups import OptionGroup, flag, usage_error
from graphprune.cli.option_values import read_whole_number
from graphprune.cli.output import Output
from graphprune.cli.output_paths import check_new_file
from graphprune.cli.prunable import PrunableOptions
from graphprune.sparsity.amounts import METHODS
from graphprune.sparsity.masking import SCOPES

_AMOUNT = "a fraction (0.5, 50%), a number of weights, a pattern (2:4), or what the method takes"


def read_mask_amount(given: Any, method: str = "l1") -> float | int | str:
    """What a method masks: a fraction, a number of weights, a pattern, a magnitude or a percentile.

    >>> read_mask_amount("50%"), read_mask_amount("1000"), read_mask_amount("2:4")
    (0.5, 1000, '2:4')
    >>> read_mask_amount("50%", "percentile")
    50.0
    """
    text = str(given).strip()
    if ":" in text:
        return text
    try:
        if text.endswith("%"):
            return _of_percent(float(text.rstrip("% ")), text, method)
        return float(text) if "." in text or "e" in text.lower() else int(text)
    except ValueError:
        raise usage_error(f"--amount: {text!r} is no amount; give {_AMOUNT}") from None


def _of_percent(value: float, text: str, method: str) -> float:
    """What a method is given for a share of the weights in percent."""
    if method == "threshold":
        raise usage_error(
            f"--amount: {text} is a share of the weights, and --method threshold takes a magnitude; give one such as "
            "0.01, or --method l1"
        )
    return value if method == "percentile" else value / 100


@dataclass(kw_only=True)
class SparsifyOptions(OptionGroup):
    """Which weights become zero."""

    amount: Annotated[Any, typer.Option("--amount", metavar="AMOUNT", parser=str, help=_AMOUNT, show_default=False)]
    method: Annotated[str, typer.Option("--method", metavar="NAME", help=f"which weights go: {', '.join(METHODS)}")] = (
        "l1"
    )
    scope: Annotated[
        str, typer.Option("--scope", metavar="NAME", help="local: each layer for itself; global: one ranking over all")
    ] = "local"
    layers: Annotated[
        list[str] | None,
        typer.Option("--layers", metavar="PATTERN", help="names of modules or parameters; without, all that multiply"),
    ] = None
    skip: Annotated[
        list[str] | None, typer.Option("--skip", metavar="PATTERN", help="names of what stays as it is")
    ] = None
    seed: Annotated[Any, typer.Option("--seed", metavar="N", parser=read_whole_number, help="of --method random")] = (
        None
    )

    def __post_init__(self) -> None:
        for name, value, known in (("method", self.method, METHODS), ("scope", self.scope, SCOPES)):
            if value not in known:
                raise usage_error(f"--{name}: {value!r} is none; needed is one of {', '.join(known)}")
        self.amount = read_mask_amount(self.amount, self.method)
        if self.method in ("l1", "random"):
            self._check_share()
        if self.seed is not None and self.method != "random":
            raise usage_error(f"--seed: is of --method random, not of --method {self.method}; leave it out")

    def _check_share(self) -> None:
        """Usage is wrong if the amount is no fraction, number of weights or pattern."""
        amount = self.amount
        if not isinstance(amount, str) and (amount < 0 or (isinstance(amount, float) and amount > 1)):
            raise usage_error(f"--amount: must be a fraction from 0 to 1, or a number of weights, but is {amount:g}")


def sparsify_command(
    out: Output,
    given: PrunableOptions,
    options: SparsifyOptions,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="the sparse file", show_default=False)],
    force: Annotated[bool, flag("--force", help="replace FILE if it is there")] = False,
) -> int:
    """Set single weights to zero, where they stay in place, and write the rest as a small file.

    graphprune.load_sparse reads it. To remove whole channels, and get a faster model, use graphprune prune.

    Examples:
        graphprune sparsify torchvision:resnet50 --pretrained --amount 0.8 --scope global -o resnet50.sparse
        graphprune sparsify net.py:make --weights dense.pt --amount 2:4 --skip head -o net.sparse
    """
    check_new_file("-o", output, force)
    model = built(out, given.spec, given)
    layers = tuple(options.layers) if options.layers else None
    found = graphprune.sparsify(
        model,
        options.amount,
        method=options.method,
        scope=options.scope,
        layers=layers,
        skip=tuple(options.skip or ()),
        seed=options.seed,
    )
    written = graphprune.save_sparse(model, output)
    out.result(lambda: _parts(found, written), lambda: _data(given.spec, found, written), output)
    return 0


def _parts(found: graphprune.Sparsity, written: graphprune.SparseFile) -> Iterator[Any]:
    yield found
    yield written


def _data(spec: str, found: graphprune.Sparsity, written: graphprune.SparseFile) -> dict[str, Any]:
    return {
        "spec": spec,
        "zeros": found.zeros,
        "parameters": found.size,
        "sparsity": found.overall,
        "written": str(written.path),
        "bytes": written.bytes,
        "dense_bytes": written.dense,
    }
