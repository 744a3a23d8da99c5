"""Integer attributes that ``forward`` does not read but other methods do: a head that is made anew, branches that are
merged.

They follow where the evidence is unambiguous: the attribute is named like a number of channels, heads or groups, and
all that has its value in its module shrank to the same size. The others that some of this holds for are *stale*.

Entries of dictionaries are attributes too. Those that name a module and the number of its channels, as lists of
feature maps do, follow that module. So do the numbers of channels of torch's norms that have no tensors.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Generic, TypeVar

from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from graphprune.graph.analysis import Analysis
from graphprune.graph.living_sizes import LivingSizes
from graphprune.pruning.plan import Plan
from graphprune.tracing.model_copy import is_torchs
from graphprune.tracing.module_sizes import module_sizes
from graphprune.tracing.recorder import ModuleCall
from graphprune.tracing.size_places import (
    attributes_held,
    dict_behind,
    is_container,
    is_integer,
    is_plain_object,
    steps_into,
)
from graphprune.tracing.sizes import attributes_of
from graphprune.utils.arrays import Mask
from graphprune.utils.modules import Modules, named_modules

Found = TypeVar("Found")

_WIDTHS = frozenset(
    "channel channels ch chs feature features feat feats filters plane planes inplanes outplanes dim dims width widths "
    "hidden embed embd embedding inner intermediate model ff ffn mlp nf inp oup".split()
)
_OTHERS = frozenset(
    "layer layers block blocks class classes label labels depth depths ratio factor stride kernel patch patches "
    "batch epoch epochs seed version bits seq "
    "image img window vocab position positions token tokens max min stage stages level levels".split()
)
_FEATURES = frozenset("feature features feat feats embed embd embedding hidden model".split())
"""Names of the width that a model hands to its classifier."""


def unread_sizes(graph: Analysis, plan: Plan, alive: Mask) -> tuple[dict[str, int], tuple[str, ...]]:
    """The new values of attributes that forward does not read and that follow, and the names of stale ones.

    Args:
        graph: the analyzed model.
        plan: what is removed from it.
        alive: the classes of labels that live then.
    """
    evidence = _Evidence(graph, plan, alive)
    read = {attribute.path for expr in graph.trace.sizes.worked_with() for attribute in attributes_of(expr)}
    followed: dict[str, int] = {}
    stale = []
    everything = named_modules(graph.model)
    modules = not_torchs(everything)
    described = [*_descriptions(modules, {path for path, _ in everything}), *_of_bare_norms(everything)]
    passed_over = read | {path for path, _, _ in described}
    for attribute in attributes_in(modules):
        if attribute.path in passed_over or not (attribute.value in evidence.shrunk or attribute.kind == "heads"):
            continue
        found = evidence.of(attribute)
        if found == {attribute.value} or not found:
            continue
        if attribute.kind and len(found) == 1:
            followed[attribute.path] = found.pop()
        elif attribute.kind or len(found) == 1 or not attribute.words & _OTHERS:
            stale.append(attribute.path)
    for path, value, module in described:
        widths = evidence.outputs(module, value) if path not in read else {value}
        if len(widths) == 1 and widths != {value}:
            followed[path] = widths.pop()
        elif len(widths) != 1 and value in evidence.shrunk:
            stale.append(path)
    return followed, tuple(stale)


# ---------------------------------------------------------------- the attributes of a model


@dataclass(frozen=True)
class Attribute:
    """An integer attribute of a module, or of an object that it holds: its path, name and value, and the module.

    The entries of a dictionary are as the attributes of an object.
    """

    path: str
    name: str
    value: int
    owner: str

    @property
    def words(self) -> frozenset[str]:
        """The words of its name."""
        return words_of(self.name)

    @property
    def kind(self) -> str:
        """What it is named like: ``heads``, ``head_width``, ``groups`` or ``width``; empty: something else."""
        return kind_of(self.name)


@lru_cache(maxsize=4096)
def words_of(name: str) -> frozenset[str]:
    return frozenset(re.sub(r"[\d\[\]]+", "", name).lower().split("_"))


@lru_cache(maxsize=4096)
def kind_of(name: str) -> str:
    words = words_of(name)
    if words & _OTHERS:
        return ""
    if words & {"head", "heads", "nhead"} and not words & {"all", "hidden"}:
        return "head_width" if words & {"dim", "dims", "size", "width", "channels"} else "heads"
    if "groups" in words:
        return "groups"
    return "width" if words & _WIDTHS else ""


def not_torchs(modules: Modules) -> Modules:
    """The modules whose classes are not torch's."""
    return [(path, m) for path, m in modules if not is_torchs(type(m))]  # type: ignore[arg-type]  # by identity


