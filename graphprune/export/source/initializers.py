"""What the constructor of a module has to do: call its base, set attributes, make tensors and submodules."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from keyword import iskeyword
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.errors import ExportError
from graphprune.export.source.collecting import Collector, unwritable
from graphprune.export.source.constructors import (
    built_with,
    constructor_arguments,
    constructor_parameters,
    plain_attributes,
    torch_base,
)
from graphprune.export.source.expressions import NO_VALUE, Argument, Code, Display, Expression, Invocation, many
from graphprune.export.source.values import Values, scalar_text
from graphprune.tracing.meta import is_float

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


@dataclass(frozen=True)
class Statement:
    """``self.name = value``; ``kind``: attribute, tensor, buffer, unsaved (a buffer that is not saved), module."""

    kind: str
    name: str
    value: Expression


@dataclass
class Initializer:
    """A constructor. ``children``: submodules that the base is given, of a container."""

    base: Invocation | None
    children: Invocation | None
    statements: dict[str, Statement] = field(default_factory=dict)
    needs: list[str] = field(default_factory=list)


def builtin_container(module: nn.Module) -> type[nn.Module] | None:
    """The container of torch that a module is or inherits from."""
    return next((k for k in _CONTAINERS if isinstance(module, k)), None)


class Initializers:
    """Describes the constructors of modules.

    Args:
        build: the expression that builds a submodule.
        needs_dtype: must types of tensors be written, where they are not torch's default?
        read_by_torch: the identities of modules whose attributes code of torch may read.
    """

    def __init__(
        self,
        collector: Collector,
        values: Values,
        paths: Mapping[int, str],
        build: Callable[[nn.Module, list[str]], Expression],
        needs_dtype: bool,
        read_by_torch: Collection[int],
    ) -> None:
        self._collector = collector
        self._names = collector.names
        self._values = values
        self._paths = paths
        self._build = build
        self._needs_dtype = needs_dtype
        self._read_by_torch = read_by_torch

    # ------------------------------------------------------------ modules of torch

    def torch_call(self, module: nn.Module, needs: list[str]) -> Invocation | None:
        """The expression that builds a module of a class of torch, None if its constructor cannot."""
        kind = type(module)
        container = builtin_container(module)
        if container is kind:
            return self.container_call(module, kind, needs)
        arguments = constructor_arguments(module, kind)
        if arguments is None:
            return None
        return Invocation(self._names.torch_object(kind), self._arguments(module, kind, arguments, needs))

    def _arguments(
        self, module: nn.Module, kind: type[nn.Module], values: dict[str, Any], needs: list[str]
    ) -> tuple[Argument, ...]:
        found, leading = [], True
        where, owner = self._where(module), self._paths[id(module)]
        for name, parameter in constructor_parameters(kind).items():
            default = None
            if parameter.default is not inspect.Parameter.empty:
                default = self._default(parameter.default, where, owner, needs)
            leading = leading and parameter.default is inspect.Parameter.empty
            if name in values:
                value = self._values.expression(values[name], f"{where}.{name}", owner, needs)
            elif default is not None:
                value = default
            else:
                continue
            found.append(Argument(name, value, default, keyword=not leading))
        if self._needs_dtype and (dtype := _float_type(module)) not in (None, torch.float32):
            found.append(Argument("dtype", Code(self._names.code(str(dtype))), keyword=True))
        return tuple(found)

    def _default(self, value: Any, where: str, owner: str, needs: list[str]) -> Expression:
        try:
            return self._values.expression(value, where, owner, needs)
        except ExportError:  # it is never written
            return Code("...")

    def container_call(self, module: nn.Module, kind: type[nn.Module], needs: list[str]) -> Invocation:
        """A Sequential, a list or a dictionary with its entries."""
        callee = self._names.torch_object(kind)
        if kind in (nn.ParameterList, nn.ParameterDict):
            return Invocation(callee, self._parameter_entries(module, kind))
        children = {n: NO_VALUE if c is None else self._build(c, needs) for n, c in module._modules.items()}
        if kind is nn.ModuleDict:
            return Invocation(callee, many([_dictionary(children)])) if children else Invocation(callee)
        numbered = list(children) == [str(i) for i in range(len(children))]
        if kind is nn.ModuleList:
            return (
                Invocation(callee, many([Display("[]", tuple(children.values()))])) if children else Invocation(callee)
            )
        if numbered:
            return Invocation(callee, many(list(children.values())))
        ordered = self._names.member("collections", "OrderedDict", "OrderedDict")
        return Invocation(callee, many([Invocation(ordered, _keywords(children) or many([_dictionary(children)]))]))

    def _parameter_entries(self, module: nn.Module, kind: type[nn.Module]) -> tuple[Argument, ...]:
        names = [str(i) for i in range(len(module))] if kind is nn.ParameterList else list(module.keys())  # type: ignore[arg-type, operator]
        entries = {name: self._tensor(module._parameters[name]) for name in names}
        shown = _dictionary(entries) if kind is nn.ParameterDict else Display("[]", tuple(entries.values()))
        return many([shown])

    # ------------------------------------------------------------ modules with a class in the file

    def initializer(self, module: nn.Module) -> Initializer:
        """The constructor of a module whose class stands in the file."""
        base = torch_base(type(module))
        container = builtin_container(module)
        made = Initializer(None, None)
        built: nn.Module | None = None
        if container is not None:
            call = self.container_call(module, container, made.needs)
            made.children = Invocation("super().__init__", call.arguments)
            built = container() if not call.arguments else None
        elif base is nn.Module:
            made.base, built = Invocation("super().__init__"), nn.Module()
        else:
            made.base, built = self._base_call(module, base, made.needs)
        of_container = set(module._modules) if container is not None else set()
        self._attributes(module, made, built, everything=id(module) in self._read_by_torch)
        self._tensors(module, made, built, container)
        for name, child in module._modules.items():
            if name not in of_container and (built is None or name not in built._modules):
                value = NO_VALUE if child is None else self._build(child, made.needs)
                made.statements[name] = Statement("module", name, value)
        return made

    def _base_call(self, module: nn.Module, base: type[nn.Module], needs: list[str]) -> tuple[Invocation, nn.Module]:
        """The call of the constructor of a layer of torch; past it, if it cannot build this one."""
        arguments = constructor_arguments(module, base)
        if arguments is None:
            self._names.code("nn.Module")
            return Invocation("nn.Module.__init__", many([Code("self")])), nn.Module()
        built = built_with(base, arguments)
        return Invocation("super().__init__", self._arguments(module, base, arguments, needs)), built

    def _attributes(self, module: nn.Module, made: Initializer, built: nn.Module | None, everything: bool) -> None:
        """Plain attributes that are read; of a class of torch whose constructor is passed by, all."""
        known = plain_attributes(built) if built is not None else {}
        path = self._paths[id(module)]
        bypassed = made.base is not None and made.base.callee == "nn.Module.__init__"
        for name, value in plain_attributes(module).items():
            if name in known or not (everything or bypassed or self._collector.reads(name)):
                continue
            if name == "forward":
                raise unwritable("has a forward that was put on the instance", self._where(module), "make it a method")
            where = f"{self._where(module)}.{name}"
            if isinstance(value, Tensor) and value.numel() > 1 and self._paths.get(id(value)) == _joined(path, name):
                made.statements[name] = Statement("tensor", name, self._empty(value, is_plain=True))
                continue
            if isinstance(value, Tensor) and self._paths.get(id(value)) == _joined(path, name):
                made.statements[name] = Statement("attribute", name, self._values.tensor_literal(value))
                continue
            expression = self._values.expression(value, where, path, made.needs)
            made.statements[name] = Statement("attribute", name, expression)

    def _tensors(
        self, module: nn.Module, made: Initializer, built: nn.Module | None, container: type[nn.Module] | None
    ) -> None:
        known = {*built._parameters, *built._buffers} if built is not None else set()
        if container in (nn.ParameterList, nn.ParameterDict):
            known |= set(module._parameters)
        for name, parameter in module._parameters.items():
            if name not in known:
                made.statements[name] = Statement("tensor", name, self._tensor(parameter))
        for name, buffer in module._buffers.items():
            if name not in known:
                kind = "unsaved" if name in module._non_persistent_buffers_set else "buffer"
                value = NO_VALUE if buffer is None else self._empty(buffer)
                made.statements[name] = Statement(kind, name, value)

    def _tensor(self, parameter: Tensor | None) -> Expression:
        if parameter is None:
            return NO_VALUE
        extra = () if is_float(parameter) else (Argument("requires_grad", Code("False"), keyword=True),)
        return Invocation(self._names.code("nn.Parameter"), (*many([self._empty(parameter)]), *extra))

    def _empty(self, tensor: Tensor, is_plain: bool = False) -> Expression:
        """``torch.empty`` of the shape; ``is_plain``: no parameter or buffer, so that ``Module.to`` passes it by."""
        sizes = [Argument(f"size{d}", Code(str(n))) for d, n in enumerate(tensor.shape)]
        sizes = sizes or [Argument("", Code("()"))]
        plain = tensor.dtype == torch.float32 or (tensor.is_floating_point() and not self._needs_dtype and not is_plain)
        typed = () if plain else (Argument("dtype", Code(str(tensor.dtype)), keyword=True),)
        return Invocation(self._names.code("torch.empty"), (*sizes, *typed))

    def _where(self, module: nn.Module) -> str:
        path = self._paths[id(module)]
        return f"the {type(module).__name__} {path!r}" if path else f"the {type(module).__name__}"


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _keywords(entries: dict[str, Expression]) -> tuple[Argument, ...]:
    """Entries as keyword arguments, where their names can be."""
    if not all(name.isidentifier() and not iskeyword(name) for name in entries):
        return ()
    return tuple(Argument(name, value, keyword=True) for name, value in entries.items())


def _dictionary(entries: dict[str, Expression]) -> Display:
    return Display("{}", tuple(entries.values()), tuple(map(scalar_text, entries)))


def _float_type(module: nn.Module) -> torch.dtype | None:
    tensors = (*module._parameters.values(), *module._buffers.values())
    return next((t.dtype for t in tensors if t is not None and t.is_floating_point()), None)
