"""``--device``: where something runs."""

from __future__ import annotations

from graphprune.cli.option_groups import usage_error
from graphprune.errors import InputError
from graphprune.utils.devices import device_with_values


def check_device(name: str) -> None:
    """Usage is wrong if torch has no such device here."""
    try:
        device_with_values(name)
    except InputError as error:
        raise usage_error(f"--{error.what}; give cpu, or another device that is there") from None