def attributes_in(modules: Modules) -> Iterator[Attribute]:
    """The integers above 1 of modules that are not torch's, and of the objects and dictionaries that they hold."""
    known: set[int] = set()
    for path, module in modules:
        own = module_sizes(module)  # of a class derived from one of torch's
        yield from (a for a in _attributes_of(module, path, f"{path}." if path else "", known) if a.name not in own)


def _attributes_of(holder: Any, owner: str, prefix: str, known: set[int]) -> Iterator[Attribute]:
    for name, value in attributes_held(holder).items():
        yield from _integers(value, name, prefix + name, owner, known)


def _integers(value: Any, name: str, path: str, owner: str, known: set[int]) -> Iterator[Attribute]:
    """Those in the value of an attribute, or of an entry of a dictionary, which is called ``name``."""
    if is_integer(value):
        if value > 1 and name.isidentifier():
            yield Attribute(path, name, int(value), owner)
    elif type(value) in (tuple, list):
        if value and all(map(is_integer, value)) and name.isidentifier():
            whole = ((i, int(v)) for i, v in enumerate(value) if v > 1)
            yield from (Attribute(f"{path}[{i}]", name, v, owner) for i, v in whole)
    elif (table := dict_behind(value)) is not None or is_plain_object(value):
        if id(value) in known or id(table) in known:
            return
        known.add(id(value))
        for step, item in steps_into(value) if not _is_vocabulary(value) else ():
            yield from _integers(item, step.strip(".[]'"), path + step, owner, known)


def _is_vocabulary(value: Any) -> bool:
    """Is it a dictionary that numbers its keys, as those of labels and of words do?"""
    numbers = list(dict.values(dict_behind(value) or {}))
    return bool(numbers) and all(map(is_integer, numbers)) and set(numbers) == set(range(len(numbers)))


def _descriptions(modules: Modules, paths: set[str]) -> Iterator[tuple[str, int, str]]:
    """Numbers of channels in dictionaries that name a module: where they stand, their value, and the module's path.

    Args:
        modules: those that are not torch's.
        paths: of all modules.
    """
    known: set[int] = set()
    for owner, module in modules:
        for name, value in attributes_held(module).items():
            yield from _described(value, f"{owner}.{name}" if owner else name, owner, paths, known)


def _described(value: Any, place: str, owner: str, paths: set[str], known: set[int]) -> Iterator[tuple[str, int, str]]:
    if not (is_container(value) or is_plain_object(value)) or id(value) in known:
        return
    known.add(id(value))
    named = (
        [m for v in value.values() if type(v) is str and (m := _named(v, owner, paths))]
        if isinstance(value, dict)
        else []
    )
    for step, item in steps_into(value):
        if len(named) == 1 and is_integer(item) and kind_of(step.strip("[']")) == "width":
            yield place + step, int(item), named[0]
        else:
            yield from _described(item, place + step, owner, paths, known)


def _of_bare_norms(modules: Modules) -> Iterator[tuple[str, int, str]]:
    """The numbers of channels of torch's norms that no tensor of theirs tells: path, value, and the module's path."""
    for path, module in modules:
        name = "num_features" if isinstance(module, _NormBase) else "num_channels"
        if isinstance(module, _NormBase | nn.GroupNorm) and name not in module_sizes(module):
            yield f"{path}.{name}" if path else name, getattr(module, name), path


