"""Train a pruned network again, and prune amid training or in rounds.

In reading order: ``finetuning``, with ``data``, ``losses`` (``cross_entropy``, ``distances``, ``features``),
``learning_rate``, ``loop`` with ``weight_sketch`` (by which a model is known again) and ``history``;
``iterative`` (rounds), with ``rounds``; ``gradual`` (amid a loop of the user's), with ``schedules`` and ``targets``;
``gradual_sparsity`` (masks of single weights);
``regularization``; ``checkpoint``, ``packing`` and ``extra_states``; ``distributed``.

Words: docs/glossary.md.
"""
