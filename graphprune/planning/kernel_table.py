"""The times of kernels, measured once and kept on disk."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from msgspec import Meta

from graphprune.errors import DamagedTableWarning, LoadError, SaveError
from graphprune.utils.callers import frames_of_this_package
from graphprune.utils.files import replace_file
from graphprune.utils.timing import median_seconds
from graphprune.utils.typed_json import convert_data, read_json

Seconds = Annotated[float, Meta(ge=0, le=sys.float_info.max)]


@dataclass
class KernelTable:
    """Times of single operations on one device, by what was called on which shapes; kept in a JSON file.

    Args:
        device: where kernels run.
        path: the file; None: in the user's cache folder, by device, threads and torch version.
    """

    device: torch.device
    path: Path | None = None
    times: dict[str, float] = field(default_factory=dict)
    measured: int = 0

    def __post_init__(self) -> None:
        if self.path is None:
            self.path = _cache_folder() / f"{_machine(self.device)}.json"
        self.times = _known(self.path)

    def seconds(self, name: str, call: Callable[[], Callable[[], Any]]) -> float:
        """The time of the kernel ``name``; ``call()`` prepares its tensors and returns what is to be timed."""
        if name not in self.times:
            with torch.no_grad():
                (self.times[name],) = median_seconds(call())
            self.measured += 1
        return self.times[name]

    def save(self) -> None:
        """Write what was measured since the last time. Another process's new entries are kept.

        Warns:
            DamagedTableWarning: the file cannot be written.
        """
        if self.measured and self.path is not None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                text = json.dumps(_known(self.path) | self.times)
                replace_file(self.path, lambda path: path.write_text(text))
            except OSError as error:
                message = (
                    f"latency: the table of kernels {self.path} cannot be written ({_reason(error)}), so they are "
                    "measured again in another process; set XDG_CACHE_HOME to a folder that may be written to"
                )
                warnings.warn(message, DamagedTableWarning, stacklevel=frames_of_this_package())
            self.measured = 0


def _reason(error: OSError) -> str:
    return error.found if isinstance(error, SaveError) else str(error)


def _known(path: Path) -> dict[str, float]:
    """Seconds by the name of the kernel; none where there is no file, or, with a warning, no whole one."""
    if not path.exists():
        return {}
    what, advice = f"latency: the table of kernels {path}", "its kernels are measured again, and it is replaced"
    try:
        return convert_data(read_json(path, what, advice), dict[str, Seconds], what, advice)
    except LoadError as error:
        warnings.warn(str(error), DamagedTableWarning, stacklevel=2)
        return {}


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "graphprune"


def _machine(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu-{torch.get_num_threads()}-threads"
    return f"{name}-torch-{torch.__version__}".replace(" ", "-").replace("/", "-")
