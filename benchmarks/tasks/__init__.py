"""Real data that every machine has: digits, the standard library's text, the meaning of its docstrings.

Dense networks are trained once for each seed and kept in ``benchmarks/results/trained``. Those of ``PRETRAINED`` are
published, in packages that ``make real`` downloads, and so are most of their data.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.tasks.codes import Codes
from benchmarks.tasks.digits import NETWORKS, Digits
from benchmarks.tasks.files import Files
from benchmarks.tasks.lines import Lines
from benchmarks.tasks.marks import Marks
from benchmarks.tasks.persian import Persian
from benchmarks.tasks.phonemes import Phonemes
from benchmarks.tasks.pitch import Pitch
from benchmarks.tasks.readings import Readings
from benchmarks.tasks.sentences import Sentences
from benchmarks.tasks.small import NETWORKS as SMALL
from benchmarks.tasks.small import SmallDigits, SmallText
from benchmarks.tasks.speakers import Speakers
from benchmarks.tasks.task import Task
from benchmarks.tasks.text import Text
from benchmarks.tasks.voice import Voice

PRETRAINED: dict[str, type[Task]] = {
    task.name: task
    for task in (Readings, Phonemes, Voice, Speakers, Persian, Files, Sentences, Pitch, Codes, Marks, Lines)
}
"""The cheap ones first."""

TASKS: dict[str, Callable[..., Task]] = {
    **{f"digits-{network}": partial(Digits, network) for network in NETWORKS},
    "text-gpt": Text,
    "text-gpt-2kv": partial(Text, kv_heads=2),
    **PRETRAINED,
    **{f"small-{network}": partial(SmallDigits, network) for network in SMALL},
    "small-gpt": SmallText,
}

__all__ = ["PRETRAINED", "TASKS", "Task"]
