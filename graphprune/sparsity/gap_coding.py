"""Places of a few among many as short codes: Golomb and Rice's of the gaps between them.

A gap is a quotient by ``2 ** shift`` and a remainder. Quotients are unary (as many zero bits, then a one) in a stream
of their own, and so is each bit of the remainders: numpy packs and unpacks whole streams. Gaps of places that are
drawn independently follow a geometric distribution, for which this code is within a few percent of the entropy.

Source: Golomb, "Run-length encodings", 1966; Rice and Plaunt, "Adaptive variable-length coding", 1971.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import log2

import numpy as np
from numpy.typing import NDArray

MOST_SHIFT = 12
"""So that a code has at least one bit for 4096 places, and no short file asks for memory without end."""

Places = NDArray[np.int64]
Bytes = NDArray[np.uint8]


def entropy_bits(count: int, size: int) -> float:
    """Bits that say which ``count`` of ``size`` places are taken, all equally likely: ``size * H(count / size)``.

    >>> entropy_bits(50, 100)
    100.0
    """
    if not 0 < count < size:
        return 0.0
    share = count / size
    return size * (-share * log2(share) - (1 - share) * log2(1 - share))


def encoded(places: Places, size: int) -> tuple[int, Bytes, Bytes]:
    """The code of places in rising order, each below ``size``.

    Returns:
        The shift, the unary quotients, and the bits of the remainders.
    """
    gaps = np.diff(places, prepend=-1, append=size) - 1
    shift = min(_likely_shifts(gaps, size), key=lambda each: len(gaps) * each + int((gaps >> each).sum()))
    ends = np.cumsum((gaps >> shift) + 1) - 1
    unary = np.zeros(int(ends[-1]) + 1, np.bool_)
    unary[ends] = True
    planes = [np.packbits((gaps >> bit & 1).astype(np.bool_)) for bit in range(shift)]
    return shift, np.packbits(unary), np.concatenate([np.empty(0, np.uint8), *planes])


def _likely_shifts(gaps: Places, size: int) -> Iterator[int]:
    guess = int(log2(max(size / len(gaps), 1)))
    yield from (shift for shift in range(guess - 2, guess + 2) if 0 <= shift <= MOST_SHIFT)
    yield MOST_SHIFT if guess > MOST_SHIFT else 0


def decoded(count: int, size: int, shift: int, unary: Bytes, remainders: Bytes) -> Places:
    """The ``count`` places below ``size`` that :func:`encoded` coded so.

    Raises:
        ValueError: these are no such codes. No more memory is taken than they and the places need.
    """
    if not 0 <= shift <= MOST_SHIFT or len(remainders) != shift * plane_bytes(count):
        raise ValueError(f"{len(remainders)} bytes of remainders do not fit to {count} places and a shift of {shift}")
    if len(unary) * 8 <= count:
        raise ValueError(f"{len(unary)} bytes of quotients do not fit to {count} places")
    ends = np.flatnonzero(np.unpackbits(unary))
    if len(ends) != count + 1:
        raise ValueError(f"there are {len(ends) - 1} quotients, needed are those of {count} places")
    gaps = (np.diff(ends, prepend=-1) - 1) << shift
    for bit, plane in enumerate(remainders.reshape(shift, -1) if shift else ()):
        gaps |= np.unpackbits(plane, count=count + 1).astype(np.int64) << bit
    ends = np.cumsum(gaps + 1) - 1
    if ends[-1] != size:
        raise ValueError(f"the gaps reach to {ends[-1]}, needed is {size}")
    return ends[:-1]


def plane_bytes(count: int) -> int:
    """Bytes that one bit of each of ``count + 1`` gaps takes."""
    return (count + 8) // 8
