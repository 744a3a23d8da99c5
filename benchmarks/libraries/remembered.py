"""torch-kirigami answers the same questions many times: here each is answered once.

All of it is pure: plans stay the same, and take a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

CACHES = ("impact_cache_size", "normalization_cache_size", "attribute_cache_size", "recipe_cache_size")
REMEMBERED = 20_000
"""What its caches, and this, may hold. By default they hold 32 answers, and a plan takes over twice as long."""


class Answers:
    """What was answered about one graph, which must not change."""

    def __init__(self, graph: Any) -> None:
        from torch_kirigami import config

        config.update(**dict.fromkeys(CACHES, REMEMBERED))
        self._graph = graph
        self._found: dict[Hashable, tuple[Any, Any]] = {}

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Answer each question once, and do not look whether the structure has changed."""
        from torch_kirigami import DependencyGraph
        from torch_kirigami.dep_graph.operation import PartitionedLayout
        from torch_kirigami.pruning import planner, rewrite

        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(DependencyGraph, "_check_fresh", return_value=None))
            for owner, name, key in (
                (DependencyGraph, "propagate", self._propagated),
                (planner, "compile_recipes", self._compiled),
                (rewrite, "validate_recipe", _validated),
                (PartitionedLayout, "retained_regions", _retained),
            ):
                stack.enter_context(mock.patch.object(owner, name, self._once(getattr(owner, name), key)))
            yield

    def _once(self, function: Callable[..., Any], key: Callable[..., Hashable]) -> Callable[..., Any]:
        """``function``, unless ``key`` of the arguments is known. The arguments are kept: keys may be identities."""

        def asked(*args: Any, **kwargs: Any) -> Any:
            kwargs = {name: tuple(v) if isinstance(v, Iterator) else v for name, v in kwargs.items()}
            question = key(*args, **kwargs)
            if question is None:
                return function(*args, **kwargs)
            if (function, question) not in self._found:
                if len(self._found) >= REMEMBERED:
                    self._found.clear()
                self._found[function, question] = function(*args, **kwargs), (args, kwargs)
            return self._found[function, question][0]

        return asked

    def _propagated(self, graph: Any, *, remove: Sequence[Any], constraints: Sequence[Any] = ()) -> Hashable:
        return (tuple((s.tensor, s.regions) for s in remove), tuple(constraints)) if graph is self._graph else None

    def _compiled(self, graph: Any, _operations: Any, impact: Any, **_caches: Any) -> Hashable:
        return id(impact) if graph is self._graph else None


def _validated(recipe: Any, impact: Any) -> Hashable:
    return recipe.tensor.id, recipe.segments, recipe.concat_dim, impact.selection(recipe.tensor).regions


def _retained(layout: Any, selection: Any) -> Hashable:
    return layout.tensor.id, layout.partitions, layout.concat_dim, selection.regions
