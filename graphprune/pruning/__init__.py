"""From a plan to a smaller module, and the proof that it is right.

In reading order: ``plan`` (what is kept), with ``plan_json`` and ``runs`` (as text), ``fits`` (which models have it),
``added_tensors`` (what they have beside it) and ``plan_costs``; ``rewrite`` (tensors and size attributes),
``shared_memory`` (what it separates), ``skip`` (blocks), ``attention``; ``optimizer``, ``optimizer_state`` and
``fresh_state`` (amid training); ``state_dict`` (weights without their model), ``resuming`` (saved plans); ``token_map``
(which words of a vocabulary stay); ``verification``, with ``masked`` with ``repeated_entries``, ``averaged`` (merged
heads), ``float64``, ``wide_run``, ``own_types``, ``no_float64`` and ``comparison`` (the proof), ``perturbation`` (what
zeros hide), ``weight_statistics`` (norms of weights), ``slim_factors``, ``random_draws`` and ``later_tensors`` (what
differs from run to run).

Words: docs/glossary.md.
"""
