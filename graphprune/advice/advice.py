"""The result: facts, recommendations, arguments and a program, which print as tables."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any

from graphprune.advice.facts import GroupFacts, ModelFacts
from graphprune.advice.recommendations import Recommendation
from graphprune.advice.targets import AdviceTarget
from graphprune.errors import InputError
from graphprune.planning.options import PruningOptions
from graphprune.utils.checks import found_value
from graphprune.utils.tables import Printed

_WIDTH = 110
_GROUPS_SHOWN = 12


@dataclass(frozen=True, eq=False, repr=False)
class Advice(Printed):
    """What to do with a model, and why. ``print`` it.

    Attributes:
        facts: what was found about the model.
        target: what is wanted.
        recommendations: one for each topic.
        arguments: those of ``graph.plan``, ready to be passed: ``graph.plan(**advice.arguments)``; empty where nothing
            can be pruned.
        code: a program that does all of it, given ``model``, ``example_inputs`` and, where they were given, ``data``
            and ``loss_fn``.
    """

    facts: ModelFacts
    target: AdviceTarget
    recommendations: tuple[Recommendation, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""

    def __getitem__(self, topic: str) -> Recommendation:
        """The recommendation for a topic.

        Raises:
            InputError: there is no such topic.
        """
        found = {r.topic: r for r in self.recommendations}
        if topic not in found:
            raise InputError(
                f"topic: {topic!r} is none of {', '.join(found)}",
                found=found_value(topic),
                needed=f"one of {', '.join(found)}",
                do="print(advice) lists the topics",
            )
        return found[topic]

    @property
    def options(self) -> PruningOptions | None:
        """The arguments as one record; None: nothing can be pruned."""
        return PruningOptions.of(None, self.arguments) if self.arguments else None

    def _summary(self) -> str:
        return f"Advice for {self.facts.model}: {', '.join(r.choice for r in self.recommendations)}"

    def _parts(self) -> Iterator[str]:
        yield f"{self.facts.model}: {self.target.text}"
        more = [*map(_said, self.recommendations), _groups(self.facts), _remarks(self.facts), self.code.rstrip()]
        yield from (f"\n{part}" for part in more if part)

    def to_json(self) -> str:
        """All of it as JSON. Data, functions and what was measured for an allocation stand as text."""
        runtime = self.target.runtime.name if self.target.runtime else None
        data = {
            "target": {"budgets": dict(self.target.budgets), "runtime": runtime, "assumed": self.target.assumed},
            "facts": _plain(asdict(self.facts)),
            "recommendations": [_plain(asdict(r)) for r in self.recommendations],
            "arguments": _plain(dict(self.arguments)),
            "code": self.code,
        }
        return json.dumps(data, indent=2)


def _said(r: Recommendation) -> str:
    """One recommendation as a paragraph."""
    lines = [f"{r.topic}: {r.choice}", *_wrapped(r.reason, "  because ")]
    for alternative in r.alternatives:
        lines += _wrapped(alternative, "  or ")
    return "\n".join(lines)


def _wrapped(text: str, begin: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=begin, subsequent_indent="    ")


def _groups(facts: ModelFacts) -> str:
    """The groups with what was measured, the most expensive first."""
    if not facts.groups:
        return ""
    order = sorted(facts.groups, key=lambda g: -(g.macs if g.time is None else g.time))
    width = max(len(g.name) for g in order[:_GROUPS_SHOWN])
    head = f"{'group':<{width}}  {'role':<10}  units   MACs  params   time  half saves  half costs"
    lines = [head, *(_group_row(g, width) for g in order[:_GROUPS_SHOWN])]
    more = len(order) - _GROUPS_SHOWN
    return "\n".join([*lines, *([f"and {more} more groups"] if more > 0 else [])])


def _group_row(g: GroupFacts, width: int) -> str:
    rise = "" if g.rise is None else f"{g.rise:+.3g}"
    shares = f"{g.macs:>6.1%} {g.params:>6.1%} {_percent(g.time):>6} {_percent(g.saved):>11}"
    return f"{g.name:<{width}}  {g.role:<10} {g.units:>6} {shares} {rise:>11}".rstrip()


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _remarks(facts: ModelFacts) -> str:
    lines: list[str] = []
    for one in facts.unmeasured:
        lines += _wrapped(one, "not measured: ")
    for one in facts.doubts:
        lines += _wrapped(one, "doubtful: ")
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    """A value as JSON data."""
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else _text(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else _text(value)


def _text(value: Any) -> str:
    if is_dataclass(value):
        return str(value)
    return str(getattr(value, "__name__", None) or (value if isinstance(value, int) else type(value).__name__))
