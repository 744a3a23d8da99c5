"""One piece of advice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from graphprune.advice.facts import ModelFacts
from graphprune.advice.targets import AdviceTarget


@dataclass(frozen=True)
class Recommendation:
    """One piece of advice.

    Attributes:
        choice: what to do, in a few words.
        reason: why, with the numbers that it follows from.
        arguments: what it adds to the arguments of ``graph.plan``.
        alternatives: what else would do, and when.
        topic: the question that it answers.
    """

    choice: str
    reason: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    alternatives: tuple[str, ...] = ()
    topic: str = ""


TopicRule = Callable[[ModelFacts, AdviceTarget], Recommendation]
"""``(facts, target) -> recommendation``; it looks at nothing else."""
