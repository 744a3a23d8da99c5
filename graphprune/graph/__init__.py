"""What can be removed from a traced model, what goes with it, why not, and what it costs.

In reading order: ``analysis`` (:class:`~graphprune.graph.analysis.Analysis`, the room's result); ``propagate`` (rules
label every tensor), ``unread``, ``solve`` (what follows from the labels), ``groups`` (units and groups), ``roles``,
``couplings``, ``frozen``, ``parameter_uses``; what sizes in the program demand: ``size_model``, ``linear_expressions``,
``constraints``, ``channel_order``, ``candidates``, ``coupled_steps``; ``blocks`` (what can be left out whole);
``dimensions``, ``budget_kinds``, ``cost``. ``rule_check`` and ``grid_check`` prove rules.

Words: docs/glossary.md.
"""
