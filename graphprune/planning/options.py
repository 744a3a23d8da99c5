"""What may be asked of a plan: one record.

:class:`PruningOptions` is where functions, schedules, callbacks and the command line take the names, types, defaults,
choices and help of their arguments from (see :mod:`graphprune.planning.keyword_arguments`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import KW_ONLY, Field, dataclass, field, fields
from functools import cached_property
from numbers import Integral
from typing import Any, TypeVar

from torch import Tensor, nn

from graphprune.errors import InputError
from graphprune.graph.budget_kinds import BUDGET_KINDS
from graphprune.graph.roles import NARROWER, ROLES
from graphprune.importance.combining import NORMALIZATIONS, REDUCTIONS
from graphprune.importance.criteria import AUTO, CRITERIA, Importance, find_criterion
from graphprune.planning.allocations import ALLOCATIONS, SEARCHED
from graphprune.planning.limits import Override
from graphprune.planning.objectives import BudgetSpec, parse_budgets
from graphprune.planning.sensitivity import Sensitivity
from graphprune.planning.serving import SERVERS
from graphprune.planning.weights_given import GivenWeights
from graphprune.utils.checks import (
    check_callable,
    check_count,
    check_flag,
    check_fraction,
    check_known,
    check_type,
    close_matches,
    did_you_mean,
    found_value,
    is_number,
    shown,
)

Runner = Callable[[nn.Module], Callable[..., Any]]
UNDER_BUDGETS = 0.9
"""By default, budgets take at most this fraction of a group."""
F = TypeVar("F", bound=Callable[..., Any])
_SEEDS = 1 << 63
"""Seeds are below that, and not below its negative: as torch takes them."""


def option(
    default: Any,
    help: str,
    *,
    kind: str = "",
    choices: Callable[[], Iterable[str]] | None = None,
) -> Any:
    """A field of :class:`PruningOptions`.

    Args:
        default: its default; a dict stands for an empty mapping.
        help: what it means, in a sentence.
        kind: how the command line reads it: ``"fraction"``, ``"amount"``, ``"count"``, ``"seconds"``, ``"flag"``,
            ``"name"``; empty: it cannot be given there.
        choices: the names that it takes, if these are all.
    """
    metadata = {"help": help, "kind": kind, "choices": choices}
    return (
        field(default_factory=dict, metadata=metadata) if default == {} else field(default=default, metadata=metadata)
    )


@dataclass(frozen=True)
class PruningOptions:
    """What is asked of a plan. All fields but ``ratio`` are given by name.

    Raises:
        InputError: a field is out of its range, or two of them exclude each other.
    """

    ratio: float | None = option(
        None,
        "fraction of channels removed in each group, 0 <= ratio < 1; no group is emptied",
        kind="fraction",
    )
    _: KW_ONLY
    macs: BudgetSpec | None = option(
        None, "budget on multiply-adds: a fraction of the dense model's (0.5), a number, or '2G'", kind="amount"
    )
    params: BudgetSpec | None = option(None, "budget on parameters: a fraction, a number, or '5M'", kind="amount")
    bytes: BudgetSpec | None = option(
        None, "budget on bytes of parameters and buffers: a fraction, a number, or '20MB'", kind="amount"
    )
    latency: BudgetSpec | None = option(
        None,
        "budget on the time of a forward pass on the example inputs: a fraction, or '5ms'; it is measured on the slim "
        "model, and kernels are kept in a table on disk",
        kind="amount",
    )
    budgets: Mapping[str, BudgetSpec] = option(
        {},
        "budgets of kinds that were registered with graphprune.budget_kind, by name; or pass each under its own name",
    )
    run_with: Runner | None = option(
        None, "how the model is run when it is timed, such as torch.compile; None: eagerly"
    )
    heads: float | None = option(None, "fraction of the attention heads to remove", kind="fraction")
    kv_groups: float | None = option(
        None, "fraction of the key/value heads to remove, with the query heads that share them", kind="fraction"
    )
    head_width: float | None = option(
        None, "fraction of each head's width to remove; heads become narrower instead of fewer", kind="fraction"
    )
    qk_width: float | None = option(
        None,
        "fraction of the width of queries and keys to remove; values keep theirs unless head_width= is given",
        kind="fraction",
    )
    mlp: float | None = option(
        None, "fraction of the inner channels (hidden units of a block) to remove", kind="fraction"
    )
    width: float | None = option(None, "fraction to remove of the channels that residual sums share", kind="fraction")
    experts: float | None = option(None, "fraction of the experts to remove", kind="fraction")
    depth: float | None = option(
        None,
        "fraction of the residual blocks (graph.blocks) to leave out whole: those that change their input least, on "
        "calibration batches if given, and of which overrides= freezes no part; they count towards budgets; with "
        "allocation='searched' the largest fraction, of the branches (graph.branches: attention or MLP of a layer "
        "alone) without which the loss rises least",
        kind="fraction",
    )
    importance: str | Importance = option(
        "l2",
        "criterion that scores units, by name, or a callable (group, context) -> scores [units]; 'auto' plans by "
        "several, repairs each and keeps the plan whose outputs on held-back calibration batches are nearest to the "
        "dense model's, that of 'surgeon' where these do not tell",
        kind="name",
        choices=lambda: (AUTO, *CRITERIA),
    )
    calibration: Iterable[Any] | None = option(
        None,
        "batches (a tensor, a tuple, a dict of keyword arguments, or (inputs, target) with loss_fn) for criteria that "
        "read data; prune_model repairs with them too, and iterates them several times: pass a list or a DataLoader, "
        "not an iterator",
    )
    weights: GivenWeights | None = option(
        None,
        "where the weights of a model on the meta device are: a folder with safetensors files, or a mapping of tensors "
        "by name; criteria read them from there, tensor by tensor",
    )
    loss_fn: Callable[[Any, Any], Tensor] | None = option(
        None,
        "(output, target) -> loss, for criteria that need gradients; None: the loss in the model's own output, or "
        "one with answers that are drawn from its outputs",
    )
    reduce: str = option("sum", "how scores of coupled parameters become one", kind="name", choices=lambda: REDUCTIONS)
    normalize: str | None = option(
        None,
        "how scores are normalized within each group; None: 'mean', and 'none' for criteria whose scores can be "
        "compared between groups",
        kind="name",
        choices=lambda: NORMALIZATIONS,
    )
    allocation: str | Sensitivity | None = option(
        None,
        "how groups share what is removed, or what graph.sensitivity measured; None: 'uniform' for a ratio, 'global' "
        "for a budget",
        kind="name",
        choices=lambda: ALLOCATIONS,
    )
    candidates: int = option(
        200,
        "with allocation='searched', how many allocations are tried at most; those that the search begins with always "
        "are",
        kind="count",
    )
    time_limit: float | None = option(
        None,
        "with allocation='searched', how many seconds the search may take, where what it always tries takes less; its "
        "result then depends on the machine's speed; None: only candidates= ends it",
        kind="seconds",
    )
    layers: str | None = option(
        None,
        "how many units repeated layers keep: 'equal': the same number in each, and for models that are built from a "
        "configuration, numbers that it can hold, so that Transformers loads the slim model as it is; None: each "
        "layer its own number",
        kind="name",
        choices=lambda: ("equal",),
    )
    serve: str | None = option(
        None,
        "the server that is to run a slim language model (see graphprune.export_deci): layers keep the same number of "
        "query heads, heads keep their width, and widths are multiples of 32 or of what the server's format can hold",
        kind="name",
        choices=lambda: SERVERS,
    )
    tensor_parallel: int = option(
        1,
        "with serve=, the number of devices that share each layer; heads and inner widths are multiples of it",
        kind="count",
    )
    overrides: Mapping[Any, Override] = option(
        {},
        "a graphprune.Override by a pattern for the names of groups or modules ('layer1.*'), by a module of the model, "
        "by a module class, or by a function (group) -> bool; of several that say the same of a group, the last holds",
    )
    multiple: int | None = option(
        None,
        "keep a multiple of this many units in each group, where possible; None: 1, or under a latency budget 16 where "
        "that many are left",
        kind="count",
    )
    max_ratio: float | None = option(
        None, "largest fraction of a group that is removed; None: 1 for a ratio, 0.9 under budgets", kind="fraction"
    )
    protect_ends: bool = option(False, "the first and last layers lose half of what they would otherwise", kind="flag")
    seed: int = option(
        0,
        "seed of importance='random', of answers drawn where there is no loss, and of allocation='searched'",
        kind="count",
    )

    def __post_init__(self) -> None:
        for name in ("ratio", *ROLE_OPTIONS, "depth"):
            object.__setattr__(self, name, _fraction(name, getattr(self, name)))
        for one in OPTION_FIELDS:
            _check_choice(one, getattr(self, one.name))
        self._check_types()
        for name in ("seed", *(kind for kind in BUDGET_KINDS if kind in OPTION_NAMES)):
            object.__setattr__(self, name, _plain(getattr(self, name)))
        for kind, spec in self.budgets.items():
            if kind in OPTION_NAMES:
                object.__setattr__(self, kind, _plain(spec))
        others = {kind: _plain(spec) for kind, spec in self.budgets.items() if kind not in OPTION_NAMES}
        object.__setattr__(self, "budgets", others)
        parse_budgets(self.budget_specs, lambda _: 1.0)
        self._check_together()
        _ = self.limits  # which checks what it is made of

    def _check_types(self) -> None:
        """Raise an InputError if a field is no mapping, function, truth value or whole number, as it must be."""
        for name in ("budgets", "overrides"):
            check_type(name, getattr(self, name), Mapping, "a dict")
        for name, takes in (("loss_fn", "output, target"), ("run_with", "model")):
            if getattr(self, name) is not None:
                check_callable(name, getattr(self, name), f"a function ({takes})", takes=takes)
        if not isinstance(self.importance, str):
            find_criterion(self.importance)
        check_flag("protect_ends", self.protect_ends)
        check_count("tensor_parallel", self.tensor_parallel, 1, "a whole number of devices")
        check_count("candidates", self.candidates, 1, "a whole number of candidates")
        if self.time_limit is not None and not (is_number(self.time_limit) and self.time_limit > 0):
            raise InputError(
                f"time_limit: must be a number of seconds above 0, but is {self.time_limit!r}",
                found=found_value(self.time_limit),
                needed="a number of seconds above 0, or None",
                do="pass time_limit=60, or leave it out",
            )
        if not isinstance(self.seed, Integral) or isinstance(self.seed, bool) or not -_SEEDS <= int(self.seed) < _SEEDS:
            raise InputError(
                f"seed: must be a whole number from -2**63 to 2**63 - 1, but is {shown(self.seed)}",
                found=found_value(self.seed),
                needed="a whole number from -2**63 to 2**63 - 1",
                do="pass seed=0",
            )
        for kind in self.budgets:
            if kind not in BUDGET_KINDS:
                raise InputError(
                    f"budgets: {shown(kind)} is no kind of budget{did_you_mean(kind, BUDGET_KINDS)}",
                    found=f"the key {shown(kind)}",
                    needed=f"keys among {', '.join(map(repr, BUDGET_KINDS))}",
                    do=f"give one of {', '.join(map(repr, BUDGET_KINDS))}, or register it with graphprune.budget_kind",
                )
            self._check_given_once(kind)

    def _check_given_once(self, kind: str) -> None:
        """Raise an InputError if a budget is given under its own name, and among the budgets, too."""
        own = getattr(self, kind) if kind in OPTION_NAMES else None
        if own is not None:
            raise InputError(
                f"budgets: {kind} is given twice, as {own!r} and as {self.budgets[kind]!r}",
                found=f"{kind}={own!r} and budgets={{{kind!r}: {self.budgets[kind]!r}}}",
                needed="one budget of a kind",
                do=f"leave one of them out, such as {kind}=",
            )

    def _check_together(self) -> None:
        """Raise an InputError if fields exclude each other, or nothing is asked for."""
        if self.ratio is not None and self.budget_specs:
            given = ", ".join(self.budget_specs)
            raise InputError(
                f"ratio: given together with {given}; give a ratio or budgets, not both",
                found=f"ratio={self.ratio!r} and {given}",
                needed="a ratio or budgets",
                do=f"leave out the ratio, or {given}",
            )
        self._check_narrower()
        self._check_used("loss_fn", "calibration", "whose batches it is of")
        self._check_used("run_with", "latency", "which is measured with it")
        if self.serve is None and self.tensor_parallel != 1:
            raise InputError(
                "tensor_parallel: given without serve=, which says what runs on so many devices",
                found=f"tensor_parallel={self.tensor_parallel} and no serve=",
                needed="serve= with it",
                do="pass serve='vllm' too, or leave out tensor_parallel=",
            )
        self._check_asked()
        self._check_search()
        if self.allocation not in (None, "uniform") and not self.searched:
            raise InputError(
                f"allocation: {self.allocation_name!r} has nothing to share out: ratios of roles and of overrides= "
                "hold for each group alone",
                found=f"allocation={self.allocation_name!r} without a ratio for all groups or a budget",
                needed="a ratio for all groups, or a budget",
                do="give a ratio for all groups (0.5) or a budget (macs=0.5), or leave out allocation=",
            )

    def _check_used(self, name: str, by: str, how: str) -> None:
        """Raise an InputError if a function is given, and not the field with which it is used."""
        value = getattr(self, name)
        if value is not None and getattr(self, by) is None:
            raise InputError(
                f"{name}: given without {by}=, {how}",
                found=f"{name}={shown(value)} and no {by}=",
                needed=f"{by}= with it",
                do=f"pass {by}= too, or leave out {name}=",
            )

    def _check_narrower(self) -> None:
        """Raise an InputError if heads are to become narrower, and something else is asked that keeps their width."""
        roles = self.role_ratios
        narrower = next(iter(self.narrower), "")
        if narrower and (roles.get("heads") or roles.get("kv_groups")):
            raise InputError(
                f"{narrower}: given together with heads or kv_groups",
                found=", ".join(f"{role}={ratio}" for role, ratio in roles.items()),
                needed="one of them: a plan either removes whole heads or makes them narrower",
                do="apply one plan, then make another for the slim model",
            )
        if self.serve is not None and narrower:
            raise InputError(
                f"{narrower}: given together with serve={self.serve!r}, which keeps the width of heads",
                found=f"{narrower}={roles[narrower]} and serve={self.serve!r}",
                needed="heads of the width that the runtime knows",
                do=f"leave out {narrower}=, and remove heads= or kv_groups= instead",
            )

    def _check_asked(self) -> None:
        """Raise an InputError if nothing is asked for."""
        by_group = any(getattr(override, "ratio", 0) is not None for override in self.overrides.values())
        asked = self.ratio is not None or self.budget_specs or by_group or self.role_ratios or self.depth is not None
        if not asked:
            held = ", and overrides= say only what stays" if self.overrides else ""
            raise InputError(
                f"ratio: nothing is asked for{held}; give a ratio (0.5) or a budget (macs=0.5)",
                found="no ratio, budget, role's ratio or depth",
                needed="one of them",
                do="pass ratio=0.5 to remove half of the channels, or macs=0.5 to halve the multiply-adds",
            )

    def _check_search(self) -> None:
        """Raise an InputError if a field belongs to a search that is not asked for, or excludes it."""
        if self.allocation == SEARCHED and self.latency is not None:
            raise InputError(
                "allocation: 'searched' counts what candidates cost, and latency= is measured",
                found=f"allocation='searched' and latency={self.latency!r}",
                needed="budgets that are counted",
                do="pass macs=, params= or bytes= in place of latency=, or leave out allocation=",
            )
        for name in () if self.allocation == SEARCHED else ("candidates", "time_limit"):
            if getattr(self, name) != getattr(PruningOptions, name):
                raise InputError(
                    f"{name}: given without allocation='searched', which it limits",
                    found=f"{name}={getattr(self, name)!r} and allocation={self.allocation_name!r}",
                    needed="allocation='searched' with it",
                    do=f"pass allocation='searched' too, or leave out {name}=",
                )

    @staticmethod
    def of(ratio: float | None, arguments: Mapping[str, Any]) -> PruningOptions:
        """The options that keyword arguments make.

        Raises:
            InputError: a name is not known (the message says which one may be meant), or a value is out of its range.
        """
        given = dict(arguments)
        registered = {name: given.pop(name) for name in BUDGET_KINDS.keys() & given.keys() - OPTION_NAMES}
        if registered:
            given["budgets"] = {**given.get("budgets", {}), **registered}
        for name in given.keys() - OPTION_NAMES:
            raise unknown_argument(name)
        return PruningOptions(ratio, **given)

    @cached_property
    def limits(self) -> Override:
        """What holds for every group."""
        ceiling = UNDER_BUDGETS if self.searched else 1.0
        return Override(
            max_ratio=ceiling if self.max_ratio is None else self.max_ratio,
            multiple=1 if self.multiple is None else self.multiple,
        )

    @cached_property
    def budget_specs(self) -> dict[str, BudgetSpec]:
        """The budgets that are given, by kind."""
        own = {kind: getattr(self, kind) for kind in BUDGET_KINDS if kind in OPTION_NAMES}
        return {kind: spec for kind, spec in (own | dict(self.budgets)).items() if spec is not None}

    @property
    def role_ratios(self) -> dict[str, float]:
        """The ratios that are given for roles."""
        found = {role: getattr(self, role) for role in ROLE_OPTIONS}
        return {role: ratio for role, ratio in found.items() if ratio is not None}

    @property
    def narrower(self) -> tuple[str, ...]:
        """Those of :data:`graphprune.graph.roles.NARROWER` of which something is to be removed."""
        return tuple(role for role in NARROWER if self.role_ratios.get(role))

    @cached_property
    def searched(self) -> bool:
        """Is the number of units of each group left to a search?"""
        return bool(self.budget_specs) or (self.ratio is not None and self.allocation not in (None, "uniform"))

    @property
    def aligned(self) -> bool:
        """Are numbers of channels kept that kernels are written for, because nothing else is given?"""
        return self.multiple is None and "latency" in self.budget_specs

    @property
    def criterion(self) -> str | Importance:
        """The criterion of a single plan.

        Raises:
            InputError: several are to be compared.
        """
        if self.importance == AUTO:
            raise InputError(
                f"importance: {AUTO!r} compares repaired models, which only a plan of a whole model can do",
                found=f"importance={AUTO!r}",
                needed=f"one of {', '.join(CRITERIA)}",
                do="name a criterion, such as importance='wanda'",
            )
        return self.importance

    @property
    def allocation_name(self) -> str | None:
        """The allocation by name."""
        return "sensitivity" if isinstance(self.allocation, Sensitivity) else self.allocation

    def described(self) -> dict[str, Any]:
        """What is asked, as JSON data, for the plan's own record."""
        name = self.criterion if isinstance(self.criterion, str) else getattr(self.criterion, "__name__", "custom")
        given = {"ratio": self.ratio, "importance": name, "allocation": self.allocation_name, "seed": self.seed}
        given |= (
            self.budget_specs | self.role_ratios | {"depth": self.depth, "layers": self.layers, "serve": self.serve}
        )
        return {key: value for key, value in given.items() if value is not None}


