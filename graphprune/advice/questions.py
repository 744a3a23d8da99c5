"""Which plans are tried: by topic the answers, the first of which stays unless another is clearly better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphprune.advice.facts import ModelFacts

Answers = Mapping[str, Mapping[str, Any]]
"""Arguments of a plan by what they are called."""


def questions_for(facts: ModelFacts) -> list[tuple[str, Answers]]:
    """The topics that trials decide, in order of what they are worth."""
    found: list[tuple[str, Answers]] = [("criterion", _criteria(facts)), ("allocation", _allocations())]
    found.append(("ends", {"as the others": {}, "gentler": {"protect_ends": True}}))
    if facts.blocks:
        found.append(("depth or width", _depths(facts)))
    return found


def _criteria(facts: ModelFacts) -> Answers:
    names = ["wanda", "schur", "l2"] if facts.tokens else ["schur", "l2", "wanda"]
    if facts.data.labeled:
        names.append("taylor")
    return {name: {"importance": name} for name in names}


def _allocations() -> Answers:
    return {name: {"allocation": name} for name in ("global", "uniform", "isomorphic")}


def _depths(facts: ModelFacts) -> Answers:
    """One block fewer, and a quarter of them."""
    found: dict[str, Mapping[str, Any]] = {"width": {}}
    for blocks in sorted({1, len(facts.blocks) // 4} - {0}):
        name = "1 block, then width" if blocks == 1 else f"{blocks} blocks, then width"
        found[name] = {"depth": depth_of(blocks, len(facts.blocks))}
    return found


def depth_of(blocks: int, of: int) -> float:
    """The fraction with which ``depth=`` leaves out so many blocks, rounded up to four digits."""
    return min(-(-blocks * 10_000 // of) / 10_000, 0.9999)
