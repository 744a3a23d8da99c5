"""What measuring changes and puts back: modes, attributes and buffers of a model, random numbers, threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from graphprune.utils.contexts import changing_globals, preserve_modes
from graphprune.utils.modules import named_modules, tables
from graphprune.utils.random_state import random_numbers_kept


@contextmanager
def unchanged(*models: nn.Module, threads: int | None = None) -> Iterator[None]:
    """Restore at the end what runs of models change, also when one fails; meanwhile torch has so many threads."""
    before = torch.get_num_threads()
    with changing_globals(), random_numbers_kept(), ExitStack() as stack:
        for model in models:
            stack.enter_context(_attributes_kept(model))
            stack.enter_context(preserve_modes(model))
            stack.enter_context(_buffers_kept(model))
        try:
            if threads is not None:
                torch.set_num_threads(threads)
            yield
        finally:
            if torch.get_num_threads() != before:
                torch.set_num_threads(before)


@contextmanager
def _attributes_kept(model: nn.Module) -> Iterator[None]:
    """What a run assigns to modules (a cache, a counter) is what it was before. Those of scripts are not in Python.

    So are lists, dicts and sets that are attributes, without what is in their entries.
    """
    modules = [module for _, module in named_modules(model) if not isinstance(module, torch.jit.ScriptModule)]
    own = [vars(module) for module in modules]
    held = [value for attributes in own for value in attributes.values()]
    dicts = [(table, dict(table)) for table in (*own, *(v for v in held if isinstance(v, dict)))]
    lists = [(value, list(value)) for value in held if isinstance(value, list)]
    sets = [(value, set(value)) for value in held if isinstance(value, set)]
    try:
        yield
    finally:
        for table, kept in dicts:
            for name in table.keys() - kept.keys():
                del table[name]
            table.update(kept)
        for value, entries in lists:
            value[:] = entries
        for members, first in sets:
            members.intersection_update(first)
            members.update(first)


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """Values of buffers that a run changes in place are what they were before."""
    buffers = [b for b in tables(model).buffers.values() if not b.is_meta]
    before = [(b, b._version, b.detach().clone()) for b in buffers if not b.is_inference()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, version, values in before:
                if buffer._version != version:
                    buffer.copy_(values)
