"""What the comparison of libraries found: which methods each enters with, medians, and where another one is ahead."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

OURS = "graphprune"
SCREENING = 1000
"""The seed on which libraries choose their methods, by a validation split; no other run has it."""
WHEN = ("once", "tuned")
WITH_OUR_REPAIR = ("ours_once", "ours_tuned")


@dataclass(frozen=True)
class Outcome:
    """What one method did to one dense network.

    Attributes:
        share: asked for; ``left`` is what there is, as fractions of the dense network's MACs.
        finalist: was it trained while methods were chosen?
        bare: the fine metric of what the library gives, with the batch norms' statistics of the dense network.
        once, tuned: with re-estimated batch norms, before and after training; None where it was not measured.
        ours_once, ours_tuned: with the same channels, taken out and repaired by graphprune; ``unread`` says why not.
        error: why there is nothing.
        hints: what the case's were when it was done.
        tree: of which state of the library.
    """

    network: str
    share: float
    library: str
    method: str
    seed: int
    finalist: bool = False
    left: float | None = None
    params: float | None = None
    bare: float | None = None
    once: float | None = None
    tuned: float | None = None
    ours_once: float | None = None
    ours_tuned: float | None = None
    unread: str = ""
    error: str = ""
    hints: dict[str, float] = field(default_factory=dict)
    tree: str = ""

    @property
    def screening(self) -> bool:
        return self.seed == SCREENING


MEASURED = ("left", "params", "bare", *WHEN, *WITH_OUR_REPAIR)


def ordered(outcomes: Sequence[Outcome], when: str, higher: bool) -> list[Outcome]:
    """Those that have this figure, the best first; equals stay as they are."""
    worked = [one for one in outcomes if getattr(one, when) is not None]
    return sorted(worked, key=lambda one: float(getattr(one, when)), reverse=higher)


def chosen(outcomes: Sequence[Outcome], library: str, higher: bool) -> dict[str, str]:
    """The method with which a library enters at once, and the one after training, by the screening's outcomes."""
    mine = [one for one in outcomes if one.screening and one.library == library]
    first = {when: ordered(mine, when, higher)[:1] for when in WHEN}
    return {when: found[0].method for when, found in first.items() if found}


def entered(outcomes: Sequence[Outcome], library: str, when: str, higher: bool) -> Outcome | None:
    """The medians over the seeds of the method that was chosen; None: it was not measured."""
    method = chosen(outcomes, library, higher).get(when)
    runs = [one for one in outcomes if not one.screening and (one.library, one.method) == (library, method)]
    return median(runs) if runs else None


def medians(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Of each method that ran on the seeds the medians. One that failed on a seed has failed."""
    found: dict[tuple[str, str], list[Outcome]] = {}
    for one in outcomes:
        if not one.screening:
            found.setdefault((one.library, one.method), []).append(one)
    return [median(runs) for runs in found.values()]


def median(runs: Sequence[Outcome]) -> Outcome:
    """The medians of one method's runs."""
    failed = next((one for one in runs if one.error), None)
    return failed or replace(runs[0], **{name: _middle(runs, name) for name in MEASURED})


def _middle(runs: Sequence[Outcome], name: str) -> float | None:
    values = [getattr(one, name) for one in runs]
    return None if None in values else statistics.median(values)


def lead(outcomes: Sequence[Outcome], library: str, when: str, higher: bool) -> float | None:
    """By how much graphprune is ahead of a library in a cell, negative where it is behind; None: one has no figure."""
    ours, theirs = (entered(outcomes, name, when, higher) for name in (OURS, library))
    figures = [None if one is None else getattr(one, when) for one in (ours, theirs)]
    if figures[0] is None or figures[1] is None:
        return None
    return float(figures[0] - figures[1]) * (1 if higher else -1)


def cells(outcomes: Sequence[Outcome], library: str, higher: bool, names: Sequence[str] = WHEN) -> str:
    """``0.9837 / 0.9862``: what a library comes to at once and after training, with its weights or with our repair."""
    pairs = zip(WHEN, names, strict=True)
    return " / ".join(_shown(entered(outcomes, library, when, higher), name) for when, name in pairs)


def _shown(one: Outcome | None, name: str) -> str:
    value = None if one is None else getattr(one, name)
    return "-" if value is None else f"{value:.4f}"


def said_errors(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Each error once, with the methods that it stopped; and why structures could not be read."""
    methods: dict[tuple[str, str], list[str]] = {}
    for one in outcomes:
        if said := one.error or one.unread:
            methods.setdefault((one.library, said), []).append(one.method)
    for (library, said), names in methods.items():
        yield f"{library} ({'; '.join(dict.fromkeys(names))}): {said}"


def as_data(outcomes: Sequence[Outcome]) -> list[dict[str, object]]:
    """For JSON."""
    return [asdict(one) for one in outcomes]
