"""Pruning inside training loops of other libraries: one module each, which imports the library; ``callback`` is what
they share.

Words: docs/glossary.md.
"""
