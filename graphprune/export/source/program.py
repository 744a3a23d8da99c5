"""The parts of the file that defines a model: its classes with their constructors, and what they refer to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import networkx as nx
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from graphprune.export.source.classes import ModuleClass, ModuleClasses
from graphprune.export.source.collecting import Definition, unwritable
from graphprune.export.source.constructors import (
    built_with,
    constructor_arguments,
    is_torch_class,
    plain_attributes,
)
from graphprune.export.source.expressions import Argument, Code, Display, Expression, Invocation
from graphprune.export.source.initializers import Initializer, Initializers, builtin_container
from graphprune.export.source.names import Names
from graphprune.export.source.paths import access, all_paths
from graphprune.export.source.templates import Template, class_text, unified
from graphprune.export.source.values import Values
from graphprune.export.source.variants import variants
from graphprune.utils.modules import named_modules

_LATER = "\0later "
"""Stands for a module of a class that is being written: one that contains modules of its own class."""

_MOST_ROUNDS = 5

_MOST_MODULES = 2
"""A constructor that takes more submodules than this is better written twice."""


@dataclass
class Part:
    """A class of the file with the constructor that builds some modules of it.

    Attributes:
        template: None for a base class without modules of its own.
        original: the class that it is a variant of.
    """

    record: ModuleClass
    template: Template | None
    modules: list[nn.Module]
    original: ModuleClass | None = None


class Program:
    """Everything that a file has to define for a model.

    Args:
        model: the slim model.
        methods: the names of the methods that are called on it.
        root_name: what its class is called if it is one of torch.

    Raises:
        ExportError: it holds what cannot be written with torch alone.
    """

    def __init__(self, model: nn.Module, methods: Iterable[str], root_name: str = "Model") -> None:
        self.model = model
        self.names = Names()
        for name in ("Path", "load", "load_file", "annotations"):
            self.names.claim(name, ("reserved", name))
        self.paths, self.shared = all_paths(model)
        self.classes = ModuleClasses(self.names)
        self.dtype = _only_dtype(model)
        self._check_hooks()
        self._kinds = self._find_classes(root_name)
        self.classes.collect(methods)
        self.classes.add_other_methods(model)
        self.classes.collect(methods)
        self._add_layers_with_attributes()
        self.values = Values(self.classes.collector, self.paths, self._build)
        self._initializers = Initializers(
            self.classes.collector,
            self.values,
            self.paths,
            self._build,
            needs_dtype=self.dtype is None,
            read_by_torch=self._read_by_torch(),
        )
        self.parts: list[Part] = []
        self._made: dict[int, Expression] = {}
        self._class_names: dict[int, str] = {}
        self._make_all(methods)
        self.classes.drop_empty_bases()

    # ------------------------------------------------------------ classes

    def _find_classes(self, root_name: str) -> dict[int, type]:
        """By the identity of each module with a class in the file, that class."""
        found = {}
        for path, module in named_modules(self.model):
            kind = type(module)
            if not path or not is_torch_class(kind) or not self._is_built_by_torch(module):
                self.classes.add(module, root_name if not path else f"Slim{kind.__name__}")
                found[id(module)] = kind
        return found

    def _add_layers_with_attributes(self) -> None:
        """A layer of torch that was given attributes, which the model reads, gets a class of its own."""
        own: dict[type, set[str]] = {}
        for _, module in named_modules(self.model):
            kind = type(module)
            there = {n for n in plain_attributes(module) if self.classes.collector.reads(n)}
            if id(module) in self._kinds or not there:
                continue
            if kind not in own:
                container = builtin_container(module) is kind
                arguments = {} if container else constructor_arguments(module, kind) or {}
                own[kind] = set(plain_attributes(built_with(kind, arguments)))
            if there - own[kind]:
                self.classes.add(module, f"Slim{kind.__name__}")
                self._kinds[id(module)] = kind

    def _read_by_torch(self) -> set[int]:
        """Modules of torch's classes whose constructor is passed by, and what they hold."""
        owners = [m for r in self.classes.by_kind.values() if r.of_torch for m in r.modules]
        layers = [m for m in owners if builtin_container(m) is None]
        return {id(m) for owner in layers for m in (owner, *owner.children())}

    def _is_built_by_torch(self, module: nn.Module) -> bool:
        kind = type(module)
        return builtin_container(module) is kind or constructor_arguments(module, kind) is not None

    def _check_hooks(self) -> None:
        for path, module in named_modules(self.model):
            where = f"the {type(module).__name__} {path!r}" if path else f"the {type(module).__name__}"
            if is_parametrized(module):
                advice = "torch.nn.utils.parametrize.remove_parametrizations puts the values in their place"
                raise unwritable("has parametrized weights", where, advice)
            tables = {k: v for k, v in vars(module).items() if k.endswith("_hooks") and isinstance(v, dict) and v}
            tables = {k: v for k, v in tables.items() if "state_dict" not in k}
            for name, hooks in tables.items():
                hook = next(iter(hooks.values()))
                shown = getattr(hook, "__qualname__", type(hook).__name__)
                advice = "remove it, or make what it does a part of forward"
                raise unwritable(f"has the hook {shown} ({name.strip('_')})", where, advice)

    # ------------------------------------------------------------ constructors

    def _make_all(self, methods: Iterable[str]) -> None:
        """Write constructors until nothing that they refer to reads more attributes."""
        for _ in range(_MOST_ROUNDS):
            before = set(self.classes.collector.read)
            self._make_once()
            self.classes.collect(methods)
            if self.classes.collector.read == before:
                return

    def _make_once(self) -> None:
        self.parts.clear()
        self._made.clear()
        for kinds in self._in_order():
            self._busy = kinds
            for kind in kinds:
                self._make(self.classes.by_kind[kind])
        self._busy = frozenset()

    def _in_order(self) -> list[frozenset[type]]:
        """Classes after those of the modules that they contain; together where they contain each other."""
        graph: nx.DiGraph[type] = nx.DiGraph()
        graph.add_nodes_from(k for k, record in self.classes.by_kind.items() if record.modules)
        for record in self.classes.by_kind.values():
            for module in record.modules:
                graph.add_edges_from((self._kinds[id(m)], record.kind) for m in self._inner(module))
        groups = nx.condensation(graph)
        return [frozenset(groups.nodes[n]["members"]) for n in nx.lexicographical_topological_sort(groups)]

    def _inner(self, module: nn.Module) -> Iterator[nn.Module]:
        """The nearest modules within one whose classes stand in the file."""
        for child in module._modules.values():
            if child is not None:
                if id(child) in self._kinds:
                    yield child
                else:
                    yield from self._inner(child)

    def _make(self, record: ModuleClass) -> None:
        made = [self._initializers.initializer(module) for module in record.modules]
        groups = self._groups(record, made)
        for number, group in enumerate(groups):
            modules = [record.modules[i] for i in group]
            template = unified([made[i] for i in group], reserved={*self.names.taken, "self"})
            found = self._variant(record, number) if number else record
            self.parts.append(Part(found, template, modules, record if number else None))
            for i, module in enumerate(modules):
                self._made[id(module)] = Invocation(found.name, template.arguments(i))
                self._class_names[id(module)] = found.name

    def _groups(self, record: ModuleClass, made: Sequence[Initializer]) -> list[list[int]]:
        """The modules that one constructor builds: all, or those with the same layers."""
        if any(module is self.model for module in record.modules):
            return [list(range(len(made)))]
        together = unified(made, reserved=set())
        changing = {name for part in self.parts if part.original for name in (part.record.name, part.original.name)}
        return variants(made, changing, sum(p.takes_modules for p in together.parameters) > _MOST_MODULES)

    def _variant(self, record: ModuleClass, number: int) -> ModuleClass:
        name = self.names.claim(f"{record.name}{number + 1}", ("variant", record.kind, number))
        return ModuleClass(record.kind, name, needs=[record.name], bases=record.name)

    def _build(self, module: nn.Module, needs: list[str]) -> Expression:
        """The expression that builds a submodule."""
        kind = self._kinds.get(id(module))
        if kind is not None:
            if kind in self._busy:
                needs.append(self.classes.by_kind[kind].name)
                return Code(f"{_LATER}{id(module)}")
            needs.append(self._class_names[id(module)])
            return self._made[id(module)]
        call = self._initializers.torch_call(module, needs)
        if call is None:
            where = f"the {type(module).__name__} {self.paths.get(id(module), '')!r}"
            raise unwritable("cannot be built by its constructor", where)
        return call

    # ------------------------------------------------------------ text

    def definitions(self) -> list[str]:
        """The texts of all definitions, each after those that it refers to."""
        made: Mapping[str, Definition] = {**self.classes.collector.definitions, **self._class_definitions()}
        root = self.classes.by_kind[type(self.model)].name
        names = _ordered(made, root)
        first = _constants(made, names)
        return [made[name].text for name in (*first, *(n for n in names if n not in first))]

    def _class_definitions(self) -> dict[str, Definition]:
        there = {part.record.name for part in self.parts}
        bases = [Part(r, None, []) for r in self.classes.by_kind.values() if r.name not in there]
        found = {}
        for part in (*self.parts, *bases):
            needs = [*part.record.needs, *(part.template.needs if part.template is not None else [])]
            found[part.record.name] = Definition(part.record.name, self._class_text(part), needs)
        return found

    def _class_text(self, part: Part) -> str:
        template = part.template
        if template is not None:
            template = self._with_later_parts(self._with_own_base(part, template))
        record = part.record
        extra = self.endings("self") if record.kind is type(self.model) and self.is_unique else []
        members = self.classes.in_order(record) if part.original is None else []
        return class_text(record, template, members, extra, part.original is None)

    def _with_own_base(self, part: Part, template: Template) -> Template:
        """Call torch's constructor by name where a base class of the file has one for its own instances."""
        kind = part.record.kind
        bases = [self.classes.by_kind[k] for k in kind.__mro__[1:] if k in self.classes.by_kind]
        base = template.base
        is_own = part.original is None and not any(b.modules for b in bases)
        if base is None or base.callee != "super().__init__" or is_own:
            return template
        name = self.names.torch_object(next(k for k in kind.__mro__ if is_torch_class(k)))
        call = Invocation(f"{name}.__init__", (Argument("", Code("self")), *base.arguments))
        return replace(template, base=call)

    def _with_later_parts(self, template: Template) -> Template:
        def put(value: Expression) -> Expression:
            return self._put_later_parts(value)

        statements = [type(s)(s.kind, s.name, put(s.value)) for s in template.statements]
        base = None if template.base is None else put(template.base)
        assert base is None or isinstance(base, Invocation)
        return replace(template, statements=statements, base=base)

    def _put_later_parts(self, value: Expression) -> Expression:
        if isinstance(value, Code):
            if value.text.startswith(_LATER):
                return self._put_later_parts(self._made[int(value.text.removeprefix(_LATER))])
            return value
        if isinstance(value, Display):
            return Display(value.brackets, tuple(map(self._put_later_parts, value.items)), value.keys)
        arguments = (Argument(a.name, self._put_later_parts(a.value), a.default, a.keyword) for a in value.arguments)
        return Invocation(value.callee, tuple(arguments))

    def root_expression(self) -> Expression:
        """The expression that builds the model."""
        return self._put_later_parts(self._made[id(self.model)])

    @property
    def is_unique(self) -> bool:
        """Is the model the only module of its class?"""
        return len(self.classes.by_kind[type(self.model)].modules) == 1

    def endings(self, name: str) -> list[str]:
        """What has to be done once the model called ``name`` is built: share what is shared, freeze what is frozen."""
        shared = [f"{name}{self._access(again)} = {name}{self._access(first)}" for first, again in self.shared]
        frozen = [f"{name}{self._access(path)}.requires_grad_(False)" for path in _frozen(self.model)]
        return [*shared, *frozen]

    def _access(self, path: str) -> str:
        parent, _, name = path.rpartition(".")
        try:
            self.model.get_submodule(path)
        except AttributeError:
            return f"{access(self.model, parent)}.{name}"
        return access(self.model, path)


