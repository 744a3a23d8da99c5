"""An extension of Griffe: docstrings as this library writes them, for the reference.

Roles of Sphinx (``:func:`trace```) become links, where the reference has the name. Arguments that share a line have one
each. Fields of ``PruningOptions`` show their ``help``.
"""

from __future__ import annotations

import ast
import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|meth|mod|attr|data|exc):`(~?)([\w.]+)`")
LITERAL = re.compile(r"^( *)(.*[^:\n])?::\n\n((?:\1 +.*\n|\n)+)", re.MULTILINE)
SHARED = re.compile(r"^( +)(\w+(?:, \w+)+): (.*(?:\n\1 +.*)*)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrites the docstring of every object."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        """``option(default, help)`` is a default and a docstring."""
        if isinstance(attr.value, griffe.ExprCall) and str(attr.value.function) == "option":
            default, text = attr.value.arguments[:2]
            attr.value = default
            attr.docstring = griffe.Docstring(_sentence(ast.literal_eval(str(text))), parent=attr)

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite once names can be looked up."""
        if obj.docstring:
            obj.docstring.value = in_markdown(obj.docstring.value, obj)


def in_markdown(text: str, obj: griffe.Object) -> str:
    """A docstring with links, with its literal blocks fenced, and a line for each argument."""
    text = LITERAL.sub(_fenced, text + "\n").rstrip("\n")
    text = SHARED.sub(lambda found: "\n".join(f"{found[1]}{name}: {found[3]}" for name in found[2].split(", ")), text)
    return ROLE.sub(lambda role: _link(role[1], role[2], obj), text)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _fenced(block: re.Match[str]) -> str:
    indent, before, body = block[1], block[2], block[3]
    start = f"{indent}{before}:\n\n" if before else ""
    return f"{start}{indent}```text\n{body.rstrip()}\n{indent}```\n\n"


def _link(short: str, name: str, obj: griffe.Object) -> str:
    """``~a.b`` shows ``b`` only; names are looked up where the docstring stands."""
    shown = name.rpartition(".")[2] if short else name.removeprefix("graphprune.")
    return f'<autoref optional identifier="{_path(name, obj)}"><code>{shown}</code></autoref>'


def _path(name: str, obj: griffe.Object) -> str:
    if name.startswith("graphprune."):
        return name
    first, dot, rest = name.partition(".")
    if obj.is_class and first in obj.members:
        return f"{obj.path}.{name}"
    try:
        return obj.resolve(first) + dot + rest
    except griffe.NameResolutionError:
        return name
