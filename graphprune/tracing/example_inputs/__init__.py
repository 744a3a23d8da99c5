"""Example inputs for a model, found from its configuration or its first layers.

In reading order: ``guess`` (tries guesses), ``from_configs``, ``from_layers``, ``maker`` (example tensors).

Words: docs/glossary.md.
"""
