"""Numbers of bytes are read in one way everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphprune.errors import InputError
from graphprune.utils.byte_sizes import read_size


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ("5GB", 5 * 10**9),
        ("1.5 GiB", 3 * 2**29),
        ("200kb", 200_000),
        ("1gib", 2**30),
        ("7", 7),
        (7, 7),
        (np.int64(9), 9),
    ],
)
def test_sizes(given: Any, size: int) -> None:
    assert read_size("size", given) == size


@pytest.mark.parametrize(
    "given", [True, False, 0, -1, 2.5, None, "", "nan", "inf", "-3GB", "1e400GB", "GB", "4 parsecs"]
)
def test_what_is_none(given: Any) -> None:
    with pytest.raises(InputError, match="size: must be a number of bytes, such as '4GB'"):
        read_size("size", given)
