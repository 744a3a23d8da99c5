"""Pruning inside training loops of other libraries: one module each, which imports the library.

Words: docs/glossary.md.
"""
