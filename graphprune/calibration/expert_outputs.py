"""Watch a mixture of experts at work: the gate and the norm of the output of every expert that a token goes to.

Nothing is known of modules or of how the products are carried out. What counts is the flow of tensors: the router's
scores, from which ``topk`` takes the experts of each token; gates, which are gathered from these scores and carry along
whose they are; outputs, which depend on the weights of the experts; and the product of both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from graphprune.rules.registry import has_trait
from graphprune.rules.traits import Trait
from graphprune.rules.zeros import is_pointwise
from graphprune.utils.operators import Args, DispatchMode, Kwargs, argument_of
from graphprune.utils.tree import tensors_of

aten = torch.ops.aten


@dataclass(frozen=True)
class _Gates:
    """Whose gate each entry of a tensor is.

    Attributes:
        groups: the groups of experts that it may belong to, by number.
        experts: the number of the expert. [of the tensor's shape]
        tokens: the number of the token. [of the tensor's shape]
    """

    groups: frozenset[int]
    experts: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class _Visits:
    """Visits of tokens to experts, all tensors [visits]."""

    tokens: Tensor
    experts: Tensor
    gates: Tensor
    norms: Tensor


class ExpertWatcher(DispatchMode):
    """Adds up gates times norms of outputs while it is active; see :meth:`batch`.

    Args:
        owned: for each group of experts its parameters, which have one entry for each expert.
        sizes: for each group how many experts there are.
    """

    def __init__(self, owned: Sequence[Sequence[Tensor]], sizes: Sequence[int]) -> None:
        super().__init__()
        self.sums = [torch.zeros(2, size, dtype=torch.float64, device="cpu") for size in sizes]
        self._sizes = sizes
        self._roots = {id(t): frozenset([n]) for n, tensors in enumerate(owned) for t in tensors}
        self._outputs: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._gates: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._visits: dict[int, list[_Visits]] = {}
        self._tokens = 0

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Watch one forward pass, and add what was seen to :attr:`sums`.

        ``sums[group]`` [2, experts] are sums of gate times norm, and how many tokens there were. The gates of a token
        are divided by their sum.
        """
        try:
            with self:
                yield
            for group, visits in self._visits.items():
                self._add(group, visits)
        finally:
            self._visits.clear()
            self._tokens = 0

    def _add(self, group: int, visits: Sequence[_Visits]) -> None:
        tokens, experts, gates, norms = (
            torch.cat([getattr(one, name) for one in visits]) for name in ("tokens", "experts", "gates", "norms")
        )
        totals = torch.zeros(self._tokens, dtype=torch.float64, device="cpu").index_add_(0, tokens, gates)
        shares = gates / totals[tokens].clamp(min=torch.finfo(torch.float64).tiny)
        self.sums[group][0].index_add_(0, experts, shares * norms)
        self.sums[group][1].index_add_(0, experts, torch.ones_like(shares))

    def __torch_dispatch__(self, func: Any, types: Any, args: Args = (), kwargs: Kwargs | None = None) -> Any:
        kwargs = kwargs or {}
        operands = [*tensors_of(args), *tensors_of(kwargs)]
        groups = frozenset[int]().union(*map(self._groups_of, operands))
        gated = [t for t in operands if t in self._gates]
        out = func(*args, **kwargs)
        if groups or gated:
            results = list(tensors_of(out))
            if func == aten.topk.default and groups:
                self._choose(groups, args, results)
            elif not (gated and self._note_product(func, args)):
                self._hand_on(func, args, kwargs, results, groups, gated)
        return out

    def _groups_of(self, tensor: Tensor) -> frozenset[int]:
        """The groups of experts on whose parameters a tensor depends, other than through gates."""
        found: frozenset[int] = self._roots.get(id(tensor)) or self._outputs.get(tensor, frozenset())
        return found

    def _choose(self, groups: frozenset[int], args: Args, results: Sequence[Tensor]) -> None:
        """The largest scores and their numbers, if there is one score for each expert."""
        x, dim = args[0], argument_of(aten.topk.default, args, {}, 2)
        groups = frozenset(n for n in groups if self._sizes[n] == x.shape[dim])
        values, numbers = results
        rows = numbers.select(dim, 0)
        tokens = torch.arange(rows.numel(), device=x.device).view(rows.shape) + self._tokens
        self._tokens += rows.numel()
        found = _Gates(groups, numbers, tokens.unsqueeze(dim).expand_as(numbers))
        for tensor in (values, numbers):
            self._gates[tensor] = found

    def _note_product(self, func: Any, args: Args) -> bool:
        """Record a product of gates with outputs; False: the call is none."""
        for gate, output, gate_turned, output_turned in _factors(func, args):
            of, groups = self._gates.get(gate), self._groups_of(output)
            if of is None or output in self._gates or len(of.groups & groups) != 1 or not gate.is_floating_point():
                continue
            tokens, experts, gates = (t.mT if gate_turned else t for t in (of.tokens, of.experts, gate))
            rows = output.mT if output_turned else output
            if gates.shape == (*rows.shape[:-1], 1):
                (group,) = of.groups & groups
                self._visits.setdefault(group, []).append(_visits(tokens, experts, gates, rows))
                return True
        return False

    def _hand_on(
        self,
        func: Any,
        args: Args,
        kwargs: Mapping[str, Any],
        results: Sequence[Tensor],
        groups: frozenset[int],
        gated: Sequence[Tensor],
    ) -> None:
        """The results are gates, if it is known whose; else they depend on what the operands depend on."""
        moved = self._moved(func, args, kwargs, results, groups, gated)
        for number, result in enumerate(results):
            self._outputs.pop(result, None)
            self._gates.pop(result, None)
            if moved is not None:
                self._gates[result] = moved[number]
            elif groups:
                self._outputs[result] = groups

    def _moved(
        self,
        func: Any,
        args: Args,
        kwargs: Mapping[str, Any],
        results: Sequence[Tensor],
        groups: frozenset[int],
        gated: Sequence[Tensor],
    ) -> list[_Gates] | None:
        """Whose gates the results are; None: they are none."""
        if func == aten.gather.default and args[2] in self._gates and args[0] not in self._gates:
            return [self._gates[args[2]]]
        of = self._gates.get(args[0]) if args and isinstance(args[0], Tensor) else None
        if of is not None and has_trait(func, Trait.MOVES, Trait.PICKS, Trait.LOOKS_UP):
            function = torch.reshape if has_trait(func, Trait.RESHAPES) else func  # strides of the numbers differ
            each = [list(tensors_of(function(t, *args[1:], **kwargs))) for t in (of.experts, of.tokens)]
            return [_Gates(of.groups, *pair) for pair in zip(*each, strict=True)]
        if groups or not (func is aten._to_copy.default or has_trait(func, Trait.SOFTMAX) or is_pointwise(func)):
            return None
        same = [self._gates[t] for t in gated if results and t.shape == results[0].shape]
        return [same[0]] * len(results) if same else None


def _visits(tokens: Tensor, experts: Tensor, gates: Tensor, outputs: Tensor) -> _Visits:
    """Visits from tensors [..., 1] and the outputs of experts [..., n]."""
    wide = outputs if outputs.dtype == torch.float64 else outputs.float()
    seen = (tokens, experts, gates.double().abs(), wide.norm(dim=-1).double())
    return _Visits(*(t.flatten().cpu() for t in seen))


def _factors(func: Any, args: Args) -> list[tuple[Tensor, Tensor, bool, bool]]:
    """What a call may multiply: gates, outputs, and whether either has to be transposed to have one row a visit."""
    if len(args) < 2 or not all(isinstance(t, Tensor) for t in args[:2]):
        return []
    a, b = args[:2]
    if has_trait(func, Trait.SCALES):
        return [(a, b, False, False), (b, a, False, False)]
    return [(a, b, True, False), (b, a, False, True)] if func == aten.bmm.default else []
