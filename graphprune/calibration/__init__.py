"""Run a model on calibration batches, and collect statistics of activations and gradients of a loss.

In reading order: ``batches`` (what a batch is, and how a model is called with one), ``samples`` (what in a batch is one
sample) with ``constant_draws`` (of models that draw random numbers), ``moments`` (means, variances and second moments,
streamed), ``observer`` (the inputs of each weight) with ``expert_outputs``, ``output_kinds`` (what the numbers of an
output are), ``own_answers`` (a loss without labels), ``other_gradients`` (of a loss's own parameters, which stay),
``statistics`` (the interface for criteria); ``divergence`` (how far one tensor is from another) and ``output_error``
(how far outputs are from those of the dense model); ``batch_parts`` (a batch in two); ``process_batches`` and
``communicator`` (batches that several processes share).

Input: a model, its :class:`~graphprune.graph.groups.Units`, and an iterable of batches. Output:
:class:`~graphprune.calibration.statistics.Statistics`, computed on first access.

Words: docs/glossary.md.
"""
