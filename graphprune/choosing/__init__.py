"""Choose the criterion that is best for a model: plan by several, repair each, and compare outputs with the dense ones.

In reading order: ``held_back`` (samples that judge), ``automatic`` (the trials), ``by_default`` (where they are
made without being asked for).

Input: a traced model and what is asked of a plan, with calibration batches. Output: the plan that is best, with what
was tried in ``plan.requested["tried"]``.

Words: docs/glossary.md.
"""
