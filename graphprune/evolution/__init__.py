"""``allocation="searched"``: groups share what is removed as the real loss says.

In reading order: ``folds`` (batches that fit, and batches that judge), ``judging`` (how good a slim model is on a few
batches), ``fitted_layers`` (slim models assembled from layers that are fitted once for each choice of their inputs),
``candidates`` (allocations within the budgets, and the exchange of width between groups), ``depth`` (what is left out
whole besides), ``estimates`` (the loss of a candidate, measured and estimated), ``evolve`` (trying them, until a
limit), ``choosing`` (from options to a plan).

Words: docs/glossary.md.
"""
