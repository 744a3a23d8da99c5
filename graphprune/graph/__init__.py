"""What can be removed from a traced model, what goes with it, why not, and what it costs.

In reading order: ``analysis`` (:class:`~graphprune.graph.analysis.Analysis`, the room's result); ``propagate`` (rules
label every tensor) with ``index_buffers`` and ``unread``, ``solve`` (what follows from the labels), ``groups`` (units
and groups), ``roles``, ``couplings``, ``frozen`` with ``constant_operands``, ``parameter_uses``; what sizes in the
program demand: ``size_model``, ``linear_expressions``, ``statistic_scales``, ``constraints``, ``literals``,
``channel_order``, ``candidates``, ``coupled_steps``; ``blocks`` and ``branches`` (what can be left out whole);
``removed_values`` (where channels are counted); ``dimensions``, ``budget_kinds``, ``cost``; ``listing`` (what a graph
prints). ``rule_check`` and ``grid_check`` prove rules.

Words: docs/glossary.md.
"""
