"""Prune a model during its training: the state of optimizers and moving averages is pruned with its weights.

Training goes on as if the entries that are gone had never been there.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from graphprune.errors import InputError, PlanError, RestartedStateWarning
from graphprune.pruning.averaged import refuse_merged
from graphprune.pruning.fresh_state import suits_size
from graphprune.pruning.optimizer_state import slim_state
from graphprune.pruning.plan import Plan
from graphprune.pruning.rewrite import KeptEntries, slim_tensor
from graphprune.utils.callers import frames_of_this_package
from graphprune.utils.checks import check_sequence, check_type, found_value, with_article
from graphprune.utils.compiled import uncompiled
from graphprune.utils.global_state import leaves_torch_alone
from graphprune.utils.model_checks import check_model
from graphprune.utils.modules import tables, within

Optimizers = Optimizer | Sequence[Optimizer] | None


@leaves_torch_alone
def prune_in_place(
    model: nn.Module, plan: Plan, optimizer: Optimizers = None, averages: Sequence[nn.Module] = ()
) -> None:
    """Apply a plan to ``model`` itself, and prune the state of optimizers and averages with it.

    Parameters that shrink are new tensors afterwards, with the surviving entries of their gradients. Optimizers have
    them in the same groups and order, with the surviving entries of their state
    (:func:`graphprune.pruning.optimizer_state.slim_state`). Those of skipped blocks leave their optimizer.
    Learning-rate schedulers and gradient scalers, which hold the optimizer, need no change.

    Args:
        model: what the plan was made for.
        plan: what survives.
        optimizer: one or several. Parameters that are not the model's stay as they are.
        averages: moving averages of the model: modules of its class, or around one
            (``torch.optim.swa_utils.AveragedModel``).

    Raises:
        PlanError: the model or an average is not of the architecture that the plan was made for, or the plan merges
            heads.
        InputError: an optimizer keeps something that does not say how it follows from the entries of a parameter, or
            a parameter that would be another tensor has hooks of its own (``parameter.register_hook``).

    Nothing is changed then.

    Warns:
        RestartedStateWarning: an optimizer keeps other statistics for parameters that became so small.
    """
    check_model(model)
    check_type("plan", plan, Plan, "a graphprune.Plan, which graph.plan(0.5) returns")
    refuse_merged(
        plan,
        "the state of an optimizer for one head is not that of a mean",
        "apply it before the optimizer is made: plan.apply(model)",
    )
    check_sequence("averages", averages, nn.Module, AVERAGES)
    optimizers = several(optimizer)
    check_trains(optimizers, model)
    model = uncompiled(model)
    averaged = [uncompiled(_averaged(uncompiled(average), model)) for average in averages]
    _check_outside(averaged, model)
    modules = [model, *averaged]
    for number, module in enumerate(modules):
        _check(module, plan, f"averages[{number - 1}]: " if number else "")
    weights = _weights(model, plan)
    _check_hooks(weights)
    everything = [one for outer in optimizers for one in _with_wrapped(outer)]
    for held in everything:
        _check_attributes(held, weights)
    carried = [_OptimizerSurgery(held, weights) for held in everything if not _is_facade(held)]
    for module in modules:
        plan.apply(module, inplace=True)
    after = _successors(weights, model)
    for one in carried:
        one.hand_over(after)
    _carry_gradients(weights, after)


def several(optimizer: Optimizers) -> tuple[Optimizer, ...]:
    """One optimizer, several or none, as a tuple.

    Raises:
        InputError: something is no optimizer, or given twice.
    """
    given: Any = optimizer
    many = isinstance(given, Sequence) and not isinstance(given, str)
    found = tuple(given) if many else () if given is None else (given,)
    for one in found:
        if not isinstance(one, Optimizer):
            raise InputError(
                f"optimizer: must be a torch.optim.Optimizer or several, but is {with_article(type(one).__name__)}",
                found=found_value(one),
                needed="a torch.optim.Optimizer, or a list of them",
                do="pass the optimizer itself, an instance such as torch.optim.SGD(model.parameters(), lr=0.1)",
            )
    if len({id(one) for one in found}) < len(found):
        raise InputError(
            "optimizer: one of them is given twice",
            found=", ".join(type(one).__name__ for one in found),
            needed="each optimizer once",
            do="pass each once",
        )
    return found


# ---------------------------------------------------------------- models


def check_trains(optimizers: Sequence[Optimizer], model: nn.Module) -> None:
    """Raise an InputError if an optimizer has no parameter of the model: it is another one's."""
    own = {id(parameter) for parameter in model.parameters()}
    for optimizer in optimizers:
        held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
        if own and not own & set(held):
            raise InputError(
                f"optimizer: this {type(optimizer).__name__} has no parameter of this {type(model).__name__}",
                where=f"{type(optimizer).__name__}.param_groups",
                found=f"{len(held)} parameters of something else",
                needed="an optimizer that trains the model",
                do="make it of this model: torch.optim.SGD(model.parameters(), lr=0.1), or leave it out",
            )