def _constants(made: Mapping[str, Definition], names: Iterable[str]) -> list[str]:
    """Constants that need nothing but constants: they stand first."""
    found: list[str] = []
    for name in names:
        text, needs = made[name].text, made[name].needs
        if text.startswith(f"{name} =") and all(n in found or n not in made for n in needs):
            found.append(name)
    return found


def _ordered(made: Mapping[str, Definition], root: str) -> list[str]:
    """The names that ``root`` needs, directly or not, each after those that it needs."""
    found: dict[str, None] = {}
    stack: list[tuple[str, Iterator[str]]] = [(root, iter(made[root].needs))]
    seen = {root}
    while stack:
        name, needs = stack[-1]
        following = next((n for n in needs if n in made and n not in seen), None)
        if following is None:
            found[name] = None
            stack.pop()
        else:
            seen.add(following)
            stack.append((following, iter(made[following].needs)))
    return list(found)


def _only_dtype(model: nn.Module) -> torch.dtype | None:
    """The type of all floating-point tensors, if there is one."""
    tensors = (*model.parameters(), *model.buffers())
    kinds = {t.dtype for t in tensors if t.is_floating_point()}
    return kinds.pop() if len(kinds) == 1 else torch.float32 if not kinds else None


def _frozen(model: nn.Module) -> list[str]:
    """The largest modules all of whose parameters are frozen, and frozen parameters elsewhere."""
    found: list[str] = []
    for path, module in named_modules(model):
        parameters = list(module.parameters())
        within = any(not p or path.startswith(f"{p}.") for p in found)
        if parameters and not within and not any(p.requires_grad for p in parameters):
            found.append(path)
    inside = [f"{p}." if p else "" for p in found]
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad and not any(name.startswith(p) for p in inside):
            found.append(name)
    return found
