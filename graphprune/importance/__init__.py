"""One score for every unit.

Words: docs/glossary.md.
"""
