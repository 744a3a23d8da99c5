"""``python -m benchmarks.opinfo``: prune around every operation of torch, on the samples that torch tests it with.

Each sample becomes a network: the floating-point arguments are parameters, the operation runs on them, and each result
is weighed by a parameter of its shape and added up. Every dimension of every argument can then lose entries, as far as
the rule of the operation says so. The network is pruned at random several times, and the slim one is compared with the
masked one and, where nothing is added up over entries that are no longer zero, with the network whose removed entries
are zero. An operation is

- *supported*, if a sample loses entries and all slim networks are right,
- *frozen*, if all that its samples show keeps its size, with a reason,
- *refused*, if graphprune raises an error of its own,
- *crashed*, if another error came, or *wrong*, if a slim network is another function.

The samples are those of ``torch.testing._internal.common_methods_invocations.op_db``, which is torch's own test data.
"""

from __future__ import annotations

import argparse
import fnmatch
import re
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

import graphprune
from benchmarks.common import quiet_one_thread, row, table, wide_console, write_json
from graphprune.errors import GraphpruneError

RATIOS = (0.3, 0.5, 0.7)
TOLERANCE = 1e-8
"""Largest relative difference of the added-up results; decompositions and special functions round."""

SECONDS = 60
"""How long one sample may take."""

PAGE = Path(__file__).parent.parent / "docs" / "operations.md"

STATES = ("supported", "frozen", "refused", "skipped", "crashed", "wrong")


class Weighed(nn.Module):
    """An operation on parameters that hold the values of a sample, its results weighed by parameters and added up."""

    def __init__(self, operation: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.operation = operation
        leaves, self.structure = tree_flatten((args, kwargs))
        self.operands = nn.ParameterDict(
            {str(i): nn.Parameter(leaf.detach().clone()) for i, leaf in enumerate(leaves) if is_operand(leaf)}
        )
        self.constants = {i: leaf for i, leaf in enumerate(leaves) if not is_operand(leaf)}
        results = self.results()
        generator = torch.Generator().manual_seed(0)
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(r.shape, generator=generator, dtype=torch.float64)) for r in results
        )

    def arguments(self) -> Any:
        """The positional and the keyword arguments."""
        count = len(self.constants) + len(self.operands)
        leaves = [self.constants[i] if i in self.constants else self.operands[str(i)] for i in range(count)]
        return tree_unflatten(leaves, self.structure)

    def results(self) -> list[Tensor]:
        """The results as real numbers."""
        args, kwargs = self.arguments()
        found = [r for r in tree_flatten(self.operation(*args, **kwargs))[0] if isinstance(r, Tensor)]
        return [part for r in found for part in real_parts(r)]

    def forward(self, x: Tensor) -> Tensor:
        return x * sum((r * w).sum() for r, w in zip(self.results(), self.weights, strict=True))


