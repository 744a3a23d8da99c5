"""Which words of a vocabulary stay, and by which numbers they go then."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor, nn

from graphprune.errors import InputError
from graphprune.pruning.plan import Plan, history_of
from graphprune.tracing.meta import is_float
from graphprune.utils.checks import check_count, check_type, found_value

VOCABULARY = "vocabulary"
"""Where :attr:`Plan.requested` has the name of a table of which the vocabulary's rows were removed."""


@dataclass(frozen=True)
class TokenMap:
    """The token ids that a vocabulary keeps, for the tokenizer. Made by :func:`graphprune.prune_vocabulary`.

    Attributes:
        kept: the ids that stay, ascending; the new id of a token is its place among them.
        size: how many ids there were.
    """

    kept: tuple[int, ...]
    size: int

    @staticmethod
    def of(slim: nn.Module) -> TokenMap:
        """The map of a model that lost words, at any time before; one that was loaded from a folder too.

        Raises:
            InputError: it lost none.
        """
        plans = [plan for plan in history_of(slim).plans if VOCABULARY in plan.requested]
        if not plans:
            raise InputError(
                f"slim: this {type(slim).__name__} has its whole vocabulary, or does not say what it lost",
                found="no plan of prune_vocabulary among those that the model keeps",
                needed="what prune_vocabulary returned, or what load made of it",
                do="keep the token map that prune_vocabulary returns beside the model",
            )
        found = token_map(plans[0])
        for plan in plans[1:]:
            found = TokenMap(tuple(found.kept[i] for i in token_map(plan).kept), found.size)
        return found

    def new_ids(self, ids: Tensor, unknown: int | None = None) -> Tensor:
        """The new ids of tokens; negative numbers, such as labels that a loss ignores, stay.

        Args:
            ids: old ids, of any shape and kind of integer.
            unknown: the old id that stands for tokens that are gone; None: there may be none.

        Raises:
            InputError: a token is gone and nothing stands for it, or an id was never there.
        """
        table = self._table()
        checked = _from_zero(ids)
        if checked.numel() and int(checked.max()) >= self.size:
            raise self._no_id(int(checked.max()))
        new = table[checked]
        if unknown is not None:
            new = torch.where(new < 0, table[self._kept(unknown)], new)
        if bool((new < 0).any()):
            gone = int(checked[new < 0].flatten()[0])
            raise InputError(
                f"ids: token {gone} is gone from the vocabulary",
                found=f"the id {gone}",
                needed=f"the {len(self.kept)} ids that stay",
                do="keep it, or pass unknown=, the old id of a token that stands for those that are gone",
            )
        return torch.where(ids < 0, ids, new.to(ids))

    @property
    def moves(self) -> bool:
        """Do some of the tokens that stay get another id?"""
        return self.kept != tuple(range(len(self.kept)))

    def new_id(self, number: int) -> int | None:
        """The new id of a token; None: it is gone. A number that is the id of none stays."""
        check_type("number", number, Integral, "the id of a token")
        if not 0 <= number < self.size:
            return number
        return self.kept.index(number) if number in self.kept else None

    def old_ids(self, ids: Tensor) -> Tensor:
        """The old ids of tokens, such as those that the slim model generates; negative numbers stay.

        Raises:
            InputError: an id is beyond the new vocabulary.
        """
        checked = _from_zero(ids)
        if checked.numel() and int(checked.max()) >= len(self.kept):
            raise self._no_id(int(checked.max()))
        return torch.where(ids < 0, ids, torch.tensor(self.kept, device="cpu")[checked].to(ids))

    def _table(self) -> Tensor:
        """By old id the new one, or -1. [size]"""
        table = torch.full((self.size,), -1, device="cpu")
        table[list(self.kept)] = torch.arange(len(self.kept), device="cpu")
        return table

    def _kept(self, unknown: int) -> int:
        check_count("unknown", unknown, 0, "the id of a token")
        if unknown not in self.kept:
            raise InputError(
                f"unknown: token {unknown} is gone itself",
                found=f"unknown={unknown}",
                needed="the old id of a token that stays",
                do="keep it, or pass another",
            )
        return unknown

    def _no_id(self, number: int) -> InputError:
        return InputError(
            f"ids: {number} is the id of no token",
            found=f"the id {number}",
            needed=f"old ids are below {self.size}, new ones below {len(self.kept)}",
            do="pass ids that the tokenizer of the original model made to new_ids, those of the slim model to old_ids",
        )


def _from_zero(ids: Tensor) -> Tensor:
    """Ids on the CPU, with 0 for what is negative.

    Raises:
        InputError: they are no tensor of integers.
    """
    check_type("ids", ids, Tensor, "a tensor of token ids")
    if is_float(ids) or ids.dtype is torch.bool or ids.is_meta:
        raise InputError(
            f"ids: must be integers, but are {ids.dtype} on {ids.device}",
            found=found_value(ids),
            needed="token ids, integers with values",
            do="pass what the tokenizer made, such as input_ids",
        )
    return ids.clamp(min=0).long().cpu()


def token_map(plan: Plan) -> TokenMap:
    """What a plan of :func:`graphprune.prune_vocabulary` makes of token ids."""
    table = plan.requested[VOCABULARY]
    size = plan.shapes[table][0]
    kept = plan.kept.get(table, {}).get(0)
    return TokenMap(tuple(range(size) if kept is None else kept.tolist()), size)
