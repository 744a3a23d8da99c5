"""How many units of each group stay, and which.

In reading order:

- what is asked: ``options`` (one record) with ``keyword_arguments``, ``serving`` and ``weights_given``;
  ``requirements`` (what options need), ``asked`` (what tells one run from another);
- the loop: ``planner`` (choose, check, choose again), ``setup`` (what is the same for all attempts), ``unit_scores``
  with ``weights_in_effect`` (masked and normalized ones), ``limits`` (overrides) with ``layer_widths`` (of what
  multiples are);
- the choice: ``allocate``, ``allocations`` (the registry), ``removal_paths`` and ``removal_order``, ``objectives``
  (budgets) and ``search``; ``depth_units`` (which branches and blocks may go) with ``frozen_parts``;
- the check: ``validate`` (against the program's sizes), ``translation`` and ``program_steps`` (the slim model's run
  against the traced one) or ``masked_comparison`` (against the masked original's, where the program looks at values);
  ``unread_sizes``, ``config_sizes`` and ``buffer_copies`` (sizes and buffers that ``forward`` does not read);
- in words: ``explain``; warnings: ``empty_requests`` (what nothing came of) and ``unreached``;
- other plans: ``chosen_channels`` (by number or by masks), ``kv_merging`` with ``kv_attention`` and ``kv_candidates``
  (fewer key/value heads), ``vocabulary`` with ``special_ids`` and ``token_numbers`` (fewer words);
- latency: ``latency_search``, ``latency`` and ``kernel_table``; ``sensitivity`` and ``sensitivity_probe``.

Words: docs/glossary.md.
"""
