"""What can be removed from a traced model, what goes with it, why not, and what it costs.

In reading order:

- ``analysis`` (:class:`~graphprune.graph.analysis.Analysis`, the room's result);
- labels: ``propagate`` (rules label every tensor) with ``index_buffers``, ``value_buffers``, ``recurrent_states``,
  ``picked_entries``, ``unread`` and ``left_out``, ``solve`` (what follows from the labels) with ``label_runs`` and
  ``segments`` (many labels as one row), ``copies_for_inputs`` (what a batch alone makes);
- units: ``groups`` (units and groups), ``roles`` with ``residual_sums`` and ``channel_makers``, ``couplings``,
  ``frozen`` with ``constant_operands``, ``heads_in_one``, ``parameter_uses``, ``layer_axes`` (which layer has
  an axis);
- what sizes in the program demand: ``size_model`` and ``stated_sizes``, ``linear_expressions``, ``statistic_scales``,
  ``constraints``, ``literals``, ``slim_arguments``, ``channel_order``, ``candidates``, ``coupled_steps``;
- layers of equal sizes: ``equal_layers``, with ``config_fields`` and ``built_sizes`` (what a configuration can say);
- what can be left out whole: ``blocks`` and ``branches``;
- counts: ``dimensions`` (how long a dimension is for any choice) with ``living``, ``living_sizes``, ``item_pieces``,
  ``rectangles``, ``grids`` and ``joints``; ``budget_kinds`` and ``cost``; ``removed_values`` (where channels are
  counted);
- ``listing`` (what a graph prints); ``rule_check`` (the proof of rules).

Words: docs/glossary.md.
"""