def is_operand(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.layout == torch.strided


def real_parts(result: Tensor) -> list[Tensor]:
    if result.is_complex():
        return [result.real, result.imag]
    return [result if result.dtype == torch.float64 else result.to(torch.float64)]


@dataclass
class Found:
    """What became of the samples of one operation.

    Attributes:
        name: of the operation, with its variant.
        states: what became of how many samples.
        removed: fractions of the operands' entries that went, a number a pruned network.
        reasons: why dimensions of the samples are frozen, and of how many samples.
        messages: what was refused, crashed or wrong, one of a kind.
    """

    name: str
    states: Counter[str] = field(default_factory=Counter)
    removed: list[float] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    messages: list[str] = field(default_factory=list)

    @property
    def state(self) -> str:
        """The worst of what is wrong, else the best of what is right."""
        for state in ("wrong", "crashed", "supported", "frozen", "refused"):
            if self.states[state]:
                return state
        return "skipped"


class OutOfTime(Exception):
    """A sample took longer than it may."""


class Wrong(Exception):
    """A slim network is another function."""


class NoNumbers(Exception):
    """A sample shows nothing: its results are empty, infinite, or other ones in each call."""


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise :class:`OutOfTime` in a block that takes longer."""

    def stop(*_: object) -> None:
        raise OutOfTime(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Draws(TorchDispatchMode):
    """Notices operations that draw random numbers, or find in memory what is there."""

    seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen |= torch.Tag.nondeterministic_seeded in func.tags or "empty" in func.name()
        return func(*args, **kwargs or {})


def samples_of(op: Any, most: int) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Arguments of at most ``most`` samples, spread over all that torch has."""
    torch.manual_seed(0)
    found = list(op.sample_inputs("cpu", torch.float64, requires_grad=False))
    step = max(1, len(found) // most)
    return [((s.input, *s.args), dict(s.kwargs)) for s in found[::step][:most]]


def network_of(op: Any, sample: tuple[tuple[Any, ...], dict[str, Any]]) -> Weighed:
    """The network of a sample.

    Raises:
        NoNumbers: the sample can show nothing.
    """
    model = Weighed(op.op, *sample)
    if not any(p.ndim and p.numel() > 1 for p in model.operands.values()) or not len(model.weights):
        raise NoNumbers("no argument has entries to lose, or there is no result")
    with Draws() as draws:
        total = model(torch.ones(2, dtype=torch.float64))
    if not total.isfinite().all() or draws.seen:
        raise NoNumbers("the results are not finite, or random")
    return model


def prune_around(model: Weighed) -> tuple[list[float], list[str]]:
    """Prune a network several times at random; the fractions of entries removed, and why dimensions are frozen.

    Raises:
        Wrong: a slim network is another function than the masked one.
        GraphpruneError: the network is refused.
    """
    example = torch.tensor([1.0, 2.0], dtype=torch.float64)
    graph = graphprune.trace(model, example)
    reasons = {frozen.reason for frozen in graph.frozen}
    if not graph.groups:
        return [0.0], sorted(reasons)
    removed = []
    for seed, ratio in enumerate(RATIOS):
        plan = graph.plan(ratio, importance="random", seed=seed)
        slim = plan.apply(model)
        removed.append(1 - sum(p.numel() for p in slim.parameters()) / sum(p.numel() for p in model.parameters()))
        reasons |= {choice.why for choice in plan.choices if not choice.removed}
        if removed[-1]:
            compare(model, slim, plan, example)
    return removed, sorted(reasons)


def compare(model: Weighed, slim: nn.Module, plan: graphprune.Plan, example: Tensor) -> None:
    """Hold a slim network against the masked one, and against the one with zeros where these say the same.

    Raises:
        Wrong: they differ.
    """
    check = graphprune.verify(model, slim, plan, example)
    if check.relative > TOLERANCE:
        raise Wrong(f"differs by {check.relative:.1e} from the masked network")
    if check.inexact or check.perturbed:
        return
    zeroed = Weighed(model.operation, *model.arguments())
    zeroed.load_state_dict({n: p.masked_fill(~plan.mask(n), 0) for n, p in model.state_dict().items()})
    try:
        expected, actual = zeroed(example), slim(example)
    except RuntimeError:  # a matrix of zeros has no inverse; what is left of a batch has
        return
    if expected.isfinite().all() and not torch.allclose(expected, actual, rtol=TOLERANCE, atol=1e-10):
        raise Wrong(f"{actual.tolist()} instead of {expected.tolist()} of the network with zeros")


def examine(op: Any, most: int) -> Found:
    """What becomes of the samples of an operation."""
    found = Found(op.name + (f".{op.variant_test_name}" if op.variant_test_name else ""))
    for sample in samples_of(op, most):
        with warnings.catch_warnings(), at_most(SECONDS):
            warnings.simplefilter("ignore")
            state, said = outcome(op, sample, found)
        found.states[state] += 1
        if said and said not in found.messages:
            found.messages.append(said)
    return found


def outcome(op: Any, sample: tuple[tuple[Any, ...], dict[str, Any]], found: Found) -> tuple[str, str]:
    """The state of one sample, and what there is to say of it."""
    try:
        model = network_of(op, sample)
    except Exception:  # torch's own samples that do not run as they stand show nothing of graphprune
        return "skipped", ""
    try:
        removed, reasons = prune_around(model)
    except GraphpruneError as error:
        return "refused", f"refused: {error}"
    except Wrong as error:
        return "wrong", f"wrong: {error}; {described(sample)}"
    except Exception as error:  # counted and printed: this is what the script looks for
        return "crashed", f"crashed: {type(error).__name__}: {error}; {described(sample)}"
    found.removed += removed
    found.reasons.update(map(plain, reasons))
    if not any(removed) and not reasons:
        return "wrong", f"wrong: nothing goes and nothing is frozen; {described(sample)}"
    return ("supported" if any(removed) else "frozen"), ""


def plain(reason: str) -> str:
    """A reason without the line of this file."""
    return re.sub(r",? (at )?\(?[^ (]*opinfo\.py:\d+\)?(: found = .*)?", "", reason, flags=re.DOTALL)


def described(value: Any) -> str:
    """Arguments in short."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(described, value))})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k}={described(v)}' for k, v in value.items())}}}"
    return repr(value)


def operations(patterns: Sequence[str]) -> list[Any]:
    """Torch's descriptions of operations that take double precision."""
    from torch.testing._internal.common_methods_invocations import op_db

    return [
        op
        for op in op_db
        if torch.float64 in op.dtypes and any(fnmatch.fnmatch(op.name, pattern) for pattern in patterns)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Print and write what became of every operation; 1 if one is wrong or crashed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", default=["*"], help="names of operations, such as 'nn.functional.*'")
    parser.add_argument("--samples", type=int, default=12, help="how many samples of an operation")
    options = parser.parse_args(argv)
    quiet_one_thread()
    wanted = operations(options.patterns)
    found = [examine(op, options.samples) for op in track(wanted, "operations", transient=True)]
    console = wide_console()
    console.print(summary(found))
    for one in found:
        for message in one.messages:
            if one.state in ("wrong", "crashed", "refused"):
                console.print(f"{one.name}: {message[:400]}", markup=False)
    if options.patterns == ["*"]:
        data = [as_data(one) for one in found]
        write_json("opinfo.json", {"torch": torch.__version__, "operations": data})
        PAGE.write_text(page(torch.__version__, data))
    return int(any(one.state in ("wrong", "crashed") for one in found))


def summary(found: Iterable[Found]) -> Any:
    """How many operations and samples are in which state."""
    found = list(found)
    states = Counter(one.state for one in found)
    samples = sum((one.states for one in found), Counter())
    made = table("torch's operations, on its own samples", "state", "operations", "samples")
    for state in STATES:
        row(made, state, states[state], samples[state])
    return made


def as_data(one: Found) -> dict[str, Any]:
    removed = sum(one.removed) / len(one.removed) if one.removed else 0.0
    reasons = [reason for reason, _ in one.reasons.most_common(3)]
    return {
        "operation": one.name,
        "state": one.state,
        "samples": dict(one.states),
        "removed": round(removed, 3),
        "reasons": reasons,
        "messages": one.messages[:3],
    }


HEAD = """# Operations of torch

<!-- Written by `python -m benchmarks.opinfo`; a test compares it with `benchmarks/results/opinfo.json`. -->

What graphprune does with every operation that torch {version} describes for its own tests, on samples of these tests.
Each sample becomes a network whose parameters are the arguments; it is pruned at random three times.
Every slim network is held against the masked one, and against the one with zeros where these say the same.

| state | operations | samples | meaning |
|---|---|---|---|
"""

MEANINGS = {
    "supported": "a sample loses entries, and every slim network is right",
    "frozen": "what the samples show keeps its size, with a reason",
    "refused": "an error of graphprune",
    "skipped": "random, not finite, without entries to lose, or not of tensors: the samples can show nothing",
    "crashed": "another error",
    "wrong": "a slim network is another function",
}


def page(version: str, data: Sequence[dict[str, Any]]) -> str:
    """The page of the documentation on operations, from the results."""
    states = Counter(one["state"] for one in data)
    samples: Counter[str] = Counter()
    for one in data:
        samples.update(one["samples"])
    lines = [HEAD.format(version=version.partition("+")[0]).rstrip("\n")]
    lines += [f"| {state} | {states[state]} | {samples[state]} | {MEANINGS[state]} |" for state in STATES]
    lines += ["", "## Frozen", "", "| operation | why |", "|---|---|"]
    lines += [f"| `{one['operation']}` | {why(one)} |" for one in data if one["state"] == "frozen"]
    for state in ("supported", "skipped"):
        names = [f"`{one['operation']}`" for one in data if one["state"] == state]
        lines += ["", f"## {state.capitalize()}", "", ",\n".join(names) + "."]
    return "\n".join(lines) + "\n"


def why(one: dict[str, Any]) -> str:
    """Why an operation freezes: the reasons that name operations, where there are any."""
    reasons = [r for r in one["reasons"] if not r.startswith("ratio")]
    named = [r for r in reasons if "meets a dimension without channels" not in r]
    return "; ".join(named or reasons).replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main())
