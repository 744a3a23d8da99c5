"""The odd layers: small networks around one layer or one idiom each, which the big zoos do not have."""

from __future__ import annotations

from benchmarks.zoos.common import Builder


def models() -> dict[str, Builder]:
    """Small networks by the layer or idiom that they are about."""
    return {}