AVERAGES = "a list of modules, such as [averaged_model]"


def _averaged(average: nn.Module, model: nn.Module) -> nn.Module:
    """The module that holds the averages: what is of another class than the model wraps it."""
    inner = getattr(average, "module", None)
    return inner if type(average) is not type(model) and isinstance(inner, nn.Module) else average


def _check_outside(averaged: Sequence[nn.Module], model: nn.Module) -> None:
    """Raise an InputError if averages are a part of the model that is pruned: they are those of another part."""
    paths = {id(module): path for path, module in model.named_modules()}
    for number, module in enumerate(averaged):
        path = paths.get(id(module))
        if path is not None:
            raise InputError(
                f"averages[{number}]: lies within the model that is pruned, at {path or 'its root'}",
                where=f"averages[{number}]",
                found=f"averages in a part of this {type(model).__name__}",
                needed="averages of all of the model that is pruned",
                do="prune the part that is averaged: trace it, and prune_in_place(model.net, plan, optimizer, "
                "averages=[model.ema]); a callback of Lightning takes part='net'",
            )


def _check(model: nn.Module, plan: Plan, prefix: str) -> None:
    """Raise a PlanError unless the plan can be applied to the end."""
    try:
        plan.check(model)
    except PlanError as error:
        raise PlanError(
            f"{prefix}{error.what}", where=error.place, found=error.found, needed=error.needed, do=error.do
        ) from error


@dataclass(frozen=True, eq=False)
class _Weight:
    """A parameter as it was: all its names, what survives of it, and whether it is gone altogether."""

    parameter: nn.Parameter
    names: tuple[str, ...]
    kept: KeptEntries
    gone: bool


Weights = Mapping[int, _Weight]
"""By the identity of the parameter."""


def _weights(model: nn.Module, plan: Plan) -> dict[int, _Weight]:
    """The parameters of a model, tied ones once."""
    names: dict[int, list[str]] = {}
    parameters = tables(model).parameters
    for name, parameter in parameters.items():
        names.setdefault(id(parameter), []).append(name)
    found = {}
    for key, own in names.items():
        gone = all(within(name, plan.skipped) for name in own)
        found[key] = _Weight(parameters[own[0]], tuple(own), plan.kept.get(own[0], {}), gone)
    return found


_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


def _check_hooks(weights: Weights) -> None:
    """Raise an InputError if a parameter that shrinks has hooks: they are those of a tensor, and may hold it."""
    for weight in weights.values():
        hooked = any(getattr(weight.parameter, name, None) for name in _HOOKS)
        if hooked and (weight.kept or weight.gone):
            raise InputError(
                f"model: {weight.names[0]} has hooks on its gradient, and is another parameter afterwards",
                where=weight.names[0],
                found="hooks of register_hook or register_post_accumulate_grad_hook",
                needed="parameters without hooks, of those that shrink",
                do="remove them (each registration returned a handle, handle.remove()), and register them anew after "
                "pruning, on the parameters that the model has then",
            )


def _successors(weights: Weights, model: nn.Module) -> dict[int, nn.Parameter]:
    """What each parameter that is not gone has become."""
    after = tables(model).parameters
    return {key: next(after[n] for n in w.names if n in after) for key, w in weights.items() if not w.gone}


def _carry_gradients(weights: Weights, after: Mapping[int, nn.Parameter]) -> None:
    for key, parameter in after.items():
        old = weights[key].parameter
        if parameter is not old and old.grad is not None:
            parameter.grad = slim_tensor(old.grad, weights[key].kept)


# ---------------------------------------------------------------- optimizers


def _with_wrapped(optimizer: Optimizer) -> list[Optimizer]:
    """An optimizer and those that it holds (Lookahead's)."""
    return [optimizer, *(inner for one in _wrapped(optimizer) for inner in _with_wrapped(one))]


def _wrapped(optimizer: Optimizer) -> list[Optimizer]:
    return [one for one in vars(optimizer).values() if isinstance(one, Optimizer)]


def _is_facade(optimizer: Optimizer) -> bool:
    """Has an optimizer the state of one that it holds (Accelerate's)?"""
    return any(one.state is optimizer.state for one in _wrapped(optimizer))