ROLE_OPTIONS = tuple(role for role in dict.fromkeys((*ROLES, *NARROWER)) if role in PruningOptions.__dataclass_fields__)
"""Roles that have a ratio of their own."""
OPTION_FIELDS: tuple[Field[Any], ...] = fields(PruningOptions)
OPTION_NAMES = frozenset(one.name for one in OPTION_FIELDS if one.name != "ratio")
"""The keyword arguments of a plan."""


def unknown_argument(name: str, own: Collection[str] = ()) -> InputError:
    """The error of an argument that is not known.

    Args:
        name: of the argument.
        own: what the function that got it takes beside the arguments of a plan.
    """
    known = [*own, *sorted(OPTION_NAMES), *sorted(BUDGET_KINDS.keys() - OPTION_NAMES)]
    instead = _OF_OTHER_LIBRARIES.get(name) or next((f"{close}=" for close in close_matches(name, known)), None)
    near = (
        f"; elsewhere {name}= is what {instead} is here" if name in _OF_OTHER_LIBRARIES else did_you_mean(name, known)
    )
    return InputError(
        f"{name}: is no argument of a plan, which are {', '.join(known)}{near}",
        found=f"the argument {name}=",
        needed=f"one of {', '.join(known)}",
        do=f"write {instead} instead" if instead else f"leave out {name}=",
    )


