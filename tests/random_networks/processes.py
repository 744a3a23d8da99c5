"""Check networks in processes of their own.

These functions stand apart from the command, because a process that is started anew imports them by name.
"""

from __future__ import annotations

import logging
import multiprocessing
import warnings
from collections.abc import Iterable, Iterator

import torch

from tests.random_networks.checker import Outcome, check
from tests.random_networks.generator import program_of


def one(seed: int) -> tuple[int, tuple[str, ...], Outcome]:
    """The outcome of a seed."""
    program = program_of(seed)
    return seed, program.blocks, check(program)


def quiet() -> None:
    """One thread, and no warnings of torch."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def outcomes(seeds: Iterable[int], workers: int) -> Iterator[tuple[int, tuple[str, ...], Outcome]]:
    """The outcomes, as they come; each process ends after some hundred networks, so that memory stays small."""
    if workers < 2:
        yield from map(one, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(workers, quiet, maxtasksperchild=500) as pool:
        yield from pool.imap_unordered(one, seeds)
