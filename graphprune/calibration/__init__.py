"""Run a model on calibration batches, and collect statistics of activations and gradients of a loss.

In reading order: ``batches`` (what a batch is, and how a model is called with one), ``moments`` (means, variances and
second moments, streamed), ``observer`` (the inputs of each weight), ``output_kinds`` (what the numbers of an output
are), ``divergence`` (how far one tensor is from another), ``output_error`` (how far outputs are from those of the dense
model), ``own_answers`` (a loss without labels), ``statistics`` (the interface for criteria).

Input: a model, its :class:`~graphprune.graph.groups.Units`, and an iterable of batches. Output:
:class:`~graphprune.calibration.statistics.Statistics`, computed on first access.

Words: docs/glossary.md.
"""
