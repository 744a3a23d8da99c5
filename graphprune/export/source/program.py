"""The parts of the file that defines a model: its classes with their constructors, and what they refer to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import networkx as nx
import torch
from torch import nn

from graphprune.export.source.classes import ModuleClass, ModuleClasses
from graphprune.export.source.collecting import Definition, unwritable
from graphprune.export.source.constructors import constructor_arguments, is_torch_class
from graphprune.export.source.expressions import Argument, Code, Display, Expression, Invocation
from graphprune.export.source.initializers import Initializers, builtin_container
from graphprune.export.source.names import Names
from graphprune.export.source.paths import access, all_paths
from graphprune.export.source.templates import Template, class_text, unified
from graphprune.export.source.values import Values
from graphprune.utils.modules import named_modules

_LATER = "\0later "
"""Stands for a module of a class that is being written: one that contains modules of its own class."""

_MOST_ROUNDS = 5


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
        self._kinds = self._find_classes(root_name)
        self._check_hooks()
        self.classes.collect(methods)
        self.values = Values(self.classes.collector, self.paths, self._build)
        self._initializers = Initializers(
            self.classes.collector,
            self.values,
            self.paths,
            self._build,
            needs_dtype=self.dtype is None,
            read_by_torch=self._read_by_torch(),
        )
        self.templates: dict[type, Template] = {}
        self._made: dict[int, Expression] = {}
        self._make_all(methods)

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
            tables = {k: v for k, v in vars(module).items() if k.endswith("_hooks") and isinstance(v, dict) and v}
            tables = {k: v for k, v in tables.items() if "state_dict" not in k}
            if tables:
                name, hooks = next(iter(tables.items()))
                hook = next(iter(hooks.values()))
                shown = getattr(hook, "__qualname__", type(hook).__name__)
                where = f"the {type(module).__name__} {path!r}" if path else f"the {type(module).__name__}"
                raise unwritable(
                    f"has the hook {shown} ({name.strip('_')}); remove it, or make it a part of forward", where
                )

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
        self.templates.clear()
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
        template = unified(made, reserved={*self.names.taken, "self"})
        self.templates[record.kind] = template
        for i, module in enumerate(record.modules):
            self._made[id(module)] = Invocation(record.name, template.arguments(i))

    def _build(self, module: nn.Module, needs: list[str]) -> Expression:
        """The expression that builds a submodule."""
        kind = self._kinds.get(id(module))
        if kind is not None:
            needs.append(self.classes.by_kind[kind].name)
            if kind in self._busy:
                return Code(f"{_LATER}{id(module)}")
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
        return [made[name].text for name in _ordered(made, root)]

    def _class_definitions(self) -> dict[str, Definition]:
        found = {}
        for record in self.classes.by_kind.values():
            template = self.templates.get(record.kind)
            needs = [*record.needs, *(template.needs if template is not None else [])]
            found[record.name] = Definition(record.name, self._class_text(record, template), needs)
        return found

    def _class_text(self, record: ModuleClass, template: Template | None) -> str:
        if template is not None:
            template = self._with_later_parts(self._with_own_base(record, template))
        extra = self._endings() if record.kind is type(self.model) else []
        return class_text(record, template, self.classes.in_order(record), extra)

    def _with_own_base(self, record: ModuleClass, template: Template) -> Template:
        """Invocation torch's constructor by name where a base class of the file has one for its own instances."""
        bases = [self.classes.by_kind[k] for k in record.kind.__mro__[1:] if k in self.classes.by_kind]
        base = template.base
        if base is None or base.callee != "super().__init__" or not any(b.modules for b in bases):
            return template
        name = self.names.torch_object(next(k for k in record.kind.__mro__ if is_torch_class(k)))
        call = Invocation(f"{name}.__init__", (Argument("", Code("self")), *base.arguments))
        return Template(**{**vars(template), "base": call})

    def _with_later_parts(self, template: Template) -> Template:
        def put(value: Expression) -> Expression:
            return self._put_later_parts(value)

        statements = [type(s)(s.kind, s.name, put(s.value)) for s in template.statements]
        base = template.base if template.base is None else put(template.base)
        return Template(**{**vars(template), "statements": statements, "base": base})

    def _put_later_parts(self, value: Expression) -> Expression:
        if isinstance(value, Code):
            if value.text.startswith(_LATER):
                return self._put_later_parts(self._made[int(value.text.removeprefix(_LATER))])
            return value
        if isinstance(value, Display):
            return Display(value.brackets, tuple(map(self._put_later_parts, value.items)), value.keys)
        arguments = (Argument(a.name, self._put_later_parts(a.value), a.default, a.keyword) for a in value.arguments)
        return Invocation(value.callee, tuple(arguments))

    def _endings(self) -> list[str]:
        """What the constructor of the model does at the end: share what is shared, freeze what is frozen."""
        shared = [f"self{self._access(again)} = self{self._access(first)}" for first, again in self.shared]
        frozen = [f"self{self._access(path)}.requires_grad_(False)" for path in _frozen(self.model)]
        return [*shared, *frozen]

    def _access(self, path: str) -> str:
        parent, _, name = path.rpartition(".")
        try:
            self.model.get_submodule(path)
        except AttributeError:
            return f"{access(self.model, parent)}.{name}"
        return access(self.model, path)


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
