"""A smaller vocabulary: rows of embeddings, and the logits of the words that are gone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphprune.errors import InputError, PlanError, VerificationError
from graphprune.graph.analysis import Analysis, analysis_of, analyze
from graphprune.graph.frozen import frozen_axes
from graphprune.planning.chosen_channels import indices, whole_plan
from graphprune.planning.config_sizes import config_sizes
from graphprune.planning.masked_comparison import Renumbering
from graphprune.planning.special_ids import SpecialIds, table_modules
from graphprune.planning.token_numbers import TokenNumbers, moved_from
from graphprune.pruning.plan import Plan
from graphprune.pruning.token_map import VOCABULARY, TokenMap, token_map
from graphprune.pruning.verification import compare_slim
from graphprune.rules.labels import ParameterAxis, all_arrays
from graphprune.tracing.inputs import MethodCall
from graphprune.tracing.running import Outputs
from graphprune.tracing.size_places import SizePlace
from graphprune.tracing.tracer import Trace, trace_model
from graphprune.utils.arrays import Ids, Mask
from graphprune.utils.deepcopy import copy_module
from graphprune.utils.global_state import leaves_torch_alone
from graphprune.utils.modules import all_tensors, named_tensors

aten = torch.ops.aten
LOOKUPS = (aten.embedding.default, aten._embedding_bag.default, aten._embedding_bag_forward_only.default)


@leaves_torch_alone
def prune_vocabulary(
    model: nn.Module, ids: Sequence[int] | Tensor, example_inputs: Any = None, *, outputs: Outputs | None = None
) -> tuple[nn.Module, TokenMap]:
    """Keep some words of a vocabulary: the rows of its embedding, the logits of an output head, and what is tied.

    The vocabulary is the table with the most rows that the model's inputs index. Numbers in the configuration follow:
    its size, and the ids of padding and other special tokens. The slim model takes and gives new ids; it is compared
    with the original on the examples, in which words that are gone are replaced.

    Args:
        model: any ``nn.Module``; unchanged.
        ids: the token ids to keep, or a mask of all.
        example_inputs, outputs: as for :func:`graphprune.trace`.

    Returns:
        The slim model, and the map between old and new ids.

    Raises:
        InputError: an id is not in the vocabulary, a special token is not kept, or no input indexes a table.
        PlanError: the program does something else with words, so that they cannot go.
        VerificationError: the slim model is not the original without these words: the program compares ids with numbers
            of its own.
    """
    whole = analyze(model, example_inputs, outputs)
    vocabulary = _Vocabulary.of(whole.trace)
    kept = _checked(indices("ids", ids, vocabulary.size), vocabulary)
    special = SpecialIds.of(whole.model, vocabulary.tables, vocabulary.size)
    special.check(kept.tolist())
    calls = _with_tensors(whole.examples, vocabulary.inputs, lambda t: _present(t, kept))
    plain = vocabulary.without_padding(whole.model)
    traced = whole.trace if plain is whole.model else trace_model(plain, calls, outputs)
    graph = analysis_of(plain, traced, calls, vocabulary.size)
    renumbered = _Renumbered(vocabulary, special, calls)
    plan = vocabulary.plan(graph, kept, renumbered)
    tokens = token_map(plan)
    plan = _with_special_ids(graph, plan, special.new(tokens))
    slim = plan.apply(model)
    slim_calls = renumbered.calls_with(tokens)
    TokenNumbers(traced, trace_model(slim, slim_calls, outputs), tokens).check(vocabulary.inputs, vocabulary.tables)
    if not any(tensor.is_meta for _, tensor in named_tensors(graph.model)):
        _verify(graph, slim, plan, outputs, slim_calls)
    return slim, tokens


def _checked(kept: Ids, vocabulary: _Vocabulary) -> Ids:
    """Ids that are in the vocabulary, and not none."""
    wrong = kept[(kept < 0) | (kept >= vocabulary.size)]
    if len(wrong) or not len(kept):
        raise InputError(
            f"ids: {int(wrong[0]) if len(wrong) else 'nothing'} is no token of {vocabulary.tables[0]}",
            where=vocabulary.tables[0],
            found=f"the id {int(wrong[0])}" if len(wrong) else "no id to keep",
            needed=f"ids from 0 to {vocabulary.size - 1}",
            do="pass the ids of the tokens that stay",
        )
    return kept


def _with_special_ids(graph: Analysis, plan: Plan, new: Mapping[str, int]) -> Plan:
    """The plan that gives special tokens their new ids, with what the configuration says then.

    A class builds no smaller vocabulary from a configuration whose padding is beyond its end.
    """
    renumbered = _shared_copy(graph.model)
    for path, number in new.items():
        SizePlace.of(renumbered, path).change(number)
    followed = config_sizes(replace(graph, model=renumbered), plan, plan.unread, plan.stale)
    return replace(plan, sizes={**plan.sizes, **new}, unread=followed.unread, stale=followed.stale)


def _shared_copy(model: nn.Module) -> nn.Module:
    """A copy with the same tensors."""
    return copy_module(model, {id(tensor): tensor for tensor in all_tensors(model)})


def _verify(graph: Analysis, slim: nn.Module, plan: Plan, outputs: Outputs | None, calls: Sequence[MethodCall]) -> None:
    """Raise a VerificationError unless the slim model is the masked original."""
    found = compare_slim(graph, slim, plan, outputs, slim_calls=calls)
    if not found.equal:
        raise VerificationError(
            f"ids: without these words the program does something else. {found}",
            found="outputs that differ from those of the original",
            needed="a program that uses ids to look up rows alone, and special tokens by the configuration's ids",
            do="keep the ids below the greatest special one, so that special tokens keep their ids",
        )


def _present(ids: Tensor, kept: Ids) -> Tensor:
    """Ids among those that are kept, the same where they are."""
    there = torch.from_numpy(kept).to(ids)
    return torch.where(torch.isin(ids, there), ids, there[ids.long() % len(there)])


def _with_tensors(
    calls: Sequence[MethodCall], numbers: Collection[int], change: Callable[[Tensor], Tensor]
) -> tuple[MethodCall, ...]:
    """The calls with some of their tensors changed, by number in their order; not those on ``meta``, without values."""
    counted = count()
    return tuple(
        call.mapped(lambda t: change(t) if next(counted) in numbers and not t.is_meta else t) for call in calls
    )


@dataclass(frozen=True)
class _Vocabulary:
    """The largest tables that input tensors index.

    Attributes:
        tables: the names of the parameters, all with ``size`` rows.
        size: how many words there are.
        inputs: the numbers of the input tensors that index them.
    """

    tables: tuple[str, ...]
    size: int
    inputs: frozenset[int]

    @staticmethod
    def of(trace: Trace) -> _Vocabulary:
        """The vocabulary of a model.

        Raises:
            InputError: no input indexes a table.
        """
        found = list(_lookups(trace))
        if not found:
            raise InputError(
                "model: no table is indexed by its inputs, so there is no vocabulary",
                found="no nn.Embedding (F.embedding) that an input of integers goes to",
                needed="a model that takes token ids",
                do="pass ids as example_inputs; for embedded words that come from outside, cut the table there",
            )
        size = max(trace.shapes[name][0] for name, _ in found)
        own = [(name, inputs) for name, inputs in found if trace.shapes[name][0] == size]
        return _Vocabulary(tuple(dict.fromkeys(name for name, _ in own)), size, frozenset().union(*(i for _, i in own)))

    def without_padding(self, model: nn.Module) -> nn.Module:
        """A copy with the same tensors in which the tables know no padding, which torch compares with their rows."""
        if all(module.padding_idx is None for module in table_modules(model, self.tables)):
            return model
        copied = _shared_copy(model)
        for module in table_modules(copied, self.tables):
            module.padding_idx = None
        return copied

    def named_in(self, plan: Plan) -> Plan:
        """A plan that removes words, with the name of the table that says which."""
        return replace(plan, requested={**plan.requested, VOCABULARY: self.tables[0]})

    def plan(self, graph: Analysis, kept: Ids, renumbered: Renumbering) -> Plan:
        """The plan that keeps these words of an analysis that lets words go.

        Args:
            graph: the analysis.
            kept: the words.
            renumbered: as for :func:`whole_plan`.

        Raises:
            PlanError: some of the words cannot go.
        """
        dead = self._dead(graph, np.setdiff1d(np.arange(self.size), kept))
        rows = [ParameterAxis(name, 0) for name in self.tables]
        held = next((frozen for frozen in frozen_axes(graph) if frozen.axis in rows), None)
        if held is not None and bool((dead & ~graph.solution.prunable).any()):
            raise PlanError(
                f"ids: words of {self.tables[0]} cannot go: {held.reason}",
                where=str(held.axis),
                found=held.reason,
                needed="a vocabulary that is only looked up and scored",
                do="change the program there, or keep the whole vocabulary",
            )
        return self.named_in(whole_plan(graph, dead, "ids", "ids of the vocabulary", renumbered))

    def _dead(self, graph: Analysis, gone: Ids) -> Mask:
        """The units that words that are gone stand for, in the tables and in the outputs. [classes]"""
        values, nodes = graph.labeling.values, graph.trace.graph.nodes
        tables = [n for n in nodes if n.op == "get_attr" and n.meta.get("tensor") in self.tables]
        rows = [array for n in tables for array in values[n].arrays if array.dims == {0}]
        logits = [a for a in all_arrays([values[n] for n in graph.trace.outputs]) if a.ids.size == self.size]
        dead = np.zeros(graph.solution.count, bool)
        for array in (*rows, *logits):
            dead[graph.solution.of[array.ids.ravel()[gone]]] = True
        return dead


@dataclass(frozen=True)
class _Renumbered:
    """What is other in a slim model, but for its sizes: ids of special tokens, and the examples.

    Attributes:
        vocabulary: of which words go.
        special: the special tokens.
        calls: the examples, in old ids.
    """

    vocabulary: _Vocabulary
    special: SpecialIds
    calls: Sequence[MethodCall]

    def __call__(self, plan: Plan) -> tuple[Plan, Sequence[MethodCall]]:
        """See :data:`Renumbering`."""
        tokens = token_map(self.vocabulary.named_in(plan))
        return replace(plan, sizes={**plan.sizes, **self.special.new(tokens)}), self.calls_with(tokens)

    def calls_with(self, tokens: TokenMap) -> tuple[MethodCall, ...]:
        """The examples in new ids."""
        return _with_tensors(self.calls, self.vocabulary.inputs, tokens.new_ids)


def _lookups(trace: Trace) -> Iterator[tuple[str, frozenset[int]]]:
    """The tables that are indexed by inputs, with the numbers of the input tensors."""
    numbers = {node: number for number, node in enumerate(trace.inputs)}
    for node in trace.graph.nodes:
        if node.target in LOOKUPS and node.args[0].op == "get_attr" and "tensor" in node.args[0].meta:
            inputs = frozenset(numbers[n] for n in moved_from(node.args[1]) if n in numbers)
            if inputs:
                yield node.args[0].meta["tensor"], inputs
