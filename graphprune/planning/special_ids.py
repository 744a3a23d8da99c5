"""Where a model keeps the ids of special tokens: padding, beginning, end."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from graphprune.errors import InputError
from graphprune.pruning.token_map import TokenMap
from graphprune.tracing.size_places import attributes_held, is_plain_object, steps_into
from graphprune.utils.modules import named_modules, named_tensors

PADDING = ("padding_idx", "pad_idx")
ENDINGS = ("token_id", "token_ids")
"""What attributes with ids of tokens are called: ``eos_token_id``, ``forced_decoder_token_ids``."""


@dataclass(frozen=True)
class SpecialIds:
    """The ids of special tokens, by the paths of the attributes that hold them."""

    found: Mapping[str, int]

    @staticmethod
    def of(model: nn.Module, tables: Collection[str], size: int) -> SpecialIds:
        """Those that a model's modules and configurations hold.

        Args:
            model: in any state.
            tables: the names of the vocabulary's embeddings; the padding of other embeddings is no token.
            size: how many ids there are; attributes that hold no such id are left alone.
        """
        found = {path: value for path, value in _held(model, tables) if 0 <= value < size}
        return SpecialIds(found)

    def check(self, kept: Collection[int]) -> None:
        """Raise an InputError unless all of them stay."""
        there = set(kept)
        missing = {path: value for path, value in self.found.items() if value not in there}
        if missing:
            path, value = next(iter(missing.items()))
            raise InputError(
                f"ids: {value} is a special token, {path}, and would go",
                where=path,
                found=", ".join(f"{name} = {number}" for name, number in missing.items()),
                needed="all special tokens among the ids to keep",
                do=f"add {sorted(set(missing.values()))} to them",
            )

    def new(self, tokens: TokenMap) -> dict[str, int]:
        """Their new values, by path; not of those that stay as they are."""
        places = {old: new for new, old in enumerate(tokens.kept)}
        return {path: places[value] for path, value in self.found.items() if places[value] != value}


def table_modules(model: nn.Module, tables: Collection[str]) -> list[nn.Embedding | nn.EmbeddingBag]:
    """The embeddings that hold these tables, by the names of their weights; several may share one."""
    weights = [tensor for name, tensor in named_tensors(model) if name in tables]
    found = (module for _, module in named_modules(model) if isinstance(module, nn.Embedding | nn.EmbeddingBag))
    return [module for module in found if any(module.weight is weight for weight in weights)]


def _held(model: nn.Module, tables: Collection[str]) -> Iterator[tuple[str, int]]:
    """All attributes that are called as special tokens are, each with its path; a shared configuration's once."""
    seen: set[int] = set()
    own_tables = table_modules(model, tables)
    for path, module in named_modules(model):
        prefix = f"{path}." if path else ""
        own = not isinstance(module, nn.Embedding | nn.EmbeddingBag) or any(module is table for table in own_tables)
        for name, value in attributes_held(module).items() if own else ():
            if is_plain_object(value) and id(value) not in seen:
                seen.add(id(value))
                yield from _numbers(value, f"{prefix}{name}.")
            elif _is_special(name):
                yield from _entries(value, f"{prefix}{name}")


def _numbers(holder: object, prefix: str) -> Iterator[tuple[str, int]]:
    """The special tokens that a configuration holds, and those within it."""
    for name, value in attributes_held(holder).items():
        if is_plain_object(value):
            yield from _numbers(value, f"{prefix}{name}.")
        elif _is_special(name):
            yield from _entries(value, f"{prefix}{name}")


def _entries(value: object, path: str) -> Iterator[tuple[str, int]]:
    """An id, or those in a list."""
    if type(value) is int:
        yield path, value
    for step, item in steps_into(value):
        if type(item) is int:
            yield path + step, item


def _is_special(name: str) -> bool:
    return name in PADDING or name.endswith(ENDINGS)