def _named(name: str, owner: str, paths: set[str]) -> str:
    """The path of the module that a name within ``owner`` means, or within a part of it; empty: none."""
    prefix = f"{owner}." if owner else ""
    exact = [path for path in (prefix + name, prefix + name.replace(".", "_")) if path in paths and name]
    parts = [path for path in paths if path.startswith(prefix) and path.count(".") == prefix.count(".")]
    within = [path for path in (f"{part}.{name}" for part in parts) if path in paths and name]
    return exact[0] if exact else within[0] if len(within) == 1 else ""


# ---------------------------------------------------------------- what shrank


class _Within(Generic[Found]):
    """What is found at paths, by the modules that these lie within."""

    def __init__(self) -> None:
        self._direct: dict[str, set[Found]] = defaultdict(set)
        self._all: dict[str, set[Found]] = defaultdict(set)

    def add(self, path: str, found: Found) -> None:
        """Something at a path, of which the last part is a name in a module."""
        self._direct[path.rpartition(".")[0]].add(found)
        while path:
            self._all[path].add(found)
            path = path.rpartition(".")[0]
        self._all[""].add(found)

    def directly(self, owner: str) -> set[Found]:
        """What has a name in this module."""
        return set(self._direct.get(owner, ()))

    def of(self, owner: str) -> set[Found]:
        """What lies at this path or within."""
        return set(self._all.get(owner, ()))


