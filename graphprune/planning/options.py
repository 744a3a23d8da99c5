"""What is asked of a plan, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from torch import Tensor, nn
from typing_extensions import TypedDict

from graphprune.errors import InputError
from graphprune.graph.roles import ROLES
from graphprune.importance.criteria import Importance
from graphprune.planning.budgets import BudgetSpec
from graphprune.planning.limits import Override
from graphprune.planning.sensitivity import Sensitivity

Runner = Callable[[nn.Module], Callable[..., Any]]


ALLOCATIONS = ("uniform", "global", "isomorphic")


UNDER_BUDGETS = 0.9
"""Without a word from the caller, budgets take at most this fraction of a group."""


BUDGETS = ("macs", "params", "bytes", "latency")


class Options(TypedDict, total=False):
    """What may be said of a plan besides a ratio.

    Attributes:
        macs, params, bytes: budgets instead of a ratio: what the slim model may cost, as a fraction of what the model
            costs (``0.5``), a number, or a number with a unit (``"2G"``, ``"20MB"``). All given are met.
        latency: likewise (``0.5``, ``"5ms"``), for a forward pass on the example inputs: kernels are measured where the
            model is, tables of them are kept on disk, and the plan's slim model was measured to meet it.
        run_with: how the model is run when it is timed, such as ``torch.compile``; default: eagerly.
        heads, kv_groups, head_width, mlp, width, experts: ratios by role (see :mod:`graphprune.roles`), which take
            precedence; ``mlp`` are inner channels, ``width`` those that residual sums share. With ``head_width`` heads
            become narrower instead of fewer.
        depth: the fraction of the residual blocks (``graph.blocks``) that are left out whole: those that change least
            what goes through them, by ``calibration`` if given. They count towards budgets.
        importance: the name of a criterion (see :mod:`graphprune.criteria`): ``"l1"``, ``"l2"`` (default), ``"lamp"``,
            ``"fpgm"``, ``"bn_scale"``, ``"random"``; with ``calibration`` also ``"taylor"``, ``"fisher"``, ``"wanda"``,
            ``"flap"``, ``"schur"``; or a callable ``(group, context) -> scores [units]``.
        calibration: batches (a tensor, a tuple, a dict of keyword arguments, or ``(inputs, target)`` with ``loss_fn``)
            for criteria that look at data, each of which goes through them once. ``prune_model`` also repairs with
            them, and goes through them several times: pass a list or a ``DataLoader``, not an iterator.
        loss_fn: ``(output, target) -> loss``, for criteria that need gradients.
        reduce: how the scores of coupled parameters become one: ``"sum"`` (default), ``"mean"``, ``"max"``.
        normalize: within each group: ``"none"``, ``"mean"``, ``"max"``, ``"gaussian"``; default: ``"mean"``, and
            ``"none"`` for criteria whose scores can be compared between groups (lamp, taylor, fisher).
        allocation: ``"uniform"`` (the default of a ratio): the same fraction of every group; ``"global"`` (the default
            of a budget): the channels with the least importance for what they cost; ``"isomorphic"``: one ranking among
            groups of equal structure; or what :meth:`ChannelGraph.sensitivity` measured.
        overrides: :class:`Override` by a pattern for the names of groups or modules (``"layer1.*"``), by a module
            class, or by a question ``(group) -> bool``.
        multiple: the number of units kept in each group is a multiple of this, where possible. Default: 1; under a
            latency budget, multiples of 16 channels are kept where that many are left: kernels are written for them.
        max_ratio: at most this fraction of a group is removed (default: 1 for a ratio, 0.9 under budgets).
        gentle_ends: first and last layers lose half of what they would.
        seed: for ``importance="random"``; default 0.
    """

    macs: BudgetSpec | None
    params: BudgetSpec | None
    bytes: BudgetSpec | None
    latency: BudgetSpec | None
    run_with: Runner | None
    heads: float | None
    kv_groups: float | None
    head_width: float | None
    mlp: float | None
    width: float | None
    experts: float | None
    depth: float | None
    importance: str | Importance
    calibration: Iterable[Any] | None
    loss_fn: Callable[[Any, Any], Tensor] | None
    reduce: str
    normalize: str | None
    allocation: str | Sensitivity | None
    overrides: Mapping[Any, Override]
    multiple: int | None
    max_ratio: float | None
    gentle_ends: bool
    seed: int


@dataclass(frozen=True)
class Request:
    """What is asked of a plan: :class:`Options`, sorted."""

    ratio: float | None = None
    budgets: Mapping[str, BudgetSpec | None] = field(default_factory=dict)
    importance: str | Importance = "l2"
    allocation: str | Sensitivity | None = None
    overrides: Mapping[Any, Override] = field(default_factory=dict)
    roles: Mapping[str, float | None] = field(default_factory=dict)
    depth: float | None = None
    multiple: int | None = None
    max_ratio: float | None = None
    gentle_ends: bool = False
    seed: int = 0
    calibration: Iterable[Any] | None = None
    loss_fn: Callable[[Any, Any], Tensor] | None = None
    reduce: str = "sum"
    normalize: str | None = None
    run_with: Runner | None = None

    @staticmethod
    def of(ratio: float | None, options: Options) -> Request:
        """The request that arguments make.

        Raises:
            InputError: an argument is not known, or out of its range.
        """
        unknown = options.keys() - Options.__annotations__.keys()
        if unknown:
            known = ", ".join(Options.__annotations__)
            raise InputError(f"{min(unknown)}: is no argument of a plan; there are {known}")
        given = cast("dict[str, Any]", dict(options))
        budgets = {name: given.pop(name, None) for name in BUDGETS}
        roles = {name: given.pop(name, None) for name in ROLES if name in Options.__annotations__}
        request = Request(ratio, budgets, roles=roles, **given)
        request.check()
        return request

    def check(self) -> None:
        """Raise an InputError unless everything is in its range."""
        _check_fraction("ratio", self.ratio)
        for role, ratio in (*self.roles.items(), ("depth", self.depth)):
            _check_fraction(role, ratio)
        if isinstance(self.allocation, str) and self.allocation not in ALLOCATIONS:
            known = ", ".join(map(repr, ALLOCATIONS))
            raise InputError(f"allocation: {self.allocation!r} is not known; use one of {known}, or a Sensitivity")
        if self.ratio is not None and self.asked:
            raise InputError(f"ratio: given together with {', '.join(self.asked)}; give a ratio or budgets, not both")
        if self.roles.get("head_width") and (self.roles.get("heads") or self.roles.get("kv_groups")):
            raise InputError(
                "head_width: given together with heads or kv_groups; a plan either removes whole heads or makes them "
                "narrower: apply one plan, then another"
            )
        parts = (*self.roles.values(), self.depth)
        if self.ratio is None and not self.asked and not self.overrides and all(r is None for r in parts):
            raise InputError("ratio: nothing is asked for; give a ratio (0.5) or a budget (macs=0.5)")

    @property
    def asked(self) -> list[str]:
        """The budgets that are given."""
        return [kind for kind, ask in self.budgets.items() if ask is not None]

    @property
    def searched(self) -> bool:
        """Is the number of units of each group left to a search?"""
        return bool(self.asked) or (self.ratio is not None and self.allocation not in (None, "uniform"))

    @property
    def in_lanes(self) -> bool:
        """Are numbers of channels that kernels are written for kept without a word from the caller?"""
        return self.multiple is None and "latency" in self.asked

    @property
    def limits(self) -> Override:
        """What holds for every group."""
        ceiling = UNDER_BUDGETS if self.searched else 1.0
        return Override(max_ratio=ceiling if self.max_ratio is None else self.max_ratio, multiple=self.multiple or 1)

    @property
    def allocated(self) -> str | None:
        """The allocation by name."""
        return "sensitivity" if isinstance(self.allocation, Sensitivity) else self.allocation

    def described(self) -> dict[str, Any]:
        """What was asked, for the plan's own record."""
        name = self.importance if isinstance(self.importance, str) else getattr(self.importance, "__name__", "custom")
        given = {"ratio": self.ratio, "importance": name, "allocation": self.allocated, "seed": self.seed}
        given |= {kind: self.budgets[kind] for kind in self.asked} | dict(self.roles) | {"depth": self.depth}
        return {key: value for key, value in given.items() if value is not None}


def _check_fraction(name: str, ratio: Any) -> None:
    if ratio is None:
        return
    if not isinstance(ratio, int | float) or isinstance(ratio, bool) or not 0 <= ratio < 1:
        raise InputError(f"{name}: must be a fraction of channels to remove, 0 <= ratio < 1, but is {ratio!r}")
