"""The classes of a model's modules: which of them the file defines, and which of their methods it needs."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, Generic

from torch import nn

from graphprune.export.source.collecting import (
    Collector,
    Scope,
    class_source,
    functions_of,
    is_of_torch,
    literal_text,
    unwritable,
)
from graphprune.export.source.constructors import is_torch_class
from graphprune.export.source.names import Names
from graphprune.export.source.other_methods import other_methods
from graphprune.export.source.references import references_in
from graphprune.export.source.source_files import SourceFile
from graphprune.export.source.values import scalar_text
from graphprune.utils.checks import with_article

_NOT_KEPT = frozenset(
    "__init__ __new__ __repr__ __init_subclass__ __setstate__ __getstate__ __deepcopy__ __copy__ __reduce__ "
    "__reduce_ex__ __module__ __doc__ __dict__ __weakref__ __annotations__ __constants__ __parameters__ "
    "__orig_bases__ __abstractmethods__ __static_attributes__ __firstlineno__ __jit_unused_properties__ "
    "_load_from_state_dict _save_to_state_dict state_dict load_state_dict get_extra_state set_extra_state "
    "reset_parameters _reset_parameters _version _abc_impl dump_patches __slots__ __class_getitem__".split()
)
"""What concerns construction, files and copies, which the file does its own way."""


@dataclass
class ModuleClass:
    """A class that the file defines with a constructor of its own.

    Attributes:
        kind: the author's class, or one of torch whose constructor cannot build these modules.
        name: in the file.
        modules: its instances; none for a base class.
        members: the texts of methods and class attributes by name, in the author's order.
        needs: the definitions that members and bases refer to.
    """

    kind: type
    name: str
    modules: list[nn.Module] = field(default_factory=list)
    members: dict[str, str] = field(default_factory=dict)
    needs: list[str] = field(default_factory=list)
    bases: str = ""

    @property
    def of_torch(self) -> bool:
        """Is it torch's class, of which the file derives one?"""
        return is_torch_class(self.kind)

    def summary(self) -> str:
        """The first paragraph of the author's docstring."""
        text = None if self.of_torch else vars(self.kind).get("__doc__")
        return inspect.cleandoc(text).partition("\n\n")[0].strip() if isinstance(text, str) else ""


