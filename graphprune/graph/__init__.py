"""From a trace to an :class:`~graphprune.graph.analysis.Analysis`:
what can go, what goes with it, why not, and what it costs.

Words: docs/glossary.md.
"""
