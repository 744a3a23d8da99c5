"""From a model and example inputs to a :class:`~graphprune.tracing.tracer.Trace`: one run, on shapes.

Words: docs/glossary.md.
"""
