"""How many units of each group stay, and which.

In reading order: ``options`` (the record of what may be asked) with ``keyword_arguments``; ``planner`` (choose, check,
choose again), ``setup`` (what is the same for all attempts), ``unit_scores``, ``limits`` (overrides); ``allocate``,
``allocations`` (the registry), ``removal_paths``, ``objectives`` (budgets) and ``search``; ``validate`` (a choice
against the program's sizes), ``translation`` and ``program_steps`` (the slim model's run against the traced one) or
``masked_comparison`` (against the masked original's, where the program looks at values); ``depth_units`` (which
branches and blocks may go);
``explain`` (in words), ``empty_requests`` (what nothing came of); for latency ``latency_search``, ``latency`` and
``kernel_table``; ``sensitivity`` and ``sensitivity_probe``; ``vocabulary``, with ``special_ids`` and ``token_numbers``
(words that go).

Words: docs/glossary.md.
"""