_OF_OTHER_LIBRARIES = {
    "ignored_layers": "overrides={module: graphprune.Override(frozen=True)}",
    "pruning_ratio_dict": "overrides={module: graphprune.Override(ratio=0.5)}",
    "pruning_ratio": "ratio=",
    "ch_sparsity": "ratio=",
    "sparsity": "ratio=",
    "amount": "ratio=",
    "max_pruning_ratio": "max_ratio=",
    "round_to": "multiple=",
    "global_pruning": "allocation='global'",
    "isomorphic": "allocation='isomorphic'",
    "head_pruning_ratio": "heads=",
    "prune_head_dims": "head_width=",
    "flops": "macs=",
    "iterative_steps": "prune_iteratively(..., rounds=)",
}
"""What arguments of Torch-Pruning and others are called here; docs/comparison.md says more."""


def _check_choice(one: Field[Any], value: Any) -> None:
    """Raise an InputError if a name is none of those that the field takes; criteria are looked up elsewhere."""
    names = one.metadata.get("choices")
    if names is None or one.name == "importance" or value is None or isinstance(value, Sensitivity):
        return
    check_known(one.name, value, names(), ", or what graph.sensitivity measured" if one.name == "allocation" else "")


def _plain(value: Any) -> Any:
    """A number of numpy or ``fractions`` as one of Python, which JSON can hold; anything else as it is."""
    if not is_number(value) or isinstance(value, int | float):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


_OF = {
    "heads": "attention heads to remove",
    "kv_groups": "key/value heads to remove",
    "experts": "experts to remove",
    "depth": "residual blocks to leave out",
}
"""What a fraction is of, where that is no channels."""


def _fraction(name: str, ratio: Any) -> float | None:
    if isinstance(ratio, Mapping):
        key, own = next(iter(ratio.items()), ("layer1.*", 0.5))
        raise InputError(
            f"{name}: must be one fraction of channels to remove, but is {shown(ratio)}",
            found=found_value(ratio),
            needed=f"a fraction, 0 <= {name} < 1; layers have fractions of their own by overrides=",
            do=f"pass overrides={{{key!r}: graphprune.Override(ratio={own!r})}}",
        )
    return (
        None if ratio is None else check_fraction(name, ratio, f"a fraction of {_OF.get(name, 'channels to remove')}")
    )
