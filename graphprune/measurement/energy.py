"""How much energy a run takes, where the machine has a counter that may be read."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from graphprune.utils.timing import synchronize

POWERCAP = Path("/sys/class/powercap")
"""Where Linux has the counters of Intel's and AMD's processors (RAPL)."""

LONG_ENOUGH = 1.0
"""Seconds of runs over which energy is measured: counters are read a thousand times a second at most."""


class CounterMissing(Exception):
    """There is no counter of energy that can be read; the message says why."""


class EnergyCounter(Protocol):
    """Counts energy from some beginning on."""

    def read(self) -> list[int]:
        """What the counter stands at, in its own units."""

    def joules(self, before: list[int], after: list[int]) -> float:
        """The energy between two readings."""


@dataclass(frozen=True)
class ProcessorCounter:
    """The energy of all processor packages, whatever runs on them.

    Attributes:
        zones: a folder for each package.
    """

    zones: tuple[Path, ...]

    @staticmethod
    def found(folder: Path) -> ProcessorCounter:
        """The packages below a folder.

        Raises:
            CounterMissing: there are none, or they cannot be read.
        """
        zones = tuple(zone for zone in sorted(folder.glob("*:*")) if _is_package(zone))
        if not zones:
            raise CounterMissing(f"{folder} has no counter of a processor package (RAPL)")
        counter = ProcessorCounter(zones)
        try:
            counter.read()
        except OSError as error:
            raise CounterMissing(f"the counter cannot be read ({error}); let the administrator allow it") from error
        return counter

    def read(self) -> list[int]:
        return [int((zone / "energy_uj").read_text()) for zone in self.zones]

    def joules(self, before: list[int], after: list[int]) -> float:
        total = 0
        for zone, first, last in zip(self.zones, before, after, strict=True):
            around = last < first
            total += last - first + (int((zone / "max_energy_range_uj").read_text()) if around else 0)
        return total * 1e-6


def _is_package(zone: Path) -> bool:
    name = zone / "name"
    return name.is_file() and name.read_text().startswith("package")


@dataclass(frozen=True)
class CardCounter:
    """The energy of one NVIDIA card, whatever runs on it.

    Attributes:
        nvml: the module ``pynvml``.
        card: its handle.
    """

    nvml: Any
    card: Any

    @staticmethod
    def found(device: torch.device) -> CardCounter:
        """The counter of the card with a model.

        Raises:
            CounterMissing: pynvml is not installed, or the card has no counter.
        """
        try:
            import pynvml
        except ImportError as error:
            raise CounterMissing("pynvml is not installed; run: pip install nvidia-ml-py") from error
        try:
            pynvml.nvmlInit()
            uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
            counter = CardCounter(pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid))
            counter.read()
        except pynvml.NVMLError as error:
            raise CounterMissing(f"the card has no counter that can be read ({error})") from error
        return counter

    def read(self) -> list[int]:
        return [self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.card)]

    def joules(self, before: list[int], after: list[int]) -> float:
        return (after[0] - before[0]) * 1e-3


def energy_counter(device: torch.device) -> EnergyCounter:
    """The counter of what computes on a device.

    Raises:
        CounterMissing: there is none.
    """
    if device.type == "cuda":
        return CardCounter.found(device)
    if device.type == "cpu":
        return ProcessorCounter.found(POWERCAP)
    raise CounterMissing(f"no counter is known for {device.type}")


def joules_of(run: Callable[[], Any], counter: EnergyCounter) -> float:
    """The energy of one run, all that the counter counts meanwhile: the mean of runs for some time."""
    synchronize()
    before, start, runs = counter.read(), time.perf_counter(), 0
    while not runs or time.perf_counter() - start < LONG_ENOUGH:
        run()
        runs += 1
    synchronize()
    return counter.joules(before, counter.read()) / runs
