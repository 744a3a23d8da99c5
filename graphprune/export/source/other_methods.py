"""Public methods of a model that ``forward`` does not run, such as ``generate``: which of them can come along."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from types import FunctionType, ModuleType
from typing import Any

from torch import nn

from graphprune.export.source.collecting import Collector, is_of_torch, literal_text, plain_function
from graphprune.export.source.constructors import is_torch_class
from graphprune.export.source.names import imported_from, is_importable
from graphprune.export.source.references import References, is_builtin, links_of, references_in, root_of
from graphprune.export.source.source_files import SourceFile, source_file
from graphprune.utils.held import global_names

_SETTING_UP = re.compile(
    r"_*(reset|load|save|from|build|make|freeze|set)(_|$)|.*(init|weights|pretrained|checkpoint).*"
)
"""Methods that set a model up or deal with files."""


def other_methods(model: nn.Module, kept: Iterable[str], collector: Collector) -> set[str]:
    """The names of methods of a model's class that use nothing but torch, the model, and what the file has anyway."""
    found = {name: f for kind in type(model).__mro__ if not is_torch_class(kind) for name, f in _methods(kind).items()}
    building = _read_when_built(model)
    candidates = {n: _references(f) for n, f in found.items() if n not in building and not _SETTING_UP.match(n)}
    usable = {n: r for n, r in candidates.items() if r is not None and _uses_only_torch(found[n], r, collector)}
    known = {*kept, *_plain_names(model, collector), *dir(nn.Module)}
    while wrong := [n for n, r in usable.items() if not _of_self(r) <= known | usable.keys()]:
        for name in wrong:
            del usable[name]
    return {name for name in usable if not name.startswith("_")}


def _methods(kind: type) -> dict[str, FunctionType]:
    """Methods that take the model itself."""
    found = {n: plain_function(v) for n, v in vars(kind).items() if not isinstance(v, staticmethod | classmethod)}
    return {n: f for n, f in found.items() if f is not None and not n.startswith("__")}


def _read_when_built(model: nn.Module) -> set[str]:
    """The attributes that constructors use: a method among them builds or initializes something."""
    found: set[str] = set()
    for kind in type(model).__mro__:
        if not is_torch_class(kind) and (function := plain_function(vars(kind).get("__init__"))) is not None:
            references = _references(function)
            found |= set() if references is None else references.attributes
    return found


def _references(function: FunctionType) -> References | None:
    node = _node(function)
    return None if node is None else references_in(node)


def _node(function: FunctionType) -> ast.AST | None:
    file = _file(function)
    return None if file is None else file.functions.get(function.__code__.co_firstlineno)


def _file(function: FunctionType) -> SourceFile | None:
    return source_file(function.__code__.co_filename, function.__globals__)


def _uses_only_torch(function: FunctionType, found: References, collector: Collector) -> bool:
    if function.__closure__ and function.__code__.co_freevars != ("__class__",):
        return False
    if found.patterns or found.imports:
        return False
    names = {root.id for chain in found.names if (root := root_of(chain)) is not None}
    names = {n for n in names if n in global_names(function.__code__) or n in _decorators(function)}
    values = function.__globals__
    return all(_is_there(name, values, _file(function), collector) for name in names)


def _decorators(function: FunctionType) -> set[str]:
    node = _node(function)
    outside = getattr(node, "decorator_list", [])
    return {n.id for d in outside for n in ast.walk(d) if isinstance(n, ast.Name)}


def _is_there(name: str, values: dict[str, Any], file: SourceFile | None, collector: Collector) -> bool:
    if name not in values:
        return is_builtin(name)
    value = values[name]
    if isinstance(value, ModuleType):
        return is_importable(value.__name__)
    return imported_from(file, name) is not None or is_of_torch(value) or collector.has(value)


def _of_self(found: References) -> set[str]:
    """The attributes of ``self`` that a method uses."""
    links = [links_of(chain) for chain in found.names]
    of_self = (link[1] for link in links if len(link) > 1 and isinstance(link[0], ast.Name) and link[0].id == "self")
    return {link.attr for link in of_self if isinstance(link, ast.Attribute)}


def _plain_names(model: nn.Module, collector: Collector) -> set[str]:
    """Attributes of the model that can be written."""
    plain = {n for n, v in vars(model).items() if literal_text(v) is not None or collector.reads(n)}
    return plain | {*model._modules, *model._parameters, *model._buffers}
