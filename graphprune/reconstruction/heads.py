"""Narrower heads: keep the best subspace of queries and keys, and of values, instead of the best channels.

Neither factor of the product of queries and keys is a parameter, so there is no column to fit. But if both factors are
plain projections, rearranged and multiplied by a number (which is checked), a linear combination of queries is again a
projection of the same input. The basis of a head's channels is arbitrary: any basis of the keys, with the dual basis of
the queries, gives the same scores; likewise for values and the channels of the weight that is applied to them. So the
best subspace is kept, not the best channels. This does not hold with rotary position embeddings, where channels rotate
at different frequencies and cannot replace each other at all distances, nor with normalized queries and keys. Such
heads are not changed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphprune.calibration.batches import Batches
from graphprune.pruning.plan import Plan
from graphprune.pruning.rewrite import slim_tensor
from graphprune.reconstruction.head_products import HeadFactor, HeadMoments, HeadProducts
from graphprune.reconstruction.layerwise import RIDGE, check_pair
from graphprune.reconstruction.linear_calls import ParameterMemory
from graphprune.reconstruction.passes import Rollback, run_alone
from graphprune.reconstruction.records import Compensated, Compensation, LeftAlone
from graphprune.tracing.run_state import evaluating_unchanged
from graphprune.utils.arrays import Ids, Mask
from graphprune.utils.checks import check_positive
from graphprune.utils.devices import changing_with_float64, with_float64
from graphprune.utils.dispatched import resident
from graphprune.utils.global_state import leaves_torch_alone
from graphprune.utils.modules import named_tensors


@leaves_torch_alone
def compensate_heads(
    slim: nn.Module, dense: nn.Module, plan: Plan, calibration: Iterable[Any], *, ridge: float = RIDGE
) -> Compensation:
    """Project narrower heads onto the best subspace of their dense channels, in place on ``slim``.

    The scores of a head are ``q · k``, with queries q and keys k. With second moments ``L = E[q qᵀ]`` and
    ``R = E[k kᵀ]``, the best scores of rank r in the mean square (for independent queries and keys) are
    ``(A q) · (B k)`` with ``B = Uᵀ L^½`` and ``A = Uᵀ L^-½``, where U are the r leading eigenvectors of ``L^½ R L^½``.
    So the kept rows of both projections and their biases become A and B times the dense ones. For values, R is
    ``E[v vᵀ]`` of the values averaged by attention, and L is ``W Wᵀ`` of the channels W of the weight that is applied
    to them, which become A W. Query heads that share keys or values share the subspace. Where nothing was removed,
    nothing changes.

    Sources: Lin, Gao, Smith, Patel, Tuli, Shen, Jin and Hsu, "MoDeGPT: Modular Decomposition for Large Language Model
    Compression", ICLR 2025 (products of two matrices by second moments); Ling, Wang, Yan and Liu, "SlimGPT: Layer-wise
    Structured Pruning for Large Language Models", NeurIPS 2024 (compensation in closed form).

    Args:
        slim: what ``plan.apply(dense)`` returned.
        dense: the model that the plan was made for.
        plan: what was removed.
        calibration: an iterable of batches, as for :func:`graphprune.reconstruct`; iterated once.
        ridge: the ridge term added to the diagonal of L, as a fraction of the diagonal's mean.

    Returns:
        What was changed, with ``targets`` for :func:`graphprune.reconstruct`, to fit these projections to slim inputs.

    Raises:
        InputError: an argument is invalid, or the model fails on a batch. ``slim`` is unchanged then.
        PlanError: the plan does not lead from ``dense`` to ``slim``.
    """
    slim, dense = check_pair(slim, dense, plan)
    with changing_with_float64(slim) as changed, Rollback() as rollback:
        return compensate(changed, with_float64(resident(dense)), plan, calibration, ridge, rollback)


def compensate(
    slim: nn.Module, dense: nn.Module, plan: Plan, calibration: Iterable[Any], ridge: float, rollback: Rollback
) -> Compensation:
    """:func:`compensate_heads` within a :class:`Rollback` of the caller's."""
    slim, dense = check_pair(slim, dense, plan)
    ridge = check_positive("ridge", ridge, "a number above 0")
    batches = Batches(calibration)
    if not any(choice.role == "head_width" and choice.removed for choice in plan.choices):
        return Compensation((), (), {})
    tensors = dict(named_tensors(dense))
    names = frozenset(n for n, t in tensors.items() if isinstance(t, nn.Parameter) and plan.kept.get(n))
    products = HeadProducts(ParameterMemory(dense), names)
    with batches.communicator.together(), evaluating_unchanged(dense), torch.no_grad():
        for number, batch in batches:
            run_alone(dense, number, batch, products)
        products.pool(batches.communicator)
        return _Compensator(plan, tensors, dict(named_tensors(slim)), products, ridge).apply(rollback)


