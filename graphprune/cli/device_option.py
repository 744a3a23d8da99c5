"""``--device``: where something runs."""

from __future__ import annotations

import torch

from graphprune.cli.option_groups import usage_error


def check_device(name: str) -> None:
    """Usage is wrong if torch has no such device here."""
    try:
        kind = torch.device(name).type
    except RuntimeError:
        raise usage_error(f"--device: {name!r} is none; give cpu, cuda or another of torch's") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise usage_error(f"--device: {name} is not there: torch finds no GPU; give cpu")
    if kind == "meta":
        raise usage_error("--device: meta holds no values; give cpu, cuda or another of torch's")
