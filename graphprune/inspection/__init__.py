"""Answers to questions about one graph, and the graph as files for other programs.

In reading order: ``subjects`` (what a name stands for), ``explaining`` (what goes with it, through which operations,
what it costs, why it is frozen) with ``links``, ``wording`` and ``remedies``; ``coupling_files`` (GraphML, DOT, JSON)
and ``model_explorer`` (Google's viewer).

Words: docs/glossary.md.
"""
