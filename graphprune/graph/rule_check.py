"""The proof of a rule: pruning the inputs and running the operation is running it and pruning the results.

Each labeled dimension of each tensor of a sample gets fresh labels, the rule relates them, a random choice of what is
removed is drawn, and the operation on slim inputs is compared with the slim part of the operation on dense inputs
whose dead elements are zero. This *commuting square* is how the test suite proves every rule of graphprune, and how
:func:`check_rule` proves one that was added from outside.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._ops import OpOverload

from graphprune.errors import RuleError
from graphprune.graph.propagate import call_rule
from graphprune.graph.size_model import living as living_entries
from graphprune.graph.solve import Solution, solve
from graphprune.rules.labels import LabelArray, LabeledTensor, Labels, ParameterAxis
from graphprune.rules.registry import Rule, Slim, has_trait, in_any_type, overload_of, rule_of
from graphprune.rules.samples import Sample, T
from graphprune.rules.traits import Trait
from graphprune.utils.arrays import Mask
from graphprune.utils.global_state import changing_globals
from graphprune.utils.tree import replaced

SEEDS = 9


TRIES = 400


class RuleCheckError(RuleError):
    """The square does not commute: the rule is wrong."""


MEND_RULE = "mend the rule; for an operator of torch, report it with the model that calls it"


@dataclass(frozen=True)
class SampleLabels:
    """One call of a rule on a sample: its labeled arguments and results, and the solved facts."""

    args: Any
    kwargs: Any
    outs: tuple[LabeledTensor, ...]
    labels: Labels
    counts: dict[str, LabeledTensor]
    solution: Solution
    joint: bool

    def tensors(self) -> list[LabeledTensor]:
        return [*flatten(self.args, LabeledTensor), *flatten(self.kwargs, LabeledTensor)]

    @property
    def mixes_channels(self) -> bool:
        return bool(self.labels.facts.mixing)


def flatten(value: Any, kind: Any) -> Iterator[Any]:
    found: list[Any] = []
    replaced(found.append, value, kind)
    return iter(found)


def sample_tensor(placeholder: Any, generator: torch.Generator) -> Tensor:
    if isinstance(placeholder, Tensor):
        return placeholder
    shape, kind = placeholder.shape, placeholder.kind
    if kind.startswith("int"):
        return torch.randint(int(kind[3:]), shape, generator=generator, device="cpu")
    if kind == "complex":
        return torch.randn(shape, generator=generator, dtype=torch.complex128, device="cpu")
    values = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    if kind == "rows":
        return (values[..., :1] > 0).expand(shape)
    kinds = {"float": values, "positive": values.square() + 0.1, "fraction": values.sigmoid(), "bool": values > 0}
    return kinds[kind]


def joint(seed: int) -> bool:
    """In every third case labels vary over two dimensions together."""
    return seed % 3 == 2


def sample_labels(placeholder: Any, labels: Labels, seed: int) -> LabeledTensor:
    """Fresh labels of every labeled dimension, or of two of them together."""
    shape = tuple(placeholder.shape)
    if isinstance(placeholder, Tensor):
        return LabeledTensor(shape, boolean=placeholder.dtype == torch.bool)
    wanted = range(len(shape)) if placeholder.labeled is None else placeholder.labeled
    dims = [d for d in wanted if shape[d] > 1]
    mask = placeholder.kind in ("bool", "rows")
    if joint(seed) and len(dims) > 1:
        i, j = dims[seed % (len(dims) - 1) :][:2]
        ids = labels.fresh(shape, (i, j), "channel", ParameterAxis("x", i))
        labels.rectangle(ids.reshape(shape[i], -1))
        return LabeledTensor(shape, (LabelArray(ids),), boolean=mask)
    arrays = [LabelArray(labels.fresh(shape, [d], "channel", ParameterAxis("x", d))) for d in dims]
    repeats = frozenset([len(shape) - 1] if placeholder.kind == "rows" else [])
    return LabeledTensor(shape, tuple(arrays), seed % 2 == 0, mask, repeats)


def run_operation(op: Any, args: Any, kwargs: Any) -> tuple[Tensor, ...]:
    """The results of a call; a number stands as a tensor, and a zero in the place of one that it does not compute."""
    with changing_globals(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says of some operations that they may change
        result = op(*args, **kwargs)
    several = result if isinstance(result, tuple | list) else (result,)
    return tuple([one if isinstance(one, Tensor) else torch.tensor(float(one or 0), device="cpu") for one in several])


def label_sample(op: Any, entry: Rule, one: Sample, dense: tuple[Tensor, ...], seed: int) -> SampleLabels:
    labels = Labels()
    args, kwargs = replaced(lambda x: sample_labels(x, labels, seed), (one.args, one.kwargs), (T, Tensor))
    shapes = tuple(tuple(out.shape) for out in dense)
    labels.node_index = 0
    result, counts = call_rule(op, args, kwargs, labels, shapes, used=one.used, function=entry.function)
    outs = (result,) if isinstance(result, LabeledTensor) else tuple(result)
    if tuple(out.shape for out in outs) != shapes:
        raise RuleCheckError(
            f"{op}: its rule says shapes {_shapes(out.shape for out in outs)} of a call that gives {_shapes(shapes)}",
            found=_shapes(out.shape for out in outs),
            needed=_shapes(shapes),
            do=MEND_RULE,
        )
    return SampleLabels(args, kwargs, outs, labels, counts, solve(labels), joint(seed))


def _shapes(shapes: Iterable[Sequence[int]]) -> str:
    return ", ".join(str(list(shape)) for shape in shapes)


def living_mask(x: LabeledTensor, solution: Solution, alive: Mask) -> Tensor:
    """Which elements live, in the full shape."""
    living = np.ones(x.shape, bool)
    for array in x.arrays:
        living &= alive[solution.of[array.ids]]
    return torch.from_numpy(living)


def slim_shape(living: Tensor) -> tuple[int, ...]:
    """How long each dimension is in the row that has most; rows are equally long where they live at all."""
    if not living.numel():
        return tuple(living.shape)
    sizes = []
    for d, n in enumerate(living.shape):
        rows = living.reshape(int(np.prod(living.shape[:d])), n, -1).any(dim=2)
        sizes.append(int(rows.sum(dim=1).max()))
    return tuple(sizes)


def slimmed(x: Tensor, living: Tensor) -> Tensor:
    shape = slim_shape(living)
    if int(np.prod(shape)) != int(living.sum()):
        raise RuleCheckError(
            f"{int(living.sum())} of {list(x.shape)} live, which do not fill {list(shape)}",
            found=f"{int(living.sum())} entries of {list(x.shape)} that stay",
            needed=f"as many as fill {list(shape)}",
            do=MEND_RULE,
        )
    return x[living].reshape(shape)


def rectangular(found: SampleLabels, alive: Mask, same: bool) -> bool:
    """Does every row of every recorded rectangle that is not removed as a whole keep equally many entries?

    With ``same`` they keep the same entries even: other choices change the order of channels where a tensor is
    transposed, which is not the business of rules (see graphprune.graph.channel_order).
    """
    for ids, _ in found.labels.facts.rectangles:
        classes = found.solution.of[ids]
        rows = [alive[row] for row in classes if not found.solution.goes_whole(row, alive)]
        if len({tuple(row) if same else int(row.sum()) for row in rows}) > 1:
            return False
    return True


def enough_left(found: SampleLabels, alive: Mask) -> bool:
    """Do as many entries live of what is chosen from, or compared, as the operation needs?"""
    rows = (found.solution.too_few(found.solution.of[ids], n, alive) for ids, n, _, _ in found.labels.facts.choices)
    return not any(map(len, rows))


def admissible(op: Any, found: SampleLabels, alive: Mask) -> bool:
    tensors = (*found.tensors(), *found.outs)
    masks = [living_mask(x, found.solution, alive) for x in tensors]
    same = found.joint or has_trait(op, Trait.SHUFFLES)
    if not all(m.any() for m in masks if m.numel()) or not rectangular(found, alive, same):
        return False
    if not enough_left(found, alive):
        return False
    if has_trait(op, Trait.EQUAL_PIECES):
        lengths = [slim_shape(m) for m in masks[len(found.tensors()) :]]
        return len(set(lengths)) == 1
    return True


def proposals(found: SampleLabels, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Random sets of units, at times only of one axis or one row, so that the constraints of others are met."""
    units = np.flatnonzero(found.solution.prunable)
    axes = [np.unique(found.solution.of.of_range(a.start, a.size)) for a in found.labels.axes]
    arrays = [found.solution.of[array.ids] for x in found.tensors() or found.outs for array in x.arrays]
    for _ in range(TRIES if len(units) else 0):
        if arrays and rng.random() < 0.5:
            removed = one_row(found.solution, arrays[rng.integers(len(arrays))], rng)
        else:
            pool = np.concatenate([axes[i] for i in rng.integers(len(axes), size=rng.integers(1, 4))])
            pool = np.intersect1d(pool, units) if rng.random() < 0.8 else units
            removed = pool[rng.random(len(pool)) < rng.choice([0.2, 0.5, 0.8])]
        if len(removed):
            yield removed


