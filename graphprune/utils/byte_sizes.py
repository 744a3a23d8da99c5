"""Numbers of bytes as people write and read them."""

from __future__ import annotations

import math
from numbers import Integral

from graphprune.errors import InputError
from graphprune.utils.checks import number_and_unit, shown

_FACTORS: dict[str, int] = {
    "": 1,
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", 1)},
    **{f"{prefix}IB": 1024**power for power, prefix in enumerate("KMGT", 1)},
}


def read_size(name: str, value: object) -> int:
    """A number of bytes, as such or as text.

    Args:
        name: of the argument.
        value: an integer, or text such as ``"5GB"``, ``"1.5 GiB"``, ``"200kb"``.

    Raises:
        InputError: it is none.

    >>> read_size("max_shard_size", "1.5GB")
    1500000000
    """
    if isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 0:
        return int(value)
    number, unit = number_and_unit(value) if isinstance(value, str) else (0.0, "")
    size = number * _FACTORS.get(unit.upper(), 0)
    if not 1 <= size < math.inf:
        raise InputError(
            f"{name}: must be a number of bytes, such as '4GB' or 4_000_000_000, but is {shown(value)}",
            found=shown(value),
            needed="a number of bytes, or one with a unit such as MB, GB or GiB",
            do=f"pass {name}='4GB', say",
        )
    return round(size)


def in_units(size: float) -> str:
    """Bytes as people read them: ``"4.1 GB"``."""
    unit, factor = _unit(size)
    return f"{size / factor:.3g} {unit}"


def rounded_up(size: int) -> str:
    """Bytes as people read them, and so many or more as :func:`read_size` reads them."""
    unit, factor = _unit(size)
    step = max(10 ** (len(str(size)) - 3), 1)
    return f"{-(-size // step) * step / factor:.6g} {unit}"


def _unit(size: float) -> tuple[str, float]:
    """The largest unit of which there is one at least, and its bytes."""
    return next((u, f) for u, f in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0)) if size >= f or f == 1)
