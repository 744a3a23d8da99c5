"""The fields of :class:`~graphprune.planning.options.PruningOptions` as the keyword arguments of functions.

:class:`PlanArguments` repeats names, types and help for type checkers and editors, which do not run code and need them
spelled out; a test compares the two. :func:`takes_options` shows them in ``help()``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field
from typing import Any, TypeVar, cast

from torch import Tensor
from typing_extensions import TypedDict

from graphprune.graph.budget_kinds import BUDGET_KINDS
from graphprune.importance.criteria import Importance
from graphprune.planning.limits import Override
from graphprune.planning.objectives import BudgetSpec
from graphprune.planning.options import OPTION_FIELDS, OPTION_NAMES, Runner, unknown_argument
from graphprune.planning.sensitivity import Sensitivity
from graphprune.planning.weights_given import GivenWeights

F = TypeVar("F", bound=Callable[..., Any])


class PlanArguments(TypedDict, total=False):
    """Names, types and meaning of the fields of :class:`PruningOptions` but ``ratio``."""

    macs: BudgetSpec | None
    """Budget on multiply-adds: a fraction of the dense model's (0.5), a number, or '2G'."""
    params: BudgetSpec | None
    """Budget on parameters: a fraction, a number, or '5M'."""
    bytes: BudgetSpec | None
    """Budget on bytes of parameters and buffers: a fraction, a number, or '20MB'."""
    latency: BudgetSpec | None
    """Budget on the time of a forward pass on the example inputs: a fraction, or '5ms'; it is measured on the slim
    model, and kernels are kept in a table on disk."""
    budgets: Mapping[str, BudgetSpec]
    """Budgets of kinds that were registered with graphprune.budget_kind, by name; or pass each under its own name."""
    run_with: Runner | None
    """How the model is run when it is timed, such as torch.compile; None: eagerly."""
    heads: float | None
    """Fraction of the attention heads to remove."""
    kv_groups: float | None
    """Fraction of the key/value heads to remove, with the query heads that share them."""
    head_width: float | None
    """Fraction of each head's width to remove; heads become narrower instead of fewer."""
    qk_width: float | None
    """Fraction of the width of queries and keys to remove; values keep theirs unless head_width= is given."""
    mlp: float | None
    """Fraction of the inner channels (hidden units of a block) to remove."""
    width: float | None
    """Fraction to remove of the channels that residual sums share."""
    experts: float | None
    """Fraction of the experts to remove."""
    depth: float | None
    """Fraction of the residual blocks (graph.blocks) to leave out whole: those that change their input least, on
    calibration batches if given, and of which overrides= freezes no part; they count towards budgets; with
    allocation='searched' the largest fraction, of the branches (graph.branches: attention or MLP of a layer alone)
    without which the loss rises least."""
    importance: str | Importance
    """Criterion that scores units, by name, or a callable (group, context) -> scores [units]; 'auto' plans by several,
    repairs each and keeps the plan whose outputs on held-back calibration batches are nearest to the dense model's,
    that of 'surgeon' where these do not tell."""
    calibration: Iterable[Any] | None
    """Batches (a tensor, a tuple, a dict of keyword arguments, or (inputs, target) with loss_fn) for criteria that read
    data; prune_model repairs with them too, and iterates them several times: pass a list or a DataLoader, not an
    iterator."""
    weights: GivenWeights | None
    """Where the weights of a model on the meta device are: a folder with safetensors files, or a mapping of tensors by
    name; criteria read them from there, tensor by tensor."""
    loss_fn: Callable[[Any, Any], Tensor] | None
    """(output, target) -> loss, for criteria that need gradients; None: the loss in the model's own output, or one with
    answers that are drawn from its outputs."""
    reduce: str
    """How scores of coupled parameters become one."""
    normalize: str | None
    """How scores are normalized within each group; None: 'mean', and 'none' for criteria whose scores can be compared
    between groups."""
    allocation: str | Sensitivity | None
    """How groups share what is removed, or what graph.sensitivity measured; None: 'uniform' for a ratio, 'global' for a
    budget."""
    candidates: int
    """With allocation='searched', how many allocations are tried at most; those that the search begins with always
    are."""
    time_limit: float | None
    """With allocation='searched', how many seconds the search may take, where what it always tries takes less; its
    result then depends on the machine's speed; None: only candidates= ends it."""
    layers: str | None
    """How many units repeated layers keep: 'equal': the same number in each, and for models that are built from a
    configuration, numbers that it can hold, so that Transformers loads the slim model as it is; None: each layer its
    own number."""
    serve: str | None
    """The server that is to run a slim language model (see graphprune.export_deci): layers keep the same number of
    query heads, heads keep their width, and widths are multiples of 32 or of what the server's format can hold."""
    tensor_parallel: int
    """With serve=, the number of devices that share each layer; heads and inner widths are multiples of it."""
    overrides: Mapping[Any, Override]
    """A graphprune.Override by a pattern for the names of groups or modules ('layer1.*'), by a module of the model, by
    a module class, or by a function (group) -> bool; of several that say the same of a group, the last holds."""
    multiple: int | None
    """Keep a multiple of this many units in each group, where possible; None: 1, or under a latency budget 16 where
    that many are left."""
    max_ratio: float | None
    """Largest fraction of a group that is removed; None: 1 for a ratio, 0.9 under budgets."""
    protect_ends: bool
    """The first and last layers lose half of what they would otherwise."""
    seed: int
    """Seed of importance='random', of answers drawn where there is no loss, and of allocation='searched'."""


def takes_options(function: F) -> F:
    """Show the fields of :class:`PruningOptions` in the signature and docstring of a function with ``**options``.

    It refuses all others, with a word on what it takes itself.
    """
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    shown = [p for p in _parameters() if p.name not in signature.parameters]
    names = [p.name for p in own if p.name != "self"]
    known = OPTION_NAMES.union(names)

    @functools.wraps(function)
    def call(*args: Any, **given: Any) -> Any:
        for name in given.keys() - known - BUDGET_KINDS.keys():
            raise unknown_argument(name, names)
        return function(*args, **given)

    call.__signature__ = signature.replace(parameters=[*own, *shown])  # type: ignore[attr-defined]
    documented = "\n".join(f"    {name}: {text}" for name, text in _option_help().items())
    call.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nOptions:\n{documented}"
    return cast(F, call)


def _parameters() -> Iterator[inspect.Parameter]:
    for one in OPTION_FIELDS:
        default = {} if one.default is MISSING else one.default
        if one.name != "ratio":
            yield inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=one.type)


def _option_help() -> dict[str, str]:
    """What each keyword argument of a plan means, with its choices."""
    return {one.name: _help(one) for one in OPTION_FIELDS if one.name != "ratio"}


def _help(one: Field[Any]) -> str:
    names = one.metadata["choices"]
    choices = f" ({', '.join(map(repr, names()))})" if names else ""
    return f"{one.metadata['help']}{choices}"
