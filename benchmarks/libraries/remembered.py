"""torch-kirigami answers the same questions many times: here each is answered once.

All of it is pure, so plans stay the same. A search makes several plans of the same weights, which differ at their ends.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from graphprune.utils.contexts import gc_paused

Function = Callable[..., Any]

CACHES = ("impact_cache_size", "normalization_cache_size", "attribute_cache_size", "recipe_cache_size")
REMEMBERED = 50_000
"""What its caches, and this, may hold. By default they hold 32 answers, and a plan takes over twice as long."""


class Answers:
    """What was answered about graphs, which must not change."""

    def __init__(self) -> None:
        from torch_kirigami import config

        config.update(**dict.fromkeys(CACHES, REMEMBERED))
        self._found: dict[Hashable, Any] = {}

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Answer each question once, and do not look whether the structure has changed."""
        from torch_kirigami import DependencyGraph
        from torch_kirigami.dep_graph.operation import PartitionedLayout
        from torch_kirigami.pruning import planner, rewrite, strategies
        from torch_kirigami.pruning.axis_domains import IdentityAxisIndex

        with ExitStack() as stack:
            stack.enter_context(gc_paused())
            stack.enter_context(mock.patch.object(DependencyGraph, "_check_fresh", return_value=None))
            for owner, name, asked in (
                (DependencyGraph, "propagate", self._once(_propagated)),
                (planner, "compile_recipes", self._once(_compiled)),
                (rewrite, "validate_recipe", self._once(_validated)),
                (PartitionedLayout, "retained_regions", self._once(_retained)),
                (IdentityAxisIndex, "canonical_seeds", self._canonical),
                (strategies, "_rank_candidates", self._ranked),
            ):
                stack.enter_context(mock.patch.object(owner, name, asked(getattr(owner, name))))
            yield

    def _once(self, key: Callable[..., Hashable]) -> Callable[[Function], Function]:
        """What makes of a function one that computes nothing where ``key`` of its arguments is known."""

        def wrap(function: Function) -> Function:
            def asked(*args: Any, **kwargs: Any) -> Any:
                kwargs = {name: tuple(v) if isinstance(v, Iterator) else v for name, v in kwargs.items()}
                question = key, key(*args, **kwargs)
                if question not in self._found:
                    if len(self._found) >= REMEMBERED:
                        self._found.clear()
                    self._found[question] = function(*args, **kwargs)
                return self._found[question]

            return asked

        return wrap

    def _canonical(self, function: Function) -> Function:
        """One seed at a time: requests grow by one."""
        each = self._once(_canonised)(lambda index, seed: function(index, (seed,)))
        return lambda index, seeds: tuple(found for seed in seeds for found in each(index, seed))

    def _ranked(self, function: Function) -> Function:
        """Each metric is made for one state of the weights, and ranks once; what is excluded comes with it."""

        def ranking(context: Any, metric: Any, candidates: Any, accepted: Any, axes: Any, independent: Any) -> Any:
            excluded: dict[str, str] = {}
            return *function(context, metric, candidates, accepted, axes, excluded, independent), excluded

        once = self._once(_ranked)(ranking)

        def asked(
            context: Any, metric: Any, candidates: Any, accepted: Any, axes: Any, excluded: Any, independent: Any
        ) -> Any:
            ranked, removals, found = once(context, metric, candidates, accepted, axes, independent)
            excluded.update(found)
            return ranked, removals

        return asked


def _propagated(graph: Any, *, remove: Sequence[Any], constraints: Sequence[Any] = ()) -> Hashable:
    return graph.id, _places(remove), tuple(constraints)


def _compiled(graph: Any, _operations: Any, impact: Any, **_caches: Any) -> Hashable:
    return graph.id, _places(impact.requested)


def _validated(recipe: Any, impact: Any) -> Hashable:
    return recipe.tensor, recipe.segments, recipe.concat_dim, impact.selection(recipe.tensor).regions


def _retained(layout: Any, selection: Any) -> Hashable:
    return layout.tensor, layout.partitions, layout.concat_dim, selection.regions


def _canonised(_index: Any, seed: Any) -> Hashable:
    return _places([seed])


def _ranked(_context: Any, metric: Any, candidates: Any, accepted: Any, axes: Any, _independent: Any) -> Hashable:
    return metric, tuple(c.key for c in candidates), _places(accepted.requested), axes


def _places(removed: Sequence[Any]) -> Hashable:
    return tuple((s.tensor, s.regions) for s in removed)
