"""Which parameters get masks: the weights that inputs are multiplied by, or those that a caller names."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import prune

from graphprune.errors import DenseWeightsWarning, InputError
from graphprune.utils.callers import frames_of_this_package
from graphprune.utils.checks import did_you_mean, found_value, shown
from graphprune.utils.model_tensors import require_values
from graphprune.utils.modules import named_modules
from graphprune.utils.prune_masks import MASK, ORIGINAL

T = TypeVar("T")

LayerKey = str | nn.Module | type[nn.Module]
"""A pattern for the names of modules or parameters (``"layer1.*"``, ``"fc.bias"``), a module of the model or a class;
a module stands for all that it holds."""

LayerKeys = LayerKey | Sequence[LayerKey]

_TABLES = nn.Embedding | nn.EmbeddingBag | nn.LayerNorm | nn.RMSNorm
"""Their weights are looked up, or scale: nothing is multiplied by them as by a matrix."""
_CONTAINERS = nn.ParameterList | nn.ParameterDict
_INPUTS_ARE_SECOND = nn.Linear | nn.RNNBase | nn.RNNCellBase | nn.MultiheadAttention


@dataclass(frozen=True, eq=False)
class WeightPlace:
    """Where a parameter stands: the path of its module, the modules around it from the outside, its plain name."""

    path: str
    around: tuple[tuple[str, nn.Module], ...]
    attribute: str

    @property
    def module(self) -> nn.Module:
        """The module that has it."""
        return self.around[-1][1]

    @property
    def name(self) -> str:
        """Its name as if it were not masked."""
        return f"{self.path}.{self.attribute}" if self.path else self.attribute

    @property
    def mask(self) -> Tensor | None:
        """What masks it now."""
        return dict(self.module._buffers.items()).get(self.attribute + MASK)

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter itself, without its mask."""
        masked = self.mask is not None
        found = self.module._parameters[self.attribute + ORIGINAL if masked else self.attribute]
        assert found is not None
        return found

    @property
    def input_dim(self) -> int | None:
        """Along which dimension the inputs of an output stand; None: unknown."""
        if isinstance(self.module, _ConvTransposeNd):
            return 0
        return 1 if isinstance(self.module, _INPUTS_ARE_SECOND | _ConvNd) and self.parameter.ndim > 1 else None

    def is_weight(self) -> bool:
        """Is it called a weight, and no vector?"""
        return _is_weight_name(self.attribute) and self.parameter.ndim > 1

    def is_matrix(self) -> bool:
        """Is it a weight that inputs are multiplied by?"""
        return self.is_weight() and not isinstance(self.module, _TABLES)

    def obstacle(self) -> str | None:
        """Why ``torch.nn.utils.prune`` could not mask it."""
        if isinstance(self.module, torch.jit.ScriptModule):
            return "it is of TorchScript, which has no hooks that could be put; mask the module before it is scripted"
        if isinstance(self.module, _CONTAINERS):
            return f"a {type(self.module).__name__} has no forward that would apply a mask"
        for hook in self.module._forward_pre_hooks.values():
            made = _made_by(hook)
            if made and self.attribute.startswith(made):
                return f"{type(hook).__name__} makes it from other parameters before each call; remove that first"
        return None

    def matches(self, key: LayerKey) -> bool:
        """Is it in what a key names?"""
        if isinstance(key, str):
            return any(
                fnmatch.fnmatchcase(name, key) for name in (self.name, *(path for path, _ in self.around if path))
            )
        return any(module is key or (isinstance(key, type) and isinstance(module, key)) for _, module in self.around)

    def is_named(self, key: LayerKey) -> bool:
        """Does a key name this very parameter, by its last name, or its own module?"""
        if isinstance(key, str):
            if key.rpartition(".")[2] == self.attribute and fnmatch.fnmatchcase(self.name, key):
                return True
            return key == self.path and self.is_weight()
        own = self.module is key or (isinstance(key, type) and isinstance(self.module, key))
        return own and self.is_weight()


