"""Scores of units, worked out once for all attempts at a plan."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
from torch import Tensor, nn

from graphprune.calibration.statistics import Statistics
from graphprune.errors import InputError, PlanError
from graphprune.graph.analysis import Analysis
from graphprune.graph.coupled_steps import SubGroup
from graphprune.graph.parameter_uses import weight_buffers
from graphprune.importance.context import NEEDS_DATA, Context
from graphprune.importance.criteria import find_criterion, scored
from graphprune.planning.options import PruningOptions
from graphprune.planning.weights_given import GivenParameters, KnownBuffers, read_weights, with_weights
from graphprune.planning.weights_in_effect import WeightsInEffect
from graphprune.utils.arrays import Scores
from graphprune.utils.devices import with_float64
from graphprune.utils.modules import Tables, is_parameter, tables


class UnitScores:
    """Scores by the criterion of ``options``.

    Args:
        graph: the analyzed model.
        options: what is asked.
        statistics: those of the calibration batches, if several criteria share them; None: they are made.

    Raises:
        InputError: the criterion is not known, or reads data and there are none.
    """

    def __init__(self, graph: Analysis, options: PruningOptions, statistics: Statistics | None = None) -> None:
        self._graph = graph
        self._shared = statistics
        self._options = options
        self._criterion = find_criterion(options.criterion)
        if self._criterion.data and options.calibration is None:
            raise InputError(
                f"importance: {self._criterion.name!r} reads data",
                found="no calibration=",
                needed="calibration batches",
                do=NEEDS_DATA,
            )
        self._known: dict[int, Scores] = {}

    @property
    def additive(self) -> bool:
        """Do the scores of what is gone add up to what is lost?"""
        return self._criterion.additive

    @cached_property
    def context(self) -> Context:
        """What the criterion may look at.

        Raises:
            InputError: ``weights=`` lacks some, or the model has them already.
            PlanError: the criterion reads weights, and the model is on ``meta`` without ``weights=``.
        """
        own = self._tables if self._own is self._graph.model else tables(self._own)
        tensors: dict[str, Tensor] = {n: t for n, t in own.unique() if is_parameter(t) and t.numel()}
        tensors |= weight_buffers(self._graph.labeling, own)
        unloaded = [n for n, t in tensors.items() if t.is_meta]
        weights = self._weights
        if weights is None and unloaded and self._criterion.weights:
            raise PlanError(
                f"importance: it reads weights, but {unloaded[0]} is on the meta device",
                where=unloaded[0],
                found="a weight on meta, without values",
                needed="weights to rank channels by",
                do="pass weights=, the folder they are in, or load the weights first, or plan with importance='random'",
            )
        given, units = self._options, self._graph.units
        batches = given.calibration
        statistics = self._shared
        if statistics is None and batches is not None:
            statistics = Statistics(self.model, units, batches, given.loss_fn, seed=given.seed)
        known = tensors if weights is None else GivenParameters(own, tensors, weights)
        has_values = known is not tensors or not unloaded
        made = WeightsInEffect(self._graph, known, KnownBuffers(own, weights or {})) if has_values else {}
        return Context(self._own, known, units, given.seed, statistics, given.reduce, given.normalize, made)

    @cached_property
    def _weights(self) -> Mapping[str, Tensor] | None:
        """The weights that are given beside a model on ``meta``.

        Raises:
            InputError: the model has its weights already.
        """
        if self._options.weights is None:
            return None
        if not any(p.is_meta for p in self._graph.model.parameters()):
            raise InputError(
                "weights: given with a model that has weights already",
                found="weights= and a model with weights",
                needed="one of them",
                do="leave weights= out, or build the model under torch.device('meta')",
            )
        return read_weights(self._options.weights)

    @cached_property
    def model(self) -> nn.Module:
        """The model as it can be run: with its weights, if they are given beside it."""
        return self._own if self._weights is None else with_weights(self._graph.model, self._weights)

    @cached_property
    def _own(self) -> nn.Module:
        """The model with the weights that it has, where they can be summed in float64."""
        return with_float64(self._graph.model, self._tables)

    @cached_property
    def _tables(self) -> Tables:
        """The tensors of the model that was traced."""
        return tables(self._graph.model)

    def of_group(self, number: int) -> Scores:
        """The scores of a group. [units]"""
        if number not in self._known:
            self._known[number] = scored(self._criterion, self._graph.groups[number], self.context)
        return self._known[number]

    def of_part(self, part: SubGroup) -> Scores:
        """The scores of some units of a group. [units]"""
        units = self._graph.groups[part.group].unit_ids
        if np.array_equal(units, part.unit_ids):
            return self.of_group(part.group)
        order = np.argsort(units)
        return self.of_group(part.group)[order[np.searchsorted(units, part.unit_ids, sorter=order)]]
