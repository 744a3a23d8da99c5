"""What is asked of a run, as JSON data, by which a run that goes on knows that it is asked the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphprune.checkpoints.source import SourceCheckpoint
from graphprune.planning.asked import as_data, asked_of
from graphprune.planning.options import PruningOptions
from graphprune.utils.digests import digest


def request_of(checkpoint: SourceCheckpoint, options: PruningOptions, others: Mapping[str, Any]) -> dict[str, Any]:
    """The source with the state of its files, the options that are given, and ``others``; batches by a digest."""
    batches = None if options.calibration is None else digest(options.calibration)
    source = {"source": str(checkpoint.folder.resolve()), "files of the source": checkpoint.fingerprint()}
    return source | asked_of(options) | {"calibration": batches} | {name: as_data(v) for name, v in others.items()}
