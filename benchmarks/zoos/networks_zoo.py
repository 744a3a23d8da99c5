"""The odd networks: whole designs that the big zoos do not have, each as small as it can be."""

from __future__ import annotations

from benchmarks.zoos.common import Builder


def models() -> dict[str, Builder]:
    """Small networks by design."""
    return {}
