"""One importance score for every unit; higher scores matter more.

In reading order: ``criteria`` (the registry, :func:`criterion` to add one), ``context`` (what a criterion can read),
``parameter_entries`` (sums over parameters), ``combining`` (reduction and normalization), then the criteria themselves
by what they read: ``magnitude``, ``gradients`` with ``gradient_sums``, ``activations``, ``curvature``, ``elimination``
(units one after another), ``experts``. ``block_influence`` scores whole residual blocks.

Input: a :class:`~graphprune.graph.groups.Group` and a :class:`Context` (the parameters, the units, statistics of
calibration batches). Output: an array of scores [units] for each group, by
:func:`~graphprune.importance.criteria.scored`.

Words: docs/glossary.md.
"""

from graphprune.importance import (  # noqa: F401  (importing registers the criteria)
    activations,
    curvature,
    elimination,
    experts,
    gradients,
    magnitude,
)
from graphprune.importance.context import Context
from graphprune.importance.criteria import CRITERIA, Criterion, criterion

__all__ = ["CRITERIA", "Context", "Criterion", "criterion"]
