"""The modules of a model in the order in which they run, their tensors, and what their sizes are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from msgspec import Struct
from torch import Tensor, nn

from graphprune.graph.analysis import Analysis
from graphprune.rules.labels import ParameterAxis
from graphprune.utils.modules import named_tensors


class TreeModule(Struct, frozen=True, array_like=True):
    """One module.

    Attributes:
        parent: the number of the module that holds it; -1: it is the model.
        name: what it is called there.
        kind: its class.
        alike: equal for modules that hold the same classes and shapes under the same names.
    """

    parent: int
    name: str
    kind: str
    alike: int


class TreeTensor(Struct, frozen=True, array_like=True):
    """One parameter or buffer.

    Attributes:
        module: the number of the module that holds it.
        name: what it is called there.
        shape: its sizes.
        dims: for each size the number of the dimension that it is; 0: it cannot change.
        parameter: it is a parameter.
    """

    module: int
    name: str
    shape: tuple[int, ...]
    dims: tuple[int, ...]
    parameter: bool


class ModuleTree:
    """The modules that run or hold tensors, parents first, children in the order in which they first run.

    Attributes:
        numbers: by path, the number of a module.
        modules: by number.
        tensors: parameters and buffers, tied ones once.
        names: what these are called in the model.
    """

    def __init__(self, graph: Analysis) -> None:
        named = named_tensors(graph.model)
        first = _first_runs(graph, dict(named))
        children: dict[str, list[str]] = defaultdict(list)
        for path in first:
            if path:
                children[path.rpartition(".")[0]].append(path)
        ordered = _in_order("", children, first)
        self.numbers = {path: number for number, path in enumerate(ordered)}
        self.names = [name for name, _ in named]
        self.tensors = self._tensors(graph, named)
        alike = _alike(graph, ordered, children, self)
        kinds = graph.trace.modules
        self.modules = [
            TreeModule(
                self.numbers[path.rpartition(".")[0]] if path else -1,
                path.rpartition(".")[2] or type(graph.model).__name__,
                kinds.get(path, nn.Module).__name__,
                alike[path],
            )
            for path in ordered
        ]

    def _tensors(self, graph: Analysis, named: Sequence[tuple[str, Tensor]]) -> list[TreeTensor]:
        lines = graph.costs.lines
        found = []
        for name, tensor in named:
            module, _, own = name.rpartition(".")
            dims = tuple(lines.get(ParameterAxis(name, d), 0) for d in range(tensor.ndim))
            learned = isinstance(tensor, nn.Parameter)
            found.append(TreeTensor(self.numbers[module], own, tuple(tensor.shape), dims, learned))
        return found


def _first_runs(graph: Analysis, tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """By the path of each module, and of those that hold it, when it first runs, or its tensors are first used."""
    found: dict[str, float] = {"": -1.0}

    def note(path: str, when: float) -> None:
        while path:
            found[path] = min(when, found.get(path, when))
            path = path.rpartition(".")[0]

    for when, node in enumerate(graph.labeling.nodes):
        note(node.meta.get("module", ""), when)
        if "tensor" in node.meta:
            note(node.meta["tensor"].rpartition(".")[0], when)
    for name in tensors:
        note(name.rpartition(".")[0], float("inf"))
    return found


def _in_order(path: str, children: Mapping[str, list[str]], first: Mapping[str, float]) -> list[str]:
    """A module and all that it holds."""
    inside = sorted(children.get(path, ()), key=lambda child: first[child])
    return [path, *(one for child in inside for one in _in_order(child, children, first))]


def _alike(graph: Analysis, ordered: list[str], children: Mapping[str, list[str]], tree: ModuleTree) -> dict[str, int]:
    """By path, a number that is equal for modules of equal structure."""
    numbers: dict[object, int] = {}
    found: dict[str, int] = {}
    own = defaultdict(list)
    for tensor in tree.tensors:
        own[tensor.module].append((tensor.name, tensor.shape, tuple(d > 0 for d in tensor.dims)))
    for path in reversed(ordered):
        inside = tuple((child.rpartition(".")[2], found[child]) for child in children.get(path, ()))
        key = graph.trace.modules.get(path), inside, tuple(own[tree.numbers[path]])
        found[path] = numbers.setdefault(key, len(numbers))
    return found
