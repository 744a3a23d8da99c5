"""Pruning libraries, each called as its documentation says and held to the same MACs."""

from __future__ import annotations

from benchmarks.libraries import depgraph, kirigami, ours
from benchmarks.libraries.case import Case, Method, TooLong, macs
from benchmarks.libraries.structure import UnreadableStructureError, plan_like

METHODS: tuple[Method, ...] = (*ours.methods(), *depgraph.methods(), *kirigami.methods())

__all__ = ["METHODS", "Case", "Method", "TooLong", "UnreadableStructureError", "macs", "plan_like"]