class _Compensator:
    def __init__(
        self, plan: Plan, dense: dict[str, Tensor], slim: dict[str, Tensor], products: HeadProducts, ridge: float
    ) -> None:
        self.plan = plan
        self.dense = dense
        self.slim = slim
        self.products = products
        self.ridge = ridge
        self.meetings = Counter(side for right, head in products.heads.items() for side in (right, *head.left))
        self.bases: dict[tuple[str, int], Tensor] = {}
        self.errors: dict[tuple[str, str], list[tuple[float, float, float]]] = defaultdict(list)
        self.left: dict[str, str] = {}

    def apply(self, rollback: Rollback) -> Compensation:
        for right, head in self.products.heads.items():
            self._compensate(right, head)
        for (name, dim), op in self.products.changed.items():
            if dim in self.plan.kept[name]:
                self.left[name] = f"{op or 'the other factor'} comes between the projection and the product"
        for (name, dim), basis in self.bases.items():
            rollback.note(self.slim[name])
            self._write(name, dim, basis)
        done = tuple(_summed(right, left, errors) for (right, left), errors in self.errors.items())
        made = {name for side in self.meetings if side.made for name in (side.name, side.bias)}
        targets = {name: basis for (name, _), basis in self.bases.items() if name in made}
        return Compensation(done, tuple(LeftAlone(*item) for item in self.left.items()), targets)

    # ------------------------------------------------------------ one head

    def _compensate(self, right: HeadFactor, head: HeadMoments) -> None:
        alive = self._alive(right)
        if alive.all() or not alive.any():
            return
        if any((self._alive(left) != alive).any() for left in head.left):
            self.left[right.name] = "its factors lost different channels"
            return
        if any(self.meetings[side] > 1 for side in (right, *head.left)):
            self.left[right.name] = "it or its other factor is one of several products, and no basis suits them all"
            return
        mine, theirs = _subspace(head.left_moments, head.right_moments, int(alive.sum()), self.ridge)
        before, after, whole = _errors(head, alive, mine, theirs)
        if after < before:
            self.errors[right.name, next(iter(head.left)).name].append((before, after, whole))
            self._span(right, alive, theirs)
            for left in head.left:
                self._span(left, alive, mine)

    def _alive(self, side: HeadFactor) -> Mask:
        index = self.plan.kept.get(side.name, {}).get(side.dim)
        return np.ones(len(side.rows), np.bool_) if index is None else np.isin(np.array(side.rows), index)

    def _span(self, side: HeadFactor, alive: Mask, basis: Tensor) -> None:
        """Set the slim rows of a factor to ``basis`` [kept, width] times the dense rows."""
        self._set(side.name, side.dim, np.array(side.rows), alive, basis)
        if side.bias:
            self._set(side.bias, 0, np.array(side.bias_rows), alive, basis)

    def _set(self, name: str, dim: int, rows: Ids, alive: Mask, basis: Tensor) -> None:
        order, size = self.plan.kept[name][dim], self.plan.shapes[name][dim]
        if (name, dim) not in self.bases:
            self.bases[name, dim] = torch.eye(size, dtype=torch.float64, device="cpu")[torch.from_numpy(order.copy())]
        place = np.full(size, -1, np.int64)
        place[order] = np.arange(len(order))
        self.bases[name, dim][np.ix_(place[rows[alive]], rows)] = basis

    def _write(self, name: str, dim: int, basis: Tensor) -> None:
        """Write a slim parameter whose entries along a dimension are ``basis`` times those of the dense one."""
        tensor = self.slim[name]
        others = {d: index for d, index in self.plan.kept[name].items() if d != dim}
        source = slim_tensor(self.dense[name], others).detach().movedim(dim, 0).double()
        made = basis.to(source.device) @ source.flatten(1) if source.ndim > 1 else basis.to(source.device) @ source
        tensor.copy_(made.view(-1, *source.shape[1:]).movedim(0, dim))


def _subspace(left: Tensor, right: Tensor, rank: int, ridge: float) -> tuple[Tensor, Tensor]:
    """A and B, [rank, width] each: ``Aᵀ B`` is the best projection of rank ``rank`` between two factors.

    Both are scaled so that the projected factors have the same magnitude.

    Args:
        left, right: second moments of the factors. [width, width] each
    """
    tiny = torch.finfo(left.dtype).tiny
    left, right = (moments / moments.diagonal().mean().clamp(min=tiny) for moments in (left, right))
    values, vectors = torch.linalg.eigh(left + ridge * torch.eye(len(left), dtype=left.dtype, device="cpu"))
    root, inverse = ((vectors * values**power) @ vectors.T for power in (0.5, -0.5))
    strengths, leading = torch.linalg.eigh(root @ right @ root)
    leading, strengths = leading[:, -rank:].flip(1), strengths[-rank:].flip(0)
    size = strengths.clamp(min=max(1e-12 * float(strengths.max()), tiny)) ** 0.25
    mine, theirs = leading.T @ inverse, leading.T @ root
    return mine * size.unsqueeze(1), theirs / size.unsqueeze(1)


def _errors(head: HeadMoments, alive: Mask, left: Tensor, right: Tensor) -> tuple[float, float, float]:
    """Squared errors of a head's products with the kept channels and with these bases; the squared dense products."""

    def lost(kept: Tensor) -> float:
        gone = torch.eye(len(alive), dtype=kept.dtype, device="cpu") - kept
        return float((gone.T @ head.left_moments @ gone * head.right_moments).sum())

    chosen = torch.diag(torch.from_numpy(alive).double())
    return lost(chosen), lost(left.T @ right), float((head.left_moments * head.right_moments).sum())


def _summed(right: str, left: str, errors: list[tuple[float, float, float]]) -> Compensated:
    before, after, whole = (max(sum(column), 0.0) for column in zip(*errors, strict=True))
    return Compensated(right, left, len(errors), (before / whole) ** 0.5, (after / whole) ** 0.5)
