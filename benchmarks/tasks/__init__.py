"""Real data that every machine has: digits, the standard library's text, the meaning of its docstrings.

Dense networks are trained once for each seed and kept in ``benchmarks/results/trained``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.tasks.digits import NETWORKS, Digits
from benchmarks.tasks.sentences import Sentences
from benchmarks.tasks.small import NETWORKS as SMALL
from benchmarks.tasks.small import SmallDigits, SmallText
from benchmarks.tasks.task import Task
from benchmarks.tasks.text import Text

TASKS: dict[str, Callable[..., Task]] = {
    **{f"digits-{network}": partial(Digits, network) for network in NETWORKS},
    "text-gpt": Text,
    "text-gpt-2kv": partial(Text, kv_heads=2),
    "sentences-minilm": Sentences,
    **{f"small-{network}": partial(SmallDigits, network) for network in SMALL},
    "small-gpt": SmallText,
}

__all__ = ["TASKS", "Task"]