class ModuleClasses:
    """All classes with constructors of their own, by the class of the model's modules."""

    def __init__(self, names: Names) -> None:
        self.collector = Collector(names, self._name_of)
        self.by_kind: dict[type, ModuleClass] = {}
        self._names = names
        self._done: set[tuple[type, str]] = set()

    def _name_of(self, kind: type, needs: list[str]) -> str | None:
        found = self.by_kind.get(kind)
        if found is None:
            return None
        needs.append(found.name)
        return found.name

    def add(self, module: nn.Module, name: str) -> None:
        """Note a module whose class the file defines; ``name``: what to call the class if it is torch's."""
        kind = type(module)
        if kind not in self.by_kind:
            self._register(kind, name if is_torch_class(kind) else kind.__name__)
        self.by_kind[kind].modules.append(module)

    def _register(self, kind: type, name: str) -> None:
        record = ModuleClass(kind, self._names.claim(name, ("class", kind)))
        self.by_kind[kind] = record
        if not record.of_torch:
            self.collector.note_source(kind.__module__)
            for base in kind.__bases__:
                if base not in self.by_kind and not _is_importable(base):
                    self._register(base, base.__name__)
        record.bases = ", ".join(self._base_texts(record))

    def _base_texts(self, record: ModuleClass) -> Iterator[str]:
        for base in (record.kind,) if record.of_torch else record.kind.__bases__:
            if base in (object, Generic) or base.__name__ in ("Protocol", "ABC"):
                continue
            if base in self.by_kind and not record.of_torch:
                record.needs.append(self.by_kind[base].name)
                yield self.by_kind[base].name
            else:
                yield self._names.torch_object(base)

    def drop_empty_bases(self) -> None:
        """Leave out base classes that have nothing of their own and that nothing refers to."""
        for record in list(self.by_kind.values()):
            if record.modules or record.members or ", " in record.bases or not self._is_only_a_base(record):
                continue
            del self.by_kind[record.kind]
            for derived in self.by_kind.values():
                if record.kind in derived.kind.__bases__:
                    bases = [record.bases if b == record.name else b for b in derived.bases.split(", ")]
                    derived.bases = ", ".join(filter(None, bases))
                    derived.needs = [n for n in derived.needs if n != record.name] + record.needs

    def _is_only_a_base(self, record: ModuleClass) -> bool:
        uses = sum(definition.needs.count(record.name) for definition in self.collector.definitions.values())
        uses += sum(other.needs.count(record.name) for other in self.by_kind.values())
        return uses == sum(record.kind in other.kind.__bases__ for other in self.by_kind.values())

    # ------------------------------------------------------------ members

    def collect(self, roots: Iterable[str]) -> None:
        """Copy the methods that run when the methods ``roots`` of the model do, and what they refer to."""
        self.collector.read |= {"forward", *roots}
        while wanted := [(r, n, v) for r, n, v in self._members() if self._is_wanted(r.kind, n, v)]:
            for record, name, value in wanted:
                self._done.add((record.kind, name))
                self._copy(record, name, value)

    def add_other_methods(self, model: nn.Module) -> None:
        """Copy public methods of the model that ``forward`` does not run and that need nothing more."""
        records = [self.by_kind[k] for k in type(model).__mro__ if k in self.by_kind]
        kept = [name for record in records for name in record.members]
        self.collector.read |= other_methods(model, kept, self.collector)

    def _members(self) -> list[tuple[ModuleClass, str, Any]]:
        own = [r for r in self.by_kind.values() if not r.of_torch]
        return [(r, n, v) for r in own for n, v in vars(r.kind).items() if (r.kind, n) not in self._done]

    def _is_wanted(self, kind: type, name: str, value: Any) -> bool:
        if name in _NOT_KEPT:
            return False
        overrides = any(name in vars(base) for base in kind.__mro__[1:] if _is_importable(base))
        is_method = bool(functions_of(value)) or name.startswith("__")
        if is_method and (overrides or (name.startswith("__") and name.endswith("__"))):
            return True
        return name in self.collector.read or (self.collector.reads(name) and not name.startswith("__"))

    def _copy(self, record: ModuleClass, name: str, value: Any) -> None:
        functions = [] if isinstance(value, type) else functions_of(value)
        file, node = class_source(record.kind)
        inside = [f for f in functions if file is not None and node is not None and _stands_in(f, file, node)]
        if functions and inside == functions and functions[0].__name__ == name:
            texts = (self._method(record, f) for f in functions)
            record.members[name] = "\n\n".join(texts)
        elif isinstance(value, FunctionType) and not inside and not _is_assigned(node, name):
            record.members[name] = self._method(record, value, name)
        else:
            record.members[name] = self._assigned(record, name, value)

    def _method(self, record: ModuleClass, function: FunctionType, name: str = "") -> str:
        where = f"{record.kind.__qualname__}.{function.__name__}"
        return self.collector.function_text(function, where, record.needs, 4, name)

    def _assigned(self, record: ModuleClass, name: str, value: Any) -> str:
        """A class attribute: the author's assignment, or the value if it has got another one."""
        file, node = class_source(record.kind)
        statement = _class_statement(node, name)
        where = f"{record.kind.__qualname__}.{name}"
        simple = literal_text(value)
        if file is None or statement is None or (simple is not None and _is_changed_literal(statement, value)):
            if simple is None:
                raise unwritable(f"is {with_article(type(value).__name__)} that was put on the class", where)
            return f"    {name} = {scalar_text(value) if isinstance(value, str) else simple}"
        scope = _scope(record.kind, file, where)
        edits = self.collector.edits(references_in(statement), scope, record.needs, statement)
        return file.cut(statement, edits, 4)

    def in_order(self, record: ModuleClass) -> list[str]:
        """The texts of members as the author ordered them: attributes of the class, then methods."""
        order = {name: i for i, name in enumerate(vars(record.kind))}
        names = sorted(record.members, key=lambda n: order.get(n, 0))
        return [record.members[name] for name in names]


def _scope(kind: type, file: SourceFile, where: str) -> Scope:
    module = sys.modules.get(kind.__module__)
    return Scope(file, vars(module) if module is not None else {}, where)


def _stands_in(function: FunctionType, file: SourceFile, node: ast.ClassDef) -> bool:
    """Is a function defined in the body of a class? It may have been put on the class later."""
    code = function.__code__
    return code.co_filename == file.name and node.lineno <= code.co_firstlineno <= (node.end_lineno or 0)


def _is_assigned(node: ast.ClassDef | None, name: str) -> bool:
    return isinstance(_class_statement(node, name), ast.Assign | ast.AnnAssign)


def _is_changed_literal(statement: ast.stmt, value: Any) -> bool:
    """Does a statement assign a literal that is no longer the value?"""
    assigned = getattr(statement, "value", None)
    try:
        return assigned is not None and ast.literal_eval(assigned) != value
    except ValueError:
        return False


def _class_statement(node: ast.ClassDef | None, name: str) -> ast.stmt | None:
    """The last statement of a class body that gives ``name`` a value."""
    for statement in reversed(node.body if node is not None else []):
        targets = getattr(statement, "targets", [getattr(statement, "target", None)])
        if any(isinstance(t, ast.Name) and t.id == name for t in targets) or getattr(statement, "name", None) == name:
            return statement
    return None


def _is_importable(kind: type) -> bool:
    return is_torch_class(kind) or kind is object or is_of_torch(kind)