@dataclass(frozen=True, eq=False)
class Weight:
    """A parameter that can be masked, and every place where it stands: several where layers are tied."""

    places: tuple[WeightPlace, ...]

    @property
    def place(self) -> WeightPlace:
        """One that has a mask already, if there is any; else the first."""
        return next((p for p in self.places if p.mask is not None), self.places[0])

    @property
    def name(self) -> str:
        """Its first name."""
        return self.places[0].name

    @property
    def left(self) -> int:
        """How many of its entries are not masked."""
        mask = self.place.mask
        return self.place.parameter.numel() if mask is None else int((mask != 0).sum())

    def matches(self, keys: Iterable[LayerKey]) -> bool:
        """Is it, at one of its places, in what one of the keys names?"""
        return any(place.matches(key) for key in keys for place in self.places)

    def is_named(self, keys: Iterable[LayerKey]) -> bool:
        """Does one of the keys name this very parameter, or its own module?"""
        return any(place.is_named(key) for key in keys for place in self.places)

    def override(self, values: Mapping[LayerKey, T]) -> T | None:
        """The value of the last key that matches it."""
        return next((value for key, value in reversed(list(values.items())) if self.matches([key])), None)


def all_weights(model: nn.Module) -> list[Weight]:
    """Every parameter of numbers with a fraction, tied ones once."""
    found: dict[int, list[WeightPlace]] = {}
    for path, around in _modules_with_paths(model):
        module = around[-1][1]
        for key, parameter in module._parameters.items():
            plain = key.removesuffix(ORIGINAL)
            attribute = plain if f"{plain}{MASK}" in module._buffers else key
            if parameter is not None and parameter.is_floating_point():
                found.setdefault(id(parameter), []).append(WeightPlace(path, around, attribute))
    return [Weight(tuple(places)) for places in found.values()]


def chosen_weights(
    model: nn.Module, layers: Sequence[LayerKey] | None, skip: Sequence[LayerKey], overrides: Iterable[LayerKey]
) -> list[Weight]:
    """The weights that ``layers`` names (None: all that inputs are multiplied by) or overrides name, less ``skip``.

    Raises:
        InputError: a key matches nothing, or nothing is left; or a weight is named that cannot be masked.

    Warns:
        DenseWeightsWarning: weights that would be chosen are made of other parameters.
    """
    weights = all_weights(model)
    overridden = tuple(overrides)
    for argument, keys in (("layers", layers or ()), ("skip", skip), ("overrides", overridden)):
        for key in keys:
            _check_key(argument, key, weights)
    wanted = (*(layers or ()), *overridden)
    found = [w for w in weights if _is_chosen(w, layers is None, wanted) and not w.matches(skip)]
    blocked = [(w, why) for w in found for why in map(WeightPlace.obstacle, w.places) if why is not None]
    found = [w for w in found if not any(w is other for other, _ in blocked)]
    for weight, why in blocked:
        if _is_meant(weight, wanted) or (wanted and not found):
            raise InputError(
                f"layers: {weight.name} cannot be masked: {why}",
                where=weight.name,
                found=why,
                needed="a parameter of a module's own, that torch.nn.utils.prune can mask",
                do=f"pass it as skip=[{weight.name!r}]",
            )
    if not found:
        why = f": {blocked[0][0].name} cannot be, because {blocked[0][1]}" if blocked else ""
        raise InputError(
            f"layers: no weight of this {type(model).__name__} is left to mask{why}",
            where=type(model).__name__,
            found=f"{len(weights)} parameters, of which none is chosen",
            needed="weights of layers; biases, normalizations and what is not called a weight only where layers= "
            "names them",
            do="name the parameter in layers=, such as layers=['fc.bias']",
        )
    _warn_of_dense(model, layers, skip)
    require_values("model", ((weight.name, weight.place.parameter) for weight in found), "choose from")
    return found


