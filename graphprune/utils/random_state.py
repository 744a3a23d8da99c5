"""The state of all generators of random numbers: of torch, numpy and Python."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState, np.random.BitGenerator)
"""Classes of objects that random numbers are drawn from."""

WORD = 2**64
"""Seeds are taken modulo this, as torch takes negative ones."""


def random_state() -> dict[str, Any]:
    """What the global generators are at now, as tensors, numbers and strings."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": np.random.get_state(legacy=True),
        "python": random.getstate(),
    }


def check_random_state(state: Mapping[str, Any]) -> None:
    """Raise a ValueError unless generators can go on from a state. The global ones are not touched."""
    try:
        torch.Generator().set_state(state["torch"])
        np.random.RandomState().set_state(state["numpy"])
        random.Random().setstate(state["python"])
    except (LookupError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(f"no state of random numbers: {error}") from error


def set_random_state(state: Mapping[str, Any]) -> None:
    """Go on from a state that :func:`random_state` gave. Devices that are not there any more are passed over."""
    torch.set_rng_state(state["torch"])
    there = torch.cuda.device_count() if state["cuda"] else 0  # which asks the driver
    for device, generator in enumerate(state["cuda"][:there]):
        torch.cuda.set_rng_state(generator, device)
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])


def seed_all(*entropy: int) -> None:
    """Seed the global generators with a mixture of numbers, such as a seed, a step and a rank."""
    seeds = _mixture(entropy).generate_state(3)
    torch.default_generator.manual_seed(int(seeds[0]))  # torch.manual_seed formats a stack trace where CUDA is idle
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(int(seeds[0]))
    np.random.seed(int(seeds[1]))
    random.seed(int(seeds[2]))


def mixed_seed(*entropy: int) -> int:
    """A seed for a generator of one's own, from such a mixture of numbers."""
    return int(_mixture(entropy).generate_state(1, np.uint64)[0])


def _mixture(entropy: Sequence[int]) -> np.random.SeedSequence:
    """Source: O'Neill, "Developing a seed_seq alternative", 2015."""
    return np.random.SeedSequence([number % WORD for number in entropy])


class _Kept:
    """What the generators go back to: contexts of several threads may overlap, and the last to end is not the first."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._open = 0
        self._outside: dict[str, Any] = {}

    def begin(self) -> dict[str, Any]:
        """The state of now."""
        with self._lock:
            state = random_state()
            if not self._open:
                self._outside = state
            self._open += 1
            return state

    def end(self, state: dict[str, Any]) -> None:
        """Go back to it; where no other context is open, to what was before all that overlapped."""
        with self._lock:
            self._open -= 1
            set_random_state(state if self._open else self._outside)


_KEPT = _Kept()


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """Whatever is drawn within, the global generators go on afterwards as if it had not been."""
    state = _KEPT.begin()
    try:
        yield
    finally:
        _KEPT.end(state)


@contextmanager
def random_numbers_of(*entropy: int) -> Iterator[None]:
    """The global generators are seeded with a mixture of numbers within, and go on afterwards as before."""
    with random_numbers_kept():
        seed_all(*entropy)
        yield


class RandomStream:
    """Random numbers of one's own, between which others draw theirs.

    Args:
        entropy: streams with the same begin with the same numbers.
    """

    def __init__(self, *entropy: int) -> None:
        with random_numbers_kept():
            seed_all(*entropy)
            self._state = self._beginning = random_state()

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """A context in which numbers of this stream are drawn."""
        with random_numbers_kept():
            set_random_state(self._state)
            yield
            self._state = random_state()

    @property
    def moved(self) -> bool:
        """Were numbers drawn?"""
        tensors = [(one["torch"], *one["cuda"]) for one in (self._beginning, self._state)]
        if not all(map(torch.equal, *tensors)) or self._beginning["python"] != self._state["python"]:
            return True
        return not all(map(np.array_equal, self._beginning["numpy"], self._state["numpy"]))
