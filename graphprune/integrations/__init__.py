"""Pruning inside training loops of other libraries, and of the models that only their own trainers know: one module
each, which imports the library; ``callback`` is what they share.

Words: docs/glossary.md.
"""