def _is_meant(weight: Weight, keys: Iterable[LayerKey]) -> bool:
    """Is it named by itself, or its module is, and not by a class or a pattern that others match too?"""
    plain = (key for key in keys if isinstance(key, nn.Module) or (isinstance(key, str) and not set(key) & set("*?[")))
    return weight.is_named(plain)


def _warn_of_dense(model: nn.Module, layers: Sequence[LayerKey] | None, skip: Sequence[LayerKey]) -> None:
    """Warn of weights that modules make of other parameters, where they would be masked if they were parameters."""
    dense = [place for place in _made_weights(model) if layers is None or any(map(place.matches, layers))]
    names = [place.name for place in dense if not any(map(place.matches, skip))]
    if names:
        warnings.warn(
            f"layers: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''} stay dense: they "
            "are made of other parameters (weight_norm, spectral_norm, parametrizations); to mask them, make them "
            "plain first (torch.nn.utils.parametrize.remove_parametrizations, torch.nn.utils.remove_weight_norm), or "
            "pass them as skip=",
            DenseWeightsWarning,
            stacklevel=frames_of_this_package(),
        )


def _made_weights(model: nn.Module) -> list[WeightPlace]:
    """The weights that inputs are multiplied by and that are no parameters: a parametrization or a hook makes them."""
    found = []
    for path, around in _modules_with_paths(model):
        module = around[-1][1]
        made = [*getattr(module, "parametrizations", ()), *map(_made_by, module._forward_pre_hooks.values())]
        found += [WeightPlace(path, around, name) for name in made if name and _is_weight_name(name)]
    return [place for place in found if not isinstance(place.module, _TABLES)]


def _made_by(hook: object) -> str | None:
    """The name of the tensor that a hook of torch makes before each call, other than masks."""
    other = type(hook).__module__.startswith("torch.nn.utils") and not isinstance(hook, prune.BasePruningMethod)
    return getattr(hook, "name", None) if other else None


def _is_weight_name(name: str) -> bool:
    return name == "weight" or name.startswith("weight_") or name.endswith("_weight")


def _modules_with_paths(model: nn.Module) -> Iterator[tuple[str, tuple[tuple[str, nn.Module], ...]]]:
    """The path of each module, and the modules around it from the outside with their paths, itself last."""
    modules = dict(named_modules(model))
    for path in modules:
        parts = path.split(".") if path else []
        yield path, tuple((p, modules[p]) for n in range(len(parts) + 1) if (p := ".".join(parts[:n])) in modules)


def several_keys(keys: LayerKeys) -> tuple[LayerKey, ...]:
    """One key, or several, as a tuple."""
    several = isinstance(keys, Iterable) and not isinstance(keys, str | nn.Module | type | Tensor)
    return tuple(keys) if several else (keys,)  # type: ignore[arg-type,return-value]


def _is_chosen(weight: Weight, everything: bool, wanted: Sequence[LayerKey]) -> bool:
    matrix = all(place.is_matrix() for place in weight.places)
    return weight.is_named(wanted) or (matrix and (everything or weight.matches(wanted)))


def _check_key(argument: str, key: object, weights: Sequence[Weight]) -> None:
    is_class = isinstance(key, type) and issubclass(key, nn.Module)
    if not isinstance(key, str | nn.Module) and not is_class:
        raise InputError(
            f"{argument}: {shown(key)} is no key",
            where=argument,
            found=found_value(key),
            needed="a pattern for names, a module of the model or a module class",
            do="give a pattern for names, such as 'layer1.*'",
        )
    if not any(weight.matches([key]) for weight in weights):  # type: ignore[list-item]
        names = [name for weight in weights for place in weight.places for name in (place.name, place.path)]
        raise InputError(
            f"{argument}: {shown(key)} matches no parameter{did_you_mean(key, names)}",
            where=argument,
            found=f"{shown(key)}, which matches none of {len(weights)} parameters",
            needed="a key that matches a parameter, or its module",
            do="name layers as model.named_modules() does, with * for parts of names",
        )