class _Evidence:
    """What became of everything that has a certain size."""

    def __init__(self, graph: Analysis, plan: Plan, alive: Mask) -> None:
        self._graph = graph
        self._plan = plan
        self._alive = alive
        self._axes: dict[int, list[tuple[str, int]]] = defaultdict(list)
        for name, shape in plan.shapes.items():
            slim = plan.shape(name) if name in plan.kept else shape
            for dim in range(2 if len(shape) > 2 and self._is_kernel(name) else len(shape)):
                self._axes[shape[dim]].append((name, slim[dim]))
        self._axes_within: dict[int, _Within[int]] = {}

    @cached_property
    def shrunk(self) -> frozenset[int]:
        """The sizes of which something is gone."""
        axes = (size for size, found in self._axes.items() if any(slim != size for _, slim in found))
        attributes = (old for path, old in self._read.items() if self._plan.sizes.get(path, old) != old)
        return frozenset((*axes, *attributes, *(c.units for c in self._plan.choices if c.removed)))

    def of(self, attribute: Attribute) -> set[int]:
        """What became of all that the attribute may be the size of; several: nobody can tell which it is."""
        if attribute.kind in ("heads", "head_width"):
            return self._read_alike(attribute) or self._chosen(attribute)
        if attribute.kind == "groups" and (found := self._read_alike(attribute) or self._chosen(attribute)):
            return found
        found = self._passed(attribute) or self._owned(attribute, "direct") or self._owned(attribute, "within")
        if len(found) > 1 and attribute.words & _FEATURES and "[" not in attribute.path:
            return self._classified(attribute) or found
        return found

    def outputs(self, path: str, size: int) -> set[int]:
        """What became of the channels of a module's results, of which there are ``size``."""
        return {new for call in self._calls[path] for new in self._channels(call.result, size)}

    def _is_kernel(self, name: str) -> bool:
        return issubclass(self._graph.trace.modules.get(name.rpartition(".")[0], nn.Module), _ConvNd)

    @cached_property
    def _read(self) -> dict[str, int]:
        """The attributes that forward reads, with their values."""
        expressions = self._graph.trace.sizes.expressions()
        return {a.path: a.value for expr in expressions for a in attributes_of(expr)}

    def _read_alike(self, attribute: Attribute) -> set[int]:
        """What became of attributes of the same value and kind that forward reads."""
        alike = self._read_by_kind[attribute.value, attribute.kind].of(attribute.owner) - {attribute.path}
        return {self._plan.sizes.get(path, attribute.value) for path in alike}

    @cached_property
    def _read_by_kind(self) -> dict[tuple[int, str], _Within[str]]:
        """The paths of the attributes that forward reads, by value and kind."""
        found: dict[tuple[int, str], _Within[str]] = defaultdict(_Within)
        for path, old in self._read.items():
            found[old, kind_of(path.rpartition(".")[2])].add(path, path)
        return found

    def _chosen(self, attribute: Attribute) -> set[int]:
        """What is left of groups of heads, or of channels in a head; of query heads that share a key, in proportion.

        Groups of keys and values are as large as there are query heads for each (``num_key_value_groups``).
        """
        roles = ("head_width",) if attribute.kind == "head_width" else ("heads", "kv_groups")
        if attribute.words & {"kv", "key"}:
            roles = ("heads",) if attribute.kind == "groups" else ("kv_groups",)
        elif attribute.kind == "groups":
            return set()
        choices = [self._plan.choices[n] for role in roles for n in self._choices[role].of(attribute.owner)]
        same = {choice.kept for choice in choices if choice.units == attribute.value}
        shared = (c for c in choices if c.role == "kv_groups" and attribute.value % c.units == 0)
        return same or {attribute.value // choice.units * choice.kept for choice in shared}

    @cached_property
    def _choices(self) -> dict[str, _Within[int]]:
        """The numbers of the choices by their roles."""
        groups = {group.name: group for group in self._graph.units.groups}
        found: dict[str, _Within[int]] = defaultdict(_Within)
        for number, choice in enumerate(self._plan.choices):
            for axis in groups[choice.group].axes:
                found[choice.role].add(axis.parameter, number)
        return found

    def _passed(self, attribute: Attribute) -> set[int]:
        """What became of channels that go into its module, or come out of it, if the name says which."""
        into, out = attribute.words & {"in", "inp", "input"}, attribute.words & {"out", "oup", "output"}
        if bool(into) == bool(out):
            return set()
        nodes = [call.source if into else call.result for call in self._calls[attribute.owner]]
        return {new for node in nodes for new in self._channels(node, attribute.value)}

    def _owned(self, attribute: Attribute, how: str) -> set[int]:
        """What became of parameter axes of its module (``direct``), or of that and all within."""
        axes = self._axes_within.get(attribute.value)
        if axes is None:
            axes = self._axes_within[attribute.value] = _Within()
            for name, slim in self._axes.get(attribute.value, ()):
                axes.add(name, slim)
        return axes.directly(attribute.owner) if how == "direct" else axes.of(attribute.owner)

    def _classified(self, attribute: Attribute) -> set[int]:
        """What became of the channels that the last layers of its module read, if these end in a classifier.

        Without one, as many that a last convolution returns are the features themselves.
        """
        kinds = self._graph.trace.modules
        calls = (c for c in reversed(self._graph.trace.calls) if c.plain and is_inside(c.path, attribute.owner))
        layers = [c for c in calls if issubclass(kinds.get(c.path, nn.Module), (nn.Linear, _ConvNd))]
        if not layers or not self._is_whole(layers[0].result):
            return set()
        convolution = issubclass(kinds.get(layers[0].path, nn.Module), _ConvNd)
        returned = self._channels(layers[0].result, attribute.value) if convolution else set()
        read = next(filter(None, (self._channels(layer.source, attribute.value) for layer in layers)), set())
        return returned | read

    def _is_whole(self, node: fx.Node) -> bool:
        """Is nothing of a tensor gone?"""
        shape = node.meta.get("shape", ())
        return all(self._sizes.count(node, d) == n for d, n in enumerate(shape))

    @cached_property
    def _calls(self) -> dict[str, list[ModuleCall]]:
        found: dict[str, list[ModuleCall]] = defaultdict(list)
        for call in self._graph.trace.calls:
            if call.plain:
                found[call.path].append(call)
        return found

    @cached_property
    def _sizes(self) -> LivingSizes:
        return self._graph.living_sizes(self._alive)

    def _channels(self, node: fx.Node, size: int) -> set[int]:
        """How many are left of the channels of a tensor, if it has ``size`` of them."""
        shape = node.meta.get("shape", ())
        dims = (d for d, n in enumerate(shape) if n == size and self._sizes.sizes.labeled(node, d))
        return {self._sizes.count(node, d) for d in dims}


def is_inside(path: str, owner: str) -> bool:
    return not owner or path == owner or path.startswith(f"{owner}.")
