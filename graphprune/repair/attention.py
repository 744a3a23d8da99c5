"""Narrower heads: queries that are left take up what removed channels of queries and keys added to the scores.

Neither factor of the product of queries and keys is a parameter, so there is no column to fit. But where the factors
are projections as they are, moved about and multiplied by a number (which is checked), a combination of queries is
again a projection of the same input. With rotary positions, or a normalisation of queries and keys, it is not: channels
that turn at different frequencies cannot stand in for each other at every distance. Such heads are left alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphprune.errors import InputError
from graphprune.labels import Ids
from graphprune.lending import lent
from graphprune.modules import named_tensors
from graphprune.plan import Plan
from graphprune.repair.memory import Memory
from graphprune.repair.passes import Batches, Undo, run
from graphprune.repair.products import Head, Products, Side
from graphprune.repair.reconstruct import RIDGE, check_pair
from graphprune.repair.record import Compensated, Compensation, LeftAlone
from graphprune.rewrite import slim_tensor
from graphprune.solve import Mask


def compensate_heads(
    slim: nn.Module, dense: nn.Module, plan: Plan, calibration: Iterable[Any], *, ridge: float = RIDGE
) -> Compensation:
    """Let the queries of narrower heads make up for their removed channels, in place on ``slim``.

    With the keys' second moments ``G = E[k kᵀ]`` of a head, kept channels P and removed ones R, removed key channels
    are predicted from kept ones: ``k_R ≈ Cᵀ k_P``, ``C = (G[P, P] + λI)^-1 G[P, R]``. So ``q · k`` is nearly
    ``(q_P + C q_R) · k_P``: ``C W_q[R]`` is added to the rows that are left, biases too. Where nothing was removed
    nothing changes, and no head's error rises on the calibration data (queries and keys taken to be independent).
    Values need none of this: reconstruction fits the projection that reads them.

    Sources: Lin, Gao, Smith, Patel, Tuli, Shen, Jin and Hsu, "MoDeGPT: Modular Decomposition for Large Language Model
    Compression", ICLR 2025 (queries and keys by second moments); Ling, Wang, Yan and Liu, "SlimGPT: Layer-wise
    Structured Pruning for Large Language Models", NeurIPS 2024 (compensation in closed form).

    Args:
        slim: what ``plan.apply(dense)`` returned.
        dense: the model that the plan was made for.
        plan: what was removed.
        calibration: an iterable of batches, as for ``reconstruct``. It is gone through once.
        ridge: λ as a fraction of the mean of the diagonal of G.

    Returns:
        What was changed. To fit these projections to slim inputs as well, ``targets`` says what they are to return.

    Raises:
        InputError: an argument is not what it should be, or the model fails on a batch. ``slim`` is unchanged then.
        PlanError: the plan does not lead from ``dense`` to ``slim``.
    """
    with Undo() as undo:
        return compensate(slim, dense, plan, calibration, ridge, undo)


def compensate(
    slim: nn.Module, dense: nn.Module, plan: Plan, calibration: Iterable[Any], ridge: float, undo: Undo
) -> Compensation:
    """:func:`compensate_heads`, which can be undone."""
    check_pair(slim, dense, plan)
    if not ridge > 0:
        raise InputError(f"ridge: is {ridge!r}; pass a number above 0, such as {RIDGE}")
    batches = Batches(calibration)
    if not any(choice.kind == "cell" and choice.removed for choice in plan.choices):
        return Compensation((), (), {})
    tensors = dict(named_tensors(dense))
    names = frozenset(n for n, t in tensors.items() if isinstance(t, nn.Parameter) and plan.kept.get(n))
    products = Products(Memory(dense), names)
    with lent(dense), torch.no_grad():
        for number, batch in batches:
            run(dense, number, batch, products)
        return _Compensator(plan, tensors, dict(named_tensors(slim)), products, ridge).apply(undo)


class _Compensator:
    def __init__(
        self, plan: Plan, dense: dict[str, Tensor], slim: dict[str, Tensor], products: Products, ridge: float
    ) -> None:
        self.plan = plan
        self.dense = dense
        self.slim = slim
        self.products = products
        self.ridge = ridge
        self.targets: dict[str, Tensor] = {}
        self.dims: dict[str, int] = {}
        self.errors: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
        self.left: dict[str, str] = {}

    def apply(self, undo: Undo) -> Compensation:
        for side, head in self.products.heads.items():
            self._compensate(side, head)
        for (name, dim), op in self.products.changed.items():
            if dim in self.plan.kept[name]:
                self.left[name] = f"{op or 'the other factor'} comes between the projection and the product"
        for name, target in self.targets.items():
            undo.note(self.slim[name])
            self._write(name, target)
        done = tuple(_summed(name, errors) for name, errors in self.errors.items())
        return Compensation(done, tuple(LeftAlone(*item) for item in self.left.items()), self.targets)

    # ------------------------------------------------------------ one head

    def _compensate(self, side: Side, head: Head) -> None:
        alive = self._alive(side)
        kept, removed = np.flatnonzero(alive), np.flatnonzero(~alive)
        if not len(kept) or not len(removed):
            return
        if any((self._alive(key) != alive).any() for key in head.keys):
            self.left[side.name] = "its queries and keys lost different channels"
            return
        mixing = self._mixing(head.key_moments / head.key_count, kept, removed)
        self.errors[side.name].append(_errors(head, kept, removed, mixing))
        rows = np.array(side.rows)
        self._mix(side.name, side.dim, rows[kept], rows[removed], mixing)
        if side.bias:
            entries = np.array(side.bias_rows)
            self._mix(side.bias, 0, entries[kept], entries[removed], mixing)

    def _alive(self, side: Side) -> Mask:
        index = self.plan.kept.get(side.name, {}).get(side.dim)
        return np.ones(len(side.rows), np.bool_) if index is None else np.isin(np.array(side.rows), index)

    def _mixing(self, moments: Tensor, kept: Ids, removed: Ids) -> Tensor:
        """C: how much of each removed channel each kept one takes. [kept, removed]"""
        mine = moments[kept][:, kept]
        penalty = self.ridge * mine.diagonal().mean().clamp(min=torch.finfo(mine.dtype).tiny)
        return torch.linalg.solve(mine + penalty * torch.eye(len(kept), dtype=mine.dtype), moments[kept][:, removed])

    def _mix(self, name: str, dim: int, kept: Ids, removed: Ids, mixing: Tensor) -> None:
        """Slim outputs ``kept`` of a parameter also take ``removed`` ones."""
        order, size = self.plan.kept[name][dim], self.plan.shapes[name][dim]
        if name not in self.targets:
            self.targets[name] = torch.eye(size, dtype=torch.float64)[torch.from_numpy(order.copy())]
            self.dims[name] = dim
        place = np.full(size, -1, np.int64)
        place[order] = np.arange(len(order))
        self.targets[name][np.ix_(place[kept], removed)] = mixing

    def _write(self, name: str, target: Tensor) -> None:
        """Add to the slim parameter what its outputs take from removed ones."""
        dim, tensor = self.dims[name], self.slim[name]
        others = {d: index for d, index in self.plan.kept[name].items() if d != dim}
        source = slim_tensor(self.dense[name], others).detach().movedim(dim, 0).double()
        added = target.clone().to(source.device)
        added[:, torch.from_numpy(self.plan.kept[name][dim].copy())] = 0
        change = (added @ source.flatten(1)) if source.ndim > 1 else added @ source
        tensor.copy_(tensor.double() + change.view(-1, *source.shape[1:]).movedim(0, dim).to(tensor.device))


def _errors(head: Head, kept: Ids, removed: Ids, mixing: Tensor) -> tuple[float, float, float]:
    """Mean squares of what a head's scores lack before and after, and of the dense scores."""
    queries, keys = head.query_moments / head.count, head.key_moments / head.key_count
    cross = mixing.mT @ keys[kept][:, removed]
    missing = keys[removed][:, removed] - cross - cross.mT + mixing.mT @ keys[kept][:, kept] @ mixing
    mine = queries[removed][:, removed]
    return float((mine * keys[removed][:, removed]).sum()), float((mine * missing).sum()), float((queries * keys).sum())


def _summed(name: str, errors: list[tuple[float, float, float]]) -> Compensated:
    before, after, whole = (sum(column) for column in zip(*errors, strict=True))
    return Compensated(name, len(errors), (before / whole) ** 0.5, (max(after, 0.0) / whole) ** 0.5)
