"""Prune thousands of random networks, and print what became of them.

    python -m tests.random_networks --start 0 --count 10000 --workers 2 --out /tmp/random_networks
    python -m tests.random_networks --start 4711 --count 1 --shrink

Every failure is written as a program that reproduces it. The exit status is 1 if there was one.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from tests.random_networks.checker import Outcome, check
from tests.random_networks.generator import Program, program_of
from tests.random_networks.processes import outcomes, quiet
from tests.random_networks.shrinking import shrink

MAIN = """

if __name__ == "__main__":  # {kind}
    import graphprune
    from tests.networks import randomize

    torch.manual_seed({seed})
    model = randomize(Network(), {seed}).eval()
    graph = graphprune.trace(model, example(2))
    print(graph)
    plan = graph.plan(**{options})
    print(plan)
    print(graphprune.verify(model, plan.apply(model), plan, example(2)))
"""


def standalone(program: Program, outcome: Outcome) -> str:
    """A program that shows the failure."""
    said = "\n".join(f"# {line}" for line in outcome.detail.splitlines())
    asked = repr(program.options)
    return f"{program.source}{MAIN.format(kind=outcome.kind, seed=program.seed, options=asked)}\n{said}\n"


class Table:
    """Counts what became of the networks."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.kept: list[float] = []
        self.frozen = self.axes = self.compared = 0

    def add(self, outcome: Outcome) -> None:
        self.kinds[outcome.kind] += 1
        if outcome.axes:
            self.kept.append(outcome.kept)
            self.compared += outcome.compared
            self.axes += outcome.axes
            self.frozen += len(outcome.frozen)
            self.reasons.update(outcome.frozen)
        elif outcome.right:
            self.refusals[outcome.detail[:160]] += 1

    def __str__(self) -> str:
        kept = sum(self.kept) / max(len(self.kept), 1)
        lines = [f"{number:>7}  {kind}" for kind, number in self.kinds.most_common()]
        lines.append(f"{self.compared:>7}  compared with the zeroed model too; {kept:.0%} of the entries are kept")
        lines.append(f"{self.frozen:>7}  of {self.axes} axes are frozen, because")
        lines += [f"{number:>11}  {reason[:150]}" for reason, number in self.reasons.most_common(25)]
        lines += [f"{number:>11}  refused: {text}" for text, number in self.refusals.most_common(10)]
        return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=10000, help="how many seeds")
    parser.add_argument("--workers", type=int, default=1, help="how many processes")
    parser.add_argument("--out", type=Path, default=Path("/tmp/random_networks"), help="where failures are written")
    parser.add_argument("--shrink", action="store_true", help="make failing programs small first (minutes for each)")
    return parser.parse_args()


def main() -> int:
    """Run, write failures, print the table."""
    asked = arguments()
    quiet()
    asked.out.mkdir(parents=True, exist_ok=True)
    found = Table()
    for seed, blocks, outcome in outcomes(range(asked.start, asked.start + asked.count), asked.workers):
        found.add(outcome)
        if outcome.right:
            continue
        program = shrink(program_of(seed), check) if asked.shrink else program_of(seed)
        path = asked.out / f"{seed}.py"
        path.write_text(standalone(program, check(program) if asked.shrink else outcome))
        print(f"{path}: {outcome.kind} ({', '.join(blocks)}): {outcome.detail.splitlines()[:1]}", flush=True)
    print(found)
    return int(any(not Outcome(kind).right for kind in found.kinds))


if __name__ == "__main__":
    sys.exit(main())
