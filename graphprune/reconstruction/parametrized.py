"""Weights that a module computes from parameters of its own and that can be given a value: parametrized ones.

Those are ``torch.nn.utils.parametrize`` with a ``right_inverse`` that is exact, as weight normalization has, and the
hooks of the older ``torch.nn.utils.weight_norm``. A fit sees copies of the models in which such a weight is a plain
parameter, and what becomes of it is written back as the values of the parameters that give it.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized
from torch.nn.utils.weight_norm import WeightNorm

from graphprune.pruning.plan import Plan
from graphprune.reconstruction.passes import Rollback
from graphprune.utils.deepcopy import copy_module
from graphprune.utils.modules import named_modules, named_tensors, tables

SAME_WEIGHT = 1e-4
"""A computed weight may differ by this fraction of its largest entry from the value that it was given (float32)."""


@dataclass(frozen=True, eq=False)
class ComputedWeight:
    """A weight of a module, and what it is computed from.

    Attributes:
        module: the path of the module.
        name: the weight's, in its module.
        originals: the names of the parameters, in the model.
        value: what it is now.
        inverse: values of these parameters that give a value of the weight.
    """

    module: str
    name: str
    originals: tuple[str, ...]
    value: Tensor
    inverse: Callable[[Tensor], Sequence[Tensor]]

    @property
    def path(self) -> str:
        return f"{self.module}.{self.name}" if self.module else self.name


@dataclass(frozen=True)
class PlainPair:
    """A slim and a dense model whose computed weights are plain, with all other tensors of the models themselves.

    Attributes:
        slim, dense: the models.
        plan: the plan, with names as in these.
        computed: the weights of the slim model.
        tensors: the parameters of the slim model that was given, by name.
    """

    slim: nn.Module
    dense: nn.Module
    plan: Plan
    computed: tuple[ComputedWeight, ...] = ()
    tensors: tuple[tuple[str, Tensor], ...] = ()

    def write_back(self, rollback: Rollback) -> None:
        """Set the parameters that weights are computed from, where a weight has changed."""
        tensors, fitted = dict(self.tensors), dict(named_tensors(self.slim))
        for weight in self.computed:
            if torch.equal(fitted[weight.path], weight.value):
                continue
            for name, value in zip(weight.originals, weight.inverse(fitted[weight.path].detach()), strict=True):
                rollback.note(tensors[name])
                tensors[name].detach().copy_(value)


def plain_pair(slim: nn.Module, dense: nn.Module, plan: Plan) -> PlainPair:
    """The models with plain parameters in place of weights that are computed and can be given a value in both."""
    theirs = {weight.path: weight for weight in computed_weights(dense)}
    mine = tuple(weight for weight in computed_weights(slim) if weight.path in theirs)
    if not mine:
        return PlainPair(slim, dense, plan)
    shapes = {name: tuple(t.shape) for name, t in named_tensors(dense)}
    kept = dict(plan.kept)
    for weight in mine:
        shape = tuple(theirs[weight.path].value.shape)
        like = next((name for name in reversed(weight.originals) if shapes[name] == shape), None)
        if like in kept:
            kept[weight.path] = kept[like]
    plain_dense = _with_plain(dense, [theirs[weight.path] for weight in mine])
    plan = replace(plan, kept=kept)
    return PlainPair(_with_plain(slim, mine), plain_dense, plan, mine, tuple(named_tensors(slim)))


def computed_weights(model: nn.Module) -> list[ComputedWeight]:
    """The weights of a model that are computed from parameters of their own and can be given any value."""
    uses = Counter(id(t) for _, t in model.named_parameters(remove_duplicate=False))
    names = {id(t): name for name, t in model.named_parameters()}
    found = []
    for path, module in named_modules(model):
        here = [*_parametrized(path, module, names), *_normalized(path, module, names)]
        shared = any(uses[id(t)] > 1 for t in module.parameters())
        found += [] if shared else here
    return found


def _parametrized(path: str, module: nn.Module, names: dict[int, str]) -> Iterator[ComputedWeight]:
    """The weights under ``torch.nn.utils.parametrize``, if all those of a module can be given a value."""
    if not is_parametrized(module):
        return
    made = []
    for name, steps in module.parametrizations.items():  # type: ignore[union-attr, operator]
        given = [t for key, t in steps.named_parameters(recurse=False) if key.startswith("original")]
        value = _copy_of(steps)()
        weight = ComputedWeight(path, name, tuple(names[id(t)] for t in given), value, _inverse_of(steps))
        if any(t.shape == value.shape for t in given) and _is_exact(steps, value):
            made.append(weight)
    if len(made) == len(module.parametrizations):  # type: ignore[arg-type]
        yield from made


def _copy_of(steps: ParametrizationList) -> ParametrizationList:
    """A copy that may be run and written to: spectral normalization counts its runs."""
    return copy.deepcopy(steps).eval()


def _inverse_of(steps: ParametrizationList) -> Callable[[Tensor], Sequence[Tensor]]:
    def inverse(value: Tensor) -> Sequence[Tensor]:
        copied = _copy_of(steps)
        copied.right_inverse(value)
        return [t for key, t in copied.named_parameters(recurse=False) if key.startswith("original")]

    return inverse


def _is_exact(steps: ParametrizationList, value: Tensor) -> bool:
    """Whether another value that a weight is given is the one that it has then."""
    noise = torch.rand(value.shape, generator=torch.Generator().manual_seed(0), device="cpu").to(value)
    other = value + value.abs().mean() * noise
    copied = _copy_of(steps)
    try:
        copied.right_inverse(other)
        found = copied()
    except (RuntimeError, NotImplementedError, ValueError):
        return False  # there is no inverse, or none of this value
    return found.shape == other.shape and bool((found - other).abs().max() <= SAME_WEIGHT * other.abs().max())


def _normalized(path: str, module: nn.Module, names: dict[int, str]) -> Iterator[ComputedWeight]:
    """The weights under the hooks of ``torch.nn.utils.weight_norm``."""
    for hook in module._forward_pre_hooks.values():
        if not isinstance(hook, WeightNorm):
            continue
        given = [getattr(module, f"{hook.name}_{part}") for part in "gv"]
        yield ComputedWeight(
            path, hook.name, tuple(names[id(t)] for t in given), hook.compute_weight(module).detach(), _norms(hook.dim)
        )


def _norms(dim: int) -> Callable[[Tensor], Sequence[Tensor]]:
    """The norm and the direction of a weight are its norm and the weight itself."""
    return lambda value: (torch.norm_except_dim(value, 2, dim), value)


# ---------------------------------------------------------------- plain copies


def _with_plain(model: nn.Module, weights: Sequence[ComputedWeight]) -> nn.Module:
    """A copy that shares all tensors but the computed ones, which are plain parameters."""
    made = copy_module(model, tables(model).everything())
    for path in dict.fromkeys(weight.module for weight in weights):
        module: Any = made.get_submodule(path)
        here = [weight for weight in weights if weight.module == path]
        if is_parametrized(module):
            del module._modules["parametrizations"]
            module.__class__ = type(module).__bases__[0]
        _remove_hooks(module, {weight.name for weight in here})
        for weight in here:
            vars(module).pop(weight.name, None)
            module.register_parameter(weight.name, nn.Parameter(weight.value.clone(), requires_grad=False))
    return made


def _remove_hooks(module: nn.Module, names: set[str]) -> None:
    """Remove the hooks of weight normalization, and the parameters that they take."""
    for key, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, WeightNorm) and hook.name in names:
            del module._forward_pre_hooks[key]
            for part in "gv":
                del module._parameters[f"{hook.name}_{part}"]