def one_row(solution: Solution, classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The units that only one entry of one dimension of a label array needs."""
    dim = rng.integers(classes.ndim)
    row = rng.integers(classes.shape[dim])
    inside = solution.expand(classes.take([row], axis=dim).ravel())[0]
    outside = solution.expand(np.delete(classes, row, axis=dim).ravel())[0]
    return np.setdiff1d(inside, outside)


def choose(op: Any, found: SampleLabels, rng: np.random.Generator) -> Mask:
    """Which classes live, after a random admissible choice. Everything, where there is none."""
    for removed in proposals(found, rng):
        alive = found.solution.alive(removed)
        if admissible(op, found, alive):
            return alive
    return found.solution.alive(np.zeros(0, np.int64))


def resized(entry: Rule, found: SampleLabels, alive: Mask, slim_args: Any) -> Any:
    """The slim arguments with those that are sizes rewritten, as the engine does it."""
    if entry.resize is None:
        return slim_args
    first = found.args[0]

    def position(dim: int, stop: int) -> int:
        return int(living_entries(found.solution, alive, first, dim % first.ndim)[:stop].sum())

    outs = tuple(slim_shape(living_mask(x, found.solution, alive)) for x in found.outs)
    counts = {
        k: int(living_mask(x, found.solution, alive).reshape(x.shape[0], -1).any(1).sum())
        for k, x in found.counts.items()
    }
    args = entry.resize(Slim(outs, position, counts), (first, *slim_args[1:]))
    return (slim_args[0], *args[1:]) if isinstance(first, LabeledTensor) else args


def dense_side(op: Any, entry: Rule, found: SampleLabels, alive: Mask, args: Any, kwargs: Any) -> tuple[Tensor, ...]:
    """The operation on dense tensors; what takes statistics over channels takes them over the living."""
    living = living_mask(found.args[0], found.solution, alive) if isinstance(found.args[0], LabeledTensor) else None
    if not found.mixes_channels or living is None or living.all():
        return run_operation(in_any_type(op), args, kwargs)
    if entry.masked is None:
        raise RuleCheckError(
            f"{op} is marked as inexact and has no masked form",
            where=str(op),
            found="a rule without masked=",
            needed="masked=, the operation on what is left of masked tensors",
            do="pass masked= to graphprune.rule",
        )
    return run_operation(lambda *a, **k: entry.masked(living, *a, **k), args, kwargs)


def _copied(value: Any) -> Any:
    """Nested arguments with copies of the tensors: operations may work in place."""
    return replaced(Tensor.clone, value, Tensor)


def check_square(op: Any, entry: Rule, one: Sample, seed: int) -> bool:
    """Check one choice. Returns whether anything was removed.

    Raises:
        RuleCheckError: the square does not commute.
    """
    generator = torch.Generator().manual_seed(seed)
    args, kwargs = replaced(lambda x: sample_tensor(x, generator), (one.args, one.kwargs), (T, Tensor))
    found = label_sample(op, entry, one, run_operation(in_any_type(op), *_copied((args, kwargs))), seed)
    alive = choose(op, found, np.random.default_rng(seed))
    masks = iter([living_mask(x, found.solution, alive) for x in found.tensors()])
    given = [(x, next(masks)) for x in (*flatten(args, Tensor), *flatten(kwargs, Tensor))]
    zeroed = iter([x if 0 in x.stride() else x.masked_fill(~m, 0) for x, m in given])  # views are not masked
    slim = iter([slimmed(x, m) for x, m in given])
    dense = dense_side(op, entry, found, alive, *replaced(lambda _: next(zeroed), (args, kwargs), Tensor))
    slim_args, slim_kwargs = replaced(lambda _: next(slim), (args, kwargs), Tensor)
    try:
        result = run_operation(in_any_type(op), resized(entry, found, alive, slim_args), slim_kwargs)
    except (RuntimeError, IndexError, ValueError) as error:
        raise RuleCheckError(
            f"{op} does not run on slim tensors: {error}",
            where=str(op),
            found=str(error),
            needed="arguments with which the operation runs on slim tensors",
            do=MEND_RULE,
        ) from error
    for i, (x, expected, actual) in enumerate(zip(found.outs, dense, result, strict=True)):
        if one.used is None or i in one.used:
            wanted = slimmed(expected, living_mask(x, found.solution, alive))
            compare(op, _renumbered(wanted, x, found.solution, alive), actual)
    return not all(m.all() for _, m in given) or not all(
        living_mask(x, found.solution, alive).all() for x in found.outs
    )


def _renumbered(numbers: Tensor, x: LabeledTensor, solution: Solution, alive: Mask) -> Tensor:
    """Numbers of entries as they are once the dead entries are gone."""
    if x.indexed is None:
        return numbers
    place = alive[solution.of[x.indexed]].cumsum() - 1
    return torch.from_numpy(place)[numbers]


def compare(op: Any, expected: Tensor, actual: Tensor) -> None:
    if expected.shape != actual.shape:
        raise RuleCheckError(
            f"{op}: {list(actual.shape)} instead of {list(expected.shape)}",
            where=str(op),
            found=f"shape {list(actual.shape)} of the slim run",
            needed=f"shape {list(expected.shape)}, as the rule says",
            do=MEND_RULE,
        )
    if not has_trait(op, Trait.NO_VALUES) and not torch.allclose(expected, actual, rtol=1e-9, atol=1e-12):
        apart = (expected - actual).abs().max()
        raise RuleCheckError(
            f"{op}: differs by {apart:.1e}",
            where=str(op),
            found=f"values that differ by {apart:.1e}",
            needed="pruning the inputs and running the operation gives what running it and pruning the output does",
            do=MEND_RULE,
        )


def _loaded(name: str) -> OpOverload:
    """The overload of a name (``"library::operator"``).

    Raises:
        RuleError: torch has none.
    """
    library, _, rest = name.partition("::")
    packet, _, overload = rest.partition(".")
    try:
        found: OpOverload = getattr(getattr(getattr(torch.ops, library), packet), overload or "default")
    except AttributeError:
        raise RuleError(
            f"op: torch knows no operator {name!r}",
            where=name,
            found=f"the name {name!r}",
            needed="an operator that is loaded",
            do="import the library that brings it, or look for a mistake in the name",
        ) from None
    return found


def check_rule(op: Any) -> int:
    """Take the rule of an operator through the commuting square on its samples.

    Args:
        op: the operator, as for :func:`graphprune.rules.rule`.

    Returns:
        In how many of the random choices something was removed; 0 says that the rule freezes all that its samples show.

    Raises:
        RuleError: the operator has no rule, or no result, or pruning does not commute with it.
    """
    op = overload_of(op)
    if isinstance(op, str):
        op = _loaded(op)
    entry = rule_of(op)
    if entry is None:
        raise RuleError(
            f"op: {op} has no rule",
            where=str(op),
            found="an operator without a rule",
            needed="an operator that has one",
            do="register a rule with graphprune.rule",
        )
    if not op._schema.returns:
        raise RuleError(
            f"op: {op} returns nothing, so there is no result to compare",
            where=str(op),
            found="an operator without a result",
            needed="an operator that returns what it computes",
            do="call an operator that returns its result in the model; without a rule what goes in stays whole",
        )
    return sum(check_square(op, entry, one, seed) for one in entry.samples for seed in range(SEEDS))
