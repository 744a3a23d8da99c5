"""The text of a class: one constructor for all its instances, and the author's methods."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from graphprune.export.source.classes import ModuleClass
from graphprune.export.source.expressions import (
    LINE_LENGTH,
    NO_VALUE,
    Argument,
    Code,
    Display,
    Expression,
    Invocation,
    flat_text,
    render,
)
from graphprune.export.source.initializers import Initializer, Statement
from graphprune.export.source.unify import Unifier, Variable, arguments_for, with_names

_INDENT = 8


@dataclass
class Template:
    """One constructor for the instances of a class.

    Attributes:
        parameters: what differs between them.
        base: the call of the base's constructor; None where there is no constructor but the base's.
        statements: in order.
        passes_children: are the submodules of a container given by the caller?
    """

    parameters: list[Variable]
    base: Invocation | None
    statements: list[Statement]
    passes_children: bool = False
    needs: list[str] = field(default_factory=list)
    children: list[Invocation] = field(default_factory=list)

    def arguments(self, instance: int) -> tuple[Argument, ...]:
        """By which one of the instances is built."""
        own = arguments_for(self.parameters, instance)
        if not self.passes_children:
            return own
        return (*self.children[instance].arguments, *(replace(a, keyword=True) for a in own))


def unified(initializers: Sequence[Initializer], reserved: set[str]) -> Template:
    """The constructor that makes all instances. ``reserved``: names that parameters must not have."""
    unifier = Unifier()
    names = _names_in_order(initializers)
    statements = [_statement(unifier, [i.statements.get(name) for i in initializers], name) for name in names]
    children = [i.children for i in initializers if i.children is not None]
    needs = list(dict.fromkeys(need for i in initializers for need in i.needs))
    passes = len({_form(c) for c in children}) > 1
    layers = Invocation("super().__init__", (Argument("", Code("*layers")),))
    bases = [i.base for i in initializers if i.base is not None]
    base = layers if passes else unifier.unify(children or bases, ())
    if children and not isinstance(base, Invocation):
        base, passes = layers, True
    parameters = unifier.parameters(reserved)
    named = [replace(s, value=with_names(s.value, parameters)) for s in statements]
    named_base = with_names(base, parameters)
    inherits = passes and not named
    call = named_base if isinstance(named_base, Invocation) and not inherits else None
    return Template(parameters, call, named, passes, needs, children if passes else [])


def _names_in_order(initializers: Sequence[Initializer]) -> list[str]:
    """The names of all statements; those of the instance with most of them first."""
    longest = sorted(initializers, key=lambda i: -sum(s.kind != "attribute" for s in i.statements.values()))
    return list(dict.fromkeys(name for i in longest for name in i.statements))


def _statement(unifier: Unifier, found: Sequence[Statement | None], name: str) -> Statement:
    there = [s for s in found if s is not None]
    kind = next((s.kind for s in there if s.value != NO_VALUE), there[0].kind)
    value = unifier.unify([NO_VALUE if s is None else s.value for s in found], (name,))
    return Statement(kind, name, value)


def _form(call: Invocation) -> tuple[object, ...]:
    """Calls of one form can be written as one: as many entries, under the same names."""
    first = call.arguments[0].value if call.arguments else None
    while isinstance(first, Invocation) and first.callee == "OrderedDict" and not first.arguments[0].keyword:
        first = first.arguments[0].value
    if isinstance(first, Invocation) and first.callee == "OrderedDict":
        return tuple(argument.name for argument in first.arguments)
    if isinstance(first, Display):
        return len(first.items), first.keys
    return (len(call.arguments),)


# ---------------------------------------------------------------- text


def class_text(
    record: ModuleClass, template: Template | None, members: Sequence[str], extra: Sequence[str], described: bool = True
) -> str:
    """The statement that defines a class.

    Args:
        extra: what the constructor does at the end.
        described: with the author's docstring.
    """
    parts = []
    summary = record.summary() if described else f"{record.bases} with other layers."
    if summary:
        parts.append(_docstring(summary))
    attributes = [m for m in members if not m.lstrip().startswith(("def ", "async def ", "@", "class "))]
    methods = [m for m in members if m not in attributes]
    if attributes:
        parts.append("\n".join(attributes))
    if template is not None and not _is_inherited(template, extra):
        parts.append(_constructor(template, extra))
    parts += methods
    header = f"class {record.name}({record.bases}):" if record.bases else f"class {record.name}:"
    return f"{header}\n" + ("\n\n".join(parts) if parts else "    pass")


def _is_inherited(template: Template, extra: Sequence[str]) -> bool:
    """Would the constructor do nothing but what its base does?"""
    plain = template.base is None or template.base == Invocation("super().__init__")
    return plain and not template.statements and not extra


def _docstring(text: str) -> str:
    lines = text.split("\n")
    body = "\n".join([lines[0], *(f"    {line}".rstrip() for line in lines[1:])])
    quotes = '"""'
    if len(lines) == 1 and len(body) + 10 <= LINE_LENGTH:
        return f"    {quotes}{body}{quotes}"
    return f"    {quotes}{body}\n    {quotes}"


def _constructor(template: Template, extra: Sequence[str]) -> str:
    lines = [_signature(template)]
    base = template.base
    if base is not None:
        lines.append(f"        {render(base, _INDENT)}")
    late = [s for s in template.statements if s.kind == "attribute" and _refers_to_self(s.value)]
    attributes = [s for s in template.statements if s.kind == "attribute" and s not in late]
    rest = [s for s in template.statements if s.kind != "attribute"]
    lines += [f"        {statement_text(s)}" for s in (*attributes, *rest, *late)]
    return "\n".join([*lines, *(f"        {line}" for line in extra)])


def _refers_to_self(value: Expression) -> bool:
    return re.search(r"\bself\b", flat_text(value)) is not None


def statement_text(statement: Statement) -> str:
    """One statement of a constructor."""
    name, value, kind = statement.name, statement.value, statement.kind
    if kind in ("buffer", "unsaved"):
        extra = ", persistent=False" if kind == "unsaved" else ""
        before = f'self.register_buffer("{name}", '
        return f"{before}{render(value, _INDENT, len(before), len(extra) + 1)}{extra})"
    if kind == "tensor" and value == NO_VALUE:
        return f'self.register_parameter("{name}", None)'
    if not name.isidentifier():
        function = "self.add_module" if kind == "module" else "setattr"
        before = f'{function}("{name}", ' if kind == "module" else f'setattr(self, "{name}", '
        return f"{before}{render(value, _INDENT, len(before), 1)})"
    before = f"self.{name} = "
    return before + render(value, _INDENT, len(before))


def _signature(template: Template) -> str:
    parameters = ["self"]
    if template.passes_children:
        parameters.append("*layers: nn.Module")
    for variable in template.parameters:
        typed = variable.annotation
        default = "" if variable.default is None else (" = " if typed else "=") + render(variable.default, 0)
        parameters.append(f"{variable.name}{typed}{default}")
    flat = f"    def __init__({', '.join(parameters)}) -> None:"
    if len(flat) <= LINE_LENGTH:
        return flat
    joined = f"        {', '.join(parameters)}"
    lines = [joined] if len(joined) <= LINE_LENGTH else [f"        {p}," for p in parameters]
    return "\n".join(["    def __init__(", *lines, "    ) -> None:"])
