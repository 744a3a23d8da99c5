"""Compensate for removed channels in the kept weights, with calibration batches or without data.

In reading order:

- ``pipeline`` (:func:`graphprune.repair`: everything in one call);
- ``layerwise`` (ridge regression of each consumer), with ``call_recorder`` (the consumers of a model), ``matching``
  (those of two models), ``separate_bias`` (biases that other calls add to their results), ``row_choice`` (channels that
  run along rows), ``lockstep`` (both models on all batches side by side), ``call_watch`` and ``paused_forward``
  (a pass that waits at consumers), ``shared_draws`` (the same random numbers in both), ``recurrent_fit`` (recurrent
  layers on their own states), ``result_paths`` (consumers whose results are added to a residual stream, or go into a
  softmax) and ``softmax_rows`` (which of them are in one row of it);
- the fit: ``regression``, ``kept_rows`` (fewer rows than channels), ``iterative_regression`` (consumers too wide for
  their second moments), ``window_moments`` (convolutions), ``positive_systems``;
- ``memory_bound``, ``tensor_group`` and ``fit_memory`` (what is held, and where it goes beyond a bound);
- ``heads`` (subspaces of narrower heads), with ``head_products``; ``matched_norms`` (running statistics like
  the dense ones), ``batch_norm`` (those of batches);
- without data: ``folding``, with ``similarity``; ``synthetic_inputs`` (batches from running statistics).

All of them use ``linear_calls`` (calls of a weight on an input), with ``view_axes``, ``parameter_copies`` and
``parametrized`` (which parameter a weight is), ``executed_call``, ``passes`` and ``records``.

Input: the slim model, the dense model, the plan between them, and calibration batches. Output: the slim model, changed
in place, and a record of the changes.

Words: docs/glossary.md.
"""