def _changed(optimizer: Optimizer, weights: Weights) -> dict[int, _Weight]:
    """The parameters of an optimizer that shrink or are gone."""
    own = [id(p) for group in optimizer.param_groups for p in group["params"]]
    return {key: weights[key] for key in own if key in weights and (weights[key].kept or weights[key].gone)}


class _OptimizerSurgery:
    """An optimizer, and its state after pruning: worked out before anything is changed."""

    def __init__(self, optimizer: Optimizer, weights: Weights) -> None:
        self.optimizer = optimizer
        changed = _changed(optimizer, weights)
        self.gone = {key for key, weight in changed.items() if weight.gone}
        with_state = {k: w for k, w in changed.items() if w.parameter in optimizer.state and not w.gone}
        self.states = {key: _slim_state(optimizer, weight) for key, weight in with_state.items()}
        _warn_of_fresh(optimizer, [w.names[0] for key, w in with_state.items() if self.states[key] is None])

    def hand_over(self, after: Mapping[int, nn.Parameter]) -> None:
        """Put the new parameters in the place of the old ones, in groups and state."""
        for group in self.optimizer.param_groups:
            stay = [number for number, p in enumerate(group["params"]) if id(p) not in self.gone]
            for column in {"params", "param_names"} & group.keys():
                group[column] = [group[column][number] for number in stay]
            group["params"] = [after.get(id(p), p) for p in group["params"]]
        state = self.optimizer.state
        for parameter, value in [(p, state.pop(p)) for p in list(state)]:
            key = id(parameter)
            if key not in self.gone and (carried := self.states.get(key, value)) is not None:
                state[after.get(key, parameter)] = carried


def _slim_state(optimizer: Optimizer, weight: _Weight) -> dict[str, Any] | None:
    """What is left of the state of a parameter; None: the optimizer keeps something else for one of its size."""
    where, shape = f"{type(optimizer).__name__}, for {weight.names[0]}", weight.parameter.shape
    state = slim_state(optimizer.state[weight.parameter], shape, weight.kept, where)
    after = [len(weight.kept[d]) if d in weight.kept else n for d, n in enumerate(shape)]
    return state if suits_size(optimizer, weight.parameter, after, state, where) else None


def _warn_of_fresh(optimizer: Optimizer, names: Sequence[str]) -> None:
    """Warn if the state of some parameters begins anew."""
    if names:
        kind = type(optimizer).__name__
        others = f" and of {len(names) - 1} more" if names[1:] else ""
        warnings.warn(
            f"optimizer: {kind} keeps other statistics for parameters of the sizes after pruning than it has, so that "
            f"the state of {names[0]}{others} begins anew. An optimizer whose state does not depend on sizes (Adam, "
            "torch.optim.Adafactor) goes on with what it has",
            RestartedStateWarning,
            stacklevel=frames_of_this_package(),
        )


def _check_attributes(optimizer: Optimizer, weights: Weights) -> None:
    """Raise an InputError if an optimizer holds parameters, or copies of them, elsewhere than in its groups."""
    kind, changed = type(optimizer).__name__, _changed(optimizer, weights)
    for name, value in vars(optimizer).items():
        held = [] if name in ("param_groups", "state") else list(_held(value))
        parameters = any(id(tensor) in changed for tensor in held)
        if parameters or (changed and _are_sized_as_groups(held, optimizer, changed)):
            what = "parameters" if parameters else "tensors of the sizes of its parameters"
            raise InputError(
                f"optimizer: {kind} holds {what} in its attribute {name!r} besides its groups",
                where=f"{kind}.{name}",
                found=f"{with_article(type(value).__name__)} that holds {what}",
                needed="parameters and what is kept of each in param_groups and state alone, which pruning can change",
                do="prune without the optimizer and make a new one",
            )


def _are_sized_as_groups(held: Sequence[Tensor], optimizer: Optimizer, changed: Weights) -> bool:
    """Have tensors the sizes of all parameters, or of those of a group, in order, of which some change?"""
    groups = [group["params"] for group in optimizer.param_groups]
    shapes = [tensor.shape for tensor in held]
    return any(
        shapes == [p.shape for p in parameters] and any(id(p) in changed for p in parameters)
        for parameters in (*groups, list(chain.from_iterable(groups)))
    )


def _held(value: Any) -> Iterator[Tensor]:
    """The tensors in lists, and in keys and values of mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in (*value.keys(), *value.values()):
            yield from _held(item)
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _held(item)
